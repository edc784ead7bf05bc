//! The gate's port `Content`: bytes of regular files, recalled where they are absent.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use polder_gate::errno::{self, Errno};
use polder_gate::ports::{self, Access, Caller, Content, Interrupt, Namespace as _, Node, Opened, Result};
use polder_replica::{Marked, Pledge};
use polder_tiering::{Allowance, Cause, Fetch, Lane, PIECE_BYTES, Program};
use polder_types::FileIdent;
use std::borrow::Borrow;
use std::time::{Duration, Instant};

use super::files::{Brought, FileState, Held, ident_of, key_of};
use super::queue::Failed;
use super::{Inner, Keep, Residency, TieredError, Use};

/// How often it is looked whether a reader still lives.
const GONE_LOOK: Duration = Duration::from_millis(60);
/// Streams of one file that are told apart for read-ahead.
const STREAMS: u64 = 16;
/// How Samba's processes are called: later versions write the client behind it.
const SAMBA: &[u8] = b"smbd";
/// How soon a piece is asked for again when the share cannot be reached: soon at first, since a worker that has just started only has no
/// session yet.
const AGAIN_AFTER_MIN: Duration = Duration::from_millis(5);
const AGAIN_AFTER_MAX: Duration = Duration::from_millis(100);

/// Somebody opened a file.
#[derive(Debug)]
pub(super) struct OpenedBy {
    node: Node,
    pid: u32,
    uid: u32,
    what: super::Opened,
}

/// When to ask again, after so long a wait.
fn again_after(waited: Duration) -> Duration {
    (waited / 4).clamp(AGAIN_AFTER_MIN, AGAIN_AFTER_MAX)
}

/// What a failure is to a caller.
fn errno(error: &TieredError) -> Errno {
    match error {
        TieredError::Cancelled => Errno::INTR,
        TieredError::NoSpace => Errno::NOSPC,
        _ => Errno::IO,
    }
}

fn io(error: &polder_replica::FsError) -> Errno {
    errno::of(&error.source)
}

fn told(why: Failed) -> Errno {
    errno(&why.into())
}

/// Name of a calling thread, as the kernel has it; empty when it cannot be asked.
fn program(pid: u32) -> Program {
    let name = match pid {
        0 => Vec::new(),
        pid => std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default(),
    };
    Program::new(name.strip_suffix(b"\n").unwrap_or(&name))
}

fn cause_of(who: &Use) -> Cause {
    Cause { program: who.program.clone(), user: who.uid }
}

/// Whether a calling thread has ended. One that cannot be asked about has not.
fn is_gone(pid: u32) -> bool {
    if pid == 0 {
        return false;
    }
    // Of the thread alone: the kernel sums up all threads of a process for the file above `task`, and a process may have thousands that wait.
    match std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| matches!(rest.trim_start().as_bytes(), [b'Z' | b'X', ..])),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Whether nobody waits for a read any more. What the kernel reads ahead is not interrupted when its reader dies, and whoever opens the
/// file next waits for these pages.
fn nobody_waits(interrupt: &Interrupt, pid: u32) -> impl Fn() -> bool + '_ {
    let looked = std::cell::Cell::new(Instant::now());
    move || {
        if interrupt.is_raised() {
            return true;
        }
        if looked.get().elapsed() < GONE_LOOK {
            return false;
        }
        looked.set(Instant::now());
        is_gone(pid)
    }
}

fn read_whole(file: BorrowedFd<'_>, offset: u64, out: &mut [u8]) -> Result<usize> {
    let file = std::fs::File::from(file.try_clone_to_owned().map_err(|error| errno::of(&error))?);
    let mut done = 0;
    while done < out.len() {
        match file.read_at(&mut out[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => (),
            Err(error) => return Err(errno::of(&error)),
        }
    }
    Ok(done)
}

impl Inner {
    fn ident(&self, file: BorrowedFd<'_>) -> Result<FileIdent> {
        let (ino, generation) = self.tree.inode_of(file)?;
        Ok(FileIdent { ino, generation })
    }

    fn who(&self, pledge: &Pledge, caller: &Caller) -> Use {
        Use { node: Some(pledge.node), program: program(caller.pid), uid: caller.uid, pid: caller.pid }
    }

    /// What may be done for a reader without waiting: bytes, or that it must wait for a placeholder (`Err(Some(pledge))`).
    fn read_here(
        &self,
        file: BorrowedFd<'_>,
        held: Option<&Held>,
        offset: u64,
        out: &mut [u8],
    ) -> std::result::Result<usize, Here> {
        if let Some(held) = held {
            return match Self::read_held(held, offset, out).map_err(|why| Here::Failed(told(why)))? {
                Some(count) => Ok(count),
                None => Err(Here::Absent(held.pledge)),
            };
        }
        match self.marked(file).map_err(|why| Here::Failed(told(why)))? {
            // It is open, so it cannot be given up between this look and the read.
            Marked::No => read_whole(file, offset, out).map_err(Here::Failed),
            Marked::Ours(pledge) if offset >= pledge.size => Ok(0),
            Marked::Ours(pledge) => Err(Here::Absent(pledge)),
            Marked::Copy(_) | Marked::Damaged => Err(Here::Failed(Errno::IO)),
        }
    }

    /// Waits until nobody is about to make a file resident; with `now`, `EAGAIN` instead.
    fn let_settle(&self, file: BorrowedFd<'_>, now: bool) -> Result<()> {
        if let Some(state) = self.files.find(self.ident(file)?) {
            match now {
                true => drop(state.try_lock().ok_or(Errno::AGAIN)?),
                false => drop(state.lock()),
            }
        }
        Ok(())
    }

    fn make_empty(&self, file: OwnedFd, ident: FileIdent) -> Result<Opened> {
        let state = self.files.get(ident);
        let mut held = state.lock();
        match self.marked(&file).map_err(told)? {
            Marked::No => polder_replica::cut(&file).map_err(|error| io(&error))?,
            Marked::Ours(pledge) => {
                *held = None;
                let empty = || Ok(polder_replica::empty(&self.root, &file, &pledge, &mut |_| true)?);
                self.removals.noting(ident, empty).map_err(|_| Errno::IO)?;
            }
            Marked::Copy(_) | Marked::Damaged => {
                let empty = || Ok(polder_replica::empty_orphan(&file)?);
                self.removals.noting(ident, empty).map_err(|_| Errno::IO)?;
            }
        }
        Ok(Opened::Resident(file))
    }

    fn make_writable(
        &self,
        file: OwnedFd,
        ident: FileIdent,
        caller: &Caller,
        interrupt: &Interrupt,
    ) -> Result<Opened> {
        if let Marked::Ours(pledge) = self.marked(&file).map_err(told)? {
            let cause = cause_of(&self.who(&pledge, caller));
            self.bring_whole(ident, Lane::Access, Keep::Resident, Some(&cause), &|| interrupt.is_raised())
                .map_err(|error| errno(&error))?;
        }
        match self.marked(&file).map_err(told)? {
            Marked::No => Ok(Opened::Resident(file)),
            _ => Err(Errno::IO),
        }
    }

    /// Fetches pieces until the endpoint ends: one of several threads.
    pub(super) fn fetch_pieces(&self) {
        while let Some(fetch) = self.queue.next() {
            let outcome = self.fetch_piece(fetch);
            if let Err(why) = &outcome {
                tracing::warn!(?why, piece = fetch.piece, "a piece of a tiered file did not come");
            }
            let brought = outcome.as_ref().ok().copied().unwrap_or_default();
            self.queue.settle(fetch, &outcome.map(drop), |cause| {
                let Cause { program, user } = cause;
                if brought.bytes > 0 {
                    let who = Use { node: brought.node, program, uid: user, pid: 0 };
                    self.uses.recalled(&who, brought.bytes);
                }
            });
        }
    }

    /// Fetches a piece; asks again for a while when the share cannot be reached. The first failure is never the last: on a slow line a transfer
    /// may be cut off after longer than is waited.
    fn fetch_piece(&self, fetch: Fetch) -> std::result::Result<Brought, Failed> {
        let begin = Instant::now();
        let mut has_failed = false;
        let from = fetch.piece.saturating_mul(PIECE_BYTES);
        loop {
            match self.bring(ident_of(fetch.node), from, from.saturating_add(PIECE_BYTES)) {
                Err(Failed::Share(_)) if self.queue.is_ended() => {
                    break Err(Failed::Share("the endpoint ends".into()));
                }
                Err(Failed::Share(why)) if has_failed && self.patience.is_over(begin.elapsed()) => {
                    self.patience.was_in_vain();
                    break Err(Failed::Share(why));
                }
                Err(Failed::Share(_)) => {
                    has_failed = true;
                    crate::session::wanted();
                    std::thread::sleep(again_after(begin.elapsed()));
                }
                Ok(brought) => {
                    if brought.bytes > 0 {
                        self.patience.came();
                    }
                    break Ok(brought);
                }
                failed => break failed,
            }
        }
    }

    /// Tells of opens, off the gate's threads.
    pub(super) fn tell_of_open(&self, opened: OpenedBy) {
        let node = self.tree.locate(opened.node).ok().and_then(|(_, ino, generation)| {
            let source = self.source().ok()?;
            let reader = source.readers.get().ok()?;
            let reader: &polder_replica::StateReader = reader.borrow();
            reader.by_ident(FileIdent { ino, generation }).ok().flatten()
        });
        let who = Use { node, program: program(opened.pid), uid: opened.uid, pid: opened.pid };
        self.uses.opened(&who, &opened.what);
    }
}

enum Here {
    Absent(Pledge),
    Failed(Errno),
}

/// The port, over the tiered files of an endpoint.
pub(super) struct Port(pub Arc<Inner>);

impl Port {
    /// Bytes of a placeholder were served.
    fn told_of_read(&self, held: Option<&mut Held>, offset: u64, count: usize) {
        let bytes = held.map_or(0, |held| held.passed(offset, count as u64));
        if bytes > 0 {
            self.0.uses.read(bytes);
        }
    }
}

impl Content for Port {
    fn open(
        &self,
        node: Node,
        access: Access,
        caller: &Caller,
        now: bool,
        interrupt: &Interrupt,
    ) -> Result<Opened> {
        let inner = &self.0;
        let append = matches!(access, Access::Write { append: true });
        let file = inner.tree.open_file(node, access != Access::Read, append, now)?;
        // Only now is the mark looked at: from the moment it is open nobody can give it up.
        let marked = inner.marked(&file).map_err(told)?;
        if marked == Marked::No && access != Access::Read {
            // Whoever makes it resident notes how it looks before anybody may write: else an edit would be taken for what was recalled.
            inner.let_settle(file.as_fd(), now)?;
        }
        match marked {
            Marked::No if access == Access::Empty => {
                polder_replica::cut(&file).map_err(|error| io(&error))?;
                Ok(Opened::Resident(file))
            }
            Marked::No => Ok(Opened::Resident(file)),
            _ if access == Access::Empty => {
                let ident = inner.ident(file.as_fd())?;
                inner.make_empty(file, ident)
            }
            Marked::Copy(_) | Marked::Damaged => Err(Errno::IO),
            Marked::Ours(_) if access == Access::Read => Ok(Opened::Tiered(file)),
            Marked::Ours(_) if now => Err(Errno::AGAIN),
            Marked::Ours(_) => {
                let ident = inner.ident(file.as_fd())?;
                inner.make_writable(file, ident, caller, interrupt)
            }
        }
    }

    fn read_now(&self, _: Node, file: BorrowedFd<'_>, offset: u64, out: &mut [u8]) -> Result<usize> {
        let inner = &self.0;
        let state = inner.files.get(inner.ident(file)?);
        // Whoever fills or settles it has it for as long as the disk takes.
        let mut held = state.try_lock().ok_or(Errno::AGAIN)?;
        match inner.read_here(file, held.as_ref(), offset, out) {
            Ok(count) => {
                self.told_of_read(held.as_mut(), offset, count);
                Ok(count)
            }
            Err(Here::Absent(_)) => Err(Errno::AGAIN),
            Err(Here::Failed(errno)) => Err(errno),
        }
    }

    fn read(
        &self,
        _: Node,
        file: BorrowedFd<'_>,
        offset: u64,
        out: &mut [u8],
        caller: &Caller,
        interrupt: &Interrupt,
    ) -> Result<usize> {
        let inner = &self.0;
        let ident = inner.ident(file)?;
        let state: Arc<FileState> = inner.files.get(ident);
        let begin = Instant::now();
        let wait = inner.wait();
        let mut allowed = None;
        loop {
            let here = {
                let mut held = state.lock();
                let here = inner.read_here(file, held.as_ref(), offset, out);
                if let Ok(count) = here {
                    self.told_of_read(held.as_mut(), offset, count);
                }
                here
            };
            let pledge = match here {
                Ok(count) => return Ok(count),
                Err(Here::Failed(errno)) => return Err(errno),
                Err(Here::Absent(pledge)) => pledge,
            };
            let len = (out.len() as u64).min(pledge.size.saturating_sub(offset)).max(1);
            let (who, allowance) = allowed.get_or_insert_with(|| {
                let who = inner.who(&pledge, caller);
                let allowance = inner.uses.may_recall(&who, len);
                (who, allowance)
            });
            match allowance {
                Allowance::Refuse => return Err(Errno::ACCESS),
                Allowance::Serve => match inner.read_through(ident, offset, out) {
                    Ok(Some(count)) => {
                        inner.patience.came();
                        inner.uses.recalled(who, count as u64);
                        return Ok(count);
                    }
                    Ok(None) => continue,
                    Err(Failed::Share(_)) if !inner.patience.is_over(begin.elapsed()) => {
                        if interrupt.is_raised() {
                            return Err(Errno::INTR);
                        }
                        crate::session::wanted();
                        std::thread::sleep(again_after(begin.elapsed()));
                        continue;
                    }
                    Err(why) => {
                        if matches!(why, Failed::Share(_)) {
                            inner.patience.was_in_vain();
                        }
                        return Err(told(why));
                    }
                },
                Allowance::Recall => state.wants_whole.store(true, Ordering::Release),
            }
            let stream = u64::from(caller.pid) % STREAMS;
            let is_over = nobody_waits(interrupt, caller.pid);
            let cause = Some(cause_of(who));
            match inner.wait_for(ident, Lane::Access, stream, (offset, len), cause, &is_over) {
                Ok(()) => (),
                // Bytes that cannot be kept can still be given.
                Err(TieredError::NoSpace) => {
                    if let Some(count) = inner.read_through(ident, offset, out).map_err(told)? {
                        inner.uses.recalled(who, count as u64);
                        return Ok(count);
                    }
                }
                Err(error) => return Err(errno(&error)),
            }
            if wait.is_over() {
                return Err(Errno::IO);
            }
        }
    }

    fn residency(&self, node: Node) -> Result<ports::Residency> {
        let (_, ino, generation) = self.0.tree.locate(node)?;
        Ok(match self.0.residency_of(FileIdent { ino, generation }).map_err(told)? {
            Residency::Resident => ports::Residency::Resident,
            Residency::Tiered { present_bytes } => ports::Residency::Tiered { present_bytes },
            Residency::Orphaned => ports::Residency::Orphaned,
        })
    }

    fn is_samba(&self, caller: &Caller) -> bool {
        program(caller.pid).as_bytes().starts_with(SAMBA)
    }

    fn is_at_rest(&self, node: Node) -> bool {
        self.0.tree.is_at_rest(node)
    }

    fn opened(&self, node: Node, caller: &Caller, for_writing: bool) {
        let Ok(attributes) = self.0.tree.attributes(node) else { return };
        let is_resident = attributes.residency == ports::Residency::Resident;
        let what = super::Opened { for_writing, is_resident, size: attributes.size };
        let opened = OpenedBy { node, pid: caller.pid, uid: caller.uid, what };
        // When there are more than can be told of, some do not count.
        let _ = self.0.opened.try_send(opened);
    }

    fn released(&self, node: Node, _: bool) {
        let Ok((_, ino, generation)) = self.0.tree.locate(node) else { return };
        let ident = FileIdent { ino, generation };
        if self.0.files.find(ident).is_some() {
            self.0.queue.closed(key_of(ident), 0..STREAMS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_asked_again_soon_at_first() {
        let after = |millis| again_after(Duration::from_millis(millis));
        assert_eq!(
            (after(0), after(40), after(60_000)),
            (AGAIN_AFTER_MIN, Duration::from_millis(10), AGAIN_AFTER_MAX)
        );
    }

    #[test]
    fn a_reader_that_has_ended_is_gone() {
        assert!(!is_gone(0) && !is_gone(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        // Dead and not yet collected.
        while !is_gone(child.id()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(is_gone(child.id()));
        let _ = child.wait();
        assert!(is_gone(child.id()));
    }
}
