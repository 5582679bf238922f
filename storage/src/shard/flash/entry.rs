//! What the index keeps of one object on flash: 36 bytes, beside its key.
//!
//! Rare facts (expiry, pins, graces) live in side tables of the shard and are flagged here.

use crate::dram::arena::Arena;
use crate::entry::NIL;
use crate::index::Chained;
use crate::store::flash::FlashPlace;
use protocol::base::{Crc, Generation};

/// Bits of [`FlashEntry::flags`].
pub(crate) mod flag {
    /// The slot is taken.
    pub(crate) const IN_USE: u8 = 1;
    /// Read since the record was written.
    pub(crate) const HOT: u8 = 2;
    /// Read since the object left DRAM.
    pub(crate) const READ: u8 = 4;
    /// Expires, and is in the queue for it.
    pub(crate) const EXPIRES: u8 = 8;
    /// Has pins in the side table.
    pub(crate) const PINNED: u8 = 16;
    /// Has a soft pin in the side table.
    pub(crate) const SOFT: u8 = 32;
    /// Has a grace in the side table.
    pub(crate) const GRACE: u8 = 64;
    /// Had its grace since it was last read or written, and gets no other.
    pub(crate) const GRACE_SPENT: u8 = 128;
}

/// One object on flash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlashEntry {
    /// Lower and upper half: as one number it would cost 4 bytes more.
    generation: [u32; 2],
    pub(crate) length: u32,
    pub(crate) crc: Crc,
    pub(crate) hash: u32,
    /// Next in its chain of the table, or the next vacant entry.
    next: u32,
    /// Number of its key.
    pub(crate) key: u32,
    pub(crate) place: FlashPlace,
    pub(crate) key_len: u16,
    pub(crate) hits: u8,
    pub(crate) flags: u8,
}

const _: () = assert!(size_of::<FlashEntry>() == 36, "the index' memory is a promise");

impl FlashEntry {
    #[expect(clippy::cast_possible_truncation, reason = "takes halves")]
    pub(crate) fn new(
        generation: Generation,
        length: u32,
        crc: Crc,
        hash: u32,
        key: u32,
        key_len: u16,
        place: FlashPlace,
    ) -> Self {
        let generation = [generation.0 as u32, (generation.0 >> 32) as u32];
        Self { generation, length, crc, hash, next: NIL, key, place, key_len, hits: 0, flags: flag::IN_USE }
    }

    pub(crate) fn generation(&self) -> Generation {
        Generation(u64::from(self.generation[1]) << 32 | u64::from(self.generation[0]))
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// All entries of a shard. An index stays valid until its entry is removed.
#[derive(Debug)]
pub(crate) struct FlashEntries {
    all: Arena<FlashEntry>,
    /// The latest to be removed.
    vacant: u32,
}

impl FlashEntries {
    pub(crate) fn new() -> Self {
        Self { all: Arena::new(), vacant: NIL }
    }

    pub(crate) fn insert(&mut self, entry: FlashEntry) -> u32 {
        let index = self.vacant;
        if index == NIL {
            let index = self.all.take();
            assert!(index < super::FLASH, "fewer objects on flash than 2^31 a shard");
            self.all[index] = entry;
            return index;
        }
        self.vacant = self.all[index].next;
        self.all[index] = entry;
        index
    }

    pub(crate) fn remove(&mut self, index: u32) {
        let vacant = self.vacant;
        let entry = &mut self.all[index];
        assert!(entry.has(flag::IN_USE), "entry {index} removed twice");
        entry.flags = 0;
        entry.next = vacant;
        self.vacant = index;
    }

    /// One past the highest index that any entry ever had.
    pub(crate) fn end(&self) -> u32 {
        self.all.len()
    }

    /// The entry, if the index is in use.
    pub(crate) fn get(&self, index: u32) -> Option<&FlashEntry> {
        (index < self.all.len()).then(|| &self.all[index]).filter(|entry| entry.has(flag::IN_USE))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.all.bytes()
    }
}

impl Chained for FlashEntries {
    fn hash(&self, index: u32) -> u32 {
        self.all[index].hash
    }
    fn next(&self, index: u32) -> u32 {
        self.all[index].next
    }
    fn set_next(&mut self, index: u32, next: u32) {
        self.all[index].next = next;
    }
}

impl std::ops::Index<u32> for FlashEntries {
    type Output = FlashEntry;
    fn index(&self, index: u32) -> &FlashEntry {
        &self.all[index]
    }
}

impl std::ops::IndexMut<u32> for FlashEntries {
    fn index_mut(&mut self, index: u32) -> &mut FlashEntry {
        &mut self.all[index]
    }
}
