//! From dirty to clean: objects offered to be written, and what became of it.
//!
//! Invariants:
//! - An entry is flagged as being written exactly while it lives and its offer is not settled. The offer is one user of it.
//! - The place of a record that may have been begun is known here, or the record is buried.

use super::{Buried, FLASH, Record, dram};
use crate::dram::space::Space;
use crate::entry::NIL;
use crate::lru::List;
use crate::shard::Shard;
use crate::store::flash::{FlashPlace, SpillOf};
use protocol::base::{Crc, Generation, Instant, RawSpan};

/// An object to be written.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) index: u32,
    pub(crate) key: Box<[u8]>,
    pub(crate) generation: Generation,
    pub(crate) length: u64,
    pub(crate) crc: Crc,
    pub(crate) expires: Option<Instant>,
    pub(crate) span: RawSpan,
}

/// What came of asking a list for its oldest.
#[derive(Debug)]
pub(crate) enum Taken {
    Offer(Offer),
    /// It is not to be written; it is out of the way now.
    Declined,
    /// The list is empty.
    None,
}

/// Whether a record may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// Its object expires then.
    Go(Option<Instant>),
    /// Its object is gone.
    Gone,
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The record can be read.
    Done,
    /// It cannot; the object stays dirty.
    Failed,
    /// It is not worth it.
    Declined,
    /// The bytes in DRAM are not those that were published.
    Condemned,
}

impl Shard {
    fn may_be_written(&self, index: u32) -> bool {
        let entry = &self.entries[index];
        u64::from(entry.length) <= self.flash.shared().object_len_max() && entry.generation >= self.flash.floor
    }

    /// Offers the oldest of a list of dirty objects.
    pub(crate) fn offer_oldest(&mut self, list: List, space: &Space) -> Taken {
        let index = self.lists.oldest(list);
        if index == NIL {
            return Taken::None;
        }
        if !self.may_be_written(index) {
            self.set_summed(index, dram::DECLINED, true);
            self.relist(index);
            return Taken::Declined;
        }
        self.offer(index, space).map_or(Taken::None, Taken::Offer)
    }

    /// Offers an object that was pinned, or stands in the way of a large one.
    pub(crate) fn offer_soon(&mut self, space: &Space) -> Option<Offer> {
        while let Some((index, generation)) = self.flash.soon.pop_front() {
            let still = self.entries.get(index).is_some_and(|entry| {
                entry.generation == generation && !entry.has(dram::DOOMED | dram::CLEAN | dram::SPILLING)
            });
            if still
                && self.may_be_written(index)
                && let Some(offer) = self.offer(index, space)
            {
                return Some(offer);
            }
        }
        None
    }

    /// An object is to be written before its turn.
    pub(crate) fn spill_soon(&mut self, index: u32) {
        let entry = &self.entries[index];
        if self.flash.shared.is_some() && !entry.has(dram::DOOMED | dram::CLEAN | dram::SPILLING) {
            let generation = entry.generation;
            if self.flash.soon.len() >= self.entries.end() as usize {
                // Pinned and unpinned over and over: the same few.
                self.flash.soon.pop_front();
            }
            self.flash.soon.push_back((index, generation));
        }
    }

    /// Offers a dirty live object. `None` if it has too many users.
    pub(crate) fn offer(&mut self, index: u32, space: &Space) -> Option<Offer> {
        if !self.add_user(index) {
            return None;
        }
        self.set_summed(index, dram::DECLINED, false);
        self.set_summed(index, dram::SPILLING, true);
        let entry = &self.entries[index];
        let length = u64::from(entry.length);
        Some(Offer {
            index,
            key: self.with_key(index, space, |key| key.into()),
            generation: entry.generation,
            length,
            crc: entry.crc,
            expires: self.expiry(index),
            span: space.span(self.payload_of(index), length),
        })
    }

    /// Why a live object is not to be offered, if so.
    pub(crate) fn spill_state(&self, index: u32) -> Option<SpillOf> {
        let entry = &self.entries[index];
        if entry.has(dram::CLEAN) {
            return Some(SpillOf::OnFlash(self.flash.entries[self.twin_on_flash(index)].place));
        }
        if entry.has(dram::SPILLING) {
            return Some(SpillOf::InFlight);
        }
        (!self.may_be_written(index)).then_some(SpillOf::Missing)
    }

    /// A record is about to be written there.
    pub(crate) fn begin_spill(&mut self, index: u32, place: FlashPlace) -> Begun {
        if !self.entries[index].has(dram::SPILLING) {
            return Begun::Gone;
        }
        let generation = self.entries[index].generation;
        if let Some(before) = self.flash.spilling.insert(index, place) {
            self.flash.bury(before, generation);
        }
        Begun::Go(self.expiry(index))
    }

    /// An offer is settled. Returns whether its object was still there.
    pub(crate) fn end_spill(&mut self, index: u32, generation: Generation, outcome: Outcome, space: &Space) -> bool {
        let live = self.entries[index].has(dram::SPILLING);
        if live {
            let place = self.flash.spilling.remove(&index);
            self.set_summed(index, dram::SPILLING, false);
            match (outcome, place) {
                (Outcome::Done, place) => {
                    let place = place.expect("a record is begun before it is done");
                    self.become_clean(index, place, space);
                }
                (_, Some(place)) => self.flash.bury(place, generation),
                (_, None) => {}
            }
            match outcome {
                Outcome::Declined => self.set_summed(index, dram::DECLINED, true),
                Outcome::Condemned => self.unlink(index, space),
                Outcome::Done | Outcome::Failed => {}
            }
        }
        if outcome == Outcome::Condemned {
            self.counters.scribbled += 1;
        }
        self.drop_user(index, generation, space);
        live
    }

    /// The object ends, or its copy: its record, if any was begun, must not count.
    pub(super) fn abandon_spill(&mut self, index: u32) {
        self.set_summed(index, dram::SPILLING, false);
        if let Some(place) = self.flash.spilling.remove(&index) {
            let generation = self.entries[index].generation;
            self.flash.bury(place, generation);
        }
    }

    fn become_clean(&mut self, index: u32, place: FlashPlace, space: &Space) {
        let entry = self.entries[index];
        let expires = self.expiry(index);
        self.expiry.forget(index, &mut self.entries[index]);
        let record = Record { generation: entry.generation, length: entry.length, crc: entry.crc, place };
        let key: Box<[u8]> = self.with_key(index, space, |key| key.into());
        let twin = self.insert_record(&key, entry.hash, record);
        self.flash.entries[twin].hits = entry.hits;
        self.set_summed(index, dram::CLEAN, true);
        self.queue_flash_expiry(twin, expires);
        self.copy_expiry(index, expires);
        self.counters.spilled += 1;
        self.counters.spilled_bytes += u64::from(entry.length);
    }

    /// The entry in DRAM of an object on flash carries the same expiry, queued there.
    pub(super) fn copy_expiry(&mut self, index: u32, expires: Option<Instant>) {
        let entry = &mut self.entries[index];
        debug_assert!(entry.has(dram::CLEAN), "else it has a place in the queue");
        entry.flags = if expires.is_some() { entry.flags | dram::EXPIRES } else { entry.flags & !dram::EXPIRES };
        entry.expires = expires.unwrap_or(entry.expires);
    }

    /// A record under way says another expiry than its object has.
    pub(crate) fn tell_expiry_of_spill(&mut self, index: u32, at: Option<Instant>) {
        if let Some(&place) = self.flash.spilling.get(&index) {
            let order = self.take_generation().0;
            let generation = self.entries[index].generation;
            self.flash.news().expiries.push((Buried { place, generation }, at, order));
        }
    }

    /// A record is gone whose object is in DRAM too: it is dirty again.
    pub(super) fn become_dirty(&mut self, index: u32, twin: u32, space: &Space) {
        let expires = self.flash.expiry(twin);
        self.queue_flash_expiry(twin, None);
        self.set_summed(index, dram::CLEAN, false);
        let entry = &mut self.entries[index];
        entry.flags &= !(dram::HOT | dram::EXPIRES);
        if let Some(at) = expires {
            entry.flags |= dram::EXPIRES;
            entry.expires = at;
            self.expiry.0.push(at, index);
        }
        self.move_pins(twin | FLASH, index, space);
        if self.entries[index].has(dram::LISTED) {
            self.relist(index);
        }
        if self.entries[index].has(dram::PINNED) {
            self.spill_soon(index);
        }
    }
}
