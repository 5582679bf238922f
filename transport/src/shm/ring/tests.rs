//! Holds a pair of rings to carrying bytes, and to a peer that lies about its counters.
//!
//! Invariant: bytes arrive in order and once; a hostile peer gets an error, never memory outside the ring.

use super::super::memfd;
use super::layout::{self, map_ring};
use super::*;
use bytes::BytesMut;
use rand::rngs::SmallRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);

struct Pair {
    server: ServerRing,
    client: BlockingRing,
    server_socket: UnixStream,
}

fn small() -> RingLayout {
    RingLayout::new(4096, 4096).expect("the least")
}

fn duplicates(fds: &RingFds) -> RingFds {
    fds.as_fds().map(|fd| fd.try_clone_to_owned().expect("a duplicate")).into()
}

fn pair(layout: RingLayout, spin: SpinBudget) -> Pair {
    let (server_socket, client_socket) = UnixStream::pair().expect("a pair");
    let server = create_ring(layout).expect("a ring");
    let client = BlockingRing::open(duplicates(&server.fds), &client_socket, spin).expect("opened");
    Pair { server, client, server_socket }
}

/// The field that the client tells the server its `tail` in.
fn forge(ring: &ServerRing, at: usize, value: u64) {
    let (mapping, _) = map_ring(&ring.fds.memory).expect("mapped");
    layout::counter_at(&mapping, at).store(value.to_le(), Ordering::SeqCst);
}

#[test]
fn bytes_come_out_as_they_went_in_around_the_end() {
    let Pair { mut server, mut client, .. } = pair(small(), SpinBudget::default());
    let mut sent = 0u8;
    let mut expected = 0u8;
    for round in 0..200 {
        let len = 1 + round * 37usize % 4096;
        let bytes: Vec<u8> = (0..len).map(|at| sent.wrapping_add(at.to_le_bytes()[0])).collect();
        sent = sent.wrapping_add(len.to_le_bytes()[0]);
        assert_eq!(client.write(&bytes).expect("sound"), bytes.len());
        let mut taken = BytesMut::new();
        while taken.len() < bytes.len() {
            assert!(server.end.read_into(&mut taken, 1000).expect("sound") > 0, "round {round}");
        }
        for byte in taken {
            assert_eq!(byte, expected, "round {round}");
            expected = expected.wrapping_add(1);
        }
    }
}

#[test]
fn a_full_ring_takes_no_more_until_it_is_read() {
    let Pair { mut server, mut client, .. } = pair(small(), SpinBudget::default());
    assert_eq!(client.free().expect("sound"), 4096);
    assert_eq!(client.write(&[7; 5000]).expect("sound"), 4096);
    assert_eq!(client.write(b"x").expect("sound"), 0);
    assert!(!client.is_ready(Need::Space).expect("sound"));
    let mut bytes = [0; 1000];
    assert_eq!(server.end.read(&mut bytes).expect("sound"), 1000);
    assert!(!client.is_ready(Need::Space).expect("sound"), "less than a quarter is not worth waking for");
    assert_eq!(server.end.read(&mut bytes).expect("sound"), 1000);
    assert!(client.is_ready(Need::Space).expect("sound"));
    assert_eq!(client.free().expect("sound"), 2000);
    assert_eq!(server.end.available().expect("sound"), 2096);
}

#[test]
fn an_index_that_cannot_be_is_refused_and_nothing_is_read() {
    for claimed in [4097, u64::MAX, 1 << 63] {
        let Pair { mut server, .. } = pair(small(), SpinBudget::default());
        forge(&server, layout::REQUEST_TAIL, claimed);
        assert!(matches!(server.end.available(), Err(RingError::Corrupt(_))), "tail {claimed}");
        assert!(matches!(server.end.read(&mut [0; 8]), Err(RingError::Corrupt(_))), "tail {claimed}");
        assert!(matches!(server.end.prepare_sleep(Need::Data), Err(RingError::Corrupt(_))), "tail {claimed}");
    }
    let Pair { mut server, .. } = pair(small(), SpinBudget::default());
    server.end.write(&[1; 100]).expect("room");
    for head in [101, u64::MAX] {
        forge(&server, layout::REPLY_HEAD, head);
        assert!(matches!(server.end.free(), Err(RingError::Corrupt(_))), "head {head}");
    }
}

#[test]
fn an_index_that_falls_is_refused() {
    let Pair { mut server, mut client, .. } = pair(small(), SpinBudget::default());
    client.write(&[1; 100]).expect("room");
    assert_eq!(server.end.available().expect("sound"), 100);
    forge(&server, layout::REQUEST_TAIL, 99);
    assert!(matches!(server.end.available(), Err(RingError::Corrupt(_))));
}

#[test]
fn memory_that_is_no_ring_is_refused() {
    let (socket, _other) = UnixStream::pair().expect("a pair");
    let refused = |memory: OwnedFd| {
        let ring = create_ring(small()).expect("a ring");
        let fds = RingFds { memory, ..ring.fds };
        BlockingRing::open(fds, &socket, SpinBudget::default()).expect_err("no ring")
    };
    let unsealed = memfd::create("x", 12288).expect("made");
    assert!(matches!(refused(unsealed), RingError::Memory(ShmError::Unsealed)));
    let sealed = |len| {
        let fd = memfd::create("x", len).expect("made");
        memfd::add_seals(&fd, rustix::fs::SealFlags::SHRINK).expect("sealed");
        fd
    };
    assert!(matches!(refused(sealed(100)), RingError::Corrupt(_)));
    assert!(matches!(refused(sealed(12288)), RingError::Corrupt(_)), "no magic");
    assert!(matches!(refused(sealed(1 << 30)), RingError::Corrupt(_)));
    assert!(matches!(refused(socket.try_clone().expect("a duplicate").into()), RingError::Memory(_)));

    // Lengths that disagree with the memory.
    for (at, value) in [(8, 8192u32), (8, 4095), (12, 0), (12, u32::MAX), (4, 2)] {
        let ring = create_ring(small()).expect("a ring");
        let (mapping, _) = map_ring(&ring.fds.memory).expect("mapped");
        layout::word_at(&mapping, at).store(value.to_le(), Ordering::SeqCst);
        assert!(matches!(map_ring(&ring.fds.memory), Err(RingError::Corrupt(_))), "field {at} as {value}");
    }
}

/// How often a side was woken: the count in its eventfd, taken.
fn wakes(event: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    match rustix::io::read(event, &mut count) {
        Ok(_) => u64::from_le_bytes(count),
        Err(rustix::io::Errno::AGAIN) => 0,
        Err(errno) => panic!("{errno}"),
    }
}

#[test]
fn only_a_sleeper_is_woken_and_only_by_what_it_waits_for() {
    let Pair { mut server, mut client, .. } = pair(small(), SpinBudget::default());
    client.write(b"one").expect("room");
    client.notify().expect("notified");
    assert_eq!(wakes(&server.event), 0, "an awake server");
    assert!(!server.end.prepare_sleep(Need::Data).expect("sound"), "there is something to read");
    server.end.read(&mut [0; 8]).expect("sound");

    assert!(server.end.prepare_sleep(Need::Data).expect("sound"));
    client.notify().expect("notified");
    assert_eq!(wakes(&server.event), 0, "nothing new");
    client.write(b"two").expect("room");
    client.notify().expect("notified");
    client.write(b"three").expect("room");
    client.notify().expect("notified");
    assert_eq!(wakes(&server.event), 1, "once for each sleep");
    server.end.wake_up();
    server.end.read(&mut [0; 8]).expect("sound");

    // A client that waits for replies is not woken because its request was read.
    assert!(client.prepare_sleep(Need::Data).expect("sound"));
    server.end.notify().expect("notified");
    assert_eq!(wakes(&server.fds.to_client), 0, "space is not what it waits for");
    server.end.write(b"reply").expect("room");
    server.end.notify().expect("notified");
    assert_eq!(wakes(&server.fds.to_client), 1);
}

#[test]
fn a_wait_ends_at_its_deadline_and_the_ring_lives_on() {
    let Pair { mut server, mut client, server_socket: _open } = pair(small(), SpinBudget::default());
    let started = Instant::now();
    let ended = client.wait(Need::Data, started + Duration::from_millis(20));
    assert!(matches!(ended, Err(RingError::Timeout)), "{ended:?}");
    assert!(started.elapsed() >= Duration::from_millis(20));
    server.end.write(b"late").expect("room");
    server.end.notify().expect("notified");
    client.wait(Need::Data, Instant::now() + LIMIT).expect("there is something");
}

#[test]
fn a_dead_server_ends_a_wait_after_its_last_words() {
    let Pair { mut server, mut client, server_socket } = pair(small(), SpinBudget::default());
    server.end.write(b"last words").expect("room");
    drop(server_socket);
    client.wait(Need::Data, Instant::now() + LIMIT).expect("they are there");
    assert_eq!(client.read(&mut [0; 64]).expect("sound"), 10);
    let ended = client.wait(Need::Data, Instant::now() + LIMIT);
    assert!(matches!(ended, Err(RingError::PeerGone)), "{ended:?}");
}

#[test]
fn a_spin_in_vain_is_shortened_to_none_and_tried_again() {
    let mut spin = SpinBudget::new(Duration::from_micros(20));
    let mut vain = 0;
    while !spin.next().is_zero() {
        spin.missed();
        vain += 1;
        assert!(vain < 10, "never gives up");
    }
    let asleep = (0..100).filter(|_| spin.next().is_zero()).count();
    assert!((90..100).contains(&asleep), "{asleep} of 100 without a spin");
    spin.found();
    assert!(!spin.next().is_zero());
    for _ in 0..10 {
        spin.found();
    }
    assert_eq!(spin.next(), Duration::from_micros(20));
    assert!(SpinBudget::new(Duration::ZERO).next().is_zero());
}

/// Echoes until `total` bytes went back, with pauses wherever the seed wants them.
fn echo(ring: &mut BlockingRing, total: usize, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut done = 0;
    let mut bytes = vec![0; 3000];
    while done < total {
        let want = random.random_range(1..=bytes.len());
        let count = ring.read(&mut bytes[..want]).expect("sound");
        if count == 0 {
            pause(&mut random);
            ring.wait(Need::Data, Instant::now() + LIMIT).expect("more comes");
            continue;
        }
        let mut left = &bytes[..count];
        while !left.is_empty() {
            let count = ring.write(left).expect("sound");
            left = &left[count..];
            pause(&mut random);
            if count == 0 {
                ring.wait(Need::Space, Instant::now() + LIMIT).expect("room comes");
            }
        }
        done += count;
    }
    ring.notify().expect("notified");
}

/// Mostly nothing, at times a yield, now and then a nap longer than a spin.
fn pause(random: &mut SmallRng) {
    match random.random_range(0..200) {
        0 => std::thread::sleep(Duration::from_micros(random.random_range(1..200))),
        1..10 => std::thread::yield_now(),
        _ => {}
    }
}

/// Two threads that spin, sleep and pause at random, each byte sent and echoed once: a lost wake would end a wait by
/// its deadline.
#[test]
fn no_wake_and_no_byte_is_lost_whoever_sleeps() {
    let seed: u64 = std::env::var("SEED")
        .map_or_else(|_| rand::rngs::SmallRng::from_os_rng().next_u64(), |s| s.parse().expect("a number"));
    println!("SEED={seed}");
    for (turn, spin_us) in [0, 0, 3, 20, 100].into_iter().enumerate() {
        let seed = seed.wrapping_add(turn as u64);
        let spin = SpinBudget::new(Duration::from_micros(spin_us));
        let (server_socket, client_socket) = UnixStream::pair().expect("a pair");
        let server = create_ring(small()).expect("a ring");
        let fds = duplicates(&server.fds);
        let (mut server, _) = BlockingRing::serve(server, &server_socket, spin.clone()).expect("served");
        let mut client = BlockingRing::open(fds, &client_socket, spin).expect("opened");
        let total = 1_000_000;
        std::thread::scope(|scope| {
            scope.spawn(move || echo(&mut server, total, seed));
            let mut random = SmallRng::seed_from_u64(!seed);
            let (mut sent, mut got) = (0usize, 0usize);
            let mut bytes = vec![0; 2000];
            let value = |at: usize| (at.wrapping_mul(0x9e37_79b1) >> 7).to_le_bytes()[0];
            while got < total {
                let want = random.random_range(0..=bytes.len()).min(total - sent);
                let chunk: Vec<u8> = (sent..sent + want).map(value).collect();
                sent += client.write(&chunk).expect("sound");
                pause(&mut random);
                let count = client.read(&mut bytes).expect("sound");
                for (at, byte) in bytes[..count].iter().enumerate() {
                    assert_eq!(*byte, value(got + at), "seed {seed}, byte {}", got + at);
                }
                got += count;
                if count == 0 {
                    let need = if sent < total { Need::Either } else { Need::Data };
                    client.wait(need, Instant::now() + LIMIT).expect("a wake was lost");
                }
            }
        });
    }
}
