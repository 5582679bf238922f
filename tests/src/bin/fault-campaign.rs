//! Kills and stops clients at random moments and checks that nobody else notices: see `tests::campaign`.
//!
//! `fault-campaign --runs 1000 --transport shm --fault both` takes some minutes and says how it went; it ends with 1 at
//! the first thing that must not be, with the seed to try again.

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use std::process::ExitCode;
use std::time::Duration;
use tests::campaign::victim::{self, Role};
use tests::campaign::{Fault, Plan, Way, run};

#[derive(Parser)]
#[command(about = "Kills and stops clients of a mooncake-server at random moments, beside others that must not notice")]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    role: Option<As>,
    /// Clients that something happens to.
    #[arg(long, default_value_t = 1000)]
    runs: usize,
    /// Seed of everything random [default: by chance].
    #[arg(long)]
    seed: Option<u64>,
    /// How they move their bytes.
    #[arg(long, default_value = "shm")]
    transport: Way,
    /// How they end.
    #[arg(long, default_value = "both")]
    fault: Fault,
    /// How many there are at once.
    #[arg(long, default_value_t = 25)]
    at_once: usize,
    /// The server's grant deadline, in milliseconds.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    grant_ms: u64,
    /// Longest lease they take, in milliseconds.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    lease_ms: u64,
    /// Time without progress after which the server closes a connection, in milliseconds [default: the server's, or 1500
    /// in-band, where there is no other deadline].
    #[arg(long, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    progress_ms: Option<u64>,
    /// More flags of the server, such as `-- --shm-write arena`.
    #[arg(last = true)]
    server: Vec<String>,
}

#[derive(Subcommand)]
enum As {
    /// One of those that something happens to. For the campaign itself.
    #[command(hide = true)]
    Victim(Role),
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    if let Some(As::Victim(role)) = cli.role {
        victim::live(role)?;
        return Ok(ExitCode::SUCCESS);
    }
    let seed = cli.seed.unwrap_or_else(rand::random);
    let plan = Plan {
        program: std::env::current_exe()?,
        runs: cli.runs,
        seed,
        way: cli.transport,
        fault: cli.fault,
        at_once: cli.at_once.max(1),
        grant: Duration::from_millis(cli.grant_ms),
        lease: Duration::from_millis(cli.lease_ms),
        progress: Duration::from_millis(cli.progress_ms.unwrap_or(match cli.transport {
            Way::Shm | Way::Rdma | Way::Tcp => 5000,
            Way::Inband => 1500,
        })),
        server: cli.server,
    };
    println!("{} runs, {:?}, {:?}, seed {seed}", plan.runs, plan.way, plan.fault);
    let bar = ProgressBar::new(plan.runs as u64)
        .with_style(ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos}/{len} runs, {eta} left")?);
    bar.enable_steady_tick(Duration::from_millis(500));
    let outcome = run(&plan, |done| bar.set_position(done as u64));
    bar.finish_and_clear();
    match outcome {
        Ok(summary) => {
            println!("{summary}");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("BROKEN, with seed {seed}: {error:#}");
            Ok(ExitCode::FAILURE)
        }
    }
}
