//! One RESP connection: requests out, replies in, over a socket or a ring.
//!
//! Role: knows which replies are still owed and which of them nobody waits for, so that a request whose answer does not
//! matter can travel with another one. A large bulk goes from the caller's memory to the wire and back without a copy in
//! between.
//!
//! Invariants:
//! - Replies are taken in the order of the requests.
//! - Every wait ends at the deadline it was given. After an error that [`ClientError::breaks_connection`] the link is
//!   out of step; its owner drops it.
//! - What is sent and not answered stays small enough for both sides' buffers, or replies are read while sending.

use crate::ClientError;
use crate::scan::{ScanError, Scanner, Unexpected, Walk};
use bytes::BytesMut;
use socket2::SockRef;
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use transport::shm::{BlockingRing, Need, recv_with_fds, send_with_fds};
use transport::tcp::channel::Channel;

/// From this length on a value is sent from, and received into, the caller's own memory.
pub(crate) const DIRECT_LEN_MIN: usize = 16 << 10;

/// Room for replies to begin with, and most that is read ahead.
const INBOX_LEN: usize = 64 << 10;

/// What carries the bytes.
#[derive(Debug)]
pub(crate) enum Wire {
    Tcp(Channel),
    Unix(UnixStream),
    Ring(Box<BlockingRing>),
}

/// Where a bulk should go.
#[derive(Debug)]
pub(crate) enum Place<'a> {
    /// Into the start of this.
    Buffer(&'a mut [u8]),
    /// Instead of what this holds.
    Vec(&'a mut Vec<u8>),
}

impl Place<'_> {
    fn room(&mut self, len: usize) -> Result<&mut [u8], ClientError> {
        match self {
            Self::Buffer(buffer) => {
                let has = buffer.len();
                buffer.get_mut(..len).ok_or(ClientError::BufferTooSmall { needed: len as u64, has })
            }
            Self::Vec(value) => {
                value.clear();
                value.resize(len, 0);
                Ok(value)
            }
        }
    }
}

/// Until when a call may wait, and how long that was when it began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    pub(crate) span: Duration,
}

impl Deadline {
    pub(crate) fn after(span: Duration) -> Self {
        Self { at: Instant::now() + span, span }
    }
}

/// One RESP connection.
#[derive(Debug)]
pub(crate) struct Link {
    wire: Wire,
    address: Arc<str>,
    /// Requests to be sent.
    out: BytesMut,
    /// For each request whose reply has not been taken: whether somebody waits for it.
    owed: VecDeque<bool>,
    /// Bytes received: those from `start` to `end` are to be looked at.
    inbox: Vec<u8>,
    start: usize,
    end: usize,
    /// Length of the reply that was handed out last and still lies at `start`.
    taken: usize,
    scanner: Scanner,
    read_timeout: Duration,
    write_timeout: Duration,
}

impl Link {
    pub(crate) fn new(wire: Wire, address: Arc<str>, reply_len_max: usize) -> Self {
        Self {
            wire,
            address,
            out: BytesMut::new(),
            owed: VecDeque::new(),
            inbox: vec![0; INBOX_LEN],
            start: 0,
            end: 0,
            taken: 0,
            scanner: Scanner::new(reply_len_max),
            read_timeout: Duration::ZERO,
            write_timeout: Duration::ZERO,
        }
    }

    pub(crate) fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// The Unix socket, if that is what carries the bytes.
    pub(crate) fn unix(&self) -> Option<&UnixStream> {
        match &self.wire {
            Wire::Unix(stream) => Some(stream),
            Wire::Tcp(_) | Wire::Ring(_) => None,
        }
    }

    /// The server's address, if the bytes go over TCP.
    pub(crate) fn tcp_peer(&self) -> Option<std::net::SocketAddr> {
        match &self.wire {
            Wire::Tcp(stream) => stream.peer_addr().ok(),
            Wire::Unix(_) | Wire::Ring(_) => None,
        }
    }

    /// Adds a request that `encode` writes, to go out with the next [`flush`](Self::flush).
    pub(crate) fn request<T>(&mut self, encode: impl FnOnce(&mut BytesMut) -> T) -> T {
        self.owed.push_back(true);
        encode(&mut self.out)
    }

    /// Adds a request whose reply nobody waits for.
    pub(crate) fn request_unheard(&mut self, encode: impl FnOnce(&mut BytesMut)) {
        self.owed.push_back(false);
        encode(&mut self.out);
    }

    /// Bytes of requests that wait to be sent.
    pub(crate) fn out_len(&self) -> usize {
        self.out.len()
    }

    /// Sends the requests.
    pub(crate) fn flush(&mut self, deadline: Deadline) -> Result<(), ClientError> {
        let mut out = std::mem::take(&mut self.out);
        let sent = self.send(&out, deadline);
        out.clear();
        self.out = out;
        sent
    }

    /// Sends the requests, with `payload` inserted at offset `at`.
    pub(crate) fn flush_around(&mut self, payload: &[u8], at: usize, deadline: Deadline) -> Result<(), ClientError> {
        let mut out = std::mem::take(&mut self.out);
        let sent = if matches!(self.wire, Wire::Ring(_)) {
            self.send(&out[..at], deadline)
                .and_then(|()| self.send(payload, deadline))
                .and_then(|()| self.send(&out[at..], deadline))
        } else {
            self.send_slices([&out[..at], payload, &out[at..]], deadline)
        };
        out.clear();
        self.out = out;
        sent
    }

    /// Sends the one request that waits together with `fds`, and takes its reply's descriptors.
    pub(crate) fn exchange_fds(
        &mut self,
        fds: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<(Walk<'_>, Vec<OwnedFd>), ClientError> {
        self.arm(deadline)?;
        let mut out = std::mem::take(&mut self.out);
        let sent =
            self.unix().map_or(Err(io::ErrorKind::Unsupported.into()), |socket| send_with_fds(socket, &out, fds));
        let sent = sent.map_err(|source| self.io_error(deadline, source))?;
        self.send(&out[sent..], deadline)?;
        out.clear();
        self.out = out;
        let mut arrived = Vec::new();
        let len = self.next_len(deadline, Some(&mut arrived))?;
        self.taken = len;
        Ok((self.scanner.walk(&self.inbox[self.start..self.start + len]), arrived))
    }

    /// Waits for the next reply that somebody waits for. Its bytes stay until the next call.
    pub(crate) fn next(&mut self, deadline: Deadline) -> Result<Walk<'_>, ClientError> {
        self.next_bytes(deadline).map(|(walk, _)| walk)
    }

    /// As [`next`](Self::next), with the reply's own bytes.
    pub(crate) fn next_bytes(&mut self, deadline: Deadline) -> Result<(Walk<'_>, &[u8]), ClientError> {
        let len = self.next_len(deadline, None)?;
        self.taken = len;
        let reply = &self.inbox[self.start..self.start + len];
        Ok((self.scanner.walk(reply), reply))
    }

    /// As [`next`](Self::next), for a reply that should be a bulk or a null: its bytes go into `place`, straight from
    /// the wire if they are many. The length, or `None` for a null.
    ///
    /// A buffer's own length is taken for the length that the bulk most likely has; then even its first bytes are not
    /// copied. One that is too short is an error after which the connection is still in step.
    pub(crate) fn next_bulk(&mut self, mut place: Place<'_>, deadline: Deadline) -> Result<Option<usize>, ClientError> {
        self.skip_unheard(deadline, None)?;
        self.drop_taken();
        if self.start == self.end {
            match &mut place {
                Place::Buffer(into) if into.len() >= DIRECT_LEN_MIN => {
                    if let Some(len) = self.guessed_bulk(into, deadline)? {
                        self.owed.pop_front();
                        return Ok(Some(len));
                    }
                }
                // Enough for the header and a small value; the rest of a large one goes straight to its place.
                Place::Buffer(_) | Place::Vec(_) => self.fill(deadline, DIRECT_LEN_MIN, None)?,
            }
        }
        let Some((len, header_len)) = self.bulk_header(deadline)? else {
            // Something else than a large bulk: the usual way, and then a copy.
            let address = Arc::clone(&self.address);
            let mut walk = self.next(deadline)?;
            if walk.is_null() {
                return Ok(None);
            }
            let bytes = walk_check(walk).and_then(|()| walk.bytes().map_err(|what| unexpected(&address, what)))?;
            place.room(bytes.len())?.copy_from_slice(bytes);
            return Ok(Some(bytes.len()));
        };
        self.start += header_len;
        let into = match place.room(len) {
            Ok(into) => into,
            Err(error) => {
                self.discard(len + 2, deadline)?;
                self.owed.pop_front();
                return Err(error);
            }
        };
        let ahead = (self.end - self.start).min(len);
        into[..ahead].copy_from_slice(&self.inbox[self.start..self.start + ahead]);
        self.start += ahead;
        self.read_exact(&mut into[ahead..], deadline)?;
        self.bulk_end(deadline)?;
        self.owed.pop_front();
        Ok(Some(len))
    }

    /// Receives a bulk of exactly `into.len()` bytes in place. If it is something else, what came lies in the inbox.
    fn guessed_bulk(&mut self, into: &mut [u8], deadline: Deadline) -> Result<Option<usize>, ClientError> {
        let mut expected = [0u8; 24];
        let expected_len = {
            let mut rest = &mut expected[..];
            // 20 digits at most.
            write!(rest, "${}\r\n", into.len()).map_err(|source| self.io_error(deadline, source))?;
            let left = rest.len();
            expected.len() - left
        };
        let mut header = [0u8; 24];
        let got = loop {
            self.arm(deadline)?;
            let slices = &mut [IoSliceMut::new(&mut header[..expected_len]), IoSliceMut::new(&mut *into)];
            let read = match &mut self.wire {
                Wire::Tcp(stream) => stream.read_vectored(slices),
                Wire::Unix(stream) => stream.read_vectored(slices),
                Wire::Ring(_) => return Ok(None),
            };
            match read {
                Ok(0) => return Err(self.io_error(deadline, io::ErrorKind::UnexpectedEof.into())),
                Ok(got) => break got,
                Err(error) if self.is_transient(&error, deadline) => {}
                Err(source) => return Err(self.io_error(deadline, source)),
            }
        };
        if got < expected_len || header[..expected_len] != expected[..expected_len] {
            let of_header = got.min(expected_len);
            let of_payload = got - of_header;
            self.reserve(got);
            self.inbox[self.end..self.end + of_header].copy_from_slice(&header[..of_header]);
            self.end += of_header;
            self.inbox[self.end..self.end + of_payload].copy_from_slice(&into[..of_payload]);
            self.end += of_payload;
            return Ok(None);
        }
        self.read_exact(&mut into[got - expected_len..], deadline)?;
        self.bulk_end(deadline)?;
        Ok(Some(into.len()))
    }

    /// Length of the large bulk that begins the inbox, and of its header; `None` if it is something else.
    fn bulk_header(&mut self, deadline: Deadline) -> Result<Option<(usize, usize)>, ClientError> {
        loop {
            let reply = &self.inbox[self.start..self.end];
            if reply.first().is_some_and(|&kind| kind != b'$') {
                return Ok(None);
            }
            if let Some(end) = memchr::memchr(b'\n', reply) {
                let digits = reply[1..end].strip_suffix(b"\r").unwrap_or_default();
                let len = protocol::command::parse_u64(digits).and_then(|len| usize::try_from(len).ok());
                return Ok(len.filter(|&len| len >= DIRECT_LEN_MIN).map(|len| (len, end + 1)));
            }
            if reply.len() > 24 {
                return Ok(None);
            }
            self.fill(deadline, DIRECT_LEN_MIN, None)?;
        }
    }

    fn bulk_end(&mut self, deadline: Deadline) -> Result<(), ClientError> {
        while self.end - self.start < 2 {
            self.fill(deadline, INBOX_LEN, None)?;
        }
        let ends = &self.inbox[self.start..self.start + 2] == b"\r\n";
        self.start += 2;
        if ends { Ok(()) } else { Err(self.protocol_error(ScanError::BulkEnd.to_string())) }
    }

    /// Length of the next reply that somebody waits for, which then begins the inbox.
    fn next_len(&mut self, deadline: Deadline, mut fds: Option<&mut Vec<OwnedFd>>) -> Result<usize, ClientError> {
        self.skip_unheard(deadline, fds.as_deref_mut())?;
        self.drop_taken();
        let len = self.complete(deadline, fds)?;
        self.owed.pop_front();
        Ok(len)
    }

    fn skip_unheard(&mut self, deadline: Deadline, mut fds: Option<&mut Vec<OwnedFd>>) -> Result<(), ClientError> {
        while self.owed.front() == Some(&false) {
            self.drop_taken();
            self.taken = self.complete(deadline, fds.as_deref_mut())?;
            self.owed.pop_front();
        }
        assert!(!self.owed.is_empty(), "a reply is awaited that no request asked for");
        Ok(())
    }

    fn drop_taken(&mut self) {
        self.start += std::mem::take(&mut self.taken);
        self.scanner.reset();
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Receives until the inbox begins with a whole reply, and returns its length. Pushes are passed over.
    fn complete(&mut self, deadline: Deadline, mut fds: Option<&mut Vec<OwnedFd>>) -> Result<usize, ClientError> {
        loop {
            let scanned = self.scanner.scan(&self.inbox[self.start..self.end]);
            match scanned.map_err(|error| self.protocol_error(error.to_string()))? {
                Some(len) if self.scanner.is_push() => {
                    self.taken = len;
                    self.drop_taken();
                }
                Some(len) => return Ok(len),
                None => {
                    let wanted = self.scanner.len_wanted().saturating_sub(self.end - self.start);
                    self.fill(deadline, wanted.max(INBOX_LEN), fds.as_deref_mut())?;
                }
            }
        }
    }

    /// Makes room for `more` bytes after `end`.
    fn reserve(&mut self, more: usize) {
        if self.end + more <= self.inbox.len() {
            return;
        }
        self.inbox.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end + more > self.inbox.len() {
            self.inbox.resize(self.end + more, 0);
        }
    }

    /// Receives at least one byte and at most `len_max`.
    fn fill(&mut self, deadline: Deadline, len_max: usize, fds: Option<&mut Vec<OwnedFd>>) -> Result<(), ClientError> {
        // A long reply is announced by its header: no more than is on its way is made room for.
        self.reserve(len_max.min((self.end - self.start).max(INBOX_LEN)));
        let until = self.inbox.len().min(self.end + len_max);
        let (from, until) = (self.end, until);
        let mut into = std::mem::take(&mut self.inbox);
        let got = self.receive(&mut into[from..until], deadline, fds);
        self.inbox = into;
        self.end += got?;
        Ok(())
    }

    fn read_exact(&mut self, mut into: &mut [u8], deadline: Deadline) -> Result<(), ClientError> {
        while !into.is_empty() {
            let got = self.receive(into, deadline, None)?;
            into = &mut into[got..];
        }
        Ok(())
    }

    /// Throws `len` bytes away.
    fn discard(&mut self, len: usize, deadline: Deadline) -> Result<(), ClientError> {
        let mut left = len;
        loop {
            let there = (self.end - self.start).min(left);
            self.start += there;
            left -= there;
            if left == 0 {
                return Ok(());
            }
            (self.start, self.end) = (0, 0);
            self.fill(deadline, INBOX_LEN.min(left), None)?;
        }
    }

    /// Receives at least one byte into `into`.
    fn receive(
        &mut self,
        into: &mut [u8],
        deadline: Deadline,
        fds: Option<&mut Vec<OwnedFd>>,
    ) -> Result<usize, ClientError> {
        if let Wire::Ring(ring) = &mut self.wire {
            loop {
                let got = ring.read(into).map_err(|error| ClientError::ring(&self.address, deadline.span, error))?;
                if got > 0 {
                    return Ok(got);
                }
                ring.wait(Need::Data, deadline.at)
                    .map_err(|error| ClientError::ring(&self.address, deadline.span, error))?;
            }
        }
        let mut fds = fds;
        loop {
            self.arm(deadline)?;
            let got = match (&mut self.wire, fds.as_deref_mut()) {
                (Wire::Unix(stream), Some(fds)) => recv_with_fds(&*stream, into, fds),
                (Wire::Unix(stream), None) => stream.read(into),
                (Wire::Tcp(stream), _) => stream.read(into),
                (Wire::Ring(_), _) => Ok(0),
            };
            match got {
                Ok(0) => return Err(self.io_error(deadline, io::ErrorKind::UnexpectedEof.into())),
                Ok(got) => return Ok(got),
                Err(error) if self.is_transient(&error, deadline) => {}
                Err(source) => return Err(self.io_error(deadline, source)),
            }
        }
    }

    fn send(&mut self, bytes: &[u8], deadline: Deadline) -> Result<(), ClientError> {
        if matches!(self.wire, Wire::Ring(_)) {
            self.send_ring(bytes, deadline)
        } else {
            self.send_slices([bytes], deadline)
        }
    }

    fn send_slices<const N: usize>(&mut self, slices: [&[u8]; N], deadline: Deadline) -> Result<(), ClientError> {
        let mut slices = slices.map(IoSlice::new);
        let mut left = &mut slices[..];
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            self.arm(deadline)?;
            let sent = match &mut self.wire {
                Wire::Tcp(stream) => stream.write_vectored(left),
                Wire::Unix(stream) => stream.write_vectored(left),
                Wire::Ring(_) => Err(io::ErrorKind::Unsupported.into()),
            };
            match sent {
                Ok(0) => return Err(self.io_error(deadline, io::ErrorKind::WriteZero.into())),
                Ok(sent) => IoSlice::advance_slices(&mut left, sent),
                Err(error) if self.is_transient(&error, deadline) => {}
                Err(source) => return Err(self.io_error(deadline, source)),
            }
        }
        Ok(())
    }

    /// Writes to the ring, reading replies while there is no room: the server may be waiting for theirs.
    fn send_ring(&mut self, mut bytes: &[u8], deadline: Deadline) -> Result<(), ClientError> {
        loop {
            let Wire::Ring(ring) = &mut self.wire else { return Ok(()) };
            let to_error = |error| ClientError::ring(&self.address, deadline.span, error);
            let count = ring.write(bytes).map_err(to_error)?;
            bytes = &bytes[count..];
            if bytes.is_empty() {
                return ring.notify().map_err(to_error);
            }
            if count == 0 {
                ring.wait(Need::Either, deadline.at).map_err(to_error)?;
                if ring.available().map_err(to_error)? > 0 {
                    self.fill(deadline, INBOX_LEN, None)?;
                }
            }
        }
    }

    /// Sets the socket's timeouts if what is left differs enough from what was set.
    fn arm(&mut self, deadline: Deadline) -> Result<(), ClientError> {
        let left = deadline.at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.io_error(deadline, io::ErrorKind::TimedOut.into()));
        }
        // A zero would mean none at all.
        let left = left.max(Duration::from_millis(1));
        let fits = |set: Duration| set <= left + left / 8 && set >= left / 2;
        if fits(self.read_timeout) && fits(self.write_timeout) {
            return Ok(());
        }
        let fd = match &self.wire {
            Wire::Tcp(stream) => stream.as_fd(),
            Wire::Unix(stream) => stream.as_fd(),
            Wire::Ring(_) => return Ok(()),
        };
        let socket = SockRef::from(&fd);
        let set = socket.set_read_timeout(Some(left)).and_then(|()| socket.set_write_timeout(Some(left)));
        set.map_err(|source| self.io_error(deadline, source))?;
        (self.read_timeout, self.write_timeout) = (left, left);
        Ok(())
    }

    /// Whether to try again: interrupted, or a timeout that was set shorter than what is left.
    fn is_transient(&mut self, error: &io::Error, deadline: Deadline) -> bool {
        match error.kind() {
            io::ErrorKind::Interrupted => true,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                self.read_timeout = Duration::ZERO;
                Instant::now() < deadline.at
            }
            _ => false,
        }
    }

    fn io_error(&self, deadline: Deadline, source: io::Error) -> ClientError {
        ClientError::io(&self.address, deadline.span, source)
    }

    /// The server said `what`, which it should not have.
    pub(crate) fn protocol_error(&self, what: String) -> ClientError {
        ClientError::Protocol { address: self.address.to_string(), what }
    }
}

/// The error that a reply is, if it is one.
pub(crate) fn walk_check(walk: Walk<'_>) -> Result<(), ClientError> {
    walk.error().map_or(Ok(()), Err)
}

/// The server answered something else than `what` at `address`.
pub(crate) fn unexpected(address: &str, what: Unexpected) -> ClientError {
    ClientError::Protocol { address: address.to_owned(), what: format!("{} was expected", what.0) }
}
