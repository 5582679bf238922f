//! Upkeep: making room, ending what has run out, and the sums that must hold.

use super::{Inner, Store};
use crate::config::StoreConfig;
use crate::dram::space::Fragmentation;
use crate::lru::List;
use crate::place::Position;
use crate::shard::Counters;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use protocol::base::{ByteLen, GrantId, Instant, Millis, SessionId};

/// Objects that one reservation may evict before it gives up.
const VICTIMS_MAX: usize = 1 << 16;
/// Objects that one maintenance call evicts or expires at a time, per shard.
const BATCH: usize = 256;

/// What of the configuration may change while the store runs.
#[derive(Debug)]
pub(crate) struct Tuning {
    high_percent: AtomicU32,
    low_percent: AtomicU32,
    probe_grace_ms: AtomicU64,
}

impl Tuning {
    pub(crate) fn new(config: &StoreConfig) -> Self {
        Self {
            high_percent: AtomicU32::new(config.watermark_high_percent.into()),
            low_percent: AtomicU32::new(config.watermark_low_percent.into()),
            probe_grace_ms: AtomicU64::new(config.probe_grace.0),
        }
    }

    pub(crate) fn probe_grace(&self) -> Millis {
        Millis(self.probe_grace_ms.load(Ordering::Relaxed))
    }
}

/// Bytes by state. They sum up to `total` at any quiet moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accounting {
    /// Of all segments.
    pub total: u64,
    /// That may be used.
    pub capacity: u64,
    /// In no slot and no slab page.
    pub free: u64,
    /// In slab pages, in no slot.
    pub slab_free: u64,
    /// Granted or being filled.
    pub reserved: u64,
    /// Being checked.
    pub sealing: u64,
    /// Published.
    pub live: u64,
    /// Unlinked, with readers left.
    pub doomed: u64,
    /// Given up, with writers or remote keys left.
    pub quarantine: u64,
    /// Of live objects, pinned.
    pub pinned: u64,
    /// Of live objects, spared after a probe.
    pub graced: u64,
}

/// How much there is of everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Live objects.
    pub objects: u64,
    /// Of them with a TTL.
    pub expiring: u64,
    /// Leases held.
    pub leases: u64,
    /// Grants held.
    pub grants: u64,
    /// Bytes that the index takes beside the segments.
    pub index_bytes: u64,
    /// Counters of all shards.
    pub counters: Counters,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct PinRoom {
    pub(crate) held: u64,
    pub(crate) left: u64,
}

impl Inner {
    /// Pages of a segment, after evicting as much as it takes.
    pub(crate) fn allocate(&self, now: Instant, pages: u32, home: usize) -> Option<Position> {
        for victims in 0..VICTIMS_MAX {
            if let Some(position) = self.space.allocate(pages, home) {
                return Some(position);
            }
            if self.evict_one(now).is_none() || victims % 4096 == 4095 {
                // Nothing left to evict, or it does not help: small values may hold the pages.
                let freed: u64 = (0..self.shard_count())
                    .map(|shard| self.with(shard, |shard, space| shard.evict_page(now, space)))
                    .sum();
                if freed == 0 && self.evict_one(now).is_none() {
                    return self.space.allocate(pages, home);
                }
            }
        }
        None
    }

    /// Evicts the oldest object of all: plain ones first, soft-pinned ones when there are no others.
    pub(crate) fn evict_one(&self, now: Instant) -> Option<u64> {
        for soft in [false, true] {
            let list = if soft { List::Soft } else { List::Plain };
            // A shard whose oldest are all spared reports the next oldest, so the search moves on.
            for _ in 0..2 * self.shard_count() {
                let Some(shard) = self.oldest_shard(soft) else { break };
                if let Some(freed) = self.with(shard, |shard, space| shard.evict_oldest(now, list, space)) {
                    return Some(freed);
                }
            }
        }
        None
    }

    /// Frees a slot of a shard's slabs, or a page that it can take. `false` if nothing can be evicted.
    pub(crate) fn make_small_room(&self, now: Instant, shard: usize) -> bool {
        // Slots freed in another shard's pages are of no use here, so the victim is this shard's oldest.
        let here = self.with(shard, |shard, space| {
            shard.evict_oldest(now, List::Plain, space).or_else(|| shard.evict_oldest(now, List::Soft, space))
        });
        here.is_some() || self.evict_one(now).is_some()
    }

    pub(crate) fn grace_room(&self) -> u64 {
        let max = self.space.capacity() / 100 * u64::from(self.config.grace_percent_max);
        let held: u64 = self.gauges.iter().map(|gauges| gauges.graced.load(Ordering::Relaxed)).sum();
        max.saturating_sub(held)
    }

    pub(crate) fn pin_room(&self) -> PinRoom {
        let max = self.space.capacity() / 100 * u64::from(self.config.pinned_percent_max);
        let held: u64 = self.gauges.iter().map(|gauges| gauges.pinned.load(Ordering::Relaxed)).sum();
        PinRoom { held, left: max.saturating_sub(held) }
    }
}

impl Store {
    /// Ends leases, grants, pins, graces and TTLs that have run out, and evicts down to the low watermark if the high one is
    /// passed. Call it every few milliseconds, and first after any pause. Returns slots whose remote access must be
    /// revoked: call [`Store::fenced`] for each when it is.
    pub fn maintain(&self, now: Instant) -> Vec<GrantId> {
        let inner = &self.0;
        let mut fences = Vec::new();
        for shard in 0..inner.shard_count() {
            loop {
                let more = inner.with(shard, |shard, space| {
                    shard.end_leases(now, space);
                    shard.end_grants(now, space);
                    shard.end_pins(now);
                    fences.append(&mut shard.grants.take_fences());
                    shard.expire(now, BATCH, space)
                });
                if !more {
                    break;
                }
            }
        }
        self.evict_to_watermark(now);
        fences
    }

    /// Ends everything a session was lent: its connection is gone. Costs a look at every lease and grant of the store.
    pub fn end_session(&self, session: SessionId) {
        for shard in 0..self.0.shard_count() {
            self.0.with(shard, |shard, space| {
                shard.end_session_leases(session, space);
                shard.end_session_grants(session, space);
            });
        }
    }

    fn evict_to_watermark(&self, now: Instant) {
        let inner = &self.0;
        let capacity = inner.space.capacity();
        let mark = |percent: &AtomicU32| {
            let percent = u64::from(percent.load(Ordering::Relaxed));
            capacity / 100 * percent + capacity % 100 * percent / 100
        };
        if inner.space.used() <= mark(&inner.tuning.high_percent) {
            return;
        }
        let low = mark(&inner.tuning.low_percent);
        let mut idle = 0;
        while inner.space.used() > low {
            let before = inner.space.used();
            if inner.evict_one(now).is_none() {
                return;
            }
            // Small victims give back pages only when a page empties: help after a while.
            idle = if inner.space.used() < before { 0 } else { idle + 1 };
            if idle > 4 * BATCH {
                idle = 0;
                for shard in 0..inner.shard_count() {
                    inner.with(shard, |shard, space| shard.evict_page(now, space));
                }
                if inner.space.used() >= before {
                    return;
                }
            }
        }
    }

    /// Evicts up to `most` objects, oldest first. Returns how many there were.
    pub fn evict(&self, now: Instant, most: u64) -> u64 {
        (0..most).take_while(|_| self.0.evict_one(now).is_some()).count() as u64
    }

    /// Caps the bytes that slots may take; more than the segments have is as much as they have.
    pub fn set_capacity(&self, bytes: ByteLen) {
        self.0.space.set_capacity(bytes.get());
    }

    /// Sets where background eviction starts and stops, in percent of the capacity.
    pub fn set_watermarks(&self, high_percent: u8, low_percent: u8) {
        self.0.tuning.high_percent.store(high_percent.into(), Ordering::Relaxed);
        self.0.tuning.low_percent.store(low_percent.min(high_percent).into(), Ordering::Relaxed);
    }

    /// Sets how long a probed object is spared.
    pub fn set_probe_grace(&self, grace: Millis) {
        self.0.tuning.probe_grace_ms.store(grace.0, Ordering::Relaxed);
    }

    /// Bytes by state.
    pub fn accounting(&self) -> Accounting {
        let space = &self.0.space;
        let mut sum = Accounting {
            total: space.total(),
            capacity: space.capacity(),
            free: space.total().saturating_sub(space.used()),
            reserved: space.states.reserved.load(Ordering::Relaxed),
            sealing: space.states.sealing.load(Ordering::Relaxed),
            quarantine: space.states.quarantine.load(Ordering::Relaxed),
            ..Accounting::default()
        };
        for shard in 0..self.0.shard_count() {
            self.0.with(shard, |shard, _| {
                let (live, doomed) = shard.bytes();
                let (pinned, graced) = shard.spared_bytes();
                sum.live += live;
                sum.doomed += doomed;
                sum.pinned += pinned;
                sum.graced += graced;
                sum.slab_free += shard.slabs.held() - shard.slabs.used();
            });
        }
        sum
    }

    /// Numbers of objects, leases, grants, and counters.
    pub fn usage(&self) -> Usage {
        let mut sum = Usage::default();
        for shard in 0..self.0.shard_count() {
            self.0.with(shard, |shard, _| {
                sum.objects += shard.live() as u64;
                sum.expiring += shard.expiring() as u64;
                sum.leases += shard.leases.len() as u64;
                sum.grants += shard.grants.len() as u64;
                sum.index_bytes += shard.index_bytes() as u64;
                let counters = &shard.counters;
                let total = &mut sum.counters;
                total.hits += counters.hits;
                total.misses += counters.misses;
                total.expired += counters.expired;
                total.evicted += counters.evicted;
                total.evicted_bytes += counters.evicted_bytes;
                total.leases_expired += counters.leases_expired;
                total.grants_expired += counters.grants_expired;
                total.crc_refused += counters.crc_refused;
            });
        }
        sum
    }

    /// Starts the counters of [`Usage`] again.
    pub fn reset_counters(&self) {
        for shard in 0..self.0.shard_count() {
            self.0.with(shard, |shard, _| shard.counters = Counters::default());
        }
    }

    /// Live objects.
    pub fn len(&self) -> u64 {
        (0..self.0.shard_count()).map(|shard| self.0.with(shard, |shard, _| shard.live() as u64)).sum()
    }

    /// Whether no object is live.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Free bytes and how scattered they are.
    pub fn fragmentation(&self) -> Fragmentation {
        self.0.space.fragmentation()
    }

    /// Bytes that an object of this length under a key of this length takes.
    pub fn charge_of(&self, length: u64, key_len: usize) -> ByteLen {
        ByteLen(crate::shard::charge(length, key_len))
    }

    /// Checks every invariant of the store. For tests and simulations at a quiet moment: it looks at every object.
    ///
    /// # Panics
    /// If one is broken.
    pub fn audit(&self) {
        for shard in 0..self.0.shard_count() {
            self.0.with(shard, |shard, space| shard.audit(space));
        }
        self.0.space.audit();
        let sum = self.accounting();
        assert_eq!(
            sum.free + sum.slab_free + sum.reserved + sum.sealing + sum.live + sum.doomed + sum.quarantine,
            sum.total,
            "bytes of all states sum up to the capacity: {sum:?}"
        );
    }
}
