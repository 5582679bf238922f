//! The engine on io_uring: one ring, one thread, registered file and memory.
//!
//! Role: turns each op into as few submissions as its memory allows (registered memory one by one, which the block layer
//! merges again; other memory gathered), hands all of them over in one call, and takes their completions.
//!
//! Invariants:
//! - An op is queued, or running with at least one piece under way. Its parts and iovecs stay in its slot until no piece is.
//! - The kernel writes `rung` only while `armed`.
//! - The ring is used by one thread: the first to wait (SINGLE_ISSUER, DEFER_TASKRUN). Dropping it there waits for
//!   everything; dropping it elsewhere while ops run gives their memory up rather than let it be reused too early.

#![expect(unsafe_code, reason = "hands memory to the kernel and takes it back at completion")]

use super::buffers::Buffers;
use super::completion::{Outcome, Progress};
use super::file::Device;
use super::syscall::iovecs;
use super::{Done, Engine, Kind, Op, Wake};
use io_uring::types::{Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use protocol::base::StableMemory;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// The registered file.
const FILE: Fixed = Fixed(0);
/// Tag of the read of the bell.
const BELL: u64 = u64::MAX;
/// Pause after the kernel refused a call for a reason that may pass.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);

/// The ring and what is under way on it.
pub(super) struct Ring {
    ring: IoUring,
    device: Device,
    bell: Arc<Bell>,
    /// Where the kernel puts what it read from the bell.
    rung: Box<u64>,
    armed: bool,
    buffers: Buffers,
    queue: VecDeque<Op>,
    slots: Vec<Option<Running>>,
    free: Vec<usize>,
    /// Pieces that wait for an entry of the submission queue.
    ready: VecDeque<(usize, usize)>,
    /// Whose ring it is, once it was used.
    owner: Option<ThreadId>,
}

/// An op with pieces under way.
struct Running {
    op: Op,
    pieces: Vec<Piece>,
    under_way: usize,
    error: Option<io::Error>,
}

/// One submission: memory that one entry can name, contiguous on the device.
struct Piece {
    parts: Range<usize>,
    offset: u64,
    len: u64,
    progress: Progress,
    memory: Memory,
}

enum Memory {
    /// Inside the registered buffer of this number.
    Fixed(u16),
    /// Read by the kernel until the piece completes.
    Gathered(Iovecs),
    None,
}

/// Addresses in parts of an op that lies beside them.
struct Iovecs(Vec<libc::iovec>);

// SAFETY: addresses and lengths, nothing that belongs to a thread. Only the kernel follows them.
unsafe impl Send for Iovecs {}

impl Ring {
    /// A ring on `device` with `fixed` registered, as far as the machine allows.
    ///
    /// # Errors
    /// The device is given back for another engine.
    pub(super) fn start(
        device: Device,
        depth: usize,
        fixed: &[Arc<dyn StableMemory>],
    ) -> Result<Self, (io::Error, Device)> {
        match Self::prepare(&device, depth, fixed) {
            Ok((ring, bell, buffers)) => Ok(Self {
                ring,
                device,
                bell: Arc::new(bell),
                rung: Box::new(0),
                armed: false,
                buffers,
                queue: VecDeque::new(),
                slots: (0..depth).map(|_| None).collect(),
                free: (0..depth).rev().collect(),
                ready: VecDeque::new(),
                owner: None,
            }),
            Err(error) => Err((error, device)),
        }
    }

    fn prepare(device: &Device, depth: usize, fixed: &[Arc<dyn StableMemory>]) -> io::Result<(IoUring, Bell, Buffers)> {
        // A record takes up to three entries. What finds no entry waits.
        let entries = u32::try_from((depth * 4 + 1).next_power_of_two().min(4096)).expect("small");
        let ring = IoUring::builder()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(entries)
            // Kernels before 6.1 have neither of the two.
            .or_else(|error| match error.raw_os_error() {
                Some(libc::EINVAL) => IoUring::builder().setup_r_disabled().build(entries),
                _ => Err(error),
            })?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring of a kernel before 5.11"));
        }
        ring.submitter().register_files(&[device.fd.as_raw_fd()])?;
        let buffers = Buffers::new(&ring, fixed);
        // Blocking: the ring waits for it, and a read that would block must not be answered at once.
        let bell = Bell { fd: eventfd(0, EventfdFlags::CLOEXEC)?, state: AtomicU32::new(AWAKE) };
        Ok((ring, bell, buffers))
    }

    /// Makes the ring this thread's, or ends the process if it is another's.
    fn own(&mut self) {
        let current = std::thread::current().id();
        match self.owner {
            Some(owner) => assert!(owner == current, "a ring of {owner:?} used by {current:?}"),
            None => {
                self.owner = Some(current);
                self.ring.submitter().register_enable_rings().expect("a ring is enabled once");
            }
        }
    }

    /// Moves what is queued into the submission queue, as far as depth and entries go. Answers whether all of it went.
    fn start_queued(&mut self) -> bool {
        while !self.queue.is_empty()
            && let Some(slot) = self.free.pop()
        {
            let op = self.queue.pop_front().expect("looked");
            let running = Running::new(op, &mut self.buffers);
            self.ready.extend((0..running.pieces.len()).map(|piece| (slot, piece)));
            self.slots[slot] = Some(running);
        }
        if !self.armed {
            let read =
                opcode::Read::new(io_uring::types::Fd(self.bell.fd.as_raw_fd()), (&raw mut *self.rung).cast(), 8);
            let entry = read.build().user_data(BELL);
            // SAFETY: the entry's memory must stay valid until its completion: `rung` is boxed, and freed only after
            // `drop` saw the completion or gave the box up.
            if unsafe { self.ring.submission().push(&entry) }.is_err() {
                return false;
            }
            self.armed = true;
        }
        while let Some(&(slot, number)) = self.ready.front() {
            let running = self.slots[slot].as_mut().expect("ready pieces belong to running ops");
            let entry = running.entry(number).user_data(tag(slot, number));
            // SAFETY: the entry's memory must stay valid until its completion. Its addresses lie in the op's parts or in the
            // piece's iovecs; both stay in the slot until no piece of the op is under way, or are given up by `drop`.
            if unsafe { self.ring.submission().push(&entry) }.is_err() {
                return false;
            }
            running.under_way += 1;
            self.ready.pop_front();
        }
        true
    }

    /// One call into the kernel: hands over what is in the submission queue and waits for a completion.
    fn enter(&mut self, timeout: Option<Duration>) {
        let timespec = timeout.map(Timespec::from);
        let mut args = SubmitArgs::new();
        if let Some(timespec) = &timespec {
            args = args.timespec(timespec);
        }
        // Asks for a completion even when it does not wait: only so does the kernel run what completes here.
        let Err(error) = self.ring.submitter().submit_with_args(1, &args) else { return };
        match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR) => {}
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => std::thread::sleep(REFUSED_PAUSE),
            _ => {
                tracing::error!("io_uring_enter: {error}");
                std::thread::sleep(REFUSED_PAUSE);
            }
        }
    }

    /// Takes all completions. Ops that are complete become answers.
    fn reap(&mut self, out: &mut Vec<Done>) {
        // Collected first: continuing a piece needs the ring.
        while let Some(entry) = self.next_completion() {
            if entry.user_data() == BELL {
                self.armed = false;
                continue;
            }
            let (slot, number) = untag(entry.user_data());
            let running = self.slots[slot].as_mut().expect("completions belong to running ops");
            running.under_way -= 1;
            match running.pieces[number].progress.completed(read_result(entry.result())) {
                Outcome::Complete => {}
                Outcome::Continue if running.error.is_none() => self.ready.push_back((slot, number)),
                Outcome::Continue => {}
                Outcome::Failed(error) => running.error = running.error.take().or(Some(error)),
            }
            if running.under_way == 0 && !self.ready.iter().any(|&(ready, _)| ready == slot) {
                let Running { op, error, .. } = self.slots[slot].take().expect("looked");
                self.free.push(slot);
                out.push(Done { tag: op.tag, result: error.map_or(Ok(()), Err), parts: op.parts });
            }
        }
    }

    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }
}

impl Running {
    fn new(op: Op, buffers: &mut Buffers) -> Self {
        let mut pieces: Vec<Piece> = Vec::with_capacity(op.parts.len().max(1));
        let mut offset = op.offset;
        for (number, part) in op.parts.iter().enumerate() {
            let len = part.len() as u64;
            match (buffers.find(part), pieces.last_mut()) {
                (Some(buffer), _) => {
                    let memory = Memory::Fixed(buffer);
                    pieces.push(Piece::new(op.kind, number..number + 1, offset, len, memory));
                }
                (None, Some(Piece { parts, len: so_far, progress, memory: Memory::Gathered(_), .. })) => {
                    parts.end += 1;
                    *so_far += len;
                    *progress = Progress::new(op.kind, *so_far);
                }
                (None, _) => {
                    let memory = Memory::Gathered(Iovecs(Vec::new()));
                    pieces.push(Piece::new(op.kind, number..number + 1, offset, len, memory));
                }
            }
            offset += len;
        }
        if op.kind == Kind::Sync {
            pieces.push(Piece::new(op.kind, 0..0, 0, 0, Memory::None));
        }
        Self { op, pieces, under_way: 0, error: None }
    }

    /// The entry for what is left of a piece. Not while the piece is under way.
    fn entry(&mut self, number: usize) -> squeue::Entry {
        let Self { op, pieces, .. } = self;
        let piece = &mut pieces[number];
        let done = piece.len - piece.progress.left();
        let offset = piece.offset + done;
        match (op.kind, &mut piece.memory) {
            (Kind::Sync, _) => opcode::Fsync::new(FILE).flags(FsyncFlags::DATASYNC).build(),
            (kind, Memory::Fixed(buffer)) => {
                let from = op.parts[piece.parts.start].as_ptr().wrapping_add(usize::try_from(done).expect("64-bit"));
                let len = u32::try_from(piece.progress.left()).expect("slices are shorter than 4 GiB");
                match kind {
                    Kind::Read => opcode::ReadFixed::new(FILE, from, len, *buffer).offset(offset).build(),
                    Kind::Write | Kind::Sync => {
                        opcode::WriteFixed::new(FILE, from, len, *buffer).offset(offset).build()
                    }
                }
            }
            (kind, Memory::Gathered(found)) => {
                found.0 = iovecs(&op.parts[piece.parts.clone()], done);
                let (from, count) = (found.0.as_ptr(), u32::try_from(found.0.len()).expect("at most IOV_MAX"));
                match kind {
                    Kind::Read => opcode::Readv::new(FILE, from, count).offset(offset).build(),
                    Kind::Write | Kind::Sync => opcode::Writev::new(FILE, from, count).offset(offset).build(),
                }
            }
            (Kind::Read | Kind::Write, Memory::None) => unreachable!("only a sync has no memory"),
        }
    }
}

impl Piece {
    fn new(kind: Kind, parts: Range<usize>, offset: u64, len: u64, memory: Memory) -> Self {
        Self { parts, offset, len, progress: Progress::new(kind, len), memory }
    }
}

/// The kernel's way of saying how much was moved, or why not.
fn read_result(result: i32) -> io::Result<u64> {
    u64::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.wrapping_neg()))
}

fn tag(slot: usize, piece: usize) -> u64 {
    (slot as u64) << 32 | piece as u64
}

fn untag(tag: u64) -> (usize, usize) {
    let half = |half: u64| usize::try_from(half).expect("64-bit");
    (half(tag >> 32), half(tag & u64::from(u32::MAX)))
}

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;
const RUNG: u32 = 2;

/// Wakes the ring's thread by an eventfd, written only when that thread sleeps.
struct Bell {
    fd: OwnedFd,
    state: AtomicU32,
}

impl Bell {
    /// Before the ring's thread may sleep. Answers whether it may: it was not rung.
    fn lie_down(&self) -> bool {
        self.state.compare_exchange(AWAKE, ASLEEP, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// After it. Answers whether it was rung.
    fn get_up(&self) -> bool {
        self.state.swap(AWAKE, Ordering::SeqCst) == RUNG
    }

    #[expect(clippy::host_endian_bytes, reason = "eventfd(2) counts as the host does")]
    fn strike(&self) {
        // It cannot block: the counter would have to reach 2^64.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }
}

impl Wake for Bell {
    fn wake(&self) {
        if self.state.swap(RUNG, Ordering::SeqCst) == ASLEEP {
            self.strike();
        }
    }
}

impl Engine for Ring {
    fn len(&self) -> u64 {
        self.device.len
    }

    fn depth(&self) -> usize {
        self.slots.len()
    }

    fn in_flight(&self) -> usize {
        self.queue.len() + self.slots.len() - self.free.len()
    }

    fn submit(&mut self, op: Op) {
        op.check(self.device.len);
        self.queue.push_back(op);
    }

    fn wait(&mut self, timeout: Option<Duration>, out: &mut Vec<Done>) {
        self.own();
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let before = out.len();
        loop {
            let all_started = self.start_queued();
            if self.buffers.is_due() {
                // What was started runs meanwhile. What the kernel does not take here it takes below.
                let _ = self.ring.submit();
                self.buffers.register_wanted(&self.ring);
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let quiet = self.bell.lie_down();
            self.enter(if all_started && quiet { left } else { Some(Duration::ZERO) });
            let rung = self.bell.get_up() || !quiet;
            self.reap(out);
            let late = left.is_some_and(|left| left.is_zero()) || until.is_some_and(|until| until <= Instant::now());
            if out.len() > before || (all_started && (rung || late)) {
                return;
            }
        }
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.bell) as Arc<dyn Wake>
    }

    fn name(&self) -> &'static str {
        "io_uring"
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let current = std::thread::current().id();
        if self.owner.is_some_and(|owner| owner != current) {
            // Only its own thread can take completions. The kernel ends what runs some time after the ring is closed, so
            // what it may touch till then is given up.
            if self.in_flight() > 0 {
                tracing::error!("a ring with {} ops in flight was dropped by another thread", self.in_flight());
            }
            std::mem::forget(std::mem::take(&mut self.slots));
            std::mem::forget(std::mem::take(&mut self.rung));
            return;
        }
        let mut unheard = Vec::new();
        while self.in_flight() > 0 {
            self.wait(None, &mut unheard);
            unheard.clear();
        }
        while self.armed {
            self.bell.strike();
            self.enter(None);
            self.reap(&mut unheard);
        }
        // A closed ring lets go of its file some time later. Nothing runs, so the lock and the file can go now.
        let _ = rustix::fs::flock(&self.device.fd, rustix::fs::FlockOperation::Unlock);
        let _ = self.ring.submitter().unregister_files();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_that_another_thread_drops_takes_nobody_with_it() {
        let device = Device { fd: std::fs::File::open("/dev/zero").expect("is everywhere").into(), len: 1 << 20 };
        let Ok(mut ring) = Ring::start(device, 4, &[]) else { panic!("io_uring is refused") };
        let waker = ring.waker();
        ring.wait(Some(Duration::ZERO), &mut Vec::new());
        std::thread::spawn(move || drop(ring)).join().expect("drops");
        waker.wake();
    }
}
