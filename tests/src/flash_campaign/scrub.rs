//! A scrub that was asked for, and so goes as fast as it can beside requests: readers must hardly notice.
//!
//! Reads with and without a scrub take turns, so that whatever else the machine does falls on both.

use super::slow::{self, p99};
use super::{Plan, Summary, flags, info, start, until};
use crate::payload;
use crate::raw::{Raw, Value};
use crate::server::Server;
use anyhow::{bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const FLASH: &str = "256 MiB";
/// Objects that lie on flash, most of them there alone, and how long they are.
const COLD: usize = 700;
const COLD_LEN: usize = 256 << 10;
/// Reads of which a tail is taken.
const SAMPLES: usize = 1000;
/// How much longer a tail may be beside a scrub.
const RATIO_MAX: f64 = 2.0;
/// Comparisons whose median means something.
const RUNS_MIN: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);

/// What readers met: the tail from DRAM, that from flash.
type Tails = [Duration; 2];

/// Runs the campaign; a run is one comparison. `progress` hears of each.
///
/// # Errors
/// With what was broken: wrong bytes, rot where there is none, or a median above the bar.
pub fn run(plan: &Plan, mut progress: impl FnMut(usize)) -> anyhow::Result<Summary> {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let dir = Arc::new(TempDir::with_prefix("mooncake-scrub-")?);
    let server = start(&dir, &flags(plan, &dir.path().join("flash.0"), FLASH, &dir.path().join("data")))?;
    let mut raw = Raw::tcp(server.addr())?;
    for number in 0..COLD {
        let key = key(number);
        until("there is room", PATIENCE, || {
            let answer = raw.try_ask(&[b"SET", key.as_bytes(), &payload::make(key.as_bytes(), 1, COLD_LEN)])?;
            Ok(matches!(answer, Value::Simple(_)))
        })?;
    }
    until("most lies on flash alone", PATIENCE, || Ok(info(&mut raw, "flash_only_objects")? > COLD as u64 / 2))?;
    let mut rows: Vec<[Tails; 2]> = Vec::new();
    let scrubbed = |raw: &mut Raw| super::device(raw, "scrub_bytes")?.parse::<u64>().map_err(anyhow::Error::from);
    let mut bytes = 0;
    for run in 0..plan.runs {
        let mut under = [Tails::default(); 2];
        for turn in (0..2).map(|turn| (turn + run) % 2) {
            let before = scrubbed(&mut raw)?;
            under[turn] = if turn == 0 {
                tails(&server, &mut rng)?
            } else {
                beside_scrubs(&server, || tails(&server, &mut rng))?
            };
            let read = scrubbed(&mut raw)? - before;
            ensure!(turn == 0 || read > 0, "run {run}: no scrub was under way");
            bytes += if turn == 1 { read } else { 0 };
        }
        rows.push(under);
        progress(run + 1);
    }
    let median = |pick: &dyn Fn(&[Tails; 2]) -> f64| {
        let mut figures: Vec<f64> = rows.iter().map(pick).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().unwrap_or_default()
    };
    let mut summary = Summary::default();
    summary.say("comparisons", plan.runs);
    summary.say("bytes scrubbed beside them", bytes);
    let mut ratios = [0.0; 2];
    for (at, of) in ["DRAM", "flash"].into_iter().enumerate() {
        let micros = |turn: usize| format!("{:.0} µs", median(&|row| row[turn][at].as_secs_f64() * 1e6));
        ratios[at] = median(&|row| row[1][at].as_secs_f64() / row[0][at].as_secs_f64());
        summary.say(&format!("p99 of GET from {of}"), micros(0));
        summary.say("  beside a scrub", format!("{}, {:.2} times that", micros(1), ratios[at]));
    }
    summary.say("rotten records", super::device(&mut raw, "scrub_rotten")?);
    ensure!(super::device(&mut raw, "scrub_rotten")? == "0", "rot was found where there is none:\n{summary}");
    let worst = ratios.into_iter().fold(0.0, f64::max);
    ensure!(plan.runs < RUNS_MIN || worst <= RATIO_MAX, "readers notice the scrub:\n{summary}");
    Ok(summary)
}

fn key(number: usize) -> String {
    format!("cold:{number}")
}

/// Does something while scrubs follow one another.
fn beside_scrubs<T>(server: &Server, act: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| -> anyhow::Result<()> {
            let mut raw = Raw::tcp(server.addr())?;
            while !done.load(Ordering::Relaxed) {
                // Asked for while one runs, it begins from the start: only one that is over is asked for again.
                if super::device(&mut raw, "scrub_percent")? == "-1" {
                    raw.try_ask(&["TIER", "SCRUB"])?;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        });
        let acted = act();
        done.store(true, Ordering::Relaxed);
        asking.join().map_err(|_| anyhow::anyhow!("who asks for scrubs panicked"))??;
        acted
    })
}

fn tails(server: &Server, rng: &mut StdRng) -> anyhow::Result<Tails> {
    let in_dram = slow::tail(server)?;
    let mut raw = Raw::tcp(server.addr())?;
    // What is read stays where it is.
    raw.try_ask(&["CLIENT", "NO-TOUCH", "ON"])?;
    let mut times = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES * 20 {
        if times.len() == SAMPLES {
            break;
        }
        let key = key(rng.random_range(0..COLD));
        let stat = raw.try_ask(&["STAT", &key])?;
        let in_dram = |stat: &Value| stat.field("replicas").items().iter().any(|at| at.field("tier").text() == "dram");
        if stat == Value::Nil || in_dram(&stat) {
            continue;
        }
        let begin = Instant::now();
        let answer = raw.try_ask(&["GET", &key])?;
        times.push(begin.elapsed());
        match answer {
            Value::Bulk(bytes) => {
                payload::check(key.as_bytes(), &bytes).map_err(|wrong| anyhow::anyhow!("WRONG BYTES: {wrong}"))?;
            }
            Value::Nil => {}
            other => bail!("GET answered {other:?}"),
        }
    }
    ensure!(times.len() == SAMPLES, "hardly anything lies on flash alone");
    Ok([in_dram, p99(times)])
}
