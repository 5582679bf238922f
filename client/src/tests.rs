//! The client against a peer that follows a script: cuts, silence, lies and hang-ups.

use crate::link::{Deadline, Link, Place, Wire};
use crate::session::next_on;
use crate::{Choice, Client, ClientError, Options, PutOptions, Reply, Transport};
use bytes::BytesMut;
use protocol::base::{Crc, Generation};
use protocol::resp::{Encoder, ErrorWord, Framer, Limits, Step, Writer};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use transport::shm::{BlockingRing, Need, RingLayout, SpinBudget, create_ring};

const SOON: Duration = Duration::from_secs(20);

fn request(link: &mut Link, word: &str) {
    link.request(|out| {
        Encoder::encode(out, |out| {
            out.word(word);
        })
    });
}

fn link() -> (Link, UnixStream) {
    let (near, far) = UnixStream::pair().expect("a pair");
    (Link::new(Wire::Unix(near), "peer".into(), 1 << 20), far)
}

fn in_pieces(mut far: UnixStream, bytes: Vec<u8>, piece: usize) -> JoinHandle<UnixStream> {
    std::thread::spawn(move || {
        for piece in bytes.chunks(piece) {
            far.write_all(piece).expect("the client reads on");
        }
        far
    })
}

/// Whatever the length of the buffer and of the pieces, a bulk arrives whole and the reply after it is still in step.
#[test]
fn bulks_arrive_in_place_however_they_are_cut() {
    let long = 40_000;
    for len in [0, 1, 20, 16 << 10, long] {
        let value: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).expect("small")).collect();
        let wire = [format!("${len}\r\n").as_bytes(), &value, b"\r\n+NEXT\r\n"].concat();
        for piece in [7, 4096, wire.len()] {
            for buffer_len in [len, len + 1, long + 30_000] {
                let (mut link, far) = link();
                request(&mut link, "GET");
                request(&mut link, "PING");
                let peer = in_pieces(far, wire.clone(), piece);
                let deadline = Deadline::after(SOON);
                let mut buffer = vec![0xee; buffer_len];
                let got = link.next_bulk(Place::Buffer(&mut buffer), deadline).expect("a bulk");
                assert_eq!(got, Some(len), "{len} bytes in pieces of {piece} into {buffer_len}");
                assert!(buffer[..len] == value, "{len} bytes in pieces of {piece} into {buffer_len}");
                assert_eq!(next_on(&mut link, deadline, |walk| walk.text().map(str::to_owned)).expect("next"), "NEXT");
                drop(peer.join());
            }
            let (mut link, far) = link();
            request(&mut link, "GET");
            let peer = in_pieces(far, wire.clone(), piece);
            let mut got = vec![1, 2, 3];
            link.next_bulk(Place::Vec(&mut got), Deadline::after(SOON)).expect("a bulk");
            assert!(got == value);
            drop(peer.join());
        }
    }
}

/// A value too long for its buffer, an error and a miss leave the connection in step.
#[test]
fn what_does_not_fit_leaves_the_connection_in_step() {
    for len in [30, 50_000] {
        let wire = [format!("${len}\r\n{}\r\n", "x".repeat(len)).as_bytes(), b"-OOM full\r\n$-1\r\n+NEXT\r\n"].concat();
        for buffer_len in [10, 20_000] {
            if buffer_len > len {
                continue;
            }
            let (mut link, far) = link();
            for _ in 0..4 {
                request(&mut link, "GET");
            }
            let peer = in_pieces(far, wire.clone(), 1000);
            let deadline = Deadline::after(SOON);
            let mut buffer = vec![0; buffer_len];
            let mut next = |link: &mut Link| link.next_bulk(Place::Buffer(&mut buffer), deadline);
            let refused = next(&mut link).expect_err("too long");
            assert!(
                matches!(refused, ClientError::BufferTooSmall { needed, has } if needed == len as u64 && has == buffer_len)
            );
            assert_eq!(next(&mut link).expect_err("an error").word(), Some(ErrorWord::Oom));
            assert_eq!(next(&mut link).expect("a miss"), None);
            next_on(&mut link, deadline, |walk| walk.skip()).expect("next");
            drop(peer.join());
        }
    }
}

#[test]
fn unheard_replies_and_pushes_are_passed_over() {
    let (mut link, mut far) = link();
    let words = |word: &'static str| {
        move |out: &mut BytesMut| {
            Encoder::encode(out, |out| {
                out.word(word);
            });
        }
    };
    link.request_unheard(words("A"));
    link.request(words("B"));
    link.request_unheard(words("C"));
    link.request_unheard(words("D"));
    link.request(words("E"));
    far.write_all(b">1\r\n+moved\r\n-ERR a\r\n+b\r\n:1\r\n>2\r\n+x\r\n+y\r\n*1\r\n+d\r\n+e\r\n").expect("written");
    let deadline = Deadline::after(SOON);
    link.flush(deadline).expect("sent");
    for expected in ["b", "e"] {
        assert_eq!(next_on(&mut link, deadline, |walk| walk.text().map(str::to_owned)).expect("a reply"), expected);
    }
}

#[test]
fn deep_and_endless_replies_are_refused() {
    for bad in ["*1\r\n".repeat(100_000), "$99999999\r\n".into(), "HTTP/1.1 400\r\n".into()] {
        let (mut link, far) = link();
        request(&mut link, "X");
        let peer = std::thread::spawn(move || {
            let mut far = far;
            // The client may be gone before all of it is written.
            let _ = far.write_all(bad.as_bytes());
        });
        let refused = link.next(Deadline::after(SOON)).expect_err("no reply");
        assert!(matches!(refused, ClientError::Protocol { .. }), "{refused}");
        drop(link);
        peer.join().expect("the peer's thread");
    }
}

/// More requests than the ring holds, to a server that answers each before it reads the next: neither waits for ever.
#[test]
fn a_full_ring_does_not_lock_both_sides() {
    const REQUESTS: usize = 2000;
    let (near, far) = UnixStream::pair().expect("a pair");
    let ring = create_ring(RingLayout::new(4096, 4096).expect("a layout")).expect("a ring");
    let (mut server, fds) = BlockingRing::serve(ring, &far, SpinBudget::default()).expect("served");
    let client = BlockingRing::open(fds, &near, SpinBudget::default()).expect("opened");
    let peer = std::thread::spawn(move || {
        let until = Instant::now() + SOON;
        let (mut framer, mut buf, mut seen) = (Framer::new(Limits::default()), BytesMut::new(), 0);
        while seen < REQUESTS {
            server.wait(Need::Data, until).expect("requests come");
            server.read_into(&mut buf, 4096).expect("read");
            while let Ok(Step::Command { consumed }) = framer.poll(&buf) {
                let mut reply = BytesMut::new();
                Writer::new(&mut reply, false).bulk(framer.args(&buf).bytes(0).expect("a name"));
                server.write_all(&reply, until).expect("written");
                bytes::Buf::advance(&mut buf, consumed);
                framer.reset();
                seen += 1;
            }
        }
        // What is written last is woken for as well.
        server.notify().expect("woken");
        (server, far)
    });
    let mut link = Link::new(Wire::Ring(Box::new(client)), "ring".into(), 1 << 20);
    for i in 0..REQUESTS {
        request(&mut link, &format!("request {i:0200}"));
    }
    let deadline = Deadline::after(SOON);
    link.flush(deadline).expect("all are sent");
    for i in 0..REQUESTS {
        let text = next_on(&mut link, deadline, |walk| walk.text().map(str::to_owned)).expect("a reply");
        assert_eq!(text, format!("request {i:0200}"));
    }
    peer.join().expect("the peer's thread");
}

/// A server that answers the commands of one connection after another as `script` says, until it has no more answers.
struct Server {
    address: String,
    thread: JoinHandle<Vec<String>>,
}

impl Server {
    /// `connections` is, for each connection, the raw answers to its commands; after the last it hangs up.
    fn start(connections: Vec<Vec<Vec<u8>>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let thread = std::thread::spawn(move || {
            let mut seen = Vec::new();
            for answers in connections {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut buf = BytesMut::new();
                let mut framer = Framer::new(Limits { stream_len_min: usize::MAX, ..Limits::default() });
                for answer in answers {
                    let Some(words) = command(&mut stream, &mut framer, &mut buf) else { break };
                    seen.push(words);
                    if stream.write_all(&answer).is_err() {
                        break;
                    }
                }
            }
            seen
        });
        Self { address, thread }
    }

    fn options(&self) -> Options {
        let mut options = Options::new(self.address.parse().expect("an address")).via(Choice::InBand);
        options.deadline = SOON;
        options
    }

    fn seen(self) -> Vec<String> {
        self.thread.join().expect("the server's thread")
    }
}

/// The next command's words; `None` at the end of the stream, whichever way the client left.
fn command(stream: &mut TcpStream, framer: &mut Framer, buf: &mut BytesMut) -> Option<String> {
    loop {
        if let Step::Command { consumed } = framer.poll(buf).expect("a request") {
            let words: Vec<String> = framer
                .args(buf)
                .iter()
                .filter_map(|arg| Some(String::from_utf8_lossy(arg.bytes()?).into_owned()))
                .collect();
            bytes::Buf::advance(buf, consumed);
            framer.reset();
            return Some(words.join(" "));
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(count) => buf.extend_from_slice(&piece[..count]),
        }
    }
}

fn stat(generation: u64, value: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    let mut reply = Writer::new(&mut out, false);
    reply.map(3);
    reply.field("generation").count(generation);
    reply.field("length").count(value.len() as u64);
    reply.field("crc").bulk_display(Crc::of(value));
    out.to_vec()
}

fn bulk(value: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

#[test]
fn a_lost_connection_is_made_again_and_the_question_asked_once_more() {
    let server = Server::start(vec![vec![bulk(b"one")], vec![bulk(b"two")]]);
    let mut client = Client::connect(server.options()).expect("connected");
    assert_eq!(client.get(b"k").expect("answered").as_deref(), Some(&b"one"[..]));
    assert_eq!(client.get(b"k").expect("answered").as_deref(), Some(&b"two"[..]));
    assert_eq!(client.connections(), 2);
    drop(client);
    assert_eq!(server.seen(), ["GET k", "GET k"]);
}

#[test]
fn what_may_not_happen_twice_is_not_repeated() {
    let server = Server::start(vec![vec![b":1\r\n".to_vec()], vec![b":0\r\n".to_vec()]]);
    let mut client = Client::connect(server.options()).expect("connected");
    assert_eq!(client.del(&[b"k"]).expect("answered"), 1);
    let lost = client.del(&[b"k"]).expect_err("the server hung up");
    assert!(matches!(lost, ClientError::Disconnected { .. }), "{lost}");
    assert_eq!(client.transport(), None);
    assert_eq!(client.del(&[b"k"]).expect("a new connection"), 0);
    drop(client);
    server.seen();
}

/// A server that is loading has done nothing of what it was asked: it is asked again, also what may not happen twice, and
/// after a reconnect.
#[test]
fn a_server_that_is_loading_is_asked_again() {
    let loading = || b"-LOADING 12 % done\r\n".to_vec();
    let server = Server::start(vec![
        vec![loading(), loading(), b":1\r\n".to_vec(), bulk(b"one")],
        vec![loading(), bulk(b"two"), loading(), loading(), b"+OK\r\n".to_vec(), stat(5, b"v")],
    ]);
    let mut client = Client::connect(server.options()).expect("connected");
    assert_eq!(client.del(&[b"k"]).expect("answered"), 1);
    assert_eq!(client.get(b"k").expect("answered").as_deref(), Some(&b"one"[..]));
    assert_eq!(client.get(b"k").expect("answered").as_deref(), Some(&b"two"[..]));
    assert_eq!(client.put(b"k", b"v", &PutOptions::default()).expect("put").generation, Generation(5));
    assert_eq!(client.connections(), 2);
    drop(client);
    let put = ["SET k v NX", "STAT k"];
    let seen = [&["DEL k", "DEL k", "DEL k", "GET k", "GET k", "GET k"], &put[..], &put[..]].concat();
    assert_eq!(server.seen(), seen);
}

/// Of a batch that is sent in one go some could be refused and some done: the server is asked before.
#[test]
fn a_batch_is_sent_once_the_server_has_loaded() {
    let loading = || b"-LOADING 12 % done\r\n".to_vec();
    let stored = || [b"+OK\r\n".to_vec(), stat(5, b"v")];
    let answers = [vec![loading(), loading(), b":0\r\n".to_vec()], stored().into(), stored().into(), stored().into()];
    let server = Server::start(vec![answers.concat()]);
    let mut client = Client::connect(server.options()).expect("connected");
    for items in [&[(&b"a"[..], &b"v"[..]), (b"b", b"v")][..], &[(b"c", b"v")]] {
        let outcomes = client.put_batch(items, &PutOptions::default()).expect("answered");
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    }
    drop(client);
    let sets = ["SET a v NX", "STAT a", "SET b v NX", "STAT b", "SET c v NX", "STAT c"];
    assert_eq!(server.seen(), [&["DBSIZE"; 3], &sets[..]].concat());
}

/// The deadline ends that too, and the caller is told why. Any command is for looking: it gets its answer at once.
#[test]
fn a_server_that_goes_on_loading_is_given_up_at_the_deadline() {
    let loading = b"-LOADING 12 % done\r\n".to_vec();
    let server = Server::start(vec![vec![loading; 1000]]);
    let mut options = server.options();
    options.deadline = Duration::from_millis(300);
    let mut client = Client::connect(options).expect("connected");
    assert_eq!(client.command(&[b"GET", b"k"]).expect("answered"), Reply::Error("LOADING 12 % done".into()));
    let given_up = client.get(b"k").expect_err("it loads on");
    // The last question may have been asked so late that its answer was not waited for.
    let is_late = matches!(given_up, ClientError::Timeout { .. });
    assert!(is_late || given_up.word() == Some(ErrorWord::Loading), "{given_up}");
    drop(client);
    let asked = server.seen().len();
    assert!((2..20).contains(&asked), "asked {asked} times within 300 ms");
}

#[test]
fn silence_ends_at_the_deadline_and_the_late_answer_is_nobodys() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut options = Options::new(listener.local_addr().expect("bound").to_string().parse().expect("an address"));
    (options.via, options.deadline) = (Choice::InBand, Duration::from_millis(60));
    let mut client = Client::connect(options).expect("connected");
    let (mut silent, _) = listener.accept().expect("a client");
    let started = Instant::now();
    let late = client.get(b"k").expect_err("nobody answers");
    assert!(matches!(late, ClientError::Timeout { .. }), "{late}");
    assert!(started.elapsed() >= Duration::from_millis(60) && started.elapsed() < SOON);
    // The first connection's answer comes when nobody listens; the next question goes to another one.
    let _ = silent.write_all(&bulk(b"late"));
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("again");
        let (mut framer, mut buf) = (Framer::new(Limits::default()), BytesMut::new());
        command(&mut stream, &mut framer, &mut buf).expect("asked");
        stream.write_all(&bulk(b"fresh")).expect("answered");
    });
    client.options.deadline = SOON;
    assert_eq!(client.get(b"k").expect("answered").as_deref(), Some(&b"fresh"[..]));
    peer.join().expect("the peer's thread");
}

#[test]
fn bytes_that_are_not_the_object_are_never_handed_out() {
    let wrong = || vec![stat(7, b"right"), bulk(b"wrong")];
    let server = Server::start(vec![[wrong(), wrong(), wrong()].concat()]);
    let mut client = Client::connect(server.options()).expect("connected");
    let mut buffer = [0; 16];
    let refused = client.fetch(b"k", &mut buffer).expect_err("three lies");
    assert!(matches!(refused, ClientError::Checksum { .. }), "{refused}");
    drop(client);
    assert_eq!(server.seen(), ["STAT k", "GET k"].repeat(3));
}

#[test]
fn an_object_replaced_between_question_and_answer_is_asked_for_again() {
    let server = Server::start(vec![vec![
        stat(7, b"old"),
        bulk(b"newer"),
        stat(8, b"newer"),
        bulk(b"newer"),
        b"$-1\r\n".to_vec(),
        b"$-1\r\n".to_vec(),
        stat(9, b"gone"),
        b"$-1\r\n".to_vec(),
    ]]);
    let mut client = Client::connect(server.options()).expect("connected");
    let mut buffer = [0; 16];
    let verified = client.fetch(b"k", &mut buffer).expect("answered").expect("there");
    assert_eq!((verified.bytes(), verified.generation()), (&b"newer"[..], Generation(8)));
    assert_eq!(client.fetch(b"k", &mut buffer).expect("answered"), None);
    assert_eq!(client.fetch(b"k", &mut buffer).expect("answered"), None);
    drop(client);
    server.seen();
}

#[test]
fn in_band_puts_say_what_set_can_say() {
    let server = Server::start(vec![vec![
        b"+OK\r\n".to_vec(),
        stat(5, b"v"),
        b"$-1\r\n".to_vec(),
        stat(5, b"v"),
        b"-OOM full\r\n".to_vec(),
        b"$-1\r\n".to_vec(),
    ]]);
    let mut client = Client::connect(server.options()).expect("connected");
    let options = PutOptions { ttl: Some(Duration::from_millis(1500)), ..PutOptions::default() };
    assert_eq!(client.put(b"k", b"v", &options).expect("put").generation, Generation(5));
    assert_eq!(client.put(b"k", b"v", &options).expect_err("there is one").word(), Some(ErrorWord::Exists));
    let replace = PutOptions { replace: true, ..PutOptions::default() };
    assert_eq!(client.put(b"k", b"v", &replace).expect_err("full").word(), Some(ErrorWord::Oom));
    drop(client);
    assert_eq!(server.seen(), ["SET k v NX PX 1500", "STAT k", "SET k v NX PX 1500", "STAT k", "SET k v", "STAT k"]);
}

#[test]
fn commands_of_any_kind_get_their_replies_in_order() {
    let server = Server::start(vec![vec![b"+PONG\r\n".to_vec(), b"-ERR no\r\n".to_vec(), b"*1\r\n:3\r\n".to_vec()]]);
    let mut client = Client::connect(server.options()).expect("connected");
    let replies = client.pipeline(&[&[b"PING"], &[b"NOPE"], &[b"X", b"y"]]).expect("answered");
    let three = Reply::Array(vec![Reply::Integer(3)]);
    assert_eq!(replies, [Reply::Simple("PONG".into()), Reply::Error("ERR no".into()), three]);
    drop(client);
    assert_eq!(server.seen(), ["PING", "NOPE", "X y"]);
}

/// A server elsewhere, or one that is no server of ours, is used in-band; who insists on more is told why not.
#[test]
fn the_transport_falls_back_to_what_there_is() {
    let elsewhere = || {
        let mut out = BytesMut::new();
        let mut reply = Writer::new(&mut out, false);
        reply.map(3);
        reply.field("boot-id").bulk(b"another machine");
        reply.field("unix-socket").bulk(b"/nowhere");
        reply.field("bulk-port").count(0);
        out.to_vec()
    };
    for answer in [elsewhere(), b"-ERR unknown command 'NODE'\r\n".to_vec()] {
        for (via, more) in [(Choice::Auto, None), (Choice::Shm, None), (Choice::Tcp, Some(b"-NOTRANSPORT off\r\n"))] {
            let answers = [answer.clone()].into_iter().chain(more.map(|more| more.to_vec())).collect();
            let server = Server::start(vec![answers]);
            match (via, Client::connect(server.options().via(via))) {
                (Choice::Auto, client) => assert_eq!(client.expect("connected").transport(), Some(Transport::InBand)),
                (_, refused) => assert!(matches!(refused, Err(ClientError::NoTransport { .. })), "{refused:?}"),
            }
            server.seen();
        }
    }
}

#[test]
fn nobody_at_the_address_is_told_with_the_address() {
    let address = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").to_string();
    let refused = Client::connect(Options::new(address.parse().expect("an address"))).expect_err("nobody there");
    assert!(matches!(refused, ClientError::Connect { .. }));
    assert!(refused.to_string().contains(&address), "{refused}");
}
