//! Clients that are killed or stopped at random moments, beside others that must not notice.
//!
//! Role: runs the real server and, wave after wave, victims as processes of their own ([`victim`]), each ended by SIGKILL
//! or stopped by SIGSTOP while it writes, commits, reads or holds. Bystanders ([`bystander`]) read and write in this
//! process the whole time and prove every byte. After each wave they pause, so that what is still held is the victims'.
//!
//! Invariants, each ends the campaign if it is broken:
//! - What a killed victim held is back within a second of its end; what a stopped one holds, within a second of the
//!   deadline.
//! - A victim that goes on after its deadline is told so: no commit and no read begun later succeeds.
//! - Nobody reads a wrong byte, bystanders that check nothing but the payload itself included, and no bystander's
//!   connection breaks.
//! - At the end the server's bytes sum up, its descriptors and mappings of clients are as at the beginning.

pub mod bystander;
pub mod victim;

use crate::info::{Memory, client_mappings, descriptors};
use crate::payload;
use crate::raw::Raw;
use crate::server::Server;
use anyhow::{Context as _, bail, ensure};
use bystander::Bystanders;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use victim::{Phases, Victim};

/// How victims move their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// Shared memory.
    Shm,
    /// RDMA.
    Rdma,
    /// Bulk TCP.
    Tcp,
    /// In RESP.
    Inband,
}

/// How victims end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// By SIGKILL.
    Kill,
    /// Stopped by SIGSTOP until their deadlines are over; then continued, and killed.
    Stop,
    /// Either, by chance.
    Both,
}

/// What a campaign is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program that is a victim when told so: `fault-campaign`.
    pub program: PathBuf,
    /// Victims in all.
    pub runs: usize,
    /// Of everything random.
    pub seed: u64,
    /// How victims move their bytes.
    pub way: Way,
    /// How they end.
    pub fault: Fault,
    /// Victims of one wave.
    pub at_once: usize,
    /// The server's `grant-ms`.
    pub grant: Duration,
    /// Longest lease that victims take.
    pub lease: Duration,
    /// The server's `progress-ms`.
    pub progress: Duration,
    /// More flags of the server.
    pub server: Vec<String>,
}

/// How a campaign went.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Victims killed while running.
    pub killed: usize,
    /// Victims stopped.
    pub stopped: usize,
    /// What victims were doing when they were hit.
    pub hit: BTreeMap<&'static str, usize>,
    /// What victims were told, by word.
    pub told: BTreeMap<String, usize>,
    /// Operations of bystanders, and those that were refused for want of room.
    pub operations: u64,
    /// See `operations`.
    pub refused: u64,
    /// Objects that were evicted.
    pub evicted: u64,
    /// Bytes that bystanders and victims proved.
    pub proved: u64,
    /// The longest that anything was held beyond its end.
    pub late: Duration,
    /// How long it all took.
    pub took: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { killed, stopped, operations, refused, evicted, proved, late, took, .. } = self;
        let list = |counts: &mut dyn Iterator<Item = (&str, usize)>| {
            counts.map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>().join(", ")
        };
        writeln!(
            f,
            "{killed} killed and {stopped} stopped in {:.1} s; memory back at most {} ms after the end or deadline",
            took.as_secs_f64(),
            late.as_millis()
        )?;
        writeln!(f, "hit while: {}", list(&mut self.hit.iter().map(|(what, count)| (*what, *count))))?;
        writeln!(
            f,
            "told to those that went on: {}",
            list(&mut self.told.iter().map(|(word, n)| (word.as_str(), *n)))
        )?;
        write!(
            f,
            "bystanders: {operations} operations, {refused} refused for want of room, {evicted} objects evicted, {:.2} GB \
             proved, 0 wrong bytes",
            *proved as f64 / 1e9
        )
    }
}

/// Full from the beginning ([`Campaign::fill`]), so that whatever is written reuses memory, on a slow machine too.
const DRAM: &str = "128 MiB";
/// Of each value that fills it.
const BALLAST_LEN: usize = 1 << 20;
/// Time after an end or a deadline within which everything has to be back.
const SLACK: Duration = Duration::from_secs(1);

/// Runs a campaign. `progress` hears how many runs are done.
///
/// # Errors
/// With what was broken.
pub fn run(plan: &Plan, mut progress: impl FnMut(usize)) -> anyhow::Result<Summary> {
    let begin = Instant::now();
    let millis = |span: Duration| span.as_millis().to_string();
    let settings = [
        ("--dram", DRAM.to_owned()),
        ("--segment-len", "64 MiB".to_owned()),
        ("--grant-ms", millis(plan.grant)),
        ("--progress-ms", millis(plan.progress)),
    ];
    let mut flags: Vec<&str> = settings.iter().flat_map(|(flag, value)| [*flag, value]).collect();
    flags.extend(plan.server.iter().map(String::as_str));
    let server = Server::start(&flags);
    let mut campaign = Campaign {
        plan,
        rng: StdRng::seed_from_u64(plan.seed),
        admin: Raw::to(&server),
        server,
        summary: Summary::default(),
        phases: Phases::create()?,
        born: 0,
    };
    // What the server opens once and keeps, it opens now.
    campaign.warm_up()?;
    let before = campaign.fill()?;
    let fds = descriptors(campaign.server.pid())?;

    let bystanders = Bystanders::start(&campaign.server, plan.way, plan.seed)?;
    let mut done = 0;
    while done < plan.runs {
        let wave = plan.at_once.min(plan.runs - done);
        campaign.wave(wave, &bystanders).with_context(|| format!("after {done} runs"))?;
        done += wave;
        progress(done);
    }
    let seen = bystanders.stop()?;
    campaign.summary.evicted = campaign.evicted()? - before;
    campaign.settle().context("after the last client has left")?;
    campaign.audit(&fds)?;
    let mut summary = campaign.summary;
    (summary.operations, summary.refused) = (seen.operations, seen.refused);
    summary.proved += seen.proved;
    summary.took = begin.elapsed();
    Ok(summary)
}

struct Campaign<'a> {
    plan: &'a Plan,
    rng: StdRng,
    server: Server,
    admin: Raw,
    summary: Summary,
    phases: Phases,
    born: usize,
}

/// When something happens to a victim.
struct Event {
    at: Instant,
    victim: usize,
    stop: bool,
}

impl Campaign<'_> {
    fn spawn(&mut self, count: usize) -> anyhow::Result<Vec<Victim>> {
        let mut victims = Vec::with_capacity(count);
        for _ in 0..count {
            victims.push(Victim::spawn(self.plan, &self.server, &self.phases, self.born, self.rng.random())?);
            self.born += 1;
        }
        for victim in &mut victims {
            victim.await_ready()?;
        }
        Ok(victims)
    }

    /// A few victims that nobody counts.
    fn warm_up(&mut self) -> anyhow::Result<()> {
        let victims = self.spawn(4)?;
        std::thread::sleep(Duration::from_millis(300));
        for mut victim in victims {
            victim.kill()?;
            victim.finish(&mut Summary::default())?;
        }
        self.settle().context("after the warm-up")?;
        self.alone().context("after the warm-up")
    }

    fn evicted(&mut self) -> anyhow::Result<u64> {
        let info = self.admin.try_ask(&["INFO", "stats"])?;
        let evicted = info.text().lines().find_map(|line| line.strip_prefix("evicted_keys:")?.parse().ok());
        evicted.context("evicted_keys of INFO")
    }

    /// Writes until the first object is evicted, and tells how many were.
    fn fill(&mut self) -> anyhow::Result<u64> {
        for number in 0u32..1024 {
            let key = format!("ballast:{number}");
            self.admin.try_ask(&[b"SET", key.as_bytes(), &payload::make(key.as_bytes(), 0, BALLAST_LEN)])?;
            let evicted = self.evicted()?;
            if evicted > 0 {
                return Ok(evicted);
            }
        }
        bail!("{DRAM} took a GiB and evicted nothing")
    }

    fn wave(&mut self, count: usize, bystanders: &Bystanders) -> anyhow::Result<()> {
        let mut victims = self.spawn(count)?;
        let start = Instant::now();
        let mut events: Vec<Event> = (0..count)
            .map(|victim| Event {
                at: start + Duration::from_micros(self.rng.random_range(0..400_000)),
                victim,
                stop: match self.plan.fault {
                    Fault::Kill => false,
                    Fault::Stop => true,
                    Fault::Both => self.rng.random(),
                },
            })
            .collect();
        events.sort_by_key(|event| event.at);
        let longest = match self.plan.way {
            Way::Shm | Way::Rdma | Way::Tcp => self.plan.grant.max(self.plan.lease),
            // A value in RESP has no deadline but this.
            Way::Inband => self.plan.progress,
        };
        let mut due = start;
        for event in &events {
            std::thread::sleep(event.at.saturating_duration_since(Instant::now()));
            let victim = &mut victims[event.victim];
            let ends = if event.stop {
                victim.stop()?;
                longest
            } else {
                victim.kill()?;
                Duration::ZERO
            };
            due = due.max(Instant::now() + ends);
            *self.summary.hit.entry(self.phases.of(victim)?).or_default() += 1;
            *(if event.stop { &mut self.summary.stopped } else { &mut self.summary.killed }) += 1;
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        self.check(due, bystanders).context("what the victims held")?;

        // Those that were only stopped go on, find out, and are killed in turn.
        let mut going_on = false;
        for event in events.iter().filter(|event| event.stop) {
            // A few die as they are.
            if self.rng.random_ratio(1, 8) {
                victims[event.victim].kill()?;
            } else {
                victims[event.victim].go_on()?;
                going_on = true;
            }
        }
        if going_on {
            std::thread::sleep(Duration::from_millis(250));
        }
        for victim in &mut victims {
            victim.kill()?;
        }
        self.check(Instant::now(), bystanders).context("what the victims held that went on")?;
        for victim in victims {
            victim.finish(&mut self.summary)?;
        }
        Ok(())
    }

    /// Looks, with the bystanders at rest, until nobody holds anything: soon after `due`.
    fn check(&mut self, due: Instant, bystanders: &Bystanders) -> anyhow::Result<()> {
        let _rest = bystanders.rest()?;
        let late = self.quiet(due)?;
        self.summary.late = self.summary.late.max(late);
        Ok(())
    }

    /// The same once no bystander is left.
    fn settle(&mut self) -> anyhow::Result<()> {
        self.quiet(Instant::now()).map(drop)
    }

    fn quiet(&mut self, due: Instant) -> anyhow::Result<Duration> {
        loop {
            let memory = Memory::ask(&mut self.admin).context("the server does not answer")?;
            let late = due.elapsed();
            if memory.is_quiet() && memory.sums_up() {
                return Ok(late);
            }
            ensure!(late < SLACK, "{} ms after the end or deadline: {memory:?}", late.as_millis());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the server has no other connection, and none of its memory is a client's.
    fn alone(&mut self) -> anyhow::Result<()> {
        let begin = Instant::now();
        loop {
            let memory = Memory::ask(&mut self.admin)?;
            let mapped = client_mappings(self.server.pid())?;
            if memory.clients == 1 && memory.bulk == 0 && mapped == 0 {
                return Ok(());
            }
            ensure!(begin.elapsed() < SLACK, "{mapped} mappings of clients are left, and {memory:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Nothing but the objects is left of anybody, and then not even they.
    fn audit(&mut self, fds: &BTreeMap<String, usize>) -> anyhow::Result<()> {
        self.alone()?;
        let begin = Instant::now();
        loop {
            let now = descriptors(self.server.pid())?;
            if now == *fds {
                break;
            }
            ensure!(begin.elapsed() < SLACK, "descriptors were {fds:?}, and now {now:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.admin.try_ask(&["FLUSHALL"])?;
        let empty = Memory::ask(&mut self.admin)?;
        ensure!(empty.live == 0 && empty.is_quiet() && empty.sums_up(), "emptied, and yet: {empty:?}");
        Ok(())
    }
}
