//! Faults of the flash tier: short campaigns. The long ones are in `docs/faults.md`.
//!
//! Those that mount something need root, say so where they lack it, and pass.

use std::sync::{Mutex, MutexGuard};
use tests::flash_campaign::ledger::{Entry, Ledger};
use tests::flash_campaign::{
    Plan, Summary, faulty, forge, kill, limits, look_at_all, power, rot, scrub, slow, soak, warm,
};
use tests::sandbox::without_io_uring;
use tests::{Raw, Server, payload};

/// One at a time: each keeps the machine busy, and some measure.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// `FAULT_SEED` plays a campaign again.
fn plan(runs: usize) -> Plan {
    let seed = std::env::var("FAULT_SEED").ok().map(|text| text.parse().expect("FAULT_SEED is a number"));
    let seed = seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    Plan { runs, seed, server: Vec::new() }
}

fn report(plan: &Plan, outcome: anyhow::Result<Option<Summary>>) {
    match outcome {
        Ok(Some(summary)) => print!("{summary}"),
        // It has said why.
        Ok(None) => {}
        Err(error) => panic!("FAULT_SEED={}: {error:#}", plan.seed),
    }
}

#[test]
fn kills_lose_nothing_that_lay_on_flash() {
    let _alone = alone();
    let plan = plan(5);
    report(&plan, kill::run(&plan, |_| {}).map(Some));
}

/// The same where the kernel refuses io_uring, with the engine that is chosen then by itself.
#[test]
fn kills_lose_nothing_where_io_uring_is_refused() {
    let _alone = alone();
    let plan = plan(3);
    report(&plan, without_io_uring(|| kill::run(&plan, |_| {})).map(Some));
}

#[test]
fn power_cuts_lose_nothing_durable() {
    let _alone = alone();
    let plan = plan(4);
    report(&plan, power::run(&plan, |_| {}));
}

#[test]
fn flipped_bits_are_detected_or_harmless() {
    let _alone = alone();
    let plan = plan(200);
    report(&plan, rot::run(&plan, |_| {}).map(Some));
}

#[test]
fn a_device_that_lies_and_fails_is_found_out_and_taken_back() {
    let _alone = alone();
    let plan = plan(4);
    report(&plan, faulty::run(&plan, |_| {}));
}

#[test]
fn limits_are_errors_and_the_server_goes_on() {
    let _alone = alone();
    let plan = plan(1);
    report(&plan, limits::run(&plan, |_| {}));
}

#[test]
fn a_slow_device_costs_no_wrong_byte_and_no_server() {
    let _alone = alone();
    let plan = plan(1);
    report(&plan, slow::run(&plan, |_| {}));
}

#[test]
fn readers_beside_scrubs_get_what_was_written() {
    let _alone = alone();
    let plan = plan(1);
    report(&plan, scrub::run(&plan, |_| {}).map(Some));
}

/// Too short to say whether anything grows: that all of it can be had, and passes.
#[test]
fn trouble_of_all_kinds_leaves_a_server_at_rest() {
    let _alone = alone();
    let plan = plan(8);
    report(&plan, soak::run(&plan, None, |_| {}));
}

#[test]
fn values_that_look_like_records_stay_values() {
    let _alone = alone();
    let plan = plan(50);
    report(&plan, forge::run(&plan, |_| {}).map(Some));
}

/// What the campaigns go by finds wrong bytes, stale versions and lost promises.
#[test]
fn the_ledger_finds_what_must_not_be() {
    let server = Server::start(&[]);
    let mut raw = Raw::to(&server);
    let ledger = Ledger::new("k", 1);
    let set = |raw: &mut Raw, version| raw.set("k:0", payload::make(b"k:0", version, 100));
    for version in 1..=2 {
        assert_eq!(ledger.with(0, Entry::send), version);
        set(&mut raw, version);
        ledger.with(0, |entry| entry.wrote(version, version == 2));
    }
    let right = look_at_all(&server, &ledger, None).expect("right");
    assert_eq!((right.there, right.durable, right.durable_lost, right.stale), (1, 1, 0, 0));
    set(&mut raw, 1);
    assert_eq!(look_at_all(&server, &ledger, None).expect("right bytes").stale, 1);
    set(&mut raw, 3);
    assert!(look_at_all(&server, &ledger, None).is_err(), "never written");
    raw.set("k:0", payload::make(b"k:1", 2, 100));
    assert!(look_at_all(&server, &ledger, None).is_err(), "another key's");
    raw.ask(&["DEL", "k:0"]);
    assert_eq!(look_at_all(&server, &ledger, None).expect("a miss").durable_lost, 1);
}

#[test]
fn memory_is_taken_over_whole_or_not_at_all() {
    let _alone = alone();
    let plan = plan(24);
    report(&plan, warm::run(&plan, |_| {}));
}
