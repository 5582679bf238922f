//! Records read back, and what has to be right before anybody sees their bytes.
//!
//! Invariants:
//! - MAC, segment, life, page, key, generation, length and the checksum of each chunk are compared; one difference is a miss.
//! - The slot that a record is read into belongs to the flight until the read is answered and verified.

use super::Log;
use super::flight::Flight;
use super::segment::{Kept, State};
use crate::PAGE;
use crate::dram::memory::{PlainMemory, lend};
use crate::flash::engine::{Engine, Op, Scratch};
use crate::flash::format::{CHUNK_LEN, Life, PAGE_LEN, RecordLayout, RecordView};
use crate::store::flash::{FlashRead, Promotion};
use protocol::base::{RawSpan, StableMemory, copy_from, copy_into, crc_of};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Where a record's payload goes.
pub(crate) enum Target {
    /// Into DRAM, to be published or served from there.
    Slot(Promotion),
    /// Into memory of its own.
    Own,
}

/// A payload whose every byte was verified.
pub(crate) enum Filled {
    /// In DRAM.
    Slot(Promotion),
    /// In memory of its own.
    Own(Vec<u8>),
}

/// What came of a read.
pub(crate) enum Verdict {
    /// All of it is right.
    Verified(Filled),
    /// It is not there any more, wrong, or cannot be read: a miss.
    Missed,
}

/// A record to be read.
pub(crate) struct ReadJob {
    /// Which.
    pub(crate) read: FlashRead,
    /// Where to.
    pub(crate) target: Target,
    /// Told once, whatever happens.
    pub(crate) answer: Box<dyn FnOnce(Verdict) + Send>,
}

/// Memory for what cannot be read to where it belongs.
enum Bounce {
    Scratch(Scratch),
    Own(Arc<PlainMemory>),
}

/// A record being read.
pub(super) struct ReadFlight {
    job: ReadJob,
    layout: RecordLayout,
    bounce: Bounce,
    /// Payload bytes that go straight to their slot.
    direct: usize,
}

impl Bounce {
    fn span(&self, len: usize) -> RawSpan {
        match self {
            Self::Scratch(scratch) => scratch.span(len),
            Self::Own(memory) => {
                RawSpan::new(Arc::clone(memory) as Arc<dyn StableMemory>, 0, len).expect("as long as the record")
            }
        }
    }
}

impl Log {
    pub(super) fn start_reads(&mut self, engine: &mut dyn Engine) {
        while self.reads_in_flight < engine.depth() {
            let Some(job) = self.reads.pop_front() else { return };
            if let Some(job) = self.start_read(engine, job) {
                self.reads.push_front(job);
                return;
            }
        }
    }

    fn start_read(&mut self, engine: &mut dyn Engine, job: ReadJob) -> Option<ReadJob> {
        let segment = self.segment_of(job.read.place.slot);
        let holds = matches!(
            self.segments[segment as usize].state,
            State::Open(_)
                | State::Sealing(..)
                | State::Sealed(_)
                | State::Reclaiming(_)
                | State::Draining
                | State::Quarantined(Kept::Records)
        );
        if !holds && self.health.is_on() {
            // Nothing of it is there any more: it is forgotten when it is asked for.
            self.store.drop_record(&job.read.key, job.read.generation, job.read.place);
        }
        if !holds || !self.health.is_on() {
            (job.answer)(Verdict::Missed);
            return None;
        }
        let layout = RecordLayout::of(job.read.key.len(), job.read.length);
        let pages = u32::from(job.read.place.page) + layout.pages();
        if pages > self.config.geometry.pages() {
            self.mismatch(&job.read);
            (job.answer)(Verdict::Missed);
            return None;
        }
        let payload = match &job.target {
            Target::Slot(promotion) => Some(promotion.span()),
            Target::Own => None,
        };
        let direct = match &payload {
            Some(span) if !layout.inline && span.as_ptr().addr().is_multiple_of(PAGE_LEN) => {
                span.len() - span.len() % PAGE_LEN
            }
            _ => 0,
        };
        let header_len = layout.header_len();
        let rest = layout.payload_pages as usize * PAGE_LEN - direct;
        let bounce = if header_len + rest <= self.pool.buffer_len() {
            let Some(scratch) = self.pool.take() else { return Some(job) };
            Bounce::Scratch(scratch)
        } else {
            match PlainMemory::new(header_len + rest) {
                Ok(memory) => Bounce::Own(Arc::new(memory)),
                Err(_) => {
                    (job.answer)(Verdict::Missed);
                    return None;
                }
            }
        };
        let parts = match payload {
            Some(span) if direct > 0 => {
                let mut parts =
                    vec![bounce.span(header_len), span.part(0, direct).expect("whole pages of the payload")];
                if rest > 0 {
                    parts.push(bounce.span(header_len + rest).part(header_len, rest).expect("behind the header"));
                }
                parts
            }
            _ => vec![bounce.span(header_len + rest)],
        };
        let offset = self.offset(segment, job.read.place.page);
        let flight = ReadFlight { job, layout, bounce, direct };
        let tag = self.flights.launch(Flight::Read(Box::new(flight)));
        self.reads_in_flight += 1;
        engine.submit(Op::read(tag, offset, parts));
        None
    }

    pub(super) fn read_done(&mut self, flight: ReadFlight, result: io::Result<()>) {
        self.reads_in_flight -= 1;
        let ReadFlight { job: ReadJob { read, target, answer }, layout, bounce, direct } = flight;
        let segment = self.segment_of(read.place.slot);
        let life = *self.segments[segment as usize].life();
        let verified = result.is_ok().then(|| verify(&read, &target, layout, &bounce, direct, &life)).flatten();
        let verdict = match (verified, target) {
            (Some(_), Target::Slot(promotion)) => Some(Filled::Slot(promotion)),
            (Some(own), Target::Own) => Some(Filled::Own(own)),
            (None, _) => None,
        };
        match verdict {
            Some(filled) => {
                self.figures.reads.fetch_add(1, Relaxed);
                self.figures.read.fetch_add(u64::from(layout.pages()) * PAGE, Relaxed);
                answer(Verdict::Verified(filled));
            }
            None => {
                // A device that was taken off meanwhile says nothing about the record.
                if self.health.is_on() {
                    self.mismatch(&read);
                }
                answer(Verdict::Missed);
            }
        }
    }

    /// A record is not what the index says.
    pub(super) fn mismatch(&mut self, read: &FlashRead) {
        self.figures.mismatches.fetch_add(1, Relaxed);
        self.store.drop_record(&read.key, read.generation, read.place);
        let segment = self.segment_of(read.place.slot);
        let entry = &mut self.segments[segment as usize];
        entry.mismatches += 1;
        self.reclaim_due = true;
        tracing::warn!(
            device = %self.config.device,
            segment,
            page = read.place.page,
            count = entry.mismatches,
            "a record on flash is not what was written: a miss"
        );
        if entry.mismatches >= super::reclaim::MISMATCHES_MAX && matches!(entry.state, State::Open(_)) {
            self.seal(segment);
        }
    }
}

/// The payload, if everything is right: in the target's slot, or the bytes for a reader of its own (empty beside a slot).
fn verify(
    read: &FlashRead,
    target: &Target,
    layout: RecordLayout,
    bounce: &Bounce,
    direct: usize,
    life: &Life,
) -> Option<Vec<u8>> {
    let header_len = layout.header_len();
    let header_span = bounce.span(header_len);
    let view = RecordView::decode(lend(&header_span), life, read.place.page).ok()?;
    let same = view.key == &read.key[..]
        && view.generation == read.generation
        && view.length == read.length
        && view.crc == read.crc;
    if !same {
        return None;
    }
    let length = usize::try_from(read.length).ok()?;
    if let Some(inline) = view.inline {
        // The MAC covered it.
        return match target {
            Target::Slot(promotion) => {
                copy_into(inline, &promotion.span());
                Some(Vec::new())
            }
            Target::Own => Some(inline.to_vec()),
        };
    }
    let rest_len = length - direct;
    let rest = bounce.span(header_len + rest_len).part(header_len, rest_len)?;
    let (payload, own) = match target {
        Target::Slot(promotion) => {
            let span = promotion.span();
            if rest_len > 0 {
                protocol::base::copy_and_crc(&rest, &span.part(direct, rest_len)?, protocol::base::Crc::default());
            }
            (span, Vec::new())
        }
        Target::Own => {
            let mut own = vec![0; length];
            copy_from(&rest, &mut own);
            (rest, own)
        }
    };
    for (at, crc) in view.chunks().enumerate() {
        let from = at * CHUNK_LEN;
        let len = CHUNK_LEN.min(length.checked_sub(from)?);
        if crc_of(&payload.part(from, len)?) != crc {
            return None;
        }
    }
    Some(own)
}
