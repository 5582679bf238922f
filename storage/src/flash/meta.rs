//! What the node knows of its devices' records without asking the devices: one table a sealed segment.
//!
//! Role: stands in for a footer that has become unreadable, so that its segment need not be read in whole. It is
//! disposable: a table is a segment's footer as it was written, so that it counts only if its MAC holds for the life that the
//! segment is in. A start reads the footers first: they are faster.
//!
//! Invariants:
//! - Nothing lies only here.
//! - No failure of the store beneath reaches its callers: neither an error, nor a panic, nor a wait without an end.

mod guard;
mod sled_store;
#[cfg(test)]
mod tests;

pub use guard::{end_process_on_panic, guarded};
pub use sled_store::{SledOptions, SledStore};

use super::format::DeviceId;

/// How a metadata store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaState {
    /// Answers.
    Working,
    /// Answers, but what was there before did not open and was moved aside: tables come from the footers.
    Rebuilt {
        /// Why.
        why: String,
    },
    /// Answers nothing any more.
    Off {
        /// Why.
        why: String,
    },
}

/// Figures of a metadata store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaStatus {
    /// How it is.
    pub state: MetaState,
    /// Tables that were stored or removed.
    pub changes: u64,
    /// Changes that were left out because too many were waiting: footers are read instead.
    pub dropped: u64,
}

/// Keeps the tables of sealed segments.
pub trait MetaStore: Send + Sync {
    /// Stores a segment's footer, as it lies on the device. Returns at once; durable some time later, or never.
    fn put(&self, device: DeviceId, segment: u32, footer: Vec<u8>);

    /// Forgets a segment's table, in the same way.
    fn remove(&self, device: DeviceId, segment: u32);

    /// A segment's table, if there is one. A claim, maybe of an earlier life.
    fn get(&self, device: DeviceId, segment: u32) -> Option<Vec<u8>>;

    /// Waits until what was stored so far is durable. Answers whether it is.
    fn sync(&self) -> bool;

    /// How it is.
    fn status(&self) -> MetaStatus;
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMeta;

impl MetaStore for NoMeta {
    fn put(&self, _: DeviceId, _: u32, _: Vec<u8>) {}

    fn remove(&self, _: DeviceId, _: u32) {}

    fn get(&self, _: DeviceId, _: u32) -> Option<Vec<u8>> {
        None
    }

    fn sync(&self) -> bool {
        true
    }

    fn status(&self) -> MetaStatus {
        MetaStatus { state: MetaState::Off { why: "not asked for".to_owned() }, changes: 0, dropped: 0 }
    }
}
