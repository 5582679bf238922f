//! Faults of the flash tier, beside a load whose every byte proves itself.
//!
//! Role: runs the real server on real files, lets it be killed, lose its power, its disk rot, lie, fill up or slow down, and
//! looks at what it says afterwards. Each campaign is a function of a [`Plan`]; `flash-campaign` runs them, `docs/faults.md`
//! says how and what came of it.
//!
//! Invariants, each ends a campaign if it is broken:
//! - No read ever gives bytes that were not written under its key, or a version that was replaced or deleted before the
//!   fault. A power cut may bring those back that were replaced within [`ledger::JOURNAL_WINDOW`] of it.
//! - What was acknowledged as `DURABLE` is there after a kill and after a power cut.
//! - The server starts again after every fault, and never ends by itself.

pub mod disk;
pub mod faulty;
pub mod forge;
pub mod kill;
pub mod ledger;
pub mod limits;
pub mod load;
pub mod power;
pub mod rot;
pub mod scrub;
pub mod slow;
pub mod soak;
pub mod warm;

use crate::raw::Raw;
use crate::server::{Mark, Server, patience};
use anyhow::{Context as _, anyhow, ensure};
use ledger::Ledger;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What a campaign is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Faults, or rounds of faults.
    pub runs: usize,
    /// Of everything random.
    pub seed: u64,
    /// More flags of the server.
    pub server: Vec<String>,
}

/// How a campaign went: one line for each thing that was counted.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    lines: Vec<(String, String)>,
}

impl Summary {
    /// Adds a figure.
    pub fn say(&mut self, what: &str, figure: impl fmt::Display) {
        self.lines.push((what.to_owned(), figure.to_string()));
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, figure) in &self.lines {
            writeln!(f, "{what:<40} {figure}")?;
        }
        Ok(())
    }
}

/// Memory of a server under a load, less than the load writes.
pub const DRAM: &str = "64 MiB";

/// Flags of a server with one device at `device`, and its own files in `data`.
pub fn flags(plan: &Plan, device: &Path, size: &str, data: &Path) -> Vec<String> {
    let nvme = format!("{}:{size}", device.display());
    let data = data.display().to_string();
    let own = ["--dram", DRAM, "--nvme", &nvme, "--data-dir", &data, "--flash-segment-len", "8 MiB"];
    own.iter().map(|&flag| flag.to_owned()).chain(plan.server.iter().cloned()).collect()
}

/// Starts a server in `dir`.
///
/// # Errors
/// With its log if it does not serve.
pub fn start(dir: &Arc<TempDir>, flags: &[String]) -> anyhow::Result<Server> {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Server::try_start(Arc::clone(dir), &flags, Mark::Ready).map_err(|log| anyhow!("the server does not start:\n{log}"))
}

/// A figure of `INFO`.
///
/// # Errors
/// If the server does not answer, or has no such figure.
pub fn info(raw: &mut Raw, name: &str) -> anyhow::Result<u64> {
    let info = raw.try_ask(&["INFO", "all"])?;
    let found = info.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.with_context(|| format!("{name} in INFO"))?.parse().with_context(|| format!("{name} in INFO"))
}

/// A figure, or word, of the first device, as `INFO` tells it.
///
/// # Errors
/// As [`info`].
pub fn device(raw: &mut Raw, name: &str) -> anyhow::Result<String> {
    let info = raw.try_ask(&["INFO", "tiers"])?;
    let line = info.text().lines().find(|line| line.starts_with("tier_flash.")).context("a device in INFO")?;
    let fields = line.split_once(':').context("a value in INFO")?.1;
    let found = fields.split(',').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    Ok(found.with_context(|| format!("{name} in {line}"))?.to_owned())
}

/// Waits until `holds`.
///
/// # Errors
/// If it does not in time.
pub fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<Duration> {
    let (begin, limit) = (Instant::now(), patience(limit));
    while !holds()? {
        ensure!(begin.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(begin.elapsed())
}

/// What was found after a fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Keys that are there.
    pub there: u64,
    /// Keys that were acknowledged as durable.
    pub durable: u64,
    /// Of them, those that are gone.
    pub durable_lost: u64,
    /// Keys with an older version than they may have.
    pub stale: u64,
    /// Bytes proved.
    pub proved: u64,
}

impl std::ops::AddAssign for Found {
    fn add_assign(&mut self, other: Self) {
        self.there += other.there;
        self.durable += other.durable;
        self.durable_lost += other.durable_lost;
        self.stale += other.stale;
        self.proved += other.proved;
    }
}

/// Reads every key of the ledger and proves it. `cut`: when power went.
///
/// # Errors
/// With the first wrong byte, or if the server does not answer.
pub fn look_at_all(server: &Server, ledger: &Ledger, cut: Option<Instant>) -> anyhow::Result<Found> {
    let mut raw = Raw::tcp(server.addr())?;
    let mut found = Found::default();
    for number in 0..ledger.len() {
        found += ledger.look(&mut raw, number, cut)?;
    }
    Ok(found)
}
