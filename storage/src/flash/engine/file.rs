//! Opens a file or block device as flash: whole, ours alone, past the page cache.
//!
//! Role: everything about a device that happens once. Says in a sentence what is wrong and what to do about it.
//!
//! Invariants:
//! - At most one process writes a device: `flock(2)` on it, and `O_EXCL` where it is a block device.
//! - A file is preallocated to its full size, so that a write into it never needs room later.

use super::syscall::Threads;
use super::uring::Ring;
use super::{BLOCK, Engine};
use protocol::base::{ByteLen, StableMemory};
use rustix::fs::{FallocateFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Ops given to the kernel at once, at most.
const DEPTH_MAX: usize = 1024;

/// Pause between tries of a device in use.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// What performs the I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// io_uring, or plain system calls where it is refused.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// Threads with plain system calls.
    Syscall,
}

impl FromStr for EngineKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "io_uring" => Ok(Self::Uring),
            "syscall" => Ok(Self::Syscall),
            _ => Err(format!("{text:?} is no engine: write auto, io_uring or syscall")),
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Uring => "io_uring",
            Self::Syscall => "syscall",
        })
    }
}

/// How to open a device.
#[derive(Clone)]
pub struct EngineOptions {
    /// What performs the I/O.
    pub kind: EngineKind,
    /// Ops given to the kernel at once, 1 to 1,024.
    pub depth: usize,
    /// Makes the file this long, and all of it allocated, if it is not. A longer one, and a block device, stay as they
    /// are. Without it the file must exist.
    pub preallocate: Option<ByteLen>,
    /// Memory that most ops will use: transfers from and to it cost half the CPU. The engine keeps it mapped.
    pub fixed: Vec<Arc<dyn StableMemory>>,
    /// Only reads, beside nobody who writes.
    pub read_only: bool,
    /// How long to wait for a device in use. A ring of a process that died keeps its device until its last write is done,
    /// and so must the next process.
    pub patience: Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            kind: EngineKind::Auto,
            depth: 32,
            preallocate: None,
            fixed: Vec::new(),
            read_only: false,
            patience: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for EngineOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineOptions")
            .field("kind", &self.kind)
            .field("depth", &self.depth)
            .field("preallocate", &self.preallocate)
            .field("fixed", &self.fixed.len())
            .field("read_only", &self.read_only)
            .field("patience", &self.patience)
            .finish()
    }
}

/// A device that is ours.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) fd: OwnedFd,
    /// Whole blocks, in bytes.
    pub(super) len: u64,
}

/// Opens a file (made and preallocated if asked for) or a block device, locks it and starts an engine on it.
///
/// # Errors
/// Says what to do: no room, no rights, in use by another process, a file system without `O_DIRECT`.
pub fn open(path: &Path, options: &EngineOptions) -> io::Result<Box<dyn Engine>> {
    let device = open_device(path, options)?;
    let depth = options.depth.clamp(1, DEPTH_MAX);
    let device = if options.kind == EngineKind::Syscall {
        device
    } else {
        match Ring::start(device, depth, &options.fixed) {
            Ok(ring) => return Ok(Box::new(ring)),
            Err((error, _)) if options.kind == EngineKind::Uring => {
                let what = "cannot be driven by io_uring, which is demanded; use engine auto or syscall";
                return Err(io::Error::new(error.kind(), format!("{} {what}: {error}", path.display())));
            }
            Err((error, device)) => {
                tracing::warn!("io_uring is refused ({error}): {} is driven by plain system calls", path.display());
                device
            }
        }
    };
    Ok(Box::new(Threads::start(device, depth)?))
}

fn open_device(path: &Path, options: &EngineOptions) -> io::Result<Device> {
    let until = Instant::now() + options.patience;
    loop {
        match try_open(path, options) {
            Err(error) if in_use(&error) && Instant::now() < until => std::thread::sleep(RETRY_PAUSE),
            result => return result,
        }
    }
}

/// Whether another process has the device.
fn in_use(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy)
}

fn try_open(path: &Path, options: &EngineOptions) -> io::Result<Device> {
    let say = |what: &str, error: Errno| sentence(path, what, error);
    let existing = match rustix::fs::stat(path) {
        Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
        Err(Errno::NOENT) if options.preallocate.is_some() && !options.read_only => None,
        Err(error) => return Err(say("is not there or cannot be looked at", error)),
    };
    match existing {
        None | Some(FileType::RegularFile | FileType::BlockDevice) => {}
        Some(_) => return Err(say("is neither a file nor a block device", Errno::INVAL)),
    }
    let block_device = existing == Some(FileType::BlockDevice);
    let mut flags = OFlags::CLOEXEC | OFlags::DIRECT;
    flags |= if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
    if block_device && !options.read_only {
        flags |= OFlags::EXCL;
    } else if existing.is_none() {
        flags |= OFlags::CREATE;
    }
    let mode = Mode::RUSR | Mode::WUSR;
    let fd = match rustix::fs::open(path, flags, mode) {
        Ok(fd) => fd,
        Err(Errno::INVAL) if !block_device && in_memory(path) => {
            let path = path.display();
            tracing::warn!("{path} lies on a file system in memory, without O_DIRECT: written through the page cache");
            rustix::fs::open(path.to_string(), flags - OFlags::DIRECT, mode)
                .map_err(|error| say("does not open", error))?
        }
        Err(Errno::INVAL) => {
            let what = "lies on a file system that refuses O_DIRECT; put it on ext4, XFS or a block device";
            return Err(say(what, Errno::INVAL));
        }
        Err(Errno::BUSY) => return Err(say("is mounted, or in use by another process", Errno::BUSY)),
        Err(error) => return Err(say("does not open", error)),
    };
    lock(&fd, options.read_only).map_err(|error| match error {
        Errno::WOULDBLOCK => say("is in use by another process, perhaps a second server", error),
        error => say("cannot be locked", error),
    })?;
    if let (Some(len), false, false) = (options.preallocate, block_device, options.read_only) {
        preallocate(&fd, path, len.get())?;
    }
    if existing.is_none() {
        sync_parent(path).map_err(|error| say("was made, but its directory cannot be synced", error))?;
    }
    // Of a block device too, where a length is not in what stat(2) says.
    let len =
        rustix::fs::seek(&fd, rustix::fs::SeekFrom::End(0)).map_err(|error| say("does not say its length", error))?;
    Ok(Device { fd, len: len - len % BLOCK as u64 })
}

fn lock(fd: &OwnedFd, shared: bool) -> Result<(), Errno> {
    let operation =
        if shared { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
    rustix::fs::flock(fd, operation)
}

/// Room for all of `len` bytes, found now rather than in the middle of a spill.
fn preallocate(fd: &OwnedFd, path: &Path, len: u64) -> io::Result<()> {
    let len = len - len % BLOCK as u64;
    let stat = rustix::fs::fstat(fd).map_err(|error| sentence(path, "does not say its length", error))?;
    let before = u64::try_from(stat.st_size).unwrap_or(0);
    match rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, len) {
        Ok(()) => {}
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let path_shown = path.display();
            tracing::warn!("{path_shown} lies on a file system that cannot reserve room: it may fill up later");
            if before < len {
                rustix::fs::ftruncate(fd, len).map_err(|error| sentence(path, "cannot be made its length", error))?;
            }
        }
        Err(error) => {
            // What was allocated in vain goes back, if that works.
            let _ = rustix::fs::ftruncate(fd, before);
            let wanted = ByteLen(len);
            return Err(match error {
                Errno::NOSPC | Errno::DQUOT => sentence(
                    path,
                    &format!("has no room for {wanted}; free some, or make the flash file smaller"),
                    error,
                ),
                Errno::FBIG => {
                    sentence(path, &format!("may not be {wanted} long (ulimit -f, or the file system)"), error)
                }
                error => sentence(path, &format!("cannot be preallocated to {wanted}"), error),
            });
        }
    }
    rustix::fs::fsync(fd).map_err(|error| sentence(path, "cannot be synced", error))
}

fn sync_parent(path: &Path) -> Result<(), Errno> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::fsync(dir.as_fd())
}

/// Whether the file system keeps its files in memory, where O_DIRECT would mean nothing anyway.
fn in_memory(path: &Path) -> bool {
    const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;
    const RAMFS_MAGIC: rustix::fs::FsWord = 0x8584_58f6;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    rustix::fs::statfs(parent).is_ok_and(|found| [TMPFS_MAGIC, RAMFS_MAGIC].contains(&found.f_type))
}

fn sentence(path: &Path, what: &str, error: Errno) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("{} {what}: {error}", path.display()))
}
