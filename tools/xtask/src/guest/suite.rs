//! The tests that run in the guest: built here, found by asking their programs.

use crate::root;
use anyhow::{Context as _, Result, ensure};
use guest::plan::Test;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Packages whose ignored tests are those that need the guest: `#[ignore = "guest: what it needs"]`.
const PACKAGES: &[&str] = &["mooncake-guest", "mooncake-transport", "mooncake-tests"];
/// Test programs whose ignored tests wait for something else.
const ELSEWHERE: &[&str] = &["suites"];
/// Programs that tests start.
const PROGRAMS: &[&str] = &["mooncake-server"];
/// As `tools/test` builds, so that nothing is built twice.
const PROFILE: &str = "proof";

/// Builds the guest's own programs and those that tests start.
pub(super) fn build_programs() -> Result<()> {
    let mut command = cargo("build");
    command.args(["--bins", "--package", "mooncake-guest"]);
    PROGRAMS.iter().for_each(|name| _ = command.args(["--package", name]));
    ensure!(command.status().context("run cargo")?.success(), "the programs do not build");
    Ok(())
}

/// Builds the tests and lists those whose program or name contains `filter`.
pub(super) fn tests(filter: Option<&str>, seconds_max: u64) -> Result<Vec<Test>> {
    let mut command = cargo("test");
    command.args(["--no-run", "--message-format=json-render-diagnostics"]);
    PACKAGES.iter().for_each(|name| _ = command.args(["--package", name]));
    let output = command.stderr(Stdio::inherit()).output().context("run cargo")?;
    ensure!(output.status.success(), "the tests do not build");
    let text = String::from_utf8(output.stdout).context("cargo writes text")?;
    let mut tests = Vec::new();
    let here = |(suite, _): &(String, PathBuf)| !ELSEWHERE.contains(&suite.as_str());
    for (suite, binary) in text.lines().filter_map(test_program).filter(here) {
        for name in marked(&binary)? {
            tests.push(Test { suite: suite.clone(), name, binary: binary.clone(), seconds_max });
        }
    }
    tests.sort_by(|a, b| (&a.suite, &a.name).cmp(&(&b.suite, &b.name)));
    tests.retain(|test| filter.is_none_or(|part| format!("{}::{}", test.suite, test.name).contains(part)));
    Ok(tests)
}

/// A program of the tree's, where cargo put it.
pub(super) fn program(name: &str) -> Result<PathBuf> {
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => std::path::absolute(dir)?,
        None => root().join("target"),
    };
    Ok(target.join(PROFILE).join(name))
}

fn cargo(what: &str) -> Command {
    let mut command = Command::new("cargo");
    command.args([what, "--quiet", "--profile", PROFILE]).current_dir(root());
    command
}

/// A test program's name and path, from a line of cargo's.
fn test_program(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_test = message["profile"]["test"].as_bool()?;
    let executable = message["executable"].as_str()?;
    is_test.then(|| (message["target"]["name"].as_str().unwrap_or_default().to_owned(), PathBuf::from(executable)))
}

/// The tests of a program that `cargo test` ignores.
fn marked(binary: &Path) -> Result<Vec<String>> {
    let output = Command::new(binary).args(["--list", "--ignored", "--format", "terse"]).output();
    let output = output.with_context(|| format!("ask {} for its tests", binary.display()))?;
    ensure!(output.status.success(), "{} does not list its tests", binary.display());
    let text = String::from_utf8(output.stdout).context("tests have plain names")?;
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_told_from_what_else_cargo_builds() {
        let line = |test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"nvme"}},"profile":{{"test":{test}}},"executable":{executable}}}"#
            )
        };
        assert_eq!(test_program(&line(true, "\"/t/nvme-1\"")), Some(("nvme".to_owned(), PathBuf::from("/t/nvme-1"))));
        assert_eq!(test_program(&line(false, "\"/t/server\"")), None);
        assert_eq!(test_program(&line(true, "null")), None);
        assert_eq!(test_program(r#"{"reason":"build-finished","success":true}"#), None);
    }
}
