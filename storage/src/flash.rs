//! The flash tier: objects that leave DRAM go to a log on NVMe and come back from there, also after a crash.
//!
//! Role: keeps records of objects on preallocated files or block devices. What an object is, and who may read it, is the
//! store's business: it hands out [`crate::Spill`]s to write and [`crate::FlashRead`]s to read, and is told where they lie.
//!
//! ```text
//!            next_spill            channel, waker            one thread a device
//!  Store ───────────────▶ spiller ────────────────▶ device ─▶ log ─▶ engine ─▶ file, block device
//!    ▲  done(place), moved, drop_slot                  │        │
//!    │                                                 │        └▶ journal, meta (what a restart believes)
//!    └──────── publish ◀── fetch ◀── bytes verified ◀──┘
//! ```
//!
//! - `format`: the bytes on flash. `recover`: from those bytes to tables of records at start.
//! - `engine`: reads, writes and syncs of one file, through io_uring, plain calls, or a simulated disk.
//! - `log`: the segments of one device as a state machine without threads. `device`: its thread.
//! - `scrub`: looks for rot on one segment, through a descriptor of its own.
//! - `tier`: several devices, the scrubber, the spiller, single-flight fetches, administration.
//! - `fabric`: block devices on other machines, connected through the kernel.
//! - `journal`, `meta`: what the segments cannot say: deaths, pins; and a copy of the tables for a quick start.
//!
//! Invariants:
//! - Bytes reach a reader only after the record's MAC, segment, life, page, key, generation, length and the checksum of
//!   every chunk were right. Anything else is a miss.
//! - A segment's new life (number and secret nonce) is durable before anything is written into it, so that no record of an
//!   earlier life ever verifies again.
//! - Memory that an I/O reads or writes is held by the table of I/O in flight until its completion, whoever gave up waiting.
//! - No shard is locked during I/O.
//! - A sync that failed is never repeated: what was not synced before is taken as lost.
//!
//! What happens when
//! - a write fails: its record is not placed, the object stays dirty in DRAM, the segment is sealed early;
//! - a read fails or does not verify: a miss; the third of a segment quarantines it until it was scrubbed;
//! - a sync, superblock or footer fails, or errors come too often: the device is off; nothing is spilled to it and reads of it
//!   miss. It is probed every few seconds and taken back when a probe's write and read succeed;
//! - the day's write budget is spent: only what was evicted before is written (ghost admission);
//! - the process dies: sealed segments are found by their footers, open ones by their records.

mod device;
pub mod engine;
pub mod fabric;
pub mod format;
pub mod journal;
mod log;
pub mod meta;
pub mod recover;
mod scrub;
pub mod tier;
