//! Keys and their facts: `STAT`, `TTL`, `PIN`, `SCAN`, `DEL`.

use super::Store;
use super::flash::FlashPlace;
use crate::dram::space::Space;
use crate::entry::flag;
use crate::error::StoreError;
use crate::lru::Stamp;
use crate::shard::Shard;
use protocol::base::{ByteLen, Crc, Generation, Instant, SegmentId};

/// What `STAT` says of a live object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its placement.
    pub generation: Generation,
    /// Bytes of payload.
    pub length: ByteLen,
    /// Their checksum.
    pub crc: Crc,
    /// When it expires.
    pub expires: Option<Instant>,
    /// Pins held.
    pub pins: u64,
    /// Leases and reads in flight.
    pub users: u16,
    /// Hits since it was written, up to 255.
    pub hits: u8,
    /// When it was last touched.
    pub touched: Instant,
    /// Depth in its chain.
    pub depth: u32,
    /// Whether it is soft-pinned.
    pub soft_pinned: bool,
    /// Bytes that its slot takes.
    pub charge: ByteLen,
    /// The segment of the payload, and bytes from its start; `None` if the object lies on flash alone.
    pub dram: Option<(SegmentId, u64)>,
    /// Where its record lies on flash, if it has one.
    pub flash: Option<FlashPlace>,
}

/// When an object expires, as `TTL` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// No such object.
    Missing,
    /// It does not expire.
    Endless,
    /// It expires then.
    Until(Instant),
}

/// Entries that are looked at under one hold of a shard's lock.
const LOOKED_MAX: u32 = 16 * 1024;

impl Store {
    fn at<R>(&self, now: Instant, key: &[u8], look: impl FnOnce(&mut Shard, u32, &Space) -> R) -> Option<R> {
        let hashed = self.hash(key);
        self.0.with(self.0.shard_of(hashed.hash), |shard, space| {
            let index = shard.find(now, hashed, space)?;
            Some(look(shard, index, space))
        })
    }

    /// All facts of a live object. Touches nothing.
    pub fn stat(&self, now: Instant, key: &[u8]) -> Option<Stat> {
        self.at(now, key, |shard, index, _| {
            let entry = shard.entries[index];
            let position = shard.payload_of(index);
            let stamp = Stamp(entry.stamp);
            Stat {
                generation: entry.generation,
                length: ByteLen(u64::from(entry.length)),
                crc: entry.crc,
                expires: shard.expiry(index),
                pins: shard.pins_of(index),
                users: entry.users,
                hits: entry.hits,
                touched: stamp.at(),
                depth: stamp.depth(),
                soft_pinned: entry.has(flag::SOFT),
                charge: ByteLen(shard.charge_of(index)),
                dram: Some((position.segment_id(), position.offset())),
                flash: None,
            }
        })
    }

    /// Whether a key is live, without a grace: `TYPE`, `SCAN`.
    pub fn contains(&self, now: Instant, key: &[u8]) -> bool {
        self.at(now, key, |_, _, _| ()).is_some()
    }

    /// Counts as a read: `TOUCH`. `false` if there is no such object.
    pub fn touch(&self, now: Instant, key: &[u8]) -> bool {
        self.at(now, key, |shard, index, space| {
            let stamp = shard.stamp_at(index, now, None);
            shard.touch(index, stamp, space);
        })
        .is_some()
    }

    /// Unlinks an object. `false` if there is none.
    pub fn remove(&self, now: Instant, key: &[u8]) -> bool {
        let hashed = self.hash(key);
        self.0.with(self.0.shard_of(hashed.hash), |shard, space| {
            shard.find(now, hashed, space).map(|index| shard.unlink(index, space)).is_some()
        })
    }

    /// When an object expires.
    pub fn ttl(&self, now: Instant, key: &[u8]) -> Ttl {
        match self.at(now, key, |shard, index, _| shard.expiry(index)) {
            None => Ttl::Missing,
            Some(None) => Ttl::Endless,
            Some(Some(at)) => Ttl::Until(at),
        }
    }

    /// Sets or clears an object's expiry if `allow`, told the present one, agrees. An expiry that is past removes the object.
    /// `false` if there is no such object or `allow` refused.
    pub fn expire(
        &self,
        now: Instant,
        key: &[u8],
        at: Option<Instant>,
        allow: impl FnOnce(Option<Instant>) -> bool,
    ) -> bool {
        let hashed = self.hash(key);
        self.0.with(self.0.shard_of(hashed.hash), |shard, space| {
            let Some(index) = shard.find(now, hashed, space) else {
                return false;
            };
            if !allow(shard.expiry(index)) {
                return false;
            }
            if at.is_some_and(|at| at <= now) {
                shard.unlink(index, space);
            } else {
                shard.set_expiry(index, at);
            }
            true
        })
    }

    /// One pin more, until then or without an end. Returns the pins, `None` if there is no such object.
    ///
    /// # Errors
    /// [`StoreError::Quota`] when pins hold as much as they may, [`StoreError::TooManyUsers`] when the object has more pins
    /// than are counted.
    pub fn pin(&self, now: Instant, key: &[u8], until: Option<Instant>) -> Result<Option<u64>, StoreError> {
        self.at(now, key, |shard, index, space| shard.pin(index, until, space)).transpose()
    }

    /// One pin less. Returns the pins left, `None` if there is no such object.
    pub fn unpin(&self, now: Instant, key: &[u8]) -> Option<u64> {
        self.at(now, key, |shard, index, space| shard.unpin(index, space))
    }

    /// Hands keys of live objects to `each`, from `cursor` on, until at least `count` entries were looked at. Returns the
    /// cursor to go on with, 0 at the end. An object that lives through a whole scan is handed out at least once.
    pub fn scan(&self, now: Instant, cursor: u64, count: usize, mut each: impl FnMut(&[u8])) -> u64 {
        let shards = self.0.shard_count();
        let mut shard_index = usize::try_from(cursor >> 32).unwrap_or(usize::MAX);
        let mut index = u32::try_from(cursor & 0xffff_ffff).expect("32 bits");
        let mut left = count.max(1);
        while shard_index < shards {
            let ended = self.0.with(shard_index, |shard, space| {
                let end = shard.entries.end();
                // Vacant entries cost next to nothing, but the lock is not held for ever.
                let mut looked = 0;
                while index < end && left > 0 && looked < LOOKED_MAX {
                    looked += 1;
                    if let Some(entry) = shard.entries.get(index)
                        && !entry.has(flag::DOOMED)
                        && shard.expiry(index).is_none_or(|at| at > now)
                    {
                        shard.with_key(index, space, &mut each);
                        left -= 1;
                    }
                    index += 1;
                }
                index >= end
            });
            if ended {
                shard_index += 1;
                index = 0;
            }
            if left == 0 {
                break;
            }
        }
        if shard_index >= shards { 0 } else { (shard_index as u64) << 32 | u64::from(index) }
    }

    /// Some live key, chosen by `dice`. Where objects are few among many vacant entries, those beside gaps come more often.
    pub fn random_key(&self, now: Instant, dice: u64) -> Option<Vec<u8>> {
        let shards = self.0.shard_count();
        #[expect(clippy::cast_possible_truncation, reason = "dice")]
        let first = dice as usize % shards;
        (0..shards).map(|step| (first + step) % shards).find_map(|shard| self.random_key_of(now, shard, dice >> 8))
    }

    fn random_key_of(&self, now: Instant, shard_index: usize, dice: u64) -> Option<Vec<u8>> {
        let (mut looked, mut key) = (0, None);
        loop {
            let ended = self.0.with(shard_index, |shard, space| {
                let end = shard.entries.end();
                if shard.live() == 0 || looked >= end {
                    return true;
                }
                // The lock is not held for ever.
                let stop = end.min(looked.saturating_add(LOOKED_MAX));
                let start = u32::try_from(dice % u64::from(end)).expect("below end");
                key = (looked..stop).map(|step| wrapping_step(start, step, end)).find_map(|index| {
                    let entry = shard.entries.get(index)?;
                    let alive = !entry.has(flag::DOOMED) && shard.expiry(index).is_none_or(|at| at > now);
                    alive.then(|| shard.with_key(index, space, <[u8]>::to_vec))
                });
                looked = stop;
                key.is_some()
            });
            if ended {
                return key;
            }
        }
    }

    /// Unlinks every object. Returns how many. Takes each lock for a bounded time.
    pub fn clear(&self) -> u64 {
        let mut removed = 0;
        for shard_index in 0..self.0.shard_count() {
            let mut index = 0;
            loop {
                let ended = self.0.with(shard_index, |shard, space| {
                    let end = shard.entries.end();
                    let stop = end.min(index + 8192);
                    while index < stop {
                        if shard.entries.get(index).is_some_and(|entry| !entry.has(flag::DOOMED)) {
                            shard.unlink(index, space);
                            removed += 1;
                        }
                        index += 1;
                    }
                    index >= end
                });
                if ended {
                    break;
                }
            }
        }
        removed
    }
}

/// `start + step`, around `end`. Both are at most `end`.
fn wrapping_step(start: u32, step: u32, end: u32) -> u32 {
    let left = end - start;
    if step < left { start + step } else { step - left }
}
