//! The thread of one device: drives its log and its engine, fed by a queue and a waker.
//!
//! Invariants:
//! - Whoever queues never waits for the device: bounds on what is queued are the callers' (bytes of spills, number of reads).
//! - Every job queued is answered or dropped, also when the thread ends.
//! - The engine goes before the log: what it may still touch lies in the log's flights.

use super::engine::{Engine, Wake};
use super::log::{Handed, Handover, Heirs, Leaving, Log, ReadJob, ScrubJob, ScrubReport, SpillJob, Ticket, Verdict};
use super::scrub;
use super::tier::FlashError;
use super::tier::status::{DrainStatus, Figures};
use parking_lot::{Condvar, Mutex};
use protocol::base::ByteLen;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::Duration;

/// Pause between two lines about how far a drain is.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What waits for the device's thread.
#[derive(Default)]
struct Inbox {
    reads: Vec<ReadJob>,
    spills: Vec<SpillJob>,
    syncs: Vec<Ticket>,
    scrubs: Vec<Scrub>,
    /// Records of other devices.
    adoptions: Vec<Handover>,
    /// What became of its own that others were given.
    handed: Vec<Handed>,
    /// Nothing is taken any more.
    closed: bool,
    /// The device is let go: nothing of it stays in the index. It is closed then, or serves reads until it is empty.
    leave: Option<Leaving>,
}

/// What the thread and all others share.
#[derive(Default)]
struct Post {
    inbox: Mutex<Inbox>,
    /// The device is closed, or is not let go any more.
    news: Condvar,
}

/// What a scrubber has to say.
pub(crate) enum Scrub {
    /// It wants a segment: from this one on, and whether of those that are sealed.
    Next { from: u32, sealed: bool, answer: SyncSender<Option<ScrubJob>> },
    /// It looked at one.
    Done(ScrubReport),
}

/// A device as others see it.
pub(crate) struct Device {
    /// Its number in the tier, the superblock's.
    pub(crate) id: u32,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its first slot, and how many it has.
    pub(crate) slots: (u16, u32),
    /// Bytes of one of its segments.
    pub(crate) segment_len: u64,
    /// What its segments are checked by.
    pub(crate) of: scrub::Of,
    /// Whether a write budget was set.
    pub(crate) has_budget: bool,
    /// Who performs its I/O.
    pub(crate) engine: &'static str,
    /// What it counts.
    pub(crate) figures: Arc<Figures>,
    /// No spill is given to it any more.
    pub(crate) leaving: AtomicBool,
    /// Bytes that it held when its drain began; 0 while there is none.
    drain_from: AtomicU64,
    post: Arc<Post>,
    waker: Arc<dyn Wake>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread needs of itself.
pub(crate) struct Runner {
    post: Arc<Post>,
}

impl Device {
    /// A device whose thread will call [`Runner::run`].
    pub(crate) fn new(
        id: u32,
        path: PathBuf,
        slots: (u16, u32),
        of: scrub::Of,
        has_budget: bool,
        engine: &dyn Engine,
        figures: Arc<Figures>,
    ) -> (Self, Runner) {
        let post: Arc<Post> = Arc::default();
        let device = Self {
            id,
            path,
            slots,
            segment_len: of.geometry.segment_len,
            of,
            has_budget,
            engine: engine.name(),
            figures,
            leaving: AtomicBool::new(false),
            drain_from: AtomicU64::new(0),
            post: Arc::clone(&post),
            waker: engine.waker(),
            thread: Mutex::new(None),
        };
        (device, Runner { post })
    }

    /// Whose end [`Device::close`] waits for.
    pub(crate) fn set_thread(&self, thread: JoinHandle<()>) {
        *self.thread.lock() = Some(thread);
    }

    /// Bytes of all segments.
    pub(crate) fn size(&self) -> u64 {
        u64::from(self.slots.1) * self.segment_len
    }

    /// Whether a slot is one of its.
    pub(crate) fn has_slot(&self, slot: u16) -> bool {
        u32::from(slot).checked_sub(u32::from(self.slots.0)).is_some_and(|segment| segment < self.slots.1)
    }

    /// Whether it takes and gives.
    pub(crate) fn is_on(&self) -> bool {
        !self.leaving.load(Ordering::Relaxed) && self.figures.why_off().is_none()
    }

    /// Whether spills can be given to it.
    pub(crate) fn takes_spills(&self) -> bool {
        self.is_on() && !self.figures.full.load(Ordering::Relaxed)
    }

    /// Queues a read.
    pub(crate) fn read(&self, job: ReadJob) {
        let refused = self.queue(job, |inbox| &mut inbox.reads);
        if let Some(ReadJob { answer, .. }) = refused {
            answer(Verdict::Missed);
        }
    }

    /// Queues a spill.
    pub(crate) fn spill(&self, job: SpillJob) {
        let refused = self.queue(job, |inbox| &mut inbox.spills);
        if let Some(SpillJob { ticket: Some(ticket), .. }) = refused {
            ticket(Err(FlashError::Closed));
        }
    }

    /// Tells when everything that is complete now is durable.
    pub(crate) fn sync(&self, ticket: Ticket) {
        if let Some(ticket) = self.queue(ticket, |inbox| &mut inbox.syncs) {
            ticket(Err(FlashError::Closed));
        }
    }

    /// Queues what a scrubber says. Its answer is dropped if the device is closed.
    pub(crate) fn scrub(&self, scrub: Scrub) {
        drop(self.queue(scrub, |inbox| &mut inbox.scrubs));
    }

    fn queue<T>(&self, job: T, queue: fn(&mut Inbox) -> &mut Vec<T>) -> Option<T> {
        let mut inbox = self.post.inbox.lock();
        if inbox.closed {
            return Some(job);
        }
        queue(&mut inbox).push(job);
        drop(inbox);
        self.waker.wake();
        None
    }

    /// Queues a record of a device that is let go.
    pub(crate) fn adopt(&self, handover: Handover) {
        if let Some(handover) = self.queue(handover, |inbox| &mut inbox.adoptions) {
            handover.refuse();
        }
    }

    /// Tells what became of a record that another device was given: also while the device is being closed, which waits for it.
    pub(crate) fn handed(&self, handed: Handed) {
        self.post.inbox.lock().handed.push(handed);
        self.waker.wake();
    }

    /// Finishes what was queued, takes what the device holds out of the index, and ends the thread.
    pub(crate) fn leave(&self) {
        {
            let mut inbox = self.post.inbox.lock();
            self.leaving.store(true, Ordering::Relaxed);
            inbox.leave = Some(Leaving::Dropped);
            inbox.closed = true;
        }
        self.close();
    }

    /// Gives what the device holds to `heirs`, serves reads meanwhile, and ends the thread. Blocks until then. `false` if it was
    /// called off: the device serves on.
    pub(crate) fn drain(&self, heirs: Arc<dyn Heirs>) -> bool {
        self.drain_from.store(self.figures.used.load(Ordering::Relaxed).max(1), Ordering::Relaxed);
        let mut inbox = self.post.inbox.lock();
        if !inbox.closed {
            inbox.leave = Some(Leaving::Kept(heirs));
        }
        self.waker.wake();
        let is_kept = |inbox: &Inbox| matches!(inbox.leave, Some(Leaving::Kept(_)));
        while is_kept(&inbox) && !inbox.closed {
            if self.post.news.wait_for(&mut inbox, SAY_EVERY).timed_out()
                && let Some(DrainStatus { percent, left }) = self.drain_status()
            {
                tracing::info!("flash.{} is being drained: {percent} %, {left} are left", self.id);
            }
        }
        let is_empty = is_kept(&inbox);
        if !is_empty {
            // Unless it is let go in another way.
            self.leaving.store(inbox.leave.is_some(), Ordering::Relaxed);
        }
        self.drain_from.store(0, Ordering::Relaxed);
        drop(inbox);
        if is_empty {
            self.close();
        }
        is_empty
    }

    /// Calls a drain off. `false` if none is under way.
    pub(crate) fn stay(&self) -> bool {
        let mut inbox = self.post.inbox.lock();
        if inbox.closed || inbox.leave.take().is_none() {
            return false;
        }
        self.post.news.notify_all();
        drop(inbox);
        self.waker.wake();
        true
    }

    /// How far a drain is; `None` while there is none.
    pub(crate) fn drain_status(&self) -> Option<DrainStatus> {
        let from = self.drain_from.load(Ordering::Relaxed);
        let left = self.figures.used.load(Ordering::Relaxed);
        let done = u128::from(from.saturating_sub(left)) * 100 / u128::from(from.max(1));
        (from > 0).then(|| DrainStatus { percent: u8::try_from(done).unwrap_or(100), left: ByteLen(left) })
    }

    /// Finishes what was queued, seals, and ends the thread.
    pub(crate) fn close(&self) {
        self.post.inbox.lock().closed = true;
        self.waker.wake();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

impl Post {
    /// The device is empty: it is closed, unless it is to stay.
    fn end_drain(&self) {
        let mut inbox = self.inbox.lock();
        if inbox.leave.is_some() {
            inbox.closed = true;
            self.news.notify_all();
        }
    }
}

impl Runner {
    /// Until the device is closed.
    pub(crate) fn run(self, mut engine: Box<dyn Engine>, mut log: Log) {
        let mut done = Vec::new();
        loop {
            let mut inbox = self.post.inbox.lock();
            let (reads, spills, syncs) =
                (std::mem::take(&mut inbox.reads), std::mem::take(&mut inbox.spills), std::mem::take(&mut inbox.syncs));
            let scrubs = std::mem::take(&mut inbox.scrubs);
            let (adoptions, handed) = (std::mem::take(&mut inbox.adoptions), std::mem::take(&mut inbox.handed));
            let (closed, leave) = (inbox.closed, inbox.leave.clone());
            drop(inbox);
            reads.into_iter().for_each(|job| log.read(job));
            spills.into_iter().for_each(|job| log.spill(job));
            syncs.into_iter().for_each(|ticket| log.sync(ticket));
            for scrub in scrubs {
                match scrub {
                    // Who does not wait any more needs no answer.
                    Scrub::Next { from, sealed, answer } => drop(answer.send(log.next_scrub(from, sealed))),
                    Scrub::Done(report) => log.scrubbed(report),
                }
            }
            adoptions.into_iter().for_each(|handover| log.adopt(handover));
            handed.into_iter().for_each(|handed| log.handed(handed));
            match leave {
                Some(Leaving::Kept(heirs)) => log.leave(Leaving::Kept(heirs)),
                Some(Leaving::Dropped) if log.waiting() == (0, 0) => log.leave(Leaving::Dropped),
                None if closed && log.waiting() == (0, 0) => log.close(),
                None if log.is_leaving() => log.stay(),
                None | Some(Leaving::Dropped) => {}
            }
            log.step(&mut *engine);
            if closed && log.is_idle() {
                break;
            }
            if log.is_leaving() && log.is_left() {
                self.post.end_drain();
            }
            engine.wait(log.timeout(), &mut done);
            for done in done.drain(..) {
                log.complete(done);
            }
        }
        drop(engine);
        drop(log);
    }
}
