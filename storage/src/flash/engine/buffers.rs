//! Which memory a ring knows, and when it gets to know more.
//!
//! Role: cuts memory into slices and registers a slice soon after it was first used. Registering pins every page, which takes
//! a second for a few GiB and more where pages are not there yet: nobody waits for that at start, and no device for long.
//!
//! Invariants:
//! - What is registered lies in [`StableMemory`] that is kept as long as the ring.
//! - Slices begin side by side and overlap, so that memory of up to [`OVERLAP`] bytes lies in one, wherever it begins.

#![expect(unsafe_code, reason = "hands memory to the kernel")]

use io_uring::IoUring;
use protocol::base::{RawSpan, StableMemory};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// From the beginning of a slice to that of the next.
const SLICE: usize = 64 << 20;
/// How far a slice goes on after that. With it, a slice is far from the 1 GiB that the kernel takes.
const OVERLAP: usize = 16 << 20;
/// Slices of one ring: the kernel takes no more.
const SLICES_MAX: usize = 1 << 14;
/// Memory up to this length is registered at once.
const AT_ONCE_MAX: usize = 16 << 20;
/// Registering takes at most one part in so many of a ring's time.
const SHARE: u32 = 10;

/// The memory that one ring was told of.
pub(super) struct Buffers {
    /// By address.
    slices: Vec<Slice>,
    /// Used, and not registered yet.
    wanted: VecDeque<usize>,
    not_before: Instant,
    _memory: Vec<Arc<dyn StableMemory>>,
}

struct Slice {
    base: *mut u8,
    len: usize,
    number: u16,
    state: State,
}

// SAFETY: an address, which only the kernel follows.
unsafe impl Send for Slice {}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Unused,
    Wanted,
    Registered,
    Refused,
}

impl Buffers {
    /// Makes room for all of `memory` in the ring's table, and registers what is short.
    pub(super) fn new(ring: &IoUring, memory: &[Arc<dyn StableMemory>]) -> Self {
        let mut slices = Vec::new();
        for memory in memory {
            for from in (0..memory.len()).step_by(SLICE) {
                let (Ok(number), true) = (u16::try_from(slices.len()), slices.len() < SLICES_MAX) else { continue };
                let base = memory.base().wrapping_add(from);
                let len = (SLICE + OVERLAP).min(memory.len() - from);
                slices.push(Slice { base, len, number, state: State::Unused });
            }
        }
        let count = u32::try_from(slices.len()).expect("bounded above");
        if count > 0
            && let Err(error) = ring.submitter().register_buffers_sparse(count)
        {
            // Kernels before 5.19. All works without, for more CPU.
            tracing::warn!("io_uring takes no table of buffers, memory is not registered: {error}");
            slices.clear();
        }
        slices.sort_unstable_by_key(|slice| slice.base.addr());
        let mut this = Self { slices, wanted: VecDeque::new(), not_before: Instant::now(), _memory: memory.to_vec() };
        for index in 0..this.slices.len() {
            if this.slices[index].len <= AT_ONCE_MAX {
                this.register(ring, index);
            }
        }
        this
    }

    /// Number of the registered slice that all of `part` lies in. If there could be one, there soon will be.
    pub(super) fn find(&mut self, part: &RawSpan) -> Option<u16> {
        let at = part.as_ptr().addr();
        let after = self.slices.partition_point(|slice| slice.base.addr() <= at);
        let index = after.checked_sub(1)?;
        let slice = &mut self.slices[index];
        if at - slice.base.addr() + part.len() > slice.len {
            return None;
        }
        match slice.state {
            State::Registered => return Some(slice.number),
            State::Unused => {
                slice.state = State::Wanted;
                self.wanted.push_back(index);
            }
            State::Wanted | State::Refused => {}
        }
        None
    }

    /// Whether there is something to register, and it is time.
    pub(super) fn is_due(&self) -> bool {
        !self.wanted.is_empty() && Instant::now() >= self.not_before
    }

    /// Registers one slice that was used. By the ring's own thread, or before it has one.
    pub(super) fn register_wanted(&mut self, ring: &IoUring) {
        let begin = Instant::now();
        if let Some(index) = self.wanted.pop_front() {
            self.register(ring, index);
        }
        let end = Instant::now();
        self.not_before = end + end.duration_since(begin).min(Duration::from_secs(1)) * (SHARE - 1);
    }

    fn register(&mut self, ring: &IoUring, index: usize) {
        let slice = &mut self.slices[index];
        let iovec = libc::iovec { iov_base: slice.base.cast(), iov_len: slice.len };
        // SAFETY: `register_buffers_update` needs memory that stays mapped until it is unregistered or the ring closed. It
        // lies in `StableMemory`, which `_memory` keeps; the ring is declared before its buffers, so it closes first.
        let result = unsafe { ring.submitter().register_buffers_update(u32::from(slice.number), &[iovec], None) };
        slice.state = if result.is_ok() { State::Registered } else { State::Refused };
        if let Err(error) = result {
            // Most often RLIMIT_MEMLOCK, and then the next slice is refused too. All works without, for more CPU.
            tracing::warn!("memory is not registered with io_uring (ulimit -l?), which costs CPU: {error}");
            for index in self.wanted.drain(..) {
                self.slices[index].state = State::Refused;
            }
            if error.kind() == io::ErrorKind::OutOfMemory {
                for slice in self.slices.iter_mut().filter(|slice| slice.state == State::Unused) {
                    slice.state = State::Refused;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dram::memory::PlainMemory;

    fn ring() -> IoUring {
        IoUring::new(4).expect("io_uring is refused")
    }

    fn memory(len: usize) -> Arc<dyn StableMemory> {
        Arc::new(PlainMemory::new(len).expect("memory"))
    }

    fn part(memory: &Arc<dyn StableMemory>, offset: usize, len: usize) -> RawSpan {
        RawSpan::new(Arc::clone(memory), offset, len).expect("inside")
    }

    #[test]
    fn short_memory_is_known_at_once_and_other_memory_never() {
        let ring = ring();
        let known = [memory(256 << 10), memory(256 << 10)];
        let mut buffers = Buffers::new(&ring, &known);
        for (memory, number) in known.iter().zip(0..) {
            assert_eq!(buffers.find(&part(memory, 0, 256 << 10)), Some(number));
            assert_eq!(buffers.find(&part(memory, 252 << 10, 4096)), Some(number));
        }
        assert_eq!(buffers.find(&part(&memory(4096), 0, 4096)), None);
    }

    #[test]
    fn long_memory_is_known_soon_after_its_use() {
        let ring = ring();
        let known = [memory(SLICE + 2 * OVERLAP)];
        let mut buffers = Buffers::new(&ring, &known);
        // Across the border of two slices, and thanks to the overlap in the first.
        let across = part(&known[0], SLICE - 4096, OVERLAP);
        let second = part(&known[0], SLICE, 2 * OVERLAP);
        assert_eq!((buffers.find(&across), buffers.find(&second)), (None, None));
        assert!(buffers.is_due());
        buffers.register_wanted(&ring);
        assert_eq!((buffers.find(&across), buffers.find(&second)), (Some(0), None));
        assert!(!buffers.is_due(), "right after the first the ring has other things to do");
        buffers.not_before = Instant::now();
        assert!(buffers.is_due());
        buffers.register_wanted(&ring);
        assert_eq!(buffers.find(&second), Some(1));
    }

    #[test]
    fn memory_that_is_refused_is_not_asked_for_again() {
        let ring = ring();
        let known = [memory(AT_ONCE_MAX + 4096)];
        let mut buffers = Buffers::new(&ring, &known);
        ring.submitter().unregister_buffers().expect("the table goes");
        let used = part(&known[0], 0, 4096);
        assert_eq!(buffers.find(&used), None);
        buffers.register_wanted(&ring);
        assert!(buffers.slices.iter().all(|slice| slice.state == State::Refused) && buffers.wanted.is_empty());
        assert_eq!(buffers.find(&used), None);
    }
}
