//! Small files of the data folder, written whole or not at all.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretFile {
    /// Mode 0600.
    Secret,
    /// Mode 0644.
    Public,
}

/// The text of a file, if there is one.
pub fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read \"{}\"", path.display())),
    }
}

/// Writes a file durably: under another name first, so that a crash leaves the old one or the new one.
pub fn write(path: &Path, text: &str, secret: SecretFile) -> Result<()> {
    let doing = || format!("write \"{}\"", path.display());
    let mode = if secret == SecretFile::Secret { 0o600 } else { 0o644 };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    // A left-over of a crash may have another mode.
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(doing),
        _ => (),
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .with_context(doing)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(doing)?;
    std::fs::rename(&beside, path).with_context(doing)?;
    let folder = path.parent().context("a file is in a folder")?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).with_context(doing)
}

/// The text of a file; made and written when there is none, which is said.
pub fn read_or_make(
    path: &Path,
    secret: SecretFile,
    what: &str,
    make: impl FnOnce() -> Result<String>,
) -> Result<String> {
    if let Some(text) = read(path)? {
        return Ok(text);
    }
    let text = make()?;
    write(path, &text, secret)?;
    tracing::info!(path = %path.display(), "made the {what}");
    Ok(text)
}
