//! Bits that flip in the device's superblock, headers, footers and payloads, in the journal and in the metadata, between
//! two starts; and in the device while it is read.

use super::load::{Load, Seen};
use super::{Found, Ledger, Plan, Summary, device, flags, look_at_all, start};
use crate::raw::Raw;
use anyhow::{Context as _, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const KEYS: usize = 1200;
const FLASH: &str = "256 MiB";
const SEGMENT_LEN: u64 = 8 << 20;
/// Where the first segment begins.
const SEGMENTS_AT: u64 = 1 << 20;
/// Flips between two looks.
const AT_ONCE: usize = 50;
/// Rounds that begin with an empty tier: what rotted is dropped, and with time little would be left to rot.
const ROUNDS_OF_A_TIER: usize = 10;

/// Where bits flip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Where {
    Superblock,
    Header,
    Footer,
    Segment,
    Journal,
    Metadata,
}

/// A bit that was flipped.
struct Flip {
    path: PathBuf,
    at: u64,
    bit: u8,
}

impl Flip {
    fn flip(&self) -> anyhow::Result<()> {
        let file = File::options().read(true).write(true).open(&self.path)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, self.at)?;
        file.write_all_at(&[byte[0] ^ 1 << self.bit], self.at)?;
        // The device is read past the page cache.
        Ok(file.sync_data()?)
    }
}

/// Runs the campaign; a run is one flipped bit. `progress` hears how many bits were flipped.
///
/// # Errors
/// With what was broken.
pub fn run(plan: &Plan, mut progress: impl FnMut(usize)) -> anyhow::Result<Summary> {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let (mut seen, mut all) = (Seen::default(), Found::default());
    let mut counts: BTreeMap<Where, usize> = BTreeMap::new();
    let (mut done, mut refused, mut mismatches, mut stale) = (0, 0, 0, 0);
    while done < plan.runs {
        let dir = Arc::new(TempDir::with_prefix("mooncake-rot-")?);
        let (disk, data) = (dir.path().join("flash.0"), dir.path().join("data"));
        let flags = flags(plan, &disk, FLASH, &data);
        let ledger = Arc::new(Ledger::new("rot", KEYS));
        let mut server = start(&dir, &flags)?;
        // Without its tombstones the dead may come back.
        let mut journal_rots = false;
        for round in 0..ROUNDS_OF_A_TIER {
            if done >= plan.runs {
                break;
            }
            let load = Load::start(server.addr(), &ledger, rng.random())?;
            std::thread::sleep(Duration::from_millis(rng.random_range(200..700)));
            let is_live = round % 3 == 2;
            if is_live {
                seen += load.stop().with_context(|| format!("after {done} flips"))?;
            } else {
                load.announce_the_end();
                end(&mut server, rng.random())?;
                seen += load.stop().with_context(|| format!("after {done} flips"))?;
            }
            let mut flips = Vec::new();
            for _ in 0..AT_ONCE.min(plan.runs - done) {
                let Some((kind, flip)) = choose(&mut rng, &disk, &data, is_live)? else { continue };
                // One of its two copies at a time: no device survives the loss of both.
                if kind == Where::Superblock && flips.iter().any(|(kind, _)| *kind == Where::Superblock) {
                    continue;
                }
                flip.flip().with_context(|| format!("{kind:?}"))?;
                *counts.entry(kind).or_default() += 1;
                journal_rots |= kind == Where::Journal;
                flips.push((kind, flip));
                done += 1;
            }
            if !is_live {
                drop(server);
                server = match start(&dir, &flags) {
                    Ok(server) => server,
                    Err(error) => {
                        let log = error.to_string();
                        ensure!(!log.contains("panicked"), "after {done} flips: {log}");
                        ensure!(log.contains("ERROR"), "after {done} flips it ends without a word: {log}");
                        refused += 1;
                        for (_, flip) in &flips {
                            flip.flip()?;
                        }
                        start(&dir, &flags).with_context(|| format!("after {done} flips, all of them undone"))?
                    }
                };
            }
            let found = look_at_all(&server, &ledger, None).with_context(|| format!("after {done} flips"))?;
            let mut raw = Raw::tcp(server.addr())?;
            ensure!(
                found.stale == 0 || journal_rots,
                "after {done} flips, none in the journal: {} keys have a version that was replaced or deleted",
                found.stale
            );
            stale += found.stale;
            ledger.accept(&mut raw)?;
            mismatches += device(&mut raw, "mismatches")?.parse::<u64>()?;
            all += found;
            progress(done);
        }
        server.kill();
    }
    let mut summary = Summary::default();
    summary.say("bits flipped", done);
    for (kind, count) in counts {
        summary.say(&format!("  in a {kind:?}").to_lowercase(), count);
    }
    summary.say("operations meanwhile", seen.operations);
    summary.say("bytes proved, 0 wrong", seen.proved + all.proved);
    summary.say("objects found", all.there);
    summary.say("reads that did not verify", mismatches);
    summary.say("starts refused with a sentence", refused);
    summary.say("dead that a rotten journal brought back", stale);
    Ok(summary)
}

/// Ends the server: cleanly, or by a kill.
fn end(server: &mut crate::server::Server, cleanly: bool) -> anyhow::Result<()> {
    if !cleanly {
        server.kill();
        return Ok(());
    }
    let mut raw = Raw::tcp(server.addr())?;
    // It ends instead of answering.
    let _ = raw.try_ask(&["SHUTDOWN"]);
    let status = server.wait();
    ensure!(status.success(), "SHUTDOWN ends with {status}");
    Ok(())
}

/// A bit to flip. `None` if the place drawn is empty.
fn choose(rng: &mut StdRng, disk: &Path, data: &Path, only_device: bool) -> anyhow::Result<Option<(Where, Flip)>> {
    let len = std::fs::metadata(disk)?.len();
    let segment = SEGMENTS_AT + rng.random_range(0..(len - SEGMENTS_AT) / SEGMENT_LEN) * SEGMENT_LEN;
    let device = |at| (disk.to_path_buf(), at);
    let (kind, (path, at)) = match rng.random_range(0..100) {
        0..5 if !only_device => (Where::Superblock, device(rng.random_range(0..8192))),
        5..20 => (Where::Header, device(segment + rng.random_range(0..512))),
        20..40 => (Where::Footer, device(segment + SEGMENT_LEN - 1 - rng.random_range(0..32 << 10))),
        40..55 if !only_device => {
            let mut journals = Vec::new();
            let mut others = Vec::new();
            list(data, &mut |path| {
                let is_journal = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("journal"));
                if is_journal { &mut journals } else { &mut others }.push(path);
            })?;
            let kind = if rng.random() { Where::Journal } else { Where::Metadata };
            let paths = if kind == Where::Journal { journals } else { others };
            if paths.is_empty() {
                return Ok(None);
            }
            let path = paths[rng.random_range(0..paths.len())].clone();
            let len = std::fs::metadata(&path)?.len();
            if len == 0 {
                return Ok(None);
            }
            (kind, (path, rng.random_range(0..len)))
        }
        _ => (Where::Segment, device(segment + rng.random_range(0..SEGMENT_LEN))),
    };
    Ok(Some((kind, Flip { path, at, bit: rng.random_range(0..8) })))
}

fn list(dir: &Path, found: &mut impl FnMut(PathBuf)) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { list(&path, found)? } else { found(path) }
    }
    Ok(())
}
