//! Objects on flash, as the store knows them: where each lies, what is to be written there, and what comes back.
//!
//! Role: the boundary between the store and whoever performs the I/O. The store never reads or writes flash; it says which
//! objects to write ([`Store::next_spill`]), believes what it is told of records ([`Spill::done`],
//! [`Store::insert_recovered`], [`Store::drop_slot`]) and tells a [`Graveyard`] which records are no longer true.
//!
//! Invariants:
//! - An object is in DRAM, on flash, or in both under one generation: then its DRAM copy is *clean*, and dropping it loses
//!   nothing.
//! - A record on flash is indexed, or about to be ([`Spill::begin`], [`Reinsertion`]), or buried, or its slot is retired.
//!   What replaces or removes an object buries its records before the call returns.
//! - A slot's records may be read while a [`FlashRead`] of it lives: [`Store::slot_readers`].

mod promote;
mod reclaim;
mod spill;

pub use promote::Promotion;
pub use reclaim::{Current, RecoveredRecord, Reinsertion, SlotRecord};
pub use spill::{Spill, SpillOf};

use super::{Inner, Store};
use crate::dram::quota::Quota;
use crate::dram::space::Space;
use crate::lru::Prey;
use crate::shard::{At, Shard};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use protocol::base::{ByteLen, Crc, Generation, Instant, Millis};
use std::sync::Arc;

/// Where a record begins: the flash segment's slot, counted over all devices of the node, and the page within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlashPlace {
    /// The segment slot.
    pub slot: u16,
    /// Pages of 4 KiB from the segment's start.
    pub page: u16,
}

/// A record that no longer counts: this generation at this place, and no other.
///
/// A generation may have lain elsewhere before or lie elsewhere after (a failed write, a reinsertion), so the pair has to
/// match, never the generation alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Buried {
    /// Where it lies.
    pub place: FlashPlace,
    /// Which object it holds.
    pub generation: Generation,
}

/// Pins of an object, as they are remembered over a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pinned {
    /// Pins without an end.
    pub endless: u32,
    /// When the last of those with an end runs out.
    pub until: Option<Instant>,
}

impl Pinned {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.endless == 0 && self.until.is_none()
    }
}

/// Who remembers what the records on flash do not say themselves.
///
/// Called outside of every lock of the store, and before the call that caused it returns: what a client was answered is
/// remembered. Two calls about one object may arrive in another order than they were made: of those with an `order`, the
/// greater counts.
pub trait Graveyard: Send + Sync {
    /// These records are dead: replaced, deleted, expired, or given up.
    fn bury(&self, dead: &[Buried]);
    /// Every record of a generation below this one is dead.
    fn bury_all(&self, below: Generation);
    /// Every record of the slot's present life is dead; none of them is buried singly.
    fn retire(&self, slot: u16);
    /// The pins of a key are these now, for the object of this generation; empty: none.
    fn pinned(&self, key: &[u8], generation: Generation, pins: Pinned, order: u64);
    /// A record's object expires at another time than the record says.
    fn expiry(&self, record: Buried, expires: Option<Instant>, order: u64);
}

/// An object to be read from flash. While it lives, the slot is not reused.
#[derive(Debug)]
pub struct FlashRead {
    /// The object's key.
    pub key: Box<[u8]>,
    /// Its generation.
    pub generation: Generation,
    /// Bytes of payload.
    pub length: u64,
    /// Their checksum.
    pub crc: Crc,
    /// Where the record lies.
    pub place: FlashPlace,
    /// When the object expires.
    pub expires: Option<Instant>,
    /// Whether it should be in DRAM afterwards: the second read, a lease, or a chain's next block.
    pub promote: bool,
    readers: Arc<Readers>,
}

impl Drop for FlashRead {
    fn drop(&mut self) {
        let before = self.readers.0[usize::from(self.place.slot)].fetch_sub(1, Ordering::Release);
        assert!(before & !CLOSING > 0, "readers of slot {} are counted", self.place.slot);
    }
}

/// Reads in flight of each slot, and in the highest bit whether the slot is about to be dropped.
pub(crate) struct Readers(Box<[AtomicU32]>);

/// Of a slot's word in [`Readers`].
const CLOSING: u32 = 1 << 31;

impl Readers {
    pub(crate) fn is_closing(&self, slot: u16) -> bool {
        self.0[usize::from(slot)].load(Ordering::Relaxed) & CLOSING != 0
    }
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Readers")
    }
}

/// How long nobody waits for a spill after one had waited in vain.
const HASTE: Millis = Millis(1_000);
/// Slots that a place can name.
const SLOTS: usize = 1 << 16;

/// What the shards and the store share once there is flash.
pub(crate) struct Shared {
    /// Bytes pinned and graced of objects on flash alone.
    pub(crate) pinned: Quota,
    pub(crate) graced: Quota,
    capacity: AtomicU64,
    object_len_max: AtomicU64,
    /// 0 while nothing can be written.
    spilling: AtomicU32,
    mark_percent: AtomicU32,
    /// Bytes that writers waited for and did not get: so much more is spilled, whatever the mark says.
    short: AtomicU64,
    /// Until then dirty objects are dropped.
    hasty_until: AtomicU64,
    pub(crate) readers: Arc<Readers>,
    room: tokio::sync::Notify,
    pub(crate) graveyard: Arc<dyn Graveyard>,
}

impl Shared {
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    pub(crate) fn object_len_max(&self) -> u64 {
        self.object_len_max.load(Ordering::Relaxed)
    }

    /// A writer has to wait: leases and pins may hold all that is clean, however much there is of it.
    pub(crate) fn wants(&self, bytes: u64) {
        self.short.fetch_max(bytes.saturating_mul(2), Ordering::Relaxed);
    }

    /// Which objects may go now, one kind after the other.
    pub(crate) fn prey(&self, now: Instant) -> &'static [Prey] {
        let patient = self.spilling.load(Ordering::Relaxed) != 0 && now.0 >= self.hasty_until.load(Ordering::Relaxed);
        if patient { Prey::PATIENT } else { Prey::HASTY }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("pinned", &self.pinned).field("graced", &self.graced).finish_non_exhaustive()
    }
}

impl Inner {
    /// Which objects may go now, one kind after the other.
    pub(crate) fn prey(&self, now: Instant) -> &'static [Prey] {
        self.flash.get().map_or(Prey::WITHOUT_FLASH, |shared| shared.prey(now))
    }

    fn flash(&self) -> &Arc<Shared> {
        self.flash.get().expect("flash is enabled before it is used")
    }
}

impl Store {
    /// From now on objects may lie on flash. Eviction drops clean copies first; others only after a writer has waited
    /// ([`Store::hurry`]), or while nothing is spilled ([`Store::set_spilling`]), which is so at first.
    ///
    /// # Panics
    /// If it was called before.
    pub fn enable_flash(&self, graveyard: Arc<dyn Graveyard>) {
        let config = &self.0.config;
        let shared = Arc::new(Shared {
            pinned: Quota::new(config.pinned_percent_max),
            graced: Quota::new(config.grace_percent_max),
            capacity: AtomicU64::new(0),
            object_len_max: AtomicU64::new(0),
            spilling: AtomicU32::new(0),
            mark_percent: AtomicU32::new(85),
            short: AtomicU64::new(0),
            hasty_until: AtomicU64::new(0),
            readers: Arc::new(Readers((0..SLOTS).map(|_| AtomicU32::new(0)).collect())),
            room: tokio::sync::Notify::new(),
            graveyard,
        });
        for shard in 0..self.0.shard_count() {
            self.0.with(shard, |shard, _| shard.flash.enable(Arc::clone(&shared)));
        }
        assert!(self.0.flash.set(shared).is_ok(), "flash is enabled once");
    }

    /// What the devices hold in all, which quotas of pins and graces on flash are shares of, and the longest object that a
    /// record can hold. Longer ones are evicted as if there were no flash.
    pub fn set_flash_limits(&self, capacity: ByteLen, object_len_max: ByteLen) {
        self.0.flash().capacity.store(capacity.get(), Ordering::Relaxed);
        self.0.flash().object_len_max.store(object_len_max.get(), Ordering::Relaxed);
    }

    /// Whether anything can be written to flash now. While not, nothing waits for it: eviction is as without flash.
    pub fn set_spilling(&self, on: bool) {
        self.0.flash().spilling.store(on.into(), Ordering::Relaxed);
        self.0.flash().room.notify_waiters();
    }

    /// Fill of DRAM with dirty objects, in percent of the capacity, above which [`Store::next_spill`] gives any: 85 unless
    /// set. At 0 everything is spilled, as before a clean end. Returns what it was.
    pub fn set_spill_mark(&self, percent: u8) -> u8 {
        let was = self.0.flash().mark_percent.swap(percent.into(), Ordering::Relaxed);
        u8::try_from(was).expect("it was set here")
    }

    /// Told when dropping something in DRAM has become free, because it was spilled or will not be. A writer that got
    /// [`crate::StoreError::SpillWait`] takes `notified()` of it **before** it tries again, then waits.
    ///
    /// # Panics
    /// Without [`Store::enable_flash`], as all that follows here.
    pub fn room(&self) -> &tokio::sync::Notify {
        &self.0.flash().room
    }

    /// A writer has waited long enough: for the next second dirty objects are dropped and nobody waits.
    pub fn hurry(&self, now: Instant) {
        self.0.flash().hasty_until.fetch_max((now + HASTE).0, Ordering::Relaxed);
    }

    /// Reads in flight of a slot's records. None can begin once the slot was dropped.
    pub fn slot_readers(&self, slot: u16) -> u32 {
        self.0.flash().readers.0[usize::from(slot)].load(Ordering::Acquire) & !CLOSING
    }

    /// The object of a key, if it lies on flash and not in DRAM, to be promoted: what `LEASE` found nothing of. Counts as a
    /// read.
    pub fn flash_read(&self, now: Instant, key: &[u8]) -> Option<FlashRead> {
        self.on_flash(now, key, |shard, index, space| {
            shard.counters.hits += 1;
            shard.counters.flash_hits += 1;
            shard.touch_flash(index, space);
            shard.flash_read(index, true)
        })
    }

    /// As [`Store::flash_read`], for an object that nobody asked for yet. Counts nothing.
    pub fn flash_prefetch(&self, now: Instant, key: &[u8]) -> Option<FlashRead> {
        self.on_flash(now, key, |shard, index, _| shard.flash_read(index, true))
    }

    fn on_flash<R>(&self, now: Instant, key: &[u8], look: impl FnOnce(&mut Shard, u32, &Space) -> R) -> Option<R> {
        let hashed = self.hash(key);
        self.0.with(self.0.shard_of(hashed.hash), |shard, space| match shard.locate(now, hashed, space)? {
            At::Dram(_) => None,
            At::Flash(index) => Some(look(shard, index, space)),
        })
    }
}

impl Shard {
    /// A read of an object on flash, which keeps its slot from being reused.
    pub(crate) fn flash_read(&self, index: u32, promote: bool) -> FlashRead {
        let entry = self.flash.entries[index];
        let readers = Arc::clone(&self.flash.shared().readers);
        readers.0[usize::from(entry.place.slot)].fetch_add(1, Ordering::Relaxed);
        FlashRead {
            key: self.flash.key(index).into(),
            generation: entry.generation(),
            length: u64::from(entry.length),
            crc: entry.crc,
            place: entry.place,
            expires: self.flash.expiry(index),
            promote,
            readers,
        }
    }
}
