//! Runs the checks one after another and prints one line for each; what is wrong follows its line.

use crate::{arrows, prose, reference, root, source};
use anyhow::{Context, Result};
use std::io::Write;
use std::process::Command;
use std::time::Instant;

/// One check: its name, whether it needs the compiler, and what it finds wrong.
struct Check {
    name: &'static str,
    compiles: bool,
    run: fn() -> Result<Vec<String>>,
}

const CHECKS: &[Check] = &[
    Check { name: "format", compiles: false, run: format },
    Check { name: "arrows", compiles: false, run: arrows::find_wrong },
    Check { name: "headers", compiles: false, run: source::without_header },
    Check { name: "lengths", compiles: false, run: source::too_long },
    Check { name: "unsafe places", compiles: false, run: source::unsafe_elsewhere },
    Check { name: "prose", compiles: false, run: prose::broken },
    Check { name: "reference", compiles: false, run: reference::outdated },
    Check { name: "clippy", compiles: true, run: clippy },
    Check { name: "docs", compiles: true, run: rustdoc },
];

/// Runs all checks, or the quick ones. Answers whether nothing was wrong.
pub(crate) fn run(quick: bool) -> Result<bool> {
    let mut wrong = 0;
    for check in CHECKS.iter().filter(|check| !(quick && check.compiles)) {
        print!("{:<14} ", check.name);
        std::io::stdout().flush().context("write to stdout")?;
        let started = Instant::now();
        let found = (check.run)().with_context(|| format!("check {}", check.name))?;
        let verdict = if found.is_empty() { "ok" } else { "WRONG" };
        println!("{verdict:<6} {:>6.1} s", started.elapsed().as_secs_f64());
        for line in found.iter().flat_map(|text| text.lines()) {
            println!("    {line}");
        }
        wrong += usize::from(!found.is_empty());
    }
    println!("{}", if wrong == 0 { "all checks pass".to_owned() } else { format!("{wrong} checks found something") });
    Ok(wrong == 0)
}

fn format() -> Result<Vec<String>> {
    cargo(&["fmt", "--all", "--", "--check", "--files-with-diff"], &[])
}

fn clippy() -> Result<Vec<String>> {
    cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])
}

fn rustdoc() -> Result<Vec<String>> {
    cargo(&["doc", "--quiet", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")])
}

/// Runs cargo in the root; its output is what is wrong if it fails.
fn cargo(args: &[&str], env: &[(&str, &str)]) -> Result<Vec<String>> {
    let output =
        Command::new("cargo").args(args).envs(env.iter().copied()).current_dir(root()).output().context("run cargo")?;
    if output.status.success() {
        return Ok(Vec::new());
    }
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    if text.trim().is_empty() {
        text = format!("cargo {} ended with {}", args.join(" "), output.status);
    }
    Ok(vec![text])
}
