//! Holds every copy kernel that the machine has to the plain one.
//!
//! Invariant: the bytes and the checksum are the same at every length and alignment, and nothing beside the target is written.

use super::*;
use proptest::prelude::*;
use std::sync::Arc;

struct Heap(Box<[std::cell::UnsafeCell<u8>]>);

// SAFETY: a boxed slice stays where it is until dropped; its cells lend no `&mut`; tests write it from one thread.
unsafe impl super::super::StableMemory for Heap {
    fn base(&self) -> *mut u8 {
        self.0.as_ptr().cast_mut().cast()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
}

// SAFETY: the tests use a `Heap` in one thread.
unsafe impl Sync for Heap {}

fn span_of(bytes: &[u8], offset: usize) -> RawSpan {
    let padded = std::iter::repeat_n(0u8, offset).chain(bytes.iter().copied());
    let heap = Heap(padded.map(std::cell::UnsafeCell::new).collect());
    RawSpan::new(Arc::new(heap), offset, bytes.len()).expect("inside")
}

fn bytes_of(span: &RawSpan) -> Vec<u8> {
    let mut bytes = vec![0; span.len()];
    // SAFETY: the span is as long as the vector and nobody writes it.
    unsafe { std::ptr::copy_nonoverlapping(span.as_ptr(), bytes.as_mut_ptr(), bytes.len()) };
    bytes
}

fn some_bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_le_bytes()[7]
        })
        .collect()
}

/// Moves a source given before to where it is told.
type Way = Box<dyn Fn(*mut u8, Store) -> Crc>;

/// Each way of moving, between buffers with a guard on both sides, against the plain copy and `crc32fast`.
fn check(len: usize, from_offset: usize, to_offset: usize, before: Crc, seed: u64) {
    const GUARD: usize = 64;
    let bytes = some_bytes(len, seed);
    let source = span_of(&bytes, from_offset);
    let expected = before.extend(&bytes);
    let case = || format!("{len} bytes, from {from_offset} to {to_offset}, seed {seed:#x}");
    assert_eq!(crc_of(&source), Crc::of(&bytes), "{}", case());
    let mut ways: Vec<(String, Way)> = Vec::new();
    let from = source.as_ptr();
    ways.push((
        "pieces".into(),
        // SAFETY: `source` lives and has `len` bytes, and so does the target below.
        Box::new(move |to, store| unsafe { move_pieces(from, to, len, before, store) }),
    ));
    #[cfg(target_arch = "x86_64")]
    for kernel in x86::Kernel::ALL.into_iter().filter(|kernel| kernel.is_here()) {
        ways.push((
            format!("{kernel:?}"),
            // SAFETY: as above; the kernel is here.
            Box::new(move |to, store| unsafe { move_by(kernel, from, to, len, before, store) }),
        ));
    }
    for (name, way) in ways {
        for store in [Store::Nowhere, Store::Cached, Store::Streaming] {
            let target = span_of(&vec![0xa5; len + 2 * GUARD], to_offset);
            let crc = way(target.as_ptr().wrapping_add(GUARD), store);
            assert_eq!(crc, expected, "{name}, {}", case());
            let mut wanted = vec![0xa5; len + 2 * GUARD];
            if store != Store::Nowhere {
                wanted[GUARD..GUARD + len].copy_from_slice(&bytes);
            }
            assert!(bytes_of(&target) == wanted, "{name}: wrong bytes, {}", case());
        }
    }
}

#[test]
fn every_short_length_is_copied_and_summed() {
    for len in 0..=1100 {
        check(len, len % 67, len % 61, Crc(0), 7);
    }
}

#[test]
fn the_public_copies_agree_with_plain_ones() {
    let streaming = [STREAMING_LEN_MIN, STREAMING_INTO_LEN_MIN, STREAMING_RELAY_LEN_MIN];
    for len in [0, 1, 511, 512, 4096].into_iter().chain(streaming.into_iter().flat_map(|len| [len - 1, len, len + 77]))
    {
        let bytes = some_bytes(len, 3);
        let expected = Crc::of(&bytes);
        let (source, target) = (span_of(&bytes, 5), span_of(&vec![0; len], 9));
        assert_eq!(copy_and_crc(&source, &target, Crc(0)), expected, "{len}");
        assert!(bytes_of(&target) == bytes, "{len}");
        let mut out = vec![0; len];
        assert_eq!(copy_from(&target, &mut out), expected, "{len}");
        assert!(out == bytes, "{len}");
        let target = span_of(&vec![0; len], 1);
        assert_eq!(copy_into(&bytes, &target), expected, "{len}");
        assert!(bytes_of(&target) == bytes, "{len}");
        out.fill(0);
        assert_eq!(copy_slice(&bytes, &mut out), expected, "{len}");
        assert!(out == bytes, "{len}");
    }
}

#[test]
#[should_panic(expected = "overlap")]
fn spans_that_overlap_are_refused() {
    let whole = span_of(&[0; 64], 0);
    let (left, right) = (whole.part(0, 40).expect("inside"), whole.part(24, 40).expect("inside"));
    copy_and_crc(&left, &right, Crc(0));
}

/// The source is scribbled on during the copies: the checksum is that of the bytes that arrived, whatever they are.
#[test]
fn a_scribbler_cannot_part_checksum_and_bytes() {
    use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
    let len = 64 * 1024 + 13;
    let source = span_of(&vec![0; len], 3);
    let stop = AtomicBool::new(false);
    let first = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let scribbled = source.clone();
        let (stop, first) = (&stop, &first);
        scope.spawn(move || {
            let mut value = 0u8;
            while !stop.load(Ordering::Relaxed) {
                value = value.wrapping_add(1);
                for at in (0..len).step_by(97) {
                    let byte = scribbled.as_ptr().wrapping_add(at);
                    // SAFETY: inside the span, one byte, always aligned; reached only raw by the other thread.
                    unsafe { AtomicU8::from_ptr(byte) }.store(value, Ordering::Relaxed);
                }
                first.store(true, Ordering::Release);
            }
        });
        while !first.load(Ordering::Acquire) {
            std::hint::spin_loop();
        }
        let mut out = vec![0; len];
        for _ in 0..200 {
            let crc = copy_from(&source, &mut out);
            assert_eq!(crc, Crc::of(&out));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_length_and_alignment_is_copied_and_summed(
        len in 0usize..20_000, from in 0usize..130, to in 0usize..130, before: u32, seed: u64,
    ) {
        check(len, from, to, Crc(before), seed);
    }
}
