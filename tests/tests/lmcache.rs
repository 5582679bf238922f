//! LMCache's C++ RESP client (`lmcache_redis`, behind `resp://` and the L2 adapter `resp`), byte by byte, without Python.
//!
//! It speaks RESP2 over one blocking socket a worker, one command at a time, without a time limit, and holds every reply against the
//! exact bytes it expects: `+OK`, `:0` or `:1`, and a bulk of exactly the length of its buffer. A `GET` that misses leaves it waiting
//! for bytes that never come, since `$-1` is shorter than the header it reads. So what its `EXISTS` was told to be here must be
//! here for the `GET` that follows.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tests::{Server, payload};

/// Time that a reply may take. The client itself would wait for ever.
const PATIENCE: Duration = Duration::from_secs(60);
const CHUNK_LEN: usize = 4 * 1024 * 1024;
/// As the multi-process mode names chunks: model, rank, group, hash.
const KEY: &str = "meta-llama/Llama-3.1-8B-Instruct@00000001@0@";

/// One of the client's workers.
struct Worker(TcpStream);

impl Worker {
    fn connect(addr: SocketAddr) -> Self {
        let socket = TcpStream::connect(addr).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket takes a limit");
        Self(socket)
    }

    /// Sends a command as the client does: the words before the value in one write, then the value, then the end of its line.
    fn send(&mut self, words: &[&str], value: Option<&[u8]>) {
        let count = words.len() + usize::from(value.is_some());
        let mut head = format!("*{count}\r\n");
        for word in words {
            head.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        if let Some(value) = value {
            head.push_str(&format!("${}\r\n", value.len()));
        }
        self.0.write_all(head.as_bytes()).expect("the server reads");
        if let Some(value) = value {
            self.0.write_all(value).expect("the server reads");
            self.0.write_all(b"\r\n").expect("the server reads");
        }
    }

    /// Reads as many bytes as the reply that is expected has, and no byte more.
    fn expect(&mut self, reply: &[u8]) {
        let mut read = vec![0; reply.len()];
        self.0.read_exact(&mut read).expect("a whole reply");
        assert!(read == reply, "{:?} is not {:?}", read.escape_ascii().to_string(), reply.escape_ascii().to_string());
    }

    fn set(&mut self, key: &str, value: &[u8]) {
        self.send(&["SET", key], Some(value));
        self.expect(b"+OK\r\n");
    }

    /// A hit: the header for a buffer of this length, the bytes, the end.
    fn get(&mut self, key: &str, len: usize) -> Vec<u8> {
        self.send(&["GET", key], None);
        self.expect(format!("${len}\r\n").as_bytes());
        let mut value = vec![0; len];
        self.0.read_exact(&mut value).expect("the whole value");
        self.expect(b"\r\n");
        value
    }

    fn expect_number(&mut self, words: &[&str], number: u8) {
        self.send(words, None);
        self.expect(format!(":{number}\r\n").as_bytes());
    }
}

#[test]
fn every_reply_is_the_bytes_that_the_client_expects() {
    let server = Server::start(&[]);
    // Its default: eight workers, each with a socket of its own.
    let workers = (0..8).map(|n| {
        let mut worker = Worker::connect(server.addr());
        std::thread::spawn(move || {
            for round in 0..3 {
                let key = format!("{KEY}{n:08x}{round:08x}");
                let len = if round == 0 { CHUNK_LEN } else { 1000 * round + n };
                worker.expect_number(&["EXISTS", &key], 0);
                let value = payload::make(key.as_bytes(), 1, len);
                worker.set(&key, &value);
                worker.expect_number(&["EXISTS", &key], 1);
                assert!(worker.get(&key, len) == value, "{key} has other bytes");
                worker.set(&key, &value);
                worker.expect_number(&["DEL", &key], 1);
                worker.expect_number(&["DEL", &key], 0);
                worker.expect_number(&["EXISTS", &key], 0);
            }
        })
    });
    let workers: Vec<_> = workers.collect();
    workers.into_iter().for_each(|worker| worker.join().expect("a worker found what it expects"));
}

#[test]
fn a_password_is_sent_as_the_client_sends_it() {
    let server = Server::start(&["--requirepass", "secret"]);
    for words in [&["AUTH", "secret"][..], &["AUTH", "default", "secret"]] {
        let mut worker = Worker::connect(server.addr());
        worker.send(words, None);
        worker.expect(b"+OK\r\n");
        worker.expect_number(&["EXISTS", KEY], 0);
    }
}

#[test]
fn what_exists_said_is_here_stays_for_the_get_that_follows() {
    // The grace is as long as it can be: how long the filling takes is not what is looked at.
    let server = Server::start(&["--dram", "64 MiB", "--probe-grace-ms", "60000"]);
    let mut worker = Worker::connect(server.addr());
    let (probed, unprobed) = (format!("{KEY}probed"), format!("{KEY}unprobed"));
    let value = payload::make(probed.as_bytes(), 1, CHUNK_LEN);
    worker.set(&probed, &value);
    worker.set(&unprobed, &value);
    worker.expect_number(&["EXISTS", &probed], 1);
    // Twice what fits: all that nothing protects is evicted.
    for n in 0..32 {
        worker.set(&format!("{KEY}{n:016x}"), &value);
    }
    assert!(worker.get(&probed, CHUNK_LEN) == value, "the probed chunk has other bytes");
    worker.expect_number(&["EXISTS", &unprobed], 0);
}
