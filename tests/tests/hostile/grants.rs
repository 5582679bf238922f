//! Grants and leases: used twice, by others, late, or left.

use client::{Choice, Client, Options, PutOptions};
use protocol::base::Crc;
use protocol::resp::ErrorWord;
use std::time::{Duration, Instant};
use tests::bulk::{RawBulk, attach, bulk_header, grant_of};
use tests::info::{memory, quiet_within};
use tests::server::until;
use tests::{Raw, Server, Value};
use transport::tcp::frame::{Request, Status};

/// A connection with a bulk session.
fn bulk_session(server: &Server) -> (Raw, RawBulk) {
    let mut raw = Raw::to(server);
    let (token, addr) = attach(&mut raw).expect("attached");
    (raw, RawBulk::open(addr, token).expect("open"))
}

fn commit(raw: &mut Raw, grant: &Value, crc: Crc) -> Value {
    raw.ask(&["COMMIT", grant.field("grant").text(), "CRC", &crc.to_string()])
}

#[test]
fn a_wrong_checksum_publishes_nothing_and_gives_the_slot_back() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let (mut raw, mut bulk) = bulk_session(&server);
    let grant = raw.ask(&["PUT", "k", "LEN", "100000"]);
    let bytes = vec![5; 100_000];
    assert_eq!(bulk.write(grant_of(&grant), 0, &bytes).expect("answered").status, Status::Done);
    assert!(commit(&mut raw, &grant, Crc::of(&bytes[1..])).is_error("CRC"));
    assert_eq!(raw.ask(&["GET", "k"]), Value::Nil);
    let held = memory(&server);
    assert!(held.is_quiet() && held.sums_up(), "{held:?}");
    assert!(commit(&mut raw, &grant, Crc::of(&bytes)).is_error("NOGRANT"), "the slot is gone");
    // And of bytes that were never written, whatever lay there before.
    let grant = raw.ask(&["PUT", "k", "LEN", "100000"]);
    assert!(commit(&mut raw, &grant, Crc::of(&bytes[1..])).is_error("CRC"));
}

#[test]
fn a_commit_may_be_repeated_and_answers_the_same() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let (mut raw, mut bulk) = bulk_session(&server);
    let grant = raw.ask(&["PUT", "k", "LEN", "5"]);
    assert_eq!(bulk.write(grant_of(&grant), 0, b"hello").expect("answered").status, Status::Done);
    let first = commit(&mut raw, &grant, Crc::of(b"hello"));
    assert_eq!(first.field("generation"), grant.field("generation"));
    assert_eq!(commit(&mut raw, &grant, Crc::of(b"hello")), first);
    // Replaced since, and deleted: what was committed stays committed.
    raw.set("k", "other");
    assert_eq!(commit(&mut raw, &grant, Crc::of(b"hello")), first);
    assert_eq!(raw.ask(&["GET", "k"]).text(), "other", "a repetition publishes nothing");
    assert_eq!(bulk.write(grant_of(&grant), 0, b"evil!").expect("answered").status, Status::NoGrant);
    assert_eq!(raw.ask(&["ABORT", grant.field("grant").text()]).number(), 0);
}

#[test]
fn a_grant_is_its_sessions_alone() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let (mut raw, mut bulk) = bulk_session(&server);
    let (mut thief, mut thiefs_bulk) = bulk_session(&server);
    let grant = raw.ask(&["PUT", "k", "LEN", "5"]);
    assert_eq!(thiefs_bulk.write(grant_of(&grant), 0, b"evil!").expect("answered").status, Status::NoGrant);
    assert!(commit(&mut thief, &grant, Crc::of(b"hello")).is_error("NOGRANT"));
    assert_eq!(thief.ask(&["ABORT", grant.field("grant").text()]).number(), 0);
    assert_eq!(bulk.write(grant_of(&grant), 0, b"hello").expect("answered").status, Status::Done);
    assert!(commit(&mut raw, &grant, Crc::of(b"hello")).has("generation"));
    assert_eq!(raw.ask(&["GET", "k"]).text(), "hello");
}

#[test]
fn a_grant_is_given_back_once() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let (mut raw, mut bulk) = bulk_session(&server);
    let grant = raw.ask(&["PUT", "k", "LEN", "100000"]);
    assert!(memory(&server).reserved > 0);
    assert_eq!(raw.ask(&["ABORT", grant.field("grant").text()]).number(), 1);
    assert_eq!(raw.ask(&["ABORT", grant.field("grant").text()]).number(), 0);
    assert!(memory(&server).is_quiet());
    assert_eq!(bulk.write(grant_of(&grant), 0, b"late").expect("answered").status, Status::NoGrant);
    assert!(commit(&mut raw, &grant, Crc::of(b"")).is_error("NOGRANT"));
}

#[test]
fn of_two_writers_of_one_key_the_first_to_commit_wins() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let (mut one, mut ones_bulk) = bulk_session(&server);
    let (mut two, mut twos_bulk) = bulk_session(&server);
    let first = one.ask(&["PUT", "k", "LEN", "3"]);
    let second = two.ask(&["PUT", "k", "LEN", "3"]);
    assert_eq!(ones_bulk.write(grant_of(&first), 0, b"one").expect("answered").status, Status::Done);
    assert_eq!(twos_bulk.write(grant_of(&second), 0, b"two").expect("answered").status, Status::Done);
    assert!(commit(&mut two, &second, Crc::of(b"two")).has("generation"));
    assert!(commit(&mut one, &first, Crc::of(b"one")).is_error("EXISTS"));
    assert_eq!(one.ask(&["GET", "k"]).text(), "two");
    assert!(one.ask(&["PUT", "k", "LEN", "3"]).is_error("EXISTS"));
    assert!(one.ask(&["MPUT", "2", "k", "3", "j", "3"]).items()[0].is_error("EXISTS"));
    assert!(one.ask(&["PUT", "k", "LEN", "3", "REPLACE"]).has("grant"));
    drop((one, two));
    quiet_within(&server, Duration::from_secs(1));
}

#[test]
fn a_late_commit_is_refused_and_the_slot_is_back() {
    let server = Server::start(&["--dram", "64 MiB", "--grant-ms", "100"]);
    let (mut raw, mut bulk) = bulk_session(&server);
    let grant = raw.ask(&["PUT", "k", "LEN", "100000"]);
    assert_eq!(grant.field("deadline-ms").number(), 100);
    let bytes = vec![5; 100_000];
    assert_eq!(bulk.write(grant_of(&grant), 0, &bytes).expect("answered").status, Status::Done);
    quiet_within(&server, Duration::from_millis(1100));
    assert_eq!(bulk.write(grant_of(&grant), 0, &bytes).expect("answered").status, Status::NoGrant);
    assert!(commit(&mut raw, &grant, Crc::of(&bytes)).is_error("NOGRANT"));
    assert_eq!(raw.ask(&["GET", "k"]), Value::Nil);
}

/// A grant that ends `first_ms` after its `PUT` if it is not renewed, and was. On a slow machine it takes more than one.
fn renewed(raw: &mut Raw, first_ms: u64, length: usize) -> Value {
    loop {
        let asked = Instant::now();
        let grant = raw.ask(&["PUT", "k", "LEN", &length.to_string()]);
        let answer = raw.ask(&["RENEW", grant.field("grant").text(), "60000"]);
        if answer.is_error("NOGRANT") {
            assert!(asked.elapsed() >= Duration::from_millis(first_ms), "{answer:?}");
            continue;
        }
        assert!((1..=60_000).contains(&answer.number()), "{answer:?}");
        return grant;
    }
}

#[test]
fn a_renewed_grant_outlives_its_first_end() {
    const FIRST_MS: u64 = 300;
    let server = Server::start(&["--dram", "64 MiB", "--grant-ms", &FIRST_MS.to_string()]);
    let (mut raw, mut bulk) = bulk_session(&server);
    let grant = renewed(&mut raw, FIRST_MS, 100_000);
    let bytes = vec![5; 100_000];
    // One half is under way when the first end comes, the other is sent after it.
    let request = Request::Write { grant: grant_of(&grant), offset: 0, length: 100_000, crc: None };
    bulk.send(&bulk_header(1, request)).expect("sent");
    bulk.send(&bytes[..50_000]).expect("sent");
    std::thread::sleep(Duration::from_millis(FIRST_MS + 200));
    bulk.send(&bytes[50_000..]).expect("sent");
    assert_eq!(bulk.recv().expect("answered").status, Status::Done);
    assert_eq!(bulk.write(grant_of(&grant), 0, &bytes[..10]).expect("answered").status, Status::Done);
    assert!(commit(&mut raw, &grant, Crc::of(&bytes)).has("generation"));
    assert_eq!(raw.ask(&["STRLEN", "k"]).number(), 100_000);
    quiet_within(&server, Duration::from_secs(1));
}

/// A write that has begun is taken beyond the end that it began with.
#[test]
fn a_grant_is_renewed_while_it_is_written() {
    const FIRST_MS: u64 = 1000;
    let server = Server::start(&["--dram", "64 MiB", "--grant-ms", &FIRST_MS.to_string()]);
    let (mut raw, mut bulk) = bulk_session(&server);
    let bytes = vec![5; 100_000];
    let received = |raw: &mut Raw| {
        let info = raw.ask(&["INFO", "all"]);
        let found = info.text().lines().find_map(|line| line.strip_prefix("bulk_tcp_input_bytes:"));
        found.expect("a figure").trim().parse::<u64>().expect("a number")
    };
    loop {
        let before = received(&mut raw);
        let asked = Instant::now();
        let grant = raw.ask(&["PUT", "k", "LEN", "100000"]);
        let request = Request::Write { grant: grant_of(&grant), offset: 0, length: 100_000, crc: None };
        bulk.send(&bulk_header(1, request)).expect("sent");
        bulk.send(&bytes[..50_000]).expect("sent");
        until("the server has begun, or it is too late", Duration::from_secs(20), || {
            received(&mut raw) >= before + 50_000 || asked.elapsed() >= Duration::from_millis(FIRST_MS)
        });
        let renewed = raw.ask(&["RENEW", grant.field("grant").text(), "60000"]);
        std::thread::sleep(Duration::from_millis(FIRST_MS + 200));
        bulk.send(&bytes[50_000..]).expect("sent");
        let status = bulk.recv().expect("answered").status;
        if renewed.is_error("NOGRANT") {
            // The machine is slow: once more.
            assert!(asked.elapsed() >= Duration::from_millis(FIRST_MS));
            continue;
        }
        assert_eq!(status, Status::Done);
        assert!(commit(&mut raw, &grant, Crc::of(&bytes)).has("generation"));
        break;
    }
}

/// By the client library, over each transport that has grants.
#[test]
fn a_client_renews_what_it_writes_slowly() {
    const FIRST_MS: u64 = 300;
    let server = Server::start(&["--dram", "64 MiB", "--grant-ms", &FIRST_MS.to_string()]);
    let first = Duration::from_millis(FIRST_MS);
    let options = PutOptions { replace: true, ..PutOptions::default() };
    for via in [Choice::Shm, Choice::Tcp] {
        let address = server.addr().to_string().parse().expect("an address");
        let mut client = Client::connect(Options::new(address).via(via)).expect("connected");
        let bytes = vec![7; 100_000];
        loop {
            let asked = Instant::now();
            let mut grant = client.reserve(b"k", bytes.len() as u64, &options).expect("granted");
            client.write(&mut grant, 0, &bytes[..1000]).expect("written");
            if let Err(error) = client.renew_grant(&mut grant, Duration::from_secs(30)) {
                // The machine is slow: once more.
                assert!(error.word() == Some(ErrorWord::NoGrant) && asked.elapsed() >= first, "{via:?}: {error}");
                continue;
            }
            std::thread::sleep(first * 2);
            assert!(!grant.is_over());
            client.write(&mut grant, 1000, &bytes[1000..]).expect("written");
            client.commit(grant, Crc::of(&bytes)).unwrap_or_else(|error| panic!("{via:?}: {error}"));
            break;
        }
    }
}

#[test]
fn a_grant_lasts_a_minute_at_most_and_is_never_shortened() {
    let server = Server::start(&["--dram", "64 MiB", "--grant-ms", "60000"]);
    let mut raw = Raw::to(&server);
    let began = Instant::now();
    let grant = raw.ask(&["PUT", "k", "LEN", "100000"]);
    let granted = Instant::now();
    let name = grant.field("grant").text();
    std::thread::sleep(Duration::from_millis(30));
    for span in ["60000", "1"] {
        let asked = Instant::now();
        let left = Duration::from_millis(raw.ask(&["RENEW", name, span]).number());
        let (most, least) = (asked - granted, began.elapsed() + Duration::from_millis(2));
        let minute = Duration::from_secs(60);
        assert!(left <= minute - most + Duration::from_millis(2), "RENEW {span}: {left:?} after {most:?}");
        assert!(left >= minute - least, "RENEW {span}: {left:?} after {least:?}");
    }
    assert!(raw.ask(&["RENEW", name, "60001"]).is_error("TOOBIG"));
    assert!(raw.ask(&["RENEW", name, "0"]).is_error("ERR"));
    assert_eq!(raw.ask(&["ABORT", name]).number(), 1);
}

#[test]
fn only_ones_own_open_grant_is_renewed() {
    let server = Server::start(&["--dram", "64 MiB", "--grant-ms", "60000"]);
    let (mut raw, mut bulk) = bulk_session(&server);
    let mut thief = Raw::to(&server);
    let grant = raw.ask(&["PUT", "k", "LEN", "5"]);
    let name = grant.field("grant").text();
    assert!(thief.ask(&["RENEW", name, "1000"]).is_error("NOGRANT"));
    assert_eq!(bulk.write(grant_of(&grant), 0, b"hello").expect("answered").status, Status::Done);
    assert!(commit(&mut raw, &grant, Crc::of(b"hello")).has("generation"));
    assert!(raw.ask(&["RENEW", name, "1000"]).is_error("NOGRANT"), "it was used");
    let other = raw.ask(&["PUT", "j", "LEN", "5"]);
    assert_eq!(raw.ask(&["ABORT", other.field("grant").text()]).number(), 1);
    assert!(raw.ask(&["RENEW", other.field("grant").text(), "1000"]).is_error("NOGRANT"), "it was given back");
    assert!(raw.ask(&["RENEW", "0000000000000000", "1000"]).is_error("NOLEASE"));
    assert!(raw.ask(&["RENEW", "a grant", "1000"]).is_error("NOLEASE"));
}

#[test]
fn a_lease_is_of_what_is_there_and_its_sessions_alone() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut raw = Raw::to(&server);
    let mut thief = Raw::to(&server);
    assert_eq!(raw.ask(&["LEASE", "k", "1000"]), Value::Nil);
    assert_eq!(raw.ask(&["MLEASE", "1000", "k", "j"]).items(), [Value::Nil, Value::Nil]);
    raw.set("k", "v".repeat(100_000));
    let lease = raw.ask(&["LEASE", "k", "10000"]);
    let name = lease.field("lease").text();
    assert!(thief.ask(&["RENEW", name, "60000"]).is_error("NOLEASE"));
    assert_eq!(thief.ask(&["RELEASE", name]).number(), 0);
    assert_eq!(thief.ask(&["MRELEASE", name, name]).items(), [Value::Int(0), Value::Int(0)]);
    assert!(raw.ask(&["RENEW", name, "20000"]).number() >= 19_000);
    assert_eq!(raw.ask(&["RELEASE", name]).number(), 1);
    assert_eq!(raw.ask(&["RELEASE", name]).number(), 0);
    assert!(raw.ask(&["RENEW", name, "1000"]).is_error("NOLEASE"));
}

#[test]
fn a_lease_that_ran_out_cannot_be_renewed_and_holds_nothing() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut raw = Raw::to(&server);
    raw.set("k", "v".repeat(100_000));
    let lease = raw.ask(&["LEASE", "k", "150"]);
    assert_eq!(raw.ask(&["DEL", "k"]).number(), 1);
    let held = memory(&server);
    assert!(held.doomed >= 100_000 && held.leases == 1 && held.sums_up(), "{held:?}");
    quiet_within(&server, Duration::from_millis(1150));
    assert!(raw.ask(&["RENEW", lease.field("lease").text(), "1000"]).is_error("NOLEASE"));
    assert_eq!(memory(&server).live, 0);
}

#[test]
fn what_a_client_was_lent_ends_with_its_connection() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let (mut raw, mut bulk) = bulk_session(&server);
    raw.set("k", "v".repeat(100_000));
    assert!(raw.ask(&["LEASE", "k", "60000"]).has("lease"));
    let grant = raw.ask(&["PUT", "j", "LEN", "100000"]);
    assert_eq!(raw.ask(&["DEL", "k"]).number(), 1);
    let held = memory(&server);
    assert!(held.doomed > 0 && held.reserved > 0 && held.leases == 1 && held.grants == 1, "{held:?}");
    drop(raw);
    quiet_within(&server, Duration::from_secs(1));
    assert!(bulk.write(grant_of(&grant), 0, b"late").is_err(), "the bulk connection ended with its session");
}

#[test]
fn a_killed_connection_gives_back_what_it_was_lent() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut admin = Raw::to(&server);
    let (mut raw, mut bulk) = bulk_session(&server);
    let id = raw.ask(&["CLIENT", "ID"]).number().to_string();
    raw.set("k", "v".repeat(100_000));
    assert!(raw.ask(&["LEASE", "k", "60000"]).has("lease"));
    assert!(raw.ask(&["PUT", "j", "LEN", "100000"]).has("grant"));
    assert_eq!(admin.ask(&["DEL", "k"]).number(), 1);
    assert_eq!(admin.ask(&["CLIENT", "KILL", "ID", &id]).number(), 1);
    quiet_within(&server, Duration::from_secs(1));
    assert_eq!(raw.rest().expect("it ends"), b"");
    bulk.ends().expect("it ends too");
    until("the client is forgotten", Duration::from_secs(1), || {
        memory(&server).clients == 2 && memory(&server).bulk == 0
    });
}

#[test]
fn detaching_ends_what_was_lent_and_nothing_else() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let (mut raw, mut bulk) = bulk_session(&server);
    raw.set("k", "v");
    let lease = raw.ask(&["LEASE", "k", "60000"]);
    assert!(raw.ask(&["PUT", "j", "LEN", "100000"]).has("grant"));
    assert_eq!(raw.ask(&["DETACH"]).number(), 1);
    assert!(memory(&server).is_quiet());
    bulk.ends().expect("the bulk connection ends");
    assert!(raw.ask(&["RENEW", lease.field("lease").text(), "1000"]).is_error("NOLEASE"));
    assert_eq!(raw.ask(&["DETACH"]).number(), 0);
    let (token, addr) = attach(&mut raw).expect("again");
    RawBulk::open(addr, token).expect("open");
}

#[test]
fn one_client_cannot_reserve_more_than_its_share() {
    let server = Server::start(&["--dram", "64 MiB", "--grant-ms", "5000"]);
    let mut greedy = Raw::to(&server);
    let began = Instant::now();
    // A share is 5 %: three of 1 MiB and a bit.
    let taken = (0..50).filter(|n| greedy.ask(&["PUT", &format!("k{n}"), "LEN", "1000000"]).has("grant")).count();
    assert_eq!(taken, 3);
    assert!(greedy.ask(&["PUT", "one-more", "LEN", "1000000"]).is_error("QUOTA"));
    // One object is anybody's right, up to a quarter of all for all together.
    let mut others: Vec<Raw> = (0..10).map(|_| Raw::to(&server)).collect();
    let granted = others
        .iter_mut()
        .enumerate()
        .filter_map(|(n, raw)| raw.ask(&["PUT", &format!("o{n}"), "LEN", "4000000"]).has("grant").then_some(()));
    let granted = granted.count();
    assert!(began.elapsed() < Duration::from_secs(5), "the machine is too slow for this test");
    assert_eq!(granted, 3, "16 MiB less 3 MiB have room for three of 4 MB");
    crate::assert_serves(&server);
    drop((greedy, others));
    quiet_within(&server, Duration::from_secs(1));
}
