//! What a shard shows without its lock: how old its oldest entries are, how much room its slab pages have, and how much of
//! its objects is free to drop.

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
    /// Bytes of slab pages that are in no slot, of live objects that are free to drop, and of those being written to flash.
    sums: [AtomicU64; 3],
}

impl Gauges {
    pub(crate) fn new() -> Self {
        Self {
            oldest: std::array::from_fn(|_| AtomicU64::new(u64::MAX)),
            sums: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Stamp of the oldest entry of `list`, `u64::MAX` if there is none.
    pub(crate) fn oldest(&self, list: List) -> u64 {
        self.oldest[list as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn slab_free(&self) -> u64 {
        self.sums[0].load(Ordering::Relaxed)
    }

    /// Bytes of live objects that are on flash too, or never will be.
    pub(crate) fn free_to_drop(&self) -> u64 {
        self.sums[1].load(Ordering::Relaxed)
    }

    /// Bytes of live objects that are being written to flash.
    pub(crate) fn spilling(&self) -> u64 {
        self.sums[2].load(Ordering::Relaxed)
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
        let sums = self.sums();
        for ((to, before), sum) in gauges.sums.iter().zip(&mut self.published).zip(sums) {
            if *before != sum {
                to.store(sum, Ordering::Relaxed);
                *before = sum;
            }
        }
    }

    fn sums(&self) -> [u64; 3] {
        let flash = &self.flash;
        [self.slabs.held() - self.slabs.used(), flash.clean_bytes + flash.declined_bytes, flash.spilling_bytes]
    }

    /// Checks that the gauges show what is. For audits, after a publication.
    pub(crate) fn audit_gauges(&self, gauges: &Gauges) {
        // What is parked is nobody's to choose: its stamps may change where it lies.
        for list in List::ALL.into_iter().filter(|&list| list != List::Parked) {
            let stamp =
                self.lists.iter(&self.entries, list).next().map_or(u64::MAX, |oldest| self.entries[oldest].stamp);
            assert_eq!(gauges.oldest(list), stamp, "the oldest of {list:?} is shown");
        }
        let shown = [gauges.slab_free(), gauges.free_to_drop(), gauges.spilling()];
        assert_eq!(shown, self.sums(), "free slots, what is free to drop and what is being written are shown");
    }
}
