//! Time to live: when objects expire, and their removal.
//!
//! Invariant: an entry has an expiry here, and one place in the queue, exactly while its flag says so.

use super::{Shard, Side};
use crate::deadline::Deadlines;
use crate::dram::space::Space;
use crate::entry::{Entry, flag};
use protocol::base::Instant;

#[derive(Debug)]
pub(super) struct Expiry {
    at: Side<u32, Instant>,
    queue: Deadlines<u32>,
}

impl Expiry {
    pub(super) fn new(hasher: &ahash::RandomState) -> Self {
        Self { at: Side::with_hasher(hasher.clone()), queue: Deadlines::new() }
    }

    pub(super) fn forget(&mut self, index: u32, entry: &mut Entry) {
        if entry.has(flag::EXPIRES) {
            entry.flags &= !flag::EXPIRES;
            let at = self.at.remove(&index).expect("flagged entries are known");
            self.queue.call_off(at, index);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.at.capacity() * (size_of::<(u32, Instant)>() + 1) + self.queue.bytes()
    }

    pub(super) fn audit_entry(&self, index: u32, entry: &Entry) {
        assert_eq!(entry.has(flag::EXPIRES), self.at.contains_key(&index), "expiry of {index}");
    }

    pub(super) fn audit(&self, flagged: usize) {
        assert_eq!((self.at.len(), self.queue.len()), (flagged, flagged), "each expiry is known and queued once");
    }
}

impl Shard {
    /// When an entry expires.
    pub(crate) fn expiry(&self, index: u32) -> Option<Instant> {
        self.entries[index].has(flag::EXPIRES).then(|| self.expiry.at[&index])
    }

    /// Sets or clears an entry's expiry.
    pub(crate) fn set_expiry(&mut self, index: u32, at: Option<Instant>) {
        self.expiry.forget(index, &mut self.entries[index]);
        if let Some(at) = at {
            self.entries[index].flags |= flag::EXPIRES;
            self.expiry.at.insert(index, at);
            self.expiry.queue.push(at, index);
        }
    }

    /// Removes what has expired, at most `most` objects. Returns whether more may be due.
    pub(crate) fn expire(&mut self, now: Instant, most: usize, space: &Space) -> bool {
        for _ in 0..most {
            let Some(index) = self.expiry.queue.pop_due(now) else {
                return false;
            };
            let at = self.expiry.at.remove(&index).expect("queued entries are known");
            debug_assert!(at <= now, "due");
            self.entries[index].flags &= !flag::EXPIRES;
            self.counters.expired += 1;
            self.unlink(index, space);
        }
        true
    }

    /// Live objects that have a TTL.
    pub(crate) fn expiring(&self) -> usize {
        self.expiry.at.len()
    }
}
