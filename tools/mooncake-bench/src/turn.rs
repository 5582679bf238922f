//! One turn: one peer doing the work of one cell for a moment, and what that took.

use crate::latency::{Latency, Percentiles};
use crate::number::real;
use crate::payload::Verify;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Op {
    /// Bytes from the server to the client.
    Get,
    /// Bytes from the client to the server.
    Set,
}

impl Op {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Set => "set",
        }
    }
}

/// The work of a turn: the same for every peer.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Cell {
    pub(crate) op: Op,
    /// Bytes of one value.
    pub(crate) size: usize,
    /// Connections.
    pub(crate) clients: usize,
    /// Requests sent before their answers are awaited, or values in one batch.
    pub(crate) pipeline: usize,
    /// How many values lie on the server.
    pub(crate) keys: usize,
    /// How long the turn lasts.
    pub(crate) seconds: f64,
    /// How much of each value is compared.
    pub(crate) verify: Verify,
}

/// What one worker of a turn counted.
pub(crate) struct Tally {
    pub(crate) ops: u64,
    pub(crate) misses: u64,
    pub(crate) wrong: u64,
    /// From the first byte sent to the last byte received of one pipeline.
    pub(crate) latency: Latency,
    /// When this worker was done.
    pub(crate) end: Instant,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self { ops: 0, misses: 0, wrong: 0, latency: Latency::new(), end: Instant::now() }
    }
}

/// The figures of a turn.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Turn {
    pub(crate) ops: u64,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) client_cpu_s: f64,
    pub(crate) server_cpu_s: f64,
    pub(crate) misses: u64,
    pub(crate) wrong: u64,
    pub(crate) latency: Percentiles,
}

impl Turn {
    pub(crate) fn ops_a_second(&self) -> f64 {
        real(self.ops) / self.seconds.max(1e-9)
    }

    pub(crate) fn gb_a_second(&self) -> f64 {
        real(self.bytes) / self.seconds.max(1e-9) / 1e9
    }

    /// CPU of client and server, ms a GB.
    pub(crate) fn cpu_ms_a_gb(&self) -> f64 {
        (self.client_cpu_s + self.server_cpu_s) * 1e12 / real(self.bytes.max(1))
    }

    /// CPU of the server, us an operation.
    pub(crate) fn server_cpu_us_an_op(&self) -> f64 {
        self.server_cpu_s * 1e6 / real(self.ops.max(1))
    }

    /// CPU of client and server, us an operation.
    pub(crate) fn cpu_us_an_op(&self) -> f64 {
        (self.client_cpu_s + self.server_cpu_s) * 1e6 / real(self.ops.max(1))
    }
}

/// Lines workers up, so that connecting and populating memory stay outside the measured time.
pub(crate) struct Start {
    barrier: Barrier,
    epoch: Instant,
    began_ns: AtomicU64,
}

impl Start {
    /// For `workers` threads and the one that measures.
    pub(crate) fn new(workers: usize) -> Self {
        Self { barrier: Barrier::new(workers + 1), epoch: Instant::now(), began_ns: AtomicU64::new(0) }
    }

    /// A worker is ready: waits for the others. Returns when the turn began.
    pub(crate) fn wait(&self) -> Instant {
        self.barrier.wait();
        self.barrier.wait();
        self.epoch + Duration::from_nanos(self.began_ns.load(Ordering::Acquire))
    }

    /// Waits until all workers are ready, calls `first`, then lets them go.
    pub(crate) fn go<T>(&self, first: impl FnOnce() -> T) -> (Instant, T) {
        self.barrier.wait();
        let value = first();
        let began = Instant::now();
        self.began_ns.store(crate::number::nanos(began - self.epoch), Ordering::Release);
        self.barrier.wait();
        (began, value)
    }
}

/// Runs `workers` threads of `work(index, start)` and adds up what they say. `work` has to call [`Start::wait`] once,
/// also if it fails, which is why making ready and working are two functions. The CPU time of `pids` counts as the server's.
pub(crate) fn measure<R>(
    cell: &Cell,
    workers: usize,
    pids: &[u32],
    prepare: impl Fn(usize) -> anyhow::Result<R> + Sync,
    work: impl Fn(&mut R, Instant) -> anyhow::Result<Tally> + Sync,
) -> anyhow::Result<Turn> {
    let start = Start::new(workers);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|index| {
                let (start, prepare, work) = (&start, &prepare, &work);
                scope.spawn(move || {
                    let ready = prepare(index);
                    let began = start.wait();
                    work(&mut ready?, began)
                })
            })
            .collect();
        let (began, (client, server)) = start.go(|| (crate::cpu::own_seconds(), crate::cpu::seconds_of(pids)));
        let mut total = Tally::new();
        let mut end = began;
        let mut failed = None;
        for thread in threads {
            match thread.join().expect("a worker does not panic") {
                Ok(tally) => {
                    total.ops += tally.ops;
                    total.misses += tally.misses;
                    total.wrong += tally.wrong;
                    total.latency.add(&tally.latency);
                    end = end.max(tally.end);
                }
                Err(error) => failed = Some(error),
            }
        }
        let client_cpu_s = crate::cpu::own_seconds() - client;
        let server_cpu_s = (crate::cpu::seconds_of(pids) - server).max(0.0);
        match failed {
            Some(error) => Err(error),
            None => Ok(Turn {
                ops: total.ops,
                bytes: (total.ops - total.misses) * cell.size as u64,
                seconds: (end - began).as_secs_f64(),
                client_cpu_s,
                server_cpu_s,
                misses: total.misses,
                wrong: total.wrong,
                latency: total.latency.percentiles(),
            }),
        }
    })
}
