//! Small values in-band: many connections and pipelines from few threads.
//!
//! Role: asks and checks at a rate that leaves the server the bottleneck: requests are encoded once before the clock
//! starts, so that a pipeline is one slice and one write; answers are compared where they arrived.
//!
//! Invariants:
//! - One pipeline of a connection is in flight at a time; its latency runs from the write to the last byte.
//! - A connection is only read while answers are due.

use crate::endpoint::Endpoint;
use crate::keys::key;
use crate::payload::Payload;
use crate::ring::RING_BYTES;
use crate::turn::{Cell, Op, Tally, Turn, measure};
use crate::verdict::is_right;
use crate::wire::{push_bulk, push_command, push_line, read_some};
use anyhow::{Context, Result, bail};
use rustix::event::epoll;
use socket2::Socket;
use std::io::{self, IoSliceMut, Read, Write};
use std::time::{Duration, Instant};

/// All requests of a cell in one buffer, and how an answer begins.
struct Script {
    cell: Cell,
    keys: Vec<Vec<u8>>,
    /// The requests of all keys, then those of the first `pipeline` again, so that no pipeline wraps.
    requests: Vec<u8>,
    /// Where the request of each key begins, and the end.
    starts: Vec<usize>,
    /// First bytes of a good answer.
    head: Vec<u8>,
    /// Bytes of a good answer.
    answer_len: usize,
}

impl Script {
    fn new(prefix: &str, cell: &Cell) -> Self {
        let in_ring = RING_BYTES / (cell.size + 64);
        let keys = if cell.op == Op::Set { cell.keys.min(in_ring) } else { cell.keys };
        let keys: Vec<_> = (0..keys).map(|n| key(prefix, cell.size, n)).collect();
        let mut requests = Vec::new();
        let mut starts = vec![0];
        let mut value = vec![0; cell.size];
        for key in keys.iter().cycle().take(keys.len() + cell.pipeline) {
            match cell.op {
                Op::Get => push_command(&mut requests, &[b"GET", key]),
                Op::Set => {
                    Payload::of(key).fill(&mut value);
                    push_command(&mut requests, &[b"SET", key, &value]);
                }
            }
            starts.push(requests.len());
        }
        let mut head = Vec::new();
        let answer_len = match cell.op {
            Op::Get => {
                push_line(&mut head, b'$', cell.size);
                head.len() + cell.size + 2
            }
            Op::Set => {
                head.extend_from_slice(b"+OK\r\n");
                head.len()
            }
        };
        Self { cell: *cell, keys, requests, starts, head, answer_len }
    }
}

struct Connection<'a> {
    script: &'a Script,
    socket: Socket,
    /// Key number of the next pipeline.
    next: usize,
    /// Key number of the next answer.
    due: usize,
    answers_left: usize,
    unsent: std::ops::Range<usize>,
    buffer: Vec<u8>,
    /// What of the buffer was received and not yet looked at.
    unread: std::ops::Range<usize>,
    sent_at: Instant,
}

impl<'a> Connection<'a> {
    fn new(script: &'a Script, socket: Socket, first: usize) -> Self {
        let buffer = vec![0; (script.cell.pipeline * script.answer_len).clamp(16 << 10, 256 << 10)];
        let sent_at = Instant::now();
        Self { script, socket, next: first, due: 0, answers_left: 0, unsent: 0..0, buffer, unread: 0..0, sent_at }
    }

    fn begin(&mut self) {
        let script = self.script;
        self.due = self.next;
        self.unsent = script.starts[self.next]..script.starts[self.next + script.cell.pipeline];
        self.next = (self.next + script.cell.pipeline) % script.keys.len();
        self.answers_left = script.cell.pipeline;
        self.sent_at = Instant::now();
    }

    /// Sends what the socket takes.
    fn push(&mut self) -> Result<()> {
        while !self.unsent.is_empty() {
            match self.socket.write(&self.script.requests[self.unsent.clone()]) {
                Ok(n) => self.unsent.start += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("send a pipeline"),
            }
        }
        Ok(())
    }

    /// Reads until all answers are there (`true`) or the socket is empty.
    fn pull(&mut self, tally: &mut Tally) -> Result<bool> {
        loop {
            self.consume(tally)?;
            if self.answers_left == 0 {
                return Ok(true);
            }
            self.make_room();
            match self.socket.read(&mut self.buffer[self.unread.end..]) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(n) => self.unread.end += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error).context("read answers"),
            }
        }
    }

    fn make_room(&mut self) {
        if self.unread.is_empty() {
            self.unread = 0..0;
        } else if self.unread.start > 0 && self.unread.start + self.script.answer_len > self.buffer.len() {
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
    }

    /// Looks at the answers that are there in whole.
    fn consume(&mut self, tally: &mut Tally) -> Result<()> {
        let script = self.script;
        while self.answers_left > 0 {
            let have = &self.buffer[self.unread.clone()];
            let seen = have.len().min(script.head.len());
            if have[..seen] != script.head[..seen] {
                let Some(line_len) = have.windows(2).position(|pair| pair == b"\r\n") else { return Ok(()) };
                match &have[..line_len] {
                    b"$-1" | b"_" => tally.misses += 1,
                    other => bail!("answered {:?}", String::from_utf8_lossy(other)),
                }
                self.unread.start += line_len + 2;
            } else if have.len() < script.answer_len {
                return Ok(());
            } else {
                let body = &have[script.head.len()..script.answer_len];
                if let Some(value) = body.strip_suffix(b"\r\n") {
                    let key = &script.keys[self.due % script.keys.len()];
                    let right = is_right(key, value, script.cell.size, script.cell.verify);
                    tally.wrong += u64::from(!right);
                } else if !body.is_empty() {
                    bail!("a body of {} bytes does not end where it should", script.cell.size);
                }
                self.unread.start += script.answer_len;
            }
            self.due += 1;
            self.answers_left -= 1;
        }
        Ok(())
    }

    fn done(&mut self, tally: &mut Tally) -> Instant {
        let now = Instant::now();
        tally.latency.record(now - self.sent_at);
        tally.ops += self.script.cell.pipeline as u64;
        now
    }
}

/// Runs one cell against a server whose keys were filled in before, from `threads` threads.
pub(crate) fn run(endpoint: &Endpoint, prefix: &str, cell: &Cell, threads: usize, pids: &[u32]) -> Result<Turn> {
    let script = Script::new(prefix, cell);
    let threads = threads.min(cell.clients).max(1);
    let prepare = |index: usize| -> Result<Vec<Connection<'_>>> {
        (index..cell.clients)
            .step_by(threads)
            .map(|n| Ok(Connection::new(&script, endpoint.connect()?, n * script.keys.len() / cell.clients)))
            .collect()
    };
    let work = |connections: &mut Vec<Connection<'_>>, began: Instant| -> Result<Tally> {
        let end = began + Duration::from_secs_f64(cell.seconds);
        match &mut connections[..] {
            [one] => alone(one, end),
            many => together(many, end),
        }
    };
    measure(cell, threads, pids, prepare, work)
}

/// One connection needs nobody to say which is ready.
fn alone(connection: &mut Connection<'_>, end: Instant) -> Result<Tally> {
    let mut tally = Tally::new();
    loop {
        connection.begin();
        if connection.sent_at >= end {
            tally.end = connection.sent_at;
            return Ok(tally);
        }
        connection.push()?;
        if !connection.unsent.is_empty() || !connection.pull(&mut tally)? {
            bail!("no answer in time");
        }
        connection.done(&mut tally);
    }
}

fn together(connections: &mut [Connection<'_>], end: Instant) -> Result<Tally> {
    let mut tally = Tally::new();
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let both = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
    for (n, connection) in connections.iter_mut().enumerate() {
        connection.socket.set_nonblocking(true)?;
        epoll::add(&poll, &connection.socket, epoll::EventData::new_u64(n as u64), both)?;
        connection.begin();
        connection.push()?;
    }
    let mut working = connections.len();
    let mut events = Vec::with_capacity(64);
    let patience = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
    while working > 0 {
        events.clear();
        if epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&patience))? == 0 {
            bail!("no answer in time");
        }
        for event in &events {
            let connection = &mut connections[crate::number::index(event.data.u64())];
            if connection.answers_left == 0 {
                continue;
            }
            connection.push()?;
            while connection.pull(&mut tally)? {
                tally.end = connection.done(&mut tally);
                if tally.end >= end {
                    working -= 1;
                    break;
                }
                connection.begin();
                connection.push()?;
            }
        }
    }
    Ok(tally)
}

/// Writes all keys of a cell, once, in pipelines.
pub(crate) fn fill(endpoint: &Endpoint, prefix: &str, size: usize, keys: usize) -> Result<()> {
    const PIPELINE: usize = 64;
    let mut socket = endpoint.connect()?;
    let (mut requests, mut value) = (Vec::new(), vec![0; size]);
    for first in (0..keys).step_by(PIPELINE) {
        let some = first..keys.min(first + PIPELINE);
        requests.clear();
        for n in some.clone() {
            let key = key(prefix, size, n);
            Payload::of(&key).fill(&mut value);
            push_line(&mut requests, b'*', 3);
            for word in [b"SET", &key[..], &value] {
                push_bulk(&mut requests, word);
            }
        }
        socket.write_all(&requests).context("fill")?;
        let mut answers = vec![0; some.len() * 5];
        let mut at = 0;
        while at < answers.len() {
            at += read_some(&socket, &mut [IoSliceMut::new(&mut answers[at..])])?;
            if answers[..at].contains(&b'-') {
                bail!("fill: answered {}", String::from_utf8_lossy(&answers[..at]));
            }
        }
    }
    Ok(())
}
