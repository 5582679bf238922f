//! Planned restarts and kills of a server whose memory outlives it (`dram-path`), in any order, with a flash tier and without.
//!
//! What must hold: no wrong byte and nothing that was replaced or deleted, whatever came before; after a planned restart every
//! object that lay in memory is there again; after a kill, memory holds nothing. In some planned restarts a stray process
//! changes bytes of the files meanwhile, or a server uses the flash tier without this memory.

use super::ledger::Ledger;
use super::load::{Load, Seen};
use super::{Found, Plan, Summary, info, look_at_all};
use crate::dram_dir::DramDir;
use crate::raw::Raw;
use crate::server::{Mark, Server};
use anyhow::{Context as _, anyhow, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Keys; their values are some three quarters of the memory, so that most rounds evict nothing.
const KEYS: usize = 1600;
const DRAM: &str = "128 MiB";
/// Restarts after which another memory begins, with a flash tier in every other one.
const RUNS_OF_A_MEMORY: usize = 10;

/// How a life ends, and what happens until the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Planned,
    Kill,
    /// Planned, but killed before it was done.
    Hurried,
    /// Planned; then bytes of the files change.
    Scribbled,
    /// Planned; then the manifest changes, or ends early.
    Forged,
    /// Planned; then a server without this memory answers the same clients, and is killed.
    Bypassed,
}

/// Runs the campaign. `None`, with a line that says so, where there is no memory file system.
///
/// # Errors
/// With what was broken.
pub fn run(plan: &Plan, mut progress: impl FnMut(usize)) -> anyhow::Result<Option<Summary>> {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let (mut seen, mut all, mut counts) = (Seen::default(), Found::default(), Counts::default());
    let mut memory: Option<Memory> = None;
    for run in 0..plan.runs {
        if run % RUNS_OF_A_MEMORY == 0 {
            drop(memory.take());
        }
        let memory = match &mut memory {
            Some(memory) => memory,
            none => {
                let Some(made) = Memory::new(plan, run / RUNS_OF_A_MEMORY % 2 == 1)? else { return Ok(None) };
                none.insert(made)
            }
        };
        let turn = match rng.random_range(0..100) {
            0..45 => Turn::Planned,
            45..60 => Turn::Kill,
            60..70 => Turn::Hurried,
            70..82 => Turn::Scribbled,
            82..90 => Turn::Forged,
            // Without flash nobody knows of the other server: operators are told to remove the directory then.
            _ if memory.flash => Turn::Bypassed,
            _ => Turn::Planned,
        };
        let begin = if memory.flash { Load::start } else { Load::start_without_flash };
        let load = begin(memory.server.addr(), &memory.ledger, rng.random())?;
        std::thread::sleep(Duration::from_millis(rng.random_range(20..500)));
        memory.turn(turn, load, &mut rng, &mut seen, &mut counts).with_context(|| format!("{turn:?}, run {run}"))?;
        let found =
            look_at_all(&memory.server, &memory.ledger, None).with_context(|| format!("{turn:?}, run {run}"))?;
        ensure!(
            found.stale == 0,
            "{turn:?}, run {run}: {} keys have a version that was replaced or deleted",
            found.stale
        );
        all += found;
        progress(run + 1);
    }
    drop(memory);
    let mut summary = Summary::default();
    summary.say("restarts", plan.runs);
    summary.say("of them planned, undisturbed", counts.planned);
    summary.say("of them kills", counts.kills);
    summary
        .say("of them planned and killed meanwhile", format!("{}, {} of them too late", counts.hurried, counts.late));
    summary.say("of them with bytes changed in the files", counts.scribbled);
    summary.say("of them with a changed manifest", counts.forged);
    summary.say("of them with another server in between", counts.bypassed);
    summary.say("operations before them", seen.operations);
    summary.say("bytes proved, 0 wrong", seen.proved + all.proved);
    summary.say("objects in memory at planned stops, all back", counts.back);
    summary.say("of them on flash too", counts.clean);
    summary.say("objects that damage cost", counts.damaged);
    Ok(Some(summary))
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    planned: u64,
    kills: u64,
    hurried: u64,
    late: u64,
    scribbled: u64,
    forged: u64,
    bypassed: u64,
    back: u64,
    clean: u64,
    damaged: u64,
}

/// A memory, what is known of it, and the server that has it.
struct Memory {
    dir: DramDir,
    own: Arc<TempDir>,
    flash: bool,
    flags: Vec<String>,
    ledger: Arc<Ledger>,
    server: Server,
}

impl Memory {
    fn new(plan: &Plan, flash: bool) -> anyhow::Result<Option<Self>> {
        let Some(dir) = DramDir::new() else { return Ok(None) };
        let own = Arc::new(TempDir::with_prefix("mooncake-warm-")?);
        let mut flags: Vec<String> = ["--dram", DRAM].map(str::to_owned).into();
        if flash {
            let device = format!("{}:256 MiB", own.path().join("flash.0").display());
            flags.extend(["--nvme", &device, "--flash-segment-len", "8 MiB"].map(str::to_owned));
        }
        flags.extend(plan.server.iter().cloned());
        let server = start(&own, &flags, Some(&dir))?;
        Ok(Some(Self { dir, own, flash, flags, ledger: Arc::new(Ledger::new("warm", KEYS)), server }))
    }

    fn turn(
        &mut self,
        turn: Turn,
        load: Load,
        rng: &mut StdRng,
        seen: &mut Seen,
        counts: &mut Counts,
    ) -> anyhow::Result<()> {
        match turn {
            Turn::Kill => {
                load.announce_the_end();
                self.server.kill();
                *seen += load.stop()?;
                counts.kills += 1;
                self.restart()?;
                ensure!(self.taken_over()? == (0, 0), "memory was believed after a kill");
            }
            Turn::Hurried => {
                load.announce_the_end();
                self.terminate()?;
                std::thread::sleep(Duration::from_micros(rng.random_range(0..60_000)));
                self.server.kill();
                *seen += load.stop()?;
                counts.hurried += 1;
                let is_left = self.dir.manifest().exists();
                counts.late += u64::from(is_left);
                self.restart()?;
                let (objects, damaged) = self.taken_over()?;
                ensure!(damaged == 0, "{damaged} objects were left damaged");
                ensure!(is_left || objects == 0, "memory was believed without a manifest");
            }
            Turn::Planned | Turn::Scribbled | Turn::Forged | Turn::Bypassed => {
                let in_memory = self.stop(load, seen)?;
                if turn == Turn::Bypassed {
                    self.bypass(rng, seen)?;
                    counts.bypassed += 1;
                    self.restart()?;
                    ensure!(self.taken_over()? == (0, 0), "memory was believed that another server had made stale");
                    return Ok(());
                }
                match turn {
                    Turn::Scribbled => self.scribble(rng)?,
                    Turn::Forged => self.forge(rng)?,
                    _ => {}
                }
                self.restart()?;
                let (objects, damaged) = self.taken_over()?;
                match turn {
                    Turn::Forged => {
                        counts.forged += 1;
                        ensure!((objects, damaged) == (0, 0), "a changed manifest was believed");
                    }
                    Turn::Scribbled => {
                        counts.scribbled += 1;
                        counts.damaged += damaged;
                        ensure!(objects + damaged == in_memory, "{objects} and {damaged} of {in_memory} objects");
                    }
                    _ => {
                        counts.planned += 1;
                        counts.back += objects;
                        counts.clean += info(&mut Raw::tcp(self.server.addr())?, "memory_taken_over_clean")?;
                        ensure!(
                            (objects, damaged) == (in_memory, 0),
                            "{objects} of {in_memory} objects, {damaged} damaged"
                        );
                    }
                }
            }
        }
        Ok(())
    }

    /// Stops the server as planned. Returns how many objects lay in its memory.
    fn stop(&mut self, load: Load, seen: &mut Seen) -> anyhow::Result<u64> {
        *seen += load.stop()?;
        let mut raw = Raw::tcp(self.server.addr())?;
        let count = objects_in_memory(&mut raw)?;
        self.terminate()?;
        ensure!(self.server.wait().success(), "it ended badly:\n{}", self.server.log());
        ensure!(self.dir.manifest().exists(), "no manifest was left:\n{}", self.server.log());
        Ok(count)
    }

    fn terminate(&self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.server.pid()).ok().and_then(rustix::process::Pid::from_raw).context("a pid")?;
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::TERM)?)
    }

    fn restart(&mut self) -> anyhow::Result<()> {
        self.server = start(&self.own, &self.flags, Some(&self.dir))?;
        Ok(())
    }

    /// Objects taken over, and those found damaged.
    fn taken_over(&self) -> anyhow::Result<(u64, u64)> {
        let mut raw = Raw::tcp(self.server.addr())?;
        Ok((info(&mut raw, "memory_taken_over_objects")?, info(&mut raw, "memory_taken_over_damaged")?))
    }

    /// A server that shares the flash tier and not the memory, under load, then killed.
    fn bypass(&mut self, rng: &mut StdRng, seen: &mut Seen) -> anyhow::Result<()> {
        self.server = start(&self.own, &self.flags, None)?;
        let load = Load::start(self.server.addr(), &self.ledger, rng.random())?;
        std::thread::sleep(Duration::from_millis(rng.random_range(20..300)));
        load.announce_the_end();
        self.server.kill();
        *seen += load.stop()?;
        Ok(())
    }

    /// Changes bytes here and there, some of them of payloads, some of what surrounds them.
    fn scribble(&self, rng: &mut StdRng) -> anyhow::Result<()> {
        for path in self.dir.segments() {
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            let len = file.metadata()?.len();
            for _ in 0..rng.random_range(1..40) {
                flip(&file, rng.random_range(0..len), rng)?;
            }
        }
        Ok(())
    }

    fn forge(&self, rng: &mut StdRng) -> anyhow::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(self.dir.manifest())?;
        // What it says ends before the file does: a page at least of header and records is sure.
        let len = file.metadata()?.len();
        if rng.random() {
            return Ok(file.set_len(rng.random_range(0..len - 4096))?);
        }
        flip(&file, rng.random_range(0..len - 4096), rng)
    }
}

/// As `INFO` counts them.
fn objects_in_memory(raw: &mut Raw) -> anyhow::Result<u64> {
    let info = raw.try_ask(&["INFO", "tiers"])?;
    let line = info.text().lines().find(|line| line.starts_with("tier_dram:")).context("memory in INFO")?;
    let count = line.split(',').find_map(|field| field.strip_prefix("objects=")).context("objects in INFO")?;
    Ok(count.parse()?)
}

fn flip(file: &File, at: u64, rng: &mut StdRng) -> anyhow::Result<()> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    byte[0] ^= 1 << rng.random_range(0..8);
    Ok(file.write_all_at(&byte, at)?)
}

fn start(own: &Arc<TempDir>, flags: &[String], dir: Option<&DramDir>) -> anyhow::Result<Server> {
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    if let Some(dir) = dir {
        flags.extend(["--dram-path", dir.flag()]);
    }
    Server::try_start(Arc::clone(own), &flags, Mark::Ready).map_err(|log| anyhow!("the server does not start:\n{log}"))
}
