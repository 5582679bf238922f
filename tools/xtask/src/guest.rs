//! `cargo xtask guest`: runs the tests that need a kernel of their own in a throw-away QEMU guest.
//!
//! Role: builds here, boots one guest with Debian's kernel (Soft-RoCE, NVMe, NVMe over fabrics, device mapper), runs each marked
//! test there and prints it as `cargo test` would. The guest has this machine's files, read-only, and no network to the outside.
//!
//! Invariants:
//! - Each planned test is reported as passed or failed, also when the guest dies in the middle; no test at all is a failure.
//! - Where a guest cannot be had, it says so loudly and passes; with `MOONCAKE_REQUIRE_PEERS=1` it fails instead.

mod kernel;
mod machine;
mod strict;
mod suite;

use crate::root;
use anyhow::{Context as _, Result, bail, ensure};
use guest::plan::{Plan, Test, Work};
use guest::report::{Outcome, Report};
use machine::{Machine, Speed};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// What to run, and on what machine.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only tests whose program or name contains this
    filter: Option<String>,
    /// Print what would run, and end
    #[arg(long)]
    list: bool,
    /// Also the long form of each test: minutes to hours
    #[arg(long)]
    long: bool,
    /// Build Soft-RoCE with the check that its memory windows lack, so that a server lends them: needs make and gcc
    #[arg(long)]
    strict_windows: bool,
    /// Memory of the guest, in MiB
    #[arg(long, default_value_t = 2_048)]
    memory_mib: u32,
    /// Processors of the guest
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Seconds that the whole guest may live; by what it runs, if not given
    #[arg(long)]
    limit_s: Option<u64>,
    /// NAME=VALUE for the environment of all that runs
    #[arg(long = "env")]
    env: Vec<String>,
    /// Run this in the guest instead of tests
    #[arg(last = true)]
    command: Vec<String>,
}

/// Kernel modules of every guest.
const MODULES: &[&str] = &[
    "crc32_generic",
    "crc32c_generic",
    "crct10dif_generic",
    "virtio_net",
    "dummy",
    "veth",
    "sch_netem",
    "rdma_rxe",
    "ib_uverbs",
    "rdma_ucm",
    "nvme",
    "nvme_tcp",
    "nvme_rdma",
    "nvmet_tcp",
    "nvmet_rdma",
    "loop",
    "dm_log_writes",
    "dm_flakey",
    "dm_snapshot",
    "dm_delay",
    "ext4",
    "configfs",
];
/// Modules that are cached beside them, for tests that load them with parameters of their own.
const MODULES_AT_HAND: &[&str] = &["null_blk", "brd", "scsi_debug", "xfs", "dm_integrity"];

/// Time that a test may take on a fast machine, in seconds.
const TEST_S_MAX: u64 = 60;
/// The same in the long form.
const TEST_LONG_S_MAX: u64 = 1_800;
/// Time that a guest gets to say that it is up. An emulated one on a busy machine took 30 s.
const BOOT_MAX: Duration = Duration::from_secs(120);
/// Times that a guest is booted which does not come up.
const BOOTS_MAX: u32 = 3;
/// Time that a command of the operator's may take.
const COMMAND_S_MAX: u64 = 600;

/// Runs what the options say. Answers whether it passed.
pub(crate) fn run(options: &Options) -> Result<bool> {
    if let Err(why) = available() {
        let required = std::env::var_os("MOONCAKE_REQUIRE_PEERS").is_some_and(|value| value == "1");
        ensure!(!required, "a guest is required, but {why:#}");
        println!("SKIPPED: the tests in the guest did not run: {why:#}");
        return Ok(true);
    }
    let speed = Speed::here();
    suite::build_programs()?;
    let work = if options.command.is_empty() {
        let tests = suite::tests(options.filter.as_deref(), seconds_max(options.long, speed))?;
        ensure!(!tests.is_empty(), "no test is marked for the guest and has such a name");
        if options.list {
            tests.iter().for_each(|test| println!("{}::{}", test.suite, test.name));
            return Ok(true);
        }
        Work::Tests(tests)
    } else {
        Work::Command(options.command.clone())
    };
    let limit = options.limit_s.unwrap_or_else(|| match &work {
        Work::Command(_) => COMMAND_S_MAX,
        Work::Tests(tests) => tests.iter().map(|test| test.seconds_max).sum(),
    });
    let kernel = kernel::prepare(&[MODULES, MODULES_AT_HAND].concat(), options.strict_windows)?;
    let plan = Plan {
        modules_dir: kernel.modules.clone(),
        release: kernel.release.clone(),
        modules: MODULES.iter().map(|&name| name.to_owned()).collect(),
        node: 1,
        linked: false,
        env: environment(options, speed)?,
        dir: std::env::current_dir().context("find the current directory")?,
        work,
    };
    println!("guest: Linux {}, {} CPUs, {} MiB, {speed}", kernel.release, options.cpus, options.memory_mib);
    let machine = Machine { kernel: &kernel, cpus: options.cpus, memory_mib: options.memory_mib, speed };
    let started = Instant::now();
    let mut guest = boot(&machine, &plan, Duration::from_secs(limit))?;
    match &plan.work {
        Work::Tests(tests) => follow_tests(tests, &mut guest, started),
        Work::Command(_) => follow_command(&mut guest),
    }
}

/// A guest that is up. One that does not come up is booted again, and its last words are shown.
fn boot(machine: &Machine<'_>, plan: &Plan, limit: Duration) -> Result<machine::Guest> {
    for boot in 1..=BOOTS_MAX {
        let mut guest = machine.boot(plan, BOOT_MAX)?;
        match guest.next_report() {
            Some(Report::Up(what)) => {
                eprintln!("guest: {what}");
                guest.may_live(limit);
                return Ok(guest);
            }
            Some(Report::Broken(why)) => bail!("the guest cannot be set up: {why}\n{}", guest.last_words()),
            Some(_) | None => {
                println!("guest: boot {boot} of at most {BOOTS_MAX} came to nothing\n{}", guest.last_words())
            }
        }
    }
    bail!("no guest comes up")
}

/// Whether this machine can boot a guest, after installing what that needs.
fn available() -> Result<()> {
    ensure!(std::env::consts::ARCH == "x86_64", "guests are built for x86_64 only");
    let status = Command::new("bash").args(["-c", ". tools/needs.sh && need_guest"]).current_dir(root()).status();
    ensure!(status.context("run bash")?.success(), "what it needs cannot be installed");
    Ok(())
}

fn seconds_max(long: bool, speed: Speed) -> u64 {
    speed.factor() * if long { TEST_LONG_S_MAX } else { TEST_S_MAX }
}

fn environment(options: &Options, speed: Speed) -> Result<Vec<(String, String)>> {
    let mut env = vec![
        ("MOONCAKE_SERVER".to_owned(), suite::program("mooncake-server")?.display().to_string()),
        ("MOONCAKE_PATIENCE".to_owned(), speed.factor().to_string()),
        ("MOONCAKE_REQUIRE_PEERS".to_owned(), "1".to_owned()),
        ("RUST_BACKTRACE".to_owned(), "1".to_owned()),
    ];
    if options.strict_windows {
        env.push(("GUEST_STRICT_WINDOWS".to_owned(), "1".to_owned()));
    }
    if options.long {
        env.push(("GUEST_LONG".to_owned(), "1".to_owned()));
    }
    for given in &options.env {
        let (name, value) = given.split_once('=').with_context(|| format!("--env {given}: write NAME=VALUE"))?;
        env.push((name.to_owned(), value.to_owned()));
    }
    Ok(env)
}

fn follow_tests(tests: &[Test], guest: &mut machine::Guest, started: Instant) -> Result<bool> {
    println!("\nrunning {} tests in the guest", tests.len());
    let (mut passed, mut failed) = (0, 0);
    let mut under_way = None;
    let mut why = "it ended";
    let broken;
    let whole = loop {
        match guest.next_report() {
            Some(Report::Up(_) | Report::Out(_)) => {}
            Some(Report::Begun { at }) => under_way = tests.get(at),
            Some(Report::Done { at, outcome, milliseconds, figures, errors }) => {
                under_way = None;
                let test = tests.get(at).context("the guest knows its plan")?;
                let word = match outcome {
                    Outcome::Passed => "ok",
                    Outcome::Failed => "FAILED",
                    Outcome::TimedOut => "FAILED: it took too long",
                };
                println!(
                    "test {}::{} ... {word} ({}.{:03} s)",
                    test.suite,
                    test.name,
                    milliseconds / 1000,
                    milliseconds % 1000
                );
                figures.lines().chain(errors.lines()).for_each(|line| println!("    {line}"));
                match outcome {
                    Outcome::Passed => passed += 1,
                    Outcome::Failed | Outcome::TimedOut => failed += 1,
                }
            }
            Some(Report::End(_)) => break true,
            Some(Report::Broken(what)) => {
                broken = what;
                why = &broken;
                break false;
            }
            None => break false,
        }
    };
    let missing = tests.len() - passed - failed;
    if !whole || missing > 0 {
        if let Some(test) = under_way {
            println!("test {}::{} ... FAILED: the guest died under it", test.suite, test.name);
        }
        println!("{missing} tests have no result: {why}\n{}", guest.last_words());
    }
    let ok = whole && failed == 0 && missing == 0 && passed > 0;
    println!(
        "\ntest result: {}. {passed} passed; {} failed; in the guest, after {:.0} s",
        if ok { "ok" } else { "FAILED" },
        failed + missing,
        started.elapsed().as_secs_f64()
    );
    Ok(ok)
}

fn follow_command(guest: &mut machine::Guest) -> Result<bool> {
    loop {
        match guest.next_report() {
            Some(Report::Out(line)) => println!("{line}"),
            Some(Report::End(0)) => return Ok(true),
            Some(Report::End(status)) => {
                eprintln!("guest: the command ended with {status}");
                return Ok(false);
            }
            Some(Report::Broken(why)) => bail!("the command cannot be run: {why}\n{}", guest.last_words()),
            Some(other) => bail!("the guest says what nobody asked for: {other:?}"),
            None => bail!("the guest ended in the middle\n{}", guest.last_words()),
        }
    }
}

/// Where the kernel and what is made of it are kept.
fn cache_dir() -> Result<PathBuf> {
    let named = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(dir) = named("MOONCAKE_GUEST_CACHE") {
        return Ok(dir);
    }
    let base = named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("mooncake-guest"))
}
