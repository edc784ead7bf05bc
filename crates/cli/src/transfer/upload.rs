//! From this machine to a share.

use std::{
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use polder_api::rest::{
    Changed, Client, DirectoryCreate, JsonBytes, Mode, ProblemCode, PutQuery, SymlinkCreate, Time,
};
use polder_types::{Name, RelPath, Timestamp};
use tokio::io::AsyncReadExt as _;

use super::{FILES_AT_ONCE, Summary};
use crate::{CliError, Progress, Ui, settings::shown, values::Target};

/// Bytes that are read at once.
const PIECE_BYTES: usize = 256 * 1024;

/// A copy to a share.
pub struct Upload<'a> {
    client: &'a Client,
    share: &'a str,
    query: PutQuery,
    progress: Arc<Progress>,
}

/// A file or symlink to send.
struct Item {
    from: PathBuf,
    to: RelPath,
    metadata: fs::Metadata,
}

impl<'a> Upload<'a> {
    /// A copy into `share`.
    pub fn new(client: &'a Client, share: &'a str, query: PutQuery, ui: &Ui) -> Self {
        Self { client, share, query, progress: Arc::new(Progress::new(ui, "upload")) }
    }

    /// Copies what is at `from` to `to`.
    pub async fn run(self, from: PathBuf, to: RelPath) -> Result<Summary, CliError> {
        let mut summary = Summary::default();
        let metadata = read_metadata(&from)?;
        if metadata.is_dir() {
            self.tree(from, to, &mut summary).await;
        } else {
            self.progress.expect_bytes(metadata.len());
            self.items(vec![Item { from, to, metadata }], &mut summary).await;
        }
        self.progress.finish();
        Ok(summary)
    }

    async fn tree(&self, from: PathBuf, to: RelPath, summary: &mut Summary) {
        let mut folders = vec![(from, to)];
        while let Some((from, to)) = folders.pop() {
            match self.folder(&from, &to, &mut folders).await {
                Ok((items, failures)) => {
                    summary.directories += 1;
                    for (path, error) in failures {
                        summary.fail(path.as_os_str().as_bytes(), error);
                    }
                    self.items(items, summary).await;
                }
                Err(error) => summary.fail(from.as_os_str().as_bytes(), error),
            }
        }
    }

    /// Makes one folder in the share and says what is in it here.
    async fn folder(
        &self,
        from: &Path,
        to: &RelPath,
        folders: &mut Vec<(PathBuf, RelPath)>,
    ) -> Result<(Vec<Item>, Vec<(PathBuf, CliError)>), CliError> {
        let failed = |error| CliError::io(format!("read {}", shown(from)), error);
        let metadata = read_metadata(from)?;
        if !to.names().is_empty() {
            let directory = DirectoryCreate {
                mode: Some(Mode::new((metadata.mode() & 0o7777) as u16)),
                mtime: Some(mtime(&metadata)),
                parents: true,
            };
            self.client.mkdir(self.share, to, &directory, false).await?;
        }
        let (mut items, mut failures) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(from).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            match self.sort(&path, to) {
                Ok(item) if item.metadata.is_dir() => folders.push((item.from, item.to)),
                Ok(item) => {
                    self.progress.expect_bytes(item.metadata.len());
                    items.push(item);
                }
                Err(error) => failures.push((path, error)),
            }
        }
        Ok((items, failures))
    }

    fn sort(&self, path: &Path, folder: &RelPath) -> Result<Item, CliError> {
        let metadata = read_metadata(path)?;
        let name = path.file_name().unwrap_or_default().as_bytes();
        let name = Name::parse(name).map_err(|error| CliError::new(error.to_string()))?;
        Ok(Item { from: path.to_owned(), to: folder.join(name), metadata })
    }

    async fn items(&self, items: Vec<Item>, summary: &mut Summary) {
        let mut work = stream::iter(items)
            .map(|item| async move {
                let done = self.item(&item).await;
                (item, done)
            })
            .buffer_unordered(FILES_AT_ONCE);
        while let Some((item, done)) = work.next().await {
            match done {
                Err(error) => summary.fail(item.from.as_os_str().as_bytes(), error),
                Ok(_) if item.metadata.is_symlink() => summary.symlinks += 1,
                Ok(changed) => {
                    summary.files += 1;
                    summary.bytes += changed.size;
                }
            }
            self.progress.add_item();
        }
    }

    async fn item(&self, item: &Item) -> Result<Changed, CliError> {
        let kind = item.metadata.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(&item.from)
                .map_err(|error| CliError::io(format!("read {}", shown(&item.from)), error))?;
            let symlink = SymlinkCreate {
                target: JsonBytes(target.as_os_str().as_bytes().to_vec()),
                mtime: Some(mtime(&item.metadata)),
                parents: self.query.parents,
                replace: !self.query.create_only,
            };
            return Ok(self.client.symlink(self.share, &item.to, &symlink, false).await?);
        }
        if !kind.is_file() {
            return Err(CliError::new("is neither file, folder nor symlink and is left out"));
        }
        self.file(item).await
    }

    async fn file(&self, item: &Item) -> Result<Changed, CliError> {
        let failed = |error| CliError::io(format!("read {}", shown(&item.from)), error);
        let file = tokio::fs::File::open(&item.from).await.map_err(failed)?;
        let before = file.metadata().await.map_err(failed)?;
        let query = PutQuery {
            mtime: Some(mtime(&before)),
            mode: Some(Mode::new((before.mode() & 0o7777) as u16)),
            uid: Some(before.uid()),
            gid: Some(before.gid()),
            ..self.query.clone()
        };
        let size = before.len();
        let body = whole(file, before, Arc::clone(&self.progress));
        let sent = self.client.put(self.share, &item.to, &query, Some(size), body).await;
        sent.map_err(|error| match error.code() {
            // What the stream said is lost in the broken request; look again.
            None if changed_since(&item.from, &item.metadata) => {
                CliError::new("changed while it was read").hint("copy it again when nobody writes to it")
            }
            Some(ProblemCode::Exists) => CliError::from(error).hint("leave out --no-replace to replace it"),
            _ => error.into(),
        })
    }
}

/// The bytes of a file, as long as it stays as it was in `before`. The last piece leaves only after a second look, so
/// that a file that somebody writes to meanwhile breaks the request instead of being stored in a mixed state.
fn whole(
    file: tokio::fs::File,
    before: fs::Metadata,
    progress: Arc<Progress>,
) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let left = before.len();
    stream::try_unfold((file, before, left, progress), |(mut file, before, left, progress)| async move {
        if left == 0 {
            return Ok(None);
        }
        let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(left).unwrap_or(PIECE_BYTES))];
        file.read_exact(&mut piece).await?;
        let left = left - piece.len() as u64;
        if left == 0 && !same(&file.metadata().await?, &before) {
            return Err(std::io::Error::other("the file changed while it was read"));
        }
        progress.add_bytes(piece.len() as u64);
        Ok(Some((Bytes::from(piece), (file, before, left, progress))))
    })
}

fn same(now: &fs::Metadata, before: &fs::Metadata) -> bool {
    let stamp = |of: &fs::Metadata| (of.len(), of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec());
    stamp(now) == stamp(before)
}

fn changed_since(path: &Path, before: &fs::Metadata) -> bool {
    path.symlink_metadata().is_ok_and(|now| !same(&now, before))
}

fn read_metadata(path: &Path) -> Result<fs::Metadata, CliError> {
    fs::symlink_metadata(path).map_err(|error| CliError::io(format!("read {}", shown(path)), error))
}

fn mtime(metadata: &fs::Metadata) -> Time {
    let nanos = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
    Time(Timestamp::new(metadata.mtime(), nanos))
}

/// Sends standard input to one file of a share.
pub async fn put_stream(
    client: &Client,
    target: &Target,
    query: &mut PutQuery,
    ui: &mut Ui,
) -> Result<Changed, CliError> {
    let stdin = ui.take_stdin();
    let progress = Arc::new(Progress::new(ui, "upload"));
    let body = stream::try_unfold((stdin, Arc::clone(&progress)), |(mut stdin, progress)| async move {
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; PIECE_BYTES];
            let count = std::io::Read::read(&mut stdin, &mut piece)?;
            piece.truncate(count);
            std::io::Result::Ok((piece, stdin))
        });
        let (piece, stdin) = read.await.map_err(std::io::Error::other)??;
        progress.add_bytes(piece.len() as u64);
        let more = !piece.is_empty();
        std::io::Result::Ok(more.then(|| (Bytes::from(piece), (stdin, progress))))
    });
    let changed = client.put(&target.share, &target.path, query, None, body).await;
    progress.finish();
    Ok(changed?)
}
