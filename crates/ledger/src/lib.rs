//! The commit core of the service: what a share is, decided over a small port of rows.
//!
//! A share has one ordered history. A batch of groups of operations comes in with what its author knows; each group is
//! checked on the state after all of it and is taken whole or refused whole; what is taken gets numbers, and readers
//! follow by those numbers. The same code decides on maps in memory, on SQLite, later on PostgreSQL, and under the
//! simulator. `docs/formats/share.md` is the specification.
//!
//! Order of use: [`create_share`] once; [`announce`] at every start of an endpoint; [`commit`]; [`changes`] and
//! [`bootstrap`] to follow; [`lookup`], [`list`], [`stat`] to read, now or [`At`] a sequence; [`set_applied`] and
//! [`create_snapshot`] pin; [`thin_step`], [`expire_step`] and the functions on packs are background work.
//!
//! Architecture invariant: no clock, no randomness, no database and no await here. Time and tags are arguments; rows
//! come through [`Rows`] and [`RowsMut`], inside one transaction of one share, which the caller opens and ends.
//!
//! Architecture invariant: every mutation is conditional on the version that it was derived from, and every error voids
//! the whole transaction. A refusal is an answer, not an error.

mod answer;
mod commit;
mod error;
mod feed;
mod group;
mod history;
mod limits;
mod mark;
mod packs;
mod pins;
mod read;
mod rows;
mod share;
mod states;

pub use commit::{
    BATCH_OPS_MAX, Brake, CommitContext, REFUSED_BATCHES_KEPT, TreeChunks, commit, kept_answers,
};
pub use error::{LedgerError, RowsError};
pub use feed::{BootstrapPage, FeedFrom, FeedPage, FeedRow, PAGE_BYTES_MAX, bootstrap, changes};
pub use group::MOVE_STEPS_MAX;
pub use history::{HistoryPolicy, StepDone, ThinStep, expire_step, thin_step};
pub use mark::{MarkFrom, MarkPage, references};
pub use packs::{
    Located, NewPack, PACK_CHUNKS_MAX, condemn_packs, delete_packs, delete_stray, forget_pack, forget_step,
    have, locate, pack, pack_failed, pack_verified, register_pack, spare_packs,
};
pub use pins::{
    SNAPSHOT_TEXT_BYTES_MAX, applied, create_snapshot, delete_snapshot, drop_endpoint, hold, is_applied_but,
    list_snapshots, release, set_applied, set_applied_but, snapshot,
};
pub use read::{At, ListPage, Version, list, lookup, path_of, stat, versions};
pub use rows::{
    AuthorRow, ChangeRow, ChunkRow, CommitRow, EntryRow, HoldRow, Ident, Listed, NodeRow,
    PACK_META_BYTES_MAX, PackNo, PackRow, PackState, PastEntry, PastNode, PinRow, Rows, RowsMut,
    SLOT_BYTES_MAX, ShareRow, Slot, SnapshotRow, Sweep, THIN_STEPS_MAX, What,
};
pub use share::{
    ROOT_NID, SEQ_MAX, ShareSettings, announce, check_cursor, check_fence, create_share, new_epoch, seq_at,
    share_row, take_fence,
};
