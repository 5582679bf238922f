//! Where things lie in a ring's memory, and its making.

use super::super::ShmError;
use super::super::memfd::{self, Mapping, Populate};
use super::RingError;
use super::end::RingEnd;
use protocol::base::StableMemory as _;
use rustix::event::EventfdFlags;
use rustix::fs::SealFlags;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// Bytes of each ring unless asked otherwise.
pub const RING_LEN_DEFAULT: u32 = 256 * 1024;

const MAGIC: u32 = u32::from_le_bytes(*b"MCRG");
const VERSION: u32 = 1;
/// Bytes before the rings.
const CONTROL_LEN: usize = 4096;
const RING_LEN_MIN: u32 = 4096;
const RING_LEN_MAX: u32 = 64 << 20;

pub(super) const REQUEST_TAIL: usize = 128;
pub(super) const REQUEST_HEAD: usize = 256;
pub(super) const REPLY_TAIL: usize = 384;
pub(super) const REPLY_HEAD: usize = 512;
pub(super) const CLIENT_ASLEEP: usize = 640;
pub(super) const SERVER_ASLEEP: usize = 768;

const _: () = assert!(SERVER_ASLEEP + 4 <= CONTROL_LEN, "the control page holds every index");

/// Lengths of the two rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingLayout {
    request_len: u32,
    reply_len: u32,
}

impl Default for RingLayout {
    fn default() -> Self {
        Self { request_len: RING_LEN_DEFAULT, reply_len: RING_LEN_DEFAULT }
    }
}

impl RingLayout {
    /// Rings of these lengths; `None` unless both are powers of two from 4 KiB to 64 MiB.
    pub fn new(request_len: u32, reply_len: u32) -> Option<Self> {
        let fits = |len: u32| len.is_power_of_two() && (RING_LEN_MIN..=RING_LEN_MAX).contains(&len);
        (fits(request_len) && fits(reply_len)).then_some(Self { request_len, reply_len })
    }

    /// Bytes of memory both rings need.
    pub fn total_len(self) -> usize {
        CONTROL_LEN + self.request_len as usize + self.reply_len as usize
    }

    /// Where the request ring lies and how long it is.
    pub(super) fn request(self) -> (usize, usize) {
        (CONTROL_LEN, self.request_len as usize)
    }

    /// Where the reply ring lies and how long it is.
    pub(super) fn reply(self) -> (usize, usize) {
        (CONTROL_LEN + self.request_len as usize, self.reply_len as usize)
    }
}

/// What the server passes to the client: in this order in one message.
#[derive(Debug)]
pub struct RingFds {
    /// The memory of both rings.
    pub memory: OwnedFd,
    /// Wakes the server.
    pub to_server: OwnedFd,
    /// Wakes the client.
    pub to_client: OwnedFd,
}

impl RingFds {
    /// Descriptors in the order they are sent.
    pub const COUNT: usize = 3;

    /// As `send_with_fds` takes them.
    pub fn as_fds(&self) -> [BorrowedFd<'_>; Self::COUNT] {
        [self.memory.as_fd(), self.to_server.as_fd(), self.to_client.as_fd()]
    }
}

impl From<[OwnedFd; RingFds::COUNT]> for RingFds {
    fn from([memory, to_server, to_client]: [OwnedFd; Self::COUNT]) -> Self {
        Self { memory, to_server, to_client }
    }
}

/// The server's side of a new ring.
#[derive(Debug)]
pub struct ServerRing {
    /// Reads requests, writes replies.
    pub end: RingEnd,
    /// Becomes readable when the client wakes the server. Meant for an edge-triggered wait (tokio's `AsyncFd`): it is
    /// never read, each wake is a new edge. (Its reading would block if the client took the count first.)
    pub event: OwnedFd,
    /// For the client.
    pub fds: RingFds,
}

/// Makes a pair of rings and the server's end of them.
///
/// # Errors
/// [`RingError`] if the kernel refuses memory or eventfds.
pub fn create_ring(layout: RingLayout) -> Result<ServerRing, RingError> {
    let memory = memfd::create("mooncake-ring", layout.total_len() as u64)?;
    memfd::add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    let mapping = Arc::new(memfd::map(&memory, layout.total_len(), Populate::Now, true)?);
    for (word, value) in [MAGIC, VERSION, layout.request_len, layout.reply_len].into_iter().enumerate() {
        word_at(&mapping, word * 4).store(value.to_le(), std::sync::atomic::Ordering::Relaxed);
    }
    let event = || {
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(RingError::os("make an eventfd"))
    };
    let duplicate =
        |fd: &OwnedFd| fd.try_clone().map_err(|source| RingError::Os { act: "duplicate an eventfd", source });
    let fds = RingFds { memory, to_server: event()?, to_client: event()? };
    let event = duplicate(&fds.to_server)?;
    let end = RingEnd::server(mapping, layout, duplicate(&fds.to_client)?);
    Ok(ServerRing { end, event, fds })
}

/// Maps a ring that the server made, believing nothing it says about itself.
pub(super) fn map_ring(memory: &OwnedFd) -> Result<(Arc<Mapping>, RingLayout), RingError> {
    let len = memfd::sealed_len(memory)?;
    let len = usize::try_from(len).map_err(|_| ShmError::Length(len))?;
    if len < CONTROL_LEN {
        return Err(RingError::Corrupt("the memory is shorter than its control page"));
    }
    if len > CONTROL_LEN + 2 * RING_LEN_MAX as usize {
        return Err(RingError::Corrupt("the memory is longer than rings can be"));
    }
    let mapping = Arc::new(memfd::map(memory, len, Populate::Now, true)?);
    let word = |at: usize| u32::from_le(word_at(&mapping, at).load(std::sync::atomic::Ordering::Relaxed));
    if word(0) != MAGIC || word(4) != VERSION {
        return Err(RingError::Corrupt("not a ring of this version"));
    }
    // Read once: what follows uses this copy, whatever the peer writes there later.
    let layout = RingLayout::new(word(8), word(12)).ok_or(RingError::Corrupt("no ring has such a length"))?;
    if layout.total_len() != len {
        return Err(RingError::Corrupt("lengths and memory disagree"));
    }
    Ok((mapping, layout))
}

/// A 32-bit field of the control page.
pub(super) fn word_at(mapping: &Mapping, at: usize) -> &AtomicU32 {
    assert!(at.is_multiple_of(4), "field at {at} is not aligned");
    assert!(at + 4 <= CONTROL_LEN.min(mapping.len()), "field at {at} lies past the control page");
    // SAFETY: the four bytes at `at` are mapped writable while `mapping` lives, which the result borrows; the base is
    // page-aligned, so they are aligned; both processes reach them by atomic operations only.
    unsafe { AtomicU32::from_ptr(mapping.base().wrapping_add(at).cast()) }
}

/// A 64-bit field of the control page.
pub(super) fn counter_at(mapping: &Mapping, at: usize) -> &AtomicU64 {
    assert!(at.is_multiple_of(8), "field at {at} is not aligned");
    assert!(at + 8 <= CONTROL_LEN.min(mapping.len()), "field at {at} lies past the control page");
    // SAFETY: as in `word_at`, for eight bytes.
    unsafe { AtomicU64::from_ptr(mapping.base().wrapping_add(at).cast()) }
}
