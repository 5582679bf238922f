//! `--doctor` on the machine that runs the tests, and, in the guest, on one with RDMA and NVMe.

use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;
use tests::server::{binary, patience, until};
use tests::{Raw, Server};

const LIMIT: Duration = Duration::from_secs(60);

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

/// Waits until `DIAGNOSE` tells of something.
fn told_by(server: &Server, about: &str) {
    let mut raw = Raw::to(server);
    raw.set_patience(patience(LIMIT)).expect("set");
    until(&format!("DIAGNOSE tells of {about}"), LIMIT, || {
        let findings = raw.ask(&["DIAGNOSE"]);
        findings.field("findings").items().iter().any(|found| found.field("about").text() == about)
    });
}

#[test]
fn the_doctor_tells_of_this_machine_and_makes_nothing() {
    let dir = TempDir::with_prefix("mooncake-test-").expect("a directory for the test");
    let (found, _) = checks(dir.path(), &["--nvme", "none"]);
    for area in ["topology", "memory", "huge-pages", "descriptors", "clock", "data-dir", "rdma", "settings"] {
        assert!(!about(&found, area).is_empty(), "nothing about {area}: {found:#?}");
    }
    let text = String::from_utf8(doctor(dir.path(), &["--nvme", "none"]).stdout).expect("text");
    assert!(
        text.lines().any(|line| line.starts_with("ok    clock") || line.starts_with("warn  clock"))
            && text.contains(" that fail"),
        "{text}"
    );
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
    // Where there are more descriptors than anybody asks for, as in some containers, fewer are left to it.
    let mut limit = getrlimit(Resource::Nofile);
    limit.maximum = Some(limit.maximum.map_or(500_000, |most| most.min(500_000)));
    limit.current = Some(limit.current.map_or(500_000, |most| most.min(500_000)));
    setrlimit(Resource::Nofile, limit).expect("a limit may be lowered");
    let server = Server::start(&["--maxclients", "1000000"]);
    // A look that takes long is told of by the next answer.
    told_by(&server, "descriptors");
    assert!(Raw::to(&server).ask(&["DIAGNOSE"]).field("score").number() < 100);
}

#[test]
#[ignore = "guest: its RDMA device and its NVMe drives"]
fn the_doctor_tells_of_rdma_and_nvme() {
    let dir = TempDir::with_prefix("mooncake-test-").expect("a directory for the test");
    let device = std::env::var("GUEST_RDMA_DEVICE").expect("told");
    let drive = std::env::var("GUEST_NVME2").expect("told");
    let (found, _) = checks(dir.path(), &["--nvme", &drive]);
    let text = |check: &Value| check["what"].as_str().expect("text").to_owned();
    let rdma = about(&found, "rdma");
    assert!(rdma.iter().any(|check| check["verdict"] == "ok" && text(check).contains(&device)), "{found:#?}");
    let used = about(&found, "rdma-use");
    let address = std::env::var("GUEST_ADDRESS").expect("told");
    assert!(used.iter().any(|check| text(check).contains(&address)), "its GID is its address: {used:?}");
    // Soft-RoCE of this kernel lets accesses in beyond a window's ends, or does not: it was tried.
    assert!(!about(&found, "rdma-windows").is_empty(), "{found:#?}");
    let live = about(&found, "nvme-drive").iter().filter(|check| text(check).contains("is live")).count();
    assert!(live >= 1, "{found:#?}");
    let nvme = about(&found, "nvme");
    assert!(nvme.iter().any(|check| check["verdict"] == "ok" && text(check).contains("a block device")), "{nvme:?}");
    let missing = "nvmeof transport=tcp traddr=10.77.0.1 trsvcid=4429 nqn=nqn.2024-01.org.example:none";
    let (found, _) = checks(dir.path(), &["--nvme", missing]);
    assert!(text(about(&found, "nvme-of")[0]).contains("the initiator for tcp is there"), "{found:#?}");

    // A user who may lock nothing: the limit is named, and what to do.
    // Its own copy of the binary: the tree may lie where others may not look.
    let own = dir.path().join("mooncake-server");
    std::fs::copy(binary(), &own).expect("copied");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("opened to others");
    let output = Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
            "prlimit",
            "--memlock=8388608:8388608",
        ])
        .arg(&own)
        .args(["--doctor", "--dram", "64MiB", "--data-dir", "none", "--nvme", "none"])
        .output()
        .expect("it runs");
    let table = String::from_utf8(output.stdout).expect("text");
    assert!(!output.status.success(), "{table}");
    assert!(
        table.contains("fail  locked-memory") && table.contains("may lock 8 MiB") && table.contains("LimitMEMLOCK"),
        "{table}"
    );

    // And of the running server, in band.
    if about(&checks(dir.path(), &["--nvme", &drive]).0, "rdma-windows")[0]["verdict"] != "ok" {
        told_by(&Server::start(&["--dram", "64MiB", "--segment-len", "64MiB"]), "rdma-windows");
    }
}
