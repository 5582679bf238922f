//! The machine against the configuration: what is missing, small, slow or contradictory, and what to do about it.
//!
//! Role: [`Facts`] is what was read of the machine, [`examine`] the rules over it and the settings. `mooncake-server --doctor`
//! prints all of it without starting anything; `DIAGNOSE` and the metrics tell what is not in order beside what a running node
//! finds of itself.
//!
//! Invariants:
//! - Looking changes nothing: no file is made, no device formatted, nobody else's connection touched.
//! - A check has a remedy exactly when it is not in order.

mod facts;
mod print;
mod rules;

pub(crate) use facts::{Depth, Facts};

use crate::config::Config;
use crate::node::Node;
use parking_lot::Mutex;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use storage::Pages;

/// How it stands with one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// In order, or not needed.
    Ok,
    /// Works, and worse than it could.
    Warn,
    /// Does not work, or will not last.
    Fail,
}

impl Verdict {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) verdict: Verdict,
    /// What it is about: stable, for programs.
    pub(crate) about: &'static str,
    pub(crate) what: String,
    /// What to do; empty if there is nothing to do.
    pub(crate) remedy: String,
}

/// All there is to say, in the order of the rules.
pub(crate) fn examine(facts: &Facts, config: &Config) -> Vec<Check> {
    rules::all(facts, config)
}

/// `--doctor`: looks, and prints a table or JSON. Answers whether nothing fails.
pub fn doctor(config: &Config, json: bool) -> bool {
    let checks = examine(&Facts::gather(Path::new("/"), config, Depth::Offline), config);
    print!("{}", if json { print::json(&checks) } else { print::table(&checks) });
    checks.iter().all(|check| check.verdict != Verdict::Fail)
}

/// What was found on this node's machine last. Metrics read it often, so that it is looked for by others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Examined(Arc<Last>);

#[derive(Debug, Default)]
struct Last {
    checks: Mutex<Arc<[Check]>>,
    /// Whether somebody looks now. A disk that hangs may keep him.
    busy: AtomicBool,
}

/// Somebody looks for as long as this lives.
struct Looking(Arc<Last>);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release);
    }
}

impl Node {
    /// Looks at the machine on a thread of its own, and waits for that so long: what is found later is told the next time.
    pub(crate) fn examine_machine(&self, depth: Depth, limit: Duration) {
        let Examined(last) = self.examined.clone();
        if last.busy.swap(true, Ordering::AcqRel) {
            return;
        }
        let config = self.config.read().clone();
        let ordinary = self.segments.iter().filter(|segment| segment.pages() == Pages::Ordinary).count();
        let segments = (ordinary, self.segments.len());
        let (tell, told) = mpsc::channel();
        let looking = Arc::clone(&last);
        let spawned = std::thread::Builder::new().name("doctor".into()).spawn(move || {
            // Also if a look panics.
            let looking = Looking(looking);
            let facts = Facts { segments: Some(segments), ..Facts::gather(Path::new("/"), &config, depth) };
            *looking.0.checks.lock() = examine(&facts, &config).into();
            drop(looking);
            // Who asked may have gone.
            let _ = tell.send(());
        });
        if let Err(error) = spawned {
            last.busy.store(false, Ordering::Release);
            tracing::warn!(%error, "nobody looks at the machine: no thread");
            return;
        }
        let _ = told.recv_timeout(limit);
    }

    /// What was found last.
    pub(crate) fn checks(&self) -> Arc<[Check]> {
        Arc::clone(&self.examined.0.checks.lock())
    }
}

#[cfg(test)]
mod tests;
