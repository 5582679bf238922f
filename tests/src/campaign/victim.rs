//! A client that something happens to: the handle on its process, and what the process does.
//!
//! The process prints `ready`, then a line for each thing it was told that a client should be told after a long sleep,
//! and a line that begins with `VIOLATION` for what must not be. What it is doing stands in a file, one byte a victim.

mod acts;

use super::{Plan, Summary, Way};
use crate::server::Server;
use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;
use tempfile::NamedTempFile;

pub use acts::live;

/// Time that a victim gets to connect.
const PATIENCE: Duration = Duration::from_secs(20);
/// What begins a line about something that must not be.
pub const VIOLATION: &str = "VIOLATION";

/// What a victim is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Role {
    /// Where the server serves RESP.
    #[arg(long)]
    pub addr: String,
    /// The server's Unix socket.
    #[arg(long)]
    pub socket: PathBuf,
    /// How to move bytes.
    #[arg(long)]
    pub way: Way,
    /// Of everything random.
    #[arg(long)]
    pub seed: u64,
    /// Which of the victims it is.
    #[arg(long)]
    pub number: usize,
    /// The server's `grant-ms`.
    #[arg(long)]
    pub grant_ms: u64,
    /// Longest lease to take.
    #[arg(long)]
    pub lease_ms: u64,
    /// The file that tells what is being done.
    #[arg(long)]
    pub phases: PathBuf,
}

/// What a victim may be doing.
pub const PHASES: [&str; 15] = [
    "between two things",
    "reserving",
    "writing under a grant",
    "renewing a grant",
    "about to commit",
    "committing",
    "putting in one exchange",
    "holding leases",
    "reading under a lease",
    "putting a batch",
    "fetching a batch",
    "inside a SET",
    "inside a GET",
    "inside a bulk write frame",
    "scribbling while the server copies",
];

/// What each victim is doing, as it says itself.
#[derive(Debug)]
pub struct Phases(NamedTempFile);

impl Phases {
    /// None is doing anything.
    ///
    /// # Errors
    /// As the file system.
    pub fn create() -> anyhow::Result<Self> {
        Ok(Self(NamedTempFile::with_prefix("mooncake-phases-")?))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// What this one is doing.
    ///
    /// # Errors
    /// As the file system.
    pub fn of(&self, victim: &Victim) -> anyhow::Result<&'static str> {
        let mut phase = [0];
        // It may not have written yet.
        let _ = self.0.as_file().read_at(&mut phase, victim.number as u64)?;
        PHASES.get(usize::from(phase[0])).copied().context("a phase that is none")
    }
}

/// Says what a victim is doing.
#[derive(Debug)]
pub struct Telling {
    file: File,
    number: u64,
}

impl Telling {
    fn open(role: &Role) -> anyhow::Result<Self> {
        Ok(Self { file: File::options().write(true).open(&role.phases)?, number: role.number as u64 })
    }

    /// From now on it is doing this.
    ///
    /// # Panics
    /// If it is none of [`PHASES`].
    pub fn now(&self, phase: &str) {
        let at = PHASES.iter().position(|name| *name == phase).unwrap_or_else(|| panic!("no phase {phase}"));
        let byte = u8::try_from(at).expect("few phases");
        self.file.write_all_at(&[byte], self.number).expect("the file can be written");
    }
}

/// The process.
#[derive(Debug)]
pub struct Victim {
    child: Child,
    number: usize,
    lines: Receiver<String>,
}

impl Victim {
    /// Starts one.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn spawn(plan: &Plan, server: &Server, phases: &Phases, number: usize, seed: u64) -> anyhow::Result<Self> {
        let way = match plan.way {
            Way::Shm => "shm",
            Way::Rdma => "rdma",
            Way::Tcp => "tcp",
            Way::Inband => "inband",
        };
        let mut child = Command::new(&plan.program)
            .arg("victim")
            .args(["--addr", &server.addr().to_string(), "--way", way])
            .args(["--seed", &seed.to_string(), "--number", &number.to_string()])
            .args([
                "--grant-ms",
                &plan.grant.as_millis().to_string(),
                "--lease-ms",
                &plan.lease.as_millis().to_string(),
            ])
            .arg("--socket")
            .arg(server.socket())
            .arg("--phases")
            .arg(phases.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", plan.program.display()))?;
        let stdout = BufReader::new(child.stdout.take().context("it is piped")?);
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Self { child, number, lines })
    }

    /// Waits until it works.
    ///
    /// # Errors
    /// If it does not.
    pub fn await_ready(&mut self) -> anyhow::Result<()> {
        let line =
            self.lines.recv_timeout(PATIENCE).with_context(|| format!("victim {} does not begin", self.number))?;
        if line == "ready" { Ok(()) } else { bail!("victim {}: {line}", self.number) }
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), signal).context("signal a victim")
    }

    /// Stops it where it is.
    ///
    /// # Errors
    /// If it is gone.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// If it is gone.
    pub fn go_on(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Kills it, if nobody has.
    ///
    /// # Errors
    /// If it ended by itself.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        use std::os::unix::process::ExitStatusExt as _;
        let before = self.child.try_wait()?;
        if let Some(status) = before.filter(|status| status.signal() != Some(Signal::KILL.as_raw())) {
            bail!("victim {} ended by itself, with {status}", self.number);
        }
        if before.is_none() {
            self.child.kill()?;
            self.child.wait()?;
        }
        Ok(())
    }

    /// Takes what it said, after its end.
    ///
    /// # Errors
    /// With what must not have been.
    pub fn finish(self, summary: &mut Summary) -> anyhow::Result<()> {
        for line in &self.lines {
            if line.starts_with(VIOLATION) {
                bail!("victim {}: {line}", self.number);
            }
            match line.strip_prefix("proved ").and_then(|bytes| bytes.parse::<u64>().ok()) {
                Some(bytes) => summary.proved += bytes,
                None => *summary.told.entry(line).or_default() += 1,
            }
        }
        Ok(())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // Also one that is stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
