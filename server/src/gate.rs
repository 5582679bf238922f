//! Gates: how one client's commands run with nobody else's between them.
//!
//! A worker holds its own gate while it runs a batch of commands: one lock that nobody else wants. Who must be alone
//! (`EXEC`, `MSETNX`, the last step of `RENAME`) takes the gates of all workers.
//!
//! Invariants:
//! - Nobody who holds a gate takes another, but in [`Gates::close`], which takes them in order: no two wait for each other.
//! - No gate is held over an await: whoever closes them waits for one batch of each worker at most.

use parking_lot::{Mutex, MutexGuard};

#[derive(Debug, Default)]
#[repr(align(128))]
struct Gate(Mutex<()>);

/// One gate a worker.
#[derive(Debug)]
pub(crate) struct Gates(Box<[Gate]>);

/// While this lives, a worker runs commands.
#[derive(Debug)]
pub(crate) struct Entered<'a>(#[expect(dead_code, reason = "held until it is dropped")] MutexGuard<'a, ()>);

/// While this lives, nobody else runs any command.
#[derive(Debug)]
pub(crate) struct Closed<'a>(#[expect(dead_code, reason = "held until it is dropped")] Vec<MutexGuard<'a, ()>>);

impl Gates {
    pub(crate) fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Gate::default()).collect())
    }

    /// Enters by the gate of `worker`.
    pub(crate) fn enter(&self, worker: usize) -> Entered<'_> {
        Entered(self.0[worker % self.0.len()].0.lock())
    }

    /// Waits until every worker has ended its batch, and lets none begin another.
    pub(crate) fn close(&self) -> Closed<'_> {
        Closed(self.0.iter().map(|gate| gate.0.lock()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn who_closes_the_gates_is_alone() {
        let gates = Gates::new(3);
        let (odd, rounds) = (AtomicU64::new(0), 2_000);
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let (gates, odd) = (&gates, &odd);
                scope.spawn(move || {
                    for round in 0..rounds {
                        if round % 100 == worker {
                            let _closed = gates.close();
                            odd.fetch_add(1, Ordering::Relaxed);
                            std::thread::yield_now();
                            odd.fetch_add(1, Ordering::Relaxed);
                        } else {
                            let _entered = gates.enter(worker);
                            assert!(odd.load(Ordering::Relaxed).is_multiple_of(2), "somebody else is not alone");
                        }
                    }
                });
            }
        });
        assert_eq!(odd.into_inner(), 3 * 2 * rounds as u64 / 100);
    }
}
