//! Rules of tiering between the rows of the control plane and the contract.

use polder_api::rest as api;
use polder_metadata::control as rows;

use super::RestError;

/// Longest times that a rule may name: a hundred years, as the date policy.
const DAYS_MAX: u32 = 36_500;

pub fn tier_rule(rule: &rows::TierRule) -> api::TierRule {
    let (action, after_days) = match rule.action {
        rows::TierAction::Keep => (api::TierAction::Keep, 0),
        rows::TierAction::Tier { after_days } => (api::TierAction::Tier, after_days),
    };
    api::TierRule {
        action,
        after_days,
        glob: rule.glob.as_ref().map(ToString::to_string),
        size_bytes_min: rule.size_bytes_min,
        size_bytes_max: rule.size_bytes_max,
        unused_days_min: rule.unused_days_min,
    }
}

pub fn row_tier_rule(rule: &api::TierRule) -> Result<rows::TierRule, RestError> {
    let refuse = |text: &str| Err(RestError::BadRequest(text.to_owned()));
    let action = match rule.action {
        api::TierAction::Keep if rule.after_days > 0 => {
            return refuse("a rule that keeps files has no \"after_days\"");
        }
        api::TierAction::Keep => rows::TierAction::Keep,
        api::TierAction::Tier => rows::TierAction::Tier { after_days: rule.after_days },
    };
    if rule.after_days > DAYS_MAX || rule.unused_days_min.is_some_and(|days| days > DAYS_MAX) {
        return refuse("a rule names at most 36,500 days");
    }
    if let (Some(min), Some(max)) = (rule.size_bytes_min, rule.size_bytes_max)
        && min > max
    {
        return refuse("a rule's \"size_bytes_min\" is above its \"size_bytes_max\": it fits no file");
    }
    Ok(rows::TierRule {
        action,
        glob: rule.glob.as_ref().map(|glob| glob.parse()).transpose()?,
        size_bytes_min: rule.size_bytes_min,
        size_bytes_max: rule.size_bytes_max,
        unused_days_min: rule.unused_days_min,
    })
}

pub fn program_rule(rule: &rows::ProgramRule) -> api::ProgramRule {
    api::ProgramRule {
        name: rule.name.to_string(),
        action: match rule.action {
            rows::ProgramAction::Recall => api::ProgramAction::Recall,
            rows::ProgramAction::Serve => api::ProgramAction::Serve,
            rows::ProgramAction::Refuse => api::ProgramAction::Refuse,
        },
        bytes_per_hour: rule.bytes_per_hour,
        counts: rule.counts,
    }
}

pub fn row_program_rule(rule: &api::ProgramRule) -> Result<rows::ProgramRule, RestError> {
    Ok(rows::ProgramRule {
        name: rule.name.parse()?,
        action: match rule.action {
            api::ProgramAction::Recall => rows::ProgramAction::Recall,
            api::ProgramAction::Serve => rows::ProgramAction::Serve,
            api::ProgramAction::Refuse => rows::ProgramAction::Refuse,
        },
        bytes_per_hour: rule.bytes_per_hour,
        counts: rule.counts,
    })
}
