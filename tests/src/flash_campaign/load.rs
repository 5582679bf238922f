//! Clients that write, delete and read objects of all lengths and prove what they read, until they are told that the end
//! is near.
//!
//! Invariants:
//! - Before the end is announced nothing fails but for want of room, or because flash is slow; afterwards connections may
//!   break, and no wrong byte is forgiven all the same.

use super::ledger::Ledger;
use crate::payload;
use crate::raw::{Raw, Value};
use crate::server::patience;
use anyhow::{Context as _, bail, ensure};
use client::{Choice, Client, ClientError, Options, PutOptions};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// Clients at once.
const CLIENTS: usize = 4;
/// Longest value, as a power of two.
const LEN_BITS_MAX: u32 = 19;

/// What clients did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Operations answered.
    pub operations: u64,
    /// Of them, `DURABLE` writes.
    pub durable: u64,
    /// Of them, refused for want of room or patience.
    pub refused: u64,
    /// Bytes proved.
    pub proved: u64,
}

impl std::ops::AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        self.operations += other.operations;
        self.durable += other.durable;
        self.refused += other.refused;
        self.proved += other.proved;
    }
}

#[derive(Debug, Default)]
struct Shared {
    gate: RwLock<()>,
    stop: AtomicBool,
    /// The server is about to go.
    ending: AtomicBool,
    /// Whether a write that should be durable may be told that it is not.
    flash_may_fail: bool,
    /// Whether there is no flash, so that nothing can be durable.
    no_flash: bool,
    /// Writes and deletions sent.
    changes: AtomicU64,
}

/// See the module's text.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<anyhow::Result<Seen>>>,
}

impl Load {
    /// Starts it.
    ///
    /// # Errors
    /// If a client cannot connect.
    pub fn start(addr: SocketAddr, ledger: &Arc<Ledger>, seed: u64) -> anyhow::Result<Self> {
        Self::with(Shared::default(), addr, ledger, seed)
    }

    /// Starts one that is told of failures of flash, and goes on.
    ///
    /// # Errors
    /// If a client cannot connect.
    pub fn start_on_bad_flash(addr: SocketAddr, ledger: &Arc<Ledger>, seed: u64) -> anyhow::Result<Self> {
        Self::with(Shared { flash_may_fail: true, ..Shared::default() }, addr, ledger, seed)
    }

    /// Starts one of a server without flash.
    ///
    /// # Errors
    /// If a client cannot connect.
    pub fn start_without_flash(addr: SocketAddr, ledger: &Arc<Ledger>, seed: u64) -> anyhow::Result<Self> {
        Self::with(Shared { no_flash: true, ..Shared::default() }, addr, ledger, seed)
    }

    fn with(shared: Shared, addr: SocketAddr, ledger: &Arc<Ledger>, seed: u64) -> anyhow::Result<Self> {
        let shared = Arc::new(shared);
        let mut threads = Vec::new();
        for number in 0..CLIENTS {
            let mut worker = Worker {
                raw: Raw::tcp(addr)?,
                client: Client::connect(options(addr)?)?,
                rng: StdRng::seed_from_u64(seed ^ (number as u64) << 56),
                ledger: Arc::clone(ledger),
                shared: Arc::clone(&shared),
                number,
                seen: Seen::default(),
            };
            threads.push(std::thread::spawn(move || worker.work().map(|()| worker.seen)));
        }
        Ok(Self { shared, threads })
    }

    /// Lets all finish what they do, and keeps them from the next until the result is dropped.
    ///
    /// # Panics
    /// If a client panicked.
    pub fn rest(&self) -> RwLockWriteGuard<'_, ()> {
        self.shared.gate.write().expect("nobody panics at the gate")
    }

    /// Writes and deletions sent so far.
    pub fn changes(&self) -> u64 {
        self.shared.changes.load(Ordering::SeqCst)
    }

    /// The server will go at any moment.
    pub fn announce_the_end(&self) {
        self.shared.ending.store(true, Ordering::SeqCst);
    }

    /// Ends it.
    ///
    /// # Errors
    /// With what failed.
    pub fn stop(self) -> anyhow::Result<Seen> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let mut seen = Seen::default();
        for thread in self.threads {
            seen += thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(seen)
    }
}

fn options(addr: SocketAddr) -> anyhow::Result<Options> {
    let mut options = Options::new(addr.to_string().parse()?).via(Choice::Tcp);
    options.deadline = patience(Duration::from_secs(30));
    options.streams = 1;
    Ok(options)
}

struct Worker {
    raw: Raw,
    client: Client,
    rng: StdRng,
    ledger: Arc<Ledger>,
    shared: Arc<Shared>,
    number: usize,
    seen: Seen,
}

impl Worker {
    fn work(&mut self) -> anyhow::Result<()> {
        let shared = Arc::clone(&self.shared);
        while !shared.stop.load(Ordering::SeqCst) {
            let _pass = shared.gate.read().expect("nobody panics at the gate");
            match self.one() {
                Ok(()) => self.seen.operations += 1,
                Err(error) if error.downcast_ref::<Gone>().is_some() && shared.ending.load(Ordering::SeqCst) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn one(&mut self) -> anyhow::Result<()> {
        // Keys of its own, dealt out in turn.
        let number = self.rng.random_range(0..self.ledger.len() / CLIENTS) * CLIENTS + self.number;
        let key = self.ledger.key(number);
        match self.rng.random_range(0..100) {
            50..58 if !self.shared.no_flash => self.put_durably(number, &key),
            0..58 => self.set(number, &key),
            58..66 => self.delete(number, &key),
            _ => self.read(number, &key),
        }
    }

    fn value(&mut self, key: &[u8], version: u64) -> Vec<u8> {
        let bits = self.rng.random_range(5..=LEN_BITS_MAX);
        let len = self.rng.random_range(1 << (bits - 1)..=1usize << bits).max(payload::HEAD_LEN);
        payload::make(key, version, len)
    }

    fn send(&self, number: usize) -> u64 {
        self.shared.changes.fetch_add(1, Ordering::SeqCst);
        self.ledger.with(number, super::ledger::Entry::send)
    }

    fn set(&mut self, number: usize, key: &[u8]) -> anyhow::Result<()> {
        let version = self.send(number);
        let value = self.value(key, version);
        match self.ask(&[b"SET", key, &value])? {
            Value::Simple(_) => self.ledger.with(number, |entry| entry.wrote(version, false)),
            Value::Error(line) => self.refused(&line)?,
            other => bail!("SET answered {other:?}"),
        }
        Ok(())
    }

    fn put_durably(&mut self, number: usize, key: &[u8]) -> anyhow::Result<()> {
        let version = self.send(number);
        let value = self.value(key, version);
        let options = PutOptions { durable: true, replace: true, ..PutOptions::default() };
        match self.client.put(key, &value, &options) {
            Ok(_) => {
                self.seen.durable += 1;
                self.ledger.with(number, |entry| entry.wrote(version, true));
                Ok(())
            }
            Err(ClientError::Wire { word, text }) => self.refused(&format!("{word} {text}")),
            Err(error @ (ClientError::Disconnected { .. } | ClientError::Connect { .. })) => {
                bail!(Gone(error.to_string()))
            }
            Err(error) => Err(error).context("PUT … DURABLE"),
        }
    }

    fn delete(&mut self, number: usize, key: &[u8]) -> anyhow::Result<()> {
        self.send(number);
        match self.ask(&[b"DEL", key])? {
            Value::Int(_) => self.ledger.with(number, super::ledger::Entry::deleted),
            other => bail!("DEL answered {other:?}"),
        }
        Ok(())
    }

    fn read(&mut self, number: usize, key: &[u8]) -> anyhow::Result<()> {
        match self.ask(&[b"GET", key])? {
            Value::Nil => {}
            Value::Bulk(bytes) => {
                let version = payload::check(key, &bytes).map_err(|wrong| anyhow::anyhow!("WRONG BYTES: {wrong}"))?;
                let fresh = self.ledger.with(number, |entry| entry.check(version, None))?;
                let name = String::from_utf8_lossy(key);
                ensure!(
                    fresh,
                    "{name}: version {version} was replaced or deleted: {:?}",
                    self.ledger.with(number, |e| e.clone())
                );
                self.seen.proved += bytes.len() as u64;
            }
            Value::Error(line) => self.refused(&line)?,
            other => bail!("GET answered {other:?}"),
        }
        Ok(())
    }

    fn ask(&mut self, words: &[&[u8]]) -> anyhow::Result<Value> {
        self.raw.try_ask(words).map_err(|error| Gone(error.to_string()).into())
    }

    /// A refusal that may be.
    fn refused(&mut self, line: &str) -> anyhow::Result<()> {
        let word = line.split(' ').next().unwrap_or_default();
        if self.shared.ending.load(Ordering::SeqCst) {
            return Ok(());
        }
        let of_flash = line.contains("not durable") && self.shared.flash_may_fail;
        ensure!(of_flash || matches!(word, "OOM" | "QUOTA" | "BUSY" | "TRYAGAIN"), "refused: {line}");
        self.seen.refused += 1;
        Ok(())
    }
}

/// The connection broke.
#[derive(Debug)]
struct Gone(String);

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the connection broke: {}", self.0)
    }
}

impl std::error::Error for Gone {}
