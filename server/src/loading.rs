//! From listening to serving: the flash tier is recovered, and memory of the life before taken over, while clients are told
//! to wait.
//!
//! Invariants:
//! - Until the index stands no command looks at an object or writes one: each answers `-LOADING`.

use crate::doctor::Depth;
use crate::flash::Flash;
use crate::node::Node;
use crate::warm::Warm;
use anyhow::Context as _;
use protocol::resp::{ErrorWord, WireError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

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
            if let Err(error) = node.adopt_memory() {
                node.shut_down();
                return Err(error);
            }
            if let Some(flash) = &node.flash {
                flash.fabrics.start(Arc::downgrade(&node)).context("watch devices on other machines")?;
            }
            node.hot.loading.store(false, Ordering::Release);
            node.examine_machine(Depth::Running, Duration::ZERO);
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
        let elapsed_s = node.now().since(node.started).as_secs();
        // Memory comes last.
        let (percent, records, bytes) = match (&node.flash, node.warm.as_ref().and_then(Warm::progress)) {
            (_, Some((percent, adopted))) => (percent, adopted.objects, adopted.bytes),
            (Some(Flash { progress, .. }), None) => {
                let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                (progress.percent(), count(&progress.records), count(&progress.bytes))
            }
            (None, None) => (0, 0, 0),
        };
        let left_s = elapsed_s * u64::from(100 - percent) / u64::from(percent.max(1));
        Some(Self { percent, records, bytes, elapsed_s, left_s })
    }
}

/// What a command that needs the index is told meanwhile.
pub(crate) fn refusal(node: &Node) -> WireError {
    let percent = Loading::of(node).map_or(100, |loading| loading.percent);
    let what = match node.warm.as_ref().and_then(Warm::progress) {
        Some(_) => "verifying the memory it was left",
        None => "recovering its flash tier",
    };
    WireError::new(ErrorWord::Loading, format!("the node is {what}, {percent} % done"))
}
