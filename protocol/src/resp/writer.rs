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
        self.out.reserve(bytes.len() + 24);
        self.number(b'$', bytes.len());
        self.out.put_slice(bytes);
        self.out.put_slice(b"\r\n");
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
