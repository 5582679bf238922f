//! Does the store cost the same at 10 million objects as at 10 thousand?
//!
//! Workload: keys of 36 bytes, values of 100, one thread, memory that is just full. Each size in a store of its own:
//! 1. fill it to the last slot, and see what the process grew by;
//! 2. `read` keys at random, each timed alone (the timer's own 20 to 40 ns are in it), then a batch without a timer;
//! 3. `set` new keys, each of which evicts the oldest.
//!
//! With `--flash`, as many objects are indexed on flash alone, as a restart does: bytes of memory beyond the key, and the
//! time of an insertion, of finding one for a read, and of a miss.
//!
//! ```text
//! cargo run --release -p mooncake-benches --bin scale -- [--flash] [OBJECTS ...]
//! ```
//!
//! Prints one line a size: bytes of DRAM an object beyond its key and value, by the kernel's count and by the store's own;
//! nanoseconds at p50, p99, p99.9 and the longest; nanoseconds a call in a batch; and a hash of everything read, so that
//! nobody gets faster by doing less. At best, memory and CPU would allow a read in the time of its cache misses: bucket,
//! entry, slot, and the two neighbours of its list.

use hdrhistogram::Histogram;
use protocol::base::{ByteLen, Crc, Generation, Instant, Millis};
use std::hint::black_box;
use std::sync::Arc;
use storage::{
    Account, Buried, FlashPlace, Found, Graveyard, Pinned, PlainMemory, RecoveredRecord, Store, StoreConfig, Terms,
};

const KEY_LEN: usize = 36;
const VALUE_LEN: usize = 100;
const SAMPLES: u64 = 1_000_000;

fn key(number: u64) -> [u8; KEY_LEN] {
    let mut key = [b'-'; KEY_LEN];
    let mut rest = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for digit in &mut key[..16] {
        *digit = b"0123456789abcdef"[usize::try_from(rest & 15).expect("a digit")];
        rest >>= 4;
    }
    key[20..28].copy_from_slice(&number.to_le_bytes());
    key
}

fn value(number: u64) -> [u8; VALUE_LEN] {
    let mut value = [7; VALUE_LEN];
    value[..8].copy_from_slice(&number.to_le_bytes());
    value
}

/// Anonymous memory that the kernel says the process holds.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("a kernel since 4.5");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number of KiB") << 10
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn tail(times: &Histogram<u64>) -> String {
    let [half, most, nearly] = [0.5, 0.99, 0.999].map(|quantile| times.value_at_quantile(quantile));
    format!("{half:>5} {most:>6} {nearly:>7} {:>9}", times.max())
}

fn timed<R>(times: &mut Histogram<u64>, work: impl FnOnce() -> R) -> R {
    let start = std::time::Instant::now();
    let result = work();
    times.saturating_record(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    result
}

/// Reads and returns a number that the value's bytes decide.
fn read(store: &Store, now: Instant, number: u64) -> u64 {
    match store.read(now, &key(number), None, |bytes| bytes.iter().fold(0, |sum, &byte| sum + u64::from(byte))) {
        Ok(Some(Found::Small(sum))) => sum,
        other => panic!("object {number} is {other:?}"),
    }
}

fn run(objects: u64, samples: u64) {
    // Slots of 160 bytes, 102 in a slab page of 16 KiB; each shard may have one page begun.
    let config =
        StoreConfig { watermark_high_percent: 100, watermark_low_percent: 100, seed: 1, ..StoreConfig::default() };
    let total = (objects.div_ceil(102) + config.shards as u64) * (16 << 10) + (1 << 20);
    let segments = total.div_ceil(storage::SEGMENT_LEN_MAX);
    let account = Account::new();
    let before = resident();
    let store = Store::new(
        config,
        (0..segments)
            .map(|_| -> Arc<dyn protocol::base::StableMemory> {
                let len = usize::try_from(total.div_ceil(segments).next_multiple_of(4096)).expect("64-bit");
                Arc::new(PlainMemory::new(len).expect("memory"))
            })
            .collect(),
    );
    let mut now = Instant(1_000_000_000_000);
    let set = |now: Instant, number: u64| {
        store.set(now, &key(number), &value(number), &account, &Terms::default()).expect("all is evictable");
    };
    let start = std::time::Instant::now();
    for number in 0..objects {
        now = Instant(now.0 + 1_000);
        set(now, number);
    }
    let fill_ns = start.elapsed().as_nanos() as f64 / objects as f64;
    assert_eq!(store.len(), objects, "all fit");
    let grown = resident().saturating_sub(before);
    let payload = objects * (KEY_LEN + VALUE_LEN) as u64;
    let (sum, usage) = (store.accounting(), store.usage());
    let by_kernel = (grown.saturating_sub(payload)) as f64 / objects as f64;
    let by_store = (usage.index_bytes + sum.live + sum.slab_free - payload) as f64 / objects as f64;
    let index = usage.index_bytes as f64 / objects as f64;

    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let mut hash = 0u64;
    let mut reads = Histogram::<u64>::new_with_bounds(1, 1 << 40, 3).expect("right bounds");
    for _ in 0..samples {
        now = Instant(now.0 + 1_000);
        let number = dice.below(objects);
        hash = hash.rotate_left(5) ^ timed(&mut reads, || read(&store, now, number));
    }
    let start = std::time::Instant::now();
    for _ in 0..samples {
        now = Instant(now.0 + 1_000);
        hash = hash.rotate_left(5) ^ read(&store, now, dice.below(objects));
    }
    let read_ns = start.elapsed().as_nanos() as f64 / samples as f64;

    // What is left of the memory is filled before anything is evicted.
    let mut number = objects;
    while store.usage().counters.evicted == 0 {
        set(now, number);
        number += 1;
    }
    let mut sets = Histogram::<u64>::new_with_bounds(1, 1 << 40, 3).expect("right bounds");
    for _ in 0..samples {
        now = Instant(now.0 + 1_000);
        number += 1;
        timed(&mut sets, || set(now, number));
    }
    let start = std::time::Instant::now();
    for _ in 0..samples {
        now = Instant(now.0 + 1_000);
        number += 1;
        set(now, number);
    }
    let set_ns = start.elapsed().as_nanos() as f64 / samples as f64;
    let evicted = store.usage().counters.evicted as f64 / (2 * samples) as f64;
    hash = hash.rotate_left(5) ^ read(&store, now + Millis(1), number);
    println!(
        "{objects:>10} | {by_kernel:>5.1} {by_store:>5.1} {index:>5.1} | {} {read_ns:>6.0} | {} {set_ns:>6.0} {evicted:>5.2} | {fill_ns:>5.0} | {:016x}",
        tail(&reads),
        tail(&sets),
        black_box(hash),
    );
}

/// Forgets: nothing of it is asked again.
struct Nobody;

impl Graveyard for Nobody {
    fn bury(&self, _: &[Buried]) {}
    fn bury_all(&self, _: Generation) {}
    fn retire(&self, _: u16) {}
    fn pinned(&self, _: &[u8], _: Generation, _: Pinned, _: u64) {}
    fn expiry(&self, _: Buried, _: Option<Instant>, _: u64) {}
}

fn run_on_flash(objects: u64, samples: u64) {
    let config = StoreConfig { seed: 1, boot_epoch: 2, ..StoreConfig::default() };
    let store = Store::new(config, vec![Arc::new(PlainMemory::new(1 << 20).expect("memory"))]);
    store.enable_flash(Arc::new(Nobody));
    let now = Instant(1_000_000_000_000);
    let before = resident();
    let start = std::time::Instant::now();
    for number in 0..objects {
        let page = u16::try_from(number % (1 << 16)).expect("16 bits");
        let slot = u16::try_from(number >> 16).expect("fewer than 2^32 objects");
        let record = RecoveredRecord {
            key: &key(number),
            generation: Generation(number + 1),
            length: 1 << 20,
            crc: Crc(u32::try_from(number % 1_000_003).expect("small")),
            expires: None,
            place: FlashPlace { slot, page },
            pins: Pinned::default(),
        };
        assert!(store.insert_recovered(now, &record, |_| false), "each key once");
    }
    let insert_ns = start.elapsed().as_nanos() as f64 / objects as f64;
    assert_eq!(store.len(), objects, "all are there");
    let keys = objects * KEY_LEN as u64;
    let by_kernel = resident().saturating_sub(before).saturating_sub(keys) as f64 / objects as f64;
    let by_store = (store.usage().index_bytes - keys) as f64 / objects as f64;
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let mut hash = 0u64;
    let mut finds = Histogram::<u64>::new_with_bounds(1, 1 << 40, 3).expect("right bounds");
    for _ in 0..samples {
        let number = dice.below(objects);
        let read = timed(&mut finds, || store.flash_prefetch(now, &key(number))).expect("on flash");
        hash = hash.rotate_left(5) ^ read.generation.0 ^ u64::from(read.place.page);
    }
    let mut misses = Histogram::<u64>::new_with_bounds(1, 1 << 40, 3).expect("right bounds");
    for _ in 0..samples {
        let number = objects + dice.below(objects);
        assert!(!timed(&mut misses, || store.contains(now, &key(number))), "object {number} was never written");
    }
    println!(
        "{objects:>10} | {by_kernel:>5.1} {by_store:>5.1} | {} | {} | {insert_ns:>6.0} | {:016x}",
        tail(&finds),
        tail(&misses),
        black_box(hash),
    );
}

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let flash = args.iter().any(|arg| arg == "--flash");
    args.retain(|arg| arg != "--flash");
    let mut sizes: Vec<u64> = args.iter().map(|text| text.parse().expect("a number of objects")).collect();
    if sizes.is_empty() {
        sizes = vec![10_000, 1_000_000, 10_000_000];
    }
    if flash {
        println!("key {} on flash alone: bytes of memory an object beyond its key, then ns", ByteLen(KEY_LEN as u64));
        println!(
            "{:>10} | {:>5} {:>5} | {:>5} {:>6} {:>7} {:>9} | {:>5} {:>6} {:>7} {:>9} | {:>6} | hash",
            "objects", "RSS", "store", "find", "p99", "p99.9", "max", "miss", "p99", "p99.9", "max", "insert"
        );
        for objects in sizes {
            run_on_flash(objects, SAMPLES.min(objects));
        }
        return;
    }
    println!("key {} value {}: extra bytes an object, then ns", ByteLen(KEY_LEN as u64), ByteLen(VALUE_LEN as u64));
    println!(
        "{:>10} | {:>5} {:>5} {:>5} | {:>5} {:>6} {:>7} {:>9} {:>6} | {:>5} {:>6} {:>7} {:>9} {:>6} {:>5} | {:>5} | hash",
        "objects",
        "RSS",
        "store",
        "index",
        "p50",
        "p99",
        "p99.9",
        "get max",
        "batch",
        "p50",
        "p99",
        "p99.9",
        "set max",
        "batch",
        "evict",
        "fill"
    );
    for objects in sizes {
        run(objects, SAMPLES.min(objects * 20));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_runs_at_a_tiny_size() {
        super::run(5_000, 5_000);
        super::run_on_flash(5_000, 5_000);
    }
}
