//! Every way to read finds what lies on flash.

use super::{LENS, bytes, fill, info, is_there, key, server};
use client::{Choice, Client, Options, PutOptions};
use std::time::Duration;
use tests::shm::RawShm;
use tests::{Raw, Server, Value};

fn client(server: &Server, via: Choice) -> Client {
    let address = server.addr().to_string().parse().expect("an address");
    let mut options = Options::new(address).via(via);
    options.deadline = Duration::from_secs(30);
    Client::connect(options).expect("connected")
}

/// Three times as much as DRAM holds, written and read by every way, in this order and in the reverse.
#[test]
fn what_dram_does_not_hold_is_read_back_by_every_way() {
    let server = server("512 MiB", &[]);
    let mut raw = Raw::to(&server);
    let mut writers = [Choice::Shm, Choice::Tcp].map(|via| client(&server, via));
    let (mut count, mut len) = (0, 0);
    while len < 192 << 20 {
        let value = bytes(count, 1);
        len += value.len();
        match count % 3 {
            2 => raw.set(key(count), &value),
            way => {
                let put = writers[way].put(key(count).as_bytes(), &value, &PutOptions::default());
                assert_eq!(put.expect("published").len, value.len() as u64);
            }
        }
        count += 1;
    }
    assert_eq!(raw.ask(&["DBSIZE"]).number(), count as u64);
    let mut readers = [Choice::Shm, Choice::Tcp, Choice::InBand].map(|via| client(&server, via));
    for number in (0..count).chain((0..count).rev()) {
        let expected = bytes(number, 1);
        let mut buffer = vec![0; expected.len()];
        if number % 4 == 3 {
            assert!(is_there(&mut raw, number, 1), "{} of {count}", key(number));
            continue;
        }
        let read = readers[number % 4].fetch(key(number).as_bytes(), &mut buffer).expect("read");
        let read = read.unwrap_or_else(|| panic!("{} of {count} is gone", key(number)));
        assert!(read.bytes() == expected, "{}", key(number));
    }
    assert_eq!(info(&mut raw, "evicted_keys"), 0, "nothing was forgotten");
    assert!(info(&mut raw, "flash_objects") > 0);
}

/// Facts of an object that lies on flash alone are told without reading it.
#[test]
fn an_object_on_flash_has_all_its_facts() {
    let server = server("256 MiB", &[]);
    let mut raw = Raw::to(&server);
    let count = fill(&mut raw, 128 << 20);
    let on_flash: Vec<usize> = (0..count)
        .filter(|&number| {
            let stat = raw.ask(&["STAT", &key(number)]);
            let replicas = stat.field("replicas").items();
            !replicas.is_empty() && replicas.iter().all(|replica| replica.field("tier").text() == "flash")
        })
        .collect();
    assert!(on_flash.len() > count / 4, "{} of {count} objects lie on flash alone", on_flash.len());
    let reads = |raw: &mut Raw| {
        let tiers = raw.ask(&["TIER", "LIST"]);
        tiers.items()[1].field("reads").number()
    };
    let before = reads(&mut raw);
    for &number in &on_flash {
        let name = key(number);
        let len = LENS[number % LENS.len()] as u64;
        assert_eq!(raw.ask(&["STRLEN", &name]).number(), len);
        assert_eq!(raw.ask(&["STAT", &name]).field("length").number(), len);
        assert_eq!(raw.ask(&["EXISTS", &name]).number(), 1);
        assert_eq!(raw.ask(&["TYPE", &name]).text(), "string");
        assert_eq!(raw.ask(&["TTL", &name]), Value::Int(-1));
        assert!(raw.ask(&["MEMORY", "USAGE", &name]).number() > 0);
        assert_eq!(raw.ask(&["OBJECT", "ENCODING", &name]).text(), "raw");
    }
    assert_eq!(reads(&mut raw), before, "flash was read for facts");
    // Parts, old values and whole batches are read from there.
    for &number in on_flash.iter().take(6) {
        let expected = bytes(number, 1);
        let part = raw.ask(&["GETRANGE", &key(number), "10", "-21"]);
        assert!(part == Value::Bulk(expected[10..expected.len() - 20].to_vec()), "a part of {}", key(number));
        let old = raw.ask(&["SET", &key(number), "new", "GET"]);
        assert!(old == Value::Bulk(expected), "the old value of {}", key(number));
        assert_eq!(raw.ask(&["GET", &key(number)]), Value::Bulk(b"new".to_vec()));
    }
    assert!(reads(&mut raw) > before);
    let mut words = vec!["MGET".to_owned()];
    let rest = &on_flash[6..on_flash.len().min(30)];
    for &number in rest {
        words.extend([key(number), "nosuch".to_owned()]);
    }
    let values = raw.ask(&words);
    for (at, &number) in rest.iter().enumerate() {
        assert!(values.items()[2 * at] == Value::Bulk(bytes(number, 1)), "{} in a batch", key(number));
        assert_eq!(values.items()[2 * at + 1], Value::Nil);
    }
}

/// Replies keep the order of requests, whatever each of them has to wait for.
#[test]
fn a_pipeline_over_both_tiers_keeps_its_order() {
    let server = server("256 MiB", &[]);
    let mut raw = Raw::to(&server);
    let count = fill(&mut raw, 96 << 20);
    let numbers: Vec<usize> = (0..60).map(|step| step * 7 % count).collect();
    let mut pipeline = Vec::new();
    for &number in &numbers {
        pipeline.extend(tests::wire::request(&["GET", &key(number)]));
        pipeline.extend(tests::wire::request(&["ECHO", &key(number)]));
    }
    raw.send(&pipeline).expect("sent");
    for &number in &numbers {
        assert!(raw.recv().expect("a reply") == Value::Bulk(bytes(number, 1)), "{}", key(number));
        assert_eq!(raw.recv().expect("a reply").text(), key(number));
    }
}

/// Leases, one by one, in batches and by prefix, bring objects into DRAM and hold them there.
#[test]
fn leases_bring_objects_into_dram() {
    let server = server("256 MiB", &[]);
    let mut raw = Raw::to(&server);
    let count = fill(&mut raw, 128 << 20);
    let mut shm = RawShm::attach(&server.socket(), &[]).expect("attached");
    let read = |shm: &RawShm, lease: &Value, number: usize| {
        assert!(shm.read(lease).expect("mapped") == bytes(number, 1), "{} under lease", key(number));
    };
    for number in 0..12 {
        let lease = shm.raw.ask(&["LEASE", &key(number), "10000", "VIA", "shm"]);
        read(&shm, &lease, number);
        assert_eq!(lease.field("deadline-ms").number(), 10_000);
        assert_eq!(shm.raw.ask(&["RELEASE", lease.field("lease").text()]).number(), 1);
    }
    let numbers: Vec<usize> = (12..30).collect();
    let mut words = vec!["MLEASE".to_owned(), "10000".to_owned(), "nosuch".to_owned()];
    words.extend(numbers.iter().map(|&number| key(number)));
    let leases = shm.raw.ask(&words);
    assert_eq!(leases.items()[0], Value::Nil);
    for (lease, &number) in leases.items()[1..].iter().zip(&numbers) {
        read(&shm, lease, number);
        shm.raw.ask(&["RELEASE", lease.field("lease").text()]);
    }
    // The prefix ends where a key is missing, and all of it is leased.
    let numbers: Vec<usize> = (30..44).collect();
    let mut words = vec!["LOOKUP".to_owned()];
    words.extend(numbers.iter().map(|&number| key(number)));
    words.extend(["nosuch", &key(0), "LEASE", "10000"].map(str::to_owned));
    let found = shm.raw.ask(&words);
    assert_eq!(found.field("prefix").number(), numbers.len() as u64);
    let len: usize = numbers.iter().map(|&number| LENS[number % LENS.len()]).sum();
    assert_eq!(found.field("bytes").number(), len as u64);
    assert_eq!(found.field("leases").items().len(), numbers.len());
    for (lease, &number) in found.field("leases").items().iter().zip(&numbers) {
        read(&shm, lease, number);
    }
    let tiers = found.field("tiers");
    assert_eq!(tiers.field("dram").number() + tiers.field("flash").number(), numbers.len() as u64);
    // Without leases nothing is read, and both tiers are told.
    let mut words = vec!["LOOKUP".to_owned()];
    words.extend((0..count).map(key));
    let found = shm.raw.ask(&words);
    assert_eq!(found.field("prefix").number(), count as u64);
    let tiers = found.field("tiers");
    assert!(tiers.field("flash").number() > 0 && tiers.field("dram").number() > 0, "{tiers:?}");
    assert_eq!(tiers.field("dram").number() + tiers.field("flash").number(), count as u64);
}

/// A client that leaves while flash is read for it takes nothing with it.
#[test]
fn clients_that_leave_in_the_middle_of_a_read_harm_nobody() {
    let server = server("256 MiB", &[]);
    let mut raw = Raw::to(&server);
    let count = fill(&mut raw, 128 << 20);
    for round in 0..40 {
        let mut other = Raw::to(&server);
        for number in 0..8 {
            let name = key((round * 8 + number) % count);
            let words = if number % 2 == 0 { vec!["GET", &name] } else { vec!["LEASE", &name, "10000"] };
            other.request(&words).expect("sent");
        }
        drop(other);
    }
    for number in 0..count {
        assert!(is_there(&mut raw, number, 1), "{} of {count}", key(number));
    }
    drop(raw);
    tests::info::quiet_within(&server, Duration::from_secs(5));
}
