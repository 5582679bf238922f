//! What holds a slot that is not published yet: by a reservation, a write, or a commit.
//!
//! Invariants:
//! - While one of these lives, nobody else is given its bytes.
//! - Dropped, each gives back what it held; nothing leaks with a task that ends early.

use super::Store;
use super::read::Found;
use crate::dram::memory;
use crate::error::StoreError;
use crate::place::Place;
use crate::shard::free_extent;
use crate::shard::grant::{Committed, Terms};
use crate::slot::Slot;
use crate::sync::Ordering;
use protocol::base::{ByteLen, Crc, Generation, GrantId, Instant, RawSpan};

/// A slot that only this process writes. Dropped unpublished, it is given back.
#[derive(Debug)]
pub struct Reservation {
    pub(super) store: Store,
    pub(super) slot: Option<Slot>,
    /// Keeps what `bytes_mut` lends mapped.
    pub(super) span: Option<RawSpan>,
}

/// A write into a granted slot. The slot stays while this lives.
#[derive(Debug)]
pub struct WriteGuard {
    pub(super) store: Store,
    pub(super) shard: usize,
    pub(super) grant: GrantId,
    pub(super) offset: u64,
    pub(super) span: RawSpan,
    pub(super) generation: Generation,
    pub(super) deadline: Instant,
}

/// A granted slot that nobody may write any more, to be checked. Dropped unfinished, its grant is aborted.
#[derive(Debug)]
pub struct SealGuard {
    pub(super) store: Store,
    pub(super) shard: usize,
    pub(super) grant: GrantId,
    pub(super) span: RawSpan,
    /// Remote access must be revoked, and proven so, before the bytes are checked.
    pub(super) exposed: bool,
    pub(super) parent: Option<Box<[u8]>>,
    pub(super) done: bool,
}

impl Reservation {
    /// The memory to fill.
    pub fn span(&self) -> RawSpan {
        let slot = self.slot.as_ref().expect("held until published or dropped");
        let inner = &self.store.0;
        match slot.place {
            Place::Extent { payload } => inner.space.span(payload, slot.length),
            Place::Small { .. } => inner.with(inner.shard_of(slot.hash), |shard, space| {
                space.span(shard.payload_position(slot.place, slot.key.len()), slot.length)
            }),
        }
    }

    /// The memory to fill, as bytes. Nobody else knows of the slot.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let span = self.span();
        memory::lend_mut(self.span.insert(span))
    }

    /// The key it was reserved for.
    pub fn key(&self) -> &[u8] {
        &self.slot.as_ref().expect("held until published or dropped").key
    }

    pub(super) fn generation(&self) -> Generation {
        self.slot.as_ref().expect("held until published or dropped").generation
    }

    /// Publishes the bytes written, whose checksum is `crc`.
    ///
    /// # Errors
    /// [`StoreError::Exists`] and [`StoreError::Condition`] for a condition that does not hold; the slot is given back then.
    pub fn publish(mut self, now: Instant, crc: Crc, terms: &Terms) -> Result<Committed, StoreError> {
        let slot = self.slot.take().expect("held until published or dropped");
        self.store.publish(now, slot, crc, terms)
    }

    /// As [`Reservation::publish`], and answers with what the key held until then, whether it was replaced or not.
    pub fn exchange(
        mut self,
        now: Instant,
        crc: Crc,
        terms: &Terms,
        checked: bool,
    ) -> (Option<Found>, Result<Committed, StoreError>) {
        let slot = self.slot.take().expect("held until published or dropped");
        self.store.publish_exchanging(now, slot, crc, terms, checked)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let inner = &self.store.0;
        inner.space.states.reserved.fetch_sub(slot.charge, Ordering::Relaxed);
        match slot.place {
            Place::Extent { payload } => {
                slot.account.discharge(slot.charge);
                free_extent(payload, slot.length, slot.key.len(), &inner.space);
            }
            Place::Small { .. } => inner.with(inner.shard_of(slot.hash), |shard, space| shard.free_slot(slot, space)),
        }
    }
}

impl WriteGuard {
    /// The memory to write.
    pub fn span(&self) -> &RawSpan {
        &self.span
    }

    /// The placement's generation, once committed.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// When the grant ends, by what is known now. A write that goes on after that only keeps the slot from its next owner.
    pub fn deadline(&self) -> Instant {
        let renewed = self.store.0.with(self.shard, |shard, _| shard.grant_end(self.grant));
        renewed.unwrap_or(self.deadline)
    }

    /// The memory to write, as bytes. No other write of the range can begin while this one lives.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        memory::lend_mut(&mut self.span)
    }
}

impl Drop for WriteGuard {
    fn drop(&mut self) {
        self.store
            .0
            .with(self.shard, |shard, space| shard.end_write(self.grant, self.offset, self.span.len() as u64, space));
    }
}

impl SealGuard {
    /// The bytes to check.
    pub fn span(&self) -> &RawSpan {
        &self.span
    }

    /// Whether remote access must be revoked first.
    pub fn exposed(&self) -> bool {
        self.exposed
    }

    /// The grant being sealed.
    pub fn grant(&self) -> GrantId {
        self.grant
    }

    /// Remote access is provably over; the bytes can be checked.
    pub fn fenced(&mut self) {
        self.exposed = false;
    }

    /// Publishes if `actual`, computed over [`SealGuard::span`], is what the client `claimed`. The grant is spent either way.
    ///
    /// # Errors
    /// [`StoreError::Crc`]; [`StoreError::Exists`] if another writer of the key was first.
    ///
    /// # Panics
    /// If the slot is still exposed: its checksum would mean nothing.
    pub fn finish(mut self, now: Instant, claimed: Crc, actual: Crc) -> Result<Committed, StoreError> {
        assert!(!self.exposed, "a slot is fenced before its bytes are believed");
        self.done = true;
        let (store, grant) = (&self.store, self.grant);
        let inner = &store.0;
        let parent = self.parent.as_ref().and_then(|parent| inner.stamp_of(now, store.hash(parent)));
        inner.with(self.shard, |shard, space| {
            let (slot, terms) = shard.take_sealing(grant, space);
            if claimed != actual {
                shard.counters.crc_refused += 1;
                space.states.reserved.fetch_sub(slot.charge, Ordering::Relaxed);
                shard.free_slot(slot, space);
                return Err(StoreError::Crc { claimed, actual });
            }
            let committed =
                Committed { key: slot.key.clone(), generation: slot.generation, length: ByteLen(slot.length) };
            shard.publish(now, slot, actual, &terms, parent, space)?;
            shard.remember(now, grant, committed.clone(), inner.config.commit_memory);
            Ok(committed)
        })
    }
}

impl Drop for SealGuard {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        self.store.0.with(self.shard, |shard, space| {
            if self.exposed {
                shard.quarantine_sealing(self.grant, space);
            } else {
                let (slot, _) = shard.take_sealing(self.grant, space);
                space.states.reserved.fetch_sub(slot.charge, Ordering::Relaxed);
                shard.free_slot(slot, space);
            }
        });
    }
}
