//! What a shard shows without its lock: how old its oldest entries are, and how much room its slab pages have.

use super::Shard;
use crate::entry::NIL;
use crate::lru::List;
use crate::sync::{AtomicU64, Ordering};

/// Written under the shard's lock, read by all.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Gauges {
    /// Stamp of the oldest entry of each list, `u64::MAX` if there is none.
    oldest: [AtomicU64; List::COUNT],
    /// Bytes of slab pages that are in no slot.
    slab_free: AtomicU64,
}

impl Gauges {
    pub(crate) fn new() -> Self {
        Self { oldest: std::array::from_fn(|_| AtomicU64::new(u64::MAX)), slab_free: AtomicU64::new(0) }
    }

    /// Stamp of the oldest entry of `list`, `u64::MAX` if there is none.
    pub(crate) fn oldest(&self, list: List) -> u64 {
        self.oldest[list as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn slab_free(&self) -> u64 {
        self.slab_free.load(Ordering::Relaxed)
    }
}

impl Shard {
    /// Writes the gauges if they changed.
    pub(crate) fn publish_gauges(&mut self, gauges: &Gauges) {
        if self.lists.take_changed() {
            for (to, list) in gauges.oldest.iter().zip(List::ALL) {
                let stamp = match self.lists.oldest(list) {
                    NIL => u64::MAX,
                    oldest => self.entries[oldest].stamp,
                };
                to.store(stamp, Ordering::Relaxed);
            }
        }
        let slab_free = self.slabs.held() - self.slabs.used();
        if slab_free != self.published_slab_free {
            gauges.slab_free.store(slab_free, Ordering::Relaxed);
            self.published_slab_free = slab_free;
        }
    }

    /// Checks that the gauges show what is. For audits, after a publication.
    pub(crate) fn audit_gauges(&self, gauges: &Gauges) {
        for list in List::PLAIN.iter().chain(List::SOFT).copied() {
            let stamp =
                self.lists.iter(&self.entries, list).next().map_or(u64::MAX, |oldest| self.entries[oldest].stamp);
            assert_eq!(gauges.oldest(list), stamp, "the oldest of {list:?} is shown");
        }
        assert_eq!(gauges.slab_free(), self.slabs.held() - self.slabs.used(), "free slots are shown");
    }
}
