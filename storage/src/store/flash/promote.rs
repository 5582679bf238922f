//! Back to DRAM: a slot that a record is read into.
//!
//! Invariants:
//! - What was read becomes live only while the index still has that generation on flash: a promotion never undoes a
//!   deletion, a replacement or an expiry.

use super::{FlashRead, Store};
use crate::error::StoreError;
use crate::slot::Account;
use crate::store::read::ReadGuard;
use crate::store::slots::Reservation;
use protocol::base::{Crc, Instant, RawSpan};
use std::sync::Arc;

/// A DRAM slot for an object on flash. Dropped, it is given back.
#[derive(Debug)]
pub struct Promotion {
    reservation: Reservation,
    crc: Crc,
}

impl Promotion {
    /// The memory to read into, `length` bytes; at a page boundary if the object is large.
    pub fn span(&self) -> RawSpan {
        self.reservation.span()
    }

    /// The bytes were read and verified: the object is in DRAM too, and clean. `Err` gives the slot back to the caller if
    /// the object was deleted, replaced, expired or dropped meanwhile.
    ///
    /// # Errors
    /// The promotion itself; [`Promotion::anonymous`] still gives the bytes to a reader that came before.
    pub fn publish(mut self, now: Instant) -> Result<ReadGuard, Self> {
        let slot = self.reservation.slot.take().expect("held until published or dropped");
        let store = self.reservation.store.clone();
        let shard = store.0.shard_of(slot.hash);
        let promoted = store.0.with(shard, |locked, space| {
            locked.promote(now, slot, space).map(|index| store.guard_of_user(shard, locked, space, index))
        });
        promoted.map_err(|slot| {
            self.reservation.slot = Some(slot);
            self
        })
    }

    /// The bytes for one reader alone: nobody else finds them, and the slot is free when the guard goes.
    pub fn anonymous(self) -> ReadGuard {
        ReadGuard::of_reservation(self.reservation, self.crc)
    }
}

impl Store {
    /// A slot for what `read` found, evicting clean copies if it must.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::SpillWait`], [`StoreError::Quota`]: read it into memory of your own then.
    pub fn promote(&self, now: Instant, read: &FlashRead, account: &Arc<Account>) -> Result<Promotion, StoreError> {
        let mut reservation = self.reserve(now, &read.key, read.length, account)?;
        // Not another placement: the same object in another place.
        reservation.slot.as_mut().expect("just reserved").generation = read.generation;
        Ok(Promotion { reservation, crc: read.crc })
    }
}
