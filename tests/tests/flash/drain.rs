//! A device that is emptied while the server runs: how far it is, calling it off, a kill on the way.

use super::{fill, info, is_there, key, shut_down};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use storage::flash::engine::SimDisk;
use tempfile::TempDir;
use tests::flash_campaign::faulty::FaultyFile;
use tests::server::{Mark, until};
use tests::{Raw, Server, Value};

/// Time that anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes a second of a device that takes minutes to be read.
const SLOW: u64 = 300_000;
const LEN: u64 = 128 << 20;
/// What the second device holds at least: half a minute of reading it slowly.
const SECOND_LEN_MIN: u64 = 8 << 20;
/// The share of a drain that is not under way.
const NONE: Value = Value::Int(-1);

fn tier(raw: &mut Raw, name: &str) -> Option<Value> {
    raw.ask(&["TIER", "LIST"]).items().iter().find(|tier| tier.field("name").text() == name).cloned()
}

fn start(dir: &Arc<TempDir>, second: &Path) -> Server {
    let devices = [dir.path().join("flash.0"), second.to_owned()].map(|path| format!("{}:128MiB", path.display()));
    let [first, second] = &devices;
    let args = ["--nvme", first, "--nvme", second, "--flash-segment-len", "8 MiB", "--dram", "64 MiB"];
    Server::try_start(Arc::clone(dir), &args, Mark::Ready).expect("it serves")
}

/// `TIER DETACH flash.1` of a client of its own, once the device is being drained.
fn drain(server: &Server, raw: &mut Raw) -> JoinHandle<std::io::Result<Value>> {
    let mut client = Raw::to(server);
    let answer = std::thread::spawn(move || client.try_ask(&["TIER", "DETACH", "flash.1"]));
    until("it is being drained", PATIENCE, || {
        tier(raw, "flash.1").is_some_and(|device| device.field("state").text() == "draining")
    });
    answer
}

/// A server with objects on flash alone, some of them on the second device, and how many they are. The quicker device may take
/// all that a stop writes: then it is filled anew.
fn filled(dir: &Arc<TempDir>, second: &Path) -> (Server, Raw, usize) {
    for _ in 0..32 {
        let mut server = start(dir, second);
        let count = fill(&mut Raw::to(&server), 30 << 20);
        shut_down(&mut server, &[]);
        let server = start(dir, second);
        let mut raw = Raw::to(&server);
        if tier(&mut raw, "flash.1").expect("there is one").field("used").number() >= SECOND_LEN_MIN {
            return (server, raw, count);
        }
        assert_eq!(raw.ask(&["FLUSHALL"]).text(), "OK");
    }
    panic!("the second device gets too little");
}

/// What lies on a device counts there until it is durable on another, so that neither an operator who changes his mind nor a
/// kill costs anything.
#[test]
fn a_drain_that_is_called_off_or_killed_loses_nothing() {
    let dir = Arc::new(TempDir::with_prefix("mooncake-test-").expect("a directory for the test"));
    let disk = SimDisk::new(7, LEN);
    let Some(file) = FaultyFile::mount(dir.path(), &disk).expect("mounted") else { return };
    let (mut server, mut raw, count) = filled(&dir, file.path());
    assert_eq!(info(&mut raw, "flash_only_objects"), count as u64, "all of it is durable");
    let all_there = |raw: &mut Raw, when: &str| {
        let lost = (0..count).filter(|&number| !is_there(raw, number, 1)).map(key).collect::<Vec<_>>();
        assert!(lost.is_empty(), "{when}: {lost:?} of {count} are gone");
    };
    assert_eq!(tier(&mut raw, "flash.1").expect("there is one").field("drain-percent"), &NONE);
    assert!(raw.ask(&["TIER", "DETACH", "flash.1", "CANCEL"]).is_error("DENIED"), "there is nothing to call off");

    file.manner().set_rate(SLOW);
    let answer = drain(&server, &mut raw);
    let device = tier(&mut raw, "flash.1").expect("there is one");
    let percent = device.field("drain-percent").number();
    assert!((0..100).contains(&percent), "{device:?}\n{}", raw.ask(&["INFO", "tiers"]).text());
    let info = raw.ask(&["INFO", "tiers"]);
    let later = info.text().split("state=draining,").nth(1).and_then(|rest| rest.split("drain_percent=").nth(1));
    let later = later.and_then(|rest| rest.split(',').next()?.parse().ok());
    assert!(later.is_some_and(|later: u64| (percent..100).contains(&later)), "{percent} % before {}", info.text());
    assert!(raw.ask(&["TIER", "DETACH", "flash.1"]).is_error("BUSY"), "it is under way");
    assert_eq!(raw.ask(&["TIER", "DETACH", "flash.1", "CANCEL"]).text(), "OK");
    let answer = answer.join().expect("its client lives").expect("an answer");
    assert!(answer.is_error("BUSY"), "{answer:?}");
    let device = tier(&mut raw, "flash.1").expect("it stays");
    assert_eq!((device.field("state").text(), device.field("drain-percent")), ("online", &NONE));
    file.manner().set_rate(0);
    all_there(&mut raw, "called off");
    assert!(tier(&mut raw, "flash.1").expect("it stays").field("hits").number() > 0, "it is read");

    file.manner().set_rate(SLOW);
    let answer = drain(&server, &mut raw);
    until("something is brought away", PATIENCE * 4, || {
        tier(&mut raw, "flash.0").expect("it stays").field("adopted").number() > 0
    });
    server.kill();
    file.manner().set_rate(0);
    assert!(answer.join().expect("its client lives").is_err(), "nobody answers");
    let server = start(&dir, file.path());
    let mut raw = Raw::to(&server);
    all_there(&mut raw, "killed on the way");

    assert_eq!(raw.ask(&["TIER", "DETACH", "flash.1"]).text(), "OK");
    assert!(tier(&mut raw, "flash.1").is_none());
    all_there(&mut raw, "drained");
}

/// Who cannot wait for a drain ends it.
#[test]
fn a_device_that_is_being_drained_can_go_at_once() {
    let dir = Arc::new(TempDir::with_prefix("mooncake-test-").expect("a directory for the test"));
    let disk = SimDisk::new(8, LEN);
    let Some(file) = FaultyFile::mount(dir.path(), &disk).expect("mounted") else { return };
    let mut server = start(&dir, file.path());
    let count = fill(&mut Raw::to(&server), 30 << 20);
    shut_down(&mut server, &[]);
    let server = start(&dir, file.path());
    let mut raw = Raw::to(&server);
    file.manner().set_rate(SLOW);
    let answer = drain(&server, &mut raw);
    let mut second = Raw::to(&server);
    let at_once = std::thread::spawn(move || second.try_ask(&["TIER", "DETACH", "flash.1", "NODRAIN"]));
    let answer = answer.join().expect("its client lives").expect("an answer");
    assert!(answer.is_error("BUSY"), "{answer:?}");
    file.manner().set_rate(0);
    let at_once = at_once.join().expect("its client lives").expect("an answer");
    assert_eq!(at_once.text(), "OK");
    assert!(tier(&mut raw, "flash.1").is_none());
    let there = (0..count).filter(|&number| is_there(&mut raw, number, 1)).count();
    assert!(there > 0 && there < count, "{there} of {count}");
}
