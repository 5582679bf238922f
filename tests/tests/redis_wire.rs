//! What Redis's clients rely on, byte by byte, on connections that hide nothing.

use std::time::Duration;
use tests::server::until;
use tests::{Raw, Server, Value, Wire, wire};

#[test]
fn a_password_is_asked_for_and_before_it_little_is_allowed() {
    let server = Server::start(&["--requirepass", "s3cret"]);
    let mut wire = Wire::connect(server.addr());
    let noauth = "-NOAUTH Authentication required.";
    // The mark behind each request is refused too, so replies are read to the end of the connection.
    for line in ["GET k", "PUT k LEN 5", "CLIENT LIST", "CONFIG GET requirepass", "NOSUCH"] {
        wire.send(&wire::request(&line.split(' ').collect::<Vec<_>>()));
    }
    wire.send(b"AUTH wrong\r\nHELLO 3 AUTH default wrong\r\nHELLO 3\r\nQUIT\r\n");
    let told = String::from_utf8(wire.rest()).expect("text");
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[..5], [noauth; 5]);
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.";
    assert_eq!(lines[5..7], [wrong; 2]);
    assert!(lines[7].starts_with("-NOAUTH HELLO must be called with the client already authenticated"), "{}", lines[7]);
    assert_eq!(lines[8..], ["+OK"]);

    let mut wire = Wire::connect(server.addr());
    wire.send(b"AUTH s3cret\r\n");
    assert_eq!(wire.text("SET k v"), "+OK +OK");
    assert_eq!(wire.text("AUTH default s3cret"), "+OK");
    assert_eq!(wire.text("AUTH nobody s3cret"), wrong);
    assert_eq!(wire.text("GET k"), "$1 v", "a wrong password does not undo the right one");

    // Too much before the password ends the connection.
    let mut wire = Wire::connect(server.addr());
    wire.send(b"*11\r\n");
    assert!(wire.rest().starts_with(b"-ERR Protocol error"), "11 words before the password");
    assert!(!server.log().contains("s3cret"), "{}", server.log());
}

#[test]
fn resetting_a_connection_brings_it_back_to_its_beginning() {
    let server = Server::start(&["--requirepass", "s3cret"]);
    let mut wire = Wire::connect(server.addr());
    wire.send(b"HELLO 3 AUTH default s3cret SETNAME bob\r\n");
    assert!(wire.text("CLIENT GETNAME").ends_with("$7 modules *0 $3 bob"));
    assert_eq!(wire.text("GET nosuch"), "_");
    wire.send(b"RESET\r\nGET k\r\nAUTH s3cret\r\n");
    assert_eq!(wire.text("CLIENT GETNAME"), "+RESET -NOAUTH Authentication required. +OK $-1");
}

#[test]
fn clients_are_listed_named_and_killed() {
    let server = Server::start(&[]);
    let mut admin = Wire::connect(server.addr());
    let mut other = Wire::connect(server.addr());
    assert_eq!(other.text("CLIENT SETNAME other"), "+OK");
    assert_eq!(other.text("CLIENT SETINFO LIB-NAME lib"), "+OK");
    let id = other.text("CLIENT ID").trim_start_matches(':').to_owned();
    let listed = admin.text(&format!("CLIENT LIST ID {id}"));
    assert!(listed.contains(&format!("id={id} ")) && listed.contains(" name=other "), "{listed}");
    assert!(listed.contains(" cmd=echo ") && listed.contains(" lib-name=lib "), "{listed}");
    assert_eq!(admin.text("CLIENT LIST").matches("id=").count(), 2);
    assert_eq!(admin.text(&format!("CLIENT KILL ID {id}")), ":1");
    assert_eq!(other.rest(), b"");
    until("the killed client is gone", Duration::from_secs(10), || {
        admin.text("CLIENT LIST").matches("id=").count() == 1
    });
    // One that kills itself still gets its answer.
    let own = admin.text("CLIENT INFO");
    let addr = own.split_ascii_whitespace().find_map(|field| field.strip_prefix("addr=")).expect("an address");
    admin.send(&wire::request(&["CLIENT", "KILL", addr]));
    assert_eq!(admin.rest(), b"+OK\r\n");
}

#[test]
fn replies_are_left_out_where_a_client_wants_none() {
    let server = Server::start(&[]);
    let mut wire = Wire::connect(server.addr());
    wire.send(b"CLIENT REPLY SKIP\r\nSET a 1\r\nCLIENT REPLY OFF\r\nSET b 2\r\nNOSUCH\r\nCLIENT REPLY ON\r\n");
    assert_eq!(wire.text("MGET a b"), "+OK *2 $1 1 $1 2");
    // `SKIP` skips one command, whichever it is, but for the one that asks for replies again.
    wire.send(
        b"CLIENT REPLY SKIP\r\nCLIENT REPLY SKIP\r\nECHO x\r\nECHO y\r\nCLIENT REPLY SKIP\r\nCLIENT REPLY ON\r\n",
    );
    assert_eq!(wire.text("ECHO z"), "$1 y +OK $1 z");
}

#[test]
fn messages_come_to_a_client_that_wants_no_replies() {
    let server = Server::start(&[]);
    let (mut wire, mut other) = (Wire::connect(server.addr()), Wire::connect(server.addr()));
    let told =
        |wire: &mut Wire| String::from_utf8(wire.reply().expect("a message")).expect("text").replace("\r\n", " ");
    wire.send(b"HELLO 3\r\n");
    wire.reply().expect("it is asked for");
    wire.send(b"CLIENT REPLY OFF\r\nSUBSCRIBE c\r\nGET k\r\nSUBSCRIBE\r\nPSUBSCRIBE p*\r\n");
    assert_eq!(told(&mut wire), ">3 $9 subscribe $1 c :1 ");
    assert_eq!(told(&mut wire), ">3 $10 psubscribe $2 p* :2 ");
    assert_eq!(other.text("PUBLISH c hello"), ":1");
    assert_eq!(told(&mut wire), ">3 $7 message $1 c $5 hello ");
    wire.send(b"UNSUBSCRIBE c\r\n");
    assert_eq!(told(&mut wire), ">3 $11 unsubscribe $1 c :1 ");
}

#[test]
fn a_pause_does_not_hold_up_what_is_refused_anyway() {
    let server = Server::start(&[]);
    let mut wire = Wire::connect(server.addr());
    assert_eq!(wire.text("CLIENT PAUSE 600000 WRITE"), "+OK");
    assert_eq!(wire.text("SET k"), "-ERR wrong number of arguments for 'set' command");
    assert_eq!(wire.text("CLIENT UNPAUSE"), "+OK");
}

#[test]
fn every_command_is_logged_where_that_is_asked_for() {
    let server = Server::start(&["--slowlog-max-len", "3"]);
    let mut wire = Wire::connect(server.addr());
    assert_eq!(wire.text("CONFIG SET slowlog-log-slower-than 0"), "+OK");
    (0..5).for_each(|_| assert_eq!(wire.text("PING"), "+PONG"));
    assert_eq!(wire.text("SLOWLOG LEN"), ":3");
    assert_eq!(wire.text("CONFIG SET slowlog-log-slower-than -1 slowlog-max-len 1"), "+OK");
    assert_eq!(wire.text("SLOWLOG LEN"), ":1");
    assert_eq!(wire.text("CONFIG GET slowlog-log-slower-than"), "*2 $23 slowlog-log-slower-than $2 -1");
}

#[test]
fn histograms_are_of_the_commands_that_ran() {
    let server = Server::start(&[]);
    let mut wire = Wire::connect(server.addr());
    wire.text("CONFIG RESETSTAT");
    wire.text("SET k v");
    wire.text("SET k w");
    wire.text("CLIENT ID");
    let told = wire.text("LATENCY HISTOGRAM set nosuch client|id client|nosuch get");
    assert!(told.starts_with("*4 $3 set *4 $5 calls :2 $14 histogram_usec *"), "{told}");
    assert!(told.contains(" $9 client|id *4 $5 calls :1 "), "{told}");
    assert!(wire.text("LATENCY HISTOGRAM client").starts_with("*2 $9 client|id "), "a container is all of its own");
    assert!(wire.text("LATENCY HISTOGRAM").contains(" $16 config|resetstat "));
    assert!(wire.text("LATENCY DOCTOR").starts_with('$'));
    assert_eq!(wire.text("CONFIG SET latency-monitor-threshold 0"), "+OK");
    assert!(wire.text("LATENCY DOCTOR").contains("latency-monitor-threshold 10"));
}

#[test]
fn settings_change_together_or_not_at_all_and_can_be_written_back() {
    let dir = tempfile::tempdir().expect("a directory for the test");
    let path = dir.path().join("m.toml");
    std::fs::write(&path, "# ours\nmaxmemory = \"128 MiB\" # small\n").expect("a file for the test");
    let server = Server::start(&["--config", path.to_str().expect("plain")]);
    let mut wire = Wire::connect(server.addr());
    assert_eq!(wire.text("CONFIG GET MAXMEMORY time*"), "*4 $7 timeout $1 0 $9 maxmemory $9 134217728");
    let refused = wire.text("CONFIG SET timeout 9 workers 3");
    assert!(refused.starts_with("-ERR CONFIG SET failed"), "{refused}");
    assert_eq!(wire.text("CONFIG GET timeout"), "*2 $7 timeout $1 0");
    assert_eq!(wire.text("CONFIG SET timeout 9 MaxMemory 96mib"), "+OK");
    assert!(wire.text("INFO memory").contains("maxmemory:100663296"), "it acts at once");
    assert_eq!(wire.text("CONFIG REWRITE"), "+OK");
    let text = std::fs::read_to_string(&path).expect("it is there");
    assert_eq!(text, "# ours\nmaxmemory = \"96 MiB\" # small\ntimeout = 9\n");

    let without = Server::start(&[]);
    let told = Wire::connect(without.addr()).text("CONFIG REWRITE");
    assert_eq!(told, "-ERR The server is running without a config file");
}

#[test]
fn statistics_begin_again_when_asked() {
    let server = Server::start(&[]);
    let mut wire = Wire::connect(server.addr());
    wire.text("SET k v");
    wire.text("GET k");
    wire.text("GET nosuch");
    wire.text("NOSUCH");
    wire.text("SET k");
    let info = wire.text("INFO everything");
    for field in ["keyspace_hits:1 ", "keyspace_misses:1 ", "errorstat_ERR:count=2 ", "total_error_replies:2 "] {
        assert!(info.contains(field), "no {field} in {info}");
    }
    assert!(info.contains("cmdstat_set:calls=2,") && info.contains(",failed_calls=1 "), "{info}");
    assert_eq!(wire.text("CONFIG RESETSTAT"), "+OK");
    let info = wire.text("INFO everything");
    for field in ["keyspace_hits:0 ", "keyspace_misses:0 ", "total_error_replies:0 ", "db0:keys=1,"] {
        assert!(info.contains(field), "no {field} in {info}");
    }
    assert!(!info.contains("cmdstat_get:") && !info.contains("errorstat_ERR:"), "{info}");
}

#[test]
fn what_takes_long_is_logged_and_nobody_else_waits() {
    let server = Server::start(&["--workers", "1"]);
    let mut sleeper = Wire::connect(server.addr());
    sleeper.send(b"DEBUG SLEEP 30\r\n");
    let mut wire = Wire::connect(server.addr());
    assert_eq!(wire.text("PING"), "+PONG", "one connection sleeps, its worker does not");
    assert_eq!(wire.text("SLOWLOG LEN"), ":0");
    assert_eq!(wire.text("DEBUG SLEEP 0.02"), "+OK");
    assert_eq!(wire.text("SLOWLOG LEN"), ":1");
    let logged = wire.text("SLOWLOG GET");
    assert!(logged.starts_with("*1 *6 :0 :") && logged.contains("*2 $5 debug $5 sleep"), "{logged}");
    let spikes = wire.text("LATENCY LATEST");
    let ms: Vec<u64> = spikes.rsplit(" :").take(2).map(|ms| ms.parse().expect("a number")).collect();
    assert!(spikes.starts_with("*1 *4 $7 command :") && ms[0] >= 20 && ms[0] == ms[1], "{spikes}");
    assert_eq!(wire.text("LATENCY HISTORY command").split(' ').next(), Some("*1"));
    assert_eq!(wire.text("LATENCY RESET"), ":1");
    assert_eq!(wire.text("SLOWLOG RESET"), "+OK");
    assert_eq!(wire.text("SLOWLOG GET -1"), "*0");
    assert_eq!(wire.text("SLOWLOG GET -2"), "-ERR count should be greater than or equal to -1");
}

#[test]
fn shutting_down_answers_nothing_and_ends_cleanly() {
    let mut server = Server::start(&[]);
    let mut wire = Wire::connect(server.addr());
    assert_eq!(wire.text("SHUTDOWN ABORT"), "-ERR No shutdown in progress.");
    assert_eq!(wire.text("SHUTDOWN SAVE NOSAVE"), "-ERR syntax error");
    wire.send(b"SHUTDOWN NOSAVE\r\n");
    assert_eq!(wire.rest(), b"");
    assert!(server.wait().success(), "{}", server.log());
    assert!(!server.socket().exists(), "its socket is gone");
}

#[test]
fn evicting_by_hand_frees_what_was_asked_oldest_first() {
    let server = Server::start(&[]);
    let mut wire = Wire::connect(server.addr());
    for n in 0..20 {
        let value = vec![b'x'; 1 << 20];
        let set = wire.ask(&[b"SET".to_vec(), format!("k{n}").into_bytes(), value]);
        assert_eq!(set.as_deref(), Some(&b"+OK\r\n"[..]));
    }
    let freed: u64 = wire.text("EVICT 5000000").trim_start_matches(':').parse().expect("a number");
    assert!((5_000_000..7_500_000).contains(&freed), "{freed}");
    assert_eq!(wire.text("EXISTS k0 k1 k2 k3 k4"), ":0");
    assert_eq!(wire.text("EXISTS k10 k15 k19"), ":3");
    assert_eq!(wire.text("EVICT 1g"), "-ERR value is not an integer or out of range");
}

#[test]
fn long_values_keep_their_frames_alone_in_a_row_and_for_a_reader_in_no_hurry() {
    let server = Server::start(&["--dram", "128 MiB"]);
    let lens = [100, (2 << 20) - 1, 2 << 20, (3 << 20) + 5, 6 << 20];
    let value = |len: usize| -> Vec<u8> { (0..=250).cycle().skip(len % 5).take(len).collect() };
    for mut wire in [Raw::tcp(server.addr()).expect("listening"), Raw::unix(&server.socket()).expect("listening")] {
        for len in lens {
            wire.set(format!("k{len}"), value(len));
            assert_eq!(wire.ask(&["GET", &format!("k{len}")]), Value::Bulk(value(len)), "{len} alone");
            assert_eq!(wire.ask(&["PING"]), Value::Simple("PONG".into()), "after {len}");
        }
        for (one, two) in lens.iter().flat_map(|one| lens.iter().map(move |two| (*one, *two))) {
            for words in [vec!["GET", &format!("k{one}")], vec!["GET", &format!("k{two}")], vec!["PING"]] {
                wire.request(&words).expect("sent");
            }
            if one % 2 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(wire.recv().expect("a reply"), Value::Bulk(value(one)), "{one} before {two}");
            assert_eq!(wire.recv().expect("a reply"), Value::Bulk(value(two)), "{two} after {one}");
            assert_eq!(wire.recv().expect("a reply"), Value::Simple("PONG".into()));
        }
    }
}

#[test]
fn many_keys_are_walked_over_beside_the_worker() {
    let server = Server::start(&["--workers", "1"]);
    let mut wire = Wire::connect(server.addr());
    let all: Vec<u8> = (0..30_000).flat_map(|n| wire::request(&["SET", &format!("key:{n}"), "v"])).collect();
    wire.send(&all);
    assert!(wire.text("DBSIZE").ends_with(":30000"));
    assert_eq!(wire.text("KEYS key:1234?").split(' ').next(), Some("*10"));
    let (mut cursor, mut seen) = ("0".to_owned(), std::collections::HashSet::new());
    loop {
        let reply = wire.text(&format!("SCAN {cursor} COUNT 1000 MATCH *7"));
        let mut words = reply.split(' ').skip(2);
        cursor = words.next().expect("a cursor").to_owned();
        seen.extend(words.filter(|word| word.starts_with("key:")).map(str::to_owned));
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(seen.len(), 3000);
    // What was sent behind it waits for it.
    wire.send(b"FLUSHALL\r\n");
    assert_eq!(wire.text("DBSIZE"), "+OK :0");
}
