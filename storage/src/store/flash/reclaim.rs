//! Slots that come and go: reclaim, loss, and what is found at start-up.
//!
//! Reclaiming a slot: [`Store::survey_slot`] says which of its records still count and which are worth keeping; each of the
//! latter is copied under a [`Reinsertion`]; then [`Store::drop_slot`] forgets the rest, and once
//! [`Store::slot_readers`] is zero the slot may be overwritten.

use super::{CLOSING, FlashPlace, Pinned, Store};
use crate::shard::flash::Fate;
use crate::sync::Ordering;
use protocol::base::{Crc, Generation, Instant};

/// One line of a slot's table of records, as its keeper knows it.
#[derive(Clone, Copy, Debug)]
pub struct SlotRecord<'a> {
    /// The object's key.
    pub key: &'a [u8],
    /// Its generation.
    pub generation: Generation,
    /// Page of the record's header.
    pub page: u16,
}

/// A record that counts: the index points at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    /// Which of the records handed in.
    pub index: usize,
    /// Whether it should be kept: read since it was written, pinned, soft-pinned or graced.
    pub hot: bool,
    /// Whether it must be kept while there is any room: pinned.
    pub pinned: bool,
    /// Bytes of payload.
    pub length: u64,
    /// When it expires.
    pub expires: Option<Instant>,
}

/// A record found on flash at start-up, or on a device just attached.
#[derive(Clone, Copy, Debug)]
pub struct RecoveredRecord<'a> {
    /// The object's key.
    pub key: &'a [u8],
    /// Its generation.
    pub generation: Generation,
    /// Bytes of payload.
    pub length: u64,
    /// Their checksum.
    pub crc: Crc,
    /// When it expires.
    pub expires: Option<Instant>,
    /// Where it lies.
    pub place: FlashPlace,
    /// Its pins.
    pub pins: Pinned,
}

/// A record that is being copied to another place. Dropped unfinished, the copy is buried.
#[derive(Debug)]
pub struct Reinsertion {
    /// When the object expires, for the copy's header.
    pub expires: Option<Instant>,
    store: Store,
    shard: usize,
    index: u32,
    generation: Generation,
    to: FlashPlace,
    settled: bool,
}

impl Reinsertion {
    fn settle(&mut self, done: bool) -> bool {
        self.settled = true;
        let (index, generation, to) = (self.index, self.generation, self.to);
        self.store.0.with(self.shard, |shard, _| shard.end_move(index, generation, to, done))
    }

    /// The copy is complete and can be read: the index points at it. `false` if the object was deleted or replaced
    /// meanwhile; both records are buried already.
    pub fn done(mut self) -> bool {
        self.settle(true)
    }
}

impl Drop for Reinsertion {
    fn drop(&mut self) {
        if !self.settled {
            self.settle(false);
        }
    }
}

impl Store {
    /// Which of a slot's records count.
    pub fn survey_slot<'a>(
        &self,
        now: Instant,
        slot: u16,
        records: impl IntoIterator<Item = SlotRecord<'a>>,
    ) -> Vec<Current> {
        let look = |(index, record): (usize, SlotRecord<'a>)| {
            let hashed = self.hash(record.key);
            let place = FlashPlace { slot, page: record.page };
            self.0.with(self.0.shard_of(hashed.hash), |shard, _| {
                let found = shard.current(hashed, record.generation, place)?;
                let expires = shard.flash.expiry(found);
                if expires.is_some_and(|at| at <= now) {
                    return None;
                }
                let (hot, pinned) = shard.heat_of(found);
                Some(Current { index, hot, pinned, length: u64::from(shard.flash.entries[found].length), expires })
            })
        };
        records.into_iter().enumerate().filter_map(look).collect()
    }

    /// A record is about to be copied from `from` to `to`. Call it before anything of the copy is submitted. `None` if the
    /// record does not count any more, or is being copied already: then nothing must be written.
    pub fn reinsert(
        &self,
        now: Instant,
        key: &[u8],
        generation: Generation,
        from: FlashPlace,
        to: FlashPlace,
    ) -> Option<Reinsertion> {
        let hashed = self.hash(key);
        let shard_index = self.0.shard_of(hashed.hash);
        let (index, expires) = self.0.with(shard_index, |shard, _| {
            let index = shard.current(hashed, generation, from)?;
            let expires = shard.flash.expiry(index);
            (expires.is_none_or(|at| at > now) && shard.begin_move(index, to)).then_some((index, expires))
        })?;
        let store = self.clone();
        Some(Reinsertion { expires, store, shard: shard_index, index, generation, to, settled: false })
    }

    /// A slot is about to be dropped: a pin of what lies in it alone finds nothing from now on, as if it were dropped already.
    /// Survey it again then, since it may have been pinned meanwhile.
    pub fn close_slot(&self, slot: u16) {
        // Pins hold the lock of their shard, which the survey takes later.
        self.0.flash().readers.0[usize::from(slot)].fetch_or(CLOSING, Ordering::Relaxed);
    }

    /// A slot that was closed is not dropped after all, or was dropped and is used anew.
    pub fn open_slot(&self, slot: u16) {
        self.0.flash().readers.0[usize::from(slot)].fetch_and(!CLOSING, Ordering::Relaxed);
    }

    /// A slot is reclaimed or lost: retires it in the graveyard, then forgets its records. Objects that are in DRAM too are
    /// dirty again; the others are gone. Returns how many records still counted.
    pub fn drop_slot<'a>(&self, slot: u16, records: impl IntoIterator<Item = SlotRecord<'a>>) -> u64 {
        // First: what is written under a key whose record is forgotten must not be outlived by the record.
        self.0.flash().graveyard.retire(slot);
        let drop = |record: SlotRecord<'a>| {
            let place = FlashPlace { slot, page: record.page };
            u64::from(self.lose(record.key, record.generation, place, Fate::Retired))
        };
        records.into_iter().map(drop).sum()
    }

    /// One record proved unreadable, or was lost with a failed sync: buries and forgets it, as [`Store::drop_slot`] does.
    /// `false` if it does not count any more.
    pub fn drop_record(&self, key: &[u8], generation: Generation, place: FlashPlace) -> bool {
        self.lose(key, generation, place, Fate::Dead)
    }

    fn lose(&self, key: &[u8], generation: Generation, place: FlashPlace, fate: Fate) -> bool {
        let hashed = self.hash(key);
        self.0.with(self.0.shard_of(hashed.hash), |shard, space| {
            let found = shard.current(hashed, generation, place);
            found.map(|index| shard.lose_record(index, fate, space)).is_some()
        })
    }

    /// Indexes a record found on flash. Of one key the highest generation counts, wherever it lies; the others are buried. Of
    /// two records of one generation, that was being copied when the process ended, it is the one that `is_older` than that
    /// at the other place. `false` if the store has a newer one, or it has expired.
    pub fn insert_recovered(
        &self,
        now: Instant,
        record: &RecoveredRecord<'_>,
        is_older: impl FnOnce(FlashPlace) -> bool,
    ) -> bool {
        let hashed = self.hash(record.key);
        self.0.with(self.0.shard_of(hashed.hash), |shard, space| shard.recover(now, hashed, record, is_older, space))
    }
}
