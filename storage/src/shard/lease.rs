//! Leases: promises, until a stated end, that an object's bytes stay where they are.
//!
//! Invariants:
//! - Each lease is one user of its entry, from grant to release or expiry.
//! - A lease outlives the object's key: a doomed object's readers may finish.

use super::{Shard, Side};
use crate::deadline::Deadlines;
use crate::dram::space::Space;
use crate::entry::Entries;
use protocol::base::{Generation, Instant, LeaseId, SessionId};
use rand::RngCore;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    pub(crate) index: u32,
    pub(crate) generation: Generation,
    pub(crate) deadline: Instant,
    pub(crate) session: SessionId,
}

/// All leases on objects of a shard.
#[derive(Debug)]
pub(crate) struct Leases {
    held: Side<u64, Lease>,
    queue: Deadlines<u64>,
}

impl Leases {
    pub(super) fn new(hasher: &ahash::RandomState) -> Self {
        Self { held: Side::with_hasher(hasher.clone()), queue: Deadlines::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.held.capacity() * (size_of::<Lease>() + 9) + self.queue.len() * 16
    }

    fn push(&mut self, at: Instant, id: u64) {
        self.queue.push(at, id);
        let held = &self.held;
        self.queue
            .compact(held.len(), |std::cmp::Reverse((at, id))| held.get(id).is_some_and(|lease| lease.deadline == *at));
    }

    pub(super) fn audit(&self, entries: &Entries) {
        for lease in self.held.values() {
            let entry = entries.get(lease.index).expect("a lease keeps its entry");
            assert_eq!(entry.generation, lease.generation, "a lease keeps its entry");
            assert!(entry.users > 0, "a lease is a user");
        }
    }
}

impl Shard {
    /// Random bits with the shard's number in the lowest byte, so that the id finds its shard.
    pub(super) fn credential(&mut self, number: u8) -> u64 {
        self.rng.next_u64() & !0xff | u64::from(number)
    }

    /// Leases a live entry. `None` if it has too many users.
    pub(crate) fn lease(&mut self, index: u32, until: Instant, session: SessionId, number: u8) -> Option<LeaseId> {
        if !self.add_user(index) {
            return None;
        }
        let generation = self.entries[index].generation;
        let id = loop {
            let id = self.credential(number);
            if !self.leases.held.contains_key(&id) {
                break id;
            }
        };
        self.leases.held.insert(id, Lease { index, generation, deadline: until, session });
        self.leases.push(until, id);
        Some(LeaseId(id))
    }

    /// A lease that still holds and is this session's.
    pub(crate) fn held_lease(&self, now: Instant, id: LeaseId, session: SessionId) -> Option<Lease> {
        self.leases.held.get(&id.0).copied().filter(|lease| lease.session == session && lease.deadline > now)
    }

    /// Extends a lease; never shortens it. Returns its end.
    pub(crate) fn renew(&mut self, now: Instant, id: LeaseId, session: SessionId, until: Instant) -> Option<Instant> {
        self.held_lease(now, id, session)?;
        let lease = self.leases.held.get_mut(&id.0)?;
        if until > lease.deadline {
            lease.deadline = until;
            self.leases.push(until, id.0);
        }
        self.leases.held.get(&id.0).map(|lease| lease.deadline)
    }

    /// Ends a lease. `false` if it is not held by the session.
    pub(crate) fn release(&mut self, id: LeaseId, session: SessionId, space: &Space) -> bool {
        if self.leases.held.get(&id.0).is_none_or(|lease| lease.session != session) {
            return false;
        }
        let lease = self.leases.held.remove(&id.0).expect("looked up above");
        self.drop_user(lease.index, lease.generation, space);
        true
    }

    /// Ends all leases of a session. Looks at every lease of the shard.
    pub(crate) fn end_session_leases(&mut self, session: SessionId, space: &Space) {
        let ended: Vec<u64> =
            self.leases.held.iter().filter(|(_, lease)| lease.session == session).map(|(&id, _)| id).collect();
        for id in ended {
            self.release(LeaseId(id), session, space);
        }
    }

    /// Ends the leases that ran out.
    pub(crate) fn end_leases(&mut self, now: Instant, space: &Space) {
        while let Some(id) = self.leases.queue.pop_due(now) {
            if self.leases.held.get(&id).is_some_and(|lease| lease.deadline <= now) {
                let lease = self.leases.held.remove(&id).expect("looked up above");
                self.counters.leases_expired += 1;
                self.drop_user(lease.index, lease.generation, space);
            }
        }
    }
}
