//! Our server by the client library: over shared memory beside bare shared memory, over RDMA beside bare RDMA.
//!
//! Gets are `LEASE`, copy, checksum, with the release riding on the next request; over RDMA `GET … INTO`, or in a batch
//! leases and reads where windows are lent. A single set is a `PUT` of bytes that
//! lie in the client's shared memory already, as an engine's would; a batch of sets copies into it.

use crate::endpoint::Endpoint;
use crate::keys::key;
use crate::payload::Payload;
use crate::peer::Peer;
use crate::ring::{RING_BYTES, Ring};
use crate::session::{Way, native};
use crate::turn::{Cell, Op, Tally, Turn, measure};
use crate::verdict::is_right;
use anyhow::{Context, Result, ensure};
use client::{Client, ClientError, PutOptions, Region};
use std::time::{Duration, Instant};

const PREFIX: &str = "shm";

/// A server reached by the client library.
pub(crate) struct ShmPeer {
    name: String,
    way: Way,
    endpoint: Endpoint,
    pids: Vec<u32>,
    filled: Option<(usize, usize)>,
}

impl ShmPeer {
    pub(crate) fn new(name: &str, way: Way, endpoint: Endpoint, pids: Vec<u32>) -> Self {
        Self { name: format!("{name}-{way}"), way, endpoint, pids, filled: None }
    }

    fn connect(&self, cell: &Cell) -> Result<Client> {
        let mut options = native::options(&self.endpoint, self.way, cell.size, cell.pipeline);
        options.buffer_len = options.buffer_len.max((2 * RING_BYTES / cell.clients) as u64);
        Ok(Client::connect(options)?)
    }
}

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

struct Worker {
    client: Client,
    keys: Vec<Vec<u8>>,
    next: usize,
    landing: Ring,
    /// Sources of single sets, one for each key.
    regions: Vec<Region>,
    /// Sources of batches, one slot for each key.
    source: Option<Ring>,
}

impl Peer for ShmPeer {
    fn name(&self) -> &str {
        &self.name
    }

    fn takes(&self, _cell: &Cell) -> bool {
        true
    }

    fn ready(&mut self, cell: &Cell) -> Result<()> {
        if self.filled == Some((cell.size, cell.keys)) {
            return Ok(());
        }
        self.clear()?;
        let mut client = self.connect(&Cell { clients: 1, pipeline: 1, ..*cell })?;
        let mut value = vec![0; cell.size];
        for n in 0..cell.keys {
            let key = key(PREFIX, cell.size, n);
            Payload::of(&key).fill(&mut value);
            client.put(&key, &value, &REPLACE)?;
        }
        self.filled = Some((cell.size, cell.keys));
        Ok(())
    }

    fn turn(&mut self, cell: &Cell) -> Result<Turn> {
        measure(cell, cell.clients, &self.pids, |index| self.worker(cell, index), Worker::work_on(cell))
    }

    fn clear(&mut self) -> Result<()> {
        let Some((size, keys)) = self.filled.take() else { return Ok(()) };
        crate::bulk::clear(&self.endpoint, PREFIX, size, keys)
    }
}

impl ShmPeer {
    fn worker(&self, cell: &Cell, index: usize) -> Result<Worker> {
        let mut client = self.connect(cell)?;
        let landing =
            Ring::new(cell.size, (RING_BYTES / cell.clients).max(cell.size.next_multiple_of(4096) * cell.pipeline))?;
        let share = cell.keys / cell.clients;
        // As in-band: readers read all keys, writers write some of their own.
        let count = if cell.op == Op::Get { cell.keys } else { landing.slots().min(share.max(cell.pipeline)) };
        let keys: Vec<_> = (0..count).map(|n| key(PREFIX, cell.size, (index * share + n) % cell.keys)).collect();
        let (mut regions, mut source) = (Vec::new(), None);
        if cell.op == Op::Set && cell.pipeline == 1 {
            for key in &keys {
                let mut region = client.buffer(cell.size).context("shared memory to put from")?;
                Payload::of(key).fill(region.as_mut_slice());
                regions.push(region);
            }
        } else if cell.op == Op::Set {
            let ring = source.insert(Ring::new(cell.size, keys.len() * cell.size.next_multiple_of(4096))?);
            for (n, key) in keys.iter().enumerate() {
                Payload::of(key).fill(&mut ring.slot(n)[..cell.size]);
            }
        }
        let mut worker = Worker { client, keys, next: 0, landing, regions, source };
        if worker.source.is_some() {
            // The client's shared memory is touched for the first time here, not while the clock runs.
            worker.set_batch(cell)?;
            worker.set_batch(cell)?;
        }
        Ok(worker)
    }
}

impl Worker {
    fn work_on(cell: &Cell) -> impl Fn(&mut Self, Instant) -> Result<Tally> + Sync {
        let cell = *cell;
        move |worker, began| {
            let mut tally = Tally::new();
            let end = began + Duration::from_secs_f64(cell.seconds);
            let mut sent = Instant::now();
            while sent < end {
                match (cell.op, cell.pipeline) {
                    (Op::Get, 1) => worker.get(&cell, &mut tally)?,
                    (Op::Get, _) => worker.get_batch(&cell, &mut tally)?,
                    (Op::Set, 1) => worker.set()?,
                    (Op::Set, _) => worker.set_batch(&cell)?,
                }
                let answered = Instant::now();
                tally.latency.record(answered - sent);
                tally.ops += cell.pipeline as u64;
                sent = answered;
            }
            tally.end = sent;
            Ok(tally)
        }
    }

    fn get(&mut self, cell: &Cell, tally: &mut Tally) -> Result<()> {
        let key = &self.keys[self.next % self.keys.len()];
        match self.client.fetch(key, self.landing.slot(self.next))? {
            Some(value) => tally.wrong += u64::from(!is_right(key, &value, cell.size, cell.verify)),
            None => tally.misses += 1,
        }
        self.next += 1;
        Ok(())
    }

    fn get_batch(&mut self, cell: &Cell, tally: &mut Tally) -> Result<()> {
        let keys: Vec<&[u8]> =
            (self.next..self.next + cell.pipeline).map(|n| self.keys[n % self.keys.len()].as_slice()).collect();
        let buffers = self.landing.run(self.next, cell.pipeline);
        for (key, value) in keys.iter().zip(self.client.fetch_batch(&keys, buffers)?) {
            match value? {
                Some(value) => tally.wrong += u64::from(!is_right(key, &value, cell.size, cell.verify)),
                None => tally.misses += 1,
            }
        }
        self.next += cell.pipeline;
        Ok(())
    }

    fn set(&mut self) -> Result<()> {
        let n = self.next % self.keys.len();
        self.client.put_region(&self.keys[n], &self.regions[n], &REPLACE)?;
        self.next += 1;
        Ok(())
    }

    fn set_batch(&mut self, cell: &Cell) -> Result<()> {
        let source = self.source.as_ref().context("a batch has sources")?;
        let items: Vec<(&[u8], &[u8])> = (self.next..self.next + cell.pipeline)
            .map(|n| n % self.keys.len())
            .map(|n| (self.keys[n].as_slice(), &source.peek(n)[..cell.size]))
            .collect();
        self.client.put_batch(&items, &REPLACE)?.into_iter().collect::<Result<Vec<_>, ClientError>>()?;
        self.next += cell.pipeline;
        Ok(())
    }
}

/// `UNPIN` of a key that is not there, on the ring (`PING` goes by the socket): what a request costs beside its bytes.
pub(crate) struct RingExchange {
    name: String,
    endpoint: Endpoint,
    pids: Vec<u32>,
    spin: Option<Duration>,
}

impl RingExchange {
    /// With the client's own spin before it sleeps, or with this one.
    pub(crate) fn new(name: &str, endpoint: Endpoint, pids: Vec<u32>, spin: Option<Duration>) -> Self {
        let how = if spin.is_some() { "-asleep" } else { "" };
        Self { name: format!("{name}-ring{how}"), endpoint, pids, spin }
    }
}

impl Peer for RingExchange {
    fn name(&self) -> &str {
        &self.name
    }

    fn takes(&self, _cell: &Cell) -> bool {
        true
    }

    fn ready(&mut self, _cell: &Cell) -> Result<()> {
        Ok(())
    }

    fn turn(&mut self, cell: &Cell) -> Result<Turn> {
        let prepare = |_| -> Result<Client> {
            let mut options = native::options(&self.endpoint, Way::Shm, 4096, 1);
            options.spin = self.spin.unwrap_or(options.spin);
            Ok(Client::connect(options)?)
        };
        let work = |client: &mut Client, began: Instant| -> Result<Tally> {
            let mut tally = Tally::new();
            let end = began + Duration::from_secs_f64(cell.seconds);
            let mut sent = Instant::now();
            while sent < end {
                let pins = client.unpin(b"mooncake-bench:nobody")?;
                ensure!(pins == 0, "a key that nobody wrote has {pins} pins");
                let answered = Instant::now();
                tally.latency.record(answered - sent);
                tally.ops += 1;
                sent = answered;
            }
            tally.end = sent;
            Ok(tally)
        };
        let turn = measure(cell, cell.clients, &self.pids, prepare, work)?;
        Ok(Turn { bytes: 0, ..turn })
    }

    fn clear(&mut self) -> Result<()> {
        Ok(())
    }
}
