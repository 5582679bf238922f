//! Question: what does it cost to move a value and know its checksum, beside moving it alone?
//!
//! Workload: one thread copies blocks, in scattered order, out of a pool into a ring. Out of the cache: pool of 256 MiB,
//! ring of 64 MiB. In the cache: both of 512 KiB. The ways take turns within each round; figures are medians of the
//! rounds, in GB/s of payload. What memory allows at best is the line `sum alone`, which reads and does not write.
//!
//! `cargo run --release -p mooncake-protocol --example copy_speed [ROUNDS]`, 7 rounds unless said otherwise.

use protocol::base::{Crc, RawSpan, StableMemory, copy_and_crc, copy_from, copy_slice, crc_of};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIZES: [usize; 7] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];

/// Slots begin at pages.
const PAGE: usize = 4096;

/// A buffer whose bytes are reached raw, as those of a segment are.
struct Heap(*mut u8, usize);

#[expect(unsafe_code, reason = "memory to copy, declared as a segment declares its own")]
mod heap {
    use super::{Heap, PAGE, StableMemory};

    impl Heap {
        pub(super) fn new(len: usize) -> Self {
            let bytes: Box<[u8]> = (0..len + PAGE).map(|at| at.wrapping_mul(0x9e37_79b9).to_le_bytes()[2]).collect();
            let first = Box::leak(bytes).as_mut_ptr();
            Self(first.wrapping_add(first.align_offset(PAGE)), len)
        }
    }

    // SAFETY: the leaked box stays for ever, and no reference to it is kept.
    unsafe impl StableMemory for Heap {
        fn base(&self) -> *mut u8 {
            self.0
        }
        fn len(&self) -> usize {
            self.1
        }
    }
    // SAFETY: a pointer to leaked memory may be used from any thread.
    unsafe impl Send for Heap {}
    // SAFETY: as above.
    unsafe impl Sync for Heap {}
}

/// What is measured: moves one block and makes its checksum, or part of that.
type Way<'a> = (&'static str, Box<dyn Fn(&RawSpan, &RawSpan) + 'a>);

fn main() {
    let rounds = std::env::args().nth(1).map_or(7, |text| text.parse().expect("a number of rounds"));
    table("out of the cache", 256 << 20, 64 << 20, rounds, Duration::from_millis(30));
    table("in the cache", 512 << 10, 512 << 10, rounds, Duration::from_millis(5));
}

fn table(title: &str, pool_len: usize, ring_len: usize, rounds: usize, turn: Duration) {
    let pool: Arc<dyn StableMemory> = Arc::new(Heap::new(pool_len));
    let ring: Arc<dyn StableMemory> = Arc::new(Heap::new(ring_len));
    let sum = |crc: Crc| {
        black_box(crc);
    };
    let ways: [Way<'_>; 6] = [
        ("memcpy", Box::new(memcpy)),
        (
            "memcpy, then crc32fast",
            Box::new(|from, to| {
                memcpy(from, to);
                sum(Crc::of(slice(to)));
            }),
        ),
        ("copy_and_crc (to a slot)", Box::new(|from, to| sum(copy_and_crc(from, to, Crc(0))))),
        ("copy_from (to a reader)", Box::new(|from, to| sum(copy_from(from, slice_mut(to))))),
        ("copy_slice (to a lent buffer)", Box::new(|from, to| sum(copy_slice(slice(from), slice_mut(to))))),
        ("crc_of (sum alone)", Box::new(|from, _| sum(crc_of(from)))),
    ];
    let sizes: Vec<usize> = SIZES.into_iter().filter(|size| size * 2 <= ring_len).collect();
    let mut rates = vec![vec![Vec::new(); sizes.len()]; ways.len()];
    for _ in 0..rounds {
        for (column, &size) in sizes.iter().enumerate() {
            for (row, (_, way)) in ways.iter().enumerate() {
                rates[row][column].push(rate(&pool, &ring, size, turn, way.as_ref()));
            }
        }
    }
    print!("{title:<30}");
    sizes.iter().for_each(|size| print!("{:>8}", protocol::base::ByteLen(*size as u64).to_string().replace(' ', "")));
    println!();
    for ((name, _), row) in ways.iter().zip(&mut rates) {
        print!("{name:<30}");
        for column in row {
            column.sort_by(f64::total_cmp);
            print!("{:>8.1}", column[column.len() / 2]);
        }
        println!();
    }
}

/// GB/s of one way for one turn.
fn rate(
    pool: &Arc<dyn StableMemory>,
    ring: &Arc<dyn StableMemory>,
    size: usize,
    turn: Duration,
    way: &dyn Fn(&RawSpan, &RawSpan),
) -> f64 {
    let (blocks, slots) = (pool.len() / size, ring.len() / size);
    let stride = (blocks * 618 / 1000) | 1;
    let (mut block, mut slot, mut bytes) = (0, 0, 0usize);
    let started = Instant::now();
    loop {
        for _ in 0..1 + (64 << 10) / size {
            block = (block + stride) % blocks;
            slot = (slot + 1) % slots;
            let from = RawSpan::new(Arc::clone(pool), block * size, size).expect("inside");
            let to = RawSpan::new(Arc::clone(ring), slot * size, size).expect("inside");
            way(&from, &to);
            bytes += size;
        }
        let elapsed = started.elapsed();
        if elapsed >= turn {
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            return bytes as f64 / elapsed.as_secs_f64() / 1e9;
        }
    }
}

#[expect(unsafe_code, reason = "the ways to compare with work on slices")]
fn slice(span: &RawSpan) -> &[u8] {
    // SAFETY: the span's memory lives for ever and one thread uses it, which writes only through spans it knows apart.
    unsafe { std::slice::from_raw_parts(span.as_ptr(), span.len()) }
}

#[expect(unsafe_code, reason = "the ways to compare with work on slices")]
#[expect(clippy::mut_from_ref, reason = "a span stands for a pointer; each is used once at a time")]
fn slice_mut(span: &RawSpan) -> &mut [u8] {
    // SAFETY: as in `slice`; pool and ring do not overlap, and one borrow of a ring block is alive at a time.
    unsafe { std::slice::from_raw_parts_mut(span.as_ptr(), span.len()) }
}

fn memcpy(from: &RawSpan, to: &RawSpan) {
    slice_mut(to).copy_from_slice(slice(from));
    black_box(to.as_ptr());
}
