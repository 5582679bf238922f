//! SIGKILL at a random moment of a load, and again.

use super::load::{Load, Seen};
use super::{Found, Ledger, Plan, Summary, device, flags, info, look_at_all, start};
use crate::raw::Raw;
use anyhow::{Context as _, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Keys; their values are some three times the memory.
const KEYS: usize = 3000;
const FLASH: &str = "512 MiB";
/// A server with fewer free segments may reclaim one between the count and the kill, and what it held is not looked for.
const FREE_SEGMENTS_MIN: u64 = 3;
/// Kills after which another tier begins, so that many find it with free segments.
const KILLS_OF_A_TIER: usize = 20;

/// Runs the campaign. `progress` hears how many kills are done.
///
/// # Errors
/// With what was broken.
pub fn run(plan: &Plan, mut progress: impl FnMut(usize)) -> anyhow::Result<Summary> {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let (mut dir, mut flags, mut ledger) = fresh(plan)?;
    let mut server = start(&dir, &flags)?;
    let (mut seen, mut all) = (Seen::default(), Found::default());
    let (mut counted, mut back, mut looks, mut slowest) = (0, 0, 0, Duration::ZERO);
    for run in 0..plan.runs {
        if run > 0 && run % KILLS_OF_A_TIER == 0 {
            server.kill();
            (dir, flags, ledger) = fresh(plan)?;
            server = start(&dir, &flags)?;
        }
        ledger.forget_durable();
        let load = Load::start(server.addr(), &ledger, rng.random())?;
        std::thread::sleep(Duration::from_millis(rng.random_range(20..800)));
        // How much must come back, less what changes until the kill.
        let mut raw = Raw::tcp(server.addr())?;
        let rest = load.rest();
        let before = (info(&mut raw, "flash_objects")?, load.changes());
        let is_roomy = device(&mut raw, "segments_free")?.parse::<u64>()? >= FREE_SEGMENTS_MIN;
        drop(rest);
        std::thread::sleep(Duration::from_millis(rng.random_range(0..60)));
        load.announce_the_end();
        server.kill();
        let changes = load.changes() - before.1;
        seen += load.stop().with_context(|| format!("before kill {run}"))?;
        drop(server);

        let begin = Instant::now();
        server = start(&dir, &flags).with_context(|| format!("after kill {run}"))?;
        slowest = slowest.max(begin.elapsed());
        let there = info(&mut Raw::tcp(server.addr())?, "flash_objects")?;
        if is_roomy {
            looks += 1;
            counted += before.0;
            back += before.0.min(there + changes);
        }
        let found = look_at_all(&server, &ledger, None).with_context(|| format!("after kill {run}"))?;
        ensure!(found.stale == 0, "kill {run}: {} keys have a version that was replaced or deleted", found.stale);
        ensure!(found.durable_lost == 0, "kill {run}: {} of {} durable are gone", found.durable_lost, found.durable);
        all += found;
        progress(run + 1);
    }
    let mut summary = Summary::default();
    summary.say("kills", plan.runs);
    summary.say("operations before them", seen.operations);
    summary.say("of them refused for want of room", seen.refused);
    summary.say("bytes proved, 0 wrong", seen.proved + all.proved);
    summary.say("durable acknowledged, none lost", format!("{} written, {} looked for", seen.durable, all.durable));
    let share = if counted == 0 { 1.0 } else { back as f64 / counted as f64 };
    summary.say("objects of flash back", format!("{back} of {counted} at {looks} kills, {:.3} %", share * 100.0));
    summary.say("slowest start", format!("{} ms", slowest.as_millis()));
    ensure!(share >= 0.999, "too few came back:\n{summary}");
    Ok(summary)
}

/// A directory, the flags of a server in it, and keys of which nothing is known.
fn fresh(plan: &Plan) -> anyhow::Result<(Arc<TempDir>, Vec<String>, Arc<Ledger>)> {
    let dir = Arc::new(TempDir::with_prefix("mooncake-kill-")?);
    let flags = flags(plan, &dir.path().join("flash.0"), FLASH, &dir.path().join("data"));
    Ok((dir, flags, Arc::new(Ledger::new("kill", KEYS))))
}
