//! Bare shared memory: the server says where, the CPU copies.
//!
//! A get is one exchange and a copy out by the client. A set is one exchange too: the server copies from the client's
//! ring into its pool, as a server does that lets nobody write its memory. Neither computes a checksum.

use super::control::{CELL_BYTES, Control, End, channel};
use super::process::{CLIENTS_MAX, Job as AnyJob, Other};
use super::{POOL_BYTES, scatter};
use crate::keys::key;
use crate::memory::{CopyBy, Shared, create};
use crate::number::index;
use crate::payload::Payload;
use crate::ring::{RING_BYTES, Ring};
use crate::turn::{Cell, Op, Tally, Turn, measure};
use anyhow::{Result, ensure};
use rustix::fd::{AsFd, OwnedFd};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What the server of the pair needs to know.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    control: Control,
    copy_by: CopyBy,
    clients: usize,
    step: usize,
}

const ASK: u64 = 0;
const GET: u64 = 1;
const SET: u64 = 2;

/// Shared memory and channels to a bare server.
pub(crate) struct ShmPair {
    other: Other,
    size: usize,
    places: Places,
    copy_by: CopyBy,
    pool: Shared,
    clients: Vec<Mutex<Client>>,
}

struct Client {
    end: End,
    ring: Ring,
    next: u64,
}

/// Where values lie: slot `n` of the pool holds the payload of key `n % ring_slots`, and so does slot `n` of the ring.
#[derive(Clone, Copy)]
struct Places {
    step: usize,
    pool_slots: usize,
    ring_slots: usize,
}

impl Places {
    fn new(size: usize) -> Self {
        let step = size.next_multiple_of(4096);
        let ring_slots = (RING_BYTES / step).max(2);
        Self { step, ring_slots, pool_slots: (POOL_BYTES / step).max(ring_slots) / ring_slots * ring_slots }
    }

    fn pool_slot(&self, n: u64) -> usize {
        index(scatter(n)) % self.pool_slots
    }

    fn key(&self, size: usize, slot: usize) -> Vec<u8> {
        key("bare", size, slot % self.ring_slots)
    }
}

impl ShmPair {
    /// Starts a server of values of `size` bytes.
    pub(crate) fn start(control: Control, copy_by: CopyBy, size: usize, clients: usize) -> Result<Self> {
        ensure!((1..=CLIENTS_MAX).contains(&clients), "1 to {CLIENTS_MAX} clients");
        let places = Places::new(size);
        let pool_fd = create("bare-pool", places.pool_slots * places.step)?;
        let ring_fd = create("bare-ring", places.ring_slots * places.step)?;
        let cells_fd = create("bare-cells", clients * CELL_BYTES)?;
        let (pool, ring) = (Shared::map(&pool_fd)?, Shared::map(&ring_fd)?);
        let mut value = vec![0; size];
        for slot in 0..places.pool_slots {
            Payload::of(&places.key(size, slot)).fill(&mut value);
            pool.write(slot * places.step, &value, CopyBy::Memcpy);
            if slot < places.ring_slots {
                ring.write(slot * places.step, &value, CopyBy::Memcpy);
            }
        }
        let cells = Arc::new(Shared::map(&cells_fd)?);
        let mut ends = Vec::new();
        let mut theirs = Vec::new();
        for n in 0..clients {
            let (end, fds) = channel(control, &cells, n)?;
            ends.push(Mutex::new(Client { end, ring: Ring::new(size, RING_BYTES / clients)?, next: n as u64 * 7919 }));
            theirs.extend(fds);
        }
        let mut fds = vec![pool_fd.as_fd(), ring_fd.as_fd(), cells_fd.as_fd()];
        fds.extend(theirs.iter().map(AsFd::as_fd));
        let job = Job { control, copy_by, clients, step: places.step };
        let other = Other::start(&AnyJob::Shm(job), &fds)?;
        Ok(Self { other, size, places, copy_by, pool, clients: ends })
    }

    /// Runs one cell; `pipeline` values a request.
    pub(crate) fn run(&self, cell: &Cell) -> Result<Turn> {
        assert_eq!((cell.size, cell.clients), (self.size, self.clients.len()), "the pair was made for the cell");
        self.turns(cell, |client, tally| match cell.op {
            Op::Get => self.get(client, cell, tally),
            Op::Set => {
                let first = client.next;
                client.next += cell.pipeline as u64;
                client.end.ask([SET, first, cell.pipeline as u64, cell.size as u64, 0, 0, 0, 0])?;
                Ok(())
            }
        })
    }

    /// Exchanges 64 bytes and nothing else: `ops` are round trips.
    pub(crate) fn exchange(&self, cell: &Cell) -> Result<Turn> {
        let turn = self.turns(cell, |client, _| client.end.ask([ASK; 8]).map(|_| ()))?;
        Ok(Turn { bytes: 0, ..turn })
    }

    fn get(&self, client: &mut Client, cell: &Cell, tally: &mut Tally) -> Result<()> {
        let first = client.next;
        client.next += cell.pipeline as u64;
        let answer = client.end.ask([GET, first, cell.pipeline as u64, cell.size as u64, 0, 0, 0, 0])?;
        for n in answer[1]..answer[1] + answer[2] {
            let pool_slot = self.places.pool_slot(n);
            let slot = &mut client.ring.slot(index(n))[..cell.size];
            self.pool.read(pool_slot * self.places.step, slot, self.copy_by);
            if Payload::of(&self.places.key(cell.size, pool_slot)).check(slot, cell.verify).is_err() {
                tally.wrong += 1;
            }
        }
        Ok(())
    }

    fn turns(&self, cell: &Cell, one: impl Fn(&mut Client, &mut Tally) -> Result<()> + Sync) -> Result<Turn> {
        let prepare = |index: usize| Ok(self.clients[index].lock().expect("not poisoned"));
        let work = |client: &mut std::sync::MutexGuard<'_, Client>, began: Instant| -> Result<Tally> {
            let mut tally = Tally::new();
            let end = began + Duration::from_secs_f64(cell.seconds);
            let mut sent = Instant::now();
            while sent < end {
                one(client, &mut tally)?;
                let answered = Instant::now();
                tally.latency.record(answered - sent);
                tally.ops += cell.pipeline as u64;
                sent = answered;
            }
            tally.end = sent;
            Ok(tally)
        };
        measure(cell, cell.clients, &[self.other.pid()], prepare, work)
    }
}

/// The server: one thread a channel.
pub(crate) fn serve(job: Job, fds: Vec<OwnedFd>) -> Result<()> {
    ensure!(fds.len() >= 3, "three memfds and the channels");
    let (pool, ring) = (Arc::new(Shared::map(&fds[0])?), Arc::new(Shared::map(&fds[1])?));
    let cells = Arc::new(Shared::map(&fds[2])?);
    let mut rest = fds.into_iter().skip(3);
    for n in 0..job.clients {
        let end = End::server(job.control, &cells, n, &mut rest)?;
        let (pool, ring) = (Arc::clone(&pool), Arc::clone(&ring));
        std::thread::spawn(move || {
            // An error is the end of the channel: the client is gone.
            let _ = answer_all(job, end, &pool, &ring);
        });
    }
    Ok(())
}

fn answer_all(job: Job, mut end: End, pool: &Shared, ring: &Shared) -> Result<()> {
    loop {
        let request = end.hear()?;
        if request[0] == SET {
            let len = index(request[3]);
            let places = Places::new(len);
            ensure!(places.step == job.step, "values of the size the pair was made for");
            for n in request[1]..request[1] + request[2] {
                let slot = places.pool_slot(n);
                let from = slot % places.ring_slots * places.step;
                pool.write_from(slot * places.step, ring, from, len, job.copy_by);
            }
        }
        end.tell(request)?;
    }
}
