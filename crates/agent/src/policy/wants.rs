//! What an endpoint's settings want of tiering, in the words of `polder_tiering`.

use polder_api::grpc::convert::{ProgramAction, ProgramRule, TierAction, TierRule, Tiering};
use polder_tiering::{Allowance, Budget, Endpoint, Glob, Programs, Rule, RuleAction, Rules};

/// An endpoint of the volume. `is_uploaded`: everything that was here at the beginning is in the share.
pub(crate) fn endpoint(tiering: &Tiering, is_uploaded: bool) -> Endpoint {
    Endpoint {
        tiering: tiering.enabled,
        free_percent: tiering.free_space_percent.clamp(1, 99),
        idle_s: tiering.older_than_s,
        quota_bytes: tiering.cache_quota_bytes,
        other_bytes: 0,
        file_bytes_min: tiering.file_bytes_min,
        rules: Rules(tiering.rules.iter().filter_map(rule).collect()),
        is_uploaded,
    }
}

fn rule(from: &TierRule) -> Option<Rule> {
    let action = match from.action {
        TierAction::Keep => RuleAction::Keep,
        TierAction::Tier { after_s } => RuleAction::Tier { idle_s: after_s },
    };
    let glob = match (from.glob.as_str(), action) {
        ("", _) => None,
        (text, action) => match (Glob::parse(text.as_bytes()), action) {
            (Ok(glob), _) => Some(glob),
            // The service refuses such patterns. If one comes nevertheless, too much stays rather than too little.
            (Err(_), RuleAction::Keep) => None,
            (Err(_), RuleAction::Tier { .. }) => return None,
        },
    };
    Some(Rule {
        glob,
        size_bytes_min: from.size_bytes_min,
        size_bytes_max: from.size_bytes_max.unwrap_or(u64::MAX),
        idle_s_min: from.unused_s_min,
        action,
    })
}

/// The built-in rules of programs, and the endpoint's in their place.
pub(crate) fn programs(rules: &[ProgramRule]) -> Programs {
    let mut programs = Programs::default();
    for rule in rules {
        let allowance = match rule.action {
            ProgramAction::Recall => Allowance::Recall,
            ProgramAction::Serve => Allowance::Serve,
            ProgramAction::Refuse => Allowance::Refuse,
        };
        let bytes_per_hour = rule.bytes_per_hour.unwrap_or(u64::MAX);
        let budget = Budget { allowance, bytes_per_hour, counts: rule.counts };
        match rule.name.as_str() {
            "*" => programs.set_others(budget),
            name => programs.set(name.as_bytes(), budget),
        }
    }
    programs
}

#[cfg(test)]
mod tests {
    use polder_tiering::{Heat, Program};

    use super::*;

    fn a_rule(action: TierAction, glob: &str) -> TierRule {
        TierRule { action, glob: glob.into(), size_bytes_min: 0, size_bytes_max: None, unused_s_min: 0 }
    }

    #[test]
    fn rules_mean_what_they_say() {
        let tiering = Tiering {
            enabled: true,
            free_space_percent: 20,
            rules: vec![
                a_rule(TierAction::Keep, "*.db"),
                a_rule(TierAction::Tier { after_s: 60 }, "media/**"),
                // No pattern that the service lets pass.
                a_rule(TierAction::Tier { after_s: 0 }, "/x"),
            ],
            ..Tiering::default()
        };
        let endpoint = endpoint(&tiering, true);
        let heat = Heat::of_times(0, 0, 100);
        assert_eq!(endpoint.rules.of(b"a/x.db", 1, heat, 100), Some(RuleAction::Keep));
        assert_eq!(endpoint.rules.of(b"media/a", 1, heat, 100), Some(RuleAction::Tier { idle_s: 60 }));
        assert_eq!(endpoint.rules.of(b"other", 1, heat, 100), None);
        let broken = Tiering { rules: vec![a_rule(TierAction::Keep, "/x")], ..tiering };
        let broken = super::endpoint(&broken, true);
        assert_eq!(broken.rules.of(b"other", 1, heat, 100), Some(RuleAction::Keep), "rather too much stays");
    }

    #[test]
    fn programs_have_the_endpoints_rules_or_the_built_in_ones() {
        let rule = |name: &str, action| ProgramRule {
            name: name.into(),
            action,
            bytes_per_hour: None,
            counts: true,
        };
        let mut programs =
            programs(&[rule("updatedb", ProgramAction::Recall), rule("*", ProgramAction::Refuse)]);
        let mut ask = |name: &str| programs.ask(&Program::new(name.as_bytes()), 0, 1, false, 0).allowance;
        assert_eq!(ask("updatedb"), Allowance::Recall);
        assert_eq!(ask("clamscan"), Allowance::Serve);
        assert_eq!(ask("cat"), Allowance::Refuse);
    }
}
