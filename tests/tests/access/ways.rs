//! Every way to keys and bytes beside naming a key in a command: walks, grants, leases, sessions, transactions, messages, and
//! rights that change while a connection lives.

use protocol::base::{GrantId, LeaseId};
use std::collections::BTreeSet;
use std::time::Duration;
use tests::bulk::{self, RawBulk};
use tests::server::until;
use tests::shm::RawShm;
use tests::{Raw, Server, Value};

fn ask(raw: &mut Raw, line: &str) -> Value {
    raw.ask(&line.split(' ').collect::<Vec<_>>())
}

fn ok(raw: &mut Raw, line: &str) {
    assert_eq!(ask(raw, line), Value::Simple("OK".into()), "{line}");
}

fn refused(raw: &mut Raw, line: &str) {
    let reply = ask(raw, line);
    assert!(reply.is_error("NOPERM"), "{line}: {reply:?}");
}

/// One who may everything, and one who is `bob` with these rules.
fn two(server: &Server, rules: &str) -> (Raw, Raw) {
    let (mut admin, mut bob) = (Raw::to(server), Raw::to(server));
    ok(&mut admin, &format!("ACL SETUSER bob on >pw {rules}"));
    ok(&mut bob, "AUTH bob pw");
    (admin, bob)
}

#[test]
fn walks_over_all_keys_show_those_that_may_be_seen() {
    let server = Server::start(&["--cluster-enabled", "yes"]);
    let (mut admin, mut bob) = two(&server, "~in:* +@all");
    for n in 0..300 {
        admin.set(format!("{{s}}out:{n}"), "v");
    }
    assert_eq!(ask(&mut bob, "KEYS *"), Value::Array(vec![]));
    assert_eq!(ask(&mut bob, "RANDOMKEY"), Value::Nil);
    assert_eq!(ask(&mut bob, "DBSIZE"), Value::Int(0));
    for n in 0..3 {
        admin.set(format!("in:{{s}}{n}"), "v");
    }
    let own: BTreeSet<String> = (0..3).map(|n| format!("in:{{s}}{n}")).collect();
    let texts = |value: &Value| -> BTreeSet<String> { value.items().iter().map(|key| key.text().to_owned()).collect() };
    assert_eq!(texts(&ask(&mut bob, "KEYS *")), own);
    assert_eq!(ask(&mut bob, "DBSIZE"), Value::Int(3));
    assert_eq!(ask(&mut admin, "DBSIZE"), Value::Int(303));
    for _ in 0..50 {
        assert!(own.contains(ask(&mut bob, "RANDOMKEY").text()));
    }
    let (mut cursor, mut seen) = ("0".to_owned(), BTreeSet::new());
    loop {
        let reply = ask(&mut bob, &format!("SCAN {cursor} COUNT 50"));
        seen.extend(texts(&reply.items()[1]));
        cursor = reply.items()[0].text().to_owned();
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(seen, own);
    let slot = ask(&mut bob, "CLUSTER KEYSLOT {s}").number();
    assert_eq!(ask(&mut bob, &format!("CLUSTER COUNTKEYSINSLOT {slot}")), Value::Int(3));
    assert_eq!(texts(&ask(&mut bob, &format!("CLUSTER GETKEYSINSLOT {slot} 100"))), own);
    // What would touch every key needs the right to every key.
    for line in ["FLUSHALL", "FLUSHDB", "EVICT 1000", "DEBUG POPULATE 10"] {
        refused(&mut bob, line);
    }
    assert_eq!(ask(&mut admin, "DBSIZE"), Value::Int(303));
}

#[test]
fn many_keys_are_walked_over_beside_the_worker_for_those_who_see_few() {
    let server = Server::start(&[]);
    let (mut admin, mut bob) = two(&server, "~in:* +@all");
    ok(&mut admin, "DEBUG POPULATE 20000 out 3");
    admin.set("in:1", "v");
    assert_eq!(ask(&mut bob, "DBSIZE"), Value::Int(1));
    assert_eq!(ask(&mut bob, "RANDOMKEY").text(), "in:1");
    assert_eq!(ask(&mut bob, "KEYS *").items().len(), 1);
}

#[test]
fn options_need_the_right_to_what_they_stand_for() {
    let server = Server::start(&[]);
    let (mut admin, mut bob) = two(&server, "~in:* +@all -@pin -lease");
    admin.set("out:p", "v");
    admin.set("in:a", "v");
    refused(&mut bob, "PUT in:x LEN 5 PIN");
    refused(&mut bob, "PUT in:x LEN 5 SOFTPIN 1000");
    refused(&mut bob, "MPUT 1 in:x 5 PIN");
    refused(&mut bob, "LOOKUP in:a LEASE 1000");
    assert!(ask(&mut bob, "LOOKUP in:a").has("prefix"));
    // How deep a chain is would tell whether its parent is there.
    refused(&mut bob, "PUT in:x LEN 5 PARENT out:p");
    refused(&mut bob, "PUT in:x LEN 5 PARENT out:nosuch");
    assert!(ask(&mut bob, "PUT in:x LEN 5 PARENT in:a").has("grant"));
}

/// Fills DRAM with leases of keys from `keys` on, so that nothing can come into it. Their holders.
fn lease_all_of_dram(server: &Server, keys: std::ops::Range<usize>) -> Vec<Raw> {
    let mut held = Vec::new();
    let mut keys = keys.map(|number| format!("LEASE in:{number} 60000 VIA tcp")).peekable();
    // Each holds what one client may.
    for _ in 0..32 {
        let mut holder = Raw::to(server);
        let mut taken = 0;
        while let Some(line) = keys.peek() {
            match ask(&mut holder, line) {
                Value::Error(line) if line.starts_with("QUOTA") && taken > 0 => break,
                Value::Error(_) => {
                    held.push(holder);
                    return held;
                }
                _ => taken += 1,
            }
            keys.next();
        }
        held.push(holder);
    }
    panic!("{} clients do not fill DRAM", held.len());
}

#[test]
fn what_waits_for_room_is_not_lent_once_the_right_to_it_is_lost() {
    let server = Server::start_with_flash("512 MiB", &["--dram", "64 MiB", "--spill-wait-ms", "200"]);
    let (mut admin, mut bob) = two(&server, "~in:* ~own:* +@all");
    for number in 0..120 {
        admin.set(format!("in:{number}"), vec![b'x'; 1 << 20]);
    }
    until("the first is on flash alone", Duration::from_secs(30), || {
        let tiers = ask(&mut admin, "LOOKUP in:0");
        tiers.field("tiers").field("flash").number() == 1
    });
    let held = lease_all_of_dram(&server, 1..120);
    ok(&mut admin, "CONFIG SET spill-wait-ms 10000");
    bob.request(&["LEASE", "in:0", "60000", "VIA", "tcp"]).expect("sent");
    until("bob waits", Duration::from_secs(30), || {
        let clients = ask(&mut admin, "CLIENT LIST");
        clients.text().lines().any(|line| line.contains("user=bob") && line.contains("cmd=lease"))
    });
    ok(&mut admin, "ACL SETUSER bob resetkeys ~own:*");
    drop(held);
    let answer = bob.recv().expect("an answer");
    assert!(!answer.has("lease"), "{answer:?}");
    assert_eq!(ask(&mut bob, "EXISTS own:a"), Value::Int(0), "the connection is in step");
}

#[test]
fn grants_and_leases_end_with_the_right_to_their_keys() {
    let server = Server::start(&[]);
    let (mut admin, mut bob) = two(&server, "~in:* ~own:* +@all");
    let (token, addr) = bulk::attach(&mut bob).expect("bulk TCP");
    let mut out_of_band = RawBulk::open(addr, token).expect("the token is good");
    for key in ["in:a", "own:a"] {
        bob.set(key, "payload");
    }
    let mut grants = Vec::new();
    let mut leases = Vec::new();
    for prefix in ["in", "own"] {
        let granted = ask(&mut bob, &format!("PUT {prefix}:new LEN 7 VIA tcp"));
        let hex = granted.field("grant").text().to_owned();
        let grant = GrantId::parse(hex.as_bytes()).expect("a grant");
        out_of_band.write(grant, 0, b"payload").expect("a write");
        grants.push(hex);
        let leased = ask(&mut bob, &format!("LEASE {prefix}:a 60000 VIA tcp"));
        leases.push(leased.field("lease").text().to_owned());
    }
    let lease = |hex: &str| LeaseId::parse(hex.as_bytes()).expect("a lease");
    assert_eq!(out_of_band.read(lease(&leases[0]), 0, 7).expect("an answer").1, b"payload");
    ok(&mut admin, "ACL SETUSER bob resetkeys ~own:*");
    // Those of the keys that it lost are over, whichever way they are used; the others are not.
    let crc = ask(&mut admin, "STAT own:a").field("crc").text().to_owned();
    assert!(out_of_band.read(lease(&leases[0]), 0, 7).expect("an answer").1.is_empty());
    assert_eq!(out_of_band.read(lease(&leases[1]), 0, 7).expect("an answer").1, b"payload");
    let reply = ask(&mut bob, &format!("COMMIT {} CRC {crc}", grants[0]));
    assert!(reply.is_error("NOGRANT") || reply.is_error("NOPERM"), "{reply:?}");
    assert!(ask(&mut bob, &format!("RENEW {} 1000", leases[0])).is_error("NOLEASE"));
    assert!(ask(&mut bob, &format!("COMMIT {} CRC {crc}", grants[1])).has("generation"));
    assert_eq!(ask(&mut admin, "EXISTS in:new own:new"), Value::Int(1));
    // A commit that is repeated names a key too.
    ok(&mut admin, "ACL SETUSER bob resetkeys");
    refused(&mut bob, &format!("COMMIT {} CRC {crc}", grants[1]));
    refused(&mut bob, &format!("MCOMMIT {} {crc}", grants[1]));
}

#[test]
fn who_becomes_somebody_else_keeps_nothing_that_the_other_may_not_have() {
    let server = Server::start(&[]);
    let (mut admin, mut bob) = two(&server, "~in:* +@all");
    ok(&mut admin, "ACL SETUSER eve on >pw ~eve:* +@all");
    bob.set("in:a", "payload");
    let (token, addr) = bulk::attach(&mut bob).expect("bulk TCP");
    let mut out_of_band = RawBulk::open(addr, token).expect("the token is good");
    let leased = ask(&mut bob, "LEASE in:a 60000 VIA tcp");
    let lease = LeaseId::parse(leased.field("lease").text().as_bytes()).expect("a lease");
    assert_eq!(out_of_band.read(lease, 0, 7).expect("an answer").1, b"payload");
    ok(&mut bob, "AUTH eve pw");
    assert!(out_of_band.read(lease, 0, 7).expect("an answer").1.is_empty());
    refused(&mut bob, "GET in:a");
    // A wrong password leaves it as it was.
    assert!(ask(&mut bob, "AUTH bob no").is_error("WRONGPASS"));
    assert_eq!(ask(&mut bob, "ACL WHOAMI").text(), "eve");
    assert!(ask(&mut bob, "SET eve:a v") == Value::Simple("OK".into()));
}

#[test]
fn shared_memory_shows_all_and_is_for_those_who_may_see_all() {
    let server = Server::start(&[]);
    let (mut admin, _) = two(&server, "~in:* +@all");
    ok(&mut admin, "ACL SETUSER all on >pw %R~* ~in:* +@all");
    let mut unix = Raw::unix(&server.socket()).expect("listening");
    ok(&mut unix, "AUTH bob pw");
    let reply = RawShm::try_attach(&mut unix, &["ATTACH", "SHM", "BUFFERS", "0"], &[]).expect("a reply");
    assert!(reply.is_error("NOPERM") && unix.fds.is_empty(), "{reply:?}");
    ok(&mut unix, "AUTH all pw");
    let reply = RawShm::try_attach(&mut unix, &["ATTACH", "SHM", "BUFFERS", "0"], &[]).expect("a reply");
    assert!(reply.has("segments"), "{reply:?}");
    // The ring is the user that made it, and both end when it may no longer see all.
    until("the ring is somebody", Duration::from_secs(10), || {
        ask(&mut admin, "CLIENT LIST").text().matches(" user=all ").count() == 2
    });
    ok(&mut admin, "ACL SETUSER all resetkeys ~in:*");
    assert_eq!(unix.rest().expect("it ends"), b"");
    until("the ring is gone", Duration::from_secs(10), || {
        !ask(&mut admin, "CLIENT LIST").text().contains(" user=all ")
    });
}

#[test]
fn arena_mode_is_for_those_who_may_write_all() {
    let server = Server::start(&["--shm-write", "arena"]);
    let (mut admin, _) = two(&server, "%R~* ~in:* +@all");
    let mut unix = Raw::unix(&server.socket()).expect("listening");
    ok(&mut unix, "AUTH bob pw");
    let reply = RawShm::try_attach(&mut unix, &["ATTACH", "SHM", "BUFFERS", "0"], &[]).expect("a reply");
    assert!(reply.is_error("NOPERM") && unix.fds.is_empty(), "{reply:?}");
    ok(&mut admin, "ACL SETUSER bob allkeys");
    let reply = RawShm::try_attach(&mut unix, &["ATTACH", "SHM", "BUFFERS", "0"], &[]).expect("a reply");
    assert!(reply.has("segments"), "{reply:?}");
}

#[test]
fn messages_of_keys_and_channels_reach_those_who_may_know() {
    let server = Server::start(&["--notify-keyspace-events", "KEA"]);
    let (mut admin, mut bob) = two(&server, "~in:* &__key* &news +@all");
    let mut free = Raw::to(&server);
    for raw in [&mut bob, &mut free] {
        raw.request(&["PSUBSCRIBE", "__key*"]).expect("sent");
        raw.recv().expect("a reply");
    }
    admin.set("out:a", "v");
    admin.set("in:a", "v");
    let heard = |raw: &mut Raw, count: usize| -> Vec<String> {
        (0..count)
            .map(|_| raw.recv().expect("a message").items()[2..].iter().map(Value::text).collect::<Vec<_>>().join(" "))
            .collect()
    };
    assert_eq!(heard(&mut free, 4)[0], "__keyspace@0__:out:a set");
    assert_eq!(heard(&mut bob, 2), ["__keyspace@0__:in:a set", "__keyevent@0__:set in:a"]);
    // A channel that it may no longer listen to ends it; others do not.
    ok(&mut admin, "ACL SETUSER bob -get");
    admin.set("in:b", "v");
    assert_eq!(heard(&mut bob, 2)[0], "__keyspace@0__:in:b set");
    ok(&mut admin, "ACL SETUSER bob resetchannels &news");
    assert_eq!(bob.rest().expect("it ends"), b"");
}

#[test]
fn large_values_of_keys_that_may_not_be_written_take_no_memory() {
    let server = Server::start(&["--dram", "64 MiB", "--maxmemory", "64 MiB"]);
    let (mut admin, mut bob) = two(&server, "~in:* +@all");
    let value = vec![b'x'; 3 << 20];
    let reply = bob.ask(&[b"SET".as_slice(), b"out:a", &value]);
    assert!(reply.is_error("NOPERM"), "{reply:?}");
    assert!(bob.is_alive());
    bob.set("in:a", &value);
    assert_eq!(ask(&mut admin, "DBSIZE"), Value::Int(1));
    assert_eq!(bob.ask(&["GET", "in:a"]), Value::Bulk(value));
}

#[test]
fn who_is_deleted_is_gone_and_who_deletes_itself_still_gets_its_answer() {
    let server = Server::start(&[]);
    let (mut admin, mut bob) = two(&server, "~* +@all");
    ok(&mut admin, "ACL SETUSER eve on nopass ~* &* +@all");
    let mut eve = Raw::to(&server);
    ok(&mut eve, "AUTH eve x");
    assert_eq!(ask(&mut eve, "ACL DELUSER bob"), Value::Int(1));
    assert_eq!(bob.rest().expect("it ends"), b"");
    eve.request(&["ACL", "DELUSER", "eve"]).expect("sent");
    assert_eq!(eve.rest().expect("it ends"), b":1\r\n");
    assert_eq!(ask(&mut admin, "ACL USERS").items().len(), 1);
}
