//! `CLIENT PAUSE`: for a while, clients wait with their next command, or with their next write.
//!
//! Invariants:
//! - Who waits has run nothing of the command that it waits with.
//! - `CLIENT UNPAUSE` never waits: what an operator began, an operator can end.

use parking_lot::Mutex;
use protocol::base::Instant;
use protocol::command::{CommandId, Flags, Spec};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Whom it holds up, and until when.
#[derive(Clone, Copy, Debug)]
struct Until {
    end: Instant,
    all: bool,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    /// Whether there is one: all that is looked at while there is none.
    on: AtomicBool,
    until: Mutex<Option<Until>>,
    ended: Notify,
    waiting: AtomicU64,
}

impl Pause {
    /// Begins one, or makes the present one longer or stricter.
    pub(crate) fn begin(&self, end: Instant, all: bool) {
        let mut until = self.until.lock();
        let before = until.unwrap_or(Until { end, all });
        *until = Some(Until { end: end.max(before.end), all: all || before.all });
        self.on.store(true, Ordering::Release);
    }

    pub(crate) fn end(&self) {
        *self.until.lock() = None;
        self.on.store(false, Ordering::Release);
        self.ended.notify_waiters();
    }

    /// Whether there may be one.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// How long a command has to wait, if it does. `writes`: it runs others, of which some write.
    pub(crate) fn holds(&self, now: Instant, spec: &Spec, writes: bool) -> Option<Duration> {
        let mut until = self.until.lock();
        let Until { end, all } = (*until)?;
        if end <= now {
            *until = None;
            self.on.store(false, Ordering::Release);
            return None;
        }
        if spec.id == CommandId::ClientUnpause {
            return None;
        }
        let held = all || writes || spec.flags.intersects(Flags::WRITE | Flags::MAY_REPLICATE);
        held.then(|| end.since(now))
    }

    /// Waits until it is over, at most so long.
    pub(crate) async fn wait(&self, span: Duration) {
        let ended = self.ended.notified();
        tokio::pin!(ended);
        ended.as_mut().enable();
        let _waiting = Waiting::count(&self.waiting);
        // It may have ended before we listened.
        if self.is_on() {
            let _ = tokio::time::timeout(span, ended).await;
        }
    }

    /// Clients that wait.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// Counts one that waits for as long as it lives.
struct Waiting<'a>(&'a AtomicU64);

impl<'a> Waiting<'a> {
    fn count(counter: &'a AtomicU64) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::command::lookup;

    #[test]
    fn a_pause_holds_up_what_it_says_and_for_as_long_as_it_says() {
        let (pause, now) = (Pause::default(), Instant(1_000_000_000));
        let holds = |name: &str, now| pause.holds(now, lookup(name.as_bytes()).expect(name), false);
        assert!(!pause.is_on() && holds("set", now).is_none());
        pause.begin(Instant(3_000_000_000), false);
        assert_eq!(holds("set", now), Some(Duration::from_secs(2)));
        assert_eq!(holds("get", now), None);
        pause.begin(Instant(2_000_000_000), true);
        assert_eq!(holds("get", now), Some(Duration::from_secs(2)), "the longer and the stricter counts");
        let client = lookup(b"client").expect("it is there");
        let unpause = client.subcommand(b"unpause").expect("it is there");
        assert!(pause.holds(now, unpause, false).is_none());
        assert!(holds("set", Instant(3_000_000_000)).is_none() && !pause.is_on());
    }
}
