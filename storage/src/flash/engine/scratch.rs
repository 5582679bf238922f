//! Aligned memory for what does not lie in a slot as the device wants it: headers, tails, footers, small values.
//!
//! Role: a fixed number of buffers of one length in one mapping, which an engine can register.
//!
//! Invariants:
//! - A buffer has one owner; dropping it gives it back. Its span keeps the mapping, but not the buffer: whoever submitted
//!   a span keeps the [`Scratch`] until the answer.

use super::BLOCK;
use crate::dram::memory::{PlainMemory, lend, lend_mut};
use parking_lot::Mutex;
use protocol::base::{RawSpan, StableMemory};
use std::fmt;
use std::io;
use std::sync::Arc;

/// Buffers of one length. Cheap to clone.
#[derive(Clone)]
pub struct ScratchPool(Arc<Pool>);

struct Pool {
    memory: Arc<dyn StableMemory>,
    buffer_len: usize,
    count: usize,
    free: Mutex<Vec<usize>>,
}

impl ScratchPool {
    /// `count` buffers of `buffer_len` bytes each, rounded up to whole blocks.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(buffer_len: usize, count: usize) -> io::Result<Self> {
        let buffer_len = buffer_len.max(1).next_multiple_of(BLOCK);
        let len = buffer_len.checked_mul(count.max(1)).ok_or_else(|| io::Error::other("scratch longer than memory"))?;
        let memory = Arc::new(PlainMemory::new(len)?);
        let free = Mutex::new((0..count.max(1)).rev().collect());
        Ok(Self(Arc::new(Pool { memory, buffer_len, count: count.max(1), free })))
    }

    /// For [`EngineOptions::fixed`](super::EngineOptions::fixed).
    pub fn memory(&self) -> Arc<dyn StableMemory> {
        Arc::clone(&self.0.memory)
    }

    /// Bytes of each buffer.
    pub fn buffer_len(&self) -> usize {
        self.0.buffer_len
    }

    /// Buffers free now.
    pub fn free(&self) -> usize {
        self.0.free.lock().len()
    }

    /// A buffer with whatever it held last; `None` if all are taken.
    pub fn take(&self) -> Option<Scratch> {
        let index = self.0.free.lock().pop()?;
        let span = RawSpan::new(self.memory(), index * self.0.buffer_len, self.0.buffer_len)
            .expect("buffers lie inside their mapping");
        Some(Scratch { pool: Arc::clone(&self.0), index, span })
    }
}

impl fmt::Debug for ScratchPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScratchPool({} of {} free, {} bytes each)", self.free(), self.0.count, self.0.buffer_len)
    }
}

/// One buffer.
pub struct Scratch {
    pool: Arc<Pool>,
    index: usize,
    span: RawSpan,
}

impl Scratch {
    /// The first `len` bytes, for an [`Op`](super::Op).
    ///
    /// # Panics
    /// If the buffer is shorter.
    pub fn span(&self, len: usize) -> RawSpan {
        self.span.part(0, len).unwrap_or_else(|| panic!("{len} bytes of a scratch buffer of {}", self.span.len()))
    }

    /// All of it. Not while an op with its span is under way.
    pub fn bytes(&self) -> &[u8] {
        lend(&self.span)
    }

    /// All of it. Not while an op with its span is under way.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        lend_mut(&mut self.span)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.pool.free.lock().push(self.index);
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scratch({} bytes)", self.span.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_disjoint_and_come_back() {
        let pool = ScratchPool::new(5000, 3).expect("memory");
        let mut taken: Vec<Scratch> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!((taken.len(), pool.free(), pool.buffer_len()), (3, 0, 8192));
        for (n, scratch) in taken.iter_mut().enumerate() {
            assert!(scratch.span(4096).as_ptr().addr().is_multiple_of(BLOCK));
            scratch.bytes_mut().fill(u8::try_from(n).expect("few"));
        }
        for (n, scratch) in taken.iter().enumerate() {
            assert!(scratch.bytes().iter().all(|&byte| usize::from(byte) == n));
        }
        drop(taken);
        assert_eq!(pool.free(), 3);
    }

    #[test]
    #[should_panic(expected = "of a scratch buffer of 4096")]
    fn a_span_past_the_buffer_is_a_bug() {
        let pool = ScratchPool::new(1, 2).expect("memory");
        let scratch = pool.take().expect("free");
        let _ = scratch.span(8192);
    }
}
