//! The chores of the tree: `cargo xtask check`, `deep`, `docs`, `guest`.
//!
//! `check` is what a reviewer would otherwise have to ask for; `deep` is what takes longer than a review.

mod arrows;
mod check;
mod deep;
mod guest;
mod planned;
mod prose;
mod reference;
mod source;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// What to do.
#[derive(Parser)]
#[command(name = "cargo xtask", about = "The chores of the tree")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Format, clippy, docs, arrows, headers, unsafe places, lengths, prose, the generated reference
    Check {
        /// Only what needs no compiler
        #[arg(long)]
        quick: bool,
    },
    /// Fuzz targets, long simulations, every interleaving: minutes to hours
    Deep {
        /// Seconds for each fuzz target
        #[arg(long, default_value_t = 600)]
        fuzz_s: u64,
        /// Seeds for the simulators
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        /// Only the parts whose name contains this
        #[arg(long)]
        only: Option<String>,
    },
    /// Writes the server's man page and shell completions to target/manual
    Manual,
    /// Writes the generated parts of README.md and docs/protocol.md again
    Docs,
    /// Tests that need a kernel of their own, in a QEMU guest with RDMA, NVMe and device mapper
    Guest(guest::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().chore {
        Chore::Check { quick } => check::run(quick),
        Chore::Deep { fuzz_s, seeds, only } => deep::run(fuzz_s, seeds, only.as_deref()),
        Chore::Manual => manual(),
        Chore::Docs => reference::write(),
        Chore::Guest(options) => guest::run(&options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The server's own example makes them, so that xtask need not be built with the server.
fn manual() -> anyhow::Result<bool> {
    let dir = root().join("target/manual");
    let example = ["run", "--quiet", "--package", "mooncake-server", "--example", "manual", "--"];
    let status = std::process::Command::new(env!("CARGO")).args(example).arg(&dir).current_dir(root()).status()?;
    Ok(status.success())
}

/// The root of the tree.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the tree that xtask was built from")
}
