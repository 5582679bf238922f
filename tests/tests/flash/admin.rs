//! Devices that come and go while the server runs, and starts that are refused.

use super::{bytes, fill, info, is_there, key, server, settled, shut_down};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tests::sandbox::without_io_uring;
use tests::server::{Mark, until};
use tests::{Raw, Server, Value};

/// Time that anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn tier(raw: &mut Raw, name: &str) -> Option<Value> {
    raw.ask(&["TIER", "LIST"]).items().iter().find(|tier| tier.field("name").text() == name).cloned()
}

#[test]
fn tiers_are_told_with_their_figures() {
    let server = server("256 MiB", &["--flash-write-budget", "100GiB"]);
    let mut raw = Raw::to(&server);
    fill(&mut raw, 96 << 20);
    settled(&mut raw);
    let flash = tier(&mut raw, "flash.0").expect("there is one");
    assert_eq!((flash.field("kind").text(), flash.field("state").text()), ("flash", "online"));
    assert_eq!(flash.field("segment-len").number(), 8 << 20);
    assert!(flash.field("written-bytes").number() >= 30 << 20, "{flash:?}");
    let left = flash.field("budget-left").number();
    assert!(left < 100 << 30 && left > 99 << 30, "{left} left of the budget");
    assert_eq!(tier(&mut raw, "dram").expect("there is one").field("state").text(), "online");
    let text = raw.ask(&["INFO", "tiers"]);
    assert!(text.text().contains("tier_flash.0:state=online,"), "{}", text.text());
    assert!(info(&mut raw, "flash_objects") > 0);
    let findings = raw.ask(&["DIAGNOSE"]);
    let about: Vec<&str> =
        findings.field("findings").items().iter().map(|finding| finding.field("about").text()).collect();
    assert!(!about.iter().any(|about| about.starts_with("flash") || about.starts_with("tier")), "{about:?}");
}

/// A restart gives no new budget, neither a clean one nor a kill.
#[test]
fn a_write_budget_goes_on_after_a_restart() {
    let left = |raw: &mut Raw| tier(raw, "flash.0").expect("there is one").field("budget-left").number();
    // Less than a MiB comes back within a minute.
    let mut server = server("256 MiB", &["--flash-write-budget", "1GiB"]);
    let mut raw = Raw::to(&server);
    fill(&mut raw, 96 << 20);
    settled(&mut raw);
    let before = left(&mut raw);
    assert!(before < (1 << 30) - (30 << 20), "{before} left");
    shut_down(&mut server, &[]);
    let server = server.restart();
    let mut raw = Raw::to(&server);
    let after = left(&mut raw);
    assert!(after <= before + (16 << 20), "{after} left after {before}");
    until("it is remembered", PATIENCE, || {
        let files = std::fs::read_dir(server.dir().join("data")).expect("its directory");
        files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("spent-"))
    });
    let mut server = server;
    server.kill();
    let server = server.restart();
    let again = left(&mut Raw::to(&server));
    assert!(again <= after + (16 << 20), "{again} left after {after}");
}

/// A device taken in is written to, and remembered.
#[test]
fn a_device_that_comes_shares_the_writes() {
    let server = server("256 MiB", &[]);
    let mut raw = Raw::to(&server);
    let path = server.dir().join("second").display().to_string();
    let attached = raw.ask(&["TIER", "ATTACH", &path, "256MiB"]);
    let name = attached.field("name").text().to_owned();
    assert_eq!(attached.field("objects").number(), 0);
    assert!(raw.ask(&["TIER", "ATTACH", &path, "256MiB"]).is_error("EXISTS"));
    assert!(raw.ask(&["CONFIG", "GET", "nvme"]).items()[1].text().contains(&path));
    let count = fill(&mut raw, 160 << 20);
    settled(&mut raw);
    for device in ["flash.0", &name] {
        let written = tier(&mut raw, device).expect("there is one").field("written-bytes").number();
        assert!(written > 16 << 20, "{device} was written {written} bytes");
    }
    for number in 0..count {
        assert!(is_there(&mut raw, number, 1), "{} of {count}", key(number));
    }
}

/// A server with a second device, started anew after a clean stop: its objects, that many, lie on flash alone and are durable.
/// The second device lies in the directory that comes with it.
fn two_devices_at_rest() -> (Server, TempDir, usize) {
    let second = TempDir::with_prefix("mooncake-test-").expect("a directory for the test");
    let device = format!("{}:128MiB", second.path().join("flash.1").display());
    let mut server = server("128 MiB", &["--nvme", &device]);
    let count = fill(&mut Raw::to(&server), 30 << 20);
    shut_down(&mut server, &[]);
    let server = server.restart();
    assert_eq!(info(&mut Raw::to(&server), "flash_only_objects"), count as u64);
    (server, second, count)
}

/// A device that is let go leaves what it held.
#[test]
fn a_device_that_goes_takes_nothing_with_it() {
    let (server, _second, count) = two_devices_at_rest();
    let mut raw = Raw::to(&server);
    assert_eq!(raw.ask(&["TIER", "DETACH", "flash.1"]).text(), "OK");
    assert!(tier(&mut raw, "flash.1").is_none() && tier(&mut raw, "flash.0").is_some());
    for number in 0..count {
        assert!(is_there(&mut raw, number, 1), "{} of {count}", key(number));
    }
    assert!(raw.ask(&["TIER", "DETACH", "flash.1"]).is_error("DENIED"));
    assert!(raw.ask(&["TIER", "DETACH", "dram"]).is_error("DENIED"));
}

/// What was durable on a device that was drained is durable where it went: a kill right after the answer loses nothing.
#[test]
fn a_device_that_goes_loses_nothing_to_a_kill() {
    let (mut server, _second, count) = two_devices_at_rest();
    assert_eq!(Raw::to(&server).ask(&["TIER", "DETACH", "flash.1"]).text(), "OK");
    server.kill();
    let server = server.restart();
    let mut raw = Raw::to(&server);
    for number in 0..count {
        assert!(is_there(&mut raw, number, 1), "{} of {count}", key(number));
    }
}

/// What DRAM has no room for goes through it to the devices that stay, and a device with nowhere to go stays.
#[test]
fn a_device_that_goes_is_emptied_into_those_that_stay() {
    let server = server("512 MiB", &[]);
    let mut raw = Raw::to(&server);
    let path = server.dir().join("second").display().to_string();
    let name = raw.ask(&["TIER", "ATTACH", &path, "512MiB"]).field("name").text().to_owned();
    let count = fill(&mut raw, 230 << 20);
    settled(&mut raw);
    assert!(tier(&mut raw, &name).expect("there is one").field("used").number() > 64 << 20, "more than DRAM can take");
    assert_eq!(raw.ask(&["TIER", "DETACH", &name]).text(), "OK");
    let used = tier(&mut raw, "flash.0").expect("it stays").field("used").number();
    for number in 0..count {
        assert!(is_there(&mut raw, number, 1), "{} of {count}", key(number));
    }
    let refused = raw.ask(&["TIER", "DETACH", "flash.0"]);
    assert!(refused.is_error("BUSY"), "{used} bytes have nowhere to go: {refused:?}");
    assert!(is_there(&mut raw, 0, 1), "nothing was touched");
}

/// Let go without draining, a device takes what it held with it; taken in again, it brings back what is still true.
#[test]
fn a_device_that_comes_back_brings_nothing_stale() {
    let server = server("256 MiB", &[]);
    let mut raw = Raw::to(&server);
    let count = fill(&mut raw, 128 << 20);
    settled(&mut raw);
    let path = tier(&mut raw, "flash.0").expect("there is one").field("path").text().to_owned();
    assert_eq!(raw.ask(&["TIER", "DETACH", "flash.0", "NODRAIN"]).text(), "OK");
    let there: Vec<usize> = (0..count).filter(|&number| is_there(&mut raw, number, 1)).collect();
    assert!(there.len() < count, "half of it lay there only");
    // Meanwhile some of it is written anew.
    for number in (0..count).step_by(7) {
        raw.set(key(number), bytes(number, 2));
    }
    let attached = raw.ask(&["TIER", "ATTACH", &path]);
    assert!(attached.has("objects"), "{attached:?}");
    for number in 0..count {
        let version = if number % 7 == 0 { 2 } else { 1 };
        // Gone it may be, another it may not.
        is_there(&mut raw, number, version);
    }
}

/// Waits until a scrub that was asked for is over, and returns the device as it is then.
fn scrubbed(raw: &mut Raw) -> Value {
    let passes = |raw: &mut Raw| tier(raw, "flash.0").expect("there is one").field("scrub-passes").number();
    // The day's own comes first.
    until("the first scrub is over", PATIENCE, || passes(raw) > 0);
    let before = passes(raw);
    assert_eq!(raw.ask(&["TIER", "SCRUB", "flash.0"]).text(), "OK");
    until("the scrub is over", PATIENCE, || passes(raw) > before);
    tier(raw, "flash.0").expect("there is one")
}

/// What rots is found while nobody asks for it.
#[test]
fn a_scrub_finds_rot_before_a_reader_does() {
    let server = server("256 MiB", &["--scrub-rate", "64MiB"]);
    let mut raw = Raw::to(&server);
    let count = fill(&mut raw, 128 << 20);
    settled(&mut raw);
    let good = scrubbed(&mut raw);
    assert!(good.field("scrub-records").number() > 20, "{good:?}");
    assert_eq!(good.field("scrub-rotten").number(), 0, "{good:?}");
    let file = OpenOptions::new().write(true).open(server.dir().join("flash.0")).expect("the device");
    for segment in 0..3 {
        file.write_all_at(&[0xaa; 1 << 20], (1 << 20) + (segment * 8 + 3) * (1 << 20)).expect("written");
    }
    file.sync_all().expect("synced");
    let rotten = scrubbed(&mut raw);
    assert!(rotten.field("scrub-rotten").number() > 0, "{rotten:?}");
    let about: Vec<Value> = raw.ask(&["DIAGNOSE"]).field("findings").items().to_vec();
    assert!(about.iter().any(|finding| finding.field("about").text() == "flash-rot"), "{about:?}");
    let there = (0..count).filter(|&number| is_there(&mut raw, number, 1)).count();
    assert!(there > 0 && there < count, "{there} of {count}");
    assert_eq!(tier(&mut raw, "flash.0").expect("there is one").field("mismatches").number(), 0, "no reader met it");
    assert!(raw.ask(&["TIER", "SCRUB", "flash.7"]).is_error("DENIED"));
}

#[test]
fn a_data_directory_is_served_by_one_server_only() {
    let first = server("64 MiB", &[]);
    let data = first.dir().join("data").display().to_string();
    let other = TempDir::with_prefix("mooncake-test-").expect("a directory for the test");
    let device = format!("{}:64MiB", other.path().join("flash").display());
    let args = ["--dram", "64 MiB", "--nvme", &device, "--data-dir", &data];
    let log = Server::try_start(other.into(), &args, Mark::Ready).expect_err("the directory is taken");
    assert!(log.contains("is in use by another server"), "{log}");
    // Its own directory does not help against a device that is taken.
    let other = TempDir::with_prefix("mooncake-test-").expect("a directory for the test");
    let device = first.dir().join("flash.0").display().to_string();
    let args = ["--dram", "64 MiB", "--nvme", &device];
    let log = Server::try_start(other.into(), &args, Mark::Ready).expect_err("the device is taken");
    assert!(log.contains("in use by another process"), "{log}");
    assert!(Raw::to(&first).is_alive());
}

/// Plain system calls do what io_uring does.
#[test]
fn the_engine_of_system_calls_serves_as_well() {
    let server = server("256 MiB", &["--flash-engine", "syscall"]);
    let mut raw = Raw::to(&server);
    let count = fill(&mut raw, 96 << 20);
    let engine = tier(&mut raw, "flash.0").expect("there is one").field("engine").text().to_owned();
    assert!(!engine.contains("uring"), "{engine}");
    for number in 0..count {
        assert!(is_there(&mut raw, number, 1), "{} of {count}", key(number));
    }
}

/// Containers often refuse io_uring: unless it is demanded, system calls do its work, scrubs included, and the server says so.
#[test]
fn where_io_uring_is_refused_another_engine_is_chosen_and_told() {
    let server = without_io_uring(|| server("256 MiB", &[]));
    let mut raw = Raw::to(&server);
    assert!(server.log().contains("io_uring is refused"), "{}", server.log());
    assert_eq!(tier(&mut raw, "flash.0").expect("there is one").field("engine").text(), "syscall");
    assert!(raw.ask(&["INFO", "tiers"]).text().contains(",engine=syscall"));
    let count = fill(&mut raw, 96 << 20);
    settled(&mut raw);
    for number in 0..count {
        assert!(is_there(&mut raw, number, 1), "{} of {count}", key(number));
    }
    assert_eq!(scrubbed(&mut raw).field("scrub-rotten").number(), 0);
    let dir = TempDir::with_prefix("mooncake-test-").expect("a directory for the test");
    let device = format!("{}:64MiB", dir.path().join("flash").display());
    let args = ["--dram", "64 MiB", "--nvme", &device, "--flash-engine", "uring"];
    let demanded = without_io_uring(|| Server::try_start(dir.into(), &args, Mark::Ready));
    let log = demanded.expect_err("what is demanded is refused");
    assert!(log.contains("demanded"), "{log}");
}

/// Files and devices that cannot be opened refuse the start, with the name of what is wrong.
#[test]
fn devices_that_cannot_be_refuse_the_start() {
    for device in ["/proc/version", "/nonexistent/dir/flash:64MiB"] {
        let dir = TempDir::with_prefix("mooncake-test-").expect("a directory for the test");
        let args = ["--dram", "64 MiB", "--nvme", device];
        let log = Server::try_start(dir.into(), &args, Mark::Ready).expect_err("no device of ours");
        let path = device.split(':').next().expect("a path");
        assert!(log.contains(path), "{device}: {log}");
    }
}

/// `--recover-only` verifies what is there, says what that is, and leaves it as it was.
#[test]
fn recover_only_tells_what_is_there() {
    let mut server = server("256 MiB", &[]);
    let mut raw = Raw::to(&server);
    let count = fill(&mut raw, 96 << 20);
    shut_down(&mut server, &[]);
    let mut command = Command::new(tests::server::binary());
    command.args(server.args()).arg("--recover-only").arg("--data-dir").arg(server.dir().join("data"));
    let output = command.stdin(Stdio::null()).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&format!("objects: {count}")), "{text}");
    let server = server.restart();
    let mut raw = Raw::to(&server);
    for number in 0..count {
        assert!(is_there(&mut raw, number, 1), "{} of {count}", key(number));
    }
}
