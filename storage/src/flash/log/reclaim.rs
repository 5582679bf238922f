//! The oldest segment gives its place back; what is worth keeping is written once more.
//!
//! Invariants:
//! - One segment at a time. At most [`super::LogConfig::reinsert_percent`] of what is written is written again; pinned records
//!   always are.
//! - A copy counts only when it is durable; until then the record it was made from does. Then the rest is dropped from the
//!   index, and the segment waits for its last reader.
//! - What is pinned is never dropped: what was pinned while others were copied is copied too, and what finds no room puts the
//!   reclaim off. The segment stays as it is, and another one's turn comes. So does one that would gain too little: writing
//!   what is pinned again and again wears the device and makes no room.
//! - The last segment is for copies: spills wait until they are written, and leave it alone while anything is put off. Should
//!   there be none all the same, copies of what is not pinned are given up, and do not wait for what only this reclaim could
//!   bring.
//! - A suspect segment's records are all copied that verify and find room.

mod copy;
mod leave;
mod put_off;

pub(super) use copy::Copy;
pub(crate) use leave::{LEAVE_PATIENCE, Leaving};
pub(super) use put_off::PutOff;

use super::Log;
use super::flight::Flight;
use super::segment::{Kept, Sealed, State};
use super::syncs::After;
use crate::PAGE;
use crate::dram::memory::{PlainMemory, lend};
use crate::flash::engine::{Engine, Op};
use crate::flash::format::{PAGE_LEN, Row, Table};
use crate::store::flash::{Current, Reinsertion, SlotRecord};
use protocol::base::{RawSpan, StableMemory};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Reads of one segment that were wrong, at which it is quarantined.
pub(super) const MISMATCHES_MAX: u32 = 3;
/// Segments' worth of records that may be written again at once, if few were for long.
const CREDIT_SEGMENTS_MAX: u64 = 2;
/// At least what a record adds to its segment's footer beside its key.
const IN_FOOTER_LEN_MAX: usize = 128;
/// Share of a segment, in percent, that may be pinned for a reclaim to be worth it.
const PINNED_PERCENT_MAX: u64 = 75;
/// Devices with fewer segments keep one free ahead of need, larger ones two.
const SEGMENTS_MANY: usize = 64;

/// A segment on its way to be free.
pub(super) struct Reclaim {
    segment: u32,
    /// Tells this attempt from an earlier one at the same segment.
    number: u64,
    stage: Stage,
}

enum Stage {
    /// Its table is being read.
    Table,
    /// Records are copied.
    Copying(Copying),
    /// The copies are being synced.
    Syncing { table: Table, copied: Vec<Reinsertion> },
}

struct Copying {
    table: Table,
    todo: VecDeque<Keep>,
    /// Read, verified, not written yet.
    read: VecDeque<Box<Copy>>,
    under_way: usize,
    copied: Vec<Reinsertion>,
}

/// A record that is worth keeping.
struct Keep {
    row: Row,
    key: Box<[u8]>,
    /// Whether it must be.
    pinned: bool,
}

impl Reclaim {
    /// Whether room may still be needed for copies.
    fn needs_room(&self) -> bool {
        match &self.stage {
            Stage::Table => true,
            Stage::Copying(copying) => copying.under_way > 0 || self.is_copying(),
            Stage::Syncing { .. } => false,
        }
    }

    /// Whether it needs a segment to copy to.
    pub(super) fn is_copying(&self) -> bool {
        matches!(&self.stage, Stage::Copying(copying) if !copying.todo.is_empty() || !copying.read.is_empty())
    }

    /// Whether it goes on only when the log is stepped.
    fn is_waiting(&self) -> bool {
        matches!(&self.stage, Stage::Copying(copying) if copying.under_way == 0)
    }
}

impl Log {
    /// Whether a segment waits for its readers.
    pub(super) fn is_draining(&self) -> bool {
        self.moving.iter().any(|&segment| matches!(self.segments[segment as usize].state, State::Draining))
    }

    pub(super) fn step_reclaim(&mut self, engine: &mut dyn Engine) {
        self.free_drained();
        self.retry_put_off();
        if self.reclaim.is_none() && std::mem::take(&mut self.reclaim_due) {
            match self.next_to_reclaim() {
                Some(segment) => self.begin_reclaim(engine, segment),
                None => self.put_off.full = self.is_stuck(),
            }
        }
        self.step_copies(engine);
    }

    /// When a reclaim goes on although nothing happens.
    pub(super) fn next_reclaim(&self) -> Option<Duration> {
        if !self.health.is_on() {
            return None;
        }
        if self.leaving.is_some() && self.reclaim.as_ref().is_some_and(Reclaim::is_copying) {
            return Some(Duration::from_millis(2));
        }
        let waits = self.reclaim.as_ref().map_or(self.reclaim_due, Reclaim::is_waiting);
        let retry = self.put_off.until.map(|until| until.since(self.now).max(Duration::from_millis(1)));
        waits.then_some(Duration::from_millis(1)).or(retry)
    }

    fn free_drained(&mut self) {
        for at in 0..self.moving.len() {
            let number = self.moving[at];
            let slot = self.slot(number);
            let segment = &mut self.segments[number as usize];
            if matches!(segment.state, State::Draining) && self.store.slot_readers(slot) == 0 {
                segment.used = 0;
                if segment.mismatches >= MISMATCHES_MAX {
                    tracing::error!(device = %self.config.device, segment = number, "a segment is quarantined");
                    segment.state = State::Quarantined(Kept::Nothing);
                    segment.look_at = self.now + super::scrub::wait_after(segment.returns);
                } else {
                    segment.returns = 0;
                    segment.state = State::Free;
                }
                self.syncs.states_changed = true;
                self.ledger.freed(slot);
            }
        }
    }

    fn next_to_reclaim(&self) -> Option<u32> {
        let sealed = self.segments.iter().enumerate().filter_map(|(at, segment)| match &segment.state {
            State::Sealed(sealed) => Some((at, segment, sealed.order)),
            _ => None,
        });
        let put_off = &self.put_off.segments;
        let sealed = sealed.filter(|(at, ..)| !put_off.iter().any(|&segment| segment as usize == *at));
        let suspect = sealed.clone().find(|(_, segment, _)| segment.mismatches >= MISMATCHES_MAX).map(|(at, ..)| at);
        let free =
            self.segments.iter().filter(|segment| matches!(segment.state, State::Free | State::Draining)).count();
        let wanted = if self.segments.len() < SEGMENTS_MANY { 1 } else { 2 };
        let oldest = || {
            let needed = if self.closing { self.leaving.is_some() } else { free < wanted };
            needed.then(|| sealed.min_by_key(|&(_, _, order)| order).map(|(at, ..)| at)).flatten()
        };
        suspect.or_else(oldest).map(|at| u32::try_from(at).expect("segments are counted in 32 bits"))
    }

    fn begin_reclaim(&mut self, engine: &mut dyn Engine, segment: u32) {
        let entry = &mut self.segments[segment as usize];
        let State::Sealed(mut sealed) = std::mem::replace(&mut entry.state, State::Free) else {
            panic!("only sealed segments are reclaimed");
        };
        let table = sealed.table.take();
        let footer_pages = sealed.footer_pages;
        entry.state = State::Reclaiming(sealed);
        self.reclaim = Some(Reclaim { segment, number: self.take_seal_order(), stage: Stage::Table });
        if let Some(table) = table {
            self.survey(segment, table);
            return;
        }
        let len = footer_pages as usize * PAGE_LEN;
        match PlainMemory::new(len.max(PAGE_LEN)).map(Arc::new) {
            Ok(memory) => {
                let span = RawSpan::new(Arc::clone(&memory) as Arc<dyn StableMemory>, 0, len).expect("all of it");
                let end = self.config.geometry.offset_of(segment) + self.config.geometry.segment_len;
                let tag = self.flights.launch(Flight::Table { segment, memory });
                engine.submit(Op::read(tag, end - len as u64, vec![span]));
            }
            Err(error) => {
                tracing::warn!(%error, "no memory to reclaim a segment");
                self.abandon_reclaim();
            }
        }
    }

    pub(super) fn table_done(&mut self, segment: u32, memory: &Arc<PlainMemory>, result: io::Result<()>) {
        let expected =
            matches!(&self.reclaim, Some(Reclaim { segment: at, stage: Stage::Table, .. }) if *at == segment);
        if !expected {
            return;
        }
        let span = RawSpan::new(Arc::clone(memory) as Arc<dyn StableMemory>, 0, memory.len()).expect("all of it");
        if result.is_err() {
            // Tried again; if the device goes on like this it is taken off.
            self.abandon_reclaim();
            return;
        }
        let life = *self.segments[segment as usize].life();
        let pages = self.config.geometry.pages();
        match Table::decode(lend(&span), &life, pages) {
            Ok((table, _)) => self.survey(segment, table),
            Err(_) => {
                // Its records are read as before; a scrub or the next start finds them by their headers.
                tracing::error!(device = %self.config.device, segment, "a footer cannot be read: its segment is quarantined");
                self.figures.mismatches.fetch_add(1, Relaxed);
                self.reclaim = None;
                self.reclaim_due = true;
                self.segments[segment as usize].state = State::Quarantined(Kept::Records);
                self.syncs.states_changed = true;
            }
        }
    }

    fn survey(&mut self, segment: u32, table: Table) {
        let slot = self.slot(segment);
        let suspect = self.segments[segment as usize].mismatches >= MISMATCHES_MAX;
        let current = self.store.survey_slot(self.now, slot, records_of(&table));
        let rows: Vec<(Row, &[u8])> = table.iter().collect();
        let mut allowance = self.reinsert_credit;
        let mut todo = VecDeque::new();
        for pinned in [true, false] {
            for found in current.iter().filter(|found| found.pinned == pinned) {
                let (row, key) = rows[found.index];
                let bytes = u64::from(row.layout().pages()) * PAGE;
                let kept = match self.leaving {
                    Some(Leaving::Kept(_)) => true,
                    Some(Leaving::Dropped) => false,
                    None => pinned || suspect || (found.hot && bytes <= allowance),
                };
                if kept {
                    allowance = allowance.saturating_sub(bytes);
                    todo.push_back(Keep { row, key: key.into(), pinned });
                }
            }
        }
        if self.leaving.is_none() && !self.is_worth_it(suspect, todo.iter().filter(|keep| keep.pinned)) {
            self.put_off();
            return;
        }
        if self.leaving.is_none() {
            self.reinsert_credit = allowance;
        }
        let copying = Copying { table, todo, read: VecDeque::new(), under_way: 0, copied: Vec::new() };
        self.reclaim.as_mut().expect("a reclaim is under way").stage = Stage::Copying(copying);
    }

    /// Whether what must be copied of a segment finds room, and leaves more than it takes.
    fn is_worth_it<'a>(&self, suspect: bool, keeps: impl Iterator<Item = &'a Keep>) -> bool {
        let (mut pages, mut in_footer) = (0, 0);
        for keep in keeps {
            pages += keep.row.layout().pages();
            in_footer += keep.key.len() + IN_FOOTER_LEN_MAX;
        }
        let segment_pages = self.config.geometry.pages();
        if u64::from(pages) * 100 > u64::from(segment_pages) * PINNED_PERCENT_MAX && !suspect {
            return false;
        }
        let mut heads = self.heads.iter().flatten().map(|&head| &self.segments[head as usize].state);
        pages == 0
            || !self.no_room_ahead()
            || heads.any(|state| matches!(state, State::Open(open) if open.fits(pages, in_footer, segment_pages)))
    }

    /// So many bytes were spilled: hot records may be written again in their proportion. Segments differ in how many they have,
    /// so what one leaves is kept for the next ones.
    pub(super) fn earn_reinsertion(&mut self, spilled: u64) {
        let percent = u64::from(self.config.reinsert_percent.min(99));
        let max = CREDIT_SEGMENTS_MAX * self.config.geometry.segment_len;
        self.reinsert_credit = (self.reinsert_credit + spilled * percent / (100 - percent)).min(max);
    }

    fn copying(&mut self) -> Option<(u64, u32, &mut Copying)> {
        match &mut self.reclaim {
            Some(Reclaim { number, segment, stage: Stage::Copying(copying) }) => Some((*number, *segment, copying)),
            _ => None,
        }
    }

    fn copies_written(&mut self) {
        let Some(Reclaim { segment, number, stage: Stage::Copying(copying) }) = self.reclaim.take() else { return };
        let Copying { table, copied, .. } = copying;
        if copied.is_empty() {
            self.end_reclaim(segment, number, table);
            return;
        }
        self.reclaim = Some(Reclaim { segment, number, stage: Stage::Syncing { table, copied } });
        self.syncs.after(After::Copied(segment));
    }

    pub(super) fn copies_synced(&mut self, segment: u32) {
        match self.reclaim.take() {
            Some(Reclaim { segment: at, number, stage: Stage::Syncing { table, copied } }) if at == segment => {
                for reinsertion in copied {
                    reinsertion.done();
                }
                self.end_reclaim(segment, number, table);
            }
            other => self.reclaim = other,
        }
    }

    /// Drops what is left, unless some of it was pinned meanwhile or a pinned record's copy failed.
    fn end_reclaim(&mut self, segment: u32, number: u64, table: Table) {
        let slot = self.slot(segment);
        self.store.close_slot(slot);
        let mut left = self.store.survey_slot(self.now, slot, records_of(&table));
        left.retain(|found| found.pinned && self.leaving.is_none());
        if left.is_empty() {
            self.drop_reclaimed(segment, &table);
            self.store.open_slot(slot);
            return;
        }
        self.store.open_slot(slot);
        let rows: Vec<(Row, &[u8])> = table.iter().collect();
        let keep = |found: &Current| {
            let (row, key) = rows[found.index];
            Keep { row, key: key.into(), pinned: true }
        };
        let todo = left.iter().map(keep).collect();
        let copying = Copying { table, todo, read: VecDeque::new(), under_way: 0, copied: Vec::new() };
        self.reclaim = Some(Reclaim { segment, number, stage: Stage::Copying(copying) });
    }

    fn drop_reclaimed(&mut self, segment: u32, table: &Table) {
        let dropped = self.store.drop_slot(self.slot(segment), records_of(table));
        self.figures.dropped.fetch_add(dropped, Relaxed);
        self.figures.reclaimed.fetch_add(1, Relaxed);
        self.put_off.full = false;
        self.segments[segment as usize].state = State::Draining;
        self.moving.push(segment);
        self.reclaim_due = true;
        self.syncs.states_changed = true;
    }

    /// The segment stays as it was; copies that were made are buried.
    pub(super) fn abandon_reclaim(&mut self) {
        self.reclaim_due = true;
        let Some(Reclaim { segment, stage, .. }) = self.reclaim.take() else { return };
        let table = match stage {
            Stage::Table => None,
            Stage::Copying(copying) => Some(copying.table),
            Stage::Syncing { table, .. } => Some(table),
        };
        let entry = &mut self.segments[segment as usize];
        entry.state = match std::mem::replace(&mut entry.state, State::Free) {
            State::Reclaiming(sealed) => {
                State::Sealed(Sealed { table: if sealed.footer_pages == 0 { table } else { None }, ..sealed })
            }
            other => other,
        };
    }
}

fn records_of(table: &Table) -> impl Iterator<Item = SlotRecord<'_>> {
    table.iter().map(|(row, key)| SlotRecord { key, generation: row.generation, page: row.page })
}
