//! Servers that the kernel allows less than others, as a container's does.

use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use std::collections::BTreeMap;

/// `io_uring_setup(2)`, which has this number everywhere.
const IO_URING_SETUP: i64 = 425;
const EPERM: u32 = 1;

/// Runs `act` on a thread of its own, from which nobody can make a ring, nor can any server that it starts.
///
/// # Panics
/// If `act` does, or the kernel knows no filters.
pub fn without_io_uring<R: Send>(act: impl FnOnce() -> R + Send) -> R {
    let refusing = || {
        let rules = BTreeMap::from([(IO_URING_SETUP, Vec::new())]);
        let arch = std::env::consts::ARCH.try_into().expect("an architecture with filters");
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(EPERM), arch);
        let program: BpfProgram = filter.and_then(TryInto::try_into).expect("a filter of one rule");
        apply_filter(&program).expect("a filter for this thread and what it starts");
        act()
    };
    on_its_own(refusing)
}

/// Runs `act` on a thread of its own, whose servers may do less than root: none of them has this capability.
///
/// # Panics
/// If `act` does.
pub fn without_capability<R: Send>(capability: CapabilitySet, act: impl FnOnce() -> R + Send) -> R {
    on_its_own(|| {
        // Who may not give it up does not have it.
        let _ = remove_capability_from_bounding_set(capability);
        act()
    })
}

fn on_its_own<R: Send>(act: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| scope.spawn(act).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}
