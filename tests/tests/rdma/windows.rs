//! Windows that the server lends, on a device that keeps what they promise: clients write and read by themselves.
//!
//! `cargo xtask guest --strict-windows rdma` runs these. On other devices the server must lend none.

use super::{LIMIT, MIB, Peer, server};
use protocol::base::Crc;
use std::time::{Duration, Instant};
use tests::info::{memory, quiet_within};
use tests::payload;
use tests::server::until;
use tests::{Raw, Server, Value};
use transport::rdma::{Direction, Remote, Transfer};

fn is_strict() -> bool {
    std::env::var_os("GUEST_STRICT_WINDOWS").is_some_and(|value| value == "1")
}

/// A line of `INFO transfers`.
fn told(server: &Server, field: &str) -> String {
    let info = Raw::to(server).ask(&["INFO", "transfers"]);
    let line = info.text().lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':').map(str::to_owned));
    line.unwrap_or_else(|| panic!("INFO transfers has no {field}"))
}

/// The server, if its device's windows are lent.
fn lending() -> Option<Server> {
    let server = server(&[]);
    let windows = told(&server, "rdma_windows");
    if is_strict() {
        assert_eq!(windows, "lent");
        return Some(server);
    }
    println!("SKIPPED: needs `--strict-windows`: windows are {windows}");
    None
}

fn remote(locators: &Value) -> Remote {
    let locator = &locators.field("locators").items()[0];
    assert_eq!(locator.field("via").text(), "rdma");
    let rkey = u32::try_from(locator.field("rkey").number()).expect("32 bits");
    Remote { addr: locator.field("addr").number(), rkey }
}

impl Peer {
    fn transfer(&self, offset: usize, length: usize, remote: Remote) -> Transfer {
        Transfer { region: std::sync::Arc::clone(&self.region), offset, length, remote }
    }

    fn granted(&mut self, key: &str, len: usize) -> (String, Remote) {
        let granted = self.raw.ask(&["PUT", key, "LEN", &len.to_string(), "VIA", "rdma", "REPLACE"]);
        (granted.field("grant").text().to_owned(), remote(&granted))
    }

    fn leased(&mut self, key: &str, ms: u64) -> (String, Remote) {
        let leased = self.raw.ask(&["LEASE", key, &ms.to_string(), "VIA", "rdma"]);
        (leased.field("lease").text().to_owned(), remote(&leased))
    }
}

#[test]
#[ignore = "guest: its RDMA device"]
fn a_device_that_lets_more_in_than_it_should_lends_nothing() {
    if is_strict() {
        println!("SKIPPED: needs a device that does not check the bounds of windows");
        return;
    }
    let server = server(&[]);
    let windows = told(&server, "rdma_windows");
    assert!(windows.starts_with("off: ") && windows.contains("beyond the ends"), "{windows}");
    let mut peer = Peer::new(&server, MIB);
    peer.raw.set("k", "value");
    assert!(peer.raw.ask(&["LEASE", "k", "1000", "VIA", "rdma"]).is_error("NOTRANSPORT"));
    let granted = peer.raw.ask(&["PUT", "j", "LEN", "10", "VIA", "rdma"]);
    assert!(!granted.field("locators").items()[0].has("rkey"), "{granted:?}");
}

#[test]
#[ignore = "guest: its RDMA device"]
fn clients_write_what_they_are_granted_and_read_what_they_lease() {
    let Some(server) = lending() else { return };
    let mut peer = Peer::new(&server, 12 * MIB);
    for (version, len) in (1..).zip([100, 4096, 65_537, MIB, 5 * MIB + 3]) {
        let bytes = payload::make(b"k", version, len);
        peer.put_bytes(0, &bytes);
        let (grant, to) = peer.granted("k", len);
        let item = peer.transfer(0, len, to);
        peer.link.transfer(Direction::Write, &[item], Instant::now() + LIMIT).expect("written");
        let committed = peer.raw.ask(&["COMMIT", &grant, "CRC", &Crc::of(&bytes).to_string()]);
        assert_eq!(committed.field("length").number(), len as u64, "{committed:?}");
        assert!(peer.raw.ask(&["GET", "k"]) == Value::Bulk(bytes.clone()), "in band, {len} bytes");
        let (lease, from) = peer.leased("k", 60_000);
        let item = peer.transfer(6 * MIB, len, from);
        peer.link.transfer(Direction::Read, &[item], Instant::now() + LIMIT).expect("read");
        assert!(peer.bytes(6 * MIB, len) == bytes, "read, {len} bytes");
        assert_eq!(peer.raw.ask(&["RELEASE", &lease]), Value::Int(1));
    }
    // Leases in a batch, of which one is of nothing.
    let all = peer.raw.ask(&["MLEASE", "60000", "k", "absent", "k", "VIA", "rdma"]);
    assert_eq!(all.items()[1], Value::Nil);
    assert_ne!(remote(&all.items()[0]).rkey, remote(&all.items()[2]).rkey, "each lease has a window of its own");
    let leases: Vec<&str> = [0, 2].map(|at| all.items()[at].field("lease").text()).into();
    peer.raw.ask(&[&["MRELEASE"][..], &leases].concat());
    quiet_within(&server, LIMIT);
    until("the windows are taken back", LIMIT, || told(&server, "rdma_windows_lent") == "0");
}

/// Which of the ends is time.
const THEIR_ENDS: usize = 2;
/// What ends a peer's grant and lease.
type End<'a> = &'a dyn Fn(&mut Peer, &str, &str);

/// Whatever ends a grant or lease takes its window along: a later access ends the offender's session, and changes nothing.
#[test]
#[ignore = "guest: its RDMA device"]
fn what_is_over_is_reached_by_nobody() {
    let Some(server) = lending() else { return };
    let value = payload::make(b"k", 1, 100_000);
    let mut owner = Raw::to(&server);
    owner.set("k", value.clone());
    let ends: [End<'_>; 5] = [
        &|peer, grant, lease| {
            assert_eq!(peer.raw.ask(&["ABORT", grant]), Value::Int(1));
            assert_eq!(peer.raw.ask(&["RELEASE", lease]), Value::Int(1));
        },
        // A commit of what was not written as claimed.
        &|peer, grant, lease| {
            assert!(peer.raw.ask(&["COMMIT", grant, "CRC", "00000001"]).is_error("CRC"));
            assert_eq!(peer.raw.ask(&["MRELEASE", lease]).items(), [Value::Int(1)]);
        },
        // Their ends.
        &|_, _, _| {
            until("both have ended", LIMIT, || {
                let memory = memory(&server);
                memory.grants == 0 && memory.leases == 0
            })
        },
        // The right to what they are for.
        &|peer, _, _| {
            assert_eq!(Raw::to(&server).ask(&["ACL", "SETUSER", "keyless", "on", "nopass", "+@all"]).text(), "OK");
            assert_eq!(peer.raw.ask(&["AUTH", "keyless", "any"]).text(), "OK");
        },
        // The session's.
        &|peer, _, _| assert_eq!(peer.raw.ask(&["DETACH"]), Value::Int(1)),
    ];
    for (number, end) in ends.iter().enumerate() {
        for direction in [Direction::Write, Direction::Read] {
            let mut peer = Peer::new(&server, MIB);
            peer.put_bytes(0, &vec![0xee; 100_000]);
            // Only who waits for their ends has them end soon.
            let ms = if number == THEIR_ENDS { 5000 } else { 60_000 };
            assert_eq!(owner.ask(&["CONFIG", "SET", "grant-ms", &ms.to_string()]).text(), "OK");
            let (grant, to) = peer.granted("v", 100_000);
            let (lease, from) = peer.leased("k", ms);
            end(&mut peer, &grant, &lease);
            quiet_within(&server, LIMIT);
            let remote = if direction == Direction::Write { to } else { from };
            let item = peer.transfer(0, 100_000, remote);
            let late = peer.link.transfer(direction, &[item], Instant::now() + LIMIT);
            assert!(late.is_err(), "end {number}, {direction:?}");
            assert!(peer.bytes(0, 100_000) == vec![0xee; 100_000], "end {number}: bytes came back");
            assert_eq!(owner.ask(&["EXISTS", "v"]), Value::Int(0), "end {number}");
            assert!(owner.ask(&["GET", "k"]) == Value::Bulk(value.clone()), "end {number}, {direction:?}");
        }
    }
    quiet_within(&server, LIMIT);
    until("the windows are taken back", LIMIT, || told(&server, "rdma_windows_lent") == "0");
}

/// One byte before and one after: refused, and nobody's neighbour changes.
#[test]
#[ignore = "guest: its RDMA device"]
fn one_byte_beyond_a_grant_or_lease_is_refused() {
    let Some(server) = lending() else { return };
    let value = payload::make(b"k", 1, 8192);
    let mut owner = Raw::to(&server);
    (0..64).for_each(|at| owner.set(format!("n{at}"), value.clone()));
    for (offset, length) in [(-1i64, 1), (8192, 1), (8191, 2), (-1, 8194), (-4096, 4096)] {
        for direction in [Direction::Write, Direction::Read] {
            let mut peer = Peer::new(&server, MIB);
            peer.put_bytes(0, &[0xee; 8194]);
            let (_, of) =
                if direction == Direction::Write { peer.granted("v", 8192) } else { peer.leased("n5", 60_000) };
            let item = peer.transfer(0, length, Remote { addr: of.addr.wrapping_add_signed(offset), ..of });
            let refused = peer.link.transfer(direction, &[item], Instant::now() + LIMIT);
            assert!(refused.is_err(), "{length} bytes at {offset}, {direction:?}");
            assert!(peer.bytes(0, 8194) == [0xee; 8194], "{length} bytes at {offset} came");
        }
    }
    for at in 0..64 {
        assert!(owner.ask(&["GET", &format!("n{at}")]) == Value::Bulk(value.clone()), "n{at}");
    }
    quiet_within(&server, LIMIT + Duration::from_secs(20));
}
