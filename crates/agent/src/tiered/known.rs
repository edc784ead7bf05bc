//! Files that were recalled, and what they hold as long as they look the same.

use std::collections::HashMap;
use std::sync::Mutex;

use polder_types::{Content, FileIdent, Stamp};

use super::LOCK;

/// Files that are remembered; beyond it they are read once to know.
const FILES_MAX: usize = 65_536;

/// What a file that became resident holds: the engine takes it for that without reading it. Of this process alone.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<HashMap<FileIdent, (Stamp, Content)>>);

impl Known {
    /// A file looked so when it became resident.
    pub(super) fn put(&self, ident: FileIdent, stamp: Stamp, content: Content) {
        let mut known = self.0.lock().expect(LOCK);
        if known.len() >= FILES_MAX {
            known.clear();
        }
        known.insert(ident, (stamp, content));
    }

    /// What a file that looks so holds.
    pub(crate) fn content(&self, stamp: &Stamp) -> Option<Content> {
        let known = self.0.lock().expect(LOCK);
        known.get(&stamp.ident).filter(|(then, _)| then == stamp).map(|(_, content)| content.clone())
    }
}
