//! Copies between raw memory and checked bytes, and the checksum of what was copied.
//!
//! Role: the one place where payload bytes are moved by the CPU. A checksum is always that of the bytes
//! that arrived: they are folded from the registers they were stored from, never read again from a source that
//! somebody else may still write.

#![expect(unsafe_code, reason = "raw copies from memory that peers may write")]

use super::{Crc, RawSpan};

/// From this length on copies bypass the cache (streaming stores). A shorter value is likely to be used at once.
pub const STREAMING_LEN_MIN: usize = 256 * 1024;

/// Copies `from` over `to`, both of one length, and returns the checksum of the bytes stored, after `crc`.
///
/// # Panics
/// If the lengths differ.
pub fn copy_and_crc(from: &RawSpan, to: &RawSpan, crc: Crc) -> Crc {
    assert_eq!(from.len(), to.len(), "a copy keeps its length");
    let mut crc = crc;
    let mut piece = [0u8; 4096];
    let mut at = 0;
    while at < from.len() {
        let n = piece.len().min(from.len() - at);
        // SAFETY: both spans are mapped for their whole length while borrowed, `piece` is ours, and `n` stays inside all.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr().add(at), piece.as_mut_ptr(), n) };
        crc = crc.extend(&piece[..n]);
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(piece.as_ptr(), to.as_ptr().add(at), n) };
        at += n;
    }
    crc
}

/// Copies `from` into `to` and returns the checksum of what now lies in `to`.
///
/// # Panics
/// If the lengths differ.
pub fn copy_from(from: &RawSpan, to: &mut [u8]) -> Crc {
    assert_eq!(from.len(), to.len(), "a copy keeps its length");
    // SAFETY: the span is mapped for its length while borrowed; `to` is ours alone and as long.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), to.len()) };
    Crc::of(to)
}

/// Copies `from` over `to` and returns the checksum of the bytes.
///
/// # Panics
/// If the lengths differ.
pub fn copy_into(from: &[u8], to: &RawSpan) -> Crc {
    assert_eq!(from.len(), to.len(), "a copy keeps its length");
    // SAFETY: the span is mapped for its length while borrowed; `from` is as long and cannot overlap it.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), from.len()) };
    Crc::of(from)
}

/// Copies `from` over `to` and returns the checksum of the bytes.
///
/// # Panics
/// If the lengths differ.
pub fn copy_slice(from: &[u8], to: &mut [u8]) -> Crc {
    to.copy_from_slice(from);
    Crc::of(from)
}

/// The checksum of a span that nobody writes any more. Copies through a small buffer, so that even a scribbler cannot
/// make this undefined.
pub fn crc_of(span: &RawSpan) -> Crc {
    let mut crc = Crc::default();
    let mut piece = [0u8; 4096];
    let mut at = 0;
    while at < span.len() {
        let n = piece.len().min(span.len() - at);
        // SAFETY: `at + n` stays inside the span; `piece` is ours.
        unsafe { std::ptr::copy_nonoverlapping(span.as_ptr().add(at), piece.as_mut_ptr(), n) };
        crc = crc.extend(&piece[..n]);
        at += n;
    }
    crc
}
