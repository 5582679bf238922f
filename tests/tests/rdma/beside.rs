//! What the server makes of RDMA beside perftest on the same device, in turns: writes that it pulls, and pushes.
//!
//! Prints figures and asserts none: an emulated machine says nothing of an adapter. `MOONCAKE_RUNS` is the number of rounds.
//! docs/performance-rdma.md has a run.

use super::{LIMIT, MIB, server};
use client::{Choice, Client, Options, PutOptions};
use protocol::base::{RawSpan, StableMemory, copy_into};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tests::server::patience;
use tests::{Server, payload};
use transport::rdma::Pages;

/// Clients at once: enough that one's bytes travel while the other's are summed.
const CLIENTS: usize = 2;
/// How long one turn lasts.
const TURN: Duration = Duration::from_secs(2);
/// Messages of perftest's turn.
const MESSAGES: &str = "100";

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("the guest says {name}"))
}

/// GB/s of `ib_write_bw` or `ib_read_bw` with messages of 1 MiB.
fn perftest(program: &str, port: u16) -> f64 {
    let (device, gid) = (env("GUEST_RDMA_DEVICE"), env("GUEST_GID_INDEX"));
    let port = port.to_string();
    let args = ["-d", &device, "-x", &gid, "-s", "1048576", "-n", MESSAGES, "-F", "-p", &port];
    let mut far =
        Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("spawned");
    let until = Instant::now() + patience(Duration::from_secs(20));
    let near = loop {
        let near = Command::new(program).args(args).arg("127.0.0.1").output().expect("run");
        // The other side says nothing when it listens.
        if near.status.success() || Instant::now() > until {
            break near;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let _ = far.kill();
    far.wait().expect("ended");
    let text = String::from_utf8_lossy(&near.stdout).into_owned();
    let line = text.lines().find(|line| line.split_whitespace().next() == Some("1048576"));
    let average = line.and_then(|line| line.split_whitespace().nth(3)?.parse::<f64>().ok());
    average.unwrap_or_else(|| panic!("{program}: {text}{}", String::from_utf8_lossy(&near.stderr))) * 1.048_576e-3
}

/// Seconds of CPU that a process used.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|&at| fields[at].parse::<u64>().expect("ticks")).sum();
    ticks as f64 / 100.0
}

struct Worker {
    client: Client,
    memory: client::Registered,
    key: Vec<u8>,
}

fn worker(server: &Server, number: usize) -> Worker {
    let mut options = Options::new(server.addr().to_string().parse().expect("an address")).via(Choice::Rdma);
    options.deadline = LIMIT;
    options.buffer_len = MIB as u64;
    let mut client = Client::connect(options).expect("connected");
    let pages: Arc<dyn StableMemory> = Pages::new(MIB).expect("mapped");
    let key = format!("k{number}").into_bytes();
    let span = RawSpan::new(Arc::clone(&pages), 0, MIB).expect("all of it");
    copy_into(&payload::make(&key, 1, MIB), &span);
    let memory = client.register(pages).expect("registered");
    Worker { client, memory, key }
}

impl Worker {
    fn put(&mut self) {
        let replace = PutOptions { replace: true, ..PutOptions::default() };
        self.client.put_registered(&self.key, (&self.memory, 0, MIB), &replace).expect("put");
    }

    fn fetch(&mut self) {
        self.client.fetch_registered(&self.key, (&self.memory, 0, MIB)).expect("fetched").expect("there");
    }
}

/// GB/s of the workers together, and the server's CPU, ms a GB.
fn turn(server: &Server, workers: &mut [Worker], act: fn(&mut Worker)) -> (f64, f64) {
    let (began, used) = (Instant::now(), cpu(server.pid()));
    let objects: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = workers
            .iter_mut()
            .map(|worker| {
                scope.spawn(move || {
                    let mut count = 0;
                    while count == 0 || began.elapsed() < TURN {
                        act(worker);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a worker")).sum()
    });
    let bytes = (objects * MIB) as f64;
    (bytes / began.elapsed().as_secs_f64() / 1e9, (cpu(server.pid()) - used) * 1e12 / bytes)
}

#[test]
#[ignore = "guest: its RDMA device"]
fn figures_beside_perftest() {
    let server = server(&[]);
    let mut workers: Vec<Worker> = (0..CLIENTS).map(|number| worker(&server, number)).collect();
    let rounds = std::env::var("MOONCAKE_RUNS").map_or(1, |rounds| rounds.parse().expect("a number"));
    for round in 0..rounds {
        let (written, read) = (perftest("ib_write_bw", 18_515), perftest("ib_read_bw", 18_516));
        let (put, put_cpu) = turn(&server, &mut workers, Worker::put);
        let (got, got_cpu) = turn(&server, &mut workers, Worker::fetch);
        println!(
            "round {round}: ib_write_bw {written:.3} GB/s, ib_read_bw {read:.3}; {CLIENTS} clients: put {put:.3} GB/s ({:.2} of \
             ib_read_bw, server {put_cpu:.0} ms/GB), fetched {got:.3} ({:.2} of ib_write_bw, server {got_cpu:.0} ms/GB)",
            put / read,
            got / written
        );
    }
}
