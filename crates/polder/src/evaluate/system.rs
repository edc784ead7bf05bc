//! Checks of the machine.

use std::{fs, os::unix::ffi::OsStrExt as _, path::Path};

use polder_agent::Survey;

use super::{Findings, Level, Row};

/// Since this version fanotify reports renames with both names in one event.
const KERNEL_MIN: (u32, u32) = (5, 17);
/// File systems that Polder's tests run on.
const TESTED: [&str; 3] = ["ext4", "xfs", "btrfs"];
/// File systems whose changes are made elsewhere, or that have no lasting identity of files.
const REMOTE: [&str; 8] = ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "vfat"];
/// FUSE passthrough, and file systems that tell their UUID.
const TIERING_KERNEL_MIN: (u32, u32) = (6, 9);
/// The state database, its log and its reserve.
const FREE_BYTES_MIN: u64 = 64 << 20;
/// The free-space policy's default.
const FREE_PERCENT_ADVISED: u64 = 20;
const INODES_MIN: u64 = 10_000;
const MEMORY_KIB_MIN: u64 = 1024 * 1024;
const CAP_DAC_READ_SEARCH: u64 = 1 << 2;
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Checks everything that can be seen without changing anything.
pub fn check(path: &Path, findings: &mut Findings) {
    let mut add = |about: &Path, level, description, result: String| {
        let path = about.as_os_str().as_bytes().to_vec();
        findings.add(Row { kind: "system", path, level, description, result });
    };
    let (level, result) = kernel(&read("/proc/sys/kernel/osrelease"));
    add(Path::new("/"), level, "kernel", result);
    let (level, result) = privileges(&read("/proc/self/status"));
    add(Path::new("/"), level, "privileges of the agent", result);
    let (level, result) = memory(&read("/proc/meminfo"));
    add(Path::new("/"), level, "memory", result);
    let (level, result) = match Path::new("/dev/fuse").exists() {
        true => (Level::Info, "present; tiering is possible".to_owned()),
        false => (Level::Warning, "missing; tiering is not possible".to_owned()),
    };
    add(Path::new("/dev/fuse"), level, "FUSE", result);
    let watches = read("/proc/sys/fs/inotify/max_user_watches");
    let watches = watches.trim();
    add(
        Path::new("/proc/sys/fs/inotify/max_user_watches"),
        Level::Info,
        "inotify watches",
        format!("{watches} folders at most where fanotify is not permitted"),
    );
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let (level, result) = file_system(&mounts, path);
    add(path, level, "file system", result);
    let (level, result) = place(path);
    add(path, level, "place", result);
    match polder_agent::survey(path) {
        Ok(survey) => volume(&survey, &read("/proc/sys/kernel/osrelease"), |level, description, result| {
            add(path, level, description, result);
        }),
        Err(error) => add(path, Level::Error, "volume", format!("cannot be asked: {error:#}")),
    }
}

/// What the volume has room for, and whether it can be tiered.
fn volume(survey: &Survey, release: &str, mut add: impl FnMut(Level, &'static str, String)) {
    let free = polder_cli::shown_bytes(survey.free_bytes);
    let percent = survey.free_bytes.saturating_mul(100) / survey.bytes.max(1);
    let result = format!("{free} free ({percent} %)");
    if survey.free_bytes < FREE_BYTES_MIN {
        add(Level::Error, "free space", format!("{result}; the agent needs 64 MiB for its own books"));
    } else if percent < FREE_PERCENT_ADVISED {
        let text = format!("{result}; with cloud tiering and the default policy files leave at once");
        add(Level::Warning, "free space", text);
    } else {
        add(Level::Info, "free space", result);
    }
    match survey.free_inodes {
        Some(inodes) if inodes < INODES_MIN => {
            add(Level::Warning, "free inodes", format!("{inodes}; every file and placeholder takes one"));
        }
        Some(inodes) => add(Level::Info, "free inodes", inodes.to_string()),
        None => add(Level::Info, "free inodes", "made as needed".to_owned()),
    }
    let smallest = polder_cli::shown_bytes(survey.file_bytes_min);
    match &survey.tiering_refused {
        Some(why) => add(Level::Warning, "tiering", format!("refused: {why}")),
        None if version(release) < TIERING_KERNEL_MIN => {
            let (major, minor) = TIERING_KERNEL_MIN;
            add(Level::Warning, "tiering", format!("needs Linux {major}.{minor} for reads past the agent"));
        }
        None => add(Level::Info, "tiering", format!("tested here; files from {smallest} on can leave")),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Major and minor number.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.trim().split(['.', '-', '+']).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn kernel(release: &str) -> (Level, String) {
    let version = version(release);
    let release = release.trim();
    if version >= KERNEL_MIN {
        (Level::Info, format!("Linux {release}"))
    } else {
        let (major, minor) = KERNEL_MIN;
        (
            Level::Warning,
            format!("Linux {release}; before {major}.{minor} renames are noticed by scans, not at once"),
        )
    }
}

fn privileges(status: &str) -> (Level, String) {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    let wanted = CAP_SYS_ADMIN | CAP_DAC_READ_SEARCH;
    if capabilities & wanted == wanted {
        return (Level::Info, "as this user the agent may use fanotify and read every file".to_owned());
    }
    let result =
        "as this user the agent watches folder by folder (inotify) and reads only what this user may";
    (Level::Warning, result.to_owned())
}

fn memory(meminfo: &str) -> (Level, String) {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0);
    let result = polder_cli::shown_bytes(kib * 1024);
    if kib >= MEMORY_KIB_MIN {
        (Level::Info, result)
    } else {
        (Level::Warning, format!("{result}; 1 GiB is advised"))
    }
}

/// The file system that holds `path`: of all mounts above it the longest one, the last of equals.
fn file_system(mountinfo: &[u8], path: &Path) -> (Level, String) {
    let Some((kind, read_only)) = mount_of(mountinfo, path) else {
        return (Level::Warning, "its mount is not listed".to_owned());
    };
    if read_only {
        return (Level::Error, format!("{kind}, mounted read-only: nothing can be applied here"));
    }
    match kind.as_str() {
        tested if TESTED.contains(&tested) => (Level::Info, format!("{kind}, tested")),
        remote if REMOTE.contains(&remote) => (
            Level::Error,
            format!("{kind}: changes by others are not noticed; put the agent on the machine that holds it"),
        ),
        "tmpfs" | "ramfs" => (Level::Warning, format!("{kind}: everything is gone after a restart")),
        _ => (Level::Warning, format!("{kind}: works for plain sync, not tested; tiering is refused")),
    }
}

fn mount_of(mountinfo: &[u8], path: &Path) -> Option<(String, bool)> {
    let mut best: Option<(usize, String, bool)> = None;
    for line in mountinfo.split(|byte| *byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let dash = fields.iter().position(|field| *field == b"-");
        let (Some(point), Some(options), Some(kind)) =
            (fields.get(4), fields.get(5), dash.and_then(|dash| fields.get(dash + 1)))
        else {
            continue;
        };
        let point = unescaped(point);
        let above = path.starts_with(Path::new(std::ffi::OsStr::from_bytes(&point)));
        if above && best.as_ref().is_none_or(|(len, ..)| point.len() >= *len) {
            let read_only = options.split(|byte| *byte == b',').any(|option| option == b"ro");
            best = Some((point.len(), String::from_utf8_lossy(kind).into_owned(), read_only));
        }
    }
    best.map(|(_, kind, read_only)| (kind, read_only))
}

/// The kernel writes space, tab, line feed and backslash as three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| *first == b'\\') {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

fn place(path: &Path) -> (Level, String) {
    const SYSTEM: [&str; 9] = ["/", "/boot", "/dev", "/etc", "/proc", "/run", "/sys", "/usr", "/var"];
    if SYSTEM.iter().any(|system| path == Path::new(system)) {
        return (Level::Error, "a folder of the system itself cannot be an endpoint".to_owned());
    }
    if path.join(".polder").exists() {
        return (Level::Warning, "holds \".polder\": it is or was an endpoint".to_owned());
    }
    match path.ancestors().skip(1).find(|above| above.join(".polder").exists()) {
        Some(above) => (Level::Error, format!("lies inside of the endpoint \"{}\"", above.display())),
        None => (Level::Info, "can be an endpoint".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels() {
        assert_eq!(kernel("6.18.1-arch1\n").0, Level::Info);
        assert_eq!(kernel("5.17.0").0, Level::Info);
        assert_eq!(kernel("5.10.0-30-amd64").0, Level::Warning);
        assert_eq!(kernel("").0, Level::Warning);
    }

    #[test]
    fn volumes() {
        let good = Survey {
            file_system: "ext4".to_owned(),
            bytes: 100 << 30,
            free_bytes: 50 << 30,
            cluster_bytes: 4096,
            free_inodes: Some(1 << 20),
            file_bytes_min: 8192,
            tiering_refused: None,
        };
        let of = |survey: &Survey, release: &str| {
            let mut rows = Vec::new();
            volume(survey, release, |level, description, _| rows.push((description, level)));
            rows
        };
        let levels =
            |space, inodes, tiering| [("free space", space), ("free inodes", inodes), ("tiering", tiering)];
        assert_eq!(of(&good, "6.18.1"), levels(Level::Info, Level::Info, Level::Info));
        assert_eq!(of(&good, "6.8.0"), levels(Level::Info, Level::Info, Level::Warning));
        let tight = Survey { free_bytes: 19 << 30, free_inodes: Some(9), ..good.clone() };
        assert_eq!(of(&tight, "6.18.1"), levels(Level::Warning, Level::Warning, Level::Info));
        let full = Survey { free_bytes: 1 << 20, tiering_refused: Some("x".to_owned()), ..good };
        assert_eq!(of(&full, "6.18.1"), levels(Level::Error, Level::Info, Level::Warning));
    }

    #[test]
    fn mounts() {
        let mountinfo = b"22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
            23 22 0:5 / /srv/a\\040b rw shared:1 - xfs /dev/sdb rw\n\
            24 22 0:6 / /mnt ro - nfs4 host:/x rw\n";
        let of = |path: &str| mount_of(mountinfo, Path::new(path)).expect("the root covers all");
        assert_eq!(of("/srv"), ("ext4".to_owned(), false));
        assert_eq!(of("/srv/a b/c"), ("xfs".to_owned(), false));
        assert_eq!(of("/mnt/x"), ("nfs4".to_owned(), true));
        assert_eq!(file_system(mountinfo, Path::new("/mnt")).0, Level::Error);
    }

    #[test]
    fn capabilities() {
        assert_eq!(privileges("CapEff:\t000001ffffffffff\n").0, Level::Info);
        assert_eq!(privileges("CapEff:\t0000000000000000\n").0, Level::Warning);
        assert_eq!(privileges("").0, Level::Warning);
    }
}
