//! Files that were recalled, and what they hold as long as they look the same.

use std::collections::HashMap;
use std::sync::Mutex;

use polder_replica::Pledge;
use polder_types::{Content, FileIdent, Stamp, Timestamp};

use super::LOCK;

/// Files that are remembered; beyond it they are read once to know.
const FILES_MAX: usize = 65_536;

/// What a file that became resident holds: the engine takes it for that without reading it. Of this process alone.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<HashMap<FileIdent, (Looks, Content)>>);

#[derive(Debug)]
enum Looks {
    /// It is losing its mark, which moves its change time more than once; nobody else may write to it meanwhile.
    Settling { size: u64, mtime: Timestamp },
    /// It became resident.
    Settled(Stamp),
}

impl Known {
    /// A file is all here and loses its mark: with these times and this size it holds this, until one of the others is called. Its lock is
    /// held until then, so nobody gets a descriptor to write with.
    pub(super) fn settling(&self, ident: FileIdent, pledge: &Pledge, content: Content) {
        self.put(ident, Looks::Settling { size: pledge.size, mtime: pledge.mtime }, content);
    }

    /// A file looked so when it had become resident.
    pub(super) fn settled(&self, stamp: Stamp, content: Content) {
        self.put(stamp.ident, Looks::Settled(stamp), content);
    }

    /// A file did not become resident as it should.
    pub(super) fn forget(&self, ident: FileIdent) {
        self.0.lock().expect(LOCK).remove(&ident);
    }

    /// What a file that looks so, and has no mark, holds.
    pub(crate) fn content(&self, stamp: &Stamp) -> Option<Content> {
        let known = self.0.lock().expect(LOCK);
        let (looks, content) = known.get(&stamp.ident)?;
        let as_then = match looks {
            Looks::Settling { size, mtime } => (stamp.size, stamp.mtime) == (*size, *mtime),
            Looks::Settled(then) => stamp == then,
        };
        as_then.then(|| content.clone())
    }

    fn put(&self, ident: FileIdent, looks: Looks, content: Content) {
        let mut known = self.0.lock().expect(LOCK);
        if known.len() >= FILES_MAX && !known.contains_key(&ident) {
            known.clear();
        }
        known.insert(ident, (looks, content));
    }
}

#[cfg(test)]
mod tests {
    use polder_types::{NodeUid, Seq};

    use super::*;

    #[test]
    fn a_file_that_loses_its_mark_is_known_before_and_after() {
        let ident = FileIdent { ino: 7, generation: 1 };
        let at = |secs| Timestamp::new(secs, 0);
        let seen = |ctime, mtime, size| Stamp { ident, ctime: at(ctime), mtime: at(mtime), size };
        let pledge =
            Pledge { node: NodeUid([1; 16]), since: Seq(1), content: [0; 16], size: 10, mtime: at(5) };
        let content = Content::empty_file();
        let known = Known::default();
        assert_eq!(known.content(&seen(100, 5, 10)), None);
        known.settling(ident, &pledge, content.clone());
        for ctime in [100, 101] {
            assert_eq!(
                known.content(&seen(ctime, 5, 10)).as_ref(),
                Some(&content),
                "whatever its change time"
            );
        }
        assert_eq!((known.content(&seen(100, 6, 10)), known.content(&seen(100, 5, 11))), (None, None));
        known.settled(seen(102, 5, 10), content.clone());
        assert_eq!(known.content(&seen(102, 5, 10)), Some(content.clone()));
        assert_eq!(known.content(&seen(103, 5, 10)), None, "somebody has written to it");
        known.settling(ident, &pledge, content);
        known.forget(ident);
        assert_eq!(known.content(&seen(102, 5, 10)), None);
    }
}
