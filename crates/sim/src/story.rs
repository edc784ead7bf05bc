//! A run as a story: what happened that could have been otherwise, one line each. A line can be read back, so that a
//! shortened story can be told again.

use std::fmt;

use crate::service::store::Damage;
use crate::tiers::Wish;
use crate::users::Act;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When, in milliseconds; 0 where the deed says itself at which message or apply it happens.
    pub at_ms: u64,
    /// To which server.
    pub host: usize,
    /// What.
    pub deed: Deed,
}

/// What happens to a server, or to the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// A user does something.
    User(Act),
    /// Something is wished of a tiered file.
    Wish(Wish),
    /// The agent is killed in its nth change of a file's presence after so many calls; with a number, the machine loses power.
    CutOff(u64, usize, Option<u64>),
    /// The agent is killed.
    Kill,
    /// The machine loses power; the number draws what is left.
    Power(u64),
    /// The agent is killed in its nth apply after so many steps; with a number, the machine loses power.
    CrashIn(u64, usize, Option<u64>),
    /// The nth message to the service is lost with its connection; or its answer is.
    Lose(u64, bool),
    /// The nth message arrives once more after so many milliseconds.
    Repeat(u64, u64),
    /// Somebody writes to what a step of the nth apply is about, between check and act.
    Race(u64, usize),
    /// The volume is not where it was.
    Unmount,
    /// It is there again.
    Mount,
    /// The wall clock jumps by so many milliseconds.
    Jump(i64),
    /// Files may have so many bytes more than they have; nothing: the disk is as large as ever.
    Room(Option<u64>),
    /// The nth pack of the agent is stored like this.
    Bad(u64, Damage),
    /// A copy of the whole machine is kept.
    Checkpoint,
    /// The machine is set back to it.
    Revert,
    /// A copy of the machine starts beside it.
    Clone,
    /// The state database is deleted while the agent is down.
    Forget,
    /// The service is restarted.
    Restart,
    /// The service's rows are backed up.
    Backup,
    /// The service's rows are set back to the backup.
    SetBack,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s{} {}", self.at_ms, self.host, self.deed)
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(act) => act.fmt(f),
            Self::Wish(wish) => wish.fmt(f),
            Self::CutOff(nth, calls, None) => write!(f, "cut-off {nth} {calls}"),
            Self::CutOff(nth, calls, Some(seed)) => write!(f, "cut-off {nth} {calls} {seed}"),
            Self::Kill => f.write_str("kill"),
            Self::Power(seed) => write!(f, "power {seed}"),
            Self::CrashIn(apply, step, None) => write!(f, "crash-in {apply} {step}"),
            Self::CrashIn(apply, step, Some(seed)) => write!(f, "crash-in {apply} {step} {seed}"),
            Self::Lose(nth, false) => write!(f, "lose {nth}"),
            Self::Lose(nth, true) => write!(f, "lose-answer {nth}"),
            Self::Repeat(nth, ms) => write!(f, "repeat {nth} {ms}"),
            Self::Race(apply, step) => write!(f, "race {apply} {step}"),
            Self::Unmount => f.write_str("unmount"),
            Self::Mount => f.write_str("mount"),
            Self::Jump(ms) => write!(f, "jump {ms}"),
            Self::Room(None) => f.write_str("room"),
            Self::Room(Some(bytes)) => write!(f, "room {bytes}"),
            Self::Bad(nth, damage) => write!(f, "bad {nth} {}", damage_word(*damage)),
            Self::Checkpoint => f.write_str("checkpoint"),
            Self::Revert => f.write_str("revert"),
            Self::Clone => f.write_str("clone"),
            Self::Forget => f.write_str("forget"),
            Self::Restart => f.write_str("restart"),
            Self::Backup => f.write_str("backup"),
            Self::SetBack => f.write_str("set-back"),
        }
    }
}

fn damage_word(damage: Damage) -> &'static str {
    match damage {
        Damage::Lost => "lost",
        Damage::Torn => "torn",
        Damage::Flipped => "flipped",
    }
}

/// Reads a story, one line a deed; empty lines are passed over.
///
/// # Panics
/// On what no story says: stories are written by programs and kept in tests.
pub fn read(text: &str) -> Vec<Line> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| read_line(line).unwrap_or_else(|| panic!("no line of a story: {line}"))).collect()
}

fn read_line(text: &str) -> Option<Line> {
    let mut words = text.split_whitespace();
    let at_ms = words.next()?.parse().ok()?;
    let host = words.next()?.strip_prefix('s')?.parse().ok()?;
    let words: Vec<&str> = words.collect();
    Some(Line { at_ms, host, deed: read_deed(&words)? })
}

fn read_deed(words: &[&str]) -> Option<Deed> {
    let number = |nth: usize| words.get(nth)?.parse::<u64>().ok();
    Some(match *words.first()? {
        "kill" => Deed::Kill,
        "power" => Deed::Power(number(1)?),
        "crash-in" => Deed::CrashIn(number(1)?, number(2)? as usize, number(3)),
        "lose" => Deed::Lose(number(1)?, false),
        "lose-answer" => Deed::Lose(number(1)?, true),
        "repeat" => Deed::Repeat(number(1)?, number(2)?),
        "race" => Deed::Race(number(1)?, number(2)? as usize),
        "unmount" => Deed::Unmount,
        "mount" => Deed::Mount,
        "jump" => Deed::Jump(words.get(1)?.parse().ok()?),
        "room" => Deed::Room(number(1)),
        "bad" => Deed::Bad(
            number(1)?,
            match *words.get(2)? {
                "lost" => Damage::Lost,
                "torn" => Damage::Torn,
                "flipped" => Damage::Flipped,
                _ => return None,
            },
        ),
        "checkpoint" => Deed::Checkpoint,
        "revert" => Deed::Revert,
        "clone" => Deed::Clone,
        "forget" => Deed::Forget,
        "restart" => Deed::Restart,
        "backup" => Deed::Backup,
        "set-back" => Deed::SetBack,
        "cut-off" => Deed::CutOff(number(1)?, number(2)? as usize, number(3)),
        _ => match Wish::read(words) {
            Some(wish) => Deed::Wish(wish),
            None => Deed::User(Act::read(words)?),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_survives_its_words() {
        let text = "12 s0 create a/b\n0 s1 crash-in 3 2 99\n0 s1 crash-in 3 2\n5 s2 rename a/b c\n6 s0 room\n\
                    7 s0 room 500\n0 s0 bad 3 torn\n8 s1 jump -5000\n9 s1 mode / 448\n10 s1 open a 4\n11 s1 put 4\n\
                    0 s0 cut-off 3 2 99\n12 s0 read a/b 3 700\n13 s0 tier a\n14 s0 cut a\n15 s1 recall a";
        let told: Vec<String> = read(text).iter().map(ToString::to_string).collect();
        assert_eq!(told, text.lines().map(str::trim).collect::<Vec<_>>());
    }
}
