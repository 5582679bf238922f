//! What can be seen of a tier: each device's figures, and how far a start has come.

use parking_lot::Mutex;
use protocol::base::ByteLen;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// What a device does at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// Serves.
    On,
    /// Fenced off: nothing is written, reads of it miss. It is probed and comes back by itself.
    Off {
        /// What happened.
        why: String,
    },
    /// Serves what it holds and takes nothing: all of it is pinned, or as good as.
    Full,
    /// Is being emptied or let go.
    Leaving,
}

/// One device, as the operator sees it. Counters run since the start.
#[derive(Clone, Debug)]
pub struct DeviceStatus {
    /// Its number in this tier.
    pub id: u32,
    /// The file or block device.
    pub path: PathBuf,
    /// What it does.
    pub state: DeviceState,
    /// Which engine performs its I/O.
    pub engine: &'static str,
    /// Bytes of all segments.
    pub size: ByteLen,
    /// Bytes of one segment.
    pub segment_len: ByteLen,
    /// Segments in all.
    pub segments: u64,
    /// Segments that hold nothing.
    pub segments_free: u64,
    /// Segments set aside because of what was read from them.
    pub segments_quarantined: u64,
    /// Bytes of records in segments that are not free, dead ones included.
    pub used: ByteLen,
    /// Records written for spills.
    pub spills: u64,
    /// Records written again because they were hit, when their segment was reclaimed.
    pub reinserted: u64,
    /// Bytes written: records, headers and footers.
    pub written: ByteLen,
    /// Of them, bytes of records that were written again.
    pub reinserted_bytes: ByteLen,
    /// Records taken over from devices that were let go.
    pub adopted: u64,
    /// Objects that readers got from it. One read serves all who wait for the same.
    pub hits: u64,
    /// Records read for clients.
    pub reads: u64,
    /// Bytes of them.
    pub read: ByteLen,
    /// Syncs done.
    pub syncs: u64,
    /// I/O that failed.
    pub errors: u64,
    /// Records that were not what the index said.
    pub mismatches: u64,
    /// Segments reclaimed.
    pub reclaimed: u64,
    /// Records dropped when their segment was reclaimed.
    pub dropped: u64,
    /// Spills refused because the write budget was spent.
    pub refused: u64,
    /// Spills whose bytes in DRAM were not what was published.
    pub condemned: u64,
    /// Bytes left of the day's write budget.
    pub budget_left: Option<ByteLen>,
    /// I/O in flight.
    pub in_flight: usize,
    /// What scrubs found.
    pub scrub: ScrubStatus,
    /// How far it is emptied, while it is.
    pub drain: Option<DrainStatus>,
}

/// How far a device is that is being emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainStatus {
    /// Share of what it held that it does not hold any more, in percent.
    pub percent: u8,
    /// Bytes that it still holds, dead records included.
    pub left: ByteLen,
}

/// What scrubs of a device did since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubStatus {
    /// Share of the device that the present one has done, in percent; `None` while none runs.
    pub percent: Option<u8>,
    /// Scrubs that went over the whole device.
    pub passes: u64,
    /// Bytes read.
    pub bytes: ByteLen,
    /// Records that were what was written.
    pub records: u64,
    /// Records, headers and footers that were not.
    pub rotten: u64,
    /// Segments that came back from quarantine.
    pub returned: u64,
}

/// What a start does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Files are being opened.
    Opening = 0,
    /// Tables of sealed segments are being read.
    Sealed = 1,
    /// Segments that were open are being searched for records.
    OpenSegments = 2,
    /// Records are being put into the index.
    Indexing = 3,
    /// Done.
    Serving = 4,
}

/// How far a start has come: written by [`Tier::open`](super::Tier::open), read by `INFO`.
#[derive(Debug, Default)]
pub struct Progress {
    phase: AtomicU8,
    /// Segments to look at, over all devices.
    pub segments: AtomicU64,
    /// Segments done.
    pub segments_done: AtomicU64,
    /// Records found so far.
    pub records: AtomicU64,
    /// Bytes of their payloads.
    pub bytes: AtomicU64,
}

impl Progress {
    /// What is being done.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Opening,
            1 => Phase::Sealed,
            2 => Phase::OpenSegments,
            3 => Phase::Indexing,
            _ => Phase::Serving,
        }
    }

    /// Says what is being done from now on.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Share of the segments that is done, 0 to 100.
    pub fn percent(&self) -> u8 {
        if self.phase() == Phase::Serving {
            return 100;
        }
        let all = self.segments.load(Ordering::Relaxed).max(1);
        u8::try_from((self.segments_done.load(Ordering::Relaxed) * 100 / all).min(99)).unwrap_or(99)
    }
}

/// What a log counts, read by others at any time.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) segments_free: AtomicU64,
    pub(crate) segments_quarantined: AtomicU64,
    pub(crate) used: AtomicU64,
    pub(crate) spills: AtomicU64,
    pub(crate) reinserted: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) reinserted_bytes: AtomicU64,
    pub(crate) adopted: AtomicU64,
    /// Reads that were answered from it.
    pub(crate) hits: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) read: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) mismatches: AtomicU64,
    pub(crate) reclaimed: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) condemned: AtomicU64,
    pub(crate) budget_left: AtomicU64,
    pub(crate) budget_spent: AtomicU64,
    /// [`Self::written`] when that was remembered.
    pub(crate) budget_saved: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    pub(crate) scrub_passes: AtomicU64,
    /// Percent done and one; 0 while none runs.
    pub(crate) scrub_percent: AtomicU64,
    pub(crate) scrub_bytes: AtomicU64,
    pub(crate) scrub_records: AtomicU64,
    pub(crate) scrub_rotten: AtomicU64,
    pub(crate) scrub_returned: AtomicU64,
    /// Whether nothing can be given up for what would be written.
    pub(crate) full: AtomicBool,
    /// Why the device is off, if it is.
    off: Mutex<Option<String>>,
}

impl Figures {
    /// Says why the device is off; `None`: it is on. Returns whether that changed.
    pub(crate) fn set_off(&self, why: Option<&str>) -> bool {
        let mut off = self.off.lock();
        if off.as_deref() == why {
            return false;
        }
        *off = why.map(str::to_owned);
        true
    }

    /// Why the device is off, if it is.
    pub(crate) fn why_off(&self) -> Option<String> {
        self.off.lock().clone()
    }
}
