//! A device that fails is taken off, probed, and taken back.
//!
//! Invariants:
//! - While the device is off nothing but probes is written, and reads of it miss without being tried.
//! - A failed sync takes the device off at once, and with it goes what was not synced.

use super::Log;
use super::flight::Flight;
use super::segment::{Closing, Mark, State};
use crate::flash::engine::{BLOCK, Engine, Op, Scratch};
use protocol::base::{Generation, Instant, Millis};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Where probes are written: between the superblocks and the first segment.
const PROBE_OFFSET: u64 = 512 << 10;
/// Within this time errors are counted.
const WINDOW: Millis = Millis(60_000);

/// How far a probe has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The page is being written.
    Write,
    /// It is being synced.
    Sync,
    /// It is being read back.
    Read,
}

/// Whether the device is used.
pub(super) struct Health {
    errors: VecDeque<Instant>,
    errors_max: usize,
    interval: Millis,
    off: Option<Off>,
}

struct Off {
    why: String,
    next_probe: Instant,
    probe: Option<(Stage, Option<Scratch>)>,
    under_way: bool,
    number: u64,
}

impl Health {
    pub(super) fn new(errors_per_minute: u32, interval: Millis) -> Self {
        Self { errors: VecDeque::new(), errors_max: errors_per_minute as usize, interval, off: None }
    }

    pub(super) fn is_on(&self) -> bool {
        self.off.is_none()
    }

    pub(super) fn why_off(&self) -> Option<&str> {
        self.off.as_ref().map(|off| &off.why[..])
    }

    /// How long until the next probe is due; `None` while none is.
    pub(super) fn next_probe(&self, now: Instant) -> Option<Duration> {
        let off = self.off.as_ref()?;
        (!off.under_way).then(|| off.next_probe.since(now).max(Duration::from_millis(1)))
    }
}

impl Log {
    pub(super) fn count_error(&mut self, error: &io::Error) {
        self.figures.errors.fetch_add(1, Relaxed);
        if !self.health.is_on() {
            return;
        }
        let now = self.now;
        self.health.errors.push_back(now);
        while self.health.errors.front().is_some_and(|&at| at + WINDOW < now) {
            self.health.errors.pop_front();
        }
        if self.health.errors.len() > self.health.errors_max {
            let count = self.health.errors.len();
            self.fence(&format!("{count} errors within a minute, the latest: {error}"));
        }
    }

    /// Takes the device off.
    pub(super) fn fence(&mut self, why: &str) {
        if !self.health.is_on() {
            return;
        }
        tracing::error!(device = %self.config.device, why, "a flash device is off: nothing is written to it, reads of it miss");
        self.health.off = Some(Off {
            why: why.to_owned(),
            next_probe: self.now + self.health.interval,
            probe: None,
            under_way: false,
            number: 0,
        });
        self.abandon_reclaim();
        self.abandon_waiting(why);
        for segment in self.heads.into_iter().flatten() {
            self.seal(segment);
        }
        self.refuse_spills();
        self.syncs.states_changed = true;
    }

    /// Nothing counts that was written since the last sync, and nothing more is written where it was.
    pub(super) fn sync_failed(&mut self, error: &io::Error) {
        let synced = self.syncs.synced;
        for at in 0..self.segments.len() {
            let slot = self.slot(u32::try_from(at).expect("segments are counted in 32 bits"));
            let segment = &mut self.segments[at];
            let Some(open) = segment.open_mut() else { continue };
            let mut dropped = 0u64;
            for ((row, key), mark) in open.table.iter().zip(&mut open.marks) {
                if let Mark::Written(number) = *mark
                    && number > synced
                {
                    *mark = Mark::Failed;
                    let place = crate::FlashPlace { slot, page: row.page };
                    dropped += u64::from(self.store.drop_record(key, Generation(row.generation.0), place));
                }
            }
            segment.lost = true;
            self.figures.dropped.fetch_add(dropped, Relaxed);
        }
        self.fence(&format!("a sync failed: {error}"));
    }

    /// Ends segments that a failed sync took, once nothing is written to them any more.
    pub(super) fn settle_lost(&mut self) {
        for at in 0..self.moving.len() {
            let segment = self.moving[at];
            let entry = &self.segments[segment as usize];
            if let State::Sealing(open, Closing::Records) = &entry.state
                && entry.lost
                && open.writes == 0
            {
                self.seal_failed(segment);
            }
        }
    }

    /// Probes the device when it is time.
    pub(super) fn step_health(&mut self, engine: &mut dyn Engine) {
        self.settle_lost();
        let now = self.now;
        let Some(off) = &mut self.health.off else { return };
        if off.under_way {
            return;
        }
        let (stage, page) = match off.probe.take() {
            Some(probe) => probe,
            None if now < off.next_probe => return,
            None => {
                let Some(mut page) = self.pool.take() else { return };
                off.number += 1;
                page.bytes_mut()[..BLOCK].copy_from_slice(&pattern(off.number));
                (Stage::Write, Some(page))
            }
        };
        let Some(scratch) = page else { return };
        off.under_way = true;
        let parts = vec![scratch.span(BLOCK)];
        let tag = self.flights.launch(Flight::Probe { stage, page: Some(scratch) });
        engine.submit(match stage {
            Stage::Write => Op::write(tag, PROBE_OFFSET, parts),
            Stage::Sync => Op::sync(tag),
            Stage::Read => Op::read(tag, PROBE_OFFSET, parts),
        });
    }

    pub(super) fn probe_done(&mut self, stage: Stage, page: Option<Scratch>, result: io::Result<()>) {
        let Some(off) = &mut self.health.off else { return };
        off.under_way = false;
        off.next_probe = self.now + self.health.interval;
        if result.is_err() {
            return;
        }
        let Some(mut page) = page else { return };
        match stage {
            Stage::Write => off.probe = Some((Stage::Sync, Some(page))),
            Stage::Sync => {
                page.bytes_mut()[..BLOCK].fill(0);
                off.probe = Some((Stage::Read, Some(page)));
            }
            Stage::Read if page.bytes()[..BLOCK] == pattern(off.number) => {
                self.health.off = None;
                self.health.errors.clear();
                self.syncs.states_changed = true;
                tracing::info!(device = %self.config.device, "a flash device is back");
            }
            Stage::Read => {}
        }
    }
}

/// A page that says which probe it is of.
fn pattern(number: u64) -> [u8; BLOCK] {
    let mut page = [0; BLOCK];
    for (at, chunk) in (0u64..).zip(page.chunks_exact_mut(8)) {
        chunk.copy_from_slice(&(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at).to_le_bytes());
    }
    page
}
