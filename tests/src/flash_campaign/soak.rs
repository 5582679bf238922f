//! A long time of mixed load on one server, with trouble of many kinds: what it holds at rest must not grow.
//!
//! Each round is a load, something that goes wrong during it, and a rest, at which resident memory, descriptors and reserved
//! bytes are taken down. Once it is warm, those of the last quarter are compared with those of the first and of the third.

use super::faulty::{FaultyFile, draw};
use super::load::{Load, Seen};
use super::{Found, Ledger, Plan, Summary, device, flags, info, look_at_all, start, until};
use crate::payload;
use crate::raw::{Raw, Value};
use crate::server::Server;
use anyhow::{Context as _, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::flash::engine::{Faults, SimDisk};
use tempfile::TempDir;

const KEYS: usize = 800;
const FLASH: &str = "128 MiB";
const FLASH_LEN: u64 = 128 << 20;
/// Bytes a second of the device while it is slow.
const SLOW: u64 = 10_000_000;
/// Time within which trouble has passed. A device that is off is probed every 5 s.
const RECOVERY: Duration = Duration::from_secs(30);
/// Rounds after which everything has been used once; shorter runs compare nothing.
const WARM: usize = 12;
/// Rounds between two looks at every key.
const LOOK_EVERY: usize = 8;
/// Memory of the process itself, segments of DRAM apart, that may come and go.
const MEMORY_SLACK: u64 = 16 << 20;
/// The same, from the third quarter to the last, when everything has settled.
const MEMORY_SLACK_LATE: u64 = 4 << 20;
/// Descriptors that may come and go: a worker's few.
const DESCRIPTORS_SLACK: u64 = 8;

/// What goes wrong in a round.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// The device lies, or fails.
    Disk,
    /// The device is slow.
    Slow,
    /// Clients go in the midst of what they do.
    Clients,
    /// A device comes and goes.
    Devices,
    /// Nothing does.
    None,
}

const TROUBLES: [Trouble; 5] = [Trouble::Disk, Trouble::Slow, Trouble::Clients, Trouble::Devices, Trouble::None];

/// What the server holds at rest.
#[derive(Clone, Copy, Debug)]
struct Rest {
    memory: u64,
    descriptors: u64,
    threads: u64,
}

/// Runs the campaign for `length`, or for `plan.runs` rounds; `progress` hears of each. `None`, with a line that says so,
/// where one may not mount.
///
/// # Errors
/// With what was broken.
pub fn run(plan: &Plan, length: Option<Duration>, mut progress: impl FnMut(usize)) -> anyhow::Result<Option<Summary>> {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let dir = Arc::new(TempDir::with_prefix("mooncake-soak-")?);
    let disk = SimDisk::new(rng.random(), FLASH_LEN);
    let Some(file) = FaultyFile::mount(dir.path(), &disk)? else { return Ok(None) };
    let mut server = start(&dir, &flags(plan, file.path(), FLASH, &dir.path().join("data")))?;
    let ledger = Arc::new(Ledger::new("soak", KEYS));
    let (mut seen, mut all) = (Seen::default(), Found::default());
    let mut rests: Vec<Rest> = Vec::new();
    let begin = Instant::now();
    while length.map_or(rests.len() < plan.runs, |length| begin.elapsed() < length) {
        let round = rests.len();
        let trouble = TROUBLES[round % TROUBLES.len()];
        let what = || format!("round {round}, {trouble:?}");
        let load = Load::start_on_bad_flash(server.addr(), &ledger, rng.random())?;
        std::thread::sleep(Duration::from_millis(200));
        make(trouble, &mut rng, &disk, &file, &server).with_context(what)?;
        std::thread::sleep(Duration::from_millis(rng.random_range(500..1500)));
        seen += load.stop().with_context(what)?;
        rests.push(rest(&server).with_context(what)?);
        if round % LOOK_EVERY == LOOK_EVERY - 1 {
            ledger.forget_durable();
            let found = look_at_all(&server, &ledger, None).with_context(what)?;
            ensure!(found.stale == 0, "{}: {} keys have a version that was replaced or deleted", what(), found.stale);
            all += found;
        }
        progress(rests.len());
    }
    let summary = judge(&rests, begin.elapsed(), seen.operations, seen.proved + all.proved)?;
    server.kill();
    drop(server);
    Ok(Some(summary))
}

/// A figure: its name, where it is, by how much it may differ from the first quarter to the last, and from the third.
type Pick = (&'static str, fn(&Rest) -> u64, u64, u64);

const PICKS: [Pick; 3] = [
    ("resident memory beside DRAM", |rest| rest.memory, MEMORY_SLACK, MEMORY_SLACK_LATE),
    ("descriptors", |rest| rest.descriptors, DESCRIPTORS_SLACK, DESCRIPTORS_SLACK),
    ("threads", |rest| rest.threads, DESCRIPTORS_SLACK, DESCRIPTORS_SLACK),
];

/// Medians of a figure over the quarters of the time after warming up.
fn quarters(rests: &[Rest], pick: fn(&Rest) -> u64) -> [u64; 4] {
    let warm = rests.get(WARM..).unwrap_or_default();
    let len = warm.len() / 4;
    std::array::from_fn(|quarter| {
        let mut figures: Vec<u64> = warm[quarter * len..(quarter + 1) * len].iter().map(pick).collect();
        figures.sort_unstable();
        figures.get(len / 2).copied().unwrap_or_default()
    })
}

/// What grew, if anything did: what settles by and by differs between the first quarters, what leaks between the last ones too.
fn growth(rests: &[Rest]) -> Option<&'static str> {
    let grows = |&&(_, pick, slack, slack_late): &&Pick| {
        let [first, _, third, last] = quarters(rests, pick);
        last > first + slack || last > third + slack_late
    };
    PICKS.iter().find(grows).map(|(what, ..)| *what)
}

/// Compares the ends.
fn judge(rests: &[Rest], took: Duration, operations: u64, proved: u64) -> anyhow::Result<Summary> {
    let mut summary = Summary::default();
    summary.say("rounds", format!("{} in {:.0} s", rests.len(), took.as_secs_f64()));
    summary.say("operations", operations);
    summary.say("bytes proved, 0 wrong", proved);
    summary.say("reserved bytes, leases, grants at each rest", 0);
    for (what, pick, ..) in PICKS {
        let [first, second, third, last] = quarters(rests, pick);
        let most = rests.iter().map(pick).max().unwrap_or_default();
        summary.say(what, format!("{first}, {second}, {third}, {last} by quarters, at most {most}"));
    }
    if let Some(what) = growth(rests) {
        bail!("{what} grow:\n{summary}");
    }
    Ok(summary)
}

fn make(trouble: Trouble, rng: &mut StdRng, disk: &SimDisk, file: &FaultyFile, server: &Server) -> anyhow::Result<()> {
    let mut raw = Raw::tcp(server.addr())?;
    let pause = Duration::from_millis(rng.random_range(300..1500));
    match trouble {
        Trouble::Disk => {
            let (_, faults) = draw(rng);
            disk.set_faults(faults);
            file.manner().set_short(if faults.short > 0.0 { 10 } else { 0 });
            std::thread::sleep(pause);
            disk.set_faults(Faults::default());
            file.manner().set_short(0);
            until("the device is taken back", RECOVERY, || Ok(device(&mut raw, "state")? == "online"))?;
        }
        Trouble::Slow => {
            file.manner().set_rate(SLOW);
            std::thread::sleep(pause);
            file.manner().set_rate(0);
        }
        Trouble::Clients => {
            for number in 0..rng.random_range(4..24) {
                vanish(server.addr(), number, rng)?;
            }
        }
        Trouble::Devices => {
            let path = server.dir().join("second");
            let attached = attach(&mut raw, &path)?;
            std::thread::sleep(pause);
            let drain: &[&str] = if rng.random() { &[] } else { &["NODRAIN"] };
            let mut answer = raw.try_ask(&[&["TIER", "DETACH", &attached], drain].concat())?;
            if answer.is_error("BUSY") {
                // The other device takes nothing.
                answer = raw.try_ask(&["TIER", "DETACH", &attached, "NODRAIN"])?;
            }
            ensure!(!matches!(answer, Value::Error(_)), "TIER DETACH answers {answer:?}");
            std::fs::remove_file(&path)?;
        }
        Trouble::None => {}
    }
    Ok(())
}

fn attach(raw: &mut Raw, path: &Path) -> anyhow::Result<String> {
    let answer = raw.try_ask(&["TIER", "ATTACH", &path.display().to_string(), "64MiB"])?;
    ensure!(!matches!(answer, Value::Error(_)), "TIER ATTACH answers {answer:?}");
    Ok(answer.field("name").text().to_owned())
}

/// A client that goes with something half done: a value, a grant, a lease.
fn vanish(addr: SocketAddr, number: usize, rng: &mut StdRng) -> anyhow::Result<()> {
    let mut raw = Raw::tcp(addr)?;
    let key = format!("gone:{}", number % 4);
    let value = payload::make(key.as_bytes(), 1, rng.random_range(10_000..2_000_000));
    match number % 3 {
        0 => {
            let head = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n", key.len(), value.len());
            raw.send(head.as_bytes())?;
            raw.send(&value[..value.len() / 2])?;
        }
        1 => {
            // Refused or not, nothing is to be left of it.
            raw.try_ask(&["ATTACH", "TCP"])?;
            raw.try_ask(&["PUT", &key, "LEN", &value.len().to_string(), "REPLACE"])?;
        }
        _ => {
            raw.try_ask(&["ATTACH", "TCP"])?;
            raw.try_ask(&[b"SET", key.as_bytes(), &value])?;
            raw.try_ask(&["LEASE", &key, "30000"])?;
        }
    }
    Ok(())
}

/// Waits until the server is at rest, and says what it holds then.
fn rest(server: &Server) -> anyhow::Result<Rest> {
    let mut raw = Raw::tcp(server.addr())?;
    let mut held = Vec::new();
    let rested = until("the server comes to rest", RECOVERY, || {
        held.clear();
        for name in ["bytes_reserved", "bytes_sealing", "bytes_doomed", "bytes_quarantine", "leases", "grants"] {
            held.push((name, info(&mut raw, name)?));
        }
        // This one is connected itself.
        held.push(("connected_clients", info(&mut raw, "connected_clients")? - 1));
        held.push(("queue", device(&mut raw, "queue")?.parse()?));
        held.retain(|&(_, figure)| figure > 0);
        Ok(held.is_empty())
    });
    let tiers = raw.try_ask(&["INFO", "tiers"])?;
    rested.with_context(|| format!("it holds {held:?}; {}; its log:\n{}", tiers.text(), server.log()))?;
    let own = |line: &str| -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
        let found = status.lines().find_map(|found| found.strip_prefix(line)?.split_whitespace().next());
        found.with_context(|| format!("{line} of the server's process"))?.parse().context("a figure of a process")
    };
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", server.pid()))?.count() as u64;
    Ok(Rest { memory: own("RssAnon:")? << 10, descriptors, threads: own("Threads:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUNDS: u64 = 1_400;

    /// An hour of rests, each as `of` says of its round.
    fn hour(of: impl Fn(u64) -> Rest) -> Vec<Rest> {
        (0..ROUNDS).map(of).collect()
    }

    fn with_memory(mib: u64) -> Rest {
        Rest { memory: mib << 20, descriptors: 41, threads: 18 }
    }

    #[test]
    fn what_settles_does_not_grow_and_what_leaks_does() {
        let check = |grows: Option<&str>, of: &dyn Fn(u64) -> Rest| assert_eq!(growth(&hour(of)), grows);
        check(None, &|_| with_memory(50));
        // It warms up, and has peaks.
        check(None, &|round| with_memory(60 - 1_400 / (round + 100) + if round % 9 == 0 { 20 } else { 0 }));
        let memory = Some("resident memory beside DRAM");
        check(memory, &|round| with_memory(50 + 20 * round / ROUNDS));
        check(memory, &|round| with_memory(if round < ROUNDS / 4 * 3 { 50 } else { 56 }));
        check(memory, &|round| with_memory(if round < ROUNDS / 3 { 50 } else { 70 }));
        check(Some("descriptors"), &|round| Rest { descriptors: 41 + 30 * round / ROUNDS, ..with_memory(50) });
        check(Some("threads"), &|round| Rest { threads: 18 + 30 * round / ROUNDS, ..with_memory(50) });
    }

    #[test]
    fn a_run_too_short_to_compare_compares_nothing() {
        assert_eq!(growth(&hour(|round| with_memory(50 + round))[..WARM + 3]), None);
    }
}
