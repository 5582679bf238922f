//! Objects by RDMA: the server reads what is put out of registered memory and writes what is fetched into it; or, where it
//! lends windows, this side does both by itself.
//!
//! Role: the way of bulk bytes of one session ([`RdmaLink`]) over memory that was registered once ([`Adapter`]), and the
//! calls of it that the other modules choose.
//!
//! Invariants:
//! - Registered memory is used by one call at a time, from its start. When a call has returned, nothing that it asked for is
//!   under way: a session that cannot know has ended, and its queue pair is destroyed.
//! - Bytes that arrived are copied out, summed on the way, and proven before anybody sees them.

mod adapter;
mod batch;
mod own;

pub(crate) use adapter::{Adapter, RdmaLink, attach};
pub(crate) use batch::{fetch_batch, put_batch};
pub use own::{Landed, Registered};

use crate::inband;
use crate::lease::{self, Leased};
use crate::link::Deadline;
use crate::put::{Committed, Granted, PutOptions};
use crate::scan::{Unexpected, Walk};
use crate::session::{Bulk, Session};
use crate::verified::{Promise, Proof};
use crate::{ClientError, clock};
use bytes::BytesMut;
use protocol::base::{ByteLen, Crc, Generation, Instant, RawSpan, Via, copy_from, copy_into};
use protocol::command as wire;
use protocol::command::{RemoteMemory, ViaChoice};
use protocol::resp::ErrorWord;
use transport::rdma::{Direction, LinkError, Remote, Transfer};

/// What `GET … INTO` answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pushed {
    generation: Generation,
    length: u64,
    crc: Crc,
    number: u32,
}

impl Pushed {
    pub(crate) fn read(walk: &mut Walk<'_>) -> Result<Self, Unexpected> {
        let (mut generation, mut length, mut crc, mut number) = (None, None, None, None);
        for _ in 0..walk.map()? {
            match walk.bytes()? {
                b"generation" => generation = Some(Generation(walk.unsigned()?)),
                b"length" => length = Some(walk.unsigned()?),
                b"crc" => crc = Crc::parse(walk.bytes()?).ok(),
                b"number" => number = u32::try_from(walk.unsigned()?).ok(),
                _ => walk.skip()?,
            }
        }
        let all = generation.zip(length).zip(crc).zip(number);
        let (((generation, length), crc), number) = all.ok_or(Unexpected("a pushed object"))?;
        Ok(Self { generation, length, crc, number })
    }

    /// What the bytes have to be. They are this side's own: nothing can happen to them any more.
    fn promise(&self) -> Promise {
        Promise { generation: self.generation, length: self.length, crc: self.crc, until: Instant::NEVER }
    }
}

/// The way of bulk bytes, where it is RDMA.
pub(crate) fn link(session: &mut Session) -> Result<&mut RdmaLink, ClientError> {
    match &mut session.bulk {
        Bulk::Rdma(link) => Ok(link),
        Bulk::Shm { .. } | Bulk::Tcp(_) | Bulk::None => Err(ClientError::Unsupported("RDMA")),
    }
}

/// What a transfer that failed means: the session has ended, and the next call makes another.
pub(crate) fn broken(session: &Session, deadline: Deadline, error: LinkError) -> ClientError {
    let address = session.control.address().to_string();
    match error {
        LinkError::Late => ClientError::Timeout { address, deadline: deadline.span },
        LinkError::Failed(_) | LinkError::Ended | LinkError::Device { .. } => {
            ClientError::Disconnected { address, source: std::io::Error::other(error) }
        }
    }
}

/// An answer of the server's: where it says that the RDMA session has ended, that is what happened to the connection.
pub(crate) fn answered<T>(session: &Session, answer: Result<T, ClientError>) -> Result<T, ClientError> {
    answer.map_err(|error| match (&session.bulk, error.word()) {
        (Bulk::Rdma(_), Some(ErrorWord::NoTransport)) => ClientError::Disconnected {
            address: session.control.address().to_string(),
            source: std::io::Error::other(error),
        },
        _ => error,
    })
}

/// Whether an object can go this way: it fits the registered memory.
pub(crate) fn fits(session: &Session, len: usize) -> bool {
    matches!(&session.bulk, Bulk::Rdma(link) if len <= link.adapter.len())
}

/// Bytes of registered memory, each way.
pub(crate) fn room(session: &Session) -> usize {
    match &session.bulk {
        Bulk::Rdma(link) => link.adapter.len(),
        Bulk::Shm { .. } | Bulk::Tcp(_) | Bulk::None => 0,
    }
}

/// Writes a part of what was granted through its window, gathered in registered memory piece by piece.
pub(crate) fn write_granted(
    session: &mut Session,
    (until, to): (Instant, Remote),
    bytes: &[u8],
    deadline: Deadline,
) -> Result<(), ClientError> {
    let adapter = std::sync::Arc::clone(&link(session)?.adapter);
    for (at, piece) in bytes.chunks(adapter.len()).enumerate() {
        if clock::now() >= until {
            return Err(ClientError::Stale("the grant has ended"));
        }
        copy_into(piece, &adapter.out.span.part(0, piece.len()).expect("as long at most"));
        let to = Remote { addr: to.addr.wrapping_add((at * adapter.len()) as u64), ..to };
        transfer(session, Direction::Write, &[adapter.out.transfer(0, piece.len()).with(to)], deadline)?;
    }
    Ok(())
}

/// Puts bytes where the server reads them.
pub(crate) fn stage(session: &mut Session, bytes: &[u8]) -> Result<RemoteMemory, ClientError> {
    let adapter = &link(session)?.adapter;
    let span = adapter.out.span.part(0, bytes.len());
    let has = adapter.len();
    copy_into(bytes, &span.ok_or(ClientError::BufferTooSmall { needed: bytes.len() as u64, has })?);
    Ok(remote_memory(adapter.out.transfer(0, bytes.len()).remote))
}

pub(crate) fn remote_memory(remote: Remote) -> RemoteMemory {
    RemoteMemory { addr: remote.addr, rkey: remote.rkey }
}

/// Writes an object: gathered in registered memory, then moved and published.
pub(crate) fn put(
    session: &mut Session,
    key: &[u8],
    bytes: &[u8],
    options: &PutOptions<'_>,
    deadline: Deadline,
) -> Result<Committed, ClientError> {
    let link = link(session)?;
    let Some(span) = link.adapter.out.span.part(0, bytes.len()) else {
        return inband::put(session.in_band(), key, bytes, options, deadline);
    };
    let crc = copy_into(bytes, &span);
    let from = link.adapter.out.transfer(0, bytes.len());
    publish(session, (key, options), (from, crc), deadline)
}

/// Reserves, moves and publishes what lies in registered memory.
pub(crate) fn publish(
    session: &mut Session,
    (key, options): (&[u8], &PutOptions<'_>),
    (from, crc): (Own, Crc),
    deadline: Deadline,
) -> Result<Committed, ClientError> {
    let asked = clock::now();
    let via = ViaChoice::Only(Via::Rdma);
    let put = wire::Put { key, len: ByteLen(from.length as u64), options: options.wire(via), write: None };
    let granted = session.exchange(|out| put.encode(out), deadline, |walk| Granted::read(walk, asked))?;
    let pull = match granted.remote() {
        Some(remote) => {
            write(session, &granted, (from, remote), deadline)?;
            None
        }
        None => Some(remote_memory(from.remote)),
    };
    let commit = wire::Commit { grant: granted.id, crc, bytes: None, from: None, pull };
    session.exchange(|out| commit.encode(out), deadline, Committed::read)
}

/// Bytes of ours in registered memory.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    region: std::sync::Arc<transport::rdma::Region>,
    offset: usize,
    pub(crate) length: usize,
    /// By what the server reaches them.
    pub(crate) remote: Remote,
}

impl Own {
    fn with(self, remote: Remote) -> Transfer {
        Transfer { region: self.region, offset: self.offset, length: self.length, remote }
    }
}

/// Writes into what was granted.
pub(crate) fn write(
    session: &mut Session,
    granted: &Granted,
    (from, to): (Own, Remote),
    deadline: Deadline,
) -> Result<(), ClientError> {
    if clock::now() >= granted.until() {
        // The window is or will be gone: writing would only end the session.
        session.control.request_unheard(|out: &mut BytesMut| wire::Abort { grant: granted.id }.encode(out));
        return Err(ClientError::Stale("the grant ended before anything was written"));
    }
    transfer(session, Direction::Write, &[from.with(to)], deadline)
}

/// Moves all of it between registered memory and windows.
pub(crate) fn transfer(
    session: &mut Session,
    direction: Direction,
    all: &[Transfer],
    deadline: Deadline,
) -> Result<(), ClientError> {
    let moved = link(session)?.link.transfer(direction, all, deadline.at);
    moved.map_err(|error| broken(session, deadline, error))
}

/// Fetches an object: pushed into registered memory, then copied and proven.
pub(crate) fn fetch(
    session: &mut Session,
    key: &[u8],
    buffer: &mut [u8],
    deadline: Deadline,
) -> Result<Option<Proof>, ClientError> {
    let link = link(session)?;
    let place = link.adapter.landing.transfer(0, buffer.len().min(link.adapter.len()));
    let Some((pushed, span)) = pushed(session, key, &place, deadline)? else {
        return inband::fetch(session.in_band(), key, buffer, deadline);
    };
    let Some(pushed) = pushed else { return Ok(None) };
    proven(&pushed.promise(), pushed.generation, &span, buffer).map(Some)
}

/// Has an object pushed to `place`, and waits until it is there. `None` if there is not room for it.
pub(crate) fn pushed(
    session: &mut Session,
    key: &[u8],
    place: &Own,
    deadline: Deadline,
) -> Result<Option<(Option<Pushed>, RawSpan)>, ClientError> {
    let request = wire::GetInto { key, to: remote_memory(place.remote), room: place.length as u64 };
    session.control.request(|out| request.encode(out));
    session.flush(deadline)?;
    match session.next_or_null(deadline, Pushed::read) {
        Ok(None) => Ok(Some((None, place.span()))),
        Ok(Some(pushed)) => {
            arrived(session, &pushed, place, deadline)?;
            Ok(Some((Some(pushed), place.span())))
        }
        Err(error) if error.word() == Some(ErrorWord::TooBig) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits until what was pushed is there.
fn arrived(session: &mut Session, pushed: &Pushed, place: &Own, deadline: Deadline) -> Result<(), ClientError> {
    if pushed.length > place.length as u64 {
        return Err(session.control.protocol_error("more was pushed than there is room for".into()));
    }
    let arrived = link(session)?.link.wait_for_push(pushed.number, deadline.at);
    arrived.map_err(|error| broken(session, deadline, error))
}

impl Own {
    fn span(&self) -> RawSpan {
        RawSpan::new(std::sync::Arc::clone(self.region.memory()), self.offset, self.length)
            .expect("it lies in its region")
    }
}

/// Copies what arrived into the start of `buffer`, and proves it.
fn proven(promise: &Promise, generation: Generation, span: &RawSpan, buffer: &mut [u8]) -> Result<Proof, ClientError> {
    let into = lease::room(promise.length, buffer)?;
    let span = span.part(0, into.len()).ok_or(ClientError::Unsupported("an object longer than registered memory"))?;
    let crc = copy_from(&span, into);
    promise.prove(crc, generation)
}

/// Reads what is leased: through its window, or pushed once more.
pub(crate) fn read_leased(
    session: &mut Session,
    leased: &Leased,
    key: Option<&[u8]>,
    buffer: &mut [u8],
    deadline: Deadline,
) -> Result<Proof, ClientError> {
    let promise = leased.promise;
    let into = lease::room(promise.length, buffer)?;
    let link = link(session)?;
    if clock::now() >= promise.until {
        return Err(ClientError::Stale("it ended before the bytes were read"));
    }
    if into.len() > link.adapter.len() {
        return Err(ClientError::BufferTooSmall { needed: promise.length, has: link.adapter.len() });
    }
    let place = link.adapter.landing.transfer(0, into.len());
    let span = place.span();
    match (leased.remote(), key) {
        (Some(remote), _) => {
            transfer(session, Direction::Read, &[place.with(remote)], deadline)?;
            proven(&promise, promise.generation, &span, into)
        }
        (None, Some(key)) => match pushed(session, key, &place, deadline)? {
            Some((Some(pushed), span)) if pushed.length == promise.length => {
                proven(&promise, pushed.generation, &span, into)
            }
            Some(_) | None => Err(ClientError::Stale("the object was replaced or deleted")),
        },
        (None, None) => Err(ClientError::Unsupported("a lease without a window")),
    }
}

/// What to ask for with a lease, so that the answer can be read.
pub(crate) fn via_of_lease(session: &Session) -> ViaChoice {
    match &session.bulk {
        Bulk::Rdma(link) if link.windows => ViaChoice::Only(Via::Rdma),
        _ => ViaChoice::Auto,
    }
}
