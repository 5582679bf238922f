//! Faults of the flash tier: see `tests::flash_campaign` and `docs/faults.md`.
//!
//! `flash-campaign kill --runs 500` takes some ten minutes and says how it went; it ends with 1 at the first thing that must
//! not be, with the seed to try again.

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tests::flash_campaign::{self as campaign, Plan};

#[derive(Parser)]
#[command(about = "Hurts the flash tier of a mooncake-server in many ways, beside clients that prove every byte")]
struct Cli {
    /// What goes wrong.
    fault: Fault,
    /// How often.
    #[arg(long, required_unless_present = "minutes", conflicts_with = "minutes")]
    runs: Option<usize>,
    /// How long, of a soak.
    #[arg(long)]
    minutes: Option<u64>,
    /// Seed of everything random [default: by chance].
    #[arg(long)]
    seed: Option<u64>,
    /// More flags of the server, such as `-- --flash-engine syscall`.
    #[arg(last = true)]
    server: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Fault {
    /// The server is killed.
    Kill,
    /// The file system stops without a flush. Needs root.
    Power,
    /// Bits flip in the device, the journal and the metadata.
    Rot,
    /// A device that loses, tears and misdirects writes, flips bits, and fails. Needs root and FUSE.
    Faulty,
    /// No room, no descriptors, no longer files.
    Limits,
    /// A device of 10 MB/s. Needs root and FUSE.
    Slow,
    /// Scrubs beside readers.
    Scrub,
    /// Values that look like records.
    Forge,
    /// All kinds of trouble for a long time: what the server holds must not grow. Needs root and FUSE.
    Soak,
    /// Planned restarts of a server whose memory outlives it, and kills in between.
    Warm,
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let seed = cli.seed.unwrap_or_else(rand::random);
    let plan = Plan { runs: cli.runs.unwrap_or_default(), seed, server: cli.server };
    let length = cli.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    anyhow::ensure!(length.is_none() || matches!(cli.fault, Fault::Soak), "--minutes is for soak, others have --runs");
    match cli.minutes {
        Some(minutes) => println!("{:?}, {minutes} minutes, seed {seed}", cli.fault),
        None => println!("{:?}, {} runs, seed {seed}", cli.fault, plan.runs),
    }
    let bar = ProgressBar::new(plan.runs as u64)
        .with_style(ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos}/{len} runs, {eta} left")?);
    if length.is_some() {
        bar.set_style(ProgressStyle::with_template("{elapsed_precise} {pos} rounds")?);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    let begin = Instant::now();
    let progress = |done| bar.set_position(done as u64);
    let outcome = match cli.fault {
        Fault::Kill => campaign::kill::run(&plan, progress).map(Some),
        Fault::Power => campaign::power::run(&plan, progress),
        Fault::Rot => campaign::rot::run(&plan, progress).map(Some),
        Fault::Faulty => campaign::faulty::run(&plan, progress),
        Fault::Limits => campaign::limits::run(&plan, progress),
        Fault::Slow => campaign::slow::run(&plan, progress),
        Fault::Scrub => campaign::scrub::run(&plan, progress).map(Some),
        Fault::Forge => campaign::forge::run(&plan, progress).map(Some),
        Fault::Soak => campaign::soak::run(&plan, length, progress),
        Fault::Warm => campaign::warm::run(&plan, progress),
    };
    bar.finish_and_clear();
    match outcome {
        Ok(Some(summary)) => {
            print!("{summary}");
            println!("{:<40} {:.1} s", "took", begin.elapsed().as_secs_f64());
            Ok(ExitCode::SUCCESS)
        }
        Ok(None) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("BROKEN, with seed {seed}: {error:#}");
            Ok(ExitCode::FAILURE)
        }
    }
}
