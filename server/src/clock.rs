//! The machine's clock, as the store's state machine counts time.

use protocol::base::{Clock, Instant};
use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_BOOTTIME`: goes on while the machine sleeps, so that a lease does not outlive its end by a suspend.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Instant {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
        Instant(seconds * 1_000_000_000 + nanos)
    }
}

/// Milliseconds since 1970, for `EXPIREAT` and the like.
pub(crate) fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
