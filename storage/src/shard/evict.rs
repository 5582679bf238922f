//! Choosing and dropping victims.
//!
//! Invariants:
//! - The cost is that of the victims: leased, pinned and busy objects are in no list, graced ones are parked when met.
//! - Soft-pinned objects go only when no plain one is left anywhere; the caller sees to "anywhere".

use super::Shard;
use crate::dram::space::Space;
use crate::entry::{NIL, flag};
use crate::lru::List;
use protocol::base::Instant;

/// Graced entries that one call may park before it gives up.
const PARKED_MAX: usize = 64;

impl Shard {
    /// Evicts the oldest object of `list`. Returns the bytes its slot had, `None` if there is no victim here.
    pub(crate) fn evict_oldest(&mut self, now: Instant, list: List, space: &Space) -> Option<u64> {
        for _ in 0..PARKED_MAX {
            let index = self.lists.oldest(list);
            if index == NIL {
                return None;
            }
            if self.entries[index].has(flag::GRACE) && self.pins.graced(index, now) {
                self.lists.remove(&mut self.entries, index);
                self.lists.insert(&mut self.entries, index, List::Parked);
                continue;
            }
            return Some(self.evict(index, space));
        }
        None
    }

    fn evict(&mut self, index: u32, space: &Space) -> u64 {
        let charge = self.charge_of(index);
        self.counters.evicted += 1;
        self.counters.evicted_bytes += charge;
        self.unlink(index, space);
        charge
    }

    /// Evicts all objects of the emptiest slab page, so that the page can serve another size. Returns bytes of slots freed.
    pub(crate) fn evict_page(&mut self, now: Instant, space: &Space) -> u64 {
        let mut freed = self.slabs.trim(space);
        if freed > 0 {
            return freed;
        }
        let Some((page, slots)) = self.slabs.emptiest() else { return 0 };
        for slot in slots {
            let at = self.slabs.slot(page, slot).0;
            let index = space
                .memory(at)
                .with(at.offset() + 8, 4, |bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
            // A reserved slot has no entry yet: the number may be an earlier object's.
            let Some(entry) = self.entries.get(index) else { continue };
            let here = entry.place() == (crate::place::Place::Small { page, slot });
            if here && entry.has(flag::LISTED) && !(entry.has(flag::GRACE) && self.pins.graced(index, now)) {
                freed += self.evict(index, space);
            }
        }
        freed + self.slabs.trim(space)
    }
}
