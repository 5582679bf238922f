//! What a victim does, over and over, until it is killed.

use super::{Role, Telling, VIOLATION};
use crate::bulk::{self, RawBulk, bulk_header, grant_of, lease_of};
use crate::campaign::Way;
use crate::campaign::bystander::{LEN_MAX, random_len, shared_key};
use crate::payload;
use crate::raw::{Raw, Value};
use crate::shm::{RawShm, sealed_memfd};
use client::{Choice, Client, ClientError, Options, PutOptions};
use protocol::base::Crc;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::fd::AsFd as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use transport::tcp::frame::{Request, Status};

const REPLACE: PutOptions<'static> = PutOptions {
    ttl: None,
    parent: None,
    soft_pin: None,
    pin: false,
    replicas: None,
    prefer: None,
    replace: true,
    durable: false,
};

struct Actor {
    role: Role,
    addr: SocketAddr,
    telling: Telling,
    rng: StdRng,
    client: Client,
    buffer: Vec<u8>,
}

fn say(line: &str) {
    let mut out = io::stdout().lock();
    // Nobody may be listening any more.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Connects and acts until the process is killed.
///
/// # Errors
/// If it cannot begin.
pub fn live(role: Role) -> anyhow::Result<()> {
    let choice = match role.way {
        Way::Shm => Choice::Shm,
        Way::Rdma => Choice::Rdma,
        Way::Tcp => Choice::Tcp,
        Way::Inband => Choice::InBand,
    };
    let mut options = Options::new(role.addr.parse()?).via(choice);
    options.buffer_len = 4 << 20;
    options.deadline = Duration::from_secs(20);
    options.lease = Duration::from_millis(role.lease_ms);
    let mut actor = Actor {
        addr: role.addr.parse()?,
        telling: Telling::open(&role)?,
        rng: StdRng::seed_from_u64(role.seed),
        client: Client::connect(options)?,
        buffer: vec![0; LEN_MAX],
        role,
    };
    say("ready");
    loop {
        actor.telling.now("between two things");
        actor.act();
    }
}

impl Actor {
    fn act(&mut self) {
        let own_socket = match self.rng.random_range(0..10) {
            0..3 if self.role.way != Way::Inband => return self.two_phases(),
            3..5 => return self.one_exchange(),
            5..8 if self.role.way != Way::Inband => return self.leases(),
            8 => return self.batch(),
            _ => match self.role.way {
                Way::Shm => self.scribble(),
                Way::Rdma => return self.one_exchange(),
                Way::Tcp if self.rng.random() => self.bulk_write(),
                Way::Tcp => self.bulk_read(),
                Way::Inband if self.rng.random() => self.slow_set(),
                Way::Inband => self.slow_get(),
            },
        };
        // Of its own connections any may be closed after a long sleep.
        if own_socket.is_err() {
            say("an end of its connection");
        }
    }

    /// A moment in which to be hit.
    fn nap(&mut self, most_ms: u64) {
        std::thread::sleep(Duration::from_micros(self.rng.random_range(0..most_ms * 1000)));
    }

    fn object(&mut self) -> (Vec<u8>, Vec<u8>) {
        let key = if self.rng.random() { shared_key(&mut self.rng) } else { self.own_key() };
        let (version, len) = (self.rng.random(), random_len(&mut self.rng));
        let value = payload::make(&key, version, len);
        (key, value)
    }

    fn own_key(&mut self) -> Vec<u8> {
        format!("victim:{}:{}", self.role.number, self.rng.random_range(0..4)).into_bytes()
    }

    fn prove(&self, key: &[u8], bytes: &[u8]) {
        match payload::check(key, bytes) {
            Ok(_) => say(&format!("proved {}", bytes.len())),
            Err(wrong) => say(&format!("{VIOLATION} wrong bytes: {wrong}")),
        }
    }

    /// What a failure says to somebody who slept too long.
    fn told(error: &ClientError) {
        match error {
            ClientError::Stale(_) => say("STALE"),
            ClientError::Wire { word, .. } if matches!(word.as_str(), "NOGRANT" | "NOLEASE" | "CRC") => say(word),
            ClientError::Wire { word, .. } if matches!(word.as_str(), "OOM" | "QUOTA" | "EXISTS" | "BUSY") => {}
            ClientError::Checksum { .. } => say(&format!("{VIOLATION} {error}")),
            ClientError::Disconnected { .. } => say("an end of its connection"),
            _ => say(&format!("{VIOLATION} unexpected: {error}")),
        }
    }

    fn two_phases(&mut self) {
        let (key, value) = self.object();
        self.telling.now("reserving");
        let mut grant = match self.client.reserve(&key, value.len() as u64, &REPLACE) {
            Ok(grant) => grant,
            Err(error) => return Self::told(&error),
        };
        // The server's deadline is no later than this.
        let span = Duration::from_millis(self.role.grant_ms);
        let mut deadline = Instant::now() + span;
        self.telling.now("writing under a grant");
        let piece = value.len().div_ceil(8).max(1);
        for (at, bytes) in value.chunks(piece).enumerate() {
            self.nap(4);
            if let Err(error) = self.client.write(&mut grant, (at * piece) as u64, bytes) {
                return Self::told(&error);
            }
        }
        if self.rng.random_ratio(1, 3) {
            self.telling.now("renewing a grant");
            if let Err(error) = self.client.renew_grant(&mut grant, span) {
                return Self::told(&error);
            }
            deadline = Instant::now() + span;
        }
        self.telling.now("about to commit");
        self.nap(20);
        if self.rng.random_ratio(1, 8) {
            let _ = self.client.abort(grant);
            return;
        }
        self.telling.now("committing");
        let began = Instant::now();
        match self.client.commit(grant, Crc::of(&value)) {
            Ok(_) if began > deadline => say(&format!("{VIOLATION} a commit {:?} late was taken", began - deadline)),
            Ok(_) => {}
            Err(error) => Self::told(&error),
        }
    }

    fn one_exchange(&mut self) {
        let (key, value) = self.object();
        self.telling.now("putting in one exchange");
        if let Err(error) = self.client.put(&key, &value, &REPLACE) {
            Self::told(&error);
        }
    }

    fn leases(&mut self) {
        self.telling.now("holding leases");
        let mut held = Vec::new();
        for _ in 0..self.rng.random_range(1..6) {
            let key = shared_key(&mut self.rng);
            let span = Duration::from_millis(self.rng.random_range(self.role.lease_ms / 4..=self.role.lease_ms));
            match self.client.lease(&key, span) {
                // The server's end is no later than this.
                Ok(Some(lease)) => held.push((key, lease, Instant::now() + span)),
                Ok(None) => {}
                Err(error) => Self::told(&error),
            }
        }
        for _ in 0..self.rng.random_range(1..4) {
            self.nap(40);
            if self.rng.random_ratio(1, 4) && !held.is_empty() {
                // Its bytes stay for the lease, and nobody finds them.
                let key = held[self.rng.random_range(0..held.len())].0.clone();
                let _ = self.client.del(&[&key]);
            }
            self.telling.now("reading under a lease");
            let mut over = Vec::new();
            for (at, (key, lease, end)) in held.iter().enumerate() {
                let began = Instant::now();
                match self.client.read(lease, &mut self.buffer) {
                    Ok(_) if began > *end => say(&format!("{VIOLATION} a read {:?} after the lease", began - *end)),
                    Ok(verified) => match payload::check(key, verified.bytes()) {
                        Ok(_) => say(&format!("proved {}", verified.len())),
                        Err(wrong) => say(&format!("{VIOLATION} wrong bytes: {wrong}")),
                    },
                    Err(error) => {
                        Self::told(&error);
                        over.push(at);
                    }
                }
            }
            for at in over.into_iter().rev() {
                held.swap_remove(at);
            }
            self.telling.now("holding leases");
        }
        // Half of them are left to their end.
        for (_, lease, _) in held {
            if self.rng.random() {
                let _ = self.client.release(lease);
            }
        }
    }

    fn batch(&mut self) {
        let keys: Vec<Vec<u8>> = (0..16).map(|n| format!("victim:{}:b{n}", self.role.number).into_bytes()).collect();
        let values: Vec<Vec<u8>> = keys.iter().map(|key| payload::make(key, self.role.seed, 32 << 10)).collect();
        let items: Vec<(&[u8], &[u8])> = keys.iter().map(Vec::as_slice).zip(values.iter().map(Vec::as_slice)).collect();
        self.telling.now("putting a batch");
        match self.client.put_batch(&items, &REPLACE) {
            Ok(outcomes) => outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).for_each(Self::told),
            Err(error) => Self::told(&error),
        }
        self.telling.now("fetching a batch");
        let names: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let mut buffers = vec![vec![0; 32 << 10]; names.len()];
        let fetched = self.client.fetch_batch(&names, buffers.iter_mut().map(Vec::as_mut_slice).collect());
        match fetched {
            Ok(outcomes) => {
                for (key, outcome) in keys.iter().zip(outcomes) {
                    match outcome {
                        Ok(Some(verified)) => self.prove(key, verified.bytes()),
                        Ok(None) => {}
                        Err(error) => Self::told(&error),
                    }
                }
            }
            Err(error) => Self::told(&error),
        }
    }

    /// A `SET` whose bytes come in pieces.
    fn slow_set(&mut self) -> io::Result<()> {
        let (key, value) = self.object();
        let mut raw = Raw::tcp(self.addr)?;
        self.telling.now("inside a SET");
        raw.send(format!("*3\r\n$3\r\nSET\r\n${}\r\n", key.len()).as_bytes())?;
        raw.send(&key)?;
        raw.send(format!("\r\n${}\r\n", value.len()).as_bytes())?;
        for piece in value.chunks(value.len().div_ceil(8)) {
            self.nap(4);
            raw.send(piece)?;
        }
        raw.send(b"\r\n")?;
        raw.recv().map(drop)
    }

    /// Several `GET`s whose replies are taken late.
    fn slow_get(&mut self) -> io::Result<()> {
        let keys: Vec<Vec<u8>> = (0..8).map(|_| shared_key(&mut self.rng)).collect();
        let mut raw = Raw::tcp(self.addr)?;
        self.telling.now("inside a GET");
        for key in &keys {
            raw.request(&[&b"GET"[..], key])?;
        }
        for key in &keys {
            self.nap(8);
            if let Value::Bulk(bytes) = raw.recv()? {
                self.prove(key, &bytes);
            }
        }
        Ok(())
    }

    /// A frame whose bytes come in pieces.
    fn bulk_write(&mut self) -> io::Result<()> {
        let (key, value) = self.object();
        let mut raw = Raw::tcp(self.addr)?;
        let (token, addr) = bulk::attach(&mut raw)?;
        let mut bulk = RawBulk::open(addr, token)?;
        let len = value.len().to_string();
        let reply = raw.try_ask(&[&b"PUT"[..], &key, b"LEN", len.as_bytes(), b"VIA", b"tcp", b"REPLACE"])?;
        if let Value::Error(_) = reply {
            return Ok(());
        }
        let deadline = Instant::now() + Duration::from_millis(self.role.grant_ms);
        let grant = grant_of(&reply);
        self.telling.now("inside a bulk write frame");
        let request = Request::Write { grant, offset: 0, length: value.len() as u64, crc: None };
        bulk.send(&bulk_header(1, request))?;
        for piece in value.chunks(value.len().div_ceil(8)) {
            self.nap(4);
            bulk.send(piece)?;
        }
        let answer = bulk.recv()?;
        if answer.status == Status::NoGrant {
            say("NOGRANT");
        }
        self.telling.now("committing");
        let began = Instant::now();
        let crc = Crc::of(&value).to_string();
        match raw.try_ask(&["COMMIT", reply.field("grant").text(), "CRC", &crc])? {
            Value::Error(line) if line.starts_with("NOGRANT") => say("NOGRANT"),
            Value::Error(line) => say(&format!("{VIOLATION} COMMIT answered {line}")),
            _ if began > deadline => say(&format!("{VIOLATION} a commit {:?} late was taken", began - deadline)),
            _ => {}
        }
        Ok(())
    }

    /// Reads whose bytes are taken late.
    fn bulk_read(&mut self) -> io::Result<()> {
        let mut raw = Raw::tcp(self.addr)?;
        let (token, addr) = bulk::attach(&mut raw)?;
        let mut bulk = RawBulk::open(addr, token)?;
        let ms = self.role.lease_ms.to_string();
        for _ in 0..4 {
            let key = shared_key(&mut self.rng);
            let lease = raw.try_ask(&[&b"LEASE"[..], &key, ms.as_bytes(), b"VIA", b"tcp"])?;
            if !lease.has("lease") {
                continue;
            }
            let end = Instant::now() + Duration::from_millis(self.role.lease_ms);
            let length = lease.field("length").number();
            self.nap(10);
            self.telling.now("reading under a lease");
            let began = Instant::now();
            bulk.send(&bulk_header(1, Request::Read { lease: lease_of(&lease), offset: 0, length }))?;
            self.nap(10);
            let answer = bulk.recv()?;
            let mut bytes = vec![0; usize::try_from(answer.length).map_err(io::Error::other)?];
            io::Read::read_exact(&mut bulk.socket, &mut bytes)?;
            match answer.status {
                Status::Done if began > end => say(&format!("{VIOLATION} a read {:?} after the lease", began - end)),
                // No checksum was looked at: the bytes themselves have to be right.
                Status::Done => self.prove(&key, &bytes),
                status => say(&status.to_string()),
            }
            self.telling.now("holding leases");
        }
        Ok(())
    }

    /// Puts from memory that is written meanwhile.
    fn scribble(&mut self) -> io::Result<()> {
        let (key, value) = self.object();
        let memory = sealed_memfd(value.len() as u64);
        rustix::io::pwrite(&memory, &value, 0)?;
        let mut session = RawShm::attach(&self.role.socket, &[memory.as_fd()])?;
        let (len, crc) = (value.len().to_string(), Crc::of(&value).to_string());
        self.telling.now("scribbling while the server copies");
        let done = AtomicBool::new(false);
        let words = [&b"PUT"[..], &key, b"LEN", len.as_bytes(), b"VIA", b"shm", b"REPLACE", b"CRC", crc.as_bytes()];
        let words = [&words[..], &[b"FROM", b"0", b"0"]].concat();
        let answer = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _ = rustix::io::pwrite(&memory, &[0xee; 64], value.len() as u64 / 2);
                    let _ = rustix::io::pwrite(&memory, &value, 0);
                }
            });
            let answers: io::Result<Vec<Value>> = (0..8).map(|_| session.raw.try_ask(&words)).collect();
            done.store(true, Ordering::Relaxed);
            answers
        })?;
        for value in answer {
            match value {
                // What was published was checked as it lay in the slot: readers will see.
                Value::Array(_) => {}
                Value::Error(line) if ["CRC", "OOM", "QUOTA"].iter().any(|word| line.starts_with(word)) => {}
                other => say(&format!("{VIOLATION} PUT from memory that changes answered {other:?}")),
            }
        }
        Ok(())
    }
}
