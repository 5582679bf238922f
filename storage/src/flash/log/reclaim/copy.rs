//! Records that are written once more: read, verified, written elsewhere.
//!
//! Invariants:
//! - What is written again was verified against its header, its row and its chunks' checksums.
//! - At most [`COPIES_MAX`] are under way.

use super::super::Log;
use super::super::append::row_of;
use super::super::flight::Flight;
use super::{Keep, LEAVE_PATIENCE};
use crate::PAGE;
use crate::dram::memory::{PlainMemory, lend, lend_mut};
use crate::flash::engine::{Engine, Op};
use crate::flash::format::{CHUNK_LEN, Head, Life, PAGE_LEN, Record, RecordLayout, RecordView};
use crate::store::flash::Reinsertion;
use protocol::base::{Crc, RawSpan, StableMemory};
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
}

impl Copy {
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
