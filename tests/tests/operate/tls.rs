//! TLS and mutual TLS: with other people's clients and our own, and with everything that must be refused.

use client::{Choice, Client, Options, PutOptions, Tls};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use tests::certs::{Authority, Pair};
use tests::server::until;
use tests::{Raw, Server, peer};

/// A server with a certificate for 127.0.0.1, and who signed it.
struct Secured {
    server: Server,
    authority: Authority,
}

fn secured(more: &[&str]) -> Secured {
    let authority = Authority::new("ours");
    let dir = authority.dir();
    let own = authority.server("server");
    let (cert, key, ca) = (own.cert(), own.key(), dir.join("ours.pem"));
    let mut args = vec!["--tls-listen", "127.0.0.1:0", "--tls-cert-file", &cert, "--tls-key-file", &key];
    let ca = ca.display().to_string();
    args.extend(["--tls-ca-cert-file", &ca]);
    args.extend(more);
    Secured { server: Server::start(&args), authority }
}

impl Secured {
    fn addr(&self) -> SocketAddr {
        self.server.tls()
    }

    fn connect(&self, via: Choice, identity: Option<&Pair>) -> Result<Client, client::ClientError> {
        let mut options = Options::new(self.addr().to_string().parse().expect("an address")).via(via);
        let mut tls = Tls::trusting(self.authority.dir().join("ours.pem"));
        tls.identity = identity.map(|pair| (pair.cert().into(), pair.key().into()));
        options.tls = Some(tls);
        options.deadline = Duration::from_secs(20);
        Client::connect(options)
    }
}

#[test]
fn our_client_moves_objects_over_tls_in_band_and_in_bulk() {
    let secured = secured(&["--tls-auth-clients", "no"]);
    let mut large = vec![0; 24 << 20];
    for (at, byte) in large.iter_mut().enumerate() {
        *byte = u8::try_from(at * 31 % 251).expect("below 251");
    }
    for (via, key) in [(Choice::InBand, b"in-band"), (Choice::Tcp, b"bulktcp")] {
        let mut client = secured.connect(via, None).expect("a handshake");
        for len in [1, 5000, 100_000, large.len()] {
            client.put(key, &large[..len], &PutOptions { replace: true, ..PutOptions::default() }).expect("stored");
            let mut buffer = vec![0; len];
            let found = client.fetch(key, &mut buffer).expect("read").expect("there");
            assert!(found.bytes() == &large[..len], "{via:?}, {len} bytes are not what was written");
        }
    }
}

#[test]
fn a_token_of_a_tls_session_opens_nothing_in_plain_text() {
    let secured = secured(&["--tls-auth-clients", "no"]);
    let mut options = Options::new(secured.addr().to_string().parse().expect("an address")).via(Choice::InBand);
    options.tls = Some(Tls::trusting(secured.authority.dir().join("ours.pem")));
    let mut client = Client::connect(options).expect("a handshake");
    let reply = client.command(&[&b"ATTACH"[..], b"TCP"]).expect("answered");
    let text = format!("{reply:?}");
    let (token, port) = tests::certs::token_and_port(&reply).unwrap_or_else(|| panic!("{text}"));
    let addr = SocketAddr::new(secured.addr().ip(), port);
    let refused = transport::tcp::BulkConnection::connect(addr, token, Instant::now() + Duration::from_secs(20));
    assert!(matches!(refused, Err(transport::tcp::BulkError::Refused(_))), "{refused:?}");
}

#[test]
fn who_has_no_certificate_of_ours_is_refused_and_named_in_the_log() {
    let secured = secured(&[]);
    let own = secured.authority.client("engine");
    let mut client = secured.connect(Choice::InBand, Some(&own)).expect("a certificate that was signed by ours");
    assert!(client.put(b"k", b"v", &PutOptions::default()).is_ok());
    let foreign = Authority::new("theirs");
    let stranger = foreign.client("stranger");
    let expired = secured.authority.expired("late");
    for (identity, logged) in
        [(None, "the client has no certificate"), (Some(&stranger), "UnknownIssuer"), (Some(&expired), "xpired")]
    {
        let outcome = secured.connect(Choice::InBand, identity).and_then(|mut client| client.get(b"k"));
        assert!(outcome.is_err(), "{identity:?} was served: {outcome:?}");
        until(logged, Duration::from_secs(20), || {
            // What is told now and then is told again when it happens again.
            let _ = secured.connect(Choice::InBand, identity).and_then(|mut client| client.get(b"k"));
            secured.server.log().contains(logged)
        });
    }
    // And we do not talk to a server that strangers vouch for.
    let mut options = Options::new(secured.addr().to_string().parse().expect("an address")).via(Choice::InBand);
    options.tls = Some(Tls::trusting(foreign.dir().join("theirs.pem")));
    let error = Client::connect(options).expect_err("not signed by theirs");
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
}

#[test]
fn plain_text_on_the_tls_port_is_closed_and_said_so() {
    let secured = secured(&["--tls-auth-clients", "optional"]);
    let mut socket = TcpStream::connect(secured.addr()).expect("it accepts");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket has one");
    socket.write_all(b"*1\r\n$4\r\nPING\r\n").expect("sent");
    let mut answer = Vec::new();
    // Closed or reset; a hang would be a timeout.
    match socket.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
    until("it is in the log", Duration::from_secs(20), || secured.server.log().contains("did not speak TLS"));
    // Optional: without a certificate is fine.
    secured.connect(Choice::InBand, None).expect("none is needed");
}

#[test]
fn a_handshake_that_does_not_go_on_is_ended() {
    let secured = secured(&["--progress-ms", "300"]);
    let mut idle: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(secured.addr()).expect("it accepts")).collect();
    for (at, socket) in idle.iter_mut().enumerate() {
        // Half of them say nothing at all.
        if at % 2 == 0 {
            socket.write_all(&[0x16, 3, 1, 2]).expect("sent");
        }
    }
    for socket in &mut idle {
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket has one");
        let ended = socket.read(&mut [0; 16]);
        assert!(!matches!(&ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock), "{ended:?}");
    }
    let mut raw = Raw::to(&secured.server);
    until("their places are free", Duration::from_secs(20), || {
        raw.ask(&["INFO", "clients"]).text().contains("connected_clients:1\r\n")
    });
}

#[test]
fn certificates_are_renewed_while_the_server_runs() {
    let secured = secured(&["--tls-auth-clients", "no"]);
    let mut old = secured.connect(Choice::InBand, None).expect("a handshake");
    let next = Authority::new("next");
    let renewed = next.server("renewed");
    let mut raw = Raw::to(&secured.server);
    // Half of a change, or a file that is none, changes nothing.
    let broken = raw.ask(&["CONFIG", "SET", "tls-cert-file", "/nonexistent"]);
    assert!(broken.is_error("ERR") && broken.text().contains("tls-cert-file"), "{broken:?}");
    assert!(raw.ask(&["CONFIG", "SET", "tls-key-file", &renewed.key()]).is_error("ERR"), "another certificate's key");
    secured.connect(Choice::InBand, None).expect("what was there is still used");
    let set = raw.ask(&["CONFIG", "SET", "tls-cert-file", &renewed.cert(), "tls-key-file", &renewed.key()]);
    assert_eq!(set.text(), "OK");
    assert!(secured.connect(Choice::InBand, None).is_err(), "the new one was signed by others");
    assert!(old.put(b"k", b"v", &PutOptions::default()).is_ok(), "who is there stays");
    // The same files with other contents, at a signal.
    let again = secured.authority.server("again");
    std::fs::copy(again.cert(), renewed.cert()).expect("ours");
    std::fs::copy(again.key(), renewed.key()).expect("ours");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(secured.server.pid()).expect("a pid")).expect("not 0"),
        rustix::process::Signal::HUP,
    )
    .expect("ours");
    until("it is read again", Duration::from_secs(20), || secured.connect(Choice::InBand, None).is_ok());
}

#[test]
fn redis_cli_speaks_tls() {
    let Some(redis_cli) = peer::find("redis-cli") else { return };
    let secured = secured(&[]);
    let own = secured.authority.client("cli");
    let ca = secured.authority.dir().join("ours.pem").display().to_string();
    let port = secured.addr().port().to_string();
    let run = |words: &[&str], identity: bool| {
        let mut command = Command::new(&redis_cli);
        command.args(["-p", &port, "--tls", "--cacert", &ca]);
        if identity {
            command.args(["--cert", &own.cert(), "--key", &own.key()]);
        }
        peer::run(command.args(words), "").text
    };
    assert_eq!(run(&["SET", "k", "v"], true).trim(), "OK");
    assert_eq!(run(&["GET", "k"], true).trim(), "v");
    assert!(!run(&["GET", "k"], false).contains("\"v\""), "without a certificate");
}

#[test]
fn redis_py_speaks_tls() {
    let Some(python) = peer::python_with_redis() else { return };
    let secured = secured(&[]);
    let own = secured.authority.client("python");
    let program = r#"
import os, sys, redis
port, ca, cert, key = sys.argv[1:]
r = redis.Redis(host="127.0.0.1", port=int(port), ssl=True, ssl_ca_certs=ca, ssl_certfile=cert, ssl_keyfile=key)
value = os.urandom(8 << 20)
assert r.set("large", value) and r.get("large") == value
pipe = r.pipeline(transaction=False)
for n in range(200): pipe.set(f"k{n}", value[n * 1000:n * 1000 + 20000])
for n in range(200): pipe.get(f"k{n}")
answers = pipe.execute()
assert all(answers[200 + n] == value[n * 1000:n * 1000 + 20000] for n in range(200))
print("done")
"#;
    let mut command = Command::new(python);
    command.args(["-c", program, &secured.addr().port().to_string()]);
    command.arg(secured.authority.dir().join("ours.pem")).args([own.cert(), own.key()]);
    let output = peer::run(&mut command, "");
    assert_eq!(output.text.trim(), "done", "{output:?}");
}

#[test]
fn the_metrics_port_speaks_tls_if_it_is_told_to() {
    let secured = secured(&["--tls-auth-clients", "no", "--tls-metrics", "yes"]);
    let metrics = secured.server.metrics();
    assert!(tests::http::ask(metrics, "GET", "/healthz", "localhost").is_err(), "plain text is not answered");
    let tls = Tls::trusting(secured.authority.dir().join("ours.pem"));
    let mut channel = tls.connect(metrics, Duration::from_secs(20)).expect("a handshake");
    channel.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    let mut answer = String::new();
    // Whoever closes without a word of TLS has said all the same.
    let _ = channel.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("serving\n"), "{answer}");
}

#[test]
fn settings_that_do_not_fit_together_are_named_at_start() {
    let authority = Authority::new("ours");
    let own = authority.server("server");
    for (args, named) in [
        (&["--tls-listen", "127.0.0.1:0"][..], "tls-cert-file"),
        (&["--tls-metrics", "yes"][..], "tls-cert-file"),
        (&["--tls-cert-file", &own.cert()][..], "tls-key-file"),
        (
            &["--tls-listen", "127.0.0.1:0", "--tls-cert-file", &own.cert(), "--tls-key-file", &own.key()][..],
            "tls-ca-cert-file",
        ),
    ] {
        let dir = tempfile::TempDir::new().expect("a directory for the test");
        let log = Server::try_start(std::sync::Arc::new(dir), args, tests::server::Mark::Ready)
            .expect_err("it does not start");
        assert!(log.contains(named), "{args:?}: {log}");
    }
}
