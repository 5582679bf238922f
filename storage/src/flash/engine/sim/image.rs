//! What lies on a simulated disk, what would lie there after a power cut, and who uses it.

use super::super::{BLOCK, Done, Kind, Op};
use super::{Faults, Injected, input_output_error};
use crate::dram::memory::{lend, lend_mut};
use protocol::base::RawSpan;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::time::Instant;

/// What a disk writes as a whole or not at all.
const SECTOR: usize = 512;

/// Of the write that made a content which is on the disk while what came after it will not get there.
const NEVER_DURABLE: u64 = u64::MAX;

type Block = Box<[u8; BLOCK]>;

/// The disk.
pub(super) struct Image {
    len: u64,
    /// Blocks that were ever written, by number. All maps are ordered: their order decides what a seed means.
    blocks: BTreeMap<u64, Block>,
    /// Contents that a power cut may leave, oldest first, each with the write that made it. The first is durable.
    versions: BTreeMap<u64, Vec<(u64, Block)>>,
    /// Writes done so far.
    writes: u64,
    pub(super) faults: Faults,
    pub(super) injected: Injected,
    random: SmallRng,
    clients: BTreeMap<u64, Client>,
    next_client: u64,
}

/// One engine.
pub(super) struct Client {
    depth: usize,
    /// Power went, or the process died, since it was attached.
    dead: bool,
    under_way: Vec<Started>,
    queue: VecDeque<(Op, u64)>,
    pub(super) woken: bool,
}

struct Started {
    op: Op,
    /// Writes done when it was submitted.
    writes_before: u64,
    due: Option<Instant>,
}

impl Client {
    pub(super) fn in_flight(&self) -> usize {
        self.under_way.len() + self.queue.len()
    }
}

impl Image {
    pub(super) fn new(seed: u64, len: u64) -> Self {
        Self {
            len: len - len % BLOCK as u64,
            blocks: BTreeMap::new(),
            versions: BTreeMap::new(),
            writes: 0,
            faults: Faults::default(),
            injected: Injected::default(),
            random: SmallRng::seed_from_u64(seed),
            clients: BTreeMap::new(),
            next_client: 0,
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn attach(&mut self, depth: usize) -> u64 {
        let id = self.next_client;
        self.next_client += 1;
        let client = Client { depth, dead: false, under_way: Vec::new(), queue: VecDeque::new(), woken: false };
        self.clients.insert(id, client);
        id
    }

    pub(super) fn detach(&mut self, id: u64) {
        self.clients.remove(&id);
    }

    pub(super) fn client(&mut self, id: u64) -> Option<&mut Client> {
        self.clients.get_mut(&id)
    }

    pub(super) fn submit(&mut self, id: u64, op: Op) {
        let writes = self.writes;
        self.clients.get_mut(&id).expect("attached").queue.push_back((op, writes));
    }

    /// Starts what fits into the depth and finishes some of what is due. Answers when more will be.
    pub(super) fn advance(&mut self, id: u64, now: Instant, out: &mut Vec<Done>) -> Option<Instant> {
        self.start(id, now);
        let client = self.clients.get_mut(&id).expect("attached");
        if client.dead {
            let queued = client.queue.drain(..).map(|(op, _)| op);
            let ops = client.under_way.drain(..).map(|started| started.op).chain(queued);
            out.extend(ops.map(|op| Done { tag: op.tag, result: Err(input_output_error()), parts: op.parts }));
            return None;
        }
        let is_due = |started: &Started| started.due.is_none_or(|due| due <= now);
        let (mut due, later): (Vec<_>, Vec<_>) = client.under_way.drain(..).partition(is_due);
        client.under_way = later;
        let next = client.under_way.iter().filter_map(|started| started.due).min();
        let some = if due.is_empty() { 0 } else { self.random.random_range(1..=due.len()) };
        for _ in 0..some {
            let started = due.swap_remove(self.random.random_range(0..due.len()));
            out.push(self.finish(started));
        }
        self.clients.get_mut(&id).expect("attached").under_way.append(&mut due);
        next
    }

    fn start(&mut self, id: u64, now: Instant) {
        let client = self.clients.get_mut(&id).expect("attached");
        while client.under_way.len() < client.depth
            && let Some((op, writes_before)) = client.queue.pop_front()
        {
            let slow = self.random.random_bool(self.faults.slow);
            self.injected.slow += u64::from(slow);
            client.under_way.push(Started { op, writes_before, due: slow.then(|| now + self.faults.delay) });
        }
    }

    fn finish(&mut self, started: Started) -> Done {
        let Started { op, writes_before, .. } = started;
        let result = match op.kind {
            Kind::Read => self.read(&op),
            Kind::Write => self.write(&op),
            Kind::Sync => self.sync(writes_before),
        };
        self.injected.errors += u64::from(result.is_err());
        Done { tag: op.tag, result, parts: op.parts }
    }

    fn happens(&mut self, chance: f64) -> bool {
        chance > 0.0 && self.random.random_bool(chance)
    }

    fn read(&mut self, op: &Op) -> io::Result<()> {
        if self.happens(self.faults.read_error) {
            return Err(input_output_error());
        }
        let mut pieces = pieces(op);
        let short = self.happens(self.faults.short);
        let count = if short { self.random.random_range(0..pieces.len()) } else { pieces.len() };
        for (number, piece) in &mut pieces[..count] {
            match self.blocks.get(number) {
                Some(bytes) => lend_mut(piece).copy_from_slice(&bytes[..]),
                None => lend_mut(piece).fill(0),
            }
        }
        if short {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.happens(self.faults.flipped) {
            let piece = self.random.random_range(0..pieces.len());
            let bit = self.random.random_range(0..BLOCK * 8);
            lend_mut(&mut pieces[piece].1)[bit / 8] ^= 1 << (bit % 8);
            self.injected.flips += 1;
        }
        Ok(())
    }

    fn write(&mut self, op: &Op) -> io::Result<()> {
        let mut writes: Vec<(u64, Block)> =
            pieces(op).iter().map(|(number, piece)| (*number, Box::new(block_of(lend(piece))))).collect();
        let (failed, short) = (self.happens(self.faults.write_error), self.happens(self.faults.short));
        if failed || short {
            let count = self.random.random_range(0..writes.len());
            writes.truncate(count);
        } else if self.happens(self.faults.lost) {
            self.injected.lies += 1;
            return Ok(());
        } else if self.happens(self.faults.torn) {
            self.injected.lies += 1;
            self.tear(&mut writes);
        } else if self.happens(self.faults.misdirected) {
            self.injected.lies += 1;
            let room = self.len / BLOCK as u64 - writes.len() as u64;
            let to = self.random.random_range(0..=room);
            for (n, (number, _)) in (to..).zip(&mut writes) {
                *number = n;
            }
        } else if self.happens(self.faults.flipped) {
            self.injected.flips += 1;
            let at = self.random.random_range(0..writes.len());
            let bit = self.random.random_range(0..BLOCK * 8);
            writes[at].1[bit / 8] ^= 1 << (bit % 8);
        }
        self.writes += 1;
        for (number, block) in writes {
            self.put(number, block);
        }
        match (failed, short) {
            (true, _) => Err(input_output_error()),
            (_, true) => Err(io::ErrorKind::WriteZero.into()),
            _ => Ok(()),
        }
    }

    /// Leaves sectors as they were on the disk, one at least.
    fn tear(&mut self, writes: &mut [(u64, Block)]) {
        let sectors = writes.len() * (BLOCK / SECTOR);
        let chosen = self.random.random_range(0..sectors);
        for sector in 0..sectors {
            if sector == chosen || self.random.random() {
                let (number, block) = &mut writes[sector * SECTOR / BLOCK];
                let at = sector * SECTOR % BLOCK;
                let before = self.blocks.get(number).map_or([0; BLOCK], |block| **block);
                block[at..at + SECTOR].copy_from_slice(&before[at..at + SECTOR]);
            }
        }
    }

    fn put(&mut self, number: u64, block: Block) {
        let before = self.blocks.insert(number, block.clone()).unwrap_or_else(|| Box::new([0; BLOCK]));
        let versions = self.versions.entry(number).or_insert_with(|| vec![(0, before)]);
        versions.push((self.writes, block));
    }

    /// Makes durable what was written before the sync was submitted; or, if it fails, loses it for later syncs too, as
    /// kernels do that take a page for clean after its write failed.
    fn sync(&mut self, writes_before: u64) -> io::Result<()> {
        let failed = self.happens(self.faults.sync_error);
        self.versions.retain(|_, versions| {
            let Some(newest) = versions.iter().rposition(|(write, _)| *write <= writes_before) else { return true };
            if failed && newest > 0 {
                versions.drain(1..=newest);
                versions[0].0 = NEVER_DURABLE;
            } else if !failed {
                versions.drain(..newest);
            }
            versions.len() > 1 || versions[0].0 == NEVER_DURABLE
        });
        if failed { Err(input_output_error()) } else { Ok(()) }
    }

    pub(super) fn power_cut(&mut self) {
        // Writes under way may have reached the disk too.
        let mut clients = std::mem::take(&mut self.clients);
        for client in clients.values_mut().filter(|client| !client.dead) {
            client.dead = true;
            for started in client.under_way.iter().filter(|started| started.op.kind == Kind::Write) {
                self.writes += 1;
                for (number, piece) in pieces(&started.op) {
                    self.put(number, Box::new(block_of(lend(&piece))));
                }
            }
        }
        self.clients = clients;
        for (number, versions) in std::mem::take(&mut self.versions) {
            let mut found = versions[self.random.random_range(0..versions.len())].1.clone();
            // Now and then a block is cut in two.
            if self.random.random_bool(0.1) {
                let other = &versions[self.random.random_range(0..versions.len())].1;
                let at = self.random.random_range(1..BLOCK / SECTOR) * SECTOR;
                found[at..].copy_from_slice(&other[at..]);
            }
            self.blocks.insert(number, found);
        }
    }

    pub(super) fn kill(&mut self) {
        let mut clients = std::mem::take(&mut self.clients);
        for client in clients.values_mut().filter(|client| !client.dead) {
            client.dead = true;
            for started in &client.under_way {
                if started.op.kind == Kind::Write && self.random.random() {
                    self.writes += 1;
                    for (number, piece) in pieces(&started.op) {
                        self.put(number, Box::new(block_of(lend(&piece))));
                    }
                }
            }
        }
        self.clients = clients;
    }

    pub(super) fn rot(&mut self, from: u64, to: u64, count: usize) -> usize {
        let range = from.div_ceil(BLOCK as u64)..to / BLOCK as u64;
        let numbers: Vec<u64> = self.blocks.range(range).map(|(number, _)| *number).collect();
        if numbers.is_empty() {
            return 0;
        }
        for _ in 0..count {
            let number = numbers[self.random.random_range(0..numbers.len())];
            let bit = self.random.random_range(0..BLOCK * 8);
            self.blocks.get_mut(&number).expect("listed")[bit / 8] ^= 1 << (bit % 8);
        }
        self.injected.flips += count as u64;
        count
    }

    pub(super) fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        let byte = |at: u64| self.blocks.get(&(at / BLOCK as u64)).map_or(0, |block| block[within(at)]);
        (offset..).take(len).map(byte).collect()
    }

    pub(super) fn poke(&mut self, offset: u64, bytes: &[u8]) {
        for (at, &byte) in (offset..).zip(bytes) {
            self.blocks.entry(at / BLOCK as u64).or_insert_with(|| Box::new([0; BLOCK]))[within(at)] = byte;
        }
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (written, unsynced) = (self.blocks.len(), self.versions.len());
        write!(f, "SimDisk({} bytes, {written} blocks written, {unsynced} not synced)", self.len)
    }
}

fn within(at: u64) -> usize {
    usize::try_from(at % BLOCK as u64).expect("small")
}

fn block_of(bytes: &[u8]) -> [u8; BLOCK] {
    bytes.try_into().expect("pieces are one block")
}

/// The op's memory block by block, with the number of each on the disk.
fn pieces(op: &Op) -> Vec<(u64, RawSpan)> {
    let blocks = op.parts.iter().flat_map(|part| {
        (0..part.len()).step_by(BLOCK).map(|at| part.part(at, BLOCK).expect("parts are whole blocks"))
    });
    (op.offset / BLOCK as u64..).zip(blocks).collect()
}
