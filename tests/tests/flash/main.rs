//! The flash tier as clients see it: objects that left DRAM, restarts of every kind, devices that come and go.

mod admin;
mod drain;
mod loading;
mod reads;
mod restart;

use tests::payload;
use tests::{Raw, Server, Value};

/// DRAM of the servers here: as little as there can be.
const DRAM: [&str; 2] = ["--dram", "64 MiB"];

/// A server whose writers wait for flash rather than lose what it has not taken yet.
fn server(flash: &str, args: &[&str]) -> Server {
    Server::start_with_flash(flash, &[&DRAM, &["--spill-wait-ms", "10000"], args].concat())
}

/// Lengths of objects, from a shared page to several pieces of a copy.
const LENS: [usize; 6] = [100, 5_000, 70_001, 1 << 20, 300_000, (3 << 20) + 17];

/// The key of object `number`.
fn key(number: usize) -> String {
    format!("block:{number}")
}

/// The payload of object `number`.
fn bytes(number: usize, version: u64) -> Vec<u8> {
    payload::make(key(number).as_bytes(), version, LENS[number % LENS.len()])
}

/// Stores objects until they take `len`, and returns how many.
fn fill(raw: &mut Raw, len: usize) -> usize {
    let (mut number, mut stored) = (0, 0);
    while stored < len {
        let value = bytes(number, 1);
        stored += value.len();
        raw.set(key(number), value);
        number += 1;
    }
    number
}

/// Reads an object and checks it. Whether it is there.
fn is_there(raw: &mut Raw, number: usize, version: u64) -> bool {
    match raw.ask(&["GET", &key(number)]) {
        Value::Nil => false,
        Value::Bulk(found) => {
            assert!(found == bytes(number, version), "{} is not what was written", key(number));
            true
        }
        other => panic!("{}: {other:?}", key(number)),
    }
}

/// A number from `INFO`.
fn info(raw: &mut Raw, name: &str) -> u64 {
    let text = raw.ask(&["INFO", "all"]);
    let found = text.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.unwrap_or_else(|| panic!("{name} in {}", text.text())).parse().expect("a number")
}

/// Waits until nothing more is being written to flash.
fn settled(raw: &mut Raw) {
    let mut before = None;
    tests::server::until("flash comes to rest", std::time::Duration::from_secs(20), || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let now = (info(raw, "spilled_objects"), info(raw, "spilled_bytes"));
        before.replace(now) == Some(now)
    });
}

/// Asks the server to stop as `words` say, and waits for its end.
fn shut_down(server: &mut Server, words: &[&str]) {
    let mut raw = Raw::to(server);
    raw.request(&[&["SHUTDOWN"], words].concat()).expect("sent");
    assert!(server.wait().success(), "{}", server.log());
}
