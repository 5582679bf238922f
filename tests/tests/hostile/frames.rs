//! Requests that are none, or that no store of this configuration can hold.

use crate::assert_serves;
use protocol::base::Crc;
use std::time::{Duration, Instant};
use tests::wire::request;
use tests::{Raw, Server, Value};

#[test]
fn malformed_frames_are_refused_and_end_the_connection_that_sent_them() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let long_line = vec![b'x'; 70 << 10];
    let frames: &[&[u8]] = &[
        b"*1\r\n$4\r\nPINGxx",
        b"*1\r\n$4\r\nPING\n\n*1\r\n",
        b"*-1\r\n",
        b"*-0\r\n",
        b"*0001\r\n$4\r\nPING\r\n",
        b"*+1\r\n$4\r\nPING\r\n",
        b"* 1\r\n$4\r\nPING\r\n",
        b"*\r\n",
        b"*1\n$4\r\nPING\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$0004\r\nPING\r\n",
        b"*1\r\n$\r\n",
        b"*1\r\n$4x\r\nPING\r\n",
        b"*1\r\n$99999999999999999999\r\n",
        b"*99999999999999999999\r\n",
        b"*18446744073709551617\r\n",
        b"*1000000\r\n",
        b"*1\r\n*1\r\n$4\r\nPING\r\n",
        b"*2\r\n$4\r\nECHO\r\n:1\r\n",
        b"*2\r\n$4\r\nECHO\r\n+x\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870913\r\n",
        b"*2\r\n$3\r\nGET\r\n$65537\r\n",
        b"SET k \"open\r\n",
        b"SET k \"a\"b\r\n",
        &long_line,
    ];
    for frame in frames {
        let mut raw = Raw::to(&server);
        let shown = frame[..frame.len().min(40)].escape_ascii();
        raw.send(frame).unwrap_or_else(|error| panic!("{shown}: {error}"));
        let rest = raw.rest().unwrap_or_else(|error| panic!("{shown}: the connection does not end: {error}"));
        assert!(rest.starts_with(b"-ERR Protocol error"), "{shown}: {}", rest.escape_ascii());
        assert_eq!(rest.iter().filter(|&&byte| byte == b'\n').count(), 1, "{shown}: {}", rest.escape_ascii());
    }
    assert_serves(&server);
    let mut raw = Raw::to(&server);
    let errors = raw.ask(&["INFO", "stats"]).text().to_owned();
    assert!(errors.contains(&format!("protocol_errors:{}\r\n", frames.len())), "{errors}");
}

#[test]
fn a_request_before_a_malformed_one_is_answered() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut raw = Raw::to(&server);
    raw.send(b"*1\r\n$4\r\nPING\r\nECHO a\r\n*1\r\n$x\r\n*1\r\n$4\r\nPING\r\n").expect("sent");
    let rest = String::from_utf8(raw.rest().expect("it ends")).expect("text");
    assert_eq!(rest, "+PONG\r\n$1\r\na\r\n-ERR Protocol error: invalid bulk length\r\n");
}

#[test]
fn http_is_closed_without_a_word() {
    let server = Server::start(&["--dram", "64 MiB"]);
    for line in [
        "POST / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "PUT /k HTTP/1.0\r\n",
        "HEAD / HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "Host: localhost:6379\r\n",
        "host: x\r\nSET k evil\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 20\r\n\r\nSET k evil\r\n",
    ] {
        let mut raw = Raw::to(&server);
        raw.send(line.as_bytes()).expect("sent");
        let rest = raw.rest().expect("it ends");
        assert_eq!(rest.escape_ascii().to_string(), "", "{line:?}");
    }
    assert_eq!(Raw::to(&server).ask(&["EXISTS", "k"]).number(), 0, "nothing behind such a line is run");
}

#[test]
fn a_request_cut_anywhere_is_the_same_request() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let value = vec![b'v'; 20_000];
    let small: &[&[u8]] = &[b"SET", b"k", b"\r\n$5\r\n"];
    let large: &[&[u8]] = &[b"SET", b"large", &value];
    let bytes = [request(small), request(large), b"GET k\r\n".to_vec(), request(&["STRLEN", "large"])].concat();
    // Every place in and around the headers, and some within the large value.
    let cuts = (1..90).chain([1000, 16_384, 19_999]).chain(bytes.len() - 60..bytes.len());
    for cut in cuts {
        let mut raw = Raw::to(&server);
        raw.send(&bytes[..cut]).expect("sent");
        // So that the two parts arrive apart.
        std::thread::sleep(std::time::Duration::from_millis(1));
        raw.send(&bytes[cut..]).expect("sent");
        let replies: Vec<Value> = (0..4).map(|_| raw.recv().expect("a reply")).collect();
        assert_eq!(replies[2], Value::Bulk(b"\r\n$5\r\n".to_vec()), "cut at {cut}");
        assert_eq!(replies[3], Value::Int(20_000), "cut at {cut}");
    }
}

#[test]
fn before_the_password_a_request_is_short() {
    let server = Server::start(&["--dram", "64 MiB", "--requirepass", "s3cret"]);
    let refused = |bytes: &[u8], what: &str| {
        let mut raw = Raw::to(&server);
        // The server may close before it has read all of it.
        let _ = raw.send(bytes);
        let began = Instant::now();
        let rest = raw.rest().unwrap_or_else(|error| panic!("{what}: {error}"));
        // What was still on its way when it closed may have reset the connection, and the words with it.
        assert!(rest.starts_with(b"-ERR Protocol error") || rest.is_empty(), "{what}: {}", rest.escape_ascii());
        assert!(began.elapsed() < Duration::from_secs(2), "{what}: closed for want of progress only");
    };
    refused(b"*11\r\n", "11 words");
    refused(b"*2\r\n$4\r\nAUTH\r\n$16385\r\n", "a word above 16 KiB");
    refused(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048576\r\n", "a large value");
    // No single word is too long, and all of them are.
    let mut many = b"*10\r\n".to_vec();
    for _ in 0..9 {
        many.extend(b"$10000\r\n");
        many.extend([b'x'; 10_000]);
        many.extend(b"\r\n");
    }
    refused(&many, "nine words of 10,000 bytes");
    refused(&[b'x'; 20_000], "a line above 16 KiB");

    let mut raw = Raw::to(&server);
    for words in [&["GET", "k"][..], &["PUT", "k", "LEN", "5"], &["ATTACH", "TCP"], &["SHUTDOWN"], &["INFO"]] {
        assert!(raw.ask(words).is_error("NOAUTH"), "{words:?}");
    }
    let long_password = "x".repeat(16_000);
    assert!(raw.ask(&["AUTH", &long_password]).is_error("WRONGPASS"), "long, and not too long");
    assert_eq!(raw.ask(&["AUTH", "s3cret"]).text(), "OK");
    assert_eq!(raw.ask(&["SET", "k", &"v".repeat(100_000)]).text(), "OK", "and then all of it may be sent");
}

#[test]
fn keys_are_any_bytes_up_to_16_kib() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut raw = Raw::to(&server);
    let longest = vec![b'k'; 16 << 10];
    let binary: Vec<u8> = (0..=255).chain(*b"\r\n$-1\r\n").collect();
    for key in [&b""[..], b"\0", b"\r\n", &binary, &longest] {
        for value in [&b"small"[..], &[7; 40_000]] {
            assert_eq!(raw.ask(&[b"SET", key, value]).text(), "OK");
            assert_eq!(raw.ask(&[b"GET", key]), Value::Bulk(value.to_vec()));
        }
        assert!(raw.ask(&[&b"LEASE"[..], key, b"1000"]).has("lease"));
        assert_eq!(raw.ask(&[b"DEL", key]).number(), 1);
        assert_eq!(raw.ask(&[&b"LEASE"[..], key, b"1000"]), Value::Nil);
        assert!(raw.ask(&[&b"PUT"[..], key, b"LEN", b"5"]).has("grant"));
    }
    let too_long = vec![b'k'; (16 << 10) + 1];
    for words in [
        &[&b"SET"[..], &too_long, b"v"][..],
        &[b"SET", &too_long, &[7; 40_000]],
        &[b"PUT", &too_long, b"LEN", b"5"],
        &[b"MPUT", b"1", &too_long, b"5"],
        &[b"MSET", b"k", b"v", &too_long, b"v"],
        &[b"LEASE", &too_long, b"1000"],
    ] {
        let reply = raw.ask(words);
        let refused = reply.is_error("TOOBIG") || matches!(&reply, Value::Array(items) if items[0].is_error("TOOBIG"));
        assert!(refused, "{:?}: {reply:?}", words[0].escape_ascii().to_string());
    }
    assert_eq!(raw.ask(&["EXISTS", "k"]).number(), 0, "a batch with a key that is too long writes nothing");
    assert!(raw.is_alive());
}

#[test]
fn values_of_no_bytes_are_values() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut raw = Raw::to(&server);
    raw.set("k", "");
    assert_eq!(raw.ask(&["GET", "k"]), Value::Bulk(Vec::new()));
    assert_eq!(raw.ask(&["STRLEN", "k"]).number(), 0);
    let grant = raw.ask(&["PUT", "empty", "LEN", "0"]);
    let done = raw.ask(&["COMMIT", grant.field("grant").text(), "CRC", "00000000"]);
    assert_eq!(done.field("length").number(), 0);
    for key in ["k", "empty"] {
        let lease = raw.ask(&["LEASE", key, "1000"]);
        assert_eq!((lease.field("length").number(), lease.field("crc").text()), (0, "00000000"), "{key}");
    }
    assert_eq!(raw.ask(&["GET", "empty"]), Value::Bulk(Vec::new()));
}

#[test]
fn objects_above_the_limit_are_refused_before_their_first_byte() {
    let server = Server::start(&["--dram", "64 MiB", "--object-len-max", "1 MiB"]);
    let mut raw = Raw::to(&server);
    assert!(raw.ask(&["PUT", "k", "LEN", "1048577"]).is_error("TOOBIG"));
    assert!(raw.ask(&["MPUT", "2", "a", "5", "b", "1048577"]).items()[1].is_error("TOOBIG"));
    for huge in ["18446744073709551615", "9223372036854775808", "-1", "x", "99999999999999999999999"] {
        let reply = raw.ask(&["PUT", "k", "LEN", huge]);
        assert!(reply.is_error("TOOBIG") || reply.is_error("ERR"), "{huge}: {reply:?}");
    }
    assert!(raw.ask(&["PUT", "k", "LEN", "1048576"]).has("grant"), "the longest fits");
    // In-band the length stands in the frame: nothing that follows it is read.
    raw.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048577\r\n").expect("sent");
    let rest = raw.rest().expect("it ends");
    assert!(rest.starts_with(b"-ERR Protocol error: invalid bulk length"), "{}", rest.escape_ascii());
    assert_eq!(tests::info::memory(&server).reserved, 0);
}

#[test]
fn words_that_make_no_sense_change_nothing() {
    let server = Server::start(&["--dram", "64 MiB"]);
    let mut raw = Raw::to(&server);
    let crc = Crc::of(b"hello").to_string();
    for line in [
        "PUT k LEN",
        "PUT k LEN 5 VIA pigeon",
        "PUT k LEN 5 VIA rdma",
        "PUT k LEN 5 VIA shm",
        "PUT k LEN 5 TTL -1",
        "PUT k LEN 5 SOFTPIN 999999999999",
        "PUT k LEN 5 DURABLE",
        "PUT k LEN 5 CRC 3610a686",
        "PUT k LEN 5 CRC 3610a686 FROM 0 0",
        "COMMIT",
        "COMMIT 0 CRC zzzzzzzz",
        "COMMIT zz CRC 00000000",
        "COMMIT 0000000000000000 CRC 00000000",
        "LEASE k 0",
        "LEASE k 60001",
        "LEASE k -5",
        "LEASE k 99999999999999999999",
        "RENEW ffffffffffffffff 1000",
        "RENEW nonsense 1000",
        "MLEASE 0 k",
        "LOOKUP",
        "ATTACH",
        "ATTACH RDMA x",
        "ATTACH SHM BUFFERS 99999999999",
        "ATTACH SHM",
        "SET k v NX XX",
        "SET k v EX 0",
        "SET k v PX -5",
        "SET k v EX 9223372036854775807",
        "CLIENT KILL ID 0",
        "TIER DETACH dram",
        "EVICT -1",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let reply = raw.ask(&words);
        assert!(matches!(reply, Value::Error(_)), "{line}: {reply:?}");
    }
    assert_eq!(raw.ask(&["DBSIZE"]).number(), 0);
    assert!(tests::info::memory(&server).is_quiet());
    let grant = raw.ask(&["PUT", "k", "LEN", "5"]).field("grant").text().to_owned();
    assert!(raw.ask(&["COMMIT", &grant, "CRC", &crc, "BYTES", "6"]).is_error("ERR"), "more than was granted");
    assert!(raw.ask(&["COMMIT", &grant, "CRC", &crc, "FROM", "0", "0"]).is_error("DENIED"), "no buffer was attached");
}
