//! What to write to flash, and what became of it.
//!
//! Invariants:
//! - While a [`Spill`] lives, its object's bytes stay where they are, whatever becomes of the object.
//! - A record is on its way only after [`Spill::begin`]: from then on, what ends the object or the spill buries the record.

use super::{FlashPlace, Store};
use crate::dram::quota::percent_of;
use crate::lru::{List, Prey};
use crate::shard::At;
use crate::shard::flash::{Begun, Offer, Outcome, Taken};
use crate::sync::Ordering;
use protocol::base::{Crc, Generation, Instant, RawSpan};

/// Objects that one call looks at which are not to be written.
const DECLINED_MAX: usize = 1024;

/// A dirty object to be written to flash. Dropped, it stays dirty; if it was begun, the record is buried.
#[derive(Debug)]
pub struct Spill {
    /// The object's key.
    pub key: Box<[u8]>,
    /// Its generation.
    pub generation: Generation,
    /// Bytes of payload.
    pub length: u64,
    /// Their checksum as published. What lies in memory must be compared with it before it is written.
    pub crc: Crc,
    /// When it expires; [`Spill::begin`] brings it up to date.
    pub expires: Option<Instant>,
    /// The payload. A small one's lies anywhere, a large one's at a page boundary.
    pub span: RawSpan,
    store: Store,
    shard: usize,
    index: u32,
    begun: bool,
    settled: bool,
}

/// What is to be done so that an object is on flash.
#[derive(Debug)]
pub enum SpillOf {
    /// Write this.
    Spill(Spill),
    /// Its record is complete there; perhaps not synced yet.
    OnFlash(FlashPlace),
    /// Another spill of it is under way.
    InFlight,
    /// There is no such object of this generation, or it is too long for flash.
    Missing,
}

impl Spill {
    fn new(store: &Store, shard: usize, offer: Offer) -> Self {
        let Offer { index, key, generation, length, crc, expires, span, .. } = offer;
        let store = store.clone();
        Self { key, generation, length, crc, expires, span, store, shard, index, begun: false, settled: false }
    }

    fn settle(&mut self, outcome: Outcome) -> bool {
        self.settled = true;
        let (index, generation) = (self.index, self.generation);
        self.store.0.with(self.shard, |shard, space| shard.end_spill(index, generation, outcome, space))
    }

    /// The record is about to be written there. Call it before anything of it is submitted; called again, the place before
    /// is buried. `false` if the object is gone meanwhile: then nothing must be written.
    pub fn begin(&mut self, place: FlashPlace) -> bool {
        match self.store.0.with(self.shard, |shard, _| shard.begin_spill(self.index, place)) {
            Begun::Go(expires) => {
                self.expires = expires;
                self.begun = true;
                true
            }
            Begun::Gone => false,
        }
    }

    /// The record is complete and can be read: the object is clean from now on. `false` if it was deleted or replaced
    /// meanwhile; its record is buried already.
    ///
    /// # Panics
    /// If it was not begun.
    pub fn done(mut self) -> bool {
        assert!(self.begun, "a record is begun before it is done");
        let clean = self.settle(Outcome::Done);
        self.store.room().notify_waiters();
        clean
    }

    /// The bytes in DRAM are not those that were published: no reader finds the object any more.
    pub fn condemn(mut self) {
        self.settle(Outcome::Condemned);
        self.store.room().notify_waiters();
    }

    /// It is not worth a write: until it is read again, it may be evicted as it is.
    pub fn decline(mut self) {
        self.settle(Outcome::Declined);
        self.store.room().notify_waiters();
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        if !self.settled {
            self.settle(Outcome::Failed);
        }
    }
}

impl Store {
    /// Appends the objects that should be on flash next, coldest first, until their payloads are `bytes_max` or dirty
    /// objects take less than the spill mark and no writer waits; what is under way counts as if it were there. One that is
    /// dropped is the first of the next call: after a failure it is for the caller to wait.
    pub fn next_spill(&self, now: Instant, out: &mut Vec<Spill>, bytes_max: u64) {
        let inner = &self.0;
        let mut bytes = 0;
        for shard in 0..inner.shard_count() {
            while bytes < bytes_max
                && let Some(offer) = inner.with(shard, |shard, space| shard.offer_soon(space))
            {
                bytes += offer.length;
                out.push(Spill::new(self, shard, offer));
            }
        }
        let mark = u8::try_from(inner.flash().mark_percent.load(Ordering::Relaxed)).expect("a percentage");
        let mark = percent_of(inner.space.capacity(), mark);
        let mut declined = 0;
        let mut short = inner.flash().short.swap(0, Ordering::Relaxed);
        while bytes < bytes_max && declined < DECLINED_MAX && (short > 0 || inner.dirty() > mark) {
            let Some((shard, list)) = inner.coldest_dirty(now) else { return };
            match inner.with(shard, |shard, space| shard.offer_oldest(list, space)) {
                Taken::Offer(offer) => {
                    bytes += offer.length;
                    short = short.saturating_sub(offer.length.max(1));
                    out.push(Spill::new(self, shard, offer));
                }
                Taken::Declined => {
                    declined += 1;
                    inner.flash().room.notify_waiters();
                }
                // Somebody else took it meanwhile.
                Taken::None => declined += 1,
            }
        }
        inner.flash().short.fetch_max(short, Ordering::Relaxed);
    }

    /// The object of this key and generation, to be written now: `DURABLE`.
    pub fn spill_of(&self, now: Instant, key: &[u8], generation: Generation) -> SpillOf {
        let hashed = self.hash(key);
        let shard_index = self.0.shard_of(hashed.hash);
        self.0.with(shard_index, |shard, space| match shard.locate(now, hashed, space) {
            Some(at) if shard.generation_at(at) == generation => match at {
                At::Flash(record) => SpillOf::OnFlash(shard.flash.entries[record].place),
                At::Dram(index) => shard.spill_state(index).unwrap_or_else(|| {
                    let offer = shard.offer(index, space);
                    offer.map_or(SpillOf::Missing, |offer| SpillOf::Spill(Spill::new(self, shard_index, offer)))
                }),
            },
            _ => SpillOf::Missing,
        })
    }
}

impl super::Inner {
    /// Bytes of slots that are neither free to drop nor about to be.
    fn dirty(&self) -> u64 {
        let free: u64 = self.gauges.iter().map(|gauges| gauges.free_to_drop() + gauges.spilling()).sum();
        self.occupied().saturating_sub(free)
    }

    /// Where the coldest dirty object is; soft-pinned ones come last.
    fn coldest_dirty(&self, now: Instant) -> Option<(usize, List)> {
        self.oldest(now, Prey::Plain).or_else(|| self.oldest(now, Prey::Soft))
    }
}
