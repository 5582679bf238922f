//! Counters of the node. Each is written by many threads and read by `INFO`.

use crate::latency::{Histogram, Level, Sum};
use crate::node::Node;
use protocol::command::CommandId;
use protocol::resp::ErrorWord;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    pub(crate) fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Calls of one command.
#[derive(Debug, Default)]
pub(crate) struct CommandStat {
    pub(crate) calls: AtomicU64,
    pub(crate) usec: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) failed: AtomicU64,
    /// How long they took, by [`Level`].
    took: [Histogram; Level::ALL.len()],
}

impl CommandStat {
    pub(crate) fn took(&self, level: Level) -> &Histogram {
        &self.took[level as usize]
    }

    pub(crate) fn reset(&self) {
        for counter in [&self.calls, &self.usec, &self.rejected, &self.failed] {
            counter.store(0, Ordering::Relaxed);
        }
        self.took.iter().for_each(Histogram::reset);
    }
}

/// Counters of one worker: written by its thread alone, so that no cache line travels.
#[derive(Debug)]
pub(crate) struct WorkerStats {
    pub(crate) commands: Counter,
    pub(crate) net_in: Counter,
    pub(crate) net_out: Counter,
    pub(crate) errors: Counter,
    by_command: Box<[CommandStat]>,
    by_error: Box<[AtomicU64]>,
    /// Connections served here, and of them those that move large values.
    pub(crate) connections: AtomicU64,
    pub(crate) bulky: AtomicU64,
}

impl WorkerStats {
    pub(crate) fn new() -> Self {
        Self {
            commands: Counter::default(),
            net_in: Counter::default(),
            net_out: Counter::default(),
            errors: Counter::default(),
            by_command: (0..CommandId::COUNT).map(|_| CommandStat::default()).collect(),
            by_error: ErrorWord::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            connections: AtomicU64::new(0),
            bulky: AtomicU64::new(0),
        }
    }

    pub(crate) fn of(&self, id: CommandId) -> &CommandStat {
        &self.by_command[id as usize]
    }

    /// A command was answered with an error.
    pub(crate) fn error(&self, word: ErrorWord) {
        self.errors.add(1);
        bump(&self.by_error[word as usize], 1);
    }

    /// Errors answered that begin with this word.
    pub(crate) fn errors_of(&self, word: ErrorWord) -> &AtomicU64 {
        &self.by_error[word as usize]
    }
}

/// Adds to a counter that only one thread writes.
pub(crate) fn bump(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

/// Counters of the whole node that change seldom.
#[derive(Debug, Default)]
pub(crate) struct NodeStats {
    pub(crate) connections: Counter,
    pub(crate) rejected: Counter,
    pub(crate) bulk_in: Counter,
    pub(crate) bulk_out: Counter,
    pub(crate) shm_in: Counter,
    pub(crate) shm_leased: Counter,
    pub(crate) rdma_in: Counter,
    pub(crate) rdma_out: Counter,
    pub(crate) protocol_errors: Counter,
    pub(crate) timeouts: Counter,
    /// Handshakes of TLS that came to nothing.
    pub(crate) tls_failed: Counter,
    /// Clients closed for the memory that they made the server hold.
    pub(crate) evicted: Counter,
    /// Reads of flash that were given up because they took too long.
    pub(crate) flash_timeouts: Counter,
    /// Reads that the index sent to flash, where nothing could be had.
    pub(crate) flash_missed: Counter,
    /// Reads of clients that leave no trace.
    pub(crate) untouched_hits: Counter,
    pub(crate) untouched_misses: Counter,
}

impl Node {
    /// Reads that found their object in DRAM and on flash, and those that found nothing.
    pub(crate) fn hits_and_misses(&self) -> ((u64, u64), u64) {
        let counters = self.store.usage().counters;
        let lost = self.stats.flash_missed.get();
        let on_flash = counters.flash_hits.saturating_sub(lost);
        let in_dram = counters.hits.saturating_sub(counters.flash_hits) + self.stats.untouched_hits.get();
        ((in_dram, on_flash), counters.misses + self.stats.untouched_misses.get() + lost)
    }

    /// How long a command took, over all workers.
    pub(crate) fn took(&self, id: CommandId, level: Level) -> Sum {
        let mut sum = Sum::default();
        for worker in self.workers().iter() {
            sum.add(worker.stats.of(id).took(level));
        }
        sum
    }
}
