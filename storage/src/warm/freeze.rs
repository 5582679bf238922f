//! What lies in memory at a planned end, written down.
//!
//! Invariants:
//! - Called when nobody is served any more. What changes all the same after a shard was written down is found out by the
//!   checksums, when it is to be adopted.

use super::manifest::{self, KEPT_FLAGS, Layout, ObjectRecord, PinRecord};
use crate::Store;
use crate::dram::space::Space;
use crate::entry::flag;
use crate::shard::Shard;
use protocol::base::{Crc, Instant};

/// The life that ends.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// Random: the directory of the flash tier names the same.
    pub name: u128,
    /// As its store was told.
    pub boot_epoch: u64,
    /// Its layout.
    pub layout: Layout,
    /// Its last moment.
    pub now: Instant,
}

/// The key whose hash shows whether two builds hash alike.
const KNOWN_KEY: &[u8] = b"mooncake:hash";

impl Store {
    /// The manifest of all live objects in DRAM, whose slots stay as they are: the pieces of a file, header first.
    pub fn freeze(&self, life: &Life) -> Vec<Vec<u8>> {
        let mut pieces = vec![Vec::new()];
        for shard in 0..self.0.shard_count() {
            pieces.push(self.0.with(shard, |shard, space| shard.freeze(life.now, space, |key| self.hash(key).hash)));
        }
        let body_len = pieces.iter().map(|piece| piece.len() as u64).sum();
        let crc = pieces.iter().fold(Crc::default(), |crc, piece| crc.extend(piece));
        let header = manifest::encode_header(life, self.0.config.hash_seed(), self.hash_check(), body_len, crc);
        pieces[0] = header.to_vec();
        pieces
    }

    /// What this build and the seed make of a known key.
    pub(super) fn hash_check(&self) -> u64 {
        self.hash(KNOWN_KEY).hash
    }
}

impl Shard {
    fn freeze(&self, now: Instant, space: &Space, hash: impl Fn(&[u8]) -> u64) -> Vec<u8> {
        let (mut records, mut pins) = (Vec::new(), Vec::new());
        for index in 0..self.entries.end() {
            let Some(entry) = self.entries.get(index).filter(|entry| !entry.has(flag::DOOMED)) else { continue };
            let expires = self.expiry(index);
            if expires.is_some_and(|at| at <= now) {
                continue;
            }
            let object = u32::try_from(records.len()).expect("fewer entries than 2^32");
            pins.extend(self.ends_of_pins(index).map(|(until, count)| PinRecord { object, count, until }));
            records.push(ObjectRecord {
                generation: entry.generation,
                place: entry.place(),
                key_hash: self.with_key(index, space, &hash),
                expires,
                stamp: entry.stamp,
                soft_until: self.soft_end(index),
                length: entry.length,
                crc: entry.crc,
                key_len: entry.key_len,
                flags: entry.flags & KEPT_FLAGS,
                hits: entry.hits,
            });
        }
        manifest::encode_part(self, &records, &pins)
    }
}
