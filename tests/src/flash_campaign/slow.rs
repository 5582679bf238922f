//! A device of 10 MB/s under a load that wants a hundred times that: who reads from DRAM must not notice.
//!
//! Reads are compared with those beside the same load on a server whose DRAM holds all of it, so that the two differ by the
//! device alone and not by the CPU that the load takes.

use super::faulty::FaultyFile;
use super::load::Load;
use super::{DRAM, Ledger, Plan, Summary, device, flags, info, start};
use crate::payload;
use crate::raw::{Raw, Value};
use crate::server::Server;
use anyhow::{Context as _, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::flash::engine::SimDisk;
use tempfile::TempDir;

const KEYS: usize = 3000;
const FLASH: &str = "128 MiB";
const FLASH_LEN: u64 = 128 << 20;
/// Bytes a second of the slow device.
const SLOW: u64 = 10_000_000;
/// Objects that are read from DRAM, and how long they are.
const HOT: usize = 64;
const HOT_LEN: usize = 16 << 10;
/// Reads of which a tail is taken.
const SAMPLES: usize = 4000;
/// Memory that all objects of the load fit into, without one being spilled that need not be.
const ROOMY: &str = "768 MiB";
/// How much longer the tail may be than beside the same load in DRAM alone.
const RATIO_MAX: f64 = 2.0;
/// Comparisons whose median means something.
const RUNS_MIN: usize = 5;

/// Runs the campaign; a run is one comparison. `None`, with a line that says so, where one may not mount.
///
/// # Errors
/// With what was broken: wrong bytes, a server that ends, or the median of all comparisons above the bar.
pub fn run(plan: &Plan, mut progress: impl FnMut(usize)) -> anyhow::Result<Option<Summary>> {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let dir = Arc::new(TempDir::with_prefix("mooncake-slow-")?);
    let disk = SimDisk::new(rng.random(), FLASH_LEN);
    let Some(file) = FaultyFile::mount(dir.path(), &disk)? else { return Ok(None) };
    let flags = flags(plan, file.path(), FLASH, &dir.path().join("data"));
    let server = start(&dir, &flags)?;
    let ledger = Arc::new(Ledger::new("slow", KEYS));
    let roomy_dir = Arc::new(TempDir::with_prefix("mooncake-slow-")?);
    let roomy = super::flags(plan, &roomy_dir.path().join("flash.0"), FLASH, &roomy_dir.path().join("data"));
    let roomy: Vec<String> = roomy.into_iter().map(|flag| if flag == DRAM { ROOMY.to_owned() } else { flag }).collect();
    let roomy = start(&roomy_dir, &roomy)?;
    let roomy_ledger = Arc::new(Ledger::new("slow", KEYS));
    let mut rows = Vec::new();
    let mut refused = 0;
    for run in 0..plan.runs {
        let idle = tail(&server)?;
        let mut under = [Duration::ZERO; 3];
        // The same load in DRAM alone, with a fast device, and with a slow one, each first in its turn.
        for turn in (0..3).map(|turn| (turn + run) % 3) {
            let (server, ledger) = if turn == 0 { (&roomy, &roomy_ledger) } else { (&server, &ledger) };
            file.manner().set_rate(if turn == 2 { SLOW } else { 0 });
            let load = Load::start(server.addr(), ledger, rng.random())?;
            std::thread::sleep(Duration::from_millis(300));
            under[turn] = tail(server).with_context(|| format!("run {run}"))?;
            refused += load.stop().with_context(|| format!("run {run}"))?.refused;
        }
        file.manner().set_rate(0);
        rows.push([idle, under[0], under[1], under[2]]);
        progress(run + 1);
    }
    let mut raw = Raw::tcp(server.addr())?;
    let median = |pick: &dyn Fn(&[Duration; 4]) -> f64| {
        let mut figures: Vec<f64> = rows.iter().map(pick).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().unwrap_or_default()
    };
    let micros = |at: usize| format!("{:.0} µs", median(&|row| row[at].as_secs_f64() * 1e6));
    let ratio = median(&|row| row[3].as_secs_f64() / row[1].as_secs_f64());
    let mut summary = Summary::default();
    summary.say("comparisons", plan.runs);
    summary.say("p99 of GET from DRAM, idle", micros(0));
    summary.say("  under load in DRAM alone", micros(1));
    summary.say("  under load, device fast", micros(2));
    summary.say("  under load, device of 10 MB/s", micros(3));
    summary.say("  the last by that in DRAM alone", format!("{ratio:.2}"));
    summary.say("operations refused for want of room", refused);
    summary.say("reads given up because they took long", info(&mut raw, "flash_timeouts")?);
    summary.say("the device at the end", device(&mut raw, "state")?);
    ensure!(plan.runs < RUNS_MIN || ratio <= RATIO_MAX, "reads from DRAM notice the slow device:\n{summary}");
    Ok(Some(summary))
}

/// p99 of reads of objects that are hot, and so in DRAM.
pub(super) fn tail(server: &Server) -> anyhow::Result<Duration> {
    let mut raw = Raw::tcp(server.addr())?;
    let key = |number: usize| format!("hot:{number}");
    for number in 0..HOT {
        let value = payload::make(key(number).as_bytes(), 1, HOT_LEN);
        match raw.try_ask(&[b"SET", key(number).as_bytes(), &value])? {
            Value::Simple(_) => {}
            other => bail!("SET answered {other:?}"),
        }
    }
    let mut times = Vec::with_capacity(SAMPLES);
    for sample in 0..SAMPLES {
        let key = key(sample % HOT);
        let begin = Instant::now();
        let answer = raw.try_ask(&["GET", &key])?;
        times.push(begin.elapsed());
        match answer {
            Value::Bulk(bytes) => {
                payload::check(key.as_bytes(), &bytes).map_err(|wrong| anyhow::anyhow!("WRONG BYTES: {wrong}"))?;
            }
            Value::Nil => {
                // Evicted after all.
                raw.try_ask(&[b"SET", key.as_bytes(), &payload::make(key.as_bytes(), 1, HOT_LEN)])?;
            }
            other => bail!("GET answered {other:?}"),
        }
    }
    Ok(p99(times))
}

pub(super) fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() * 99 / 100).copied().unwrap_or_default()
}
