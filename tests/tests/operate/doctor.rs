//! `--doctor` on the machine that runs the tests.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;
use tests::server::binary;
use tests::{Raw, Server};

/// What it prints with these flags. Its data directory would be in `dir`.
fn doctor(dir: &Path, args: &[&str]) -> Output {
    let data = dir.join("data").display().to_string();
    let all = [&["--doctor", "--dram", "64MiB", "--data-dir", &data], args].concat();
    Command::new(binary()).args(all).output().expect("the server's binary runs")
}

/// Each check as JSON tells it, and whether it ended with 0.
fn checks(dir: &Path, args: &[&str]) -> (Vec<Value>, bool) {
    let output = doctor(dir, &[&["--json"], args].concat());
    let text = String::from_utf8(output.stdout).expect("text");
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let checks = json["checks"].as_array().expect("a list").clone();
    let fails = checks.iter().filter(|check| check["verdict"] == "fail").count();
    assert_eq!(json["fail"].as_u64(), Some(fails as u64));
    assert_eq!(output.status.code(), Some(i32::from(fails > 0)), "{text}");
    (checks, output.status.success())
}

fn about<'a>(checks: &'a [Value], about: &str) -> Vec<&'a Value> {
    checks.iter().filter(|check| check["about"] == about).collect()
}

#[test]
fn the_doctor_tells_of_this_machine_and_makes_nothing() {
    let dir = TempDir::with_prefix("mooncake-test-").expect("a directory for the test");
    let (found, _) = checks(dir.path(), &["--nvme", "none"]);
    for area in ["topology", "memory", "huge-pages", "descriptors", "clock", "data-dir", "rdma", "settings"] {
        assert!(!about(&found, area).is_empty(), "nothing about {area}: {found:#?}");
    }
    let text = String::from_utf8(doctor(dir.path(), &["--nvme", "none"]).stdout).expect("text");
    assert!(text.lines().any(|line| line.starts_with("ok    clock")) && text.contains(" that fail"), "{text}");
    assert!(!dir.path().join("data").exists(), "nothing is made");
}

#[test]
fn what_fails_is_named_with_its_remedy_and_the_status_says_so() {
    let dir = TempDir::with_prefix("mooncake-test-").expect("a directory for the test");
    let (found, passed) = checks(dir.path(), &["--rdma", "nosuch0", "--nvme", "none"]);
    assert!(!passed);
    let rdma = about(&found, "rdma")[0];
    assert_eq!(rdma["verdict"], "fail");
    assert!(rdma["what"].as_str().expect("text").contains("nosuch0"), "{rdma}");
    assert!(rdma["what_to_do"].as_str().expect("text").contains("rdma = auto"), "{rdma}");
    // More than any file system has.
    let device = format!("{}:1000TiB", dir.path().join("flash").display());
    let (found, passed) = checks(dir.path(), &["--nvme", &device]);
    assert!(!passed && about(&found, "nvme").iter().any(|check| check["verdict"] == "fail"), "{found:#?}");
    let refused = Command::new(binary()).args(["--json"]).output().expect("it runs");
    assert!(!refused.status.success(), "--json is of --doctor alone");
}

#[test]
fn diagnose_tells_what_the_doctor_finds() {
    let server = Server::start(&["--maxclients", "1000000"]);
    let findings = Raw::to(&server).ask(&["DIAGNOSE"]);
    let of = |about: &str| findings.field("findings").items().iter().any(|found| found.field("about").text() == about);
    // No test runs with so many descriptors.
    assert!(of("descriptors"), "{findings:?}");
    assert!(findings.field("score").number() < 100);
}
