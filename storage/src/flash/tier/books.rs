//! What is remembered of records outside of them: deaths, pins and times in the journal, lives of slots.
//!
//! Role: tells the journal in its terms (device, segment, life) what store and logs tell in theirs (slots).
//!
//! Invariants:
//! - A slot's life changes only when its new header is durable; nothing is indexed in it then.

use super::TierClock;
use crate::flash::format::{DeviceId, Life, Table};
use crate::flash::journal::{Journal, Note, RecordAt};
use crate::flash::log::Ledger;
use crate::flash::meta::MetaStore;
use crate::store::flash::{Buried, FlashPlace, Graveyard, Pinned};
use parking_lot::RwLock;
use protocol::base::{Generation, Instant};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SLOTS: usize = 1 << 16;

/// The slots of one device.
#[derive(Clone, Copy, Debug)]
struct Range {
    first: u16,
    count: u32,
    device: u16,
    id: DeviceId,
}

/// See the module's text.
pub(in crate::flash) struct Books {
    journal: Journal,
    meta: Box<dyn MetaStore>,
    clock: Arc<dyn TierClock>,
    ranges: RwLock<Vec<Range>>,
    lives: Box<[AtomicU64]>,
}

impl Books {
    pub(in crate::flash) fn new(journal: Journal, meta: Box<dyn MetaStore>, clock: Arc<dyn TierClock>) -> Self {
        Self {
            journal,
            meta,
            clock,
            ranges: RwLock::new(Vec::new()),
            lives: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(super) fn meta(&self) -> &dyn MetaStore {
        &*self.meta
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Slots for a device of `count` segments; `None` if there are not so many left in a row.
    pub(super) fn take_slots(&self, id: DeviceId, device: u16, count: u32) -> Option<u16> {
        let mut ranges = self.ranges.write();
        ranges.sort_unstable_by_key(|range| range.first);
        let mut first = 0u32;
        for range in ranges.iter() {
            if first.saturating_add(count) <= u32::from(range.first) {
                break;
            }
            first = u32::from(range.first) + range.count;
        }
        let first = u16::try_from(first).ok().filter(|first| usize::from(*first) + count as usize <= SLOTS)?;
        ranges.push(Range { first, count, device, id });
        Some(first)
    }

    /// A device is gone; its slots may be another's.
    pub(super) fn give_slots(&self, first: u16) {
        self.ranges.write().retain(|range| range.first != first);
    }

    /// The life that a slot was found in.
    pub(super) fn found(&self, slot: u16, life: u64) {
        self.lives[usize::from(slot)].store(life, Ordering::Relaxed);
        if let Some((device, segment)) = self.segment_of(slot) {
            self.journal.begun(device, segment, life);
        }
    }

    /// The life that a slot is in.
    pub(super) fn life_of(&self, slot: u16) -> u64 {
        self.lives[usize::from(slot)].load(Ordering::Relaxed)
    }

    fn segment_of(&self, slot: u16) -> Option<(u16, u16)> {
        let (range, segment) = self.range_of(slot)?;
        Some((range.device, segment))
    }

    fn range_of(&self, slot: u16) -> Option<(Range, u16)> {
        self.ranges.read().iter().find_map(|range| {
            let segment = u32::from(slot).checked_sub(u32::from(range.first)).filter(|at| *at < range.count)?;
            Some((*range, u16::try_from(segment).ok()?))
        })
    }

    fn record_at(&self, place: FlashPlace, generation: Generation) -> Option<RecordAt> {
        let (device, segment) = self.segment_of(place.slot)?;
        let life = self.lives[usize::from(place.slot)].load(Ordering::Relaxed);
        Some(RecordAt { device, segment, life, page: place.page, generation })
    }

    fn unix_ms(&self, at: Option<Instant>) -> u64 {
        at.map_or(0, |at| {
            let left = at.0.saturating_sub(self.clock.now().0).div_ceil(1_000_000);
            self.clock.unix_ms().saturating_add(left).max(1)
        })
    }
}

impl Ledger for Books {
    fn begun(&self, slot: u16, life: &Life) {
        self.found(slot, life.life);
    }

    fn sealed(&self, slot: u16, life: &Life, table: &Table) {
        if let Some((range, segment)) = self.range_of(slot) {
            self.meta.put(range.id, u32::from(segment), table.encode(life, self.clock.unix_ms()));
        }
    }

    fn freed(&self, slot: u16) {
        if let Some((range, segment)) = self.range_of(slot) {
            self.meta.remove(range.id, u32::from(segment));
        }
    }
}

impl Graveyard for Books {
    fn bury(&self, dead: &[Buried]) {
        let notes: Vec<Note<'_>> =
            dead.iter().filter_map(|dead| self.record_at(dead.place, dead.generation).map(Note::Dead)).collect();
        self.journal.append(&notes);
    }

    fn bury_all(&self, below: Generation) {
        self.journal.append(&[Note::DeadBelow(below)]);
    }

    fn retire(&self, slot: u16) {
        if let Some((device, segment)) = self.segment_of(slot) {
            let life = self.lives[usize::from(slot)].load(Ordering::Relaxed);
            self.journal.append(&[Note::Retired { device, segment, life }]);
        }
    }

    fn pinned(&self, key: &[u8], generation: Generation, pins: Pinned, order: u64) {
        let until_ms = self.unix_ms(pins.until);
        self.journal.append(&[Note::Pins { key, generation, endless: pins.endless, until_ms, order }]);
    }

    fn expiry(&self, record: Buried, expires: Option<Instant>, order: u64) {
        let expires_ms = self.unix_ms(expires);
        if let Some(record) = self.record_at(record.place, record.generation) {
            self.journal.append(&[Note::Expiry { record, expires_ms, order }]);
        }
    }
}
