//! Worker threads: each a single-threaded tokio runtime that serves its connections and nobody else's.
//!
//! Role: decides which worker serves a connection. Small requests are cheapest when one thread that is awake serves
//! them all, large transfers want a core each: so connections are packed onto few workers, and one that begins to move
//! large values goes to the worker with the fewest of those.

use crate::stats::WorkerStats;
use anyhow::Context as _;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Time that what runs beside a worker gets to end when it stops.
const ASIDE_MAX: Duration = Duration::from_millis(500);

/// Connections that a worker takes before the next one gets any, unless they move large values.
const PACKED_MAX: u64 = 64;

/// One worker.
#[derive(Debug)]
pub(crate) struct Worker {
    handle: Handle,
    pub(crate) stats: Arc<WorkerStats>,
}

/// All workers, started.
#[derive(Debug)]
pub(crate) struct Workers {
    workers: Vec<Worker>,
    threads: parking_lot::Mutex<Vec<(oneshot::Sender<()>, std::thread::JoinHandle<()>)>>,
}

impl Workers {
    pub(crate) fn start(count: usize) -> anyhow::Result<Self> {
        let mut workers = Vec::with_capacity(count);
        let mut threads = Vec::with_capacity(count);
        for number in 0..count.max(1) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .with_context(|| format!("start worker {number}"))?;
            let handle = runtime.handle().clone();
            let (stop, stopped) = oneshot::channel();
            let thread = std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    // A dropped sender means the same as a message: stop.
                    let _ = runtime.block_on(stopped);
                    // Ends every connection, and with it what clients were lent. A look at very many objects on a thread of
                    // its own may go on for longer than anybody wants to wait.
                    runtime.shutdown_timeout(ASIDE_MAX);
                })
                .with_context(|| format!("start worker {number}"))?;
            workers.push(Worker { handle, stats: Arc::new(WorkerStats::new()) });
            threads.push((stop, thread));
        }
        Ok(Self { workers, threads: parking_lot::Mutex::new(threads) })
    }

    pub(crate) fn len(&self) -> usize {
        self.workers.len()
    }

    pub(crate) fn get(&self, index: usize) -> &Worker {
        &self.workers[index]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter()
    }

    /// Who serves a new connection.
    pub(crate) fn place(&self) -> usize {
        let load = |worker: &Worker| worker.stats.connections.load(Ordering::Relaxed);
        self.workers
            .iter()
            .position(|worker| load(worker) < PACKED_MAX)
            .or_else(|| (0..self.workers.len()).min_by_key(|&index| load(&self.workers[index])))
            .unwrap_or(0)
    }

    /// Where a connection on `here` that moves large values is better served, if anywhere.
    pub(crate) fn better_for_bulk(&self, here: usize) -> Option<usize> {
        let bulky = |index: usize| self.workers[index].stats.bulky.load(Ordering::Relaxed);
        let best = (0..self.workers.len()).min_by_key(|&index| (bulky(index), index == here))?;
        (bulky(best) + 1 < bulky(here)).then_some(best)
    }

    /// Who serves a new ring: copies for its writes are made there, so it counts as one that moves large values.
    pub(crate) fn place_ring(&self) -> usize {
        let bulky = |&index: &usize| self.workers[index].stats.bulky.load(Ordering::Relaxed);
        (0..self.workers.len()).min_by_key(bulky).unwrap_or(0)
    }

    /// Runs a task on one worker.
    pub(crate) fn spawn<F>(&self, index: usize, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.workers[index].handle.spawn(task)
    }

    /// Ends all workers and waits for them.
    pub(crate) fn stop(&self) {
        let threads: Vec<_> = self.threads.lock().drain(..).collect();
        let (stops, threads): (Vec<_>, Vec<_>) = threads.into_iter().unzip();
        drop(stops);
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}
