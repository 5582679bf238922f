//! Question: what does an exchange over the rings cost beside the least that can wake a process, a bare eventfd?
//!
//! Workload: two threads, one message of 64 bytes there and back at a time. `eventfd`: one 8-byte write and one blocking
//! read on each side, no message. `ring, asleep`: neither side spins, so each message costs a wake. `ring, brief spin`:
//! as a client waits by default. `ring, spinning`: neither side ever sleeps. The ways take turns within each round;
//! medians of the rounds, in microseconds. For the first two both threads share one core: across cores each wake costs
//! what the idle core takes to come back, 5 to 50 us on a virtual machine, which says nothing about either way. Their
//! ratio is to stay at or below 1.5.
//!
//! `cargo run --release -p mooncake-transport --example ring_exchange [ROUNDS]`, 9 rounds unless said otherwise.

use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use transport::shm::{BlockingRing, Need, RingLayout, SpinBudget, create_ring};

const MESSAGE: [u8; 64] = *b"*3\r\n$5\r\nLEASE\r\n$31\r\nmodel:layer:0123456789abcdef:07\r\n$4\r\n5000\r\n\0";
const TURN: Duration = Duration::from_millis(60);

fn main() {
    let rounds: usize = std::env::args().nth(1).map_or(9, |text| text.parse().expect("a number of rounds"));
    type Way = (&'static str, fn() -> f64);
    let ways: [Way; 4] = [
        ("eventfd", || on_one_core(bare)),
        ("ring, asleep", || on_one_core(|| ring(Duration::ZERO))),
        ("ring, brief spin", || ring(Duration::from_micros(20))),
        ("ring, spinning", || ring(Duration::from_secs(1))),
    ];
    let mut micros = ways.map(|_| Vec::new());
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        for (results, (_, way)) in micros.iter_mut().zip(ways) {
            results.push(way());
        }
        ratios.push(micros[1].last().expect("measured") / micros[0].last().expect("measured"));
    }
    for (results, (name, _)) in micros.iter_mut().zip(ways) {
        println!("{name:<18}{:>8.2} us an exchange", median(results));
    }
    println!("ring, asleep / eventfd: {:.2} (at most 1.5)", median(&mut ratios));
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Microseconds an exchange, by repeating `exchange` for a turn.
fn timed(mut exchange: impl FnMut()) -> f64 {
    (0..100).for_each(|_| exchange());
    let (started, mut count) = (Instant::now(), 0u32);
    while started.elapsed() < TURN {
        (0..20).for_each(|_| exchange());
        count += 20;
    }
    started.elapsed().as_secs_f64() * 1e6 / f64::from(count)
}

/// Runs `way` with this thread, and those it starts, on one core.
fn on_one_core(way: impl FnOnce() -> f64) -> f64 {
    let all = sched_getaffinity(None).expect("an affinity");
    let first = (0..CpuSet::MAX_CPU).find(|&cpu| all.is_set(cpu)).expect("a core");
    let mut one = CpuSet::new();
    one.set(first);
    sched_setaffinity(None, &one).expect("pinned");
    let micros = way();
    sched_setaffinity(None, &all).expect("unpinned");
    micros
}

fn bare() -> f64 {
    let event = || eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
    let (there, back) = (event(), event());
    let send = |fd: &OwnedFd, value: u64| rustix::io::write(fd, &value.to_le_bytes()).expect("written");
    let receive = |fd: &OwnedFd| {
        let mut value = [0; 8];
        rustix::io::read(fd, &mut value).expect("read");
        u64::from_le_bytes(value)
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while receive(&there) == 1 {
                send(&back, 1);
            }
        });
        let micros = timed(|| {
            send(&there, 1);
            receive(&back);
        });
        send(&there, 2);
        micros
    })
}

fn ring(spin_max: Duration) -> f64 {
    let (server_socket, client_socket) = UnixStream::pair().expect("a pair");
    let server = create_ring(RingLayout::default()).expect("a ring");
    let fds = server.fds.as_fds().map(|fd| fd.try_clone_to_owned().expect("a duplicate")).into();
    let spin = SpinBudget::new(spin_max);
    let (mut server, _fds) = BlockingRing::serve(server, server_socket.as_fd(), spin.clone()).expect("served");
    let mut client = BlockingRing::open(fds, client_socket.as_fd(), spin).expect("opened");
    let far = Instant::now() + Duration::from_secs(600);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut bytes = [0; MESSAGE.len()];
            while receive(&mut server, &mut bytes, far) {
                server.write_all(&bytes, far).expect("room");
            }
        });
        let mut bytes = [0; MESSAGE.len()];
        let micros = timed(|| {
            client.write_all(&MESSAGE, far).expect("room");
            assert!(receive(&mut client, &mut bytes, far), "an echo");
            assert!(bytes == MESSAGE, "not what was sent");
        });
        drop(client);
        drop(client_socket);
        micros
    })
}

/// Fills `bytes`; `false` if the peer is gone.
fn receive(ring: &mut BlockingRing, bytes: &mut [u8], deadline: Instant) -> bool {
    let mut got = 0;
    while got < bytes.len() {
        match ring.read(&mut bytes[got..]).expect("sound") {
            0 => {
                if ring.wait(Need::Data, deadline).is_err() {
                    return false;
                }
            }
            count => got += count,
        }
    }
    true
}
