//! Lives of segments begin and end: a durable header before the first record, footer and sync behind the last.
//!
//! Invariants:
//! - A new life has a higher number than any other of the device, and a nonce of its own.
//! - A footer is written when all writes of its segment are over, and lists those that succeeded.

use super::Log;
use super::segment::{Begun, Closing, Open, Sealed, State};
use super::syncs::After;
use crate::PAGE;
use crate::dram::memory::{PlainMemory, lend_mut};
use crate::flash::engine::{Engine, Op, Scratch};
use crate::flash::format::{Head, Life, Nonce, PAGE_LEN, SegmentHeader};
use crate::flash::log::flight::Flight;
use protocol::base::RawSpan;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

impl Log {
    /// Begins the lives of the segments that will be needed next.
    pub(super) fn step_begin(&mut self, engine: &mut dyn Engine) {
        if self.closing {
            return;
        }
        let reinserting = self.reclaim.as_ref().is_some_and(super::Reclaim::is_copying);
        for (which, wanted) in [(0, true), (1, reinserting && self.segments.len() >= super::REINSERT_HEAD_SEGMENTS_MIN)]
        {
            if wanted && self.next[which].is_none() {
                self.begin(engine, which);
            }
        }
    }

    fn begin(&mut self, engine: &mut dyn Engine, which: usize) {
        // The one that was free longest: its readers and the device's own wear profit.
        let free = self.segments.iter().enumerate().filter(|(_, segment)| matches!(segment.state, State::Free));
        let Some((at, _)) = free.min_by_key(|(_, segment)| segment.life_number) else { return };
        let Some(mut page) = self.pool.take() else { return };
        let number = u32::try_from(at).expect("segments are counted in 32 bits");
        self.life_max += 1;
        let life = Life { segment: number, life: self.life_max, nonce: Nonce::random() };
        let head = if which == 1 { Head::Reinserted } else { Head::New };
        let header = SegmentHeader { device: self.config.device, life, head, opened_ms: self.clock.unix_ms() };
        page.bytes_mut()[..PAGE_LEN].copy_from_slice(&header.encode());
        let parts = vec![page.span(PAGE_LEN)];
        let segment = &mut self.segments[at];
        segment.state = State::Beginning(Begun::Writing);
        segment.life = Some(life);
        segment.life_number = life.life;
        segment.mismatches = 0;
        segment.lost = false;
        segment.used = 0;
        self.next[which] = Some(number);
        self.moving.push(number);
        self.syncs.states_changed = true;
        let tag = self.flights.launch(Flight::Begin { segment: number, page });
        engine.submit(Op::write(tag, self.offset(number, 0), parts));
    }

    pub(super) fn begin_done(&mut self, segment: u32, result: io::Result<()>) {
        self.syncs.write_done();
        match result {
            Ok(()) if self.health.is_on() => self.syncs.after(After::Begun(segment)),
            Ok(()) | Err(_) => self.begin_failed(segment),
        }
    }

    pub(super) fn begin_synced(&mut self, segment: u32) {
        self.figures.written.fetch_add(PAGE, Relaxed);
        self.segments[segment as usize].state = State::Beginning(Begun::Synced);
    }

    /// Reads new headers back: if one was lost on its way, the records of the life before would verify again.
    pub(super) fn step_proofs(&mut self, engine: &mut dyn Engine) {
        for at in 0..self.moving.len() {
            let segment = self.moving[at];
            let state = &mut self.segments[segment as usize].state;
            if !matches!(state, State::Beginning(Begun::Synced)) {
                continue;
            }
            let Some(page) = self.pool.take() else { return };
            *state = State::Beginning(Begun::Reading);
            let parts = vec![page.span(PAGE_LEN)];
            let tag = self.flights.launch(Flight::Proof { segment, page });
            engine.submit(Op::read(tag, self.offset(segment, 0), parts));
        }
    }

    /// The device is off: what was to be read back begins anew when it is on again.
    pub(super) fn forget_proofs(&mut self) {
        for at in 0..self.moving.len() {
            let segment = self.moving[at];
            if matches!(self.segments[segment as usize].state, State::Beginning(Begun::Synced)) {
                self.begin_failed(segment);
            }
        }
    }

    pub(super) fn proof_done(&mut self, segment: u32, page: &Scratch, result: io::Result<()>) {
        let life = *self.segments[segment as usize].life();
        let found = SegmentHeader::decode(&page.bytes()[..PAGE_LEN], &self.config.device, segment);
        if result.is_ok() && found.is_ok_and(|found| found.life == life) && self.health.is_on() {
            self.segments[segment as usize].state = State::Ready;
            self.ledger.begun(self.slot(segment), &life);
            return;
        }
        self.begin_failed(segment);
        if result.is_ok() {
            self.count_error(&io::Error::other("a segment's header is not what was written"));
        }
    }

    /// The header did not reach the device: the segment holds nothing of either life that counts.
    pub(super) fn begin_failed(&mut self, segment: u32) {
        self.segments[segment as usize].state = State::Free;
        self.syncs.states_changed = true;
        for next in &mut self.next {
            if *next == Some(segment) {
                *next = None;
            }
        }
    }

    /// Makes the segment that was begun for a head its head. Where the first record of it goes.
    pub(super) fn open_next(&mut self, which: usize) -> Option<(u32, u16)> {
        let segment = self.next[which]?;
        if self.closing || !matches!(self.segments[segment as usize].state, State::Ready) {
            return None;
        }
        self.next[which] = None;
        self.heads[which] = Some(segment);
        self.segments[segment as usize].state = State::Open(Box::new(Open::new()));
        self.moving.push(segment);
        self.syncs.states_changed = true;
        Some((segment, 1))
    }

    /// Appends nothing more to an open segment.
    pub(super) fn seal(&mut self, segment: u32) {
        for head in &mut self.heads {
            if *head == Some(segment) {
                *head = None;
            }
        }
        let state = &mut self.segments[segment as usize].state;
        *state = match std::mem::replace(state, State::Free) {
            State::Open(open) => State::Sealing(open, Closing::Records),
            other => other,
        };
        self.syncs.states_changed = true;
    }

    /// Writes the footers of segments whose records are all written.
    pub(super) fn step_seal(&mut self, engine: &mut dyn Engine) {
        if self.closing && self.spills.is_empty() {
            for segment in self.heads.into_iter().flatten() {
                self.seal(segment);
            }
            // A segment that was begun gets a footer too: the next start would search all of it for records.
            for which in 0..self.next.len() {
                if let Some(segment) = self.next[which]
                    && matches!(self.segments[segment as usize].state, State::Ready)
                {
                    self.next[which] = None;
                    self.segments[segment as usize].state = State::Sealing(Box::new(Open::new()), Closing::Records);
                    self.moving.push(segment);
                }
            }
        }
        for at in 0..self.moving.len() {
            let segment = self.moving[at];
            let entry = &self.segments[segment as usize];
            let State::Sealing(open, Closing::Records) = &entry.state else { continue };
            if open.writes > 0 || entry.lost {
                continue;
            }
            if let Err(error) = self.write_footer(engine, segment) {
                self.fence(&format!("no memory for a footer: {error}"));
                return;
            }
        }
    }

    fn write_footer(&mut self, engine: &mut dyn Engine, segment: u32) -> io::Result<()> {
        let sealed_ms = self.clock.unix_ms();
        let entry = &mut self.segments[segment as usize];
        let life = *entry.life();
        let State::Sealing(open, closing) = &mut entry.state else { return Ok(()) };
        let footer = open.written().encode(&life, sealed_ms);
        let memory = Arc::new(PlainMemory::new(footer.len())?);
        let mut span = RawSpan::new(Arc::clone(&memory) as Arc<_>, 0, footer.len()).expect("all of it");
        lend_mut(&mut span).copy_from_slice(&footer);
        *closing = Closing::Footer;
        let end = self.config.geometry.offset_of(segment) + self.config.geometry.segment_len;
        let tag = self.flights.launch(Flight::Footer { segment, memory });
        engine.submit(Op::write(tag, end - footer.len() as u64, vec![span]));
        Ok(())
    }

    pub(super) fn footer_done(&mut self, segment: u32, result: io::Result<()>) {
        self.syncs.write_done();
        match result {
            Ok(()) if self.health.is_on() && !self.segments[segment as usize].lost => {
                if let State::Sealing(_, closing) = &mut self.segments[segment as usize].state {
                    *closing = Closing::Sync;
                }
                self.syncs.after(After::Sealed(segment));
            }
            Ok(()) => self.seal_failed(segment),
            Err(error) => {
                self.seal_failed(segment);
                self.fence(&format!("a footer could not be written: {error}"));
            }
        }
    }

    pub(super) fn seal_synced(&mut self, segment: u32) {
        let order = self.take_seal_order();
        let slot = self.slot(segment);
        let entry = &mut self.segments[segment as usize];
        let State::Sealing(open, Closing::Sync) = std::mem::replace(&mut entry.state, State::Free) else {
            panic!("segment {segment} was sealing");
        };
        let table = open.written();
        let footer_pages = table.footer_pages();
        self.figures.written.fetch_add(u64::from(footer_pages) * PAGE, Relaxed);
        entry.state = State::Sealed(Sealed { order, footer_pages, table: None });
        self.syncs.states_changed = true;
        self.ledger.sealed(slot, self.segments[segment as usize].life(), &table);
    }

    /// Its records stay as they are, without a footer on flash that could be relied on.
    pub(super) fn seal_failed(&mut self, segment: u32) {
        let order = self.take_seal_order();
        let entry = &mut self.segments[segment as usize];
        entry.state = match std::mem::replace(&mut entry.state, State::Free) {
            State::Open(open) | State::Sealing(open, _) => {
                assert!(open.writes == 0, "segment {segment} has writes under way");
                State::Sealed(Sealed { order, footer_pages: 0, table: Some(open.written()) })
            }
            other => other,
        };
        self.syncs.states_changed = true;
    }

    pub(super) fn take_seal_order(&mut self) -> u64 {
        self.seal_order += 1;
        self.seal_order
    }
}
