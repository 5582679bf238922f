//! Pins, soft pins and probe graces: who is spared, until when.
//!
//! Invariants:
//! - Each table has an item exactly while the entry's flag is set.
//! - `graced_bytes` and `pinned_bytes` are the charges of the entries flagged so.

use super::{Shard, Side};
use crate::deadline::Deadlines;
use crate::entry::{Entries, Entry, flag};
use protocol::base::{Generation, Instant};

/// Pins of one object.
#[derive(Clone, Debug, Default)]
struct Held {
    endless: u32,
    /// Ends of the pins that have one, in no order.
    until: Vec<Instant>,
}

impl Held {
    fn count(&self) -> u64 {
        u64::from(self.endless) + self.until.len() as u64
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ends {
    Pin,
    Soft,
    Grace,
}

/// Pins of all objects of a shard.
#[derive(Debug)]
pub(crate) struct Pins {
    pins: Side<u32, Held>,
    soft: Side<u32, Instant>,
    grace: Side<u32, Instant>,
    queue: Deadlines<(u32, Generation, Ends)>,
    pub(crate) pinned_bytes: u64,
    pub(crate) graced_bytes: u64,
}

impl Pins {
    pub(super) fn new(hasher: &ahash::RandomState) -> Self {
        Self {
            pins: Side::with_hasher(hasher.clone()),
            soft: Side::with_hasher(hasher.clone()),
            grace: Side::with_hasher(hasher.clone()),
            queue: Deadlines::new(),
            pinned_bytes: 0,
            graced_bytes: 0,
        }
    }

    /// Drops all that is known of an entry that is being unlinked.
    pub(super) fn forget(&mut self, index: u32, entry: &mut Entry, charge: u64) {
        if entry.has(flag::PINNED) {
            self.pins.remove(&index);
            self.pinned_bytes -= charge;
        }
        if entry.has(flag::SOFT) {
            self.soft.remove(&index);
        }
        self.end_grace(index, entry, charge);
        entry.flags &= !(flag::PINNED | flag::SOFT);
    }

    pub(super) fn end_grace(&mut self, index: u32, entry: &mut Entry, charge: u64) {
        if entry.has(flag::GRACE) {
            entry.flags &= !flag::GRACE;
            self.grace.remove(&index);
            self.graced_bytes -= charge;
        }
    }

    pub(super) fn graced(&self, index: u32, now: Instant) -> bool {
        self.grace.get(&index).is_some_and(|&until| until > now)
    }

    fn push(&mut self, at: Instant, index: u32, generation: Generation, ends: Ends, entries: &Entries) {
        self.queue.push(at, (index, generation, ends));
        let live = self.pins.len() + self.soft.len() + self.grace.len();
        let (pins, soft, grace) = (&self.pins, &self.soft, &self.grace);
        self.queue.compact(live, |std::cmp::Reverse((at, (index, generation, ends)))| {
            entries.get(*index).is_some_and(|entry| entry.generation == *generation)
                && match ends {
                    Ends::Pin => pins.get(index).is_some_and(|held| held.until.contains(at)),
                    Ends::Soft => soft.get(index) == Some(at),
                    Ends::Grace => grace.get(index) == Some(at),
                }
        });
    }

    pub(super) fn audit_entry(&self, index: u32, entry: &Entry) {
        assert_eq!(entry.has(flag::PINNED), self.pins.contains_key(&index), "pins of {index}");
        assert_eq!(entry.has(flag::SOFT), self.soft.contains_key(&index), "soft pin of {index}");
        assert_eq!(entry.has(flag::GRACE), self.grace.contains_key(&index), "grace of {index}");
    }
}

impl Shard {
    /// One pin more, with an end or without. Returns the pins it has now.
    pub(crate) fn pin(&mut self, index: u32, until: Option<Instant>) -> u64 {
        let charge = self.charge_of(index);
        if !self.entries[index].has(flag::PINNED) {
            self.entries[index].flags |= flag::PINNED;
            self.pins.pinned_bytes += charge;
            self.relist(index);
        }
        let generation = self.entries[index].generation;
        let held = self.pins.pins.entry(index).or_default();
        match until {
            Some(until) => {
                held.until.push(until);
                let count = held.count();
                self.pins.push(until, index, generation, Ends::Pin, &self.entries);
                count
            }
            None => {
                held.endless = held.endless.saturating_add(1);
                held.count()
            }
        }
    }

    /// One pin less, an endless one first. Returns the pins left.
    pub(crate) fn unpin(&mut self, index: u32) -> u64 {
        let Some(held) = self.pins.pins.get_mut(&index) else { return 0 };
        if held.endless > 0 {
            held.endless -= 1;
        } else {
            held.until.pop();
        }
        self.settle_pins(index)
    }

    fn settle_pins(&mut self, index: u32) -> u64 {
        let count = self.pins.pins.get(&index).map_or(0, Held::count);
        if count == 0 && self.pins.pins.remove(&index).is_some() {
            self.pins.pinned_bytes -= self.charge_of(index);
            self.entries[index].flags &= !flag::PINNED;
            self.relist(index);
        }
        count
    }

    /// Pins that an object has.
    pub(crate) fn pins_of(&self, index: u32) -> u64 {
        self.pins.pins.get(&index).map_or(0, Held::count)
    }

    /// Prefers others as victims until then. A soft pin starts once and reads do not extend it.
    pub(crate) fn soft_pin(&mut self, index: u32, until: Instant) {
        let generation = self.entries[index].generation;
        self.entries[index].flags |= flag::SOFT;
        self.pins.soft.insert(index, until);
        self.pins.push(until, index, generation, Ends::Soft, &self.entries);
        if self.entries[index].has(flag::LISTED) {
            self.relist(index);
        }
    }

    /// Spares a probed object until then, unless it is spared already.
    pub(crate) fn grace(&mut self, index: u32, until: Instant) {
        if self.entries[index].has(flag::GRACE) {
            return;
        }
        let generation = self.entries[index].generation;
        self.entries[index].flags |= flag::GRACE;
        self.pins.graced_bytes += self.charge_of(index);
        self.pins.grace.insert(index, until);
        self.pins.push(until, index, generation, Ends::Grace, &self.entries);
    }

    /// Bytes pinned and bytes graced.
    pub(crate) fn spared_bytes(&self) -> (u64, u64) {
        (self.pins.pinned_bytes, self.pins.graced_bytes)
    }

    /// Ends what has run out.
    pub(crate) fn end_pins(&mut self, now: Instant) {
        while let Some((index, generation, ends)) = self.pins.queue.pop_due(now) {
            let Some(entry) = self.entries.get(index) else { continue };
            if entry.generation != generation || entry.has(flag::DOOMED) {
                continue;
            }
            match ends {
                Ends::Pin => {
                    if let Some(held) = self.pins.pins.get_mut(&index) {
                        held.until.retain(|&until| until > now);
                        self.settle_pins(index);
                    }
                }
                Ends::Soft => {
                    if self.pins.soft.get(&index).is_some_and(|&until| until <= now) {
                        self.pins.soft.remove(&index);
                        self.entries[index].flags &= !flag::SOFT;
                        if self.entries[index].has(flag::LISTED) {
                            self.relist(index);
                        }
                    }
                }
                Ends::Grace => {
                    if self.pins.grace.get(&index).is_some_and(|&until| until <= now) {
                        let charge = self.charge_of(index);
                        self.pins.end_grace(index, &mut self.entries[index], charge);
                        if self.entries[index].has(flag::LISTED) {
                            self.relist(index);
                        }
                    }
                }
            }
        }
    }
}
