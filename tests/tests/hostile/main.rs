//! What clients may do wrong, by accident or on purpose, against the real server: it refuses, it ends what has to end,
//! it stays within its memory, and nobody else notices.

mod bulk;
mod frames;
mod grants;
mod limits;
mod process;
mod shm;

use std::sync::{Mutex, MutexGuard, PoisonError};
use tests::Raw;

/// Tests that measure do so one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server still serves a client that does nothing wrong.
fn assert_serves(server: &tests::Server) {
    let mut raw = Raw::to(server);
    assert_eq!(raw.ask(&["SET", "healthy", "yes"]).text(), "OK");
    assert_eq!(raw.ask(&["GET", "healthy"]).text(), "yes");
}
