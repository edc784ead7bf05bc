//! Bytes from outside, made safe to print.

use std::fmt;

/// Shows bytes as text that cannot move a cursor, forge a log line or turn the reading direction: printable
/// characters as they are, everything else as `\n`, `\xNN` or `\u{…}`.
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.utf8_chunks() {
            for char in part.valid().chars() {
                if is_plain(char) { write!(f, "{char}")? } else { write!(f, "{}", char.escape_default())? }
            }
            part.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

fn is_plain(char: char) -> bool {
    // Zero-width and direction marks hide or reorder what follows them (Unicode TR 36).
    let invisible = matches!(char, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    char != '\\' && !char.is_control() && !invisible
}

#[cfg(test)]
mod tests {
    use super::Escaped;

    /// Scenario 59, on a screen.
    #[test]
    fn nothing_acts_on_a_terminal() {
        let cases: [(&[u8], &str); 6] = [
            ("Müller 日本.txt".as_bytes(), "Müller 日本.txt"),
            (b"a\nb\tc", r"a\nb\tc"),
            (b"\x1b[2J", r"\u{1b}[2J"),
            (b"bad\xff\xc3", r"bad\xff\xc3"),
            ("evil\u{202e}txt.exe".as_bytes(), r"evil\u{202e}txt.exe"),
            (br"back\slash", r"back\\slash"),
        ];
        for (bytes, text) in cases {
            assert_eq!(Escaped(bytes).to_string(), text);
        }
    }
}
