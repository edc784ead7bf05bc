//! What is known of the uses of an endpoint's files: who opened and recalled what, and what is to be noted of it.
//!
//! The gate's threads write here and wait for nothing but this lock. Everything is bounded; what exceeds a bound is forgotten, which costs
//! the order of tiering or a line of history, never a byte. Heat is drained by [`Book::take_uses`] into the state database.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Mutex;

use polder_tiering::{Allowance, Program, Programs};
use polder_types::NodeUid;

use super::clock::{Clock, Moment, SystemClock};
use crate::tiered::{Opened, Use, Uses};

/// Most nodes whose use waits to be noted.
const USES_MAX: usize = 65_536;
/// Most files whose last recall is remembered.
const LAST_MAX: usize = 4096;
/// Most programs that are counted by name; the rest is one.
const PROGRAMS_MAX: usize = 64;
/// Most recalls that wait to be logged one by one.
const LOG_MAX: usize = 256;
/// Most alerts that are shown.
const ALERTS_MAX: usize = 16;
/// How long an exceeded budget is shown.
const ALERT_S: i64 = 3600;

const LOCK: &str = "no holder of this lock panics";

/// What a program has recalled since the agent started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ProgramCount {
    /// Reads that had to wait for the share.
    pub reads: u64,
    /// Bytes that were fetched for it.
    pub bytes: u64,
    /// Reads that were refused.
    pub refused: u64,
}

/// Counts since the agent started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Opens of files that were whole, and of all.
    pub opens: (u64, u64),
    /// Bytes that were here, and all: of a whole file its size at each open (the kernel tells no more), of others what was read.
    pub bytes: (u64, u64),
    /// By program.
    pub programs: BTreeMap<Program, ProgramCount>,
}

/// The last recall of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LastRecall {
    /// Who.
    pub program: Program,
    /// Which user.
    pub user: u32,
    /// When, in seconds since 1970.
    pub at_s: i64,
    /// Bytes, since the program began with it.
    pub bytes: u64,
}

/// A budget that was exceeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alert {
    /// Whose.
    pub program: Program,
    /// Which user's.
    pub user: u32,
    /// When, in seconds since 1970.
    pub at_s: i64,
}

#[derive(Debug, Default)]
struct Inner {
    programs: Programs,
    is_low: bool,
    uses: HashMap<NodeUid, u32>,
    counted: Counted,
    last: HashMap<NodeUid, LastRecall>,
    /// In the order in which they were first recalled: the oldest is forgotten first.
    last_order: VecDeque<NodeUid>,
    log: BTreeMap<(Option<NodeUid>, Program, u32), u64>,
    unlogged: u64,
    alerts: VecDeque<Alert>,
}

/// Node, program, user and bytes of recalls that are told in one line.
pub(crate) type LoggedRecall = (Option<NodeUid>, Program, u32, u64);

/// The book of one endpoint. Outlives the lives of the endpoint.
pub(crate) struct Book {
    inner: Mutex<Inner>,
    clock: Box<dyn Clock>,
}

impl std::fmt::Debug for Book {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Book").finish_non_exhaustive()
    }
}

impl Default for Book {
    fn default() -> Self {
        Self::new(Box::new(SystemClock::new()))
    }
}

impl Book {
    /// An empty one.
    pub(crate) fn new(clock: Box<dyn Clock>) -> Self {
        Self { inner: Mutex::default(), clock }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner, Moment) -> T) -> T {
        let now = self.clock.now();
        work(&mut self.inner.lock().expect(LOCK), now)
    }

    /// Rules of programs from now on. What each has used of its budget begins anew.
    pub(crate) fn set_programs(&self, programs: Programs) {
        self.with(|inner, _| inner.programs = programs);
    }

    /// Whether the volume is in low disk mode, in which nothing that is read is kept.
    pub(crate) fn set_low(&self, is_low: bool) {
        self.with(|inner, _| inner.is_low = is_low);
    }

    /// Uses that are to be noted: each node once, with the second of its last use.
    pub(crate) fn take_uses(&self) -> Vec<(NodeUid, u32)> {
        let mut uses: Vec<_> = self.with(|inner, _| std::mem::take(&mut inner.uses)).into_iter().collect();
        // In the order of the table: neighbours share pages.
        uses.sort_unstable();
        uses
    }

    /// Recalls since the last call: node, program, user and bytes of each, and the bytes of those that were too many to be told.
    pub(crate) fn take_log(&self) -> (Vec<LoggedRecall>, u64) {
        let (log, unlogged) =
            self.with(|inner, _| (std::mem::take(&mut inner.log), std::mem::take(&mut inner.unlogged)));
        let lines = log.into_iter().map(|((node, program, user), bytes)| (node, program, user, bytes));
        (lines.collect(), unlogged)
    }

    /// Counts since the agent started.
    pub(crate) fn counted(&self) -> Counted {
        self.with(|inner, _| inner.counted.clone())
    }

    /// Who recalled a file last, as far as that is remembered.
    pub(crate) fn last_recall(&self, node: NodeUid) -> Option<LastRecall> {
        self.with(|inner, _| inner.last.get(&node).cloned())
    }

    /// Budgets that were exceeded within the hour.
    pub(crate) fn alerts(&self) -> Vec<Alert> {
        self.with(|inner, now| {
            inner.alerts.retain(|alert| now.unix_s.abs_diff(alert.at_s) < ALERT_S.unsigned_abs());
            inner.alerts.iter().cloned().collect()
        })
    }
}

impl Inner {
    fn count(&mut self, program: &Program) -> &mut ProgramCount {
        let known = self.counted.programs.contains_key(program);
        let key = match known || self.counted.programs.len() < PROGRAMS_MAX {
            true => program.clone(),
            false => Program::new(b"(others)"),
        };
        self.counted.programs.entry(key).or_default()
    }

    fn remember(&mut self, node: NodeUid, who: &Use, bytes: u64, at_s: i64) {
        match self.last.get_mut(&node) {
            Some(last) if last.program == who.program && last.user == who.uid => {
                (last.at_s, last.bytes) = (at_s, last.bytes.saturating_add(bytes));
                return;
            }
            Some(_) => (),
            None => {
                if self.last.len() >= LAST_MAX
                    && let Some(oldest) = self.last_order.pop_front()
                {
                    self.last.remove(&oldest);
                }
                self.last_order.push_back(node);
            }
        }
        self.last.insert(node, LastRecall { program: who.program.clone(), user: who.uid, at_s, bytes });
    }
}

impl Uses for Book {
    fn opened(&self, who: &Use, what: &Opened) {
        self.with(|inner, now| {
            if let Some(node) = who.node
                && inner.programs.counts(&who.program)
                && (inner.uses.len() < USES_MAX || inner.uses.contains_key(&node))
            {
                inner.uses.insert(node, u32::try_from(now.unix_s.max(0)).unwrap_or(u32::MAX));
            }
            if what.size == 0 {
                return;
            }
            let (here, all) = &mut inner.counted.opens;
            (*here, *all) = (*here + u64::from(what.is_resident), *all + 1);
            if what.is_resident {
                let (here, all) = &mut inner.counted.bytes;
                (*here, *all) = (here.saturating_add(what.size), all.saturating_add(what.size));
            }
        });
    }

    fn may_recall(&self, who: &Use, bytes: u64) -> Allowance {
        let verdict = self.with(|inner, now| {
            let verdict = inner.programs.ask(&who.program, who.uid, bytes, inner.is_low, now.unix_s);
            let count = inner.count(&who.program);
            match verdict.allowance {
                Allowance::Refuse => count.refused += 1,
                Allowance::Recall | Allowance::Serve => count.reads += 1,
            }
            if verdict.alert {
                if inner.alerts.len() >= ALERTS_MAX {
                    inner.alerts.pop_front();
                }
                inner.alerts.push_back(Alert {
                    program: who.program.clone(),
                    user: who.uid,
                    at_s: now.unix_s,
                });
            }
            verdict
        });
        if verdict.alert {
            let program = String::from_utf8_lossy(who.program.as_bytes()).into_owned();
            tracing::warn!(program, user = who.uid, "a program exceeds its budget of recalls and is refused");
        }
        verdict.allowance
    }

    fn recalled(&self, who: &Use, bytes: u64) {
        self.with(|inner, now| {
            let count = inner.count(&who.program);
            count.bytes = count.bytes.saturating_add(bytes);
            inner.counted.bytes.1 = inner.counted.bytes.1.saturating_add(bytes);
            if let Some(node) = who.node {
                inner.remember(node, who, bytes, now.unix_s);
            }
            let key = (who.node, who.program.clone(), who.uid);
            if inner.log.len() < LOG_MAX || inner.log.contains_key(&key) {
                *inner.log.entry(key).or_default() += bytes;
            } else {
                inner.unlogged = inner.unlogged.saturating_add(bytes);
            }
        });
    }

    fn read(&self, bytes: u64) {
        self.with(|inner, _| {
            let (here, all) = &mut inner.counted.bytes;
            (*here, *all) = (here.saturating_add(bytes), all.saturating_add(bytes));
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use polder_tiering::Budget;

    use super::*;

    struct Hand(Arc<AtomicI64>);

    impl Clock for Hand {
        fn now(&self) -> Moment {
            Moment { unix_s: self.0.load(Ordering::Relaxed), mono_ms: 0 }
        }
    }

    fn book() -> (Book, Arc<AtomicI64>) {
        let hand = Arc::new(AtomicI64::new(1_700_000_000));
        (Book::new(Box::new(Hand(Arc::clone(&hand)))), hand)
    }

    fn by(program: &str, node: u8) -> Use {
        let node = (node > 0).then_some(NodeUid([node; 16]));
        Use { node, program: Program::new(program.as_bytes()), uid: 1000, pid: 1 }
    }

    const WHOLE: Opened = Opened { for_writing: false, is_resident: true, size: 100 };
    const TIERED: Opened = Opened { is_resident: false, ..WHOLE };

    #[test]
    fn opens_are_uses_unless_the_program_does_not_count() {
        let (book, hand) = book();
        book.opened(&by("cat", 2), &WHOLE);
        book.opened(&by("clamscan", 3), &WHOLE);
        book.opened(&by("cat", 0), &WHOLE);
        hand.fetch_add(7, Ordering::Relaxed);
        book.opened(&by("cat", 1), &TIERED);
        book.opened(&by("vi", 2), &WHOLE);
        let at = 1_700_000_007;
        assert_eq!(book.take_uses(), [(NodeUid([1; 16]), at), (NodeUid([2; 16]), at)]);
        assert_eq!(book.take_uses(), []);
        assert_eq!(book.counted().opens, (4, 5), "a scanner's opens are opens, too");
    }

    #[test]
    fn hits_are_bytes_that_were_here() {
        let (book, _) = book();
        book.opened(&by("cat", 1), &WHOLE);
        book.opened(&by("cat", 2), &TIERED);
        book.opened(&by("cat", 3), &Opened { size: 0, ..WHOLE });
        book.read(10);
        book.recalled(&by("cat", 2), 90);
        assert_eq!(book.counted().opens, (1, 2), "an empty file is neither");
        assert_eq!(book.counted().bytes, (110, 200));
    }

    #[test]
    fn recalls_are_told_by_program_user_and_file() {
        let (book, hand) = book();
        for _ in 0..3 {
            assert_eq!(book.may_recall(&by("cat", 1), 5), Allowance::Recall);
            book.recalled(&by("cat", 1), 5);
        }
        assert_eq!(book.may_recall(&by("updatedb", 1), 5), Allowance::Refuse);
        let programs = book.counted().programs;
        let cat = ProgramCount { reads: 3, bytes: 15, refused: 0 };
        let updatedb = ProgramCount { refused: 1, ..ProgramCount::default() };
        let wanted = [(Program::new(b"cat"), cat), (Program::new(b"updatedb"), updatedb)];
        assert_eq!(programs.into_iter().collect::<Vec<_>>(), wanted);
        let log = (vec![(Some(NodeUid([1; 16])), Program::new(b"cat"), 1000, 15)], 0);
        assert_eq!(book.take_log(), log, "one line for one file");
        hand.fetch_add(60, Ordering::Relaxed);
        book.recalled(&by("vi", 1), 1);
        let last = book.last_recall(NodeUid([1; 16])).expect("just now");
        assert_eq!(
            (last.program, last.user, last.at_s, last.bytes),
            (Program::new(b"vi"), 1000, 1_700_000_060, 1)
        );
    }

    #[test]
    fn low_disk_mode_keeps_nothing() {
        let (book, _) = book();
        book.set_low(true);
        assert_eq!(book.may_recall(&by("cat", 1), 5), Allowance::Serve);
        book.set_low(false);
        assert_eq!(book.may_recall(&by("cat", 1), 5), Allowance::Recall);
    }

    #[test]
    fn an_exceeded_budget_alerts_for_an_hour() {
        let (book, hand) = book();
        let mut programs = Programs::default();
        programs.set(b"scan", Budget { allowance: Allowance::Serve, bytes_per_hour: 10, counts: false });
        book.set_programs(programs);
        assert_eq!(book.may_recall(&by("scan", 1), 10), Allowance::Serve);
        for _ in 0..3 {
            assert_eq!(book.may_recall(&by("scan", 1), 1), Allowance::Refuse);
        }
        assert_eq!(book.alerts().len(), 1, "told once");
        hand.fetch_add(3600, Ordering::Relaxed);
        assert_eq!(book.alerts(), []);
        assert_eq!(book.may_recall(&by("scan", 1), 10), Allowance::Serve, "another hour");
    }

    #[test]
    fn everything_is_bounded() {
        let (book, _) = book();
        for number in 0..USES_MAX as u64 + 100 {
            let mut who = by(&format!("p{}", number % 500), 1);
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            who.node = Some(NodeUid(id));
            book.opened(&who, &WHOLE);
            book.may_recall(&who, 1);
            book.recalled(&who, 1);
        }
        assert_eq!(book.take_uses().len(), USES_MAX);
        assert!(book.counted().programs.len() <= PROGRAMS_MAX + 1);
        let total: u64 = book.counted().programs.values().map(|count| count.bytes).sum();
        assert_eq!(total, USES_MAX as u64 + 100, "nothing is lost from the sums");
        let (lines, unlogged) = book.take_log();
        assert_eq!((lines.len(), lines.len() as u64 + unlogged), (LOG_MAX, USES_MAX as u64 + 100));
        let inner = book.inner.lock().expect("whole");
        assert_eq!((inner.last.len(), inner.last_order.len()), (LAST_MAX, LAST_MAX));
    }
}
