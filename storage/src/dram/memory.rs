//! Segments as memory: memfds, or files of a memory file system, with huge pages where the machine gives them, prefaulted, and raw access to their bytes.
//!
//! Huge pages that nobody reserved are asked for piece by piece while prefaulting: of a piece of 2 MiB one page is touched, then
//! the kernel is told to make the piece one huge page (`MADV_COLLAPSE`, Linux 6.1). It does so whatever its settings for shared
//! memory, and in a quarter of the time that touching all its pages takes: 512 MiB in 0.11 instead of 0.42 s. Clients map a
//! segment by the same [`SharedMap`], at a multiple of 2 MiB, and so share them: from 16 KiB to 1 MiB their copies take 7 to 15 %
//! less time than from a mapping elsewhere, which Linux before 6.7 makes.
//!
//! Role: the only unsafe code of the store. Implements [`StableMemory`] for [`Segment`] and gives the store checked
//! reads and writes of slots.
//!
//! Invariants:
//! - A payload that a client may write is only ever touched through [`RawSpan`]s.
//! - Keys, headers and small values are written by the server alone, under their shard's lock, so they may be compared
//!   in place.

#![expect(unsafe_code, reason = "raw access to mapped segments")]

use memmap2::{MmapOptions, MmapRaw};
use protocol::base::{ByteLen, HUGE_PAGE, MapAccess, RawSpan, SharedMap, StableMemory};
use rustix::fs::{IFlags, MemfdFlags, Mode, OFlags, ftruncate, ioctl_getflags, ioctl_setflags, memfd_create};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Which pages back a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Reserved huge pages of 2 MiB.
    Huge,
    /// Ordinary pages, transparent huge pages asked for.
    Ordinary,
}

/// Whether to ask for reserved huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HugePages {
    /// If there are enough of them.
    #[default]
    Auto,
    /// Never.
    Never,
    /// Fail without them.
    Always,
}

/// One memfd, or a file of a memory file system, mapped writable here. Others get it sealed, and for reading.
pub struct Segment {
    fd: OwnedFd,
    map: SharedMap,
    pages: Pages,
    /// Whether it is a file with a name.
    named: bool,
    /// Whether nobody else could write the file when that was last looked at, and nobody has been able to since.
    sealed: AtomicBool,
    /// Whether the kernel may be asked for huge pages, until it says that it never gives any.
    collapse: AtomicBool,
}

impl Segment {
    /// Makes and maps a memfd of `len` bytes, a multiple of 2 MiB.
    ///
    /// # Errors
    /// What the kernel says: most often no memory, or no huge pages where they are demanded.
    pub fn create(len: ByteLen, huge: HugePages) -> io::Result<Self> {
        if huge != HugePages::Never {
            match Self::try_create(len, Pages::Huge, false) {
                Ok(segment) => return Ok(segment),
                Err(error) if huge == HugePages::Always => return Err(error),
                Err(_) => {}
            }
        }
        Self::try_create(len, Pages::Ordinary, huge != HugePages::Never)
    }

    fn try_create(len: ByteLen, pages: Pages, collapse: bool) -> io::Result<Self> {
        let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        if pages == Pages::Huge {
            flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        }
        let fd = memfd_create("mooncake-segment", flags)?;
        ftruncate(&fd, len.get())?;
        let map_len = usize::try_from(len.get()).map_err(io::Error::other)?;
        let map = SharedMap::new(fd.as_fd(), map_len, MapAccess::Write)?;
        Ok(Self::new(fd, map, pages, false, collapse))
    }

    fn new(fd: OwnedFd, map: SharedMap, pages: Pages, named: bool, collapse: bool) -> Self {
        Self { fd, map, pages, named, sealed: AtomicBool::new(false), collapse: AtomicBool::new(collapse) }
    }

    /// Maps a file of `len` bytes, all of them allocated.
    pub(crate) fn over_file(fd: OwnedFd, len: ByteLen, pages: Pages, huge: bool) -> io::Result<Self> {
        let map_len = usize::try_from(len.get()).map_err(io::Error::other)?;
        let map = SharedMap::new(fd.as_fd(), map_len, MapAccess::Write)?;
        Ok(Self::new(fd, map, pages, true, huge && pages == Pages::Ordinary))
    }

    /// Makes a named one immutable: whoever opens it from now on can only read it, whatever its owner, and cannot change its
    /// length. This mapping goes on writing.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_LINUX_IMMUTABLE`; others where the file system knows no such flag (a tmpfs does since
    /// Linux 6.1, a hugetlbfs does not).
    pub fn make_immutable(&self) -> io::Result<()> {
        let flags = ioctl_getflags(&self.fd)?;
        Ok(ioctl_setflags(&self.fd, flags | IFlags::IMMUTABLE)?)
    }

    /// A descriptor for another process, that nobody can write or shorten the memory with: of a memfd the same one, which its
    /// owner has sealed; of a named file one for reading, once it is immutable and nobody else has it open for writing.
    ///
    /// # Errors
    /// `PermissionDenied` if that cannot be promised, `WouldBlock` as long as another process has the file open that may have
    /// opened it before it became immutable.
    pub fn lend(&self) -> io::Result<OwnedFd> {
        if !self.named {
            return self.fd.try_clone();
        }
        if !self.sealed.load(Ordering::Acquire) {
            if !ioctl_getflags(&self.fd).is_ok_and(|flags| flags.contains(IFlags::IMMUTABLE)) {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            if !is_alone(self.fd.as_fd())? {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.sealed.store(true, Ordering::Release);
        }
        // Another open file of the same inode: this one could be written through.
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Touches `part` of `parts` of the pages, so that no request pays for a page fault. Runs beside requests.
    ///
    /// # Errors
    /// When the machine has no memory left for them.
    pub fn prefault(&self, part: usize, parts: usize) -> io::Result<()> {
        let steps = self.map.len().div_ceil(HUGE_PAGE);
        for step in (part..steps).step_by(parts.max(1)) {
            let offset = step * HUGE_PAGE;
            let len = HUGE_PAGE.min(self.map.len() - offset);
            if len == HUGE_PAGE && self.collapse.load(Ordering::Relaxed) && !self.map.collapse(offset) {
                // None to be had now, or pages of this piece are in use by a device: the next piece may fare better. A kernel
                // that does not know the call says so for each.
                self.collapse.store(self.map.has_collapsed(), Ordering::Relaxed);
            }
            match self.map.populate(offset, len) {
                Ok(()) => {}
                // Kernels before 5.14: the first touch pays instead.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Which pages it got.
    pub fn pages(&self) -> Pages {
        self.pages
    }
}

/// As in `fcntl(2)`; the crate does not have it.
const F_SETSIG: libc::c_int = 10;

/// Whether no other open file of this inode exists. A lease for writing is given only then, and given back at once.
fn is_alone(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let raw = fd.as_raw_fd();
    let checked = |answer: libc::c_int| if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // Somebody who opens the file at this very moment breaks the lease: let that be told by a signal that nobody heeds.
    // SAFETY: a command about a descriptor that is open, with an integer.
    checked(unsafe { libc::fcntl(raw, F_SETSIG, libc::SIGURG) })?;
    // SAFETY: as above.
    let leased = checked(unsafe { libc::fcntl(raw, libc::F_SETLEASE, libc::F_WRLCK) });
    match leased {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
        leased => leased?,
    }
    // SAFETY: as above.
    checked(unsafe { libc::fcntl(raw, libc::F_SETLEASE, libc::F_UNLCK) })?;
    Ok(true)
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

// SAFETY: the mapping lives as long as the value and never moves (`SharedMap` unmaps on drop only); it is readable and
// writable; `SharedMap` gives out no reference, and neither does `Segment`.
unsafe impl StableMemory for Segment {
    fn base(&self) -> *mut u8 {
        self.map.base()
    }
    fn len(&self) -> usize {
        self.map.len()
    }
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segment({}, {:?})", ByteLen(self.map.len() as u64), self.pages)
    }
}

/// Anonymous memory, for simulations and benches that need no file.
pub struct PlainMemory(MmapRaw);

impl PlainMemory {
    /// `len` bytes of zeros.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(len: usize) -> io::Result<Self> {
        let map: MmapRaw = MmapOptions::new().len(len).map_anon()?.into();
        if len >= 2 << 20 {
            // Advice: without it everything works, slower.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Self(map))
    }
}

// SAFETY: as for `Segment`, with `MmapRaw`.
unsafe impl StableMemory for PlainMemory {
    fn base(&self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Lends the bytes of a published object. Only for spans in memory that the server alone writes, and only while
/// something keeps the slot from being reused: [`crate::ReadGuard`] is both.
pub(crate) fn lend(span: &RawSpan) -> &[u8] {
    // SAFETY: the span keeps its memory mapped for the borrow; it is initialised; a published slot is not written again
    // before its last user is gone, and clients map the segment read-only. Where they map it writable, in the server's
    // own domain of trust, the bytes are only passed to the kernel, which reads them as they are.
    unsafe { std::slice::from_raw_parts(span.as_ptr(), span.len()) }
}

/// Lends the bytes of a slot to its one writer: a reservation, or a write of a range that no other overlaps.
pub(crate) fn lend_mut(span: &mut RawSpan) -> &mut [u8] {
    // SAFETY: the span keeps its memory mapped for the borrow; it is initialised; the store hands a range out to one
    // writer at a time and to no reader before publication.
    unsafe { std::slice::from_raw_parts_mut(span.as_ptr(), span.len()) }
}

/// The store's own view of a segment.
pub(crate) struct Memory {
    memory: Arc<dyn StableMemory>,
    /// As `memory` says, at hand for the many short accesses.
    base: *mut u8,
    len: usize,
}

// SAFETY: `base` and `len` are those of `memory`, which is `Send` and `Sync` and keeps its mapping at one address; what is
// done through `base` follows the rules of `write` and `with`, whichever thread does it.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    pub(crate) fn new(memory: Arc<dyn StableMemory>) -> Self {
        let (base, len) = (memory.base(), memory.len());
        Self { memory, base, len }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn span(&self, offset: usize, len: usize) -> RawSpan {
        RawSpan::new(Arc::clone(&self.memory), offset, len).expect("slots lie inside their segment")
    }

    fn at(&self, offset: u64, len: usize) -> *mut u8 {
        let offset = usize::try_from(offset).expect("64-bit");
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "{offset}+{len} inside the segment");
        self.base.wrapping_add(offset)
    }

    /// Fetches cache lines from `offset` on, of the first 192 bytes, without waiting for them.
    pub(crate) fn prefetch(&self, offset: u64, len: usize) {
        let from = self.base.wrapping_add(usize::try_from(offset).expect("64-bit"));
        for line in (0..len.min(192)).step_by(64) {
            super::arena::prefetch(from.wrapping_add(line));
        }
    }

    /// Writes bytes that only the server writes: headers, keys, small values.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        let to = self.at(offset, bytes.len());
        // SAFETY: `at` checked the range; the mapping is writable; the caller holds the lock that owns the slot; `bytes`
        // is a live borrow and so cannot overlap a slot nobody has a reference to.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Lends bytes that only the server writes, under the lock that owns the slot.
    pub(crate) fn with<R>(&self, offset: u64, len: usize, look: impl FnOnce(&[u8]) -> R) -> R {
        let from = self.at(offset, len);
        // SAFETY: `at` checked the range; it is mapped and initialised (zeros at least); nobody writes it while the lock
        // that owns the slot is held, which it is for the time of `look`.
        look(unsafe { std::slice::from_raw_parts(from, len) })
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({})", ByteLen(self.len as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_zero_prefaulted_and_writable() {
        let segment = Segment::create(ByteLen::mib(4), HugePages::Auto).expect("4 MiB of memory");
        segment.prefault(0, 2).expect("faults in");
        segment.prefault(1, 2).expect("faults in");
        let memory = Memory::new(Arc::new(segment));
        memory.write(4095, b"abc");
        memory.with(4094, 5, |bytes| assert_eq!(bytes, b"\0abc\0"));
    }

    #[test]
    #[should_panic(expected = "inside the segment")]
    fn access_past_the_end_is_a_bug() {
        Memory::new(Arc::new(PlainMemory::new(4096).expect("memory"))).write(4095, b"ab");
    }
}
