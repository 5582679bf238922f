//! Reads, writes and syncs of one device, many at a time.
//!
//! Role: moves whole blocks between memory and one file or block device, by io_uring, by threads with plain system calls
//! where io_uring is refused, or to a simulated disk with faults. What the blocks mean is the log's business.
//!
//! Invariants:
//! - The engine owns the parts of an [`Op`] from `submit` until its [`Done`]; dropping an engine waits for all of them.
//! - Each op submitted is answered once, in any order. Short transfers are continued, so `Ok` means all of it.
//! - A `Sync` covers the writes that were done before it was submitted, no others.
//! - Offsets, lengths and addresses are multiples of [`BLOCK`]; anything else is a bug of the caller and asserts.

mod buffers;
mod completion;
mod file;
mod probe;
mod scratch;
mod sim;
mod syscall;
mod uring;

#[cfg(test)]
mod cases;

pub use file::{EngineKind, EngineOptions, open};
pub use probe::{UringReport, probe_uring};
pub use scratch::{Scratch, ScratchPool};
pub use sim::{Faults, Injected, SimDisk};

use protocol::base::RawSpan;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Everything on a device begins at, and is as long as, a multiple of this.
pub const BLOCK: usize = 4096;

/// What an [`Op`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From the device into the parts, one after another.
    Read,
    /// From the parts, one after another, to the device.
    Write,
    /// Makes writes that are done survive a power cut. Takes neither an offset nor parts.
    Sync,
}

/// One thing to do.
#[derive(Debug)]
pub struct Op {
    /// Comes back in [`Done::tag`].
    pub tag: u64,
    /// What to do.
    pub kind: Kind,
    /// Where on the device, in bytes.
    pub offset: u64,
    /// The memory, contiguous on the device.
    pub parts: Vec<RawSpan>,
}

impl Op {
    /// A read into `parts`.
    pub fn read(tag: u64, offset: u64, parts: Vec<RawSpan>) -> Self {
        Self { tag, kind: Kind::Read, offset, parts }
    }

    /// A write from `parts`.
    pub fn write(tag: u64, offset: u64, parts: Vec<RawSpan>) -> Self {
        Self { tag, kind: Kind::Write, offset, parts }
    }

    /// A sync.
    pub fn sync(tag: u64) -> Self {
        Self { tag, kind: Kind::Sync, offset: 0, parts: Vec::new() }
    }

    /// Bytes it moves.
    pub fn len(&self) -> u64 {
        self.parts.iter().map(|part| part.len() as u64).sum()
    }

    /// Whether it moves none, which only a sync does.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Ends the process if the op breaks the rules, or runs past a device of `len` bytes.
    fn check(&self, len: u64) {
        if self.kind == Kind::Sync {
            assert!(self.parts.is_empty(), "a sync moves nothing: {self:?}");
            return;
        }
        assert!(!self.parts.is_empty(), "a transfer without memory: {self:?}");
        assert!(self.offset.is_multiple_of(BLOCK as u64), "not at a block: {self:?}");
        let end = self.offset.checked_add(self.len());
        assert!(end.is_some_and(|end| end <= len), "past the device's {len} bytes: {self:?}");
        for part in &self.parts {
            assert!(!part.is_empty(), "an empty part: {self:?}");
            assert!(part.len().is_multiple_of(BLOCK), "not whole blocks: {self:?}");
            assert!(part.as_ptr().addr().is_multiple_of(BLOCK), "memory not aligned: {self:?}");
        }
    }
}

/// The answer to an [`Op`].
#[derive(Debug)]
pub struct Done {
    /// The op's.
    pub tag: u64,
    /// `Ok`: all of it. A transfer that ended early although it was continued is `UnexpectedEof` or `WriteZero`; after any
    /// error the bytes on the device, or in the parts, are unknown.
    pub result: io::Result<()>,
    /// The op's, given back.
    pub parts: Vec<RawSpan>,
}

/// Performs ops on one device. Built on one thread, then used by one: the first to call [`wait`](Self::wait).
pub trait Engine: Send {
    /// Bytes of the device, a multiple of [`BLOCK`].
    fn len(&self) -> u64;

    /// Whether the device has no room at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ops given to the kernel at once. More may be submitted; they queue.
    fn depth(&self) -> usize;

    /// Ops submitted and not answered yet.
    fn in_flight(&self) -> usize;

    /// Queues an op; the next [`wait`](Self::wait) starts it.
    ///
    /// # Panics
    /// If the op is not of whole blocks inside the device.
    fn submit(&mut self, op: Op);

    /// Starts what is queued, then returns at a completion, a wake or after `timeout` (`None`: however long it takes;
    /// zero: at once with what there is). Answers are appended to `out`.
    fn wait(&mut self, timeout: Option<Duration>, out: &mut Vec<Done>);

    /// Ends a [`wait`](Self::wait) from another thread.
    fn waker(&self) -> Arc<dyn Wake>;

    /// For logs and `INFO`: `io_uring`, `syscall`, `simulated`.
    fn name(&self) -> &'static str;
}

/// Ends a [`Engine::wait`], or lets the next one return at once. Cheap while the engine's thread is awake.
pub trait Wake: Send + Sync {
    /// Wakes.
    fn wake(&self);
}
