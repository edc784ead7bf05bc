//! Rules of tiering as they are typed: `keep,glob=*.db`, `serve,budget=64GiB,cold,name=clamd`.
//!
//! Words are joined by commas. The last one, `glob=` or `name=`, takes everything that follows it, commas too.

use polder_api::rest::{ProgramAction, ProgramRule, TierAction, TierRule};

use crate::render;
use crate::values::{parse_days, parse_size};

/// Splits a rule into its words, of which the one that begins with `last` takes the rest.
fn words<'a>(text: &'a str, last: &str) -> (Vec<&'a str>, Option<&'a str>) {
    let mut words = Vec::new();
    let mut rest = text;
    loop {
        if let Some(tail) = rest.strip_prefix(last) {
            return (words, Some(tail));
        }
        match rest.split_once(',') {
            Some((word, tail)) => {
                words.push(word);
                rest = tail;
            }
            None => {
                words.push(rest);
                return (words, None);
            }
        }
    }
}

fn unknown(word: &str, example: &str) -> String {
    format!("\"{}\" is no part of a rule such as {example}", word.escape_default())
}

/// Reads a rule about files: `keep` or `tier=DAYS`, then `larger=SIZE`, `smaller=SIZE`, `unused=DAYS`, `glob=PATTERN`.
pub fn parse_tier_rule(text: &str) -> Result<TierRule, String> {
    let example = "\"keep,glob=*.db\" or \"tier=2d,larger=1GiB,glob=media/**\"";
    let (words, glob) = words(text, "glob=");
    let mut words = words.into_iter();
    let first = words.next().unwrap_or_default();
    let (action, after_days) = match first.split_once('=') {
        None if first == "keep" => (TierAction::Keep, 0),
        // At once: as soon as the share holds the file.
        Some(("tier", "0d")) => (TierAction::Tier, 0),
        Some(("tier", days)) => (TierAction::Tier, parse_days(days)?),
        _ => return Err(unknown(first, example)),
    };
    let mut rule = TierRule {
        action,
        after_days,
        glob: glob.map(str::to_owned),
        size_bytes_min: None,
        size_bytes_max: None,
        unused_days_min: None,
    };
    for word in words {
        match word.split_once('=') {
            Some(("larger", size)) => rule.size_bytes_min = Some(parse_size(size)?),
            Some(("smaller", size)) => rule.size_bytes_max = Some(parse_size(size)?),
            Some(("unused", days)) => rule.unused_days_min = Some(parse_days(days)?),
            _ => return Err(unknown(word, example)),
        }
    }
    Ok(rule)
}

/// Reads a rule about a program: `recall`, `serve` or `refuse`, then `budget=SIZE`, `cold`, `name=PROGRAM`.
pub fn parse_program_rule(text: &str) -> Result<ProgramRule, String> {
    let example = "\"serve,budget=64GiB,cold,name=clamd\"";
    let (words, name) = words(text, "name=");
    let mut words = words.into_iter();
    let action = match words.next().unwrap_or_default() {
        "recall" => ProgramAction::Recall,
        "serve" => ProgramAction::Serve,
        "refuse" => ProgramAction::Refuse,
        other => return Err(unknown(other, example)),
    };
    let name = name.filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| format!("a program's rule ends with its name, such as {example}"))?;
    let mut rule = ProgramRule { name: name.to_owned(), action, bytes_per_hour: None, counts: true };
    for word in words {
        match word.split_once('=') {
            Some(("budget", size)) => rule.bytes_per_hour = Some(parse_size(size)?),
            None if word == "cold" => rule.counts = false,
            _ => return Err(unknown(word, example)),
        }
    }
    Ok(rule)
}

/// A rule about files as it is typed.
pub fn tier_rule(rule: &TierRule) -> String {
    let mut words = vec![match rule.action {
        TierAction::Keep => "keep".to_owned(),
        TierAction::Tier => format!("tier={}d", rule.after_days),
    }];
    words.extend(rule.size_bytes_min.map(|bytes| format!("larger={bytes}")));
    words.extend(rule.size_bytes_max.map(|bytes| format!("smaller={bytes}")));
    words.extend(rule.unused_days_min.map(|days| format!("unused={days}d")));
    words.extend(rule.glob.as_ref().map(|glob| format!("glob={}", render::safe(glob))));
    words.join(",")
}

/// A rule about a program as it is typed.
pub fn program_rule(rule: &ProgramRule) -> String {
    let mut words = vec![render::word(&rule.action)];
    words.extend(rule.bytes_per_hour.map(|bytes| format!("budget={bytes}")));
    words.extend((!rule.counts).then(|| "cold".to_owned()));
    words.push(format!("name={}", render::safe(&rule.name)));
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_shown_alike() {
        for text in [
            "keep",
            "keep,glob=*.db",
            "keep,smaller=1024,glob=a, b=c/**",
            "tier=2d,larger=4096,unused=7d,glob=media/**",
            "tier=0d,glob=glob=x",
        ] {
            assert_eq!(tier_rule(&parse_tier_rule(text).expect(text)), text);
        }
        for text in ["serve,budget=1024,cold,name=clamd", "refuse,name=a,b", "recall,name=*"] {
            assert_eq!(program_rule(&parse_program_rule(text).expect(text)), text);
        }
        assert_eq!(parse_tier_rule("keep,larger=2K").expect("a size").size_bytes_min, Some(2048));
    }

    #[test]
    fn what_is_no_rule_is_said() {
        for bad in ["", "hold", "tier", "tier=x", "keep,bigger=1", "keep=1", "keep,larger=x", "glob=*"] {
            assert!(parse_tier_rule(bad).is_err(), "{bad}");
        }
        for bad in ["", "serve", "serve,name=", "name=x", "serve,budget,name=x", "serve,hot,name=x"] {
            assert!(parse_program_rule(bad).is_err(), "{bad}");
        }
    }
}
