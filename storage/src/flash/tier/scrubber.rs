//! The maintenance thread: looks for rot on all devices, one segment after the other, and remembers what was written to them.
//!
//! Role: decides when and how fast; [`crate::flash::scrub`] looks, and each device's log says at what and takes what was found.
//!
//! Invariants:
//! - Nobody waits for it. It reads a piece at a time, and waits between pieces while requests are under way.
//! - In the background it reads no more than the configured rate, and over a device once in [`PASS_EVERY`] at most.

use super::{FlashError, Inner};
use crate::flash::device::{Device, Scrub};
use crate::flash::log::Task;
use crate::flash::scrub::{Pace, Reader, ScrubFile, examine};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time between the begins of two scrubs of a device in the background.
const PASS_EVERY: Duration = Duration::from_secs(24 * 3600);
/// How often it is looked whether something is to be done.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a piece waits for a device that is busy, in the background and when a scrub was asked for.
const PATIENCE: Duration = Duration::from_millis(200);
const PATIENCE_ASKED: Duration = Duration::from_millis(10);
/// How often it is remembered what was written to devices with a budget.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked whether a device is still busy.
const BUSY: Duration = Duration::from_millis(2);
/// What the thread yields to all others, as `nice(2)` counts.
const NICE: i32 = 10;

/// What the thread and those who ask it share.
#[derive(Default)]
pub(super) struct Scrubs {
    state: Mutex<State>,
    news: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct State {
    /// Devices whose scrub was asked for and has not begun.
    asked: Vec<u32>,
    stopping: bool,
}

/// A scrub of one device.
#[derive(Default)]
struct Pass {
    /// The next segment.
    next: u32,
    /// When it began; `None` while none runs.
    began: Option<Instant>,
    /// When the latest began.
    latest: Option<Instant>,
    asked: bool,
}

impl Pass {
    fn begin(&mut self, asked: bool) {
        let now = Instant::now();
        *self = Self { next: 0, began: Some(now), latest: Some(now), asked };
    }

    fn is_due(&self) -> bool {
        self.began.is_none() && self.latest.is_none_or(|at| at.elapsed() >= PASS_EVERY)
    }
}

impl Inner {
    pub(super) fn start_scrubber(self: &Arc<Self>) -> Result<(), FlashError> {
        let tier = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("flash-scrub".to_owned())
            .spawn(move || tier.run_scrubber())
            .map_err(|error| FlashError::io("start the scrubber", error))?;
        *self.scrubs.thread.lock() = Some(thread);
        Ok(())
    }

    pub(super) fn stop_scrubber(&self) {
        self.scrubs.state.lock().stopping = true;
        self.scrubs.news.notify_all();
        if let Some(thread) = self.scrubs.thread.lock().take() {
            let _ = thread.join();
        }
    }

    pub(super) fn ask_for_scrub(&self, id: Option<u32>) -> Result<(), FlashError> {
        let known: Vec<u32> = self.devices.read().iter().map(|device| device.id).collect();
        let mut state = self.scrubs.state.lock();
        if state.stopping {
            return Err(FlashError::Closed);
        }
        match id {
            Some(id) if known.contains(&id) => state.asked.push(id),
            Some(id) => return Err(FlashError::NoDevice { id }),
            None => state.asked.extend(known),
        }
        self.scrubs.news.notify_all();
        Ok(())
    }

    fn run_scrubber(&self) {
        // Of this thread alone. Refused, it is as important as others.
        let _ = rustix::process::nice(NICE);
        let reader = Reader::new();
        tracing::debug!(engine = reader.name(), "scrubs are read");
        let mut passes: HashMap<u32, Pass> = HashMap::new();
        let mut saved = Instant::now();
        loop {
            let asked = {
                let mut state = self.scrubs.state.lock();
                if state.stopping {
                    return;
                }
                std::mem::take(&mut state.asked)
            };
            if saved.elapsed() >= SAVE_EVERY {
                saved = Instant::now();
                self.save_spending();
            }
            let devices = self.devices.read().clone();
            passes.retain(|id, _| devices.iter().any(|device| device.id == *id));
            let mut has_worked = false;
            for device in devices.iter().filter(|device| device.is_on()) {
                let pass = passes.entry(device.id).or_default();
                if asked.contains(&device.id) {
                    pass.begin(true);
                } else if self.config.scrub_rate.get() > 0 && pass.is_due() {
                    pass.begin(false);
                }
                has_worked |= self.scrub_next(&reader, device, pass);
            }
            if !has_worked {
                let mut state = self.scrubs.state.lock();
                if !state.stopping && state.asked.is_empty() {
                    self.scrubs.news.wait_for(&mut state, PAUSE);
                }
            }
        }
    }

    /// Looks at one segment, if there is one to be looked at.
    fn scrub_next(&self, reader: &Reader, device: &Device, pass: &mut Pass) -> bool {
        let figures = &device.figures;
        let sealed = pass.began.is_some();
        let aside = self.config.scrub_rate.get() > 0 && figures.segments_quarantined.load(Relaxed) > 0;
        if !sealed && !aside {
            return false;
        }
        let (answer, told) = mpsc::sync_channel(1);
        device.scrub(Scrub::Next { from: pass.next, sealed, answer });
        let Ok(job) = told.recv() else { return false };
        let Some(job) = job else {
            if sealed && device.is_on() {
                pass.began = None;
                figures.scrub_percent.store(0, Relaxed);
                figures.scrub_passes.fetch_add(1, Relaxed);
                tracing::info!(
                    device = %device.path.display(),
                    rotten = figures.scrub_rotten.load(Relaxed),
                    "a scrub went over the whole device"
                );
            }
            return false;
        };
        let mut pace = Pacer { tier: self, device, asked: pass.asked, free_at: Instant::now() };
        let report = ScrubFile::open(reader, &device.path)
            .map(|mut file| examine(&job, device.of, &mut file, &mut pace, (&self.store, self.clock.now())));
        match report {
            Ok(Some(report)) => device.scrub(Scrub::Done(report)),
            Ok(None) => return false,
            Err(error) => {
                tracing::warn!(device = %device.path.display(), %error, "a device cannot be opened to be scrubbed");
                return false;
            }
        }
        if matches!(job.task, Task::Verify { .. }) {
            pass.next = job.segment + 1;
            figures.scrub_percent.store(1 + u64::from(pass.next) * 100 / u64::from(device.slots.1.max(1)), Relaxed);
        }
        true
    }
}

/// How fast one segment is read.
struct Pacer<'a> {
    tier: &'a Inner,
    device: &'a Device,
    asked: bool,
    /// When what was read so far is paid for.
    free_at: Instant,
}

impl Pace for Pacer<'_> {
    fn wait(&mut self, bytes: usize) -> bool {
        let scrubs = &self.tier.scrubs;
        let begin = Instant::now();
        let mut state = scrubs.state.lock();
        loop {
            if state.stopping || !self.device.is_on() {
                return false;
            }
            let asked = self.asked || state.asked.contains(&self.device.id);
            let now = Instant::now();
            let paid = self.free_at.saturating_duration_since(now);
            let patience = if asked { PATIENCE_ASKED } else { PATIENCE };
            let is_busy = self.device.figures.in_flight.load(Relaxed) > 0 && now - begin < patience;
            if !asked && !paid.is_zero() {
                scrubs.news.wait_for(&mut state, paid);
            } else if is_busy {
                scrubs.news.wait_for(&mut state, BUSY);
            } else {
                let rate = self.tier.config.scrub_rate.get().max(1);
                let nanos = bytes as u64 * 1_000_000_000 / rate;
                self.free_at = self.free_at.max(now) + if asked { Duration::ZERO } else { Duration::from_nanos(nanos) };
                return true;
            }
        }
    }
}
