//! Limits on bytes held for one purpose by all shards together.

use crate::sync::{AtomicU64, Mutex, Ordering};
use protocol::base::SessionId;
use std::collections::HashMap;

/// Bytes held, against a share of the capacity. Exact: what is refused was never counted.
#[derive(Debug)]
pub(crate) struct Quota {
    held: AtomicU64,
    percent: u8,
}

impl Quota {
    pub(crate) fn new(percent: u8) -> Self {
        Self { held: AtomicU64::new(0), percent }
    }

    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes that may be held at this capacity.
    pub(crate) fn max(&self, capacity: u64) -> u64 {
        percent_of(capacity, self.percent)
    }

    /// Takes `bytes`, or says how many others hold.
    pub(crate) fn take(&self, bytes: u64, capacity: u64) -> Result<(), u64> {
        let max = self.max(capacity);
        self.held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                held.checked_add(bytes).filter(|&held_then| held_then <= max)
            })
            .map(drop)
    }

    /// Takes `bytes` whatever the limit.
    pub(crate) fn take_always(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn give(&self, bytes: u64) {
        let held = self.held.fetch_sub(bytes, Ordering::Relaxed);
        assert!(held >= bytes, "{bytes} given back of {held}");
    }
}

/// Maps that sessions are spread over, so that few wait for each other.
const SPREAD: usize = 16;

/// Bytes held by each session, against a share of the capacity for one. Always one thing is allowed.
#[derive(Debug)]
pub(crate) struct BySession {
    held: [Mutex<HashMap<SessionId, u64>>; SPREAD],
    percent: u8,
}

impl BySession {
    pub(crate) fn new(percent: u8) -> Self {
        Self { held: std::array::from_fn(|_| Mutex::new(HashMap::new())), percent }
    }

    /// Bytes that one session may hold at this capacity.
    pub(crate) fn max(&self, capacity: u64) -> u64 {
        percent_of(capacity, self.percent)
    }

    fn of(&self, session: SessionId) -> &Mutex<HashMap<SessionId, u64>> {
        let [.., low] = session.0.to_be_bytes();
        &self.held[usize::from(low) % SPREAD]
    }

    /// Takes `bytes`, or says how many the session holds.
    pub(crate) fn take(&self, session: SessionId, bytes: u64, capacity: u64) -> Result<(), u64> {
        let max = self.max(capacity);
        let mut sessions = self.of(session).lock();
        let held = sessions.entry(session).or_default();
        if *held > 0 && *held + bytes > max {
            return Err(*held);
        }
        *held += bytes;
        Ok(())
    }

    pub(crate) fn give(&self, session: SessionId, bytes: u64) {
        let mut sessions = self.of(session).lock();
        let held = sessions.get_mut(&session).expect("given back by who holds something");
        assert!(*held >= bytes, "{bytes} given back of {held}");
        *held -= bytes;
        if *held == 0 {
            sessions.remove(&session);
        }
    }

    /// Bytes held by all sessions.
    pub(crate) fn sum(&self) -> u64 {
        self.held.iter().map(|sessions| sessions.lock().values().sum::<u64>()).sum()
    }
}

/// A share of a number of bytes, rounded down, without overflow.
pub(crate) fn percent_of(bytes: u64, percent: u8) -> u64 {
    let percent = u64::from(percent);
    bytes / 100 * percent + bytes % 100 * percent / 100
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn a_session_holds_its_share_and_always_one() {
        let quota = BySession::new(50);
        let (one, other) = (SessionId(1), SessionId(17));
        assert_eq!(quota.take(one, 150, 200), Ok(()));
        assert_eq!(quota.take(one, 1, 200), Err(150));
        assert_eq!(quota.take(other, 100, 200), Ok(()));
        quota.give(one, 150);
        assert_eq!(
            (quota.take(one, 60, 200), quota.take(one, 40, 200), quota.take(one, 1, 200)),
            (Ok(()), Ok(()), Err(100))
        );
        assert_eq!(quota.sum(), 200);
    }

    #[test]
    fn a_quota_is_exact_to_the_byte() {
        let quota = Quota::new(50);
        assert_eq!(quota.take(60, 200), Ok(()));
        assert_eq!(quota.take(41, 200), Err(60));
        assert_eq!(quota.take(40, 200), Ok(()));
        assert_eq!(quota.take(u64::MAX, u64::MAX), Err(100));
        quota.give(100);
        assert_eq!(quota.held(), 0);
        assert_eq!((percent_of(u64::MAX, 100), percent_of(199, 50), percent_of(7, 0)), (u64::MAX, 99, 0));
    }
}
