//! The end of a node, as gently as it may be: nobody new, nothing new lent, and time for what is lent to come back.
//!
//! Invariants:
//! - It ends after `drain-ms` at the latest, whatever clients hold, and at once when it is asked to end a second time.

use crate::dispatch::Ctx;
use crate::node::Node;
use protocol::resp::{ErrorWord, WireError};
use std::time::Duration;

/// How often it is looked whether all is back.
const EVERY: Duration = Duration::from_millis(10);

/// Refuses what would be lent by a node that ends.
pub(crate) fn refuse_if_draining(ctx: &Ctx<'_>) -> Result<(), WireError> {
    if ctx.node.is_stopping() {
        return Err(WireError::new(
            ErrorWord::Busy,
            "the node is about to stop and lends nothing any more: use another",
        ));
    }
    Ok(())
}

impl Node {
    /// Waits until every grant and lease has ended, for as long as settings allow.
    pub(crate) async fn drain(&self) {
        let limit = self.config.read().drain_ms.duration();
        let until = tokio::time::Instant::now() + limit;
        let lent = || {
            let usage = self.store.usage();
            (usage.leases, usage.grants)
        };
        let (leases, grants) = lent();
        if (leases, grants) == (0, 0) || self.is_hurried() {
            return;
        }
        tracing::info!("draining: {leases} leases and {grants} grants may end, for {limit:?} at most");
        while lent() != (0, 0) && tokio::time::Instant::now() < until && !self.is_hurried() {
            tokio::time::sleep(EVERY).await;
        }
        let (leases, grants) = lent();
        tracing::info!("drained: {leases} leases and {grants} grants are left and end with their connections");
    }
}
