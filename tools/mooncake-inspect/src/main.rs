//! `mooncake-inspect`: what lies on the flash of a server that does not run.
//!
//! Role: looks in from outside, and only reads. It believes what a starting server would believe, by the same code, and says
//! where it does not.
//!
//! Map: `place` finds and opens devices; `survey` reads their tables; `list`, `verify` and `show` are the commands.

mod list;
mod place;
mod show;
mod survey;
#[cfg(test)]
mod tests;
mod text;
mod verify;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Looks into the flash of a server that does not run: lists what is there, verifies every checksum, prints an object.
///
/// Only reads. The exit status is 0 if all is well, 1 if something is damaged or not there, 2 if it could not look.
#[derive(Debug, Parser)]
#[command(name = "mooncake-inspect", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists devices and their segments
    List {
        #[command(flatten)]
        what: What,
        /// Each record too, with its key
        #[arg(long)]
        records: bool,
    },
    /// Reads everything and verifies every checksum
    Verify {
        #[command(flatten)]
        what: What,
        /// Segments read at once
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
        threads: u8,
    },
    /// Prints the object of a key
    Show {
        #[command(flatten)]
        what: What,
        /// The key, as it is, or in hex with --hex
        key: String,
        /// The key is written in hex digits
        #[arg(long)]
        hex: bool,
        /// Writes the object to this file instead of printing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// Where to look.
#[derive(Debug, Args)]
struct What {
    /// A device: a file or a block device; or a data directory, in which all devices are taken
    path: PathBuf,
    /// Data directory with the journal, which tells what was deleted. A data directory as PATH is its own
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Looks even if a server has the device in use: what it is writing will look damaged
    #[arg(long)]
    in_use: bool,
    /// Answers one JSON object
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse(), &mut io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        // Whoever read the output has seen enough.
        Err(error)
            if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("mooncake-inspect: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Does what was asked for. Answers whether all was well.
fn run(cli: Cli, out: &mut dyn Write) -> Result<bool> {
    match cli.command {
        Command::List { what, records } => list::run(&what, records, out),
        Command::Verify { what, threads } => verify::run(&what, threads, out),
        Command::Show { what, key, hex, out: file } => show::run(&what, &key, hex, file.as_deref(), out),
    }
}
