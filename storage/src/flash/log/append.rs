//! Records behind a head: where they go, how they are written, and what the index is told.
//!
//! Invariants:
//! - What is written was compared with the checksum that was published, chunk by chunk; other bytes condemn the copy in DRAM.
//! - [`Spill::begin`] comes before the first byte is submitted, [`Spill::done`] after the last is complete.

use super::segment::{Mark, State};
use super::syncs::After;
use super::{Log, Ticket};
use crate::PAGE;
use crate::flash::engine::{Engine, Op, Scratch};
use crate::flash::format::{CHUNK_LEN, Head, PAGE_LEN, Record, RecordLayout, Row};
use crate::flash::log::flight::Flight;
use crate::flash::tier::FlashError;
use crate::store::flash::Spill;
use protocol::base::{Crc, RawSpan, copy_from, crc_of};
use std::io;
use std::sync::atomic::Ordering::Relaxed;

/// An object to be written.
pub(crate) struct SpillJob {
    /// What, and who is told what became of it.
    pub(crate) spill: Spill,
    /// Who waits until it is durable.
    pub(crate) ticket: Option<Ticket>,
    /// Dropped when the job is over: somebody's bound on bytes in flight.
    #[expect(dead_code, reason = "held until it is dropped")]
    pub(crate) charge: Option<Box<dyn Send>>,
}

/// A record being written.
pub(super) struct SpillFlight {
    job: SpillJob,
    segment: u32,
    /// Number of the record in its segment.
    record: usize,
    bytes: u64,
    /// Header, and what of the payload does not lie as the device wants it.
    scratch: Scratch,
}

/// Writes that may be under way beside reads, whatever their length.
const WRITES_MAX: usize = 8;
/// Short ones may be more, up to so many bytes.
const WRITES_BYTES_MAX: u64 = 2 << 20;

impl Log {
    /// Nothing is written at the moment: objects stay dirty, tickets learn why.
    pub(super) fn refuse_spills(&mut self) {
        let why = self.health.why_off().unwrap_or("the device is closed").to_owned();
        for job in self.spills.drain(..) {
            if let Some(ticket) = job.ticket {
                ticket(Err(FlashError::Off { why: why.clone() }));
            }
        }
    }

    /// What is pinned leaves no room: objects stay dirty, and go to another device or wait for one.
    fn refuse_for_want_of_room(&mut self) {
        for job in self.spills.drain(..) {
            if let Some(ticket) = job.ticket {
                ticket(Err(FlashError::NoRoom { len: job.spill.length }));
            }
        }
    }

    pub(super) fn start_spills(&mut self, engine: &mut dyn Engine) {
        if self.keeps_room() {
            if self.is_full() {
                self.refuse_for_want_of_room();
            }
            return;
        }
        while self.writes_in_flight < WRITES_MAX
            || (self.write_bytes_in_flight < WRITES_BYTES_MAX && self.writes_in_flight < engine.depth())
        {
            let Some(job) = self.spills.pop_front() else { return };
            if let Some(job) = self.start_spill(engine, job) {
                self.spills.push_front(job);
                return;
            }
        }
    }

    /// Writes it, or ends it. Gives it back if it has to wait.
    fn start_spill(&mut self, engine: &mut dyn Engine, mut job: SpillJob) -> Option<SpillJob> {
        let layout = RecordLayout::of(job.spill.key.len(), job.spill.length);
        if !self.could_hold(layout, job.spill.key.len()) {
            let len = job.spill.length;
            job.spill.decline();
            if let Some(ticket) = job.ticket {
                ticket(Err(FlashError::NoRoom { len }));
            }
            return None;
        }
        let bytes = u64::from(layout.pages()) * PAGE;
        if job.ticket.is_none() && !self.budget.admits(self.now, &job.spill.key) {
            self.figures.refused.fetch_add(1, Relaxed);
            job.spill.decline();
            return None;
        }
        let Some((segment, page)) = self.room(Head::New, layout.pages(), job.spill.key.len()) else {
            return Some(job);
        };
        let Some(mut scratch) = self.pool.take() else { return Some(job) };
        let Some(chunks) = checked_chunks(&job.spill, layout, &mut scratch) else {
            self.figures.condemned.fetch_add(1, Relaxed);
            tracing::warn!(generation = %job.spill.generation, "an object in DRAM is not what was published: it is removed");
            job.spill.condemn();
            if let Some(ticket) = job.ticket {
                ticket(Err(FlashError::Gone));
            }
            return None;
        };
        if !job.spill.begin(self.place(segment, page)) {
            if let Some(ticket) = job.ticket {
                ticket(Err(FlashError::Gone));
            }
            return None;
        }
        self.budget.spend(self.now, bytes);
        let record = Record {
            page,
            generation: job.spill.generation,
            length: job.spill.length,
            crc: job.spill.crc,
            expires_ms: self.expires_ms(job.spill.expires),
            key: &job.spill.key,
        };
        let header_len = layout.header_len();
        let life = *self.segments[segment as usize].life();
        if layout.inline {
            let mut inline = vec![0; usize::try_from(job.spill.length).expect("fits a page")];
            copy_from(&job.spill.span, &mut inline);
            record.encode(&life, &[], &inline, &mut scratch.bytes_mut()[..header_len]);
        } else {
            record.encode(&life, &chunks, &[], &mut scratch.bytes_mut()[..header_len]);
        }
        let row = row_of(&record);
        let parts = parts_of(&job.spill.span, layout, &scratch);
        let number = self.push(segment, row, &job.spill.key);
        let offset = self.offset(segment, page);
        let flight = SpillFlight { job, segment, record: number, bytes, scratch };
        let tag = self.flights.launch(Flight::Spill(Box::new(flight)));
        self.writes_in_flight += 1;
        self.write_bytes_in_flight += bytes;
        engine.submit(Op::write(tag, offset, parts));
        None
    }

    pub(super) fn spill_done(&mut self, flight: SpillFlight, result: io::Result<()>) {
        let SpillFlight { job, segment, record, bytes, scratch } = flight;
        drop(scratch);
        self.writes_in_flight -= 1;
        self.write_bytes_in_flight -= bytes;
        let whole = self.record_done(segment, record, &result);
        match result {
            Ok(()) if whole => {
                self.figures.written.fetch_add(bytes, Relaxed);
                self.figures.spills.fetch_add(1, Relaxed);
                self.earn_reinsertion(bytes);
                let counts = job.spill.done();
                if let Some(ticket) = job.ticket {
                    if counts {
                        self.syncs.after(After::Ticket(ticket));
                    } else {
                        ticket(Err(FlashError::Gone));
                    }
                }
            }
            Ok(()) => {
                if let Some(ticket) = job.ticket {
                    ticket(Err(FlashError::Off { why: "a sync failed".to_owned() }));
                }
            }
            Err(error) => {
                if let Some(ticket) = job.ticket {
                    ticket(Err(FlashError::io("write a record", error)));
                }
            }
        }
    }

    /// Whether a segment could hold such a record beside nothing else.
    pub(super) fn could_hold(&self, layout: RecordLayout, key_len: usize) -> bool {
        super::segment::Open::new().fits(layout.pages(), key_len, self.config.geometry.pages())
    }

    /// Where a record goes; `None` until a segment has begun.
    pub(super) fn room(&mut self, head: Head, pages: u32, key_len: usize) -> Option<(u32, u16)> {
        let which = self.head_index(head);
        if let Some(segment) = self.heads[which] {
            let segment_pages = self.config.geometry.pages();
            let open = self.segments[segment as usize].open_mut().expect("a head is open");
            if open.fits(pages, key_len, segment_pages) {
                return Some((
                    segment,
                    u16::try_from(open.next_page).expect("pages of a segment are counted in 16 bits"),
                ));
            }
            self.seal(segment);
        }
        self.open_next(which)
    }

    /// A device of few segments cannot spare one for reinserted data alone.
    pub(super) fn head_index(&self, head: Head) -> usize {
        match head {
            Head::Reinserted if self.segments.len() >= super::REINSERT_HEAD_SEGMENTS_MIN => 1,
            Head::New | Head::Reinserted => 0,
        }
    }

    /// Appends a row to an open segment.
    pub(super) fn push(&mut self, segment: u32, row: Row, key: &[u8]) -> usize {
        let segment = &mut self.segments[segment as usize];
        segment.used += u64::from(row.layout().pages()) * PAGE;
        segment.open_mut().expect("records are placed in open segments").push(row, key)
    }

    /// A record's write is over. Whether it counts.
    pub(super) fn record_done(&mut self, segment: u32, record: usize, result: &io::Result<()>) -> bool {
        let number = self.syncs.write_done();
        let entry = &mut self.segments[segment as usize];
        let lost = entry.lost;
        let whole = result.is_ok() && !lost;
        let open = entry.open_mut().expect("a segment stays open or sealing while records are being written");
        open.marks[record] = if whole { Mark::Written(number) } else { Mark::Failed };
        open.writes -= 1;
        if result.is_err() && matches!(entry.state, State::Open(_)) {
            // What else this segment would take might be refused as well: it ends here.
            self.seal(segment);
        }
        whole
    }
}

/// What a table says of a record.
pub(super) fn row_of(record: &Record<'_>) -> Row {
    Row {
        page: record.page,
        key_len: u16::try_from(record.key.len()).expect("keys have at most 16 KiB"),
        length: u32::try_from(record.length).expect("objects are shorter than segments"),
        crc: record.crc,
        generation: record.generation,
        expires_ms: record.expires_ms,
    }
}

/// Whether the device takes the payload's whole pages from where they lie.
fn is_aligned(span: &RawSpan) -> bool {
    span.as_ptr().addr().is_multiple_of(PAGE_LEN)
}

/// Payload pages written straight from the slot; the rest goes through scratch, behind the header.
fn direct_len(span: &RawSpan) -> usize {
    if is_aligned(span) { span.len() - span.len() % PAGE_LEN } else { 0 }
}

/// Checksums of the payload's chunks, if together they are what was published. What cannot be written from where it lies is
/// copied into `scratch` behind the header, padded with zeros.
fn checked_chunks(spill: &Spill, layout: RecordLayout, scratch: &mut Scratch) -> Option<Vec<Crc>> {
    let span = &spill.span;
    let mut chunks = Vec::with_capacity(span.len().div_ceil(CHUNK_LEN));
    let mut whole = Crc::default();
    for at in (0..span.len()).step_by(CHUNK_LEN) {
        let len = CHUNK_LEN.min(span.len() - at);
        let crc = crc_of(&span.part(at, len).expect("chunks lie in their payload"));
        whole = whole.then(crc, len as u64);
        chunks.push(crc);
    }
    if whole != spill.crc {
        return None;
    }
    if !layout.inline {
        let direct = direct_len(span);
        let rest = span.part(direct, span.len() - direct).expect("within the payload");
        let at = layout.header_len();
        let padded = rest.len().next_multiple_of(PAGE_LEN);
        let room = &mut scratch.bytes_mut()[at..at + padded];
        if !rest.is_empty() {
            copy_from(&rest, &mut room[..rest.len()]);
        }
        room[rest.len()..].fill(0);
    }
    Some(chunks)
}

/// The memory of a record, in the order of the device.
fn parts_of(span: &RawSpan, layout: RecordLayout, scratch: &Scratch) -> Vec<RawSpan> {
    let header_len = layout.header_len();
    if layout.inline {
        return vec![scratch.span(header_len)];
    }
    let direct = direct_len(span);
    let rest = (span.len() - direct).next_multiple_of(PAGE_LEN);
    if direct == 0 {
        return vec![scratch.span(header_len + rest)];
    }
    let mut parts = vec![scratch.span(header_len), span.part(0, direct).expect("within the payload")];
    if rest > 0 {
        let tail = scratch.span(header_len + rest).part(header_len, rest).expect("behind the header");
        parts.push(tail);
    }
    parts
}
