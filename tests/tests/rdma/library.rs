//! The client library over RDMA: objects of any length, batches, memory of the caller's, leases, grants, ends of sessions.

use super::{LIMIT, MIB, seeded, server};
use client::{Choice, Client, ClientError, Options, PutOptions, Transport};
use protocol::base::{Crc, RawSpan, StableMemory, copy_from, copy_into};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::Arc;
use std::time::Duration;
use tests::info::quiet_within;
use tests::payload;
use tests::{Raw, Server};
use transport::rdma::Pages;

const REPLACE: PutOptions<'static> = PutOptions {
    ttl: None,
    parent: None,
    soft_pin: None,
    pin: false,
    replicas: None,
    prefer: None,
    replace: true,
    durable: false,
};

fn options(server: &Server, via: Choice) -> Options {
    let mut options = Options::new(server.addr().to_string().parse().expect("an address")).via(via);
    options.deadline = LIMIT;
    options.buffer_len = 8 << 20;
    options.lease = Duration::from_secs(30);
    options
}

fn client(server: &Server) -> Client {
    let client = Client::connect(options(server, Choice::Rdma)).expect("connected");
    assert_eq!(client.transport(), Some(Transport::Rdma));
    client
}

fn key(at: usize) -> Vec<u8> {
    format!("k{at}").into_bytes()
}

#[test]
#[ignore = "guest: its RDMA device"]
fn objects_of_any_length_are_put_and_fetched() {
    let server = server(&[]);
    let mut client = client(&server);
    let mut buffer = vec![0; 12 * MIB];
    // The last is longer than registered memory, and goes in-band.
    for (version, len) in (1..).zip([payload::HEAD_LEN, 4095, 4096, 65_537, MIB, 5 * MIB + 3, 8 * MIB, 9 * MIB + 1]) {
        let bytes = payload::make(b"k", version, len);
        assert_eq!(client.put(b"k", &bytes, &REPLACE).expect("put").len, len as u64);
        let fetched = client.fetch(b"k", &mut buffer).expect("fetched").expect("there");
        assert!(fetched.bytes() == bytes, "{len} bytes");
        let refused = client.fetch(b"k", &mut vec![0; len - 1]).expect_err("no room");
        assert!(matches!(refused, ClientError::BufferTooSmall { needed, .. } if needed == len as u64), "{refused}");
        let lease = client.lease(b"k", Duration::from_secs(30)).expect("asked").expect("there");
        if len <= 8 * MIB {
            assert!(client.read(&lease, &mut buffer).expect("read").bytes() == bytes, "{len} bytes under a lease");
        }
        assert!(client.release(lease).expect("asked"));
        let mut grant = client.reserve(b"g", (len.min(MIB)) as u64, &REPLACE).expect("reserved");
        let bytes = payload::make(b"g", version, len.min(MIB));
        for (at, piece) in bytes.chunks(100_000).enumerate() {
            client.write(&mut grant, at as u64 * 100_000, piece).expect("written");
        }
        client.commit(grant, Crc::of(&bytes)).expect("committed");
        assert!(client.fetch(b"g", &mut buffer).expect("fetched").expect("there").bytes() == bytes, "in pieces");
    }
    assert!(client.fetch(b"absent", &mut buffer).expect("asked").is_none());
    client.put(b"none", b"", &REPLACE).expect("put");
    assert_eq!(client.fetch(b"none", &mut buffer).expect("fetched").expect("there").bytes(), b"");
    assert!(client.put(b"k", b"x", &PutOptions::default()).is_err(), "it is there");
    assert_eq!(client.connections(), 1, "nothing of this broke the session");
    client.settle().expect("settled");
    quiet_within(&server, LIMIT);
}

#[test]
#[ignore = "guest: its RDMA device"]
fn a_batch_of_128_is_put_and_fetched_in_order() {
    let server = server(&[]);
    let mut client = client(&server);
    let values: Vec<Vec<u8>> = (0..128).map(|at| payload::make(&key(at), 1, 100 + at * 500)).collect();
    let keys: Vec<Vec<u8>> = (0..128).map(key).collect();
    let items: Vec<(&[u8], &[u8])> = keys.iter().map(Vec::as_slice).zip(values.iter().map(Vec::as_slice)).collect();
    for outcome in client.put_batch(&items, &REPLACE).expect("put") {
        outcome.expect("each");
    }
    // Beside them one that is absent, and one without room.
    let mut names: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    names.push(b"absent");
    names.push(&keys[127]);
    let mut buffers = vec![vec![0; 65_000]; 129];
    buffers.push(vec![0; 10]);
    let slices = buffers.iter_mut().map(Vec::as_mut_slice).collect();
    let mut fetched = client.fetch_batch(&names, slices).expect("fetched");
    assert!(matches!(fetched.pop(), Some(Err(ClientError::BufferTooSmall { .. }))));
    assert!(matches!(fetched.pop(), Some(Ok(None))));
    for (at, (value, outcome)) in values.iter().zip(fetched).enumerate() {
        assert!(outcome.expect("each").expect("there").bytes() == value, "item {at}");
    }
    let found = client.lookup(&names[..128], Some(Duration::from_secs(30))).expect("looked up");
    assert_eq!((found.prefix, found.leases.len()), (128, 128));
    let mut buffer = vec![0; 65_000];
    for (lease, value) in found.leases.iter().zip(&values) {
        assert!(client.read(lease, &mut buffer).expect("read").bytes() == value);
    }
    for lease in found.leases {
        client.release(lease).expect("released");
    }
    client.settle().expect("settled");
    quiet_within(&server, LIMIT);
}

#[test]
#[ignore = "guest: its RDMA device"]
fn the_callers_memory_is_registered_once_and_nothing_is_copied() {
    let server = server(&[]);
    let mut client = client(&server);
    let memory: Arc<dyn StableMemory> = Pages::new(4 * MIB).expect("mapped");
    let span = RawSpan::new(Arc::clone(&memory), 0, 4 * MIB).expect("all of it");
    let registered = client.register(memory).expect("registered");
    for (version, len) in (1..).zip([100, 70_000, 2 * MIB]) {
        let bytes = payload::make(b"k", version, len);
        copy_into(&bytes, &span.part(0, len).expect("inside"));
        client.put_registered(b"k", (&registered, 0, len), &REPLACE).expect("put");
        let landed = client.fetch_registered(b"k", (&registered, 2 * MIB, 2 * MIB)).expect("fetched").expect("there");
        assert_eq!((landed.len, landed.crc), (len, Crc::of(&bytes)));
        let mut found = vec![0; len];
        copy_from(&span.part(2 * MIB, len).expect("inside"), &mut found);
        assert!(found == bytes, "{len} bytes");
        assert!(client.fetch_registered(b"k", (&registered, 0, len - 1)).is_err(), "no room");
    }
    assert!(client.fetch_registered(b"absent", (&registered, 0, 10)).expect("asked").is_none());
    assert!(client.put_registered(b"k", (&registered, 4 * MIB, 1), &REPLACE).is_err(), "past its end");
}

/// A session that was ended is made again with the next call, with the memory that was registered before.
#[test]
#[ignore = "guest: its RDMA device"]
fn a_client_whose_session_ended_goes_on_with_the_next_call() {
    let server = server(&[]);
    let mut client = client(&server);
    let bytes = payload::make(b"k", 1, 300_000);
    client.put(b"k", &bytes, &REPLACE).expect("put");
    let mut buffer = vec![0; 300_000];
    for round in 0..3 {
        let lease = client.lease(b"k", Duration::from_secs(30)).expect("asked").expect("there");
        let killed = Raw::to(&server).ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        assert!(killed.number() >= 1, "{killed:?}");
        let fetched = client.fetch(b"k", &mut buffer).expect("fetched again").expect("there");
        assert!(fetched.bytes() == bytes, "round {round}");
        let stale = client.read(&lease, &mut buffer);
        assert!(matches!(stale, Err(ClientError::Stale(_))), "{stale:?}");
    }
    assert_eq!(client.connections(), 4);
    assert_eq!(client.transport(), Some(Transport::Rdma));
    quiet_within(&server, LIMIT);
}

#[test]
#[ignore = "guest: its RDMA device"]
fn auto_takes_rdma_where_memory_is_not_shared_and_tcp_where_there_is_no_rdma() {
    let server = server(&[]);
    let away = |server: &Server| {
        let mut options = options(server, Choice::Auto);
        // As from another machine.
        options.unix = Some("/nowhere.sock".into());
        options
    };
    let mut client = Client::connect(away(&server)).expect("connected");
    assert_eq!(client.transport(), Some(Transport::Rdma));
    let mut nobodys = away(&server);
    nobodys.rdma_device = Some("nosuch0".into());
    let mut without = Client::connect(nobodys).expect("connected");
    assert_eq!(without.transport(), Some(Transport::Tcp));
    client.put(b"k", b"value", &REPLACE).expect("put");
    assert_eq!(without.fetch(b"k", &mut [0; 5]).expect("fetched").expect("there").bytes(), b"value");
    let other = Server::start(&["--rdma", "off"]);
    assert_eq!(Client::connect(away(&other)).expect("connected").transport(), Some(Transport::Tcp));
    let refused = Client::connect(options(&other, Choice::Rdma)).expect_err("there is none");
    assert!(refused.to_string().contains("rdma = off"), "{refused}");
}

#[test]
#[ignore = "guest: its RDMA device"]
fn eight_clients_at_once_fetch_what_they_put() {
    let server = server(&[]);
    let seed: u64 = seeded().random();
    std::thread::scope(|scope| {
        for number in 0..8u64 {
            let server = &server;
            scope.spawn(move || {
                let mut rng = StdRng::seed_from_u64(seed ^ number);
                let mut client = client(server);
                let mut buffer = vec![0; 600_000];
                for version in 1..=12 {
                    let key = format!("{number}:{}", rng.random_range(0..4)).into_bytes();
                    let bytes = payload::make(&key, version, rng.random_range(payload::HEAD_LEN..=600_000));
                    client.put(&key, &bytes, &REPLACE).expect("put");
                    assert!(client.fetch(&key, &mut buffer).expect("fetched").expect("there").bytes() == bytes);
                }
            });
        }
    });
    quiet_within(&server, LIMIT);
}

/// Without a device the library says so, and anything else than RDMA works.
#[test]
fn without_a_device_rdma_is_refused_with_what_is_missing() {
    let server = Server::start(&["--rdma", "off"]);
    let mut asked = options(&server, Choice::Rdma);
    asked.rdma_device = Some("nosuch0".into());
    let refused = Client::connect(asked).expect_err("there is no such device");
    assert!(matches!(refused, ClientError::NoTransport { wanted: "RDMA", .. }), "{refused}");
    assert!(refused.to_string().contains("no RDMA"), "{refused}");
    let mut auto = Client::connect(options(&server, Choice::Auto)).expect("connected");
    auto.put(b"k", b"value", &REPLACE).expect("put");
}
