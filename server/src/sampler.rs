//! What changes with time and is not counted: rates over the last moments, and the highest use of memory.
//!
//! Invariants:
//! - `tick` is called by upkeep alone, about ten times a second; everybody may read.

use crate::handler::memory::MemoryUse;
use crate::node::Node;
use parking_lot::Mutex;
use protocol::base::Instant;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

/// Samples that a rate is made of, as in Redis: those of the last second and a half.
const SAMPLES: usize = 16;
/// Samples of evictions, one a second: a minute's.
const EVICTION_SAMPLES: usize = 60;
const SECOND_NS: u64 = 1_000_000_000;

/// Counters of the whole node at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) commands: u64,
    pub(crate) errors: u64,
    pub(crate) net_in: u64,
    pub(crate) net_out: u64,
}

impl Totals {
    pub(crate) fn of(node: &Node) -> Self {
        let mut sum = Self { net_in: node.stats.bulk_in.get(), net_out: node.stats.bulk_out.get(), ..Self::default() };
        for worker in node.workers().iter() {
            sum.commands += worker.stats.commands.get();
            sum.errors += worker.stats.errors.get();
            sum.net_in += worker.stats.net_in.get();
            sum.net_out += worker.stats.net_out.get();
        }
        sum
    }
}

/// Per second, over the last samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    pub(crate) commands: f64,
    pub(crate) bytes_in: f64,
    pub(crate) bytes_out: f64,
}

#[derive(Debug, Default)]
struct Samples {
    totals: VecDeque<(Instant, Totals)>,
    evicted: VecDeque<(Instant, u64)>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    samples: Mutex<Samples>,
    peak: AtomicU64,
}

impl Sampler {
    /// Takes a sample.
    pub(crate) fn tick(&self, node: &Node, now: Instant) {
        self.peak.fetch_max(MemoryUse::of(node).used(), Ordering::Relaxed);
        let evicted = node.store.usage().counters.evicted_bytes;
        self.samples.lock().push(now, Totals::of(node), evicted);
    }

    /// Forgets the samples, since the counters they were taken of began again.
    pub(crate) fn forget(&self) {
        *self.samples.lock() = Samples::default();
    }

    /// Most bytes that were ever in use.
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    pub(crate) fn rates(&self) -> Rates {
        self.samples.lock().rates()
    }

    /// Bytes evicted per second, over the last minute.
    pub(crate) fn eviction_rate(&self) -> f64 {
        let samples = self.samples.lock();
        match (samples.evicted.front(), samples.evicted.back()) {
            (Some(&(start, first)), Some(&(end, last))) => per_second(first, last, start, end),
            _ => 0.0,
        }
    }
}

impl Samples {
    fn push(&mut self, now: Instant, totals: Totals, evicted: u64) {
        keep(&mut self.totals, SAMPLES, (now, totals));
        if self.evicted.back().is_none_or(|(then, _)| now.0.saturating_sub(then.0) >= SECOND_NS) {
            keep(&mut self.evicted, EVICTION_SAMPLES, (now, evicted));
        }
    }

    fn rates(&self) -> Rates {
        let (Some(&(start, first)), Some(&(end, last))) = (self.totals.front(), self.totals.back()) else {
            return Rates::default();
        };
        Rates {
            commands: per_second(first.commands, last.commands, start, end),
            bytes_in: per_second(first.net_in, last.net_in, start, end),
            bytes_out: per_second(first.net_out, last.net_out, start, end),
        }
    }
}

fn keep<T>(samples: &mut VecDeque<T>, most: usize, sample: T) {
    if samples.len() == most {
        samples.pop_front();
    }
    samples.push_back(sample);
}

fn per_second(first: u64, last: u64, start: Instant, end: Instant) -> f64 {
    let span = end.since(start).as_secs_f64();
    if span > 0.0 { last.saturating_sub(first) as f64 / span } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_last_samples() {
        let mut samples = Samples::default();
        assert_eq!(samples.rates(), Rates::default());
        // 1000 commands a second for a while, then nothing.
        for step in 0..100 {
            let commands = 100 * step.min(50);
            samples.push(Instant(step * SECOND_NS / 10), Totals { commands, ..Totals::default() }, step);
            if step == 40 {
                assert_eq!(samples.rates().commands, 1000.0);
            }
        }
        assert_eq!(samples.rates().commands, 0.0);
        assert_eq!((samples.totals.len(), samples.evicted.len()), (SAMPLES, 10));
    }
}
