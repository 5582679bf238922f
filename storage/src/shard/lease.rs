//! Leases: promises, until a stated end, that an object's bytes stay where they are.
//!
//! Invariants:
//! - Each lease is one user of its entry, from grant to release or expiry.
//! - A lease outlives the object's key: a doomed object's readers may finish.
//! - What a session leases, it holds against its quota once an object, until its last lease on it ends.

use super::{Shard, Side};
use crate::deadline::Deadlines;
use crate::dram::space::Space;
use crate::entry::Entries;
use crate::error::StoreError;
use protocol::base::{ByteLen, Generation, Instant, LeaseId, SessionId};
use rand::RngCore;
use std::collections::BTreeSet;

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
    /// Each is in `queue` and `by_session` too, once.
    held: Side<u64, Lease>,
    queue: Deadlines<u64>,
    by_session: BTreeSet<(SessionId, u64)>,
    /// Leases of one session on one entry: the session's quota counts its bytes once.
    counts: Side<(SessionId, u32), u32>,
}

impl Leases {
    pub(super) fn new(hasher: &ahash::RandomState) -> Self {
        Self {
            held: Side::with_hasher(hasher.clone()),
            queue: Deadlines::new(),
            by_session: BTreeSet::new(),
            counts: Side::with_hasher(hasher.clone()),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.held.capacity() * (size_of::<(u64, Lease)>() + 1)
            + self.queue.bytes()
            + self.by_session.len() * 24
            + self.counts.capacity() * (size_of::<((SessionId, u32), u32)>() + 1)
    }

    fn take(&mut self, id: u64) -> Option<Lease> {
        let lease = self.held.remove(&id)?;
        self.queue.call_off(lease.deadline, id);
        assert!(self.by_session.remove(&(lease.session, id)), "leases are known by session");
        Some(lease)
    }

    pub(super) fn audit(&self, entries: &Entries) {
        let held = self.held.len();
        assert_eq!((self.queue.len(), self.by_session.len()), (held, held), "a lease has a deadline and a session");
        for lease in self.held.values() {
            let entry = entries.get(lease.index).expect("a lease keeps its entry");
            assert_eq!(entry.generation, lease.generation, "a lease keeps its entry");
            assert!(entry.users > 0, "a lease is a user");
        }
        assert_eq!(self.counts.values().sum::<u32>() as usize, held, "leases are counted by session and entry");
    }
}

impl Shard {
    /// Random bits with the shard's number in the lowest byte, so that the id finds its shard.
    pub(super) fn credential(&mut self, number: u8) -> u64 {
        self.rng.next_u64() & !0xff | u64::from(number)
    }

    /// Leases a live entry, unless it has too many users or the session leases too much.
    pub(crate) fn lease(
        &mut self,
        index: u32,
        until: Instant,
        session: SessionId,
        number: u8,
        space: &Space,
    ) -> Result<LeaseId, StoreError> {
        if !self.leases.counts.contains_key(&(session, index)) {
            let (charge, capacity) = (self.charge_of(index), space.capacity());
            space.leased.take(session, charge, capacity).map_err(|held| StoreError::Quota {
                what: "this client's leases",
                held: ByteLen(held),
                max: ByteLen(space.leased.max(capacity)),
                wanted: ByteLen(charge),
            })?;
            self.leases.counts.insert((session, index), 0);
        }
        if !self.add_user(index) {
            self.settle_leased(session, index, space);
            return Err(StoreError::TooManyUsers);
        }
        *self.leases.counts.get_mut(&(session, index)).expect("counted above") += 1;
        let generation = self.entries[index].generation;
        let id = loop {
            let LeaseId(id) = LeaseId::of(self.credential(number));
            if !self.leases.held.contains_key(&id) {
                break id;
            }
        };
        self.leases.held.insert(id, Lease { index, generation, deadline: until, session });
        self.leases.queue.push(until, id);
        self.leases.by_session.insert((session, id));
        Ok(LeaseId(id))
    }

    /// The session's quota counts an entry no more, once it has no lease on it.
    fn settle_leased(&mut self, session: SessionId, index: u32, space: &Space) {
        if self.leases.counts.get(&(session, index)) == Some(&0) {
            self.leases.counts.remove(&(session, index));
            space.leased.give(session, self.charge_of(index));
        }
    }

    /// Bytes that the quotas of sessions count of this shard's objects.
    pub(crate) fn leased_bytes(&self) -> u64 {
        self.leases.counts.keys().map(|&(_, index)| self.charge_of(index)).sum()
    }

    /// A lease is over.
    fn end_lease(&mut self, id: u64, space: &Space) {
        let lease = self.leases.take(id).expect("the caller looked it up");
        let count = self.leases.counts.get_mut(&(lease.session, lease.index)).expect("leases are counted");
        *count -= 1;
        self.settle_leased(lease.session, lease.index, space);
        self.drop_user(lease.index, lease.generation, space);
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
            self.leases.queue.call_off(lease.deadline, id.0);
            self.leases.queue.push(until, id.0);
            lease.deadline = until;
        }
        Some(lease.deadline)
    }

    /// Ends a lease. `false` if it is not held by the session.
    pub(crate) fn release(&mut self, id: LeaseId, session: SessionId, space: &Space) -> bool {
        if self.leases.held.get(&id.0).is_none_or(|lease| lease.session != session) {
            return false;
        }
        self.end_lease(id.0, space);
        true
    }

    /// Ends all leases of a session.
    pub(crate) fn end_session_leases(&mut self, session: SessionId, space: &Space) {
        let held = (session, u64::MIN)..=(session, u64::MAX);
        let ended: Vec<u64> = self.leases.by_session.range(held).map(|&(_, id)| id).collect();
        for id in ended {
            self.end_lease(id, space);
        }
    }

    /// Ends the leases of a session on objects whose keys `keeps` refuses. Returns how many.
    pub(crate) fn revoke_leases(&mut self, session: SessionId, keeps: &dyn Fn(&[u8]) -> bool, space: &Space) -> usize {
        let held = (session, u64::MIN)..=(session, u64::MAX);
        let held = self.leases.by_session.range(held).map(|&(_, id)| (id, self.leases.held[&id].index));
        let ended: Vec<u64> =
            held.filter(|&(_, index)| !self.with_key(index, space, keeps)).map(|(id, _)| id).collect();
        ended.iter().for_each(|&id| self.end_lease(id, space));
        ended.len()
    }

    /// The key of a session's lease.
    pub(crate) fn lease_key(&self, id: LeaseId, session: SessionId, space: &Space) -> Option<Box<[u8]>> {
        let lease = self.leases.held.get(&id.0).filter(|lease| lease.session == session)?;
        Some(self.with_key(lease.index, space, |key| key.into()))
    }

    /// Ends the leases that ran out, at most `most`. Returns whether more may be due.
    pub(crate) fn end_leases(&mut self, now: Instant, most: usize, space: &Space) -> bool {
        for _ in 0..most {
            let Some(id) = self.leases.queue.first_due(now) else {
                return false;
            };
            self.counters.leases_expired += 1;
            self.end_lease(id, space);
        }
        true
    }
}
