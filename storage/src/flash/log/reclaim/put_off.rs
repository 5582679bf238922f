//! Reclaims that find no room for what is pinned, and room that is kept for copies.
//!
//! Invariants:
//! - A segment that is put off stays as it is, and is tried again by and by.

use super::super::Log;
use super::super::segment::State;
use super::Reclaim;
use protocol::base::{Instant, Millis};

/// How soon a reclaim that was put off is tried again; twice as late each time, up to the second.
const RETRY_MIN: Millis = Millis(1_000);
const RETRY_MAX: Millis = Millis(60_000);

/// Segments whose pinned records find no room at present.
#[derive(Default)]
pub(in crate::flash::log) struct PutOff {
    pub(super) segments: Vec<u32>,
    /// When they are tried again.
    pub(super) until: Option<Instant>,
    wait: Millis,
    /// When they were tried again last.
    tried: Option<Instant>,
    /// No segment can be reclaimed, and nothing is left to write to.
    pub(super) full: bool,
}

impl Log {
    /// Whether all that the device holds is pinned or set aside, or as good as.
    pub(in crate::flash::log) fn is_full(&self) -> bool {
        self.put_off.full
    }

    /// Whether nothing that could be written to will come by itself.
    pub(super) fn is_stuck(&self) -> bool {
        let coming = |state: &State| matches!(state, State::Free | State::Draining);
        let aside = |state: &State| matches!(state, State::Quarantined(_));
        self.segments.iter().all(|segment| aside(&segment.state))
            || !self.put_off.segments.is_empty() && !self.segments.iter().any(|segment| coming(&segment.state))
    }

    /// What must not be lost finds no room: the segment stays as it is.
    pub(super) fn put_off(&mut self) {
        let Some(Reclaim { segment, .. }) = self.reclaim else { return };
        self.abandon_reclaim();
        self.put_off.segments.push(segment);
        if self.put_off.until.is_none() {
            let wait = self.put_off.wait.0.clamp(RETRY_MIN.0, RETRY_MAX.0);
            // Tried again and in vain: a little later the next time.
            let in_vain = self.put_off.tried.is_some_and(|at| self.now < at + Millis(wait));
            let wait = if in_vain { Millis((wait * 2).min(RETRY_MAX.0)) } else { RETRY_MIN };
            self.put_off.until = Some(self.now + wait);
            self.put_off.wait = wait;
            tracing::warn!(
                device = %self.config.device,
                "what is pinned leaves no room to reclaim segments: they stay as they are for now"
            );
        }
    }

    pub(super) fn retry_put_off(&mut self) {
        let Some(until) = self.put_off.until else { return };
        if until <= self.now {
            self.put_off.segments.clear();
            self.put_off.until = None;
            self.put_off.tried = Some(self.now);
            self.reclaim_due = true;
        }
    }

    /// Whether what is left of room is for the copies of a reclaim.
    pub(in crate::flash::log) fn keeps_room(&self) -> bool {
        (self.is_full() || !self.put_off.segments.is_empty() || self.reclaim.as_ref().is_some_and(Reclaim::needs_room))
            && !self.segments.iter().any(|segment| matches!(segment.state, State::Free))
    }

    /// Whether waiting for room would be waiting for this very reclaim.
    pub(super) fn no_room_ahead(&self) -> bool {
        let coming =
            self.segments.iter().any(|segment| segment.state.is_free() || matches!(segment.state, State::Draining));
        !coming
    }

    /// There is no room for all copies: only what must be kept is, and if that has none either, all of it stays where it is.
    pub(super) fn spare_room(&mut self) {
        let Some((_, _, copying)) = self.copying() else { return };
        let before = copying.read.len() + copying.todo.len();
        let read = copying.read.len();
        copying.read.retain(|copy| copy.keep.pinned);
        copying.under_way -= read - copying.read.len();
        copying.todo.retain(|keep| keep.pinned);
        let left = copying.read.len() + copying.todo.len();
        if left == before {
            self.put_off();
        }
    }
}
