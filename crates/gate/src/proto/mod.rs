//! Messages of the FUSE protocol, version 7.45: what the kernel writes, what it wants to read.
//!
//! Decoding is checked and bounded: a message is either what its opcode asks for, or [`Malformed`]. Nothing here does anything.

mod decode;
mod encode;
mod flags;

pub use decode::{
    CreateIn, Forget, Header, InitIn, Malformed, Operation, ReadIn, Request, SetAttrIn, WriteIn, decode,
};
pub use encode::{
    AttributesOut, DirectoryOut, EntryOut, InitOut, Lifetime, Notice, OpenOut, StatxOut, notice, reply_header,
};
pub(crate) use encode::{put_size, put_space, put_wide};
pub use flags::*;

/// Version of the protocol that is spoken.
pub const MAJOR: u32 = 7;
/// Least minor version that is accepted: passthrough and resend came with 7.40.
pub const MINOR_MIN: u32 = 40;
/// Minor version that is told.
pub const MINOR: u32 = 45;

/// Largest WRITE and READ in bytes.
pub const IO_BYTES_MAX: u32 = 1 << 20;
/// Largest message of the kernel in bytes: header, fixed part and data of a WRITE.
pub const REQUEST_BYTES_MAX: usize = IO_BYTES_MAX as usize + 4096;
/// Bit of a request's number that says: sent before, to a worker that died.
pub const RESENT: u64 = 1 << 63;
/// Bytes of a reply's header.
pub const REPLY_HEADER_BYTES: usize = 16;
