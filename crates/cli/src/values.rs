//! Values as they are typed: sizes, durations, percentages, `SHARE:PATH`.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, time::Duration};

use polder_api::rest::ObjectName;
use polder_types::{Escaped, RelPath};

use crate::CliError;

/// Reads `1048576`, `10GiB`, `10G` (both 2¹⁰ based) or `10GB` (10³ based).
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("\"{}\" is not a size such as 500MiB, 20G or 1048576", text.escape_default());
    let digits = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim_start().to_ascii_lowercase();
    let factor = match unit.as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "p" | "pib" => 1 << 50,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "pb" => 1_000_000_000_000_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

/// Reads `90s`, `15m`, `1h`, `30d` or `2w`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{}\" is not a duration such as 90s, 15m, 1h or 30d", text.escape_default());
    let digits = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err(wrong()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

/// Reads a duration of whole days: `30d`, `2w`.
pub fn parse_days(text: &str) -> Result<u32, String> {
    let seconds = parse_duration(text)?.as_secs();
    let days = u32::try_from(seconds / 86_400).unwrap_or(u32::MAX);
    if !seconds.is_multiple_of(86_400) || days == 0 {
        return Err(format!("\"{}\" is not a number of days such as 30d", text.escape_default()));
    }
    Ok(days)
}

/// Reads `20%` or `20`.
pub fn parse_percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<u8>().ok();
    number
        .filter(|percent| (1..=99).contains(percent))
        .ok_or_else(|| format!("\"{}\" is not a percentage from 1% to 99%", text.escape_default()))
}

/// A number of days, or `none`.
pub fn parse_days_or_none(text: &str) -> Result<OrNone<u32>, String> {
    or_none(text, parse_days)
}

/// A size, or `none`.
pub fn parse_size_or_none(text: &str) -> Result<OrNone<u64>, String> {
    or_none(text, parse_size)
}

/// A value, or `none`.
pub fn or_none<T>(text: &str, parse: fn(&str) -> Result<T, String>) -> Result<OrNone<T>, String> {
    if text == "none" { Ok(OrNone(None)) } else { parse(text).map(|value| OrNone(Some(value))) }
}

/// A value, or `none`; its own type, because `Option` means "not given" to the parser.
#[derive(Debug, Clone, Copy)]
pub struct OrNone<T>(pub Option<T>);

/// A path in a share: `SHARE:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name or id of the share.
    pub share: String,
    /// Path in it; empty for the root.
    pub path: RelPath,
}

impl Target {
    /// Reads `SHARE:PATH`, `SHARE:` or `SHARE` (both the root).
    pub fn parse(text: &OsStr) -> Result<Self, CliError> {
        let bytes = text.as_bytes();
        let colon = bytes.iter().position(|byte| *byte == b':').unwrap_or(bytes.len());
        let (share, path) = bytes.split_at(colon);
        let share = share_name(share).ok_or_else(|| {
            CliError::usage(format!("\"{}\" is not SHARE:PATH", Escaped(bytes)))
                .hint("write the share's name, a colon and the path, such as demo:reports/2026.pdf")
        })?;
        let path = RelPath::parse(path.strip_prefix(b":").unwrap_or(path))
            .map_err(|error| CliError::usage(format!("{error}: {}", error.source)))?;
        Ok(Self { share, path })
    }

    /// Whether a text has the form of `SHARE:PATH`.
    pub fn is_like(text: &OsStr) -> bool {
        let bytes = text.as_bytes();
        bytes.iter().position(|byte| *byte == b':').is_some_and(|at| share_name(&bytes[..at]).is_some())
    }
}

fn share_name(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let is_id = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_id || text.parse::<ObjectName>().is_ok()).then(|| text.to_owned())
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.share, Escaped(&self.path.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases =
            [("0", 0), ("17", 17), ("4KiB", 4096), ("4k", 4096), ("2 GB", 2_000_000_000), ("1T", 1 << 40)];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "K", "-1", "1.5G", "1X", "99999999P", "0x10"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_days_percentages() {
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        assert!(parse_duration("1").is_err());
        assert_eq!(parse_days("2w"), Ok(14));
        assert!(parse_days("36h").is_err());
        assert!(parse_days("0d").is_err());
        assert_eq!(parse_percent("20%"), Ok(20));
        for bad in ["0", "100%", "x", "-1%"] {
            assert!(parse_percent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn targets() {
        let target = |text: &str| Target::parse(OsStr::new(text)).map(|target| target.to_string());
        assert_eq!(target("demo:/a//b/").expect("legal"), "demo:a/b");
        assert_eq!(target("demo").expect("the root"), "demo:");
        assert_eq!(target("demo:a:b").expect("colons are legal in names"), "demo:a:b");
        for bad in ["", ":a", "/a:b", "demo:../x", "a b:c"] {
            assert_eq!(target(bad).expect_err(bad).exit, crate::Exit::Usage);
        }
        assert!(!Target::is_like(OsStr::new("/tmp/a")));
        assert!(!Target::is_like(OsStr::new("./a:b")));
    }
}
