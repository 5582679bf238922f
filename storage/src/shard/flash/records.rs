//! Records that come, move and go.
//!
//! Invariants:
//! - A key has one entry: the newest generation. What it replaces is buried.
//! - A record that is being copied has two places: both are buried if its object ends meanwhile.

use super::{FLASH, Fate, FlashEntry, Record, dram, flag};
use crate::dram::space::Space;
use crate::lru::Stamp;
use crate::shard::event::Event;
use crate::shard::{At, Fresh, HashedKey, Shard};
use crate::slot::Slot;
use crate::store::flash::{FlashPlace, RecoveredRecord};
use crate::sync;
use crate::warm::manifest::ObjectRecord;
use protocol::base::{Generation, Instant};
use std::cmp::Ordering;

impl Shard {
    pub(super) fn insert_record(&mut self, key: &[u8], hash: u32, record: Record) -> u32 {
        let key_len = u16::try_from(key.len()).expect("keys are at most 16 KiB");
        let flash = &mut self.flash;
        let key = flash.keys.insert(key);
        let Record { generation, length, crc, place } = record;
        let index = flash.entries.insert(FlashEntry::new(generation, length, crc, hash, key, key_len, place));
        flash.table.insert(&mut flash.entries, index);
        flash.bytes += flash.charge(index);
        index
    }

    /// Forgets a record whose object has no entry in DRAM that says it is clean, or is about to lose it.
    pub(crate) fn forget_record(&mut self, index: u32, fate: Fate, space: &Space) {
        self.forget_pins(index | FLASH, fate == Fate::Dead, space);
        self.queue_flash_expiry(index, None);
        let flash = &mut self.flash;
        let entry = flash.entries[index];
        if let Some(copy) = flash.moving.remove(&index) {
            flash.bury(copy, entry.generation());
        }
        if fate == Fate::Dead {
            flash.bury(entry.place, entry.generation());
        }
        flash.bytes -= flash.charge(index);
        flash.table.remove(&mut flash.entries, index);
        flash.keys.remove(entry.key, entry.key_len);
        flash.entries.remove(index);
    }

    /// The record that a table of its slot names, if it still counts.
    pub(crate) fn current(&self, key: HashedKey<'_>, generation: Generation, place: FlashPlace) -> Option<u32> {
        let index = self.flash.find_generation(key.short(), generation)?;
        (self.flash.entries[index].place == place).then_some(index)
    }

    /// Whether all that is left of an object is in a slot that is about to be dropped.
    pub(crate) fn is_going(&self, at: At) -> bool {
        match at {
            At::Dram(_) => false,
            At::Flash(index) => self.flash.shared().readers.is_closing(self.flash.entries[index].place.slot),
        }
    }

    /// Whether a record is worth keeping, and whether it is pinned.
    pub(crate) fn heat_of(&self, index: u32) -> (bool, bool) {
        let entry = &self.flash.entries[index];
        let copy = self.twin_in_dram(index).map(|twin| &self.entries[twin]);
        let pinned = entry.has(flag::PINNED) || copy.is_some_and(|copy| copy.has(dram::PINNED));
        let hot = entry.has(flag::HOT | flag::SOFT | flag::GRACE)
            || copy.is_some_and(|copy| copy.has(dram::HOT | dram::SOFT | dram::GRACE));
        (hot || pinned, pinned)
    }

    /// A record can be read no more. Its object lives on in DRAM if it is there too.
    pub(crate) fn lose_record(&mut self, index: u32, fate: Fate, space: &Space) {
        match self.twin_in_dram(index) {
            Some(twin) => self.become_dirty(twin, index, space),
            None => {
                self.counters.dropped_flash += 1;
                self.note_event(Event::Evicted, index | FLASH, space);
            }
        }
        // The record is dead, not its object: the pins of one that was lost are not told.
        self.forget_pins(index | FLASH, false, space);
        self.forget_record(index, fate, space);
    }

    /// A record is about to be copied. `false` if that is under way already.
    pub(crate) fn begin_move(&mut self, index: u32, to: FlashPlace) -> bool {
        if self.flash.moving.contains_key(&index) {
            return false;
        }
        self.flash.moving.insert(index, to);
        true
    }

    /// A copy is complete, or will not be. Returns whether the record is there now.
    pub(crate) fn end_move(&mut self, index: u32, generation: Generation, to: FlashPlace, done: bool) -> bool {
        let still = self.flash.moving.get(&index) == Some(&to)
            && self.flash.entries.get(index).is_some_and(|entry| entry.generation() == generation);
        if !still {
            return false;
        }
        self.flash.moving.remove(&index);
        if !done {
            self.flash.bury(to, generation);
            return false;
        }
        let entry = &mut self.flash.entries[index];
        let from = std::mem::replace(&mut entry.place, to);
        entry.flags &= !flag::HOT;
        self.flash.bury(from, generation);
        if let Some(twin) = self.twin_in_dram(index) {
            self.entries[twin].flags &= !dram::HOT;
        }
        self.counters.reinserted += 1;
        true
    }

    /// What was read from flash becomes live in DRAM too, with one user. The slot comes back if the object is no more.
    pub(crate) fn promote(&mut self, now: Instant, slot: Slot, space: &Space) -> Result<u32, Slot> {
        let key = HashedKey { key: &slot.key, hash: slot.hash };
        let Some(record) = self.flash.find_generation(key.short(), slot.generation) else {
            return Err(slot);
        };
        let expires = self.flash.expiry(record);
        if expires.is_some_and(|at| at <= now) {
            self.counters.expired += 1;
            self.note_event(Event::Expired, record | FLASH, space);
            self.unlink_flash(record, space);
            return Err(slot);
        }
        if let Some(twin) = self.twin_in_dram(record) {
            if !self.add_user(twin) {
                return Err(slot);
            }
            space.states.reserved.fetch_sub(slot.charge, sync::Ordering::Relaxed);
            self.free_slot(slot, space);
            return Ok(twin);
        }
        space.states.reserved.fetch_sub(slot.charge, sync::Ordering::Relaxed);
        let entry = self.flash.entries[record];
        let fresh = Fresh {
            generation: slot.generation,
            place: slot.place,
            length: entry.length,
            crc: entry.crc,
            stamp: Stamp::new(now, 0),
            leaf: false,
        };
        let index = self.insert(key, fresh, space);
        slot.account.discharge(slot.charge);
        self.forget_small(&slot);
        self.set_summed(index, dram::CLEAN, true);
        self.copy_expiry(index, expires);
        let spent = entry.has(flag::GRACE_SPENT);
        let copy = &mut self.entries[index];
        copy.hits = entry.hits;
        copy.flags |= if spent { dram::GRACE_SPENT } else { 0 };
        self.flash.entries[record].flags &= !(flag::READ | flag::GRACE_SPENT);
        self.move_soft_and_grace(record | FLASH, index, space);
        self.counters.promoted += 1;
        self.note_event(Event::Promoted, index, space);
        assert!(self.add_user(index), "its first");
        Ok(index)
    }

    /// What flash knows of an object of an earlier life that is about to come back to DRAM: its entry here, if it lies on
    /// flash too. An older version is buried. `None` if flash has a newer one, or another of the same generation.
    pub(crate) fn settle_with_flash(
        &mut self,
        key: HashedKey<'_>,
        object: &ObjectRecord,
        space: &Space,
    ) -> Option<Option<u32>> {
        if object.generation < self.flash.floor {
            return None;
        }
        let Some(twin) = self.find_on_flash(key) else { return Some(None) };
        let entry = &self.flash.entries[twin];
        match entry.generation().cmp(&object.generation) {
            Ordering::Less => {
                self.forget_record(twin, Fate::Dead, space);
                Some(None)
            }
            Ordering::Equal => ((entry.length, entry.crc) == (object.length, object.crc)).then_some(Some(twin)),
            Ordering::Greater => None,
        }
    }

    /// An object that came back to DRAM is clean. When it expires, its memory knows to the nanosecond.
    pub(crate) fn join_with_flash(&mut self, index: u32, twin: u32, object: &ObjectRecord) {
        self.set_summed(index, dram::CLEAN, true);
        self.queue_flash_expiry(twin, object.expires);
        self.copy_expiry(index, object.expires);
        self.entries[index].flags |= object.flags & dram::HOT;
        self.flash.entries[twin].hits = object.hits;
    }

    /// Indexes a record found on flash, unless a newer one of its key is known.
    pub(crate) fn recover(
        &mut self,
        now: Instant,
        key: HashedKey<'_>,
        record: &RecoveredRecord<'_>,
        is_older: impl FnOnce(FlashPlace) -> bool,
        space: &Space,
    ) -> bool {
        let RecoveredRecord { generation, length, crc, expires, place, pins, .. } = *record;
        let Ok(length) = u32::try_from(length) else { return false };
        if generation < self.flash.floor {
            return false;
        }
        match self.locate(now, key, space) {
            Some(at) if self.generation_at(at) >= generation => {
                let known = match at {
                    At::Flash(index) => Some(index),
                    At::Dram(index) => self.entries[index].has(dram::CLEAN).then(|| self.twin_on_flash(index)),
                };
                let Some(index) = known.filter(|&index| self.flash.entries[index].generation() == generation) else {
                    self.flash.bury(place, generation);
                    return false;
                };
                let other = self.flash.entries[index].place;
                if other == place {
                    return true;
                }
                let older = is_older(other);
                if older {
                    self.flash.entries[index].place = place;
                }
                self.flash.bury(if older { other } else { place }, generation);
                return false;
            }
            Some(at) => self.unlink_at(at, space),
            None => {}
        }
        if expires.is_some_and(|at| at <= now) {
            self.flash.bury(place, generation);
            return false;
        }
        let index = self.insert_record(key.key, key.short(), Record { generation, length, crc, place });
        self.queue_flash_expiry(index, expires);
        if !pins.is_empty() {
            self.pin_recovered(index | FLASH, pins, space);
        }
        true
    }
}
