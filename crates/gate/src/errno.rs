//! Error numbers, for those who implement the ports.

pub use rustix::io::Errno;

/// The number behind an error of the system; `EIO` where there is none.
pub fn of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
