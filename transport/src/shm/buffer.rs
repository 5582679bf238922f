//! Memory that a client lends for its writes: the client's side and the server's.
//!
//! Invariants:
//! - The client's is sealed so that its own mapping is the only one that can ever write it. Regions handed out do not
//!   overlap, so each is the only way to its bytes in the process.
//! - The server adopts only memory that can neither shrink nor grow, at most its quota, and maps it read-only. Its
//!   bytes change under the server's hand; holes read as zeros, never as a signal. So it is only ever copied.

use super::memfd::{self, Mapping, Populate, ShmError};
use parking_lot::Mutex;
use protocol::base::{ByteLen, Crc, RawSpan, StableMemory as _, copy_slice};
use rustix::fs::SealFlags;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Alignment of regions: a page, so that the server's slot and the region lie alike in their pages.
const REGION_ALIGN: usize = 4096;

/// A client's own memory, of which the server reads what the client commits.
pub struct ClientBuffer {
    fd: OwnedFd,
    shared: Arc<Shared>,
}

struct Shared {
    mapping: Mapping,
    /// Free runs: offset to length, both multiples of [`REGION_ALIGN`], never adjacent.
    free: Mutex<BTreeMap<usize, usize>>,
}

impl ClientBuffer {
    /// Makes a buffer of `len` bytes, rounded up to whole pages, all of it present.
    ///
    /// # Errors
    /// [`ShmError`] if the kernel refuses or `len` is 0 or cannot be mapped.
    pub fn create(len: ByteLen) -> Result<Self, ShmError> {
        let refuse = || ShmError::Length(len.get());
        let rounded = len.get().checked_next_multiple_of(REGION_ALIGN as u64).ok_or_else(refuse)?;
        let mapped = usize::try_from(rounded).map_err(|_| refuse())?;
        if mapped == 0 {
            return Err(refuse());
        }
        let fd = memfd::create("mooncake-client", rounded)?;
        memfd::add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
        let mapping = memfd::map(&fd, mapped, Populate::Now, true)?;
        memfd::add_seals(&fd, SealFlags::FUTURE_WRITE | SealFlags::SEAL)?;
        let free = Mutex::new(BTreeMap::from([(0, mapped)]));
        Ok(Self { fd, shared: Arc::new(Shared { mapping, free }) })
    }

    /// What to pass to the server. It can be mapped for reading only.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes in the buffer.
    pub fn len(&self) -> usize {
        self.shared.mapping.len()
    }

    /// Never: a buffer has at least one page.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// A region of at least `len` bytes that nobody else has; `None` if no free run is long enough.
    pub fn take(&self, len: usize) -> Option<BufferRegion> {
        let held = len.max(1).checked_next_multiple_of(REGION_ALIGN)?;
        let mut free = self.shared.free.lock();
        let (&offset, &run) = free.iter().find(|&(_, &run)| run >= held)?;
        free.remove(&offset);
        if run > held {
            free.insert(offset + held, run - held);
        }
        drop(free);
        Some(BufferRegion { shared: Arc::clone(&self.shared), offset, held, len })
    }
}

/// A run of a [`ClientBuffer`] that only its holder reads and writes in this process. Given back when dropped: not
/// before the server answered the command that names it.
pub struct BufferRegion {
    shared: Arc<Shared>,
    offset: usize,
    held: usize,
    len: usize,
}

impl BufferRegion {
    /// Bytes from the buffer's start: the `offset` of `COMMIT … FROM fd offset`.
    pub fn offset(&self) -> u64 {
        self.offset as u64
    }

    /// Bytes in the region.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the region has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        let first = self.shared.mapping.base().wrapping_add(self.offset);
        // SAFETY: `take` keeps `offset + len` inside the mapping, which `shared` keeps; nobody writes meanwhile: other
        // regions do not overlap, `as_mut_slice` needs `&mut self`, and no other process can map the memfd writable.
        unsafe { std::slice::from_raw_parts(first, self.len) }
    }

    /// The bytes, to be filled.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let first = self.shared.mapping.base().wrapping_add(self.offset);
        // SAFETY: inside the writable mapping as in `as_slice`; `&mut self` and the disjointness of regions make this
        // the only reference in the process. Another process can only read, which does not change what we see.
        unsafe { std::slice::from_raw_parts_mut(first, self.len) }
    }

    /// Fills the region's start with `bytes` and returns their checksum, in one pass.
    ///
    /// # Panics
    /// If `bytes` are more than the region has.
    pub fn fill(&mut self, bytes: &[u8]) -> Crc {
        copy_slice(bytes, &mut self.as_mut_slice()[..bytes.len()])
    }
}

impl Drop for BufferRegion {
    fn drop(&mut self) {
        let mut free = self.shared.free.lock();
        let (mut offset, mut run) = (self.offset, self.held);
        if let Some(after) = free.remove(&(offset + run)) {
            run += after;
        }
        if let Some((&before, &before_run)) = free.range(..offset).next_back()
            && before + before_run == offset
        {
            free.remove(&before);
            offset = before;
            run += before_run;
        }
        free.insert(offset, run);
    }
}

/// Why a client's memory was refused.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// A pipe, a socket, an ordinary file, a device: nothing that has seals.
    #[error("not a memfd")]
    NotAMemfd,
    /// It could change its length.
    #[error("not sealed against shrinking and growing")]
    Unsealed,
    /// It is longer than the client may lend.
    #[error("{len} is more than the {quota} allowed")]
    TooBig {
        /// What it has.
        len: ByteLen,
        /// What is allowed.
        quota: ByteLen,
    },
    /// It has no bytes.
    #[error("empty")]
    Empty,
    /// It was opened in a way that does not allow reading, or the kernel has no room for the mapping.
    #[error("cannot be mapped")]
    Map(#[source] ShmError),
}

/// A client's memory as the server sees it: readable, and changing at the client's will.
#[derive(Debug)]
pub struct PeerBuffer {
    mapping: Arc<Mapping>,
}

impl PeerBuffer {
    /// Takes a descriptor that a client sent. That the client may lend memory at all (same user, see
    /// [`peer_uid`](super::peer_uid)) is for the caller to check.
    ///
    /// # Errors
    /// [`AdoptError`] for everything but a readable memfd, sealed against shrinking and growing, of 1 to `quota` bytes.
    pub fn adopt(fd: OwnedFd, quota: ByteLen, populate: Populate) -> Result<Self, AdoptError> {
        let seals = match rustix::fs::fcntl_get_seals(&fd) {
            Ok(seals) => seals,
            Err(Errno::INVAL | Errno::BADF) => return Err(AdoptError::NotAMemfd),
            Err(errno) => return Err(AdoptError::Map(ShmError::os("read the seals of a client's memory")(errno))),
        };
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(AdoptError::Unsealed);
        }
        // Read after the seals: from here on the length is final.
        let len = memfd::sealed_len(&fd).map_err(AdoptError::Map)?;
        if len == 0 {
            return Err(AdoptError::Empty);
        }
        if len > quota.get() {
            return Err(AdoptError::TooBig { len: ByteLen(len), quota });
        }
        let mapped = usize::try_from(len).map_err(|_| AdoptError::Map(ShmError::Length(len)))?;
        let mapping = memfd::map(&fd, mapped, populate, false).map_err(AdoptError::Map)?;
        Ok(Self { mapping: Arc::new(mapping) })
    }

    /// Bytes in the buffer.
    pub fn len(&self) -> usize {
        self.mapping.len()
    }

    /// Never: an empty buffer is refused.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// `len` bytes at `offset`; `None` if they run past the end. To be copied from, once.
    pub fn span(&self, offset: u64, len: u64) -> Option<RawSpan> {
        self.mapping.span(usize::try_from(offset).ok()?, usize::try_from(len).ok()?)
    }
}

#[cfg(test)]
mod tests;
