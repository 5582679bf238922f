//! How long commands took: one histogram a command and tier, kept by each worker for itself.
//!
//! Invariants:
//! - Recording is two plain stores to memory that no other thread writes: no lock, no shared cache line.
//! - A histogram's buckets are those of [`bound_seconds`], each twice as wide as the one before, whatever is recorded.

use crate::stats::bump;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets with a bound: 1 µs, 2 µs, ... 2^24 µs, which is 17 s.
pub(crate) const BOUNDS: usize = 25;

/// Where the bytes were that a command was about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Level {
    /// In DRAM, or nowhere: answered at once, or after work on memory.
    #[default]
    Dram,
    /// On flash alone, of at least one object.
    Flash,
}

impl Level {
    pub(crate) const ALL: [Self; 2] = [Self::Dram, Self::Flash];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Dram => "dram",
            Self::Flash => "flash",
        }
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// The last is of what exceeds every bound.
    counts: [AtomicU64; BOUNDS + 1],
    sum_ns: AtomicU64,
}

/// Upper bound of a bucket, in microseconds.
pub(crate) fn bound_micros(bucket: usize) -> i64 {
    1 << bucket
}

/// Upper bound of a bucket, in seconds.
pub(crate) fn bound_seconds(bucket: usize) -> f64 {
    bound_micros(bucket) as f64 / 1e6
}

fn bucket_of(took: Duration) -> usize {
    let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    let micros = nanos.div_ceil(1000);
    let bits = u64::BITS - micros.saturating_sub(1).leading_zeros();
    (bits as usize).min(BOUNDS)
}

impl Histogram {
    /// `count` commands took so long each. Only the thread that owns the histogram calls this.
    pub(crate) fn record(&self, took: Duration, count: u64) {
        bump(&self.counts[bucket_of(took)], count);
        bump(&self.sum_ns, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).saturating_mul(count));
    }

    pub(crate) fn reset(&self) {
        for counter in self.counts.iter().chain([&self.sum_ns]) {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// Several histograms added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sum {
    /// Values in each bucket alone.
    pub(crate) counts: [u64; BOUNDS + 1],
    pub(crate) seconds: f64,
}

impl Sum {
    pub(crate) fn add(&mut self, histogram: &Histogram) {
        for (sum, count) in self.counts.iter_mut().zip(&histogram.counts) {
            *sum += count.load(Ordering::Relaxed);
        }
        self.seconds += histogram.sum_ns.load(Ordering::Relaxed) as f64 / 1e9;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (sum, count) in self.counts.iter_mut().zip(&other.counts) {
            *sum += count;
        }
        self.seconds += other.seconds;
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Bound of the bucket that holds this share of the values; `None` without values, or if that bucket has no bound.
    pub(crate) fn quantile_seconds(&self, share: f64) -> Option<f64> {
        let wanted = (self.count() as f64 * share).ceil().max(1.0);
        let mut seen = 0;
        let bucket = self.counts[..BOUNDS].iter().position(|count| {
            seen += count;
            seen as f64 >= wanted
        })?;
        Some(bound_seconds(bucket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        for (ns, bucket) in
            [(0, 0), (1, 0), (1000, 0), (1001, 1), (2000, 1), (2001, 2), (4_000_000, 12), (u64::MAX, BOUNDS)]
        {
            let took = Duration::from_nanos(ns);
            assert_eq!(bucket_of(took), bucket, "{took:?}");
            assert!(bucket == BOUNDS || took.as_secs_f64() <= bound_seconds(bucket), "{took:?}");
            assert!(bucket == 0 || took.as_secs_f64() > bound_seconds(bucket - 1), "{took:?}");
        }
    }

    #[test]
    fn sums_have_the_counts_and_quantiles_of_their_parts() {
        let (a, b) = (Histogram::default(), Histogram::default());
        a.record(Duration::from_micros(3), 98);
        b.record(Duration::from_millis(3), 2);
        let mut sum = Sum::default();
        assert_eq!(sum.quantile_seconds(0.5), None);
        sum.add(&a);
        sum.add(&b);
        assert_eq!(sum.count(), 100);
        assert!((sum.seconds - 0.006_294).abs() < 1e-9, "{}", sum.seconds);
        assert_eq!(sum.quantile_seconds(0.5), Some(4e-6));
        assert_eq!(sum.quantile_seconds(0.99), Some(4096e-6));
        a.record(Duration::MAX, 1000);
        let mut long = Sum::default();
        long.add(&a);
        assert_eq!(long.quantile_seconds(0.5), None, "beyond every bound");
        a.reset();
        let mut rest = Sum::default();
        rest.add(&a);
        assert_eq!(rest, Sum::default());
    }
}
