//! What a tier and its devices are told at their start.

use crate::flash::engine::EngineKind;
use protocol::base::{ByteLen, Millis};
use std::path::PathBuf;

/// One file or block device of the tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceConfig {
    /// The file, which is made and preallocated if it is not there, or the block device.
    pub path: PathBuf,
    /// Bytes to use. Of a block device all, if `None`; a new file needs it.
    pub size: Option<ByteLen>,
    /// Bytes of a segment: a power of two from 8 MiB to 256 MiB. A device that was formatted keeps what it has.
    pub segment_len: ByteLen,
    /// Who performs the I/O.
    pub engine: EngineKind,
    /// I/O requests in flight at most.
    pub depth: usize,
    /// Bytes that may be written in a day before admission becomes choosy; `None` for no limit.
    pub write_budget_per_day: Option<ByteLen>,
    /// The tier opens without it if it does not open.
    pub optional: bool,
}

impl DeviceConfig {
    /// Defaults for a path.
    pub fn new(path: impl Into<PathBuf>, size: Option<ByteLen>) -> Self {
        Self {
            path: path.into(),
            size,
            segment_len: ByteLen::mib(256),
            engine: EngineKind::Auto,
            depth: 32,
            write_budget_per_day: None,
            optional: false,
        }
    }
}

/// The tier as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierConfig {
    /// Where journal and metadata lie. Locked against a second process.
    pub data_dir: PathBuf,
    /// The devices, in any order; none is fine, they can be attached later.
    pub devices: Vec<DeviceConfig>,
    /// Share of a reclaimed segment that may be written again because it was hit.
    pub reinsert_percent: u8,
    /// Bytes of spills handed to devices and not yet written, in all.
    pub spill_bytes_in_flight: ByteLen,
    /// Reads waiting or in flight, per device; further ones wait their turn.
    pub reads_in_flight: usize,
    /// Bytes that prefetches may have in flight.
    pub prefetch_bytes_in_flight: ByteLen,
    /// Errors of a device within a minute after which it is taken off.
    pub errors_per_minute: u32,
    /// How often a device that is off is probed.
    pub probe_interval: Millis,
    /// How long tombstones may lie in the page cache; before a durable acknowledgement they never do.
    pub journal_sync: Millis,
    /// Bytes a second that are read of each device to look for rot; 0 for never, but when asked.
    pub scrub_rate: ByteLen,
    /// Whether closing spills what is dirty, and for how long at most.
    pub close_spill: Option<Millis>,
    /// Whether tables of segments are also kept in the data directory, so that a restart need not read them from the devices.
    pub meta: bool,
    /// Seeds what need not be secret. Segments' nonces come from the operating system all the same.
    pub seed: u64,
}

impl TierConfig {
    /// Defaults for a data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            devices: Vec::new(),
            reinsert_percent: 25,
            spill_bytes_in_flight: ByteLen::mib(64),
            reads_in_flight: 256,
            prefetch_bytes_in_flight: ByteLen::mib(64),
            errors_per_minute: 16,
            probe_interval: Millis(5_000),
            journal_sync: Millis(50),
            scrub_rate: ByteLen::mib(8),
            close_spill: Some(Millis(10_000)),
            meta: true,
            seed: 0,
        }
    }
}
