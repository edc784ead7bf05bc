//! The words of Polder: values, and pure functions on them.
//!
//! Everything that two crates must agree on lives here: ids, names, paths, metadata, content, entries, cursors,
//! operations of a commit. Nothing here reads a clock, a disk, a socket or a random source; ids are made from
//! random bytes that the caller brings.
//!
//! Architecture invariant: this crate knows no format of a database and no wire protocol. The only byte formats
//! defined here are the ones that are hashed or stored by several crates: [`Content::encode`] and
//! [`Attrs::encode`] (`docs/formats/content.md`).

mod attrs;
mod commit;
mod content;
mod cursor;
mod escape;
mod fold;
mod fold_table;
mod ids;
mod name;
mod node;
mod path;
mod stamp;
mod time;
mod wire;
pub mod zoo;

pub use attrs::{Attrs, AttrsHash, XATTR_COUNT_MAX, XATTR_NAME_LEN_MAX, XATTR_TOTAL_BYTES_MAX};
pub use commit::{Author, BatchAnswer, GROUP_OPS_MAX, Group, GroupAnswer, Op, Refusal};
pub use content::{
    Body, CHUNK_BYTES_MAX, Content, Extent, ExtentSource, FILE_BYTES_MAX, INLINE_EXTENTS_MAX,
    SYMLINK_BYTES_MAX,
};
pub use cursor::Cursor;
pub use escape::Escaped;
pub use fold::{CaseRule, fold_v1};
pub use ids::{
    BatchNo, ChunkId, EndpointId, Epoch, GroupId, IdError, InstanceId, Nid, NodeUid, PackId, Seq, ServerId,
    ShareId, Tag,
};
pub use name::{NAME_BYTES_MAX, Name, NameError, conflict_name};
pub use node::{Kind, NodeState, Placed};
pub use path::{PathError, RelPath};
pub use stamp::{FileIdent, Stamp};
pub use time::Timestamp;
pub use wire::{DecodeError, Reader, Writer};
