//! Checks of the files: what will not come out on the other side as it went in.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use polder_cli::{Progress, Ui, shown_bytes};
use polder_types::{Name, fold_v1};

use super::{Findings, Level, Row};

/// Longest path that most programs can open (`PATH_MAX` less the final NUL).
const PATH_BYTES_MAX: usize = 4095;
/// Longest name in UTF-16 units, for Windows clients.
const WINDOWS_UNITS_MAX: usize = 255;

#[derive(Default)]
struct Totals {
    files: u64,
    folders: u64,
    symlinks: u64,
    bytes: u64,
    /// Files that could be tiered, and their bytes on the disk.
    able: (u64, u64),
}

/// Walks everything below `root`, in memory that follows the largest folder. `file_bytes_min`: the smallest file that is tiered there.
pub fn check(root: &Path, file_bytes_min: u64, findings: &mut Findings, ui: &Ui) {
    let progress = Progress::new(ui, "look");
    let mut totals = Totals::default();
    let device = root.symlink_metadata().map(|metadata| metadata.dev()).unwrap_or(0);
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                add(
                    findings,
                    &folder,
                    Level::Error,
                    "readable",
                    format!("the folder cannot be read: {error}"),
                );
                continue;
            }
        };
        let mut folded = BTreeMap::new();
        for entry in entries {
            let path = match entry {
                Ok(entry) => entry.path(),
                Err(error) => {
                    add(
                        findings,
                        &folder,
                        Level::Error,
                        "readable",
                        format!("the folder cannot be read: {error}"),
                    );
                    break;
                }
            };
            look(&path, (device, file_bytes_min), &mut folders, &mut totals, findings);
            same_but_for_case(&path, &mut folded, findings);
            progress.add_item();
        }
    }
    progress.finish();
    let Totals { files, folders, symlinks, bytes, able } = totals;
    let size = shown_bytes(bytes);
    let result = format!("{files} files, {folders} folders, {symlinks} symlinks, {size}");
    add(findings, root, Level::Info, "content", result);
    let (able, able_bytes) = (able.0, shown_bytes(able.1));
    let result = format!("{able} of {files} files could be tiered, which would free {able_bytes}");
    add(findings, root, Level::Info, "what tiering could free", result);
}

fn add(
    findings: &mut Findings,
    path: &Path,
    level: Level,
    description: &'static str,
    result: impl Into<String>,
) {
    let path = path.as_os_str().as_bytes().to_vec();
    findings.add(Row { kind: "dataset", path, level, description, result: result.into() });
}

fn look(
    path: &Path,
    (device, file_bytes_min): (u64, u64),
    folders: &mut Vec<PathBuf>,
    totals: &mut Totals,
    findings: &mut Findings,
) {
    let metadata = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        // Removed meanwhile: nothing to say of it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => {
            return add(findings, path, Level::Error, "readable", format!("cannot be read: {error}"));
        }
    };
    name(path, metadata.is_dir(), findings);
    let kind = metadata.file_type();
    if metadata.is_dir() {
        totals.folders += 1;
        if metadata.dev() != device {
            add(
                findings,
                path,
                Level::Warning,
                "mount point",
                "another file system is mounted here; it is not synced",
            );
        } else if path.file_name().is_some_and(|name| name == ".polder") {
            add(
                findings,
                path,
                Level::Warning,
                "place",
                "this folder is or was an endpoint; two must not overlap",
            );
        } else {
            folders.push(path.to_owned());
        }
    } else if kind.is_symlink() {
        totals.symlinks += 1;
    } else if metadata.is_file() {
        totals.files += 1;
        totals.bytes += metadata.len();
        let on_disk = metadata.blocks() * 512;
        let is_dense = on_disk > 0 && on_disk >= metadata.len() / 8;
        if metadata.len() >= file_bytes_min && metadata.nlink() == 1 && is_dense {
            totals.able = (totals.able.0 + 1, totals.able.1 + on_disk);
        }
        file(path, &metadata, findings);
    } else {
        let what = if kind.is_socket() {
            "a socket"
        } else if kind.is_fifo() {
            "a pipe"
        } else {
            "a device"
        };
        add(findings, path, Level::Warning, "special file", format!("{what}; it is skipped and listed"));
    }
}

fn file(path: &Path, metadata: &fs::Metadata, findings: &mut Findings) {
    if metadata.nlink() > 1 {
        let result = format!("has {} names; each becomes a file of its own elsewhere", metadata.nlink());
        add(findings, path, Level::Info, "hard link", result);
    }
    if metadata.mode() & 0o6000 != 0 {
        let result =
            "runs with another user's rights; other servers do not apply that unless --privileges is set";
        add(findings, path, Level::Warning, "setuid or setgid", result);
    }
    // Opening tells what permission bits alone do not (ACLs, other users' folders).
    if let Err(error) = fs::File::open(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        add(findings, path, Level::Error, "readable", format!("cannot be read: {error}"));
    }
}

fn name(path: &Path, is_dir: bool, findings: &mut Findings) {
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() > PATH_BYTES_MAX {
        add(
            findings,
            path,
            Level::Warning,
            "path length",
            format!("{} bytes; most programs open 4,095", bytes.len()),
        );
    }
    let Some(name) = path.file_name() else { return };
    if polder_agent::is_left_out(name.as_bytes(), is_dir) {
        let result = "is left out by the default list of temporary and system files";
        add(findings, path, Level::Info, "left out", result);
    }
    let Some(text) = name.to_str() else {
        let result = "is not UTF-8; it is kept byte for byte, and Windows clients do not see it";
        return add(findings, path, Level::Info, "name", result);
    };
    if let Some(why) = windows(text) {
        add(findings, path, Level::Info, "name for Windows", why);
    }
}

/// Why Windows clients cannot use a name, if so. Linux servers can.
fn windows(name: &str) -> Option<&'static str> {
    const DEVICES: [&str; 4] = ["CON", "PRN", "AUX", "NUL"];
    let stem = name.split('.').next().unwrap_or(name).to_ascii_uppercase();
    let port = stem.strip_prefix("COM").or(stem.strip_prefix("LPT"));
    let is_port = port.is_some_and(|number| matches!(number.as_bytes(), [b'1'..=b'9']));
    if name
        .chars()
        .any(|char| matches!(char, '<' | '>' | ':' | '"' | '|' | '?' | '*' | '\\') || u32::from(char) < 32)
    {
        Some("holds a character that Windows clients cannot use")
    } else if name.ends_with(['.', ' ']) {
        Some("ends with a dot or a space, which Windows clients drop")
    } else if DEVICES.contains(&stem.as_str()) || is_port {
        Some("is the name of a device on Windows")
    } else if name.encode_utf16().count() > WINDOWS_UNITS_MAX {
        Some("is longer than Windows clients allow")
    } else {
        None
    }
}

/// Two names of one folder that are one in a case-insensitive share.
fn same_but_for_case(path: &Path, seen: &mut BTreeMap<Vec<u8>, Vec<u8>>, findings: &mut Findings) {
    let Some(Ok(name)) = path.file_name().map(|name| Name::parse(name.as_bytes())) else { return };
    let key = fold_v1(name.as_bytes()).into_owned();
    if let Some(other) = seen.insert(key, name.as_bytes().to_vec()) {
        let other = polder_types::Escaped(&other);
        let result =
            format!("is \"{other}\" but for case; in a case-insensitive share one gets a conflict name");
        add(findings, path, Level::Warning, "case", result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario 63.
    #[test]
    fn names_for_windows() {
        for bad in ["a:b", "x?", "trailing.", "trailing ", "con", "NUL.txt", "lpt1", "a\\b", "tab\t"] {
            assert!(windows(bad).is_some(), "{bad}");
        }
        for good in ["plain.txt", "console", "COM10", ".hidden", "a b", "ünï"] {
            assert!(windows(good).is_none(), "{good}");
        }
    }

    #[test]
    fn a_folder_tells_what_is_special_in_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        fs::write(root.join("Readme"), "1").expect("write");
        fs::write(root.join("README"), "2").expect("write");
        fs::hard_link(root.join("README"), root.join("linked")).expect("link");
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).expect("bind");
        let environment = polder_cli::Environment {
            vars: BTreeMap::new(),
            stdin: Box::new(std::io::empty()),
            stdout: Box::new(std::io::sink()),
            stderr: Box::new(std::io::sink()),
            terminal: polder_cli::Terminal { stdin: false, stdout: false, stderr: false, width: 80 },
        };
        let mut findings = Findings::default();
        fs::write(root.join("draft.tmp"), vec![7u8; 20_000]).expect("write");
        check(root, 8192, &mut findings, &Ui::new(environment));
        let mut found: Vec<&str> = findings.finish().iter().map(|row| row.description).collect();
        found.sort_unstable();
        assert_eq!(
            found,
            [
                "case",
                "content",
                "hard link",
                "hard link",
                "left out",
                "special file",
                "what tiering could free"
            ]
        );
    }
}
