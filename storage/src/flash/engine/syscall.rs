//! The engine for machines that refuse io_uring: a few threads with `preadv(2)`, `pwritev(2)` and `fdatasync(2)`.
//!
//! Invariants:
//! - An op is in the queue, with one thread, or among the answers; its parts go with it.

#![expect(unsafe_code, reason = "system calls on memory that others see too")]

use super::completion::{Outcome, Progress};
use super::file::Device;
use super::{Done, Engine, Kind, Op, Wake};
use parking_lot::{Condvar, Mutex};
use protocol::base::RawSpan;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Threads at most, whatever the depth.
const THREADS_MAX: usize = 16;
/// As `IOV_MAX` of Linux.
const IOVECS_MAX: usize = 1024;

/// The threads and what lies between them and their user.
pub(super) struct Threads {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    len: u64,
    in_flight: usize,
}

struct Shared {
    fd: OwnedFd,
    jobs: Mutex<Jobs>,
    work: Condvar,
    answers: Mutex<Answers>,
    news: Condvar,
}

#[derive(Default)]
struct Jobs {
    queue: VecDeque<Op>,
    closing: bool,
}

#[derive(Default)]
struct Answers {
    done: Vec<Done>,
    woken: bool,
}

impl Threads {
    pub(super) fn start(device: Device, depth: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            fd: device.fd,
            jobs: Mutex::default(),
            work: Condvar::new(),
            answers: Mutex::default(),
            news: Condvar::new(),
        });
        let mut this = Self { shared, threads: Vec::new(), len: device.len, in_flight: 0 };
        for n in 0..depth.min(THREADS_MAX) {
            let shared = Arc::clone(&this.shared);
            let thread = std::thread::Builder::new().name(format!("flash-io-{n}"));
            this.threads.push(thread.spawn(move || shared.work())?);
        }
        Ok(this)
    }
}

impl Engine for Threads {
    fn len(&self) -> u64 {
        self.len
    }

    fn depth(&self) -> usize {
        self.threads.len()
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn submit(&mut self, op: Op) {
        op.check(self.len);
        self.in_flight += 1;
        self.shared.jobs.lock().queue.push_back(op);
        self.shared.work.notify_one();
    }

    fn wait(&mut self, timeout: Option<Duration>, out: &mut Vec<Done>) {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut answers = self.shared.answers.lock();
        while answers.done.is_empty() && !answers.woken {
            match until {
                None => self.shared.news.wait(&mut answers),
                Some(until) => {
                    if self.shared.news.wait_until(&mut answers, until).timed_out() {
                        break;
                    }
                }
            }
        }
        answers.woken = false;
        self.in_flight -= answers.done.len();
        out.append(&mut answers.done);
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.shared) as Arc<dyn Wake>
    }

    fn name(&self) -> &'static str {
        "syscall"
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.jobs.lock().closing = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked ended the process (`panic = "abort"`), or in a test has said so already.
            let _ = thread.join();
        }
    }
}

impl Wake for Shared {
    fn wake(&self) {
        self.answers.lock().woken = true;
        self.news.notify_one();
    }
}

impl Shared {
    /// Takes one op after another until the engine is dropped and the queue empty.
    fn work(&self) {
        loop {
            let mut jobs = self.jobs.lock();
            let op = loop {
                match jobs.queue.pop_front() {
                    Some(op) => break op,
                    None if jobs.closing => return,
                    None => self.work.wait(&mut jobs),
                }
            };
            drop(jobs);
            let result = perform(&self.fd, &op);
            let done = Done { tag: op.tag, result, parts: op.parts };
            self.answers.lock().done.push(done);
            self.news.notify_one();
        }
    }
}

fn perform(fd: &OwnedFd, op: &Op) -> io::Result<()> {
    let len = op.len();
    let mut progress = Progress::new(op.kind, len);
    loop {
        let done = len - progress.left();
        let result = match op.kind {
            Kind::Sync => rustix::fs::fdatasync(fd).map(|()| 0).map_err(io::Error::from),
            Kind::Read | Kind::Write => transfer(fd, op.kind, op.offset + done, &iovecs(&op.parts, done)),
        };
        match progress.completed(result) {
            Outcome::Complete => return Ok(()),
            Outcome::Continue => {}
            Outcome::Failed(error) => return Err(error),
        }
    }
}

/// The parts from their byte `skip` on, as far as one call takes.
pub(super) fn iovecs(parts: &[RawSpan], mut skip: u64) -> Vec<libc::iovec> {
    let mut found = Vec::with_capacity(parts.len().min(IOVECS_MAX));
    for part in parts {
        let len = part.len() as u64;
        if skip >= len {
            skip -= len;
            continue;
        }
        if found.len() == IOVECS_MAX {
            break;
        }
        let from = usize::try_from(skip).expect("64-bit");
        found.push(libc::iovec { iov_base: part.as_ptr().wrapping_add(from).cast(), iov_len: part.len() - from });
        skip = 0;
    }
    found
}

fn transfer(fd: &OwnedFd, kind: Kind, offset: u64, iovecs: &[libc::iovec]) -> io::Result<u64> {
    let offset = i64::try_from(offset).map_err(io::Error::other)?;
    let count = i32::try_from(iovecs.len()).map_err(io::Error::other)?;
    let moved = match kind {
        // SAFETY: `preadv` needs an open descriptor, `count` readable iovecs, and writable memory behind each of them.
        // - Descriptor and iovecs are borrowed for the call.
        // - Memory: each iovec lies inside a `RawSpan` of the op, which the caller holds for the call and which keeps its
        //   mapping; no `&mut` to such memory exists, and a read's parts are its submitter's to write.
        Kind::Read => unsafe { libc::preadv(fd.as_raw_fd(), iovecs.as_ptr(), count, offset) },
        // SAFETY: as above, and the memory is only read.
        Kind::Write => unsafe { libc::pwritev(fd.as_raw_fd(), iovecs.as_ptr(), count, offset) },
        Kind::Sync => unreachable!("a sync moves nothing"),
    };
    u64::try_from(moved).map_err(|_| io::Error::last_os_error())
}
