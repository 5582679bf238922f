//! What a restart finds again: after a clean end, after a kill, and what it must not find.

use super::{LENS, bytes, fill, info, is_there, key, server, shut_down};
use client::{Choice, Client, Options, PutOptions};
use tests::server::Mark;
use tests::{Raw, Server, Value};

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Clean,
    NoSave,
    Kill,
}

fn end(mut server: Server, how: End) -> Server {
    match how {
        End::Clean => shut_down(&mut server, &[]),
        End::NoSave => shut_down(&mut server, &["NOSAVE"]),
        End::Kill => server.kill(),
    }
    server.restart()
}

/// A clean end writes what lies in DRAM only: everything is there again.
#[test]
fn a_clean_restart_finds_everything() {
    let mut server = server("256 MiB", &[]);
    let mut raw = Raw::to(&server);
    let count = fill(&mut raw, 128 << 20);
    for _ in 0..2 {
        server = end(server, End::Clean);
        let mut raw = Raw::to(&server);
        assert_eq!(raw.ask(&["DBSIZE"]).number(), count as u64);
        for number in 0..count {
            assert!(is_there(&mut raw, number, 1), "{} of {count}", key(number));
        }
    }
}

/// Whatever had reached flash is there after a kill, and nothing else than what was written.
#[test]
fn what_had_reached_flash_survives_a_kill() {
    for how in [End::Kill, End::NoSave] {
        let server = server("256 MiB", &[]);
        let mut raw = Raw::to(&server);
        let count = fill(&mut raw, 128 << 20);
        let on_flash = info(&mut raw, "flash_objects");
        let server = end(server, how);
        let mut raw = Raw::to(&server);
        let found = (0..count).filter(|&number| is_there(&mut raw, number, 1)).count() as u64;
        assert!(found >= on_flash, "{how:?}: {found} of {on_flash} that lay on flash, of {count}");
        assert!(found > count as u64 / 4, "{how:?}: {found} of {count}");
        assert_eq!(raw.ask(&["DBSIZE"]).number(), found);
    }
}

/// Deleted, replaced, expired and flushed objects stay so, whatever the end.
#[test]
fn the_dead_stay_dead() {
    for how in [End::Kill, End::Clean] {
        let server = server("256 MiB", &[]);
        let mut raw = Raw::to(&server);
        let count = fill(&mut raw, 128 << 20);
        let mut lives = vec![Some(1u64); count];
        for (number, life) in lives.iter_mut().enumerate() {
            let name = key(number);
            match number % 5 {
                0 => {
                    assert_eq!(raw.ask(&["DEL", &name]).number(), 1, "{name}");
                    *life = None;
                }
                1 => {
                    raw.set(&name, bytes(number, 2));
                    *life = Some(2);
                }
                2 => {
                    assert_eq!(raw.ask(&["PEXPIRE", &name, "1"]).number(), 1, "{name}");
                    *life = None;
                }
                3 => assert_eq!(raw.ask(&["EXPIRE", &name, "1000"]).number(), 1, "{name}"),
                _ => {}
            }
        }
        let server = end(server, how);
        let mut raw = Raw::to(&server);
        for (number, life) in lives.into_iter().enumerate() {
            let name = key(number);
            let there = match life {
                None => {
                    assert_eq!(raw.ask(&["GET", &name]), Value::Nil, "{how:?}: {name} is back from the dead");
                    continue;
                }
                // A version of before would fail the check.
                Some(version) => is_there(&mut raw, number, version),
            };
            assert!(there || how == End::Kill, "{name} is gone after a clean end");
            if there && number % 5 == 3 {
                let ttl = raw.ask(&["TTL", &name]).number();
                assert!((900..=1000).contains(&ttl), "{how:?}: {name} lives for {ttl} s");
            }
        }
        assert_eq!(raw.ask(&["FLUSHALL"]).text(), "OK");
        raw.set("after", "the flush");
        let server = end(server, how);
        let mut raw = Raw::to(&server);
        let left = raw.ask(&["DBSIZE"]).number();
        assert!(left <= 1, "{how:?}: {left} objects outlive FLUSHALL");
        if how == End::Clean {
            assert_eq!(raw.ask(&["GET", "after"]), Value::Bulk(b"the flush".to_vec()));
        }
    }
}

/// An object that was replaced never shows its earlier value, however often the server is killed in between.
#[test]
fn no_kill_brings_an_earlier_value_back() {
    let mut server = server("256 MiB", &[]);
    for version in 1..5 {
        let mut raw = Raw::to(&server);
        for number in 0..60 {
            let name = key(number);
            match raw.ask(&["GET", &name]) {
                Value::Nil => {}
                found => {
                    let found = if let Value::Bulk(found) = found { found } else { panic!("{name}: {found:?}") };
                    // The last one was either on flash or in DRAM only; one before it was replaced.
                    assert!(found == bytes(number, version - 1), "{name} in round {version}");
                }
            }
            raw.set(&name, bytes(number, version));
        }
        // Push them out, some further than others.
        for filler in 0..40 {
            raw.set(format!("filler:{version}:{filler}"), vec![7; 1 << 20]);
        }
        server = end(server, End::Kill);
    }
}

/// `DURABLE` means that a kill at the very next moment loses nothing.
#[test]
fn a_durable_commit_survives_a_kill() {
    let mut server = server("256 MiB", &[]);
    for round in 0..3 {
        for via in [Choice::Shm, Choice::Tcp] {
            let address = server.addr().to_string().parse().expect("an address");
            let mut client = Client::connect(Options::new(address).via(via)).expect("connected");
            let options = PutOptions { durable: true, replace: true, ..PutOptions::default() };
            for number in 0..LENS.len() {
                let put = client.put(key(number).as_bytes(), &bytes(number, round), &options);
                put.unwrap_or_else(|error| panic!("{via:?}: {} in round {round}: {error}", key(number)));
            }
            drop(client);
            server = end(server, End::Kill);
            let mut raw = Raw::to(&server);
            for number in 0..LENS.len() {
                assert!(is_there(&mut raw, number, round), "{via:?}: {} of round {round} is gone", key(number));
            }
        }
    }
}

/// A commit in two steps and in batches, and its repetition, are durable too.
#[test]
fn commits_of_durable_grants_can_be_repeated() {
    let server = server("256 MiB", &[]);
    let mut raw = Raw::to(&server);
    let (token, bulk) = tests::bulk::attach(&mut raw).expect("attached");
    let mut bulk = tests::bulk::RawBulk::open(bulk, token).expect("open");
    let value = bytes(3, 1);
    let granted = raw.ask(&["PUT", &key(3), "LEN", &value.len().to_string(), "VIA", "tcp", "DURABLE"]);
    let grant = granted.field("grant").text().to_owned();
    bulk.write(tests::bulk::grant_of(&granted), 0, &value).expect("written");
    let crc = protocol::base::Crc::default().extend(&value).to_string();
    let committed = raw.ask(&["COMMIT", &grant, "CRC", &crc]);
    assert_eq!(committed.field("length").number(), value.len() as u64);
    assert_eq!(raw.ask(&["COMMIT", &grant, "CRC", &crc]), committed, "the same again");
    let server = end(server, End::Kill);
    assert!(is_there(&mut Raw::to(&server), 3, 1));
}

/// Without a flash tier nothing is promised.
#[test]
fn durable_is_denied_where_there_is_no_flash() {
    let server = Server::start(&super::DRAM);
    let mut raw = Raw::to(&server);
    assert!(raw.ask(&["PUT", "k", "LEN", "5", "DURABLE"]).is_error("DENIED"));
    assert!(raw.ask(&["TIER", "ATTACH", "/nowhere", "64MiB"]).is_error("DENIED"));
}

/// Pins are promises: they hold over a restart.
#[test]
fn pins_are_kept_over_restarts() {
    let mut server = server("256 MiB", &[]);
    let mut raw = Raw::to(&server);
    let count = fill(&mut raw, 16 << 20);
    for number in 0..count.min(6) {
        assert_eq!(raw.ask(&["PIN", &key(number)]).number(), 1);
    }
    assert_eq!(raw.ask(&["PIN", &key(0)]).number(), 2);
    assert_eq!(raw.ask(&["PIN", &key(1), "TTL", "600000"]).number(), 2);
    assert_eq!(raw.ask(&["UNPIN", &key(2)]).number(), 0);
    for how in [End::Clean, End::Kill] {
        server = end(server, how);
        let mut raw = Raw::to(&server);
        for (number, pins) in [(0, 2), (1, 2), (3, 1), (5, 1)] {
            assert_eq!(raw.ask(&["STAT", &key(number)]).field("pins").number(), pins, "{how:?}: {}", key(number));
        }
        let unpinned = raw.ask(&["STAT", &key(2)]);
        assert!(unpinned == Value::Nil || unpinned.field("pins").number() == 0, "{how:?}: {unpinned:?}");
        // Whatever is written now, they stay.
        for filler in 0..300 {
            raw.set(format!("filler:{filler}"), vec![7; 1 << 20]);
        }
        for number in [0, 1, 3, 4, 5] {
            assert!(is_there(&mut raw, number, 1), "{how:?}: {} was pinned", key(number));
        }
    }
}

/// Generations go on where they were: a locator of before means nothing after.
#[test]
fn generations_never_come_again() {
    let mut server = server("64 MiB", &[]);
    let mut last = 0;
    for _ in 0..3 {
        let mut raw = Raw::to(&server);
        raw.set("k", "v");
        let generation = raw.ask(&["STAT", "k"]).field("generation").number();
        assert!(generation > last, "{generation} after {last}");
        last = generation;
        server = end(server, End::Kill);
    }
}

/// From listening on, a client is told to wait or is served, and `INFO` says which.
#[test]
fn clients_are_told_to_wait_while_the_tier_is_recovered() {
    let mut server = server("256 MiB", &[]);
    let mut raw = Raw::to(&server);
    let count = fill(&mut raw, 128 << 20);
    shut_down(&mut server, &[]);
    let (dir, args) = (server.shared_dir(), server.args().to_vec());
    drop(server);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let server = Server::try_start(dir, &args, Mark::Listening).expect("it listens");
    let mut raw = Raw::to(&server);
    loop {
        // Asked first: a node that loads now may serve by the time of the next question.
        let reply = raw.ask(&["GET", &key(0)]);
        assert!(raw.ask(&["INFO", "persistence"]).text().contains("loading:"));
        assert_eq!(raw.ask(&["PING"]).text(), "PONG");
        assert_eq!(raw.ask(&["CONFIG", "GET", "dram"]).items().len(), 2);
        if reply.is_error("LOADING") {
            continue;
        }
        assert!(reply == Value::Bulk(bytes(0, 1)), "the first answer that is none to wait is right");
        break;
    }
    assert!(raw.ask(&["INFO", "persistence"]).text().contains("loading:0"));
    for number in 0..count {
        assert!(is_there(&mut raw, number, 1), "{} of {count}", key(number));
    }
}
