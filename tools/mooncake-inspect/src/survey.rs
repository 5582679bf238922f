//! All segments of a device, as a starting server would find them.

use crate::place::{Device, Notes};
use anyhow::Result;
use std::sync::Mutex;
use storage::flash::format::{Head, Life, Row, SegmentHeader, Table};
use storage::flash::journal::{Fate, RecordAt};
use storage::flash::recover::{Found, Progress, Summary, Visitor, recover};

/// What a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    Sealed,
    Open,
    Unreadable,
}

impl State {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Sealed => "sealed",
            Self::Open => "open",
            Self::Unreadable => "unreadable",
        }
    }
}

/// One segment.
pub(crate) struct Segment {
    pub(crate) number: u32,
    pub(crate) state: State,
    /// `None` for free and unreadable ones.
    pub(crate) header: Option<SegmentHeader>,
    pub(crate) table: Table,
    /// Unix time in milliseconds.
    pub(crate) sealed_ms: Option<u64>,
    /// Records that were begun and are not whole.
    pub(crate) torn: u32,
    /// Reads that failed.
    pub(crate) read_errors: u32,
    /// Why it is unreadable.
    pub(crate) error: Option<String>,
}

impl Segment {
    fn blank(number: u32, state: State) -> Self {
        Self { number, state, header: None, table: Table::new(), sealed_ms: None, torn: 0, read_errors: 0, error: None }
    }

    pub(crate) fn life(&self) -> Option<&Life> {
        self.header.as_ref().map(|header| &header.life)
    }

    pub(crate) fn head(&self) -> &'static str {
        match self.header.as_ref().map(|header| header.head) {
            Some(Head::New) => "new",
            Some(Head::Reinserted) => "reinserted",
            None => "",
        }
    }

    /// Bytes of payload of all records.
    pub(crate) fn payload_len(&self) -> u64 {
        self.table.iter().map(|(row, _)| u64::from(row.length)).sum()
    }
}

/// Collects what recovery finds. No table of a metadata store is asked for: the device itself is to be judged.
#[derive(Default)]
struct Collect(Mutex<Vec<Segment>>);

impl Visitor for Collect {
    fn meta(&self, _: u32) -> Option<Vec<u8>> {
        None
    }

    fn found(&self, number: u32, found: Found) {
        let segment = match found {
            Found::Free => Segment::blank(number, State::Free),
            Found::Sealed { header, table, sealed_ms, .. } => Segment {
                header: Some(header),
                table,
                sealed_ms: Some(sealed_ms),
                ..Segment::blank(number, State::Sealed)
            },
            Found::Open { header, walked } => Segment {
                header: Some(header),
                table: walked.table,
                torn: walked.torn,
                read_errors: walked.read_errors,
                ..Segment::blank(number, State::Open)
            },
            Found::Unreadable(error) => {
                Segment { error: Some(error.to_string()), ..Segment::blank(number, State::Unreadable) }
            }
        };
        self.0.lock().expect("no thread panics").push(segment);
    }

    fn progress(&self, _: &Progress) {}
}

/// Reads all tables of a device; answers its segments in order.
pub(crate) fn survey(device: &Device) -> Result<(Vec<Segment>, Summary)> {
    let collect = Collect::default();
    let summary = recover(&mut device.source()?, &device.superblock, &collect, 2);
    let mut segments = collect.0.into_inner().expect("no thread panics");
    segments.sort_by_key(|segment| segment.number);
    Ok((segments, summary))
}

/// What the journal says of a record; nothing without a journal.
pub(crate) fn fate(notes: Option<&Notes>, device: &Device, life: &Life, row: &Row) -> Fate {
    let (Some(notes), Ok(number), Ok(segment)) =
        (notes, u16::try_from(device.superblock.number), u16::try_from(life.segment))
    else {
        return Fate::Alive { expires_ms: None };
    };
    let record = RecordAt { device: number, segment, life: life.life, page: row.page, generation: row.generation };
    notes.remembered.fate(&record)
}
