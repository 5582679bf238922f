//! Memory that several parties touch: mapped segments, clients' buffers.
//!
//! Role: the contract between `storage`, which owns such memory, and `transport`, which moves bytes through it.
//!
//! Invariants:
//! - Memory that a peer may write is never seen as `&[u8]`: bytes are copied out raw, then checked.

#![expect(unsafe_code, reason = "declares the contract that raw memory access rests on")]

use std::sync::Arc;

/// Memory that stays mapped at one address until the value is dropped.
///
/// # Safety
/// `base()..base() + len()` is mapped, readable and (for a segment of our own) writable for the whole life of the
/// value, at the same address, and no `&mut` to it exists anywhere in this process.
pub unsafe trait StableMemory: Send + Sync {
    /// First byte.
    fn base(&self) -> *mut u8;
    /// Mapped bytes from `base`.
    fn len(&self) -> usize;
    /// Whether nothing is mapped.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A run of bytes inside some [`StableMemory`], which it keeps mapped.
#[derive(Clone)]
pub struct RawSpan {
    memory: Arc<dyn StableMemory>,
    offset: usize,
    len: usize,
}

impl RawSpan {
    /// `len` bytes at `offset` of `memory`; `None` if they run past its end.
    pub fn new(memory: Arc<dyn StableMemory>, offset: usize, len: usize) -> Option<Self> {
        (offset.checked_add(len)? <= memory.len()).then_some(Self { memory, offset, len })
    }

    /// First byte. Valid for [`len`](Self::len) bytes while `self` lives.
    pub fn as_ptr(&self) -> *mut u8 {
        self.memory.base().wrapping_add(self.offset)
    }

    /// Bytes in the span.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the span has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `len` bytes at `offset` within this span; `None` if they run past its end.
    pub fn part(&self, offset: usize, len: usize) -> Option<Self> {
        (offset.checked_add(len)? <= self.len).then(|| Self {
            memory: Arc::clone(&self.memory),
            offset: self.offset + offset,
            len,
        })
    }
}

impl std::fmt::Debug for RawSpan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawSpan({} bytes)", self.len)
    }
}
