//! Redis's own tools and its most used client library, as people have them installed, against the real server.

use std::process::Command;
use tests::peer::{self, Output, Turn};
use tests::{Server, Wire};

fn succeeded(output: Output) -> String {
    assert!(output.status.is_some_and(|status| status.success()), "{output:?}");
    output.text
}

/// What `redis-cli` with these words prints.
fn cli(server: &Server, words: &[&str], input: &str) -> Option<String> {
    let mut command = Command::new(peer::find("redis-cli")?);
    Some(succeeded(peer::run(command.args(["-p", &server.port()]).args(words), input)))
}

fn filled(keys: usize) -> Server {
    let server = Server::start(&[]);
    let mut wire = Wire::connect(server.addr());
    for n in 0..keys {
        assert_eq!(wire.text(&format!("SET key:{n} {}", "v".repeat(n % 100 + 1))), "+OK");
    }
    assert_eq!(wire.ask(&[b"SET".to_vec(), b"giant".to_vec(), vec![b'x'; 300_000]]), Some(b"+OK\r\n".to_vec()));
    server
}

#[test]
fn redis_cli_scans_and_measures() {
    let server = filled(1000);
    for protocol in ["-2", "-3"] {
        // 7.0 knows no `-2`: it is what happens without a word.
        let run = |words: &[&str]| {
            let words: Vec<&str> = [protocol].iter().filter(|word| **word == "-3").chain(words).copied().collect();
            cli(&server, &words, "")
        };
        let Some(bigkeys) = run(&["--bigkeys"]) else { return };
        assert!(bigkeys.contains("Sampled 1001 keys"), "{bigkeys}");
        assert!(bigkeys.contains("Biggest string found '\"giant\"' has 300000 bytes"), "{bigkeys}");
        let memkeys = run(&["--memkeys"]).expect("redis-cli was there a moment ago");
        assert!(memkeys.contains("Biggest string found '\"giant\"' has 3"), "{memkeys}");
        let scan = run(&["--scan", "--pattern", "key:99?"]).expect("redis-cli was there a moment ago");
        let mut keys: Vec<&str> = scan.lines().collect();
        keys.sort_unstable();
        assert_eq!(keys.len(), 10, "{scan}");
        assert_eq!(keys[0], "key:990");
        let latency = run(&["--latency"]).expect("redis-cli was there a moment ago");
        assert_eq!(latency.split_ascii_whitespace().count(), 4, "least, most, mean, count: {latency}");
    }
}

#[test]
fn redis_cli_shows_how_the_server_is() {
    let server = filled(10);
    let (Some(redis_cli), Some(stdbuf)) = (peer::find("redis-cli"), peer::find("stdbuf")) else { return };
    let mut command = Command::new(stdbuf);
    command.args(["-oL"]).arg(redis_cli).args(["-p", &server.port(), "--stat", "-i", "0.05"]);
    // It goes on until it is ended: two lines of numbers are enough.
    let enough = |text: &str| if text.lines().count() >= 5 { Turn::End } else { Turn::Listen };
    let text = peer::converse(&mut command, enough).text;
    let numbers = text.lines().filter(|line| line.starts_with("11 ")).count();
    assert!(numbers >= 2, "eleven keys are to be seen: {text}");
}

#[test]
fn redis_cli_inserts_masses() {
    let server = Server::start(&[]);
    let all: Vec<u8> = (0..5000).flat_map(|n| tests::wire::request(&["SET", &format!("mass:{n}"), "v"])).collect();
    let Some(told) = cli(&server, &["--pipe"], &String::from_utf8(all).expect("ASCII")) else { return };
    assert!(told.contains("errors: 0, replies: 5000"), "{told}");
    assert_eq!(Wire::connect(server.addr()).text("DBSIZE"), ":5000");
}

#[test]
fn redis_cli_helps_with_our_own_commands() {
    let server = Server::start(&[]);
    let (Some(_), Some(script)) = (peer::find("redis-cli"), peer::find("script")) else { return };
    // A terminal of its own, wide enough for hints.
    let session = format!("stty rows 50 cols 250; exec redis-cli -p {}", server.port());
    let mut command = Command::new(script);
    command.args(["--quiet", "--return", "--command", &session, "/dev/null"]).env("TERM", "xterm");
    // What to wait for, and what to type then. The last but one is a hint: the line is not sent. After a help text comes
    // a prompt: what is typed before it is thrown away with the terminal's mode.
    let mut talk = [
        ("", "> ", "help put\r"),
        ("Reserves room for an object", "> ", "lookup "),
        ("", "key [key ...] [LEASE milliseconds]", "\u{3}"),
    ]
    .into_iter();
    let mut next = talk.next();
    let told = peer::converse(&mut command, |text| match next {
        Some((first, then, typed)) if text.split_once(first).is_some_and(|(_, rest)| rest.contains(then)) => {
            next = talk.next();
            Turn::Say(typed.to_owned())
        }
        _ => Turn::Listen,
    });
    assert_eq!(next, None, "redis-cli does not say it: {}", told.text);
}

#[test]
fn redis_benchmark_finds_no_error() {
    let server = Server::start(&[]);
    let Some(benchmark) = peer::find("redis-benchmark") else { return };
    for words in [
        &["-t", "ping,set,get,mset", "-c", "8", "-d", "100", "-r", "1000"][..],
        &["-t", "set,get", "-c", "50", "-P", "16", "-d", "4096", "-r", "100"],
        &["-3", "-t", "ping,set,get", "-c", "8", "-d", "40000", "-r", "10"],
    ] {
        let mut command = Command::new(&benchmark);
        let told = succeeded(peer::run(command.args(["-p", &server.port(), "-q", "-n", "4000"]).args(words), ""));
        assert!(told.contains("requests per second"), "{told}");
        for complaint in ["rror", "WARN", "ERR"] {
            assert!(!told.contains(complaint), "{words:?}: {told}");
        }
    }
    assert!(Wire::connect(server.addr()).text("INFO errorstats").contains("# Errorstats"));
}

#[test]
fn redis_py_does_what_it_does_with_redis() {
    let Some(python) = peer::python_with_redis() else { return };
    let server = Server::start(&[]);
    for protocol in ["2", "3"] {
        let mut command = Command::new(&python);
        command.args(["-c", include_str!("../peers/redis_py.py"), &server.port(), protocol]);
        assert_eq!(succeeded(peer::run(&mut command, "")).trim(), "fine", "RESP{protocol}");
    }
}
