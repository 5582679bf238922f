//! Ends what has run out: on time, and before anything else after a pause.
//!
//! Invariants:
//! - No request is answered before what had run out when it was looked at has ended, however long the process or the
//!   machine slept: whoever comes first sees to it, everybody else waits for that.
//! - A pause of the server is no client's lack of progress.

use crate::node::Node;
use parking_lot::Mutex;
use protocol::base::{GrantId, Instant};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use transport::Fence;

/// How often clients are looked at for time-outs, and rates are sampled.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// Without a look for so long, a request brings its own: `tick-ms` or the scheduler has been slow, or we slept.
const LOOK_AT_LEAST_EVERY_MS: u64 = 200;
/// Waking so much later than asked means that we slept, or had no processor, and that clients could get nothing done.
pub(crate) const OVERSLEPT: Duration = Duration::from_millis(250);

/// Without a look for so long, upkeep hangs.
const STILL_MAX_MS: u64 = 10_000;

/// When it was looked last, and what it left to be done.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    /// Of the node's clock, in milliseconds.
    looked_ms: AtomicU64,
    /// Slots that wait until it is known what their writers can still do. Its lock is held while things are ended.
    unfenced: Mutex<Vec<GrantId>>,
}

impl Node {
    /// Now, after everything has ended that had run out by then. What a request is answered by.
    pub(crate) fn now_looked(&self) -> Instant {
        let now = self.now();
        if self.is_look_due(now) {
            self.look(now, || self.is_look_due(now));
        }
        now
    }

    fn is_look_due(&self, now: Instant) -> bool {
        let looked_ms = self.upkeep.looked_ms.load(Ordering::Acquire);
        (now.0 / 1_000_000).saturating_sub(looked_ms) > LOOK_AT_LEAST_EVERY_MS
    }

    /// Whether upkeep goes on, or has ended because the node stops.
    pub(crate) fn is_alive(&self) -> bool {
        let looked_ms = self.upkeep.looked_ms.load(Ordering::Acquire).max(self.started.0 / 1_000_000);
        self.is_stopping() || self.now_ms().saturating_sub(looked_ms) < STILL_MAX_MS
    }

    /// Ends what has run out if, once it is our turn, it is still `due`.
    fn look(&self, now: Instant, due: impl FnOnce() -> bool) {
        let mut unfenced = self.upkeep.unfenced.lock();
        if !due() {
            return;
        }
        unfenced.extend(self.store.maintain(now));
        unfenced.retain(|&grant| {
            let fence = self.rdma.fence(grant).or_else(|| self.arena.as_ref().map(|arena| arena.fence(grant)));
            if fence.is_none() && !self.rdma.lends() {
                // Without windows, in copy mode, no peer writes unseen, so nothing needs a fence. With them, a grant that ended
                // before it was lent has none.
                tracing::error!("a slot waits for a fence that nobody gives");
            }
            let pending = fence == Some(Fence::Pending);
            if !pending {
                self.store.fenced(grant);
            }
            pending
        });
        self.rdma.look(now);
        self.upkeep.looked_ms.store(now.0 / 1_000_000, Ordering::Release);
    }
}

/// Ends what has run out, evicts to the watermark, closes clients that are stuck, for as long as the node runs.
pub(crate) async fn run(node: Arc<Node>) {
    let ticks = |every| {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks
    };
    let mut every = node.config.read().tick_ms.duration();
    let mut tick = ticks(every);
    let mut sampled = tokio::time::Instant::now();
    loop {
        tick.tick().await;
        let now = node.now();
        node.look(now, || true);
        node.tell_events();
        let since = sampled.elapsed();
        if since < SAMPLE_EVERY {
            continue;
        }
        sampled = tokio::time::Instant::now();
        let (progress, idle, every_now) = {
            let config = node.config.read();
            (config.progress_ms.0, config.timeout.0 * 1000, config.tick_ms.duration())
        };
        if every_now != every {
            (every, tick) = (every_now, ticks(every_now));
            // The first of them comes at once.
            tick.tick().await;
        }
        if since > SAMPLE_EVERY.max(every) + OVERSLEPT {
            node.clients.forgive(now.0 / 1_000_000);
        } else {
            node.stats.timeouts.add(node.clients.reap(now.0 / 1_000_000, progress, idle, node.hot.lease_max().0));
        }
        node.stats.evicted.add(node.clients.bound(node.hot.waiting_max()));
        node.sampler.tick(&node, now);
        node.census.tick(&node, now);
    }
}
