//! The flash log on a namespace of another machine's, whose target is in this guest: over TCP and over RDMA.

use guest::target::Target;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tests::flash_campaign::ledger::Ledger;
use tests::flash_campaign::load::{Load, Seen};
use tests::flash_campaign::{Found, look_at_all};
use tests::server::{Mark, patience, until};
use tests::{Raw, Server, Value, payload};

const DRIVE: usize = 2;
const KEYS: usize = 500;
/// Within this a target that is back is used again, on a machine that is not emulated.
const BACK_MAX: Duration = Duration::from_secs(10);

fn drive() -> PathBuf {
    guest::drive::path(DRIVE).expect("a drive")
}

fn write_at(offset: usize, bytes: &[u8]) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::OpenOptions::new().write(true).open(drive()).expect("the drive opens");
    file.write_all_at(bytes, offset as u64).expect("written");
    file.sync_all().expect("synced");
}

/// A server without flash of its own, in a directory that outlives it.
fn server(dir: &Arc<TempDir>, more: &[&str]) -> Server {
    let data = dir.path().join("data").display().to_string();
    let mut args = vec!["--dram", "64 MiB", "--data-dir", &data, "--flash-segment-len", "8 MiB"];
    args.extend(more);
    Server::try_start(Arc::clone(dir), &args, Mark::Ready).unwrap_or_else(|log| panic!("it does not serve:\n{log}"))
}

fn new_dir() -> Arc<TempDir> {
    Arc::new(TempDir::with_prefix("mooncake-nvmeof-").expect("a directory"))
}

fn attach(raw: &mut Raw, target: &Target, more: &[&str]) -> Value {
    let words = target.words();
    let words: Vec<&str> = ["TIER", "ATTACH"].into_iter().chain(words.iter().map(String::as_str)).collect();
    raw.ask(&[&words[..], more].concat())
}

/// The remote device, as `TIER LIST` has it.
fn remote(raw: &mut Raw) -> Option<Value> {
    let list = raw.ask(&["TIER", "LIST"]);
    list.items().iter().find(|tier| tier.field("name").text() != "dram").cloned()
}

fn state(raw: &mut Raw) -> String {
    remote(raw).map_or("none".to_owned(), |tier| tier.field("state").text().to_owned())
}

/// Connections of this kernel's to a target.
fn connections(target: &Target) -> usize {
    let all = std::fs::read_dir("/sys/class/nvme").expect("there is NVMe").flatten();
    all.filter(|entry| {
        let nqn = std::fs::read_to_string(entry.path().join("subsysnqn")).unwrap_or_default();
        nqn.trim() == target.nqn()
    })
    .count()
}

/// Stops a server; a stop ends its connections.
fn stop(mut server: Server, target: &Target) {
    let _ = Raw::to(&server).try_ask(&["SHUTDOWN"]);
    assert!(server.wait().success());
    assert_eq!(connections(target), 0, "a stop leaves no connection");
}

fn runs(short: usize, long: usize) -> usize {
    if std::env::var_os("GUEST_LONG").is_some() { long } else { short }
}

#[test]
#[ignore = "guest: an NVMe over fabrics target"]
fn a_namespace_is_formatted_only_when_told_and_let_go_without_a_trace() {
    let target = Target::export("tcp", &drive()).expect("exported");
    let dir = new_dir();
    let server = server(&dir, &[]);
    let mut raw = Raw::to(&server);
    for (offset, bytes, found) in [(0, &[0; 1 << 16][..], "is blank"), (1080, &[0x53, 0xef], "no flash log")] {
        write_at(offset, bytes);
        let refused = attach(&mut raw, &target, &[]);
        assert!(refused.is_error("DENIED") && refused.text().contains(found), "{refused:?}");
        assert_eq!(connections(&target), 0, "what was refused is not left connected");
    }
    let attached = attach(&mut raw, &target, &["FORMAT"]);
    let name = attached.field("name").text().to_owned();
    assert!(attach(&mut raw, &target, &[]).is_error("EXISTS"));
    let tier = remote(&mut raw).expect("listed");
    assert_eq!((tier.field("state").text(), tier.field("link").text()), ("online", "live"));
    assert_eq!(tier.field("nvmeof").text(), target.words()[1..].join(" "));
    let setting = raw.ask(&["CONFIG", "GET", "nvme"]).items()[1].text().to_owned();
    assert_eq!(setting, target.words().join(" "));
    assert_eq!(raw.ask(&["TIER", "DETACH", &name]).text(), "OK");
    assert_eq!((connections(&target), state(&mut raw).as_str()), (0, "none"));
    assert!(!attach(&mut raw, &target, &[]).is_error("DENIED"), "a log is adopted without a word");
    raw.ask(&["TIER", "DETACH", &name]);
}

/// Deaths of the target under a load: `runs` times.
fn deaths(kind: &'static str, runs: usize) {
    let seed: u64 = rand::random();
    println!("{kind}: seed {seed}, {runs} deaths");
    let target = Target::export(kind, &drive()).expect("exported");
    let dir = new_dir();
    let server = server(&dir, &[]);
    let mut raw = Raw::to(&server);
    let attached = attach(&mut raw, &target, &["FORMAT"]);
    let name = attached.field("name").text().to_owned();
    let ledger = Arc::new(Ledger::new(kind, KEYS));
    let (mut seen, mut all) = (Seen::default(), Found::default());
    let mut back = Vec::new();
    for run in 0..runs {
        let load = Load::start_on_bad_flash(server.addr(), &ledger, seed ^ run as u64).expect("clients connect");
        std::thread::sleep(Duration::from_secs(2));
        target.die().expect("dies");
        until("the tier is fenced off", Duration::from_secs(20), || state(&mut raw) == "offline");
        std::thread::sleep(Duration::from_millis(500));
        target.revive().expect("comes back");
        let begun = Instant::now();
        until("the tier is back", BACK_MAX, || state(&mut raw) == "online");
        back.push(begun.elapsed());
        seen += load.stop().unwrap_or_else(|error| panic!("death {run}: {error:#}"));
        let found = look_at_all(&server, &ledger, None).unwrap_or_else(|error| panic!("death {run}: {error:#}"));
        assert_eq!(found.stale, 0, "after death {run}");
        all += found;
    }
    back.sort();
    println!("{} operations, {} bytes proved, 0 wrong", seen.operations, seen.proved + all.proved);
    println!("back after {:?} at most, {:?} in the middle", back[runs - 1], back[runs / 2]);
    assert_eq!(raw.ask(&["TIER", "DETACH", &name, "NODRAIN"]).text(), "OK");
    assert_eq!(connections(&target), 0);
}

#[test]
#[ignore = "guest: an NVMe over fabrics target"]
fn deaths_of_a_tcp_target_are_misses_and_it_is_taken_back() {
    deaths("tcp", runs(2, 20));
}

#[test]
#[ignore = "guest: an NVMe over fabrics target"]
fn deaths_of_an_rdma_target_are_misses_and_it_is_taken_back() {
    deaths("rdma", runs(2, 20));
}

/// Values that only flash has: more than DRAM holds.
fn fill(raw: &mut Raw, count: usize) {
    for number in 0..count {
        let key = format!("fill:{number}");
        raw.set(&key, payload::make(key.as_bytes(), 1, 256 << 10));
    }
}

/// How many of them are there, each proved.
fn look(raw: &mut Raw, count: usize) -> usize {
    let there = |number: &usize| {
        let key = format!("fill:{number}");
        match raw.ask(&["GET", &key]) {
            Value::Bulk(bytes) => payload::check(key.as_bytes(), &bytes).map(|_| true).expect("right bytes"),
            _ => false,
        }
    };
    (0..count).filter(there).count()
}

#[test]
#[ignore = "guest: an NVMe over fabrics target"]
fn a_restart_finds_the_namespace_again_whoever_was_away() {
    const COUNT: usize = 160;
    let target = Target::export("tcp", &drive()).expect("exported");
    let dir = new_dir();
    let setting = target.words().join(" ");
    let first = server(&dir, &[]);
    let mut raw = Raw::to(&first);
    attach(&mut raw, &target, &["FORMAT"]);
    fill(&mut raw, COUNT);
    stop(first, &target);
    // By the setting, as `CONFIG REWRITE` writes it.
    let mut second = server(&dir, &["--nvme", &setting]);
    let mut raw = Raw::to(&second);
    let found = look(&mut raw, COUNT);
    assert!(found >= COUNT * 9 / 10, "{found} of {COUNT} are there");
    second.kill();
    drop(second);
    assert_eq!(connections(&target), 1, "a kill leaves one");
    let mut third = server(&dir, &["--nvme", &setting]);
    let again = look(&mut Raw::to(&third), COUNT);
    assert_eq!((connections(&target), again), (1, found), "it is taken over");
    third.kill();
    drop(third);
    target.die().expect("dies");
    let fourth = server(&dir, &["--nvme", &setting]);
    let mut raw = Raw::to(&fourth);
    assert!(["waiting", "none"].contains(&state(&mut raw).as_str()), "{:?}", remote(&mut raw));
    raw.set("k", "v");
    let findings = raw.ask(&["DIAGNOSE"]);
    let about: Vec<_> =
        findings.field("findings").items().iter().map(|it| it.field("about").text().to_owned()).collect();
    assert!(about.contains(&"tier-waiting".to_owned()), "{about:?}");
    target.revive().expect("comes back");
    let begun = Instant::now();
    until("it is attached", BACK_MAX, || state(&mut raw) == "online");
    println!(
        "found {found} of {COUNT} after a stop and after a kill; attached {:?} after the target was back",
        begun.elapsed()
    );
    stop(fourth, &target);
}

/// A target that takes I/O and does not answer costs reads their patience, and nobody else anything.
#[test]
#[ignore = "guest: an NVMe over fabrics target"]
fn a_target_that_stalls_is_missed_and_memory_serves_on() {
    const COUNT: usize = 320;
    let target = Target::export("tcp", &drive()).expect("exported");
    let dir = new_dir();
    let server = server(&dir, &["--flash-wait-ms-max", "1000"]);
    let mut raw = Raw::to(&server);
    attach(&mut raw, &target, &["FORMAT"]);
    fill(&mut raw, COUNT);
    let before = look(&mut raw, COUNT);
    raw.set("in-memory", "v");
    target.stall().expect("stalls");
    let begun = Instant::now();
    // The oldest lie on flash alone.
    let missed = (0..5).filter(|number| raw.ask(&["GET", &format!("fill:{number}")]) == Value::Nil).count();
    let took = begun.elapsed();
    assert!(missed > 0 && took < patience(Duration::from_secs(10)), "{missed} missed within {took:?}");
    assert_eq!(raw.ask(&["GET", "in-memory"]).text(), "v");
    target.go_on().expect("goes on");
    until("it is used again", BACK_MAX, || state(&mut raw) == "online" && look(&mut raw, 20) == 20.min(before));
    println!("{missed} of 5 reads missed, after {took:?} in all; {before} of {COUNT} objects were there");
    stop(server, &target);
}
