//! Who still looks at a folder's old tree: they would read a placeholder as zeros once the folder is laid out for tiering.
//!
//! Asked twice: before the tree is moved, of the folder; and under the mount, of where the tree is then, before anything is punched. A name that
//! the kernel gives for a directory follows its moves, so who was missed the first time is found the second time.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};

/// Most that are named.
const NAMED_MAX: usize = 10;
/// Lists of what a kernel's NFS server gives away.
const EXPORTS: [&str; 2] = ["/etc/exports", "/proc/fs/nfsd/exports"];
/// A folder of such lists.
const EXPORTS_FOLDER: &str = "/etc/exports.d";

/// A second look, so much later, is for those who pass by: whatever watches the file system opens a directory that has just changed, for a moment.
const PASSES_BY: Duration = Duration::from_millis(100);

/// Fails with the list of who has a working directory, a root, an open file or a mapping at or below a path, and of mounts, exports,
/// loop devices and swap files there. By whatever path they came.
pub(crate) fn ensure_nobody_looks(path: &Path) -> Result<()> {
    let path = std::fs::canonicalize(path)?;
    let search = || {
        let mut search = Search::new(&path, |_| true);
        search.processes();
        search.exports();
        search.files_in_use();
        search.found
    };
    listed(twice(search), "the folder is in use, so it cannot be laid out for tiering now")
}

/// Who uses a mount, in a sentence; `None` if nobody was found. The holder keeps the directory below it, which has the same name.
pub(crate) fn who_uses(point: &Path) -> Option<String> {
    let ours = [std::process::id(), std::os::unix::process::parent_id()];
    let search = || {
        let mut search = Search::new(point, |_| true);
        search.processes_but(&ours);
        search.found
    };
    listed(twice(search), "the folder is in use").err().map(|error| error.to_string())
}

/// As [`ensure_nobody_looks`], of the tree below the gate that is mounted at `point`.
pub(crate) fn ensure_nobody_looks_below(point: &Path) -> Result<()> {
    let path = point.join(".polder");
    let search = || {
        let mut search = Search::new(&path, |mount| !mount.is_fuse || mount.point != point);
        search.processes();
        search.files_in_use();
        search.found
    };
    listed(twice(search), "somebody still looks at the old tree, so nothing is tiered yet")
}

/// Who is still found by a second look, if the first one found anybody.
fn twice(mut search: impl FnMut() -> BTreeSet<String>) -> BTreeSet<String> {
    if search().is_empty() {
        return BTreeSet::new();
    }
    std::thread::sleep(PASSES_BY);
    search()
}

fn listed(found: BTreeSet<String>, what: &str) -> Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    let more = found.len().saturating_sub(NAMED_MAX);
    let named: Vec<String> = found.into_iter().take(NAMED_MAX).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    bail!("{what}: {}{more}", named.join("; "))
}

/// A mount, as one namespace lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    /// Number of the device.
    device: Vec<u8>,
    /// Which directory of the device is mounted.
    from: PathBuf,
    /// Where.
    point: PathBuf,
    is_fuse: bool,
}

/// A place on a device, whatever is mounted where.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    device: Vec<u8>,
    path: PathBuf,
}

fn path_of(bytes: &[u8]) -> PathBuf {
    // The kernel writes a space, a tab, a newline and a backslash as three octal digits.
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let code =
            after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsStr::from_bytes(&out))
}

fn mounts(list: &Path) -> Vec<Mount> {
    let text = std::fs::read(list).unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n');
    let mount = |line: &[u8]| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let kind = fields.iter().position(|field| *field == b"-").and_then(|dash| fields.get(dash + 1));
        Some(Mount {
            device: fields.get(2)?.to_vec(),
            from: path_of(fields.get(3)?),
            point: path_of(fields.get(4)?),
            is_fuse: kind.is_some_and(|kind| kind.starts_with(b"fuse")),
        })
    };
    lines.filter_map(mount).collect()
}

/// Where a path lies, by the mounts of a namespace. The later lies over the earlier.
fn place(path: &Path, mounts: &[Mount], counts: impl Fn(&Mount) -> bool) -> Option<Place> {
    let above = mounts.iter().filter(|mount| path.starts_with(&mount.point) && counts(mount));
    let mount = above.max_by_key(|mount| mount.point.as_os_str().len())?;
    let rest = path.strip_prefix(&mount.point).ok()?;
    let path = if rest.as_os_str().is_empty() { mount.from.clone() } else { mount.from.join(rest) };
    Some(Place { device: mount.device.clone(), path })
}

/// A search for those who look at or below a path.
struct Search<'a> {
    path: &'a Path,
    place: Option<Place>,
    /// By mount namespace and root.
    known: BTreeMap<(PathBuf, PathBuf), Arc<Vec<Mount>>>,
    found: BTreeSet<String>,
}

impl<'a> Search<'a> {
    fn new(path: &'a Path, counts: impl Fn(&Mount) -> bool) -> Self {
        let place = place(path, &mounts(Path::new("/proc/self/mountinfo")), counts);
        Self { path, place, known: BTreeMap::new(), found: BTreeSet::new() }
    }

    /// Whether a path leads there: by its text, or by what a namespace has mounted on the way.
    fn is_there(&self, path: &Path, mounts: &[Mount]) -> bool {
        path.starts_with(self.path)
            || self.place.as_ref().zip(place(path, mounts, |_| true)).is_some_and(|(ours, theirs)| {
                theirs.device == ours.device && theirs.path.starts_with(&ours.path)
            })
    }

    /// All processes but this one.
    fn processes(&mut self) {
        self.processes_but(&[std::process::id()]);
    }

    fn processes_but(&mut self, except: &[u32]) {
        let except: Vec<String> = except.iter().map(ToString::to_string).collect();
        let is_process = |name: &str| {
            name.bytes().all(|byte| byte.is_ascii_digit()) && !except.iter().any(|own| own == name)
        };
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(is_process) {
                self.process(&entry.path());
            }
        }
    }

    fn process(&mut self, process: &Path) {
        let link = |name: &str| std::fs::read_link(process.join(name)).ok();
        let key = (link("ns/mnt").unwrap_or_default(), link("root").unwrap_or_default());
        let read = || Arc::new(mounts(&process.join("mountinfo")));
        let mounts = Arc::clone(self.known.entry(key).or_insert_with(read));
        let mut has: Vec<&str> = Vec::new();
        for (name, what) in [("cwd", "its working directory"), ("root", "its root")] {
            if link(name).is_some_and(|at| self.is_there(&at, &mounts)) {
                has.push(what);
            }
        }
        let open = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        let mut open = open.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        if open.any(|at| at.is_absolute() && self.is_there(&at, &mounts)) {
            has.push("a file open");
        }
        let maps = std::fs::read(process.join("maps")).unwrap_or_default();
        let files: BTreeSet<&[u8]> = maps
            .split(|byte| *byte == b'\n')
            .filter_map(|line| Some(&line[line.iter().position(|byte| *byte == b'/')?..]))
            .collect();
        if files.into_iter().any(|file| self.is_there(Path::new(OsStr::from_bytes(file)), &mounts)) {
            has.push("a file mapped");
        }
        if mounts.iter().any(|mount| self.is_mount_there(mount)) {
            has.push("a mount");
        }
        if !has.is_empty() {
            let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
            let pid = process.file_name().unwrap_or_default().to_string_lossy();
            self.found
                .extend(has.into_iter().map(|what| format!("{} ({pid}) has {what} there", name.trim_end())));
        }
    }

    /// A mount below the path, or a bind of what lies there.
    fn is_mount_there(&self, mount: &Mount) -> bool {
        let binds = self.place.as_ref().is_some_and(|place| {
            mount.device == place.device
                && mount.from != Path::new("/")
                && mount.from.starts_with(&place.path)
                && mount.point != self.path
        });
        binds || (mount.point != self.path && mount.point.starts_with(self.path))
    }

    /// What a kernel's NFS server gives away: its clients hold files by number, past every mount.
    fn exports(&mut self) {
        let more =
            std::fs::read_dir(EXPORTS_FOLDER).into_iter().flatten().flatten().map(|entry| entry.path());
        for list in EXPORTS.iter().map(PathBuf::from).chain(more) {
            let text = std::fs::read(list).unwrap_or_default();
            self.found.extend(exported(&text, self.path).map(|path| format!("{path} is exported by NFS")));
        }
    }

    fn files_in_use(&mut self) {
        let swaps = std::fs::read("/proc/swaps").unwrap_or_default();
        for line in swaps.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"/")) {
            let file = path_of(line.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default());
            if file.starts_with(self.path) {
                self.found.insert(format!("{} is a swap file", file.display()));
            }
        }
        for device in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            let backing = std::fs::read(device.path().join("loop/backing_file")).unwrap_or_default();
            if Path::new(OsStr::from_bytes(&backing)).starts_with(self.path) {
                self.found.insert(format!("loop device {}", device.file_name().to_string_lossy()));
            }
        }
    }
}

/// Paths of a list of exports that are at or below `path`, or above it on the same file system.
fn exported<'a>(list: &'a [u8], path: &'a Path) -> impl Iterator<Item = String> + 'a {
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|meta| meta.dev()).ok();
    let concerns = move |export: &Path| {
        export.starts_with(path) || (path.starts_with(export) && device(export) == device(path))
    };
    let lines =
        list.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"/") || line.starts_with(b"\""));
    let first = lines.map(|line| match line.strip_prefix(b"\"") {
        Some(quoted) => quoted.split(|byte| *byte == b'"').next().unwrap_or_default(),
        None => line.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default(),
    });
    let exports = first.map(path_of).filter(move |export| concerns(export));
    exports.map(|export| polder_types::Escaped(export.as_os_str().as_bytes()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &Path) -> std::process::Child {
        std::process::Command::new("sleep").arg("60").current_dir(folder).spawn().unwrap()
    }

    fn end(mut child: std::process::Child) {
        let _ = child.kill();
        let _ = child.wait();
    }

    #[test]
    fn regression_who_passes_by_does_not_look() {
        let looks = std::cell::Cell::new(0);
        let found = twice(|| {
            looks.set(looks.get() + 1);
            let passer_by = (looks.get() == 1).then(|| "a watcher".to_owned());
            passer_by.into_iter().collect()
        });
        assert!(found.is_empty() && looks.get() == 2);
        let stays = BTreeSet::from(["a shell".to_owned()]);
        assert_eq!(twice(|| stays.clone()), stays);
    }

    #[test]
    fn who_looks_is_named() {
        let folder = tempfile::tempdir().unwrap();
        ensure_nobody_looks(folder.path()).unwrap();
        let inside = folder.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        let shell = sleeper(&inside);
        let told = ensure_nobody_looks(folder.path()).unwrap_err().to_string();
        assert!(told.contains("working directory") && told.contains("sleep ("), "{told}");
        end(shell);
        ensure_nobody_looks(folder.path()).unwrap();
    }

    /// One who came between the check and the move is found under the mount, where the tree is by then.
    #[test]
    fn who_looks_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        let shell = sleeper(&inside);
        ensure_nobody_looks_below(folder.path()).unwrap();
        std::fs::create_dir_all(folder.path().join(".polder/tree")).unwrap();
        std::fs::rename(&inside, folder.path().join(".polder/tree/inside")).unwrap();
        let told = ensure_nobody_looks_below(folder.path()).unwrap_err().to_string();
        assert!(told.contains("sleep ("), "{told}");
        end(shell);
        ensure_nobody_looks_below(folder.path()).unwrap();
    }

    #[test]
    fn places_are_those_of_the_device() {
        let mount = |device: &str, from: &str, point: &str| Mount {
            device: device.into(),
            from: from.into(),
            point: point.into(),
            is_fuse: false,
        };
        let all = [
            mount("8:1", "/", "/"),
            mount("8:2", "/", "/srv"),
            mount("8:2", "/a/b", "/else"),
            mount("0:9", "/", "/srv/x"),
        ];
        let found = |path: &str| {
            let place = place(Path::new(path), &all, |_| true).unwrap();
            (String::from_utf8(place.device).unwrap(), place.path)
        };
        assert_eq!(found("/srv/a/b/c"), ("8:2".into(), "/a/b/c".into()));
        assert_eq!(found("/else/c"), ("8:2".into(), "/a/b/c".into()));
        assert_eq!(found("/else"), ("8:2".into(), "/a/b".into()));
        assert_eq!(found("/srv/x/c"), ("0:9".into(), "/c".into()));
        assert_eq!(found("/home"), ("8:1".into(), "/home".into()));
        let search = |path: &'static str| Search {
            path: Path::new(path),
            place: place(Path::new(path), &all, |_| true),
            known: BTreeMap::new(),
            found: BTreeSet::new(),
        };
        assert!(search("/srv/a").is_there(Path::new("/else/c"), &all), "by another way");
        assert!(search("/srv/a").is_mount_there(&all[2]) && !search("/srv/other").is_mount_there(&all[2]));
        assert!(search("/srv").is_mount_there(&all[3]), "a mount below");
        assert!(!search("/srv/a").is_there(Path::new("/srv/ab"), &all));
        assert_eq!(path_of(b"/a\\040b\\134"), Path::new("/a b\\"));
    }

    #[test]
    fn exports_concern_what_is_below_and_above() {
        let folder = tempfile::tempdir().unwrap();
        let share = folder.path().join("share");
        std::fs::create_dir_all(share.join("sub")).unwrap();
        let lines = |path: &Path| format!("# a comment\n{}\t*(rw)\n", path.display()).into_bytes();
        let is = |export: &Path| exported(&lines(export), &share).count() == 1;
        assert!(is(&share) && is(&share.join("sub")) && is(folder.path()));
        assert!(!is(&folder.path().join("other")) && !is(Path::new("/proc")));
        assert_eq!(exported(format!("\"{}\" *(rw)\n", share.display()).as_bytes(), &share).count(), 1);
    }
}
