//! What the index keeps of one object: one cache line, at a place that does not change.
//!
//! Rare facts (pins, soft pins, graces) live in side tables of the shard and are flagged here.

use crate::dram::arena::Arena;
use crate::index::Chained;
use crate::lru::List;
use crate::place::Place;
use protocol::base::{Crc, Generation, Instant};

/// No entry.
pub(crate) const NIL: u32 = u32::MAX;

/// Bits of [`Entry::flags`].
pub(crate) mod flag {
    /// Unlinked from the index; goes when its last user does.
    pub(crate) const DOOMED: u16 = 1;
    /// Expires, and is in the queue for it.
    pub(crate) const EXPIRES: u16 = 2;
    /// Has pins in the side table; in no LRU list.
    pub(crate) const PINNED: u16 = 4;
    /// Has a soft pin in the side table.
    pub(crate) const SOFT: u16 = 8;
    /// Has a grace in the side table.
    pub(crate) const GRACE: u16 = 16;
    /// Is in one of the LRU lists.
    pub(crate) const LISTED: u16 = 32;
    /// The slot is taken by a live or doomed object.
    pub(crate) const IN_USE: u16 = 64;
    /// Had its grace since it was last read or written, and gets no other.
    pub(crate) const GRACE_SPENT: u16 = 128;
    /// The last block of its chain: it has a parent, and no other object named it as its own.
    pub(crate) const LEAF: u16 = 256;
    /// On flash too, under this generation.
    pub(crate) const CLEAN: u16 = 512;
    /// Being written to flash.
    pub(crate) const SPILLING: u16 = 1024;
    /// Read in DRAM since it is clean.
    pub(crate) const HOT: u16 = 2048;
    /// Will not be written to flash: evicted as if it were clean.
    pub(crate) const DECLINED: u16 = 4096;
}

/// One object, live or doomed.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct Entry {
    pub(crate) generation: Generation,
    /// When it expires, if its flag says that it does.
    pub(crate) expires: Instant,
    /// When it was last touched and how deep in its chain it lies; see [`crate::lru::Stamp`].
    pub(crate) stamp: u64,
    place: u64,
    pub(crate) hash: u32,
    pub(crate) length: u32,
    pub(crate) crc: Crc,
    /// Newer neighbour in its LRU list, or the next vacant entry.
    pub(crate) newer: u32,
    /// Older neighbour.
    pub(crate) older: u32,
    /// Next in its chain of [`crate::index::Table`].
    pub(crate) next: u32,
    /// Leases and reads in flight.
    pub(crate) users: u16,
    pub(crate) key_len: u16,
    pub(crate) flags: u16,
    /// The list it is in, if listed.
    pub(crate) list: u8,
    /// Hits up to 255, for `OBJECT FREQ`.
    pub(crate) hits: u8,
}

const _: () = assert!(size_of::<Entry>() == 64, "the index' memory is a promise");

impl Entry {
    pub(crate) fn new(
        generation: Generation,
        stamp: u64,
        place: Place,
        hash: u32,
        length: u32,
        crc: Crc,
        key_len: u16,
    ) -> Self {
        Self {
            generation,
            expires: Instant(0),
            stamp,
            place: place.pack(),
            hash,
            length,
            crc,
            newer: NIL,
            older: NIL,
            next: NIL,
            users: 0,
            key_len,
            flags: flag::IN_USE,
            list: 0,
            hits: 0,
        }
    }

    pub(crate) fn place(&self) -> Place {
        Place::unpack(self.place)
    }

    /// The list it belongs to, if any.
    pub(crate) fn class(&self) -> List {
        let class = match (self.hits, self.has(flag::LEAF)) {
            _ if self.has(flag::SOFT) => List::Soft,
            (0, true) => List::Leaf,
            (0, false) => List::Fresh,
            _ => List::Hit,
        };
        if self.has(flag::CLEAN | flag::DECLINED) { class.clean() } else { class }
    }

    /// Whether it has any of these flags.
    pub(crate) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

impl Chained for Entries {
    fn hash(&self, index: u32) -> u32 {
        self[index].hash
    }
    fn next(&self, index: u32) -> u32 {
        self[index].next
    }
    fn set_next(&mut self, index: u32, next: u32) {
        self[index].next = next;
    }
}

/// All entries of a shard. An index stays valid until its entry is removed.
#[derive(Debug)]
pub(crate) struct Entries {
    all: Arena<Entry>,
    /// The latest to be removed.
    vacant: u32,
}

impl Entries {
    pub(crate) fn new() -> Self {
        Self { all: Arena::new(), vacant: NIL }
    }

    pub(crate) fn insert(&mut self, entry: Entry) -> u32 {
        let index = self.vacant;
        if index == NIL {
            let index = self.all.take();
            self.all[index] = entry;
            return index;
        }
        self.vacant = self.all[index].newer;
        self.all[index] = entry;
        index
    }

    pub(crate) fn remove(&mut self, index: u32) {
        let vacant = self.vacant;
        let entry = &mut self[index];
        assert!(entry.has(flag::IN_USE), "entry {index} removed twice");
        entry.flags = 0;
        entry.newer = vacant;
        self.vacant = index;
    }

    /// One past the highest index that any entry ever had.
    pub(crate) fn end(&self) -> u32 {
        self.all.len()
    }

    /// The entry, if the index is in use.
    pub(crate) fn get(&self, index: u32) -> Option<&Entry> {
        (index < self.all.len()).then(|| &self.all[index]).filter(|entry| entry.has(flag::IN_USE))
    }

    /// Fetches into the caches what is about to be needed.
    pub(crate) fn prefetch(&self, index: u32) {
        self.all.prefetch(index);
    }

    /// Bytes that the table itself takes.
    pub(crate) fn bytes(&self) -> usize {
        self.all.bytes()
    }
}

impl std::ops::Index<u32> for Entries {
    type Output = Entry;
    #[inline]
    fn index(&self, index: u32) -> &Entry {
        &self.all[index]
    }
}

impl std::ops::IndexMut<u32> for Entries {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut Entry {
        &mut self.all[index]
    }
}
