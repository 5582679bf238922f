//! Pins, soft pins and probe graces: who is spared, until when.
//!
//! Invariants:
//! - Each table has an item exactly while the entry's flag is set; the queue has one for each soft pin and grace, and one
//!   for the first end of an object's timed pins. Entries of both tiers are told apart by [`FLASH`].
//! - The store's quotas hold the charges of the entries flagged pinned and graced, those on flash in quotas of their own.
//! - An object in both tiers is pinned in one of them; soft pins and graces are in DRAM while its copy there lives.
//! - An object has one grace between two reads: a prober cannot keep it alive.

use super::flash::{FLASH, entry};
use super::{At, Shard, Side};
use crate::deadline::Deadlines;
use crate::dram::quota::Quota;
use crate::dram::space::Space;
use crate::entry::flag;
use crate::error::StoreError;
use crate::store::flash::Pinned;
use protocol::base::{ByteLen, Instant};
use std::collections::BTreeMap;

/// Pins without an end that one object counts.
const ENDLESS_MAX: u32 = 1 << 20;
/// Pins with an end that one object counts.
const TIMED_MAX: u32 = 1024;

/// Pins of one object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
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

/// Why an object is spared, and what comes due when that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ends {
    Pin,
    Soft,
    Grace,
}

impl Ends {
    fn flag(self) -> u16 {
        match self {
            Self::Pin => flag::PINNED,
            Self::Soft => flag::SOFT,
            Self::Grace => flag::GRACE,
        }
    }

    fn flash_flag(self) -> u8 {
        match self {
            Self::Pin => entry::flag::PINNED,
            Self::Soft => entry::flag::SOFT,
            Self::Grace => entry::flag::GRACE,
        }
    }
}

/// Bytes spared in one tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spared {
    pub(crate) pinned: u64,
    pub(crate) graced: u64,
}

impl Spared {
    fn of(&mut self, what: Ends) -> &mut u64 {
        if what == Ends::Pin { &mut self.pinned } else { &mut self.graced }
    }
}

/// Pins of all objects of a shard.
#[derive(Debug)]
pub(crate) struct Pins {
    pins: Side<u32, Held>,
    soft: Side<u32, Instant>,
    grace: Side<u32, Instant>,
    queue: Deadlines<(u32, Ends)>,
    dram: Spared,
    flash: Spared,
}

impl Pins {
    pub(super) fn new(hasher: &ahash::RandomState) -> Self {
        Self {
            pins: Side::with_hasher(hasher.clone()),
            soft: Side::with_hasher(hasher.clone()),
            grace: Side::with_hasher(hasher.clone()),
            queue: Deadlines::new(),
            dram: Spared::default(),
            flash: Spared::default(),
        }
    }

    pub(super) fn graced(&self, handle: u32, now: Instant) -> bool {
        self.grace.get(&handle).is_some_and(|&until| until > now)
    }

    pub(super) fn bytes(&self) -> usize {
        let held: usize = self.pins.values().map(|held| held.until.len() * 24).sum();
        held + self.pins.capacity() * (size_of::<(u32, Held)>() + 1)
            + (self.soft.capacity() + self.grace.capacity()) * (size_of::<(u32, Instant)>() + 1)
            + self.queue.bytes()
    }

    fn in_tier(&mut self, handle: u32) -> &mut Spared {
        if handle & FLASH == 0 { &mut self.dram } else { &mut self.flash }
    }
}

/// The refusal of one more pin.
pub(crate) fn too_much_pinned(quota: &Quota, capacity: u64, held: u64, wanted: u64) -> StoreError {
    StoreError::Quota { what: "pins", held: ByteLen(held), max: ByteLen(quota.max(capacity)), wanted: ByteLen(wanted) }
}

impl Shard {
    fn is_spared(&self, handle: u32, what: Ends) -> bool {
        if handle & FLASH == 0 {
            self.entries[handle].has(what.flag())
        } else {
            self.flash.entries[handle & !FLASH].has(what.flash_flag())
        }
    }

    fn set_spared(&mut self, handle: u32, what: Ends, on: bool) {
        if handle & FLASH == 0 {
            let flags = &mut self.entries[handle].flags;
            *flags = if on { *flags | what.flag() } else { *flags & !what.flag() };
        } else {
            let flags = &mut self.flash.entries[handle & !FLASH].flags;
            *flags = if on { *flags | what.flash_flag() } else { *flags & !what.flash_flag() };
        }
    }

    /// Bytes that an entry of either tier takes there.
    pub(crate) fn charge_at(&self, handle: u32) -> u64 {
        if handle & FLASH == 0 { self.charge_of(handle) } else { self.flash.charge(handle & !FLASH) }
    }

    /// The quota of pins or graces of a tier, and the capacity that it is a share of.
    fn quota<'a>(&'a self, handle: u32, what: Ends, space: &'a Space) -> (&'a Quota, u64) {
        let pin = what == Ends::Pin;
        if handle & FLASH == 0 {
            (if pin { &space.pinned } else { &space.graced }, space.capacity())
        } else {
            let shared = self.flash.shared();
            (if pin { &shared.pinned } else { &shared.graced }, shared.capacity())
        }
    }

    fn give(&mut self, handle: u32, what: Ends, space: &Space) {
        let charge = self.charge_at(handle);
        *self.pins.in_tier(handle).of(what) -= charge;
        self.quota(handle, what, space).0.give(charge);
    }

    /// Drops all that is known of an entry that is about to go; `dead` if its object goes with it.
    pub(super) fn forget_pins(&mut self, handle: u32, dead: bool, space: &Space) {
        if self.is_spared(handle, Ends::Pin) {
            let held = self.pins.pins.remove(&handle).expect("flagged entries are known");
            if let Some(end) = held.first_end() {
                self.pins.queue.call_off(end, (handle, Ends::Pin));
            }
            self.give(handle, Ends::Pin, space);
            self.set_spared(handle, Ends::Pin, false);
            if dead {
                self.tell_pins(handle, space);
            }
        }
        if self.is_spared(handle, Ends::Soft) {
            let end = self.pins.soft.remove(&handle).expect("flagged entries are known");
            self.pins.queue.call_off(end, (handle, Ends::Soft));
            self.set_spared(handle, Ends::Soft, false);
        }
        self.end_grace(handle, space);
    }

    /// Ends a grace before its time, if there is one.
    pub(super) fn end_grace(&mut self, handle: u32, space: &Space) {
        if self.is_spared(handle, Ends::Grace) {
            let end = self.pins.grace.remove(&handle).expect("flagged entries are known");
            self.pins.queue.call_off(end, (handle, Ends::Grace));
            self.give(handle, Ends::Grace, space);
            self.set_spared(handle, Ends::Grace, false);
        }
    }

    /// Soft pin and grace go with an object from one of its entries to the other.
    pub(super) fn move_soft_and_grace(&mut self, from: u32, to: u32, space: &Space) {
        if self.is_spared(from, Ends::Soft) {
            let end = self.pins.soft.remove(&from).expect("flagged entries are known");
            self.pins.queue.call_off(end, (from, Ends::Soft));
            self.set_spared(from, Ends::Soft, false);
            let before = self.pins.soft.insert(to, end);
            assert!(before.is_none(), "an object is soft-pinned in one tier");
            self.pins.queue.push(end, (to, Ends::Soft));
            self.set_spared(to, Ends::Soft, true);
        }
        if let Some(&end) = self.pins.grace.get(&from) {
            self.end_grace(from, space);
            let charge = self.charge_at(to);
            self.quota(to, Ends::Grace, space).0.take_always(charge);
            *self.pins.in_tier(to).of(Ends::Grace) += charge;
            let before = self.pins.grace.insert(to, end);
            assert!(before.is_none(), "an object is graced in one tier");
            self.pins.queue.push(end, (to, Ends::Grace));
            self.set_spared(to, Ends::Grace, true);
        }
    }

    /// Pins go with an object from one of its entries to the other, whatever the quota there.
    pub(super) fn move_pins(&mut self, from: u32, to: u32, space: &Space) {
        if !self.is_spared(from, Ends::Pin) {
            return;
        }
        assert!(!self.is_spared(to, Ends::Pin), "an object is pinned in one tier");
        let held = self.pins.pins.remove(&from).expect("flagged entries are known");
        let end = held.first_end();
        if let Some(end) = end {
            self.pins.queue.call_off(end, (from, Ends::Pin));
            self.pins.queue.push(end, (to, Ends::Pin));
        }
        self.give(from, Ends::Pin, space);
        self.set_spared(from, Ends::Pin, false);
        let charge = self.charge_at(to);
        self.quota(to, Ends::Pin, space).0.take_always(charge);
        self.flag_pinned(to, charge, held);
    }

    /// The pins of an object that is about to be replaced by one that keeps them.
    pub(crate) fn held_pins(&self, handle: u32) -> Option<Held> {
        self.pins.pins.get(&handle).cloned()
    }

    /// Gives those pins to the object that replaced it, whatever the quota: a changed value is no smaller a promise.
    pub(crate) fn keep_pins(&mut self, index: u32, held: Held, space: &Space) {
        if self.is_spared(index, Ends::Pin) {
            return;
        }
        let charge = self.charge_at(index);
        self.quota(index, Ends::Pin, space).0.take_always(charge);
        if let Some(end) = held.first_end() {
            self.pins.queue.push(end, (index, Ends::Pin));
        }
        self.flag_pinned(index, charge, held);
        self.tell_pins(index, space);
    }

    /// One pin more, with an end or without. Returns the pins it has now.
    pub(crate) fn pin(&mut self, handle: u32, until: Option<Instant>, space: &Space) -> Result<u64, StoreError> {
        if !self.is_spared(handle, Ends::Pin) {
            let charge = self.charge_at(handle);
            let (quota, capacity) = self.quota(handle, Ends::Pin, space);
            quota.take(charge, capacity).map_err(|held| too_much_pinned(quota, capacity, held, charge))?;
            self.flag_pinned(handle, charge, Held::default());
        }
        let count = self.count_pin(handle, until)?;
        self.tell_pins(handle, space);
        Ok(count)
    }

    /// Takes the share of the quota for an object of this charge that is about to replace `found`.
    pub(crate) fn take_pin(&self, found: Option<At>, charge: u64, space: &Space) -> Result<(), StoreError> {
        // What the replaced object holds in DRAM comes back with it.
        let coming = match found {
            Some(At::Dram(index)) if self.entries[index].has(flag::PINNED) => self.charge_of(index),
            _ => 0,
        };
        let more = charge.saturating_sub(coming);
        let capacity = space.capacity();
        space.pinned.take(more, capacity).map_err(|held| too_much_pinned(&space.pinned, capacity, held, more))?;
        space.pinned.take_always(charge - more);
        Ok(())
    }

    /// Pins an object whose share of the quota was taken already.
    pub(crate) fn pin_taken(&mut self, index: u32, space: &Space) {
        let charge = self.charge_of(index);
        self.flag_pinned(index, charge, Held::default());
        self.count_pin(index, None).expect("its first pin");
        self.tell_pins(index, space);
    }

    /// The pins that an object on flash had before the restart.
    pub(super) fn pin_recovered(&mut self, handle: u32, pins: Pinned, space: &Space) {
        let charge = self.charge_at(handle);
        self.quota(handle, Ends::Pin, space).0.take_always(charge);
        let held = Held {
            endless: pins.endless.min(ENDLESS_MAX),
            timed: u32::from(pins.until.is_some()),
            until: pins.until.into_iter().map(|until| (until, 1)).collect(),
        };
        if let Some(end) = held.first_end() {
            self.pins.queue.push(end, (handle, Ends::Pin));
        }
        self.flag_pinned(handle, charge, held);
    }

    /// The pins that an object in DRAM had before the restart. What the journal remembers of them is less exact.
    pub(super) fn pin_adopted(
        &mut self,
        index: u32,
        twin: Option<u32>,
        pins: impl Iterator<Item = (Option<Instant>, u32)>,
        now: Instant,
        space: &Space,
    ) {
        let mut held = Held::default();
        for (until, count) in pins {
            match until {
                None => held.endless = held.endless.saturating_add(count).min(ENDLESS_MAX),
                Some(until) if until > now => {
                    let count = count.min(TIMED_MAX - held.timed);
                    held.timed += count;
                    if count > 0 {
                        *held.until.entry(until).or_default() += count;
                    }
                }
                Some(_) => {}
            }
        }
        if held.count() == 0 {
            return;
        }
        if let Some(twin) = twin {
            self.forget_pins(twin | FLASH, false, space);
        }
        self.keep_pins(index, held, space);
    }

    /// Pins of an object in DRAM, whichever entry of it counts them: ends, and how many end then.
    pub(crate) fn ends_of_pins(&self, index: u32) -> impl Iterator<Item = (Option<Instant>, u32)> {
        let held = self.pins.pins.get(&self.handle_of_pins(At::Dram(index)));
        let endless = held.map(|held| (None, held.endless)).filter(|&(_, count)| count > 0);
        let timed = held.into_iter().flat_map(|held| held.until.iter().map(|(&until, &count)| (Some(until), count)));
        endless.into_iter().chain(timed)
    }

    /// When the soft pin of an object in DRAM ends.
    pub(crate) fn soft_end(&self, index: u32) -> Option<Instant> {
        self.pins.soft.get(&index).copied()
    }

    fn flag_pinned(&mut self, handle: u32, charge: u64, held: Held) {
        self.set_spared(handle, Ends::Pin, true);
        self.pins.in_tier(handle).pinned += charge;
        self.pins.pins.insert(handle, held);
        if handle & FLASH == 0 {
            self.relist(handle);
            self.spill_soon(handle);
        }
    }

    fn count_pin(&mut self, handle: u32, until: Option<Instant>) -> Result<u64, StoreError> {
        let held = self.pins.pins.get_mut(&handle).expect("flagged above");
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
                        self.pins.queue.call_off(first, (handle, Ends::Pin));
                    }
                    self.pins.queue.push(until, (handle, Ends::Pin));
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
    pub(crate) fn unpin(&mut self, handle: u32, space: &Space) -> u64 {
        let Some(held) = self.pins.pins.get_mut(&handle) else {
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
                self.pins.queue.call_off(end, (handle, Ends::Pin));
                if let Some(next) = held.first_end() {
                    self.pins.queue.push(next, (handle, Ends::Pin));
                }
            }
        }
        let left = self.settle_pins(handle, space);
        self.tell_pins(handle, space);
        left
    }

    fn settle_pins(&mut self, handle: u32, space: &Space) -> u64 {
        let count = self.pins_of(handle);
        if count == 0 && self.pins.pins.remove(&handle).is_some() {
            self.give(handle, Ends::Pin, space);
            self.set_spared(handle, Ends::Pin, false);
            if handle & FLASH == 0 {
                self.relist(handle);
            }
        }
        count
    }

    /// Pins that an object has.
    pub(crate) fn pins_of(&self, handle: u32) -> u64 {
        self.pins.pins.get(&handle).map_or(0, Held::count)
    }

    /// Pins as they are remembered over a restart.
    pub(super) fn pinned(&self, handle: u32) -> Pinned {
        let last = |held: &Held| held.until.keys().next_back().copied();
        self.pins
            .pins
            .get(&handle)
            .map_or_else(Pinned::default, |held| Pinned { endless: held.endless, until: last(held) })
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
    pub(crate) fn grace(&mut self, handle: u32, until: Instant, space: &Space) {
        let charge = self.charge_at(handle);
        let spent = if handle & FLASH == 0 {
            self.entries[handle].has(flag::GRACE_SPENT)
        } else {
            self.flash.entries[handle & !FLASH].has(entry::flag::GRACE_SPENT)
        };
        let (quota, capacity) = self.quota(handle, Ends::Grace, space);
        if spent || quota.take(charge, capacity).is_err() {
            return;
        }
        self.set_spared(handle, Ends::Grace, true);
        if handle & FLASH == 0 {
            self.entries[handle].flags |= flag::GRACE_SPENT;
        } else {
            self.flash.entries[handle & !FLASH].flags |= entry::flag::GRACE_SPENT;
        }
        self.pins.in_tier(handle).graced += charge;
        self.pins.grace.insert(handle, until);
        self.pins.queue.push(until, (handle, Ends::Grace));
    }

    /// Bytes pinned and bytes graced, in DRAM and on flash.
    pub(crate) fn spared_bytes(&self) -> (Spared, Spared) {
        (self.pins.dram, self.pins.flash)
    }

    /// Ends what has run out, at most `most` things. Returns whether more may be due.
    pub(crate) fn end_pins(&mut self, now: Instant, most: usize, space: &Space) -> bool {
        for _ in 0..most {
            let Some((handle, ends)) = self.pins.queue.pop_due(now) else {
                return false;
            };
            match ends {
                Ends::Pin => {
                    let held = self.pins.pins.get_mut(&handle).expect("queued entries are known");
                    while let Some(first) = held.until.first_entry()
                        && *first.key() <= now
                    {
                        held.timed -= first.remove();
                    }
                    if let Some(next) = held.first_end() {
                        self.pins.queue.push(next, (handle, Ends::Pin));
                    }
                    self.settle_pins(handle, space);
                }
                Ends::Soft => {
                    self.pins.soft.remove(&handle).expect("queued entries are known");
                    self.set_spared(handle, Ends::Soft, false);
                    self.relist_listed(handle);
                }
                Ends::Grace => {
                    self.pins.grace.remove(&handle).expect("queued entries are known");
                    self.give(handle, Ends::Grace, space);
                    self.set_spared(handle, Ends::Grace, false);
                    self.relist_listed(handle);
                }
            }
        }
        true
    }

    fn relist_listed(&mut self, handle: u32) {
        if handle & FLASH == 0 && self.entries[handle].has(flag::LISTED) {
            self.relist(handle);
        }
    }

    pub(super) fn audit_pins_of(&self, handle: u32) {
        let known = [
            self.pins.pins.contains_key(&handle),
            self.pins.soft.contains_key(&handle),
            self.pins.grace.contains_key(&handle),
        ];
        let flagged = [Ends::Pin, Ends::Soft, Ends::Grace].map(|what| self.is_spared(handle, what));
        assert_eq!(flagged, known, "pin, soft pin and grace of {handle:#x}");
    }

    pub(super) fn audit_pins(&self) {
        let Pins { pins, soft, grace, .. } = &self.pins;
        let live = |handle: &u32| {
            if handle & FLASH == 0 {
                self.entries.get(*handle).is_some_and(|entry| !entry.has(flag::DOOMED))
            } else {
                self.flash.entries.get(handle & !FLASH).is_some()
            }
        };
        assert!(pins.keys().chain(soft.keys()).chain(grace.keys()).all(live), "the spared are live");
        let sum = |handles: &mut dyn Iterator<Item = &u32>, flash: bool| -> u64 {
            handles.filter(|&handle| (handle & FLASH != 0) == flash).map(|&handle| self.charge_at(handle)).sum()
        };
        for (flash, spared) in [(false, self.pins.dram), (true, self.pins.flash)] {
            assert_eq!(spared.pinned, sum(&mut pins.keys(), flash), "pinned bytes, on flash: {flash}");
            assert_eq!(spared.graced, sum(&mut grace.keys(), flash), "graced bytes, on flash: {flash}");
        }
        for held in pins.values() {
            assert!(held.count() > 0, "a pinned object has a pin");
            assert_eq!(held.timed, held.until.values().sum::<u32>(), "timed pins are counted");
        }
        let timed = pins.values().filter(|held| held.timed > 0).count();
        assert_eq!(self.pins.queue.len(), timed + soft.len() + grace.len(), "each end is queued once");
    }
}
