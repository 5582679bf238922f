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

/// The gauges as last written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Published {
    oldest: [u64; List::COUNT],
    slab_free: u64,
}

impl Published {
    pub(super) fn new() -> Self {
        Self { oldest: [u64::MAX; List::COUNT], slab_free: 0 }
    }
}

impl Shard {
    /// Writes the gauges if they changed.
    pub(crate) fn publish_gauges(&mut self, gauges: &Gauges) {
        let oldest = |list| match self.lists.oldest(list) {
            NIL => u64::MAX,
            oldest => self.entries[oldest].stamp,
        };
        let now = Published { oldest: List::ALL.map(oldest), slab_free: self.slabs.held() - self.slabs.used() };
        if now != self.published {
            for (to, stamp) in gauges.oldest.iter().zip(now.oldest) {
                to.store(stamp, Ordering::Relaxed);
            }
            gauges.slab_free.store(now.slab_free, Ordering::Relaxed);
            self.published = now;
        }
    }
}
