//! One part of the index: the state machine of its objects, under one lock.
//!
//! Role: everything that happens to an object is a method here or in a submodule. No I/O, no clock: `now` is a parameter.
//!
//! Invariants:
//! - An entry is in the table exactly while it is live. Doomed entries keep their slot until `users` is zero. Objects on
//!   flash have entries of their own, in [`flash`].
//! - An entry is in an LRU list exactly while it is live, has no users and no pins.
//! - A slot is freed once, when its entry goes; nothing else frees slots of published objects.
//! - Side tables hold an item for an entry exactly while the entry's flag says so.

pub(crate) mod adopt;
pub(crate) mod event;
pub(crate) mod evict;
pub(crate) mod expiry;
pub(crate) mod flash;
pub(crate) mod gauges;
pub(crate) mod grant;
pub(crate) mod lease;
pub(crate) mod pin;

use crate::dram::slab::{self, Slabs};
use crate::dram::slot::{self, Header, SMALL_HEADER};
use crate::dram::space::Space;
use crate::entry::{Entries, Entry, flag};
use crate::index::Table;
use crate::lru::{List, Lists, Stamp};
use crate::place::{PAGE, Place, Position, SLOT_EDGE, extent_pages};
pub(crate) use flash::At;
use protocol::base::{Crc, Generation, Instant};
use rand::rngs::StdRng;
use std::collections::HashMap;

/// Side tables are keyed by entry indices and random credentials: a fast hash with a seed is enough.
pub(crate) type Side<K, V> = HashMap<K, V, ahash::RandomState>;

/// A key and its hash, split into the shard's part and the table's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HashedKey<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) hash: u64,
}

impl HashedKey<'_> {
    fn short(self) -> u32 {
        (self.hash >> 32) as u32
    }
}

/// Counters of one shard since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reads that found their object.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Objects whose TTL ended.
    pub expired: u64,
    /// Objects evicted from DRAM that were nowhere else.
    pub evicted: u64,
    /// Bytes of slots in DRAM freed by eviction.
    pub evicted_bytes: u64,
    /// Leases that ran out unreleased.
    pub leases_expired: u64,
    /// Grants that ran out uncommitted.
    pub grants_expired: u64,
    /// Payloads refused for their checksum.
    pub crc_refused: u64,
    /// Reads that found other bytes than were published, and removed the object.
    pub scribbled: u64,
    /// Of the hits, those of objects on flash alone.
    pub flash_hits: u64,
    /// Objects written to flash.
    pub spilled: u64,
    /// Bytes of their payloads.
    pub spilled_bytes: u64,
    /// Objects that came back to DRAM.
    pub promoted: u64,
    /// Copies in DRAM evicted of objects on flash.
    pub demoted: u64,
    /// Of the evicted, those that should have been written to flash first.
    pub dropped_dirty: u64,
    /// Objects whose last copy went with their record.
    pub dropped_flash: u64,
    /// Records kept when their slot was reclaimed.
    pub reinserted: u64,
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.expired += other.expired;
        self.evicted += other.evicted;
        self.evicted_bytes += other.evicted_bytes;
        self.leases_expired += other.leases_expired;
        self.grants_expired += other.grants_expired;
        self.crc_refused += other.crc_refused;
        self.scribbled += other.scribbled;
        self.flash_hits += other.flash_hits;
        self.spilled += other.spilled;
        self.spilled_bytes += other.spilled_bytes;
        self.promoted += other.promoted;
        self.demoted += other.demoted;
        self.dropped_dirty += other.dropped_dirty;
        self.dropped_flash += other.dropped_flash;
        self.reinserted += other.reinserted;
    }
}

/// Everything a publication says of the object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fresh {
    pub(crate) generation: Generation,
    pub(crate) place: Place,
    pub(crate) length: u32,
    pub(crate) crc: Crc,
    pub(crate) stamp: Stamp,
    /// Whether it continues another object.
    pub(crate) leaf: bool,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Shard {
    table: Table,
    pub(crate) entries: Entries,
    lists: Lists,
    pub(crate) slabs: Slabs,
    pub(crate) flash: flash::FlashIndex,
    expiry: expiry::Expiry,
    pins: pin::Pins,
    pub(crate) leases: lease::Leases,
    pub(crate) grants: grant::Grants,
    rng: StdRng,
    next_generation: Generation,
    generation_step: u64,
    live_bytes: u64,
    doomed_bytes: u64,
    pub(crate) counters: Counters,
    pub(crate) events: event::Events,
    published: [u64; 3],
}

impl Shard {
    pub(crate) fn new(first: Generation, step: u64, hasher: &ahash::RandomState, rng: StdRng) -> Self {
        Self {
            table: Table::new(1),
            entries: Entries::new(),
            lists: Lists::new(),
            slabs: Slabs::new(),
            flash: flash::FlashIndex::new(hasher),
            expiry: expiry::Expiry::new(),
            pins: pin::Pins::new(hasher),
            leases: lease::Leases::new(hasher),
            grants: grant::Grants::new(hasher),
            rng,
            next_generation: first,
            generation_step: step,
            live_bytes: 0,
            doomed_bytes: 0,
            counters: Counters::default(),
            events: event::Events::default(),
            published: [0; 3],
        }
    }

    /// A generation that no other placement has.
    pub(crate) fn take_generation(&mut self) -> Generation {
        let generation = self.next_generation;
        self.next_generation.0 += self.generation_step;
        generation
    }

    /// All generations from now on are greater than `floor`; records of those below are dead.
    pub(crate) fn raise_generations(&mut self, floor: Generation) {
        if self.next_generation < floor {
            let steps = (floor.0 - self.next_generation.0).div_ceil(self.generation_step);
            self.next_generation.0 += steps * self.generation_step;
        }
        self.flash.raise_floor(floor);
    }

    /// The live entry of a key in DRAM. An expired one goes now.
    pub(crate) fn find(&mut self, now: Instant, key: HashedKey<'_>, space: &Space) -> Option<u32> {
        let index = self.find_any(key, space)?;
        if self.expiry(index).is_some_and(|at| at <= now) {
            self.counters.expired += 1;
            self.note_event(event::Event::Expired, index, space);
            self.unlink(index, space);
            return None;
        }
        Some(index)
    }

    /// Fetches into the caches where the search for a key begins.
    pub(crate) fn prefetch(&self, key: HashedKey<'_>) {
        self.table.prefetch(key.short());
    }

    fn find_any(&self, key: HashedKey<'_>, space: &Space) -> Option<u32> {
        self.table.find(&self.entries, key.short(), |index| {
            let entry = &self.entries[index];
            // Whoever finds an entry moves it in its list: its neighbours are fetched while the key is compared.
            self.entries.prefetch(entry.newer);
            self.entries.prefetch(entry.older);
            usize::from(entry.key_len) == key.key.len() && self.with_key(index, space, |stored| stored == key.key)
        })
    }

    /// The live object that lies there.
    pub(crate) fn find_at(&self, hash: u64, payload: Position) -> Option<u32> {
        let place = Place::Extent { payload };
        self.table
            .find(&self.entries, HashedKey { key: b"", hash }.short(), |index| self.entries[index].place() == place)
    }

    fn key_position(&self, entry: &Entry) -> Position {
        match entry.place() {
            Place::Extent { payload } => payload.plus(u64::from(entry.length).next_multiple_of(SLOT_EDGE) + SLOT_EDGE),
            Place::Small { page, slot } => self.slabs.slot(page, slot).0.plus(SMALL_HEADER),
        }
    }

    /// Lends the key of an entry.
    pub(crate) fn with_key<R>(&self, index: u32, space: &Space, look: impl FnOnce(&[u8]) -> R) -> R {
        let entry = &self.entries[index];
        let at = self.key_position(entry);
        space.memory(at).with(at.offset(), usize::from(entry.key_len), look)
    }

    /// First byte of the payload of a place; `key_len` matters for small ones.
    pub(crate) fn payload_position(&self, place: Place, key_len: usize) -> Position {
        match place {
            Place::Extent { payload } => payload,
            Place::Small { page, slot } => self.slabs.slot(page, slot).0.plus(SMALL_HEADER + key_len as u64),
        }
    }

    /// First byte of an entry's payload.
    pub(crate) fn payload_of(&self, index: u32) -> Position {
        let entry = &self.entries[index];
        self.payload_position(entry.place(), usize::from(entry.key_len))
    }

    /// Lends a small object's payload.
    pub(crate) fn with_small<R>(&self, index: u32, space: &Space, look: impl FnOnce(&[u8]) -> R) -> R {
        let at = self.payload_of(index);
        space.memory(at).with(at.offset(), self.entries[index].length as usize, look)
    }

    /// Bytes that an entry's slot takes.
    pub(crate) fn charge_of(&self, index: u32) -> u64 {
        let entry = &self.entries[index];
        match entry.place() {
            Place::Extent { .. } => extent_pages(u64::from(entry.length), usize::from(entry.key_len)) * PAGE,
            Place::Small { page, slot } => self.slabs.slot(page, slot).1,
        }
    }

    /// Gives a slot back, published or not.
    pub(crate) fn free_place(&mut self, place: Place, length: u64, key_len: usize, space: &Space) {
        match place {
            Place::Extent { payload } => free_extent(payload, length, key_len, space),
            Place::Small { page, slot } => self.slabs.free(page, slot, space),
        }
    }

    /// Makes an object live under `key`, which has no live entry. The payload lies in its slot already.
    pub(crate) fn insert(&mut self, key: HashedKey<'_>, fresh: Fresh, space: &Space) -> u32 {
        let key_len = u16::try_from(key.key.len()).expect("keys are at most 16 KiB");
        let mut entry =
            Entry::new(fresh.generation, fresh.stamp.0, fresh.place, key.short(), fresh.length, fresh.crc, key_len);
        entry.flags |= if fresh.leaf { flag::LEAF } else { 0 };
        let index = self.entries.insert(entry);
        self.write_frame(index, key, space);
        self.table.insert(&mut self.entries, index);
        self.live_bytes += self.charge_of(index);
        let list = self.entries[index].class();
        self.lists.insert(&mut self.entries, index, list);
        index
    }

    /// Writes what surrounds the payload: header, key, trailer.
    fn write_frame(&self, index: u32, key: HashedKey<'_>, space: &Space) {
        let entry = &self.entries[index];
        match entry.place() {
            Place::Extent { payload } => {
                let header = Header {
                    generation: entry.generation,
                    length: u64::from(entry.length),
                    key_hash: key.hash,
                    crc: entry.crc,
                };
                let memory = space.memory(payload);
                let trailer = payload.offset() + u64::from(entry.length).next_multiple_of(SLOT_EDGE);
                memory.write(payload.offset() - SLOT_EDGE, &header.encode());
                memory.write(trailer, &header.trailer());
                memory.write(trailer + SLOT_EDGE, key.key);
            }
            Place::Small { page, slot } => {
                let at = self.slabs.slot(page, slot).0;
                let memory = space.memory(at);
                memory.write(at.offset(), &slot::small_header(entry.generation, index, u32::from(entry.key_len)));
                memory.write(at.offset() + SMALL_HEADER, key.key);
            }
        }
    }

    /// Ends the life of a live object: no reader finds it any more. Its slot is free now, or with its last user; its record
    /// on flash, if any, is buried.
    pub(crate) fn unlink(&mut self, index: u32, space: &Space) {
        if self.entries[index].has(flag::CLEAN) {
            let record = self.twin_on_flash(index);
            self.forget_record(record, flash::Fate::Dead, space);
        }
        self.remove_copy(index, space);
    }

    /// Takes an object out of DRAM.
    fn remove_copy(&mut self, index: u32, space: &Space) {
        assert!(!self.entries[index].has(flag::DOOMED), "entry {index} is unlinked once");
        self.table.remove(&mut self.entries, index);
        self.lists.remove(&mut self.entries, index);
        let charge = self.charge_of(index);
        self.expiry.forget(index, &mut self.entries[index]);
        self.forget_pins(index, true, space);
        self.forget_summed(index);
        self.live_bytes -= charge;
        let entry = self.entries[index];
        if entry.users == 0 {
            self.free_place(entry.place(), u64::from(entry.length), usize::from(entry.key_len), space);
            self.entries.remove(index);
        } else {
            self.doomed_bytes += charge;
            self.entries[index].flags |= flag::DOOMED;
        }
    }

    /// One more reader. It keeps the entry out of the LRU lists. `false` if there are too many.
    pub(crate) fn add_user(&mut self, index: u32) -> bool {
        let entry = &mut self.entries[index];
        let Some(users) = entry.users.checked_add(1) else {
            return false;
        };
        entry.users = users;
        self.lists.remove(&mut self.entries, index);
        true
    }

    /// One reader less: back into its list, or gone if it was doomed.
    pub(crate) fn drop_user(&mut self, index: u32, generation: Generation, space: &Space) {
        let entry = &mut self.entries[index];
        assert!(entry.has(flag::IN_USE), "a user keeps its entry");
        assert_eq!(entry.generation, generation, "a user keeps its entry");
        assert!(entry.users > 0, "users are counted");
        entry.users -= 1;
        if entry.users > 0 {
            return;
        }
        if entry.has(flag::DOOMED) {
            let entry = *entry;
            self.doomed_bytes -= self.charge_of(index);
            self.free_place(entry.place(), u64::from(entry.length), usize::from(entry.key_len), space);
            self.entries.remove(index);
        } else {
            self.relist(index);
        }
    }

    /// Puts a live entry into the list where it belongs, if in any.
    pub(crate) fn relist(&mut self, index: u32) {
        self.lists.remove(&mut self.entries, index);
        let entry = &self.entries[index];
        if entry.users > 0 || entry.has(flag::PINNED) || entry.has(flag::DOOMED) {
            return;
        }
        let list = entry.class();
        self.lists.insert(&mut self.entries, index, list);
    }

    /// Counts a read or write: newest in its order, and no longer merely probed.
    pub(crate) fn touch(&mut self, index: u32, stamp: Stamp, space: &Space) {
        self.end_grace(index, space);
        self.heat(index);
        let entry = &mut self.entries[index];
        entry.flags &= !flag::GRACE_SPENT;
        entry.hits = entry.hits.saturating_add(1);
        self.renew_stamp(index, stamp);
    }

    /// Notes that something continues an object. Returns its stamp.
    pub(crate) fn continue_with(&mut self, index: u32) -> Stamp {
        let entry = &mut self.entries[index];
        let stamp = Stamp(entry.stamp);
        let (leaf, parked) = (entry.has(flag::LEAF), entry.list == List::Parked as u8);
        entry.flags &= !flag::LEAF;
        if leaf && entry.has(flag::LISTED) && !parked {
            self.relist(index);
        }
        stamp
    }

    /// Moves an entry up in the order of eviction, without counting a read.
    pub(crate) fn renew_stamp(&mut self, index: u32, stamp: Stamp) {
        let entry = &mut self.entries[index];
        entry.stamp = stamp.0.max(entry.stamp);
        if entry.has(flag::LISTED) {
            let graced = entry.has(flag::GRACE) && entry.list == List::Parked as u8;
            if !graced {
                self.relist(index);
            }
        }
    }

    /// The stamp of a touch at `now`, with the depth given or the one it has.
    pub(crate) fn stamp_at(&self, index: u32, now: Instant, depth: Option<u32>) -> Stamp {
        Stamp::new(now, depth.unwrap_or_else(|| Stamp(self.entries[index].stamp).depth()))
    }

    /// Live objects, in either tier.
    pub(crate) fn live(&self) -> usize {
        self.table.len() + self.flash.len() - self.flash.both()
    }

    /// Bytes of slots of live and of doomed objects.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.live_bytes, self.doomed_bytes)
    }

    /// Bytes of the bookkeeping: entries, table, side tables, slab pages, what is remembered of commits.
    pub(crate) fn index_bytes(&self) -> usize {
        self.entries.bytes()
            + self.table.bytes()
            + self.expiry.bytes()
            + self.pins.bytes()
            + self.leases.bytes()
            + self.grants.bytes()
            + self.slabs.bytes()
            + self.flash.index_bytes()
            + self.events.bytes()
    }

    /// Checks every invariant of the module's text. For tests and simulations: it looks at every entry.
    pub(crate) fn audit(&self) {
        let (mut live, mut live_bytes, mut doomed_bytes, mut small) = (0, 0, 0, 0);
        let mut listed = [0usize; List::COUNT];
        let mut expiring = 0;
        for index in 0..self.entries.end() {
            let Some(entry) = self.entries.get(index) else {
                continue;
            };
            let charge = self.charge_of(index);
            if matches!(entry.place(), Place::Small { .. }) {
                small += charge;
            }
            assert_eq!(
                self.table.contains(&self.entries, index),
                !entry.has(flag::DOOMED),
                "entry {index} is in the table while live"
            );
            if entry.has(flag::DOOMED) {
                doomed_bytes += charge;
                assert!(entry.users > 0, "doomed entry {index} has a user");
                assert!(!entry.has(flag::LISTED), "doomed entry {index} is in no list");
                continue;
            }
            live += 1;
            live_bytes += charge;
            assert_eq!(
                entry.has(flag::LISTED),
                entry.users == 0 && !entry.has(flag::PINNED),
                "entry {index} is listed"
            );
            if entry.has(flag::LISTED) {
                listed[usize::from(entry.list)] += 1;
                assert!(entry.list != List::Parked as u8 || entry.has(flag::GRACE), "parked entry {index} is graced");
                let parked = entry.list == List::Parked as u8;
                assert!(parked || entry.list == entry.class() as u8, "entry {index} is listed as what it is");
            }
            // What is on flash too is queued there.
            expiring += usize::from(entry.has(flag::EXPIRES) && !entry.has(flag::CLEAN));
            self.audit_pins_of(index);
        }
        assert_eq!(live, self.table.len(), "live entries are the table");
        assert_eq!((live_bytes, doomed_bytes), (self.live_bytes, self.doomed_bytes), "bytes by state add up");
        for (which, list) in List::ALL.into_iter().enumerate() {
            let members: Vec<u32> = self.lists.iter(&self.entries, list).collect();
            assert_eq!(members.len(), listed[which], "list {list:?} is as long as its members say");
        }
        self.expiry.audit(expiring + self.flash.expiring());
        self.audit_pins();
        self.audit_flash();
        self.slabs.audit();
        assert_eq!(small + self.grants.small_bytes, self.slabs.used(), "small slots are objects or reservations");
        self.leases.audit(&self.entries);
        self.grants.audit();
    }
}

pub(crate) fn free_extent(payload: Position, length: u64, key_len: usize, space: &Space) {
    let pages = u32::try_from(extent_pages(length, key_len)).expect("extents fit a segment");
    space.free(payload, pages);
}

/// Bytes that an object will be charged. Any length is counted, a claimed one too.
pub(crate) fn charge(length: u64, key_len: usize) -> u64 {
    slab::charge(small_len(length, key_len)).unwrap_or_else(|| extent_pages(length, key_len).saturating_mul(PAGE))
}

/// Bytes of a small object, header and key included.
pub(crate) fn small_len(length: u64, key_len: usize) -> u64 {
    length.saturating_add(SMALL_HEADER + key_len as u64)
}
