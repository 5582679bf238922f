//! Nonsense of every kind at once, from a seed: mutated requests, frames and rings, connections that end anywhere. The
//! server lives, nobody reads a wrong byte, and in the end nothing is held.
//!
//! `ROBUSTNESS_SECONDS=600 cargo test --profile proof -p mooncake-tests --test robustness` goes on for longer;
//! `ROBUSTNESS_SEED` begins as a run before did.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rustix::fd::AsFd as _;
use std::io;
use std::time::{Duration, Instant};
use tests::bulk::{RawBulk, attach, bulk_header};
use tests::info::{Memory, alone, private_bytes, quiet_within};
use tests::shm::{RawShm, sealed_memfd};
use tests::wire::request;
use tests::{Raw, Server, Value, payload};
use transport::tcp::frame::Request;

const WORDS: &[&str] = &[
    "GET",
    "SET",
    "MGET",
    "MSET",
    "PUT",
    "MPUT",
    "COMMIT",
    "MCOMMIT",
    "ABORT",
    "LEASE",
    "MLEASE",
    "RENEW",
    "RELEASE",
    "MRELEASE",
    "LOOKUP",
    "PIN",
    "UNPIN",
    "STAT",
    "DEL",
    "EXISTS",
    "EXPIRE",
    "PERSIST",
    "TTL",
    "SCAN",
    "KEYS",
    "TYPE",
    "OBJECT",
    "ENCODING",
    "GETRANGE",
    "STRLEN",
    "ATTACH",
    "SHM",
    "TCP",
    "BUFFERS",
    "DETACH",
    "HELLO",
    "2",
    "3",
    "CLIENT",
    "LIST",
    "INFO",
    "ID",
    "REPLY",
    "OFF",
    "ON",
    "SKIP",
    "COMMAND",
    "DOCS",
    "CONFIG",
    "RESETSTAT",
    "MEMORY",
    "USAGE",
    "STATS",
    "LEN",
    "VIA",
    "shm",
    "tcp",
    "CRC",
    "FROM",
    "REPLACE",
    "TTL",
    "PARENT",
    "SOFTPIN",
    "BYTES",
    "NX",
    "XX",
    "GET",
    "EX",
    "PX",
    "KEEPTTL",
    "MATCH",
    "COUNT",
    "a",
    "b",
    "c",
    "k1",
    "k2",
    "0",
    "1",
    "-1",
    "5",
    "100",
    "5000",
    "100000",
    "4294967295",
    "9223372036854775807",
    "18446744073709551615",
    "00000000",
    "3610a686",
    "ffffffffffffffff",
    "",
    "*",
];

/// Keys whose values are right, whatever anybody else does.
const KEPT: usize = 16;

fn kept_key(at: usize) -> String {
    format!("kept-by-its-owner:{at}")
}

/// A request of words that are known, in no order.
fn sentence(rng: &mut StdRng) -> Vec<u8> {
    let words: Vec<Vec<u8>> = (0..rng.random_range(1..12))
        .map(|at| match rng.random_range(0..20) {
            0 if at > 0 => vec![rng.random(); rng.random_range(0..40_000)],
            1 => (0..rng.random_range(0..40)).map(|_| rng.random()).collect(),
            _ => WORDS.choose(rng).expect("there are words").as_bytes().to_vec(),
        })
        .collect();
    request(&words)
}

fn mutate(rng: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.random_range(0..4) {
        let at = rng.random_range(0..bytes.len().max(1));
        match rng.random_range(0..5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), rng.random()),
            2 if !bytes.is_empty() => bytes[at] = *b"*$:\r\n0179-".choose(rng).expect("some"),
            3 if !bytes.is_empty() => bytes[at] ^= 1 << rng.random_range(0..8),
            _ if at < bytes.len() => drop(bytes.remove(at)),
            _ => {}
        }
    }
}

/// What comes back is thrown away, unless nothing comes.
fn listen(raw: &mut Raw, rng: &mut StdRng) {
    let _ = raw.set_patience(Duration::from_millis(rng.random_range(1..20)));
    while raw.fill().is_ok_and(|count| count > 0) {}
}

fn talk(server: &Server, rng: &mut StdRng) -> io::Result<()> {
    let mut raw = if rng.random() { Raw::to(server) } else { Raw::unix(&server.socket())? };
    for _ in 0..rng.random_range(1..30) {
        let mut bytes = sentence(rng);
        if rng.random_ratio(1, 6) {
            mutate(rng, &mut bytes);
        }
        raw.send(&bytes)?;
    }
    if rng.random() {
        listen(&mut raw, rng);
    }
    Ok(())
}

fn talk_in_frames(server: &Server, rng: &mut StdRng) -> io::Result<()> {
    let mut raw = Raw::to(server);
    let (token, addr) = attach(&mut raw)?;
    let mut bulk = RawBulk::open(addr, token)?;
    bulk.socket.set_read_timeout(Some(Duration::from_millis(5)))?;
    let grant = raw.ask(&["PUT", "a", "LEN", "100000", "REPLACE"]);
    let lease = raw.ask(&["LEASE", &kept_key(0), "1000"]);
    for _ in 0..rng.random_range(1..10) {
        let id = if rng.random() { rng.random() } else { protocol::base::GrantId(rng.random()).0 };
        let grant = if grant.has("grant") && rng.random() { tests::bulk::grant_of(&grant).0 } else { id };
        let lease = if lease.has("lease") && rng.random() { tests::bulk::lease_of(&lease).0 } else { id };
        let (offset, length) = (rng.random_range(0..200_000), rng.random_range(0..200_000));
        let request = if rng.random() {
            Request::Write { grant: protocol::base::GrantId(grant), offset, length, crc: None }
        } else {
            Request::Read { lease: protocol::base::LeaseId(lease), offset, length }
        };
        let payload_len = usize::try_from(request.payload_len()).expect("short");
        let mut bytes = [&bulk_header(rng.random(), request)[..], &vec![rng.random(); payload_len]].concat();
        if rng.random_ratio(1, 4) {
            mutate(rng, &mut bytes);
        }
        bulk.send(&bytes)?;
        let mut waste = [0; 65_536];
        while rng.random() && io::Read::read(&mut bulk.socket, &mut waste).is_ok_and(|count| count > 0) {}
    }
    Ok(())
}

fn talk_in_a_ring(server: &Server, rng: &mut StdRng) -> io::Result<()> {
    let memory = sealed_memfd(1 << 20);
    let mut session = RawShm::attach(&server.socket(), &[memory.as_fd()])?;
    let mut tail = 0u64;
    for _ in 0..rng.random_range(1..10) {
        let mut bytes = sentence(rng);
        bytes.truncate(100_000);
        if rng.random_ratio(1, 6) {
            mutate(rng, &mut bytes);
        }
        if tail + bytes.len() as u64 > 256 << 10 {
            break;
        }
        session.write_ring(4096 + tail, &bytes);
        tail += bytes.len() as u64;
        session.write_ring(128, &tail.to_le_bytes());
        session.wake();
    }
    if rng.random_ratio(1, 4) {
        let at = *[0u64, 8, 12, 128, 256, 384, 512, 640, 768].choose(rng).expect("some");
        session.write_ring(at, &rng.random::<u64>().to_le_bytes());
        session.wake();
    }
    if rng.random() {
        listen(&mut session.raw, rng);
    }
    Ok(())
}

#[test]
fn nonsense_of_every_kind_harms_nobody() {
    let setting = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seed = setting("ROBUSTNESS_SEED").unwrap_or_else(rand::random);
    let span = Duration::from_secs(setting("ROBUSTNESS_SECONDS").unwrap_or(6));
    println!("ROBUSTNESS_SEED={seed}");
    let server =
        Server::start(&["--dram", "64 MiB", "--progress-ms", "500", "--grant-ms", "500", "--lease-ms-max", "2000"]);
    let mut admin = Raw::to(&server);
    for at in 0..KEPT {
        admin.set(kept_key(at), payload::make(kept_key(at).as_bytes(), 1, 20_000 * at + 16));
        // Not evicted, whatever the others fill memory with.
        assert_eq!(admin.ask(&["PIN", &kept_key(at)]).number(), 1);
    }
    let before = (alone(&server, &mut admin), private_bytes(server.pid()).expect("it runs"));
    let end = Instant::now() + span;
    let talks: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4u64)
            .map(|number| {
                let server = &server;
                scope.spawn(move || {
                    let mut rng = StdRng::seed_from_u64(seed ^ number);
                    let mut talks = 0;
                    while Instant::now() < end {
                        // That the server ends it is what they ask for.
                        let _ = match rng.random_range(0..4) {
                            0 => talk_in_frames(server, &mut rng),
                            1 => talk_in_a_ring(server, &mut rng),
                            _ => talk(server, &mut rng),
                        };
                        talks += 1;
                    }
                    assert!(Raw::to(server).is_alive(), "ROBUSTNESS_SEED={seed}: the server does not answer");
                    talks
                })
            })
            .collect();
        let mut rng = StdRng::seed_from_u64(seed);
        while Instant::now() < end {
            let key = kept_key(rng.random_range(0..KEPT));
            let Value::Bulk(bytes) = admin.ask(&["GET", &key]) else { panic!("ROBUSTNESS_SEED={seed}: {key} is gone") };
            payload::check(key.as_bytes(), &bytes).unwrap_or_else(|wrong| panic!("ROBUSTNESS_SEED={seed}: {wrong}"));
            let memory = Memory::ask(&mut admin).expect("answered");
            assert!(memory.used <= 64 << 20, "{memory:?}");
        }
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).sum()
    });
    println!("{talks} connections");
    quiet_within(&server, Duration::from_secs(4));
    assert_eq!(alone(&server, &mut admin), before.0, "ROBUSTNESS_SEED={seed}: descriptors");
    let grown = private_bytes(server.pid()).expect("it runs").saturating_sub(before.1);
    assert!(grown < 64 << 20, "ROBUSTNESS_SEED={seed}: {} MiB more", grown >> 20);
    let log = server.log();
    assert!(!log.contains("panicked"), "ROBUSTNESS_SEED={seed}:\n{log}");
}

/// `CLIENT NO-TOUCH ON`: reads are answered and counted, and leave no other trace.
#[test]
fn reads_that_must_not_touch_leave_no_trace() {
    for mode in ["copy", "arena"] {
        let server = Server::start(&["--dram", "64 MiB", "--shm-write", mode]);
        let mut raw = Raw::to(&server);
        raw.set("small", "value");
        raw.set("large", vec![7; 100_000]);
        let hits = |raw: &mut Raw, key: &str| raw.ask(&["STAT", key]).field("hits").number();
        assert_eq!(raw.ask(&["CLIENT", "NO-TOUCH", "ON"]).text(), "OK");
        for _ in 0..3 {
            assert_eq!(raw.ask(&["GET", "small"]).text(), "value");
            assert_eq!(raw.ask(&["GETRANGE", "small", "1", "2"]).text(), "al");
            let both = raw.ask(&["MGET", "large", "nosuch"]);
            assert_eq!(both.items(), [Value::Bulk(vec![7; 100_000]), Value::Nil]);
        }
        assert_eq!((hits(&mut raw, "small"), hits(&mut raw, "large")), (0, 0), "{mode}");
        let info = raw.ask(&["INFO", "stats"]);
        assert!(info.text().contains("keyspace_hits:9\r\n"), "{}", info.text());
        assert!(info.text().contains("keyspace_misses:3\r\n"), "{}", info.text());
        assert_eq!(raw.ask(&["CLIENT", "NO-TOUCH", "OFF"]).text(), "OK");
        assert_eq!(raw.ask(&["GET", "small"]).text(), "value");
        assert_eq!(hits(&mut raw, "small"), 1);
    }
}
