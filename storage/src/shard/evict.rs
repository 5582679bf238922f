//! Choosing and dropping victims.
//!
//! Invariants:
//! - The cost is that of the victims: leased, pinned and busy objects are in no list, graced ones are parked when met.
//! - Soft-pinned objects go only when no plain one is left anywhere; the caller sees to "anywhere".

use super::Shard;
use crate::dram::extent::Owner;
use crate::dram::space::Space;
use crate::entry::{NIL, flag};
use crate::lru::{List, Prey, Stamp};
use crate::place::{Place, Position};
use crate::shard::event::Event;
use protocol::base::Instant;

/// Graced entries that one call may park before it lets others have the lock.
const PARKED_MAX: usize = 64;

/// What became of an attempt to evict the oldest object of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Oldest {
    /// Its slot had these bytes.
    Evicted(u64),
    /// Only spared ones were met so far; they are out of the way now.
    Parked,
    /// The list is empty.
    None,
}

impl Shard {
    /// Evicts the oldest object of `list`. If that is spared, it is put out of the way, and the caller chooses again: the
    /// next oldest may be another shard's.
    pub(crate) fn evict_oldest(&mut self, now: Instant, list: List, space: &Space) -> Oldest {
        let mut parked = 0;
        loop {
            let index = self.lists.oldest(list);
            if index == NIL {
                return Oldest::None;
            }
            if !self.is_graced(index, now) {
                if parked > 0 {
                    return Oldest::Parked;
                }
                let freed = self.evict(index, space);
                self.prefetch_victim(list, space);
                return Oldest::Evicted(freed);
            }
            if parked == PARKED_MAX {
                return Oldest::Parked;
            }
            self.lists.remove(&mut self.entries, index);
            self.lists.insert(&mut self.entries, index, List::Parked);
            parked += 1;
        }
    }

    /// A grace keeps an object in its last tier; it may leave another.
    fn is_graced(&self, index: u32, now: Instant) -> bool {
        let entry = &self.entries[index];
        entry.has(flag::GRACE) && !entry.has(flag::CLEAN) && self.pins.graced(index, now)
    }

    /// Evicts the object of this shard that should go first of the first of `prey` that there is. Soft-pinned ones stay:
    /// other shards may have plain ones.
    pub(crate) fn evict_own(&mut self, now: Instant, prey: &[Prey], space: &Space) -> Oldest {
        for prey in prey.iter().filter(|&&prey| prey != Prey::Soft && prey != Prey::CleanSoft) {
            match self.evict_own_of(now, *prey, space) {
                Oldest::None => {}
                found => return found,
            }
        }
        Oldest::None
    }

    fn evict_own_of(&mut self, now: Instant, prey: Prey, space: &Space) -> Oldest {
        let tail = |&list: &List| match self.lists.oldest(list) {
            NIL => None,
            oldest => Some((list.urgency(self.entries[oldest].stamp, now), list)),
        };
        match prey.lists().iter().filter_map(tail).max_by_key(|&(urgency, _)| urgency) {
            Some((_, list)) => self.evict_oldest(now, list, space),
            None => Oldest::None,
        }
    }

    fn evict(&mut self, index: u32, space: &Space) -> u64 {
        let charge = self.charge_of(index);
        self.counters.evicted_bytes += charge;
        let entry = &self.entries[index];
        if entry.has(flag::CLEAN) {
            self.drop_copy(index, space);
        } else {
            self.counters.evicted += 1;
            self.counters.dropped_dirty += u64::from(self.flash.is_enabled() && !entry.has(flag::DECLINED));
            self.note_event(Event::Evicted, index, space);
            self.unlink(index, space);
        }
        charge
    }

    /// Fetches into the caches what evicting the next object of `list` will need, and what will be written in its place:
    /// victims come one after the other, and nobody has looked at them for long.
    fn prefetch_victim(&self, list: List, space: &Space) {
        let index = self.lists.oldest(list);
        if index == NIL {
            return;
        }
        let entry = &self.entries[index];
        self.entries.prefetch(entry.newer);
        self.table.prefetch(entry.hash);
        if let Place::Small { page, slot } = entry.place() {
            let (at, len) = self.slabs.slot(page, slot);
            space.memory(at).prefetch(at.offset(), usize::try_from(len).unwrap_or(usize::MAX));
        }
    }

    /// First byte of the run of pages of the `nth` oldest object of `list`, and when that object was last touched.
    pub(crate) fn nth_oldest_run(&self, list: List, nth: usize) -> Option<(Position, Instant)> {
        let index = self.lists.iter(&self.entries, list).nth(nth)?;
        let entry = &self.entries[index];
        let base = match entry.place() {
            Place::Extent { payload } => payload,
            Place::Small { page, .. } => self.slabs.slot(page, 0).0,
        };
        Some((base, Stamp(entry.stamp).at()))
    }

    fn evictable(&self, index: u32, now: Instant, prey: Prey) -> bool {
        let entry = &self.entries[index];
        entry.has(flag::LISTED) && prey.takes(entry.class()) && !self.is_graced(index, now)
    }

    /// The objects of a run, if each of them can be evicted.
    pub(crate) fn victims_of_run(
        &self,
        now: Instant,
        base: Position,
        owner: Owner,
        prey: Prey,
        space: &Space,
    ) -> Option<Vec<u32>> {
        let victims = match owner {
            Owner::Object { hash } => vec![self.find_at(hash, base)?],
            Owner::Slab { page, .. } => {
                let slots = self.slabs.taken(page, base)?;
                let entry_of = |slot: u16| {
                    let at = self.slabs.slot(page, slot).0;
                    let index = space
                        .memory(at)
                        .with(at.offset() + 8, 4, |bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
                    // A reserved slot has no entry yet: the number may be an earlier object's.
                    self.entries.get(index).filter(|entry| entry.place() == Place::Small { page, slot }).map(|_| index)
                };
                slots.into_iter().map(entry_of).collect::<Option<Vec<u32>>>()?
            }
        };
        victims.iter().all(|&index| self.evictable(index, now, prey)).then_some(victims)
    }

    /// Evicts all objects of a run, if each can be. Returns the bytes of their slots.
    pub(crate) fn evict_run(
        &mut self,
        now: Instant,
        base: Position,
        owner: Owner,
        prey: Prey,
        space: &Space,
    ) -> Option<u64> {
        let victims = self.victims_of_run(now, base, owner, prey, space)?;
        let freed = victims.into_iter().map(|index| self.evict(index, space)).sum();
        if matches!(owner, Owner::Slab { .. }) {
            // The page may be kept as its class's spare one.
            self.slabs.trim(space);
        }
        Some(freed)
    }
}
