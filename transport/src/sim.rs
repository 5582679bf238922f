//! A network that misbehaves, from a seed: delays, reorders, loses, and writes late.
//!
//! Role: the [`Transport`] that tests give the server in place of a real one. A test plays the peers: it submits their
//! writes and moves the clock; what lands does so in the registered segments.
//!
//! Invariants:
//! - The same seed and the same calls give the same history.
//! - Once a fence answered [`Fence::Done`], no write through its window lands.
//! - The simulator moves no clock of its own.

use crate::contract::{Access, Fence, Span, Transport, TransportError, Window, WindowId};
use crate::region::Regions;
use parking_lot::Mutex;
use protocol::base::{Instant, Millis, RawSpan, SegmentId, SessionId, StableMemory, Via, copy_into};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// How a revoked window loses what is still under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoking {
    /// As a device invalidates a window: at once, writes under way are refused on arrival.
    AtOnce,
    /// As an invalidation in a queue: it takes effect after this time; writes that arrive before still land.
    After(Millis),
    /// Hostile: writes under way land when they arrive, and the fence is pending until the last has.
    Drained,
}

/// How the network behaves. Shares are in thousandths of the writes.
#[derive(Debug, Clone, Copy)]
pub struct SimConfig {
    /// Longest delay of an ordinary write.
    pub delay_max: Millis,
    /// Writes that never arrive.
    pub lost_permille: u32,
    /// Writes that arrive late.
    pub late_permille: u32,
    /// Longest delay of a late write.
    pub late_max: Millis,
    /// How windows are revoked.
    pub revoking: Revoking,
}

impl Default for SimConfig {
    fn default() -> Self {
        let (delay_max, late_max) = (Millis(5), Millis(20_000));
        Self { delay_max, lost_permille: 10, late_permille: 50, late_max, revoking: Revoking::AtOnce }
    }
}

/// A write that a peer submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// What became of a write, as its sender learns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its bytes lie in the segment.
    Landed,
    /// Its window was revoked when it arrived.
    Refused,
}

/// The fake network.
pub struct SimNetwork {
    config: SimConfig,
    regions: Regions,
    state: Mutex<State>,
}

struct State {
    random: StdRng,
    now: Instant,
    writes_ever: u64,
    /// What has not arrived, by the time it will.
    on_the_way: BTreeMap<(Instant, WriteId), Write>,
    /// When a revocation takes effect.
    revoked_at: HashMap<WindowId, Instant>,
}

struct Write {
    window: WindowId,
    target: RawSpan,
    bytes: Vec<u8>,
}

impl SimNetwork {
    /// A network whose history follows from `seed`.
    pub fn new(seed: u64, config: SimConfig) -> Self {
        let state = State {
            random: StdRng::seed_from_u64(seed),
            now: Instant::default(),
            writes_ever: 0,
            on_the_way: BTreeMap::new(),
            revoked_at: HashMap::new(),
        };
        Self { config, regions: Regions::default(), state: Mutex::new(state) }
    }

    /// A peer of `session` writes `bytes` at `offset` of a window. They land, if at all, while the clock moves.
    ///
    /// # Errors
    /// [`TransportError::Peer`] if the window is not that session's for writing, revoked already, or shorter.
    pub fn write(
        &self,
        session: SessionId,
        window: WindowId,
        offset: u64,
        bytes: Vec<u8>,
    ) -> Result<WriteId, TransportError> {
        let mut state = self.state.lock();
        let target = self.regions.begin(session, window, Access::Write, offset, bytes.len() as u64)?;
        let id = WriteId(state.writes_ever);
        state.writes_ever += 1;
        if state.random.random_ratio(self.config.lost_permille, 1000) {
            self.regions.end(window);
            return Ok(id);
        }
        let late = state.random.random_ratio(self.config.late_permille, 1000);
        let delay_max = if late { self.config.late_max } else { self.config.delay_max };
        let delay = Millis(state.random.random_range(0..=delay_max.0));
        let due = state.now + delay;
        state.on_the_way.insert((due, id), Write { window, target, bytes });
        Ok(id)
    }

    /// Moves the clock to `to` and returns what became of the writes that arrived, in the order of their arrival.
    ///
    /// # Panics
    /// If `to` lies before the clock.
    pub fn advance(&self, to: Instant) -> Vec<(WriteId, Outcome)> {
        let mut state = self.state.lock();
        assert!(to >= state.now, "the clock goes from {:?} to {to:?}", state.now);
        state.now = to;
        let mut outcomes = Vec::new();
        while let Some(entry) = state.on_the_way.first_entry()
            && entry.key().0 <= to
        {
            let ((arrived, id), write) = entry.remove_entry();
            let revoked = state.revoked_at.get(&write.window).is_some_and(|&at| at <= arrived);
            if !revoked {
                copy_into(&write.bytes, &write.target);
            }
            self.regions.end(write.window);
            outcomes.push((id, if revoked { Outcome::Refused } else { Outcome::Landed }));
        }
        outcomes
    }

    /// When the next write arrives, if any is on the way.
    pub fn next_arrival(&self) -> Option<Instant> {
        self.state.lock().on_the_way.keys().next().map(|&(due, _)| due)
    }
}

impl Transport for SimNetwork {
    fn via(&self) -> Via {
        Via::Rdma
    }

    fn register(&self, segment: SegmentId, memory: Arc<dyn StableMemory>) -> Result<(), TransportError> {
        self.regions.register(segment, memory).map(drop)
    }

    fn open(&self, session: SessionId, access: Access, span: Span) -> Result<Window, TransportError> {
        let opened = self.regions.lend(session, access, span)?;
        // An address and a key that mean nothing outside the simulation.
        let key = self.state.lock().random.random();
        Ok(Window { id: opened.id, span, fd: None, remote: Some((span.offset, key)) })
    }

    fn fence(&self, window: WindowId) -> Fence {
        let mut state = self.state.lock();
        let now = state.now;
        let Some(revoked) = self.regions.revoke(window) else {
            return Fence::Done;
        };
        let effective = match self.config.revoking {
            Revoking::AtOnce => now,
            Revoking::After(delay) => now + delay,
            Revoking::Drained => Instant::NEVER,
        };
        let effective = *state.revoked_at.entry(window).or_insert(effective);
        // What arrives from `effective` on is refused, so only what may arrive before keeps the fence open.
        if revoked.in_flight == 0 || effective <= now { Fence::Done } else { Fence::Pending }
    }

    fn open_session(&self, session: SessionId) -> Result<(), TransportError> {
        self.regions.open_session(session)
    }

    fn close_session(&self, session: SessionId) -> Fence {
        let mut weakest = Fence::Done;
        for window in self.regions.close_session(session) {
            weakest = weakest.weaker(self.fence(window));
        }
        self.regions.forget_session(session);
        weakest
    }
}

#[cfg(test)]
mod tests;
