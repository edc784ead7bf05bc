//! An endpoint goes without a recall: the manifest of what is tiered (`docs/formats/left-behind.md`).

use std::borrow::Borrow;
use std::io;
use std::sync::atomic::Ordering;

use polder_api::left_behind::{Head, Left, Total, Writer, content_text};
use polder_api::rest::PATH_BYTES_MAX;
use polder_replica::{FsError, MANIFEST, MarkedFile, StateReader, each_marked, write_state_file};
use polder_types::Content;

use super::{Tiered, TieredError, disk};

/// What a manifest says, and what it cannot say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Behind {
    /// What is listed.
    pub total: Total,
    /// Files of which nobody knows what they stood for.
    pub orphans: u64,
}

/// What ends the walk: the disk that is looked at, or the one that is written to.
enum Failed {
    Look(FsError),
    Write(io::Error),
}

impl From<FsError> for Failed {
    fn from(error: FsError) -> Self {
        Self::Look(error)
    }
}

impl Tiered {
    /// Writes down what is tiered, from the marks, whatever the state database knows: `head` is completed with the root's nonce. From now on
    /// nothing is given up, and what comes from the share arrives whole.
    pub(crate) fn leave_behind(&self, mut head: Head) -> Result<Behind, TieredError> {
        self.0.takes_arrivals.store(false, Ordering::Release);
        let root = &self.0.root;
        head.nonce = Some(root.identity().nonce.iter().map(|byte| format!("{byte:02x}")).collect());
        let readers = self.readers();
        let reader = readers.get().map_err(|error| disk(&error))?;
        let reader: &StateReader = reader.borrow();
        let (mut behind, mut failed) = (Behind::default(), None);
        let written = write_state_file(root, MANIFEST, &mut |out| {
            let mut writer = Writer::begin(out, &head)?;
            let walked = each_marked(root, &mut |file| match left(reader, file) {
                Some(left) => writer.add(&left).map_err(Failed::Write),
                None => {
                    behind.orphans += 1;
                    Ok(())
                }
            });
            match walked {
                Ok(()) => (),
                Err(Failed::Write(error)) => return Err(error),
                Err(Failed::Look(error)) => {
                    failed = Some(error);
                    return Err(io::Error::other("a folder could not be looked at"));
                }
            }
            behind.total = writer.end()?.1;
            Ok(())
        });
        match (failed, written) {
            (Some(error), _) => Err(disk(&error)),
            (None, Err(error)) => Err(disk(&error)),
            (None, Ok(())) => Ok(behind),
        }
    }
}

/// A line of the manifest. The node that was agreed on for the file, if it has the same content: the one in the mark may have been deleted since,
/// when the file was renamed over another one.
fn left(reader: &StateReader, file: MarkedFile) -> Option<Left> {
    let (pledge, content) = file.stands_for?;
    if file.path.to_bytes().len() > PATH_BYTES_MAX {
        // It is found by its mark.
        return None;
    }
    let row = reader.by_ident(file.ident).ok().flatten().and_then(|uid| reader.file(uid).ok().flatten());
    let same = |agreed: &Content| *agreed == content;
    let (node, since) = match row {
        Some(row) if same(&row.content) => (row.uid, row.since),
        _ => (pledge.node, pledge.since),
    };
    let (size, mtime) = (pledge.size, pledge.mtime.into());
    Some(Left { path: file.path.into(), node, since, size, mtime, content: content_text(&content) })
}
