//! Watches that a transfer goes on.
//!
//! Invariants:
//! - A peer that does not move a fair number of bytes for as long as our patience lasts is given up: a byte now and then is
//!   no progress.
//! - Time in which the server itself did not run counts for nobody.

use crate::conn::PROGRESS_LEN;
use crate::upkeep::OVERSLEPT;
use std::io;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Pace {
    patience: Duration,
    /// Of the last progress.
    since: Instant,
    /// Bytes moved since then.
    moved: usize,
}

impl Pace {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, since: Instant::now(), moved: 0 }
    }

    /// So many bytes more.
    pub(super) fn moved(&mut self, count: usize) {
        self.moved += count;
        if self.moved >= PROGRESS_LEN {
            (self.since, self.moved) = (Instant::now(), 0);
        }
    }

    /// Waits for one step of the transfer; `None` if `end` comes first.
    ///
    /// # Errors
    /// Those of the step; `TimedOut` if there was no progress for too long.
    pub(super) async fn step<T>(
        &mut self,
        end: Option<Instant>,
        step: impl Future<Output = io::Result<T>>,
    ) -> io::Result<Option<T>> {
        tokio::pin!(step);
        loop {
            let patient_until = self.since + self.patience;
            let until = end.map_or(patient_until, |end| end.min(patient_until));
            if let Ok(done) = timeout_at(until, step.as_mut()).await {
                return done.map(Some);
            }
            let now = Instant::now();
            if end.is_some_and(|end| now >= end) {
                return Ok(None);
            }
            if now < patient_until + OVERSLEPT {
                return Err(io::ErrorKind::TimedOut.into());
            }
            (self.since, self.moved) = (now, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    const PATIENCE: Duration = Duration::from_millis(100);

    async fn moves(pace: &mut Pace, after_ms: u64, count: usize) -> io::Result<Option<()>> {
        let moved = async {
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
            Ok(())
        };
        let moved = pace.step(None, moved).await?;
        pace.moved(count);
        Ok(moved)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
    }

    #[test]
    fn a_fair_number_of_bytes_is_progress_and_a_trickle_is_none() {
        runtime().block_on(async {
            let mut pace = Pace::new(PATIENCE);
            for _ in 0..4 {
                moves(&mut pace, 40, PROGRESS_LEN).await.expect("it goes on");
            }
            let mut pace = Pace::new(PATIENCE);
            let began = Instant::now();
            let mut trickled = Ok(Some(()));
            while trickled.is_ok() {
                trickled = moves(&mut pace, 10, 1).await;
            }
            let took = began.elapsed();
            assert!(took >= PATIENCE && took < PATIENCE + OVERSLEPT, "{took:?}");
        });
    }

    #[test]
    fn the_end_comes_before_the_patience_is_over() {
        runtime().block_on(async {
            let mut pace = Pace::new(PATIENCE);
            let end = Instant::now() + Duration::from_millis(20);
            let ended = pace.step(Some(end), pending::<io::Result<()>>()).await;
            assert!(matches!(ended, Ok(None)), "{ended:?}");
            let given_up = pace.step(None, pending::<io::Result<()>>()).await;
            assert!(matches!(given_up, Err(error) if error.kind() == io::ErrorKind::TimedOut));
        });
    }

    #[test]
    fn time_that_was_slept_does_not_count() {
        runtime().block_on(async {
            let mut pace = Pace::new(PATIENCE);
            let mut slept = false;
            let step = std::future::poll_fn(|_| {
                if !std::mem::replace(&mut slept, true) {
                    std::thread::sleep(PATIENCE + OVERSLEPT + Duration::from_millis(20));
                }
                std::task::Poll::<io::Result<()>>::Pending
            });
            let began = Instant::now();
            let given_up = pace.step(None, step).await;
            assert!(given_up.is_err());
            assert!(began.elapsed() >= 2 * PATIENCE + OVERSLEPT, "{:?}", began.elapsed());
        });
    }
}
