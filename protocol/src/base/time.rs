//! Time as the state machines see it: a parameter, never a call.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time: nanoseconds of `CLOCK_BOOTTIME`, which also counts while the machine sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// Later than every other.
    pub const NEVER: Self = Self(u64::MAX);

    /// What is left until `self`, zero if it has passed.
    pub fn left_at(self, now: Self) -> Millis {
        Millis(self.0.saturating_sub(now.0).div_ceil(1_000_000))
    }

    /// Time since `earlier`, zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Microseconds, rounded down.
    pub fn micros_floor(self) -> u64 {
        self.0 / 1_000
    }
}

impl Add<Millis> for Instant {
    type Output = Self;
    fn add(self, span: Millis) -> Self {
        Self(self.0.saturating_add(span.0.saturating_mul(1_000_000)))
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

/// A span of time in milliseconds, the unit of every duration on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// As the standard library's type.
    pub fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// Where a process gets its time from: the machine's clock, or a simulation's.
pub trait Clock: Send + Sync {
    /// Now. Never goes back.
    fn now(&self) -> Instant;
}
