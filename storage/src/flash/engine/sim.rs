//! A disk in memory that fails as disks do, the same at each run from the same seed.
//!
//! Role: stands in for a device in tests: of errors, of writes that are lost, torn or land elsewhere, of bits that rot, of
//! power that goes. The image outlives the engines on it, as a disk outlives a process.
//!
//! Invariants:
//! - A write is in the image from its completion on, and survives a power cut once a sync that was submitted after that
//!   completed. Without [`Faults`] that is all that can happen to it.

mod image;

use super::{Done, Engine, Op, Wake};
use image::Image;
use parking_lot::{Condvar, Mutex};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often what goes wrong: chances of an op, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// A write is answered, and nothing is written.
    pub lost: f64,
    /// A write is answered, and only some of its sectors of 512 bytes are written.
    pub torn: f64,
    /// A write is answered, and lies somewhere else.
    pub misdirected: f64,
    /// A bit of what was written, or of what is read, is the other one.
    pub flipped: f64,
    /// A transfer ends early although it was continued; part of it may be done.
    pub short: f64,
    /// A read fails.
    pub read_error: f64,
    /// A write fails; part of it may be done.
    pub write_error: f64,
    /// A sync fails, and what it should have kept is lost at the next power cut, whatever later syncs say.
    pub sync_error: f64,
    /// An op takes [`delay`](Self::delay).
    pub slow: f64,
    /// How long a slow op takes.
    pub delay: Duration,
}

/// Faults that happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// Writes lost, torn or misdirected: answered, and not there.
    pub lies: u64,
    /// Bits flipped.
    pub flips: u64,
    /// Ops that ended with an error, short ones too.
    pub errors: u64,
    /// Ops that were slow.
    pub slow: u64,
}

/// A simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Shared>);

struct Shared {
    image: Mutex<Image>,
    /// Something ended a wait, of whichever engine.
    news: Condvar,
}

impl SimDisk {
    /// A disk of zeros, `len` bytes rounded down to whole blocks.
    pub fn new(seed: u64, len: u64) -> Self {
        Self(Arc::new(Shared { image: Mutex::new(Image::new(seed, len)), news: Condvar::new() }))
    }

    /// An engine on it. Dropping it finishes what is under way.
    pub fn engine(&self, depth: usize) -> Box<dyn Engine> {
        let mut image = self.0.image.lock();
        let (id, len) = (image.attach(depth.max(1)), image.len());
        Box::new(SimEngine { disk: Arc::clone(&self.0), id, depth: depth.max(1), len })
    }

    /// From now on. [`Faults::default`] is none.
    pub fn set_faults(&self, faults: Faults) {
        self.0.image.lock().faults = faults;
    }

    /// What happened so far.
    pub fn injected(&self) -> Injected {
        self.0.image.lock().injected
    }

    /// Power goes and comes back: of what was not synced, and of the writes under way, any part is there, by sectors of
    /// 512 bytes and in any order. Engines of before answer errors from now on.
    pub fn power_cut(&self) {
        self.0.image.lock().power_cut();
        self.0.news.notify_all();
    }

    /// The process dies: of the ops submitted, some are done, each as a whole, and others never. Engines of before answer
    /// errors from now on.
    pub fn kill(&self) {
        self.0.image.lock().kill();
        self.0.news.notify_all();
    }

    /// Flips `count` random bits of the blocks that were ever written, between `from` and `to`. Answers how many it found.
    pub fn rot(&self, from: u64, to: u64, count: usize) -> usize {
        self.0.image.lock().rot(from, to, count)
    }

    /// What lies on it, past all faults.
    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        self.0.image.lock().peek(offset, len)
    }

    /// Changes what lies on it, past all faults.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        self.0.image.lock().poke(offset, bytes);
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.image.lock().fmt(f)
    }
}

struct SimEngine {
    disk: Arc<Shared>,
    id: u64,
    depth: usize,
    len: u64,
}

struct SimWake {
    disk: Arc<Shared>,
    id: u64,
}

impl Wake for SimWake {
    fn wake(&self) {
        if let Some(client) = self.disk.image.lock().client(self.id) {
            client.woken = true;
        }
        self.disk.news.notify_all();
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
        self.disk.image.lock().client(self.id).map_or(0, |client| client.in_flight())
    }

    fn submit(&mut self, op: Op) {
        op.check(self.len);
        self.disk.image.lock().submit(self.id, op);
    }

    fn wait(&mut self, timeout: Option<Duration>, out: &mut Vec<Done>) {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut image = self.disk.image.lock();
        loop {
            let now = Instant::now();
            let next = image.advance(self.id, now, out);
            let client = image.client(self.id).expect("attached");
            let woken = std::mem::take(&mut client.woken);
            if !out.is_empty() || woken || until.is_some_and(|until| until <= now) {
                return;
            }
            match next.into_iter().chain(until).min() {
                None => self.disk.news.wait(&mut image),
                Some(until) => {
                    let _ = self.disk.news.wait_until(&mut image, until);
                }
            }
        }
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(SimWake { disk: Arc::clone(&self.disk), id: self.id })
    }

    fn name(&self) -> &'static str {
        "simulated"
    }
}

impl Drop for SimEngine {
    fn drop(&mut self) {
        let mut unheard = Vec::new();
        while self.in_flight() > 0 {
            unheard.clear();
            self.wait(None, &mut unheard);
        }
        self.disk.image.lock().detach(self.id);
    }
}

/// As a kernel says it.
fn input_output_error() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

#[cfg(test)]
mod tests {
    use super::super::BLOCK;
    use super::*;
    use crate::dram::memory::{PlainMemory, lend, lend_mut};
    use protocol::base::{RawSpan, StableMemory};

    const BLOCKS: usize = 64;

    fn block(number: usize, fill: u8) -> RawSpan {
        let memory: Arc<dyn StableMemory> = Arc::new(PlainMemory::new(BLOCKS * BLOCK).expect("memory"));
        let mut span = RawSpan::new(memory, number * BLOCK, BLOCK).expect("inside");
        lend_mut(&mut span).fill(fill);
        span
    }

    fn run(engine: &mut dyn Engine, op: Op) -> Done {
        engine.submit(op);
        let mut done = Vec::new();
        while done.is_empty() {
            engine.wait(None, &mut done);
        }
        done.pop().expect("one")
    }

    fn write(engine: &mut dyn Engine, number: usize, fill: u8) -> io::Result<()> {
        run(engine, Op::write(0, (number * BLOCK) as u64, vec![block(number, fill)])).result
    }

    #[test]
    fn what_was_synced_survives_power_cuts_and_the_rest_does_so_by_chance() {
        let (mut kept, mut lost, mut torn) = (0, 0, 0);
        for seed in 0..40 {
            let disk = SimDisk::new(seed, (BLOCKS * BLOCK) as u64);
            let mut engine = disk.engine(4);
            for number in 0..BLOCKS {
                write(&mut *engine, number, 1).expect("writes");
            }
            assert!(run(&mut *engine, Op::sync(0)).result.is_ok());
            for number in BLOCKS / 2..BLOCKS {
                write(&mut *engine, number, 2).expect("writes");
            }
            disk.power_cut();
            assert!(write(&mut *engine, 0, 3).is_err(), "an engine of before the cut");
            for number in 0..BLOCKS {
                let found = disk.peek((number * BLOCK) as u64, BLOCK);
                if number < BLOCKS / 2 {
                    assert!(found.iter().all(|&byte| byte == 1), "seed {seed}: lost what was synced");
                } else if found.iter().all(|&byte| byte == 2) {
                    kept += 1;
                } else if found.iter().all(|&byte| byte == 1) {
                    lost += 1;
                } else {
                    assert!(found.chunks(512).all(|sector| [[1; 512], [2; 512]].iter().any(|whole| whole == sector)));
                    torn += 1;
                }
            }
        }
        assert!(kept > 100 && lost > 100 && torn > 20, "{kept} kept, {lost} lost, {torn} torn");
    }

    #[test]
    fn a_sync_does_not_cover_writes_after_it() {
        let mut lost = 0;
        for seed in 0..40 {
            let disk = SimDisk::new(seed, (BLOCKS * BLOCK) as u64);
            let mut engine = disk.engine(8);
            engine.submit(Op::sync(1));
            engine.submit(Op::write(2, 0, vec![block(0, 2)]));
            let mut done = Vec::new();
            while engine.in_flight() > 0 {
                engine.wait(None, &mut done);
            }
            disk.power_cut();
            lost += usize::from(disk.peek(0, 1) == [0]);
        }
        assert!(lost > 5, "{lost} lost");
    }

    #[test]
    fn a_sync_that_is_tried_again_after_an_error_lies() {
        let disk = SimDisk::new(1, (BLOCKS * BLOCK) as u64);
        let mut engine = disk.engine(1);
        write(&mut *engine, 0, 1).expect("writes");
        disk.set_faults(Faults { sync_error: 1.0, ..Default::default() });
        assert!(run(&mut *engine, Op::sync(0)).result.is_err());
        disk.set_faults(Faults::default());
        write(&mut *engine, 1, 1).expect("writes");
        assert!(run(&mut *engine, Op::sync(0)).result.is_ok());
        assert_eq!(disk.peek(0, 1), [1]);
        disk.power_cut();
        assert_eq!((disk.peek(0, 1), disk.peek(BLOCK as u64, 1)), (vec![0], vec![1]));
    }

    #[test]
    fn every_fault_happens_and_is_counted() {
        let all = Faults { lost: 0.1, torn: 0.1, misdirected: 0.1, flipped: 0.1, short: 0.1, ..Default::default() };
        let errors = Faults { read_error: 0.2, write_error: 0.2, sync_error: 0.5, ..all };
        let faults = Faults { slow: 0.2, delay: Duration::from_micros(50), ..errors };
        let disk = SimDisk::new(7, (BLOCKS * BLOCK) as u64);
        disk.set_faults(faults);
        let mut engine = disk.engine(4);
        let (mut wrong, mut failed) = (0, 0);
        for round in 0..2000usize {
            let number = round % BLOCKS;
            let fill = u8::try_from(round % 251).expect("small");
            failed += u64::from(write(&mut *engine, number, fill).is_err());
            let read = run(&mut *engine, Op::read(0, (number * BLOCK) as u64, vec![block(number, 255)]));
            failed += u64::from(read.result.is_err());
            wrong += usize::from(read.result.is_ok() && lend(&read.parts[0]).iter().any(|&byte| byte != fill));
            failed += u64::from(run(&mut *engine, Op::sync(0)).result.is_err());
        }
        let injected = disk.injected();
        assert_eq!(injected.errors, failed);
        assert!(
            wrong > 300 && injected.lies > 300 && injected.flips > 200 && injected.slow > 500,
            "{wrong} {injected:?}"
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_disk() {
        let disks = [9, 9, 10].map(|seed| {
            let disk = SimDisk::new(seed, (BLOCKS * BLOCK) as u64);
            disk.set_faults(Faults { lost: 0.3, torn: 0.3, misdirected: 0.3, flipped: 0.3, ..Default::default() });
            let mut engine = disk.engine(8);
            for number in 0..BLOCKS {
                engine.submit(Op::write(0, (number * BLOCK) as u64, vec![block(number, 1)]));
            }
            engine.wait(None, &mut Vec::new());
            disk.power_cut();
            assert_eq!(disk.rot(0, u64::MAX, 3), 3);
            disk.peek(0, BLOCKS * BLOCK)
        });
        assert!(disks[0] == disks[1]);
        assert!(disks[0] != disks[2]);
    }

    #[test]
    fn a_kill_leaves_whole_writes_only() {
        for seed in 0..40 {
            let disk = SimDisk::new(seed, (BLOCKS * BLOCK) as u64);
            let mut engine = disk.engine(8);
            for number in 0..BLOCKS {
                engine.submit(Op::write(0, (number * BLOCK) as u64, vec![block(number, 1)]));
            }
            disk.kill();
            let image = disk.peek(0, BLOCKS * BLOCK);
            assert!(image.chunks(BLOCK).all(|block| block.iter().all(|&byte| byte == block[0])));
            assert!(image.contains(&0), "those that had not begun never do");
        }
    }
}
