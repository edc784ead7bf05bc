//! From a share to this machine.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use futures::{StreamExt as _, stream};
use polder_api::rest::{At, Client, Entry, Time};
use polder_types::{Kind, RelPath};
use tokio::io::AsyncWriteExt as _;

use super::{FILES_AT_ONCE, Summary};
use crate::{CliError, Progress, Ui, settings::shown};

/// A copy to this machine.
pub struct Download<'a> {
    client: &'a Client,
    share: &'a str,
    at: Option<At>,
    progress: Progress,
}

/// A file or symlink to fetch.
struct Item {
    from: RelPath,
    entry: Entry,
    to: PathBuf,
}

impl<'a> Download<'a> {
    /// A copy of what `share` held at `at`.
    pub fn new(client: &'a Client, share: &'a str, at: Option<At>, ui: &Ui) -> Self {
        Self { client, share, at, progress: Progress::new(ui, "download") }
    }

    /// Copies `entry`, which is at `from`, to `to`.
    pub async fn run(self, from: RelPath, entry: Entry, to: PathBuf) -> Result<Summary, CliError> {
        let mut summary = Summary::default();
        if entry.kind == Kind::Directory {
            self.tree(from, &entry, to, &mut summary).await;
        } else {
            self.progress.expect_bytes(entry.size);
            self.items(vec![Item { from, entry, to }], &mut summary).await;
        }
        self.progress.finish();
        Ok(summary)
    }

    /// Copies a folder, page by page; times of folders are set last, because filling a folder changes its own.
    async fn tree(&self, from: RelPath, entry: &Entry, to: PathBuf, summary: &mut Summary) {
        let mut times = Vec::new();
        let mut folders = vec![(from, to, entry.mtime, entry.mode.bits())];
        while let Some((from, to, mtime, mode)) = folders.pop() {
            if let Err(error) = make_folder(&to) {
                summary.fail(&from.to_bytes(), error);
                continue;
            }
            summary.directories += 1;
            times.push((to.clone(), mtime, mode));
            let mut after = None;
            loop {
                let at = self.at.as_ref();
                let page = match self.client.entries(self.share, &from, at, after.as_deref()).await {
                    Ok(page) => page,
                    Err(error) => {
                        summary.fail(&from.to_bytes(), error.into());
                        break;
                    }
                };
                let mut items = Vec::new();
                for entry in page.items {
                    let Some(name) = entry.name.clone() else { continue };
                    let to = to.join(OsStr::from_bytes(name.0.as_bytes()));
                    let from = from.join(name.0);
                    if entry.kind == Kind::Directory {
                        folders.push((from, to, entry.mtime, entry.mode.bits()));
                    } else {
                        self.progress.expect_bytes(entry.size);
                        items.push(Item { from, entry, to });
                    }
                }
                self.items(items, summary).await;
                match page.next {
                    Some(next) if after.as_ref() != Some(&next) => after = Some(next),
                    _ => break,
                }
            }
        }
        for (folder, mtime, mode) in times.into_iter().rev() {
            // The write bit for ourselves may be missing in the share: set last, like the time.
            let set = fs::File::open(&folder).and_then(|handle| {
                handle.set_permissions(fs::Permissions::from_mode(u32::from(mode & 0o777)))?;
                handle.set_modified(system_time(mtime))
            });
            if let Err(error) = set {
                let doing = format!("set time and mode of {}", shown(&folder));
                summary.fail(folder.as_os_str().as_bytes(), CliError::io(doing, error));
            }
        }
    }

    async fn items(&self, items: Vec<Item>, summary: &mut Summary) {
        let mut work = stream::iter(items)
            .map(|item| async move {
                let done = self.item(&item).await;
                (item, done)
            })
            .buffer_unordered(FILES_AT_ONCE);
        while let Some((item, done)) = work.next().await {
            match (done, item.entry.kind) {
                (Err(error), _) => summary.fail(&item.from.to_bytes(), error),
                (Ok(_), Kind::Symlink) => summary.symlinks += 1,
                (Ok(bytes), _) => {
                    summary.files += 1;
                    summary.bytes += bytes;
                }
            }
            self.progress.add_item();
        }
    }

    /// Copies one file or symlink; returns its bytes.
    async fn item(&self, item: &Item) -> Result<u64, CliError> {
        let part = part_name(&item.to);
        let result = if item.entry.kind == Kind::Symlink {
            symlink(item, &part).map(|()| 0)
        } else {
            self.file(item, &part).await
        };
        if result.is_err() {
            // Best effort: the next copy of the same file replaces it.
            let _ = fs::remove_file(&part);
        }
        result
    }

    async fn file(&self, item: &Item, part: &Path) -> Result<u64, CliError> {
        let failed = |error| CliError::io(format!("write {}", shown(&item.to)), error);
        // A part of an earlier copy, or a symlink that somebody put in its place: created anew, never written through.
        let _ = fs::remove_file(part);
        let mut content = self.client.content(self.share, &item.from, self.at.as_ref(), None).await?;
        let file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(part).map_err(failed)?;
        let mut file = tokio::fs::File::from_std(file);
        let mut bytes = 0;
        while let Some(piece) = content.next().await? {
            file.write_all(&piece).await.map_err(failed)?;
            bytes += piece.len() as u64;
            self.progress.add_bytes(piece.len() as u64);
        }
        file.flush().await.map_err(failed)?;
        let file = file.into_std().await;
        let mode = u32::from(item.entry.mode.bits() & 0o777);
        file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
        file.set_modified(system_time(item.entry.mtime)).map_err(failed)?;
        fs::rename(part, &item.to).map_err(failed)?;
        Ok(bytes)
    }
}

fn symlink(item: &Item, part: &Path) -> Result<(), CliError> {
    let failed = |error| CliError::io(format!("make the symlink {}", shown(&item.to)), error);
    let target = item.entry.target.clone().unwrap_or_default();
    let _ = fs::remove_file(part);
    std::os::unix::fs::symlink(OsStr::from_bytes(&target.0), part).map_err(failed)?;
    fs::rename(part, &item.to).map_err(failed)
}

/// Makes a folder or takes a real one that is there: a symlink in its place is never followed.
fn make_folder(path: &Path) -> Result<(), CliError> {
    let failed = |error| CliError::io(format!("make the folder {}", shown(path)), error);
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(CliError::refused(format!("{} is in the way of a folder", shown(path)))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => fs::create_dir(path).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

/// A name beside the target. A long name is cut so that the whole fits; two that are cut alike are told apart by a
/// number made from the name.
fn part_name(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().as_bytes();
    let mark = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let kept = &name[..name.len().min(200)];
    let part = [b".", kept, format!(".polder-part-{mark:x}").as_bytes()].concat();
    target.with_file_name(OsStr::from_bytes(&part))
}

fn system_time(time: Time) -> SystemTime {
    let secs = Duration::from_secs(time.0.secs.unsigned_abs());
    let whole = if time.0.secs < 0 { SystemTime::UNIX_EPOCH - secs } else { SystemTime::UNIX_EPOCH + secs };
    whole + Duration::from_nanos(u64::from(time.0.nanos))
}
