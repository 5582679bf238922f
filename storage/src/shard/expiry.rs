//! Time to live: when objects expire, and their removal.
//!
//! Invariant: an entry has one place in the queue, under the moment that it carries, exactly while its flag says so.

use super::Shard;
use crate::deadline::Deadlines;
use crate::dram::space::Space;
use crate::entry::{Entry, flag};
use protocol::base::Instant;

#[derive(Debug)]
pub(super) struct Expiry(Deadlines<u32>);

impl Expiry {
    pub(super) fn new() -> Self {
        Self(Deadlines::new())
    }

    pub(super) fn forget(&mut self, index: u32, entry: &mut Entry) {
        if entry.has(flag::EXPIRES) {
            entry.flags &= !flag::EXPIRES;
            self.0.call_off(entry.expires, index);
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
    /// When an entry expires.
    pub(crate) fn expiry(&self, index: u32) -> Option<Instant> {
        let entry = &self.entries[index];
        entry.has(flag::EXPIRES).then_some(entry.expires)
    }

    /// Sets or clears an entry's expiry.
    pub(crate) fn set_expiry(&mut self, index: u32, at: Option<Instant>) {
        let entry = &mut self.entries[index];
        self.expiry.forget(index, entry);
        if let Some(at) = at {
            entry.flags |= flag::EXPIRES;
            entry.expires = at;
            self.expiry.0.push(at, index);
        }
    }

    /// Removes what has expired, at most `most` objects. Returns whether more may be due.
    pub(crate) fn expire(&mut self, now: Instant, most: usize, space: &Space) -> bool {
        for _ in 0..most {
            let Some(index) = self.expiry.0.first_due(now) else { return false };
            self.counters.expired += 1;
            self.unlink(index, space);
        }
        true
    }

    /// Live objects that have a TTL.
    pub(crate) fn expiring(&self) -> usize {
        self.expiry.0.len()
    }
}
