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
use std::sync::Arc;

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
#[derive(Debug, Default)]
pub(crate) struct Examined(Mutex<Arc<[Check]>>);

impl Node {
    /// Looks at the machine. It opens devices, so a worker does not wait for it.
    pub(crate) fn examine_machine(&self, depth: Depth) {
        let config = self.config.read().clone();
        let checks = examine(&Facts::gather(Path::new("/"), &config, depth), &config);
        *self.examined.0.lock() = checks.into();
    }

    /// What was found last.
    pub(crate) fn checks(&self) -> Arc<[Check]> {
        Arc::clone(&self.examined.0.lock())
    }
}

#[cfg(test)]
mod tests;
