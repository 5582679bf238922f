//! Copies between raw memory and checked bytes, and the checksum of what was copied.
//!
//! Role: the one place where payload bytes are moved by the CPU. A checksum is always that of the bytes
//! that arrived: they are folded from the registers they were stored from, never read again from a source that
//! somebody else may still write.
//!
//! Long copies go past the cache (streaming stores): a block that does not stay in the cache is copied at 1.6 to 1.9
//! times the speed of `memcpy`, and the checksum hides behind the memory. Measured by `examples/copy_speed.rs`.

#![expect(unsafe_code, reason = "raw copies from memory that peers may write")]

#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::{Crc, RawSpan};
use std::sync::atomic::{Ordering, compiler_fence};

/// From this length on a copy to a reader's own memory goes past the cache. The reader is likely to look at a shorter
/// one at once, which costs what the streaming stores saved.
pub const STREAMING_LEN_MIN: usize = 256 * 1024;

/// The same for a copy into a slot, which nobody reads at once.
const STREAMING_INTO_LEN_MIN: usize = 64 * 1024;

/// The same for a copy into memory that another core reads next, through the cache they share.
const STREAMING_RELAY_LEN_MIN: usize = 4 << 20;

/// Where the bytes go, beside the checksum.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Store {
    Nowhere,
    Cached,
    Streaming,
}

/// Copies `from` over `to`, both of one length, and returns the checksum of the bytes stored, after `crc`.
///
/// # Panics
/// If the lengths differ, or the spans overlap.
pub fn copy_and_crc(from: &RawSpan, to: &RawSpan, crc: Crc) -> Crc {
    assert_eq!(from.len(), to.len(), "a copy keeps its length");
    let (first, second) = (from.as_ptr().addr().min(to.as_ptr().addr()), from.as_ptr().addr().max(to.as_ptr().addr()));
    assert!(second - first >= from.len(), "a copy between spans that overlap");
    // SAFETY: both spans are mapped for the length they share while borrowed, and do not overlap.
    unsafe { move_bytes(from.as_ptr(), to.as_ptr(), from.len(), crc, store_of(from.len(), STREAMING_INTO_LEN_MIN)) }
}

/// Copies `from` into `to` and returns the checksum of what now lies in `to`.
///
/// # Panics
/// If the lengths differ.
pub fn copy_from(from: &RawSpan, to: &mut [u8]) -> Crc {
    assert_eq!(from.len(), to.len(), "a copy keeps its length");
    // SAFETY: the span is mapped for its length while borrowed; `to` is as long and, borrowed mutably, ours alone.
    unsafe {
        move_bytes(from.as_ptr(), to.as_mut_ptr(), to.len(), Crc::default(), store_of(to.len(), STREAMING_LEN_MIN))
    }
}

/// Copies `from` over `to` and returns the checksum of the bytes.
///
/// # Panics
/// If the lengths differ.
pub fn copy_into(from: &[u8], to: &RawSpan) -> Crc {
    assert_eq!(from.len(), to.len(), "a copy keeps its length");
    // SAFETY: the span is mapped for its length while borrowed; `from` is as long and cannot overlap it.
    unsafe {
        move_bytes(from.as_ptr(), to.as_ptr(), from.len(), Crc::default(), store_of(from.len(), STREAMING_INTO_LEN_MIN))
    }
}

/// Copies `from` over `to`, whose bytes another process reads next, and returns their checksum.
///
/// # Panics
/// If the lengths differ.
pub fn copy_slice(from: &[u8], to: &mut [u8]) -> Crc {
    assert_eq!(from.len(), to.len(), "a copy keeps its length");
    // SAFETY: both are as long, and borrows that cannot overlap.
    unsafe {
        move_bytes(
            from.as_ptr(),
            to.as_mut_ptr(),
            from.len(),
            Crc::default(),
            store_of(from.len(), STREAMING_RELAY_LEN_MIN),
        )
    }
}

/// The checksum of a span that nobody writes any more. Reads by raw loads, so that even a scribbler cannot make this
/// undefined.
pub fn crc_of(span: &RawSpan) -> Crc {
    // SAFETY: the span is mapped for its length while borrowed; nothing is stored.
    unsafe { move_bytes(span.as_ptr(), std::ptr::null_mut(), span.len(), Crc::default(), Store::Nowhere) }
}

fn store_of(len: usize, streaming_len_min: usize) -> Store {
    if len >= streaming_len_min { Store::Streaming } else { Store::Cached }
}

/// Moves `len` bytes as `store` says and returns their checksum after `crc`.
///
/// # Safety
/// `from` is valid for reading `len` bytes, which another process may write meanwhile. Unless `store` is `Nowhere`,
/// `to` is valid for writing `len` bytes and does not overlap them.
unsafe fn move_bytes(from: *const u8, to: *mut u8, len: usize, crc: Crc, store: Store) -> Crc {
    #[cfg(target_arch = "x86_64")]
    if len >= 2 * x86::BLOCK
        && let Some(kernel) = x86::Kernel::best()
    {
        // SAFETY: as the caller promises; the kernel was found to be here.
        return unsafe { move_by(kernel, from, to, len, crc, store) };
    }
    // SAFETY: as the caller promises.
    unsafe { move_pieces(from, to, len, crc, store) }
}

/// Moves by `kernel` what it can: whole blocks from where the target is aligned.
///
/// # Safety
/// As [`move_bytes`], and `kernel` is here.
#[cfg(target_arch = "x86_64")]
unsafe fn move_by(kernel: x86::Kernel, from: *const u8, to: *mut u8, len: usize, crc: Crc, store: Store) -> Crc {
    // The target's alignment decides: a store that straddles two lines costs more than such a load. Without a target
    // it is the source's.
    let aligned = if store == Store::Nowhere { from.addr() } else { to.addr() };
    let head = (aligned.next_multiple_of(x86::ALIGN) - aligned).min(len);
    let body = (len - head) / x86::BLOCK * x86::BLOCK;
    // SAFETY: the first `head` of the caller's bytes.
    let mut crc = unsafe { move_pieces(from, to, head, crc, store) };
    if body > 0 {
        let (from, to) = (from.wrapping_add(head), to.wrapping_add(head));
        // The checksum is the register inverted.
        let folded = match store {
            // SAFETY: `body` bytes from `head` on are the caller's and whole blocks; nothing is stored.
            Store::Nowhere => unsafe { kernel.fold::<{ x86::store::NONE }>(from, to, body, !crc.0) },
            // SAFETY: the same, and the target is valid and apart.
            Store::Cached => unsafe { kernel.fold::<{ x86::store::PLAIN }>(from, to, body, !crc.0) },
            // SAFETY: the same, and `head` ends where the target is aligned.
            Store::Streaming => unsafe { kernel.fold::<{ x86::store::STREAMING }>(from, to, body, !crc.0) },
        };
        // An empty register is the inverse of this checksum.
        crc = Crc(u32::MAX).extend(&folded);
    }
    let done = head + body;
    // SAFETY: the last of the caller's bytes.
    unsafe { move_pieces(from.wrapping_add(done), to.wrapping_add(done), len - done, crc, store) }
}

/// Moves by way of a small buffer of our own, whose bytes are what is stored and what is summed.
///
/// # Safety
/// As [`move_bytes`].
unsafe fn move_pieces(from: *const u8, to: *mut u8, len: usize, mut crc: Crc, store: Store) -> Crc {
    let mut piece = [0u8; 512];
    let mut at = 0;
    while at < len {
        let count = piece.len().min(len - at);
        // SAFETY: `at + count` is at most `len`, for which `from` is valid; `piece` is ours and has `count` bytes.
        unsafe { std::ptr::copy_nonoverlapping(from.wrapping_add(at), piece.as_mut_ptr(), count) };
        // Nothing is assumed of `from` from here on: without this the second copy might be taken from it again.
        compiler_fence(Ordering::SeqCst);
        crc = crc.extend(&piece[..count]);
        if store != Store::Nowhere {
            // SAFETY: the same for `to`.
            unsafe { std::ptr::copy_nonoverlapping(piece.as_ptr(), to.wrapping_add(at), count) };
        }
        at += count;
    }
    crc
}
