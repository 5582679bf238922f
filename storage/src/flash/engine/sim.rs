//! A disk in memory, the same at each run from the same seed.
//!
//! Role: stands in for a device in tests. The image outlives the engines on it, as a disk outlives a process.

use super::{BLOCK, Done, Engine, Kind, Op, Wake};
use crate::dram::memory::{lend, lend_mut};
use parking_lot::{Condvar, Mutex};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<Image>>);

struct Image {
    len: u64,
    /// Blocks that are not all zeros, by number.
    blocks: HashMap<u64, Box<[u8; BLOCK]>>,
    random: SmallRng,
}

impl SimDisk {
    /// A disk of zeros, `len` bytes rounded down to whole blocks.
    pub fn new(seed: u64, len: u64) -> Self {
        let len = len - len % BLOCK as u64;
        Self(Arc::new(Mutex::new(Image { len, blocks: HashMap::new(), random: SmallRng::seed_from_u64(seed) })))
    }

    /// An engine on it. Dropping it finishes what is under way.
    pub fn engine(&self, depth: usize) -> Box<dyn Engine> {
        Box::new(SimEngine {
            disk: self.clone(),
            queue: VecDeque::new(),
            wake: Arc::default(),
            depth: depth.max(1),
            len: self.0.lock().len,
        })
    }

    /// What lies on it, past all faults.
    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        let image = self.0.lock();
        let mut found = vec![0; len];
        for (at, byte) in (offset..).zip(&mut found) {
            let within = usize::try_from(at % BLOCK as u64).expect("small");
            *byte = image.blocks.get(&(at / BLOCK as u64)).map_or(0, |block| block[within]);
        }
        found
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let image = self.0.lock();
        write!(f, "SimDisk({} bytes, {} blocks written)", image.len, image.blocks.len())
    }
}

impl Image {
    fn perform(&mut self, op: &mut Op) -> io::Result<()> {
        let mut block = op.offset / BLOCK as u64;
        for part in &mut op.parts {
            for at in (0..part.len()).step_by(BLOCK) {
                let mut piece = part.part(at, BLOCK).expect("parts are whole blocks");
                match op.kind {
                    Kind::Read => match self.blocks.get(&block) {
                        Some(bytes) => lend_mut(&mut piece).copy_from_slice(&bytes[..]),
                        None => lend_mut(&mut piece).fill(0),
                    },
                    Kind::Write => {
                        self.blocks.entry(block).or_insert_with(|| Box::new([0; BLOCK])).copy_from_slice(lend(&piece));
                    }
                    Kind::Sync => unreachable!("a sync moves nothing"),
                }
                block += 1;
            }
        }
        Ok(())
    }
}

struct SimEngine {
    disk: SimDisk,
    queue: VecDeque<Op>,
    wake: Arc<SimWake>,
    depth: usize,
    len: u64,
}

#[derive(Default)]
struct SimWake {
    woken: Mutex<bool>,
    news: Condvar,
}

impl Wake for SimWake {
    fn wake(&self) {
        *self.woken.lock() = true;
        self.news.notify_one();
    }
}

impl SimEngine {
    /// Finishes one op, any of those under way.
    fn finish(&mut self, out: &mut Vec<Done>) {
        let mut image = self.disk.0.lock();
        let under_way = self.queue.len().min(self.depth);
        let at = image.random.random_range(0..under_way);
        let mut op = self.queue.remove(at).expect("one of those under way");
        let result = image.perform(&mut op);
        out.push(Done { tag: op.tag, result, parts: op.parts });
    }
}

impl Engine for SimEngine {
    fn len(&self) -> u64 {
        self.len
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn in_flight(&self) -> usize {
        self.queue.len()
    }

    fn submit(&mut self, op: Op) {
        op.check(self.len);
        self.queue.push_back(op);
    }

    fn wait(&mut self, timeout: Option<Duration>, out: &mut Vec<Done>) {
        if !self.queue.is_empty() {
            *self.wake.woken.lock() = false;
            let some = self.disk.0.lock().random.random_range(1..=self.queue.len().min(self.depth));
            for _ in 0..some {
                self.finish(out);
            }
            return;
        }
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut woken = self.wake.woken.lock();
        while !*woken {
            match until {
                None => self.wake.news.wait(&mut woken),
                Some(until) => {
                    if self.wake.news.wait_until(&mut woken, until).timed_out() {
                        break;
                    }
                }
            }
        }
        *woken = false;
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.wake) as Arc<dyn Wake>
    }

    fn name(&self) -> &'static str {
        "simulated"
    }
}

impl Drop for SimEngine {
    fn drop(&mut self) {
        let mut unheard = Vec::new();
        while !self.queue.is_empty() {
            self.finish(&mut unheard);
        }
    }
}
