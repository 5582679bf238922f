//! Shared memory: descriptors that are no such memory, memory that changes, rings that lie, and clients that vanish.

use crate::assert_serves;
use protocol::base::{Crc, LeaseRecord};
use rustix::fd::{AsFd as _, BorrowedFd};
use rustix::fs::{FallocateFlags, SealFlags};
use std::time::Duration;
use tests::info::{alone, client_mappings, memory, quiet_within};
use tests::server::until;
use tests::shm::{RawShm, memfd, sealed_memfd};
use tests::{Raw, Server, Value, payload};

const MIB: u64 = 1 << 20;

#[test]
fn only_memory_that_cannot_change_its_length_is_adopted() {
    let server = Server::start(&["--dram", "64 MiB", "--shm-buffer-len-max", "8 MiB"]);
    let mut admin = Raw::to(&server);
    let before = alone(&server, &mut admin);
    let unsealed = memfd(MIB, SealFlags::empty());
    let shrinks = memfd(MIB, SealFlags::GROW);
    let grows = memfd(MIB, SealFlags::SHRINK);
    let empty = sealed_memfd(0);
    let too_large = sealed_memfd(8 * MIB + 4096);
    let huge = sealed_memfd(1 << 46);
    let good = sealed_memfd(MIB);
    let most = sealed_memfd(8 * MIB);
    let (pipe, _writer) = std::io::pipe().expect("a pipe");
    let file = tempfile::tempfile().expect("a file");
    file.set_len(MIB).expect("a length");
    let null = std::fs::File::open("/dev/null").expect("it is there");
    let dir = std::fs::File::open("/").expect("it is there");
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let refused: [(&str, &[BorrowedFd<'_>]); 13] = [
        ("unsealed", &[unsealed.as_fd()]),
        ("could shrink", &[shrinks.as_fd()]),
        ("could grow", &[grows.as_fd()]),
        ("empty", &[empty.as_fd()]),
        ("above the quota", &[too_large.as_fd()]),
        ("far above the quota", &[huge.as_fd()]),
        ("together above the quota", &[most.as_fd(), good.as_fd()]),
        ("one good, one not", &[good.as_fd(), unsealed.as_fd()]),
        ("a pipe", &[pipe.as_fd()]),
        ("an ordinary file", &[file.as_fd()]),
        ("a device", &[null.as_fd()]),
        ("a directory", &[dir.as_fd()]),
        ("a socket", &[socket.as_fd()]),
    ];
    let mut raw = Raw::unix(&server.socket()).expect("accepted");
    for (what, fds) in refused {
        let count = fds.len().to_string();
        let reply = RawShm::try_attach(&mut raw, &["ATTACH", "SHM", "BUFFERS", &count], fds).expect("answered");
        assert!(reply.is_error("DENIED"), "{what}: {reply:?}");
    }
    for (count, fds) in [("2", &[good.as_fd()][..]), ("1", &[]), ("0", &[good.as_fd()]), ("1", &[good.as_fd(); 2])] {
        let reply = RawShm::try_attach(&mut raw, &["ATTACH", "SHM", "BUFFERS", count], fds).expect("answered");
        assert!(reply.is_error("DENIED"), "BUFFERS {count} with {}: {reply:?}", fds.len());
    }
    assert_eq!(raw.fds.len(), 0, "nothing is passed to who was refused");
    assert_eq!(client_mappings(server.pid()).expect("it runs"), 0);
    let reply = RawShm::try_attach(&mut raw, &["ATTACH", "SHM", "BUFFERS", "1"], &[most.as_fd()]).expect("answered");
    assert_eq!(reply.field("buffers").number(), 1, "and then a good one");
    assert!(raw.ask(&["ATTACH", "SHM"]).is_error("BUSY"));
    drop(raw);
    until("nothing is left of them", Duration::from_secs(1), || alone(&server, &mut admin) == before);
    assert!(admin.ask(&["ATTACH", "SHM"]).is_error("NOTRANSPORT"), "TCP passes no descriptors");
}

#[test]
fn more_descriptors_than_can_be_meant_end_the_connection() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut admin = Raw::to(&server);
    assert!(admin.is_alive());
    let before = alone(&server, &mut admin);
    let good = sealed_memfd(4096);
    let mut flood = Raw::unix(&server.socket()).expect("accepted");
    let sent = (0..10).all(|_| flood.send_fds(b"PING\r\n", &[good.as_fd(); 10]).is_ok());
    if sent {
        flood.rest().expect("it ends");
    }
    let mut at_once = Raw::unix(&server.socket()).expect("accepted");
    let _ = at_once.send_fds(b"PING\r\n", &[good.as_fd(); 250]);
    at_once.rest().expect("it ends");
    until("they are closed", Duration::from_secs(1), || alone(&server, &mut admin) == before);
    assert_serves(&server);
}

#[test]
fn a_source_outside_the_buffer_is_refused() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let buffer = sealed_memfd(MIB);
    let value = payload::make(b"k", 1, 100_000);
    rustix::io::pwrite(&buffer, &value, 0).expect("written");
    let mut session = RawShm::attach(&server.socket(), &[buffer.as_fd()]).expect("attached");
    let raw = &mut session.raw;
    let crc = Crc::of(&value).to_string();
    for (fd, offset) in [
        ("0", "948577"),
        ("0", "1048576"),
        ("0", "18446744073709551615"),
        ("0", "18446744073709451616"),
        ("0", "9223372036854775807"),
        ("1", "0"),
        ("4294967295", "0"),
    ] {
        let reply = raw.ask(&["PUT", "k", "LEN", "100000", "VIA", "shm", "CRC", &crc, "FROM", fd, offset]);
        assert!(reply.is_error("DENIED"), "FROM {fd} {offset}: {reply:?}");
        let grant = raw.ask(&["PUT", "j", "LEN", "100000", "VIA", "shm"]);
        let grant = grant.field("grant").text();
        let reply = raw.ask(&["COMMIT", grant, "CRC", &crc, "FROM", fd, offset]);
        assert!(reply.is_error("DENIED"), "COMMIT FROM {fd} {offset}: {reply:?}");
        let reply = raw.ask(&["COMMIT", grant, "CRC", &crc, "FROM", "0", "0"]);
        assert!(reply.is_error("NOGRANT") || reply.has("generation"), "{reply:?}");
        raw.ask(&["ABORT", grant]);
        raw.ask(&["DEL", "j"]);
    }
    let held = memory(&server);
    assert!(held.is_quiet() && held.sums_up(), "{held:?}");
    let reply = raw.ask(&["PUT", "k", "LEN", "100000", "VIA", "shm", "CRC", &crc, "FROM", "0", "0"]);
    assert!(reply.has("generation"), "{reply:?}");
    assert_eq!(raw.ask(&["GET", "k"]), Value::Bulk(value));
}

#[test]
fn memory_with_holes_is_zeros_and_memory_that_changes_is_a_wrong_checksum() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let buffer = sealed_memfd(4 * MIB);
    let value = payload::make(b"k", 1, 3_000_000);
    rustix::io::pwrite(&buffer, &value, 0).expect("written");
    let mut session = RawShm::attach(&server.socket(), &[buffer.as_fd()]).expect("attached");
    let crc = Crc::of(&value).to_string();
    let put = ["PUT", "k", "LEN", "3000000", "VIA", "shm", "REPLACE", "CRC", &crc, "FROM", "0", "0"];
    assert!(session.raw.ask(&put).has("generation"));
    // The pages are taken away; the mapping stays.
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&buffer, flags, 0, 4 * MIB).expect("a hole");
    assert!(session.raw.ask(&put).is_error("CRC"), "zeros are not the value");
    let zeros = Crc::of(&vec![0; 3_000_000]).to_string();
    let put = ["PUT", "z", "LEN", "3000000", "VIA", "shm", "CRC", &zeros, "FROM", "0", "0"];
    assert!(session.raw.ask(&put).has("generation"), "zeros are zeros");
    assert_eq!(session.raw.ask(&["GET", "k"]), Value::Bulk(value), "what was published stays");
    let grown = rustix::fs::ftruncate(&buffer, 8 * MIB);
    let shrunk = rustix::fs::ftruncate(&buffer, 0);
    assert!(grown.is_err() && shrunk.is_err(), "a sealed memfd keeps its length");
    assert_serves(&server);
}

#[test]
fn segments_cannot_be_written_by_who_got_them() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut raw = Raw::unix(&server.socket()).expect("accepted");
    let reply = RawShm::try_attach(&mut raw, &["ATTACH", "SHM", "BUFFERS", "0"], &[]).expect("answered");
    for fd in raw.fds.drain(..).take(reply.field("segments").items().len()) {
        assert!(rustix::io::pwrite(&fd, b"evil", 0).is_err(), "pwrite");
        assert!(rustix::fs::ftruncate(&fd, 0).is_err() && rustix::fs::ftruncate(&fd, 1 << 40).is_err(), "ftruncate");
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        assert!(rustix::fs::fallocate(&fd, punch, 0, 4096).is_err(), "a hole");
        assert!(rustix::fs::fcntl_add_seals(&fd, SealFlags::WRITE).is_err(), "one more seal");
        let again = std::fs::File::options()
            .write(true)
            .open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd)));
        if let Ok(file) = again {
            assert!(rustix::io::pwrite(&file, b"evil", 0).is_err(), "through /proc");
        }
    }
}

/// Where indices lie: see `transport::shm::ring`.
const REQUEST_TAIL: u64 = 128;
const REPLY_HEAD: u64 = 512;
const SERVER_ASLEEP: u64 = 768;

#[test]
fn a_ring_that_lies_ends_its_own_session_only() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut bystander = RawShm::attach(&server.socket(), &[]).expect("attached");
    bystander.raw.set("k", "v".repeat(100_000));
    for (what, at, index) in [
        ("more requests than fit", REQUEST_TAIL, (256 << 10) + 1),
        ("requests without an end", REQUEST_TAIL, u64::MAX),
        ("replies taken that were never sent", REPLY_HEAD, 1),
        ("replies given back", REPLY_HEAD, u64::MAX),
    ] {
        let mut session = RawShm::attach(&server.socket(), &[]).expect("attached");
        assert!(session.raw.ask(&["LEASE", "k", "60000"]).has("lease"));
        assert!(session.raw.ask(&["PUT", "j", "LEN", "100000", "VIA", "tcp"]).has("grant"));
        if at == REPLY_HEAD {
            // The server looks at it when it has something to say.
            session.write_ring(4096, b"PING\r\n");
            session.write_ring(REQUEST_TAIL, &6u64.to_le_bytes());
        }
        session.write_ring(at, &index.to_le_bytes());
        session.wake();
        if at == REPLY_HEAD {
            // 256 KiB of replies: at the latest then it has to look.
            let echo = format!("ECHO {}\r\n", "x".repeat(60_000));
            let _ = (0..5).map(|_| session.raw.send(echo.as_bytes())).count();
        } else {
            session.raw.rest().unwrap_or_else(|error| panic!("{what}: the session does not end: {error}"));
            quiet_within(&server, Duration::from_secs(1));
        }
        drop(session);
        quiet_within(&server, Duration::from_secs(1));
        let lease = bystander.raw.ask(&["LEASE", "k", "1000"]);
        assert_eq!(bystander.read(&lease).expect("read"), vec![b'v'; 100_000], "{what}");
        bystander.raw.ask(&["RELEASE", lease.field("lease").text()]);
    }
    until("their mappings are gone", Duration::from_secs(1), || client_mappings(server.pid()).expect("it runs") == 1);
    assert_serves(&server);
}

#[test]
fn garbage_on_a_ring_is_refused_as_on_a_socket() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut session = RawShm::attach(&server.socket(), &[]).expect("attached");
    assert!(session.raw.is_alive());
    let garbage = b"*1\r\n$99999999999999999999\r\n";
    session.write_ring(4096, garbage);
    session.write_ring(REQUEST_TAIL, &(garbage.len() as u64).to_le_bytes());
    session.wake();
    session.raw.rest().expect("the session ends with its ring");
    until("its mapping is gone", Duration::from_secs(1), || client_mappings(server.pid()).expect("it runs") == 0);
    assert_serves(&server);
}

#[test]
fn a_ring_rung_for_nothing_costs_nobody() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut session = RawShm::attach(&server.socket(), &[]).expect("attached");
    for n in 0..2000u32 {
        session.write_ring(SERVER_ASLEEP, &n.to_le_bytes());
        session.wake();
    }
    // The count is full: one more would make the kernel say so.
    let full = (u64::MAX - 1).to_le_bytes();
    let _ = rustix::io::write(&session.ring[1], &full);
    let _ = rustix::io::write(&session.ring[2], &full);
    assert!(session.raw.is_alive());
    assert_serves(&server);
    session.write_ring(4096, b"PING\r\n");
    session.write_ring(REQUEST_TAIL, &6u64.to_le_bytes());
    let mut count = [0; 8];
    let _ = rustix::io::read(&session.ring[1], &mut count);
    session.wake();
    assert!(session.raw.is_alive());
    drop(session);
    until("its mapping is gone", Duration::from_secs(1), || client_mappings(server.pid()).expect("it runs") == 0);
}

#[test]
fn a_client_that_vanishes_with_its_ring_open_leaves_nothing() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut admin = Raw::to(&server);
    let before = alone(&server, &mut admin);
    let buffer = sealed_memfd(MIB);
    for n in 0..20 {
        let mut session = RawShm::attach(&server.socket(), &[buffer.as_fd()]).expect("attached");
        session.raw.set("k", "v".repeat(100_000));
        assert!(session.raw.ask(&["LEASE", "k", "60000"]).has("lease"));
        assert!(session.raw.ask(&["PUT", &format!("p{n}"), "LEN", "100000"]).has("grant"));
        assert_eq!(session.raw.ask(&["DEL", "k"]).number(), 1);
        // A request half written to the ring, and nobody to finish it.
        session.write_ring(4096, b"*2\r\n$3\r\nGET\r\n$1");
        session.write_ring(REQUEST_TAIL, &16u64.to_le_bytes());
        session.wake();
        drop(session);
    }
    quiet_within(&server, Duration::from_secs(1));
    until("nothing is left", Duration::from_secs(1), || alone(&server, &mut admin) == before);
}

#[test]
fn a_ring_that_is_killed_ends_its_session() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut session = RawShm::attach(&server.socket(), &[]).expect("attached");
    session.raw.set("k", "v".repeat(100_000));
    assert!(session.raw.ask(&["LEASE", "k", "60000"]).has("lease"));
    let mut admin = Raw::to(&server);
    let list = admin.ask(&["CLIENT", "LIST"]).text().to_owned();
    let ring = list.lines().find(|line| line.contains(" addr=ring:")).expect("the ring is listed");
    let id = ring.split(' ').next().and_then(|field| field.strip_prefix("id=")).expect("with its number");
    assert_eq!(admin.ask(&["CLIENT", "KILL", "ID", id]).number(), 1);
    session.raw.rest().expect("the socket ends too: who waits on the ring would wait for ever");
    quiet_within(&server, Duration::from_secs(1));
}

/// A record says of an object what a map says, whatever command answers it; nil and errors stay what they are.
#[test]
fn a_compact_session_is_answered_records_that_say_what_maps_say() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut admin = Raw::to(&server);
    let keys = ["a", "bb", "ccc"];
    for (number, key) in keys.iter().enumerate() {
        admin.set(key, payload::make(key.as_bytes(), 1, 5_000 * (number + 1)));
    }
    let mut maps = RawShm::attach(&server.socket(), &[]).expect("attached");
    let mut records = RawShm::attach_by(&server.socket(), &["ATTACH", "SHM", "COMPACT"], &[]).expect("attached");
    let asked: [&[&str]; 3] = [
        &["LEASE", "bb", "5000", "VIA", "SHM"],
        &["MLEASE", "5000", "a", "none", "ccc", "VIA", "SHM"],
        &["LOOKUP", "a", "bb", "none", "LEASE", "5000"],
    ];
    let mut compared = 0;
    for words in asked {
        let (wide, compact) = (maps.raw.ask(words), records.raw.ask(words));
        let items = |reply: &Value| match words[0] {
            "LEASE" => vec![reply.clone()],
            "MLEASE" => reply.items().to_vec(),
            _ => reply.field("leases").items().to_vec(),
        };
        let (wide, compact) = (items(&wide), items(&compact));
        assert_eq!(wide.len(), compact.len(), "{words:?}");
        for (wide, compact) in wide.iter().zip(&compact) {
            let Value::Bulk(bytes) = compact else {
                assert_eq!((wide, compact), (&Value::Nil, &Value::Nil), "{words:?}");
                continue;
            };
            let record = LeaseRecord::from_bytes(bytes).expect("a record");
            let locator = &wide.field("locators").items()[0];
            assert_eq!(record.generation.0, wide.field("generation").number());
            assert_eq!(record.length, wide.field("length").number());
            assert_eq!(record.span.0, wide.field("deadline-ms").number());
            assert_eq!(record.crc.to_string(), wide.field("crc").text());
            assert_eq!(record.offset, locator.field("offset").number());
            assert_eq!(u64::from(record.fd), locator.field("fd").number());
            assert_eq!(records.raw.ask(&["RELEASE", &record.lease.to_string()]), Value::Int(1));
            compared += 1;
        }
    }
    assert_eq!(compared, 5);
    let no_lease = records.raw.ask(&["LEASE", "a", "99999999", "VIA", "SHM"]);
    assert!(no_lease.is_error("TOOBIG"), "{no_lease:?}");
    assert!(records.raw.ask(&["LEASE", "a", "5000", "VIA", "TCP"]).has("locators"), "records are of shared memory");
}
