//! Who still looks at a folder's old tree: they would read a placeholder as zeros once the folder is laid out for tiering.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Most that are named.
const NAMED_MAX: usize = 10;

/// Fails with the list of who has a working directory, a root, an open file or a mapping at or below a path, and of mounts, exports,
/// loop devices and swap files there.
pub(crate) fn ensure_nobody_looks(path: &Path) -> Result<()> {
    let path = std::fs::canonicalize(path)?;
    let mut found = BTreeSet::new();
    for process in processes() {
        looks_of_process(&process, &path, &mut found);
    }
    listed("/etc/exports", &path, "exported by NFS", &mut found);
    listed("/proc/fs/nfsd/exports", &path, "exported by NFS", &mut found);
    listed("/proc/swaps", &path, "a swap file", &mut found);
    for device in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let backing = std::fs::read(device.path().join("loop/backing_file")).unwrap_or_default();
        if is_below(Path::new(std::ffi::OsStr::from_bytes(&backing)), &path) {
            found.insert(format!("loop device {}", device.file_name().to_string_lossy()));
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    let more = found.len().saturating_sub(NAMED_MAX);
    let named: Vec<String> = found.into_iter().take(NAMED_MAX).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    bail!("the folder is in use, so it cannot be laid out for tiering now: {}{more}", named.join("; "))
}

fn is_below(what: &Path, path: &Path) -> bool {
    what.starts_with(path)
}

/// All processes but this one.
fn processes() -> Vec<PathBuf> {
    let own = std::process::id().to_string();
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit()) && name != own;
    all.filter(|entry| entry.file_name().to_str().is_some_and(is_process)).map(|entry| entry.path()).collect()
}

fn looks_of_process(process: &Path, path: &Path, found: &mut BTreeSet<String>) {
    let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
    let pid = process.file_name().unwrap_or_default().to_string_lossy();
    let mut tell = |what: &str| found.insert(format!("{} ({pid}) has {what} there", name.trim_end()));
    for (link, what) in [("cwd", "its working directory"), ("root", "its root")] {
        if std::fs::read_link(process.join(link)).is_ok_and(|at| is_below(&at, path)) {
            tell(what);
        }
    }
    let open = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    if open.into_iter().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|at| is_below(&at, path))) {
        tell("a file open");
    }
    let maps = std::fs::read(process.join("maps")).unwrap_or_default();
    let mapped = |line: &[u8]| {
        let at = line.iter().position(|byte| *byte == b'/')?;
        Some(is_below(Path::new(std::ffi::OsStr::from_bytes(&line[at..])), path))
    };
    if maps.split(|byte| *byte == b'\n').any(|line| mapped(line) == Some(true)) {
        tell("a file mapped");
    }
    looks_by_mount(process, path, &mut tell);
}

/// Mounts below the path, and binds of what lies at or below it, in the mount namespace of a process.
fn looks_by_mount(process: &Path, path: &Path, tell: &mut impl FnMut(&str) -> bool) {
    let Some((device, root)) = place_on_device(path) else { return };
    let mounts = std::fs::read(process.join("mountinfo")).unwrap_or_default();
    for line in mounts.split(|byte| *byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let (Some(number), Some(from), Some(point)) = (fields.get(2), fields.get(3), fields.get(4)) else {
            continue;
        };
        let (from, point) =
            (Path::new(std::ffi::OsStr::from_bytes(from)), Path::new(std::ffi::OsStr::from_bytes(point)));
        let binds = *number == device.as_slice() && from != Path::new("/") && is_below(from, &root);
        if binds || (point != path && is_below(point, path)) {
            tell("a mount");
            return;
        }
    }
}

/// On which device a path lies, and where on it.
fn place_on_device(path: &Path) -> Option<(Vec<u8>, PathBuf)> {
    let mounts = std::fs::read("/proc/self/mountinfo").ok()?;
    let mut best: Option<(usize, Vec<u8>, PathBuf)> = None;
    for line in mounts.split(|byte| *byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let (Some(number), Some(from), Some(point)) = (fields.get(2), fields.get(3), fields.get(4)) else {
            continue;
        };
        let point = Path::new(std::ffi::OsStr::from_bytes(point));
        let Ok(rest) = path.strip_prefix(point) else { continue };
        let length = point.as_os_str().len();
        // The later lies over the earlier.
        if best.as_ref().is_none_or(|(longest, ..)| length >= *longest) {
            let root = Path::new(std::ffi::OsStr::from_bytes(from)).join(rest);
            best = Some((length, number.to_vec(), root));
        }
    }
    best.map(|(_, number, root)| (number, root))
}

/// Paths at or below `path` at the beginning of a line of a list.
fn listed(list: &str, path: &Path, what: &str, found: &mut BTreeSet<String>) {
    for line in std::fs::read_to_string(list).unwrap_or_default().lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if first.starts_with('/') && is_below(Path::new(first), path) {
            found.insert(format!("{first} is {what}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_is_named() {
        let folder = tempfile::tempdir().unwrap();
        ensure_nobody_looks(folder.path()).unwrap();
        let inside = folder.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        let sleep = |inside: &Path| {
            std::process::Command::new("sleep").arg("60").current_dir(inside).spawn().unwrap()
        };
        let mut shell = sleep(&inside);
        let told = ensure_nobody_looks(folder.path()).unwrap_err().to_string();
        assert!(told.contains("working directory"), "{told}");
        let _ = shell.kill();
        let _ = shell.wait();
        ensure_nobody_looks(folder.path()).unwrap();
    }
}
