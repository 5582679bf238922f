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

/// Begins to recover. The node serves when that is done, or stops if it cannot be: then the thread returns why.
pub(crate) fn start(node: &Arc<Node>) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
    let node = Arc::clone(node);
    std::thread::Builder::new()
        .name("recover".to_owned())
        .spawn(move || {
            if let Err(error) = node.open_flash() {
                node.shut_down();
                return Err(error).context("open the flash tier (`data-dir`, `nvme`)");
            }
            node.hot.loading.store(false, Ordering::Release);
            let up = node.now().since(node.started).as_secs_f64();
            tracing::info!("ready: {} objects, {up:.3} s after the start", node.store.len());
            Ok(())
        })
        .context("start recovering")
}

/// How far recovery is, as `INFO` tells it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Loading {
    pub(crate) percent: u8,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) elapsed_s: u64,
    pub(crate) left_s: u64,
}

impl Loading {
    /// `None` once the node serves.
    pub(crate) fn of(node: &Node) -> Option<Self> {
        if !node.hot.loading.load(Ordering::Acquire) {
            return None;
        }
        let Some(flash) = &node.flash else { return Some(Self::default()) };
        let percent = flash.progress.percent();
        let elapsed_s = node.now().since(flash.began).as_secs();
        Some(Self {
            percent,
            records: flash.progress.records.load(Ordering::Relaxed),
            bytes: flash.progress.bytes.load(Ordering::Relaxed),
            elapsed_s,
            left_s: elapsed_s * u64::from(100 - percent) / u64::from(percent.max(1)),
        })
    }
}

/// What a command that needs the index is told meanwhile.
pub(crate) fn refusal(node: &Node) -> WireError {
    let percent = Loading::of(node).map_or(100, |loading| loading.percent);
    WireError::new(ErrorWord::Loading, format!("the node is recovering its flash tier, {percent} % done"))
}
