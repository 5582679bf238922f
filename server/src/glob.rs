//! Globs as Redis has them: `*`, `?`, `[a-z]`, `[^a]` and `\` before what is meant as it stands.
//!
//! Invariants:
//! - Neither recursion nor memory: a pattern costs at most its own length times the text's.
//! - A pattern that ends in the middle of a class or after a `\` still means something, the same as in Redis.

use protocol::resp::WireError;

/// Longest pattern of a request.
const PATTERN_LEN_MAX: usize = 1024;

/// A pattern to match keys or names against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Glob<'a> {
    pattern: &'a [u8],
    any_case: bool,
}

impl<'a> Glob<'a> {
    /// A pattern in which the case of letters counts.
    pub(crate) fn new(pattern: &'a [u8]) -> Result<Self, WireError> {
        if pattern.len() > PATTERN_LEN_MAX {
            return Err(WireError::err(format!("a pattern has at most {PATTERN_LEN_MAX} bytes")));
        }
        Ok(Self { pattern, any_case: false })
    }

    /// A pattern in which it does not.
    pub(crate) fn any_case(pattern: &'a [u8]) -> Result<Self, WireError> {
        Ok(Self { any_case: true, ..Self::new(pattern)? })
    }

    /// Whether all of `text` matches.
    pub(crate) fn matches(&self, text: &[u8]) -> bool {
        let pattern = self.pattern;
        let (mut at, mut read) = (0, 0);
        // Where to go on when what follows the latest `*` does not match: it then takes one byte more. Earlier ones need
        // no second look, since whatever they would leave over the latest can take.
        let mut star = None;
        while read < text.len() {
            if pattern.get(at) == Some(&b'*') {
                at += 1;
                if at == pattern.len() {
                    return true;
                }
                star = Some((at, read));
            } else if let Some(next) = self.one(at, text[read]) {
                at = next;
                read += 1;
            } else if let Some((after, taken)) = star {
                at = after;
                read = taken + 1;
                star = Some((after, read));
            } else {
                return false;
            }
        }
        pattern[at..].iter().all(|&byte| byte == b'*')
    }

    /// Whether the element at `at` matches one byte, and where the next element begins.
    fn one(&self, at: usize, byte: u8) -> Option<usize> {
        match *self.pattern.get(at)? {
            b'?' => Some(at + 1),
            b'[' => self.class(at + 1, byte),
            b'\\' if at + 1 < self.pattern.len() => self.same(self.pattern[at + 1], byte).then_some(at + 2),
            own => self.same(own, byte).then_some(at + 1),
        }
    }

    /// What stands between `[` and `]`. One that does not end, ends with the pattern.
    fn class(&self, mut at: usize, byte: u8) -> Option<usize> {
        let pattern = self.pattern;
        let negated = pattern.get(at) == Some(&b'^');
        at += usize::from(negated);
        let mut found = false;
        loop {
            match pattern[at..] {
                [] => break,
                [b']', ..] => {
                    at += 1;
                    break;
                }
                [b'\\', own, ..] => {
                    found |= self.same(own, byte);
                    at += 2;
                }
                [from, b'-', to, ..] => {
                    found |= self.between(from, to, byte);
                    at += 3;
                }
                [own, ..] => {
                    found |= self.same(own, byte);
                    at += 1;
                }
            }
        }
        (found != negated).then_some(at)
    }

    fn folded(&self, byte: u8) -> u8 {
        if self.any_case { byte.to_ascii_lowercase() } else { byte }
    }

    fn same(&self, own: u8, byte: u8) -> bool {
        self.folded(own) == self.folded(byte)
    }

    fn between(&self, from: u8, to: u8, byte: u8) -> bool {
        let (from, to, byte) = (self.folded(from), self.folded(to), self.folded(byte));
        (from.min(to)..=from.max(to)).contains(&byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Glob::new(pattern.as_bytes()).expect("short").matches(text.as_bytes())
    }

    #[test]
    fn globs_match_what_they_match_in_redis() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("**", "abc", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("*a*b*c*", "xxaxxbxxcxx", true),
            ("*a*b*c*", "xxaxxcxxbxx", false),
            ("*ab", "aab", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[^e]llo", "hbllo", true),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            ("h[a-b]llo", "hcllo", false),
            // A range from `a` to `]`, in a class that does not end.
            ("[a-]", "-", false),
            ("[a-]", "_", true),
            ("[]a]", "a]", false),
            ("[\\]]", "]", true),
            ("[^]", "a", true),
            ("[a", "a", true),
            ("[a", "b", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", true),
            ("[", "[", false),
            ("a", "A", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern:?} against {text:?}");
        }
    }

    #[test]
    fn case_counts_only_where_it_should() {
        let glob = Glob::any_case(b"MaxMem[O-P]ry*").expect("short");
        assert!(glob.matches(b"maxmemory-policy"));
        assert!(!glob.matches(b"maxmemary"));
    }

    #[test]
    fn a_hostile_pattern_costs_its_length_times_the_texts() {
        let text = vec![b'a'; 16 * 1024];
        let pattern = [&b"*a".repeat(511)[..], b"b"].concat();
        let start = std::time::Instant::now();
        assert!(!Glob::new(&pattern).expect("short").matches(&text));
        assert!(start.elapsed().as_secs() < 5, "exponential");
        assert!(Glob::new(&[b'a'; PATTERN_LEN_MAX + 1]).is_err());
    }
}
