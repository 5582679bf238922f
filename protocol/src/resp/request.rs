//! Requests: finds the arguments of one command in a buffer that grows as bytes arrive.
//!
//! Role: arrays of bulk strings and inline lines to [`Args`]. It copies nothing (an inline line's words excepted) and
//! allocates nothing once its list of arguments has grown to the connection's usual size.
//!
//! Invariants:
//! - `buf` begins at the first byte of the current command in every call between two [`Framer::reset`]s.
//! - A payload is never scanned; an inline line is scanned once; a header line, 24 bytes at most, is read again
//!   only while it is incomplete.
//! - A bulk of [`Limits::stream_len_min`] bytes or more is announced as soon as its header is complete, before any cap
//!   on buffered bytes applies, so that the caller can place it elsewhere.
//! - After an error the connection is out of step and must be closed.

use super::args::{Args, Slot};
use super::{ErrorWord, WireError, inline};

/// Arguments that a framer keeps room for between commands.
const SLOTS_KEPT_MAX: usize = 1024;

/// What a peer may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Arguments of one command, its name included.
    pub args_max: usize,
    /// Bytes of one argument that is buffered.
    pub arg_len_max: usize,
    /// Bytes of any argument, also one that is received elsewhere.
    pub bulk_len_max: u64,
    /// Bytes of an inline line.
    pub inline_len_max: usize,
    /// From this declared length on, a bulk is announced by [`Step::Bulk`].
    pub stream_len_min: usize,
}

impl Default for Limits {
    /// Of an authenticated connection on its defaults.
    fn default() -> Self {
        Self {
            args_max: 1024,
            arg_len_max: 1 << 20,
            bulk_len_max: 512 << 20,
            inline_len_max: 64 << 10,
            stream_len_min: 16 << 10,
        }
    }
}

impl Limits {
    /// Of a connection that has yet to authenticate.
    pub const BEFORE_AUTH: Self = Self {
        args_max: 10,
        arg_len_max: 16 << 10,
        bulk_len_max: 16 << 10,
        inline_len_max: 16 << 10,
        stream_len_min: usize::MAX,
    };
}

/// What [`Framer::poll`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// More bytes are needed.
    Incomplete,
    /// A command is complete. It may have no arguments (an empty line, `*0`): then there is nothing to execute.
    Command {
        /// Bytes of `buf` to drain once the arguments are no longer needed.
        consumed: usize,
    },
    /// A large argument begins; [`Framer::take_bulk`] or [`Framer::buffer_bulk`] decides where it goes.
    Bulk {
        /// Its position; [`Framer::args`] has those before it.
        arg: usize,
        /// Its declared length.
        len: u64,
        /// Offset in `buf` of its first byte.
        at: usize,
    },
}

/// Why a request cannot be understood. The connection is out of step: reply if there is a reply, then close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The array header is no plain number or above [`Limits::args_max`].
    #[error("Protocol error: invalid multibulk length")]
    InvalidMultibulkLength,
    /// An element of the array is no bulk string.
    #[error("Protocol error: expected '$', got '{}'", .got.escape_ascii())]
    ExpectedBulk {
        /// Its first byte.
        got: u8,
    },
    /// The bulk header is no plain number or above [`Limits::bulk_len_max`] or [`Limits::arg_len_max`].
    #[error("Protocol error: invalid bulk length")]
    InvalidBulkLength,
    /// The payload is not followed by CR LF.
    #[error("Protocol error: a bulk does not end in CR LF where its length says")]
    MissingBulkEnd,
    /// The inline line is above [`Limits::inline_len_max`].
    #[error("Protocol error: too big inline request")]
    LongInline,
    /// A quote in the inline line is not closed, or not at the end of its word.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// The line is HTTP: somebody's browser was sent here. Nothing is replied.
    #[error("the line is HTTP")]
    Http,
}

impl ProtocolError {
    /// What to answer before closing; nothing to HTTP.
    pub fn reply(self) -> Option<WireError> {
        match self {
            Self::Http => None,
            Self::InvalidMultibulkLength
            | Self::ExpectedBulk { .. }
            | Self::InvalidBulkLength
            | Self::MissingBulkEnd
            | Self::LongInline
            | Self::UnbalancedQuotes => Some(WireError::new(ErrorWord::Err, self.to_string())),
        }
    }
}

/// Where the next byte to look at belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the first byte of a command.
    Start,
    /// In an inline line, of which `scanned` bytes hold no line end.
    Inline { scanned: usize },
    /// At the header of the next bulk.
    Header,
    /// A large bulk was announced; its payload begins at `pos`.
    Announced { len: u64 },
    /// In a payload that is buffered and begins at `pos`.
    Payload { len: usize },
    /// At the CR LF of a payload that went elsewhere.
    TakenEnd,
}

/// Reads one command after another from a growing buffer.
#[derive(Debug)]
pub struct Framer {
    limits: Limits,
    state: State,
    /// Offset of the next byte to look at.
    pos: usize,
    /// Arguments of the current command, those to come included; 0 before its header.
    declared: usize,
    slots: Vec<Slot>,
    /// Words of an inline command.
    text: Vec<u8>,
    /// Whether the current command's words lie in `text`.
    inline: bool,
}

impl Framer {
    /// At the start of a command.
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::Start, pos: 0, declared: 0, slots: Vec::new(), text: Vec::new(), inline: false }
    }

    /// Changes the caps, from the next header on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The caps in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The arguments found so far in `buf`, which is what [`poll`](Self::poll) last saw.
    #[inline]
    pub fn args<'a>(&'a self, buf: &'a [u8]) -> Args<'a> {
        Args::new(if self.inline { &self.text } else { buf }, &self.slots)
    }

    /// Arguments found so far.
    pub fn arg_count(&self) -> usize {
        self.slots.len()
    }

    /// Arguments that the command says it has; 0 while its header is incomplete.
    pub fn arg_count_declared(&self) -> usize {
        self.declared
    }

    /// Whether a command has begun: a connection that closes now closes in the middle of a request.
    pub fn is_mid_command(&self) -> bool {
        self.state != State::Start
    }

    /// How long `buf` must at least become before polling again can find anything; 0 where any byte may do.
    pub fn buf_len_wanted(&self) -> usize {
        match self.state {
            State::Payload { len } => self.pos + len + 2,
            State::TakenEnd => self.pos + 2,
            State::Start | State::Inline { .. } | State::Header | State::Announced { .. } => 0,
        }
    }

    /// Looks on in `buf`, which begins where the current command begins and has only grown since the last call, or
    /// lost the payload that was taken.
    ///
    /// # Errors
    /// [`ProtocolError`]; the connection must be closed.
    pub fn poll(&mut self, buf: &[u8]) -> Result<Step, ProtocolError> {
        loop {
            match self.state {
                State::Start => match buf.first() {
                    None => return Ok(Step::Incomplete),
                    Some(b'*') => {
                        let Some((count, next)) = header(buf, 0, ProtocolError::InvalidMultibulkLength)? else {
                            return Ok(Step::Incomplete);
                        };
                        self.declared = usize::try_from(count)
                            .ok()
                            .filter(|&count| count <= self.limits.args_max)
                            .ok_or(ProtocolError::InvalidMultibulkLength)?;
                        self.pos = next;
                        self.state = State::Header;
                    }
                    Some(_) => self.state = State::Inline { scanned: 0 },
                },
                State::Inline { scanned } => return self.poll_inline(buf, scanned),
                State::Header => {
                    if self.slots.len() == self.declared {
                        return Ok(Step::Command { consumed: self.pos });
                    }
                    match buf.get(self.pos) {
                        None => return Ok(Step::Incomplete),
                        Some(b'$') => {}
                        Some(&got) => return Err(ProtocolError::ExpectedBulk { got }),
                    }
                    let Some((len, next)) = header(buf, self.pos, ProtocolError::InvalidBulkLength)? else {
                        return Ok(Step::Incomplete);
                    };
                    if len > self.limits.bulk_len_max {
                        return Err(ProtocolError::InvalidBulkLength);
                    }
                    self.pos = next;
                    if len >= self.limits.stream_len_min as u64 {
                        self.state = State::Announced { len };
                    } else {
                        self.state = State::Payload { len: self.buffered_len(len)? };
                    }
                }
                State::Announced { len } => return Ok(Step::Bulk { arg: self.slots.len(), len, at: self.pos }),
                State::Payload { len } => {
                    let end = self.pos + len;
                    let Some(line_end) = buf.get(end..end + 2) else { return Ok(Step::Incomplete) };
                    if line_end != b"\r\n" {
                        return Err(ProtocolError::MissingBulkEnd);
                    }
                    self.slots.push(Slot { at: self.pos, len: len as u64, taken: false });
                    self.pos = end + 2;
                    self.state = State::Header;
                }
                State::TakenEnd => {
                    let Some(line_end) = buf.get(self.pos..self.pos + 2) else { return Ok(Step::Incomplete) };
                    if line_end != b"\r\n" {
                        return Err(ProtocolError::MissingBulkEnd);
                    }
                    self.pos += 2;
                    self.state = State::Header;
                }
            }
        }
    }

    /// The announced payload is received elsewhere: the caller removes from the buffer whatever of it lies at
    /// [`Step::Bulk::at`], and what comes next there is its CR LF.
    ///
    /// # Panics
    /// If no bulk is announced.
    pub fn take_bulk(&mut self) {
        let State::Announced { len } = self.state else { panic!("no bulk is announced: {:?}", self.state) };
        self.slots.push(Slot { at: self.pos, len, taken: true });
        self.state = State::TakenEnd;
    }

    /// The announced payload is an ordinary argument.
    ///
    /// # Errors
    /// [`ProtocolError::InvalidBulkLength`] above [`Limits::arg_len_max`].
    ///
    /// # Panics
    /// If no bulk is announced.
    pub fn buffer_bulk(&mut self) -> Result<(), ProtocolError> {
        let State::Announced { len } = self.state else { panic!("no bulk is announced: {:?}", self.state) };
        self.state = State::Payload { len: self.buffered_len(len)? };
        Ok(())
    }

    /// Forgets the current command; the buffer now begins with the next one.
    pub fn reset(&mut self) {
        self.state = State::Start;
        self.pos = 0;
        self.declared = 0;
        self.inline = false;
        self.slots.clear();
        self.text.clear();
        if self.slots.capacity() > SLOTS_KEPT_MAX {
            self.slots.shrink_to(SLOTS_KEPT_MAX);
        }
    }

    fn poll_inline(&mut self, buf: &[u8], scanned: usize) -> Result<Step, ProtocolError> {
        let Some(found) = memchr::memchr(b'\n', &buf[scanned..]) else {
            if buf.len() > self.limits.inline_len_max {
                return Err(ProtocolError::LongInline);
            }
            self.state = State::Inline { scanned: buf.len() };
            return Ok(Step::Incomplete);
        };
        let end = scanned + found;
        if end > self.limits.inline_len_max {
            return Err(ProtocolError::LongInline);
        }
        let line = &buf[..end];
        inline::split(line.strip_suffix(b"\r").unwrap_or(line), self.limits.args_max, &mut self.text, &mut self.slots)?;
        self.inline = true;
        self.declared = self.slots.len();
        self.pos = end + 1;
        self.state = State::Header;
        Ok(Step::Command { consumed: self.pos })
    }

    fn buffered_len(&self, len: u64) -> Result<usize, ProtocolError> {
        usize::try_from(len).ok().filter(|&len| len <= self.limits.arg_len_max).ok_or(ProtocolError::InvalidBulkLength)
    }
}

/// Reads the number after the type byte at `at` and returns it with the offset after its CR LF; `None` if the line is
/// incomplete. Digits only: no sign, no leading zero.
#[inline]
fn header(buf: &[u8], at: usize, error: ProtocolError) -> Result<Option<(u64, usize)>, ProtocolError> {
    let line = &buf[at + 1..];
    // Nearly every header has one or two digits and is whole.
    match line {
        [units @ b'0'..=b'9', b'\r', b'\n', ..] => return Ok(Some((u64::from(units - b'0'), at + 4))),
        [tens @ b'1'..=b'9', units @ b'0'..=b'9', b'\r', b'\n', ..] => {
            return Ok(Some((u64::from(tens - b'0') * 10 + u64::from(units - b'0'), at + 5)));
        }
        _ => {}
    }
    let mut value = 0u64;
    for (i, &byte) in line.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                if i > 0 && value == 0 {
                    return Err(error);
                }
                value =
                    value.checked_mul(10).and_then(|value| value.checked_add(u64::from(byte - b'0'))).ok_or(error)?;
            }
            b'\r' if i > 0 => {
                return match line.get(i + 1) {
                    None => Ok(None),
                    Some(b'\n') => Ok(Some((value, at + i + 3))),
                    Some(_) => Err(error),
                };
            }
            _ => return Err(error),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::{Arg, Encoder};
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits =
        Limits { args_max: 8, arg_len_max: 64, bulk_len_max: 1024, inline_len_max: 64, stream_len_min: 32 };

    /// A command as it came: a word, or the length of a payload that was taken.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Word {
        Bytes(Vec<u8>),
        Taken(u64),
    }

    /// Feeds `input` in pieces of at most `piece` bytes and returns the commands, up to an error. Takes every announced
    /// bulk that `take` says to take, and buffers the others.
    fn run(input: &[u8], piece: usize, take: bool) -> (Vec<Vec<Word>>, Option<ProtocolError>) {
        let mut framer = Framer::new(LIMITS);
        let (mut buf, mut commands, mut dropping) = (Vec::new(), Vec::new(), 0);
        for chunk in input.chunks(piece.max(1)) {
            buf.extend_from_slice(chunk);
            loop {
                if dropping > 0 {
                    let at = framer.pos;
                    let n = dropping.min(buf.len() - at);
                    buf.drain(at..at + n);
                    dropping -= n;
                    if dropping > 0 {
                        break;
                    }
                }
                match framer.poll(&buf) {
                    Err(error) => return (commands, Some(error)),
                    Ok(Step::Incomplete) => {
                        let wanted = framer.buf_len_wanted();
                        assert!(wanted == 0 || wanted > buf.len(), "asks for what is there");
                        break;
                    }
                    Ok(Step::Bulk { arg, len, at }) => {
                        assert_eq!(framer.args(&buf).len(), arg);
                        assert!(at <= buf.len());
                        if take {
                            framer.take_bulk();
                            dropping = usize::try_from(len).expect("small");
                        } else if let Err(error) = framer.buffer_bulk() {
                            return (commands, Some(error));
                        }
                    }
                    Ok(Step::Command { consumed }) => {
                        commands.push(
                            framer
                                .args(&buf)
                                .iter()
                                .map(|arg| match arg {
                                    Arg::Bytes(bytes) => Word::Bytes(bytes.to_vec()),
                                    Arg::Taken { len } => Word::Taken(len),
                                })
                                .collect(),
                        );
                        buf.drain(..consumed);
                        framer.reset();
                    }
                }
            }
        }
        (commands, None)
    }

    fn words(all: &[&str]) -> Vec<Word> {
        all.iter().map(|word| Word::Bytes(word.as_bytes().to_vec())).collect()
    }

    #[test]
    fn commands_are_found_however_they_arrive() {
        let input =
            b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n*0\r\n\r\nset k \"a b\"\n*1\r\n$0\r\n\r\n*3\r\n$3\r\nSET\r\n";
        for piece in 1..input.len() + 1 {
            let (commands, error) = run(input, piece, true);
            assert_eq!(error, None);
            assert_eq!(
                commands,
                [words(&["GET", "k"]), words(&["PING"]), vec![], vec![], words(&["set", "k", "a b"]), words(&[""])],
                "in pieces of {piece}"
            );
        }
    }

    #[test]
    fn a_large_value_is_announced_and_taken_or_buffered() {
        let value = "x".repeat(40);
        let input = format!("*4\r\n$3\r\nSET\r\n$1\r\nk\r\n$40\r\n{value}\r\n$2\r\nNX\r\nPING\r\n");
        for piece in 1..input.len() + 1 {
            let (commands, error) = run(input.as_bytes(), piece, true);
            assert_eq!(error, None, "in pieces of {piece}");
            let mut taken = words(&["SET", "k", "", "NX"]);
            taken[2] = Word::Taken(40);
            assert_eq!(commands, [taken, words(&["PING"])], "in pieces of {piece}");
            let (commands, error) = run(input.as_bytes(), piece, false);
            assert_eq!(error, None, "in pieces of {piece}");
            assert_eq!(commands, [words(&["SET", "k", &value, "NX"]), words(&["PING"])]);
        }
    }

    #[test]
    fn an_announcement_is_repeated_until_it_is_answered() {
        let mut framer = Framer::new(LIMITS);
        let buf = b"*1\r\n$100\r\n";
        let bulk = Step::Bulk { arg: 0, len: 100, at: buf.len() };
        assert_eq!(framer.poll(buf), Ok(bulk));
        assert_eq!(framer.poll(buf), Ok(bulk));
        assert_eq!(framer.buffer_bulk(), Err(ProtocolError::InvalidBulkLength), "above arg_len_max");
    }

    #[test]
    fn malformed_requests_are_refused() {
        use ProtocolError::*;
        let check = |input: &str, expected: ProtocolError| {
            for piece in [1, 3, input.len()] {
                assert_eq!(run(input.as_bytes(), piece, true), (vec![], Some(expected)), "{input:?} by {piece}");
            }
        };
        for count in ["-1", "-10", "01", "00", "+1", "9", "18446744073709551616", "99999999999999999999", "1a", "1 "] {
            check(&format!("*{count}\r\n"), InvalidMultibulkLength);
        }
        check("*\r\n", InvalidMultibulkLength);
        check("*1\rx", InvalidMultibulkLength);
        for len in ["-1", "01", "+1", "1025", "18446744073709551616", "1a", "", "1\r"] {
            check(&format!("*1\r\n${len}\r\n"), InvalidBulkLength);
        }
        check("*1\r\n*1\r\n$4\r\nPING\r\n", ExpectedBulk { got: b'*' });
        check("*1\r\n:1\r\n", ExpectedBulk { got: b':' });
        check("*1\r\n\r\n", ExpectedBulk { got: b'\r' });
        check("*1\r\n$4\r\nPINGxx", MissingBulkEnd);
        check("*1\r\n$4\r\nPING\n\n", MissingBulkEnd);
        check(&format!("*1\r\n$40\r\n{}xx", "v".repeat(40)), MissingBulkEnd);
        check(&"x".repeat(66), LongInline);
        check(&format!("{}\r\n", "x".repeat(66)), LongInline);
        check("set k 'v\r\n", UnbalancedQuotes);
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Http);
        check("Host: a\r\n", Http);
    }

    #[test]
    fn errors_are_told_in_the_words_of_redis_and_http_is_told_nothing() {
        let reply = |error: ProtocolError| error.reply().map(|reply| reply.to_string());
        assert_eq!(
            reply(ProtocolError::ExpectedBulk { got: b'\r' }).as_deref(),
            Some("ERR Protocol error: expected '$', got '\\r'")
        );
        assert_eq!(reply(ProtocolError::InvalidBulkLength).as_deref(), Some("ERR Protocol error: invalid bulk length"));
        assert_eq!(reply(ProtocolError::Http), None);
    }

    #[test]
    fn a_header_that_never_ends_is_refused_early() {
        let mut framer = Framer::new(LIMITS);
        assert_eq!(framer.poll(&[b"*".as_slice(), &[b'1'; 30]].concat()), Err(ProtocolError::InvalidMultibulkLength));
        let mut framer = Framer::new(LIMITS);
        assert_eq!(framer.poll(b"*1\r\n$1"), Ok(Step::Incomplete));
        assert_eq!(framer.poll(b"*1\r\n$111111"), Ok(Step::Incomplete));
    }

    proptest! {
        /// Whatever arrives, in whatever pieces: the same commands, the same error.
        #[test]
        fn pieces_do_not_matter(input in prop::collection::vec(prop::sample::select(b"*$0123 \r\n\"x'-".to_vec()), 0..60), piece in 1usize..10) {
            prop_assert_eq!(run(&input, piece, true), run(&input, usize::MAX >> 1, true));
        }

        /// What a client writes is what is read.
        #[test]
        fn requests_read_back(all in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..31), 1..8), piece in 1usize..40) {
            let mut out = bytes::BytesMut::new();
            Encoder::encode(&mut out, |out| for word in &all { out.word(word); });
            let (commands, error) = run(&out, piece, true);
            prop_assert_eq!(error, None);
            prop_assert_eq!(commands, vec![all.into_iter().map(Word::Bytes).collect::<Vec<_>>()]);
        }
    }
}
