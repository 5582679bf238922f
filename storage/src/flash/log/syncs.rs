//! Group commit: one sync at a time serves all who waited when it began.

use super::{Log, Ticket};
use crate::flash::engine::{Engine, Op};
use crate::flash::log::flight::Flight;
use crate::flash::tier::FlashError;
use std::io;
use std::sync::atomic::Ordering::Relaxed;

/// What waits for a sync.
pub(super) enum After {
    /// Somebody wants to know.
    Ticket(Ticket),
    /// A segment's new life.
    Begun(u32),
    /// A footer.
    Sealed(u32),
    /// The copies of what is kept of a segment.
    Copied(u32),
}

/// Which writes are durable.
#[derive(Default)]
pub(super) struct Syncs {
    /// Number of the latest complete write.
    pub(super) written: u64,
    /// All writes up to this number are durable.
    pub(super) synced: u64,
    running: bool,
    waiting: Vec<(u64, After)>,
    /// Whether a segment changed its state since the figures were published.
    pub(super) states_changed: bool,
}

impl Syncs {
    /// A write is complete; its number.
    pub(super) fn write_done(&mut self) -> u64 {
        self.written += 1;
        self.written
    }

    /// To be done when everything that is complete now is durable.
    pub(super) fn after(&mut self, after: After) {
        self.waiting.push((self.written, after));
    }

    /// Whether nobody waits and nothing runs.
    pub(super) fn is_idle(&self) -> bool {
        !self.running && self.waiting.is_empty()
    }

    /// Who waits no longer: all whose writes are durable.
    fn served(&mut self) -> Vec<After> {
        let synced = self.synced;
        let (served, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|&(needs, _)| needs <= synced);
        self.waiting = waiting;
        let served: Vec<(u64, After)> = served;
        served.into_iter().map(|(_, after)| after).collect()
    }

    /// Everybody who waits.
    pub(super) fn abandon(&mut self) -> Vec<After> {
        std::mem::take(&mut self.waiting).into_iter().map(|(_, after)| after).collect()
    }
}

impl Log {
    pub(super) fn step_syncs(&mut self, engine: &mut dyn Engine) {
        self.serve_synced();
        if self.syncs.running || self.syncs.waiting.is_empty() || !self.health.is_on() {
            return;
        }
        self.syncs.running = true;
        let tag = self.flights.launch(Flight::Sync { covers: self.syncs.written });
        engine.submit(Op::sync(tag));
    }

    pub(super) fn sync_done(&mut self, covers: u64, result: io::Result<()>) {
        self.syncs.running = false;
        match result {
            Ok(()) => {
                self.figures.syncs.fetch_add(1, Relaxed);
                self.syncs.synced = covers.max(self.syncs.synced);
                self.serve_synced();
            }
            Err(error) => self.sync_failed(&error),
        }
    }

    fn serve_synced(&mut self) {
        for after in self.syncs.served() {
            match after {
                After::Ticket(ticket) => ticket(Ok(())),
                After::Begun(segment) => self.begin_synced(segment),
                After::Sealed(segment) => self.seal_synced(segment),
                After::Copied(segment) => self.copies_synced(segment),
            }
        }
    }

    /// Nobody is served any more: the device is off.
    pub(super) fn abandon_waiting(&mut self, why: &str) {
        for after in self.syncs.abandon() {
            match after {
                After::Ticket(ticket) => ticket(Err(FlashError::Off { why: why.to_owned() })),
                After::Begun(segment) => self.begin_failed(segment),
                After::Sealed(segment) => self.seal_failed(segment),
                After::Copied(_) => {}
            }
        }
    }
}
