//! The identity file of a root.
//!
//! Five lines of text, so that a person can read which endpoint a disk belongs to. Format 1; a file of another
//! format is refused, never rewritten.

use std::os::fd::BorrowedFd;

use polder_types::{EndpointId, FileIdent};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Doing, FsError};

const NAME: &str = "identity";
const NEW_NAME: &str = "identity.new";
const FIRST_LINE: &str = "polder root 1";
/// Longest file that is read: the lines take about 200 bytes.
const BYTES_MAX: usize = 1024;

/// What makes a directory the root of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Which endpoint.
    pub endpoint: EndpointId,
    /// Random, drawn at adoption: tells this adoption from every other one.
    pub nonce: [u8; 16],
    /// Inode of the root.
    pub root: FileIdent,
    /// UUID of the file system, where it tells.
    pub volume: Option<[u8; 16]>,
}

/// The file is there and is no identity, or cannot be read.
#[derive(Debug)]
pub(crate) struct Unreadable;

impl Identity {
    /// The file's text.
    pub fn to_text(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let volume = self.volume.map_or("-".to_owned(), |uuid| hex(&uuid));
        let (endpoint, nonce, FileIdent { ino, generation }) = (self.endpoint, hex(&self.nonce), self.root);
        format!(
            "{FIRST_LINE}\nendpoint {endpoint}\nnonce {nonce}\nroot {ino} {generation}\nvolume {volume}\n"
        )
    }

    /// Reads [`Self::to_text`]; `None` is a file that is no identity of this format.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_prefix(FIRST_LINE)?.strip_prefix('\n')?.lines();
        let mut line = |word: &str| lines.next()?.strip_prefix(word)?.strip_prefix(' ');
        let bytes16 = |hex: &str| hex.parse::<EndpointId>().ok().map(|id| id.0);
        let endpoint = line("endpoint")?.parse().ok()?;
        let nonce = bytes16(line("nonce")?)?;
        let (ino, generation) = line("root")?.split_once(' ')?;
        let root = FileIdent { ino: ino.parse().ok()?, generation: generation.parse().ok()? };
        let volume = match line("volume")? {
            "-" => None,
            hex => Some(bytes16(hex)?),
        };
        Some(Self { endpoint, nonce, root, volume })
    }

    /// Reads the identity in a state directory; `None` when there is none.
    pub(crate) fn read(state: BorrowedFd<'_>) -> Result<Option<Self>, Unreadable> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(state, NAME, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(_) => return Err(Unreadable),
        };
        let mut bytes = vec![0; BYTES_MAX];
        let len = rustix::io::read(&file, &mut bytes).map_err(|_| Unreadable)?;
        std::str::from_utf8(&bytes[..len]).ok().and_then(Self::parse).map(Some).ok_or(Unreadable)
    }

    /// Writes the identity durably: it is there as a whole or not at all.
    pub(crate) fn write(&self, state: BorrowedFd<'_>) -> Result<(), FsError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(state, NEW_NAME, flags, Mode::RUSR | Mode::WUSR)
            .doing("create", NEW_NAME.as_bytes())?;
        let text = self.to_text();
        let written = rustix::io::write(&file, text.as_bytes()).doing("write", NEW_NAME.as_bytes())?;
        if written != text.len() {
            return Err(FsError::new("write", NEW_NAME.as_bytes(), Errno::NOSPC));
        }
        rustix::fs::fsync(&file).doing("make durable", NEW_NAME.as_bytes())?;
        rustix::fs::renameat(state, NEW_NAME, state, NAME).doing("rename", NEW_NAME.as_bytes())?;
        rustix::fs::fsync(state).doing("make durable", b".polder")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_text() {
        for volume in [None, Some([9; 16])] {
            let root = FileIdent { ino: 77, generation: u32::MAX };
            let identity = Identity { endpoint: EndpointId([1; 16]), nonce: [2; 16], root, volume };
            assert_eq!(Identity::parse(&identity.to_text()), Some(identity.clone()));
            assert_eq!(Identity::parse(&identity.to_text().replace("root 1", "root 2")), None);
            assert_eq!(Identity::parse(&identity.to_text()[..60]), None);
        }
    }
}
