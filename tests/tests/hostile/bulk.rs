//! Bulk connections: frames that are none, of others, past the end, late, or not finished.

use crate::assert_serves;
use protocol::base::{Crc, GrantId};
use std::time::{Duration, Instant};
use tests::bulk::{RawBulk, attach, bulk_header, grant_of, lease_of};
use tests::info::{memory, quiet_within};
use tests::server::until;
use tests::{Raw, Server, Value};
use transport::tcp::frame::{PIECE_LEN_MAX, Request, Status, Token};

#[test]
fn only_a_token_opens_a_bulk_connection() {
    let server = Server::start(&["--dram", "64 MiB", "--progress-ms", "300"]);
    let mut raw = Raw::to(&server);
    let (token, addr) = attach(&mut raw).expect("attached");
    let denied = |bytes: &[u8], what: &str| {
        let mut bulk = RawBulk::connect(addr).expect("accepted");
        bulk.send(bytes).expect("sent");
        let answer = bulk.recv().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(answer.status, Status::Denied, "{what}");
        assert_eq!(bulk.ends().expect("it ends"), b"", "{what}");
    };
    denied(&bulk_header(1, Request::Hello { token: Token([7; 16]) }), "a wrong token");
    denied(&bulk_header(1, Request::Ping), "no hello");
    denied(&bulk_header(1, Request::Read { lease: lease_id(1), offset: 0, length: 1 }), "a read before hello");

    let header = bulk_header(1, Request::Hello { token });
    for (at, what) in [(0, "a wrong magic"), (4, "a wrong version"), (5, "no such op"), (50, "a reserved byte")] {
        let mut bytes = header;
        bytes[at] ^= 0x40;
        let mut bulk = RawBulk::connect(addr).expect("accepted");
        bulk.send(&bytes).expect("sent");
        assert_eq!(bulk.ends().expect("it ends"), b"", "{what}");
    }
    let mut silent = RawBulk::connect(addr).expect("accepted");
    let mut half = RawBulk::connect(addr).expect("accepted");
    half.send(&header[..40]).expect("sent");
    assert_eq!(silent.ends().expect("one that says nothing is closed"), b"");
    assert_eq!(half.ends().expect("half a hello is closed"), b"");
    let mut bulk = RawBulk::open(addr, token).expect("the right one opens");
    drop(raw);
    bulk.ends().expect("it ends with its session");
    let mut late = RawBulk::connect(addr).expect("accepted");
    late.send(&header).expect("sent");
    assert_eq!(late.recv().expect("answered").status, Status::Denied, "a token dies with its session");
}

fn lease_id(number: u64) -> protocol::base::LeaseId {
    protocol::base::LeaseId(number)
}

#[test]
fn a_malformed_frame_ends_the_connection_and_not_the_session() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut raw = Raw::to(&server);
    let (token, addr) = attach(&mut raw).expect("attached");
    let good = bulk_header(1, Request::Ping);
    let with = |at: usize, bytes: &[u8]| {
        let mut header = good;
        header[at..at + bytes.len()].copy_from_slice(bytes);
        header
    };
    for (header, what) in [
        (with(0, b"HTTP"), "a wrong magic"),
        (with(4, &[2]), "a wrong version"),
        (with(5, &[0]), "op 0"),
        (with(5, &[5]), "op 5"),
        (with(6, &[1]), "a checksum where none belongs"),
        (with(7, &[0x80]), "an unknown flag"),
        (with(16, &[1]), "a ping with an id"),
        (with(63, &[1]), "the last reserved byte"),
        (
            {
                let mut header = with(5, &[2]);
                header[32..40].copy_from_slice(&(PIECE_LEN_MAX + 1).to_le_bytes());
                header
            },
            "a frame that is too long",
        ),
        (
            {
                let mut header = with(5, &[3]);
                header[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
                header
            },
            "a read of everything",
        ),
    ] {
        let mut bulk = RawBulk::open(addr, token).expect("open");
        bulk.send(&header).expect("sent");
        assert_eq!(bulk.ends().unwrap_or_else(|error| panic!("{what}: {error}")), b"", "{what}");
    }
    let mut again = RawBulk::open(addr, token).expect("open");
    again.send(&bulk_header(1, Request::Hello { token })).expect("sent");
    assert_eq!(again.recv().expect("answered").status, Status::Denied, "hello is said once");
    again.ends().expect("it ends");
    let mut bulk = RawBulk::open(addr, token).expect("the session lives");
    bulk.send(&good).expect("sent");
    assert_eq!(bulk.recv().expect("answered").status, Status::Done);
    assert!(raw.is_alive());
}

#[test]
fn what_lies_outside_a_grant_or_lease_is_refused_and_the_connection_stays_in_step() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut raw = Raw::to(&server);
    let (token, addr) = attach(&mut raw).expect("attached");
    let mut bulk = RawBulk::open(addr, token).expect("open");
    let neighbour = vec![7; 100_000];
    raw.set(b"neighbour", &neighbour[..]);
    let grant = raw.ask(&["PUT", "k", "LEN", "100000"]);
    let id = grant_of(&grant);
    for (offset, len) in [(1, 100_000), (100_000, 1), (100_001, 0), (u64::MAX, 1), (u64::MAX - 1, 70_000), (1 << 40, 5)]
    {
        let answer = bulk.write(id, offset, &vec![9; len]).expect("answered");
        assert_eq!(answer.status, Status::TooBig, "{len} bytes at {offset}");
    }
    for grant in [GrantId(0), GrantId(u64::MAX), GrantId(id.0 ^ 1 << 40)] {
        assert_eq!(bulk.write(grant, 0, &[9; 5000]).expect("answered").status, Status::NoGrant);
    }
    assert_eq!(bulk.write(id, 0, &[5; 100_000]).expect("answered").status, Status::Done);
    assert_eq!(bulk.write(id, 100_000, &[]).expect("answered").status, Status::Done, "nothing, at the end");
    let crc = Crc::of(&[5; 100_000]).to_string();
    assert!(raw.ask(&["COMMIT", grant.field("grant").text(), "CRC", &crc]).has("generation"));

    let lease = raw.ask(&["LEASE", "k", "10000"]);
    let id = lease_of(&lease);
    for (offset, len) in [(1, 100_000), (100_000, 1), (u64::MAX, 1), (1 << 40, 5)] {
        let (answer, bytes) = bulk.read(id, offset, len).expect("answered");
        assert_eq!((answer.status, bytes.len()), (Status::TooBig, 0), "{len} bytes at {offset}");
    }
    for lease in [lease_id(0), lease_id(u64::MAX), lease_id(id.0 ^ 1 << 40)] {
        assert_eq!(bulk.read(lease, 0, 5).expect("answered").0.status, Status::NoLease);
    }
    let (answer, bytes) = bulk.read(id, 99_990, 10).expect("answered");
    assert_eq!((answer.status, &bytes[..]), (Status::Done, &[5; 10][..]));
    assert_eq!(raw.ask(&["GET", "neighbour"]), Value::Bulk(neighbour));
}

#[test]
fn a_lease_of_another_session_or_that_ran_out_reads_nothing() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut raw = Raw::to(&server);
    let (token, addr) = attach(&mut raw).expect("attached");
    let mut bulk = RawBulk::open(addr, token).expect("open");
    let mut other = Raw::to(&server);
    raw.set("k", "v".repeat(50_000));
    let foreign = other.ask(&["LEASE", "k", "60000"]);
    assert_eq!(bulk.read(lease_of(&foreign), 0, 5).expect("answered").0.status, Status::NoLease);
    let lease = raw.ask(&["LEASE", "k", "100"]);
    let leased = Instant::now();
    assert_eq!(bulk.read(lease_of(&lease), 0, 5).expect("answered").0.status, Status::Done);
    until("the lease ends", Duration::from_millis(1100), || {
        bulk.read(lease_of(&lease), 0, 5).expect("answered").0.status == Status::NoLease
    });
    assert!(leased.elapsed() >= Duration::from_millis(99), "not before its end");
}

#[test]
fn a_frame_that_is_not_finished_ends_the_connection() {
    let server = Server::start(&["--dram", "64 MiB", "--progress-ms", "400", "--grant-ms", "60000"]);
    let mut raw = Raw::to(&server);
    let (token, addr) = attach(&mut raw).expect("attached");
    let grant = raw.ask(&["PUT", "k", "LEN", "100000"]);
    let header = bulk_header(1, Request::Write { grant: grant_of(&grant), offset: 0, length: 100_000, crc: None });
    let mut half_header = RawBulk::open(addr, token).expect("open");
    half_header.send(&header[..63]).expect("sent");
    let mut half_payload = RawBulk::open(addr, token).expect("open");
    half_payload.send(&header).expect("sent");
    half_payload.send(&[5; 50_000]).expect("sent");
    let mut refused = RawBulk::open(addr, token).expect("open");
    let foreign = Request::Write { grant: GrantId(7), offset: 0, length: 100_000, crc: None };
    refused.send(&bulk_header(1, foreign)).expect("sent");
    refused.send(&[5; 50_000]).expect("sent");
    let mut idle = RawBulk::open(addr, token).expect("open");
    for (bulk, what) in [
        (&mut half_header, "half a header"),
        (&mut half_payload, "half a payload"),
        (&mut refused, "half a refused one"),
    ] {
        bulk.socket.set_read_timeout(Some(Duration::from_secs(3))).expect("set");
        assert_eq!(bulk.ends().unwrap_or_else(|error| panic!("{what} is not closed: {error}")), b"", "{what}");
    }
    idle.send(&bulk_header(1, Request::Ping)).expect("sent");
    assert_eq!(idle.recv().expect("one that is between two frames lives on").status, Status::Done);
    // The grant is still there: the write that broke off took nothing with it.
    let mut bulk = RawBulk::open(addr, token).expect("open");
    assert_eq!(bulk.write(grant_of(&grant), 0, &[6; 100_000]).expect("answered").status, Status::Done);
    let crc = Crc::of(&[6; 100_000]).to_string();
    assert!(raw.ask(&["COMMIT", grant.field("grant").text(), "CRC", &crc]).has("generation"));
    assert_serves(&server);
}

#[test]
fn a_trickle_is_no_progress() {
    let server = Server::start(&["--dram", "64 MiB", "--progress-ms", "400", "--grant-ms", "60000"]);
    let mut raw = Raw::to(&server);
    let (token, addr) = attach(&mut raw).expect("attached");
    let grant = raw.ask(&["PUT", "k", "LEN", "100000"]);
    let header = bulk_header(1, Request::Write { grant: grant_of(&grant), offset: 0, length: 100_000, crc: None });
    let mut bulk = RawBulk::open(addr, token).expect("open");
    bulk.send(&header).expect("sent");
    let began = Instant::now();
    let mut closed = false;
    while began.elapsed() < Duration::from_secs(3) && !closed {
        std::thread::sleep(Duration::from_millis(20));
        closed = bulk.send(b"x").is_err();
    }
    assert!(closed, "a byte now and then keeps the slot for ever");
}

/// The slot of a write that is under way is nobody else's, and it is back soon after the grant's deadline, however
/// slowly the writer goes on.
#[test]
fn a_write_under_way_at_the_deadline_ends_there() {
    let server = Server::start(&["--dram", "64 MiB", "--grant-ms", "300"]);
    let mut raw = Raw::to(&server);
    let (token, addr) = attach(&mut raw).expect("attached");
    let mut bulk = RawBulk::open(addr, token).expect("open");
    let grant = raw.ask(&["PUT", "k", "LEN", "1000000"]);
    let granted = Instant::now();
    let header = bulk_header(1, Request::Write { grant: grant_of(&grant), offset: 0, length: 1_000_000, crc: None });
    bulk.send(&header).expect("sent");
    bulk.send(&[5; 400_000]).expect("sent");
    until("the slot is written", Duration::from_secs(1), || memory(&server).reserved > 0);
    // Stopped here. Nothing is reused before the deadline, all of it after.
    quiet_within(&server, Duration::from_millis(1300));
    assert!(granted.elapsed() >= Duration::from_millis(300), "not before the deadline");
    // Somebody else gets the memory; then the sleeper goes on.
    let others: Vec<Vec<u8>> =
        (0..40).map(|n| tests::payload::make(format!("o{n}").as_bytes(), n, 1_000_000)).collect();
    for (n, value) in others.iter().enumerate() {
        raw.set(format!("o{n}"), value);
    }
    bulk.send(&[6; 600_000]).expect("the rest is taken, and thrown away");
    assert_eq!(bulk.recv().expect("answered").status, Status::NoGrant);
    for n in 0..40 {
        let key = format!("o{n}");
        if let Value::Bulk(bytes) = raw.ask(&["GET", &key]) {
            tests::payload::check(key.as_bytes(), &bytes).unwrap_or_else(|wrong| panic!("{wrong}"));
        }
    }
    assert_eq!(bulk.write(grant_of(&grant), 0, b"late").expect("in step").status, Status::NoGrant);
    assert!(raw.ask(&["COMMIT", grant.field("grant").text(), "CRC", "00000000"]).is_error("NOGRANT"));
}

/// A reader that asked in time and does not take what it asked for holds the object no longer than its lease.
#[test]
fn a_read_that_is_not_taken_ends_with_its_lease() {
    let server = Server::start(&["--dram", "256 MiB", "--progress-ms", "30000"]);
    let mut raw = Raw::to(&server);
    let (token, addr) = attach(&mut raw).expect("attached");
    let mut bulk = RawBulk::open(addr, token).expect("open");
    let value = vec![7; 12 << 20];
    raw.set(b"k", &value[..]);
    let lease = raw.ask(&["LEASE", "k", "300"]);
    bulk.send(&bulk_header(1, Request::Read { lease: lease_of(&lease), offset: 0, length: 12 << 20 })).expect("sent");
    assert_eq!(raw.ask(&["DEL", "k"]).number(), 1);
    assert!(memory(&server).doomed > 0, "held by the read, and by the lease");
    quiet_within(&server, Duration::from_millis(1300));
    bulk.ends().expect("half a frame cannot be taken back: the connection ends");
    assert!(raw.is_alive());
}

#[test]
fn writes_that_overlap_are_one_writers_at_a_time() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut raw = Raw::to(&server);
    let (token, addr) = attach(&mut raw).expect("attached");
    let (mut one, mut two) = (RawBulk::open(addr, token).expect("open"), RawBulk::open(addr, token).expect("open"));
    let grant = raw.ask(&["PUT", "k", "LEN", "100000"]);
    let id = grant_of(&grant);
    one.send(&bulk_header(1, Request::Write { grant: id, offset: 0, length: 50_000, crc: None })).expect("sent");
    one.send(&[1; 100]).expect("sent");
    // Nothing tells that it has begun; the other write before it would be right too.
    std::thread::sleep(Duration::from_millis(100));
    until("the other write is refused", Duration::from_secs(2), || {
        two.write(id, 49_999, &[2; 10]).expect("answered").status == Status::Busy
    });
    assert_eq!(two.write(id, 50_000, &[2; 50_000]).expect("answered").status, Status::Done, "beside it is free");
    let crc = Crc::of(&[&[1; 50_000][..], &[2; 50_000]].concat()).to_string();
    let words = ["COMMIT", grant.field("grant").text(), "CRC", &crc];
    assert!(raw.ask(&words).is_error("BUSY"), "not while it is written");
    one.send(&[1; 49_900]).expect("sent");
    assert_eq!(one.recv().expect("answered").status, Status::Done);
    assert!(raw.ask(&words).has("generation"));
}
