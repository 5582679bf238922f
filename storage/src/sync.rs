//! Locks and atomics, so that the whole store also runs under the shuttle model checker (`--cfg shuttle`).
//!
//! Lock order: a shard, then a segment's extents. Never two shards at once, except [`crate::Store::audit`], in order.

#[cfg(not(shuttle))]
pub(crate) use parking_lot::MutexGuard;
#[cfg(not(shuttle))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(shuttle)]
pub(crate) use shuttle::sync::{
    MutexGuard,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

/// A mutex that does not poison: a panic ends the process (`panic = "abort"`).
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(#[cfg(not(shuttle))] parking_lot::Mutex<T>, #[cfg(shuttle)] shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        #[cfg(not(shuttle))]
        {
            Self(parking_lot::Mutex::new(value))
        }
        #[cfg(shuttle)]
        {
            Self(shuttle::sync::Mutex::new(value))
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        #[cfg(not(shuttle))]
        {
            self.0.lock()
        }
        #[cfg(shuttle)]
        {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }
}
