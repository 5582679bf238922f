//! What the log has to be looked at by whoever scrubs it, and what follows from what was found.
//!
//! Role: names segments one after the other, and takes reports. Nobody waits for a scrub: a segment may be reclaimed and
//! reused while it is looked at.
//!
//! Invariants:
//! - A report counts only for the life of the segment that it was made of, and only while that is at rest.
//! - A quarantined segment comes back when it holds nothing and reads from end to end; each time in a row after a longer wait.

use super::Log;
use super::reclaim::MISMATCHES_MAX;
use super::segment::{Kept, Sealed, State};
use crate::flash::format::{Life, Table};
use crate::store::flash::FlashPlace;
use protocol::base::{Generation, Millis};
use std::sync::atomic::Ordering::Relaxed;

/// How long a segment that was in quarantine before waits until it is looked at again: twice as long each time.
const WAIT_MIN: Millis = Millis(1_000);
const WAIT_MAX: Millis = Millis(600_000);

/// How long a segment stays in quarantine that came back so often in a row.
pub(super) fn wait_after(returns: u32) -> Millis {
    let wait = WAIT_MIN.0.checked_shl(returns.saturating_sub(1)).unwrap_or(WAIT_MAX.0).min(WAIT_MAX.0);
    Millis(if returns == 0 { 0 } else { wait })
}

/// A segment to be looked at.
#[derive(Debug)]
pub(crate) struct ScrubJob {
    /// Which.
    pub(crate) segment: u32,
    /// The same, counted over all devices.
    pub(crate) slot: u16,
    /// What is to be done with it.
    pub(crate) task: Task,
    /// The life that it is in.
    life_number: u64,
}

/// What is to be done with a segment.
#[derive(Debug)]
pub(crate) enum Task {
    /// Header, table, and each record that counts are to be verified.
    Verify {
        /// Of the records.
        life: Life,
        /// Where the table is: pages of its footer, or the table itself.
        table: Result<u32, Table>,
    },
    /// Its table is lost: its records are to be found.
    Search {
        /// Of the records.
        life: Life,
    },
    /// It holds nothing: whether it can be read.
    Surface,
}

/// A record that is not what was written.
#[derive(Debug)]
pub(crate) struct Rotten {
    pub(crate) key: Box<[u8]>,
    pub(crate) generation: Generation,
    pub(crate) page: u16,
}

/// What was found.
#[derive(Debug)]
pub(crate) enum Finding {
    /// Header and table are right, and so many records; others are not.
    Verified { records: u64, rotten: Vec<Rotten> },
    /// Header or table are not what was written. These are its records.
    Damaged { table: Table },
    /// Of a segment that holds nothing.
    Surface { readable: bool },
}

impl ScrubJob {
    /// What came of it.
    pub(crate) fn report(&self, bytes: u64, finding: Finding) -> ScrubReport {
        ScrubReport { segment: self.segment, life_number: self.life_number, bytes, finding }
    }
}

/// What came of a [`ScrubJob`].
#[derive(Debug)]
pub(crate) struct ScrubReport {
    segment: u32,
    life_number: u64,
    bytes: u64,
    finding: Finding,
}

impl Log {
    /// The next segment to be looked at: one in quarantine first, then, if `sealed`, the first sealed one from `from` on.
    /// `None` at the end, and while the device is off.
    pub(crate) fn next_scrub(&self, from: u32, sealed: bool) -> Option<ScrubJob> {
        if !self.health.is_on() || self.closing {
            return None;
        }
        let job = |segment: usize, task| {
            let segment = u32::try_from(segment).expect("segments are counted in 32 bits");
            let life_number = self.segments[segment as usize].life_number;
            ScrubJob { segment, slot: self.slot(segment), task, life_number }
        };
        let aside = self.segments.iter().enumerate().find_map(|(at, segment)| match (&segment.state, segment.life) {
            (State::Quarantined(Kept::Records), Some(life)) => Some(job(at, Task::Search { life })),
            (State::Quarantined(Kept::Nothing), _) if segment.look_at <= self.clock.now() => {
                Some(job(at, Task::Surface))
            }
            _ => None,
        });
        let next = || {
            self.segments.iter().enumerate().skip(from as usize).find_map(|(at, segment)| match &segment.state {
                State::Sealed(sealed) if segment.mismatches < MISMATCHES_MAX => {
                    let table = sealed.table.clone().map_or(Ok(sealed.footer_pages), Err);
                    Some(job(at, Task::Verify { life: *segment.life(), table }))
                }
                _ => None,
            })
        };
        aside.or_else(|| sealed.then(next).flatten())
    }

    /// Takes what was found.
    pub(crate) fn scrubbed(&mut self, report: ScrubReport) {
        let ScrubReport { segment, life_number, bytes, finding } = report;
        self.figures.scrub_bytes.fetch_add(bytes, Relaxed);
        let slot = self.slot(segment);
        let order = self.take_seal_order();
        let entry = &mut self.segments[segment as usize];
        if entry.life_number != life_number {
            return;
        }
        match (finding, &mut entry.state) {
            (Finding::Verified { records, rotten }, State::Sealed(_)) => {
                self.figures.scrub_records.fetch_add(records, Relaxed);
                for Rotten { key, generation, page } in rotten {
                    if !self.store.drop_record(&key, generation, FlashPlace { slot, page }) {
                        continue;
                    }
                    entry.mismatches += 1;
                    self.figures.scrub_rotten.fetch_add(1, Relaxed);
                    tracing::warn!(device = %self.config.device, segment, page, "a scrub found a rotten record: it is dropped");
                }
            }
            (Finding::Damaged { table }, State::Sealed(sealed)) => {
                // Reclaimed before others, and what verifies is copied.
                sealed.footer_pages = 0;
                sealed.table = Some(table);
                entry.mismatches = MISMATCHES_MAX;
                self.figures.scrub_rotten.fetch_add(1, Relaxed);
                tracing::warn!(device = %self.config.device, segment, "a scrub found a rotten header or footer: the segment is emptied");
            }
            (Finding::Damaged { table }, State::Quarantined(Kept::Records)) => {
                let records = table.len();
                entry.state = State::Sealed(Sealed { order, footer_pages: 0, table: Some(table) });
                entry.mismatches = MISMATCHES_MAX;
                tracing::info!(device = %self.config.device, segment, records, "records of a segment without a footer were found");
            }
            (Finding::Surface { readable }, State::Quarantined(Kept::Nothing)) => {
                tracing::info!(device = %self.config.device, segment, readable, "a segment in quarantine was looked at");
                entry.returns += 1;
                if readable {
                    entry.mismatches = 0;
                    entry.state = State::Free;
                    self.figures.scrub_returned.fetch_add(1, Relaxed);
                } else {
                    entry.look_at = self.now + wait_after(entry.returns);
                }
            }
            // It moved on meanwhile.
            _ => return,
        }
        self.reclaim_due = true;
        self.syncs.states_changed = true;
    }
}
