//! Replies on their way out: small ones in a buffer, large values from where they lie.
//!
//! Invariants:
//! - Bytes go out in the order they were put in; a guarded value holds its slot until its last byte was taken by the socket.
//! - No payload of a large value is copied here.

use super::heading::What;
use bytes::BytesMut;
use protocol::resp::Writer;
use std::collections::VecDeque;
use std::io::IoSlice;
use storage::ReadGuard;

/// Most bytes of one large value handed to the socket in one call. Longer calls are slower: the receiver waits, then the
/// sender does.
const PIECE_LEN_MAX: usize = 1 << 20;
/// Values from this length on have their CR LF spliced.
const END_SPLICED_LEN_MIN: usize = 2 << 20;
/// Slices of one call.
pub(crate) const SLICES_MAX: usize = 32;
/// A buffer that grew beyond this is given back once it is sent.
const BUFFER_KEPT_MAX: usize = 256 * 1024;

#[derive(Debug)]
struct Held {
    /// Offset in the buffer before which the value goes.
    at: usize,
    /// Bytes directly before `at` that only frame this value, and the one before it.
    heading_len: usize,
    /// Whether they begin with the CR LF of the value before.
    after_value: bool,
    value: ReadGuard,
}

/// Framing bytes that are next to be sent.
pub(crate) struct Framing<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) what: What,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Output {
    buffer: BytesMut,
    /// Bytes of the buffer that are sent.
    head: usize,
    held: VecDeque<Held>,
    /// Bytes of the first held value that are sent.
    held_sent: usize,
    held_len: usize,
    /// Where the CR LF of a long value begins, while it is all that is left to send.
    long_end: Option<usize>,
    pub(crate) resp3: bool,
}

impl Output {
    /// Writes replies into the buffer.
    pub(crate) fn writer(&mut self) -> Writer<'_> {
        Writer::new(&mut self.buffer, self.resp3)
    }

    /// A bulk string whose bytes are those of a guarded value.
    pub(crate) fn value(&mut self, value: ReadGuard) {
        let begin = self.buffer.len();
        let after_value = self.held.back().is_some_and(|held| held.at + 2 == begin);
        self.writer().bulk_header(value.len() as u64);
        self.held_len += value.len();
        let at = self.buffer.len();
        let heading_len = at - begin + if after_value { 2 } else { 0 };
        self.held.push_back(Held { at, heading_len, after_value, value });
        self.writer().bulk_end();
    }

    /// The framing of a large value, if that is exactly what comes next: its heading, or what ends the last one.
    pub(crate) fn framing(&self) -> Option<Framing<'_>> {
        let Some(held) = self.held.front() else {
            let bytes = &self.buffer[self.head..];
            let is_end = self.long_end == Some(self.head) && bytes == b"\r\n";
            return is_end.then_some(Framing { bytes, what: What::End });
        };
        let begin = held.at - held.heading_len;
        (self.head == begin && self.held_sent == 0).then(|| Framing {
            bytes: &self.buffer[begin..held.at],
            what: What::Heading { len: held.value.len() as u64, after_value: held.after_value },
        })
    }

    /// Bytes that are not sent yet, those of guarded values included.
    pub(crate) fn pending(&self) -> usize {
        self.buffer.len() - self.head + self.held_len
    }

    /// Whether slots are held until they are sent.
    pub(crate) fn holds_values(&self) -> bool {
        !self.held.is_empty()
    }

    /// Bytes that take memory of their own.
    pub(crate) fn buffered(&self) -> usize {
        self.buffer.len() - self.head
    }

    /// Where the buffer ends: for [`Output::forget`].
    pub(crate) fn mark(&self) -> (usize, usize) {
        (self.buffer.len(), self.held.len())
    }

    /// Takes back what was put in since the mark: `CLIENT REPLY OFF`.
    pub(crate) fn forget(&mut self, (buffer, held): (usize, usize)) {
        self.buffer.truncate(buffer);
        for dropped in self.held.drain(held..) {
            self.held_len -= dropped.value.len();
        }
    }

    /// Takes over all that another has to send, of which nothing was sent yet.
    pub(crate) fn append(&mut self, other: Self) {
        let base = self.buffer.len();
        self.buffer.extend_from_slice(&other.buffer);
        self.held_len += other.held_len;
        self.held.extend(other.held.into_iter().map(|held| Held { at: held.at + base, ..held }));
        self.resp3 = other.resp3;
    }

    /// What to send next. `spliced`: stop before framing that is sent by other means.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES_MAX], spliced: bool) -> usize {
        let mut count = 0;
        let mut position = self.head;
        let mut sent = self.held_sent;
        for (index, held) in self.held.iter().enumerate() {
            if count + 2 > SLICES_MAX || (index > 0 && held.after_value && spliced) {
                return count;
            }
            if held.at > position {
                slices[count] = IoSlice::new(&self.buffer[position..held.at]);
                count += 1;
                position = held.at;
            }
            let rest = &held.value.bytes()[sent..];
            sent = 0;
            if rest.len() > PIECE_LEN_MAX {
                slices[count] = IoSlice::new(&rest[..PIECE_LEN_MAX]);
                return count + 1;
            }
            slices[count] = IoSlice::new(rest);
            count += 1;
            if spliced && self.ends_long(held) {
                return count;
            }
        }
        if position < self.buffer.len() && count < SLICES_MAX {
            slices[count] = IoSlice::new(&self.buffer[position..]);
            count += 1;
        }
        count
    }

    /// Whether nothing but its CR LF follows this value, and it is long enough for that to be spliced.
    fn ends_long(&self, held: &Held) -> bool {
        held.value.len() >= END_SPLICED_LEN_MIN && held.at + 2 == self.buffer.len()
    }

    /// The socket took `count` bytes.
    pub(crate) fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let until = self.held.front().map_or(self.buffer.len(), |held| held.at);
            if self.head < until {
                let step = count.min(until - self.head);
                self.head += step;
                count -= step;
                continue;
            }
            let held = self.held.front().expect("no more is sent than was put in");
            let left = held.value.len() - self.held_sent;
            let step = count.min(left);
            self.held_sent += step;
            count -= step;
            self.held_len -= step;
            if step == left {
                self.long_end = self.ends_long(held).then_some(held.at);
                self.held.pop_front();
                self.held_sent = 0;
            }
        }
        // An empty value has nothing to take.
        while self.held.front().is_some_and(|held| held.value.is_empty() && held.at <= self.head) {
            self.held.pop_front();
        }
        if self.pending() == 0 {
            self.head = 0;
            self.held.clear();
            self.long_end = None;
            if self.buffer.capacity() > BUFFER_KEPT_MAX {
                self.buffer = BytesMut::new();
            } else {
                self.buffer.clear();
            }
        }
    }
}
