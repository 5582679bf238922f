//! Memory that two processes map, and copies of both kinds: through the cache and past it.
//!
//! Role: the only module of this tool that touches raw memory. It measures what the machine allows, so its copies do
//! nothing else: no checksum.
//!
//! Invariants:
//! - Nobody gets a reference to shared bytes, only copies of them; words that both sides write are atomic.

#![expect(unsafe_code, reason = "shared mappings and streaming stores, measured bare")]

use anyhow::{Context, Result, ensure};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::sync::atomic::AtomicU64;

/// How bytes are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CopyBy {
    /// As the C library does.
    Memcpy,
    /// By stores that bypass the cache.
    Streaming,
}

/// One memfd, mapped and populated.
pub(crate) struct Shared {
    map: MmapRaw,
}

/// Creates a memfd of `len` zero bytes.
pub(crate) fn create(name: &str, len: usize) -> Result<OwnedFd> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC).context("memfd")?;
    ftruncate(&fd, len as u64).context("memfd")?;
    Ok(fd)
}

impl Shared {
    pub(crate) fn map(fd: &OwnedFd) -> Result<Self> {
        let map = MmapOptions::new().populate().map_raw(fd).context("map a memfd")?;
        ensure!(map.as_ptr().addr().is_multiple_of(4096), "a mapping begins on a page");
        Ok(Self { map })
    }

    /// Copies bytes out.
    pub(crate) fn read(&self, offset: usize, into: &mut [u8], by: CopyBy) {
        self.check(offset, into.len());
        // SAFETY: the mapping covers `offset..offset + len` while `self` lives, as checked; `into` is a borrow of other
        // memory. Another process may write the source meanwhile: the bytes may then be mixed, and are verified later.
        unsafe { copy(self.map.as_ptr().wrapping_add(offset), into.as_mut_ptr(), into.len(), by) };
    }

    /// Copies bytes in.
    pub(crate) fn write(&self, offset: usize, from: &[u8], by: CopyBy) {
        self.check(offset, from.len());
        // SAFETY: as above, the other way round.
        unsafe { copy(from.as_ptr(), self.map.as_mut_ptr().wrapping_add(offset), from.len(), by) };
    }

    /// Copies `len` bytes from another mapping.
    pub(crate) fn write_from(&self, offset: usize, from: &Self, from_offset: usize, len: usize, by: CopyBy) {
        self.check(offset, len);
        from.check(from_offset, len);
        assert!(!std::ptr::eq(self, from), "two mappings");
        let source = from.map.as_ptr().wrapping_add(from_offset);
        // SAFETY: both ranges are mapped, as checked, and lie in different mappings.
        unsafe { copy(source, self.map.as_mut_ptr().wrapping_add(offset), len, by) };
    }

    /// `count` words at `offset`, a multiple of 8, that both processes may change at any time.
    pub(crate) fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        self.check(offset, count * 8);
        assert!(offset.is_multiple_of(8), "words are aligned");
        let first = self.map.as_mut_ptr().wrapping_add(offset).cast::<AtomicU64>();
        // SAFETY: mapped for the life of `self`, aligned (the mapping begins on a page), and every access to these words
        // in any process is atomic.
        unsafe { std::slice::from_raw_parts(first, count) }
    }

    fn check(&self, offset: usize, len: usize) {
        let end = offset.checked_add(len).expect("a range");
        assert!(end <= self.map.len(), "{offset}..{end} runs past {}", self.map.len());
    }
}

/// Copies over private memory.
pub(crate) fn copy_slice(from: &[u8], to: &mut [u8], by: CopyBy) {
    assert_eq!(from.len(), to.len(), "a copy keeps its length");
    // SAFETY: two borrows of one length, one of them exclusive.
    unsafe { copy(from.as_ptr(), to.as_mut_ptr(), to.len(), by) };
}

/// # Safety
/// `from` is valid for reads and `to` for writes of `len` bytes, and they do not overlap.
unsafe fn copy(from: *const u8, to: *mut u8, len: usize, by: CopyBy) {
    #[cfg(target_arch = "x86_64")]
    if by == CopyBy::Streaming && is_x86_feature_detected!("avx2") {
        let head = to.align_offset(32).min(len);
        let body = (len - head) / 128 * 128;
        // SAFETY: the first `head` bytes of both ranges.
        unsafe { std::ptr::copy_nonoverlapping(from, to, head) };
        // SAFETY: AVX2 is there; the next `body` bytes, `to` aligned to 32.
        unsafe { stream(from.wrapping_add(head), to.wrapping_add(head), body) };
        let done = head + body;
        // SAFETY: the rest of both ranges.
        unsafe { std::ptr::copy_nonoverlapping(from.wrapping_add(done), to.wrapping_add(done), len - done) };
        return;
    }
    let _ = by;
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
}

/// # Safety
/// As [`copy`]; `len` is a multiple of 128, `to` of 32.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn stream(from: *const u8, to: *mut u8, len: usize) {
    use std::arch::x86_64::{__m256i, _mm_sfence, _mm256_loadu_si256, _mm256_stream_si256};
    for at in (0..len).step_by(128) {
        let source = from.wrapping_add(at).cast::<__m256i>();
        let target = to.wrapping_add(at).cast::<__m256i>();
        // Written out: iterators over vectors are not inlined into a function with features of its own.
        // SAFETY: the first 32 of 128 readable bytes; no alignment needed.
        let a = unsafe { _mm256_loadu_si256(source) };
        // SAFETY: the second 32.
        let b = unsafe { _mm256_loadu_si256(source.wrapping_add(1)) };
        // SAFETY: the third 32.
        let c = unsafe { _mm256_loadu_si256(source.wrapping_add(2)) };
        // SAFETY: the last 32.
        let d = unsafe { _mm256_loadu_si256(source.wrapping_add(3)) };
        // SAFETY: the first 32 of 128 writable bytes, aligned to 32.
        unsafe { _mm256_stream_si256(target, a) };
        // SAFETY: the second 32.
        unsafe { _mm256_stream_si256(target.wrapping_add(1), b) };
        // SAFETY: the third 32.
        unsafe { _mm256_stream_si256(target.wrapping_add(2), c) };
        // SAFETY: the last 32.
        unsafe { _mm256_stream_si256(target.wrapping_add(3), d) };
    }
    _mm_sfence();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_copies_move_every_byte_wherever_it_lies() {
        let shared = Shared::map(&create("test", 3 * 4096).unwrap()).unwrap();
        for by in [CopyBy::Memcpy, CopyBy::Streaming] {
            for (offset, len) in [(0, 0), (1, 1), (31, 127), (32, 128), (63, 4097), (0, 8192)] {
                let from: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
                let mut to = vec![0; len];
                shared.write(offset, &from, by);
                shared.read(offset, &mut to, by);
                assert_eq!(from, to, "{len} bytes at {offset}, {by:?}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "runs past")]
    fn ranges_are_checked() {
        Shared::map(&create("test", 4096).unwrap()).unwrap().read(4090, &mut [0; 7], CopyBy::Memcpy);
    }
}
