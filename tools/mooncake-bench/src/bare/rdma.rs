//! RDMA writes and reads between two queue pairs of this machine's device, and nothing else: what `ib_write_bw` and
//! `ib_read_bw` measure, by the verbs that the server uses. Nobody looks at the bytes.

use crate::bare::scatter;
use crate::number::index;
use crate::peer::Peer;
use crate::ring::RING_BYTES;
use crate::turn::{Cell, Op, Tally, Turn, measure};
use anyhow::{Context, Result};
use protocol::base::StableMemory;
use std::sync::Arc;
use std::time::{Duration, Instant};
use transport::rdma::{Choice, Device, Direction, Link, Pages, Region, RemoteAccess, Transfer};

/// Longest that one exchange may take, on an emulated machine too.
const PATIENCE: Duration = Duration::from_secs(60);

struct Memory {
    device: Arc<Device>,
    ours: Arc<Region>,
    theirs: Arc<Region>,
}

/// See the module's text.
#[derive(Default)]
pub(crate) struct BareRdma {
    memory: Option<(usize, Memory)>,
}

struct Worker {
    near: Link,
    /// Answers, by its device alone.
    _far: Link,
    next: usize,
}

impl Memory {
    fn new(size: usize) -> Result<Self> {
        let device = Device::open(&Choice::default())?;
        let len = RING_BYTES.max(size.next_multiple_of(4096) * 2);
        let register = |access| -> Result<Arc<Region>> {
            let pages: Arc<dyn StableMemory> = Pages::new(len).context("memory")?;
            Region::register(&device.domain, pages, access).context("register memory")
        };
        let ours = register(RemoteAccess::default())?;
        let theirs = register(RemoteAccess { read: true, write: true, windows: false })?;
        Ok(Self { device, ours, theirs })
    }

    fn worker(&self, number: usize) -> Result<Worker> {
        let (mut near, mut far) = (Link::new(&self.device, 0)?, Link::new(&self.device, 0)?);
        let (here, there) = (near.endpoint()?, far.endpoint()?);
        far.connect(&here)?;
        near.connect(&there)?;
        Ok(Worker { near, _far: far, next: number * 7919 })
    }
}

impl Peer for BareRdma {
    fn name(&self) -> &str {
        "bare-rdma"
    }

    fn takes(&self, _: &Cell) -> bool {
        true
    }

    fn ready(&mut self, cell: &Cell) -> Result<()> {
        if !matches!(&self.memory, Some((size, _)) if *size == cell.size) {
            self.memory = None;
            self.memory = Some((cell.size, Memory::new(cell.size)?));
        }
        Ok(())
    }

    fn turn(&mut self, cell: &Cell) -> Result<Turn> {
        let memory = &self.memory.as_ref().expect("ready was called").1;
        let step = cell.size.next_multiple_of(4096);
        let slots = memory.ours.len() / step;
        let direction = if cell.op == Op::Get { Direction::Read } else { Direction::Write };
        let work = |worker: &mut Worker, began: Instant| -> Result<Tally> {
            let mut tally = Tally::new();
            let end = began + Duration::from_secs_f64(cell.seconds);
            let mut then = Instant::now();
            while then < end {
                let items: Vec<Transfer> = (0..cell.pipeline)
                    .map(|at| {
                        let (here, there) = (worker.next + at, index(scatter((worker.next + at) as u64)));
                        Transfer {
                            region: Arc::clone(&memory.ours),
                            offset: here % slots * step,
                            length: cell.size,
                            remote: memory.theirs.remote(there % slots * step),
                        }
                    })
                    .collect();
                worker.next += cell.pipeline;
                worker.near.transfer(direction, &items, then + PATIENCE)?;
                let now = Instant::now();
                tally.latency.record(now - then);
                tally.ops += cell.pipeline as u64;
                then = now;
            }
            tally.end = then;
            Ok(tally)
        };
        measure(cell, cell.clients, &[], |number| memory.worker(number), work)
    }

    fn clear(&mut self) -> Result<()> {
        self.memory = None;
        Ok(())
    }
}
