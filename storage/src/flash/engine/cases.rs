//! The same cases for every engine: what the log may rely on, whichever of them it runs on.

use super::*;
use crate::dram::memory::PlainMemory;
use protocol::base::{ByteLen, StableMemory};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

const LEN: u64 = 8 << 20;
const DEPTH: usize = 8;
/// A run of the model covers at most so many blocks an op.
const BLOCKS_MAX: usize = 24;

/// A directory of the build, on a real file system, gone at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../target")
            .join(format!("flash-engine-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory to write in");
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("device")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn memory(len: usize) -> Arc<dyn StableMemory> {
    Arc::new(PlainMemory::new(len).expect("memory"))
}

fn span(memory: &Arc<dyn StableMemory>, offset: usize, len: usize) -> RawSpan {
    RawSpan::new(Arc::clone(memory), offset, len).expect("inside")
}

fn fill(span: &RawSpan, bytes: &[u8]) {
    let mut span = span.clone();
    crate::dram::memory::lend_mut(&mut span).copy_from_slice(bytes);
}

fn bytes(span: &RawSpan) -> Vec<u8> {
    crate::dram::memory::lend(span).to_vec()
}

/// Runs `case` on each engine this machine has. A refused io_uring is said, not hidden.
fn on_each(name: &str, case: impl Fn(&mut dyn FnMut(Vec<Arc<dyn StableMemory>>) -> Box<dyn Engine>)) {
    for kind in [EngineKind::Syscall, EngineKind::Uring] {
        let place = Place::new(&format!("{name}-{kind}"));
        case(&mut |fixed| {
            let options =
                EngineOptions { kind, depth: DEPTH, preallocate: Some(ByteLen(LEN)), fixed, ..Default::default() };
            open(&place.file(), &options).unwrap_or_else(|error| panic!("{kind}: {error}"))
        });
    }
    let disk = SimDisk::new(1, LEN);
    case(&mut |_| disk.engine(DEPTH));
}

/// A server that was restarted opens its device as soon as the writes of the one before are done.
#[test]
fn a_device_in_use_is_waited_for() {
    let place = Place::new("patience");
    let options = EngineOptions { preallocate: Some(ByteLen(LEN)), ..Default::default() };
    let engine = open(&place.file(), &options).expect("opens");
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        drop(engine);
    });
    open(&place.file(), &options).expect("opens in the end");
    thread.join().expect("drops");
}

/// Waits until nothing is in flight.
fn drain(engine: &mut dyn Engine) -> Vec<Done> {
    let mut done = Vec::new();
    let until = Instant::now() + Duration::from_secs(60);
    while engine.in_flight() > 0 {
        engine.wait(Some(Duration::from_secs(10)), &mut done);
        assert!(Instant::now() < until, "{}: {} ops never answered", engine.name(), engine.in_flight());
    }
    done
}

/// Blocks that no two ops under way share hold what was written last, read in any number of parts.
#[test]
fn random_ops_agree_with_a_model() {
    let seed = rand::random::<u64>();
    println!("seed {seed:#x}");
    on_each("model", |open| {
        let mut random = SmallRng::seed_from_u64(seed);
        let registered = memory(BLOCKS_MAX * BLOCK * DEPTH);
        let other = memory(BLOCKS_MAX * BLOCK * DEPTH);
        let mut engine = open(vec![Arc::clone(&registered)]);
        let mut model: HashMap<u64, u8> = HashMap::new();
        let blocks = LEN / BLOCK as u64;
        for round in 0..60 {
            // One stretch of the device for each op of a round.
            let stretch = blocks / DEPTH as u64;
            let mut expected = HashMap::new();
            for n in 0..DEPTH {
                let count = random.random_range(1..=BLOCKS_MAX);
                let first = n as u64 * stretch + random.random_range(0..stretch - count as u64);
                let home = n * BLOCKS_MAX * BLOCK;
                let mut parts = Vec::new();
                let mut at = 0;
                while at < count {
                    let part = random.random_range(1..=count - at);
                    let memory = if random.random() { &registered } else { &other };
                    parts.push(span(memory, home + at * BLOCK, part * BLOCK));
                    at += part;
                }
                let content: Vec<u8> =
                    if random.random() { (0..count).map(|_| random.random()).collect() } else { Vec::new() };
                let whole: Vec<u8> = content.iter().flat_map(|&byte| [byte; BLOCK]).collect();
                if content.is_empty() {
                    let content =
                        (first..).take(count).flat_map(|block| [model.get(&block).copied().unwrap_or(0); BLOCK]);
                    expected.insert(n as u64, content.collect::<Vec<u8>>());
                    engine.submit(Op::read(n as u64, first * BLOCK as u64, parts));
                } else {
                    let mut from = 0;
                    for part in &parts {
                        fill(part, &whole[from..from + part.len()]);
                        from += part.len();
                    }
                    model.extend((first..).zip(content));
                    engine.submit(Op::write(n as u64, first * BLOCK as u64, parts));
                }
            }
            engine.submit(Op::sync(99));
            let done = drain(&mut *engine);
            assert_eq!(done.len(), DEPTH + 1);
            for Done { tag, result, parts } in done {
                result.unwrap_or_else(|error| panic!("seed {seed:#x}, round {round}, op {tag}: {error}"));
                if let Some(expected) = expected.get(&tag) {
                    let found: Vec<u8> = parts.iter().flat_map(bytes).collect();
                    assert!(found == *expected, "seed {seed:#x}, round {round}, op {tag}: read something else");
                }
            }
        }
    });
}

#[test]
fn what_was_written_is_there_for_the_next_engine() {
    on_each("again", |open| {
        let memory = memory(4 * BLOCK);
        let (one, two) = (span(&memory, 0, 2 * BLOCK), span(&memory, 2 * BLOCK, 2 * BLOCK));
        fill(&one, &[7; 2 * BLOCK]);
        let mut engine = open(Vec::new());
        assert_eq!(engine.len(), LEN);
        engine.submit(Op::write(1, LEN - 2 * BLOCK as u64, vec![one]));
        // Dropped with the write in flight: it is done all the same.
        drop(engine);
        let mut engine = open(vec![memory]);
        engine.submit(Op::read(2, LEN - 2 * BLOCK as u64, vec![two.clone()]));
        let done = drain(&mut *engine);
        assert!(matches!(&done[..], [Done { tag: 2, result: Ok(()), .. }]), "{done:?}");
        assert_eq!(bytes(&two), [7; 2 * BLOCK]);
    });
}

#[test]
fn more_ops_than_the_depth_are_all_answered_once() {
    on_each("many", |open| {
        let memory = memory(BLOCK * 64);
        let mut engine = open(vec![Arc::clone(&memory)]);
        for tag in 0..1000u64 {
            let part = span(&memory, usize::try_from(tag % 64).expect("small") * BLOCK, BLOCK);
            engine.submit(Op::read(tag, tag * BLOCK as u64, vec![part]));
        }
        assert_eq!(engine.in_flight(), 1000);
        let mut tags: Vec<u64> = drain(&mut *engine)
            .into_iter()
            .map(|done| {
                done.result.expect("reads");
                done.tag
            })
            .collect();
        tags.sort_unstable();
        assert!(tags.into_iter().eq(0..1000));
    });
}

#[test]
fn a_wake_from_another_thread_ends_a_wait() {
    on_each("wake", |open| {
        let mut engine = open(Vec::new());
        let waker = engine.waker();
        let mut done = Vec::new();
        for _ in 0..100 {
            let waker = Arc::clone(&waker);
            let thread = std::thread::spawn(move || waker.wake());
            let from = Instant::now();
            engine.wait(Some(Duration::from_secs(60)), &mut done);
            assert!(from.elapsed() < Duration::from_secs(30), "{}: slept through a wake", engine.name());
            thread.join().expect("wakes");
        }
        // A wake before the wait counts.
        waker.wake();
        engine.wait(Some(Duration::from_secs(60)), &mut done);
        assert!(done.is_empty());
    });
}

#[test]
fn a_wait_without_anything_to_do_ends_in_time() {
    on_each("timeout", |open| {
        let mut engine = open(Vec::new());
        let mut done = Vec::new();
        let from = Instant::now();
        engine.wait(Some(Duration::from_millis(30)), &mut done);
        let took = from.elapsed();
        assert!(took >= Duration::from_millis(29) && took < Duration::from_secs(20), "{}: {took:?}", engine.name());
        engine.wait(Some(Duration::ZERO), &mut done);
        assert!(done.is_empty());
    });
}

#[test]
fn a_device_has_one_user() {
    let place = Place::new("lock");
    let patience = Duration::from_millis(50);
    let options = EngineOptions { preallocate: Some(ByteLen(LEN)), patience, ..Default::default() };
    let engine = open(&place.file(), &options).expect("opens");
    let error = open(&place.file(), &options).err().expect("is taken");
    assert!(error.to_string().contains("in use by another process"), "{error}");
    let reader = EngineOptions { read_only: true, patience, ..Default::default() };
    assert!(open(&place.file(), &reader).is_err());
    drop(engine);
    let one = open(&place.file(), &reader).expect("free again");
    open(&place.file(), &reader).expect("readers share");
    drop(one);
}

#[test]
fn what_cannot_be_flash_is_refused_with_a_sentence() {
    let place = Place::new("refused");
    let check = |path: PathBuf, preallocate: Option<u64>, expected: &str| {
        let options = EngineOptions { preallocate: preallocate.map(ByteLen), ..Default::default() };
        let error = open(&path, &options).err().unwrap_or_else(|| panic!("{} opens", path.display()));
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(place.file(), None, "is not there");
    check(place.0.clone(), Some(LEN), "neither a file nor a block device");
    check(place.0.join("none/device"), Some(LEN), "does not open");
    check("/dev/full".into(), None, "neither a file nor a block device");
    // More than any disk has; what was made stays empty.
    check(place.file(), Some(1 << 46), "device ");
    assert_eq!(std::fs::metadata(place.file()).expect("was made").len(), 0);
}

/// Both engines on what is open already, whatever it is.
fn on_each_of(open_file: impl Fn() -> std::fs::File, case: impl Fn(&mut dyn Engine, &Arc<dyn StableMemory>)) {
    let device = || file::Device { fd: open_file().into(), len: LEN };
    let memory = memory(2048 * BLOCK);
    case(&mut syscall::Threads::start(device(), DEPTH).expect("threads"), &memory);
    match uring::Ring::start(device(), DEPTH, &[Arc::clone(&memory)]) {
        Ok(mut ring) => case(&mut ring, &memory),
        Err((error, _)) => panic!("io_uring: {error}"),
    }
}

#[test]
fn a_read_past_the_end_of_a_cut_file_is_short_not_wrong() {
    let place = Place::new("short");
    let cut = || {
        let file = std::fs::File::options().read(true).write(true).create(true).truncate(false).open(place.file());
        let file = file.expect("opens");
        file.set_len(2 * BLOCK as u64 + 100).expect("cuts");
        file
    };
    on_each_of(cut, |engine, memory| {
        // Within, across and behind the end.
        for (tag, offset) in [(0, 0), (1, BLOCK as u64), (2, 16 * BLOCK as u64)] {
            let at = usize::try_from(tag).expect("small") * 2 * BLOCK;
            engine.submit(Op::read(tag, offset, vec![span(memory, at, BLOCK), span(memory, at + BLOCK, BLOCK)]));
        }
        let mut done = drain(engine);
        done.sort_by_key(|done| done.tag);
        let kinds: Vec<_> = done.iter().map(|done| done.result.as_ref().map_err(io::Error::kind)).collect();
        let eof = Err(io::ErrorKind::UnexpectedEof);
        assert_eq!(kinds, [Ok(&()), eof, eof], "{}", engine.name());
    });
}

#[test]
fn a_full_device_is_an_error_and_the_engine_goes_on() {
    let full = || std::fs::File::options().read(true).write(true).open("/dev/full").expect("is everywhere");
    on_each_of(full, |engine, memory| {
        for round in 0..3 {
            engine.submit(Op::write(1, 0, vec![span(memory, 0, BLOCK), span(memory, BLOCK, BLOCK)]));
            let done = drain(engine);
            let [Done { tag: 1, result: Err(error), parts }] = &done[..] else { panic!("round {round}: {done:?}") };
            assert_eq!((error.kind(), parts.len()), (io::ErrorKind::StorageFull, 2), "{}", engine.name());
            // Reads of it give zeros.
            engine.submit(Op::read(2, 0, vec![span(memory, 0, BLOCK)]));
            assert!(drain(engine)[0].result.is_ok());
        }
    });
}

#[test]
fn more_parts_than_one_call_takes_are_all_moved() {
    on_each("parts", |open| {
        let count = 1500;
        let memory = memory(2 * count * BLOCK);
        // Not registered, so that they are gathered.
        let mut engine = open(Vec::new());
        let parts = |from: usize| (0..count).map(|n| span(&memory, (from + n) * BLOCK, BLOCK)).collect::<Vec<_>>();
        for (n, part) in parts(0).iter().enumerate() {
            fill(part, &[u8::try_from(n % 251).expect("small"); BLOCK]);
        }
        for op in [Op::write(1, 0, parts(0)), Op::read(2, 0, parts(count))] {
            engine.submit(op);
            drain(&mut *engine).pop().expect("one").result.expect("moves all");
        }
        for (n, part) in parts(count).iter().enumerate() {
            assert!(bytes(part).iter().all(|&byte| usize::from(byte) == n % 251), "{}: part {n}", engine.name());
        }
    });
}

#[test]
#[should_panic(expected = "past the device's")]
fn an_op_past_the_end_is_a_bug() {
    let mut engine = SimDisk::new(1, LEN).engine(1);
    engine.submit(Op::read(1, LEN, vec![span(&memory(BLOCK), 0, BLOCK)]));
}

#[test]
#[should_panic(expected = "memory not aligned")]
fn memory_off_a_block_is_a_bug() {
    let mut engine = SimDisk::new(1, LEN).engine(1);
    engine.submit(Op::read(1, 0, vec![span(&memory(2 * BLOCK), 512, BLOCK)]));
}
