//! Bulk TCP: one-sided reads and writes in frames, applied here.
//!
//! Invariants:
//! - A connection says hello with a session's token first; it ends with the session.
//! - A write is acknowledged when its bytes lie in the slot. The slot stays while they arrive, and not beyond the grant: what
//!   comes later is thrown away. A read that is not taken holds its object little longer than the lease.
//! - The session of a client that came over TLS takes no connection in plain text.
//! - A malformed frame ends the connection; a refused one does not, and its payload is thrown away.
//! - A connection that is inside a frame and does not go on ends.

mod pace;

use crate::node::Node;
use crate::session::Bond;
use crate::tls::HANDSHAKE;
use pace::Pace;
use parking_lot::Mutex;
use protocol::base::{Crc, Instant, LeaseId, Millis};
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use storage::{StoreError, WriteGuard};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use transport::tcp::frame::{HEADER_LEN, Request, RequestHeader, ResponseHeader, Status, Token};

/// Bytes of a write received by one call.
const RECEIVE_LEN_MAX: usize = 256 * 1024;
/// Bytes of a read handed to the socket by one call.
const SEND_LEN_MAX: usize = 1 << 20;

/// Time that a reader gets to take the rest of what it asked for in time, so that it can tell that it is late.
const LATE_READ: Millis = Millis(500);

/// Tokens of bulk sessions, and whose they are.
#[derive(Debug, Default)]
pub(crate) struct BulkSessions {
    tokens: Mutex<HashMap<[u8; 16], Weak<Bond>>>,
    connections: Arc<AtomicUsize>,
}

/// One of the bulk connections that there may be.
#[derive(Debug)]
pub(crate) struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl BulkSessions {
    /// Room for one more connection, if there are fewer than `most`.
    pub(crate) fn seat(&self, most: usize) -> Option<Seat> {
        let seat = Seat(Arc::clone(&self.connections));
        // Dropped, it gives back what was taken.
        (self.connections.fetch_add(1, Ordering::Relaxed) < most).then_some(seat)
    }

    /// Opens a bulk session for a client, or finds the one it has.
    pub(crate) fn open(&self, bond: &Arc<Bond>) -> Token {
        if let Some(token) = bond.token() {
            return token;
        }
        let token = Token::random();
        self.tokens.lock().insert(token.0, Arc::downgrade(bond));
        bond.set_token(Some(token));
        token
    }

    /// Sessions that are open.
    pub(crate) fn len(&self) -> usize {
        self.tokens.lock().len()
    }

    pub(crate) fn forget(&self, token: Token) {
        self.tokens.lock().remove(&token.0);
    }

    fn find(&self, token: Token) -> Option<Arc<Bond>> {
        self.tokens.lock().get(&token.0).and_then(Weak::upgrade).filter(|bond| !bond.is_closed())
    }
}

/// Bytes in both directions, encrypted or not.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Wire for T {}

/// Serves one bulk connection: hello, then frames until it ends. Where there is a certificate, it may begin with a handshake.
pub(crate) async fn serve(node: Arc<Node>, socket: TcpStream, seat: Seat) {
    let patience = node.config.read().progress_ms.duration();
    if !node.tls.has_certificate() {
        return begin(node, socket, false, patience, seat).await;
    }
    let mut first = [0];
    match tokio::time::timeout(patience, socket.peek(&mut first)).await {
        Ok(Ok(1)) if first[0] == HANDSHAKE => {
            let limit = patience;
            if let Some(socket) = node.tls.accept(&node, socket, limit).await {
                begin(node, socket, true, patience, seat).await;
            }
        }
        Ok(Ok(1)) => begin(node, socket, false, patience, seat).await,
        // Gone, or silent for as long as a hello may take.
        Ok(_) | Err(_) => {}
    }
}

/// Takes the hello, and serves the session that it names if it came as that session's client did.
async fn begin<W: Wire>(node: Arc<Node>, mut socket: W, secure: bool, patience: Duration, seat: Seat) {
    let mut pace = Pace::new(patience);
    let Ok(Some(Some(hello))) = pace.step(None, read_header(&mut socket, patience)).await else { return };
    let bond = match hello.request {
        Request::Hello { token } => node.bulk.find(token).filter(|bond| secure || !bond.secure),
        Request::Write { .. } | Request::Read { .. } | Request::Ping => None,
    };
    let mut bulk = Bulk { node, socket, patience, _seat: seat };
    let Some(bond) = bond else {
        let _ = bulk.respond(hello.refused(Status::Denied)).await;
        return;
    };
    let task = tokio::spawn({
        let bond = Arc::clone(&bond);
        async move {
            if let Err(error) = bulk.run(&bond, hello).await {
                tracing::debug!(%error, "bulk connection ended");
            }
        }
    });
    bond.adopt(task.abort_handle());
}

struct Bulk<W> {
    node: Arc<Node>,
    socket: W,
    patience: Duration,
    _seat: Seat,
}

/// What became of a write's payload.
enum Received {
    /// It lies in the slot.
    All(Crc),
    /// The grant ended first, with so many bytes still to come.
    Late { left: u64 },
}

/// The next header; `None` at the end of the stream. There is all the time in the world until its first byte.
async fn read_header<W: Wire>(socket: &mut W, patience: Duration) -> io::Result<Option<RequestHeader>> {
    let mut header = [0; HEADER_LEN];
    let first = socket.read(&mut header).await?;
    if first == 0 {
        return Ok(None);
    }
    if first < HEADER_LEN {
        let rest = socket.read_exact(&mut header[first..]);
        Pace::new(patience).step(None, rest).await?;
    }
    RequestHeader::decode(&header).map(Some).map_err(io::Error::other)
}

fn status(error: &StoreError) -> Status {
    match error {
        StoreError::NoGrant => Status::NoGrant,
        StoreError::NoLease => Status::NoLease,
        StoreError::Busy | StoreError::TooManyUsers => Status::Busy,
        StoreError::Range { .. } | StoreError::TooBig { .. } => Status::TooBig,
        StoreError::Quota { .. } | StoreError::NoSpace { .. } | StoreError::SpillWait { .. } => Status::Quota,
        StoreError::Crc { .. } => Status::Crc,
        StoreError::Exists { .. } | StoreError::Condition | StoreError::KeyLen { .. } => Status::Err,
    }
}

impl<W: Wire> Bulk<W> {
    async fn run(&mut self, bond: &Bond, hello: RequestHeader) -> io::Result<()> {
        self.respond(hello.done()).await?;
        while let Some(header) = read_header(&mut self.socket, self.patience).await? {
            let now = self.node.now_looked();
            match header.request {
                Request::Hello { .. } => {
                    self.respond(header.refused(Status::Denied)).await?;
                    return Ok(());
                }
                Request::Ping => self.respond(header.done()).await?,
                Request::Write { grant, offset, length, crc } => {
                    let answer = match self.node.store.write(now, grant, bond.id, offset, length) {
                        Ok(write) => self.write(header, write, crc).await?,
                        Err(error) => {
                            self.throw_away(length).await?;
                            header.refused(status(&error))
                        }
                    };
                    self.respond(answer).await?;
                }
                Request::Read { lease, offset, length } => {
                    if let Err(error) = self.read(bond, header, now, (lease, offset, length)).await? {
                        self.respond(header.refused(error)).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn respond(&mut self, header: ResponseHeader) -> io::Result<()> {
        let bytes = header.encode();
        let sent = async {
            self.socket.write_all(&bytes).await?;
            self.socket.flush().await
        };
        Pace::new(self.patience).step(None, sent).await.map(drop)
    }

    /// Receives a write's payload into the slot.
    async fn write(
        &mut self,
        header: RequestHeader,
        mut write: WriteGuard,
        claimed: Option<Crc>,
    ) -> io::Result<ResponseHeader> {
        let received = self.receive(&mut write, claimed.is_some()).await?;
        let generation = write.generation();
        drop(write);
        Ok(match received {
            Received::All(actual) if claimed.is_some_and(|claimed| claimed != actual) => header.refused(Status::Crc),
            Received::All(_) => header.written(generation),
            Received::Late { left } => {
                self.throw_away(left).await?;
                header.refused(Status::NoGrant)
            }
        })
    }

    /// A moment of the node's clock, as the runtime counts.
    fn at(&self, moment: Instant) -> tokio::time::Instant {
        tokio::time::Instant::now() + moment.left_at(self.node.now()).duration()
    }

    async fn receive(&mut self, write: &mut WriteGuard, check: bool) -> io::Result<Received> {
        let (mut end, len) = (write.deadline(), write.span().len());
        let mut deadline = self.at(end);
        let mut crc = Crc::default();
        let mut done = 0;
        let mut pace = Pace::new(self.patience);
        while done < len {
            let into = &mut write.bytes_mut()[done..len.min(done + RECEIVE_LEN_MAX)];
            let Some(count) = pace.step(Some(deadline), self.socket.read(into)).await? else {
                // It may have been renewed meanwhile.
                if write.deadline() > end {
                    end = write.deadline();
                    deadline = self.at(end);
                    continue;
                }
                return Ok(Received::Late { left: (len - done) as u64 });
            };
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if check {
                crc = crc.extend(&write.bytes_mut()[done..done + count]);
            }
            done += count;
            pace.moved(count);
            self.node.stats.bulk_in.add(count as u64);
        }
        Ok(Received::All(crc))
    }

    async fn throw_away(&mut self, mut length: u64) -> io::Result<()> {
        let mut waste = vec![0; usize::try_from(length.min(RECEIVE_LEN_MAX as u64)).expect("at most 256 KiB")];
        let mut pace = Pace::new(self.patience);
        while length > 0 {
            let most = usize::try_from(length.min(waste.len() as u64)).expect("at most 256 KiB");
            let count = pace.step(None, self.socket.read(&mut waste[..most])).await?.unwrap_or(0);
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            pace.moved(count);
            length -= count as u64;
        }
        Ok(())
    }

    /// Answers a read with its bytes, or says why not.
    async fn read(
        &mut self,
        bond: &Bond,
        header: RequestHeader,
        now: Instant,
        (lease, offset, length): (LeaseId, u64, u64),
    ) -> io::Result<Result<(), Status>> {
        let value = match self.node.store.read_leased(now, lease, bond.id) {
            Ok(value) => value,
            Err(error) => return Ok(Err(status(&error))),
        };
        let end = offset.checked_add(length).and_then(|end| usize::try_from(end).ok());
        let part = usize::try_from(offset).ok().zip(end).and_then(|(from, to)| value.bytes().get(from..to));
        let Some(bytes) = part else { return Ok(Err(Status::TooBig)) };
        let answer = header.reading(value.generation(), length, value.crc()).encode();
        let mut pace = Pace::new(self.patience);
        let Ok(end) = self.node.store.lease_end(now, lease, bond.id) else { return Ok(Err(Status::NoLease)) };
        let mut late = self.at(end + LATE_READ);
        let mut sent = 0;
        while sent < HEADER_LEN + bytes.len() {
            let head = &answer[sent.min(HEADER_LEN)..];
            let from = sent.saturating_sub(HEADER_LEN);
            let body = &bytes[from..bytes.len().min(from + SEND_LEN_MAX)];
            let slices = [IoSlice::new(head), IoSlice::new(body)];
            let slices = if head.is_empty() { &slices[1..] } else { &slices[..] };
            match pace.step(Some(late), self.socket.write_vectored(slices)).await? {
                Some(0) => return Err(io::ErrorKind::WriteZero.into()),
                Some(count) => {
                    sent += count;
                    pace.moved(count);
                    self.node.stats.bulk_out.add(count as u64);
                }
                // It may have been renewed meanwhile.
                None => match self.node.store.lease_end(self.node.now(), lease, bond.id) {
                    Ok(end) => late = self.at(end + LATE_READ),
                    // Half a frame cannot be taken back.
                    Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "a read was taken too late")),
                },
            }
        }
        // What is encrypted need not be on its way yet.
        pace.step(Some(late + self.patience), self.socket.flush()).await?;
        Ok(Ok(()))
    }
}
