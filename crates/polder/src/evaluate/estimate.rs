//! `polder estimate`: the disk space that a folder needs as an endpoint that tiers everything it may, by part.
//!
//! Counted, not guessed: what the folder holds now is walked. Constants are measured ones (`docs/formats/endpoint.md`); the sum is
//! what must be there at least, so a cache for the files that people work on comes on top.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use polder_agent::Survey;
use polder_cli::{CliError, Estimate, Exit, Progress, Ui, shown_bytes, shown_table};
use serde_json::json;

use super::quoted;

/// State database: a node's row with its two indexes, and its heat.
const NODE_BYTES: u64 = 243 + 64;
/// What `st_blocks` counts in.
const BLOCK_BYTES: u64 = 512;
/// The agent's own room: log of the database, reserve.
const OWN_BYTES: u64 = 48 << 20;

/// A part of the sum.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// Stable word.
    part: &'static str,
    /// Items that it is about.
    items: u64,
    /// Bytes on the disk.
    bytes: u64,
    /// What it is.
    description: String,
}

/// What a walk has counted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    /// Files that would be tiered, their sizes, and what they take on the disk now.
    tiered: (u64, u64, u64),
    /// Files that stay, and what they take on the disk.
    stay: (u64, u64),
    /// Folders and symlinks, and what they take on the disk.
    names: (u64, u64),
    /// Size of the largest file.
    largest: u64,
    /// Folders that could not be read.
    unread: u64,
}

/// Carries out `polder estimate`.
pub fn run(request: &Estimate, ui: &mut Ui) -> Result<Exit, CliError> {
    let path = std::path::absolute(&request.path)
        .map_err(|error| CliError::io(format!("resolve \"{}\"", request.path.display()), error))?;
    let is_dir = path
        .symlink_metadata()
        .map_err(|error| CliError::io(format!("read \"{}\"", path.display()), error))?
        .is_dir();
    if !is_dir {
        return Err(CliError::usage(format!("\"{}\" is not a folder", path.display())));
    }
    let survey = polder_agent::survey(&path).map_err(crate::host::failed)?;
    let progress = Progress::new(ui, "look");
    let counted = count(&path, &survey, &progress);
    progress.finish();
    if counted.unread > 0 {
        ui.warn(format_args!("{} folders could not be read; what they hold is missing here", counted.unread));
    }
    show(&parts(&counted, &survey, request.free_space_percent), request.csv, ui)?;
    if let Some(why) = &survey.tiering_refused {
        ui.warn(format_args!("tiering is refused here: {why}"));
    }
    Ok(if counted.unread > 0 { Exit::Partial } else { Exit::Done })
}

fn count(root: &Path, survey: &Survey, progress: &Progress) -> Counted {
    let mut counted = Counted::default();
    let device = root.symlink_metadata().map(|metadata| metadata.dev()).unwrap_or(0);
    let mut folders: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            counted.unread += 1;
            continue;
        };
        for entry in entries.flatten() {
            // What was removed meanwhile needs no room.
            let Ok(metadata) = entry.path().symlink_metadata() else { continue };
            let on_disk = metadata.blocks() * BLOCK_BYTES;
            progress.add_item();
            if metadata.is_file() {
                counted.file(&metadata, on_disk, survey.file_bytes_min);
                continue;
            }
            counted.names = (counted.names.0 + 1, counted.names.1 + on_disk);
            let is_own = folder == root && entry.file_name() == ".polder";
            if metadata.is_dir() && metadata.dev() == device && !is_own {
                folders.push(entry.path());
            }
        }
    }
    counted
}

impl Counted {
    fn file(&mut self, metadata: &fs::Metadata, on_disk: u64, file_bytes_min: u64) {
        let size = metadata.len();
        self.largest = self.largest.max(size);
        // As `polder_tiering` decides it: too small, several names, mostly holes.
        let stays = size < file_bytes_min || metadata.nlink() > 1 || on_disk < size / 8 || on_disk == 0;
        if stays {
            self.stay = (self.stay.0 + 1, self.stay.1 + on_disk);
        } else {
            let (files, bytes, disk) = self.tiered;
            self.tiered = (files + 1, bytes + size, disk + on_disk);
        }
    }
}

/// The parts, their sum, and the volume that it fits on.
fn parts(counted: &Counted, survey: &Survey, percent: u8) -> Vec<Part> {
    let part = |part, items, bytes, description: &str| Part {
        part,
        items,
        bytes,
        description: description.to_owned(),
    };
    let nodes = counted.tiered.0 + counted.stay.0 + counted.names.0;
    let mut parts = vec![
        part("names", counted.names.0, counted.names.1, "folders and symlinks"),
        part(
            "files that stay",
            counted.stay.0,
            counted.stay.1,
            "too small, mostly holes, or with several names",
        ),
        part(
            "placeholders",
            counted.tiered.0,
            counted.tiered.0 * survey.cluster_bytes,
            "a block each for the mark (none where an inode has room for it)",
        ),
        part(
            "state",
            nodes,
            nodes * NODE_BYTES + OWN_BYTES,
            "the endpoint's database and the room that it keeps",
        ),
        part(
            "largest file",
            u64::from(counted.largest > 0),
            counted.largest,
            "it is recalled or replaced as a whole",
        ),
    ];
    let sum = parts.iter().map(|part| part.bytes).sum();
    parts.push(part("needed", nodes, sum, "the sum: with everything tiered that may be"));
    let volume = (u128::from(sum) * 100).div_ceil(u128::from(100 - percent.min(99)));
    parts.push(Part {
        part: "smallest volume",
        items: 1,
        bytes: u64::try_from(volume).unwrap_or(u64::MAX),
        description: format!("holds that with {percent}% of it free"),
    });
    parts.push(part(
        "cached now",
        counted.tiered.0,
        counted.tiered.2,
        "what tiering would free of this folder",
    ));
    parts.push(Part {
        part: "this volume",
        items: 1,
        bytes: survey.bytes,
        description: format!("{}, of which {} are free", survey.file_system, shown_bytes(survey.free_bytes)),
    });
    parts
}

fn show(parts: &[Part], csv: bool, ui: &mut Ui) -> Result<(), CliError> {
    if csv {
        ui.text("Part,Items,Bytes,Description")?;
        for part in parts {
            let Part { part, items, bytes, description } = part;
            ui.text(format!("{},{items},{bytes},{}", quoted(part), quoted(description)))?;
        }
        return Ok(());
    }
    let document: Vec<_> = parts
        .iter()
        .map(|part| {
            json!({
                "part": part.part.replace(' ', "_"), "items": part.items, "bytes": part.bytes,
                "description": part.description,
            })
        })
        .collect();
    ui.show(&document, |_| {
        let rows = parts.iter().map(|part| {
            vec![
                part.part.to_owned(),
                part.items.to_string(),
                shown_bytes(part.bytes),
                part.description.clone(),
            ]
        });
        shown_table(&["PART", ">ITEMS", ">SPACE", "DESCRIPTION"], rows)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey() -> Survey {
        Survey {
            file_system: "ext4".to_owned(),
            bytes: 1 << 40,
            free_bytes: 1 << 39,
            cluster_bytes: 4096,
            free_inodes: None,
            file_bytes_min: 8192,
            tiering_refused: None,
        }
    }

    fn bytes_of(parts: &[Part], name: &str) -> u64 {
        parts.iter().find(|part| part.part == name).expect(name).bytes
    }

    #[test]
    fn a_folder_is_counted_as_the_policies_see_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        fs::create_dir(root.join("d")).expect("make");
        fs::write(root.join("d/large"), vec![7u8; 100_000]).expect("write");
        fs::write(root.join("small"), vec![7u8; 8191]).expect("write");
        fs::write(root.join("twice"), vec![7u8; 50_000]).expect("write");
        fs::hard_link(root.join("twice"), root.join("again")).expect("link");
        let holes = fs::File::create(root.join("holes")).expect("create");
        holes.set_len(1 << 30).expect("set the size");
        // Its own folder is no part of the data.
        fs::create_dir(root.join(".polder")).expect("make");
        fs::write(root.join(".polder/state.db"), vec![7u8; 100_000]).expect("write");
        let ui = Ui::new(polder_cli::Environment {
            vars: std::collections::BTreeMap::new(),
            stdin: Box::new(std::io::empty()),
            stdout: Box::new(std::io::sink()),
            stderr: Box::new(std::io::sink()),
            terminal: polder_cli::Terminal { stdin: false, stdout: false, stderr: false, width: 80 },
        });
        let counted = count(root, &survey(), &Progress::new(&ui, "look"));
        assert_eq!((counted.tiered.0, counted.tiered.1), (1, 100_000));
        assert_eq!((counted.stay.0, counted.names.0, counted.largest), (4, 2, 1 << 30));
    }

    #[test]
    fn the_sum_is_of_its_parts_and_fits_the_volume() {
        let counted = Counted {
            tiered: (1_000, 1 << 40, 1 << 40),
            stay: (10, 10 << 20),
            names: (5, 20_480),
            largest: 1 << 30,
            unread: 0,
        };
        let parts = parts(&counted, &survey(), 20);
        let summed: u64 = parts.iter().take(5).map(|part| part.bytes).sum();
        assert_eq!(bytes_of(&parts, "needed"), summed);
        assert_eq!(bytes_of(&parts, "placeholders"), 1_000 * 4096);
        let volume = bytes_of(&parts, "smallest volume");
        assert!(volume - volume / 5 >= summed && volume - volume / 5 < summed + 100);
        assert_eq!(bytes_of(&parts, "cached now"), 1 << 40);
    }
}
