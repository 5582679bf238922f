//! Grants: the right to write one reserved slot once, until a deadline.
//!
//! ```text
//! Open ──begin_seal──▶ Sealing ──publish──▶ LIVE (entry)      Open ──abort, deadline──▶ FREE, or if writes are in
//!                         └────checksum wrong──▶ FREE                flight or a remote key is out: Ending ──▶ FREE
//! ```
//!
//! Invariants:
//! - A slot is published or freed exactly once, by whoever takes its grant out of the table.
//! - A slot is not freed while a write into it is in flight, nor while a remote key to it may be valid (quarantine).
//! - The result of a commit can be asked again for a while, by whoever knows the grant: a lost reply loses nothing.

use super::{At, Fresh, HashedKey, Shard, Side};
use crate::deadline::Deadlines;
use crate::dram::space::Space;
use crate::entry::flag;
use crate::error::StoreError;
use crate::lru::Stamp;
use crate::place::{PAGE, Place, extent_pages};
use crate::slot::Slot;
use crate::sync::Ordering;
use protocol::base::{ByteLen, Crc, Generation, GrantId, Instant, Millis, SessionId};
use std::collections::{BTreeSet, VecDeque};

/// Commits remembered by one shard, and bytes of their keys; the oldest are forgotten early when there are more.
const COMMITTED_MAX: usize = 16 * 1024;
const COMMITTED_KEY_BYTES_MAX: usize = 4 << 20;
/// Writes of one grant that may be in flight at once.
const WRITES_MAX: usize = 1024;

/// Longest that a grant lasts from its reservation, however often it is renewed.
pub const GRANT_SPAN_MAX: Millis = Millis(60_000);

/// When a write may take the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Condition {
    /// Replaces a live object.
    #[default]
    Always,
    /// Only if no live object has the key.
    IfAbsent,
    /// Only if a live object has the key.
    IfPresent,
    /// Only if the live object of the key is still this one.
    IfIs(Generation),
}

/// What becomes true of an object with its publication.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// When the key may be taken.
    pub condition: Condition,
    /// Keeps the replaced object's expiry and pins.
    pub keep_ttl: bool,
    /// When the object expires.
    pub expires: Option<Instant>,
    /// The key of the block before this one in its chain.
    pub parent: Option<Box<[u8]>>,
    /// Soft pin, until then.
    pub soft_pin: Option<Instant>,
    /// Pin without an end.
    pub pin: bool,
}

/// A commit's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The object's key.
    pub key: Box<[u8]>,
    /// Its generation.
    pub generation: Generation,
    /// Its length.
    pub length: ByteLen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Sealing,
    Ending,
}

/// One reserved slot and who may write it.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) slot: Slot,
    state: State,
    /// Ranges of the payload that are being written. They never overlap: each is one writer's alone.
    writing: Vec<std::ops::Range<u64>>,
    /// Somebody may write without asking us, until `fenced`.
    exposed: bool,
    pub(crate) deadline: Instant,
    /// It is not renewed beyond.
    deadline_max: Instant,
    session: SessionId,
    /// Of its payload, once it is being sealed.
    sealed_length: u64,
    pub(crate) terms: Terms,
}

/// All grants of a shard.
#[derive(Debug)]
pub(crate) struct Grants {
    /// Those in state `Open` are in `queue` and `by_session` too, once each.
    held: Side<u64, Grant>,
    queue: Deadlines<u64>,
    by_session: BTreeSet<(SessionId, u64)>,
    committed: Side<u64, Committed>,
    committed_order: VecDeque<(Instant, u64)>,
    committed_key_bytes: usize,
    /// Slots whose remote access must be revoked.
    fences: Vec<GrantId>,
    /// Bytes of small slots reserved, with a grant or without.
    pub(crate) small_bytes: u64,
}

impl Grants {
    pub(super) fn new(hasher: &ahash::RandomState) -> Self {
        Self {
            held: Side::with_hasher(hasher.clone()),
            queue: Deadlines::new(),
            by_session: BTreeSet::new(),
            committed: Side::with_hasher(hasher.clone()),
            committed_order: VecDeque::new(),
            committed_key_bytes: 0,
            fences: Vec::new(),
            small_bytes: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Slots that wait for a fence, once each.
    pub(crate) fn take_fences(&mut self) -> Vec<GrantId> {
        std::mem::take(&mut self.fences)
    }

    fn forget_committed(&mut self, now: Instant) {
        while self.committed_order.len() > COMMITTED_MAX
            || self.committed_key_bytes > COMMITTED_KEY_BYTES_MAX
            || self.committed_order.front().is_some_and(|&(until, _)| until <= now)
        {
            let Some((_, id)) = self.committed_order.pop_front() else {
                break;
            };
            let committed = self.committed.remove(&id).expect("what is in order is known");
            self.committed_key_bytes -= committed.key.len();
        }
    }

    /// An open grant is so no more.
    fn close(&mut self, id: u64) -> &mut Grant {
        let grant = self.held.get_mut(&id).expect("the caller looked it up");
        assert_eq!(grant.state, State::Open, "a grant is closed once");
        self.queue.call_off(grant.deadline, id);
        assert!(self.by_session.remove(&(grant.session, id)), "open grants are known by session");
        grant
    }

    pub(super) fn bytes(&self) -> usize {
        let keys: usize = self.held.values().map(|grant| grant.slot.key.len()).sum();
        self.held.capacity() * (size_of::<(u64, Grant)>() + 1)
            + keys
            + self.queue.bytes()
            + self.by_session.len() * 24
            + self.committed.capacity() * (size_of::<(u64, Committed)>() + 1)
            + self.committed_order.capacity() * size_of::<(Instant, u64)>()
            + self.committed_key_bytes
    }

    pub(super) fn audit(&self) {
        let open = self.held.values().filter(|grant| grant.state == State::Open).count();
        assert_eq!(
            (self.queue.len(), self.by_session.len()),
            (open, open),
            "open grants have a deadline and a session"
        );
        assert_eq!(self.committed.len(), self.committed_order.len(), "commits are known in order");
        let key_bytes: usize = self.committed.values().map(|committed| committed.key.len()).sum();
        assert_eq!(key_bytes, self.committed_key_bytes, "bytes of remembered keys");
        let small = |grant: &&Grant| matches!(grant.slot.place, Place::Small { .. });
        let small_bytes: u64 = self.held.values().filter(small).map(|grant| grant.slot.charge).sum();
        assert!(small_bytes <= self.small_bytes, "small slots granted are reserved");
        for grant in self.held.values().filter(|grant| grant.state == State::Ending) {
            assert!(!grant.writing.is_empty() || grant.exposed, "an ended grant waits for something");
        }
    }
}

/// Where a write goes, and until when it is of any use.
#[derive(Debug)]
pub(crate) struct ToWrite {
    pub(crate) place: Place,
    pub(crate) key_len: usize,
    pub(crate) generation: Generation,
    pub(crate) deadline: Instant,
}

/// What sealing works on: the bytes to check, and the grant that holds them.
#[derive(Debug)]
pub(crate) struct ToSeal {
    pub(crate) place: Place,
    pub(crate) key_len: usize,
    pub(crate) length: u64,
    pub(crate) exposed: bool,
    pub(crate) parent: Option<Box<[u8]>>,
}

/// Either there is something to seal, or it was done before.
#[derive(Debug)]
pub(crate) enum Begun {
    Seal(ToSeal),
    Done(Committed),
}

/// Gives back the pages that a payload of `length` does not need.
fn shorten(slot: &mut Slot, length: u64, space: &Space) {
    if let Place::Extent { payload } = slot.place {
        let pages_of = |length| u32::try_from(extent_pages(length, slot.key.len())).expect("extents fit a segment");
        let (had, needs) = (pages_of(slot.length), pages_of(length));
        if needs < had {
            space.shorten(payload, had, needs);
            let bytes = u64::from(had - needs) * PAGE;
            slot.charge -= bytes;
            slot.account.discharge(bytes);
            space.states.reserved.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
    slot.length = length;
}

impl Shard {
    /// Gives `session` the right to write `slot`.
    pub(crate) fn grant(
        &mut self,
        slot: Slot,
        terms: Terms,
        (deadline, deadline_max): (Instant, Instant),
        session: SessionId,
        exposed: bool,
        number: u8,
    ) -> GrantId {
        let id = loop {
            let GrantId(id) = GrantId::of(self.credential(number));
            if !self.grants.held.contains_key(&id) && !self.grants.committed.contains_key(&id) {
                break id;
            }
        };
        let grant = Grant {
            slot,
            state: State::Open,
            writing: Vec::new(),
            exposed,
            deadline,
            deadline_max,
            session,
            sealed_length: 0,
            terms,
        };
        self.grants.held.insert(id, grant);
        self.grants.queue.push(deadline, id);
        self.grants.by_session.insert((session, id));
        GrantId(id)
    }

    /// Extends an open grant, as far as grants last; never shortens it. Returns its end.
    pub(crate) fn renew_grant(
        &mut self,
        now: Instant,
        id: GrantId,
        session: SessionId,
        until: Instant,
    ) -> Result<Instant, StoreError> {
        let grant = self.grants.held.get_mut(&id.0).ok_or(StoreError::NoGrant)?;
        if grant.session != session || grant.state == State::Ending || grant.deadline <= now {
            return Err(StoreError::NoGrant);
        }
        if grant.state == State::Sealing {
            return Err(StoreError::Busy);
        }
        let until = until.min(grant.deadline_max);
        if until > grant.deadline {
            self.grants.queue.call_off(grant.deadline, id.0);
            self.grants.queue.push(until, id.0);
            grant.deadline = until;
        }
        Ok(grant.deadline)
    }

    /// A write of `length` bytes at `offset` begins; the slot stays until [`Shard::end_write`].
    pub(crate) fn begin_write(
        &mut self,
        now: Instant,
        id: GrantId,
        session: SessionId,
        offset: u64,
        length: u64,
    ) -> Result<ToWrite, StoreError> {
        let grant = self.grants.held.get_mut(&id.0).ok_or(StoreError::NoGrant)?;
        if grant.session != session || grant.state == State::Ending || grant.deadline <= now {
            return Err(StoreError::NoGrant);
        }
        if grant.state == State::Sealing {
            return Err(StoreError::Busy);
        }
        let end = offset.saturating_add(length);
        if end > grant.slot.length {
            return Err(StoreError::Range { offset, end, len: ByteLen(grant.slot.length) });
        }
        if grant.writing.len() == WRITES_MAX
            || grant.writing.iter().any(|other| offset < other.end && other.start < end)
        {
            return Err(StoreError::Busy);
        }
        grant.writing.push(offset..end);
        let Slot { place, ref key, generation, .. } = grant.slot;
        Ok(ToWrite { place, key_len: key.len(), generation, deadline: grant.deadline })
    }

    /// When an open grant ends, by what is known now; `None` if it is so no more.
    pub(crate) fn grant_end(&self, id: GrantId) -> Option<Instant> {
        self.grants.held.get(&id.0).filter(|grant| grant.state == State::Open).map(|grant| grant.deadline)
    }

    /// A write is over. Frees the slot if that was all it waited for.
    pub(crate) fn end_write(&mut self, id: GrantId, offset: u64, length: u64, space: &Space) {
        let grant = self.grants.held.get_mut(&id.0).expect("a write keeps its grant");
        let range = offset..offset + length;
        let at = grant.writing.iter().position(|other| *other == range).expect("writes are known");
        grant.writing.swap_remove(at);
        self.settle_ending(id, space);
    }

    fn settle_ending(&mut self, id: GrantId, space: &Space) {
        let Some(grant) = self.grants.held.get(&id.0) else {
            return;
        };
        if grant.state == State::Ending && grant.writing.is_empty() && !grant.exposed {
            let grant = self.grants.held.remove(&id.0).expect("looked up above");
            space.states.quarantine.fetch_sub(grant.slot.charge, Ordering::Relaxed);
            self.free_slot(grant.slot, space);
        }
    }

    /// Closes a grant for writing, so that its bytes can be checked.
    pub(crate) fn begin_seal(
        &mut self,
        now: Instant,
        id: GrantId,
        session: SessionId,
        length: Option<u64>,
        space: &Space,
    ) -> Result<Begun, StoreError> {
        if let Some(done) = self.grants.committed.get(&id.0) {
            return Ok(Begun::Done(done.clone()));
        }
        let grant = self.grants.held.get(&id.0).ok_or(StoreError::NoGrant)?;
        if grant.session != session || grant.state == State::Ending || grant.deadline <= now {
            return Err(StoreError::NoGrant);
        }
        if grant.state == State::Sealing || !grant.writing.is_empty() {
            return Err(StoreError::Busy);
        }
        if let Some(length) = length
            && length > grant.slot.length
        {
            return Err(StoreError::Range { offset: 0, end: length, len: ByteLen(grant.slot.length) });
        }
        let grant = self.grants.close(id.0);
        grant.state = State::Sealing;
        grant.sealed_length = length.unwrap_or(grant.slot.length);
        space.states.reserved.fetch_sub(grant.slot.charge, Ordering::Relaxed);
        space.states.sealing.fetch_add(grant.slot.charge, Ordering::Relaxed);
        Ok(Begun::Seal(ToSeal {
            place: grant.slot.place,
            key_len: grant.slot.key.len(),
            length: grant.sealed_length,
            exposed: grant.exposed,
            parent: grant.terms.parent.clone(),
        }))
    }

    /// Takes a grant whose sealing ends, for good or ill, out of the table. What was granted beyond the sealed length is free
    /// from now on: a moment earlier, an exposed slot's writer might still have reached it.
    pub(crate) fn take_sealing(&mut self, id: GrantId, space: &Space) -> (Slot, Terms) {
        let mut grant = self.grants.held.remove(&id.0).expect("sealing keeps its grant");
        assert_eq!(grant.state, State::Sealing, "only a sealing grant is taken");
        space.states.sealing.fetch_sub(grant.slot.charge, Ordering::Relaxed);
        space.states.reserved.fetch_add(grant.slot.charge, Ordering::Relaxed);
        shorten(&mut grant.slot, grant.sealed_length, space);
        (grant.slot, grant.terms)
    }

    /// Sealing failed before the revocation was proven: the slot waits in quarantine.
    pub(crate) fn quarantine_sealing(&mut self, id: GrantId, space: &Space) {
        let grant = self.grants.held.get_mut(&id.0).expect("sealing keeps its grant");
        assert_eq!(grant.state, State::Sealing, "only a sealing grant is quarantined so");
        space.states.sealing.fetch_sub(grant.slot.charge, Ordering::Relaxed);
        space.states.quarantine.fetch_add(grant.slot.charge, Ordering::Relaxed);
        grant.state = State::Ending;
        self.grants.fences.push(id);
    }

    /// Remembers a commit, so that its repetition gives the same answer.
    pub(crate) fn remember(&mut self, now: Instant, id: GrantId, committed: Committed, memory: Millis) {
        self.grants.committed_key_bytes += committed.key.len();
        let before = self.grants.committed.insert(id.0, committed);
        assert!(before.is_none(), "a grant is committed once");
        self.grants.committed_order.push_back((now + memory, id.0));
        self.grants.forget_committed(now);
    }

    /// Ends a grant without publishing. `false` if there is none that can be ended.
    pub(crate) fn abort(&mut self, id: GrantId, session: SessionId, space: &Space) -> bool {
        match self.grants.held.get(&id.0) {
            Some(grant) if grant.session == session && grant.state == State::Open => {
                self.end_grant(id, space);
                true
            }
            _ => false,
        }
    }

    fn end_grant(&mut self, id: GrantId, space: &Space) {
        let grant = self.grants.close(id.0);
        grant.state = State::Ending;
        space.states.reserved.fetch_sub(grant.slot.charge, Ordering::Relaxed);
        space.states.quarantine.fetch_add(grant.slot.charge, Ordering::Relaxed);
        if grant.exposed {
            self.grants.fences.push(id);
        }
        self.settle_ending(id, space);
    }

    /// The remote access to a slot in quarantine is provably over. Says nothing of a slot that is still granted: that one is
    /// fenced when it is sealed, or ends.
    pub(crate) fn fenced(&mut self, id: GrantId, space: &Space) {
        if let Some(grant) = self.grants.held.get_mut(&id.0)
            && grant.state == State::Ending
        {
            grant.exposed = false;
            self.settle_ending(id, space);
        }
    }

    /// Ends the open grants of a session.
    pub(crate) fn end_session_grants(&mut self, session: SessionId, space: &Space) {
        let held = (session, u64::MIN)..=(session, u64::MAX);
        let ended: Vec<u64> = self.grants.by_session.range(held).map(|&(_, id)| id).collect();
        for id in ended {
            self.end_grant(GrantId(id), space);
        }
    }

    /// Ends the open grants of a session for keys that `keeps` refuses. Returns how many.
    pub(crate) fn revoke_grants(&mut self, session: SessionId, keeps: &dyn Fn(&[u8]) -> bool, space: &Space) -> usize {
        let held = (session, u64::MIN)..=(session, u64::MAX);
        let held = self.grants.by_session.range(held).map(|&(_, id)| id);
        let ended: Vec<u64> = held.filter(|id| !keeps(&self.grants.held[id].slot.key)).collect();
        ended.iter().for_each(|&id| self.end_grant(GrantId(id), space));
        ended.len()
    }

    /// The key of a session's grant, of one that it committed too.
    pub(crate) fn grant_key(&self, id: GrantId, session: SessionId) -> Option<Box<[u8]>> {
        let open = self.grants.held.get(&id.0).filter(|grant| grant.session == session).map(|grant| &grant.slot.key);
        open.or_else(|| self.grants.committed.get(&id.0).map(|committed| &committed.key)).cloned()
    }

    /// Ends the open grants that ran out, at most `most`, and forgets old commits. A grant that is being sealed is left to
    /// its sealer. Returns whether more may be due.
    pub(crate) fn end_grants(&mut self, now: Instant, most: usize, space: &Space) -> bool {
        self.grants.forget_committed(now);
        for _ in 0..most {
            let Some(id) = self.grants.queue.first_due(now) else {
                return false;
            };
            self.counters.grants_expired += 1;
            self.end_grant(GrantId(id), space);
        }
        true
    }

    /// Gives a reserved slot back.
    /// Gives a written slot back that is not published, and says why.
    pub(crate) fn refuse(&mut self, slot: Slot, why: StoreError, space: &Space) -> StoreError {
        space.states.reserved.fetch_sub(slot.charge, Ordering::Relaxed);
        self.free_slot(slot, space);
        why
    }

    pub(crate) fn free_slot(&mut self, slot: Slot, space: &Space) {
        slot.account.discharge(slot.charge);
        self.forget_small(&slot);
        self.free_place(slot.place, slot.length, slot.key.len(), space);
    }

    pub(super) fn forget_small(&mut self, slot: &Slot) {
        if matches!(slot.place, Place::Small { .. }) {
            self.grants.small_bytes -= slot.charge;
        }
    }

    /// Whoever finds an object where it would have written touches it, as a reader would.
    pub(crate) fn touch_as_found(&mut self, now: Instant, at: At, parent: Option<Stamp>, space: &Space) {
        match at {
            At::Dram(index) => {
                let stamp = parent.map_or_else(|| self.stamp_at(index, now, None), Stamp::child);
                self.touch(index, stamp, space);
            }
            At::Flash(index) => {
                self.touch_flash(index, space);
            }
        }
    }

    /// Why a write of a key that holds `found` is refused, if it is. Whoever finds an object where none was to be touches it.
    pub(crate) fn refusal(
        &mut self,
        now: Instant,
        found: Option<At>,
        condition: Condition,
        parent: Option<Stamp>,
        space: &Space,
    ) -> Option<StoreError> {
        match (found, condition) {
            (Some(at), Condition::IfAbsent) => {
                self.touch_as_found(now, at, parent, space);
                Some(StoreError::Exists { generation: self.generation_at(at) })
            }
            (None, Condition::IfPresent | Condition::IfIs(_)) => Some(StoreError::Condition),
            (Some(at), Condition::IfIs(generation)) if self.generation_at(at) != generation => {
                Some(StoreError::Condition)
            }
            _ => None,
        }
    }

    /// Makes a reserved slot live, if its terms allow. On refusal the slot is freed. `reserved` bytes are settled here.
    pub(crate) fn publish(
        &mut self,
        now: Instant,
        slot: Slot,
        crc: Crc,
        terms: &Terms,
        parent: Option<Stamp>,
        space: &Space,
    ) -> Result<u32, StoreError> {
        let key = HashedKey { key: &slot.key, hash: slot.hash };
        let found = self.locate(now, key, space);
        let refusal = self
            .refusal(now, found, terms.condition, parent, space)
            .or_else(|| if terms.pin { self.take_pin(found, slot.charge, space).err() } else { None });
        if let Some(refusal) = refusal {
            return Err(self.refuse(slot, refusal, space));
        }
        space.states.reserved.fetch_sub(slot.charge, Ordering::Relaxed);
        let (mut expires, mut pins) = (terms.expires, None);
        if let Some(at) = found {
            if terms.keep_ttl {
                expires = self.expiry_at(at);
                pins = self.held_pins(self.handle_of_pins(at));
            }
            self.unlink_at(at, space);
        }
        let stamp = parent.map_or_else(|| Stamp::new(now, 0), Stamp::child);
        let fresh = Fresh {
            generation: slot.generation,
            place: slot.place,
            length: u32::try_from(slot.length).expect("objects are shorter than a segment"),
            crc,
            stamp,
            leaf: parent.is_some(),
        };
        let index = self.insert(key, fresh, space);
        slot.account.discharge(slot.charge);
        self.forget_small(&slot);
        if expires.is_some() {
            self.set_expiry(index, expires);
        }
        if let Some(until) = terms.soft_pin {
            self.soft_pin(index, until);
        }
        if terms.pin {
            self.pin_taken(index, space);
        }
        if let Some(pins) = pins {
            self.keep_pins(index, pins, space);
        }
        debug_assert!(self.entries[index].has(flag::IN_USE), "published");
        Ok(index)
    }
}
