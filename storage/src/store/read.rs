//! Reading: values in band, guards over large ones, leases, prefix lookups.

use super::flash::FlashRead;
use super::{Store, shard_number};
use crate::dram::memory;
use crate::dram::space::Space;
use crate::entry::flag;
use crate::error::StoreError;
use crate::place::Place;
use crate::shard::{HashedKey, Shard};
use protocol::base::{ByteLen, Crc, Generation, Instant, LeaseId, Millis, RawSpan, SegmentId, SessionId, copy_from};

/// A large object's bytes, which stay where they are while this lives.
#[derive(Debug)]
pub struct ReadGuard {
    store: Store,
    shard: usize,
    index: u32,
    generation: Generation,
    crc: Crc,
    span: RawSpan,
}

/// What a read found.
#[derive(Debug)]
pub enum Found<R = Vec<u8>> {
    /// A small value, already handed to the caller's closure.
    Small(R),
    /// A large one, to be sent from where it lies.
    Large(ReadGuard),
    /// It lies on flash alone: to be read from there.
    Flash(FlashRead),
}

/// A lease and the place it covers.
#[derive(Clone, Copy, Debug)]
pub struct Leased {
    /// The promise.
    pub lease: LeaseId,
    /// The object's placement.
    pub generation: Generation,
    /// Bytes of payload.
    pub length: ByteLen,
    /// Their checksum.
    pub crc: Crc,
    /// When the lease ends.
    pub deadline: Instant,
    /// The segment of the payload.
    pub segment: SegmentId,
    /// Bytes from the segment's start to the payload.
    pub offset: u64,
}

/// How much of a chain is here.
#[derive(Debug, Default)]
pub struct Lookup {
    /// Leading keys present.
    pub prefix: usize,
    /// Their bytes.
    pub bytes: u64,
    /// How many of them lie on flash alone.
    pub on_flash: usize,
    /// Leases on exactly them, if asked for.
    pub leases: Vec<Leased>,
    /// Of the prefix, what has to be promoted before leases on it can be given: then there are none yet.
    pub flash: Vec<FlashRead>,
}

impl ReadGuard {
    /// The object's bytes.
    pub fn span(&self) -> &RawSpan {
        &self.span
    }

    /// The object's bytes, to be sent from where they lie. They do not change while this lives, unless clients can write the
    /// segment: then they may be handed to the kernel and must not be looked at here.
    pub fn bytes(&self) -> &[u8] {
        memory::lend(&self.span)
    }

    /// Bytes of payload.
    pub fn len(&self) -> usize {
        self.span.len()
    }

    /// Whether the payload has no bytes.
    pub fn is_empty(&self) -> bool {
        self.span.is_empty()
    }

    /// The object's placement.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The payload's checksum, as published.
    pub fn crc(&self) -> Crc {
        self.crc
    }

    /// The bytes are not those that were published: no reader finds the object any more.
    pub fn condemn(self) {
        self.store.0.with(self.shard, |shard, space| {
            shard.counters.scribbled += 1;
            // Somebody else may have removed it, or been first to see it.
            if !shard.entries[self.index].has(flag::DOOMED) {
                shard.unlink(self.index, space);
            }
        });
    }
}

impl Drop for ReadGuard {
    fn drop(&mut self) {
        self.store.0.with(self.shard, |shard, space| shard.drop_user(self.index, self.generation, space));
    }
}

impl Store {
    fn guard(&self, shard_index: usize, shard: &mut Shard, space: &Space, index: u32) -> Option<ReadGuard> {
        if !shard.add_user(index) {
            return None;
        }
        let entry = &shard.entries[index];
        let (generation, crc, length) = (entry.generation, entry.crc, u64::from(entry.length));
        let span = space.span(shard.payload_of(index), length);
        Some(ReadGuard { store: self.clone(), shard: shard_index, index, generation, crc, span })
    }

    /// Reads an object: a small value is lent to `small` under the shard's lock, a large one is guarded. Counts a hit or a
    /// miss. `depth` is the key's place in the order of the request's keys, if that order tells a chain.
    ///
    /// # Errors
    /// [`StoreError::TooManyUsers`] when 65,535 reads and leases hold the object.
    pub fn read<R>(
        &self,
        now: Instant,
        key: &[u8],
        depth: Option<u32>,
        small: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<Found<R>>, StoreError> {
        let hashed = self.hash(key);
        let shard_index = self.0.shard_of(hashed.hash);
        self.0.with(shard_index, |shard, space| {
            let Some(index) = shard.find(now, hashed, space) else {
                shard.counters.misses += 1;
                return Ok(None);
            };
            shard.counters.hits += 1;
            let stamp = shard.stamp_at(index, now, depth);
            shard.touch(index, stamp, space);
            Ok(Some(match shard.entries[index].place() {
                Place::Small { .. } => Found::Small(shard.with_small(index, space, small)),
                Place::Extent { .. } => {
                    Found::Large(self.guard(shard_index, shard, space, index).ok_or(StoreError::TooManyUsers)?)
                }
            }))
        })
    }

    /// As [`Store::read`], with a small value copied out. Counts nothing and touches nothing.
    pub(crate) fn find(&self, now: Instant, key: &[u8], _: Option<u32>) -> Option<Found> {
        let hashed = self.hash(key);
        let shard_index = self.0.shard_of(hashed.hash);
        self.0.with(shard_index, |shard, space| {
            let index = shard.find(now, hashed, space)?;
            match shard.entries[index].place() {
                Place::Small { .. } => Some(Found::Small(shard.with_small(index, space, <[u8]>::to_vec))),
                Place::Extent { .. } => self.guard(shard_index, shard, space, index).map(Found::Large),
            }
        })
    }

    /// The object as it is, without a touch: what `SET … GET` answers.
    pub fn peek(&self, now: Instant, key: &[u8]) -> Option<Found> {
        self.find(now, key, None)
    }

    /// As [`Store::read`], where clients can write the segments: a small value is copied and checked, and one that is not
    /// what was published is removed and missed. A large one is for the caller to copy and check, and to
    /// [condemn](ReadGuard::condemn) if it must.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn read_checked(&self, now: Instant, key: &[u8], depth: Option<u32>) -> Result<Option<Found>, StoreError> {
        let hashed = self.hash(key);
        let shard_index = self.0.shard_of(hashed.hash);
        self.0.with(shard_index, |shard, space| {
            let found = match shard.find(now, hashed, space) {
                Some(index) => {
                    let stamp = shard.stamp_at(index, now, depth);
                    shard.touch(index, stamp, space);
                    self.found_checked(shard_index, shard, space, index)?
                }
                None => None,
            };
            match found {
                Some(_) => shard.counters.hits += 1,
                None => shard.counters.misses += 1,
            }
            Ok(found)
        })
    }

    /// As [`Store::peek`], checked as [`Store::read_checked`] does.
    pub fn peek_checked(&self, now: Instant, key: &[u8]) -> Option<Found> {
        let hashed = self.hash(key);
        let shard_index = self.0.shard_of(hashed.hash);
        self.0.with(shard_index, |shard, space| {
            let index = shard.find(now, hashed, space)?;
            self.found_checked(shard_index, shard, space, index).ok().flatten()
        })
    }

    fn found_checked(
        &self,
        shard_index: usize,
        shard: &mut Shard,
        space: &Space,
        index: u32,
    ) -> Result<Option<Found>, StoreError> {
        let entry = &shard.entries[index];
        let (place, crc) = (entry.place(), entry.crc);
        if let Place::Extent { .. } = place {
            let guard = self.guard(shard_index, shard, space, index).ok_or(StoreError::TooManyUsers)?;
            return Ok(Some(Found::Large(guard)));
        }
        let span = space.span(shard.payload_of(index), u64::from(shard.entries[index].length));
        let mut bytes = vec![0; span.len()];
        if copy_from(&span, &mut bytes) == crc {
            return Ok(Some(Found::Small(bytes)));
        }
        shard.counters.scribbled += 1;
        shard.unlink(index, space);
        Ok(None)
    }

    fn lease_in(
        &self,
        now: Instant,
        hashed: HashedKey<'_>,
        until: Instant,
        session: SessionId,
        depth: Option<u32>,
    ) -> Result<Option<Leased>, StoreError> {
        let shard_index = self.0.shard_of(hashed.hash);
        let number = shard_number(shard_index);
        self.0.with(shard_index, |shard, space| {
            let Some(index) = shard.find(now, hashed, space) else {
                shard.counters.misses += 1;
                return Ok(None);
            };
            let stamp = shard.stamp_at(index, now, depth);
            shard.touch(index, stamp, space);
            let lease = shard.lease(index, until, session, number).ok_or(StoreError::TooManyUsers)?;
            shard.counters.hits += 1;
            let entry = &shard.entries[index];
            let position = shard.payload_of(index);
            Ok(Some(Leased {
                lease,
                generation: entry.generation,
                length: ByteLen(u64::from(entry.length)),
                crc: entry.crc,
                deadline: until,
                segment: position.segment_id(),
                offset: position.offset(),
            }))
        })
    }

    /// Promises that the object's bytes stay readable until then.
    ///
    /// # Errors
    /// [`StoreError::TooManyUsers`].
    pub fn lease(
        &self,
        now: Instant,
        key: &[u8],
        until: Instant,
        session: SessionId,
        depth: Option<u32>,
    ) -> Result<Option<Leased>, StoreError> {
        self.lease_in(now, self.hash(key), until, session, depth)
    }

    /// Extends a lease to `until`, if that is later than its end. Returns its end.
    ///
    /// # Errors
    /// [`StoreError::NoLease`].
    pub fn renew(
        &self,
        now: Instant,
        lease: LeaseId,
        session: SessionId,
        until: Instant,
    ) -> Result<Instant, StoreError> {
        let shard = self.0.shard_of_credential(lease.0).ok_or(StoreError::NoLease)?;
        self.0.with(shard, |shard, _| shard.renew(now, lease, session, until)).ok_or(StoreError::NoLease)
    }

    /// Ends a lease. `false` if the session does not hold it.
    pub fn release(&self, lease: LeaseId, session: SessionId) -> bool {
        self.0
            .shard_of_credential(lease.0)
            .is_some_and(|shard| self.0.with(shard, |shard, space| shard.release(lease, session, space)))
    }

    /// When a lease ends, if it still holds and is this session's.
    ///
    /// # Errors
    /// [`StoreError::NoLease`].
    pub fn lease_end(&self, now: Instant, lease: LeaseId, session: SessionId) -> Result<Instant, StoreError> {
        let shard = self.0.shard_of_credential(lease.0).ok_or(StoreError::NoLease)?;
        let held = self.0.with(shard, |shard, _| shard.held_lease(now, lease, session));
        held.map(|held| held.deadline).ok_or(StoreError::NoLease)
    }

    /// Guards the bytes of a leased object, for a read on the client's behalf.
    ///
    /// # Errors
    /// [`StoreError::NoLease`], [`StoreError::TooManyUsers`].
    pub fn read_leased(&self, now: Instant, lease: LeaseId, session: SessionId) -> Result<ReadGuard, StoreError> {
        let shard_index = self.0.shard_of_credential(lease.0).ok_or(StoreError::NoLease)?;
        self.0.with(shard_index, |shard, space| {
            let held = shard.held_lease(now, lease, session).ok_or(StoreError::NoLease)?;
            self.guard(shard_index, shard, space, held.index).ok_or(StoreError::TooManyUsers)
        })
    }

    /// How many leading keys are present. Touches them deepest first, and leases exactly them if `lease` says until when;
    /// otherwise it gives each a grace, since a reader that probes is about to load.
    ///
    /// # Errors
    /// [`StoreError::TooManyUsers`]; nothing stays leased then.
    pub fn lookup<'k>(
        &self,
        now: Instant,
        keys: impl Fn(usize) -> Option<&'k [u8]>,
        lease: Option<(Instant, SessionId)>,
    ) -> Result<Lookup, StoreError> {
        let mut present: Vec<HashedKey<'k>> = Vec::new();
        while let Some(key) = keys(present.len()) {
            let hashed = self.hash(key);
            let here = self.0.with(self.0.shard_of(hashed.hash), |shard, space| {
                let here = shard.find(now, hashed, space).is_some();
                if !here {
                    shard.counters.misses += 1;
                }
                here
            });
            if !here {
                break;
            }
            present.push(hashed);
        }
        let mut found = Lookup { prefix: present.len(), ..Lookup::default() };
        for (depth, hashed) in present.iter().enumerate().rev() {
            let depth_short = u32::try_from(depth).ok();
            let length = match lease {
                Some((until, session)) => match self.lease_in(now, *hashed, until, session, depth_short) {
                    Ok(leased) => leased.map(|leased| {
                        found.leases.push(leased);
                        leased.length.get()
                    }),
                    Err(error) => {
                        for leased in found.leases.drain(..) {
                            self.release(leased.lease, session);
                        }
                        return Err(error);
                    }
                },
                None => self.probe_in(now, *hashed, depth_short),
            };
            match length {
                Some(length) => found.bytes += length,
                // Gone between the two passes: the prefix ends before it.
                None => {
                    if let Some((_, session)) = lease {
                        for leased in found.leases.drain(..) {
                            self.release(leased.lease, session);
                        }
                    }
                    (found.prefix, found.bytes) = (depth, 0);
                }
            }
        }
        found.leases.reverse();
        Ok(found)
    }

    fn probe_in(&self, now: Instant, hashed: HashedKey<'_>, depth: Option<u32>) -> Option<u64> {
        let grace = self.0.tuning.probe_grace();
        self.0.with(self.0.shard_of(hashed.hash), |shard, space| {
            let index = shard.find(now, hashed, space)?;
            if depth.is_some() {
                // A lookup is a use of the chain, not a read of its bytes: the order changes, the grace is not renewed.
                let stamp = shard.stamp_at(index, now, depth);
                shard.renew_stamp(index, stamp);
            }
            if grace > Millis(0) {
                shard.grace(index, now + grace, space);
            }
            Some(u64::from(shard.entries[index].length))
        })
    }

    /// Whether a key is live. An engine that probes will load: the object gets a grace.
    pub fn probe(&self, now: Instant, key: &[u8]) -> bool {
        self.probe_in(now, self.hash(key), None).is_some()
    }
}
