//! Finds where a reply ends, and what it is made of, without building it.
//!
//! Role: one pass over bytes as they arrive; what it notes is enough to read a reply in place ([`Walk`]). Replies of
//! unknown shape are decoded by the redis-protocol crate instead, but only after this pass: it refuses the nesting that
//! the crate would overflow its stack on.
//!
//! Invariants:
//! - No byte is scanned twice but those of a bulk's header, no payload is scanned at all, nothing recurses.
//! - At most [`DEPTH_MAX`] levels and `len_max` bytes, whatever the server sends.

use crate::ClientError;

/// Levels of arrays and maps in one reply.
pub(crate) const DEPTH_MAX: usize = 8;

/// Bytes of a line that is no bulk.
const LINE_LEN_MAX: usize = 64 << 10;

/// One value: a leaf with its bytes, or the header of an aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token {
    /// The type byte; `_` for every null.
    kind: u8,
    /// Offset of the leaf's bytes in the reply.
    at: usize,
    /// Bytes of a leaf; values inside an aggregate, the keys of a map included.
    len: usize,
}

/// Why bytes are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScanError {
    #[error("a reply begins with byte {0:#04x}")]
    Kind(u8),
    #[error("a reply has a length that is no number")]
    Length,
    #[error("a line of a reply has no end")]
    Line,
    #[error("a bulk of a reply does not end where it says")]
    BulkEnd,
    #[error("a reply is nested deeper than {DEPTH_MAX}")]
    Depth,
    #[error("a reply is longer than `reply_len_max`")]
    TooLong,
}

/// Scans one reply after another.
#[derive(Debug)]
pub(crate) struct Scanner {
    tokens: Vec<Token>,
    /// Values still to come on each open level.
    open: [usize; DEPTH_MAX],
    depth: usize,
    /// Offset of the next byte to look at.
    pos: usize,
    /// Bytes of the line at `pos` known to hold no end.
    searched: usize,
    /// How long the buffer must become before scanning again can find anything.
    wanted: usize,
    len_max: usize,
}

impl Scanner {
    pub(crate) fn new(len_max: usize) -> Self {
        Self { tokens: Vec::new(), open: [0; DEPTH_MAX], depth: 0, pos: 0, searched: 0, wanted: 1, len_max }
    }

    /// At the start of the next reply.
    pub(crate) fn reset(&mut self) {
        self.tokens.clear();
        (self.depth, self.pos, self.searched, self.wanted) = (0, 0, 0, 1);
    }

    /// How long the buffer must become before scanning again can find anything.
    pub(crate) fn len_wanted(&self) -> usize {
        self.wanted
    }

    /// Scans on in `buf`, which begins where the reply begins and has only grown. The reply's length, once it is complete.
    pub(crate) fn scan(&mut self, buf: &[u8]) -> Result<Option<usize>, ScanError> {
        loop {
            if self.pos >= self.len_max {
                return Err(ScanError::TooLong);
            }
            let Some(&kind) = buf.get(self.pos) else {
                self.wanted = self.pos + 1;
                return Ok(None);
            };
            let line = &buf[self.pos + 1..];
            let Some(found) = memchr::memchr(b'\n', line.get(self.searched..).unwrap_or_default()) else {
                if line.len() > LINE_LEN_MAX {
                    return Err(ScanError::Line);
                }
                self.searched = line.len();
                self.wanted = buf.len() + 1;
                return Ok(None);
            };
            let end = self.searched + found;
            let (at, after) = (self.pos + 1, self.pos + 1 + end + 1);
            let text = line[..end].strip_suffix(b"\r").ok_or(ScanError::Line)?;
            match kind {
                b'+' | b'-' | b':' | b',' | b'#' | b'(' | b'_' => {
                    self.tokens.push(Token { kind, at, len: text.len() });
                    self.next(after);
                }
                b'$' | b'=' | b'!' => match length(text)? {
                    None => {
                        self.tokens.push(Token { kind: b'_', at, len: 0 });
                        self.next(after);
                    }
                    Some(len) => {
                        let bulk_end =
                            after.checked_add(len).filter(|&end| end < self.len_max).ok_or(ScanError::TooLong)?;
                        let Some(line_end) = buf.get(bulk_end..bulk_end + 2) else {
                            self.wanted = bulk_end + 2;
                            return Ok(None);
                        };
                        if line_end != b"\r\n" {
                            return Err(ScanError::BulkEnd);
                        }
                        self.tokens.push(Token { kind, at: after, len });
                        self.next(bulk_end + 2);
                    }
                },
                b'*' | b'~' | b'>' | b'%' => match length(text)? {
                    None => {
                        self.tokens.push(Token { kind: b'_', at, len: 0 });
                        self.next(after);
                    }
                    Some(count) => {
                        let values = if kind == b'%' { count.checked_mul(2) } else { Some(count) };
                        let len = values.filter(|&len| len <= self.len_max).ok_or(ScanError::TooLong)?;
                        self.tokens.push(Token { kind, at, len });
                        if len == 0 {
                            self.next(after);
                        } else {
                            *self.open.get_mut(self.depth).ok_or(ScanError::Depth)? = len;
                            self.depth += 1;
                            (self.pos, self.searched) = (after, 0);
                            continue;
                        }
                    }
                },
                other => return Err(ScanError::Kind(other)),
            }
            if self.depth == 0 {
                return Ok(Some(self.pos));
            }
        }
    }

    /// One value is complete; so may be the aggregates that it ends.
    fn next(&mut self, after: usize) {
        (self.pos, self.searched) = (after, 0);
        while self.depth > 0 {
            self.open[self.depth - 1] -= 1;
            if self.open[self.depth - 1] > 0 {
                break;
            }
            self.depth -= 1;
        }
    }

    /// Whether the complete reply answers no request.
    pub(crate) fn is_push(&self) -> bool {
        self.tokens.first().is_some_and(|token| token.kind == b'>')
    }

    /// Reads the complete reply that begins `buf`.
    pub(crate) fn walk<'a>(&'a self, buf: &'a [u8]) -> Walk<'a> {
        Walk { buf, tokens: &self.tokens }
    }
}

/// A length after its type byte; `None` for -1, which is a null.
fn length(text: &[u8]) -> Result<Option<usize>, ScanError> {
    if text == b"-1" {
        return Ok(None);
    }
    let len = protocol::command::parse_u64(text).ok_or(ScanError::Length)?;
    usize::try_from(len).map(Some).map_err(|_| ScanError::Length)
}

/// What a reply is not that was expected to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unexpected(pub(crate) &'static str);

/// Reads the values of a complete reply in order. Copied to look ahead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk<'a> {
    buf: &'a [u8],
    tokens: &'a [Token],
}

impl<'a> Walk<'a> {
    /// Whether the next value is an error, and then its line.
    pub(crate) fn error(&self) -> Option<ClientError> {
        let token = self.tokens.first().filter(|token| token.kind == b'-' || token.kind == b'!')?;
        Some(ClientError::wire(&self.buf[token.at..token.at + token.len]))
    }

    /// Whether the next value is a null.
    pub(crate) fn is_null(&self) -> bool {
        self.tokens.first().is_some_and(|token| token.kind == b'_')
    }

    /// Whether the next value is a bulk string.
    pub(crate) fn is_bulk(&self) -> bool {
        self.tokens.first().is_some_and(|token| token.kind == b'$')
    }

    fn take(&mut self) -> Result<Token, Unexpected> {
        let (&token, rest) = self.tokens.split_first().ok_or(Unexpected("a reply with more values"))?;
        self.tokens = rest;
        Ok(token)
    }

    /// The bytes of a leaf that is a string of some kind.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Unexpected> {
        let token = self.take()?;
        match token.kind {
            b'$' | b'+' => Ok(&self.buf[token.at..token.at + token.len]),
            // Without `txt:`.
            b'=' => Ok(self.buf[token.at..token.at + token.len].get(4..).unwrap_or_default()),
            _ => Err(Unexpected("a string")),
        }
    }

    /// A text of a leaf that is a string of some kind.
    pub(crate) fn text(&mut self) -> Result<&'a str, Unexpected> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Unexpected("a text"))
    }

    /// A whole number.
    pub(crate) fn signed(&mut self) -> Result<i64, Unexpected> {
        let token = self.take()?;
        if token.kind != b':' {
            return Err(Unexpected("an integer"));
        }
        protocol::command::parse_i64(&self.buf[token.at..token.at + token.len]).ok_or(Unexpected("an integer"))
    }

    /// A whole number that is not negative.
    pub(crate) fn unsigned(&mut self) -> Result<u64, Unexpected> {
        u64::try_from(self.signed()?).map_err(|_| Unexpected("a number that is not negative"))
    }

    /// How many values the array has that follow.
    pub(crate) fn array(&mut self) -> Result<usize, Unexpected> {
        let token = self.take()?;
        if matches!(token.kind, b'*' | b'~' | b'>') { Ok(token.len) } else { Err(Unexpected("an array")) }
    }

    /// How many pairs the map has that follow; a flat array is one in RESP2.
    pub(crate) fn map(&mut self) -> Result<usize, Unexpected> {
        let token = self.take()?;
        if matches!(token.kind, b'*' | b'%') && token.len.is_multiple_of(2) {
            Ok(token.len / 2)
        } else {
            Err(Unexpected("a map"))
        }
    }

    /// Passes over the next value and all inside it.
    pub(crate) fn skip(&mut self) -> Result<(), Unexpected> {
        let mut left = 1usize;
        while left > 0 {
            let token = self.take()?;
            left -= 1;
            if matches!(token.kind, b'*' | b'~' | b'>' | b'%') {
                left += token.len;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scans byte by byte; the length at which the reply was complete.
    fn scan(input: &[u8]) -> Result<Option<usize>, ScanError> {
        let mut scanner = Scanner::new(1 << 20);
        let mut whole = Scanner::new(1 << 20);
        let mut found = Ok(None);
        for end in 0..=input.len() {
            if end < scanner.len_wanted() {
                continue;
            }
            found = scanner.scan(&input[..end]);
            if !matches!(found, Ok(None)) {
                break;
            }
        }
        assert_eq!(found, whole.scan(input), "piecewise and whole");
        found
    }

    #[test]
    fn replies_end_where_they_end() {
        for reply in [
            "+OK\r\n",
            "-ERR no\r\n",
            ":-5\r\n",
            "$5\r\nhello\r\n",
            "$0\r\n\r\n",
            "$-1\r\n",
            "*-1\r\n",
            "_\r\n",
            "#t\r\n",
            ",1.5\r\n",
            "*0\r\n",
            "%0\r\n",
            "*2\r\n$1\r\na\r\n*2\r\n:1\r\n*0\r\n",
            "%1\r\n+k\r\n~2\r\n:1\r\n:2\r\n",
            "=8\r\ntxt:\r\nab\r\n",
        ] {
            let with_next = format!("{reply}+NEXT\r\n");
            assert_eq!(scan(with_next.as_bytes()), Ok(Some(reply.len())), "{reply:?}");
            assert_eq!(scan(&reply.as_bytes()[..reply.len() - 1]), Ok(None), "{reply:?}");
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        assert_eq!(scan(b"hello\r\n"), Err(ScanError::Kind(b'h')));
        assert_eq!(scan(b"$x\r\n"), Err(ScanError::Length));
        assert_eq!(scan(b"$-2\r\n"), Err(ScanError::Length));
        assert_eq!(scan(b"+OK\n"), Err(ScanError::Line));
        assert_eq!(scan(b"$2\r\nabcd"), Err(ScanError::BulkEnd));
        assert_eq!(scan(b"$99999999\r\n"), Err(ScanError::TooLong));
        assert_eq!(scan(b"%18446744073709551615\r\n"), Err(ScanError::TooLong));
        assert_eq!(scan("*1\r\n".repeat(8).as_bytes()), Ok(None));
        assert_eq!(scan("*1\r\n".repeat(9).as_bytes()), Err(ScanError::Depth));
        assert_eq!(scan(&[b'+'; LINE_LEN_MAX + 2]), Err(ScanError::Line));
    }

    #[test]
    fn values_are_read_in_order() {
        let reply = b"*5\r\n$1\r\na\r\n:7\r\n*2\r\n+x\r\n*1\r\n:1\r\n_\r\n%1\r\n+k\r\n:3\r\n";
        let mut scanner = Scanner::new(1 << 20);
        assert_eq!(scanner.scan(reply), Ok(Some(reply.len())));
        let mut walk = scanner.walk(reply);
        assert_eq!(walk.array(), Ok(5));
        assert_eq!(walk.bytes(), Ok(&b"a"[..]));
        assert_eq!(walk.unsigned(), Ok(7));
        assert_eq!(walk.skip(), Ok(()));
        assert!(walk.is_null());
        assert_eq!(walk.skip(), Ok(()));
        assert_eq!(walk.map(), Ok(1));
        assert_eq!(walk.text(), Ok("k"));
        assert_eq!(walk.bytes(), Err(Unexpected("a string")));
        assert_eq!(walk.skip(), Err(Unexpected("a reply with more values")));
    }
}
