//! Many bad clients at once: memory stays bounded, healthy clients are served, and the bad ones are closed.

use crate::{alone, assert_serves};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tests::info::{alone as alone_with, memory, private_bytes, quiet_within};
use tests::server::until;
use tests::shm::RawShm;
use tests::{Raw, Server, Value};

/// Runs a healthy client beside `bad` and returns its latencies, sorted.
fn latencies_beside(addr: SocketAddr, bad: impl FnOnce()) -> Vec<Duration> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let healthy = scope.spawn(|| {
            let mut raw = Raw::tcp(addr).expect("accepted");
            let value = "v".repeat(1000);
            let mut latencies = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let began = Instant::now();
                raw.set("healthy", &value);
                assert_eq!(raw.ask(&["GET", "healthy"]).text(), value);
                latencies.push(began.elapsed());
                std::thread::sleep(Duration::from_micros(200));
            }
            latencies.sort();
            latencies
        });
        bad();
        done.store(true, Ordering::Relaxed);
        healthy.join().expect("the healthy client is served")
    })
}

fn percentile_99(latencies: &[Duration]) -> Duration {
    latencies[latencies.len() * 99 / 100]
}

/// Raises how many descriptors this process may have, or says how many clients there can be.
fn clients_possible(wanted: usize) -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    wanted.min(usize::try_from(most / 4).unwrap_or(wanted))
}

#[test]
fn requests_that_trickle_are_closed_and_cost_nobody_else() {
    let _alone = alone();
    let server = Server::start(&["--dram", "64 MiB", "--progress-ms", "1000"]);
    let count = clients_possible(300);
    let requests: [&[u8]; 3] = [
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$10\r\n0123456789\r\n",
        b"SET some-key some-value-that-comes-byte-by-byte\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\n00000000000000000000000000000000000000000000000000000000000000000",
    ];
    let mut slow: Vec<Raw> = (0..count).map(|_| Raw::to(&server)).collect();
    let mut open = vec![true; count];
    let latencies = latencies_beside(server.addr(), || {
        let began = Instant::now();
        for at in 0.. {
            for (n, raw) in slow.iter_mut().enumerate().filter(|(n, _)| open[*n]) {
                let _ = n;
                let request = requests[n % requests.len()];
                // Never the last byte.
                let byte = request[at % (request.len() - 3)];
                let _ = raw.send(&[byte]);
            }
            std::thread::sleep(Duration::from_millis(50));
            if began.elapsed() > Duration::from_millis(1800) {
                break;
            }
        }
    });
    for (n, raw) in slow.iter_mut().enumerate() {
        raw.set_patience(Duration::from_millis(1)).expect("set");
        open[n] = raw.rest().is_err();
    }
    let left = open.iter().filter(|open| **open).count();
    assert_eq!(left, 0, "of {count} that trickle, some are still served after the time for progress");
    assert!(percentile_99(&latencies) < Duration::from_millis(100), "p99 {:?}", percentile_99(&latencies));
    quiet_within(&server, Duration::from_secs(1));
}

#[test]
fn a_slow_client_that_goes_on_is_served() {
    let server = Server::start(&["--dram", "64 MiB", "--progress-ms", "500"]);
    let mut raw = Raw::to(&server);
    let value = vec![b'v'; 400_000];
    raw.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$400000\r\n").expect("sent");
    for piece in value.chunks(40_000) {
        std::thread::sleep(Duration::from_millis(120));
        raw.send(piece).expect("sent");
    }
    raw.send(b"\r\n").expect("sent");
    assert_eq!(raw.recv().expect("answered").text(), "OK", "1.2 s in all, never half a second without progress");
    std::thread::sleep(Duration::from_millis(1000));
    assert!(raw.is_alive(), "between two requests there is all the time in the world");
}

/// Progress, time and again, and no end: what was reserved or is being read would be nobody else's for hours.
#[test]
fn a_value_may_not_be_under_way_for_ever() {
    let server = Server::start(&["--dram", "64 MiB", "--progress-ms", "600", "--lease-ms-max", "1000"]);
    let mut setter = Raw::to(&server);
    setter.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n").expect("sent");
    let began = Instant::now();
    let mut closed = false;
    // 17 KB each fifth of a second; 1 s and 1 MB at 1 MiB/s are allowed.
    while !closed && began.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(200));
        closed = setter.send(&[7; 17_000]).is_err();
    }
    let after = began.elapsed();
    assert!(closed && after > Duration::from_millis(1900), "closed: {closed}, after {after:?}");
    quiet_within(&server, Duration::from_secs(1));

    let mut getter = Raw::to(&server);
    getter.set("k", vec![7; 3_000_000]);
    getter.request(&[&["MGET"][..], &["k"; 10]].concat()).expect("sent");
    getter.set_patience(Duration::from_secs(2)).expect("set");
    // Longer than a lease, and yet in time: 30 MB at 10 MB/s.
    for _ in 0..9 {
        std::thread::sleep(Duration::from_millis(300));
        let mut taken = 0;
        while taken < 3_000_000 {
            taken += getter.fill().expect("it goes on");
        }
    }
    assert!(matches!(getter.recv().expect("all of it"), Value::Array(items) if items.len() == 10));
}

#[test]
fn replies_that_nobody_takes_are_bounded_and_end_the_connection() {
    let _alone = alone();
    let server = Server::start(&["--dram", "256 MiB", "--progress-ms", "1000"]);
    let mut admin = Raw::to(&server);
    admin.set(b"large", &vec![7; 1 << 20][..]);
    admin.set(b"small", &vec![7; 15_000][..]);
    let before = private_bytes(server.pid()).expect("it runs");
    let mut most = 0;
    let mut floods: Vec<Raw> = Vec::new();
    let latencies = latencies_beside(server.addr(), || {
        let large = tests::wire::request(&["GET", "large"]).repeat(64);
        let small = tests::wire::request(&["GET", "small"]).repeat(4000);
        // 15 MB of reply from one request.
        let many = tests::wire::request(&[&["MGET"][..], &["small"; 1000]].concat());
        for n in 0..40 {
            let mut raw = Raw::to(&server);
            raw.set_patience(Duration::from_millis(20)).expect("set");
            // The server stops reading when it may not send: what it does not take does not matter.
            let _ = raw.send([&large, &small, &many.repeat(8)][n % 3]);
            floods.push(raw);
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(2500) {
            most = most.max(private_bytes(server.pid()).expect("it runs").saturating_sub(before));
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    // 13 of them hold the reply to one MGET; an eighth of what all asked for.
    assert!(most < 300 << 20, "{} MiB for replies that nobody takes", most >> 20);
    assert!(percentile_99(&latencies) < Duration::from_millis(200), "p99 {:?}", percentile_99(&latencies));
    until("all of them are closed", Duration::from_secs(1), || memory(&server).clients == 2);
    let info = admin.ask(&["INFO", "stats"]).text().to_owned();
    let count = |name: &str| -> u64 {
        let found = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.parse().ok());
        found.unwrap_or_else(|| panic!("{name} in {info}"))
    };
    assert!(count("evicted_clients") <= 13, "only those with an MGET hold memory: {info}");
    assert_eq!(count("timed_out_connections") + count("evicted_clients"), 40, "{info}");
    assert_serves(&server);
}

#[test]
fn replies_of_all_clients_together_are_bounded() {
    let _alone = alone();
    let server = Server::start(&["--dram", "256 MiB", "--progress-ms", "60000", "--output-total-percent", "10"]);
    let mut admin = Raw::to(&server);
    admin.set(b"small", &vec![7; 15_000][..]);
    let before = private_bytes(server.pid()).expect("it runs");
    let many = tests::wire::request(&[&["MGET"][..], &["small"; 1000]].concat());
    let mut floods: Vec<Raw> = Vec::new();
    let mut most = 0;
    for _ in 0..40 {
        let mut raw = Raw::to(&server);
        raw.send(&many).expect("sent");
        floods.push(raw);
        std::thread::sleep(Duration::from_millis(10));
        most = most.max(private_bytes(server.pid()).expect("it runs").saturating_sub(before));
    }
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        most = most.max(private_bytes(server.pid()).expect("it runs").saturating_sub(before));
        std::thread::sleep(Duration::from_millis(20));
    }
    // A tenth of 256 MiB, and what comes between two looks. Without a limit it is 600 MB.
    assert!(most < 200 << 20, "{} MiB for replies that nobody takes", most >> 20);
    let left = memory(&server).clients;
    assert!(left < 15, "{left} connections are left, with 15 MB of replies each");
    assert_serves(&server);
}

#[test]
fn one_reply_above_the_limit_ends_its_connection() {
    let server = Server::start(&["--dram", "64 MiB", "--output-len-max", "2 MiB"]);
    let mut raw = Raw::to(&server);
    raw.set(b"small", &vec![7; 15_000][..]);
    assert!(matches!(raw.ask(&[&["MGET"][..], &["small"; 100]].concat()), Value::Array(_)));
    raw.request(&[&["MGET"][..], &["small"; 1000]].concat()).expect("sent");
    raw.rest().expect("it ends");
    assert_serves(&server);
}

#[test]
fn requests_that_fill_memory_are_refused() {
    let _alone = alone();
    let server = Server::start(&["--dram", "64 MiB", "--progress-ms", "60000"]);
    let before = private_bytes(server.pid()).expect("it runs");
    // Each below the limits of a word and of a number of words, all together half a gigabyte a connection.
    let word = [b"$65536\r\n".to_vec(), vec![b'x'; 65_536], b"\r\n".to_vec()].concat();
    let mut closed = 0;
    let mut most = 0;
    let mut hoarders: Vec<Raw> = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::to(&server);
        raw.send(b"*8000\r\n$6\r\nLOOKUP\r\n").expect("sent");
        // 200 MiB.
        let ended = (0..3200).any(|_| raw.send(&word).is_err());
        closed += usize::from(ended);
        hoarders.push(raw);
        most = most.max(private_bytes(server.pid()).expect("it runs").saturating_sub(before));
    }
    assert_eq!(closed, 4, "connections that keep sending one request");
    assert!(most < 400 << 20, "{} MiB for requests that do not end", most >> 20);
    assert_serves(&server);
}

#[test]
fn declared_giants_cost_nothing_and_keep_the_stream_in_step() {
    let _alone = alone();
    let server = Server::start(&["--dram", "256 MiB", "--progress-ms", "20000"]);
    let before = private_bytes(server.pid()).expect("it runs");
    let mut giants: Vec<Raw> = (0..50).map(|_| Raw::to(&server)).collect();
    for (n, raw) in giants.iter_mut().enumerate() {
        // Half of them longer than any segment, half of them only more than there is for all.
        let len = if n % 2 == 0 { 256 << 20 } else { 40 << 20 };
        raw.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${len}\r\n").as_bytes()).expect("sent");
    }
    std::thread::sleep(Duration::from_millis(100));
    let held = memory(&server);
    assert!(held.reserved <= 64 << 20, "a quarter is the most that all may reserve: {held:?}");
    let more = private_bytes(server.pid()).expect("it runs").saturating_sub(before);
    assert!(more < 50 << 20, "{} MiB for declarations", more >> 20);
    // Small values need no reservation, and reads never do.
    assert_serves(&server);
    // Its bytes sent, a refused one is answered, and the next request is understood.
    let zeros = vec![0; 1 << 20];
    let sent = |raw: &mut Raw, mib: usize| -> io::Result<Value> {
        (0..mib).try_for_each(|_| raw.send(&zeros))?;
        raw.send(b"\r\n*1\r\n$4\r\nPING\r\n")?;
        let reply = raw.recv()?;
        assert_eq!(raw.recv()?.text(), "PONG", "in step after {reply:?}");
        Ok(reply)
    };
    assert!(sent(&mut giants[0], 256).expect("answered").is_error("TOOBIG"));
    let replies: Vec<Value> =
        giants.iter_mut().skip(1).step_by(2).take(3).map(|raw| sent(raw, 40).expect("answered")).collect();
    assert_eq!(replies.iter().filter(|reply| reply.is_error("QUOTA")).count(), 2, "{replies:?}");
    assert_eq!(replies.iter().filter(|reply| **reply == Value::Simple("OK".into())).count(), 1, "{replies:?}");
    drop(giants);
    quiet_within(&server, Duration::from_secs(1));
}

#[test]
fn a_set_that_breaks_off_leaves_nothing() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut admin = Raw::to(&server);
    admin.set("k", "before");
    for n in 0..20 {
        let mut raw = Raw::to(&server);
        raw.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n").expect("sent");
        raw.send(&vec![b'x'; 50_000 * n]).expect("sent");
        if n > 0 {
            until("it is being filled", Duration::from_secs(2), || memory(&server).reserved > 0);
        }
        drop(raw);
        quiet_within(&server, Duration::from_secs(1));
    }
    assert_eq!(admin.ask(&["GET", "k"]).text(), "before");
}

#[test]
fn one_client_too_many_is_told_so() {
    let server = Server::start(&["--dram", "64 MiB", "--maxclients", "5"]);
    let mut admitted: Vec<Raw> = (0..5).map(|_| Raw::to(&server)).collect();
    assert!(admitted.iter_mut().all(Raw::is_alive));
    for mut raw in [Raw::to(&server), Raw::unix(&server.socket()).expect("accepted")] {
        let told = raw.rest().expect("it ends");
        assert_eq!(told.escape_ascii().to_string(), "-ERR max number of clients reached\\r\\n");
    }
    assert!(admitted.iter_mut().all(Raw::is_alive));
    admitted.pop();
    until("there is room again", Duration::from_secs(2), || {
        let mut raw = Raw::to(&server);
        raw.is_alive()
    });
}

#[test]
fn connections_that_come_and_go_leave_nothing() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut admin = Raw::to(&server);
    let before = alone_with(&server, &mut admin);
    for n in 0..500 {
        let mut raw = if n % 2 == 0 { Raw::to(&server) } else { Raw::unix(&server.socket()).expect("accepted") };
        match n % 5 {
            0 => {}
            1 => raw.send(b"*1\r\n$4\r\nPI").expect("sent"),
            2 => raw.send(&b"GET nosuch\r\n".repeat(100)).expect("sent"),
            3 => assert!(raw.is_alive()),
            _ => raw.send(b"QUIT\r\n").expect("sent"),
        }
    }
    until("nothing is left of them", Duration::from_secs(2), || alone_with(&server, &mut admin) == before);
}

/// Placement of connections goes by what each worker counts: one that ends by force has to be counted out too.
#[test]
fn workers_forget_connections_however_they_end() {
    let server = Server::start(&["--dram", "64 MiB", "--workers", "2"]);
    let mut admin = Raw::to(&server);
    let large = "v".repeat(200_000);
    for n in 0..12 {
        let mut raw = if n % 2 == 0 { Raw::to(&server) } else { Raw::unix(&server.socket()).expect("accepted") };
        // Such connections are spread over the workers.
        for _ in 0..3 {
            raw.set("k", &large);
            assert_eq!(raw.ask(&["GET", "k"]).text(), large);
        }
        let ring = (n % 3 == 0).then(|| RawShm::attach(&server.socket(), &[]).expect("attached"));
        if n % 4 == 0 {
            let id = raw.ask(&["CLIENT", "ID"]).number().to_string();
            assert_eq!(admin.ask(&["CLIENT", "KILL", "ID", &id]).number(), 1);
        }
        drop((raw, ring));
    }
    alone_with(&server, &mut admin);
    let workers = admin.ask(&["INFO", "workers"]).text().to_owned();
    let sum = |name: &str| -> i64 {
        let numbers = workers.split([':', ',']).filter_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        numbers.map(|number| number.parse::<i64>().expect("a number")).sum()
    };
    assert_eq!((sum("connections"), sum("bulky")), (1, 0), "{workers}");
}
