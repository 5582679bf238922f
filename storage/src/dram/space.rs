//! All segments together: extents from whichever has room, within the configured capacity.
//!
//! Invariants:
//! - Each segment has its own lock, held for one allocation; there is no lock over all.
//! - `used` counts every allocated page once and never passes the capacity.

use super::extent::{Extents, Owner, Run};
use super::memory::Memory;
use super::quota::{BySession, Quota};
use crate::config::StoreConfig;
use crate::place::{PAGE, Position};
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering};
use protocol::base::{RawSpan, StableMemory};
use std::sync::Arc;

#[derive(Debug)]
struct Segment {
    memory: Memory,
    extents: Mutex<Extents>,
    /// Pages of its longest free run when last touched: a hint that spares the lock.
    longest: AtomicU32,
}

/// Bytes of slots that are not published: the states before `LIVE`, and memory that may not be reused yet.
#[derive(Debug, Default)]
pub(crate) struct States {
    pub(crate) reserved: AtomicU64,
    pub(crate) sealing: AtomicU64,
    pub(crate) quarantine: AtomicU64,
}

impl States {
    /// Bytes of all of them.
    pub(crate) fn unpublished(&self) -> u64 {
        [&self.reserved, &self.sealing, &self.quarantine].into_iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum()
    }
}

/// The segments of a node.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) states: States,
    /// Bytes pinned.
    pub(crate) pinned: Quota,
    /// Bytes spared after a probe.
    pub(crate) graced: Quota,
    /// Bytes leased, by session.
    pub(crate) leased: BySession,
    segments: Vec<Segment>,
    /// Bytes allocated.
    used: AtomicU64,
    /// Bytes that may be allocated.
    capacity: AtomicU64,
    total: u64,
}

/// What a person reads about fragmentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragmentation {
    /// Bytes free.
    pub free: u64,
    /// Bytes of the longest free run.
    pub longest: u64,
    /// Free runs.
    pub runs: u64,
}

impl Space {
    pub(crate) fn new(memories: Vec<Arc<dyn StableMemory>>, config: &StoreConfig) -> Self {
        let segments: Vec<Segment> = memories
            .into_iter()
            .map(|memory| {
                let pages = u32::try_from(memory.len() as u64 / PAGE).expect("a segment has at most 1 GiB");
                // Page 0 holds the first header in its last bytes.
                let extents = Extents::new(1, pages);
                let longest = AtomicU32::new(extents.longest());
                Segment { memory: Memory::new(memory), extents: Mutex::new(extents), longest }
            })
            .collect();
        let total = segments.iter().map(|segment| u64::from(segment.extents.lock().free_pages()) * PAGE).sum();
        Self {
            states: States::default(),
            pinned: Quota::new(config.pinned_percent_max),
            graced: Quota::new(config.grace_percent_max),
            leased: BySession::new(config.leased_client_percent_max),
            segments,
            used: AtomicU64::new(0),
            capacity: AtomicU64::new(config.capacity.get().min(total)),
            total,
        }
    }

    /// A run of pages, from the segment `home` names or the next with room.
    pub(crate) fn allocate(&self, pages: u32, owner: Owner, home: usize) -> Option<Position> {
        let bytes = u64::from(pages) * PAGE;
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if used > self.capacity.load(Ordering::Relaxed) {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        let n = self.segments.len();
        for step in 0..n {
            let index = (home % n + step) % n;
            let segment = &self.segments[index];
            if segment.longest.load(Ordering::Relaxed) < pages {
                continue;
            }
            let mut extents = segment.extents.lock();
            let start = extents.allocate(pages, owner);
            segment.longest.store(extents.longest(), Ordering::Relaxed);
            if let Some(start) = start {
                return Some(Position::new(index, u64::from(start) * PAGE));
            }
        }
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        None
    }

    /// This very run of pages, whatever the capacity. `false` if it is not all free, or not there at all.
    pub(crate) fn claim(&self, base: Position, pages: u32, owner: Owner) -> bool {
        let Some(segment) = self.segments.get(base.segment()) else { return false };
        let Ok(start) = u32::try_from(base.offset() / PAGE) else { return false };
        if !base.offset().is_multiple_of(PAGE) {
            return false;
        }
        let mut extents = segment.extents.lock();
        let claimed = extents.claim(start, pages, owner);
        segment.longest.store(extents.longest(), Ordering::Relaxed);
        if claimed {
            self.used.fetch_add(u64::from(pages) * PAGE, Ordering::Relaxed);
        }
        claimed
    }

    pub(crate) fn free(&self, base: Position, pages: u32) {
        self.give_back(base, pages, |extents, start| extents.free(start, pages));
    }

    /// Frees the end of a run, all but its first `keep` pages.
    pub(crate) fn shorten(&self, base: Position, pages: u32, keep: u32) {
        self.give_back(base, pages - keep, |extents, start| extents.shorten(start, pages, keep));
    }

    fn give_back(&self, base: Position, pages: u32, free: impl FnOnce(&mut Extents, u32)) {
        let segment = &self.segments[base.segment()];
        let start = u32::try_from(base.offset() / PAGE).expect("a segment has fewer pages than 2^32");
        {
            let mut extents = segment.extents.lock();
            free(&mut extents, start);
            segment.longest.store(extents.longest(), Ordering::Relaxed);
        }
        self.used.fetch_sub(u64::from(pages) * PAGE, Ordering::Relaxed);
    }

    /// The runs of the segment of `seed` that begin within `radius` pages of it, in order.
    pub(crate) fn around(&self, seed: Position, radius: u32) -> Vec<Run> {
        let center = u32::try_from(seed.offset() / PAGE).expect("a segment has fewer pages than 2^32");
        self.segments[seed.segment()].extents.lock().around(center, radius)
    }

    /// Whether a free run of `pages` is there and only the capacity forbids to take it.
    pub(crate) fn is_capped(&self, pages: u32) -> bool {
        self.used().saturating_add(u64::from(pages) * PAGE) > self.capacity()
            && self.segments.iter().any(|segment| segment.longest.load(Ordering::Relaxed) >= pages)
    }

    pub(crate) fn memory(&self, position: Position) -> &Memory {
        &self.segments[position.segment()].memory
    }

    /// Keeps the segment mapped for as long as the span lives.
    pub(crate) fn span(&self, position: Position, len: u64) -> RawSpan {
        let offset = usize::try_from(position.offset()).expect("64-bit");
        let len = usize::try_from(len).expect("64-bit");
        self.memory(position).span(offset, len)
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Bytes that all segments could give.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Caps the bytes in use; what is in use beyond it stays until evicted.
    pub(crate) fn set_capacity(&self, bytes: u64) {
        self.capacity.store(bytes.min(self.total), Ordering::Relaxed);
    }

    /// The longest object run that any segment could ever hold, in pages.
    pub(crate) fn pages_max(&self) -> u64 {
        self.segments
            .iter()
            .map(|segment| segment.memory.len() as u64 / PAGE)
            .max()
            .map_or(0, |pages| pages.saturating_sub(1))
    }

    /// Free bytes of each segment, and how scattered they are.
    pub(crate) fn fragmentation(&self) -> Vec<Fragmentation> {
        let of = |segment: &Segment| {
            let extents = segment.extents.lock();
            Fragmentation {
                free: u64::from(extents.free_pages()) * PAGE,
                longest: u64::from(extents.longest()) * PAGE,
                runs: extents.runs() as u64,
            }
        };
        self.segments.iter().map(of).collect()
    }

    pub(crate) fn audit(&self) {
        let mut free = 0;
        for segment in &self.segments {
            let extents = segment.extents.lock();
            extents.audit();
            free += u64::from(extents.free_pages()) * PAGE;
        }
        assert_eq!(self.total - free, self.used(), "pages out of the free runs are the pages in use");
    }
}
