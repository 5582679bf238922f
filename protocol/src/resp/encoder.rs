//! Requests out: an array of bulk strings, for clients.

use super::Arg;
use bytes::{BufMut, BytesMut};
use std::fmt::{self, Write as _};

/// Appends one request. The words are given twice by the same closure: once to count them, once to write them.
#[derive(Debug)]
pub struct Encoder<'a> {
    /// `None` while counting.
    out: Option<&'a mut BytesMut>,
    words: usize,
    /// Where in `out` a payload belongs that is sent by another way.
    payload_at: Option<usize>,
}

impl<'a> Encoder<'a> {
    /// Writes the request whose words `words` gives, and returns where in `out` a payload that was given as
    /// [`Arg::Taken`] has to be inserted on its way out.
    pub fn encode(out: &'a mut BytesMut, words: impl Fn(&mut Encoder<'_>)) -> Option<usize> {
        let mut counting = Encoder { out: None, words: 0, payload_at: None };
        words(&mut counting);
        header(out, b'*', counting.words as u64);
        let mut writing = Encoder { out: Some(out), words: 0, payload_at: None };
        words(&mut writing);
        assert_eq!(writing.words, counting.words, "a request gives the same words twice");
        writing.payload_at
    }

    /// One word.
    pub fn word(&mut self, word: impl AsRef<[u8]>) -> &mut Self {
        self.words += 1;
        if let Some(out) = &mut self.out {
            let word = word.as_ref();
            header(out, b'$', word.len() as u64);
            out.put_slice(word);
            out.put_slice(b"\r\n");
        }
        self
    }

    /// A number in decimal digits.
    pub fn number(&mut self, value: impl itoa::Integer) -> &mut Self {
        self.word(itoa::Buffer::new().format(value))
    }

    /// What `value` displays.
    pub fn display(&mut self, value: impl fmt::Display) -> &mut Self {
        if self.out.is_none() {
            self.words += 1;
            return self;
        }
        let mut text = ShortText { bytes: [0; 64], len: 0 };
        match write!(text, "{value}") {
            Ok(()) => self.word(&text.bytes[..text.len]),
            Err(_) => self.word(value.to_string()),
        }
    }

    /// A value, or the room for one that is sent by another way.
    pub fn arg(&mut self, value: Arg<'_>) -> &mut Self {
        match value {
            Arg::Bytes(bytes) => self.word(bytes),
            Arg::Taken { len } => {
                self.words += 1;
                if let Some(out) = &mut self.out {
                    header(out, b'$', len);
                    self.payload_at = Some(out.len());
                    out.put_slice(b"\r\n");
                }
                self
            }
        }
    }
}

/// Room for an id or a checksum, so that neither needs a string of its own.
struct ShortText {
    bytes: [u8; 64],
    len: usize,
}

impl fmt::Write for ShortText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

fn header(out: &mut BytesMut, kind: u8, len: u64) {
    out.put_u8(kind);
    out.put_slice(itoa::Buffer::new().format(len).as_bytes());
    out.put_slice(b"\r\n");
}
