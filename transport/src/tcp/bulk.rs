//! One bulk connection as a client's thread uses it: blocking, with a deadline on everything.
//!
//! Invariants:
//! - A payload goes from the caller's memory to the socket and back without a copy in between.
//! - At most [`FRAMES_IN_FLIGHT_MAX`] requests are unanswered, so that neither side can block the other for ever.
//! - After an error that leaves the stream out of step the connection refuses everything. A refusal by the server does
//!   not: it is that piece's answer.

use super::channel::{Channel, Wrap};
use super::frame::{FrameError, HEADER_LEN, Op, PIECE_LEN_MAX, Request, RequestHeader, ResponseHeader, Status, Token};
use protocol::base::{Crc, Generation, GrantId, LeaseId};
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Most requests sent and not answered.
pub const FRAMES_IN_FLIGHT_MAX: usize = 64;

/// Why a bulk connection failed, or refused what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// No connection could be made.
    #[error("connect to {addr}")]
    Connect {
        /// Where to.
        addr: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The deadline came first. The connection is of no further use: an answer may be under way.
    #[error("deadline passed")]
    Timeout,
    /// The connection broke, now or earlier.
    #[error("connection broken")]
    Broken(#[source] io::Error),
    /// The server sent something else than an answer.
    #[error("answer")]
    Frame(#[from] FrameError),
    /// The server answered something else than was asked.
    #[error("answer out of step: {0}")]
    OutOfStep(&'static str),
    /// The server refused. The connection can be used on.
    #[error("{0}")]
    Refused(Status),
}

/// Bytes to write into a granted slot.
#[derive(Debug, Clone, Copy)]
pub struct WritePiece<'a> {
    /// The right to.
    pub grant: GrantId,
    /// Bytes from the payload's start.
    pub offset: u64,
    /// What to write.
    pub bytes: &'a [u8],
    /// Of `bytes`, to be checked on arrival. Sent only if they fit one frame; `COMMIT` checks the whole either way.
    pub crc: Option<Crc>,
}

/// Bytes to read from a leased object.
#[derive(Debug)]
pub struct ReadPiece<'a> {
    /// The right to.
    pub lease: LeaseId,
    /// Bytes from the payload's start.
    pub offset: u64,
    /// Where to.
    pub bytes: &'a mut [u8],
}

/// What came with bytes that were read: to be compared with the lease before they are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadAnswer {
    /// Of the object.
    pub generation: Generation,
    /// Of the whole object, as it was sealed.
    pub crc: Crc,
}

/// A connection that has said hello.
#[derive(Debug)]
pub struct BulkConnection {
    stream: Channel,
    tag: u64,
    broken: bool,
    /// Bytes received ahead of the header they begin.
    ahead: Vec<u8>,
    read_timeout: Duration,
    write_timeout: Duration,
}

/// One frame of a piece: which piece, from where in it, how many bytes.
#[derive(Clone, Copy)]
struct Part {
    piece: usize,
    start: usize,
    len: usize,
}

impl BulkConnection {
    /// Connects and says hello.
    ///
    /// # Errors
    /// [`BulkError::Refused`] if the token opens no session, else as the connection fails.
    pub fn connect(addr: SocketAddr, token: Token, deadline: Instant) -> Result<Self, BulkError> {
        Self::connect_in(addr, token, None, deadline)
    }

    /// Connects, wraps the connection if there is a way to, and says hello.
    ///
    /// # Errors
    /// As [`BulkConnection::connect`].
    pub fn connect_in(
        addr: SocketAddr,
        token: Token,
        wrap: Option<&dyn Wrap>,
        deadline: Instant,
    ) -> Result<Self, BulkError> {
        let left = left_until(deadline)?;
        let connect = |source| BulkError::Connect { addr, source };
        let stream = TcpStream::connect_timeout(&addr, left).map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;
        let stream = Channel::open(stream, wrap, left_until(deadline)?).map_err(connect)?;
        let (read_timeout, write_timeout) = (Duration::ZERO, Duration::ZERO);
        let mut connection = Self { stream, tag: 0, broken: false, ahead: Vec::new(), read_timeout, write_timeout };
        connection.exchange(Request::Hello { token }, deadline)?;
        Ok(connection)
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// As the connection fails.
    pub fn ping(&mut self, deadline: Instant) -> Result<(), BulkError> {
        self.exchange(Request::Ping, deadline)
    }

    /// Whether the connection is of no further use.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Writes `bytes` at `offset` of a granted payload, and returns when they lie there.
    ///
    /// # Errors
    /// [`BulkError::Refused`] with the server's reason, else as the connection fails.
    pub fn write(&mut self, grant: GrantId, offset: u64, bytes: &[u8], deadline: Instant) -> Result<(), BulkError> {
        let answers = self.write_batch(&[WritePiece { grant, offset, bytes, crc: None }], deadline)?;
        answers[0].map(drop).map_err(BulkError::Refused)
    }

    /// Reads `bytes.len()` bytes at `offset` of a leased object.
    ///
    /// # Errors
    /// [`BulkError::Refused`] with the server's reason, else as the connection fails.
    pub fn read(
        &mut self,
        lease: LeaseId,
        offset: u64,
        bytes: &mut [u8],
        deadline: Instant,
    ) -> Result<ReadAnswer, BulkError> {
        let answers = self.read_batch(&mut [ReadPiece { lease, offset, bytes }], deadline)?;
        answers[0].map_err(BulkError::Refused)
    }

    /// Writes several pieces without waiting for one before sending the next. Answers are in the pieces' order; one
    /// piece's refusal is that piece's.
    ///
    /// # Errors
    /// As the connection fails; then any of the pieces may or may not have been written.
    pub fn write_batch(
        &mut self,
        pieces: &[WritePiece<'_>],
        deadline: Instant,
    ) -> Result<Vec<Result<Generation, Status>>, BulkError> {
        let parts = parts_of(pieces.iter().map(|piece| piece.bytes.len()));
        let mut answers = vec![Ok(Generation(0)); pieces.len()];
        let mut collect = |this: &mut Self, part: Part, tag: u64| {
            let answer = this.receive(tag, Op::Write, &mut [], deadline)?;
            merge(&mut answers[part.piece], answer, |answer| answer.generation);
            Ok::<(), BulkError>(())
        };
        self.guarded(|this| {
            let first_tag = this.take_tags(parts.len());
            let mut collected = 0;
            for (sent, part) in parts.iter().enumerate() {
                if sent - collected == FRAMES_IN_FLIGHT_MAX {
                    collect(this, parts[collected], first_tag + collected as u64)?;
                    collected += 1;
                }
                let piece = &pieces[part.piece];
                let request = Request::Write {
                    grant: piece.grant,
                    offset: piece.offset + part.start as u64,
                    length: part.len as u64,
                    crc: piece.crc.filter(|_| part.len == piece.bytes.len()),
                };
                let header = RequestHeader { tag: first_tag + sent as u64, request };
                this.send(&header.encode(), &piece.bytes[part.start..part.start + part.len], deadline)?;
            }
            while collected < parts.len() {
                collect(this, parts[collected], first_tag + collected as u64)?;
                collected += 1;
            }
            Ok(())
        })?;
        Ok(answers)
    }

    /// Reads several pieces without waiting for one before asking for the next. Answers are in the pieces' order; one
    /// piece's refusal is that piece's, and leaves its bytes undefined.
    ///
    /// # Errors
    /// As the connection fails; then the bytes of all pieces are undefined.
    pub fn read_batch(
        &mut self,
        pieces: &mut [ReadPiece<'_>],
        deadline: Instant,
    ) -> Result<Vec<Result<ReadAnswer, Status>>, BulkError> {
        let parts = parts_of(pieces.iter().map(|piece| piece.bytes.len()));
        let nothing = ReadAnswer { generation: Generation(0), crc: Crc(0) };
        let mut answers = vec![Ok(nothing); pieces.len()];
        self.guarded(|this| {
            let first_tag = this.take_tags(parts.len());
            let mut asked = 0;
            for (collected, part) in parts.iter().enumerate() {
                // Half the window at a time: one system call asks for many.
                if asked < parts.len() && asked - collected <= FRAMES_IN_FLIGHT_MAX / 2 {
                    let until = parts.len().min(collected + FRAMES_IN_FLIGHT_MAX);
                    let headers: Vec<u8> = (asked..until)
                        .flat_map(|at| {
                            let piece = &pieces[parts[at].piece];
                            let offset = piece.offset + parts[at].start as u64;
                            let request = Request::Read { lease: piece.lease, offset, length: parts[at].len as u64 };
                            RequestHeader { tag: first_tag + at as u64, request }.encode()
                        })
                        .collect();
                    this.send(&headers, &[], deadline)?;
                    asked = until;
                }
                let tag = first_tag + collected as u64;
                let into = &mut pieces[part.piece].bytes[part.start..part.start + part.len];
                let answer = this.receive(tag, Op::Read, into, deadline)?;
                let slot = &mut answers[part.piece];
                let first_part = part.start == 0;
                let before = *slot;
                merge(slot, answer, |answer| ReadAnswer { generation: answer.generation, crc: answer.crc });
                if !first_part && before.is_ok() && slot.is_ok() && *slot != before {
                    return Err(BulkError::OutOfStep("one lease, two objects"));
                }
            }
            Ok(())
        })?;
        Ok(answers)
    }

    fn exchange(&mut self, request: Request, deadline: Instant) -> Result<(), BulkError> {
        let answer = self.guarded(|this| {
            let tag = this.take_tags(1);
            this.send(&RequestHeader { tag, request }.encode(), &[], deadline)?;
            this.receive(tag, request.op(), &mut [], deadline)
        })?;
        if answer.status == Status::Done { Ok(()) } else { Err(BulkError::Refused(answer.status)) }
    }

    /// Runs `work`, and refuses everything later if it fails.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, BulkError>) -> Result<T, BulkError> {
        if self.broken {
            return Err(BulkError::Broken(io::ErrorKind::NotConnected.into()));
        }
        let done = work(self);
        self.broken = done.is_err();
        done
    }

    fn take_tags(&mut self, count: usize) -> u64 {
        let first = self.tag;
        self.tag = first.wrapping_add(count as u64);
        first
    }

    fn send(&mut self, mut header: &[u8], mut payload: &[u8], deadline: Instant) -> Result<(), BulkError> {
        while !header.is_empty() || !payload.is_empty() {
            self.arm_write(deadline)?;
            let sent = match self.stream.write_vectored(&[IoSlice::new(header), IoSlice::new(payload)]) {
                Ok(0) => return Err(BulkError::Broken(io::ErrorKind::WriteZero.into())),
                Ok(sent) => sent,
                Err(error) => {
                    retry_or_fail(error)?;
                    continue;
                }
            };
            let of_header = sent.min(header.len());
            header = &header[of_header..];
            payload = &payload[sent - of_header..];
        }
        Ok(())
    }

    /// Receives the answer to `tag`, its payload straight into `into`.
    fn receive(&mut self, tag: u64, op: Op, into: &mut [u8], deadline: Instant) -> Result<ResponseHeader, BulkError> {
        let mut header = [0; HEADER_LEN];
        let of_header = self.ahead.len().min(HEADER_LEN);
        header[..of_header].copy_from_slice(&self.ahead[..of_header]);
        let of_payload = (self.ahead.len() - of_header).min(into.len());
        into[..of_payload].copy_from_slice(&self.ahead[of_header..of_header + of_payload]);
        self.ahead.drain(..of_header + of_payload);
        let mut got = of_header + of_payload;
        while got < HEADER_LEN {
            let mut places = [IoSliceMut::new(&mut header[got..]), IoSliceMut::new(&mut *into)];
            got += self.receive_some(&mut places, deadline)?;
        }
        let answer = ResponseHeader::decode(&header)?;
        if answer.tag != tag {
            return Err(BulkError::OutOfStep("another request's tag"));
        }
        if answer.op != op {
            return Err(BulkError::OutOfStep("another kind of request"));
        }
        let mut filled = got - HEADER_LEN;
        if answer.length == 0 {
            // What came beyond a refusal begins the next answer.
            self.ahead.splice(0..0, into[..filled].iter().copied());
            return match (into.is_empty(), answer.status) {
                (false, Status::Done) => Err(BulkError::OutOfStep("fewer bytes than asked for")),
                _ => Ok(answer),
            };
        }
        if answer.length != into.len() as u64 {
            return Err(BulkError::OutOfStep("not as many bytes as asked for"));
        }
        while filled < into.len() {
            filled += self.receive_some(&mut [IoSliceMut::new(&mut into[filled..])], deadline)?;
        }
        Ok(answer)
    }

    fn receive_some(&mut self, places: &mut [IoSliceMut<'_>], deadline: Instant) -> Result<usize, BulkError> {
        loop {
            self.arm_read(deadline)?;
            match self.stream.read_vectored(places) {
                Ok(0) => return Err(BulkError::Broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => return Ok(count),
                Err(error) => retry_or_fail(error)?,
            }
        }
    }

    /// Sets the socket's timeout if what is left differs enough from what was set.
    fn arm_read(&mut self, deadline: Instant) -> Result<(), BulkError> {
        let left = left_until(deadline)?;
        if !close_to(self.read_timeout, left) {
            self.stream.set_read_timeout(Some(left)).map_err(BulkError::Broken)?;
            self.read_timeout = left;
        }
        Ok(())
    }

    fn arm_write(&mut self, deadline: Instant) -> Result<(), BulkError> {
        let left = left_until(deadline)?;
        if !close_to(self.write_timeout, left) {
            self.stream.set_write_timeout(Some(left)).map_err(BulkError::Broken)?;
            self.write_timeout = left;
        }
        Ok(())
    }
}

/// Whether a timeout that is set need not be set again: at most an eighth too long, at most a half too short.
fn close_to(set: Duration, left: Duration) -> bool {
    set <= left + left / 8 && set >= left / 2
}

fn left_until(deadline: Instant) -> Result<Duration, BulkError> {
    let left = deadline.saturating_duration_since(Instant::now());
    // A socket takes zero for no timeout at all.
    if left.is_zero() { Err(BulkError::Timeout) } else { Ok(left.max(Duration::from_micros(100))) }
}

/// A timeout that ran out is looked at again: it may have been set shorter than what is left.
fn retry_or_fail(error: io::Error) -> Result<(), BulkError> {
    match error.kind() {
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(()),
        _ => Err(BulkError::Broken(error)),
    }
}

/// The frames that pieces of these lengths take. An empty piece takes one.
fn parts_of(lens: impl Iterator<Item = usize>) -> Vec<Part> {
    let part_len_max = usize::try_from(PIECE_LEN_MAX).expect("64 MiB fit");
    let mut parts = Vec::new();
    for (piece, total) in lens.enumerate() {
        let mut start = 0;
        loop {
            let len = (total - start).min(part_len_max);
            parts.push(Part { piece, start, len });
            start += len;
            if start == total {
                break;
            }
        }
    }
    parts
}

/// A piece is done if all its frames are; else it has the first refusal.
fn merge<T>(slot: &mut Result<T, Status>, answer: ResponseHeader, of: impl FnOnce(ResponseHeader) -> T) {
    if slot.is_ok() {
        *slot = if answer.status == Status::Done { Ok(of(answer)) } else { Err(answer.status) };
    }
}

#[cfg(test)]
mod tests;
