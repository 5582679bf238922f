//! Slots that come and go: reclaim, loss, and what is found at start-up.
//!
//! Reclaiming a slot: [`Store::survey_slot`] says which of its records still count and which are worth keeping; each of the
//! latter is copied under a [`Reinsertion`]; then [`Store::drop_slot`] forgets the rest, and once
//! [`Store::slot_readers`] is zero the slot may be overwritten.

use super::{FlashPlace, Pinned, Store};
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
}

impl Reinsertion {
    /// The copy is complete and can be read: the index points at it. `false` if the object was deleted or replaced
    /// meanwhile; both records are buried already.
    pub fn done(self) -> bool {
        unimplemented!("the index of objects on flash")
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
        let _ = (now, slot, records.into_iter().count());
        unimplemented!("the index of objects on flash")
    }

    /// A record is about to be copied from `from` to `to`. Call it before anything of the copy is submitted. `None` if the
    /// record does not count any more: then nothing must be written.
    pub fn reinsert(
        &self,
        now: Instant,
        key: &[u8],
        generation: Generation,
        from: FlashPlace,
        to: FlashPlace,
    ) -> Option<Reinsertion> {
        let _ = (now, key, generation, from, to);
        unimplemented!("the index of objects on flash")
    }

    /// A slot is reclaimed or lost: retires it in the graveyard, then forgets its records. Objects that are in DRAM too are
    /// dirty again; the others are gone. Returns how many records still counted.
    pub fn drop_slot<'a>(&self, slot: u16, records: impl IntoIterator<Item = SlotRecord<'a>>) -> u64 {
        let _ = (slot, records.into_iter().count());
        unimplemented!("the index of objects on flash")
    }

    /// One record proved unreadable, or was lost with a failed sync: buries and forgets it, as [`Store::drop_slot`] does.
    /// `false` if it does not count any more.
    pub fn drop_record(&self, key: &[u8], generation: Generation, place: FlashPlace) -> bool {
        let _ = (key, generation, place);
        unimplemented!("the index of objects on flash")
    }

    /// Indexes a record found on flash. Of one key the highest generation counts, wherever it lies; the others are buried.
    /// `false` if the store has a newer one.
    pub fn insert_recovered(&self, now: Instant, record: &RecoveredRecord<'_>) -> bool {
        let _ = (now, record);
        unimplemented!("the index of objects on flash")
    }
}
