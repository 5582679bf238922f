//! Clients that nothing happens to, and that prove every byte they read.
//!
//! Invariants:
//! - A refusal for want of room is fair while victims hold some; anything else that fails is reported.
//! - At rest they hold no lease and no grant.

use super::Way;
use crate::bulk::{self, RawBulk, lease_of};
use crate::payload;
use crate::raw::{Raw, Value};
use crate::server::Server;
use crate::shm::RawShm;
use anyhow::{Context as _, bail};
use client::{Choice, Client, ClientError, Options, PutOptions};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Keys that bystanders, and victims too, read and write.
const KEYS: u32 = 800;
/// Longest of their values.
pub const LEN_MAX: usize = 1 << 20;
/// Pause after each operation: the victims need the machine too.
const PAUSE: Duration = Duration::from_millis(1);
/// Leases of readers that check nothing but the payload.
const LEASE: Duration = Duration::from_secs(5);

/// A key that everybody uses.
pub fn shared_key(rng: &mut StdRng) -> Vec<u8> {
    format!("shared:{}", rng.random_range(0..KEYS)).into_bytes()
}

/// A length of any magnitude.
pub fn random_len(rng: &mut StdRng) -> usize {
    let bits = rng.random_range(5..=20);
    rng.random_range(1 << (bits - 1)..=1usize << bits).max(payload::HEAD_LEN)
}

/// What bystanders did.
#[derive(Debug, Default)]
pub struct Seen {
    /// Operations.
    pub operations: u64,
    /// Of them refused for want of room.
    pub refused: u64,
    /// Bytes proved.
    pub proved: u64,
}

#[derive(Debug, Default)]
struct Shared {
    gate: RwLock<()>,
    stop: AtomicBool,
    operations: AtomicU64,
    refused: AtomicU64,
    proved: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Bystanders {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

type Reader = Box<dyn FnMut(&mut StdRng, &Shared) -> anyhow::Result<()> + Send>;

impl Bystanders {
    /// Starts them.
    ///
    /// # Errors
    /// If one cannot connect.
    pub fn start(server: &Server, way: Way, seed: u64) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let choice = match way {
            Way::Shm => Choice::Shm,
            Way::Rdma => Choice::Rdma,
            Way::Tcp => Choice::Tcp,
            Way::Inband => Choice::InBand,
        };
        let checked = |choice| -> anyhow::Result<Reader> {
            let mut options = Options::new(server.addr().to_string().parse()?).via(choice);
            options.buffer_len = 4 << 20;
            options.deadline = Duration::from_secs(10);
            let mut client = Client::connect(options)?;
            let mut buffer = vec![0; LEN_MAX];
            Ok(Box::new(move |rng, shared| by_library(&mut client, &mut buffer, rng, shared)))
        };
        let readers =
            [checked(choice)?, checked(Choice::InBand)?, unchecked(server, Way::Inband)?, unchecked(server, way)?];
        let threads = readers
            .into_iter()
            .zip(1..)
            .map(|(mut reader, number)| {
                let shared = Arc::clone(&shared);
                let mut rng = StdRng::seed_from_u64(seed ^ (number << 56));
                std::thread::spawn(move || {
                    while !shared.stop.load(Ordering::Relaxed) {
                        {
                            let _pass = shared.gate.read().expect("nobody panics at the gate");
                            if let Err(error) = reader(&mut rng, &shared) {
                                shared.failures().push(format!("bystander {number}: {error:#}"));
                                return;
                            }
                            shared.operations.fetch_add(1, Ordering::Relaxed);
                        }
                        std::thread::sleep(PAUSE);
                    }
                })
            })
            .collect();
        Ok(Self { shared, threads })
    }

    /// Lets them finish what they do, and keeps them from the next until the result is dropped.
    ///
    /// # Errors
    /// With what failed since they started.
    pub fn rest(&self) -> anyhow::Result<RwLockWriteGuard<'_, ()>> {
        let rest = self.shared.gate.write().expect("nobody panics at the gate");
        self.shared.check()?;
        Ok(rest)
    }

    /// Ends them.
    ///
    /// # Errors
    /// With what failed.
    pub fn stop(self) -> anyhow::Result<Seen> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            if thread.join().is_err() {
                bail!("a bystander panicked");
            }
        }
        self.shared.check()?;
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Shared { operations, refused, proved, .. } = &*self.shared;
        Ok(Seen { operations: of(operations), refused: of(refused), proved: of(proved) })
    }
}

impl Shared {
    fn failures(&self) -> MutexGuard<'_, Vec<String>> {
        self.failures.lock().expect("nobody panics with the list")
    }

    fn check(&self) -> anyhow::Result<()> {
        let failures = self.failures();
        if failures.is_empty() { Ok(()) } else { bail!(failures.join("\n")) }
    }

    fn prove(&self, key: &[u8], bytes: &[u8]) -> anyhow::Result<()> {
        self.proved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        payload::check(key, bytes).map(drop).map_err(|wrong| anyhow::anyhow!("WRONG BYTES: {wrong}"))
    }

    /// A refusal that may be.
    fn refusal(&self, word: &str) -> bool {
        let fair = matches!(word, "OOM" | "QUOTA" | "EXISTS" | "BUSY");
        self.refused.fetch_add(u64::from(fair), Ordering::Relaxed);
        fair
    }
}

fn by_library(client: &mut Client, buffer: &mut [u8], rng: &mut StdRng, shared: &Shared) -> anyhow::Result<()> {
    let key = shared_key(rng);
    let outcome = match rng.random_range(0..100) {
        0..50 => {
            let value = payload::make(&key, rng.random(), random_len(rng));
            client.put(&key, &value, &PutOptions { replace: true, ..PutOptions::default() }).map(drop)
        }
        50..97 => match client.fetch(&key, buffer) {
            Ok(Some(verified)) => return shared.prove(&key, verified.bytes()).and_then(|()| Ok(client.settle()?)),
            other => other.map(drop),
        },
        _ => client.del(&[&key]).map(drop),
    };
    client.settle()?;
    match outcome {
        Ok(()) => Ok(()),
        Err(ClientError::Wire { word, .. }) if shared.refusal(&word) => Ok(()),
        // Replaced again and again while it was read; nothing was handed out.
        Err(ClientError::Stale(_)) => Ok(()),
        Err(error) => Err(error).context("the client library"),
    }
}

/// A reader that knows the payload and no checksum.
fn unchecked(server: &Server, way: Way) -> anyhow::Result<Reader> {
    Ok(match way {
        // What is pushed by RDMA is checked by its device's owner alone: the library.
        Way::Inband | Way::Rdma => {
            let mut raw = Raw::to(server);
            Box::new(move |rng, shared| {
                let key = shared_key(rng);
                match raw.try_ask(&[&b"GET"[..], &key])? {
                    Value::Nil => Ok(()),
                    Value::Bulk(bytes) => shared.prove(&key, &bytes),
                    other => bail!("GET answered {other:?}"),
                }
            })
        }
        Way::Shm => {
            let mut session = RawShm::attach(&server.socket(), &[])?;
            Box::new(move |rng, shared| {
                let key = shared_key(rng);
                let asked = Instant::now();
                let Some(lease) = leased(&mut session.raw, &key, shared)? else { return Ok(()) };
                let bytes = session.read(&lease)?;
                if asked.elapsed() < LEASE {
                    shared.prove(&key, &bytes)?;
                }
                session.raw.try_ask(&["RELEASE", lease.field("lease").text()])?;
                Ok(())
            })
        }
        Way::Tcp => {
            let mut raw = Raw::to(server);
            let (token, addr) = bulk::attach(&mut raw)?;
            let mut bulk = RawBulk::open(addr, token)?;
            Box::new(move |rng, shared| {
                let key = shared_key(rng);
                let Some(lease) = leased(&mut raw, &key, shared)? else { return Ok(()) };
                let (answer, bytes) = bulk.read(lease_of(&lease), 0, lease.field("length").number())?;
                if answer.status != transport::tcp::frame::Status::Done {
                    bail!("a read under lease answered {answer:?}");
                }
                shared.prove(&key, &bytes)?;
                raw.try_ask(&["RELEASE", lease.field("lease").text()])?;
                Ok(())
            })
        }
    })
}

fn leased(raw: &mut Raw, key: &[u8], shared: &Shared) -> anyhow::Result<Option<Value>> {
    let ms = LEASE.as_millis().to_string();
    match raw.try_ask(&[&b"LEASE"[..], key, ms.as_bytes()])? {
        Value::Nil => Ok(None),
        Value::Error(line) if shared.refusal(line.split(' ').next().unwrap_or_default()) => Ok(None),
        Value::Error(line) => bail!("LEASE answered {line}"),
        lease => Ok(Some(lease)),
    }
}
