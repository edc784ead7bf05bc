//! What a program may do to heat, and what it may recall.
//!
//! A program is known by its name, which the kernel cuts to 15 bytes and which anybody may choose. So a name never gives a
//! right to bytes: it only decides what a read costs the disk and the line.

use std::collections::BTreeMap;

/// `TASK_COMM_LEN` less the final NUL.
const NAME_BYTES_MAX: usize = 15;
/// Seconds of a budget's window.
const WINDOW_S: i64 = 3600;
/// Most users and programs whose windows are kept; beyond it the oldest window goes.
const WINDOWS_MAX: usize = 4096;

/// Name of a program as the kernel tells it, cut to its length.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Program(Vec<u8>);

impl Program {
    /// A name, cut as the kernel does.
    pub fn new(name: &[u8]) -> Self {
        Self(name[..name.len().min(NAME_BYTES_MAX)].to_vec())
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What a program's read of a tiered file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Allowance {
    /// Bytes are fetched and stay.
    Recall,
    /// Bytes are fetched and not kept.
    Serve,
    /// The read is an error.
    Refuse,
}

/// A program's rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// What its reads do.
    pub allowance: Allowance,
    /// Most bytes fetched for it, an hour and user.
    pub bytes_per_hour: u64,
    /// Whether its uses warm a file.
    pub counts: bool,
}

/// What to do with one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What the read does.
    pub allowance: Allowance,
    /// The budget was exceeded just now: to be told once.
    pub alert: bool,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    since_s: i64,
    bytes: u64,
    told: bool,
}

/// Rules by program, and what each has used in this hour.
#[derive(Debug, Clone)]
pub struct Programs {
    rules: BTreeMap<Program, Budget>,
    others: Budget,
    windows: BTreeMap<(Program, u32), Window>,
}

/// Indexers look into everything once and would bring all of it back: refused. They come back when a file is here.
const INDEXERS: [&str; 7] = [
    "tracker-miner-fs-3",
    "tracker-extract-3",
    "baloo_file",
    "baloo_file_extractor",
    "updatedb",
    "plocate",
    "recollindex",
];
/// Scanners and backup programs must see bytes, but nobody will use these files afterwards.
const PASSERS: [&str; 16] = [
    "clamscan",
    "clamdscan",
    "clamd",
    "freshclam",
    "mdatp",
    "wdavdaemon",
    "restic",
    "borg",
    "rustic",
    "kopia",
    "duplicity",
    "bacula-fd",
    "bareos-fd",
    "rsnapshot",
    "veeamagent",
    "dsmc",
];

impl Default for Programs {
    fn default() -> Self {
        let none = Budget { allowance: Allowance::Recall, bytes_per_hour: u64::MAX, counts: true };
        let mut programs = Self { rules: BTreeMap::new(), others: none, windows: BTreeMap::new() };
        for name in INDEXERS {
            programs.set(
                name.as_bytes(),
                Budget { allowance: Allowance::Refuse, bytes_per_hour: 0, counts: false },
            );
        }
        for name in PASSERS {
            let budget = Budget { allowance: Allowance::Serve, bytes_per_hour: 64 << 30, counts: false };
            programs.set(name.as_bytes(), budget);
        }
        programs
    }
}

impl Programs {
    /// Sets a program's rule in place of the default.
    pub fn set(&mut self, name: &[u8], budget: Budget) {
        self.rules.insert(Program::new(name), budget);
    }

    /// Sets the rule of programs that are not named.
    pub fn set_others(&mut self, budget: Budget) {
        self.others = budget;
    }

    fn rule(&self, program: &Program) -> Budget {
        self.rules.get(program).copied().unwrap_or(self.others)
    }

    /// Whether uses by this program warm a file.
    pub fn counts(&self, program: &Program) -> bool {
        self.rule(program).counts
    }

    /// What a read does that has to fetch `bytes`. In low disk mode nothing is kept.
    pub fn ask(&mut self, program: &Program, user: u32, bytes: u64, is_low: bool, now_s: i64) -> Verdict {
        let rule = self.rule(program);
        let refused = Verdict { allowance: Allowance::Refuse, alert: false };
        if rule.allowance == Allowance::Refuse {
            return refused;
        }
        let allowance = if is_low { Allowance::Serve } else { rule.allowance };
        if rule.bytes_per_hour == u64::MAX {
            return Verdict { allowance, alert: false };
        }
        let key = (program.clone(), user);
        if !self.windows.contains_key(&key) {
            self.make_room();
        }
        let window = self.windows.entry(key).or_insert(Window { since_s: now_s, bytes: 0, told: false });
        if now_s.abs_diff(window.since_s) >= WINDOW_S.unsigned_abs() {
            *window = Window { since_s: now_s, bytes: 0, told: false };
        }
        if window.bytes.saturating_add(bytes) > rule.bytes_per_hour {
            return Verdict { alert: !std::mem::replace(&mut window.told, true), ..refused };
        }
        window.bytes += bytes;
        Verdict { allowance, alert: false }
    }

    fn make_room(&mut self) {
        while self.windows.len() >= WINDOWS_MAX {
            let oldest =
                self.windows.iter().min_by_key(|(_, window)| window.since_s).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.windows.remove(&key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_programs_keep_nothing_and_warm_nothing() {
        let mut programs = Programs::default();
        for (name, allowance, counts) in [
            ("clamscan", Allowance::Serve, false),
            ("restic", Allowance::Serve, false),
            // The kernel's 15 bytes of "tracker-miner-fs-3" and "baloo_file_extractor".
            ("tracker-miner-f", Allowance::Refuse, false),
            ("baloo_file_extr", Allowance::Refuse, false),
            ("cat", Allowance::Recall, true),
        ] {
            let program = Program::new(name.as_bytes());
            assert_eq!(programs.ask(&program, 0, 4096, false, 0).allowance, allowance, "{name}");
            assert_eq!(programs.counts(&program), counts, "{name}");
        }
        assert_eq!(
            programs.ask(&Program::new(b"cat"), 0, 1, true, 0).allowance,
            Allowance::Serve,
            "low disk"
        );
    }

    #[test]
    fn a_budget_is_per_user_and_hour_and_tells_once() {
        let mut programs = Programs::default();
        programs.set(b"scan", Budget { allowance: Allowance::Recall, bytes_per_hour: 100, counts: true });
        let scan = Program::new(b"scan");
        let mut ask = |user, bytes, now| programs.ask(&scan, user, bytes, false, now);
        let kept = Verdict { allowance: Allowance::Recall, alert: false };
        assert_eq!(ask(1, 100, 0), kept);
        assert_eq!(ask(1, 1, 1), Verdict { allowance: Allowance::Refuse, alert: true });
        assert_eq!(ask(1, 1, 2), Verdict { allowance: Allowance::Refuse, alert: false });
        assert_eq!(ask(2, 100, 2), kept, "another user");
        assert_eq!(ask(1, 100, 3600), kept, "another hour");
    }

    #[test]
    fn windows_are_bounded() {
        let mut programs = Programs::default();
        programs.set_others(Budget { allowance: Allowance::Recall, bytes_per_hour: 10, counts: true });
        for user in 0..WINDOWS_MAX as u32 + 100 {
            programs.ask(&Program::new(b"x"), user, 1, false, user.into());
        }
        assert_eq!(programs.windows.len(), WINDOWS_MAX);
    }
}
