//! Records that are written once more: read, verified, written elsewhere.
//!
//! Invariants:
//! - What is written again was verified against its header, its row and its chunks' checksums.
//! - At most [`COPIES_MAX`] are under way.

use super::super::Log;
use super::super::append::row_of;
use super::super::flight::Flight;
use super::Keep;
use crate::PAGE;
use crate::dram::memory::{PlainMemory, lend, lend_mut};
use crate::flash::engine::{Engine, Op};
use crate::flash::format::{CHUNK_LEN, Head, Life, PAGE_LEN, Record, RecordLayout, RecordView};
use crate::store::flash::Reinsertion;
use protocol::base::{Crc, Generation, Instant, RawSpan, StableMemory};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Records being copied at once.
const COPIES_MAX: usize = 4;

/// A record being copied.
pub(in crate::flash::log) struct Copy {
    pub(super) reclaim: u64,
    pub(super) from: u32,
    pub(super) keep: Keep,
    pub(super) layout: RecordLayout,
    pub(super) memory: Arc<PlainMemory>,
    pub(super) chunks: Vec<Crc>,
    pub(super) inline: Vec<u8>,
    /// Where it is being written: segment, number of the record, and what tells the index.
    pub(super) to: Option<(u32, usize, Reinsertion)>,
    /// Another device did not take it.
    pub(super) refused: bool,
}

impl Copy {
    /// The reclaim that it is part of.
    pub(in crate::flash::log) fn reclaim(&self) -> u64 {
        self.reclaim
    }

    pub(in crate::flash::log) fn key(&self) -> &[u8] {
        &self.keep.key
    }

    pub(in crate::flash::log) fn generation(&self) -> Generation {
        self.keep.row.generation
    }

    /// Bytes of payload.
    pub(in crate::flash::log) fn length(&self) -> u64 {
        u64::from(self.keep.row.length)
    }

    pub(in crate::flash::log) fn layout(&self) -> RecordLayout {
        self.layout
    }

    pub(super) fn span(&self) -> RawSpan {
        let len = self.layout.pages() as usize * PAGE_LEN;
        RawSpan::new(Arc::clone(&self.memory) as Arc<dyn StableMemory>, 0, len).expect("as long as the record")
    }

    /// Whether it is the record that its row tells; keeps what its new header needs.
    fn verify(&mut self, life: &Life) -> bool {
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

impl Log {
    pub(super) fn step_copies(&mut self, engine: &mut dyn Engine) {
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
                refused: false,
            };
            let parts = vec![copy.span()];
            let tag = self.flights.launch(Flight::CopyRead(Box::new(copy)));
            engine.submit(Op::read(tag, offset, parts));
        }
    }

    pub(in crate::flash::log) fn copy_read_done(&mut self, mut copy: Copy, result: io::Result<()>) {
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
            return self.hand_on(copy);
        }
        let Some((segment, page)) = self.room_for_copy(copy.layout.pages(), copy.keep.key.len()) else {
            return Some(copy);
        };
        let (from, to) = (self.place(copy.from, copy.keep.row.page), self.place(segment, page));
        let Some(reinsertion) = self.store.reinsert(self.now, &copy.keep.key, copy.keep.row.generation, from, to)
        else {
            if let Some((_, _, copying)) = self.copying() {
                copying.under_way -= 1;
            }
            return None;
        };
        let (number, parts) = self.place_copy(&copy, segment, page, reinsertion.expires);
        copy.to = Some((segment, number, reinsertion));
        let tag = self.flights.launch(Flight::CopyWrite(copy));
        self.submit_copy(engine, tag, segment, page, parts);
        None
    }

    /// Where a copy goes; `None` until a segment has begun.
    pub(in crate::flash::log) fn room_for_copy(&mut self, pages: u32, key_len: usize) -> Option<(u32, u16)> {
        self.room(Head::Reinserted, pages, key_len).or_else(|| self.room(Head::New, pages, key_len))
    }

    /// Gives a copy its place and the header for it. Its number in the segment, and the memory to write.
    pub(in crate::flash::log) fn place_copy(
        &mut self,
        copy: &Copy,
        segment: u32,
        page: u16,
        expires: Option<Instant>,
    ) -> (usize, Vec<RawSpan>) {
        let row = copy.keep.row;
        let record = Record {
            page,
            generation: row.generation,
            length: u64::from(row.length),
            crc: row.crc,
            expires_ms: self.expires_ms(expires),
            key: &copy.keep.key,
        };
        let mut header = copy.span().part(0, copy.layout.header_len()).expect("the header's pages");
        let life = *self.segments[segment as usize].life();
        record.encode(&life, &copy.chunks, &copy.inline, lend_mut(&mut header));
        (self.push(segment, row_of(&record), &copy.keep.key), vec![copy.span()])
    }

    pub(in crate::flash::log) fn submit_copy(
        &mut self,
        engine: &mut dyn Engine,
        tag: u64,
        segment: u32,
        page: u16,
        parts: Vec<RawSpan>,
    ) {
        self.writes_in_flight += 1;
        engine.submit(Op::write(tag, self.offset(segment, page), parts));
    }

    pub(in crate::flash::log) fn copy_write_done(&mut self, copy: Copy, result: io::Result<()>) {
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
}
