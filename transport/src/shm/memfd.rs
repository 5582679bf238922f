//! Memory behind a file descriptor: made, sealed and mapped.
//!
//! Invariants:
//! - A descriptor from another process is mapped only after its seals were read: it cannot shrink under us.
//! - A mapping stays at its address until it is dropped, even after its descriptor is closed.

use protocol::base::{HUGE_PAGE, MapAccess, RawSpan, SharedMap, StableMemory};
use rustix::fs::{IFlags, MemfdFlags, SealFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Why memory could not be shared.
#[derive(Debug, thiserror::Error)]
pub enum ShmError {
    /// The kernel refused.
    #[error("{act}")]
    Os {
        /// What was tried.
        act: &'static str,
        /// Its answer.
        source: std::io::Error,
    },
    /// The descriptor's memory could be taken away while it is mapped.
    #[error("memory is not sealed against shrinking")]
    Unsealed,
    /// The descriptor holds fewer bytes than its sender said.
    #[error("{claimed} bytes claimed, the memory has {actual}")]
    Short {
        /// Bytes that were announced.
        claimed: u64,
        /// Bytes that are there.
        actual: u64,
    },
    /// No memory of this length can be made or mapped.
    #[error("a length of {0} bytes cannot be mapped")]
    Length(u64),
}

impl ShmError {
    pub(super) fn os(act: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::Os { act, source: errno.into() }
    }
}

/// When the pages of a mapping are entered in the page table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Populate {
    /// At the first touch of each page.
    Lazy,
    /// While mapping. About 0.3 ms a MiB when the pages exist, 1 ms when they have to be made.
    Now,
}

/// A shared mapping of a memfd. Its memory may change at any time by another process's hand.
pub struct Mapping(SharedMap);

// SAFETY: as `SharedMap`, which does all of it. A mapping made by `map_read_only` is readable only, which the contract allows
// for memory not our own.
unsafe impl StableMemory for Mapping {
    fn base(&self) -> *mut u8 {
        self.0.base()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

impl Mapping {
    /// `len` bytes at `offset`; `None` if they run past the end.
    pub fn span(self: &Arc<Self>, offset: usize, len: usize) -> Option<RawSpan> {
        RawSpan::new(Arc::<Self>::clone(self), offset, len)
    }
}

impl Mapping {
    /// Enters the pages of `len` bytes at `offset` in the page table, so that reading them costs no page fault later.
    ///
    /// # Errors
    /// As `madvise(2)`: kernels before 5.14 do not know how.
    pub fn populate(&self, offset: usize, len: usize) -> std::io::Result<()> {
        let left = self.0.len().saturating_sub(offset);
        self.0.populate(offset.min(self.0.len()), len.min(left))
    }

    /// As [`populate`](Self::populate) all of it, with huge pages as far as the kernel has them.
    ///
    /// # Errors
    /// As [`populate`](Self::populate).
    pub(super) fn populate_huge(&self) -> std::io::Result<()> {
        for offset in (0..self.0.len()).step_by(HUGE_PAGE) {
            let len = HUGE_PAGE.min(self.0.len() - offset);
            if len < HUGE_PAGE || !self.0.collapse(offset) {
                // What the kernel does not give here it most likely does not give at all.
                return self.0.populate(offset, self.0.len() - offset);
            }
            self.0.populate(offset, len)?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mapping({} bytes)", self.0.len())
    }
}

/// Makes a segment read-only for everyone who does not map it yet: its length is fixed, no new writable mapping and no
/// `write(2)` is possible through any descriptor, and no seal can be added. Mappings made before keep writing.
///
/// # Errors
/// [`ShmError::Os`] if `fd` is not a memfd made with sealing allowed, or is sealed already.
pub fn seal_segment(fd: impl AsFd) -> Result<(), ShmError> {
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(fd, seals).map_err(ShmError::os("seal a segment"))
}

/// The same for a segment that those who get the descriptor write, too: its length is fixed, and that is all.
///
/// # Errors
/// As [`seal_segment`].
pub fn seal_writable_segment(fd: impl AsFd) -> Result<(), ShmError> {
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(fd, seals).map_err(ShmError::os("seal a segment"))
}

/// Maps the first `len` bytes of a segment that another process made: a sealed memfd, or an immutable file.
///
/// # Errors
/// [`ShmError::Unsealed`] if the segment could shrink, [`ShmError::Short`] if it has fewer bytes, [`ShmError::Os`] if
/// it is not memory at all or cannot be mapped.
pub fn map_read_only(fd: impl AsFd, len: usize, populate: Populate) -> Result<Mapping, ShmError> {
    let actual = if is_immutable(&fd) { len_of(&fd)? } else { sealed_len(&fd)? };
    if len as u64 > actual {
        return Err(ShmError::Short { claimed: len as u64, actual });
    }
    map(fd, len, populate, false)
}

/// The same, for writing what was granted in a segment sealed by [`seal_writable_segment`].
///
/// # Errors
/// As [`map_read_only`]; [`ShmError::Os`] with `EPERM` if the segment is sealed against it.
pub fn map_writable(fd: impl AsFd, len: usize, populate: Populate) -> Result<Mapping, ShmError> {
    let actual = sealed_len(&fd)?;
    if len as u64 > actual {
        return Err(ShmError::Short { claimed: len as u64, actual });
    }
    map(fd, len, populate, true)
}

/// The length of a memfd that cannot shrink.
pub(super) fn sealed_len(fd: impl AsFd) -> Result<u64, ShmError> {
    let seals = rustix::fs::fcntl_get_seals(&fd).map_err(ShmError::os("read the seals of shared memory"))?;
    if !seals.contains(SealFlags::SHRINK) {
        return Err(ShmError::Unsealed);
    }
    len_of(fd)
}

fn len_of(fd: impl AsFd) -> Result<u64, ShmError> {
    let stat = rustix::fs::fstat(&fd).map_err(ShmError::os("read the length of shared memory"))?;
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

/// Whether it is a file that only a privileged process can shorten, or open for writing: seals are for memfds alone. Not
/// enough for memory of a client, who may be the one that can.
fn is_immutable(fd: impl AsFd) -> bool {
    rustix::fs::ioctl_getflags(fd).is_ok_and(|flags| flags.contains(IFlags::IMMUTABLE))
}

/// A new memfd of `len` bytes, close-on-exec, mode 0600, to which seals can be added.
pub(super) fn create(name: &str, len: u64) -> Result<OwnedFd, ShmError> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(ShmError::os("make shared memory"))?;
    rustix::fs::fchmod(&fd, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
        .map_err(ShmError::os("set the mode of shared memory"))?;
    rustix::fs::ftruncate(&fd, len).map_err(ShmError::os("set the length of shared memory"))?;
    Ok(fd)
}

pub(super) fn add_seals(fd: impl AsFd, seals: SealFlags) -> Result<(), ShmError> {
    rustix::fs::fcntl_add_seals(fd, seals).map_err(ShmError::os("seal shared memory"))
}

pub(super) fn map(fd: impl AsFd, len: usize, populate: Populate, writable: bool) -> Result<Mapping, ShmError> {
    if len == 0 {
        return Err(ShmError::Length(0));
    }
    let access = if writable { MapAccess::Write } else { MapAccess::Read };
    let failed = |source| ShmError::Os { act: "map shared memory", source };
    let mapping = Mapping(SharedMap::new(fd.as_fd(), len, access).map_err(failed)?);
    if populate == Populate::Now {
        match mapping.populate_huge() {
            Ok(()) => {}
            // Kernels before 5.14: the first touch pays instead.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(mapping)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::base::{copy_from, copy_into};
    use rustix::io::Errno;

    #[test]
    fn a_sealed_segment_is_written_by_its_maker_and_nobody_else() {
        let fd = create("segment", 8192).expect("made");
        let own = Arc::new(map(&fd, 8192, Populate::Now, true).expect("mapped"));
        seal_segment(&fd).expect("sealed");
        let peer = Arc::new(map_read_only(&fd, 8192, Populate::Now).expect("mapped"));
        let crc = copy_into(&[7; 4096], &own.span(4096, 4096).expect("inside"));
        let mut seen = [0; 4096];
        assert_eq!(copy_from(&peer.span(4096, 4096).expect("inside"), &mut seen), crc);
        assert!(seen == [7; 4096]);

        let refused = map_writable(&fd, 8192, Populate::Lazy).expect_err("a second writable mapping");
        assert!(
            matches!(&refused, ShmError::Os { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied),
            "{refused}"
        );
        assert_eq!(rustix::io::pwrite(&fd, b"x", 0), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&fd, 4096), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&fd, 16384), Err(Errno::PERM));
        assert!(seal_segment(&fd).is_err(), "sealed for good");
    }

    #[test]
    fn a_writable_segment_is_written_by_all_who_map_it_and_keeps_its_length() {
        let fd = create("segment", 8192).expect("made");
        let own = Arc::new(map(&fd, 8192, Populate::Now, true).expect("mapped"));
        seal_writable_segment(&fd).expect("sealed");
        let peer = Arc::new(map_writable(&fd, 8192, Populate::Now).expect("mapped"));
        let crc = copy_into(&[7; 4096], &peer.span(4096, 4096).expect("inside"));
        let mut seen = [0; 4096];
        assert_eq!(copy_from(&own.span(4096, 4096).expect("inside"), &mut seen), crc);
        assert!(seen == [7; 4096]);
        assert!(matches!(map_writable(&fd, 8193, Populate::Lazy), Err(ShmError::Short { .. })));
        assert_eq!(rustix::fs::ftruncate(&fd, 4096), Err(Errno::PERM));
        assert!(seal_segment(&fd).is_err(), "sealed for good");
    }

    #[test]
    fn what_could_shrink_or_is_shorter_than_said_is_not_mapped() {
        let fd = create("segment", 4096).expect("made");
        let refused = map_read_only(&fd, 4096, Populate::Lazy).expect_err("unsealed");
        assert!(matches!(refused, ShmError::Unsealed), "{refused}");
        seal_segment(&fd).expect("sealed");
        let refused = map_read_only(&fd, 4097, Populate::Lazy).expect_err("short");
        assert!(matches!(refused, ShmError::Short { claimed: 4097, actual: 4096 }), "{refused}");
        assert!(matches!(map_read_only(&fd, 0, Populate::Lazy), Err(ShmError::Length(0))));
        let (pipe, _write_end) = std::io::pipe().expect("a pipe");
        assert!(matches!(map_read_only(&pipe, 1, Populate::Lazy), Err(ShmError::Os { .. })));
        let mapping = Arc::new(map_read_only(&fd, 4096, Populate::Lazy).expect("mapped"));
        assert!(mapping.span(0, 4097).is_none());
        assert!(mapping.span(usize::MAX, 2).is_none());
    }
}
