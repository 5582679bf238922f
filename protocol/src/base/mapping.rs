//! A shared mapping of a descriptor's memory: what segments, clients' views of them and clients' buffers are made of.
//!
//! Of 2 MiB and more it begins at a multiple of 2 MiB, so that huge pages can back it. Whoever maps a piece of a file whose
//! bytes lie in one huge page, at such an address, reaches all of it by one entry of the page table.
//!
//! Invariants:
//! - The mapping stays at one address, readable and, if that was asked for, writable, until it is dropped; no reference to
//!   its bytes is given out.
//! - What surrounds it, up to the next multiple of 2 MiB, is reserved and never accessible.

#![expect(unsafe_code, reason = "mmap at an address of our choice")]

use super::StableMemory;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of a huge page.
pub const HUGE_PAGE: usize = 2 << 20;
/// Bytes of an ordinary one.
const PAGE: usize = 4096;

/// `MADV_COLLAPSE`, since Linux 6.1.
const MADV_COLLAPSE: libc::c_int = 25;

/// What may be done to the bytes of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapAccess {
    /// They are read.
    Read,
    /// They are read and written.
    Write,
}

/// See the module's text.
pub struct SharedMap {
    base: *mut u8,
    len: usize,
    access: MapAccess,
    /// All that was reserved.
    reserved: (*mut c_void, usize),
    collapsed: AtomicBool,
}

// SAFETY: the pointers are to memory of this value's own; nothing is read or written through them here.
unsafe impl Send for SharedMap {}
// SAFETY: as above.
unsafe impl Sync for SharedMap {}

// SAFETY: `base` to `base + len` is mapped from `new` to `drop`, at one address, readable, and writable if `access` says so;
// no reference into it is given out.
unsafe impl StableMemory for SharedMap {
    fn base(&self) -> *mut u8 {
        self.base
    }
    fn len(&self) -> usize {
        self.len
    }
}

impl SharedMap {
    /// Maps the first `len` bytes of a file.
    ///
    /// # Errors
    /// What the kernel says; `InvalidInput` for a length of 0.
    pub fn new(fd: BorrowedFd<'_>, len: usize, access: MapAccess) -> io::Result<Self> {
        let align = if len < HUGE_PAGE { 0 } else { HUGE_PAGE };
        let reserved_len = len.checked_add(align).filter(|_| len > 0).ok_or(io::ErrorKind::InvalidInput)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses; nobody can access it.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), reserved_len, ProtFlags::empty(), flags) }?;
        let at = start.map_addr(|addr| addr.next_multiple_of(align.max(PAGE)));
        let collapsed = AtomicBool::new(false);
        let mut map = Self { base: at.cast(), len: 0, access, reserved: (start, reserved_len), collapsed };
        let protection = match access {
            MapAccess::Read => ProtFlags::READ,
            MapAccess::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: `at` to `at + len` lies in what was just reserved, which nobody else knows of.
        unsafe { mmap(at, len, protection, MapFlags::SHARED | MapFlags::FIXED, fd, 0) }?;
        map.len = len;
        Ok(map)
    }

    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "{offset}+{len} inside the mapping");
        self.base.wrapping_add(offset)
    }

    /// Makes the huge page at `offset` one, whatever lies there. `false` if the kernel has none or knows no such call.
    pub fn collapse(&self, offset: usize) -> bool {
        let at = self.at(offset, HUGE_PAGE);
        // Where nothing lies at all there is nothing to collapse.
        if self.populate(offset, PAGE).is_err() {
            return false;
        }
        // SAFETY: the range was checked; the contents stay what they are.
        let collapsed = unsafe { libc::madvise(at.cast(), HUGE_PAGE, MADV_COLLAPSE) } == 0;
        self.collapsed.fetch_or(collapsed, Ordering::Relaxed);
        collapsed
    }

    /// Whether [`SharedMap::collapse`] ever succeeded.
    pub fn has_collapsed(&self) -> bool {
        self.collapsed.load(Ordering::Relaxed)
    }

    /// Enters all pages of a range in the page table, and makes those that are not there yet, so that no access pays for it.
    ///
    /// # Errors
    /// What the kernel says: no memory, or `EINVAL` before Linux 5.14.
    pub fn populate(&self, offset: usize, len: usize) -> io::Result<()> {
        let at = self.at(offset, len);
        let advice = match self.access {
            MapAccess::Read => Advice::LinuxPopulateRead,
            MapAccess::Write => Advice::LinuxPopulateWrite,
        };
        // SAFETY: the range was checked; the contents stay what they are.
        unsafe { madvise(at.cast(), len, advice) }.map_err(io::Error::from)
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        let (start, len) = self.reserved;
        // SAFETY: this value mapped it, and nobody keeps a pointer into it longer.
        let unmapped = unsafe { munmap(start, len) };
        debug_assert!(unmapped.is_ok(), "what was mapped can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::os::fd::AsFd as _;

    #[test]
    fn a_mapping_begins_at_a_huge_page_and_keeps_its_bytes_through_a_collapse() {
        let fd = memfd_create("aligned", MemfdFlags::CLOEXEC).expect("a memfd");
        let len = 2 * HUGE_PAGE + 4096;
        ftruncate(&fd, len as u64).expect("memory");
        let map = SharedMap::new(fd.as_fd(), len, MapAccess::Write).expect("address space");
        let view = SharedMap::new(fd.as_fd(), len, MapAccess::Read).expect("address space");
        for map in [&map, &view] {
            assert_eq!((map.base().addr() % HUGE_PAGE, map.len()), (0, len));
        }
        for at in [0, 5_000, HUGE_PAGE - 1, HUGE_PAGE + 7, len - 1] {
            rustix::io::pwrite(&fd, b"x", at as u64).expect("room");
        }
        // Whether there are huge pages is the machine's business.
        for piece in 0..2 {
            map.collapse(piece * HUGE_PAGE);
        }
        map.populate(0, len).expect("memory");
        view.populate(0, len).expect("memory");
        let mut bytes = vec![0; len];
        rustix::io::pread(&fd, &mut bytes, 0).expect("all of it");
        let written: Vec<usize> = (0..len).filter(|&at| bytes[at] == b'x').collect();
        assert_eq!(written, [0, 5_000, HUGE_PAGE - 1, HUGE_PAGE + 7, len - 1]);
        assert!(bytes.iter().all(|&byte| byte == 0 || byte == b'x'));
    }

    #[test]
    fn short_files_are_mapped_too_and_empty_ones_are_not() {
        let fd = memfd_create("short", MemfdFlags::CLOEXEC).expect("a memfd");
        ftruncate(&fd, 5000).expect("memory");
        let map = SharedMap::new(fd.as_fd(), 5000, MapAccess::Read).expect("address space");
        assert_eq!((map.base().addr() % PAGE, map.len()), (0, 5000));
        let empty = SharedMap::new(fd.as_fd(), 0, MapAccess::Read).map(drop).expect_err("nothing to map");
        assert_eq!(empty.kind(), io::ErrorKind::InvalidInput);
    }
}
