//! What a folder's volume is good for, before it becomes an endpoint.

use std::fs::File;
use std::path::Path;
use std::sync::LazyLock;

use anyhow::{Context, Result};
use polder_sync::Filter;
use polder_types::Name;

/// Facts of the volume that holds a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Name of the file system.
    pub file_system: String,
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Bytes of a block.
    pub cluster_bytes: u64,
    /// Inodes that are left; `None` where they are made as needed.
    pub free_inodes: Option<u64>,
    /// Smallest file that is tiered here.
    pub file_bytes_min: u64,
    /// Why tiering is refused here, if it is.
    pub tiering_refused: Option<String>,
}

/// Asks the volume of a folder. Changes nothing.
pub fn survey(folder: &Path) -> Result<Survey> {
    let file = File::open(folder).with_context(|| format!("open \"{}\"", folder.display()))?;
    let volume = polder_replica::Volume::at(&file).context("ask the file system")?;
    let tested = polder_replica::ensure_tested(&file);
    Ok(Survey {
        file_system: volume.file_system,
        bytes: volume.bytes,
        free_bytes: volume.free_bytes,
        cluster_bytes: volume.cluster_bytes,
        free_inodes: volume.free_inodes,
        file_bytes_min: polder_tiering::file_bytes_min(volume.cluster_bytes),
        tiering_refused: tested.err().map(|why| why.to_string()),
    })
}

/// Fails with the reason why no endpoint at a folder could tier: a gate is mounted over a new folder in it and taken away again, which needs the
/// device, the rights and a kernel that knows it.
pub fn ensure_can_tier(folder: &Path) -> Result<()> {
    if let Some(why) = survey(folder)?.tiering_refused {
        anyhow::bail!(why);
    }
    let trial = folder.join(format!(".trial-{}", std::process::id()));
    std::fs::create_dir(&trial).with_context(|| format!("make \"{}\"", trial.display()))?;
    let point = File::open(&trial).context("open the folder").map(std::os::fd::OwnedFd::from);
    let mounted = point.and_then(|point| polder_gate::mount_over(&point).context("mount the gate"));
    if mounted.is_ok() {
        let _ = polder_gate::unmount(&trial);
    }
    let outcome = mounted.map(drop);
    std::fs::remove_dir(&trial).context("take the trial's folder away")?;
    outcome
}

/// Whether the topmost mount at a path is a gate. Nobody is asked who might not answer.
pub fn is_mounted(path: &Path) -> bool {
    polder_gate::is_mounted(path)
}

/// Whether the default list leaves a name out, wherever it stands.
pub fn is_left_out(name: &[u8], is_dir: bool) -> bool {
    static DEFAULTS: LazyLock<Filter> = LazyLock::new(Filter::defaults);
    Name::parse(name).is_ok_and(|name| DEFAULTS.excludes(&[], &name, is_dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_list_leaves_out() {
        assert!(is_left_out(b"a.tmp", false) && is_left_out(b"~$plan.docx", false));
        assert!(!is_left_out(b"a.txt", false) && !is_left_out(b"tmp", true));
    }

    #[test]
    fn a_folder_tells_its_volume() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let survey = survey(folder.path()).expect("it is there");
        assert!(survey.bytes >= survey.free_bytes && survey.bytes > 0);
        assert!(survey.file_bytes_min >= 8192 && survey.cluster_bytes > 0);
        assert!(super::survey(Path::new("/proc")).expect("a folder").tiering_refused.is_some());
        assert!(super::survey(&folder.path().join("none")).is_err());
    }
}
