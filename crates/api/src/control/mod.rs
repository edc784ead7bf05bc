//! Messages of the control socket of an agent: what the command line asks on a registered server.
//!
//! The socket is `STATE/control.sock` ([`SOCKET`]), mode 0600: who may connect is decided by the file system alone.
//! A connection carries one [`Request`] as one line of JSON, and the answer as one line of JSON ([`Answer`]) or, for
//! requests that say so, several lines that end with [`Answer::Done`]. No line is longer than [`LINE_BYTES_MAX`].
//!
//! Architecture invariant: nothing here changes files or settings of a share; administration goes through the
//! service, so that it is checked and audited there.

mod client;
mod messages;
mod tiering;

pub use client::{ControlError, ask, ask_each, read_line, write_line};
pub use messages::{AgentEndpoint, AgentInfo, Answer, LocalExplain, NetworkCheck, Request};
pub use tiering::{
    FILES_LISTED_MAX, FileChoice, FileResidency, FileRow, FileTiering, LastRecall, Moved, PinRow, THREADS_MAX,
};

/// Name of the socket in the agent's state folder.
pub const SOCKET: &str = "control.sock";
/// Longest line in bytes, the line feed included.
pub const LINE_BYTES_MAX: usize = 1024 * 1024;
