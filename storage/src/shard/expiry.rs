//! Time to live: when objects expire, and their removal.
//!
//! Invariants:
//! - An object that expires has one place in the queue, under the moment that it carries: as its entry on flash if it has
//!   one, else as that in DRAM.
//! - The entries of an object in both tiers carry the same moment.

use super::Shard;
use super::flash::FLASH;
use crate::deadline::Deadlines;
use crate::dram::space::Space;
use crate::entry::{Entry, flag};
use crate::shard::event::Event;
use protocol::base::Instant;

#[derive(Debug)]
pub(super) struct Expiry(pub(super) Deadlines<u32>);

impl Expiry {
    pub(super) fn new() -> Self {
        Self(Deadlines::new())
    }

    pub(super) fn forget(&mut self, index: u32, entry: &mut Entry) {
        if entry.has(flag::EXPIRES) {
            entry.flags &= !flag::EXPIRES;
            if !entry.has(flag::CLEAN) {
                self.0.call_off(entry.expires, index);
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    pub(super) fn audit(&self, flagged: usize) {
        assert_eq!(self.0.len(), flagged, "each expiry is queued once");
    }
}

impl Shard {
    /// When an entry in DRAM expires.
    pub(crate) fn expiry(&self, index: u32) -> Option<Instant> {
        let entry = &self.entries[index];
        entry.has(flag::EXPIRES).then_some(entry.expires)
    }

    /// Sets or clears an object's expiry, by its entry in DRAM.
    pub(crate) fn set_expiry(&mut self, index: u32, at: Option<Instant>) {
        if self.entries[index].has(flag::CLEAN) {
            let twin = self.twin_on_flash(index);
            self.set_flash_expiry(twin, at);
            return;
        }
        let entry = &mut self.entries[index];
        self.expiry.forget(index, entry);
        if let Some(at) = at {
            entry.flags |= flag::EXPIRES;
            entry.expires = at;
            self.expiry.0.push(at, index);
        }
        self.tell_expiry_of_spill(index, at);
    }

    /// Removes what has expired, at most `most` objects. Returns whether more may be due.
    pub(crate) fn expire(&mut self, now: Instant, most: usize, space: &Space) -> bool {
        for _ in 0..most {
            let Some(handle) = self.expiry.0.first_due(now) else { return false };
            self.counters.expired += 1;
            self.note_event(Event::Expired, handle, space);
            if handle & FLASH == 0 {
                self.unlink(handle, space);
            } else {
                self.unlink_flash(handle & !FLASH, space);
            }
        }
        true
    }

    /// Live objects that have a TTL.
    pub(crate) fn expiring(&self) -> usize {
        self.expiry.0.len()
    }
}
