//! Whole histories of one device from a seed: objects written, replaced, removed, spilled, read, reclaimed, made durable, on
//! a disk that fails, with processes that die and power that goes.
//!
//! Payloads are a function of key and version, so that any read shows foreign, stale or torn bytes.

mod drains;
mod scenes;

use super::{Filled, ReadJob, SpillJob, Target, Task, Verdict};
use crate::flash::engine::Faults;
use crate::flash::engine::{Engine, SimDisk};
use crate::flash::journal::{JOURNAL_FILE, Journal, JournalOptions};
use crate::flash::log::Log;
use crate::flash::meta::NoMeta;
use crate::flash::recover::EngineSource;
use crate::flash::scrub::{Of, Pace, examine};
use crate::flash::tier::books::Books;
use crate::flash::tier::opening::{Opening, scratch};
use crate::flash::tier::{DeviceConfig, Progress, TierClock, TierConfig};
use crate::store::flash::{FlashRead, Graveyard, SpillOf};
use crate::{Account, Found, PlainMemory, Store, StoreConfig, StoreError, Terms};
use parking_lot::Mutex;
use protocol::base::{ByteLen, Clock, Generation, Instant, copy_from};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const SEGMENT: u64 = 1 << 20;

/// Milliseconds since the beginning of all boots.
struct SimClock(AtomicU64);

impl Clock for SimClock {
    fn now(&self) -> Instant {
        Instant(self.0.load(Ordering::Relaxed) * 1_000_000)
    }
}

impl TierClock for SimClock {
    fn unix_ms(&self) -> u64 {
        1_700_000_000_000 + self.0.load(Ordering::Relaxed)
    }
}

/// What clients were told of one key.
#[derive(Clone, Default)]
struct Told {
    /// Versions by generation.
    versions: HashMap<Generation, u64>,
    /// The present one; `None` if it was removed.
    now: Option<Generation>,
    /// It was pinned, and must be there as long as the process.
    pinned: bool,
}

/// Reads answered: what was asked, what came.
type Answers = Arc<Mutex<Vec<(Box<[u8]>, Generation, Option<Vec<u8>>)>>>;

struct World {
    random: StdRng,
    seed: u64,
    /// How many different keys there are.
    keys: u32,
    disk: SimDisk,
    /// Of a second device, which takes what the first is emptied of.
    other: Option<SimDisk>,
    faults: Faults,
    clock: Arc<SimClock>,
    dir: PathBuf,
    epoch: u64,
    /// The segment that is scrubbed next.
    scrub_next: u32,
    boot: Option<Boot>,
    told: HashMap<Vec<u8>, Told>,
    version: u64,
    durable: Arc<Mutex<HashSet<Generation>>>,
    /// Nothing lies or fails to be read, so that what was promised must be kept.
    strict: bool,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    spilled: u64,
    read: u64,
    missed: u64,
    durable: u64,
    reclaimed: u64,
    reinserted: u64,
    boots: u64,
    recovered: u64,
    rotten: u64,
    returned: u64,
}

/// As fast as it goes.
struct Unbounded;

impl Pace for Unbounded {
    fn wait(&mut self, _: usize) -> bool {
        true
    }
}

/// One process.
struct Boot {
    engine: Box<dyn Engine>,
    log: Log,
    other: Option<drains::Other>,
    store: Store,
    account: Arc<Account>,
    answers: Answers,
    figures: Arc<crate::flash::tier::status::Figures>,
}

fn payload(key: &[u8], version: u64, len: usize) -> Vec<u8> {
    let mut state = version.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(crc32(key));
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    protocol::base::Crc::of(bytes).0
}

impl World {
    fn new(seed: u64, faults: Faults, strict: bool) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        // From 32 segments on, what is written again has a head of its own.
        let (segments, keys) = if random.random_bool(0.25) {
            (random.random_range(32..36u64), 300)
        } else {
            (random.random_range(4..14u64), 60)
        };
        Self::of(random, seed, faults, strict, segments, keys)
    }

    fn of(random: StdRng, seed: u64, faults: Faults, strict: bool, segments: u64, keys: u32) -> Self {
        let disk = SimDisk::new(seed ^ 1, (1 << 20) + segments * SEGMENT);
        let dir = std::env::temp_dir().join(format!("mooncake-log-{}-{seed:x}", std::process::id()));
        let mut world = Self {
            random,
            seed,
            keys,
            disk,
            other: None,
            faults,
            clock: Arc::new(SimClock(AtomicU64::new(1_000))),
            dir,
            epoch: 0,
            scrub_next: 0,
            boot: None,
            told: HashMap::new(),
            version: 0,
            durable: Arc::default(),
            strict,
            counts: Counts::default(),
        };
        world.start();
        world
    }

    fn journal_dir(&self) -> PathBuf {
        self.dir.join(self.epoch.to_string())
    }

    /// A process starts on what the disk and the journal hold.
    fn start(&mut self) {
        // A start sees a disk that answers: one that does not is refused, which is no history.
        self.disk.set_faults(Faults::default());
        self.counts.boots += 1;
        let fresh = self.epoch == 0;
        let dir = if fresh {
            self.epoch = 1;
            let dir = self.journal_dir();
            std::fs::create_dir_all(&dir).expect("a directory for the journal");
            dir
        } else {
            self.journal_dir()
        };
        let memory = Arc::new(PlainMemory::new(4 << 20).expect("memory"));
        let config = StoreConfig { boot_epoch: self.epoch, seed: self.seed, shards: 2, ..StoreConfig::default() };
        let store = Store::new(config, vec![memory]);
        let options = JournalOptions {
            sync_interval: Duration::from_secs(3600),
            boot_first: Generation::first_of(self.epoch),
            now_ms: self.clock.unix_ms(),
        };
        let opened = Journal::open(&dir, options).expect("the journal opens");
        let clock = Arc::clone(&self.clock) as Arc<dyn TierClock>;
        let books = Arc::new(Books::new(opened.journal, Box::new(NoMeta), Arc::clone(&clock)));
        store.enable_flash(Arc::clone(&books) as Arc<dyn Graveyard>);
        store.set_flash_limits(self.disk_len(), ByteLen(SEGMENT / 2));
        store.set_spilling(true);
        store.set_spill_mark(self.random.random_range(0..60));
        let reinsert_percent = [0, 25, 75, 99][self.random.random_range(0..4)];
        let opening = Opening {
            config: TierConfig { errors_per_minute: 200, reinsert_percent, ..TierConfig::new(&dir) },
            store: store.clone(),
            memories: Vec::new(),
            clock,
            progress: Arc::new(Progress::default()),
            books,
            remembered: Arc::new(opened.remembered),
            boot_epoch: self.epoch,
            believed_from: self.epoch - 1,
        };
        let device = DeviceConfig { segment_len: ByteLen(SEGMENT), ..DeviceConfig::new("simulated", None) };
        let pool = scratch(device.depth).expect("memory");
        let engine = self.disk.engine(self.random.random_range(1..16));
        let (_, _, engine, log) = opening.open_on(engine, pool, &device, 0).expect("always opens");
        let other =
            self.other.as_ref().map(|disk| drains::Other::open(&opening, disk, self.random.random_range(1..16)));
        store.audit();
        let figures = Arc::clone(&log.figures);
        self.counts.recovered += store.len();
        let boot = Boot { engine, log, other, store, account: Account::new(), answers: Arc::default(), figures };
        self.boot = Some(boot);
        self.check_index();
        self.disk.set_faults(self.faults);
    }

    fn disk_len(&self) -> ByteLen {
        ByteLen(16 << 20)
    }

    /// After a start: only what clients were told last is found.
    fn check_index(&mut self) {
        let boot = self.boot.as_ref().expect("a process runs");
        let now = self.clock.now();
        for (key, told) in &self.told {
            let Some(stat) = boot.store.stat(now, key) else { continue };
            let known = told.versions.contains_key(&stat.generation);
            assert!(known, "seed {:#x}: a generation nobody wrote", self.seed);
            assert_eq!(
                Some(stat.generation),
                told.now,
                "seed {:#x}: {} came back",
                self.seed,
                String::from_utf8_lossy(key)
            );
        }
    }

    fn key(&mut self) -> Vec<u8> {
        let number = self.random.random_range(0..self.keys);
        // Some keys are so long that headers take several pages.
        let padding = if number.is_multiple_of(13) { 5_000 } else { 0 };
        let mut key = format!("key:{number}").into_bytes();
        key.resize(key.len() + padding, b'.');
        key
    }

    fn set(&mut self) {
        let key = self.key();
        let len = match self.random.random_range(0..6) {
            0 => self.random.random_range(0..64),
            1 => self.random.random_range(0..9_000),
            2 => 65_536 * self.random.random_range(1..4usize),
            3 => 4096 * self.random.random_range(1..60usize),
            _ => self.random.random_range(10_000..300_000),
        };
        self.version += 1;
        let bytes = payload(&key, self.version, len);
        let now = self.clock.now();
        let boot = self.boot.as_ref().expect("a process runs");
        let mut result = boot.store.set(now, &key, &bytes, &boot.account, &Terms::default());
        if matches!(result, Err(StoreError::SpillWait { .. })) && self.random.random_bool(0.5) {
            boot.store.hurry(now);
            result = boot.store.set(now, &key, &bytes, &boot.account, &Terms::default());
        }
        if let Ok(generation) = result {
            let told = self.told.entry(key).or_default();
            told.versions.insert(generation, self.version);
            told.now = Some(generation);
            told.pinned = false;
        }
    }

    /// Pins an object, or takes the pin back.
    fn pin(&mut self, wanted: bool) {
        let key = self.key();
        self.pin_key(key, wanted);
    }

    fn pin_key(&mut self, key: Vec<u8>, wanted: bool) {
        let now = self.clock.now();
        let boot = self.boot.as_ref().expect("a process runs");
        let Some(told) = self.told.get_mut(&key) else { return };
        if wanted && !told.pinned {
            told.pinned = matches!(boot.store.pin(now, &key, None), Ok(Some(_)));
        } else if !wanted && told.pinned {
            told.pinned = false;
            assert_eq!(boot.store.unpin(now, &key), Some(0), "seed {:#x}: it was pinned once", self.seed);
        }
    }

    fn unpin_all(&mut self) {
        let now = self.clock.now();
        let boot = self.boot.as_ref().expect("a process runs");
        for (key, told) in &mut self.told {
            if std::mem::take(&mut told.pinned) {
                boot.store.unpin(now, key);
            }
        }
    }

    /// What is pinned is there, whatever was reclaimed.
    fn check_pins(&self) {
        let now = self.clock.now();
        let boot = self.boot.as_ref().expect("a process runs");
        for (key, told) in self.told.iter().filter(|(_, told)| told.pinned) {
            let found = boot.store.stat(now, key).map(|stat| stat.generation);
            let name = String::from_utf8_lossy(key);
            assert_eq!(found, told.now, "seed {:#x}: {name} was pinned", self.seed);
        }
    }

    fn remove(&mut self) {
        let key = self.key();
        let boot = self.boot.as_ref().expect("a process runs");
        boot.store.remove(self.clock.now(), &key);
        if let Some(told) = self.told.get_mut(&key) {
            told.now = None;
            told.pinned = false;
        }
    }

    fn spill(&mut self) {
        let now = self.clock.now();
        let boot = self.boot.as_mut().expect("a process runs");
        let mut spills = Vec::new();
        boot.store.next_spill(now, &mut spills, 400_000);
        self.counts.spilled += spills.len() as u64;
        for spill in spills {
            // Its durable record was reclaimed.
            self.durable.lock().remove(&spill.generation);
            boot.taker().spill(SpillJob { spill, ticket: None, charge: None });
        }
    }

    fn make_durable(&mut self) {
        let key = self.key();
        let now = self.clock.now();
        let Some(generation) = self.told.get(&key).and_then(|told| told.now) else { return };
        let boot = self.boot.as_mut().expect("a process runs");
        let durable = Arc::clone(&self.durable);
        let ticket: super::Ticket = Box::new(move |result| {
            if result.is_ok() {
                durable.lock().insert(generation);
            }
        });
        match boot.store.spill_of(now, &key, generation) {
            SpillOf::Spill(spill) => boot.taker().spill(SpillJob { spill, ticket: Some(ticket), charge: None }),
            SpillOf::OnFlash(place) => boot.log_of(place).sync(ticket),
            SpillOf::InFlight | SpillOf::Missing => {}
        }
    }

    fn read(&mut self) {
        let key = self.key();
        let now = self.clock.now();
        let boot = self.boot.as_mut().expect("a process runs");
        match boot.store.read(now, &key, None, <[u8]>::to_vec) {
            Ok(Some(Found::Small(bytes))) => {
                let generation = boot.store.stat(now, &key).expect("just read").generation;
                boot.answers.lock().push((key.into(), generation, Some(bytes)));
            }
            Ok(Some(Found::Large(guard))) => {
                boot.answers.lock().push((key.into(), guard.generation(), Some(guard.bytes().to_vec())));
            }
            Ok(Some(Found::Flash(read))) => {
                let promote = read.promote || self.random.random_bool(0.5);
                fetch(boot, &self.clock, read, promote);
            }
            Ok(None) | Err(_) => {}
        }
        self.check_answers();
    }

    /// Whatever was read is what somebody wrote under that key and generation.
    fn check_answers(&mut self) {
        if self.strict {
            self.check_pins();
        }
        let boot = self.boot.as_ref().expect("a process runs");
        for (key, generation, bytes) in boot.answers.lock().drain(..) {
            let Some(bytes) = bytes else {
                self.counts.missed += 1;
                continue;
            };
            self.counts.read += 1;
            let version = self.told.get(&key[..]).and_then(|told| told.versions.get(&generation));
            let version = *version.unwrap_or_else(|| panic!("seed {:#x}: a generation nobody wrote", self.seed));
            assert!(bytes == payload(&key, version, bytes.len()), "seed {:#x}: wrong bytes", self.seed);
        }
    }

    fn pump(&mut self, rounds: usize) {
        let mut done = Vec::new();
        for _ in 0..rounds {
            self.clock.0.fetch_add(1, Ordering::Relaxed);
            let boot = self.boot.as_mut().expect("a process runs");
            boot.log.step(&mut *boot.engine);
            boot.engine.wait(Some(Duration::ZERO), &mut done);
            for done in done.drain(..) {
                boot.log.complete(done);
            }
            drains::pump(boot, &mut self.random);
        }
        self.check_answers();
    }

    /// Looks at one segment, beside everything else. `false` at the end of the device.
    fn scrub(&mut self) -> bool {
        let now = self.clock.now();
        let boot = self.boot.as_mut().expect("a process runs");
        let Some(job) = boot.log.next_scrub(self.scrub_next, true) else {
            self.scrub_next = 0;
            return false;
        };
        if matches!(job.task, Task::Verify { .. }) {
            self.scrub_next = job.segment + 1;
        }
        let mut engine = self.disk.engine(4);
        let mut source = EngineSource::new(&mut *engine).expect("memory");
        let of = Of { device: boot.log.config.device, geometry: boot.log.config.geometry };
        // What happens meanwhile may be anything.
        let rounds = self.random.random_range(0..4);
        let report = examine(&job, of, &mut source, &mut Unbounded, (&boot.store, now)).expect("nobody ends it");
        drop(source);
        self.pump(rounds);
        let boot = self.boot.as_mut().expect("a process runs");
        boot.log.scrubbed(report);
        true
    }

    /// The process ends in some way, and another begins.
    fn restart(&mut self) {
        let ending = self.random.random_range(0..3);
        self.restart_after(ending);
    }

    /// `ending`: 0 a clean one, 1 a kill, 2 a power cut.
    fn restart_after(&mut self, ending: u32) {
        let now = self.clock.now();
        if ending == 0 {
            let boot = self.boot.as_mut().expect("a process runs");
            boot.close();
            for _ in 0..10_000 {
                if self.boot.as_ref().is_some_and(Boot::is_idle) {
                    break;
                }
                self.pump(1);
            }
        }
        let boot = self.boot.as_ref().expect("a process runs");
        let kept: Vec<(Vec<u8>, Generation)> = self
            .told
            .iter()
            .filter_map(|(key, told)| Some((key.clone(), told.now?, told.pinned)))
            .filter(|(key, generation, pinned)| {
                // What was reclaimed meanwhile lies in DRAM at most.
                (self.durable.lock().contains(generation) || (*pinned && ending != 2))
                    && matches!(boot.store.spill_of(now, key, *generation), SpillOf::OnFlash(_))
            })
            .map(|(key, generation, _)| (key, generation))
            .collect();
        self.counts.durable += kept.len() as u64;
        self.counts.reclaimed += boot.figures.reclaimed.load(Ordering::Relaxed);
        self.counts.reinserted += boot.figures.reinserted.load(Ordering::Relaxed);
        self.counts.rotten += boot.figures.scrub_rotten.load(Ordering::Relaxed);
        self.counts.returned += boot.figures.scrub_returned.load(Ordering::Relaxed);
        // What the process would write into the journal after its death is not part of it.
        let before = self.journal_dir();
        self.epoch += 1;
        let after = self.journal_dir();
        std::fs::create_dir_all(&after).expect("a directory for the journal");
        std::fs::copy(before.join(JOURNAL_FILE), after.join(JOURNAL_FILE)).expect("the journal is copied");
        for disk in [Some(&self.disk), self.other.as_ref()].into_iter().flatten() {
            match ending {
                1 => disk.kill(),
                2 => disk.power_cut(),
                _ => {}
            }
        }
        let Boot { engine, log, other, store, .. } = self.boot.take().expect("a process runs");
        drop(engine);
        drop(log);
        drop(other);
        drop(store);
        let _ = std::fs::remove_dir_all(before);
        self.start();
        // Pins of what lay in DRAM alone are gone with it.
        let boot = self.boot.as_ref().expect("a process runs");
        for (key, told) in &mut self.told {
            let stat = boot.store.stat(now, key);
            told.pinned = stat.is_some_and(|stat| stat.pins > 0 && Some(stat.generation) == told.now);
        }
        if self.strict {
            let boot = self.boot.as_ref().expect("a process runs");
            for (key, generation) in kept {
                let found = boot.store.stat(self.clock.now(), &key).map(|stat| stat.generation);
                let name = String::from_utf8_lossy(&key);
                assert_eq!(found, Some(generation), "seed {:#x}: {name} was durable, ending {ending}", self.seed);
            }
        }
    }

    fn run(mut self, steps: usize) -> Counts {
        for _ in 0..steps {
            self.clock.0.fetch_add(1, Ordering::Relaxed);
            match self.random.random_range(0..1000) {
                0..250 => self.set(),
                250..280 => self.remove(),
                280..480 => self.spill(),
                480..700 => self.read(),
                700..740 => self.make_durable(),
                740..980 => {
                    let rounds = self.random.random_range(1..8);
                    self.pump(rounds);
                }
                980..990 => {
                    self.scrub();
                }
                990..997 => {
                    let wanted = self.random.random_bool(0.6);
                    self.pin(wanted);
                }
                _ => self.restart(),
            }
        }
        if self.strict {
            self.unpin_all();
            self.check_progress();
        }
        self.restart();
        let _ = std::fs::remove_dir_all(&self.dir);
        self.counts
    }

    /// Whatever happened before, spills get through: nothing waits for what only itself could bring.
    fn check_progress(&mut self) {
        let spills = |world: &Self| world.boot.as_ref().expect("a process runs").figures.spills.load(Ordering::Relaxed);
        let before = spills(self);
        for _ in 0..2_000 {
            self.set();
            for _ in 0..8 {
                self.read();
            }
            self.spill();
            self.pump(8);
            if spills(self) > before + 200 {
                return;
            }
        }
        panic!("seed {:#x}: spills are stuck at {}", self.seed, spills(self));
    }
}

fn fetch(boot: &mut Boot, clock: &Arc<SimClock>, read: FlashRead, promote: bool) {
    let now = clock.now();
    let target = match promote.then(|| boot.store.promote(now, &read, &boot.account)) {
        Some(Ok(promotion)) => Target::Slot(promotion),
        _ => Target::Own,
    };
    let (key, generation) = (read.key.clone(), read.generation);
    let (answers, clock) = (Arc::clone(&boot.answers), Arc::clone(clock));
    let answer = Box::new(move |verdict| {
        let bytes = match verdict {
            Verdict::Missed => None,
            Verdict::Verified(Filled::Own(bytes)) => Some(bytes),
            Verdict::Verified(Filled::Slot(promotion)) => {
                let guard = promotion.publish(clock.now()).unwrap_or_else(|promotion| promotion.anonymous());
                let mut bytes = vec![0; guard.len()];
                copy_from(guard.span(), &mut bytes);
                Some(bytes)
            }
        };
        answers.lock().push((key, generation, bytes));
    });
    boot.log_of(read.place).read(ReadJob { read, target, answer });
}

fn campaign(name: &str, first_seed: u64, runs: u64, faults: Faults, strict: bool) -> Counts {
    let runs = std::env::var("MOONCAKE_SIM_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(runs);
    let only = std::env::var("MOONCAKE_SIM_SEED").ok().and_then(|seed| u64::from_str_radix(&seed, 16).ok());
    let mut all = Counts::default();
    for seed in first_seed..first_seed + runs {
        let seed = only.unwrap_or(seed);
        println!("{name}: seed {seed:#x}");
        let counts = World::new(seed, faults, strict).run(1_500);
        all.spilled += counts.spilled;
        all.read += counts.read;
        all.missed += counts.missed;
        all.durable += counts.durable;
        all.reclaimed += counts.reclaimed;
        all.reinserted += counts.reinserted;
        all.boots += counts.boots;
        all.recovered += counts.recovered;
        all.rotten += counts.rotten;
        all.returned += counts.returned;
    }
    println!("{name}: {all:?}");
    all
}

#[test]
fn histories_with_deaths_and_power_cuts_keep_every_promise() {
    let counts = campaign("calm", 0xc0ffee, 8, Faults::default(), true);
    assert!(counts.spilled > 0 && counts.read > 0 && counts.reclaimed > 0 && counts.durable > 0, "{counts:?}");
    assert_eq!(counts.rotten, 0, "nothing rots on a disk that does not lie");
}

#[test]
fn a_disk_that_fails_gives_misses_and_never_wrong_bytes() {
    let faults = Faults { short: 0.002, read_error: 0.005, write_error: 0.005, sync_error: 0.01, ..Faults::default() };
    let counts = campaign("errors", 0xbad, 8, faults, false);
    assert!(counts.spilled > 0 && counts.read > 0 && counts.missed > 0, "{counts:?}");
}

#[test]
fn a_disk_that_lies_gives_misses_and_never_wrong_bytes() {
    let faults = Faults { lost: 0.003, torn: 0.003, misdirected: 0.003, flipped: 0.003, ..Faults::default() };
    let counts = campaign("lies", 0x11e5, 8, faults, false);
    assert!(counts.spilled > 0 && counts.read > 0 && counts.missed > 0, "{counts:?}");
}
