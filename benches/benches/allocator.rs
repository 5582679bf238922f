//! How much of the memory holds objects, and what does finding a place cost?
//!
//! Workload: reservations of the sizes that engines write, each published at once and evicted, least recently used first,
//! when another needs its place. After each, some live object is used again, so that the order of use is soon not that of
//! memory. Payloads are not touched. Beside it the `offset-allocator` crate, driven by the same sizes and the same rule: evict
//! the least recently used until the request fits.
//!
//! Unit: bytes of live slots by memory, mean and least of the steady state, and ns a reservation, evictions included. At best
//! a mix reaches 1.0 less half an object; the crate's figures show what its size classes lose. `cargo bench -p
//! mooncake-benches --bench allocator` fills a GiB; without `--bench` it is 32 MiB, and a few hundred reservations.

use offset_allocator::{Allocation, Allocator};
use protocol::base::{Crc, Instant};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use storage::{Account, PlainMemory, Reservation, Store, StoreConfig, Terms};

const UNIT: u64 = 4096;

struct Mix {
    name: &'static str,
    /// Payload bytes of reservation `n` of `of`.
    len: fn(&mut StdRng, n: u64, of: u64) -> u64,
}

const MIXES: [Mix; 5] = [
    Mix { name: "uniform 64 KiB to 4 MiB", len: |random, _, _| random.random_range(64 << 10..=4 << 20) },
    Mix { name: "all 1 MiB", len: |_, _, _| 1 << 20 },
    Mix { name: "three sizes", len: |random, _, _| [128 << 10, 640 << 10, 2_560 << 10][random.random_range(0..3)] },
    Mix {
        name: "sizes shift",
        len: |random, n, of| {
            let centre =
                [96u64 << 10, 3 << 20, 400 << 10, 1 << 20][usize::try_from(4 * n / of.max(1)).unwrap_or(3).min(3)];
            random.random_range(centre / 2..=centre * 3 / 2)
        },
    },
    Mix {
        name: "small beside large",
        len: |random, _, _| if random.random_ratio(9, 10) { random.random_range(100..8_000) } else { 1 << 20 },
    },
];

struct Measured {
    mean: f64,
    least: f64,
    ns: f64,
}

fn ours(mix: &Mix, memory: u64, count: u64) -> Measured {
    let config = StoreConfig {
        watermark_high_percent: 100,
        watermark_low_percent: 100,
        reserved_percent_max: 100,
        reserved_client_percent_max: 100,
        seed: 1,
        ..StoreConfig::default()
    };
    let plain = PlainMemory::new(usize::try_from(memory).expect("64-bit")).expect("memory");
    let store = Store::new(config, vec![Arc::new(plain)]);
    let (account, mut random) = (Account::new(), StdRng::seed_from_u64(7));
    // The kernel gives memory at the first touch, which is not what is measured.
    let touched: Vec<Reservation> = (0u64..)
        .map_while(|n| store.reserve(Instant(0), &n.to_be_bytes(), 1 << 20, &account).ok())
        .map(|mut reserved| {
            reserved.bytes_mut().fill(1);
            reserved
        })
        .collect();
    drop(touched);
    let mut spent = Duration::ZERO;
    let mut samples = Vec::new();
    for n in 0..count {
        let len = (mix.len)(&mut random, n, count);
        let now = Instant(1_000_000_000_000 + n * 1_000);
        let start = std::time::Instant::now();
        let reserved = store.reserve(now, &n.to_be_bytes(), len, &account).expect("all is evictable");
        reserved.publish(now, Crc(0), &Terms::default()).expect("unconditional");
        if n > count / 3 {
            spent += start.elapsed();
        }
        while !store.touch(now, &random.random_range(0..=n).to_be_bytes()) {}
        if n % 16 == 0 && n > count / 3 {
            let sum = store.accounting();
            samples.push(sum.live as f64 / sum.total as f64);
        }
    }
    store.audit();
    summary(&samples, spent, count)
}

fn theirs(mix: &Mix, memory: u64, count: u64) -> Measured {
    let units = u32::try_from(memory / UNIT).expect("a GiB in pages");
    let mut allocator = Allocator::new(units);
    // By the time of the last use.
    let mut held: BTreeMap<u64, (Allocation, u64)> = BTreeMap::new();
    let mut random = StdRng::seed_from_u64(7);
    let (mut live, mut spent) = (0u64, Duration::ZERO);
    let mut samples = Vec::new();
    for n in 0..count {
        let pages = ((mix.len)(&mut random, n, count) + 128 + 8).div_ceil(UNIT);
        let wanted = u32::try_from(pages).expect("less than a GiB");
        let start = std::time::Instant::now();
        let got = loop {
            if let Some(got) = allocator.allocate(wanted) {
                break got;
            }
            let (_, (oldest, pages)) = held.pop_first().expect("it fits an empty memory");
            allocator.free(oldest);
            live -= pages;
        };
        if n > count / 3 {
            spent += start.elapsed();
        }
        held.insert(2 * n, (got, pages));
        live += pages;
        let oldest = *held.keys().next().expect("just put there");
        let used = *held.range(random.random_range(oldest..=2 * n)..).next().expect("up to the last").0;
        let used = held.remove(&used).expect("just found");
        held.insert(2 * n + 1, used);
        if n % 16 == 0 && n > count / 3 {
            samples.push(live as f64 / f64::from(units));
        }
    }
    summary(&samples, spent, count)
}

fn summary(samples: &[f64], spent: Duration, count: u64) -> Measured {
    let mean = samples.iter().sum::<f64>() / samples.len().max(1) as f64;
    let least = samples.iter().copied().fold(1.0, f64::min);
    Measured { mean, least, ns: spent.as_nanos() as f64 * 1.5 / count as f64 }
}

fn main() {
    let full = std::env::args().any(|arg| arg == "--bench");
    let memory: u64 = if full { 1 << 30 } else { 32 << 20 };
    println!("{:<24} | {:>6} {:>6} {:>8} | {:>6} {:>6} {:>8}", "", "ours", "least", "ns", "crate", "least", "ns");
    for mix in &MIXES {
        // Enough to turn the memory over a few times.
        let mut random = StdRng::seed_from_u64(7);
        let mean: u64 = (0..1_000).map(|n| (mix.len)(&mut random, n, 1_000)).sum::<u64>() / 1_000;
        let count = memory / mean * if full { 12 } else { 4 };
        let (ours, theirs) = (ours(mix, memory, count), theirs(mix, memory, count));
        println!(
            "{:<24} | {:>6.3} {:>6.3} {:>8.0} | {:>6.3} {:>6.3} {:>8.0}",
            mix.name, ours.mean, ours.least, ours.ns, theirs.mean, theirs.least, theirs.ns
        );
        assert!(ours.mean > 0.5, "{}: {:.3} of the memory is in use", mix.name, ours.mean);
    }
}
