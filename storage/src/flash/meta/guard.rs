//! Panics of code that is not ours, kept from ending the process.
//!
//! A panic of our own ends the process: the state it was about to change is not to be used any more. sled panics where what
//! it reads is damaged, which is the disk's mistake. So panics unwind in all builds, a hook ends the process for all of them,
//! and threads that hold nothing but sled are exempt. See `docs/decisions/panics-of-sled.md`.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// How sled names its own threads, which do the same work as its callers.
const SLED_THREADS: &str = "sled-";

/// From now on a panic ends the process, except inside of [`guarded`]. For `main`, before any thread.
pub fn end_process_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let of_sled = std::thread::current().name().is_some_and(|name| name.starts_with(SLED_THREADS));
        if GUARDED.get() || of_sled {
            tracing::warn!("in the metadata store: {panic}");
            return;
        }
        report(panic);
        std::process::abort();
    }));
}

/// Runs `work`, and answers what it panicked with if it did. What `work` used must not be used any more then.
///
/// # Errors
/// The panic's message.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let outer = GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    outcome.map_err(|panic| message(&*panic))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}
