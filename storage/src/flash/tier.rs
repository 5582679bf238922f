//! Several devices as one tier: which one an object goes to, who reads it, and what the operator sees and changes.

pub mod config;
pub mod data_dir;
pub mod error;
pub mod status;

pub use config::{DeviceConfig, TierConfig};
pub use data_dir::DataDir;
pub use error::FlashError;
pub use status::{DeviceState, DeviceStatus, Phase, Progress};

use crate::slot::Account;
use crate::store::flash::FlashRead;
use crate::store::read::ReadGuard;
use crate::{Store, StoreError};
use protocol::base::{Clock, Generation, Instant, StableMemory};
use std::sync::Arc;

/// Time as the tier sees it: what the store counts in, and what is written to flash.
pub trait TierClock: Clock {
    /// Milliseconds since 1970.
    fn unix_ms(&self) -> u64;
}

/// What a read from flash brought.
#[derive(Debug)]
pub enum Fetched {
    /// In DRAM, to be sent from there.
    Guard(ReadGuard),
    /// A small value.
    Small(Vec<u8>),
}

/// All flash of a node. Cheap to clone; all clones are one tier.
#[derive(Clone)]
pub struct Tier(());

impl Tier {
    /// Opens the devices, brings what they hold into the index, and starts their threads. Blocks until then; `progress` tells
    /// how far it is. `memories` are the segments of DRAM, which the kernel is told of once.
    ///
    /// # Errors
    /// [`FlashError`] where a setting is wrong, something is used by another process or cannot be opened. A device that fails
    /// later is off, not an error.
    pub fn open(
        config: TierConfig,
        data_dir: DataDir,
        store: Store,
        memories: Vec<Arc<dyn StableMemory>>,
        clock: Arc<dyn TierClock>,
        progress: Arc<Progress>,
    ) -> Result<Self, FlashError> {
        let _ = (config, data_dir, store, memories, clock, progress);
        unimplemented!("being written")
    }

    /// Reads an object from flash. Readers of one object at once are served by one read. `None`: it proved unreadable or was
    /// removed, a miss. Dropping the future is harmless.
    ///
    /// # Errors
    /// [`FlashError::Off`], [`FlashError::Closed`], and [`FlashError::Store`] where DRAM has no room for it.
    pub async fn fetch(
        &self,
        now: Instant,
        read: FlashRead,
        account: &Arc<Account>,
    ) -> Result<Option<Fetched>, FlashError> {
        let _ = (now, read, account);
        Err(FlashError::Store(StoreError::Busy))
    }

    /// Returns once the object's record is written and synced, and all tombstones of before are too.
    ///
    /// # Errors
    /// [`FlashError`]: then nothing is promised; the object lives on in DRAM.
    pub async fn durable(&self, now: Instant, key: &[u8], generation: Generation) -> Result<(), FlashError> {
        let _ = (now, key, generation);
        Err(FlashError::Closed)
    }

    /// Brings objects into DRAM that will be asked for soon, as far as the bounds allow; what does not fit is not read.
    pub fn prefetch(&self, now: Instant, reads: Vec<FlashRead>) {
        let _ = (now, reads);
        unimplemented!("being written")
    }

    /// The keys of a request in the order of their chain: a later read of one prefetches the next. `PARENT` tells the same as
    /// two keys.
    pub fn learn_chain<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        let _ = keys.count();
    }

    /// Each device's state and figures.
    pub fn status(&self) -> Vec<DeviceStatus> {
        Vec::new()
    }

    /// Takes one more device in; what it holds is found again. Blocks until then. Returns its number.
    ///
    /// # Errors
    /// As [`Tier::open`].
    pub fn attach(&self, device: DeviceConfig) -> Result<u32, FlashError> {
        let _ = device;
        Err(FlashError::Closed)
    }

    /// Lets a device go; its number is not used again. With `drain`, what it holds goes to the other devices first; without,
    /// it is gone from the index. Blocks until then.
    ///
    /// # Errors
    /// [`FlashError::NoDevice`].
    pub fn detach(&self, id: u32, drain: bool) -> Result<(), FlashError> {
        let _ = drain;
        Err(FlashError::NoDevice { id })
    }

    /// Spills what is dirty if the configuration says so, seals, syncs, and ends all threads. Blocks until then.
    pub fn close(&self) {}
}
