//! Looks for rot behind everybody's back: one segment at a time, over any source of bytes.
//!
//! Role: [`examine`] says what became of a segment that the log names; the log decides what follows. When and how fast is
//! the tier's business, told by a [`Pace`] before each read.
//!
//! Invariants:
//! - Nothing is called rotten that was read once only.
//! - Between two waits at most [`PIECE`] bytes are read and summed.

mod source;

pub(crate) use source::{Reader, ScrubFile};

use super::format::{DeviceId, Geometry, PAGE_LEN, SegmentHeader, Table};
use super::log::{Finding, Rotten, ScrubJob, ScrubReport, Task};
use super::recover::{Source, read_record, walk};
use crate::Store;
use crate::store::flash::SlotRecord;
use protocol::base::Instant;
use std::io;

/// Bytes between two waits.
pub(crate) const PIECE: usize = 256 << 10;
/// Rotten records after which a segment is known to be bad.
const ROTTEN_MAX: usize = 64;

/// Who says how fast.
pub(crate) trait Pace {
    /// Waits until so many bytes may be read. `false`: no more are to be.
    fn wait(&mut self, bytes: usize) -> bool;
}

/// A source that is read slowly.
struct Paced<'a> {
    source: &'a mut dyn Source,
    pace: &'a mut dyn Pace,
    bytes: u64,
    stopped: bool,
}

impl Paced<'_> {
    fn read_one(&mut self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut all = Vec::with_capacity(len);
        while all.len() < len {
            let piece = PIECE.min(len - all.len());
            if self.stopped || !self.pace.wait(piece) {
                self.stopped = true;
                return Err(io::ErrorKind::Interrupted.into());
            }
            let read = self.source.read(&[(offset + all.len() as u64, piece)]).pop();
            all.extend_from_slice(&read.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))?);
            self.bytes += piece as u64;
        }
        Ok(all)
    }
}

impl Source for Paced<'_> {
    fn len(&self) -> u64 {
        self.source.len()
    }

    fn read(&mut self, places: &[(u64, usize)]) -> Vec<io::Result<Vec<u8>>> {
        places.iter().map(|&(offset, len)| self.read_one(offset, len)).collect()
    }
}

/// The device that a segment is of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Of {
    pub(crate) device: DeviceId,
    pub(crate) geometry: Geometry,
}

/// Looks at a segment. `None` if `pace` ended it.
pub(crate) fn examine(
    job: &ScrubJob,
    of: Of,
    source: &mut dyn Source,
    pace: &mut dyn Pace,
    (store, now): (&Store, Instant),
) -> Option<ScrubReport> {
    let mut source = Paced { source, pace, bytes: 0, stopped: false };
    let finding = match &job.task {
        Task::Verify { life, table } => {
            let header = has_header(&mut source, of, life) || has_header(&mut source, of, life);
            let read = match table {
                Ok(pages) => {
                    table_of(&mut source, of, life, *pages).or_else(|| table_of(&mut source, of, life, *pages))
                }
                Err(table) => Some(table.clone()),
            };
            match read {
                Some(table) if header => verify(job, of, life, &table, &mut source, store, now),
                Some(table) => Finding::Damaged { table },
                None => Finding::Damaged { table: walk(&mut source, of.geometry, life).table },
            }
        }
        Task::Search { life } => Finding::Damaged { table: walk(&mut source, of.geometry, life).table },
        Task::Surface => {
            let offset = of.geometry.offset_of(job.segment);
            // Segments are a multiple of pieces.
            let mut places = (offset..offset + of.geometry.segment_len).step_by(PIECE);
            Finding::Surface { readable: places.all(|at| source.read_one(at, PIECE).is_ok()) }
        }
    };
    (!source.stopped).then(|| job.report(source.bytes, finding))
}

fn has_header(source: &mut Paced<'_>, of: Of, life: &super::format::Life) -> bool {
    let page = source.read_one(of.geometry.offset_of(life.segment), PAGE_LEN);
    let header = page.ok().and_then(|page| SegmentHeader::decode(&page, &of.device, life.segment).ok());
    header.is_some_and(|header| header.life == *life)
}

fn table_of(source: &mut Paced<'_>, of: Of, life: &super::format::Life, pages: u32) -> Option<Table> {
    let len = pages as usize * PAGE_LEN;
    let end = of.geometry.offset_of(life.segment) + of.geometry.segment_len;
    let footer = source.read_one(end - len as u64, len).ok()?;
    Table::decode(&footer, life, of.geometry.pages()).ok().map(|(table, _)| table)
}

/// Reads each record that counts.
fn verify(
    job: &ScrubJob,
    of: Of,
    life: &super::format::Life,
    table: &Table,
    source: &mut Paced<'_>,
    store: &Store,
    now: Instant,
) -> Finding {
    let rows: Vec<_> = table.iter().collect();
    let record = |&(row, key): &(super::format::Row, _)| SlotRecord { key, generation: row.generation, page: row.page };
    let (mut records, mut rotten) = (0, Vec::new());
    for current in store.survey_slot(now, job.slot, rows.iter().map(record)) {
        let (row, key) = rows[current.index];
        let mut holds = || read_record(source, of.geometry, life, &row, key, &mut |_| {}).is_ok();
        if holds() || holds() {
            records += 1;
        } else if !source.stopped {
            rotten.push(Rotten { key: key.into(), generation: row.generation, page: row.page });
        }
        if source.stopped || rotten.len() >= ROTTEN_MAX {
            break;
        }
    }
    Finding::Verified { records, rotten }
}
