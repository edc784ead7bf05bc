//! The files of a share on this disk: scan, watch, look, read, stage, apply, and the state database.
//!
//! The reason for this crate: it is the only one that touches users' files. It observes and it applies what somebody
//! else has decided; nothing here decides (`docs/design/2026-11-23-first-line.md`, section 1).
//!
//! All of it is synchronous and is called from worker threads.
//!
//! Architecture invariant: nothing below the root is reached by a path string. Every step is one `openat2` of one
//! [`polder_types::Name`] from a directory descriptor (`walk`).
//!
//! Architecture invariant: nothing of a user is replaced, moved or removed without an expectation that is checked again
//! at that moment, and what is displaced lies in the recycle area (`apply`, `recycle`).
//!
//! Architecture invariant: FIFOs, sockets and devices are never opened, symlinks never followed.
//!
//! Architecture invariant: no tokio, no network, no decision. `unsafe` only in `sys`.

mod apply;
mod attributes;
mod clear_out;
mod clock;
mod compare;
mod crew;
mod displace;
mod error;
mod fanotify;
mod ident;
mod identity;
mod inotify;
mod layout;
mod lease;
mod left;
mod look;
mod overlap;
mod owners;
mod place;
mod point;
mod presence;
mod quiet;
mod read;
mod recycle;
mod reserve;
mod root;
mod scan;
mod scan_worker;
mod staging;
mod statedb;
mod steps;
mod sys;
mod volume;
mod walk;
mod watch;
mod xattrs;

pub use apply::{apply, apply_alone};
pub use attributes::{AttrPolicy, Attributes, OwnerPolicy};
pub use clear_out::{ClearError, Cleared, begin_clearing, clear_out, remove_cleared};
pub use crew::on_thread;
pub use error::{ErrorClass, FsError};
pub use identity::Identity;
pub use layout::{ensure_unmarked, go_on, is_empty, lay_back, lay_out, take_in};
pub use left::{
    AtPlace, FillError, MANIFEST, MarkedFile, Placeholder, Sink, at_place, each_marked, note_share,
    noted_share, write_state_file,
};
pub use look::{Found, Listed, Look, list, look, look_dir};
pub use overlap::{Overlap, overlap};
pub use owners::Owners;
pub use point::{seal_point, unseal_at, unseal_point};
pub use presence::{
    Bound, GivenUp, Leaving, MARK_XATTR, Mark, Marked, NotChunk, Pace, Pledge, Presence, PresenceError, Span,
    SpanSource, Untested, cut, discard, empty, empty_orphan, ensure_tested, give_up, is_stamp_of_mark,
    judge_mark, make_file_durable, marked, marked_at, pledged_content, re_point, set_marked_mtime,
    stamp_of_open,
};
pub use quiet::{Quiet, QuietWork, SilentWork};
pub use read::{PIECE_BYTES, Piece, Proof, Read, ReadDone, ReadOptions, read, read_ranges};
pub use recycle::{Recycle, Recycled, RecycledName, Released, Since};
pub use root::{Root, RootError, STATE_DIR};
pub use scan::{PartEnd, Scan, ScanHandle, ScanOptions, ScanPart, Scanned, TimedOut};
pub use staging::{Staged, Staging};
pub use statedb::{
    Child, FileRow, HeatBefore, HeatRow, PINS_MAX, PlacedFile, PooledReader, StateDb, StateError,
    StateReader, StateReaders,
};
pub use steps::{Act, Batch, BatchResult, Over, Place, Step, StepResult, Unknown};
pub use sys::give_memory_back;
pub use volume::Volume;
pub use walk::{Dir, DirAt, Walker};
pub use watch::{Hint, Method, Noticed, OwnEvents, WatchOptions, Watcher};
