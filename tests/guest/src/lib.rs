//! What tests in the guest stand on: what its first program is told, and the devices it has.
//!
//! `cargo xtask guest` builds on the host, boots one guest and runs every test of this package, and of the others that
//! `tools/xtask/src/guest/suite.rs` lists, that is marked `#[ignore = "guest: …"]`. Elsewhere `cargo test` shows them as ignored.
//!
//! Invariants:
//! - The guest sees the host's files as they were when it began and can change none of them.
//! - Nothing of a guest outlives it.

pub mod drive;
pub mod log_writes;
pub mod plan;
pub mod report;
pub mod target;

use anyhow::{Context as _, Result, ensure};
use std::process::Command;

/// Runs a program to its end, and gives what it wrote.
///
/// # Errors
/// If it fails, with what it said.
pub fn call(words: &[&str]) -> Result<String> {
    let output = Command::new(words[0]).args(&words[1..]).output().with_context(|| format!("start {}", words[0]))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}: {}: {said}", words.join(" "), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
