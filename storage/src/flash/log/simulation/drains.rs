//! Histories of a device that is emptied into another, called off, killed on the way.

use super::super::{Handed, Handover, Heirs, Leaving, Log};
use super::{Boot, Counts, SEGMENT, World};
use crate::flash::engine::{Engine, Faults, SimDisk};
use crate::flash::tier::DeviceConfig;
use crate::flash::tier::opening::{Opening, scratch};
use crate::store::flash::FlashPlace;
use parking_lot::Mutex;
use protocol::base::ByteLen;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Segments of the second device: enough for whatever the first one holds.
const SEGMENTS: u64 = 40;

/// The second device of a process.
pub(super) struct Other {
    engine: Box<dyn Engine>,
    log: Log,
    post: Arc<Post>,
}

/// What is on its way between the two.
#[derive(Default)]
struct Post {
    taken: Mutex<Vec<Handover>>,
    handed: Mutex<Vec<Handed>>,
}

impl Heirs for Post {
    fn take(&self, handover: Handover) -> Option<Handover> {
        self.taken.lock().push(handover);
        None
    }

    fn answer(&self, handed: Handed) {
        self.handed.lock().push(handed);
    }
}

impl Other {
    pub(super) fn open(opening: &Opening, disk: &SimDisk, depth: usize) -> Self {
        let device = DeviceConfig { segment_len: ByteLen(SEGMENT), ..DeviceConfig::new("simulated too", None) };
        let pool = scratch(device.depth).expect("memory");
        let (_, _, engine, log) = opening.open_on(disk.engine(depth), pool, &device, 1).expect("always opens");
        Self { engine, log, post: Arc::default() }
    }
}

impl Boot {
    /// The device that a record lies on.
    pub(super) fn log_of(&mut self, place: FlashPlace) -> &mut Log {
        match &mut self.other {
            Some(other) if place.slot >= other.log.config.first_slot => &mut other.log,
            _ => &mut self.log,
        }
    }

    /// The device that spills go to.
    pub(super) fn taker(&mut self) -> &mut Log {
        match &mut self.other {
            Some(other) if self.log.is_leaving() => &mut other.log,
            _ => &mut self.log,
        }
    }

    pub(super) fn close(&mut self) {
        self.log.stay();
        self.log.close();
        if let Some(other) = &mut self.other {
            other.log.close();
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.log.is_idle() && self.other.as_ref().is_none_or(|other| other.log.is_idle())
    }
}

/// One step of the second device, and what the two have for each other.
pub(super) fn pump(boot: &mut Boot, random: &mut StdRng) {
    let Some(other) = &mut boot.other else { return };
    // Its thread is one of many: what it has answered and what it has synced may be long ago.
    if random.random_bool(0.6) {
        return;
    }
    for handover in other.post.taken.lock().drain(..) {
        other.log.adopt(handover);
    }
    other.log.step(&mut *other.engine);
    let mut done = Vec::new();
    other.engine.wait(Some(Duration::ZERO), &mut done);
    for done in done {
        other.log.complete(done);
    }
    let handed: Vec<Handed> = other.post.handed.lock().drain(..).collect();
    for handed in handed {
        boot.log.handed(handed);
    }
}

impl World {
    fn with_other(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let segments = random.random_range(4..14);
        let mut world = Self::of(random, seed, Faults::default(), true, segments, 60);
        world.other = Some(SimDisk::new(seed ^ 2, (1 << 20) + SEGMENTS * SEGMENT));
        // It has none until now, and nothing happened.
        world.restart_after(0);
        world
    }

    /// The first device begins to be emptied.
    fn drain(&mut self) {
        let boot = self.boot.as_mut().expect("a process runs");
        let heirs = Arc::clone(&boot.other.as_ref().expect("there is a second").post);
        boot.log.leave(Leaving::Kept(heirs));
    }

    fn is_drained(&self) -> bool {
        self.boot.as_ref().is_some_and(|boot| boot.log.is_left())
    }

    fn adopted(&self) -> u64 {
        let other = self.boot.as_ref().and_then(|boot| boot.other.as_ref()).expect("there is a second");
        other.log.figures.adopted.load(Ordering::Relaxed)
    }

    fn some_of_everything(&mut self, steps: usize) {
        for _ in 0..steps {
            match self.random.random_range(0..100) {
                0..25 => self.set(),
                25..28 => self.remove(),
                28..48 => self.spill(),
                48..70 => self.read(),
                70..76 => self.make_durable(),
                76..78 => {
                    let wanted = self.random.random_bool(0.6);
                    self.pin(wanted);
                }
                _ => {
                    let rounds = self.random.random_range(1..6);
                    self.pump(rounds);
                }
            }
        }
    }
}

/// Whatever is done meanwhile: what is durable or pinned stays so, wherever a kill or a power cut finds it, and a device that is
/// to stay after all is written to again.
#[test]
fn a_device_that_is_emptied_loses_nothing_wherever_it_is_stopped() {
    let runs = std::env::var("MOONCAKE_SIM_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(4);
    let (mut adopted, mut emptied, mut durable) = (0, 0, 0);
    for seed in 0xd4a1_0000..0xd4a1_0000 + runs {
        println!("seed {seed:#x}");
        let mut world = World::with_other(seed);
        for turn in 0..6 {
            world.some_of_everything(250);
            world.drain();
            let steps = world.random.random_range(1..200);
            world.some_of_everything(steps);
            if turn % 3 == 0 {
                for _ in 0..20_000 {
                    world.some_of_everything(1);
                    world.pump(4);
                    if world.is_drained() {
                        break;
                    }
                }
                assert!(world.is_drained(), "seed {seed:#x}: it never gets empty");
                emptied += 1;
            }
            adopted += world.adopted();
            world.boot.as_mut().expect("a process runs").log.stay();
            if world.random.random_bool(0.5) {
                world.some_of_everything(100);
                world.check_progress();
                world.drain();
                let steps = world.random.random_range(1..100);
                world.some_of_everything(steps);
                adopted += world.adopted();
            }
            // A clean end is the tier's, which calls a drain off first.
            let ending = world.random.random_range(0..3);
            world.restart_after(ending);
            world.boot.as_ref().expect("a process runs").store.audit();
        }
        let Counts { durable: kept, .. } = world.counts;
        durable += kept;
        let _ = std::fs::remove_dir_all(&world.dir);
    }
    assert!(
        adopted > 0 && emptied > 0 && durable > 0,
        "{adopted} adopted, {emptied} times empty, {durable} durable kept"
    );
}
