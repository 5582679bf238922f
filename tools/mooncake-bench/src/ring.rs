//! A ring of buffers that bodies are sent from and received into.
//!
//! Role: together larger than the caches, as an engine's KV pool is, so that neither end of a transfer is hot by accident.
//!
//! Invariants:
//! - All pages are populated before the first use; a slot begins on a page, unless slots are smaller than one.

use anyhow::{Context, Result};
use memmap2::{MmapMut, MmapOptions};

/// Bytes of all rings of one run together, unless single values are larger.
pub(crate) const RING_BYTES: usize = 64 << 20;

const PAGE: usize = 4096;

/// Buffers of one size.
pub(crate) struct Ring {
    memory: MmapMut,
    step: usize,
    slots: usize,
}

impl Ring {
    /// Slots for values of `len` bytes in about `bytes` of memory; at least two.
    pub(crate) fn new(len: usize, bytes: usize) -> Result<Self> {
        let step = if len < PAGE { len.max(1).next_multiple_of(64) } else { len.next_multiple_of(PAGE) };
        let slots = (bytes / step).max(2);
        let mut options = MmapOptions::new();
        options.len(step * slots).populate();
        let memory = options.map_anon().with_context(|| format!("{slots} buffers of {len} bytes"))?;
        Ok(Self { memory, step, slots })
    }

    /// How many buffers there are.
    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// The buffer of turn `n`, which is that of turn `n - slots()` again. As long as the step between buffers.
    pub(crate) fn slot(&mut self, n: usize) -> &mut [u8] {
        let at = n % self.slots * self.step;
        &mut self.memory[at..at + self.step]
    }

    /// Some buffers at once: those of turns `n` to `n + count`, or the first ones where these would wrap.
    pub(crate) fn run(&mut self, n: usize, count: usize) -> Vec<&mut [u8]> {
        assert!(count <= self.slots, "{count} buffers of {}", self.slots);
        let first = if n % self.slots + count <= self.slots { n % self.slots } else { 0 };
        let bytes = &mut self.memory[first * self.step..(first + count) * self.step];
        bytes.chunks_exact_mut(self.step).collect()
    }

    /// To read only.
    pub(crate) fn peek(&self, n: usize) -> &[u8] {
        let at = n % self.slots * self.step;
        &self.memory[at..at + self.step]
    }
}
