//! The thread of one device: drives its log and its engine, fed by a queue and a waker.
//!
//! Invariants:
//! - Whoever queues never waits for the device: bounds on what is queued are the callers' (bytes of spills, number of reads).
//! - Every job queued is answered or dropped, also when the thread ends.
//! - The engine goes before the log: what it may still touch lies in the log's flights.

use super::engine::{Engine, Wake};
use super::log::{Log, ReadJob, ScrubJob, ScrubReport, SpillJob, Ticket, Verdict};
use super::scrub;
use super::tier::FlashError;
use super::tier::status::Figures;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

/// What waits for the device's thread.
#[derive(Default)]
struct Inbox {
    reads: Vec<ReadJob>,
    spills: Vec<SpillJob>,
    syncs: Vec<Ticket>,
    scrubs: Vec<Scrub>,
    /// Nothing is taken any more.
    closed: bool,
    /// The device is let go: nothing of it stays in the index. Whether what it holds is to be kept in DRAM.
    leave: Option<bool>,
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
    inbox: Arc<Mutex<Inbox>>,
    waker: Arc<dyn Wake>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread needs of itself.
pub(crate) struct Runner {
    inbox: Arc<Mutex<Inbox>>,
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
        let inbox: Arc<Mutex<Inbox>> = Arc::default();
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
            inbox: Arc::clone(&inbox),
            waker: engine.waker(),
            thread: Mutex::new(None),
        };
        (device, Runner { inbox })
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
        let mut inbox = self.inbox.lock();
        if inbox.closed {
            return Some(job);
        }
        queue(&mut inbox).push(job);
        drop(inbox);
        self.waker.wake();
        None
    }

    /// Finishes what was queued, takes what the device holds out of the index, and ends the thread. With `drain`, objects
    /// are brought into DRAM as far as there is room, from where they are spilled to other devices.
    pub(crate) fn leave(&self, drain: bool) {
        self.inbox.lock().leave = Some(drain);
        self.close();
    }

    /// Finishes what was queued, seals, and ends the thread.
    pub(crate) fn close(&self) {
        self.inbox.lock().closed = true;
        self.waker.wake();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

impl Runner {
    /// Until the device is closed.
    pub(crate) fn run(self, mut engine: Box<dyn Engine>, mut log: Log) {
        let mut done = Vec::new();
        loop {
            let mut inbox = self.inbox.lock();
            let (reads, spills, syncs) =
                (std::mem::take(&mut inbox.reads), std::mem::take(&mut inbox.spills), std::mem::take(&mut inbox.syncs));
            let scrubs = std::mem::take(&mut inbox.scrubs);
            let (closed, leave) = (inbox.closed, inbox.leave);
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
            if closed && log.waiting() == (0, 0) {
                log.close(leave);
            }
            log.step(&mut *engine);
            if closed && log.is_idle() {
                break;
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
