//! `mooncake-bench`: load for a KV-cache server, and what the machine and its peers make of the same.
//!
//! Role: looks in from outside. It writes payloads that prove themselves, so any wrong byte that a server hands out is
//! found, said, and ends the tool with a non-zero status.
//!
//! Map: `payload` makes and checks bytes; `wire`, `bulk`, `small` drive any RESP server in-band; `bare` moves bytes
//! without a server; `peer`, `rounds` let several take turns; `trace`, `lru` know request traces; `report`, `table`,
//! `plot` say what was found.

mod bare;
mod bulk;
mod capacity;
mod chart;
mod compare;
mod cpu;
mod endpoint;
mod fill;
mod flash;
mod keys;
mod latency;
mod limits;
mod loading;
mod lru;
mod memory;
#[cfg(test)]
mod mini;
mod mix;
mod number;
mod payload;
mod peer;
mod plot;
mod prefill;
mod progress;
mod replay;
mod report;
mod ring;
mod rounds;
mod run;
mod server;
mod session;
mod shm_peer;
mod sizes;
mod small;
mod table;
mod trace;
mod turn;
mod verdict;
mod wire;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Loads a KV-cache server and says what it did: rates, percentiles, hit ratios, CPU, and whether every byte was right.
///
/// Every payload is a function of its key, and what is read back is compared. The exit status is 0 only if no byte was
/// wrong and no operation failed.
#[derive(Debug, Parser)]
#[command(name = "mooncake-bench", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    output: report::Output,
}

#[derive(Debug, Subcommand)]
enum Command {
    Fill(fill::Args),
    Run(run::Args),
    Replay(replay::Args),
    Compare(Box<compare::Args>),
    Limits(limits::Args),
    /// The other process of a bare pair. Started by this tool only.
    #[command(hide = true)]
    BareServer,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(3),
        Err(error) => {
            eprintln!("mooncake-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `true` if everything was right.
fn execute(cli: &Cli) -> Result<bool> {
    let report = match &cli.command {
        Command::Fill(args) => fill::run(args)?,
        Command::Run(args) => run::run(args)?,
        Command::Replay(args) => replay::run(args)?,
        Command::Compare(args) => compare::run(args)?,
        Command::Limits(args) => limits::run(args)?,
        Command::BareServer => return bare::process::serve().map(|()| true),
    };
    report.publish(&cli.output)?;
    Ok(report.is_good())
}
