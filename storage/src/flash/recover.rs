//! From the bytes of a device to the tables of its segments.
//!
//! Role: finds the superblock, then says of each segment what it is and which records it has. What of these is still true
//! (deaths, later generations, times) is for the caller to decide: [`crate::flash::journal`] remembers it.
//!
//! A sealed segment costs its header and its footer, never a record. Where a footer is not valid, the metadata store may have
//! the table; otherwise the segment was open or is damaged. It is walked page by page, and a record counts only if its MAC and
//! each chunk of its payload are right. The footers come first because they are read faster than the same from sled:
//! `docs/decisions/panics-of-sled.md`.
//!
//! Invariants:
//! - Bytes of a device are claims: nothing here panics or allocates by them beyond one segment's length.
//! - A device that fails to read a part loses that part, not the rest.
//! - Reads are batches, so that the device has several at once; tables are decoded by several threads meanwhile.

mod check;
mod source;
#[cfg(test)]
mod tests;
mod walk;

pub use check::{RecordError, read_record};
pub use source::{EngineSource, FileSource, Source};
pub use walk::{Walked, walk};

use super::format::{DeviceId, FormatError, PAGE_LEN, SUPERBLOCK_COPIES, SegmentHeader, Superblock, Table, Tail};
use parking_lot::Mutex;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Segments whose headers and footers are read in one batch.
const BATCH: u32 = 32;
/// The part of a segment's end that is read before its footer's length is known: at least and at most this.
const TAIL_LEN_MIN: usize = 32 << 10;
const TAIL_LEN_MAX: usize = 1 << 20;

/// Why nothing of a device can be recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The device does not read.
    #[error("read the superblock")]
    Io(#[from] io::Error),
    /// Both copies of the superblock are zero: the device was never formatted.
    #[error("the device is blank")]
    Blank,
    /// No copy of the superblock is whole.
    #[error("no valid superblock: {0}")]
    Superblock(FormatError),
    /// The device is shorter than it was.
    #[error("the superblock tells of {expected} bytes, the device has {found}")]
    Shrunk {
        /// What its segments take.
        expected: u64,
        /// What there is.
        found: u64,
    },
}

/// What one segment holds.
#[derive(Debug)]
pub enum Found {
    /// No header of this device: it can be begun.
    Free,
    /// Complete, with a table that verified.
    Sealed {
        /// Its header.
        header: SegmentHeader,
        /// Its records.
        table: Table,
        /// When it was sealed, Unix time in milliseconds.
        sealed_ms: u64,
        /// Whether the table came from the metadata store.
        from_meta: bool,
    },
    /// Has no valid footer. The records were each verified, and nothing else in the segment is one.
    Open {
        /// Its header.
        header: SegmentHeader,
        /// What was found.
        walked: Walked,
    },
    /// Its header does not read.
    Unreadable(io::Error),
}

/// How far recovery is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Segments that are done.
    pub segments_done: u64,
    /// All segments of the device.
    pub segments: u64,
    /// Records found.
    pub records: u64,
    /// Bytes read from the device.
    pub bytes_read: u64,
}

/// What was found in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Segments without a life.
    pub free: u64,
    /// Sealed segments.
    pub sealed: u64,
    /// Those of them whose table came from the metadata store.
    pub from_meta: u64,
    /// Segments that had to be walked.
    pub open: u64,
    /// Segments whose header does not read.
    pub unreadable: u64,
    /// Records in all segments.
    pub records: u64,
    /// Records that were begun but are not whole.
    pub torn: u64,
    /// Reads that failed.
    pub read_errors: u64,
    /// Bytes read from the device.
    pub bytes_read: u64,
    /// The highest life of any segment.
    pub life_max: u64,
}

/// Who is told what is found, by several threads at once.
pub trait Visitor: Sync {
    /// A table of the segment from the metadata store, encoded as a footer, if there is one. It may be of an earlier life.
    /// Asked only for segments without a valid footer.
    fn meta(&self, segment: u32) -> Option<Vec<u8>>;
    /// What a segment holds. Each is told once, in any order.
    fn found(&self, segment: u32, found: Found);
    /// How far recovery is, now and then.
    fn progress(&self, progress: &Progress);
}

/// Reads the superblock.
///
/// # Errors
/// [`RecoverError`] if there is none, or the device is shorter than it says.
pub fn superblock(source: &mut dyn Source) -> Result<Superblock, RecoverError> {
    let places: Vec<(u64, usize)> =
        (0..SUPERBLOCK_COPIES).map(|copy| (u64::from(copy) * PAGE_LEN as u64, PAGE_LEN)).collect();
    let mut failed = None;
    let mut blank = true;
    let mut copies = Vec::new();
    for (copy, block) in (0..SUPERBLOCK_COPIES).zip(source.read(&places)) {
        match block {
            Ok(block) => {
                blank &= block.iter().all(|&byte| byte == 0);
                copies.push(Superblock::decode(&block, copy));
            }
            Err(error) => failed = Some(error),
        }
    }
    match (Superblock::newest(&copies), failed) {
        (Ok(superblock), _) => {
            let (expected, found) = (superblock.geometry.device_len(), source.len());
            if expected > found {
                return Err(RecoverError::Shrunk { expected, found });
            }
            Ok(superblock)
        }
        (Err(_), Some(error)) => Err(RecoverError::Io(error)),
        (Err(_), None) if blank => Err(RecoverError::Blank),
        (Err(error), None) => Err(RecoverError::Superblock(error)),
    }
}

/// One segment's header and what may be its table, to be decoded.
struct Job {
    segment: u32,
    header: SegmentHeader,
    /// A footer, or nothing if none can be there.
    footer: Vec<u8>,
}

/// What the threads share.
struct Shared<'a> {
    visitor: &'a dyn Visitor,
    segment_pages: u32,
    segments: u64,
    done: AtomicU64,
    records: AtomicU64,
    bytes_read: AtomicU64,
    summary: Mutex<Summary>,
    /// Segments without a valid footer.
    open: Mutex<Vec<SegmentHeader>>,
}

impl Shared<'_> {
    fn tell(&self, segment: u32, found: Found, count: impl FnOnce(&mut Summary)) {
        let records = match &found {
            Found::Sealed { table, .. } => table.len() as u64,
            Found::Open { walked, .. } => walked.table.len() as u64,
            Found::Free | Found::Unreadable(_) => 0,
        };
        count(&mut self.summary.lock());
        self.visitor.found(segment, found);
        let records = self.records.fetch_add(records, Ordering::Relaxed) + records;
        let segments_done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes_read = self.bytes_read.load(Ordering::Relaxed);
        self.visitor.progress(&Progress { segments_done, segments: self.segments, records, bytes_read });
    }

    fn decode(&self, job: Job) {
        let Job { segment, header, footer } = job;
        match Table::decode(&footer, &header.life, self.segment_pages) {
            Ok((table, tail)) => {
                let found = Found::Sealed { header, table, sealed_ms: tail.sealed_ms, from_meta: false };
                self.tell(segment, found, |summary| summary.sealed += 1);
            }
            Err(_) => self.open.lock().push(header),
        }
    }

    /// The table that the metadata store has of this life of a segment.
    fn table_of_meta(&self, header: &SegmentHeader) -> Option<(Table, Tail)> {
        let footer = self.visitor.meta(header.life.segment)?;
        Table::decode(&footer, &header.life, self.segment_pages).ok()
    }
}

/// Says of each segment of the device what it holds. `workers` threads decode and call [`Visitor::found`].
pub fn recover(source: &mut dyn Source, superblock: &Superblock, visitor: &dyn Visitor, workers: usize) -> Summary {
    let geometry = superblock.geometry;
    let shared = Shared {
        visitor,
        segment_pages: geometry.pages(),
        segments: u64::from(geometry.segment_count),
        done: AtomicU64::new(0),
        records: AtomicU64::new(0),
        bytes_read: AtomicU64::new(0),
        summary: Mutex::default(),
        open: Mutex::default(),
    };
    let mut reader = Reader { source, superblock, shared: &shared, tail_len: TAIL_LEN_MIN };
    let all: Vec<u32> = (0..geometry.segment_count).collect();
    reader.tables(&all, workers);
    let mut open = std::mem::take(&mut *shared.open.lock());
    open.sort_unstable_by_key(|header| header.life.segment);
    for header in open {
        if let Some((table, Tail { sealed_ms, .. })) = shared.table_of_meta(&header) {
            let found = Found::Sealed { header, table, sealed_ms, from_meta: true };
            shared.tell(header.life.segment, found, |summary| {
                summary.sealed += 1;
                summary.from_meta += 1;
            });
            continue;
        }
        let walked = walk(reader.source, geometry, &header.life);
        shared.bytes_read.fetch_add(walked.bytes_read, Ordering::Relaxed);
        let (torn, read_errors) = (u64::from(walked.torn), u64::from(walked.read_errors));
        shared.tell(header.life.segment, Found::Open { header, walked }, |summary| {
            summary.open += 1;
            summary.torn += torn;
            summary.read_errors += read_errors;
        });
    }
    let mut summary = *shared.summary.lock();
    summary.records = shared.records.load(Ordering::Relaxed);
    summary.bytes_read = shared.bytes_read.load(Ordering::Relaxed);
    summary
}

/// The thread that reads.
struct Reader<'a> {
    source: &'a mut dyn Source,
    superblock: &'a Superblock,
    shared: &'a Shared<'a>,
    /// How much of a segment's end is read at first: as much as the latest footers took.
    tail_len: usize,
}

impl Reader<'_> {
    fn tables(&mut self, segments: &[u32], workers: usize) {
        if segments.is_empty() {
            return;
        }
        let (jobs, waiting) = sync_channel::<Job>(2 * BATCH as usize);
        let waiting = Mutex::new(waiting);
        let shared = self.shared;
        std::thread::scope(|scope| {
            for _ in 0..workers.max(1) {
                scope.spawn(|| {
                    while let Some(job) = next(&waiting) {
                        shared.decode(job);
                    }
                });
            }
            for batch in segments.chunks(BATCH as usize) {
                self.batch(batch, &jobs);
            }
            drop(jobs);
        });
    }

    fn batch(&mut self, segments: &[u32], jobs: &SyncSender<Job>) {
        let geometry = self.superblock.geometry;
        let tail_len = self.tail_len.min(usize::try_from(geometry.segment_len).unwrap_or(usize::MAX));
        let places: Vec<(u64, usize)> = segments
            .iter()
            .flat_map(|&segment| {
                let tail_at = geometry.offset_of(segment + 1) - tail_len as u64;
                [(geometry.offset_of(segment), PAGE_LEN), (tail_at, tail_len)]
            })
            .collect();
        let mut answers = self.read(&places).into_iter();
        let mut answer = || answers.next().unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()));
        let mut longer = Vec::new();
        for &segment in segments {
            let (header, footer) = (answer(), answer());
            let Some(header) = self.header(segment, header) else { continue };
            // An end that does not read is no footer: the segment is walked.
            let footer = footer.unwrap_or_default();
            let job = Job { segment, header, footer };
            match self.fit(job) {
                Ok(job) => send(jobs, job),
                Err(job) => longer.push(job),
            }
        }
        let places: Vec<(u64, usize)> =
            longer.iter().map(|(job, len)| (geometry.offset_of(job.segment + 1) - *len as u64, *len)).collect();
        let answers = self.read(&places);
        for ((mut job, _), footer) in longer.into_iter().zip(answers) {
            job.footer = footer.unwrap_or_default();
            send(jobs, job);
        }
    }

    /// Cuts what was read of a segment's end to its footer; answers the footer's length if that was not all of it.
    fn fit(&mut self, mut job: Job) -> Result<Job, (Job, usize)> {
        let len = job.footer.len();
        let tail = Tail::claimed(&job.footer[len.saturating_sub(PAGE_LEN)..], self.shared.segment_pages);
        let Ok(tail) = tail else {
            job.footer.clear();
            return Ok(job);
        };
        self.tail_len = tail.len().next_power_of_two().clamp(TAIL_LEN_MIN, TAIL_LEN_MAX);
        if tail.len() > len {
            return Err((job, tail.len()));
        }
        job.footer.drain(..len - tail.len());
        Ok(job)
    }

    fn header(&mut self, segment: u32, page: io::Result<Vec<u8>>) -> Option<SegmentHeader> {
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                self.shared.tell(segment, Found::Unreadable(error), |summary| summary.unreadable += 1);
                return None;
            }
        };
        let device: &DeviceId = &self.superblock.device;
        match SegmentHeader::decode(&page, device, segment) {
            Ok(header) => {
                let mut summary = self.shared.summary.lock();
                summary.life_max = summary.life_max.max(header.life.life);
                Some(header)
            }
            Err(_) => {
                self.shared.tell(segment, Found::Free, |summary| summary.free += 1);
                None
            }
        }
    }

    fn read(&mut self, places: &[(u64, usize)]) -> Vec<io::Result<Vec<u8>>> {
        if places.is_empty() {
            return Vec::new();
        }
        let answers = self.source.read(places);
        let (mut bytes, mut errors) = (0, 0);
        for answer in &answers {
            match answer {
                Ok(answer) => bytes += answer.len() as u64,
                Err(_) => errors += 1,
            }
        }
        self.shared.bytes_read.fetch_add(bytes, Ordering::Relaxed);
        self.shared.summary.lock().read_errors += errors;
        answers
    }
}

/// The next job, whoever's thread is free first; `None` at the end.
fn next(waiting: &Mutex<Receiver<Job>>) -> Option<Job> {
    waiting.lock().recv().ok()
}

fn send(jobs: &SyncSender<Job>, job: Job) {
    assert!(jobs.send(job).is_ok(), "the threads that decode live until the channel is closed");
}
