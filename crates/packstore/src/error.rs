//! What can go wrong with a store, and whether trying again may help.

use std::io;
use std::path::PathBuf;

use crate::PackName;

/// Why the bytes of a pack stopped arriving; the source is whatever carried them.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such pack.
    #[error("pack {name} is not in the store")]
    NotFound {
        /// Which pack.
        name: PackName,
    },
    /// Another pack has the name: a writer's error, since ids are random.
    #[error("pack {name} is in the store with {present} bytes, not {wanted}")]
    Conflict {
        /// Which pack.
        name: PackName,
        /// What was to be put.
        wanted: u64,
        /// What is there.
        present: u64,
    },
    /// The range does not lie in the pack: a wrong location, or a pack that was cut off.
    #[error("pack {name} has {object_bytes} bytes, which do not hold {start}..{end}")]
    Range {
        /// Which pack.
        name: PackName,
        /// First byte asked for.
        start: u64,
        /// End of what was asked for.
        end: u64,
        /// What the pack has, as far as is known.
        object_bytes: u64,
    },
    /// Empty, or larger than any pack.
    #[error("{found} bytes cannot be a pack ({name})")]
    Size {
        /// Which pack.
        name: PackName,
        /// Its length.
        found: u64,
    },
    /// Another number of bytes arrived than was announced.
    #[error("pack {name} was announced with {wanted} bytes, but {found} came")]
    BodyLength {
        /// Which pack.
        name: PackName,
        /// As announced.
        wanted: u64,
        /// As arrived.
        found: u64,
    },
    /// The sender of the bytes failed.
    #[error("receive pack {name}")]
    Body {
        /// Which pack.
        name: PackName,
        /// How.
        #[source]
        source: BodyError,
    },
    /// The file system.
    #[error("{op} \"{}\"", path.display())]
    Io {
        /// What was done.
        op: &'static str,
        /// To what.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// The object store.
    #[error("{op} pack {name} in the object store")]
    Backend {
        /// What was done.
        op: &'static str,
        /// To which pack.
        name: PackName,
        /// Whether trying again may help.
        retriable: bool,
        /// How it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    /// Whether the same request may succeed later without anybody changing anything.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::NotFound { .. }
            | Self::Conflict { .. }
            | Self::Range { .. }
            | Self::Size { .. }
            | Self::BodyLength { .. }
            | Self::Body { .. } => false,
            // Space and limits come back by themselves; what is broken for good shows by failing for long.
            Self::Io { source, .. } => {
                !matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
            }
            Self::Backend { retriable, .. } => *retriable,
        }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not a form that is known.
    #[error(
        "\"{0}\" names no store: use file:PATH, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or gs://BUCKET/PREFIX"
    )]
    Url(String),
    /// Written by a newer version, or not a folder of packs.
    #[error("\"{}\" is not a folder of packs of this version", .0.display())]
    OtherFormat(PathBuf),
    /// The file system.
    #[error("{op} \"{}\"", path.display())]
    Io {
        /// What was done.
        op: &'static str,
        /// To what.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// Missing or wrong settings of an object store.
    #[error("set up the object store \"{url}\"")]
    Backend {
        /// Which one.
        url: String,
        /// How it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
