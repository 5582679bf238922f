//! What the index keeps of one object: 56 bytes, in chunks that never move.
//!
//! Rare facts (expiry, pins, soft pins, graces) live in side tables of the shard and are flagged here.

use crate::lru::List;
use crate::place::Place;
use protocol::base::{Crc, Generation};

/// No entry.
pub(crate) const NIL: u32 = u32::MAX;

/// Bits of [`Entry::flags`].
pub(crate) mod flag {
    /// Unlinked from the index; goes when its last user does.
    pub(crate) const DOOMED: u8 = 1;
    /// Has an expiry in the side table.
    pub(crate) const EXPIRES: u8 = 2;
    /// Has pins in the side table; in no LRU list.
    pub(crate) const PINNED: u8 = 4;
    /// Has a soft pin in the side table.
    pub(crate) const SOFT: u8 = 8;
    /// Has a grace in the side table.
    pub(crate) const GRACE: u8 = 16;
    /// Is in one of the LRU lists.
    pub(crate) const LISTED: u8 = 32;
    /// The slot is taken by a live or doomed object.
    pub(crate) const IN_USE: u8 = 64;
    /// Had its grace since it was last read or written, and gets no other.
    pub(crate) const GRACE_SPENT: u8 = 128;
}

/// One object, live or doomed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) generation: Generation,
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
    pub(crate) flags: u8,
    /// The list it is in, if listed.
    pub(crate) list: u8,
    /// Hits up to 255, for `OBJECT FREQ`.
    pub(crate) hits: u8,
    /// Whether it is the last block of its chain: it has a parent, and no other object named it as its own.
    pub(crate) leaf: bool,
}

const _: () = assert!(size_of::<Entry>() == 56, "the index' memory is a promise");

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
            leaf: false,
        }
    }

    pub(crate) fn place(&self) -> Place {
        Place::unpack(self.place)
    }

    /// The list of an object that nothing spares.
    pub(crate) fn class(&self) -> List {
        match (self.hits, self.leaf) {
            (0, true) => List::Leaf,
            (0, false) => List::Fresh,
            _ => List::Hit,
        }
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

const CHUNK: usize = 1024;

/// All entries of a shard. An index stays valid until its entry is removed.
#[derive(Debug)]
pub(crate) struct Entries {
    chunks: Vec<Box<[Entry]>>,
    vacant: u32,
}

impl Entries {
    pub(crate) fn new() -> Self {
        Self { chunks: Vec::new(), vacant: NIL }
    }

    pub(crate) fn insert(&mut self, entry: Entry) -> u32 {
        if self.vacant == NIL {
            self.grow();
        }
        let index = self.vacant;
        let place = &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK];
        self.vacant = place.newer;
        *place = entry;
        index
    }

    fn grow(&mut self) {
        let first = u32::try_from(self.chunks.len() * CHUNK).expect("fewer objects than 2^32 in a shard");
        let blank = Entry { flags: 0, ..Entry::new(Generation(0), 0, Place::unpack(0), 0, 0, Crc(0), 0) };
        let mut chunk = vec![blank; CHUNK].into_boxed_slice();
        for (at, entry) in (0u32..).zip(chunk.iter_mut()) {
            entry.newer = if at as usize + 1 == CHUNK { NIL } else { first + at + 1 };
        }
        self.vacant = first;
        self.chunks.push(chunk);
    }

    pub(crate) fn remove(&mut self, index: u32) {
        let vacant = self.vacant;
        let entry = &mut self[index];
        assert!(entry.has(flag::IN_USE), "entry {index} removed twice");
        entry.flags = 0;
        entry.newer = vacant;
        self.vacant = index;
    }

    /// One past the highest index that an entry may have.
    pub(crate) fn end(&self) -> u32 {
        u32::try_from(self.chunks.len() * CHUNK).expect("checked at growth")
    }

    /// The entry, if the index is in use.
    pub(crate) fn get(&self, index: u32) -> Option<&Entry> {
        let entry = self.chunks.get(index as usize / CHUNK)?.get(index as usize % CHUNK)?;
        entry.has(flag::IN_USE).then_some(entry)
    }

    /// Bytes that the table itself takes.
    pub(crate) fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Entry>()
    }
}

impl std::ops::Index<u32> for Entries {
    type Output = Entry;
    fn index(&self, index: u32) -> &Entry {
        &self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}

impl std::ops::IndexMut<u32> for Entries {
    fn index_mut(&mut self, index: u32) -> &mut Entry {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}
