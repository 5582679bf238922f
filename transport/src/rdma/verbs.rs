//! The verbs that are used, made safe: nothing a caller does here reaches memory that is not registered and mapped.
//!
//! Role: owns the handles of libibverbs. What the published `ibverbs` crate does not offer (memory of ours, one-sided
//! requests, windows, completion channels) is called through `ibverbs-sys`.
//!
//! Invariants:
//! - Whatever a handle was made from outlives it: each type holds what it needs, and releases its own handle first.
//! - A region that a request names is kept by its queue pair until that is destroyed, so the device never reaches
//!   memory that was unmapped. Whose bytes those are meanwhile is for the caller to keep.
//! - A handle is destroyed by its drop. One that the device refuses to destroy is leaked with all it was made from,
//!   and told in [`leaked`].

#![expect(unsafe_code, reason = "calls of libibverbs")]

mod complete;
mod context;
mod memory;
mod queue;

pub use complete::{Channel, Completion, CompletionQueue, Status};
pub use context::{Context, Domain, Limits, Port};
pub use memory::{MemoryWindow, Pages, Region, Remote, RemoteAccess};
pub use queue::{Endpoint, POST_MAX, PathTerms, QueuePair, QueueTerms, Request, State, Work};

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

static LEAKED: AtomicU64 = AtomicU64::new(0);

/// Handles that their device refused to destroy.
pub fn leaked() -> u64 {
    LEAKED.load(Ordering::Relaxed)
}

/// Notes what a destructor answered.
fn destroyed(what: &str, errno: i32) -> bool {
    if errno != 0 {
        LEAKED.fetch_add(1, Ordering::Relaxed);
        tracing::error!(error = %io::Error::from_raw_os_error(errno), "the device does not destroy a {what}");
    }
    errno == 0
}

/// What a call that returns an error number meant.
fn check(errno: i32) -> io::Result<()> {
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno.abs())) }
}
