//! The server under a service manager: what it tells, how it drains, what it reads again.

use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tests::http::{ask, get};
use tests::server::{Mark, until};
use tests::{Raw, Server};

fn signal(server: &Server, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(server.pid()).expect("a process id")).expect("it runs");
    kill_process(pid, signal).expect("it takes signals");
}

/// Reads what is told until `holds`.
fn told(socket: &UnixDatagram, so_far: &mut String, holds: impl Fn(&str) -> bool) {
    let start = Instant::now();
    while !holds(so_far) {
        assert!(start.elapsed() < Duration::from_secs(30), "only this was told: {so_far}");
        let mut message = [0; 4096];
        if let Ok(len) = socket.recv(&mut message) {
            so_far.push_str(&String::from_utf8_lossy(&message[..len]));
            so_far.push('\n');
        }
    }
}

#[test]
fn the_service_manager_hears_ready_alive_and_stopping() {
    let dir = TempDir::new().expect("a directory for the test");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket for the test");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket has one");
    let mut server = Server::start_supervised(&path, Duration::from_millis(600), &[]);
    let mut all = String::new();
    told(&socket, &mut all, |all| all.contains("READY=1") && all.matches("WATCHDOG=1").count() >= 3);
    assert!(!all.contains("STOPPING=1"), "{all}");
    signal(&server, Signal::TERM);
    told(&socket, &mut all, |all| all.contains("STOPPING=1"));
    assert!(server.wait().success(), "{}", server.log());
    assert_eq!(all.matches("READY=1").count(), 1, "{all}");
}

#[test]
fn a_stop_lets_what_is_lent_end_and_lends_nothing_new() {
    let mut server = Server::start(&["--drain-ms", "20000"]);
    let metrics = server.metrics();
    let mut raw = Raw::to(&server);
    assert_eq!(raw.ask(&["SET", "k", "v"]).text(), "OK");
    let lease = raw.ask(&["LEASE", "k", "60000"]).field("lease").text().to_owned();
    signal(&server, Signal::TERM);
    let ready = || ask(metrics, "GET", "/readyz", "localhost").expect("it answers until the end");
    until("it says that it drains", Duration::from_secs(20), || ready().code == 503);
    assert!(ready().body.starts_with("draining"), "{:?}", ready());
    assert_eq!(ask(metrics, "GET", "/healthz", "localhost").expect("it answers").code, 200);
    assert!(raw.ask(&["LEASE", "k", "1000"]).is_error("BUSY"));
    assert!(raw.ask(&["LOOKUP", "k", "LEASE", "1000"]).is_error("BUSY"));
    assert!(raw.ask(&["PUT", "j", "LEN", "10"]).is_error("BUSY"));
    assert!(raw.ask(&["MPUT", "1", "j", "10"]).items()[0].is_error("BUSY"));
    assert_eq!(raw.ask(&["GET", "k"]).text(), "v", "who is there is still served");
    until("nobody new is taken", Duration::from_secs(20), || Raw::tcp(server.addr()).is_err());
    assert_eq!(raw.ask(&["RELEASE", &lease]).number(), 1);
    // With the last lease it is over, long before the limit.
    assert!(server.wait().success(), "{}", server.log());
    assert!(server.log().contains("drained: 0 leases and 0 grants"), "{}", server.log());
}

#[test]
fn a_stop_does_not_wait_for_ever_and_a_second_signal_not_at_all() {
    for (limit, twice) in [("200", false), ("600000", true)] {
        let mut server = Server::start(&["--drain-ms", limit]);
        let mut raw = Raw::to(&server);
        assert_eq!(raw.ask(&["SET", "k", "v"]).text(), "OK");
        assert!(raw.ask(&["LEASE", "k", "60000"]).has("lease"));
        signal(&server, Signal::TERM);
        if twice {
            until("it drains", Duration::from_secs(20), || server.log().contains("draining: 1 leases"));
            signal(&server, Signal::TERM);
        }
        assert!(server.wait().success(), "{}", server.log());
        assert!(server.log().contains("drained: 1 leases"), "{}", server.log());
    }
}

#[test]
fn a_hangup_reads_the_file_again_and_keeps_what_was_set_by_hand() {
    let dir = Arc::new(TempDir::new().expect("a directory for the test"));
    let path = dir.path().join("m.toml");
    let write = |text: &str| std::fs::write(&path, text).expect("a file for the test");
    write("maxclients = 100\ntimeout = 50\nworkers = 1\n");
    let file = path.display().to_string();
    let server = Server::try_start(Arc::clone(&dir), &["--config", &file], Mark::Ready).expect("it starts");
    let mut raw = Raw::to(&server);
    let mut setting = |name: &str| raw.ask(&["CONFIG", "GET", name]).items()[1].text().to_owned();
    assert_eq!((setting("maxclients"), setting("timeout")), ("100".to_owned(), "50".to_owned()));
    let mut by_hand = Raw::to(&server);
    assert_eq!(by_hand.ask(&["CONFIG", "SET", "timeout", "70"]).text(), "OK");
    write("maxclients = 200\ntimeout = 60\nworkers = 2\n");
    signal(&server, Signal::HUP);
    until("it is read", Duration::from_secs(20), || setting("maxclients") == "200");
    assert_eq!(setting("timeout"), "70", "what was set by hand stays");
    assert_eq!(setting("workers"), "1", "what needs a restart waits for it");
    until("that is told", Duration::from_secs(20), || server.log().contains("until the next start: workers"));
    // A file with a mistake changes nothing, and the mistake is told.
    write("maxclients = 300\ntimeot = 1\n");
    signal(&server, Signal::HUP);
    until("it is told", Duration::from_secs(20), || server.log().contains("timeot"));
    assert_eq!(setting("maxclients"), "200");
}

#[test]
fn every_setting_changes_or_says_that_it_needs_a_start() {
    let server = Server::start(&[]);
    let defaults =
        std::process::Command::new(tests::server::binary()).arg("--print-defaults").output().expect("it runs");
    let defaults = String::from_utf8(defaults.stdout).expect("it is text");
    let mut raw = Raw::to(&server);
    let (mut live, mut fixed) = (0, 0);
    for block in defaults.split("\n\n") {
        let Some((name, _)) = block.lines().last().and_then(|line| line.strip_prefix("# ")?.split_once(" = ")) else {
            continue;
        };
        let own = raw.ask(&["CONFIG", "GET", name]);
        let own = own.items()[1].text();
        let answer = raw.ask(&["CONFIG", "SET", name, own]);
        if block.contains("CONFIG SET changes it.") {
            assert_eq!(answer.text(), "OK", "{name} = {own:?}");
            live += 1;
        } else {
            assert!(answer.is_error("ERR") && answer.text().contains("when the server starts"), "{name}: {answer:?}");
            fixed += 1;
        }
    }
    assert!(live >= 25 && fixed >= 10, "{live} change, {fixed} do not");
}

#[test]
fn limits_that_are_changed_count_at_once() {
    let server = Server::start(&[]);
    let mut raw = Raw::to(&server);
    assert_eq!(raw.ask(&["SET", "k", "v"]).text(), "OK");
    assert!(raw.ask(&["LEASE", "k", "50000"]).has("lease"));
    assert_eq!(raw.ask(&["CONFIG", "SET", "lease-ms-max", "2000", "grant-ms", "1234"]).text(), "OK");
    assert!(raw.ask(&["LEASE", "k", "50000"]).is_error("TOOBIG"));
    assert_eq!(raw.ask(&["PUT", "j", "LEN", "1"]).field("deadline-ms").number(), 1234);
    assert_eq!(raw.ask(&["CONFIG", "SET", "log-level", "debug"]).text(), "OK");
    assert_eq!(raw.ask(&["CONFIG", "SET", "progress-ms", "200"]).text(), "OK");
    let mut slow = Raw::to(&server);
    slow.send(b"*2\r\n$3\r\nGET\r\n").expect("sent");
    until("one that stands still is closed by the new limit", Duration::from_secs(4), || {
        raw.ask(&["INFO", "stats"]).text().contains("timed_out_connections:1")
    });
    assert_eq!(get(&server, "/healthz").code, 200);
}
