//! A device that is let go: what it holds goes elsewhere, or with it.
//!
//! Role: every segment is reclaimed as the oldest one always is, but all of its records are kept. Another device writes them
//! (`adopt`); what none takes goes into DRAM, and is dirty there.
//!
//! Invariants:
//! - A record that another device writes counts here until it is durable there: a crash between the two loses nothing.
//! - Each record that was handed over is answered, taken or not, and holds a reclaim up until then.

use super::super::Log;
use super::super::adopt::{Handed, Handover, Heirs};
use super::super::segment::State;
use super::Copy;
use protocol::base::{Crc, Millis, copy_and_crc, copy_into};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// How long a device that is let go waits for room for one object, while others are written to.
pub(crate) const LEAVE_PATIENCE: Millis = Millis(10_000);

/// What becomes of what a device holds that is let go.
#[derive(Clone)]
pub(crate) enum Leaving {
    /// It is gone with the device.
    Dropped,
    /// It is kept by these, or in DRAM.
    Kept(Arc<dyn Heirs>),
}

impl Log {
    /// Gives all segments up, one after another; open ones are sealed first, and nothing new is written. Reads are served.
    pub(crate) fn leave(&mut self, leaving: Leaving) {
        if self.leaving.is_none() {
            self.leave_until = self.now + LEAVE_PATIENCE;
            self.reclaim_due = true;
        }
        self.closing = true;
        self.leaving = Some(leaving);
    }

    /// It is not let go after all: what it still holds stays, and it is written to again.
    pub(crate) fn stay(&mut self) {
        if self.leaving.take().is_some() {
            self.closing = false;
            self.abandon_reclaim();
        }
    }

    /// Whether it is being let go.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Whether nothing is left that the index could know of.
    pub(crate) fn is_left(&self) -> bool {
        let left = |state: &State| state.is_free() || matches!(state, State::Quarantined(_));
        self.reclaim.is_none() && self.segments.iter().all(|segment| left(&segment.state))
    }

    /// Whether what a device that goes still holds goes with it, now that it cannot be read.
    pub(in crate::flash::log) fn is_given_up(&self) -> bool {
        matches!(self.leaving, Some(Leaving::Dropped)) && !self.health.is_on()
    }

    /// Gives a record to whoever keeps it. Gives it back if nobody has room yet.
    pub(super) fn hand_on(&mut self, mut copy: Box<Copy>) -> Option<Box<Copy>> {
        let place = self.place(copy.from, copy.keep.row.page);
        if let Some(Leaving::Kept(heirs)) = &self.leaving
            && !std::mem::take(&mut copy.refused)
        {
            match heirs.take(Handover::new(copy, place, Arc::clone(heirs))) {
                None => return None,
                Some(handover) => copy = handover.into_copy(),
            }
        }
        if self.keep_in_dram(&copy) {
            self.leave_until = self.now + LEAVE_PATIENCE;
        } else if self.now < self.leave_until {
            // Devices are being written to: there will be room.
            return Some(copy);
        } else {
            self.figures.dropped.fetch_add(1, Relaxed);
        }
        if let Some((_, _, copying)) = self.copying() {
            copying.under_way -= 1;
        }
        None
    }

    /// A record that was handed over was written, or was not taken.
    pub(crate) fn handed(&mut self, handed: Handed) {
        let Handed { reclaim, back } = handed;
        let patience = self.now + LEAVE_PATIENCE;
        let Some((number, _, copying)) = self.copying() else { return };
        if number != reclaim {
            return;
        }
        match back {
            Some(mut copy) => {
                copy.refused = true;
                copying.read.push_back(copy);
            }
            None => {
                copying.under_way -= 1;
                self.leave_until = patience;
            }
        }
    }

    /// Brings the object of a record into DRAM, where it stays when the record is dropped. `false` if there is no room yet.
    fn keep_in_dram(&mut self, copy: &Copy) -> bool {
        let read = self.store.flash_prefetch(self.now, &copy.keep.key);
        let Some(read) = read.filter(|read| read.generation == copy.keep.row.generation) else { return true };
        let Ok(promotion) = self.store.promote(self.now, &read, &self.account) else { return false };
        let to = promotion.span();
        if copy.layout.inline {
            copy_into(&copy.inline, &to);
        } else {
            let from =
                copy.span().part(copy.layout.header_len(), to.len()).expect("the payload lies behind the header");
            copy_and_crc(&from, &to, Crc::default());
        }
        // Whoever removed the object meanwhile wanted it gone. What is there is dirty before anybody can evict it.
        let _guard = promotion.publish(self.now);
        let place = self.place(copy.from, copy.keep.row.page);
        self.store.drop_record(&copy.keep.key, copy.keep.row.generation, place);
        true
    }
}
