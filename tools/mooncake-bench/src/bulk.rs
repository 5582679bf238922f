//! Large values in-band: one thread and one blocking connection a client.
//!
//! Role: `GET` into, and `SET` out of, a ring of buffers larger than the caches. Values of a `SET` are made before the
//! clock starts: a slot of the ring holds the bytes of one key and is sent for that key only.

use crate::endpoint::Endpoint;
use crate::keys::{key, write_key};
use crate::payload::Payload;
use crate::ring::{RING_BYTES, Ring};
use crate::turn::{Cell, Op, Tally, Turn, measure};
use crate::verdict::is_right;
use crate::wire::{Body, Wire};
use anyhow::Result;
use std::time::{Duration, Instant};

struct Client {
    wire: Wire,
    ring: Ring,
    keys: Vec<Vec<u8>>,
    next: usize,
}

/// Runs one cell against a server whose keys were filled in before.
pub(crate) fn run(endpoint: &Endpoint, prefix: &str, cell: &Cell, pids: &[u32]) -> Result<Turn> {
    let prepare = |index: usize| -> Result<Client> {
        let wire = Wire::new(endpoint.connect()?);
        let mut ring = Ring::new(cell.size, RING_BYTES / cell.clients)?;
        let share = cell.keys / cell.clients;
        let (first, keys) = match cell.op {
            // Readers begin at different places and read all keys.
            Op::Get => (index * share, cell.keys),
            // Writers have keys of their own, as many as the ring has slots.
            Op::Set => (index * share, ring.slots().min(share.max(1))),
        };
        let keys: Vec<_> = (0..keys).map(|n| key(prefix, cell.size, (first + n) % cell.keys)).collect();
        if cell.op == Op::Set {
            for (n, key) in keys.iter().enumerate() {
                Payload::of(key).fill(&mut ring.slot(n)[..cell.size]);
            }
        }
        Ok(Client { wire, ring, keys, next: 0 })
    };
    let work = |client: &mut Client, began: Instant| -> Result<Tally> {
        let mut tally = Tally::new();
        let end = began + Duration::from_secs_f64(cell.seconds);
        let mut sent = Instant::now();
        while sent < end {
            match cell.op {
                Op::Get => client.get(cell, &mut tally)?,
                Op::Set => client.set(cell)?,
            }
            let answered = Instant::now();
            tally.latency.record(answered - sent);
            tally.ops += cell.pipeline as u64;
            sent = answered;
        }
        tally.end = sent;
        Ok(tally)
    };
    measure(cell, cell.clients, pids, prepare, work)
}

impl Client {
    fn get(&mut self, cell: &Cell, tally: &mut Tally) -> Result<()> {
        let turn = self.next..self.next + cell.pipeline;
        self.next = turn.end;
        let key_of = |n: usize| -> &[u8] { &self.keys[n % self.keys.len()] };
        self.wire.send_gets(turn.clone().map(key_of))?;
        for n in turn {
            let slot = &mut self.ring.slot(n)[..cell.size];
            match self.wire.read_body(slot, cell.size)? {
                Body::Missing => tally.misses += 1,
                Body::Here(len) => {
                    let key = &self.keys[n % self.keys.len()];
                    tally.wrong += u64::from(!is_right(key, &slot[..len], cell.size, cell.verify));
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, cell: &Cell) -> Result<()> {
        for _ in 0..cell.pipeline {
            let n = self.next % self.keys.len();
            self.wire.send_set(&self.keys[n], &self.ring.peek(n)[..cell.size], false)?;
            self.next += 1;
        }
        for _ in 0..cell.pipeline {
            self.wire.expect_ok()?;
        }
        Ok(())
    }
}

/// Writes all keys of a cell, once.
pub(crate) fn fill(endpoint: &Endpoint, prefix: &str, size: usize, keys: usize) -> Result<()> {
    let mut wire = Wire::new(endpoint.connect()?);
    let mut value = vec![0; size];
    let mut name = Vec::new();
    for n in 0..keys {
        write_key(&mut name, prefix, size, n);
        Payload::of(&name).fill(&mut value);
        wire.set(&name, &value)?;
    }
    Ok(())
}

/// Deletes all keys of a cell.
pub(crate) fn clear(endpoint: &Endpoint, prefix: &str, size: usize, keys: usize) -> Result<()> {
    let mut wire = Wire::new(endpoint.connect()?);
    let names: Vec<_> = (0..keys).map(|n| key(prefix, size, n)).collect();
    for some in names.chunks(100) {
        let mut words: Vec<&[u8]> = vec![b"DEL"];
        words.extend(some.iter().map(Vec::as_slice));
        wire.command(&words)?;
    }
    Ok(())
}
