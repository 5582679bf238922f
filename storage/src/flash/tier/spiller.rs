//! The thread that keeps part of DRAM clean: asks the store what should be on flash, and hands it to the devices.
//!
//! Invariants:
//! - Bytes handed out and not settled are bounded; what the bound does not take stays dirty in DRAM.
//! - While no device takes anything, the store knows and waits for nothing.

use super::Inner;
use crate::flash::device::Device;
use crate::flash::log::SpillJob;
use crate::store::flash::Spill;
use parking_lot::{Condvar, Mutex};
use protocol::base::{ByteLen, Millis};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// How often the store is asked while nothing happens.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a device is left alone after a spill to it failed.
const PAUSE_FAILED: Duration = Duration::from_millis(50);
/// Bytes asked for at once: not so many that others wait long for their turn.
const BATCH: u64 = 16 << 20;

/// What spiller, devices and waiters share.
#[derive(Default)]
pub(super) struct Spills {
    state: Mutex<State>,
    news: Condvar,
    /// Told at each spill that is settled, whatever came of it.
    pub(super) settled: tokio::sync::Notify,
}

#[derive(Default)]
struct State {
    in_flight: u64,
    stopping: bool,
}

/// Bytes of a spill until it is settled.
struct Charge {
    tier: Arc<Inner>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        let spills = &self.tier.spills;
        spills.state.lock().in_flight -= self.bytes;
        spills.news.notify_all();
        spills.settled.notify_waiters();
    }
}

impl Inner {
    /// Counts a spill's bytes until the value is dropped.
    pub(super) fn charge_spill(self: &Arc<Self>, bytes: u64) -> Box<dyn Send> {
        self.spills.state.lock().in_flight += bytes;
        Box::new(Charge { tier: Arc::clone(self), bytes })
    }

    /// The device that should take a record: the one least written to for its size.
    pub(super) fn device_for(&self, length: u64) -> Option<Arc<Device>> {
        let devices = self.devices.read();
        let able = devices.iter().filter(|device| device.takes_spills() && length <= device.segment_len / 2);
        able.min_by_key(|device| {
            let written = device.figures.written.load(Ordering::Relaxed);
            u128::from(written) * (1 << 32) / u128::from(device.size().max(1))
        })
        .cloned()
    }

    /// Tells the store whether anything can be written.
    pub(super) fn tell_spilling(&self) {
        let on = self.devices.read().iter().any(|device| device.takes_spills());
        self.store.set_spilling(on);
    }

    pub(super) fn tell_limits(&self) {
        let devices = self.devices.read();
        let capacity = devices.iter().map(|device| device.size()).sum();
        let longest = devices.iter().map(|device| device.segment_len / 2).max().unwrap_or(0);
        drop(devices);
        self.store.set_flash_limits(ByteLen(capacity), ByteLen(longest));
    }

    /// Until the tier is closed.
    pub(super) fn run_spiller(self: &Arc<Self>) {
        let mut failed_at: Option<(Instant, u64)> = None;
        while !self.spills.state.lock().stopping {
            self.tell_spilling();
            let failures = self.spill_failures();
            let failed = failed_at.as_ref().is_some_and(|&(_, known)| known != failures);
            if failed || failed_at.is_none() {
                failed_at = Some((Instant::now(), failures));
            }
            if failed {
                std::thread::sleep(PAUSE_FAILED);
            }
            if self.spill_some() == 0 {
                let mut state = self.spills.state.lock();
                if !state.stopping {
                    self.spills.news.wait_for(&mut state, PAUSE);
                }
            }
        }
    }

    /// Errors of all devices.
    fn spill_failures(&self) -> u64 {
        let devices = self.devices.read();
        devices.iter().map(|device| device.figures.errors.load(Ordering::Relaxed)).sum()
    }

    /// Hands out what the bound allows; how many objects that was.
    fn spill_some(self: &Arc<Self>) -> usize {
        let room = {
            let state = self.spills.state.lock();
            self.config.spill_bytes_in_flight.get().saturating_sub(state.in_flight)
        };
        if room == 0 || !self.devices.read().iter().any(|device| device.takes_spills()) {
            return 0;
        }
        let mut spills: Vec<Spill> = Vec::new();
        self.store.next_spill(self.clock.now(), &mut spills, room.min(BATCH));
        let count = spills.len();
        for spill in spills {
            // Without a device it stays dirty, and the store is told that nothing is written.
            let Some(device) = self.device_for(spill.length) else { continue };
            let charge = Some(self.charge_spill(spill.length));
            device.spill(SpillJob { spill, ticket: None, charge });
        }
        count
    }

    /// Writes what is dirty, for at most so long.
    pub(super) fn spill_all(self: &Arc<Self>, limit: Millis) {
        self.store.set_spill_mark(0);
        let until = Instant::now() + limit.duration();
        loop {
            let some = self.spill_some();
            let mut state = self.spills.state.lock();
            if Instant::now() >= until || (some == 0 && state.in_flight == 0) {
                return;
            }
            self.spills.news.wait_for(&mut state, PAUSE);
        }
    }

    /// Writes what is dirty now to the devices there are, and syncs them. What is written meanwhile is not waited for, and a
    /// tier on which nothing gets further for `patience` is left as it is.
    pub(super) fn write_out(self: &Arc<Self>, patience: Millis) {
        let written =
            || -> u64 { self.devices.read().iter().map(|device| device.figures.written.load(Ordering::Relaxed)).sum() };
        let mark = self.store.set_spill_mark(0);
        let mut seen = written();
        // Coldest first, so what came later comes after all of it.
        let enough = seen + self.store.accounting().live;
        let mut until = Instant::now() + patience.duration();
        loop {
            let some = self.spill_some();
            let now = written();
            if now != seen {
                (seen, until) = (now, Instant::now() + patience.duration());
            }
            let mut state = self.spills.state.lock();
            if (some == 0 && state.in_flight == 0) || seen >= enough {
                break;
            }
            if Instant::now() >= until {
                tracing::warn!(
                    in_flight = state.in_flight,
                    "not everything in DRAM could be written to flash: nothing is taken"
                );
                break;
            }
            self.spills.news.wait_for(&mut state, PAUSE);
        }
        self.store.set_spill_mark(mark);
        let (tell, told) = mpsc::channel();
        for device in self.devices.read().iter().filter(|device| device.is_on()) {
            let tell = tell.clone();
            device.sync(Box::new(move |result| drop(tell.send(result))));
        }
        drop(tell);
        for error in told.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "a flash device could not be synced");
        }
    }

    pub(super) fn stop_spiller(&self) {
        self.spills.state.lock().stopping = true;
        self.spills.news.notify_all();
    }
}
