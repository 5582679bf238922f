//! Finds entries by the hash of their key.
//!
//! Role: a linear hash table (Litwin, VLDB '80) of chains through the entries: one bucket is split with each insertion
//! that needs it, so growth never stops the shard as the rehash of a flat table would (tens of milliseconds at a million
//! entries), and it takes 4 bytes a bucket at every size.
//!
//! Invariants:
//! - An entry lies in the chain of `bucket_of` its hash, once.
//! - There are never more entries a bucket than the table was made for, beyond the first [`BUCKETS_MIN`]. Buckets are not
//!   given back.

use crate::dram::arena::Arena;
use crate::entry::NIL;

const BUCKETS_MIN: u32 = 1024;

/// Entries that a table finds: each carries its hash, and the next of its chain.
pub(crate) trait Chained {
    fn hash(&self, index: u32) -> u32;
    fn next(&self, index: u32) -> u32;
    fn set_next(&mut self, index: u32, next: u32);
}

/// Chain heads.
#[derive(Debug)]
pub(crate) struct Table {
    /// Inverted, so that the zeros of a new bucket say [`NIL`].
    heads: Arena<u32>,
    len: usize,
    /// Entries a bucket before the next is split.
    load: usize,
}

impl Table {
    /// For at most `load` entries a bucket.
    pub(crate) fn new(load: usize) -> Self {
        let mut heads = Arena::new();
        for _ in 0..BUCKETS_MIN {
            heads.take();
        }
        Self { heads, len: 0, load }
    }

    /// Entries in the table.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.heads.bytes()
    }

    fn bucket_of(&self, hash: u32) -> u32 {
        // Buckets below `buckets - level / 2` are split already and take one more bit.
        let buckets = self.heads.len();
        let level = u64::from(buckets).next_power_of_two();
        let bucket = hash & u32::try_from(level - 1).unwrap_or(u32::MAX);
        if bucket < buckets { bucket } else { hash & u32::try_from(level / 2 - 1).expect("half of it fits") }
    }

    fn head(&self, bucket: u32) -> u32 {
        !self.heads[bucket]
    }

    fn set_head(&mut self, bucket: u32, index: u32) {
        self.heads[bucket] = !index;
    }

    /// Fetches into the caches where the search for a hash begins.
    pub(crate) fn prefetch(&self, hash: u32) {
        self.heads.prefetch(self.bucket_of(hash));
    }

    /// The entry with this hash that `is` agrees to.
    pub(crate) fn find(&self, entries: &impl Chained, hash: u32, is: impl Fn(u32) -> bool) -> Option<u32> {
        let mut index = self.head(self.bucket_of(hash));
        while index != NIL {
            if entries.hash(index) == hash && is(index) {
                return Some(index);
            }
            index = entries.next(index);
        }
        None
    }

    /// Puts an entry in, under the hash that it carries.
    pub(crate) fn insert(&mut self, entries: &mut impl Chained, index: u32) {
        let bucket = self.bucket_of(entries.hash(index));
        entries.set_next(index, self.head(bucket));
        self.set_head(bucket, index);
        self.len += 1;
        if self.len > self.heads.len() as usize * self.load {
            self.split(entries);
        }
    }

    /// Takes an entry out.
    ///
    /// # Panics
    /// If it is not in the table: that is a bug of ours.
    pub(crate) fn remove(&mut self, entries: &mut impl Chained, index: u32) {
        let bucket = self.bucket_of(entries.hash(index));
        let next = entries.next(index);
        entries.set_next(index, NIL);
        self.len -= 1;
        let mut at = self.head(bucket);
        if at == index {
            self.set_head(bucket, next);
            return;
        }
        while at != NIL {
            let after = entries.next(at);
            if after == index {
                entries.set_next(at, next);
                return;
            }
            at = after;
        }
        unreachable!("entry {index} is in its chain");
    }

    /// One bucket more: takes from its lower half what belongs to it.
    fn split(&mut self, entries: &mut impl Chained) {
        let new = self.heads.take();
        let from = new & !(1 << new.ilog2());
        let mut index = self.head(from);
        self.set_head(from, NIL);
        while index != NIL {
            let bucket = self.bucket_of(entries.hash(index));
            debug_assert!(bucket == from || bucket == new, "a split moves to the new bucket only");
            let next = entries.next(index);
            entries.set_next(index, self.head(bucket));
            self.set_head(bucket, index);
            index = next;
        }
    }

    /// Whether an entry is in the table. For audits.
    pub(crate) fn contains(&self, entries: &impl Chained, index: u32) -> bool {
        self.find(entries, entries.hash(index), |other| other == index).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Entries, Entry};
    use crate::place::Place;
    use protocol::base::{Crc, Generation};
    use std::collections::HashMap;

    #[test]
    fn what_is_put_in_is_found_through_every_split() {
        let (mut entries, mut table) = (Entries::new(), Table::new(1));
        let mut held: HashMap<u32, u32> = HashMap::new();
        let mut dice = 0x2545_f491_4f6c_dd1du64;
        for step in 0..60_000u32 {
            dice = dice.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let hash = u32::try_from(dice >> 32).expect("32 bits") & 0x000f_ffff;
            if let Some(index) = held.remove(&hash) {
                assert_eq!(table.find(&entries, hash, |other| other == index), Some(index), "step {step}");
                table.remove(&mut entries, index);
                entries.remove(index);
                assert_eq!(table.find(&entries, hash, |_| true), None);
            } else {
                let index = entries.insert(Entry::new(Generation(1), 0, Place::unpack(0), hash, 0, Crc(0), 0));
                table.insert(&mut entries, index);
                held.insert(hash, index);
            }
            assert_eq!(table.len(), held.len());
        }
        assert!(table.len() > 50_000);
        for (&hash, &index) in &held {
            assert_eq!(table.find(&entries, hash, |_| true), Some(index));
        }
        assert!(table.bytes() < 5 * held.len());
    }

    #[test]
    fn equal_hashes_are_told_apart() {
        let (mut entries, mut table) = (Entries::new(), Table::new(1));
        let indices: Vec<u32> = (0..5)
            .map(|_| {
                let index = entries.insert(Entry::new(Generation(1), 0, Place::unpack(0), 7, 0, Crc(0), 0));
                table.insert(&mut entries, index);
                index
            })
            .collect();
        table.remove(&mut entries, indices[2]);
        for (n, &index) in indices.iter().enumerate() {
            assert_eq!(table.contains(&entries, index), n != 2);
        }
    }
}
