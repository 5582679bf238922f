//! Finding the records of a segment that has no table: an open one, or one whose footer is damaged.
//!
//! Invariants:
//! - A record counts only if its MAC holds for this life and this page, and each chunk of its payload has its checksum.
//! - Behind a record that counts, the next is looked for at its end; anywhere else at the next page, so that one damaged
//!   header does not hide what follows it.

use super::Source;
use crate::flash::format::{CHUNK_LEN, Geometry, Life, PAGE_LEN, RecordView, Row, Table};
use protocol::base::Crc;
use std::io;

/// Bytes read ahead, in reads of this length each.
const AHEAD_READS: usize = 8;
const AHEAD_READ_LEN: usize = 512 << 10;
/// Reads that may fail before the rest of the segment is given up.
const READ_ERRORS_MAX: u32 = 64;

/// What a walk found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// The records.
    pub table: Table,
    /// Headers that are valid while their payload is not: cut off by a crash, or damaged.
    pub torn: u32,
    /// Reads that failed; what lies there is not in the table.
    pub read_errors: u32,
    /// Bytes read.
    pub bytes_read: u64,
}

/// Finds the records of a life of a segment by reading all of it.
pub fn walk(source: &mut dyn Source, geometry: Geometry, life: &Life) -> Walked {
    let pages = geometry.pages();
    let mut window = Window {
        source,
        base: geometry.offset_of(life.segment),
        end: pages as usize * PAGE_LEN,
        at: 0,
        bytes: Vec::new(),
        errors: 0,
        bytes_read: 0,
    };
    let mut walked = Walked::default();
    let mut page = 1;
    while page < pages && window.errors < READ_ERRORS_MAX {
        page += match record_at(&mut window, life, page) {
            At::Record(row, key) => {
                let next = row.layout().pages();
                walked.table.push(row, &key);
                next
            }
            At::Torn => {
                walked.torn += 1;
                1
            }
            At::Nothing => 1,
        };
    }
    walked.read_errors = window.errors;
    walked.bytes_read = window.bytes_read;
    walked
}

/// What lies at a page.
enum At {
    Record(Row, Vec<u8>),
    /// A valid header without its payload.
    Torn,
    Nothing,
}

fn record_at(window: &mut Window<'_>, life: &Life, page: u32) -> At {
    let at = page as usize * PAGE_LEN;
    let Ok(first) = window.get(at, PAGE_LEN) else { return At::Nothing };
    let Some(header_len) = RecordView::claimed_len(first) else { return At::Nothing };
    let Ok(header) = window.get(at, header_len) else { return At::Nothing };
    let Ok(place) = u16::try_from(page) else { return At::Nothing };
    let Ok(view) = RecordView::decode(header, life, place) else { return At::Nothing };
    let (Ok(key_len), Ok(length)) = (u16::try_from(view.key.len()), u32::try_from(view.length)) else {
        return At::Nothing;
    };
    let row =
        Row { page: place, key_len, length, crc: view.crc, generation: view.generation, expires_ms: view.expires_ms };
    let key = view.key.to_vec();
    let chunks: Vec<Crc> = view.chunks().collect();
    let payload_at = at + header_len;
    let mut whole = Crc::default();
    for (n, crc) in chunks.iter().enumerate() {
        let (from, to) = (n * CHUNK_LEN, ((n + 1) * CHUNK_LEN).min(length as usize));
        match window.get(payload_at + from, to - from) {
            Ok(chunk) if Crc::of(chunk) == *crc => whole = whole.then(*crc, (to - from) as u64),
            Ok(_) | Err(_) => return At::Torn,
        }
    }
    match row.layout().inline || whole == row.crc {
        true => At::Record(row, key),
        false => At::Torn,
    }
}

/// The part of the segment that was read last.
struct Window<'a> {
    source: &'a mut dyn Source,
    /// Where the segment begins on the device.
    base: u64,
    /// Bytes of the segment.
    end: usize,
    /// Where in the segment `bytes` begin.
    at: usize,
    bytes: Vec<u8>,
    errors: u32,
    bytes_read: u64,
}

impl Window<'_> {
    /// Bytes of the segment. Reads ahead where they are not at hand.
    fn get(&mut self, at: usize, len: usize) -> io::Result<&[u8]> {
        let end = at.checked_add(len).filter(|end| *end <= self.end).ok_or(io::ErrorKind::UnexpectedEof)?;
        if at < self.at || end > self.at + self.bytes.len() {
            self.fill(at, len)?;
        }
        Ok(&self.bytes[at - self.at..end - self.at])
    }

    fn fill(&mut self, at: usize, len: usize) -> io::Result<()> {
        let from = at - at % PAGE_LEN;
        let wanted = (at + len).next_multiple_of(PAGE_LEN) - from;
        let most = (self.end - from).min(wanted.max(AHEAD_READS * AHEAD_READ_LEN));
        let places: Vec<(u64, usize)> = (0..most)
            .step_by(AHEAD_READ_LEN)
            .map(|start| (self.base + (from + start) as u64, AHEAD_READ_LEN.min(most - start)))
            .collect();
        self.at = from;
        self.bytes.clear();
        for answer in self.source.read(&places) {
            match answer {
                Ok(bytes) => self.bytes.extend_from_slice(&bytes),
                Err(_) => break,
            }
        }
        self.bytes_read += self.bytes.len() as u64;
        if self.bytes.len() >= wanted {
            return Ok(());
        }
        // What was read ahead may be what does not read: once more, nothing but what is wanted.
        match self.source.read(&[(self.base + from as u64, wanted)]).pop() {
            Some(Ok(bytes)) => {
                self.bytes_read += bytes.len() as u64;
                self.bytes = bytes;
                Ok(())
            }
            Some(Err(error)) => {
                self.errors += 1;
                self.bytes.clear();
                Err(error)
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
