//! Writing objects: in one call, or reserved, written and committed step by step.

use crate::call::Repeat;
use crate::inband;
use crate::lease::{Place, check_session, millis, via};
use crate::link::Deadline;
use crate::region::{Kind, Region};
use crate::scan::{Unexpected, Walk};
use crate::session::{Bulk, Session};
use crate::verified::Promise;
use crate::{Client, ClientError, clock, rdma};
use bytes::BytesMut;
use protocol::base::{ByteLen, Crc, Generation, GrantId, Instant, Lent, Millis, copy_into};
use protocol::command as wire;
use protocol::command::{ShmSource, ViaChoice};
use std::time::Duration;
use transport::rdma::Remote;
use transport::shm::BufferRegion;

/// What `PUT` can be asked beside the bytes.
///
/// In-band, `parent`, `soft_pin`, `replicas` and `prefer` are left out (they are hints) and `durable` is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutOptions<'a> {
    /// Ends the object's life so long after it was published.
    pub ttl: Option<Duration>,
    /// The key of the object that this one continues.
    pub parent: Option<&'a [u8]>,
    /// Not evicted for so long, unless memory cannot be had otherwise.
    pub soft_pin: Option<Duration>,
    /// Pinned when published.
    pub pin: bool,
    /// Copies wanted.
    pub replicas: Option<u32>,
    /// The node that should hold the bytes.
    pub prefer: Option<&'a [u8]>,
    /// An existing object of this key is replaced. Without it, one is an `EXISTS` error.
    pub replace: bool,
    /// The call returns when the flash copy is synced.
    pub durable: bool,
}

impl<'a> PutOptions<'a> {
    pub(crate) fn wire(&self, via: ViaChoice) -> wire::PutOptions<'a> {
        wire::PutOptions {
            via,
            ttl: self.ttl.map(millis),
            parent: self.parent,
            soft_pin: self.soft_pin.map(millis),
            pin: self.pin,
            replicas: self.replicas,
            prefer: self.prefer,
            replace: self.replace,
            durable: self.durable,
        }
    }

    /// Putting the same bytes twice is as good as once only where the second may replace the first, and pins nothing.
    pub(crate) fn repeat(&self) -> Repeat {
        if self.replace && !self.pin { Repeat::Harmless } else { Repeat::Never }
    }
}

/// An object that was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Which placement it is.
    pub generation: Generation,
    /// Bytes.
    pub len: u64,
}

impl Committed {
    pub(crate) fn read(walk: &mut Walk<'_>) -> Result<Self, Unexpected> {
        let (mut generation, mut len) = (None, None);
        for _ in 0..walk.map()? {
            match walk.bytes()? {
                b"generation" => generation = Some(Generation(walk.unsigned()?)),
                b"length" => len = Some(walk.unsigned()?),
                _ => walk.skip()?,
            }
        }
        let (generation, len) = generation.zip(len).ok_or(Unexpected("a committed object"))?;
        Ok(Self { generation, len })
    }
}

/// The right to write one object once, until a deadline.
pub struct Grant {
    id: GrantId,
    generation: Generation,
    len: u64,
    until: Instant,
    session: u64,
    /// Where the bytes are gathered that the server will fetch.
    region: Option<BufferRegion>,
    /// The same, where they will have to be copied to registered memory.
    staged: Option<Vec<u8>>,
    /// Where they go, if this side writes them by RDMA.
    remote: Option<Remote>,
}

impl Grant {
    /// Which placement the object will be.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Bytes that were reserved.
    pub fn object_len(&self) -> u64 {
        self.len
    }

    /// Whether its deadline has come, with a margin for clocks that run apart.
    pub fn is_over(&self) -> bool {
        clock::now() >= self.until
    }
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Grant({} bytes, generation {})", self.len, self.generation)
    }
}

/// What `PUT` and `MPUT` answer for one object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Granted {
    pub(crate) id: GrantId,
    generation: Generation,
    until: Instant,
    place: Place,
}

impl Granted {
    /// By what it is written over RDMA, if a window was lent.
    pub(crate) fn remote(&self) -> Option<Remote> {
        self.place.remote()
    }

    /// When it ends.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    pub(crate) fn read(walk: &mut Walk<'_>, asked: Instant) -> Result<Self, Unexpected> {
        let (mut id, mut generation, mut span) = (None, None, None);
        let mut place = Place::default();
        for _ in 0..walk.map()? {
            match walk.bytes()? {
                b"grant" => id = GrantId::parse(walk.bytes()?).ok(),
                b"generation" => generation = Some(Generation(walk.unsigned()?)),
                b"deadline-ms" => span = Some(Millis(walk.unsigned()?)),
                b"locators" => place = Place::first(walk)?,
                _ => walk.skip()?,
            }
        }
        let ((id, generation), span) = id.zip(generation).zip(span).ok_or(Unexpected("a grant"))?;
        Ok(Self { id, generation, until: Promise::end(asked, span), place })
    }
}

impl Client {
    /// Writes an object and publishes it.
    ///
    /// By shared memory that is one copy here, one at the server, and one exchange; or, where the server lets its clients
    /// write in place, one copy and two exchanges from 8 MiB on. By bulk TCP three exchanges; else a `SET`. An object
    /// longer than the client's own memory goes in-band, unless it may be written in place.
    ///
    /// # Errors
    /// [`ClientError`]; `EXISTS` if there is one and `replace` was not asked for, `OOM` or `QUOTA` if there is no room.
    pub fn put(&mut self, key: &[u8], bytes: &[u8], options: &PutOptions<'_>) -> Result<Committed, ClientError> {
        let region = if self.writes_in_place(bytes.len()) { None } else { self.take_filled(bytes) };
        self.call(options.repeat(), |session, deadline| match (&session.bulk, &region) {
            // Better so for its length, or own memory has no room for it.
            (Bulk::Shm { in_place: true, .. }, None) => put_in_place(session, key, bytes, options, deadline),
            (Bulk::Shm { .. }, Some((region, crc))) => {
                let put = shm_put(key, region, bytes.len(), *crc, options);
                session.exchange(|out| put.encode(out), deadline, Committed::read)
            }
            (Bulk::Tcp(_), _) => put_tcp(session, key, bytes, options, deadline),
            (Bulk::Rdma(_), _) => rdma::put(session, key, bytes, options, deadline),
            (Bulk::Shm { .. } | Bulk::None, _) => inband::put(session.in_band(), key, bytes, options, deadline),
        })
    }

    /// Publishes an object that was written into a region before. By shared memory nothing is copied on this side.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_region(
        &mut self,
        key: &[u8],
        region: &Region,
        options: &PutOptions<'_>,
    ) -> Result<Committed, ClientError> {
        let Kind::Shared(shared) = &region.0 else { return self.put(key, region.as_slice(), options) };
        let crc = region.crc();
        self.call(options.repeat(), |session, deadline| {
            if let Bulk::Shm { .. } = session.bulk {
                let put = shm_put(key, shared, shared.len(), crc, options);
                return session.exchange(|out| put.encode(out), deadline, Committed::read);
            }
            match session.bulk {
                Bulk::Tcp(_) => put_tcp(session, key, region.as_slice(), options, deadline),
                Bulk::Rdma(_) => rdma::put(session, key, region.as_slice(), options, deadline),
                Bulk::Shm { .. } | Bulk::None => {
                    inband::put(session.in_band(), key, region.as_slice(), options, deadline)
                }
            }
        })
    }

    /// Reserves room for an object of `len` bytes, to be written in pieces.
    ///
    /// # Errors
    /// [`ClientError::Unsupported`] if this client moves bytes in-band only, [`ClientError::BufferTooSmall`] if the
    /// client's own memory has no such run free; else as [`put`](Self::put).
    pub fn reserve(&mut self, key: &[u8], len: u64, options: &PutOptions<'_>) -> Result<Grant, ClientError> {
        let buffer = self.own_buffer()?;
        self.call(Repeat::Never, |session, deadline| {
            let (mut via, mut staged) = (via(session), None);
            let region = match &session.bulk {
                Bulk::Rdma(_) => {
                    let room = usize::try_from(len).ok().filter(|&len| rdma::fits(session, len));
                    let too_long = ClientError::BufferTooSmall { needed: len, has: rdma::room(session) };
                    staged = Some(vec![0; room.ok_or(too_long)?]);
                    via = ViaChoice::Only(protocol::base::Via::Rdma);
                    None
                }
                Bulk::None => {
                    return Err(ClientError::Unsupported("two phases need shared memory or bulk TCP; use `put`"));
                }
                Bulk::Tcp(_) => None,
                Bulk::Shm { .. } => {
                    let has = buffer.as_ref().map_or(0, |buffer| buffer.len());
                    let region = usize::try_from(len).ok().and_then(|len| buffer.as_ref()?.take(len));
                    Some(region.ok_or(ClientError::BufferTooSmall { needed: len, has })?)
                }
            };
            let asked = clock::now();
            let put = wire::Put { key, len: ByteLen(len), options: options.wire(via), write: None };
            let granted = session.exchange(|out| put.encode(out), deadline, |walk| Granted::read(walk, asked))?;
            let Granted { id, generation, until, .. } = granted;
            let remote = granted.remote();
            let staged = staged.filter(|_| remote.is_none());
            Ok(Grant { id, generation, len, until, session: session.number, region, staged, remote })
        })
    }

    /// Writes `bytes` at `offset` of a reserved object.
    ///
    /// # Errors
    /// [`ClientError::Stale`] if the connection was lost since, `NOGRANT` past the deadline, `TOOBIG` past the end.
    pub fn write(&mut self, grant: &mut Grant, offset: u64, bytes: &[u8]) -> Result<(), ClientError> {
        self.call(Repeat::Never, |session, deadline| {
            check_session(grant.session, session)?;
            if let Bulk::Rdma(_) = session.bulk
                && let Some(remote) = grant.remote
            {
                let end = offset.checked_add(bytes.len() as u64).filter(|&end| end <= grant.len);
                end.ok_or_else(|| ClientError::wire(b"TOOBIG the bytes run past the object"))?;
                let remote = Remote { addr: remote.addr.wrapping_add(offset), ..remote };
                return rdma::write_granted(session, (grant.until, remote), bytes, deadline);
            }
            let gathered = match &mut grant.region {
                Some(region) => Some(region.as_mut_slice()),
                None => grant.staged.as_deref_mut(),
            };
            if let Some(gathered) = gathered {
                let into = usize::try_from(offset)
                    .ok()
                    .and_then(|start| gathered.get_mut(start..start.checked_add(bytes.len())?));
                into.ok_or_else(|| ClientError::wire(b"TOOBIG the bytes run past the object"))?.copy_from_slice(bytes);
                return Ok(());
            }
            let Bulk::Tcp(pool) = &mut session.bulk else {
                return Err(ClientError::Stale("it belongs to an earlier connection"));
            };
            pool.write(grant.id, offset, bytes, deadline.at)
                .map_err(|error| ClientError::bulk(session.control.address(), deadline.span, error))
        })
    }

    /// Moves a grant's end to `span` from now, but not beyond a minute from its reservation: see [`Grant::is_over`].
    ///
    /// # Errors
    /// [`ClientError::Stale`] if the connection was lost since, `NOGRANT` past the deadline, `TOOBIG` for a span that no
    /// grant has.
    pub fn renew_grant(&mut self, grant: &mut Grant, span: Duration) -> Result<(), ClientError> {
        let (number, request) = (grant.session, wire::Renew { lent: Lent::Grant(grant.id), span: millis(span) });
        grant.until = self.call(Repeat::Never, |session, deadline| {
            check_session(number, session)?;
            let asked = clock::now();
            let left = session.exchange(|out| request.encode(out), deadline, |walk| walk.unsigned())?;
            Ok(Promise::end(asked, Millis(left)))
        })?;
        Ok(())
    }

    /// Publishes a reserved object, all of whose bytes were written and have checksum `crc`.
    ///
    /// # Errors
    /// `CRC` if they have another one, `NOGRANT` past the deadline, `EXISTS` if somebody else was first.
    pub fn commit(&mut self, grant: Grant, crc: Crc) -> Result<Committed, ClientError> {
        self.call(Repeat::Never, |session, deadline| {
            check_session(grant.session, session)?;
            let from = grant.region.as_ref().map(source);
            let pull = grant.staged.as_ref().map(|staged| rdma::stage(session, staged)).transpose()?;
            let commit = wire::Commit { grant: grant.id, crc, bytes: None, from, pull };
            session.exchange(|out| commit.encode(out), deadline, Committed::read)
        })
    }

    /// Gives a reserved object's room back; `false` if it was gone already.
    ///
    /// # Errors
    /// As the connection fails.
    pub fn abort(&mut self, grant: Grant) -> Result<bool, ClientError> {
        self.call(Repeat::Never, |session, deadline| {
            if grant.session != session.number {
                return Ok(false);
            }
            let abort = wire::Abort { grant: grant.id };
            session.exchange(|out| abort.encode(out), deadline, |walk| walk.unsigned()).map(|aborted| aborted > 0)
        })
    }

    /// A copy of `bytes` in the client's own memory and its checksum, if there is a shared-memory session and room.
    pub(crate) fn take_filled(&mut self, bytes: &[u8]) -> Option<(BufferRegion, Crc)> {
        // Before there is a session nobody knows; a session is made by the first call in any case.
        let mut region = self.buffer.as_ref()?.take(bytes.len())?;
        let crc = region.fill(bytes);
        Some((region, crc))
    }
}

fn source(region: &BufferRegion) -> ShmSource {
    ShmSource { fd: 0, offset: region.offset() }
}

/// Reserve, copy and publish in one exchange.
pub(crate) fn shm_put<'a>(
    key: &'a [u8],
    region: &BufferRegion,
    len: usize,
    crc: Crc,
    options: &PutOptions<'a>,
) -> wire::Put<'a> {
    let via = ViaChoice::Only(protocol::base::Via::Shm);
    wire::Put { key, len: ByteLen(len as u64), options: options.wire(via), write: Some((crc, source(region))) }
}

/// Reserve, write into the segment, commit: the server copies nothing.
fn put_in_place(
    session: &mut Session,
    key: &[u8],
    bytes: &[u8],
    options: &PutOptions<'_>,
    deadline: Deadline,
) -> Result<Committed, ClientError> {
    let asked = clock::now();
    let put = wire::Put { key, len: ByteLen(bytes.len() as u64), options: options.wire(via(session)), write: None };
    let granted = session.exchange(|out| put.encode(out), deadline, |walk| Granted::read(walk, asked))?;
    let Bulk::Shm { segments, .. } = &session.bulk else { return Err(ClientError::Unsupported("shared memory")) };
    let span = granted.place.span(segments, bytes.len());
    let span = span.ok_or_else(|| session.control.protocol_error("a locator outside the segments".into()))?;
    if clock::now() >= granted.until {
        // Somebody else's bytes may lie there by now.
        return Err(ClientError::Stale("the grant ended before anything was written"));
    }
    let crc = copy_into(bytes, &span);
    let commit = wire::Commit { grant: granted.id, crc, bytes: None, from: None, pull: None };
    session.exchange(|out| commit.encode(out), deadline, Committed::read)
}

/// Reserve, write, commit.
fn put_tcp(
    session: &mut Session,
    key: &[u8],
    bytes: &[u8],
    options: &PutOptions<'_>,
    deadline: Deadline,
) -> Result<Committed, ClientError> {
    let asked = clock::now();
    let put = wire::Put { key, len: ByteLen(bytes.len() as u64), options: options.wire(via(session)), write: None };
    let granted = session.exchange(|out| put.encode(out), deadline, |walk| Granted::read(walk, asked))?;
    let Bulk::Tcp(pool) = &mut session.bulk else { return Err(ClientError::Unsupported("bulk TCP")) };
    let crc = Crc::of(bytes);
    let written = pool.write(granted.id, 0, bytes, deadline.at);
    if let Err(error) = written {
        let error = ClientError::bulk(session.control.address(), deadline.span, error);
        let abort = wire::Abort { grant: granted.id };
        session.control.request_unheard(|out: &mut BytesMut| abort.encode(out));
        return Err(error);
    }
    let commit = wire::Commit { grant: granted.id, crc, bytes: None, from: None, pull: None };
    session.exchange(|out| commit.encode(out), deadline, Committed::read)
}
