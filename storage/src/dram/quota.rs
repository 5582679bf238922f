//! Limits on bytes held for one purpose by all shards together.

use crate::sync::{AtomicU64, Ordering};

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

/// A share of a number of bytes, rounded down, without overflow.
pub(crate) fn percent_of(bytes: u64, percent: u8) -> u64 {
    let percent = u64::from(percent);
    bytes / 100 * percent + bytes % 100 * percent / 100
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

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
