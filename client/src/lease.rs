//! Leases: taken, read under, renewed and given back one by one; and the lookup of a prefix.

use crate::call::Repeat;
use crate::link::Deadline;
use crate::options::Options;
use crate::scan::{Unexpected, Walk};
use crate::session::{Bulk, Session};
use crate::verified::{Promise, Proof, Verified};
use crate::{Client, ClientError, clock, rdma};
use protocol::base::{Crc, Generation, Instant, LeaseId, LeaseRecord, Lent, Millis, RawSpan, Via, copy_from};
use protocol::command as wire;
use protocol::command::ViaChoice;
use std::sync::Arc;
use std::time::Duration;
use transport::rdma::Remote;
use transport::shm::Mapping;

/// What one lease says, as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leased {
    pub(crate) id: LeaseId,
    pub(crate) promise: Promise,
    place: Place,
}

/// Where the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Place {
    /// For shared memory: which of the session's segments.
    fd: Option<usize>,
    offset: usize,
    /// For RDMA: address and key of a window.
    remote: Option<(u64, u32)>,
}

fn too_far(_: std::num::TryFromIntError) -> Unexpected {
    Unexpected("an offset that fits this machine")
}

impl Leased {
    /// Reads the map, or the record, that `LEASE` answers. `asked` is when the request was about to be sent.
    pub(crate) fn read(walk: &mut Walk<'_>, asked: Instant) -> Result<Self, Unexpected> {
        if walk.is_bulk() {
            let record = LeaseRecord::from_bytes(walk.bytes()?).ok_or(Unexpected("a record of a lease"))?;
            let offset = usize::try_from(record.offset).map_err(too_far)?;
            let LeaseRecord { lease, generation, length, span, crc, fd, .. } = record;
            let promise = Promise { generation, length, crc, until: Promise::end(asked, span) };
            return Ok(Self { id: lease, promise, place: Place { fd: Some(fd as usize), offset, remote: None } });
        }
        let (mut id, mut generation, mut length, mut crc, mut span) = (None, None, None, None, None);
        let mut place = Place::default();
        for _ in 0..walk.map()? {
            match walk.bytes()? {
                b"lease" => id = LeaseId::parse(walk.bytes()?).ok(),
                b"generation" => generation = Some(Generation(walk.unsigned()?)),
                b"length" => length = Some(walk.unsigned()?),
                b"crc" => crc = Crc::parse(walk.bytes()?).ok(),
                b"deadline-ms" => span = Some(Millis(walk.unsigned()?)),
                b"locators" => place = Place::first(walk)?,
                _ => walk.skip()?,
            }
        }
        let all = id.zip(generation).zip(length).zip(crc).zip(span);
        let ((((id, generation), length), crc), span) = all.ok_or(Unexpected("a lease"))?;
        let until = Promise::end(asked, span);
        Ok(Self { id, promise: Promise { generation, length, crc, until }, place })
    }
}

impl Leased {
    /// By what the bytes are reached over RDMA, if a window was lent.
    pub(crate) fn remote(&self) -> Option<Remote> {
        self.place.remote()
    }
}

impl Place {
    /// As [`Leased::remote`].
    pub(crate) fn remote(self) -> Option<Remote> {
        self.remote.map(|(addr, rkey)| Remote { addr, rkey })
    }

    /// The first of an array of locators.
    pub(crate) fn first(walk: &mut Walk<'_>) -> Result<Self, Unexpected> {
        let mut place = Self::default();
        for at in 0..walk.array()? {
            let read = Self::read(walk)?;
            if at == 0 {
                place = read;
            }
        }
        Ok(place)
    }

    /// The memory there; `None` if that is outside the segments.
    pub(crate) fn span(self, segments: &[Arc<Mapping>], len: usize) -> Option<RawSpan> {
        segments.get(self.fd?)?.span(self.offset, len)
    }

    fn read(walk: &mut Walk<'_>) -> Result<Self, Unexpected> {
        let mut place = Self::default();
        let (mut addr, mut rkey) = (None, None);
        for _ in 0..walk.map()? {
            match walk.bytes()? {
                b"addr" => addr = Some(walk.unsigned()?),
                b"rkey" => rkey = Some(u32::try_from(walk.unsigned()?).map_err(|_| Unexpected("a key of 32 bits"))?),
                b"fd" => place.fd = Some(usize::try_from(walk.unsigned()?).map_err(too_far)?),
                b"offset" => place.offset = usize::try_from(walk.unsigned()?).map_err(too_far)?,
                _ => walk.skip()?,
            }
        }
        place.remote = addr.zip(rkey);
        Ok(place)
    }
}

/// A promise that an object stays readable where it is, until a stated end.
///
/// Dropping it without [`Client::release`] leaves it to that end.
#[derive(Debug)]
pub struct Lease {
    leased: Leased,
    session: u64,
    /// By what it can be asked for again, where no window was lent.
    key: Option<Box<[u8]>>,
}

impl Lease {
    /// Which placement of the object it is of.
    pub fn generation(&self) -> Generation {
        self.leased.promise.generation
    }

    /// Bytes of the object.
    pub fn object_len(&self) -> u64 {
        self.leased.promise.length
    }

    /// Checksum of the object.
    pub fn crc(&self) -> Crc {
        self.leased.promise.crc
    }

    /// Whether its end has come, with a margin for clocks that run apart.
    pub fn is_over(&self) -> bool {
        clock::now() >= self.leased.promise.until
    }
}

/// How much of a chain is there.
#[derive(Debug)]
pub struct Lookup {
    /// Keys present before the first that is not.
    pub prefix: usize,
    /// Bytes of their objects.
    pub bytes: u64,
    /// Their leases, if asked for: as many as `prefix`, unless the server ran out of something.
    pub leases: Vec<Lease>,
}

impl Client {
    /// Leases an object for `span`; `None` if there is none.
    ///
    /// # Errors
    /// [`ClientError`]; `TOOBIG` if `span` is longer than the server allows.
    pub fn lease(&mut self, key: &[u8], span: Duration) -> Result<Option<Lease>, ClientError> {
        let span = millis(span);
        self.call(Repeat::Harmless, |session, deadline| {
            let request = wire::Lease { key, span, via: via(session) };
            let asked = clock::now();
            session.control.request(|out| request.encode(out));
            session.flush(deadline)?;
            let leased = session.next_or_null(deadline, |walk| Leased::read(walk, asked))?;
            Ok(leased.map(|leased| Lease { leased, session: session.number, key: key_of(session, key) }))
        })
    }

    /// Reads a leased object into `buffer`, and hands it out if it is what was leased.
    ///
    /// # Errors
    /// [`ClientError::Stale`] if the lease has ended, [`ClientError::BufferTooSmall`],
    /// [`ClientError::Unsupported`] if this client moves bytes in-band only.
    pub fn read<'a>(&mut self, lease: &Lease, buffer: &'a mut [u8]) -> Result<Verified<'a>, ClientError> {
        let proof = self.call(Repeat::Never, |session, deadline| {
            check_session(lease.session, session)?;
            read_leased(session, (&lease.leased, lease.key.as_deref()), buffer, deadline)
        })?;
        Ok(proof.of(buffer))
    }

    /// Moves a lease's end to `span` from now.
    ///
    /// # Errors
    /// `NOLEASE` if it has ended.
    pub fn renew(&mut self, lease: &mut Lease, span: Duration) -> Result<(), ClientError> {
        let (id, span, number) = (lease.leased.id, millis(span), lease.session);
        let until = self.call(Repeat::Never, |session, deadline| {
            check_session(number, session)?;
            let asked = clock::now();
            let request = wire::Renew { lent: Lent::Lease(id), span };
            let granted = session.exchange(|out| request.encode(out), deadline, |walk| walk.unsigned())?;
            Ok(Promise::end(asked, Millis(granted)))
        })?;
        lease.leased.promise.until = until;
        Ok(())
    }

    /// Gives a lease back; `false` if it had ended.
    ///
    /// # Errors
    /// As the connection fails.
    pub fn release(&mut self, lease: Lease) -> Result<bool, ClientError> {
        self.call(Repeat::Never, |session, deadline| {
            if lease.session != session.number {
                return Ok(false);
            }
            let request = wire::Release { lease: lease.leased.id };
            session.exchange(|out| request.encode(out), deadline, |walk| walk.unsigned()).map(|released| released > 0)
        })
    }

    /// Counts how many of `keys`, from the first on, are present; leases those for `lease` if given.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn lookup(&mut self, keys: &[&[u8]], lease: Option<Duration>) -> Result<Lookup, ClientError> {
        let request = wire::Lookup { keys: keys.to_vec(), lease: lease.map(millis) };
        self.call(Repeat::Harmless, |session, deadline| {
            let asked = clock::now();
            let number = session.number;
            let mut found = session.exchange(
                |out| request.encode(out),
                deadline,
                |walk| {
                    let mut found = Lookup { prefix: 0, bytes: 0, leases: Vec::new() };
                    for _ in 0..walk.map()? {
                        match walk.bytes()? {
                            b"prefix" => {
                                found.prefix = usize::try_from(walk.unsigned()?).map_err(|_| Unexpected("a prefix"))?;
                            }
                            b"bytes" => found.bytes = walk.unsigned()?,
                            b"leases" => {
                                for _ in 0..walk.array()? {
                                    let leased = Leased::read(walk, asked)?;
                                    found.leases.push(Lease { leased, session: number, key: None });
                                }
                            }
                            _ => walk.skip()?,
                        }
                    }
                    Ok(found)
                },
            )?;
            for (lease, key) in found.leases.iter_mut().zip(keys) {
                lease.key = key_of(session, key);
            }
            Ok(found)
        })
    }
}

/// What to ask for, so that the answer can be read.
pub(crate) fn via(session: &Session) -> ViaChoice {
    match session.bulk {
        Bulk::None => ViaChoice::Auto,
        Bulk::Shm { .. } => ViaChoice::Only(Via::Shm),
        Bulk::Rdma(_) => rdma::via_of_lease(session),
        Bulk::Tcp(_) => ViaChoice::Only(Via::Tcp),
    }
}

/// What has to be remembered of a key to read under its lease.
fn key_of(session: &Session, key: &[u8]) -> Option<Box<[u8]>> {
    matches!(session.bulk, Bulk::Rdma(_)).then(|| key.into())
}

/// What a session lent is of no use in the next.
pub(crate) fn check_session(number: u64, session: &Session) -> Result<(), ClientError> {
    if number == session.number { Ok(()) } else { Err(ClientError::Stale("it belongs to an earlier connection")) }
}

/// Copies a leased object into the start of `buffer` and checks it.
pub(crate) fn read_leased(
    session: &mut Session,
    (leased, key): (&Leased, Option<&[u8]>),
    buffer: &mut [u8],
    deadline: Deadline,
) -> Result<Proof, ClientError> {
    if let Bulk::Rdma(_) = session.bulk {
        return rdma::read_leased(session, leased, key, buffer, deadline);
    }
    let promise = &leased.promise;
    let into = room(promise.length, buffer)?;
    match &mut session.bulk {
        Bulk::Shm { segments, .. } => {
            let span = leased.place.span(segments, into.len());
            let span = span.ok_or_else(|| session.control.protocol_error("a locator outside the segments".into()))?;
            let crc = copy_from(&span, into);
            promise.prove(crc, promise.generation)
        }
        Bulk::Tcp(pool) => {
            let answer = pool.read(leased.id, 0, into, deadline.at).map_err(|error| {
                let error = ClientError::bulk(session.control.address(), deadline.span, error);
                ended(error)
            })?;
            promise.prove(Crc::of(into), answer.generation)
        }
        Bulk::Rdma(_) | Bulk::None => {
            Err(ClientError::Unsupported("reading under a lease needs shared memory, RDMA or bulk TCP; use `get`"))
        }
    }
}

/// A lease that the server does not know any more has ended.
pub(crate) fn ended(error: ClientError) -> ClientError {
    match error.word() {
        Some(protocol::resp::ErrorWord::NoLease | protocol::resp::ErrorWord::Stale) => {
            ClientError::Stale("the server says so")
        }
        _ => error,
    }
}

/// The start of `buffer` that has `length` bytes.
pub(crate) fn room(length: u64, buffer: &mut [u8]) -> Result<&mut [u8], ClientError> {
    let has = buffer.len();
    let len = usize::try_from(length).ok();
    len.and_then(|len| buffer.get_mut(..len)).ok_or(ClientError::BufferTooSmall { needed: length, has })
}

/// A span in the unit of the wire, at least 1 ms.
pub(crate) fn millis(span: Duration) -> Millis {
    Millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1))
}

/// The span of leases that are taken for a fetch.
pub(crate) fn fetch_span(options: &Options) -> Millis {
    millis(options.lease)
}
