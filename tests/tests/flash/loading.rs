//! Clients of a node that is still recovering: they wait, by whichever way their bytes travel, and then find what is there.

use super::{LENS, bytes, key, server, shut_down};
use client::{Choice, Client, Options, PutOptions};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;
use tests::server::{Mark, until};
use tests::{Raw, Server};

/// Time that anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Holds a node's recovery where it reads the number of the last boot that served: a pipe is there instead, which says
/// nothing until [`go_on`](Self::go_on).
struct Hold {
    path: PathBuf,
    says: Vec<u8>,
}

impl Hold {
    /// For a server that has ended.
    fn on(server: &Server) -> Self {
        let path = server.dir().join("data/served-epoch");
        let says = fs::read(&path).expect("it has served");
        fs::remove_file(&path).expect("it has ended");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
        Self { path, says }
    }

    fn go_on(self) {
        let mut pipe = None;
        until("the node reads its last boot's number", PATIENCE, || {
            // There is no opening it without waiting before somebody reads.
            let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("a flag of open(2)");
            pipe = OpenOptions::new().write(true).custom_flags(nonblock).open(&self.path).ok();
            pipe.is_some()
        });
        pipe.expect("just opened").write_all(&self.says).expect("room in a pipe");
    }
}

/// The same node again, listening and loading.
fn again(server: Server) -> Server {
    let (dir, args) = (server.shared_dir(), server.args().to_vec());
    drop(server);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Server::try_start(dir, &args, Mark::Listening).expect("it listens")
}

/// How often the node has answered `LOADING`.
fn refused(raw: &mut Raw) -> u64 {
    let info = raw.ask(&["INFO", "errorstats"]);
    let found = info.text().lines().find_map(|line| line.strip_prefix("errorstat_LOADING:count="));
    found.map_or(0, |count| count.trim().parse().expect("a number"))
}

/// By the Unix socket: it stays where it is over a restart.
fn options(server: &Server, via: Choice) -> Options {
    let address = server.socket().display().to_string().parse().expect("an address");
    Options { deadline: PATIENCE, ..Options::new(address).via(via) }
}

/// Reads what was there before, writes more in one batch, and reads that.
fn work(client: &mut Client, via: Choice) {
    let mut buffer = vec![0; 4 << 20];
    for number in 0..LENS.len() {
        let verified = client.fetch(key(number).as_bytes(), &mut buffer).expect("answered").expect("it is there");
        assert!(verified.bytes() == bytes(number, 1), "{via:?}: {}", key(number));
    }
    let keys: Vec<String> = (0..20).map(|number| format!("{via:?}:{number}")).collect();
    let items: Vec<_> = keys.iter().map(|key| (key.as_bytes(), key.as_bytes())).collect();
    for outcome in client.put_batch(&items, &PutOptions::default()).expect("answered") {
        outcome.expect("put");
    }
    let names: Vec<&[u8]> = items.iter().map(|item| item.0).collect();
    let buffers = buffer.chunks_exact_mut(100).take(names.len()).collect();
    for (outcome, key) in client.fetch_batch(&names, buffers).expect("answered").into_iter().zip(&keys) {
        assert_eq!(outcome.expect("fetched").expect("it is there").bytes(), key.as_bytes());
    }
}

/// A batch comes first for some: none of its commands may be refused while others are done.
fn batch_first(client: &mut Client, via: Choice) {
    let keys: Vec<String> = (0..200).map(|number| format!("first:{via:?}:{number}")).collect();
    let items: Vec<_> = keys.iter().map(|key| (key.as_bytes(), key.as_bytes())).collect();
    for outcome in client.put_batch(&items, &PutOptions::default()).expect("answered") {
        outcome.expect("put");
    }
}

/// Whoever comes while a node recovers is served once it has, and never told that something is not there.
#[test]
fn clients_wait_for_a_node_that_is_loading() {
    let mut server = server("256 MiB", &[]);
    let mut raw = Raw::to(&server);
    for number in 0..LENS.len() {
        raw.set(key(number), bytes(number, 1));
    }
    shut_down(&mut server, &[]);
    let hold = Hold::on(&server);
    let server = again(server);
    let clients: Vec<_> = [Choice::Shm, Choice::Tcp, Choice::InBand]
        .into_iter()
        .flat_map(|via| [(via, work as fn(&mut Client, Choice)), (via, batch_first)])
        .map(|(via, act)| {
            let options = options(&server, via);
            std::thread::spawn(move || act(&mut Client::connect(options).expect("connected"), via))
        })
        .collect();
    let mut raw = Raw::to(&server);
    until("clients have been told to wait", PATIENCE, || refused(&mut raw) >= 4 * clients.len() as u64);
    assert!(raw.ask(&["GET", &key(0)]).is_error("LOADING"));
    hold.go_on();
    for client in clients {
        client.join().expect("served");
    }
}

/// A client whose node was restarted under it reconnects, waits, and goes on.
#[test]
fn clients_wait_for_a_node_that_was_restarted_under_them() {
    let mut server = server("256 MiB", &[]);
    let durable = PutOptions { durable: true, ..PutOptions::default() };
    let mut clients: Vec<_> = [Choice::Shm, Choice::Tcp, Choice::InBand]
        .into_iter()
        .map(|via| (via, Client::connect(options(&server, via)).expect("connected")))
        .collect();
    for number in 0..LENS.len() {
        clients[0].1.put(key(number).as_bytes(), &bytes(number, 1), &durable).expect("put");
    }
    for (via, client) in &mut clients {
        assert!(client.get(key(1).as_bytes()).expect("answered").is_some(), "{via:?}");
    }
    server.kill();
    let hold = Hold::on(&server);
    let server = again(server);
    let mut raw = Raw::to(&server);
    let clients: Vec<_> = clients
        .into_iter()
        .map(|(via, mut client)| {
            std::thread::spawn(move || {
                work(&mut client, via);
                assert_eq!(client.connections(), 2, "{via:?}");
            })
        })
        .collect();
    until("clients have been told to wait", PATIENCE, || refused(&mut raw) >= 4 * clients.len() as u64);
    hold.go_on();
    for client in clients {
        client.join().expect("served");
    }
}
