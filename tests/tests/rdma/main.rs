//! The server over RDMA: what clients put and get by it, and what becomes of those that err or go.
//!
//! The guest runs what needs a device (`cargo xtask guest rdma`); the rest runs anywhere.

mod beside;
mod library;
mod limits;
mod victims;
mod windows;

use protocol::base::{Crc, RawSpan, StableMemory, copy_from, copy_into};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tests::info::{memory, quiet_within};
use tests::payload;
use tests::server::{Mark, until};
use tests::{Raw, Server, Value};
use transport::rdma::{Choice, Device, Endpoint, Link, Pages, Region, RemoteAccess};

const LIMIT: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;
/// The queue pair of nobody.
const NOBODY: [&str; 12] =
    ["ATTACH", "RDMA", "QPN", "77", "PSN", "1", "GID", "00000000000000000000ffff0a4d0001", "MTU", "5", "READS", "1"];

fn server(args: &[&str]) -> Server {
    let mut all = vec!["--dram", "256MiB", "--segment-len", "64MiB", "--rdma", "auto"];
    // An emulated machine on a busy host gets nothing done for seconds at times.
    for (flag, ms) in [("--grant-ms", "60000"), ("--progress-ms", "60000")] {
        if !args.contains(&flag) {
            all.extend([flag, ms]);
        }
    }
    all.extend(args);
    let server = Server::start(&all);
    // Segments are registered beside requests.
    let mut raw = Raw::to(&server);
    until("RDMA is ready", LIMIT, || !raw.ask(&["INFO", "transfers"]).text().contains("rdma:RDMA is being set up"));
    server
}

fn seeded() -> StdRng {
    let seed = std::env::var("MOONCAKE_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    eprintln!("MOONCAKE_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// A client: its connection, its queue pair, and memory that the server may reach.
struct Peer {
    raw: Raw,
    link: Link,
    region: Arc<Region>,
    span: RawSpan,
}

impl Peer {
    fn new(server: &Server, len: usize) -> Self {
        let device = Device::open(&Choice::default()).expect("these tests run where there is a device");
        let pages: Arc<dyn StableMemory> = Pages::new(len).expect("mapped");
        let span = RawSpan::new(Arc::clone(&pages), 0, len).expect("all of it");
        let access = RemoteAccess { read: true, write: true, windows: false };
        let region = Region::register(&device.domain, pages, access).expect("registered");
        let link = Link::new(&device, 160).expect("a queue pair");
        let mut peer = Self { raw: Raw::to(server), link, region, span };
        peer.raw.set_patience(LIMIT).expect("set");
        peer.attach();
        peer
    }

    fn attach(&mut self) {
        let end = self.link.endpoint().expect("made");
        let gid = format!("{:032x}", u128::from_be_bytes(end.gid));
        let number = |number: u32| number.to_string();
        let (qpn, psn) = (number(end.qpn), number(end.psn));
        let (mtu, reads) = (number(end.mtu.into()), number(end.reads.into()));
        let request = ["ATTACH", "RDMA", "QPN", &qpn, "PSN", &psn, "GID", &gid, "MTU", &mtu, "READS", &reads];
        let ours = self.raw.ask(&request);
        let number = |name| u32::try_from(ours.field(name).number()).expect("32 bits");
        let small = |name| u8::try_from(number(name)).expect("8 bits");
        let gid = u128::from_str_radix(ours.field("gid").text(), 16).expect("hex").to_be_bytes();
        let lid = u16::try_from(number("lid")).expect("16 bits");
        let end =
            Endpoint { qpn: number("qpn"), psn: number("psn"), gid, lid, mtu: small("mtu"), reads: small("reads") };
        self.link.connect(&end).expect("connected");
    }

    fn put_bytes(&self, offset: usize, bytes: &[u8]) {
        copy_into(bytes, &self.span.part(offset, bytes.len()).expect("inside"));
    }

    fn bytes(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        copy_from(&self.span.part(offset, len).expect("inside"), &mut bytes);
        bytes
    }

    /// `PUT` and `COMMIT … PULL` of bytes that lie at `offset`; the answer to the commit.
    fn put(&mut self, key: &str, offset: usize, len: usize, crc: Crc) -> Value {
        let granted = self.raw.ask(&["PUT", key, "LEN", &len.to_string(), "VIA", "rdma", "REPLACE"]);
        assert_eq!(granted.field("locators").items()[0].field("via").text(), "rdma");
        // Where the server lends windows, it pulls all the same if it is asked to.
        let grant = granted.field("grant").text().to_owned();
        let from = self.region.remote(offset);
        let (addr, rkey) = (from.addr.to_string(), from.rkey.to_string());
        self.raw.ask(&["COMMIT", &grant, "CRC", &crc.to_string(), "PULL", &addr, &rkey])
    }

    fn ask_into(&self, key: &str, offset: usize, room: usize) -> [String; 6] {
        let to = self.region.remote(offset);
        let (addr, rkey) = (to.addr.to_string(), to.rkey.to_string());
        ["GET".into(), key.into(), "INTO".into(), addr, rkey, room.to_string()]
    }

    /// Waits for the push that an answer tells of, and takes its bytes.
    fn take(&mut self, answer: &Value, offset: usize) -> Vec<u8> {
        let number = u32::try_from(answer.field("number").number()).expect("32 bits");
        self.link.wait_for_push(number, Instant::now() + LIMIT).expect("pushed");
        let len = usize::try_from(answer.field("length").number()).expect("64-bit");
        let bytes = self.bytes(offset, len);
        assert_eq!(Crc::of(&bytes).to_string(), answer.field("crc").text());
        bytes
    }
}

#[test]
fn without_rdma_everything_else_works_and_the_answer_says_why() {
    let server = Server::start(&["--rdma", "off"]);
    let mut raw = Raw::to(&server);
    let refused = raw.ask(&NOBODY);
    assert!(refused.is_error("NOTRANSPORT") && refused.text().contains("rdma = off"), "{refused:?}");
    assert!(raw.ask(&["PUT", "k", "LEN", "10", "VIA", "rdma"]).is_error("NOTRANSPORT"));
    assert!(raw.ask(&["GET", "k", "INTO", "4096", "1", "10"]).is_error("NOTRANSPORT"));
    raw.set("k", "value");
    assert_eq!(raw.ask(&["GET", "k"]), Value::Bulk(b"value".to_vec()));
    assert!(raw.ask(&["GET", "k", "INTO"]).is_error("ERR"), "a GET takes one key");
}

#[test]
fn a_device_that_is_not_there_is_named_and_nothing_starts() {
    let dir = TempDir::with_prefix("mooncake-test-").expect("a directory");
    let log = Server::try_start(Arc::new(dir), &["--rdma", "nosuch0"], Mark::Ready).expect_err("it does not start");
    assert!(log.contains("no RDMA"), "{log}");
}

#[test]
#[ignore = "guest: its RDMA device"]
fn what_is_put_by_rdma_is_got_by_rdma_and_in_band() {
    let server = server(&[]);
    let mut peer = Peer::new(&server, 36 * MIB);
    for (version, len) in (1..).zip([100, 4096, 65_537, MIB, 5 * MIB + 3, 16 * MIB]) {
        let bytes = payload::make(b"k", version, len);
        peer.put_bytes(0, &bytes);
        let committed = peer.put("k", 0, len, Crc::of(&bytes));
        assert_eq!(committed.field("length").number(), len as u64, "{committed:?}");
        assert!(peer.raw.ask(&["GET", "k"]) == Value::Bulk(bytes.clone()), "in band, {len} bytes");
        let answer = peer.raw.ask(&peer.ask_into("k", 17 * MIB, len));
        assert!(peer.take(&answer, 17 * MIB) == bytes, "pushed, {len} bytes");
    }
    peer.raw.set("one", "1");
    let answer = peer.raw.ask(&peer.ask_into("one", 0, 1));
    assert_eq!(peer.take(&answer, 0), b"1", "what was set in band");
    peer.raw.set("none", "");
    let answer = peer.raw.ask(&peer.ask_into("none", 0, 0));
    assert_eq!(peer.take(&answer, 0), b"");
    assert_eq!(peer.raw.ask(&peer.ask_into("absent", 0, 1)), Value::Nil);
    quiet_within(&server, LIMIT);
}

#[test]
#[ignore = "guest: its RDMA device"]
fn what_does_not_fit_or_is_not_what_was_claimed_changes_nothing() {
    let server = server(&[]);
    let mut peer = Peer::new(&server, MIB);
    let bytes = payload::make(b"k", 1, 100_000);
    peer.put_bytes(0, &bytes);
    assert!(peer.put("k", 0, bytes.len(), Crc(!Crc::of(&bytes).0)).is_error("CRC"));
    assert_eq!(peer.raw.ask(&["EXISTS", "k"]), Value::Int(0));
    peer.put("k", 0, bytes.len(), Crc::of(&bytes));
    peer.put_bytes(500_000, &[7; 100_000]);
    assert!(peer.raw.ask(&peer.ask_into("k", 500_000, 99_999)).is_error("TOOBIG"));
    assert!(peer.bytes(500_000, 100_000) == [7; 100_000]);
    quiet_within(&server, LIMIT);
}

#[test]
#[ignore = "guest: its RDMA device"]
fn a_batch_of_128_in_one_write_is_answered_in_order() {
    let server = server(&[]);
    let mut peer = Peer::new(&server, 128 * 8192);
    let key = |at: usize| format!("k{at}");
    let len = |at: usize| 100 + at * 60;
    let mut requests = Vec::new();
    for at in 0..128 {
        peer.raw.set(key(at), payload::make(key(at).as_bytes(), 1, len(at)));
        let words = peer.ask_into(&key(at), at * 8192, 8192);
        requests.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        words.iter().for_each(|word| requests.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes()));
    }
    peer.raw.send(&requests).expect("sent");
    for at in 0..128 {
        let answer = peer.raw.recv().expect("answered");
        assert_eq!(payload::check(key(at).as_bytes(), &peer.take(&answer, at * 8192)), Ok(1), "item {at}");
    }
}

#[test]
#[ignore = "guest: its RDMA device"]
fn eight_clients_at_once_get_what_they_put() {
    let server = server(&[]);
    let seed: u64 = seeded().random();
    std::thread::scope(|scope| {
        for number in 0..8u64 {
            let server = &server;
            scope.spawn(move || {
                let mut rng = StdRng::seed_from_u64(seed ^ number);
                let mut peer = Peer::new(server, 2 * MIB);
                for version in 1..=12 {
                    let key = format!("{number}:{}", rng.random_range(0..4));
                    let len = rng.random_range(payload::HEAD_LEN..=600_000);
                    let bytes = payload::make(key.as_bytes(), version, len);
                    peer.put_bytes(0, &bytes);
                    assert!(peer.put(&key, 0, len, Crc::of(&bytes)).has("generation"));
                    let answer = peer.raw.ask(&peer.ask_into(&key, MIB, len));
                    assert!(peer.take(&answer, MIB) == bytes);
                }
            });
        }
    });
    quiet_within(&server, LIMIT);
}

/// A client that names memory it has no right to, or goes while bytes move, loses its session. Its slots come back, nobody
/// else notices, and nothing of what it began is found.
#[test]
#[ignore = "guest: its RDMA device"]
fn clients_that_err_or_go_cost_their_own_session_alone() {
    let mut rng = seeded();
    let server = server(&[]);
    let mut bystander = Peer::new(&server, 2 * MIB);
    let bytes = payload::make(b"b", 1, MIB);
    bystander.put_bytes(0, &bytes);
    bystander.put("b", 0, MIB, Crc::of(&bytes));
    for run in 0..12 {
        let mut peer = Peer::new(&server, 4 * MIB);
        let key = format!("v{run}");
        let granted = peer.raw.ask(&["PUT", &key, "LEN", &(4 * MIB).to_string(), "VIA", "rdma"]);
        let grant = granted.field("grant").text().to_owned();
        let from = peer.region.remote(0);
        let rkey = if rng.random() { from.rkey } else { from.rkey ^ 0xff };
        let (addr, rkey) = (from.addr.to_string(), rkey.to_string());
        let commit = ["COMMIT", &grant, "CRC", "00000001", "PULL", &addr, &rkey];
        match rng.random_range(0..3) {
            0 => {
                let end = peer.raw.ask(&commit);
                assert!(end.is_error("NOTRANSPORT") || end.is_error("CRC"), "run {run}: {end:?}");
            }
            // Its queue pair goes first, or its connection.
            1 => {
                peer.raw.request(&commit).expect("sent");
                peer.link.end();
                drop(peer);
            }
            _ => {
                peer.raw.request(&commit).expect("sent");
                let Peer { raw, link, region, span } = peer;
                drop(raw);
                std::thread::sleep(Duration::from_millis(rng.random_range(0..5)));
                drop((link, region, span));
            }
        }
        assert_eq!(bystander.raw.ask(&["EXISTS", &key]), Value::Int(0), "run {run}");
        let answer = bystander.raw.ask(&bystander.ask_into("b", MIB, MIB));
        assert!(bystander.take(&answer, MIB) == bytes, "run {run}: the bystander's bytes");
    }
    let took = quiet_within(&server, LIMIT);
    eprintln!("quiet after {took:?}: {:?}", memory(&server));
}

#[test]
#[ignore = "guest: its RDMA device"]
fn a_session_ends_with_detach_and_can_be_made_again() {
    let server = server(&[]);
    let mut peer = Peer::new(&server, 8192);
    peer.raw.set("k", "value");
    assert!(peer.raw.ask(&NOBODY).is_error("BUSY"), "one session a connection");
    assert_eq!(peer.raw.ask(&["DETACH"]), Value::Int(1));
    assert!(peer.raw.ask(&peer.ask_into("k", 0, 5)).is_error("NOTRANSPORT"));
    let device = Device::open(&Choice::default()).expect("a device");
    peer.link = Link::new(&device, 8).expect("a queue pair");
    // What broke is destroyed beside requests: until then the old session is in the way.
    until("the old session is gone", LIMIT, || {
        let probe = peer.raw.ask(&NOBODY);
        assert!(probe.is_error("BUSY") || probe.has("qpn"), "{probe:?}");
        probe.has("qpn")
    });
    assert_eq!(peer.raw.ask(&["DETACH"]), Value::Int(1));
    assert_eq!(peer.raw.ask(&["GET", "k"]), Value::Bulk(b"value".to_vec()));
}
