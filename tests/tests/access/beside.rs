//! The same users and the same commands here and in Redis: the replies are the same bytes.

use protocol::command::Keys;
use tests::redis_server::Redis;
use tests::{Server, Value, Wire, sample};

struct Pair {
    ours: Wire,
    theirs: Wire,
}

impl Pair {
    fn connect(server: &Server, redis: &Redis) -> Self {
        Self { ours: Wire::connect(server.addr()), theirs: Wire::connect(redis.addr()) }
    }

    /// Sends a line to both, quoted words as one. Says how their replies differ, if they do.
    fn line(&mut self, line: &str) -> Option<String> {
        let mut words: Vec<Vec<u8>> = Vec::new();
        for (at, part) in line.split('"').enumerate() {
            match at % 2 {
                0 => words.extend(part.split_ascii_whitespace().map(|word| word.as_bytes().to_vec())),
                _ => words.push(part.as_bytes().to_vec()),
            }
        }
        let (ours, theirs) = (self.ours.exchange(&words), self.theirs.exchange(&words));
        let show = |reply: &Option<Vec<u8>>| reply.as_ref().map(|bytes| bytes.escape_ascii().to_string());
        (ours != theirs).then(|| format!("{line}\n  ours    {:?}\n  Redis's {:?}\n", show(&ours), show(&theirs)))
    }
}

/// Said by one who may everything (`a`) and by one who is changed meanwhile (`b`).
const LINES: &str = "\
a FLUSHALL
a ACL WHOAMI
a ACL USERS
a ACL LIST
a ACL SETUSER bob
a ACL LIST
a ACL GETUSER bob
a ACL GETUSER nosuch
b AUTH bob pw
a ACL SETUSER bob on >pw ~a* %R~r* %W~w* %RW~x* &ch* +@all -ping
a ACL LIST
a ACL GETUSER bob
b AUTH bob wrong
b AUTH nosuch pw
b AUTH bob pw
b ACL WHOAMI
b PING
b GET a
b GET b
b SET a v
b GET a
b SET b v
b GET r1
b SET r1 v
b SET w1 v
b GET w1
b SET w1 v GET
b SET w1 v EX 100
b SET w1 v EX 100 GET
b EXISTS w1
b EXISTS b
b EXISTS a b
b TYPE w1
b TYPE b
b TTL w1
b TTL b
b STRLEN w1
b STRLEN b
b APPEND w1 x
b APPEND r1 x
b GETRANGE w1 0 1
b GETDEL w1
b GETDEL b
b GETEX r1
b INCR w1
b INCR a1
b DEL r1
b DEL w1
b UNLINK b
b MGET a b
b MGET a r1
b MSET a 1 b 2
b MSET a 1 w2 2
b RENAME a w1
b RENAME w1 a
b RENAME r1 a
b COPY r1 a
b COPY a r1
b COPY w1 a
b TOUCH b
b OBJECT ENCODING b
b MEMORY USAGE b
b DUMP b
b DUMP a
b EXPIRE b 5
b EXPIRE r1 5
b EXPIRE w1 5
b PERSIST r1
b SETRANGE r1 0 x
b LCS a b
b WATCH b
b WATCH a
b UNWATCH
b MULTI
b SET a 1
b GET b
b EXEC
b MULTI
b SET a 1
a ACL SETUSER bob -set
b EXEC
a ACL SETUSER bob +set
b MULTI
b SET a 1
a ACL SETUSER bob resetkeys
b EXEC
b GET a
a ACL SETUSER bob allkeys
b GET a
b PUBLISH ch1 x
b PUBLISH other x
b SUBSCRIBE other
b PSUBSCRIBE *
b NOSUCH
b GET
b CONFIG NOSUCH
b CONFIG GET maxmemory
a ACL SETUSER bob -config
b CONFIG GET maxmemory
b CONFIG NOSUCH
a ACL SETUSER bob +config|get
b CONFIG GET save
b CONFIG RESETSTAT
a ACL SETUSER bob nocommands +select|0
b SELECT 0
b SELECT 1
b GET a
a ACL SETUSER bob (+get ~s*) \"(+set ~t* %R~u*)\"
a ACL LIST
a ACL GETUSER bob
b GET s1
b SET s1 v
b SET t1 v
b GET t1
b SET u1 v
a ACL SETUSER bob clearselectors
b GET s1
a ACL SETUSER bob reset
a ACL LIST
b GET a
b RESET
b ACL WHOAMI
b AUTH bob pw
a ACL SETUSER bob on nopass
b AUTH bob anything
a ACL SETUSER bob resetpass
a ACL SETUSER bob >one >two <one
a ACL GETUSER bob
a ACL SETUSER bob <one
a ACL SETUSER bob #30c952fab122c3f9759f02a6d95c3758b246b4fee239957b2d4fee46e26170c4
a ACL SETUSER bob !30c952fab122c3f9759f02a6d95c3758b246b4fee239957b2d4fee46e26170c4
a ACL SETUSER bob #zz
a ACL SETUSER bob foo
a ACL SETUSER bob +foo
a ACL SETUSER bob +@foo
a ACL SETUSER bob -@foo
a ACL SETUSER bob +config|foo
a ACL SETUSER bob +get|x|y
a ACL SETUSER bob -get|x
a ACL SETUSER bob %X~foo
a ACL SETUSER bob %~foo
a ACL SETUSER bob (foo)
a ACL SETUSER bob (+get
a ACL SETUSER bob allkeys ~foo
a ACL SETUSER bob allchannels &foo
a ACL SETUSER \"a b\" on
a ACL LIST
a ACL SETUSER carl +@read -get
a ACL GETUSER carl
a ACL SETUSER carl +@all -@dangerous
a ACL GETUSER carl
a ACL SETUSER carl allkeys allchannels
a ACL LIST
a ACL SETUSER carl resetchannels &x &y &x
a ACL GETUSER carl
a ACL DRYRUN nosuch GET a
a ACL DRYRUN carl NOSUCH a
a ACL DRYRUN carl GET
a ACL DRYRUN carl GET a
a ACL DRYRUN carl FLUSHALL
a ACL DRYRUN carl PUBLISH z m
a ACL SETUSER carl resetkeys ~k
a ACL DRYRUN carl GET a
a ACL DRYRUN carl MGET k a
a ACL DRYRUN default GET a
a ACL CAT nosuch
a ACL CAT hash extra args
a ACL GENPASS 5 5
a ACL GENPASS 0
a ACL GENPASS -1
a ACL GENPASS 4097
a ACL GENPASS x
a ACL LOG x
a ACL LOG -5
a ACL LOG RESET
a ACL LOG
a ACL LOG RESET 5
a ACL SAVE
a ACL LOAD
a ACL NOSUCH
a ACL SETUSER
a ACL DELUSER default
a ACL DELUSER nosuch
a CLIENT KILL USER nosuch
b AUTH bob two
a ACL DELUSER bob carl nosuch
b PING
a ACL USERS
a ACL SETUSER default >zz
a PING
a ACL LIST
a CONFIG SET requirepass foo
a ACL LIST
a CONFIG SET requirepass \"\"
a ACL LIST
a AUTH x
a AUTH default x
a ACL SETUSER default off
a AUTH default x
a ACL SETUSER default on";

#[test]
fn users_are_made_and_refused_as_redis_does_it() {
    let Some(redis) = Redis::start() else { return };
    let server = Server::start(&[]);
    let mut admin = Pair::connect(&server, &redis);
    let mut other = Pair::connect(&server, &redis);
    let mut differences = String::new();
    for line in LINES.lines() {
        let (who, line) = line.split_once(' ').expect("who says it");
        let pair = if who == "a" { &mut admin } else { &mut other };
        if let Some(difference) = pair.line(line) {
            differences += &difference;
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

fn asked(wire: &mut Wire, words: &[&str]) -> Vec<u8> {
    wire.ask(words).expect("the connection lives")
}

fn listed(wire: &mut Wire, line: &str) -> Vec<String> {
    let reply = wire.text(line);
    reply.split(' ').filter(|word| !word.starts_with(['*', '$', '~'])).map(str::to_owned).collect()
}

#[test]
fn commands_are_in_the_groups_that_redis_has_them_in() {
    let Some(redis) = Redis::start() else { return };
    let server = Server::start(&[]);
    let mut pair = Pair::connect(&server, &redis);
    let theirs_all = listed(&mut pair.theirs, "COMMAND LIST");
    let known = |name: &String| theirs_all.contains(name);
    let mut differences = Vec::new();
    for group in listed(&mut pair.theirs, "ACL CAT") {
        let theirs = listed(&mut pair.theirs, &format!("ACL CAT {group}"));
        let ours = listed(&mut pair.ours, &format!("ACL CAT {group}"));
        for spec in sample::commands() {
            let name = spec.full_name.to_owned();
            let (here, there) = (ours.contains(&name), theirs.contains(&name));
            if known(&name) && here != there {
                differences.push(format!("{name}: @{group} here {here}, in Redis {there}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Each command that Redis has too is refused and allowed for keys as Redis does it, by users of one right each.
#[test]
fn keys_need_the_rights_that_redis_asks_for() {
    let Some(redis) = Redis::start() else { return };
    let server = Server::start(&[]);
    let mut pair = Pair::connect(&server, &redis);
    let theirs_all = listed(&mut pair.theirs, "COMMAND LIST");
    let rights =
        [("none", ""), ("any", "~k*"), ("reads", "%R~k*"), ("writes", "%W~k*"), ("first", "~k0"), ("second", "~k1")];
    for (name, rule) in rights {
        for wire in [&mut pair.ours, &mut pair.theirs] {
            let made = wire.text(&format!("ACL SETUSER {name} on nopass +@all {rule}"));
            assert_eq!(made, "+OK");
        }
    }
    let (mut differences, mut compared) = (Vec::new(), 0);
    for spec in sample::commands().filter(|spec| theirs_all.contains(&spec.full_name.to_owned())) {
        if spec.keys == Keys::None && spec.access_all.is_none() {
            continue;
        }
        let request = sample::request(spec, |n| format!("k{n}"));
        for (name, _) in rights {
            let mut words = vec!["ACL", "DRYRUN", name];
            words.extend(request.iter().map(String::as_str));
            let (ours, theirs) = (asked(&mut pair.ours, &words), asked(&mut pair.theirs, &words));
            compared += 1;
            // What reaches every key asks for the right to every key here, and for none there.
            if ours != theirs && spec.access_all.is_none() {
                let (ours, theirs) = (ours.escape_ascii(), theirs.escape_ascii());
                differences.push(format!("{}: ours {ours}, Redis's {theirs}", words.join(" ")));
            }
        }
    }
    assert!(compared > 200, "{compared}");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn what_was_refused_is_told_with_the_fields_of_redis() {
    let Some(redis) = Redis::start() else { return };
    let server = Server::start(&[]);
    let mut told = Vec::new();
    for addr in [server.addr(), redis.addr()] {
        let mut admin = tests::Raw::tcp(addr).expect("listening");
        let mut bob = tests::Raw::tcp(addr).expect("listening");
        admin.ask(&["ACL", "SETUSER", "bob", "on", ">pw", "~a", "&c", "+@all", "-ping"]);
        bob.ask(&["AUTH", "bob", "no"]);
        bob.ask(&["HELLO", "2", "AUTH", "bob", "no"]);
        bob.ask(&["AUTH", "bob", "pw"]);
        for line in ["GET b", "GET b", "PING", "PUBLISH d x", "MULTI", "GET z", "DISCARD", "SET b v"] {
            bob.ask(&line.split(' ').collect::<Vec<_>>());
        }
        let log = admin.ask(&["ACL", "LOG"]);
        let entry =
            |entry: &Value| ["count", "reason", "context", "object", "username"].map(|name| entry.field(name).clone());
        told.push(log.items().iter().map(entry).collect::<Vec<_>>());
        let first = &log.items()[0];
        assert!(first.field("client-info").text().contains(" user=bob "), "{first:?}");
        first.field("age-seconds").text().parse::<f64>().expect("an age");
        assert_eq!(admin.ask(&["ACL", "LOG", "1"]).items().len(), 1);
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0].len(), 6, "{:?}", told[0]);
}
