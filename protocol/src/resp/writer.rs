//! Replies: values to bytes, in RESP2 or RESP3.
//!
//! Role: each method writes one value. What RESP2 lacks is written as Redis writes it there: a map or a set is a flat
//! array, a null is a null bulk, a double is a bulk, a boolean is an integer, a push is an array.
//!
//! Invariants:
//! - A header (`array`, `map`, …) promises values: the caller writes exactly as many.
//! - Text that could hold a line end goes out as a bulk, or with its line ends replaced.

use super::{ErrorWord, WireError};
use bytes::{BufMut, BytesMut};
use std::fmt::{self, Write as _};

/// Bulks shorter than this are put together before they are appended. Two digits tell their length.
const SHORT_LEN: u8 = 48;

/// Appends replies to a connection's output.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut BytesMut,
    resp3: bool,
}

impl<'a> Writer<'a> {
    /// Appends to `out`, in RESP3 if `resp3`.
    pub fn new(out: &'a mut BytesMut, resp3: bool) -> Self {
        Self { out, resp3 }
    }

    /// Whether maps, nulls and the like have their own types.
    pub fn is_resp3(&self) -> bool {
        self.resp3
    }

    /// What was written so far, and what stood before it.
    pub fn out(&mut self) -> &mut BytesMut {
        self.out
    }

    /// `+text`. For texts of our own: a line end in it is replaced.
    pub fn simple(&mut self, text: &str) {
        self.out.put_u8(b'+');
        self.line(text);
    }

    /// `+OK`.
    #[inline]
    pub fn ok(&mut self) {
        self.out.put_slice(b"+OK\r\n");
    }

    /// `-WORD text`.
    pub fn error(&mut self, word: ErrorWord, text: &str) {
        self.out.put_u8(b'-');
        self.out.put_slice(word.as_str().as_bytes());
        self.out.put_u8(b' ');
        self.line(text);
    }

    /// An error that was made elsewhere.
    pub fn wire_error(&mut self, error: &WireError) {
        self.error(error.word(), error.text());
    }

    /// `:value`.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        self.number(b':', value);
    }

    /// `:value` of a count; above `i64::MAX` it is written as that.
    #[inline]
    pub fn count(&mut self, value: u64) {
        self.number(b':', i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// `$len` and the bytes.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        match u8::try_from(bytes.len()) {
            Ok(len) if len < SHORT_LEN => return self.short_bulk(len, bytes),
            _ => {}
        }
        self.out.reserve(bytes.len() + 24);
        self.number(b'$', bytes.len());
        self.out.put_slice(bytes);
        self.out.put_slice(b"\r\n");
    }

    /// Names of fields, numbers of things: header, bytes and line end in one copy.
    #[inline]
    fn short_bulk(&mut self, len: u8, bytes: &[u8]) {
        let mut whole = [0; SHORT_LEN as usize + "$00\r\n\r\n".len()];
        let header: &[u8] = if len < 10 {
            &[b'$', b'0' + len, b'\r', b'\n']
        } else {
            &[b'$', b'0' + len / 10, b'0' + len % 10, b'\r', b'\n']
        };
        let (start, end) = (header.len(), header.len() + bytes.len());
        whole[..start].copy_from_slice(header);
        whole[start..end].copy_from_slice(bytes);
        whole[end..end + 2].copy_from_slice(b"\r\n");
        self.out.extend_from_slice(&whole[..end + 2]);
    }

    /// `$len` of a payload that goes out by another way; [`bulk_end`](Self::bulk_end) follows it.
    pub fn bulk_header(&mut self, len: u64) {
        self.number(b'$', len);
    }

    /// The CR LF after such a payload.
    pub fn bulk_end(&mut self) {
        self.out.put_slice(b"\r\n");
    }

    /// A bulk of what `value` displays, without a string in between.
    pub fn bulk_display(&mut self, value: impl fmt::Display) {
        // The length stands before the text: leave two digits for it, which nearly every such text needs.
        const ROOM: usize = "$00\r\n".len();
        let start = self.out.len();
        self.out.put_slice(b"$00\r\n");
        write!(self.out, "{value}").expect("BytesMut grows");
        let len = self.out.len() - start - ROOM;
        if let Ok(short) = u8::try_from(len)
            && (10..100).contains(&short)
        {
            self.out[start + 1] = b'0' + short / 10;
            self.out[start + 2] = b'0' + short % 10;
            self.out.put_slice(b"\r\n");
        } else {
            let text = self.out.split_off(start + ROOM);
            self.out.truncate(start);
            self.bulk(&text);
        }
    }

    /// A bulk of decimal digits.
    pub fn bulk_integer(&mut self, value: impl itoa::Integer) {
        self.bulk(itoa::Buffer::new().format(value).as_bytes());
    }

    /// No value: `_`, or a null bulk in RESP2.
    #[inline]
    pub fn null(&mut self) {
        self.out.put_slice(if self.resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// No value where an array would stand: `_`, or a null array in RESP2.
    pub fn null_array(&mut self) {
        self.out.put_slice(if self.resp3 { b"_\r\n" } else { b"*-1\r\n" });
    }

    /// Header of `len` values.
    #[inline]
    pub fn array(&mut self, len: usize) {
        self.number(b'*', len);
    }

    /// Header of `pairs` keys, each followed by its value.
    pub fn map(&mut self, pairs: usize) {
        if self.resp3 { self.number(b'%', pairs) } else { self.number(b'*', pairs * 2) }
    }

    /// Header of `len` distinct values.
    pub fn set(&mut self, len: usize) {
        self.number(if self.resp3 { b'~' } else { b'*' }, len);
    }

    /// Header of `len` values that answer no request, the kind first. An array in RESP2.
    pub fn push(&mut self, len: usize) {
        self.number(if self.resp3 { b'>' } else { b'*' }, len);
    }

    /// A floating-point number, in the shortest digits that read back as it.
    pub fn double(&mut self, value: f64) {
        let text = if value.is_nan() {
            "nan".to_owned()
        } else if value.is_infinite() {
            if value > 0.0 { "inf".to_owned() } else { "-inf".to_owned() }
        } else {
            format!("{value}")
        };
        if self.resp3 {
            self.out.put_u8(b',');
            self.line(&text);
        } else {
            self.bulk(text.as_bytes());
        }
    }

    /// `#t` or `#f`; `:1` or `:0` in RESP2.
    pub fn boolean(&mut self, value: bool) {
        self.out.put_slice(match (self.resp3, value) {
            (true, true) => b"#t\r\n",
            (true, false) => b"#f\r\n",
            (false, true) => b":1\r\n",
            (false, false) => b":0\r\n",
        });
    }

    /// Text for people, marked as such in RESP3.
    pub fn verbatim(&mut self, text: &str) {
        if self.resp3 {
            self.number(b'=', text.len() + 4);
            self.out.put_slice(b"txt:");
            self.out.put_slice(text.as_bytes());
            self.out.put_slice(b"\r\n");
        } else {
            self.bulk(text.as_bytes());
        }
    }

    /// The key of a map, then the caller writes its value.
    pub fn field(&mut self, name: &str) -> &mut Self {
        self.bulk(name.as_bytes());
        self
    }

    #[inline]
    fn number(&mut self, kind: u8, value: impl itoa::Integer) {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(value).as_bytes();
        // One reservation and one copy: a small reply is mostly this line. 20 digits are the most there are.
        let mut line = [0u8; 24];
        line[0] = kind;
        line[1..=digits.len()].copy_from_slice(digits);
        line[digits.len() + 1] = b'\r';
        line[digits.len() + 2] = b'\n';
        self.out.extend_from_slice(&line[..digits.len() + 3]);
    }

    fn line(&mut self, text: &str) {
        if text.bytes().any(|byte| byte.is_ascii_control()) {
            for byte in text.bytes() {
                self.out.put_u8(if byte.is_ascii_control() { b' ' } else { byte });
            }
        } else {
            self.out.put_slice(text.as_bytes());
        }
        self.out.put_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use redis_protocol::{resp2, resp3};

    fn written(resp3: bool, write: impl Fn(&mut Writer<'_>)) -> BytesMut {
        let mut out = BytesMut::from(&b"before"[..]);
        write(&mut Writer::new(&mut out, resp3));
        out.split_off(6)
    }

    fn bulk2(text: &str) -> resp2::types::OwnedFrame {
        resp2::types::OwnedFrame::BulkString(text.into())
    }

    /// The value that `write` writes, as the redis-protocol crate reads it, is `two` in RESP2 and `three` in RESP3, and
    /// nothing follows it.
    fn check(
        write: impl Fn(&mut Writer<'_>),
        two: resp2::types::OwnedFrame,
        three: impl Fn(&resp3::types::OwnedFrame) -> bool,
    ) {
        let bytes = written(false, &write);
        assert_eq!(resp2::decode::decode(&bytes).expect("well-formed"), Some((two, bytes.len())));
        let bytes = written(true, &write);
        let (frame, len) = resp3::decode::complete::decode(&bytes).expect("well-formed").expect("complete");
        assert!(three(&frame), "{frame:?}");
        assert_eq!(len, bytes.len());
    }

    #[test]
    fn every_value_is_read_by_another_reader() {
        use resp2::types::OwnedFrame as Two;
        use resp3::types::OwnedFrame as Three;
        check(
            |w| w.ok(),
            Two::SimpleString("OK".into()),
            |f| matches!(f, Three::SimpleString { data, .. } if data == b"OK"),
        );
        check(
            |w| w.simple("a\r\nb"),
            Two::SimpleString("a  b".into()),
            |f| matches!(f, Three::SimpleString { data, .. } if data == b"a  b"),
        );
        check(
            |w| w.error(ErrorWord::NoGrant, "gone\n-ERR x"),
            Two::Error("NOGRANT gone -ERR x".into()),
            |f| matches!(f, Three::SimpleError { data, .. } if data == "NOGRANT gone -ERR x"),
        );
        for value in [0, -1, i64::MIN, i64::MAX] {
            check(
                |w| w.integer(value),
                Two::Integer(value),
                |f| matches!(f, Three::Number { data, .. } if *data == value),
            );
        }
        check(|w| w.count(u64::MAX), Two::Integer(i64::MAX), |f| matches!(f, Three::Number { data: i64::MAX, .. }));
        check(|w| w.null(), Two::Null, |f| matches!(f, Three::Null));
        check(|w| w.null_array(), Two::Null, |f| matches!(f, Three::Null));
        check(|w| w.boolean(true), Two::Integer(1), |f| matches!(f, Three::Boolean { data: true, .. }));
        check(|w| w.boolean(false), Two::Integer(0), |f| matches!(f, Three::Boolean { data: false, .. }));
        check(|w| w.double(1.5), bulk2("1.5"), |f| matches!(f, Three::Double { data, .. } if *data == 1.5));
        check(
            |w| w.double(f64::NEG_INFINITY),
            bulk2("-inf"),
            |f| matches!(f, Three::Double { data, .. } if *data < 0.0),
        );
        check(
            |w| w.verbatim("a\nb"),
            bulk2("a\nb"),
            |f| matches!(f, Three::VerbatimString { data, .. } if data == b"a\nb"),
        );
        check(
            |w| {
                w.bulk_header(3);
                w.out().extend_from_slice(b"abc");
                w.bulk_end();
            },
            bulk2("abc"),
            |f| matches!(f, Three::BlobString { data, .. } if data == b"abc"),
        );
        check(|w| w.bulk_integer(-7), bulk2("-7"), |f| matches!(f, Three::BlobString { data, .. } if data == b"-7"));
    }

    #[test]
    fn aggregates_are_read_by_another_reader() {
        use resp2::types::OwnedFrame as Two;
        use resp3::types::OwnedFrame as Three;
        let two = |w: &mut Writer<'_>| {
            w.bulk(b"a");
            w.integer(1);
        };
        let flat = Two::Array(vec![bulk2("a"), Two::Integer(1)]);
        let pair = |w: &mut Writer<'_>, header: fn(&mut Writer<'_>)| {
            header(w);
            two(w);
        };
        check(|w| pair(w, |w| w.array(2)), flat.clone(), |f| matches!(f, Three::Array { data, .. } if data.len() == 2));
        check(|w| pair(w, |w| w.map(1)), flat.clone(), |f| matches!(f, Three::Map { data, .. } if data.len() == 1));
        check(|w| pair(w, |w| w.set(2)), flat.clone(), |f| matches!(f, Three::Set { data, .. } if data.len() == 2));
        check(|w| pair(w, |w| w.push(2)), flat.clone(), |f| matches!(f, Three::Push { data, .. } if data.len() == 2));
    }

    #[test]
    fn displayed_bulks_have_their_length_whatever_it_is() {
        for len in [0, 1, 9, 10, 11, 99, 100, 101, 1000] {
            let text = "x".repeat(len);
            let mut plain = BytesMut::new();
            Writer::new(&mut plain, false).bulk(text.as_bytes());
            assert_eq!(written(false, |w| w.bulk_display(&text)), plain);
        }
    }

    proptest! {
        #[test]
        fn bulks_and_errors_read_back(bytes in prop::collection::vec(any::<u8>(), 0..300), text in ".{0,60}") {
            let out = written(false, |w| w.bulk(&bytes));
            prop_assert_eq!(resp2::decode::decode(&out).unwrap(), Some((resp2::types::OwnedFrame::BulkString(bytes.clone()), out.len())));
            let out = written(true, |w| w.error(ErrorWord::Err, &text));
            let decoded = resp3::decode::complete::decode(&out).unwrap();
            prop_assert!(decoded.is_some_and(|(_, len)| len == out.len()));
        }
    }
}
