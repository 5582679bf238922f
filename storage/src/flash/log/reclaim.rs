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
//! - The last segment is for copies: spills wait until they are written, and leave it alone while anything is put off. Should there be none all the same, copies of what is not
//!   pinned are given up, and do not wait for what only this reclaim could bring.
//! - A suspect segment's records are all copied that verify and find room.

use super::Log;
use super::append::row_of;
use super::flight::Flight;
use super::segment::{Kept, Sealed, State};
use super::syncs::After;
use crate::PAGE;
use crate::dram::memory::{PlainMemory, lend, lend_mut};
use crate::flash::engine::{Engine, Op};
use crate::flash::format::{CHUNK_LEN, Head, PAGE_LEN, Record, RecordLayout, RecordView, Row, Table};
use crate::store::flash::{Current, Reinsertion, SlotRecord};
use protocol::base::{Crc, Instant, Millis, RawSpan, StableMemory, copy_and_crc, copy_into};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Reads of one segment that were wrong, at which it is quarantined.
pub(super) const MISMATCHES_MAX: u32 = 3;
/// Segments' worth of records that may be written again at once, if few were for long.
const CREDIT_SEGMENTS_MAX: u64 = 2;
/// How long a device that is let go waits for room for one object, while others are written to.
pub(crate) const LEAVE_PATIENCE: Millis = Millis(10_000);
/// At least what a record adds to its segment's footer beside its key.
const IN_FOOTER_LEN_MAX: usize = 128;
/// Records being copied at once.
const COPIES_MAX: usize = 4;
/// Share of a segment, in percent, that may be pinned for a reclaim to be worth it.
const PINNED_PERCENT_MAX: u64 = 75;
/// How soon a reclaim that was put off is tried again; twice as late each time, up to the second.
const RETRY_MIN: Millis = Millis(1_000);
const RETRY_MAX: Millis = Millis(60_000);
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

/// Segments whose pinned records find no room at present.
#[derive(Default)]
pub(super) struct PutOff {
    segments: Vec<u32>,
    /// When they are tried again.
    until: Option<Instant>,
    wait: Millis,
    /// When they were tried again last.
    tried: Option<Instant>,
    /// No segment can be reclaimed, and nothing is left to write to.
    full: bool,
}

/// A record being copied.
pub(super) struct Copy {
    reclaim: u64,
    from: u32,
    keep: Keep,
    layout: RecordLayout,
    memory: Arc<PlainMemory>,
    chunks: Vec<Crc>,
    inline: Vec<u8>,
    /// Where it is being written: segment, number of the record, and what tells the index.
    to: Option<(u32, usize, Reinsertion)>,
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

impl Copy {
    fn span(&self) -> RawSpan {
        let len = self.layout.pages() as usize * PAGE_LEN;
        RawSpan::new(Arc::clone(&self.memory) as Arc<dyn StableMemory>, 0, len).expect("as long as the record")
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

    /// Whether all that the device holds is pinned or set aside, or as good as.
    pub(super) fn is_full(&self) -> bool {
        self.put_off.full
    }

    /// Whether nothing that could be written to will come by itself.
    fn is_stuck(&self) -> bool {
        let coming = |state: &State| matches!(state, State::Free | State::Draining);
        let aside = |state: &State| matches!(state, State::Quarantined(_));
        self.segments.iter().all(|segment| aside(&segment.state))
            || !self.put_off.segments.is_empty() && !self.segments.iter().any(|segment| coming(&segment.state))
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

    /// What must not be lost finds no room: the segment stays as it is.
    fn put_off(&mut self) {
        let Some(Reclaim { segment, .. }) = self.reclaim else { return };
        self.abandon_reclaim();
        self.put_off.segments.push(segment);
        if self.put_off.until.is_none() {
            let wait = self.put_off.wait.0.clamp(RETRY_MIN.0, RETRY_MAX.0);
            // Tried again and in vain: a little later the next time.
            let in_vain = self.put_off.tried.is_some_and(|at| self.now < at + Millis(wait));
            let wait = if in_vain { Millis((wait * 2).min(RETRY_MAX.0)) } else { RETRY_MIN };
            self.put_off.until = Some(self.now + wait);
            self.put_off.wait = wait;
            tracing::warn!(
                device = %self.config.device,
                "what is pinned leaves no room to reclaim segments: they stay as they are for now"
            );
        }
    }

    fn retry_put_off(&mut self) {
        let Some(until) = self.put_off.until else { return };
        if until <= self.now {
            self.put_off.segments.clear();
            self.put_off.until = None;
            self.put_off.tried = Some(self.now);
            self.reclaim_due = true;
        }
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
                    Some(drain) => drain,
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
        self.reinsert_credit = allowance;
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

    fn step_copies(&mut self, engine: &mut dyn Engine) {
        while let Some((number, from, copying)) = self.copying() {
            let done = copying.todo.is_empty() && copying.read.is_empty() && copying.under_way == 0;
            if done {
                self.copies_written();
                continue;
            }
            if let Some(copy) = copying.read.pop_front() {
                if let Some(copy) = self.write_copy(engine, copy) {
                    // It is still one of those under way.
                    if let Some((_, _, copying)) = self.copying() {
                        copying.read.push_front(copy);
                    }
                    if self.leaving.is_none() && self.no_room_ahead() {
                        self.spare_room();
                        continue;
                    }
                    return;
                }
                continue;
            }
            if copying.under_way >= COPIES_MAX {
                return;
            }
            let Some(keep) = copying.todo.pop_front() else { return };
            copying.under_way += 1;
            let layout = keep.row.layout();
            let Ok(memory) = PlainMemory::new(layout.pages() as usize * PAGE_LEN) else {
                self.put_off();
                return;
            };
            let offset = self.offset(from, keep.row.page);
            let copy = Copy {
                reclaim: number,
                from,
                keep,
                layout,
                memory: Arc::new(memory),
                chunks: Vec::new(),
                inline: Vec::new(),
                to: None,
            };
            let parts = vec![copy.span()];
            let tag = self.flights.launch(Flight::CopyRead(Box::new(copy)));
            engine.submit(Op::read(tag, offset, parts));
        }
    }

    /// Whether what is left of room is for the copies of a reclaim.
    pub(super) fn keeps_room(&self) -> bool {
        (self.is_full() || !self.put_off.segments.is_empty() || self.reclaim.as_ref().is_some_and(Reclaim::needs_room))
            && !self.segments.iter().any(|segment| matches!(segment.state, State::Free))
    }

    /// Whether waiting for room would be waiting for this very reclaim.
    fn no_room_ahead(&self) -> bool {
        let coming =
            self.segments.iter().any(|segment| segment.state.is_free() || matches!(segment.state, State::Draining));
        !coming
    }

    /// There is no room for all copies: only what must be kept is, and if that has none either, all of it stays where it is.
    fn spare_room(&mut self) {
        let Some((_, _, copying)) = self.copying() else { return };
        let before = copying.read.len() + copying.todo.len();
        let read = copying.read.len();
        copying.read.retain(|copy| copy.keep.pinned);
        copying.under_way -= read - copying.read.len();
        copying.todo.retain(|keep| keep.pinned);
        let left = copying.read.len() + copying.todo.len();
        if left == before {
            self.put_off();
        }
    }

    pub(super) fn copy_read_done(&mut self, mut copy: Copy, result: io::Result<()>) {
        let life = *self.segments[copy.from as usize].life();
        let whole = result.is_ok() && copy.verify(&life);
        let place = self.place(copy.from, copy.keep.row.page);
        if !whole {
            self.figures.mismatches.fetch_add(1, Relaxed);
            self.store.drop_record(&copy.keep.key, copy.keep.row.generation, place);
        }
        let Some((number, _, copying)) = self.copying() else { return };
        if number != copy.reclaim {
            return;
        }
        if whole {
            copying.read.push_back(Box::new(copy));
        } else {
            copying.under_way -= 1;
        }
    }

    /// Gives it back if there is no room yet.
    fn write_copy(&mut self, engine: &mut dyn Engine, mut copy: Box<Copy>) -> Option<Box<Copy>> {
        if self.leaving.is_some() {
            if self.keep_in_dram(&copy) {
                self.leave_until = self.now + LEAVE_PATIENCE;
            } else if self.now < self.leave_until {
                // Other devices are being written to: there will be room.
                return Some(copy);
            }
            if let Some((_, _, copying)) = self.copying() {
                copying.under_way -= 1;
            }
            return None;
        }
        let key_len = copy.keep.key.len();
        let pages = copy.layout.pages();
        let room = self.room(Head::Reinserted, pages, key_len).or_else(|| self.room(Head::New, pages, key_len));
        let Some((segment, page)) = room else { return Some(copy) };
        let from = self.place(copy.from, copy.keep.row.page);
        let to = self.place(segment, page);
        let row = copy.keep.row;
        let Some(reinsertion) = self.store.reinsert(self.now, &copy.keep.key, row.generation, from, to) else {
            if let Some((_, _, copying)) = self.copying() {
                copying.under_way -= 1;
            }
            return None;
        };
        let record = Record {
            page,
            generation: row.generation,
            length: u64::from(row.length),
            crc: row.crc,
            expires_ms: self.expires_ms(reinsertion.expires),
            key: &copy.keep.key,
        };
        let header_len = copy.layout.header_len();
        let mut header = copy.span().part(0, header_len).expect("the header's pages");
        let life = *self.segments[segment as usize].life();
        record.encode(&life, &copy.chunks, &copy.inline, lend_mut(&mut header));
        let number = self.push(segment, row_of(&record), &copy.keep.key);
        copy.to = Some((segment, number, reinsertion));
        let parts = vec![copy.span()];
        let tag = self.flights.launch(Flight::CopyWrite(copy));
        let offset = self.offset(segment, page);
        self.writes_in_flight += 1;
        engine.submit(Op::write(tag, offset, parts));
        None
    }

    pub(super) fn copy_write_done(&mut self, copy: Copy, result: io::Result<()>) {
        self.writes_in_flight -= 1;
        let (segment, record, reinsertion) = copy.to.expect("a copy being written goes somewhere");
        let whole = self.record_done(segment, record, &result);
        if whole {
            let bytes = u64::from(copy.layout.pages()) * PAGE;
            self.figures.written.fetch_add(bytes, Relaxed);
            self.figures.reinserted.fetch_add(1, Relaxed);
            self.figures.reinserted_bytes.fetch_add(bytes, Relaxed);
            let now = self.now;
            self.budget.spend(now, bytes);
        }
        let Some((number, _, copying)) = self.copying() else { return };
        if number == copy.reclaim {
            copying.under_way -= 1;
            if whole {
                copying.copied.push(reinsertion);
            }
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

    /// Whether nothing is left that the index could know of.
    pub(super) fn is_left(&self) -> bool {
        let left = |state: &State| state.is_free() || matches!(state, State::Quarantined(_));
        self.reclaim.is_none() && self.segments.iter().all(|segment| left(&segment.state))
    }

    /// Brings the object of a record into DRAM, where it stays when the record is dropped. `false` if there is no room yet.
    fn keep_in_dram(&mut self, copy: &Copy) -> bool {
        let read = self.store.flash_prefetch(self.now, &copy.keep.key);
        let Some(read) = read.filter(|read| read.generation == copy.keep.row.generation) else { return true };
        let Ok(promotion) = self.store.promote(self.now, &read, &self.account) else { return false };
        let to = promotion.span();
        if copy.layout.inline {
            copy_into(&copy.inline, &to);
        } else {
            let from =
                copy.span().part(copy.layout.header_len(), to.len()).expect("the payload lies behind the header");
            copy_and_crc(&from, &to, Crc::default());
        }
        // Whoever removed the object meanwhile wanted it gone. What is there is dirty before anybody can evict it.
        let _guard = promotion.publish(self.now);
        let place = self.place(copy.from, copy.keep.row.page);
        self.store.drop_record(&copy.keep.key, copy.keep.row.generation, place);
        true
    }
}

impl Copy {
    /// Whether it is the record that its row tells; keeps what its new header needs.
    fn verify(&mut self, life: &crate::flash::format::Life) -> bool {
        let span = self.span();
        let header_len = self.layout.header_len();
        let header = span.part(0, header_len).expect("the header's pages");
        let Ok(view) = RecordView::decode(lend(&header), life, self.keep.row.page) else { return false };
        let row = &self.keep.row;
        let same = view.key == &self.keep.key[..]
            && view.generation == row.generation
            && view.length == u64::from(row.length)
            && view.crc == row.crc;
        if !same {
            return false;
        }
        let length = row.length as usize;
        for (at, crc) in view.chunks().enumerate() {
            let from = at * CHUNK_LEN;
            let len = CHUNK_LEN.min(length - from);
            let chunk = span.part(header_len + from, len).expect("chunks lie in their payload");
            if protocol::base::crc_of(&chunk) != crc {
                return false;
            }
            self.chunks.push(crc);
        }
        self.inline = view.inline.map(<[u8]>::to_vec).unwrap_or_default();
        true
    }
}

fn records_of(table: &Table) -> impl Iterator<Item = SlotRecord<'_>> {
    table.iter().map(|(row, key)| SlotRecord { key, generation: row.generation, page: row.page })
}
