//! No room for the device or for the journal, files that may not grow, no descriptors: errors with a sentence, and a server
//! that goes on.

use super::load::Load;
use super::{Ledger, Plan, Summary, device, flags, info, look_at_all, start, until};
use crate::raw::{Raw, Value};
use crate::server::Server;
use anyhow::{Context as _, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const KEYS: usize = 800;
const FLASH: &str = "128 MiB";
/// Time within which the server is as before once a limit is lifted.
const RECOVERY: Duration = Duration::from_secs(15);

/// Runs the campaign; a run is each limit once. `None`, with a line that says so, where one may not mount.
///
/// # Errors
/// With what was broken.
pub fn run(plan: &Plan, mut progress: impl FnMut(usize)) -> anyhow::Result<Option<Summary>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(crate::peer::skipped("only root may mount a file system"));
    }
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let dir = Arc::new(TempDir::with_prefix("mooncake-limits-")?);
    let small = Small::mount(&dir.path().join("small"))?;
    let flags = flags(plan, &dir.path().join("flash.0"), FLASH, &small.0.join("data"));
    let ledger = Arc::new(Ledger::new("limits", KEYS));
    let server = start(&dir, &flags)?;
    for run in 0..plan.runs {
        no_room_for_a_device(plan, &small).context("no room for a device")?;
        for limit in [Limit::Room, Limit::Descriptors, Limit::Length] {
            let load = Load::start_on_bad_flash(server.addr(), &ledger, rng.random())?;
            let mut raw = Raw::tcp(server.addr())?;
            std::thread::sleep(Duration::from_millis(100));
            let what = || format!("run {run}, {limit:?}");
            let lift = limit.impose(&server, &small).with_context(what)?;
            std::thread::sleep(Duration::from_millis(rng.random_range(200..600)));
            attach_in_vain(&mut raw, &small, limit).with_context(what)?;
            lift.lift(&server).with_context(what)?;
            load.stop().with_context(what)?;
            until("the device is on", RECOVERY, || Ok(device(&mut raw, "state")? == "online")).with_context(what)?;
            // It spills again.
            let written = |raw: &mut Raw| Ok::<u64, anyhow::Error>(device(raw, "written_bytes")?.parse()?);
            let before = written(&mut raw)?;
            let load = Load::start_on_bad_flash(server.addr(), &ledger, rng.random())?;
            until("it spills again", RECOVERY, || Ok(written(&mut raw)? > before)).with_context(what)?;
            load.stop().with_context(what)?;
            let found = look_at_all(&server, &ledger, None).with_context(what)?;
            ensure!(found.stale == 0, "{}: {} keys are stale", what(), found.stale);
        }
        progress(run + 1);
    }
    let mut summary = Summary::default();
    summary.say("rounds of ENOSPC, EMFILE and EFBIG", plan.runs);
    summary.say("objects on flash at the end", info(&mut Raw::tcp(server.addr())?, "flash_objects")?);
    Ok(Some(summary))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// The journal's file system is full.
    Room,
    /// No descriptor is left.
    Descriptors,
    /// No file may become longer.
    Length,
}

/// How to take a limit away.
enum Lift {
    Remove(std::path::PathBuf),
    Restore(Resource, Rlimit),
}

impl Limit {
    fn impose(self, server: &Server, small: &Small) -> anyhow::Result<Lift> {
        let limit = |resource: Resource, most: u64| -> anyhow::Result<Lift> {
            let before = rustix::process::getrlimit(resource);
            prlimit(pid(server)?, resource, Rlimit { current: Some(most), maximum: before.maximum })?;
            Ok(Lift::Restore(resource, before))
        };
        match self {
            Self::Room => {
                let path = small.0.join("filler");
                // Till nothing fits.
                let status = Command::new("dd")
                    .args(["if=/dev/zero", "bs=4k", "status=none"])
                    .arg(format!("of={}", path.display()))
                    .stderr(std::process::Stdio::null())
                    .status()?;
                ensure!(!status.success(), "a small file system has no end");
                Ok(Lift::Remove(path))
            }
            Self::Descriptors => limit(Resource::Nofile, 8),
            Self::Length => limit(Resource::Fsize, 4096),
        }
    }
}

impl Lift {
    fn lift(self, server: &Server) -> anyhow::Result<()> {
        match self {
            Self::Remove(path) => std::fs::remove_file(path)?,
            Self::Restore(resource, before) => drop(prlimit(pid(server)?, resource, before)?),
        }
        Ok(())
    }
}

fn pid(server: &Server) -> anyhow::Result<Option<Pid>> {
    let pid = i32::try_from(server.pid()).ok().and_then(Pid::from_raw);
    pid.context("a process id").map(Some)
}

/// A device that cannot be had is an error, whatever the reason.
fn attach_in_vain(raw: &mut Raw, small: &Small, limit: Limit) -> anyhow::Result<()> {
    let path = small.0.join("another").display().to_string();
    let answer = raw.try_ask(&["TIER", "ATTACH", &path, "64MiB"])?;
    let Value::Error(line) = &answer else { anyhow::bail!("{limit:?}: TIER ATTACH answers {answer:?}") };
    ensure!(line.contains(' ') && line.len() > 20, "{limit:?}: TIER ATTACH answers no sentence: {line}");
    let _ = std::fs::remove_file(path);
    Ok(())
}

/// A server whose device does not fit where it should be says so.
fn no_room_for_a_device(plan: &Plan, small: &Small) -> anyhow::Result<()> {
    let dir = Arc::new(TempDir::with_prefix("mooncake-limits-")?);
    let flags = flags(plan, &small.0.join("flash.1"), FLASH, &dir.path().join("data"));
    match start(&dir, &flags) {
        Ok(_) => anyhow::bail!("a device of {FLASH} fits into 16 MiB"),
        Err(error) => {
            let log = error.to_string();
            ensure!(log.contains("no room") && !log.contains("panicked"), "{log}");
        }
    }
    let _ = std::fs::remove_file(small.0.join("flash.1"));
    Ok(())
}

/// A file system of 16 MiB. Unmounted when dropped.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(path: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir(path)?;
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(path).status()?;
        ensure!(status.success(), "mount: {status}");
        Ok(Self(path.to_path_buf()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
