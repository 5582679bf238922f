//! Upkeep: making room, ending what has run out, and the sums that must hold.

use super::{Inner, Store};
use crate::config::StoreConfig;
use crate::dram::quota::percent_of;
use crate::dram::space::Fragmentation;
use crate::lru::Prey;
use crate::shard::Counters;
use crate::shard::gauges::Gauges;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use protocol::base::{ByteLen, GrantId, Instant, Lent, Millis, SessionId};

/// Things that one hold of a shard's lock ends.
const BATCH: usize = 256;
/// Objects that one maintenance call evicts. The next goes on where it ended.
const VICTIMS_MAX: usize = 4096;

/// What of the configuration may change while the store runs.
#[derive(Debug)]
pub(crate) struct Tuning {
    high_percent: AtomicU32,
    low_percent: AtomicU32,
    probe_grace_ms: AtomicU64,
    /// 1 from the high watermark on, until the low one is reached.
    evicting: AtomicU32,
}

impl Tuning {
    pub(crate) fn new(config: &StoreConfig) -> Self {
        Self {
            high_percent: AtomicU32::new(config.watermark_high_percent.into()),
            low_percent: AtomicU32::new(config.watermark_low_percent.into()),
            probe_grace_ms: AtomicU64::new(config.probe_grace.0),
            evicting: AtomicU32::new(0),
        }
    }

    pub(crate) fn probe_grace(&self) -> Millis {
        Millis(self.probe_grace_ms.load(Ordering::Relaxed))
    }
}

/// Bytes by state. Those from `free` to `quarantine` sum up to `total` at any quiet moment.
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
    /// Of live objects, on flash too.
    pub clean: u64,
    /// Of live objects, being written to flash.
    pub spilling: u64,
    /// Of records on flash.
    pub flash: u64,
    /// Of them, pinned.
    pub flash_pinned: u64,
    /// Of them, spared after a probe.
    pub flash_graced: u64,
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
    /// Live objects on flash, whether in DRAM too or not.
    pub on_flash: u64,
    /// Of those, in DRAM too.
    pub on_both: u64,
    /// Bytes that their records take, about.
    pub flash_bytes: u64,
    /// Bytes of slots in DRAM whose objects lie on flash too, so that dropping them costs nothing.
    pub clean_bytes: u64,
    /// Bytes that the index takes beside the segments.
    pub index_bytes: u64,
    /// Counters of all shards.
    pub counters: Counters,
}

impl Inner {
    /// Bytes of slots, whatever their state.
    pub(crate) fn occupied(&self) -> u64 {
        self.space.used().saturating_sub(self.gauges.iter().map(Gauges::slab_free).sum())
    }
}

impl Store {
    /// Ends leases, grants, pins, graces and TTLs that have run out, and evicts down to the low watermark if the high one is
    /// passed; with flash, only what costs nothing to drop. Call it every few milliseconds, and first after any pause. Returns slots whose remote access must be
    /// revoked: call [`Store::fenced`] for each when it is.
    pub fn maintain(&self, now: Instant) -> Vec<GrantId> {
        let inner = &self.0;
        let mut fences = Vec::new();
        for shard in 0..inner.shard_count() {
            loop {
                let more = inner.with(shard, |shard, space| {
                    let more = shard.end_leases(now, BATCH, space)
                        | shard.end_grants(now, BATCH, space)
                        | shard.end_pins(now, BATCH, space)
                        | shard.expire(now, BATCH, space);
                    fences.append(&mut shard.grants.take_fences());
                    more
                });
                if !more {
                    break;
                }
            }
        }
        // Pages first: once the oldest objects are gone from everywhere, each page would cost more of the others.
        inner.shrink_to_capacity(now);
        self.evict_to_watermark(now);
        fences
    }

    /// Ends everything a session was lent: its connection is gone. A grant that is being sealed is left to its sealer.
    pub fn end_session(&self, session: SessionId) {
        for shard in 0..self.0.shard_count() {
            self.0.with(shard, |shard, space| {
                shard.end_session_leases(session, space);
                shard.end_session_grants(session, space);
            });
        }
    }

    /// Ends what a session was lent of keys that it may not read (leases) or write (grants) any more. Returns how many.
    pub fn revoke(
        &self,
        session: SessionId,
        may_read: &dyn Fn(&[u8]) -> bool,
        may_write: &dyn Fn(&[u8]) -> bool,
    ) -> usize {
        let end = |shard| {
            self.0.with(shard, |shard, space| {
                shard.revoke_leases(session, may_read, space) + shard.revoke_grants(session, may_write, space)
            })
        };
        (0..self.0.shard_count()).map(end).sum()
    }

    /// The key that a session's grant or lease is for.
    pub fn lent_key(&self, lent: Lent, session: SessionId) -> Option<Box<[u8]>> {
        match lent {
            Lent::Grant(grant) => {
                let shard = self.0.shard_of_credential(grant.0)?;
                self.0.with(shard, |shard, _| shard.grant_key(grant, session))
            }
            Lent::Lease(lease) => {
                let shard = self.0.shard_of_credential(lease.0)?;
                self.0.with(shard, |shard, space| shard.lease_key(lease, session, space))
            }
        }
    }

    /// Evicts by bytes of slots, since a small object rarely gives back a page: what it leaves is room for others like it.
    fn evict_to_watermark(&self, now: Instant) {
        let inner = &self.0;
        let capacity = inner.space.capacity();
        let mark = |percent: &AtomicU32| {
            percent_of(capacity, u8::try_from(percent.load(Ordering::Relaxed)).expect("a percentage"))
        };
        let evicting = &inner.tuning.evicting;
        if evicting.load(Ordering::Relaxed) == 0 && inner.occupied() <= mark(&inner.tuning.high_percent) {
            return;
        }
        let low = mark(&inner.tuning.low_percent);
        for _ in 0..VICTIMS_MAX {
            if inner.occupied() <= low || inner.evict_one(now, inner.prey(now)).is_none() {
                evicting.store(0, Ordering::Relaxed);
                return;
            }
        }
        evicting.store(1, Ordering::Relaxed);
    }

    /// Evicts up to `most` objects from DRAM: those on flash first, oldest first. Returns how many there were.
    pub fn evict(&self, now: Instant, most: u64) -> u64 {
        let prey = if self.0.flash.get().is_some() { Prey::HASTY } else { Prey::WITHOUT_FLASH };
        (0..most).take_while(|_| self.0.evict_one(now, prey).is_some()).count() as u64
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
                let (in_dram, on_flash) = shard.spared_bytes();
                sum.live += live;
                sum.doomed += doomed;
                sum.pinned += in_dram.pinned;
                sum.graced += in_dram.graced;
                sum.clean += shard.flash.clean_bytes;
                sum.spilling += shard.flash.spilling_bytes;
                sum.flash += shard.flash.record_bytes();
                sum.flash_pinned += on_flash.pinned;
                sum.flash_graced += on_flash.graced;
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
                sum.on_flash += shard.flash.len() as u64;
                sum.on_both += shard.flash.both() as u64;
                sum.flash_bytes += shard.flash.record_bytes();
                sum.clean_bytes += shard.flash.clean_bytes;
                sum.counters += shard.counters;
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
        self.fragmentation_by_segment().into_iter().fold(Fragmentation::default(), |all, of| Fragmentation {
            free: all.free + of.free,
            longest: all.longest.max(of.longest),
            runs: all.runs + of.runs,
        })
    }

    /// The same of each segment, in the order they were handed in.
    pub fn fragmentation_by_segment(&self) -> Vec<Fragmentation> {
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
            self.0.with(shard, |shard, _| shard.audit());
            let gauges = &self.0.gauges[shard];
            self.0.with(shard, |shard, _| shard.audit_gauges(gauges));
        }
        self.0.space.audit();
        let sum = self.accounting();
        assert_eq!(
            sum.free + sum.slab_free + sum.reserved + sum.sealing + sum.live + sum.doomed + sum.quarantine,
            sum.total,
            "bytes of all states sum up to the capacity: {sum:?}"
        );
        let space = &self.0.space;
        let leased: u64 =
            (0..self.0.shard_count()).map(|shard| self.0.with(shard, |shard, _| shard.leased_bytes())).sum();
        assert_eq!(leased, space.leased.sum(), "leases hold their quota");
        assert_eq!(sum.pinned, space.pinned.held(), "pins hold their quota");
        assert_eq!(sum.graced, space.graced.held(), "graces hold their quota");
        if let Some(shared) = self.0.flash.get() {
            assert_eq!(sum.flash_pinned, shared.pinned.held(), "pins on flash hold their quota");
            assert_eq!(sum.flash_graced, shared.graced.held(), "graces on flash hold their quota");
        }
    }
}
