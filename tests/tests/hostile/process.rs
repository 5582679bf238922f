//! The server's own process: stopped and continued, asked to end under load, started twice.

use crate::alone;
use client::{Choice, Client, ClientError, Options, PutOptions};
use rustix::process::{Pid, Signal, kill_process};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tests::bulk::{RawBulk, attach, bulk_header, grant_of, lease_of};
use tests::info::Memory;
use tests::server::until;
use tests::{Raw, Server, Value, payload};
use transport::tcp::frame::{Request, Status};

/// Time in which a server that was told to end has ended, and its clients know, however busy the machine is.
const SOON: Duration = Duration::from_secs(15);

fn signal(server: &Server, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(server.pid()).expect("a process id")).expect("it runs");
    kill_process(pid, signal).expect("it takes signals");
}

/// Stops all of its threads, and waits until they are.
fn suspend(server: &Server) {
    signal(server, Signal::STOP);
    until("every thread has stopped", Duration::from_secs(2), || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", server.pid())).expect("it runs");
        threads.map(|thread| std::fs::read_to_string(thread.expect("listed").path().join("stat"))).all(|stat| {
            // The state stands behind the name, which may hold anything.
            stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
        })
    });
}

/// Whatever is asked while it sleeps, what has run out meanwhile is gone before the first answer.
#[test]
fn a_server_that_slept_ends_what_ran_out_before_it_answers() {
    let _alone = alone();
    // A look only each second, so that the first request after the sleep comes before it.
    let server = Server::start(&["--dram", "64 MiB", "--grant-ms", "200", "--tick-ms", "1000", "--workers", "2"]);
    for round in 0..5 {
        let mut holder = Raw::to(&server);
        let (token, addr) = attach(&mut holder).expect("attached");
        let mut bulk = RawBulk::open(addr, token).expect("open");
        let mut asking: Vec<Raw> = (0..3).map(|_| Raw::to(&server)).collect();
        assert!(asking.iter_mut().all(Raw::is_alive));
        let value = payload::make(b"k", round, 200_000);
        holder.set(b"k", &value[..]);
        let lease = holder.ask(&["LEASE", "k", "200"]);
        assert_eq!(holder.ask(&["DEL", "k"]).number(), 1);
        let grant = holder.ask(&["PUT", "j", "LEN", "200000"]);
        assert_eq!(bulk.write(grant_of(&grant), 0, &value).expect("answered").status, Status::Done);
        suspend(&server);
        let crc = protocol::base::Crc::of(&value).to_string();
        asking[0].request(&["INFO", "tiers", "leases", "clients"]).expect("sent");
        asking[1].request(&["INFO", "leases"]).expect("sent");
        holder.request(&["RENEW", lease.field("lease").text(), "60000"]).expect("sent");
        holder.request(&["COMMIT", grant.field("grant").text(), "CRC", &crc]).expect("sent");
        holder.request(&["RELEASE", lease.field("lease").text()]).expect("sent");
        bulk.send(&bulk_header(1, Request::Read { lease: lease_of(&lease), offset: 0, length: 10 })).expect("sent");
        std::thread::sleep(Duration::from_millis(300));
        signal(&server, Signal::CONT);
        let info = asking[0].recv().expect("answered");
        for zero in ["bytes_reserved", "bytes_doomed", "bytes_quarantine", "leases", "grants"] {
            assert!(info.text().contains(&format!("\r\n{zero}:0\r\n")), "{zero} in {}", info.text());
        }
        assert!(asking[1].recv().expect("answered").text().contains("\r\nleases:0\r\n"));
        assert!(holder.recv().expect("answered").is_error("NOLEASE"));
        assert!(holder.recv().expect("answered").is_error("NOGRANT"));
        assert_eq!(holder.recv().expect("answered"), Value::Int(0));
        assert_eq!(bulk.recv().expect("answered").status, Status::NoLease);
        assert!(Memory::ask(&mut asking[2]).expect("answered").is_quiet());
    }
}

/// What clients sent while it slept was progress of theirs, though nobody looked.
#[test]
fn a_server_that_slept_closes_nobody_for_it() {
    let _alone = alone();
    let server = Server::start(&["--dram", "64 MiB", "--progress-ms", "300"]);
    let value = payload::make(b"k", 1, 2_000_000);
    let mut raw = Raw::to(&server);
    let (token, addr) = attach(&mut raw).expect("attached");
    let mut bulk = RawBulk::open(addr, token).expect("open");
    let grant = raw.ask(&["PUT", "j", "LEN", "2000000"]);
    let write = Request::Write { grant: grant_of(&grant), offset: 0, length: 2_000_000, crc: None };
    let mut reader = Raw::to(&server);
    reader.set(b"k", &value[..]);
    for _ in 0..3 {
        let mut setter = Raw::to(&server);
        setter.send(b"*3\r\n$3\r\nSET\r\n$1\r\ns\r\n$2000000\r\n").expect("sent");
        setter.send(&value[..1_000_000]).expect("sent");
        bulk.send(&bulk_header(1, write)).expect("sent");
        bulk.send(&value[..1_000_000]).expect("sent");
        reader.request(&["GET", "k"]).expect("sent");
        suspend(&server);
        std::thread::sleep(Duration::from_millis(800));
        signal(&server, Signal::CONT);
        setter.send(&value[1_000_000..]).expect("sent");
        setter.send(b"\r\n").expect("sent");
        bulk.send(&value[1_000_000..]).expect("sent");
        assert_eq!(setter.recv().expect("the writer was not closed").text(), "OK");
        assert_eq!(bulk.recv().expect("the bulk writer was not closed").status, Status::Done);
        assert_eq!(reader.recv().expect("the reader was not closed"), Value::Bulk(value.clone()));
    }
}

fn client(server: &Server, choice: Choice) -> Client {
    let mut options = Options::new(server.addr().to_string().parse().expect("an address")).via(choice);
    options.buffer_len = 4 << 20;
    options.deadline = Duration::from_secs(10);
    Client::connect(options).expect("connected")
}

/// Runs clients of every kind, ends the server by `end`, and returns how long it and its clients took to notice.
fn ended_under_load(end: impl FnOnce(&Server)) {
    let mut server = Server::start(&["--dram", "256 MiB"]);
    let socket = server.socket();
    let ended = AtomicBool::new(false);
    let operations = AtomicU64::new(0);
    let took = std::thread::scope(|scope| {
        let mut clients = Vec::new();
        for (n, choice) in [Choice::Shm, Choice::Tcp, Choice::InBand, Choice::Shm].into_iter().enumerate() {
            let mut client = client(&server, choice);
            let (ended, operations) = (&ended, &operations);
            clients.push(scope.spawn(move || {
                let mut buffer = vec![0; 1 << 20];
                let key = format!("k{n}");
                let value = payload::make(key.as_bytes(), 1, 1 << 20);
                loop {
                    let replace = PutOptions { replace: true, ..PutOptions::default() };
                    let done = client
                        .put(key.as_bytes(), &value, &replace)
                        .and_then(|_| client.fetch(key.as_bytes(), &mut buffer).map(drop));
                    match done {
                        Ok(()) => {}
                        Err(ClientError::Wire { word, .. }) if word == "QUOTA" || word == "OOM" => {}
                        Err(error) => {
                            assert!(ended.load(Ordering::SeqCst), "before the end: {error}");
                            assert!(!matches!(error, ClientError::Timeout { .. }), "a client hangs: {error}");
                            return Instant::now();
                        }
                    }
                    operations.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        // Those that are in the middle of something, and those that say nothing.
        let mut idle: Vec<Raw> = (0..20).map(|_| Raw::to(&server)).collect();
        for raw in idle.iter_mut().take(10) {
            raw.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\nhalf of it").expect("sent");
        }
        let (token, addr) = attach(&mut idle[15]).expect("attached");
        let mut bulk = RawBulk::open(addr, token).expect("open");
        while operations.load(Ordering::Relaxed) < 50 {
            assert!(clients.iter().all(|client| !client.is_finished()), "a client fails before the end");
            std::thread::sleep(Duration::from_millis(1));
        }
        ended.store(true, Ordering::SeqCst);
        let began = Instant::now();
        end(&server);
        let status = server.wait();
        let took = began.elapsed();
        assert!(status.success(), "{status}:\n{}", server.log());
        for raw in &mut idle {
            raw.rest().expect("it ends");
        }
        bulk.ends().expect("it ends");
        for client in clients {
            let noticed = client.join().expect("no client hangs") - began;
            assert!(noticed < SOON, "a client noticed after {noticed:?}");
        }
        took
    });
    assert!(took < SOON, "it took {took:?}");
    assert!(!socket.exists(), "the socket file is gone");
}

#[test]
fn sigterm_under_load_ends_the_server_and_its_clients_soon() {
    let _alone = alone();
    ended_under_load(|server| signal(server, Signal::TERM));
}

#[test]
fn shutdown_under_load_ends_the_server_and_its_clients_soon() {
    let _alone = alone();
    ended_under_load(|server| {
        let mut raw = Raw::to(server);
        raw.request(&["SHUTDOWN", "NOSAVE"]).expect("sent");
        assert_eq!(raw.rest().expect("it ends").escape_ascii().to_string(), "");
    });
}

#[test]
fn a_killed_server_leaves_no_client_hanging() {
    let _alone = alone();
    let mut server = Server::start(&["--dram", "64 MiB"]);
    let mut clients: Vec<Client> =
        [Choice::Shm, Choice::Tcp, Choice::InBand].map(|choice| client(&server, choice)).into();
    for client in &mut clients {
        let replace = PutOptions { replace: true, ..PutOptions::default() };
        client.put(b"k", &[7; 100_000], &replace).expect("put");
    }
    let lease = clients[0].lease(b"k", Duration::from_secs(30)).expect("answered").expect("there");
    server.kill();
    let began = Instant::now();
    for client in &mut clients {
        let error = client.fetch(b"k", &mut [0; 100_000]).expect_err("nobody is there");
        assert!(matches!(error, ClientError::Connect { .. } | ClientError::Disconnected { .. }), "{error}");
    }
    assert!(clients[0].read(&lease, &mut [0; 100_000]).is_err(), "a lease dies with its session");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn a_second_server_says_what_is_in_its_way() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut raw = Raw::to(&server);
    raw.set("k", "v");
    let (_, bulk) = attach(&mut raw).expect("attached");
    let free = server.dir().join("other.sock");
    let file = server.dir().join("file");
    std::fs::write(&file, "somebody's").expect("written");
    let start = |listen: &str, socket: &std::path::Path, bulk: &str| {
        let output = Command::new(tests::server::binary())
            .args([
                "--dram",
                "64 MiB",
                "--data-dir",
                "none",
                "--listen",
                listen,
                "--bulk-listen",
                bulk,
                "--unix-socket",
            ])
            .arg(socket)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .expect("it runs");
        assert!(!output.status.success(), "it started");
        String::from_utf8(output.stderr).expect("text")
    };
    let taken = server.addr().to_string();
    let told = start(&taken, &free, "none");
    assert!(told.contains(&taken) && told.contains("is another server there?"), "{told}");
    let told = start("127.0.0.1:0", &server.socket(), "none");
    assert!(told.contains("s.sock is served by another process"), "{told}");
    let told = start("127.0.0.1:0", &free, &bulk.to_string());
    assert!(told.contains(&bulk.to_string()) && told.contains("bulk"), "{told}");
    let told = start("127.0.0.1:0", &file, "none");
    assert!(told.contains("exists and is no socket"), "{told}");
    assert_eq!(std::fs::read_to_string(&file).expect("still there"), "somebody's");
    assert!(!free.exists(), "a server that did not start leaves no socket");
    assert_eq!(raw.ask(&["GET", "k"]).text(), "v", "the first one noticed nothing");
    assert!(Raw::unix(&server.socket()).expect("still served").is_alive());
}

#[test]
fn a_socket_left_by_a_killed_server_is_taken_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("bound"));
    assert!(socket.exists(), "a socket file without a process");
    let mut child = Command::new(tests::server::binary())
        .args(["--dram", "64 MiB", "--data-dir", "none", "--listen", "127.0.0.1:0", "--unix-socket"])
        .arg(&socket)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    let began = Instant::now();
    let served = loop {
        match Raw::unix(&socket) {
            Ok(mut raw) => break raw.is_alive(),
            Err(_) if began.elapsed() < Duration::from_secs(10) => std::thread::sleep(Duration::from_millis(5)),
            Err(_) => break false,
        }
    };
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");
    assert!(served, "the socket file of a process that is gone is in nobody's way");
}

/// Descriptors run out: those who are there are served, newcomers wait or are told, and nothing is lost for good.
#[test]
fn a_server_out_of_descriptors_serves_those_it_has() {
    use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
    let _alone = alone();
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut admin = Raw::to(&server);
    admin.set("k", payload::make(b"k", 1, 200_000));
    let open = tests::info::alone(&server, &mut admin);
    let count = open.values().sum::<usize>() as u64 + 30;
    let pid = Pid::from_raw(i32::try_from(server.pid()).expect("a process id"));
    let maximum = getrlimit(Resource::Nofile).maximum;
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(count), maximum }).expect("lowered");
    let mut clients: Vec<Raw> = (0..60).map(|_| Raw::to(&server)).collect();
    for raw in &mut clients {
        // The kernel accepts them all; those that the server cannot take wait there.
        raw.set_patience(Duration::from_millis(1)).expect("set");
        raw.send(b"PING\r\n").expect("sent");
    }
    until("it says so", Duration::from_secs(2), || server.log().contains("cannot accept"));
    for _ in 0..20 {
        payload::check(b"k", &bulk_of(admin.ask(&["GET", "k"]))).unwrap_or_else(|wrong| panic!("{wrong}"));
        assert!(admin.ask(&["ATTACH", "SHM"]).is_error("NOTRANSPORT"));
    }
    let told = server.log().matches("cannot accept").count();
    let spent = tests::info::cpu_ticks(server.pid()).expect("it runs");
    std::thread::sleep(Duration::from_millis(500));
    let told_since = server.log().matches("cannot accept").count() - told;
    assert!(told_since <= 1, "{told_since} complaints in half a second");
    let spent = tests::info::cpu_ticks(server.pid()).expect("it runs") - spent;
    assert!(spent < 20, "{spent} ticks of a processor spent on waiting");
    let (mut served, mut waiting) = (Vec::new(), Vec::new());
    for mut raw in clients {
        match raw.recv() {
            Ok(value) => {
                assert_eq!(value.text(), "PONG");
                served.push(raw);
            }
            Err(_) => waiting.push(raw),
        }
    }
    let count = served.len();
    assert!((10..=30).contains(&count), "{count} of 60 were served with 30 descriptors");
    // Those leave, and the others are let in, a few at a time.
    drop(served);
    while !waiting.is_empty() {
        for mut raw in waiting.drain(..waiting.len().min(10)) {
            raw.set_patience(Duration::from_secs(5)).expect("set");
            assert_eq!(raw.recv().expect("answered in the end").text(), "PONG");
        }
    }
    prlimit(pid, Resource::Nofile, Rlimit { current: maximum, maximum }).expect("raised again");
    assert_eq!(tests::info::alone(&server, &mut admin), open);
}

fn bulk_of(value: Value) -> Vec<u8> {
    let Value::Bulk(bytes) = value else { panic!("a value, not {value:?}") };
    bytes
}
