//! Patterns over paths: `?` and `*` within one name, `**` across names. Bytes, no locale.

/// Longest pattern.
const PATTERN_BYTES_MAX: usize = 512;

/// Why a pattern is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// It is empty, or longer than 512 bytes.
    #[error("a pattern has 1 to {PATTERN_BYTES_MAX} bytes, not {0}")]
    Length(usize),
    /// It begins with a slash: patterns are relative to the endpoint.
    #[error("a pattern is relative to the endpoint; leave out the leading slash")]
    Absolute,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// One byte of a name.
    One,
    /// Any bytes of a name.
    Some,
    /// Any bytes.
    All,
}

/// A parsed pattern. One without a slash is compared with the last name of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
    by_name: bool,
}

impl Glob {
    /// Parses a pattern.
    pub fn parse(pattern: &[u8]) -> Result<Self, GlobError> {
        if pattern.is_empty() || pattern.len() > PATTERN_BYTES_MAX {
            return Err(GlobError::Length(pattern.len()));
        }
        if pattern.starts_with(b"/") {
            return Err(GlobError::Absolute);
        }
        let mut tokens: Vec<Token> = Vec::with_capacity(pattern.len());
        for byte in pattern {
            match (byte, tokens.last()) {
                (b'*', Some(Token::Some | Token::All)) => {
                    tokens.pop();
                    tokens.push(Token::All);
                }
                (b'*', _) => tokens.push(Token::Some),
                (b'?', _) => tokens.push(Token::One),
                (byte, _) => tokens.push(Token::Byte(*byte)),
            }
        }
        Ok(Self { tokens, by_name: !pattern.contains(&b'/') })
    }

    /// Whether a path (names joined by slashes, relative to the endpoint) matches. Work is bounded by the product of the lengths.
    pub fn matches(&self, path: &[u8]) -> bool {
        let text = match self.by_name {
            true => path.rsplit(|byte| *byte == b'/').next().unwrap_or(path),
            false => path,
        };
        // reached[i]: the first i tokens match what was read so far.
        let mut reached = vec![false; self.tokens.len() + 1];
        reached[0] = true;
        self.skip_empty(&mut reached, true);
        for byte in text {
            let mut next = vec![false; reached.len()];
            for (at, token) in self.tokens.iter().enumerate().filter(|(at, _)| reached[*at]) {
                match token {
                    Token::Byte(wanted) => next[at + 1] |= wanted == byte,
                    Token::One => next[at + 1] |= *byte != b'/',
                    Token::Some => next[at] |= *byte != b'/',
                    Token::All => next[at] = true,
                }
            }
            self.skip_empty(&mut next, *byte == b'/');
            reached = next;
        }
        reached[self.tokens.len()]
    }

    /// Stars match nothing too; where a name begins, `**/` matches no directory as well.
    fn skip_empty(&self, reached: &mut [bool], at_name: bool) {
        for (at, token) in self.tokens.iter().enumerate() {
            if reached[at] && matches!(token, Token::Some | Token::All) {
                reached[at + 1] = true;
                let fresh = at == 0 || self.tokens[at - 1] == Token::Byte(b'/');
                if *token == Token::All
                    && fresh
                    && at_name
                    && self.tokens.get(at + 1) == Some(&Token::Byte(b'/'))
                {
                    reached[at + 2] = true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, path, wanted) in [
            ("*.lnk", "a/b/x.lnk", true),
            ("*.lnk", "a/x.lnk/y", false),
            ("a/*", "a/b", true),
            ("a/*", "a/b/c", false),
            ("a/**", "a/b/c", true),
            ("**/c", "c", true),
            ("**/c", "a/b/c", true),
            ("**/c", "a/bc", false),
            ("a/**/c", "a/c", true),
            ("a/**/c", "a/x/y/c", true),
            ("a?c/x", "abc/x", true),
            ("a?c/x", "a/c/x", false),
            ("a/b", "x/a/b", false),
        ] {
            assert_eq!(
                Glob::parse(pattern.as_bytes()).unwrap().matches(path.as_bytes()),
                wanted,
                "{pattern} {path}"
            );
        }
        assert_eq!(Glob::parse(b""), Err(GlobError::Length(0)));
        assert_eq!(Glob::parse(b"/a"), Err(GlobError::Absolute));
    }

    #[test]
    fn many_stars_end_in_time() {
        let glob = Glob::parse("*a".repeat(100).as_bytes()).unwrap();
        assert!(
            !glob.matches(
                "a".repeat(4000).as_bytes().iter().chain(b"b").copied().collect::<Vec<_>>().as_slice()
            )
        );
    }
}
