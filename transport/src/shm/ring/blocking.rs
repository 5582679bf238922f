//! One side of a ring for a thread that may block: the client's, or a server's with a thread to spare.

use super::RingError;
use super::end::{Need, RingEnd};
use super::layout::{RingFds, ServerRing, map_ring};
use rustix::event::{Timespec, epoll};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long to spin before sleeping. A spin that finds what it waits for raises the next, one in vain halves it, down
/// to none; then every 32nd wait tries again, in case the load has gone.
#[derive(Debug, Clone)]
pub struct SpinBudget {
    max: Duration,
    now: Duration,
    sleeps_since_spin: u32,
}

impl SpinBudget {
    /// Less is not worth looking at the clock for.
    const LEAST: Duration = Duration::from_micros(2);
    const RETRY_EVERY: u32 = 32;

    /// At most `max` a wait; zero never spins.
    pub fn new(max: Duration) -> Self {
        Self { max, now: max, sleeps_since_spin: 0 }
    }

    /// How long to spin this time.
    pub(super) fn next(&mut self) -> Duration {
        if self.now.is_zero() && !self.max.is_zero() {
            self.sleeps_since_spin += 1;
            if self.sleeps_since_spin >= Self::RETRY_EVERY {
                self.sleeps_since_spin = 0;
                return self.max;
            }
        }
        self.now
    }

    pub(super) fn found(&mut self) {
        // After a retry that paid the whole budget is back: an exchange takes longer than the least of spins.
        let raised = if self.now.is_zero() { self.max } else { self.now * 2 };
        self.now = raised.clamp(Self::LEAST, self.max.max(Self::LEAST)).min(self.max);
    }

    pub(super) fn missed(&mut self) {
        self.now = if self.now / 2 < Self::LEAST { Duration::ZERO } else { self.now / 2 };
    }
}

impl Default for SpinBudget {
    /// Up to 20 us: about half of what waking a sleeping core costs.
    fn default() -> Self {
        Self::new(Duration::from_micros(20))
    }
}

/// One side of a pair of rings, with a blocking wait.
#[derive(Debug)]
pub struct BlockingRing {
    end: RingEnd,
    spin: SpinBudget,
    /// Watches the own eventfd and the timer, edge-triggered, so that they never have to be read, and the socket for
    /// its hang-up.
    epoll: OwnedFd,
    /// Ends a sleep at its deadline. One that is armed for an earlier sleep is left alone: it wakes for nothing once,
    /// which is cheaper than a time-out of its own for each sleep.
    timer: OwnedFd,
    armed_for: Option<Instant>,
    /// Kept open because `epoll` watches them.
    _event: OwnedFd,
    _socket: OwnedFd,
}

const EVENT: u64 = 0;
const SOCKET: u64 = 1;
const TIMER: u64 = 2;

impl BlockingRing {
    /// The client's side: maps the ring that the server made. `socket` is the Unix socket the descriptors came over:
    /// its hang-up is how a dead server is noticed.
    ///
    /// # Errors
    /// [`RingError::Corrupt`] if the memory is no ring, [`RingError::Memory`] if it could shrink,
    /// [`RingError::Os`] if the kernel refuses.
    pub fn open(fds: RingFds, socket: impl AsFd, spin: SpinBudget) -> Result<Self, RingError> {
        let (mapping, layout) = map_ring(&fds.memory)?;
        Self::new(RingEnd::client(mapping, layout, fds.to_server), fds.to_client, socket, spin)
    }

    /// The server's side, on a thread of its own. The descriptors for the client are given back.
    ///
    /// # Errors
    /// [`RingError::Os`] if the kernel refuses.
    pub fn serve(ring: ServerRing, socket: impl AsFd, spin: SpinBudget) -> Result<(Self, RingFds), RingError> {
        Ok((Self::new(ring.end, ring.event, socket, spin)?, ring.fds))
    }

    fn new(end: RingEnd, event: OwnedFd, socket: impl AsFd, spin: SpinBudget) -> Result<Self, RingError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(RingError::os("make an epoll"))?;
        let socket = socket
            .as_fd()
            .try_clone_to_owned()
            .map_err(|source| RingError::Os { act: "duplicate the socket", source })?;
        let watch = |fd: &OwnedFd, data: u64, flags: epoll::EventFlags| {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(data), flags).map_err(RingError::os("watch a descriptor"))
        };
        watch(&event, EVENT, epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        watch(&socket, SOCKET, epoll::EventFlags::RDHUP)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
            .map_err(RingError::os("make a timer"))?;
        watch(&timer, TIMER, epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        Ok(Self { end, spin, epoll, timer, armed_for: None, _event: event, _socket: socket })
    }

    /// Wakes the peer if that is due, then waits until what `need` names is there: spins briefly, then sleeps.
    ///
    /// # Errors
    /// [`RingError::Timeout`] at `deadline`, [`RingError::PeerGone`] if the peer hung up with nothing more to read,
    /// [`RingError::Corrupt`] if its index cannot be.
    pub fn wait(&mut self, need: Need, deadline: Instant) -> Result<(), RingError> {
        self.end.notify()?;
        if self.end.is_ready(need)? {
            return Ok(());
        }
        let budget = self.spin.next();
        if !budget.is_zero() {
            let started = Instant::now();
            loop {
                for _ in 0..32 {
                    std::hint::spin_loop();
                    if self.end.is_ready(need)? {
                        self.spin.found();
                        return Ok(());
                    }
                }
                if started.elapsed() >= budget {
                    break;
                }
            }
            self.spin.missed();
        }
        while self.end.prepare_sleep(need)? {
            let slept = self.sleep(deadline);
            self.end.wake_up();
            match slept {
                Ok(()) => {}
                // What the peer wrote before it went is still to be read.
                Err(_) if self.end.is_ready(need)? => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all of `bytes`, waiting for room as needed. The caller must be sure that the peer can go on without its own
    /// bytes being read: what is outstanding stays below the other ring's capacity.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn write_all(&mut self, mut bytes: &[u8], deadline: Instant) -> Result<(), RingError> {
        loop {
            let count = self.end.write(bytes)?;
            bytes = &bytes[count..];
            if bytes.is_empty() {
                return Ok(());
            }
            self.wait(Need::Space, deadline)?;
        }
    }

    /// Sleeps until the peer wakes us or hangs up or `deadline` comes; may also wake for nothing.
    fn sleep(&mut self, deadline: Instant) -> Result<(), RingError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(RingError::Timeout);
        }
        if self.armed_for.is_none_or(|armed_for| armed_for > deadline) {
            self.arm(left)?;
            self.armed_for = Some(deadline);
        }
        let none = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut events = [none; 3];
        let count = match epoll::wait(&self.epoll, &mut events, None) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(errno) => return Err(RingError::os("wait for the peer")(errno)),
        };
        for event in &events[..count] {
            match event.data.u64() {
                SOCKET => return Err(RingError::PeerGone),
                TIMER => self.armed_for = None,
                _ => {}
            }
        }
        Ok(())
    }

    fn arm(&self, left: Duration) -> Result<(), RingError> {
        let it_value =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).map_err(RingError::os("set a timer"))?;
        Ok(())
    }
}

impl Deref for BlockingRing {
    type Target = RingEnd;
    fn deref(&self) -> &RingEnd {
        &self.end
    }
}

impl DerefMut for BlockingRing {
    fn deref_mut(&mut self) -> &mut RingEnd {
        &mut self.end
    }
}
