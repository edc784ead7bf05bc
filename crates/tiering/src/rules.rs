//! Rules of an endpoint about single files, before all policies: the first that matches decides.

use crate::glob::Glob;
use crate::heat::Heat;

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleAction {
    /// The file stays on the disk.
    Keep,
    /// The file leaves once nobody has used it for so many seconds.
    Tier {
        /// Seconds without a use.
        idle_s: u64,
    },
}

/// One rule. All of its conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Which paths; all if absent.
    pub glob: Option<Glob>,
    /// From this size on.
    pub size_bytes_min: u64,
    /// Up to and with this size.
    pub size_bytes_max: u64,
    /// Only files that nobody has used for so many seconds.
    pub idle_s_min: u64,
    /// What follows.
    pub action: RuleAction,
}

/// Rules in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(pub Vec<Rule>);

impl Rules {
    /// What is said about a file, if anything.
    pub fn of(&self, path: &[u8], size: u64, heat: Heat, now_s: i64) -> Option<RuleAction> {
        let fits = |rule: &&Rule| {
            (rule.size_bytes_min..=rule.size_bytes_max).contains(&size)
                && heat.idle_s(now_s) >= rule.idle_s_min
                && rule.glob.as_ref().is_none_or(|glob| glob.matches(path))
        };
        self.0.iter().find(fits).map(|rule| rule.action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rule = |glob: &str, size_bytes_min, idle_s_min, action| Rule {
            glob: Some(Glob::parse(glob.as_bytes()).unwrap()),
            size_bytes_min,
            size_bytes_max: u64::MAX,
            idle_s_min,
            action,
        };
        let soon = RuleAction::Tier { idle_s: 10 };
        let rules = Rules(vec![rule("*.db", 0, 0, RuleAction::Keep), rule("media/**", 100, 50, soon)]);
        let heat = Heat::of_times(1000, 1000, 2000);
        assert_eq!(rules.of(b"media/x.db", 500, heat, 2000), Some(RuleAction::Keep));
        assert_eq!(rules.of(b"media/x.mp4", 500, heat, 2000), Some(soon));
        assert_eq!(rules.of(b"media/x.mp4", 99, heat, 2000), None, "too small for the rule");
        assert_eq!(rules.of(b"media/x.mp4", 500, heat, 1049), None, "used too lately");
    }
}
