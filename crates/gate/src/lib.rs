//! The FUSE file system in front of a tiered endpoint.
//!
//! `docs/design/2026-11-30-gate.md` tells the layout, the threads and what outlives a crash. The sentence that governs: a reader gets
//! the right bytes or an error, through every system call, whatever is alive or dead.
//!
//! Architecture invariants: the crate knows names, attributes, bytes and errnos, nothing of shares, chunks or databases; users' files
//! are reached through the two ports alone; a process never touches its own mount.

mod device;
pub mod errno;
mod fs;
mod holder;
mod interrupt;
mod keep;
mod motion;
mod mount;
mod pool;
pub mod ports;
pub mod proto;
mod rights;
mod rooms;
mod session;
mod shared;
mod spin;
mod sys;
pub mod tree;

pub use holder::{EXIT_AGAIN, Handed, Holder, HolderError, Kept};
pub use interrupt::{INTERRUPT_POLL, Interrupt};
pub use keep::{
    FromWorker, Heirlooms, HeldMount, HeldMounts, MountName, ToHolder, Told, channel, is_mounted, mount_over,
    unmount, unmount_unused,
};
pub use mount::clear_stale;
pub use session::{Connection, Gate, GateError, Moving, Settings};
pub use shared::STATE_BYTES;
