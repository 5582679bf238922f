//! One segment: the life it is in, and what is known of its records.

use super::FoundSegment;
use crate::flash::format::{Life, Row, Table};
use protocol::base::Instant;

/// Where a segment stands; drawn in [`super`].
pub(super) enum State {
    /// Holds nothing that counts.
    Free,
    /// Its new header is being written, synced, or read back.
    Beginning(Begun),
    /// Its new life is durable; nothing was written into it.
    Ready,
    /// Records are appended.
    Open(Box<Open>),
    /// Nothing is appended any more; writes and the footer are under way.
    Sealing(Box<Open>, Closing),
    /// Complete.
    Sealed(Sealed),
    /// Its records are surveyed and copied.
    Reclaiming(Sealed),
    /// Forgotten by the index; reads may still be under way.
    Draining,
    /// Gave wrong bytes too often, or cannot be read.
    Quarantined(Kept),
}

/// What is left of a segment in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// Records that nobody has a table of.
    Records,
    /// Nothing that the index knows.
    Nothing,
}

impl State {
    /// Whether something has to be done about it by and by.
    pub(super) fn is_moving(&self) -> bool {
        matches!(self, Self::Beginning(_) | Self::Open(_) | Self::Sealing(..) | Self::Draining)
    }

    /// Whether it could begin a life, or is about to.
    pub(super) fn is_free(&self) -> bool {
        matches!(self, Self::Free | Self::Beginning(_) | Self::Ready)
    }
}

/// How far a new life has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    /// Its header is being written or synced.
    Writing,
    /// It is durable, if the device does not lie; to be read back.
    Synced,
    /// It is being read back.
    Reading,
}

/// How far the end of a segment's writing has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    /// Records are still being written.
    Records,
    /// The footer is being written.
    Footer,
    /// The footer is being synced.
    Sync,
}

/// What is known of a segment that no record is added to.
pub(super) struct Sealed {
    /// Lower ones were sealed earlier.
    pub(super) order: u64,
    /// Pages of its footer; 0 if it has none on flash.
    pub(super) footer_pages: u32,
    /// Its records, if no footer tells them.
    pub(super) table: Option<Table>,
}

/// When a record's write was complete.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Not yet.
    Pending,
    /// It was the write of this number.
    Written(u64),
    /// It failed, or its object was gone.
    Failed,
}

/// A segment that is being written.
pub(super) struct Open {
    /// A row for each record that was placed.
    pub(super) table: Table,
    /// What became of each.
    pub(super) marks: Vec<Mark>,
    /// Where the next record goes.
    pub(super) next_page: u32,
    /// Records being written.
    pub(super) writes: u32,
}

impl Open {
    pub(super) fn new() -> Self {
        Self { table: Table::new(), marks: Vec::new(), next_page: 1, writes: 0 }
    }

    /// Of a segment that was open when the process ended.
    pub(super) fn found(table: Table) -> Self {
        Self { marks: vec![Mark::Written(0); table.len()], next_page: table.end_page(), table, writes: 0 }
    }

    /// Whether a record fits behind the others, of a segment of `segment_pages`.
    pub(super) fn fits(&self, pages: u32, key_len: usize, segment_pages: u32) -> bool {
        self.table.len() < crate::flash::format::TABLE_COUNT_MAX
            && u64::from(self.next_page) + u64::from(pages) + u64::from(self.table.footer_pages_with(key_len))
                <= u64::from(segment_pages)
    }

    /// Appends a record; its number.
    pub(super) fn push(&mut self, row: Row, key: &[u8]) -> usize {
        self.next_page += row.layout().pages();
        self.table.push(row, key);
        self.marks.push(Mark::Pending);
        self.writes += 1;
        self.marks.len() - 1
    }

    /// The records that were written.
    pub(super) fn written(&self) -> Table {
        if self.marks.iter().all(|mark| matches!(mark, Mark::Written(_))) {
            return self.table.clone();
        }
        let mut table = Table::new();
        for ((row, key), mark) in self.table.iter().zip(&self.marks) {
            if matches!(mark, Mark::Written(_)) {
                table.push(row, key);
            }
        }
        table
    }
}

/// One segment.
pub(super) struct Segment {
    pub(super) state: State,
    /// Of the present or latest life; `None` if only its number is known.
    pub(super) life: Option<Life>,
    pub(super) life_number: u64,
    /// Bytes of its records.
    pub(super) used: u64,
    /// Reads that were not what the index said, in this life.
    pub(super) mismatches: u32,
    /// How often in a row it came back from quarantine, or could not.
    pub(super) returns: u32,
    /// In quarantine: when it may be looked at.
    pub(super) look_at: Instant,
    /// Whether a sync failed while it was written: nothing unsynced in it counts.
    pub(super) lost: bool,
}

impl Segment {
    pub(super) fn found(found: FoundSegment) -> Self {
        let (state, life, life_number, used) = match found {
            FoundSegment::Free { life } => (State::Free, None, life, 0),
            FoundSegment::Unreadable => (State::Quarantined(Kept::Nothing), None, 0, 0),
            FoundSegment::Sealed { life, footer_pages, used, .. } => {
                (State::Sealed(Sealed { order: 0, footer_pages, table: None }), Some(life), life.life, used)
            }
            FoundSegment::Open { life, table } => {
                let used = table.iter().map(|(row, _)| u64::from(row.layout().pages()) * crate::PAGE).sum();
                let open = Box::new(Open::found(table));
                (State::Sealing(open, Closing::Records), Some(life), life.life, used)
            }
        };
        Self { state, life, life_number, used, mismatches: 0, returns: 0, look_at: Instant(0), lost: false }
    }

    /// The life that its records are checked with.
    ///
    /// # Panics
    /// If it has none: then nothing of it is in the index.
    pub(super) fn life(&self) -> &Life {
        self.life.as_ref().expect("a segment that is read or written has a life")
    }

    pub(super) fn open_mut(&mut self) -> Option<&mut Open> {
        match &mut self.state {
            State::Open(open) | State::Sealing(open, _) => Some(open),
            _ => None,
        }
    }
}
