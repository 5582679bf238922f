//! Bytes that stay: DRAM segments, the slots in them, the index that finds them, and the flash tier behind them.
//!
//! Role: [`Store`] keeps objects and every promise about them (grants, leases, pins). It performs no I/O and reads no
//! clock: `now` is a parameter of each call, segments are handed in. What it cannot decide alone (revoking remote access,
//! when to run maintenance) it leaves to its caller. [`flash`] performs the I/O of what the store wants on flash and back.
//!
//! Invariants, each checked by [`Store::audit`]:
//! - The bytes of all states (free, reserved, sealing, live, doomed, quarantine) sum up to the capacity of the segments.
//! - Bytes are handed out by [`Found`], [`ReadGuard`] or a lease, never by position alone; a slot is reused only after the
//!   last of them is gone.
//! - A generation names one placement for ever.

mod config;
mod deadline;
mod dram;
mod entry;
mod error;
pub mod flash;
mod index;
mod lru;
mod place;
mod shard;
mod slot;
#[cfg(test)]
mod smoke;
mod store;
mod sync;
pub mod warm;

pub use config::StoreConfig;
pub use dram::memory::{HugePages, Pages, PlainMemory, Segment};
pub use dram::space::Fragmentation;
pub use error::StoreError;
pub use place::{PAGE, SEGMENT_LEN_MAX};
pub use shard::Counters;
pub use shard::event::Event;
pub use shard::grant::{Committed, Condition, GRANT_SPAN_MAX, Terms};
pub use slot::Account;
pub use store::Store;
pub use store::change::Snapshot;
pub use store::flash::{
    Buried, Current, FlashPlace, FlashRead, Graveyard, Pinned, Promotion, RecoveredRecord, Reinsertion, SlotRecord,
    Spill, SpillOf,
};
pub use store::keyspace::{Stat, Surveyed, Ttl};
pub use store::maintain::{Accounting, Usage};
pub use store::read::{Found, Leased, Lookup, ReadGuard};
pub use store::slots::{Reservation, SealGuard, WriteGuard};
pub use store::write::{GrantTerms, Granted, Seal};

/// Objects shorter than this, key included, share pages with others; longer ones have pages of their own.
pub const SMALL_LEN_MAX: u64 = dram::slab::SLOT_LEN_MAX;
