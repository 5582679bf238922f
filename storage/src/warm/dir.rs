//! The directory of segments' files, on a tmpfs or hugetlbfs, for one process at a time.
//!
//! Invariants:
//! - Only files of the server's own user that nobody else can open are mapped, and only such a directory is used: whoever
//!   else can write there could make the server read, or end it by cutting a file short.
//! - Every page of a new segment is allocated before it is used: a memory file system that fills up later takes nothing away.
//! - The manifest is written beside its place and then renamed, so that it is there whole or not at all.

use super::manifest::{Cold, Manifest};
use crate::dram::memory::{HugePages, Memory, Pages, Segment};
use protocol::base::ByteLen;
use rustix::fs::{
    AtFlags, FallocateFlags, FileType, FlockOperation, IFlags, Mode, OFlags, RawMode, fallocate, flock, fstat, fstatfs,
    ftruncate, ioctl_getflags, ioctl_setflags, openat, renameat, unlinkat,
};
use rustix::io::Errno;
use std::fs::{DirBuilder, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const TMPFS: u64 = 0x0102_1994;
const HUGETLBFS: u64 = 0x9584_58f6;
const MANIFEST: &str = "manifest";
const FRESH: &str = "manifest.new";
const SEGMENT: &str = "segment-";
/// Bytes of a huge page that segments can begin at.
const HUGE_PAGE: u64 = 2 << 20;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WarmError {
    /// It is not one to use.
    #[error("{path}: {why}")]
    Unfit {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// Another process uses it.
    #[error("{path} is in use by another server: give this one a `dram-path` of its own")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with its path.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

/// A locked directory. The lock ends with the value, and with the process.
#[derive(Debug)]
pub struct WarmDir {
    path: PathBuf,
    dir: OwnedFd,
    pages: Pages,
    /// Bytes that a file is a multiple of.
    page_len: u64,
}

impl WarmDir {
    /// Makes the directory if need be, looks at it, and locks it.
    ///
    /// # Errors
    /// [`WarmError::Locked`] if another process has it; [`WarmError::Unfit`] if it is on another kind of file system, or
    /// others may write there.
    pub fn open(path: &Path) -> Result<Self, WarmError> {
        let failed =
            |what: &str, source: io::Error| WarmError::Io { what: format!("{what} {}", path.display()), source };
        let unfit = |why: String| WarmError::Unfit { path: path.to_owned(), why };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| failed("make", error))?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let dir =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed("open the directory", error.into()))?;
        let stat = fstat(&dir).map_err(|error| failed("look at", error.into()))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(unfit(format!(
                "belongs to user {}, not to the server's own: whoever it is could change memory",
                stat.st_uid
            )));
        }
        if stat.st_mode & 0o077 != 0 {
            return Err(unfit(format!("others may enter it (mode {:o}): chmod 700 it", stat.st_mode & 0o7777)));
        }
        let system = fstatfs(&dir).map_err(|error| failed("look at the file system of", error.into()))?;
        let (pages, page_len) = match u64::try_from(system.f_type).map(|kind| kind & 0xffff_ffff) {
            Ok(TMPFS) => (Pages::Ordinary, 4096),
            Ok(HUGETLBFS) => (Pages::Huge, u64::try_from(system.f_bsize).unwrap_or(u64::MAX)),
            _ => {
                return Err(unfit(
                    "is on neither a tmpfs nor a hugetlbfs: its files would be written to a disk".to_owned(),
                ));
            }
        };
        if page_len > HUGE_PAGE {
            return Err(unfit(format!("has pages of {}: mount it with pagesize=2M", ByteLen(page_len))));
        }
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), dir, pages, page_len }),
            Err(Errno::WOULDBLOCK) => Err(WarmError::Locked { path: path.to_owned() }),
            Err(error) => Err(failed("lock", error.into())),
        }
    }

    /// Which pages its files have.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a planned stop left, if one did.
    ///
    /// # Errors
    /// Why there is nothing to go on from.
    pub fn manifest(&self) -> Result<Manifest, Cold> {
        let file = match self.open_at(MANIFEST, OFlags::RDONLY) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Err(Cold::NoManifest),
            Err(_) => return Err(Cold::Damaged("it cannot be opened")),
        };
        check_own(&file).map_err(|_| Cold::Damaged("others can write it"))?;
        let mut bytes = Vec::new();
        File::from(file).read_to_end(&mut bytes).map_err(|_| Cold::Damaged("it cannot be read"))?;
        Manifest::decode(bytes)
    }

    /// A segment as the earlier life left it.
    ///
    /// # Errors
    /// [`Cold::Files`] if it is not there or not as it should be.
    pub fn keep_segment(&self, number: usize, len: ByteLen, huge: HugePages) -> Result<Segment, Cold> {
        let name = segment_name(number);
        let cold = |why: String| Cold::Files(format!("{name}: {why}"));
        let open = |flags| self.open_at(&name, flags).map_err(|error| cold(error.to_string()));
        let looked = open(OFlags::RDONLY)?;
        let stat = check_own(&looked).map_err(&cold)?;
        if u64::try_from(stat.st_size) != Ok(len.get()) {
            return Err(cold(format!("{} bytes instead of {}", stat.st_size, len.get())));
        }
        release(&looked).map_err(|error| cold(error.to_string()))?;
        let file = open(OFlags::RDWR)?;
        let again = fstat(&file).map_err(|error| cold(error.to_string()))?;
        if (again.st_dev, again.st_ino) != (stat.st_dev, stat.st_ino) {
            return Err(cold("was exchanged".to_owned()));
        }
        drop(looked);
        // What a hole would be filled with may not be there any more.
        if self.pages == Pages::Ordinary && u64::try_from(again.st_blocks).unwrap_or(0) * 512 < len.get() {
            return Err(cold("has holes".to_owned()));
        }
        Segment::over_file(file, len, self.pages, huge != HugePages::Never).map_err(|error| cold(error.to_string()))
    }

    /// Removes what earlier lives left, to begin anew.
    ///
    /// # Errors
    /// [`WarmError::Io`].
    pub fn clear(&self) -> Result<(), WarmError> {
        let failed = |what: &str, error: Errno| self.failed(what, error.into());
        let entries = rustix::fs::Dir::read_from(&self.dir).map_err(|error| failed("list", error))?;
        for entry in entries {
            let entry = entry.map_err(|error| failed("list", error))?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name != MANIFEST && name != FRESH && !name.starts_with(SEGMENT) {
                continue;
            }
            if let Ok(file) = self.open_at(name, OFlags::RDONLY) {
                // If it cannot be, removing it says so.
                let _ = release(&file);
            }
            match unlinkat(&self.dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::PERM) => {
                    return Err(WarmError::Unfit {
                        path: self.path.join(name),
                        why: "is immutable, and this server may not change that: chattr -i it, or give the server \
                              CAP_LINUX_IMMUTABLE"
                            .to_owned(),
                    });
                }
                Err(error) => return Err(failed(&format!("remove {name} from"), error)),
            }
        }
        Ok(())
    }

    /// A new segment, zeroed, all its pages allocated.
    ///
    /// # Errors
    /// [`WarmError::Io`]: most often no room.
    pub fn make_segment(&self, number: usize, len: ByteLen, huge: HugePages) -> Result<Segment, WarmError> {
        let name = segment_name(number);
        let made = self
            .make(&name, len.get())
            .and_then(|file| Segment::over_file(file, len, self.pages, huge != HugePages::Never));
        made.map_err(|source| WarmError::Io {
            what: format!("allocate {} in {} ({} free there)", len, self.path.join(name).display(), self.free()),
            source,
        })
    }

    /// Whoever comes from here on finds no manifest: memory is about to change.
    ///
    /// # Errors
    /// [`WarmError::Io`]: then nothing may be changed.
    pub fn begin(&self) -> Result<(), WarmError> {
        for name in [FRESH, MANIFEST] {
            match unlinkat(&self.dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(self.failed(&format!("remove {name} from"), error.into())),
            }
        }
        Ok(())
    }

    /// Memory rests: the next life may go on from this manifest.
    ///
    /// # Errors
    /// [`WarmError::Io`]: then the next life begins with nothing.
    pub fn rest(&self, manifest: &[Vec<u8>], segments: &[Arc<Segment>]) -> Result<(), WarmError> {
        let len: u64 = manifest.iter().map(|piece| piece.len() as u64).sum();
        let failed = |source| WarmError::Io {
            what: format!(
                "write a manifest of {} to {} ({} free there)",
                ByteLen(len),
                self.path.display(),
                self.free()
            ),
            source,
        };
        // Files of a hugetlbfs cannot be written, but mapped.
        let whole = len.next_multiple_of(self.page_len);
        let file = self.make(FRESH, whole).map_err(failed)?;
        let map = Segment::over_file(file, ByteLen(whole), self.pages, false).map_err(failed)?;
        let memory = Memory::new(Arc::new(map));
        let mut at = 0;
        for piece in manifest {
            memory.write(at, piece);
            at += piece.len() as u64;
        }
        drop(memory);
        for segment in segments {
            // Their files can be removed by hand now.
            let _ = release(segment.as_fd());
        }
        renameat(&self.dir, FRESH, &self.dir, MANIFEST).map_err(|error| failed(error.into()))
    }

    /// Bytes that the file system could still give.
    pub fn free(&self) -> ByteLen {
        let system = rustix::fs::fstatvfs(&self.dir);
        ByteLen(system.map_or(0, |system| system.f_bavail.saturating_mul(system.f_frsize)))
    }

    fn failed(&self, what: &str, source: io::Error) -> WarmError {
        WarmError::Io { what: format!("{what} {}", self.path.display()), source }
    }

    fn open_at(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        openat(&self.dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
    }

    /// A new file of our own, all of it allocated. Removed again if it cannot be.
    fn make(&self, name: &str, len: u64) -> io::Result<OwnedFd> {
        match unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.dir, name, flags, Mode::RUSR | Mode::WUSR)?;
        let filled = ftruncate(&file, len).and_then(|()| {
            loop {
                match fallocate(&file, FallocateFlags::empty(), 0, len) {
                    Err(Errno::INTR) => {}
                    done => return done,
                }
            }
        });
        if let Err(error) = filled {
            // Else what could not be filled would fill the file system.
            let _ = unlinkat(&self.dir, name, AtFlags::empty());
            return Err(error.into());
        }
        Ok(file)
    }
}

fn segment_name(number: usize) -> String {
    format!("{SEGMENT}{number:04}")
}

/// Whether a file is a plain one of ours that nobody else can open; says why not.
fn check_own(file: impl AsFd) -> Result<rustix::fs::Stat, String> {
    let stat = fstat(file).map_err(|error| error.to_string())?;
    let kind = FileType::from_raw_mode(RawMode::from(stat.st_mode));
    let own = stat.st_uid == rustix::process::geteuid().as_raw();
    match (kind == FileType::RegularFile, own, stat.st_mode & 0o077, stat.st_nlink) {
        (false, ..) => Err("is not a file".to_owned()),
        (_, false, ..) => Err(format!("belongs to user {}", stat.st_uid)),
        (.., open, _) if open != 0 => Err(format!("others may open it (mode {:o})", stat.st_mode & 0o7777)),
        (.., links) if links != 1 => Err(format!("has {links} names")),
        _ => Ok(stat),
    }
}

/// Makes an immutable file changeable.
fn release(file: impl AsFd) -> io::Result<()> {
    let flags = match ioctl_getflags(&file) {
        Ok(flags) => flags,
        // A file system without such flags has no immutable files.
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if flags.contains(IFlags::IMMUTABLE) { Ok(ioctl_setflags(&file, flags - IFlags::IMMUTABLE)?) } else { Ok(()) }
}
