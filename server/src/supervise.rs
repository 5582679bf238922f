//! What the service manager hears, where one listens (`sd_notify(3)`): ready, how far, still alive, stopping.
//!
//! Role: a thread of its own, so that the watchdog is fed while flash is recovered and while it is closed, when the threads
//! that do so have no time; and is not fed when upkeep hangs.
//!
//! Invariants:
//! - Ready is said once the node serves, stopping once it was asked to; both once.
//! - A start or stop that goes on is given more time every few seconds, so that a long recovery is not taken for a hang.

use crate::loading::Loading;
use crate::node::{Node, Stage};
use sd_notify::NotifyState;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// How often the node is looked at.
const EVERY: Duration = Duration::from_millis(200);
/// How often a start or stop that goes on asks for time, and for how much.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
const EXTEND_BY: Duration = Duration::from_secs(30);

/// The thread, until this is dropped.
pub(crate) struct Supervised {
    stop: Option<Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Supervised {
    /// Begins to tell, if anybody listens.
    pub(crate) fn start(node: &Arc<Node>) -> Self {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Self { stop: None, thread: None };
        }
        let mut usec = 0;
        let watchdog = sd_notify::watchdog_enabled(false, &mut usec).then(|| Duration::from_micros(usec) / 3);
        let (stop, stopped) = channel();
        let node = Arc::clone(node);
        let thread = std::thread::Builder::new()
            .name("supervised".to_owned())
            .spawn(move || tell(&node, watchdog, &stopped))
            .inspect_err(|error| tracing::error!(%error, "the service manager is told nothing"));
        Self { stop: Some(stop), thread: thread.ok() }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn say(states: &[NotifyState<'_>]) {
    // Whoever listened is gone: there is nobody else to tell.
    let _ = sd_notify::notify(false, states);
}

fn tell(node: &Node, watchdog: Option<Duration>, stopped: &Receiver<()>) {
    let mut told: Option<Stage> = None;
    let (mut extended, mut fed): (Option<Instant>, Option<Instant>) = (None, None);
    let due = |last: Option<Instant>, every| last.is_none_or(|last| last.elapsed() >= every);
    loop {
        let stage = node.stage();
        if told != Some(stage) {
            match stage {
                Stage::Loading => {}
                Stage::Serving => say(&[NotifyState::Ready, NotifyState::Status("serving")]),
                Stage::Draining => say(&[NotifyState::Stopping, NotifyState::Status("draining")]),
            }
            told = Some(stage);
            extended = None;
        }
        if stage != Stage::Serving && due(extended, EXTEND_EVERY) {
            extended = Some(Instant::now());
            let more = u32::try_from(EXTEND_BY.as_micros()).unwrap_or(u32::MAX);
            say(&[NotifyState::ExtendTimeoutUsec(more)]);
            if let Some(loading) = Loading::of(node).filter(|_| stage == Stage::Loading) {
                say(&[NotifyState::Status(&format!("recovering flash, {} % done", loading.percent))]);
            }
        }
        if let Some(every) = watchdog
            && due(fed, every)
            && node.is_alive()
        {
            fed = Some(Instant::now());
            say(&[NotifyState::Watchdog]);
        }
        let wait = watchdog.map_or(EVERY, |every| every.min(EVERY));
        match stopped.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                // The end came sooner than a look at it.
                if told != Some(Stage::Draining) {
                    say(&[NotifyState::Stopping]);
                }
                return;
            }
        }
    }
}
