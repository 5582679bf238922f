//! Clients that are killed or stopped: short campaigns, and the single cases by which a broken one is understood.
//!
//! The long ones, a thousand victims each: `fault-campaign --runs 1000 --transport shm|tcp|inband --fault both`.

use protocol::base::Crc;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tests::campaign::{Fault, Plan, Summary, Way, run};
use tests::info::{Memory, memory, quiet_within};
use tests::server::until;
use tests::{Raw, Server, payload};

/// `FAULT_SEED` plays a campaign again.
fn seed() -> u64 {
    let seed = std::env::var("FAULT_SEED").ok().map(|text| text.parse().expect("FAULT_SEED is a number"));
    seed.unwrap_or_else(rand::random)
}

fn campaign(way: Way) -> Summary {
    let seed = seed();
    let plan = Plan {
        program: PathBuf::from(env!("CARGO_BIN_EXE_fault-campaign")),
        runs: 40,
        seed,
        way,
        fault: Fault::Both,
        at_once: 20,
        grant: Duration::from_millis(1000),
        lease: Duration::from_millis(1500),
        progress: Duration::from_millis(if way == Way::Inband { 1500 } else { 5000 }),
        server: Vec::new(),
    };
    let summary = run(&plan, |_| {}).unwrap_or_else(|error| panic!("FAULT_SEED={seed}: {error:#}"));
    println!("seed {seed}: {summary}");
    assert_eq!(summary.killed + summary.stopped, 40);
    assert!(summary.evicted > 0, "seed {seed}: no memory was reused under pressure: {summary}");
    assert!(summary.operations > 100, "seed {seed}: bystanders did next to nothing: {summary}");
    summary
}

#[test]
fn victims_on_shared_memory_harm_nobody() {
    let summary = campaign(Way::Shm);
    assert!(summary.told.contains_key("STALE"), "nobody slept through a lease: {summary}");
}

#[test]
fn victims_on_bulk_tcp_harm_nobody() {
    let summary = campaign(Way::Tcp);
    assert!(summary.told.contains_key("STALE"), "nobody slept through a lease: {summary}");
}

#[test]
fn victims_in_band_harm_nobody() {
    campaign(Way::Inband);
}

/// What a campaign goes by shows what is held, to the byte: one that finds nothing wrong could.
#[test]
fn a_campaign_notices_memory_that_does_not_come_back() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut raw = Raw::to(&server);
    raw.set("k", vec![7; 100_000]);
    assert!(raw.ask(&["LEASE", "k", "60000"]).has("lease"));
    assert_eq!(raw.ask(&["DEL", "k"]).number(), 1);
    let held = memory(&server);
    assert!(!held.is_quiet() && held.sums_up(), "{held:?}");
    assert!(!Memory { used: held.used + 1, ..held }.sums_up(), "a byte too many is seen");
}

#[test]
fn a_stopped_client_holds_its_grant_to_the_deadline_and_its_lease_to_its_end() {
    let server = Server::start(&["--dram", "64 MiB", "--grant-ms", "400"]);
    // Stopped is a client that does nothing.
    let mut stopped = Raw::to(&server);
    stopped.set("k", payload::make(b"k", 1, 100_000));
    let began = Instant::now();
    let grant = stopped.ask(&["PUT", "j", "LEN", "100000"]);
    let lease = stopped.ask(&["LEASE", "k", "700"]);
    let mut other = Raw::to(&server);
    assert_eq!(other.ask(&["DEL", "k"]).number(), 1);
    until("the grant ends", Duration::from_millis(1400), || memory(&server).grants == 0);
    let (at, held) = (began.elapsed(), memory(&server));
    assert!(at >= Duration::from_millis(400), "not before the deadline, but after {at:?}");
    assert!(at >= Duration::from_millis(700) || (held.leases == 1 && held.doomed > 0), "and not the lease: {held:?}");
    quiet_within(&server, Duration::from_millis(1700).saturating_sub(began.elapsed()));
    assert!(began.elapsed() >= Duration::from_millis(700), "not before the end of the lease");
    // It goes on.
    let crc = Crc::of(&[0; 100_000]).to_string();
    assert!(stopped.ask(&["COMMIT", grant.field("grant").text(), "CRC", &crc]).is_error("NOGRANT"));
    assert!(stopped.ask(&["RENEW", lease.field("lease").text(), "1000"]).is_error("NOLEASE"));
    assert_eq!(stopped.ask(&["RELEASE", lease.field("lease").text()]).number(), 0);
}
