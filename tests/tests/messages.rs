//! Messages, events of keys and what watches commands, beside Redis where it is installed and by themselves.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use std::net::SocketAddr;
use tests::redis_server::Redis;
use tests::{Server, Wire};

fn text(reply: Option<Vec<u8>>) -> String {
    String::from_utf8_lossy(&reply.expect("the connection lives")).replace("\r\n", " ").trim_end().to_owned()
}

fn say(wire: &mut Wire, line: &str) -> String {
    text(wire.exchange(&line.split(' ').collect::<Vec<_>>()))
}

/// Replies to these lines: `>` before one that another client sends, `<` for a message that comes by itself.
fn talk(addr: SocketAddr, protocol: &str, lines: &str) -> Vec<String> {
    let (mut wire, mut other) = (Wire::connect(addr), Wire::connect(addr));
    say(&mut wire, &format!("HELLO {protocol}"));
    let one = |line: &str| match line.split_at(1) {
        (">", line) => say(&mut other, line),
        ("<", _) => text(wire.reply()),
        _ => say(&mut wire, line),
    };
    lines.lines().map(one).collect()
}

const LINES: &str = "\
PUBLISH nobody hello
SUBSCRIBE a b
<
>PUBLISH a one
<
>PUBLISH c two
PSUBSCRIBE a* *
<
>PUBLISH a three
<
<
<
>PUBSUB NUMPAT
>PUBSUB NUMSUB a b c
>PUBSUB NUMSUB
>PUBSUB CHANNELS b*
>PUBSUB CHANNELS x*
>PUBSUB WHAT
UNSUBSCRIBE a nosuch
<
>PUBLISH a four
<
<
PUNSUBSCRIBE a*
>PUBLISH a five
<
UNSUBSCRIBE
PUNSUBSCRIBE
PUNSUBSCRIBE
UNSUBSCRIBE
>PUBLISH a six
PING
SUBSCRIBE
PSUBSCRIBE
SUBSCRIBE z
RESET
>PUBLISH z hello
>PUBSUB CHANNELS
PING";

/// Channels of a cluster's slot: counted apart, and unseen by patterns.
const SHARDS: &str = "\
SPUBLISH nobody hello
SSUBSCRIBE a b
<
PSUBSCRIBE *
SUBSCRIBE a
>SPUBLISH a one
<
>PUBLISH b two
<
>PUBSUB SHARDCHANNELS
>PUBSUB SHARDCHANNELS b*
>PUBSUB SHARDNUMSUB a b c
>PUBSUB CHANNELS
SUNSUBSCRIBE b nosuch
<
>SPUBLISH b three
SUNSUBSCRIBE
SUNSUBSCRIBE
>SPUBLISH a four
UNSUBSCRIBE
PUNSUBSCRIBE
SSUBSCRIBE
PING";

const SUBSCRIBER_OF_RESP2: &str = "\
SUBSCRIBE a
GET k
PING
PING hello
SUBSCRIBE a
PUBLISH a x
>PUBLISH a one
<
UNSUBSCRIBE
GET k";

/// A channel whose messages are ordered by name, so that two servers agree on who comes first.
fn sorted(mut told: Vec<String>) -> Vec<String> {
    // Which of two patterns is told first is nobody's promise.
    for at in 1..told.len() {
        if told[at].contains("pmessage") && told[at - 1].contains("pmessage") {
            told[at - 1..=at].sort();
        }
    }
    told
}

#[test]
fn messages_go_to_who_listens_as_they_do_in_redis() {
    let Some(redis) = Redis::start() else { return };
    let server = Server::start(&[]);
    for protocol in ["2", "3"] {
        let (ours, theirs) = (talk(server.addr(), protocol, LINES), talk(redis.addr(), protocol, LINES));
        let pairs = LINES.lines().zip(sorted(ours).into_iter().zip(sorted(theirs)));
        let differing: Vec<_> = pairs.filter(|(_, (ours, theirs))| ours != theirs).collect();
        assert!(differing.is_empty(), "RESP{protocol}, ours and Redis's: {differing:#?}");
        let sorted_channels = |mut told: Vec<String>| {
            // In which order channels are listed is nobody's promise.
            told.iter_mut().filter(|line| *line == "*2 $1 b $1 a").for_each(|line| *line = "*2 $1 a $1 b".to_owned());
            told
        };
        let (ours, theirs) = (talk(server.addr(), protocol, SHARDS), talk(redis.addr(), protocol, SHARDS));
        assert_eq!(sorted_channels(ours), sorted_channels(theirs), "RESP{protocol}");
    }
    let (ours, theirs) = (talk(server.addr(), "2", SUBSCRIBER_OF_RESP2), talk(redis.addr(), "2", SUBSCRIBER_OF_RESP2));
    assert_eq!(ours, theirs);
}

/// Any command whose events both tell.
fn any_command(rng: &mut StdRng) -> String {
    let (k, j) = (["a", "b", "c"].choose(rng).expect("some"), ["a", "b", "c"].choose(rng).expect("some"));
    let lines = [
        format!("SET {k} 1"),
        format!("SET {k} 1 EX 1000"),
        format!("SET {k} 1 NX"),
        format!("SET {k} 1 XX GET"),
        format!("SETEX {k} 1000 5"),
        format!("PSETEX {k} 1000000 5"),
        format!("SETNX {k} 2"),
        format!("GETSET {k} 2"),
        format!("GETDEL {k}"),
        format!("GETEX {k} EX 1000"),
        format!("GETEX {k} PERSIST"),
        format!("MSET {k} 1 {j} 2"),
        format!("MSETNX {k} 1 {j} 2"),
        format!("APPEND {k} 1"),
        format!("SETRANGE {k} 1 5"),
        format!("INCR {k}"),
        format!("DECRBY {k} 3"),
        format!("INCRBYFLOAT {k} 0.5"),
        format!("DEL {k} {j}"),
        format!("UNLINK {k}"),
        format!("EXPIRE {k} 1000"),
        format!("EXPIRE {k} 1000 NX"),
        format!("EXPIRE {k} -1"),
        format!("PERSIST {k}"),
        format!("RENAME {k} {j}"),
        format!("RENAMENX {k} {j}"),
        format!("COPY {k} {j} REPLACE"),
        format!("GET {k}"),
    ];
    lines.choose(rng).expect("some").clone()
}

#[test]
fn what_happens_to_keys_is_told_as_redis_tells_it() {
    let Some(redis) = Redis::start() else { return };
    let server = Server::start(&[]);
    let seed: u64 = std::env::var("MOONCAKE_SEED").ok().map_or_else(rand::random, |seed| seed.parse().expect("a seed"));
    println!("seed {seed}");
    let history = |addr: SocketAddr| {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut writer, mut listener) = (Wire::connect(addr), Wire::connect(addr));
        assert_eq!(say(&mut writer, "CONFIG SET notify-keyspace-events KEA"), "+OK");
        assert_eq!(say(&mut writer, "CONFIG GET notify-keyspace-events"), "*2 $22 notify-keyspace-events $3 AKE");
        say(&mut listener, "PSUBSCRIBE __key*");
        let mut told = Vec::new();
        for _ in 0..400 {
            let command = any_command(&mut rng);
            say(&mut writer, &command);
            say(&mut writer, "PUBLISH __key:end 1");
            let mut events = Vec::new();
            loop {
                let event = text(listener.reply());
                if event.contains("__key:end") {
                    break;
                }
                events.push(event);
            }
            told.push((command, events));
        }
        told
    };
    for (ours, theirs) in history(server.addr()).into_iter().zip(history(redis.addr())) {
        assert_eq!(ours, theirs, "MOONCAKE_SEED={seed}");
    }
}

#[test]
fn what_happens_to_objects_by_itself_is_told() {
    let server = Server::start_with_flash("64 MiB", &["--dram", "64 MiB", "--notify-keyspace-events", "ExeT"]);
    let (mut writer, mut listener) = (Wire::connect(server.addr()), Wire::connect(server.addr()));
    say(&mut listener, "PSUBSCRIBE __keyevent@0__:*");
    let mut hear = |event: &str, key: &str| loop {
        let told = text(listener.reply());
        if told.contains(&format!(":{event} ")) && told.ends_with(&format!(" {key}")) {
            return;
        }
    };
    assert_eq!(say(&mut writer, "SET short v PX 5"), "+OK");
    hear("expired", "short");
    // More than DRAM holds: the first one is demoted, and promoted by its second read.
    let value = vec![b'x'; 1 << 20];
    for number in 0..80 {
        let key = format!("k{number}").into_bytes();
        assert_eq!(writer.exchange(&[b"SET".to_vec(), key, value.clone()]), Some(b"+OK\r\n".to_vec()));
    }
    hear("demoted", "k0");
    for _ in 0..2 {
        writer.exchange(&["GET", "k0"]);
    }
    hear("promoted", "k0");
}

#[test]
fn commands_are_shown_to_who_watches_but_credentials_are_not() {
    let server = Server::start(&[]);
    let (mut watcher, mut client) = (Wire::connect(server.addr()), Wire::connect(server.addr()));
    assert_eq!(say(&mut watcher, "MONITOR"), "+OK");
    for line in ["AUTH default s3cret", "CONFIG GET maxmemory", "SET k v\"1", "MULTI", "INCR n", "EXEC", "GET k"] {
        say(&mut client, line);
    }
    let shown: Vec<String> = (0..5).map(|_| text(watcher.reply())).collect();
    let words: Vec<&str> = shown.iter().map(|line| line.split_once("] ").expect("an address").1).collect();
    assert_eq!(words, [r#""SET" "k" "v\"1""#, r#""MULTI""#, r#""INCR" "n""#, r#""exec""#, r#""GET" "k""#]);
    // Other commands still run, and are shown too.
    watcher.send(b"PING\r\n");
    let (first, second) = (text(watcher.reply()), text(watcher.reply()));
    assert!([&first, &second].iter().any(|line| line.as_str() == "+PONG"), "{first}, {second}");
}

#[test]
fn a_subscriber_that_does_not_read_is_ended_and_nobody_else_waits() {
    let server = Server::start(&["--output-len-max", "1 MiB", "--output-pause-len", "64 KiB"]);
    let mut deaf = Wire::connect(server.addr());
    say(&mut deaf, "SUBSCRIBE noise");
    let mut speaker = Wire::connect(server.addr());
    let noise = vec![b'x'; 60_000];
    // Far more than the kernel's buffers and its mailbox hold: it is gone before the end.
    let heard = (0..2_000).map(|_| speaker.exchange(&[&b"PUBLISH"[..], b"noise", &noise]));
    assert!(heard.into_iter().any(|heard| heard == Some(b":0\r\n".to_vec())), "nobody was ended");
}

#[test]
fn one_node_answers_as_a_cluster_where_it_is_told_to() {
    let server = Server::start(&["--cluster-enabled", "yes"]);
    let mut wire = Wire::connect(server.addr());
    let port = server.addr().port();
    assert_eq!(say(&mut wire, "CLUSTER KEYSLOT {user1000}.following"), ":3443");
    let id = say(&mut wire, "CLUSTER MYID").split(' ').nth(1).expect("a bulk").to_owned();
    let slots = say(&mut wire, "CLUSTER SLOTS");
    assert_eq!(slots, format!("*1 *3 :0 :16383 *4 $9 127.0.0.1 :{port} $40 {id} *0"));
    assert!(say(&mut wire, "CLUSTER NODES").contains("myself,master - 0 0 1 connected 0-16383"));
    assert!(say(&mut wire, "CLUSTER INFO").contains("cluster_state:ok"));
    assert!(say(&mut wire, "CLUSTER SHARDS").contains("$6 master"));
    say(&mut wire, "MSET foo 1 {foo}2 2 other 3");
    assert_eq!(say(&mut wire, "CLUSTER COUNTKEYSINSLOT 12182"), ":2");
    assert!(say(&mut wire, "CLUSTER GETKEYSINSLOT 12182 1").starts_with("*1 "));
    assert_eq!(say(&mut wire, "CLUSTER COUNTKEYSINSLOT 16384"), "-ERR Invalid slot");
    assert_eq!(["ASKING", "READONLY", "READWRITE"].map(|line| say(&mut wire, line)), ["+OK"; 3]);
    let alone = Server::start(&[]);
    let told = say(&mut Wire::connect(alone.addr()), "CLUSTER INFO");
    assert_eq!(told, "-ERR This instance has cluster support disabled");
}
