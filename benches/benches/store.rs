//! What does one small request cost the store, without a server around it?
//!
//! Workload: keys of 36 bytes, values of 100, one thread, no other client. Unit: time a call. `cargo bench -p mooncake-benches
//! --bench store` measures with a thousand objects, which the caches hold, and with a million, where each call is a handful
//! of cache misses (some 100 to 300 ns each on a virtual machine); without `--bench`, as in `cargo test`, each runs once.

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use protocol::base::{Crc, Instant, Millis, SessionId};
use std::hint::black_box;
use std::sync::Arc;
use storage::{Account, Found, GrantTerms, PlainMemory, Seal, Store, StoreConfig, Terms};

const NOW: Instant = Instant(1_000_000_000_000);
const SESSION: SessionId = SessionId(1);

fn sizes() -> &'static [u64] {
    if std::env::args().any(|arg| arg == "--bench") { &[1_000, 1_000_000] } else { &[1_000] }
}

fn key(number: u64) -> [u8; 36] {
    let mut key = [b'-'; 36];
    key[20..28].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    key
}

/// A store that is full of so many small objects.
fn full(objects: u64) -> Store {
    let config =
        StoreConfig { watermark_high_percent: 100, watermark_low_percent: 100, seed: 1, ..StoreConfig::default() };
    let bytes = (objects.div_ceil(102) + config.shards as u64) * (16 << 10) + (1 << 20);
    let memory = PlainMemory::new(usize::try_from(bytes).expect("64-bit")).expect("memory");
    let store = Store::new(config, vec![Arc::new(memory)]);
    for number in 0..objects {
        set(&store, Instant(NOW.0 + number * 1_000), number);
    }
    store
}

fn set(store: &Store, now: Instant, number: u64) {
    store.set(now, &key(number), &[7; 100], &Account::new(), &Terms::default()).expect("all is evictable");
}

fn small(c: &mut Criterion) {
    let mut group = c.benchmark_group("small");
    for &objects in sizes() {
        let store = full(objects);
        let account = Account::new();
        let mut number = 0u64;
        let mut next = move || {
            number = number.wrapping_add(1);
            (Instant(NOW.0 + (objects + number) * 1_000), number.wrapping_mul(0x2545_f491_4f6c_dd1d) % objects)
        };
        group.bench_function(BenchmarkId::new("get", objects), |b| {
            b.iter(|| {
                let (now, number) = next();
                match store.read(now, &key(number), None, |bytes| bytes[7]).expect("few readers") {
                    Some(Found::Small(byte)) => byte,
                    other => panic!("{other:?}"),
                }
            });
        });
        group.bench_function(BenchmarkId::new("probe", objects), |b| {
            b.iter(|| {
                let (now, number) = next();
                store.contains(now, &key(number))
            });
        });
        group.bench_function(BenchmarkId::new("lease and release", objects), |b| {
            b.iter(|| {
                let (now, number) = next();
                let leased = store.lease(now, &key(number), now + Millis(1_000), SESSION, None).expect("few");
                store.release(leased.expect("live").lease, SESSION)
            });
        });
        group.bench_function(BenchmarkId::new("set, replacing", objects), |b| {
            b.iter(|| {
                let (now, number) = next();
                store.set(now, &key(number), &[7; 100], &account, &Terms::default()).expect("room")
            });
        });
        let mut fresh = objects;
        group.bench_function(BenchmarkId::new("set, evicting", objects), |b| {
            b.iter(|| {
                let (now, _) = next();
                fresh += 1;
                store.set(now, &key(fresh), &[7; 100], &account, &Terms::default()).expect("all is evictable")
            });
        });
    }
    group.finish();
}

/// What the store adds to a transfer of 1 MiB: no byte of the payload is touched here.
fn large(c: &mut Criterion) {
    const LEN: u64 = 1 << 20;
    let memory = PlainMemory::new(64 << 20).expect("memory");
    let config = StoreConfig { reserved_client_percent_max: 25, seed: 1, ..StoreConfig::default() };
    let store = Store::new(config, vec![Arc::new(memory)]);
    let account = Account::new();
    let mut number = 0u64;
    let mut group = c.benchmark_group("1 MiB");
    group.bench_function("grant, seal and commit, evicting", |b| {
        b.iter(|| {
            number += 1;
            let now = Instant(NOW.0 + number * 1_000);
            let deadline = now + Millis(5_000);
            let terms = GrantTerms { session: SESSION, deadline, exposed: false, terms: Terms::default() };
            let granted = store.grant(now, &key(number), LEN, &account, terms).expect("all is evictable");
            match store.seal(now, granted.grant, SESSION, None).expect("open") {
                Seal::Begun(seal) => seal.finish(now, Crc(1), Crc(1)).expect("published").generation,
                Seal::Done(_) => panic!("committed once"),
            }
        });
    });
    group.bench_function("guarded read", |b| {
        b.iter_batched(
            || key(number),
            |key| black_box(store.read(NOW, &key, None, |_| ()).expect("few readers").is_some()),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, small, large);
criterion_main!(benches);
