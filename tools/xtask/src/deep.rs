//! What takes longer than a review: fuzzing, many seeds, every interleaving.

use crate::root;
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

/// One long run.
struct Part {
    name: String,
    command: Command,
}

/// Runs every part whose name contains `only`. Answers whether all of them passed.
pub(crate) fn run(fuzz_s: u64, seeds: u64, only: Option<&str>) -> Result<bool> {
    let mut parts = simulations(seeds);
    parts.extend(fuzz_targets(fuzz_s)?);
    parts.retain(|part| only.is_none_or(|only| part.name.contains(only)));
    anyhow::ensure!(!parts.is_empty(), "no part has such a name");
    let mut failed = Vec::new();
    for part in &mut parts {
        println!("== {}", part.name);
        let started = Instant::now();
        let status = part.command.status().with_context(|| format!("start {:?}", part.command))?;
        println!("== {}: {status}, {:.0} s", part.name, started.elapsed().as_secs_f64());
        if !status.success() {
            failed.push(part.name.clone());
        }
    }
    println!(
        "{} parts, {} failed{}{}",
        parts.len(),
        failed.len(),
        if failed.is_empty() { "" } else { ": " },
        failed.join(", ")
    );
    Ok(failed.is_empty())
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(args).current_dir(root());
    command
}

/// Whole histories from more seeds than a review has time for, in builds that still assert.
fn simulations(seeds: u64) -> Vec<Part> {
    let mut command = cargo(&["test", "--profile", "proof", "--package", "mooncake-tests", "--test", "simulator"]);
    command.args(["--", "--nocapture"]).env("SIM_SEEDS", seeds.to_string()).env("SIM_STEPS", "2000");
    vec![Part { name: "simulator".to_owned(), command }]
}

/// Every target below a `fuzz` directory of a crate. They need a nightly compiler and `cargo install cargo-fuzz`.
fn fuzz_targets(seconds: u64) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for krate in ["protocol", "storage", "transport", "server"] {
        let targets: PathBuf = root().join(krate).join("fuzz/fuzz_targets");
        if !targets.is_dir() {
            continue;
        }
        let mut names: Vec<String> = fs::read_dir(&targets)?
            .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_string_lossy().into_owned()))
            .collect();
        names.sort();
        for name in names {
            let limit = format!("-max_total_time={seconds}");
            let mut command = cargo(&["+nightly", "fuzz", "run", &name, "--", &limit, "-rss_limit_mb=4096"]);
            let crate_dir = root().join(krate);
            if crate_dir.join("fuzz/words.dict").is_file() {
                command.arg("-dict=fuzz/words.dict");
            }
            command.current_dir(crate_dir);
            parts.push(Part { name: format!("fuzz {krate} {name}"), command });
        }
    }
    Ok(parts)
}
