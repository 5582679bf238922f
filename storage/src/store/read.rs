//! Reading: values in band, guards over large ones, leases, prefix lookups.

use super::flash::FlashRead;
use super::slots::Reservation;
use super::{Store, shard_number};
use crate::dram::memory;
use crate::dram::space::Space;
use crate::entry::flag;
use crate::error::StoreError;
use crate::place::Place;
use crate::shard::flash::FLASH;
use crate::shard::{At, HashedKey, Shard};
use protocol::base::{ByteLen, Crc, Generation, Instant, LeaseId, Millis, RawSpan, SegmentId, SessionId, copy_from};

/// A large object's bytes, which stay where they are while this lives.
#[derive(Debug)]
pub struct ReadGuard {
    hold: Hold,
    generation: Generation,
    crc: Crc,
    span: RawSpan,
}

/// What keeps the bytes where they are.
#[derive(Debug)]
enum Hold {
    /// One user of an entry.
    Entry { store: Store, shard: usize, index: u32, generation: Generation },
    /// A slot that nobody else knows of.
    Slot(#[expect(dead_code, reason = "held until it is dropped")] Reservation),
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Self::Entry { store, shard, index, generation } = self {
            store.0.with(*shard, |shard, space| shard.drop_user(*index, *generation, space));
        }
    }
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

    /// A second guard of the same bytes. `None` for bytes that nobody else finds, and when 65,535 reads and leases hold the
    /// object.
    pub fn again(&self) -> Option<Self> {
        let Hold::Entry { store, shard, index, generation } = &self.hold else { return None };
        let (index, generation) = (*index, *generation);
        if !store.0.with(*shard, |shard, _| shard.add_user(index)) {
            return None;
        }
        let hold = Hold::Entry { store: store.clone(), shard: *shard, index, generation };
        Some(Self { hold, generation, crc: self.crc, span: self.span.clone() })
    }

    /// The bytes are not those that were published: no reader finds them any more. What is on flash too stays there.
    pub fn condemn(self) {
        if let Hold::Entry { store, shard, index, .. } = &self.hold {
            store.0.with(*shard, |shard, space| shard.condemn(*index, space));
        }
    }

    pub(super) fn of_reservation(reservation: Reservation, crc: Crc) -> Self {
        let (span, generation) = (reservation.span(), reservation.generation());
        Self { hold: Hold::Slot(reservation), generation, crc, span }
    }
}

impl Store {
    pub(super) fn guard(&self, shard_index: usize, shard: &mut Shard, space: &Space, index: u32) -> Option<ReadGuard> {
        shard.add_user(index).then(|| self.guard_of_user(shard_index, shard, space, index))
    }

    /// A guard for a user that was counted already.
    pub(super) fn guard_of_user(&self, shard_index: usize, shard: &Shard, space: &Space, index: u32) -> ReadGuard {
        let entry = &shard.entries[index];
        let (generation, crc, length) = (entry.generation, entry.crc, u64::from(entry.length));
        let span = space.span(shard.payload_of(index), length);
        let hold = Hold::Entry { store: self.clone(), shard: shard_index, index, generation };
        ReadGuard { hold, generation, crc, span }
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
            let index = match shard.locate(now, hashed, space) {
                None => {
                    shard.counters.misses += 1;
                    return Ok(None);
                }
                Some(At::Flash(index)) => return Ok(Some(Found::Flash(shard.read_flash(index, space)))),
                Some(At::Dram(index)) => index,
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

    /// As [`Store::read`], with a small value copied out; counts nothing and touches nothing. `checked`: clients can write the
    /// segments, see [`Store::read_checked`].
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn peek(&self, now: Instant, key: &[u8], checked: bool) -> Result<Option<Found>, StoreError> {
        Ok(self.snapshot(now, key, checked)?.map(|snapshot| snapshot.found))
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
            let found = match shard.locate(now, hashed, space) {
                Some(At::Flash(index)) => return Ok(Some(Found::Flash(shard.read_flash(index, space)))),
                Some(At::Dram(index)) => {
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

    pub(super) fn found_checked(
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
        let record = shard.entries[index].has(flag::CLEAN).then(|| shard.twin_on_flash(index));
        shard.condemn(index, space);
        Ok(record.map(|record| Found::Flash(shard.flash_read(record, true))))
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
            let index = match shard.locate(now, hashed, space) {
                None => {
                    shard.counters.misses += 1;
                    return Ok(None);
                }
                Some(At::Flash(_)) => return Ok(None),
                Some(At::Dram(index)) => index,
            };
            let stamp = shard.stamp_at(index, now, depth);
            shard.touch(index, stamp, space);
            let lease = shard.lease(index, until, session, number, space)?;
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

    /// Promises that the object's bytes stay readable until then. `None` too for an object on flash alone, uncounted: ask
    /// [`Store::flash_read`], promote it, and lease again.
    ///
    /// # Errors
    /// [`StoreError::TooManyUsers`]; [`StoreError::Quota`] when the session leases as much as one may.
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
    /// Leases need all of them in DRAM. If some are not, only [`Lookup::prefix`], [`Lookup::on_flash`] and [`Lookup::flash`]
    /// are told: promote those, and ask again.
    ///
    /// # Errors
    /// [`StoreError::TooManyUsers`], [`StoreError::Quota`]; nothing stays leased then.
    pub fn lookup<'k>(
        &self,
        now: Instant,
        keys: impl Fn(usize) -> Option<&'k [u8]>,
        lease: Option<(Instant, SessionId)>,
    ) -> Result<Lookup, StoreError> {
        let mut present: Vec<HashedKey<'k>> = Vec::new();
        let mut on_flash = Vec::new();
        while let Some(key) = keys(present.len()) {
            let hashed = self.hash(key);
            let here = self.0.with(self.0.shard_of(hashed.hash), |shard, space| {
                let here = shard.locate(now, hashed, space);
                if here.is_none() {
                    shard.counters.misses += 1;
                }
                here
            });
            match here {
                None => break,
                Some(At::Dram(_)) => {}
                Some(At::Flash(_)) => on_flash.push(hashed),
            }
            present.push(hashed);
        }
        let mut found = Lookup { prefix: present.len(), on_flash: on_flash.len(), ..Lookup::default() };
        if lease.is_some() && !on_flash.is_empty() {
            found.flash = on_flash.iter().filter_map(|hashed| self.flash_read(now, hashed.key)).collect();
            // What went or came back meanwhile is found when the caller asks again.
            return Ok(found);
        }
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
            let at = shard.locate(now, hashed, space)?;
            let handle = match at {
                At::Dram(index) => index,
                At::Flash(index) => index | FLASH,
            };
            if let (At::Dram(index), Some(_)) = (at, depth) {
                // A lookup is a use of the chain, not a read of its bytes: the order changes, the grace is not renewed.
                let stamp = shard.stamp_at(index, now, depth);
                shard.renew_stamp(index, stamp);
            }
            if grace > Millis(0) {
                shard.grace(handle, now + grace, space);
            }
            Some(shard.length_at(at))
        })
    }

    /// Whether a key is live. An engine that probes will load: the object gets a grace.
    pub fn probe(&self, now: Instant, key: &[u8]) -> bool {
        self.probe_in(now, self.hash(key), None).is_some()
    }
}

impl Shard {
    /// A read of an object on flash alone: a hit.
    fn read_flash(&mut self, index: u32, space: &Space) -> FlashRead {
        self.counters.hits += 1;
        self.counters.flash_hits += 1;
        let again = self.touch_flash(index, space);
        self.flash_read(index, again)
    }

    /// The bytes in DRAM are not those that were published.
    fn condemn(&mut self, index: u32, space: &Space) {
        self.counters.scribbled += 1;
        // Somebody else may have removed it, or been first to see it.
        if self.entries[index].has(flag::DOOMED) {
            return;
        }
        if self.entries[index].has(flag::CLEAN) {
            self.drop_copy(index, space);
        } else {
            self.unlink(index, space);
        }
    }
}
