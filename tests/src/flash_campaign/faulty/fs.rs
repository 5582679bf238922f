//! A FUSE file system of one file, which lies on a simulated disk.

use anyhow::Context as _;
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use protocol::base::RawSpan;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use storage::flash::engine::{BLOCK, Done, Engine, Kind, Op, Scratch, ScratchPool, SimDisk};

const NAME: &str = "device";
const FILE: INodeNo = INodeNo(2);
/// Longest transfer that the kernel asks for at once.
const TRANSFER_LEN_MAX: usize = 1 << 20;
/// Transfers at once.
const THREADS: usize = 8;
const TTL: Duration = Duration::from_secs(60);
/// How soon a transfer that waits for its turn sees that the rate is another.
const SLICE: Duration = Duration::from_millis(20);

/// How the device moves bytes, faults apart.
#[derive(Debug, Default)]
pub struct Manner {
    rate: AtomicU64,
    free_at: Mutex<Option<SystemTime>>,
    short: AtomicU64,
    transfers: AtomicU64,
}

impl Manner {
    /// So many bytes a second from now on; 0 is as fast as it can.
    pub fn set_rate(&self, bytes_per_second: u64) {
        self.rate.store(bytes_per_second, Ordering::Relaxed);
        // Whoever waits for its turn at the old rate goes on at once.
        *self.free_at.lock().expect("nobody panics with the clock") = None;
    }

    /// Every `one_in`th transfer moves half of what it should, and says so; 0 is none.
    pub fn set_short(&self, one_in: u64) {
        self.short.store(one_in, Ordering::Relaxed);
    }

    /// Bytes to move of `len`.
    fn moves(&self, len: usize) -> usize {
        let transfers = self.transfers.fetch_add(1, Ordering::Relaxed);
        let one_in = self.short.load(Ordering::Relaxed);
        let is_short = one_in > 0 && transfers.is_multiple_of(one_in) && len > BLOCK;
        if is_short { len / BLOCK / 2 * BLOCK } else { len }
    }

    /// Waits for the turn of so many bytes.
    fn take(&self, bytes: usize) {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let now = SystemTime::now();
        let end = {
            let mut free_at = self.free_at.lock().expect("nobody panics with the clock");
            let begin = free_at.map_or(now, |at| at.max(now));
            let end = begin + Duration::from_nanos(bytes as u64 * 1_000_000_000 / rate);
            *free_at = Some(end);
            end
        };
        while self.rate.load(Ordering::Relaxed) == rate
            && let Ok(left) = end.duration_since(SystemTime::now())
        {
            std::thread::sleep(left.min(SLICE));
        }
    }
}

/// The mounted file. Unmounted when dropped.
pub struct FaultyFile {
    path: PathBuf,
    manner: Arc<Manner>,
    session: Option<BackgroundSession>,
}

impl FaultyFile {
    /// Mounts it in `dir`. `None`, with a line that says so, where one may not.
    ///
    /// # Errors
    /// If that fails where one may.
    pub fn mount(dir: &Path, disk: &SimDisk) -> anyhow::Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            return Ok(crate::peer::skipped("only root may mount a file system, and it needs /dev/fuse"));
        }
        let mount = dir.join("faulty");
        std::fs::create_dir_all(&mount)?;
        let manner = Arc::new(Manner::default());
        let len = disk.engine(1).len();
        let parts = (0..THREADS).map(|_| Mutex::new(disk.engine(1))).collect();
        let fs = OneFile {
            len,
            engines: parts,
            memory: ScratchPool::new(TRANSFER_LEN_MAX, THREADS)?,
            manner: Arc::clone(&manner),
        };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("faulty".to_owned()), MountOption::RW];
        config.n_threads = Some(THREADS);
        let session = fuser::spawn_mount(fs, &mount, &config).context("mount a FUSE file system")?;
        Ok(Some(Self { path: mount.join(NAME), manner, session: Some(session) }))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How it moves bytes.
    pub fn manner(&self) -> &Manner {
        &self.manner
    }
}

impl Drop for FaultyFile {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        let mount = self.path.parent().expect("a file in a directory");
        if let Err(error) = super::super::disk::unmount(mount) {
            // Whatever still uses it, the mount must not outlive the campaign.
            eprintln!("{error:#}");
            let _ = std::process::Command::new("umount").arg("-l").arg(mount).status();
        }
        // Its threads end with the mount.
        drop(session);
    }
}

impl std::fmt::Debug for FaultyFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FaultyFile({})", self.path.display())
    }
}

struct OneFile {
    len: u64,
    engines: Vec<Mutex<Box<dyn Engine>>>,
    memory: ScratchPool,
    manner: Arc<Manner>,
}

impl OneFile {
    fn attr(&self, ino: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match ino {
            INodeNo::ROOT => (FileType::Directory, 0o755, 0),
            FILE => (FileType::RegularFile, 0o600, self.len),
            _ => return None,
        };
        Some(FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: u32::try_from(BLOCK).expect("small"),
            flags: 0,
        })
    }

    /// Runs one op on whichever engine is free.
    fn perform(&self, op: Op) -> io::Result<()> {
        let mut engine = loop {
            if let Some(engine) = self.engines.iter().find_map(|engine| engine.try_lock().ok()) {
                break engine;
            }
            std::thread::yield_now();
        };
        engine.submit(op);
        let mut done: Vec<Done> = Vec::new();
        while done.is_empty() {
            engine.wait(None, &mut done);
        }
        done.pop().expect("one").result
    }

    fn scratch(&self) -> Scratch {
        loop {
            if let Some(scratch) = self.memory.take() {
                return scratch;
            }
            std::thread::yield_now();
        }
    }

    /// Whether a transfer is one that a device takes: whole blocks inside it.
    fn fits(&self, offset: u64, len: usize) -> bool {
        let end = offset.checked_add(len as u64);
        let is_whole = offset.is_multiple_of(BLOCK as u64) && len.is_multiple_of(BLOCK);
        is_whole && len > 0 && len <= TRANSFER_LEN_MAX && end.is_some_and(|end| end <= self.len)
    }
}

/// Whether a transfer ended early rather than failed.
fn is_short(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::WriteZero)
}

impl Filesystem for OneFile {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // As much as the kernel will give; a shorter one is only slower.
        let _ = config.set_max_write(u32::try_from(TRANSFER_LEN_MAX).expect("small"));
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attr(FILE) {
            Some(attr) if parent == INodeNo::ROOT && name == NAME => reply.entry(&TTL, &attr, Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.attr(ino) {
            Some(attr) if size.is_none_or(|size| size == self.len) => reply.attr(&TTL, &attr),
            _ => reply.error(Errno::EPERM),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if ino == FILE {
            let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
            reply.opened(FileHandle(1), flags);
        } else {
            reply.error(Errno::EISDIR);
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let len = usize::try_from(size).expect("64-bit");
        if offset >= self.len {
            return reply.data(&[]);
        }
        if !self.fits(offset, len) {
            return reply.error(Errno::EINVAL);
        }
        let len = self.manner.moves(len);
        self.manner.take(len);
        let scratch = self.scratch();
        let parts: Vec<RawSpan> = vec![scratch.span(len)];
        match self.perform(Op { tag: 0, kind: Kind::Read, offset, parts }) {
            Ok(()) => reply.data(&scratch.bytes()[..len]),
            Err(error) if is_short(&error) => reply.data(&[]),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if !self.fits(offset, data.len()) {
            return reply.error(Errno::EINVAL);
        }
        let data = &data[..self.manner.moves(data.len())];
        self.manner.take(data.len());
        let mut scratch = self.scratch();
        scratch.bytes_mut()[..data.len()].copy_from_slice(data);
        let written = |bytes: usize| u32::try_from(bytes).expect("bounded by the transfer");
        match self.perform(Op::write(0, offset, vec![scratch.span(data.len())])) {
            Ok(()) => reply.written(written(data.len())),
            Err(error) if is_short(&error) => reply.written(0),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.perform(Op::sync(0)) {
            Ok(()) => reply.ok(),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, length: u64, _: i32, reply: ReplyEmpty) {
        match offset.checked_add(length) {
            Some(end) if end <= self.len => reply.ok(),
            _ => reply.error(Errno::ENOSPC),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
