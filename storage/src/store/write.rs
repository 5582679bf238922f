//! Writing: reservations, grants, sealing, publication.

use super::room::Hunt;
use super::slots::{Reservation, SealGuard, WriteGuard};
use super::{Store, check_key, shard_number};
use crate::dram::extent::Owner;
use crate::dram::quota::percent_of;
use crate::dram::slab;
use crate::dram::slot::SMALL_HEADER;
use crate::error::StoreError;
use crate::lru::{Prey, Stamp};
use crate::place::{PAGE, Place, SLOT_EDGE, SLOT_EDGE_LEN, extent_pages};
use crate::shard;
use crate::shard::grant::{Begun, Committed, Condition, GRANT_SPAN_MAX, Terms};
use crate::slot::{Account, Slot};
use crate::sync::Ordering;
use protocol::base::{ByteLen, Crc, Generation, GrantId, Instant, SegmentId, SessionId};
use std::sync::Arc;

/// What a writer is granted.
#[derive(Clone, Copy, Debug)]
pub struct Granted {
    /// The right to write.
    pub grant: GrantId,
    /// The placement's generation, once committed.
    pub generation: Generation,
    /// When the grant ends.
    pub deadline: Instant,
    /// The segment of the slot.
    pub segment: SegmentId,
    /// Bytes from the segment's start to the payload.
    pub offset: u64,
    /// Bytes of payload.
    pub length: u64,
}

/// What a grant is asked for with.
#[derive(Clone, Debug)]
pub struct GrantTerms {
    /// Who may use it.
    pub session: SessionId,
    /// When it ends.
    pub deadline: Instant,
    /// Whether the peer can write without the server knowing, so that the slot must be fenced before it is believed or
    /// reused.
    pub exposed: bool,
    /// What becomes true with the commit.
    pub terms: Terms,
}

/// What a commit finds.
#[derive(Debug)]
pub enum Seal {
    /// The slot is closed for writing: check its bytes, then finish.
    Begun(SealGuard),
    /// It was committed before: the same answer again.
    Done(Committed),
}

impl Store {
    /// Refuses what no store of this configuration holds.
    fn check_len(&self, key: &[u8], length: u64) -> Result<(), StoreError> {
        check_key(key)?;
        let one_segment = self.0.space.pages_max() * PAGE;
        let max = self.0.config.object_len_max.get().min(one_segment.saturating_sub(PAGE));
        if length > max || shard::charge(length, key.len()) > one_segment {
            return Err(StoreError::TooBig { len: ByteLen(length), max: ByteLen(max) });
        }
        Ok(())
    }

    fn charge_for(&self, key: &[u8], length: u64, account: &Account) -> Result<u64, StoreError> {
        self.check_len(key, length)?;
        let config = &self.0.config;
        let charge = shard::charge(length, key.len());
        if !self.0.may_ever_fit(charge) {
            return Err(self.no_space_ever(charge));
        }
        let capacity = self.0.space.capacity();
        account.charge(charge, percent_of(capacity, config.reserved_client_percent_max))?;
        let states = &self.0.space.states;
        let unpublished = states.unpublished();
        states.reserved.fetch_add(charge, Ordering::Relaxed);
        let max = percent_of(capacity, config.reserved_percent_max);
        if unpublished > 0 && unpublished + charge > max {
            self.uncharge(charge, account);
            return Err(StoreError::Quota {
                what: "reservations of all clients",
                held: ByteLen(unpublished),
                max: ByteLen(max),
                wanted: ByteLen(charge),
            });
        }
        Ok(charge)
    }

    fn uncharge(&self, charge: u64, account: &Account) {
        self.0.space.states.reserved.fetch_sub(charge, Ordering::Relaxed);
        account.discharge(charge);
    }

    /// Takes a slot, evicting if it must. The caller holds the charge.
    fn take_slot(
        &self,
        now: Instant,
        key: &[u8],
        length: u64,
        charge: u64,
        account: &Arc<Account>,
    ) -> Result<Slot, StoreError> {
        let hashed = self.hash(key);
        let shard_index = self.0.shard_of(hashed.hash);
        let small = shard::small_len(length, key.len());
        let (place, generation) = if slab::charge(small).is_some() {
            let mut hunt = Hunt::new(slab::page_run(small));
            loop {
                let got = self.0.with(shard_index, |shard, space| {
                    let (page, slot) = shard.slabs.allocate(now, small, space, shard_number(shard_index))?;
                    shard.grants.small_bytes += charge;
                    Some((Place::Small { page, slot }, shard.take_generation()))
                });
                if let Some(got) = got {
                    break got;
                }
                if !self.0.make_small_room(now, shard_index, &mut hunt) {
                    return Err(self.no_space(now, charge));
                }
            }
        } else {
            let pages = u32::try_from(extent_pages(length, key.len())).expect("checked against the segment");
            let home = (hashed.hash >> 16) as usize;
            let owner = Owner::Object { hash: hashed.hash };
            let payload = self.0.allocate(now, pages, owner, home).ok_or_else(|| {
                let refusal = self.no_space(now, charge);
                if matches!(refusal, StoreError::SpillWait { .. }) {
                    self.0.spill_run(now, pages);
                }
                refusal
            })?;
            // A slow reader of what lay here before must not find its generation over the next one's bytes.
            self.0.space.memory(payload).write(payload.offset() - SLOT_EDGE, &[0; SLOT_EDGE_LEN]);
            (Place::Extent { payload }, self.0.with(shard_index, |shard, _| shard.take_generation()))
        };
        Ok(Slot { key: key.into(), hash: hashed.hash, place, length, charge, generation, account: Arc::clone(account) })
    }

    /// Nothing more can be evicted: not now, if writing to flash will change that.
    fn no_space(&self, now: Instant, wanted: u64) -> StoreError {
        let patient = self.0.prey(now) == Prey::PATIENT;
        let is_dirty = || [Prey::Plain, Prey::Soft].iter().any(|&prey| self.0.oldest(now, prey).is_some());
        // What is on its way to flash is nobody's prey, and gives room when it is there.
        let worth_waiting = (patient && is_dirty()) || self.accounting().spilling > 0;
        if !worth_waiting {
            return self.no_space_ever(wanted);
        }
        if let Some(flash) = self.0.flash.get() {
            flash.wants(wanted);
        }
        StoreError::SpillWait { wanted: ByteLen(wanted) }
    }

    fn no_space_ever(&self, wanted: u64) -> StoreError {
        let free = self.0.space.capacity().saturating_sub(self.0.space.used());
        StoreError::NoSpace { wanted: ByteLen(wanted), free: ByteLen(free) }
    }

    /// Reserves a slot for this process to fill: an in-band write of a large value.
    ///
    /// # Errors
    /// [`StoreError::TooBig`], [`StoreError::KeyLen`], [`StoreError::Quota`], [`StoreError::NoSpace`],
    /// [`StoreError::SpillWait`].
    pub fn reserve(
        &self,
        now: Instant,
        key: &[u8],
        length: u64,
        account: &Arc<Account>,
    ) -> Result<Reservation, StoreError> {
        let charge = self.charge_for(key, length, account)?;
        match self.take_slot(now, key, length, charge, account) {
            Ok(slot) => Ok(Reservation { store: self.clone(), slot: Some(slot), span: None }),
            Err(error) => {
                self.uncharge(charge, account);
                Err(error)
            }
        }
    }

    /// Reserves a slot and grants the right to write it once. An existing live object refuses it at once, unless the terms
    /// replace; it is touched then, as a reader would.
    ///
    /// # Errors
    /// As [`Store::reserve`], and [`StoreError::Exists`].
    pub fn grant(
        &self,
        now: Instant,
        key: &[u8],
        length: u64,
        account: &Arc<Account>,
        terms: GrantTerms,
    ) -> Result<Granted, StoreError> {
        self.check_absent(now, key, &terms.terms)?;
        if terms.terms.pin {
            self.check_pin_room(key, length)?;
        }
        let charge = self.charge_for(key, length, account)?;
        let slot = self.take_slot(now, key, length, charge, account).inspect_err(|_| self.uncharge(charge, account))?;
        let (generation, place, key_len) = (slot.generation, slot.place, key.len());
        let shard_index = self.0.shard_of(slot.hash);
        let number = shard_number(shard_index);
        let (grant, position) = self.0.with(shard_index, |shard, _| {
            let position = shard.payload_position(place, key_len);
            let deadlines = (terms.deadline, terms.deadline.max(now + GRANT_SPAN_MAX));
            (shard.grant(slot, terms.terms, deadlines, terms.session, terms.exposed, number), position)
        });
        Ok(Granted {
            grant,
            generation,
            deadline: terms.deadline,
            segment: position.segment_id(),
            offset: position.offset(),
            length,
        })
    }

    /// Refuses early what publication would refuse: a live object, if the terms are to find none. It is touched then, as a
    /// reader would.
    ///
    /// # Errors
    /// [`StoreError::Exists`].
    pub fn check_absent(&self, now: Instant, key: &[u8], terms: &Terms) -> Result<(), StoreError> {
        if terms.condition != Condition::IfAbsent {
            return Ok(());
        }
        let parent = self.parent_stamp(now, terms);
        let hashed = self.hash(key);
        self.0.with(self.0.shard_of(hashed.hash), |shard, space| {
            let Some(at) = shard.locate(now, hashed, space) else {
                return Ok(());
            };
            shard.touch_as_found(now, at, parent, space);
            Err(StoreError::Exists { generation: shard.generation_at(at) })
        })
    }

    /// Refuses early what publication would refuse for its pin, before a payload has travelled.
    fn check_pin_room(&self, key: &[u8], length: u64) -> Result<(), StoreError> {
        self.check_len(key, length)?;
        let space = &self.0.space;
        let (charge, held) = (shard::charge(length, key.len()), space.pinned.held());
        if held.saturating_add(charge) > space.pinned.max(space.capacity()) {
            return Err(shard::pin::too_much_pinned(&space.pinned, space.capacity(), held, charge));
        }
        Ok(())
    }

    fn parent_stamp(&self, now: Instant, terms: &Terms) -> Option<Stamp> {
        terms.parent.as_ref().and_then(|parent| self.0.stamp_of(now, self.hash(parent)))
    }

    fn of_grant(&self, grant: GrantId) -> Result<usize, StoreError> {
        self.0.shard_of_credential(grant.0).ok_or(StoreError::NoGrant)
    }

    /// Extends a grant to `until`, if that is later than its end, but not beyond [`GRANT_SPAN_MAX`] from its reservation.
    /// Returns its end.
    ///
    /// # Errors
    /// [`StoreError::NoGrant`], [`StoreError::Busy`] once it is being sealed.
    pub fn renew_grant(
        &self,
        now: Instant,
        grant: GrantId,
        session: SessionId,
        until: Instant,
    ) -> Result<Instant, StoreError> {
        let shard = self.of_grant(grant)?;
        self.0.with(shard, |shard, _| shard.renew_grant(now, grant, session, until))
    }

    /// Begins a write of `length` bytes at `offset` of a granted slot.
    ///
    /// # Errors
    /// [`StoreError::NoGrant`], [`StoreError::Busy`] once it is being sealed, [`StoreError::Range`].
    pub fn write(
        &self,
        now: Instant,
        grant: GrantId,
        session: SessionId,
        offset: u64,
        length: u64,
    ) -> Result<WriteGuard, StoreError> {
        let shard = self.of_grant(grant)?;
        let (span, to) = self.0.with(shard, |shard, space| {
            let to = shard.begin_write(now, grant, session, offset, length)?;
            let at = shard.payload_position(to.place, to.key_len);
            Ok((space.span(at.plus(offset), length), to))
        })?;
        let (generation, deadline) = (to.generation, to.deadline);
        Ok(WriteGuard { store: self.clone(), shard, grant, offset, span, generation, deadline })
    }

    /// Closes a granted slot for writing, or finds that it was committed before. `length`, if given,
    /// is what was written of the granted bytes; the rest is given back.
    ///
    /// # Errors
    /// [`StoreError::NoGrant`], [`StoreError::Busy`] while a write is in flight, [`StoreError::Range`].
    pub fn seal(
        &self,
        now: Instant,
        grant: GrantId,
        session: SessionId,
        length: Option<u64>,
    ) -> Result<Seal, StoreError> {
        let shard_index = self.of_grant(grant)?;
        self.0.with(shard_index, |shard, space| {
            Ok(match shard.begin_seal(now, grant, session, length, space)? {
                Begun::Done(committed) => Seal::Done(committed),
                Begun::Seal(seal) => {
                    let at = shard.payload_position(seal.place, seal.key_len);
                    let span = space.span(at, seal.length);
                    Seal::Begun(SealGuard {
                        store: self.clone(),
                        shard: shard_index,
                        grant,
                        span,
                        exposed: seal.exposed,
                        parent: seal.parent,
                        done: false,
                    })
                }
            })
        })
    }

    /// Gives a grant up. `false` if it was not held, or is being sealed.
    pub fn abort(&self, grant: GrantId, session: SessionId) -> bool {
        self.of_grant(grant).is_ok_and(|shard| self.0.with(shard, |shard, space| shard.abort(grant, session, space)))
    }

    /// The remote access to a slot in quarantine is provably over: it may be reused.
    pub fn fenced(&self, grant: GrantId) {
        if let Ok(shard) = self.of_grant(grant) {
            self.0.with(shard, |shard, space| shard.fenced(grant, space));
        }
    }

    pub(super) fn publish(&self, now: Instant, slot: Slot, crc: Crc, terms: &Terms) -> Result<Committed, StoreError> {
        let parent = self.parent_stamp(now, terms);
        let length = ByteLen(slot.length);
        let (key, generation) = (slot.key.clone(), slot.generation);
        self.0.with(self.0.shard_of(slot.hash), |shard, space| shard.publish(now, slot, crc, terms, parent, space))?;
        Ok(Committed { key, generation, length })
    }

    /// Writes a value in one step: `SET` of a value that lies in memory.
    ///
    /// # Errors
    /// As [`Store::reserve`]; [`StoreError::Exists`] and [`StoreError::Condition`] for a condition that does not hold.
    pub fn set(
        &self,
        now: Instant,
        key: &[u8],
        value: &[u8],
        account: &Arc<Account>,
        terms: &Terms,
    ) -> Result<Generation, StoreError> {
        let small = shard::small_len(value.len() as u64, key.len());
        if slab::charge(small).is_none() || terms.parent.is_some() || terms.pin {
            let reservation = self.reserve(now, key, value.len() as u64, account)?;
            let crc = protocol::base::copy_into(value, &reservation.span());
            return reservation.publish(now, crc, terms).map(|committed| committed.generation);
        }
        self.check_len(key, value.len() as u64)?;
        self.set_small(now, key, value, terms)
    }

    /// The short path: one lock, no reservation.
    fn set_small(&self, now: Instant, key: &[u8], value: &[u8], terms: &Terms) -> Result<Generation, StoreError> {
        let crc = Crc::of(value);
        let hashed = self.hash(key);
        let shard_index = self.0.shard_of(hashed.hash);
        let len = shard::small_len(value.len() as u64, key.len());
        let mut hunt = Hunt::new(slab::page_run(len));
        loop {
            let prey = self.0.prey(now);
            let done = self.0.with(shard_index, |shard, space| {
                shard.prefetch(hashed);
                if terms.condition != Condition::Always {
                    let found = shard.locate(now, hashed, space);
                    if let Some(refusal) = shard.refusal(now, found, terms.condition, None, space) {
                        return Some(Err(refusal));
                    }
                }
                let number = shard_number(shard_index);
                let (page, slot) = shard.slabs.allocate(now, len, space, number).or_else(|| {
                    // In a full store of values of one size, one victim is enough, under the same lock.
                    shard.evict_own(now, prey, space);
                    shard.slabs.allocate(now, len, space, number)
                })?;
                let at = shard.slabs.slot(page, slot).0.plus(SMALL_HEADER + key.len() as u64);
                space.memory(at).write(at.offset(), value);
                let (mut expires, mut pins) = (terms.expires, None);
                if let Some(at) = shard.locate(now, hashed, space) {
                    if terms.keep_ttl {
                        expires = shard.expiry_at(at);
                        pins = shard.held_pins(shard.handle_of_pins(at));
                    }
                    shard.unlink_at(at, space);
                }
                let generation = shard.take_generation();
                let fresh = shard::Fresh {
                    generation,
                    place: Place::Small { page, slot },
                    length: u32::try_from(value.len()).expect("small"),
                    crc,
                    stamp: Stamp::new(now, 0),
                    leaf: false,
                };
                let index = shard.insert(hashed, fresh, space);
                if expires.is_some() {
                    shard.set_expiry(index, expires);
                }
                if let Some(until) = terms.soft_pin {
                    shard.soft_pin(index, until);
                }
                if let Some(pins) = pins {
                    shard.keep_pins(index, pins, space);
                }
                Some(Ok(generation))
            });
            if let Some(done) = done {
                return done;
            }
            if !self.0.make_small_room(now, shard_index, &mut hunt) {
                return Err(self.no_space(now, slab::charge(len).unwrap_or(len)));
            }
        }
    }
}
