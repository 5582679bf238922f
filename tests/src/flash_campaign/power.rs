//! Power cuts: the file system of the device, the journal and the metadata stops at a random moment of a load, and only
//! what was synced is sure to be there when it is mounted again.

use super::disk::Disk;
use super::load::{Load, Seen};
use super::{Found, Ledger, Plan, Summary, flags, look_at_all, start};
use crate::raw::Raw;
use anyhow::{Context as _, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const KEYS: usize = 1200;
const DISK_LEN: u64 = 512 << 20;
const FLASH: &str = "256 MiB";

/// Runs the campaign. `None`, with a line that says so, where one may not mount.
///
/// # Errors
/// With what was broken.
pub fn run(plan: &Plan, mut progress: impl FnMut(usize)) -> anyhow::Result<Option<Summary>> {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let dir = Arc::new(TempDir::with_prefix("mooncake-power-")?);
    let Some(mut disk) = Disk::create(&dir, DISK_LEN)? else { return Ok(None) };
    let flags = flags(plan, &disk.path().join("flash.0"), FLASH, &disk.path().join("data"));
    let ledger = Arc::new(Ledger::new("power", KEYS));
    let mut server = start(&dir, &flags)?;
    let (mut seen, mut all, mut slowest) = (Seen::default(), Found::default(), Duration::ZERO);
    for run in 0..plan.runs {
        ledger.forget_durable();
        let load = Load::start(server.addr(), &ledger, rng.random())?;
        std::thread::sleep(Duration::from_millis(rng.random_range(20..1500)));
        load.announce_the_end();
        let cut = Instant::now();
        disk.cut()?;
        // What it acknowledges as durable from here on would be a lie.
        std::thread::sleep(Duration::from_millis(rng.random_range(0..100)));
        server.kill();
        seen += load.stop().with_context(|| format!("before cut {run}"))?;
        drop(server);
        disk.unmount()?;
        disk.mount().with_context(|| format!("after cut {run}"))?;

        let begin = Instant::now();
        server = start(&dir, &flags).with_context(|| format!("after cut {run}"))?;
        slowest = slowest.max(begin.elapsed());
        let found = look_at_all(&server, &ledger, Some(cut)).with_context(|| format!("after cut {run}"))?;
        ensure!(found.stale == 0, "cut {run}: {} keys have a version that was replaced or deleted", found.stale);
        ensure!(found.durable_lost == 0, "cut {run}: {} of {} durable are gone", found.durable_lost, found.durable);
        all += found;
        ledger.accept(&mut Raw::tcp(server.addr())?)?;
        progress(run + 1);
    }
    server.kill();
    let mut summary = Summary::default();
    summary.say("power cuts, all of which it opened after", plan.runs);
    summary.say("operations before them", seen.operations);
    summary.say("bytes proved, 0 wrong", seen.proved + all.proved);
    summary.say("durable acknowledged, none lost", format!("{} written, {} looked for", seen.durable, all.durable));
    summary.say("objects found again", all.there);
    summary.say("slowest start", format!("{} ms", slowest.as_millis()));
    Ok(Some(summary))
}
