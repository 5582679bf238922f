//! A device that loses, tears and misdirects writes, flips bits, ends transfers early, and fails: below the server's
//! io_uring, where no preloaded library reaches.
//!
//! The device is a file of a FUSE file system whose bytes lie on a simulated disk ([`SimDisk`]), with its seeded faults. This
//! process is the file system; the server is another one, as always.

mod fs;

use super::load::{Load, Seen};
use super::{Found, Ledger, Plan, Summary, device, flags, look_at_all, start, until};
use crate::raw::Raw;
use anyhow::{Context as _, ensure};
pub use fs::{FaultyFile, Manner};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::Arc;
use std::time::Duration;
use storage::flash::engine::{Faults, Injected, SimDisk};
use tempfile::TempDir;

const KEYS: usize = 800;
const FLASH: &str = "128 MiB";
const FLASH_LEN: u64 = 128 << 20;
/// A tier that is off is probed every 5 s.
const RECOVERY: Duration = Duration::from_secs(30);

/// A kind of bad disk.
pub(super) fn draw(rng: &mut StdRng) -> (&'static str, Faults) {
    let none = Faults::default();
    match rng.random_range(0..7) {
        0 => ("lost writes", Faults { lost: 0.2, ..none }),
        1 => ("torn writes", Faults { torn: 0.2, ..none }),
        2 => ("misdirected writes", Faults { misdirected: 0.1, ..none }),
        3 => ("flipped bits", Faults { flipped: 0.2, ..none }),
        4 => ("short transfers", Faults { short: 0.05, ..none }),
        5 => ("errors", Faults { read_error: 0.05, write_error: 0.05, sync_error: 0.05, ..none }),
        _ => {
            let lies = Faults { lost: 0.02, torn: 0.02, misdirected: 0.02, flipped: 0.02, ..none };
            let errors = Faults { short: 0.01, read_error: 0.01, write_error: 0.01, sync_error: 0.01, ..lies };
            ("all at once", Faults { slow: 0.05, delay: Duration::from_millis(20), ..errors })
        }
    }
}

/// Runs the campaign; a run is a load on one kind of bad disk, a kill, and a recovery. `None`, with a line that says so,
/// where one may not mount.
///
/// # Errors
/// With what was broken.
pub fn run(plan: &Plan, mut progress: impl FnMut(usize)) -> anyhow::Result<Option<Summary>> {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let dir = Arc::new(TempDir::with_prefix("mooncake-faulty-")?);
    let disk = SimDisk::new(rng.random(), FLASH_LEN);
    let Some(file) = FaultyFile::mount(dir.path(), &disk)? else { return Ok(None) };
    let flags = flags(plan, file.path(), FLASH, &dir.path().join("data"));
    let ledger = Arc::new(Ledger::new("faulty", KEYS));
    let mut server = start(&dir, &flags)?;
    let (mut seen, mut all) = (Seen::default(), Found::default());
    let (mut mismatches, mut offs, mut slowest) = (0, 0, Duration::ZERO);
    for run in 0..plan.runs {
        let (name, faults) = draw(&mut rng);
        let load = Load::start_on_bad_flash(server.addr(), &ledger, rng.random())?;
        std::thread::sleep(Duration::from_millis(100));
        disk.set_faults(faults);
        file.manner().set_short(if faults.short > 0.0 { 10 } else { 0 });
        std::thread::sleep(Duration::from_millis(rng.random_range(300..1200)));
        // With the faults, and then without: what was lost may be found only now.
        let what = || format!("run {run}, {name}");
        let mut raw = Raw::tcp(server.addr()).with_context(what)?;
        mismatches += device(&mut raw, "mismatches")?.parse::<u64>()?;
        offs += u64::from(device(&mut raw, "state")? != "online");
        disk.set_faults(Faults::default());
        file.manner().set_short(0);
        let took = until("the device is taken back", RECOVERY, || Ok(device(&mut raw, "state")? == "online"));
        slowest = slowest.max(took.with_context(what)?);
        if rng.random() {
            load.announce_the_end();
            server.kill();
            seen += load.stop().with_context(what)?;
            drop(server);
            server = start(&dir, &flags).with_context(what)?;
        } else {
            seen += load.stop().with_context(what)?;
        }
        let found = look_at_all(&server, &ledger, None).with_context(what)?;
        ensure!(found.stale == 0, "{}: {} keys have a version that was replaced or deleted", what(), found.stale);
        all += found;
        progress(run + 1);
    }
    server.kill();
    drop(server);
    let Injected { lies, flips, errors, slow } = disk.injected();
    let mut summary = Summary::default();
    summary.say("loads on a bad disk", plan.runs);
    summary.say("writes lost, torn or misdirected", lies);
    summary.say("bits flipped", flips);
    summary.say("transfers and syncs that failed", errors);
    summary.say("transfers that were slow", slow);
    summary.say("operations meanwhile", seen.operations);
    summary.say("bytes proved, 0 wrong", seen.proved + all.proved);
    summary.say("objects found afterwards", all.there);
    summary.say("reads that did not verify", mismatches);
    summary.say("times the device was off at the end", offs);
    summary.say("longest until it was taken back", format!("{} ms", slowest.as_millis()));
    Ok(Some(summary))
}
