//! Inline commands: one line of words, as people type them over telnet and health checks send them.

use super::args::Slot;
use super::request::ProtocolError;

/// Splits `line` into words as `redis-cli` and Redis do: words are separated by white space; `"…"` knows `\n`, `\r`,
/// `\t`, `\b`, `\a`, `\xHH` and takes any other escaped byte as it is; `'…'` knows `\'` only; a closing quote must end
/// its word. The words are appended to `text`, which needs no more room than `line` has bytes.
pub(super) fn split(
    line: &[u8],
    args_max: usize,
    text: &mut Vec<u8>,
    slots: &mut Vec<Slot>,
) -> Result<(), ProtocolError> {
    let mut rest = line;
    loop {
        while let [first, tail @ ..] = rest
            && is_space(*first)
        {
            rest = tail;
        }
        if rest.is_empty() {
            return refuse_http(text, slots);
        }
        if slots.len() == args_max {
            return Err(ProtocolError::InvalidMultibulkLength);
        }
        let at = text.len();
        rest = word(rest, text)?;
        slots.push(Slot { at, len: (text.len() - at) as u64, taken: false });
    }
}

/// Appends the word that `rest` begins with and returns what follows it.
fn word<'a>(mut rest: &'a [u8], text: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [b'"', tail @ ..] => return quoted(tail, b'"', text),
            [b'\'', tail @ ..] => return quoted(tail, b'\'', text),
            [] => return Ok(rest),
            [byte, ..] if is_space(*byte) || *byte == 0 => return Ok(rest.get(1..).unwrap_or(&[])),
            [byte, tail @ ..] => {
                text.push(*byte);
                rest = tail;
            }
        }
    }
}

/// Appends what stands before the closing `quote` and returns what follows it.
fn quoted<'a>(mut rest: &'a [u8], quote: u8, text: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        rest = match rest {
            [b'\\', b'x', high, low, tail @ ..]
                if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                text.push(hex(*high) << 4 | hex(*low));
                tail
            }
            [b'\\', byte, tail @ ..] if quote == b'"' => {
                text.push(match byte {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                tail
            }
            [b'\\', b'\'', tail @ ..] if quote == b'\'' => {
                text.push(b'\'');
                tail
            }
            [byte, tail @ ..] if *byte == quote => {
                return match tail {
                    [] => Ok(tail),
                    [next, ..] if is_space(*next) => Ok(tail),
                    _ => Err(ProtocolError::UnbalancedQuotes),
                };
            }
            [byte, tail @ ..] => {
                text.push(*byte);
                tail
            }
            [] => return Err(ProtocolError::UnbalancedQuotes),
        };
    }
}

/// A browser that was lured here must not have the lines after its headers executed. `GET` and `PUT` are commands of
/// ours, so that they are HTTP only where a version follows.
fn refuse_http(text: &[u8], slots: &[Slot]) -> Result<(), ProtocolError> {
    const NEVER_COMMANDS: [&[u8]; 8] =
        [b"POST", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE", b"Host:"];
    let word = |slot: &Slot| {
        let len = usize::try_from(slot.len).unwrap_or(usize::MAX);
        &text[slot.at..slot.at + len]
    };
    let Some(first) = slots.first().map(word) else { return Ok(()) };
    let http = NEVER_COMMANDS.iter().any(|verb| first.eq_ignore_ascii_case(verb))
        || slots.get(2).is_some_and(|third| word(third).starts_with(b"HTTP/"));
    if http { Err(ProtocolError::Http) } else { Ok(()) }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Vec<Vec<u8>>, ProtocolError> {
        let (mut text, mut slots) = (Vec::new(), Vec::new());
        split(line.as_bytes(), 10, &mut text, &mut slots)?;
        assert!(text.len() <= line.len(), "{line}: words are longer than their line");
        let end = |slot: &Slot| slot.at + usize::try_from(slot.len).expect("small");
        Ok(slots.iter().map(|slot| text[slot.at..end(slot)].to_vec()).collect())
    }

    #[test]
    fn words_are_split_as_redis_splits_them() {
        let check = |line: &str, expected: &[&[u8]]| {
            assert_eq!(
                words(line).as_deref(),
                Ok(&expected.iter().map(|w| w.to_vec()).collect::<Vec<_>>()[..]),
                "{line}"
            );
        };
        check("PING", &[b"PING"]);
        check("  SET\tk  v ", &[b"SET", b"k", b"v"]);
        check("", &[]);
        check(" ", &[]);
        check(r#"SET k "a b""#, &[b"SET", b"k", b"a b"]);
        check(r#"SET k "\x00\xffA\n\"\q""#, &[b"SET", b"k", b"\x00\xffA\n\"q"]);
        check(r#"SET k "\xg0""#, &[b"SET", b"k", b"xg0"]);
        check(r"SET k 'it\'s \n'", &[b"SET", b"k", br"it's \n"]);
        check(r#"SET k """#, &[b"SET", b"k", b""]);
        check(r#"a"b c""#, &[b"ab c"]);
        check("GET HTTP/1.1", &[b"GET", b"HTTP/1.1"]);
        check("PUT k LEN 5", &[b"PUT", b"k", b"LEN", b"5"]);
    }

    #[test]
    fn unbalanced_quotes_are_refused() {
        for line in [r#"SET k "a"#, "SET k 'a", r#"SET k "a"b"#, r#"""a"#, r#"SET k "a\"#, r#"SET k "a\""#] {
            assert_eq!(words(line), Err(ProtocolError::UnbalancedQuotes), "{line}");
        }
    }

    #[test]
    fn http_closes_the_connection() {
        for line in ["POST / HTTP/1.1", "host: localhost", "GET / HTTP/1.0", "PUT /k HTTP/1.1", "DELETE /", "OPTIONS *"]
        {
            assert_eq!(words(line), Err(ProtocolError::Http), "{line}");
        }
    }

    #[test]
    fn more_words_than_the_cap_are_refused() {
        assert_eq!(words("1 2 3 4 5 6 7 8 9 10").map(|w| w.len()), Ok(10));
        assert_eq!(words("1 2 3 4 5 6 7 8 9 10 11"), Err(ProtocolError::InvalidMultibulkLength));
    }
}
