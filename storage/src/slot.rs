//! A reserved slot: memory that belongs to one writer until it is published or given back.

use crate::error::StoreError;
use crate::place::Place;
use crate::sync::{AtomicU64, Ordering};
use protocol::base::{ByteLen, Generation};
use std::sync::Arc;

/// What one client holds that was not published yet. Shared by all of a client's connections.
#[derive(Debug, Default)]
pub struct Account {
    reserved: AtomicU64,
}

impl Account {
    /// Of a client that holds nothing.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Bytes reserved and not published.
    pub fn reserved(&self) -> ByteLen {
        ByteLen(self.reserved.load(Ordering::Relaxed))
    }

    /// Charges a reservation: up to `max`, and always one object.
    pub(crate) fn charge(&self, bytes: u64, max: u64) -> Result<(), StoreError> {
        let held = self.reserved.fetch_add(bytes, Ordering::Relaxed);
        if held > 0 && held.saturating_add(bytes) > max {
            self.reserved.fetch_sub(bytes, Ordering::Relaxed);
            return Err(StoreError::Quota {
                what: "this client's reservations",
                held: ByteLen(held),
                max: ByteLen(max),
                wanted: ByteLen(bytes),
            });
        }
        Ok(())
    }

    pub(crate) fn discharge(&self, bytes: u64) {
        self.reserved.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A slot that nobody can find yet.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) key: Box<[u8]>,
    pub(crate) hash: u64,
    pub(crate) place: Place,
    pub(crate) length: u64,
    pub(crate) charge: u64,
    pub(crate) generation: Generation,
    pub(crate) account: Arc<Account>,
}
