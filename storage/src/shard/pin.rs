//! Pins, soft pins and probe graces: who is spared, until when.
//!
//! Invariants:
//! - Each table has an item exactly while the entry's flag is set; the queue has one for each soft pin and grace, and one
//!   for the first end of an object's timed pins.
//! - The store's quotas hold the charges of the entries flagged pinned and graced.
//! - An object has one grace between two reads: a prober cannot keep it alive.

use super::{Shard, Side};
use crate::deadline::Deadlines;
use crate::dram::space::Space;
use crate::entry::{Entries, Entry, flag};
use crate::error::StoreError;
use protocol::base::{ByteLen, Instant};
use std::collections::BTreeMap;

/// Pins without an end that one object counts.
const ENDLESS_MAX: u32 = 1 << 20;
/// Pins with an end that one object counts.
const TIMED_MAX: u32 = 1024;

/// Pins of one object.
#[derive(Clone, Debug, Default)]
struct Held {
    endless: u32,
    timed: u32,
    /// Ends of the timed ones, and how many end then.
    until: BTreeMap<Instant, u32>,
}

impl Held {
    fn count(&self) -> u64 {
        u64::from(self.endless) + u64::from(self.timed)
    }

    fn first_end(&self) -> Option<Instant> {
        self.until.keys().next().copied()
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
    queue: Deadlines<(u32, Ends)>,
    pinned_bytes: u64,
    graced_bytes: u64,
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
    pub(super) fn forget(&mut self, index: u32, entry: &mut Entry, charge: u64, space: &Space) {
        if entry.has(flag::PINNED) {
            let held = self.pins.remove(&index).expect("flagged entries are known");
            if let Some(end) = held.first_end() {
                self.queue.call_off(end, (index, Ends::Pin));
            }
            self.give_pinned(charge, space);
        }
        if entry.has(flag::SOFT) {
            let end = self.soft.remove(&index).expect("flagged entries are known");
            self.queue.call_off(end, (index, Ends::Soft));
        }
        self.end_grace(index, entry, charge, space);
        entry.flags &= !(flag::PINNED | flag::SOFT);
    }

    fn give_pinned(&mut self, charge: u64, space: &Space) {
        self.pinned_bytes -= charge;
        space.pinned.give(charge);
    }

    /// Ends a grace before its time, if there is one.
    pub(super) fn end_grace(&mut self, index: u32, entry: &mut Entry, charge: u64, space: &Space) {
        if entry.has(flag::GRACE) {
            entry.flags &= !flag::GRACE;
            let end = self.grace.remove(&index).expect("flagged entries are known");
            self.queue.call_off(end, (index, Ends::Grace));
            self.graced_bytes -= charge;
            space.graced.give(charge);
        }
    }

    pub(super) fn graced(&self, index: u32, now: Instant) -> bool {
        self.grace.get(&index).is_some_and(|&until| until > now)
    }

    pub(super) fn bytes(&self) -> usize {
        let held: usize = self.pins.values().map(|held| held.until.len() * 24).sum();
        held + self.pins.capacity() * (size_of::<(u32, Held)>() + 1)
            + (self.soft.capacity() + self.grace.capacity()) * (size_of::<(u32, Instant)>() + 1)
            + self.queue.bytes()
    }

    pub(super) fn audit_entry(&self, index: u32, entry: &Entry) {
        assert_eq!(entry.has(flag::PINNED), self.pins.contains_key(&index), "pins of {index}");
        assert_eq!(entry.has(flag::SOFT), self.soft.contains_key(&index), "soft pin of {index}");
        assert_eq!(entry.has(flag::GRACE), self.grace.contains_key(&index), "grace of {index}");
    }

    pub(super) fn audit(&self, entries: &Entries, charge_of: impl Fn(u32) -> u64) {
        let live = |index: &u32| entries.get(*index).is_some_and(|entry| !entry.has(flag::DOOMED));
        assert!(self.pins.keys().chain(self.soft.keys()).chain(self.grace.keys()).all(live), "the spared are live");
        assert_eq!(self.pinned_bytes, self.pins.keys().map(|&index| charge_of(index)).sum::<u64>(), "pinned bytes");
        assert_eq!(self.graced_bytes, self.grace.keys().map(|&index| charge_of(index)).sum::<u64>(), "graced bytes");
        for held in self.pins.values() {
            assert!(held.count() > 0, "a pinned object has a pin");
            assert_eq!(held.timed, held.until.values().sum::<u32>(), "timed pins are counted");
        }
        let timed = self.pins.values().filter(|held| held.timed > 0).count();
        assert_eq!(self.queue.len(), timed + self.soft.len() + self.grace.len(), "each end is queued once");
    }
}

/// The refusal of one more pin.
pub(crate) fn too_much_pinned(space: &Space, held: u64, wanted: u64) -> StoreError {
    StoreError::Quota {
        what: "pins",
        held: ByteLen(held),
        max: ByteLen(space.pinned.max(space.capacity())),
        wanted: ByteLen(wanted),
    }
}

impl Shard {
    /// One pin more, with an end or without. Returns the pins it has now.
    pub(crate) fn pin(&mut self, index: u32, until: Option<Instant>, space: &Space) -> Result<u64, StoreError> {
        if !self.entries[index].has(flag::PINNED) {
            let charge = self.charge_of(index);
            space.pinned.take(charge, space.capacity()).map_err(|held| too_much_pinned(space, held, charge))?;
            self.flag_pinned(index, charge);
        }
        self.count_pin(index, until)
    }

    /// Takes the share of the quota for an object of this charge that is about to replace `found`.
    pub(crate) fn take_pin(&self, found: Option<u32>, charge: u64, space: &Space) -> Result<(), StoreError> {
        // What the replaced object holds comes back with it.
        let coming =
            found.filter(|&index| self.entries[index].has(flag::PINNED)).map_or(0, |index| self.charge_of(index));
        let more = charge.saturating_sub(coming);
        space.pinned.take(more, space.capacity()).map_err(|held| too_much_pinned(space, held, more))?;
        space.pinned.take_always(charge - more);
        Ok(())
    }

    /// Pins an object whose share of the quota was taken already.
    pub(crate) fn pin_taken(&mut self, index: u32) {
        let charge = self.charge_of(index);
        self.flag_pinned(index, charge);
        self.count_pin(index, None).expect("its first pin");
    }

    fn flag_pinned(&mut self, index: u32, charge: u64) {
        self.entries[index].flags |= flag::PINNED;
        self.pins.pinned_bytes += charge;
        self.pins.pins.insert(index, Held::default());
        self.relist(index);
    }

    fn count_pin(&mut self, index: u32, until: Option<Instant>) -> Result<u64, StoreError> {
        let held = self.pins.pins.get_mut(&index).expect("flagged above");
        match until {
            Some(until) => {
                if held.timed == TIMED_MAX {
                    return Err(StoreError::TooManyUsers);
                }
                let first = held.first_end();
                held.timed += 1;
                *held.until.entry(until).or_default() += 1;
                if first.is_none_or(|first| until < first) {
                    if let Some(first) = first {
                        self.pins.queue.call_off(first, (index, Ends::Pin));
                    }
                    self.pins.queue.push(until, (index, Ends::Pin));
                }
            }
            None => {
                if held.endless == ENDLESS_MAX {
                    return Err(StoreError::TooManyUsers);
                }
                held.endless += 1;
            }
        }
        Ok(held.count())
    }

    /// One pin less: an endless one if there is any, else the one that ends first. Returns the pins left.
    pub(crate) fn unpin(&mut self, index: u32, space: &Space) -> u64 {
        let Some(held) = self.pins.pins.get_mut(&index) else {
            return 0;
        };
        if held.endless > 0 {
            held.endless -= 1;
        } else if let Some(mut first) = held.until.first_entry() {
            let end = *first.key();
            *first.get_mut() -= 1;
            held.timed -= 1;
            if *first.get() == 0 {
                first.remove();
                self.pins.queue.call_off(end, (index, Ends::Pin));
                if let Some(next) = held.first_end() {
                    self.pins.queue.push(next, (index, Ends::Pin));
                }
            }
        }
        self.settle_pins(index, space)
    }

    fn settle_pins(&mut self, index: u32, space: &Space) -> u64 {
        let count = self.pins_of(index);
        if count == 0 && self.pins.pins.remove(&index).is_some() {
            let charge = self.charge_of(index);
            self.pins.give_pinned(charge, space);
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
        self.entries[index].flags |= flag::SOFT;
        if let Some(before) = self.pins.soft.insert(index, until) {
            self.pins.queue.call_off(before, (index, Ends::Soft));
        }
        self.pins.queue.push(until, (index, Ends::Soft));
        self.relist_listed(index);
    }

    /// Spares a probed object until then, unless it is spared already, was so since its last read, or too much is.
    pub(crate) fn grace(&mut self, index: u32, until: Instant, space: &Space) {
        let charge = self.charge_of(index);
        let entry = &mut self.entries[index];
        if entry.has(flag::GRACE_SPENT) || space.graced.take(charge, space.capacity()).is_err() {
            return;
        }
        entry.flags |= flag::GRACE | flag::GRACE_SPENT;
        self.pins.graced_bytes += charge;
        self.pins.grace.insert(index, until);
        self.pins.queue.push(until, (index, Ends::Grace));
    }

    /// Bytes pinned and bytes graced.
    pub(crate) fn spared_bytes(&self) -> (u64, u64) {
        (self.pins.pinned_bytes, self.pins.graced_bytes)
    }

    /// Ends what has run out, at most `most` things. Returns whether more may be due.
    pub(crate) fn end_pins(&mut self, now: Instant, most: usize, space: &Space) -> bool {
        for _ in 0..most {
            let Some((index, ends)) = self.pins.queue.pop_due(now) else {
                return false;
            };
            match ends {
                Ends::Pin => {
                    let held = self.pins.pins.get_mut(&index).expect("queued entries are known");
                    while let Some(first) = held.until.first_entry()
                        && *first.key() <= now
                    {
                        held.timed -= first.remove();
                    }
                    if let Some(next) = held.first_end() {
                        self.pins.queue.push(next, (index, Ends::Pin));
                    }
                    self.settle_pins(index, space);
                }
                Ends::Soft => {
                    self.pins.soft.remove(&index).expect("queued entries are known");
                    self.entries[index].flags &= !flag::SOFT;
                    self.relist_listed(index);
                }
                Ends::Grace => {
                    self.pins.grace.remove(&index).expect("queued entries are known");
                    let charge = self.charge_of(index);
                    self.pins.graced_bytes -= charge;
                    space.graced.give(charge);
                    self.entries[index].flags &= !flag::GRACE;
                    self.relist_listed(index);
                }
            }
        }
        true
    }

    fn relist_listed(&mut self, index: u32) {
        if self.entries[index].has(flag::LISTED) {
            self.relist(index);
        }
    }
}
