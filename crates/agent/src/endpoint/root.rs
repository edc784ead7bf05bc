//! Opening an endpoint's root: adoption the first time, proof of identity ever after.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use polder_api::grpc::convert::{Assignment, InitialDownload, InitialUpload};
use polder_gate::{Connection, Kept};
use polder_replica::{Root, RootError};

use super::{Common, LOCK};

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The folder is not ours, not there, or already somebody's.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The gate cannot be mounted there.
    #[error("{0:#}")]
    Mount(anyhow::Error),
    /// The agent's own folder failed.
    #[error("remember that the folder was taken in")]
    State(#[source] crate::StateDirError),
}

/// The endpoint's path as the system takes it.
pub(crate) fn path(assignment: &Assignment) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(&assignment.path))
}

/// A root, and the mount over it if the worker before left one.
pub(crate) struct Opened {
    /// Open, locked and proven.
    pub root: Root,
    /// What the gate goes on with.
    pub inherited: Option<Connection>,
    /// Why it is not laid out for tiering though it should be.
    pub refused: Option<Box<str>>,
}

/// Opens the root, laid out as the endpoint's settings want it. `last` is the root that this endpoint had before: its lock is gone on with, which
/// a gate that was taken away may still hold.
pub(crate) fn open(
    common: &Common,
    assignment: &Assignment,
    last: Option<&Root>,
) -> Result<Opened, OpenError> {
    let path = path(assignment);
    let endpoint = assignment.endpoint;
    if let Some(Kept { device, state, tree }) = common.gates.inherited(endpoint) {
        // The path leads into the mount, which nobody serves yet: what lies below it was opened before.
        let root = Root::open_below(tree, &path, endpoint)?;
        return Ok(Opened { root, inherited: Some(Connection { device, state }), refused: None });
    }
    crate::tiered::clear_dead(&path).map_err(OpenError::Mount)?;
    let open = || match last.map(Root::anew) {
        Some(Ok(root)) => Ok(root),
        Some(Err(error @ RootError::Unfinished { .. })) => Err(OpenError::Root(error)),
        Some(Err(_)) | None => open_plain(common, assignment),
    };
    let root = match open() {
        Err(OpenError::Root(RootError::Unfinished { .. })) => {
            polder_replica::go_on(&path, &mut |_| true)?;
            open()?
        }
        opened => opened?,
    };
    let taken_in = polder_replica::take_in(&root).map_err(RootError::Fs)?;
    if taken_in > 0 {
        tracing::warn!(
            entries = taken_in,
            "what was put into the folder while it was not mounted is taken in"
        );
    }
    if assignment.tiering.enabled && !root.is_tiered() {
        return lay_out(root, assignment);
    }
    Ok(Opened { root, inherited: None, refused: None })
}

/// Lays a plain folder out for tiering. If that cannot be now, an endpoint that was to have everything anyway goes on as a plain one; where
/// names were to come first, all bytes could be more than the volume holds.
fn lay_out(root: Root, assignment: &Assignment) -> Result<Opened, OpenError> {
    let path = path(assignment);
    let may_be_plain = assignment.initial_download == InitialDownload::Full;
    if !polder_replica::is_empty(&root).map_err(RootError::Fs)?
        && let Err(who) = crate::tiered::ensure_nobody_looks(&path)
    {
        return match may_be_plain {
            true => Ok(Opened { root, inherited: None, refused: None }),
            false => Err(OpenError::Mount(who)),
        };
    }
    let refused = match polder_replica::lay_out(&root, &mut |_| true) {
        Ok(()) => None,
        Err(error @ RootError::NotForTiering { .. }) if may_be_plain => {
            let why = crate::status::chain(&error);
            tracing::warn!(why, "the folder stays plain");
            Some(why.into())
        }
        Err(error) => return Err(error.into()),
    };
    if refused.is_none() {
        tracing::info!(path = %path.display(), "the folder is laid out for tiering");
    }
    Ok(Opened { root: root.anew()?, inherited: None, refused })
}

/// Sees to it that nothing can be put below the mount while there is none. Where that cannot be, it is said: then what lies there is taken in.
pub(super) fn seal(root: &Root) {
    let why = match polder_replica::seal_point(root) {
        Ok(true) => return,
        Ok(false) => "its file system has no such flag".to_owned(),
        Err(error) => crate::status::chain(&error),
    };
    tracing::warn!(
        why,
        "the folder below the mount cannot be made immutable: what is put there without a mount is taken in"
    );
}

/// Opens the root. A folder that was never taken in is adopted; one that was must prove that it is the same, so that
/// an empty mount point is never adopted in place of its volume (promise I5).
fn open_plain(common: &Common, assignment: &Assignment) -> Result<Root, OpenError> {
    let path = path(assignment);
    let adopted = format!("adopted-{}", assignment.endpoint);
    if common.state.file(&adopted).exists() {
        return Ok(Root::open(&path, assignment.endpoint)?);
    }
    let paths = common.paths.lock().expect(LOCK).clone();
    let others: Vec<&Path> =
        paths.iter().filter(|(id, _)| *id != assignment.endpoint).map(|(_, path)| path.as_path()).collect();
    let root = match Root::adopt(&path, assignment.endpoint, &others) {
        // A disk that came from another machine, or an agent's folder that was lost, with the endpoint's state on it.
        Err(RootError::AlreadyAdopted { endpoint, .. }) if endpoint == assignment.endpoint => {
            Root::open(&path, assignment.endpoint)?
        }
        // An administrator made an endpoint of a folder that was one before: of a server that had to be registered
        // anew, or an endpoint that was removed since. Those of this server that live are not touched.
        Err(RootError::AlreadyAdopted { endpoint, .. }) if paths.iter().all(|(id, _)| *id != endpoint) => {
            // Who is to be the authority says what the share has, whatever was agreed on before.
            let anew = assignment.initial_upload == InitialUpload::Authoritative;
            let root = Root::take_over(&path, assignment.endpoint, endpoint, assignment.share, anew)?;
            tracing::info!(was = %endpoint, "the folder of an earlier endpoint was taken over");
            root
        }
        outcome => outcome?,
    };
    common.state.put(&adopted, &assignment.path, 0o600).map_err(OpenError::State)?;
    Ok(root)
}
