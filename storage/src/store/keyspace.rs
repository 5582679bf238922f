//! Keys and their facts: `STAT`, `TTL`, `PIN`, `SCAN`, `DEL`.

use super::Store;
use super::flash::FlashPlace;
use crate::dram::space::Space;
use crate::entry::{Entry, flag};
use crate::error::StoreError;
use crate::lru::Stamp;
use crate::shard::event::Event;
use crate::shard::flash::{FLASH, entry};
use crate::shard::{At, Shard};
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
    /// When it was last touched; not known, and so the beginning of time, of an object on flash alone.
    pub touched: Instant,
    /// Depth in its chain.
    pub depth: u32,
    /// Whether it is soft-pinned.
    pub soft_pinned: bool,
    /// Bytes that its slot in DRAM takes.
    pub charge: ByteLen,
    /// The segment of the payload, and bytes from its start; `None` if the object lies on flash alone.
    pub dram: Option<(SegmentId, u64)>,
    /// Where its record lies on flash, if it has one.
    pub flash: Option<FlashPlace>,
}

/// What a survey says of a live object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surveyed {
    /// Bytes of payload.
    pub length: ByteLen,
    /// Hits since it was written, up to 255.
    pub hits: u8,
    /// Whether it lies in DRAM.
    pub in_dram: bool,
    /// Whether it lies on flash.
    pub on_flash: bool,
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
    fn at<R>(&self, now: Instant, key: &[u8], look: impl FnOnce(&mut Shard, At, &Space) -> R) -> Option<R> {
        let hashed = self.hash(key);
        self.0.with(self.0.shard_of(hashed.hash), |shard, space| {
            let at = shard.locate(now, hashed, space)?;
            Some(look(shard, at, space))
        })
    }

    /// All facts of a live object. Touches nothing.
    pub fn stat(&self, now: Instant, key: &[u8]) -> Option<Stat> {
        self.at(now, key, |shard, at, _| {
            let pins = shard.pins_of(shard.handle_of_pins(at));
            let index = match at {
                At::Dram(index) => index,
                At::Flash(index) => return stat_of_record(shard, index, pins),
            };
            let entry = shard.entries[index];
            let position = shard.payload_of(index);
            let stamp = Stamp(entry.stamp);
            Stat {
                generation: entry.generation,
                length: ByteLen(u64::from(entry.length)),
                crc: entry.crc,
                expires: shard.expiry(index),
                pins,
                users: entry.users,
                hits: entry.hits,
                touched: stamp.at(),
                depth: stamp.depth(),
                soft_pinned: entry.has(flag::SOFT),
                charge: ByteLen(shard.charge_of(index)),
                dram: Some((position.segment_id(), position.offset())),
                flash: entry.has(flag::CLEAN).then(|| shard.flash.entries[shard.twin_on_flash(index)].place),
            }
        })
    }

    /// Whether a key is live, without a grace: `TYPE`, `SCAN`.
    pub fn contains(&self, now: Instant, key: &[u8]) -> bool {
        self.at(now, key, |_, _, _| ()).is_some()
    }

    /// Counts as a read: `TOUCH`. `false` if there is no such object.
    pub fn touch(&self, now: Instant, key: &[u8]) -> bool {
        self.at(now, key, |shard, at, space| match at {
            At::Dram(index) => {
                let stamp = shard.stamp_at(index, now, None);
                shard.touch(index, stamp, space);
            }
            At::Flash(index) => {
                shard.touch_flash(index, space);
            }
        })
        .is_some()
    }

    /// Unlinks an object. `false` if there is none.
    pub fn remove(&self, now: Instant, key: &[u8]) -> bool {
        let hashed = self.hash(key);
        self.0.with(self.0.shard_of(hashed.hash), |shard, space| {
            shard.locate(now, hashed, space).map(|at| shard.unlink_at(at, space)).is_some()
        })
    }

    /// When an object expires.
    pub fn ttl(&self, now: Instant, key: &[u8]) -> Ttl {
        match self.at(now, key, |shard, at, _| shard.expiry_at(at)) {
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
            let Some(found) = shard.locate(now, hashed, space) else {
                return false;
            };
            if !allow(shard.expiry_at(found)) {
                return false;
            }
            if at.is_some_and(|at| at <= now) {
                shard.unlink_at(found, space);
            } else {
                shard.set_expiry_at(found, at);
            }
            true
        })
    }

    /// Whether what happens to objects by itself is noted, for [`Store::take_events`].
    pub fn listen(&self, on: bool) {
        for shard in 0..self.0.shard_count() {
            self.0.with(shard, |shard, _| shard.events.listen(on));
        }
    }

    /// Hands out what was noted since it was last asked, of each shard in order. Returns how much was too much to be noted.
    pub fn take_events(&self, mut each: impl FnMut(Event, &[u8])) -> u64 {
        (0..self.0.shard_count())
            .map(|shard| {
                let (events, lost) = self.0.with(shard, |shard, _| shard.events.take());
                events.iter().for_each(|(event, key)| each(*event, key));
                lost
            })
            .sum()
    }

    /// One pin more, until then or without an end: the object stays in the tier where it is, or where it was first pinned.
    /// Returns the pins, `None` if there is no such object.
    ///
    /// # Errors
    /// [`StoreError::Quota`] when pins hold as much as they may, [`StoreError::TooManyUsers`] when the object has more pins
    /// than are counted.
    pub fn pin(&self, now: Instant, key: &[u8], until: Option<Instant>) -> Result<Option<u64>, StoreError> {
        let pinned = self.at(now, key, |shard, at, space| {
            (!shard.is_going(at)).then(|| shard.pin(shard.handle_of_pins(at), until, space))
        });
        pinned.flatten().transpose()
    }

    /// One pin less. Returns the pins left, `None` if there is no such object.
    pub fn unpin(&self, now: Instant, key: &[u8]) -> Option<u64> {
        self.at(now, key, |shard, at, space| shard.unpin(shard.handle_of_pins(at), space))
    }

    /// Hands keys of live objects to `each`, from `cursor` on, until at least `count` entries were looked at. Returns the
    /// cursor to go on with, 0 at the end. An object that lives through a whole scan is handed out at least once, unless its
    /// record on flash is lost meanwhile.
    ///
    /// Of each shard first what is in DRAM alone, then what is on flash: an object that is spilled during a scan is met
    /// again, never missed.
    pub fn scan(&self, now: Instant, cursor: u64, count: usize, mut each: impl FnMut(&[u8])) -> u64 {
        self.walk(cursor, count, |shard, handle, space| shard.with_live_key(now, handle, space, &mut each))
    }

    /// Shows entries to `look`, from `cursor` on, until it took `count` of them. Returns the cursor to go on with.
    fn walk(&self, cursor: u64, count: usize, mut look: impl FnMut(&Shard, u32, &Space) -> bool) -> u64 {
        let shards = self.0.shard_count();
        let mut shard_index = usize::try_from(cursor >> 32).unwrap_or(usize::MAX);
        let mut handle = u32::try_from(cursor & 0xffff_ffff).expect("32 bits");
        let mut left = count.max(1);
        while shard_index < shards {
            let ended = self.0.with(shard_index, |shard, space| {
                // Vacant entries cost next to nothing, but the lock is not held for ever.
                let mut looked = 0;
                while left > 0 && looked < LOOKED_MAX {
                    // A cursor may be anything that a client made up.
                    if handle & FLASH == 0 && handle >= shard.entries.end() {
                        handle = FLASH;
                    }
                    if handle & FLASH != 0 && handle & !FLASH >= shard.flash.entries.end() {
                        return true;
                    }
                    looked += 1;
                    left -= usize::from(look(shard, handle, space));
                    handle += 1;
                }
                false
            });
            if ended {
                shard_index += 1;
                handle = 0;
            }
            if left == 0 {
                break;
            }
        }
        if shard_index >= shards { 0 } else { (shard_index as u64) << 32 | u64::from(handle) }
    }

    /// As [`Store::scan`], with what is known of each object at a glance. Touches nothing.
    pub fn survey(&self, now: Instant, cursor: u64, count: usize, mut each: impl FnMut(&[u8], Surveyed)) -> u64 {
        self.walk(cursor, count, |shard, handle, space| {
            let surveyed = shard.surveyed(handle);
            shard.with_live_key(now, handle, space, &mut |key: &[u8]| each(key, surveyed.expect("it is live")))
        })
    }

    /// Some live key, chosen by `dice`. Where objects are few among many vacant entries, those beside gaps come more often.
    pub fn random_key(&self, now: Instant, dice: u64) -> Option<Vec<u8>> {
        let shards = self.0.shard_count();
        #[expect(clippy::cast_possible_truncation, reason = "dice")]
        let first = dice as usize % shards;
        (0..shards).map(|step| (first + step) % shards).find_map(|shard| self.random_key_of(now, shard, dice >> 8))
    }

    fn random_key_of(&self, now: Instant, shard_index: usize, dice: u64) -> Option<Vec<u8>> {
        let (mut looked, mut key) = (0u64, None);
        loop {
            let ended = self.0.with(shard_index, |shard, space| {
                let in_dram = u64::from(shard.entries.end());
                let end = in_dram + u64::from(shard.flash.entries.end());
                if shard.live() == 0 || looked >= end {
                    return true;
                }
                // The lock is not held for ever.
                let stop = end.min(looked + u64::from(LOOKED_MAX));
                for step in looked..stop {
                    let at = (dice % end + step) % end;
                    let handle = u32::try_from(if at < in_dram { at } else { (at - in_dram) | u64::from(FLASH) });
                    let handle = handle.expect("fewer entries than 2^31");
                    if shard.with_live_key(now, handle, space, &mut |found: &[u8]| key = Some(found.to_vec())) {
                        return true;
                    }
                }
                looked = stop;
                false
            });
            if ended {
                return key;
            }
        }
    }

    /// Unlinks every object. Returns how many. Takes each lock for a bounded time.
    ///
    /// Records on flash are declared dead all at once: what is published later by a write that began before is never
    /// written there.
    pub fn clear(&self) -> u64 {
        if let Some(shared) = self.0.flash.get() {
            let shards = 0..self.0.shard_count();
            let floor = shards.clone().map(|shard| self.0.with(shard, |shard, _| shard.take_generation())).max();
            let floor = floor.expect("a store has a shard");
            for shard in shards {
                self.0.with(shard, |shard, _| shard.raise_generations(floor));
            }
            shared.graveyard.bury_all(floor);
        }
        let mut removed = 0;
        for shard_index in 0..self.0.shard_count() {
            let mut at = 0;
            loop {
                let ended = self.0.with(shard_index, |shard, space| {
                    let in_dram = u64::from(shard.entries.end());
                    let end = in_dram + u64::from(shard.flash.entries.end());
                    let stop = end.min(at + 8192);
                    while at < stop {
                        let index =
                            u32::try_from(if at < in_dram { at } else { at - in_dram }).expect("fewer than 2^32");
                        if at >= in_dram {
                            if shard.flash.entries.get(index).is_some() {
                                shard.unlink_flash(index, space);
                                removed += 1;
                            }
                        } else if shard.entries.get(index).is_some_and(|entry| !entry.has(flag::DOOMED)) {
                            shard.unlink(index, space);
                            removed += 1;
                        }
                        at += 1;
                    }
                    at >= end
                });
                if ended {
                    break;
                }
            }
        }
        removed
    }
}

impl Shard {
    /// What is known of the object of an entry of either tier, if it is in use.
    fn surveyed(&self, handle: u32) -> Option<Surveyed> {
        if handle & FLASH == 0 {
            let entry = self.entries.get(handle)?;
            let length = ByteLen(u64::from(entry.length));
            return Some(Surveyed { length, hits: entry.hits, in_dram: true, on_flash: entry.has(flag::CLEAN) });
        }
        let record = self.flash.entries.get(handle & !FLASH)?;
        let twin = self.twin_in_dram(handle & !FLASH);
        Some(Surveyed {
            length: ByteLen(u64::from(record.length)),
            hits: twin.map_or(record.hits, |twin| self.entries[twin].hits),
            in_dram: twin.is_some(),
            on_flash: true,
        })
    }

    /// Lends the key of an entry of either tier to `each`, if its object is live, and the entry the one that tells of it.
    fn with_live_key(&self, now: Instant, handle: u32, space: &Space, each: &mut impl FnMut(&[u8])) -> bool {
        let index = handle & !FLASH;
        if handle & FLASH == 0 {
            let tells = |entry: &Entry| !entry.has(flag::DOOMED | flag::CLEAN);
            if self.entries.get(index).is_none_or(|entry| !tells(entry))
                || self.expiry(index).is_some_and(|at| at <= now)
            {
                return false;
            }
            self.with_key(index, space, each);
            return true;
        }
        if self.flash.entries.get(index).is_none() || self.flash.expiry(index).is_some_and(|at| at <= now) {
            return false;
        }
        each(self.flash.key(index));
        true
    }
}

fn stat_of_record(shard: &Shard, index: u32, pins: u64) -> Stat {
    let record = &shard.flash.entries[index];
    Stat {
        generation: record.generation(),
        length: ByteLen(u64::from(record.length)),
        crc: record.crc,
        expires: shard.flash.expiry(index),
        pins,
        users: 0,
        hits: record.hits,
        touched: Instant(0),
        depth: 0,
        soft_pinned: record.has(entry::flag::SOFT),
        charge: ByteLen(0),
        dram: None,
        flash: Some(record.place),
    }
}
