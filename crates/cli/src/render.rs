//! Values as people read them.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use polder_api::rest::Time;
use polder_types::Escaped;

/// `0 B`, `1.5 KiB`, `2.0 GiB`: two digits at least, powers of 1,024.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // 1,023.95 would be shown as 1024.0 of the unit below.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `12,345`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 file`, `12,345 files`.
pub fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", count(number), if number == 1 { "" } else { "s" })
}

/// `45 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
pub fn seconds(total: u64) -> String {
    let (days, hours, minutes, rest) = (total / 86_400, total / 3_600 % 24, total / 60 % 60, total % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest} s"),
        (0, 0, _) => format!("{minutes} min {rest} s"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// `2026-11-23 18:00:05`: UTC, without fractions.
pub fn time(moment: Time) -> String {
    let text = moment.to_string();
    let whole = text.split(['.', 'Z']).next().unwrap_or(&text);
    whole.replace('T', " ")
}

/// A time that may be missing.
pub fn maybe_time(moment: Option<Time>) -> String {
    moment.map_or_else(|| "-".to_owned(), time)
}

/// Yes or no.
pub fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// A word of a `snake_case` enum, for people: `in sync`.
pub fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text.replace('_', " "),
        _ => "?".to_owned(),
    }
}

/// A sentence from elsewhere, on one line and without anything that acts on a terminal. What is escaped already stays.
pub fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for part in text.split_inclusive('\\') {
        let (plain, backslash) = part.strip_suffix('\\').map_or((part, ""), |plain| (plain, "\\"));
        out.push_str(&Escaped(plain.as_bytes()).to_string());
        out.push_str(backslash);
    }
    out
}

/// A table without lines. Columns whose header begins with `>` are set to the right. Empty without rows.
pub fn table(headers: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let align = |at: usize| {
        if headers[at].starts_with('>') { CellAlignment::Right } else { CellAlignment::Left }
    };
    let titles = headers.iter().enumerate();
    table.set_header(
        titles.map(|(at, title)| Cell::new(title.trim_start_matches('>')).set_alignment(align(at))),
    );
    let mut any = false;
    for row in rows {
        any = true;
        table.add_row(row.into_iter().enumerate().map(|(at, text)| Cell::new(text).set_alignment(align(at))));
    }
    if !any {
        return String::new();
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Names and values below each other.
pub fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {}\n", safe(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_counts_times() {
        let cases =
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (u64::MAX, "16.0 EiB")];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
        assert_eq!(bytes(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(999), "999");
        assert_eq!(seconds(59), "59 s");
        assert_eq!(seconds(3_725), "1 h 2 min");
        assert_eq!(time("2026-11-23T18:00:05.25Z".parse().expect("a time")), "2026-11-23 18:00:05");
    }

    #[test]
    fn sentences_act_on_nothing() {
        assert_eq!(safe("a\x1b[2Jb\nc"), r"a\u{1b}[2Jb\nc");
        assert_eq!(safe(r"once \xff only \\"), r"once \xff only \\");
    }

    #[test]
    fn tables_align() {
        let rows = [vec!["a".to_owned(), "5".to_owned()], vec!["long".to_owned(), "500".to_owned()]];
        assert_eq!(table(&["NAME", ">SIZE"], rows), "NAME  SIZE\na        5\nlong   500");
        assert_eq!(table(&["NAME"], []), "");
    }
}
