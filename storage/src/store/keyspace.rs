//! Keys and their facts: `STAT`, `TTL`, `PIN`, `SCAN`, `DEL`.

use super::Store;
use crate::entry::flag;
use crate::error::StoreError;
use crate::lru::Stamp;
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
    /// The segment of the payload.
    pub segment: SegmentId,
    /// Bytes from the segment's start to the payload.
    pub offset: u64,
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

impl Store {
    fn at<R>(&self, now: Instant, key: &[u8], look: impl FnOnce(&mut crate::shard::Shard, u32) -> R) -> Option<R> {
        let hashed = self.hash(key);
        self.0.with(self.0.shard_of(hashed.hash), |shard, space| {
            let index = shard.find(now, hashed, space)?;
            Some(look(shard, index))
        })
    }

    /// All facts of a live object. Touches nothing.
    pub fn stat(&self, now: Instant, key: &[u8]) -> Option<Stat> {
        self.at(now, key, |shard, index| {
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
                segment: position.segment_id(),
                offset: position.offset(),
            }
        })
    }

    /// Whether a key is live, without a grace: `TYPE`, `SCAN`.
    pub fn contains(&self, now: Instant, key: &[u8]) -> bool {
        self.at(now, key, |_, _| ()).is_some()
    }

    /// Counts as a read: `TOUCH`. `false` if there is no such object.
    pub fn touch(&self, now: Instant, key: &[u8]) -> bool {
        self.at(now, key, |shard, index| {
            let stamp = shard.stamp_at(index, now, None);
            shard.touch(index, stamp);
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
        match self.at(now, key, |shard, index| shard.expiry(index)) {
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
            let Some(index) = shard.find(now, hashed, space) else { return false };
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
    /// [`StoreError::Quota`] when pins hold as much as they may.
    pub fn pin(&self, now: Instant, key: &[u8], until: Option<Instant>) -> Result<Option<u64>, StoreError> {
        let room = self.0.pin_room();
        self.at(now, key, |shard, index| {
            let charge = shard.charge_of(index);
            if shard.pins_of(index) == 0 && charge > room.left {
                return Err(StoreError::Quota {
                    what: "pins",
                    held: ByteLen(room.held),
                    max: ByteLen(room.held + room.left),
                    wanted: ByteLen(charge),
                });
            }
            Ok(shard.pin(index, until))
        })
        .transpose()
    }

    /// One pin less. Returns the pins left, `None` if there is no such object.
    pub fn unpin(&self, now: Instant, key: &[u8]) -> Option<u64> {
        self.at(now, key, |shard, index| shard.unpin(index))
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
                while index < end && left > 0 && looked < 64 * 1024 {
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

    /// Some live key, chosen by `dice`. Looks at a bounded number of entries of each shard.
    pub fn random_key(&self, now: Instant, dice: u64) -> Option<Vec<u8>> {
        let shards = self.0.shard_count();
        #[expect(clippy::cast_possible_truncation, reason = "dice")]
        let first = dice as usize % shards;
        for step in 0..shards {
            let key = self.0.with((first + step) % shards, |shard, space| {
                let end = shard.entries.end();
                if shard.live() == 0 || end == 0 {
                    return None;
                }
                let start = u32::try_from((dice >> 8) % u64::from(end)).expect("below end");
                (0..end).map(|step| (start + step) % end).find_map(|index| {
                    let entry = shard.entries.get(index)?;
                    let alive = !entry.has(flag::DOOMED) && shard.expiry(index).is_none_or(|at| at > now);
                    alive.then(|| shard.with_key(index, space, <[u8]>::to_vec))
                })
            });
            if key.is_some() {
                return key;
            }
        }
        None
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
