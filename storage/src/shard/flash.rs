//! Objects on flash: the part of the index that knows them, and what moves them between the tiers.
//!
//! Role: everything that happens to an entry on flash is a method here or in a submodule. No I/O: records are places and
//! generations.
//!
//! ```text
//!          written ──▶ dirty in DRAM ──spill done──▶ clean in DRAM and on flash ──evicted──▶ on flash alone
//!                          ▲                              │         ▲                            │
//!                          └──────── record dropped ──────┘         └───────── promoted ─────────┘
//! ```
//!
//! Invariants:
//! - An entry is in the table here exactly while its object may be read from that place.
//! - An entry in DRAM is flagged clean exactly while one of the same generation is here. Both carry one expiry.
//! - What stops being true of a record is news for the graveyard, told when the shard's lock is free.

pub(crate) mod entry;
mod keys;
mod records;
mod spill;

use super::{HashedKey, Shard, Side};
use crate::dram::space::Space;
use crate::entry::flag as dram;
use crate::index::Table;
use crate::place::PAGE;
use crate::shard::event::Event;
use crate::store::flash::{Buried, FlashPlace, Graveyard, Pinned, Shared};
use entry::{FlashEntries, FlashEntry, flag};
use keys::Keys;
use protocol::base::{Crc, Generation, Instant};
use std::collections::VecDeque;
use std::sync::Arc;

pub(crate) use spill::{Begun, Offer, Outcome, Taken};

/// Tells the handle of an entry on flash from the index of one in DRAM, in the tables that know both.
pub(crate) const FLASH: u32 = 1 << 31;

/// Where the live object of a key was found. In DRAM, if it is in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Dram(u32),
    Flash(u32),
}

/// What the graveyard is to be told.
#[derive(Debug, Default)]
pub(crate) struct News {
    dead: Vec<Buried>,
    pins: Vec<(Box<[u8]>, Generation, Pinned, u64)>,
    expiries: Vec<(Buried, Option<Instant>, u64)>,
}

impl News {
    pub(crate) fn tell(&self, graveyard: &dyn Graveyard) {
        if !self.dead.is_empty() {
            graveyard.bury(&self.dead);
        }
        for (key, generation, pins, order) in &self.pins {
            graveyard.pinned(key, *generation, *pins, *order);
        }
        for (record, expires, order) in &self.expiries {
            graveyard.expiry(*record, *expires, *order);
        }
    }
}

/// A record, as it is to be indexed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) generation: Generation,
    pub(crate) length: u32,
    pub(crate) crc: Crc,
    pub(crate) place: FlashPlace,
}

/// Why a record is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its object is no more: the record must not come back.
    Dead,
    /// Its slot was retired.
    Retired,
}

/// All objects on flash of a shard.
#[derive(Debug)]
pub(crate) struct FlashIndex {
    table: Table,
    pub(crate) entries: FlashEntries,
    keys: Keys,
    expires: Side<u32, Instant>,
    /// Copies of records under way, by entry.
    moving: Side<u32, FlashPlace>,
    /// Places of spills that have begun, by entry in DRAM.
    spilling: Side<u32, FlashPlace>,
    /// Entries in DRAM that are to be spilled before their turn.
    soon: VecDeque<(u32, Generation)>,
    shared: Option<Arc<Shared>>,
    /// Every record below was declared dead at once.
    floor: Generation,
    news: Option<Box<News>>,
    /// Objects in both tiers.
    both: usize,
    /// Bytes of DRAM that live objects take which are on flash too, which will not be written, and which are being written.
    pub(crate) clean_bytes: u64,
    pub(crate) declined_bytes: u64,
    pub(crate) spilling_bytes: u64,
    /// Bytes that records take.
    bytes: u64,
}

impl FlashIndex {
    pub(super) fn new(hasher: &ahash::RandomState) -> Self {
        Self {
            table: Table::new(2),
            entries: FlashEntries::new(),
            keys: Keys::default(),
            expires: Side::with_hasher(hasher.clone()),
            moving: Side::with_hasher(hasher.clone()),
            spilling: Side::with_hasher(hasher.clone()),
            soon: VecDeque::new(),
            shared: None,
            floor: Generation(0),
            news: None,
            both: 0,
            clean_bytes: 0,
            declined_bytes: 0,
            spilling_bytes: 0,
            bytes: 0,
        }
    }

    pub(crate) fn enable(&mut self, shared: Arc<Shared>) {
        self.shared = Some(shared);
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.shared.is_some()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        self.shared.as_ref().expect("nothing is on flash before it is enabled")
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Objects that are in DRAM too.
    pub(crate) fn both(&self) -> usize {
        self.both
    }

    /// Bytes that records take, about.
    pub(crate) fn record_bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the bookkeeping.
    pub(super) fn index_bytes(&self) -> usize {
        self.table.bytes()
            + self.entries.bytes()
            + self.keys.bytes()
            + self.expires.capacity() * (size_of::<(u32, Instant)>() + 1)
            + (self.moving.capacity() + self.spilling.capacity()) * (size_of::<(u32, FlashPlace)>() + 1)
            + self.soon.capacity() * size_of::<(u32, Generation)>()
    }

    pub(crate) fn key(&self, index: u32) -> &[u8] {
        let entry = &self.entries[index];
        self.keys.get(entry.key, entry.key_len)
    }

    /// Bytes that a record takes: its pages and one of its header.
    pub(crate) fn charge(&self, index: u32) -> u64 {
        record_len(u64::from(self.entries[index].length))
    }

    pub(crate) fn expiry(&self, index: u32) -> Option<Instant> {
        self.entries[index].has(flag::EXPIRES).then(|| self.expires[&index])
    }

    /// Objects on flash that expire.
    pub(super) fn expiring(&self) -> usize {
        self.expires.len()
    }

    fn news(&mut self) -> &mut News {
        self.news.get_or_insert_default()
    }

    pub(crate) fn take_news(&mut self) -> Option<Box<News>> {
        self.news.take()
    }

    /// The record must never count again. Below the floor none does.
    fn bury(&mut self, place: FlashPlace, generation: Generation) {
        if generation >= self.floor {
            self.news().dead.push(Buried { place, generation });
        }
    }

    /// Declares all records below `floor` dead; the caller tells the graveyard.
    pub(crate) fn raise_floor(&mut self, floor: Generation) {
        self.floor = self.floor.max(floor);
    }

    fn find_generation(&self, hash: u32, generation: Generation) -> Option<u32> {
        self.table.find(&self.entries, hash, |index| self.entries[index].generation() == generation)
    }
}

/// Bytes that the record of a payload takes, about.
pub(crate) fn record_len(length: u64) -> u64 {
    length.next_multiple_of(PAGE) + PAGE
}

impl Shard {
    /// The live object of a key, in whichever tier. An expired one goes now.
    pub(crate) fn locate(&mut self, now: Instant, key: HashedKey<'_>, space: &Space) -> Option<At> {
        if let Some(index) = self.find(now, key, space) {
            return Some(At::Dram(index));
        }
        let index = self.find_on_flash(key)?;
        if self.flash.expiry(index).is_some_and(|at| at <= now) {
            self.counters.expired += 1;
            self.note_event(Event::Expired, index | FLASH, space);
            self.unlink_flash(index, space);
            return None;
        }
        Some(At::Flash(index))
    }

    fn find_on_flash(&self, key: HashedKey<'_>) -> Option<u32> {
        if self.flash.len() == 0 {
            return None;
        }
        self.flash.table.find(&self.flash.entries, key.short(), |index| {
            usize::from(self.flash.entries[index].key_len) == key.key.len() && self.flash.key(index) == key.key
        })
    }

    /// The entry on flash of a clean one in DRAM.
    pub(crate) fn twin_on_flash(&self, index: u32) -> u32 {
        let entry = &self.entries[index];
        self.flash.find_generation(entry.hash, entry.generation).expect("a clean object is on flash")
    }

    /// The entry in DRAM of an object on flash.
    pub(crate) fn twin_in_dram(&self, index: u32) -> Option<u32> {
        let entry = &self.flash.entries[index];
        let generation = entry.generation();
        self.table.find(&self.entries, entry.hash, |other| self.entries[other].generation == generation)
    }

    /// Ends the life of an object, wherever it is.
    pub(crate) fn unlink_at(&mut self, at: At, space: &Space) {
        match at {
            At::Dram(index) => self.unlink(index, space),
            At::Flash(index) => self.unlink_flash(index, space),
        }
    }

    /// Ends the life of an object that is on flash, in DRAM too if it is there.
    pub(crate) fn unlink_flash(&mut self, index: u32, space: &Space) {
        match self.twin_in_dram(index) {
            Some(twin) => self.unlink(twin, space),
            None => self.forget_record(index, Fate::Dead, space),
        }
    }

    /// The object's pins are counted with this entry of it.
    pub(crate) fn handle_of_pins(&self, at: At) -> u32 {
        match at {
            At::Flash(index) => index | FLASH,
            At::Dram(index) if self.entries[index].has(dram::CLEAN) => {
                let twin = self.twin_on_flash(index);
                if self.flash.entries[twin].has(flag::PINNED) { twin | FLASH } else { index }
            }
            At::Dram(index) => index,
        }
    }

    pub(crate) fn expiry_at(&self, at: At) -> Option<Instant> {
        match at {
            At::Dram(index) => self.expiry(index),
            At::Flash(index) => self.flash.expiry(index),
        }
    }

    pub(crate) fn set_expiry_at(&mut self, at: At, expires: Option<Instant>) {
        match at {
            At::Dram(index) => self.set_expiry(index, expires),
            At::Flash(index) => self.set_flash_expiry(index, expires),
        }
    }

    pub(crate) fn generation_at(&self, at: At) -> Generation {
        match at {
            At::Dram(index) => self.entries[index].generation,
            At::Flash(index) => self.flash.entries[index].generation(),
        }
    }

    pub(crate) fn length_at(&self, at: At) -> u64 {
        match at {
            At::Dram(index) => u64::from(self.entries[index].length),
            At::Flash(index) => u64::from(self.flash.entries[index].length),
        }
    }

    /// Counts a read of an object on flash alone. Returns whether it was read before since it left DRAM.
    pub(crate) fn touch_flash(&mut self, index: u32, space: &Space) -> bool {
        self.end_grace(index | FLASH, space);
        let entry = &mut self.flash.entries[index];
        let again = entry.has(flag::READ);
        entry.hits = entry.hits.saturating_add(1);
        entry.flags = (entry.flags | flag::HOT | flag::READ) & !flag::GRACE_SPENT;
        again
    }

    /// Expiry of an object on flash, in DRAM too if it is there.
    pub(crate) fn set_flash_expiry(&mut self, index: u32, at: Option<Instant>) {
        self.queue_flash_expiry(index, at);
        if let Some(twin) = self.twin_in_dram(index) {
            let entry = &mut self.entries[twin];
            entry.flags = if at.is_some() { entry.flags | dram::EXPIRES } else { entry.flags & !dram::EXPIRES };
            entry.expires = at.unwrap_or(entry.expires);
        }
        let order = self.take_generation().0;
        let entry = &self.flash.entries[index];
        let (place, generation) = (entry.place, entry.generation());
        let copy = self.flash.moving.get(&index).copied();
        for place in [Some(place), copy].into_iter().flatten() {
            self.flash.news().expiries.push((Buried { place, generation }, at, order));
        }
    }

    fn queue_flash_expiry(&mut self, index: u32, at: Option<Instant>) {
        if let Some(before) = self.flash.expires.remove(&index) {
            self.expiry.0.call_off(before, index | FLASH);
            self.flash.entries[index].flags &= !flag::EXPIRES;
        }
        if let Some(at) = at {
            self.expiry.0.push(at, index | FLASH);
            self.flash.expires.insert(index, at);
            self.flash.entries[index].flags |= flag::EXPIRES;
        }
    }

    /// Remembers the pins of an object over a restart.
    pub(super) fn tell_pins(&mut self, handle: u32, space: &Space) {
        if self.flash.shared.is_none() {
            return;
        }
        let order = self.take_generation().0;
        let pins = self.pinned(handle);
        let (key, generation) = if handle & FLASH == 0 {
            let key: Box<[u8]> = self.with_key(handle, space, |key| key.into());
            (key, self.entries[handle].generation)
        } else {
            (self.flash.key(handle & !FLASH).into(), self.flash.entries[handle & !FLASH].generation())
        };
        self.flash.news().pins.push((key, generation, pins, order));
    }

    /// Sets or clears one of the flags whose bytes are summed.
    fn set_summed(&mut self, index: u32, flag: u16, on: bool) {
        if self.entries[index].has(flag) == on {
            return;
        }
        let charge = self.charge_of(index);
        self.entries[index].flags ^= flag;
        let sum = match flag {
            dram::CLEAN => &mut self.flash.clean_bytes,
            dram::DECLINED => &mut self.flash.declined_bytes,
            dram::SPILLING => &mut self.flash.spilling_bytes,
            _ => unreachable!("flag {flag} is not summed"),
        };
        *sum = if on { *sum + charge } else { *sum - charge };
        if flag == dram::CLEAN {
            self.flash.both = if on { self.flash.both + 1 } else { self.flash.both - 1 };
        }
    }

    /// What is summed of an entry in DRAM that goes.
    pub(super) fn forget_summed(&mut self, index: u32) {
        self.abandon_spill(index);
        self.set_summed(index, dram::CLEAN, false);
        self.set_summed(index, dram::DECLINED, false);
        self.entries[index].flags &= !dram::HOT;
    }

    /// A read in DRAM makes an object worth writing again, and its record worth keeping.
    pub(super) fn heat(&mut self, index: u32) {
        if self.entries[index].has(dram::CLEAN) {
            self.entries[index].flags |= dram::HOT;
        }
        self.set_summed(index, dram::DECLINED, false);
    }

    /// Drops the copy in DRAM of an object that is on flash.
    pub(crate) fn drop_copy(&mut self, index: u32, space: &Space) {
        let twin = self.twin_on_flash(index);
        let entry = self.entries[index];
        let record = &mut self.flash.entries[twin];
        record.hits = entry.hits;
        record.flags &= !flag::READ;
        record.flags |= if entry.has(dram::HOT) { flag::HOT } else { 0 };
        record.flags |= if entry.has(dram::GRACE_SPENT) { flag::GRACE_SPENT } else { 0 };
        self.move_soft_and_grace(index, twin | FLASH, space);
        self.move_pins(index, twin | FLASH, space);
        self.counters.demoted += 1;
        self.note_event(Event::Demoted, index, space);
        self.remove_copy(index, space);
    }

    /// Checks every invariant of the module's text. For tests and simulations: it looks at every entry.
    pub(super) fn audit_flash(&self) {
        let flash = &self.flash;
        let (mut live, mut both, mut bytes, mut expiring) = (0, 0, 0, 0);
        for index in 0..flash.entries.end() {
            let Some(entry) = flash.entries.get(index) else { continue };
            live += 1;
            bytes += flash.charge(index);
            assert!(flash.table.contains(&flash.entries, index), "record {index} is in the table");
            assert_eq!(entry.has(flag::EXPIRES), flash.expires.contains_key(&index), "expiry of record {index}");
            expiring += usize::from(entry.has(flag::EXPIRES));
            self.audit_pins_of(index | FLASH);
            if let Some(twin) = self.twin_in_dram(index) {
                let copy = &self.entries[twin];
                both += 1;
                assert!(copy.has(dram::CLEAN), "record {index} has a clean copy");
                assert_eq!((copy.length, copy.crc), (entry.length, entry.crc), "both copies of record {index}");
                assert_eq!(self.expiry(twin), flash.expiry(index), "one expiry of record {index}");
                assert!(
                    !(copy.has(dram::PINNED) && entry.has(flag::PINNED)),
                    "the object of record {index} is pinned in one tier"
                );
                assert!(!entry.has(flag::SOFT | flag::GRACE), "record {index} is spared by its copy");
            }
        }
        assert_eq!((live, both, bytes), (flash.len(), flash.both, flash.bytes), "records are counted");
        assert_eq!(expiring, flash.expires.len(), "expiries on flash are known");
        assert!(flash.moving.keys().all(|&index| flash.entries.get(index).is_some()), "what moves is indexed");
        let (mut clean, mut declined, mut spilling) = (0, 0, 0);
        let mut dram_both = 0;
        for index in 0..self.entries.end() {
            let Some(entry) = self.entries.get(index) else { continue };
            let charge = self.charge_of(index);
            clean += if entry.has(dram::CLEAN) { charge } else { 0 };
            declined += if entry.has(dram::DECLINED) { charge } else { 0 };
            spilling += if entry.has(dram::SPILLING) { charge } else { 0 };
            dram_both += usize::from(entry.has(dram::CLEAN));
            assert!(!entry.has(dram::SPILLING) || (!entry.has(dram::CLEAN) && entry.users > 0), "spill of {index}");
            assert!(entry.has(dram::SPILLING) || !flash.spilling.contains_key(&index), "place of spill {index}");
            assert!(!entry.has(dram::HOT) || entry.has(dram::CLEAN), "entry {index} is hot while clean");
        }
        assert_eq!(dram_both, flash.both, "clean entries are on flash");
        let sums = (flash.clean_bytes, flash.declined_bytes, flash.spilling_bytes);
        assert_eq!((clean, declined, spilling), sums, "bytes clean, declined and being written");
    }
}
