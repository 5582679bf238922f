//! Bytes on flash: what each block of a device means, and which bytes are believed. Little-endian. Format 1.
//!
//! Role: pure encoding and decoding, no I/O. `docs/format.md` shows the same layouts in one place, with the order of
//! writes that they rely on.
//!
//! ```text
//! device    superblock, copy | free to 1 MiB | segment 0 | segment 1 | …
//! segment   header page | record | record | … | free | footer, right-aligned, its last page is the tail
//! record    header pages: fixed part, chunk checksums, key, small payload | payload, padded to a page
//! ```
//!
//! Invariants:
//! - Whether bytes are a record or a footer of a segment's present life is decided by a MAC keyed with a nonce that was
//!   drawn for this life and that no client ever sees. A CRC would not do: it is linear, so that payload bytes can be
//!   chosen to satisfy it without knowing the secret part.
//! - The MAC covers where the record lies, so a valid record at another place is none.
//! - What is decoded encodes to the same bytes: reserved fields and padding are zero, or it is refused.
//! - Decoding takes any bytes and never panics; lengths are checked before they are used.
//! - How many pages a record takes follows from its key's length and its payload's: see [`RecordLayout`].

mod bytes;
mod footer;
mod record;
mod segment;
mod superblock;
#[cfg(test)]
mod tests;

pub use footer::{Row, TABLE_COUNT_MAX, Table, Tail};
pub use record::{CHUNK_LEN, Record, RecordLayout, RecordView, chunks_of};
pub use segment::{Head, Life, Nonce, SegmentHeader};
pub use superblock::{DeviceId, FIRST_SEGMENT_OFFSET, Geometry, SUPERBLOCK_COPIES, Superblock};

use siphasher::sip128::{Hasher128, SipHasher24};
use std::hash::Hasher;

/// Unit of everything on flash, in bytes.
pub const PAGE_LEN: usize = 4096;
/// The version that this code writes, and the only one it reads.
pub const VERSION: u16 = 1;
/// Shortest segment, in bytes.
pub const SEGMENT_LEN_MIN: u64 = 1 << 20;
/// Longest segment, in bytes: its pages are counted in 16 bits.
pub const SEGMENT_LEN_MAX: u64 = 1 << 28;

/// What is wrong where this version of the format has zeros.
const RESERVED: &str = "what is reserved is not zero";

/// Why bytes were not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Other bytes than this structure begins with.
    #[error("no {what} here")]
    Magic {
        /// The structure that was looked for.
        what: &'static str,
    },
    /// Written by a newer or older program.
    #[error("{what} of format {found}, this program reads format {VERSION}")]
    Version {
        /// The structure.
        what: &'static str,
        /// Its version.
        found: u16,
    },
    /// The check over the structure does not hold.
    #[error("{what} is damaged, or of another life of its segment")]
    Check {
        /// The structure.
        what: &'static str,
    },
    /// The check holds, but the content contradicts itself or its place.
    #[error("{what} is inconsistent: {why}")]
    Inconsistent {
        /// The structure.
        what: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// Fewer bytes than the structure takes.
    #[error("{what} is cut off")]
    Short {
        /// The structure.
        what: &'static str,
    },
}

/// SipHash-2-4 with 128 bits (Aumasson, Bernstein 2012) of `parts` in a row, keyed by `nonce`.
pub(crate) fn mac(nonce: &Nonce, parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = SipHasher24::new_with_key(&nonce.0);
    for part in parts {
        hasher.write(part);
    }
    hasher.finish128().as_bytes()
}

/// Pages that `len` bytes take.
pub(crate) fn pages_ceil(len: usize) -> usize {
    len.div_ceil(PAGE_LEN)
}
