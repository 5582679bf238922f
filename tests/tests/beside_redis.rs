//! The same commands sent to this server and to Redis itself: the replies are the same bytes.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tests::redis_server::Redis;
use tests::{Server, Wire};

/// Two connections, in one protocol.
struct Pair {
    ours: Wire,
    theirs: Wire,
}

impl Pair {
    fn connect(server: &Server, redis: &Redis, protocol: &str) -> Self {
        let mut pair = Self { ours: Wire::connect(server.addr()), theirs: Wire::connect(redis.addr()) };
        pair.ours.text(&format!("HELLO {protocol}"));
        pair.theirs.text(&format!("HELLO {protocol}"));
        for wire in [&mut pair.ours, &mut pair.theirs] {
            assert_eq!(wire.text("FLUSHALL"), "+OK");
        }
        pair
    }

    /// Sends these words to both. Says how their replies differ, if they do.
    fn differ(&mut self, words: &[Vec<u8>]) -> Option<String> {
        let (ours, theirs) = (self.ours.exchange(words), self.theirs.exchange(words));
        let show = |reply: &Option<Vec<u8>>| reply.as_ref().map(|bytes| bytes.escape_ascii().to_string());
        let line = words.iter().map(|word| word.escape_ascii().to_string()).collect::<Vec<_>>().join(" ");
        (ours != theirs).then(|| format!("{line}\n  ours    {:?}\n  Redis's {:?}\n", show(&ours), show(&theirs)))
    }

    /// The same for a line of words; `""` is an empty one.
    fn line(&mut self, line: &str) -> Option<String> {
        let words: Vec<Vec<u8>> =
            line.split(' ').map(|word| if word == "\"\"" { Vec::new() } else { word.as_bytes().to_vec() }).collect();
        self.differ(&words)
    }
}

/// Lines whose replies are the same, in this order.
const LINES: &str = "\
SET a foobar
GETSET a bar
GETSET nosuch 1
GET a
GETDEL a
GETDEL a
GET a
SETNX a 1
SETNX a 2
GET a
SETEX a 0 v
SETEX a -1 v
SETEX a x v
SETEX a 9223372036854775807 v
PSETEX a 0 v
SETEX a 100 v
TTL a
PERSIST a
PERSIST a
TTL a
GETEX a EX 100
TTL a
GETEX a PERSIST
TTL a
GETEX a EX 0
GETEX a EX x
GETEX a EX 1 PX 1
GETEX a PERSIST EX 1
GETEX a WHAT
GETEX a EXAT 17177117420
EXPIRETIME a
PEXPIRETIME a
GETEX nosuch EX 100
GETEX a EXAT 1
GET a
MSETNX b 1 c 2
MSETNX b 1 d 2
MSETNX b
MSETNX b 1 c
EXISTS d
MGET b c d
APPEND s hello
APPEND s _world
APPEND s \"\"
GET s
STRLEN s
GETRANGE s 0 4
SUBSTR s -5 -1
GETRANGE s 5 2
GETRANGE s x 2
SETRANGE s 6 WORLD
GET s
SETRANGE s 15 !
GET s
SETRANGE nosuch 0 \"\"
EXISTS nosuch
SETRANGE s -1 x
SETRANGE s 536870912 x
SETRANGE s x x
SETRANGE s 4 \"\"
INCR n
INCR n
INCRBY n 40
DECR n
DECRBY n 11
GET n
INCRBY n x
INCRBY n 9223372036854775807
DECRBY n -9223372036854775808
DECRBY n 9223372036854775807
GET n
INCR s
SET n 9223372036854775807
INCR n
SET n -9223372036854775808
DECR n
SET n 007
INCR n
SET f 10.50
INCRBYFLOAT f 0.1
INCRBYFLOAT f -5
SET f 5.0e3
INCRBYFLOAT f 2.0e2
INCRBYFLOAT f x
INCRBYFLOAT s 1
INCRBYFLOAT g 1.25
SET f 3
INCRBYFLOAT f 1.1
INCRBYFLOAT f -4.1
LCS a b LEN IDX
SET l1 ohmytext
SET l2 mynewtext
LCS l1 l2
LCS l1 l2 LEN
LCS l1 l2 IDX
LCS l1 l2 IDX MINMATCHLEN 4
LCS l1 l2 IDX MINMATCHLEN 4 WITHMATCHLEN
LCS l1 nosuch
LCS nosuch l2 IDX
LCS l1 l2 WHAT
SET r 1 EX 1000
RENAME r r2
TTL r2
EXISTS r
RENAME r r2
RENAME r2 r2
RENAMENX r2 r2
RENAMENX r2 s
RENAMENX r2 r3
RENAMENX nosuch r3
COPY r3 r4
COPY r3 r4
COPY r3 r4 REPLACE
COPY r3 r3
COPY nosuch r4
COPY r3 r4 DB 99
COPY r3 r4 WHAT
TTL r4
GET r4
TOUCH r3 r4 nosuch
TYPE r3
TYPE nosuch
OBJECT ENCODING n
OBJECT ENCODING nosuch
OBJECT REFCOUNT s
DUMP neither
RESTORE r3 0 x
RESTORE new 0 x
RESTORE new -1 x
RESTORE new x x
RESTORE new 0 x WHAT
RESTORE new 0 x IDLETIME -1
RESTORE new 0 x FREQ 256
EXPIRE s 100 GT
EXPIRE s 100 LT
EXPIRE s 50 GT
EXPIRE s 200 GT
EXPIRE s 100 NX
EXPIRE s 100 XX
EXPIRE s 100 NX XX
EXPIRE s 100 GT LT
EXPIRE s x
EXPIREAT s 17177117420
EXPIRETIME s
PEXPIREAT s 17177117420123
PEXPIRETIME s
SET s v KEEPTTL
PEXPIRETIME s
APPEND s v
PEXPIRETIME s
SET s v
PEXPIRETIME s
EXPIRETIME nosuch
SET s v GET
SET s w NX GET
SET nosuch w XX GET
SET nosuch w XX
SET s v EX 10 PX 10
SET s v NX XX
SET s v EXAT 0
SET s v PXAT -1
GET
GET a b
SELECT 0
SELECT x
WAIT 0 0
WAIT x 0
WAIT 0 -1
WAIT 0 x
ROLE
ECHO hello
PING
PING hello
PING a b
MODULE LIST
FUNCTION LIST
FUNCTION FLUSH
FUNCTION FLUSH ASYNC
FUNCTION FLUSH WHAT
CLIENT GETNAME
CLIENT SETNAME bob
CLIENT GETNAME
CLIENT PAUSE x
CLIENT PAUSE -1
CLIENT PAUSE 1 WHAT
CLIENT UNPAUSE
CLIENT REPLY WHAT
CLIENT NO-EVICT WHAT
CLIENT KILL ID x
CLIENT KILL TYPE x
CLIENT KILL 1.1.1.1:1
OBJECT HELP x
MEMORY USAGE neither
SCAN x
SCAN 0 COUNT 0
SCAN 0 COUNT x
SCAN 0 WHAT
NOSUCH a b
MULTI
SET m 1
INCR m
GET m
EXEC
EXEC
DISCARD
MULTI
MULTI
WATCH m
DISCARD
MULTI
NOSUCH
SET m
EXEC
GET m
MULTI
INCR s
SET m 9
EXEC
GET m
WATCH m
MULTI
SET m 10
EXEC
WATCH m
SET m 11
MULTI
SET m 12
EXEC
GET m
WATCH m
SET m 13
UNWATCH
MULTI
GET m
EXEC
WATCH nosuch
SET nosuch 1
MULTI
PING
EXEC
DEL nosuch
WATCH nosuch
DEL nosuch
MULTI
PING
EXEC
WATCH m
EXPIRE m 100
MULTI
PING
EXEC
WATCH m
FLUSHALL
MULTI
PING
EXEC
WATCH
MULTI
EXEC
MULTI
MSETNX t1 a t2 b
RENAME t1 t3
APPEND t3 xyz
COPY t3 t4
GETSET t4 q
LCS t3 t2
GETRANGE t3 1 2
DUMP nosuch
EXEC
MGET t1 t2 t3 t4
MULTI
SELECT 0
RENAME nosuch x
CLIENT GETNAME
EXEC";

#[test]
fn replies_are_those_of_redis_byte_by_byte() {
    let Some(redis) = Redis::start() else { return };
    let server = Server::start(&[]);
    for protocol in ["2", "3"] {
        let mut pair = Pair::connect(&server, &redis, protocol);
        let differences: Vec<String> = LINES.lines().filter_map(|line| pair.line(line)).collect();
        assert!(differences.is_empty(), "RESP{protocol}:\n{}", differences.concat());
    }
}

#[test]
fn what_one_dumps_the_other_restores() {
    let Some(redis) = Redis::start() else { return };
    let server = Server::start(&[]);
    let mut pair = Pair::connect(&server, &redis, "2");
    let ask = |wire: &mut Wire, words: &[&[u8]]| wire.ask(words).expect("the connection lives");
    let payload = |reply: &[u8]| {
        let begin = reply.iter().position(|&byte| byte == b'\n').expect("a bulk") + 1;
        reply[begin..reply.len() - 2].to_vec()
    };
    let compressible = b"a long text that repeats itself, ".repeat(3000);
    let noise: Vec<u8> = (0..70_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
    let values: [&[u8]; 9] =
        [b"", b"v", b"12345", b"-7", b"123456789", b"99999999999", &[b'x'; 100], &compressible, &noise];
    for value in values {
        for forth in [true, false] {
            let Pair { ours, theirs } = &mut pair;
            let (from, to) = if forth { (ours, theirs) } else { (theirs, ours) };
            assert_eq!(ask(from, &[b"SET", b"k", value]), b"+OK\r\n");
            let dumped = payload(&ask(from, &[b"DUMP", b"k"]));
            assert_eq!(ask(to, &[b"RESTORE", b"k", b"0", &dumped, b"REPLACE"]), b"+OK\r\n");
            assert_eq!(payload(&ask(to, &[b"GET", b"k"])), value, "forth: {forth}");
            assert_eq!(ask(to, &[b"RESTORE", b"k", b"0", &dumped]), b"-BUSYKEY Target key name already exists.\r\n");
        }
    }
    // What holds no string is refused, and so is a checksum that is not right.
    let Pair { ours, theirs } = &mut pair;
    ask(theirs, &[b"RPUSH", b"list", b"a"]);
    let list = payload(&ask(theirs, &[b"DUMP", b"list"]));
    assert!(ask(ours, &[b"RESTORE", b"list", b"0", &list]).starts_with(b"-ERR Bad data format"));
    let mut rotten = payload(&ask(theirs, &[b"DUMP", b"k"]));
    *rotten.last_mut().expect("it has bytes") ^= 1;
    for wire in [ours, theirs] {
        let told = ask(wire, &[b"RESTORE", b"new", b"0", &rotten]);
        assert_eq!(told, b"-ERR DUMP payload version or checksum are wrong\r\n");
    }
}

/// Any command that changes or reads a few keys, with arguments that make sense more often than not.
fn any_command(rng: &mut StdRng) -> Vec<Vec<u8>> {
    let key = |rng: &mut StdRng| ["a", "b", "c", "d"].choose(rng).expect("some").to_string();
    let value = |rng: &mut StdRng| match rng.random_range(0..6) {
        0 => rng.random_range(-100i64..100).to_string(),
        1 => rng.random_range(-(1i64 << 52)..1 << 52).to_string(),
        2 => format!("{}.5", rng.random_range(-100..100)),
        3 => "x".repeat([0, 1, 30, 5_000, 40_000][rng.random_range(0..5)]),
        4 => String::new(),
        _ => "text".to_owned(),
    };
    let small = |rng: &mut StdRng| rng.random_range(-8i64..60_000).to_string();
    let (k, j, v) = (key(rng), key(rng), value(rng));
    let number = small(rng);
    let words: Vec<String> = match rng.random_range(0..34) {
        0 => vec!["SET".into(), k, v],
        1 => vec!["SET".into(), k, v, ["NX", "XX", "GET", "KEEPTTL"].choose(rng).expect("some").to_string()],
        2 => vec!["GET".into(), k],
        3 => vec!["GETSET".into(), k, v],
        4 => vec!["GETDEL".into(), k],
        5 => vec!["SETNX".into(), k, v],
        6 => vec!["APPEND".into(), k, v],
        7 => vec!["SETRANGE".into(), k, number, v],
        8 => vec!["GETRANGE".into(), k, number, small(rng)],
        9 => vec!["INCR".into(), k],
        10 => vec!["DECRBY".into(), k, v],
        11 => vec!["INCRBY".into(), k, v],
        // A key of its own: beyond the digits of its machine Redis rounds, and we do not.
        12 => vec!["INCRBYFLOAT".into(), "f".into(), format!("{}.25", rng.random_range(-9..9))],
        13 => vec!["STRLEN".into(), k],
        14 => vec!["DEL".into(), k, j],
        15 => vec!["EXISTS".into(), k.clone(), k, j],
        16 => vec!["RENAME".into(), k, j],
        17 => vec!["RENAMENX".into(), k, j],
        18 if k != j => vec!["COPY".into(), k, j],
        19 if k != j => vec!["COPY".into(), k, j, "REPLACE".into()],
        20 => vec!["EXPIREAT".into(), k, (17_000_000_000u64 + rng.random_range(0..9)).to_string()],
        21 => vec![
            "PEXPIREAT".into(),
            k,
            "17177117420123".into(),
            ["NX", "XX", "GT", "LT"][rng.random_range(0..4)].into(),
        ],
        22 => vec!["EXPIRETIME".into(), k],
        23 => vec!["PERSIST".into(), k],
        24 => vec!["MSET".into(), k, v.clone(), j, v],
        25 => vec!["MSETNX".into(), k, v.clone(), j, v],
        26 => vec!["MGET".into(), k, j],
        27 => vec!["GETEX".into(), k, "PERSIST".into()],
        28 => vec!["GETEX".into(), k, "EXAT".into(), "17177117420".into()],
        29 => vec!["DBSIZE".into()],
        30 => vec!["TYPE".into(), k],
        31 => vec!["TOUCH".into(), k, j],
        32 => vec!["EXPIREAT".into(), k, "1".into()],
        _ => vec!["PEXPIRETIME".into(), k],
    };
    words.into_iter().map(String::into_bytes).collect()
}

#[test]
fn any_history_of_commands_is_answered_as_redis_answers_it() {
    let Some(redis) = Redis::start() else { return };
    let seed: u64 = std::env::var("MOONCAKE_SEED").ok().map_or_else(rand::random, |seed| seed.parse().expect("a seed"));
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for args in [&[][..], &["--workers", "1"]] {
        let server = Server::start(args);
        let mut pair = Pair::connect(&server, &redis, "3");
        let same = |pair: &mut Pair, words: &[Vec<u8>]| {
            if let Some(difference) = pair.differ(words) {
                panic!("MOONCAKE_SEED={seed}: {difference}");
            }
        };
        let words = |line: &str| vec![line.as_bytes().to_vec()];
        for _ in 0..1_500 {
            if rng.random_ratio(1, 12) {
                same(&mut pair, &words("MULTI"));
                for _ in 0..rng.random_range(0..6) {
                    same(&mut pair, &any_command(&mut rng));
                }
                same(&mut pair, &words(if rng.random_ratio(1, 5) { "DISCARD" } else { "EXEC" }));
            } else {
                same(&mut pair, &any_command(&mut rng));
            }
        }
    }
}
