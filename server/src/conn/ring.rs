//! A RESP connection over rings in shared memory: the same bytes, no socket.
//!
//! Invariants:
//! - The spin before a sleep is bounded and lets every other task of the worker run at each turn.
//! - It spins only while spinning has paid lately.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use transport::shm::ring::{Need, RingEnd};

/// See the module's text.
#[derive(Debug)]
pub(crate) struct RingStream {
    end: RingEnd,
    event: AsyncFd<OwnedFd>,
    spin: Duration,
    /// Since when this wait spins.
    spinning: Option<Instant>,
    /// Waits that ended while spinning less those that did not, bounded: spins while not negative.
    luck: i8,
}

const LUCK_MAX: i8 = 8;

impl RingStream {
    pub(crate) fn new(end: RingEnd, event: OwnedFd, spin: Duration) -> io::Result<Self> {
        #[expect(
            deprecated,
            reason = "an OwnedFd names the same descriptor for its whole life; `register` would need unsafe"
        )]
        let event = AsyncFd::new(event)?;
        Ok(Self { end, event, spin, spinning: None, luck: LUCK_MAX })
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let count = self.end.read(bytes).map_err(io::Error::other)?;
            if count > 0 {
                self.end.notify().map_err(io::Error::other)?;
                if self.spinning.take().is_some() {
                    self.luck = (self.luck + 1).min(LUCK_MAX);
                }
                return Poll::Ready(Ok(count));
            }
            ready!(self.poll_wait(cx, Need::Data))?;
        }
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let mut count = 0;
            for slice in slices {
                let step = self.end.write(slice).map_err(io::Error::other)?;
                count += step;
                if step < slice.len() {
                    break;
                }
            }
            if count > 0 {
                self.end.notify().map_err(io::Error::other)?;
                return Poll::Ready(Ok(count));
            }
            ready!(self.poll_wait(cx, Need::Space))?;
        }
    }

    /// Spins a little, then sleeps until the client wakes us. Ready means: look again.
    fn poll_wait(&mut self, cx: &mut Context<'_>, need: Need) -> Poll<io::Result<()>> {
        if self.luck >= 0 && !self.spin.is_zero() {
            let since = *self.spinning.get_or_insert_with(Instant::now);
            for _ in 0..64 {
                if self.end.is_ready(need).map_err(io::Error::other)? {
                    return Poll::Ready(Ok(()));
                }
                std::hint::spin_loop();
            }
            if since.elapsed() < self.spin {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.luck = (self.luck - 2).max(-LUCK_MAX);
        } else {
            // Try again now and then: the client's pace may have changed.
            self.luck = (self.luck + 1).min(0);
        }
        self.spinning = None;
        loop {
            if !self.end.prepare_sleep(need).map_err(io::Error::other)? {
                return Poll::Ready(Ok(()));
            }
            let mut guard = ready!(self.event.poll_read_ready(cx))?;
            guard.clear_ready();
            drop(guard);
            self.end.wake_up();
            if self.end.is_ready(need).map_err(io::Error::other)? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
