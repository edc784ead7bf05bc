//! Ends a child with its parent.
//!
//! A parent gives its child a pipe as standard input and sets [`VARIABLE`]. However the parent ends, SIGKILL included,
//! the kernel closes the pipe, and the child sees the end of its input. No signal, no process id, no race with the
//! parent's death before the child has set anything up.

/// Says that standard input is such a pipe.
pub const VARIABLE: &str = "POLDER_END_WITH_INPUT";
