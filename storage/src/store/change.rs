//! Reads that belong to a write: what an object was when it was changed, replaced or removed.
//!
//! Role: the store's half of read-modify-write. Objects are immutable, so whoever changes a value reads a [`Snapshot`], makes
//! another object, and publishes it on the condition that the key's object is still the one that was read
//! ([`Condition::IfIs`](crate::Condition)); if it is not, it begins again.
//!
//! Invariants:
//! - What [`Store::take`], [`Store::read_and_expire`] and an exchange answer is what the key held at the very moment of the
//!   change: both happen under one lock.
//! - What cannot be read, because too many read it, is not changed either.

use super::Store;
use super::read::Found;
use crate::dram::space::Space;
use crate::error::StoreError;
use crate::place::Place;
use crate::shard::grant::{Committed, Terms};
use crate::shard::{At, Shard};
use crate::slot::{Account, Slot};
use protocol::base::{ByteLen, Crc, Generation, Instant};
use std::sync::Arc;

/// An object as it was at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Which placement it was.
    pub generation: Generation,
    /// When it expires.
    pub expires: Option<Instant>,
    /// Its bytes, or where they are.
    pub found: Found,
}

impl Store {
    /// What lies there, for somebody who holds the lock. `None` if a checked one is not what it was.
    fn found_at(
        &self,
        shard_index: usize,
        shard: &mut Shard,
        space: &Space,
        at: At,
        checked: bool,
    ) -> Result<Option<Found>, StoreError> {
        let index = match at {
            At::Flash(index) => return Ok(Some(Found::Flash(shard.flash_read(index, false)))),
            At::Dram(index) if checked => return self.found_checked(shard_index, shard, space, index),
            At::Dram(index) => index,
        };
        Ok(Some(match shard.entries[index].place() {
            Place::Small { .. } => Found::Small(shard.with_small(index, space, <[u8]>::to_vec)),
            Place::Extent { .. } => {
                Found::Large(self.guard(shard_index, shard, space, index).ok_or(StoreError::TooManyUsers)?)
            }
        }))
    }

    /// An object and which one it is. Touches nothing. `checked`: clients can write the segments, see
    /// [`Store::read_checked`].
    ///
    /// # Errors
    /// [`StoreError::TooManyUsers`] when 65,535 reads and leases hold the object.
    pub fn snapshot(&self, now: Instant, key: &[u8], checked: bool) -> Result<Option<Snapshot>, StoreError> {
        let hashed = self.hash(key);
        let shard_index = self.0.shard_of(hashed.hash);
        self.0.with(shard_index, |shard, space| {
            let Some(at) = shard.locate(now, hashed, space) else { return Ok(None) };
            let (generation, expires) = (shard.generation_at(at), shard.expiry_at(at));
            let found = self.found_at(shard_index, shard, space, at, checked)?;
            Ok(found.map(|found| Snapshot { generation, expires, found }))
        })
    }

    /// Which object a key has, and when it expires. Touches nothing.
    pub fn identity(&self, now: Instant, key: &[u8]) -> Option<(Generation, Option<Instant>)> {
        let hashed = self.hash(key);
        self.0.with(self.0.shard_of(hashed.hash), |shard, space| {
            let at = shard.locate(now, hashed, space)?;
            Some((shard.generation_at(at), shard.expiry_at(at)))
        })
    }

    /// Removes an object and answers with it.
    ///
    /// # Errors
    /// [`StoreError::TooManyUsers`] when 65,535 reads and leases hold the object: then it stays.
    pub fn take(&self, now: Instant, key: &[u8], checked: bool) -> Result<Option<Found>, StoreError> {
        let hashed = self.hash(key);
        let shard_index = self.0.shard_of(hashed.hash);
        self.0.with(shard_index, |shard, space| {
            let Some(at) = shard.locate(now, hashed, space) else { return Ok(None) };
            let found = self.found_at(shard_index, shard, space, at, checked)?;
            // One that was not what was published went with the look.
            if let Some(at) = shard.locate(now, hashed, space) {
                shard.unlink_at(at, space);
            }
            Ok(found)
        })
    }

    /// Removes an object if it is still this one.
    pub fn remove_if(&self, now: Instant, key: &[u8], generation: Generation) -> bool {
        let hashed = self.hash(key);
        self.0.with(self.0.shard_of(hashed.hash), |shard, space| match shard.locate(now, hashed, space) {
            Some(at) if shard.generation_at(at) == generation => {
                shard.unlink_at(at, space);
                true
            }
            _ => false,
        })
    }

    /// Reads an object, as a touch does, and sets or clears its expiry. An expiry that is past removes it. Answers
    /// with what it was before.
    ///
    /// # Errors
    /// [`StoreError::TooManyUsers`] when 65,535 reads and leases hold the object: then its expiry stays.
    pub fn read_and_expire(
        &self,
        now: Instant,
        key: &[u8],
        expires: Option<Instant>,
        checked: bool,
    ) -> Result<Option<Snapshot>, StoreError> {
        let hashed = self.hash(key);
        let shard_index = self.0.shard_of(hashed.hash);
        self.0.with(shard_index, |shard, space| {
            let Some(at) = shard.locate(now, hashed, space) else { return Ok(None) };
            let (generation, before) = (shard.generation_at(at), shard.expiry_at(at));
            shard.touch_as_found(now, at, None, space);
            let found = self.found_at(shard_index, shard, space, at, checked)?;
            if let Some(at) = shard.locate(now, hashed, space) {
                if expires.is_some_and(|expires| expires <= now) {
                    shard.unlink_at(at, space);
                } else {
                    shard.set_expiry_at(at, expires);
                }
            }
            Ok(found.map(|found| Snapshot { generation, expires: before, found }))
        })
    }

    /// Publishes, and answers with what the key held until then: neither, if that cannot be read.
    pub(super) fn publish_exchanging(
        &self,
        now: Instant,
        slot: Slot,
        crc: Crc,
        terms: &Terms,
        checked: bool,
    ) -> (Option<Found>, Result<Committed, StoreError>) {
        let committed = Committed { key: slot.key.clone(), generation: slot.generation, length: ByteLen(slot.length) };
        let hashed = self.hash(&committed.key);
        let shard_index = self.0.shard_of(hashed.hash);
        let (found, published) = self.0.with(shard_index, |shard, space| {
            let at = shard.locate(now, hashed, space);
            match at.map(|at| self.found_at(shard_index, shard, space, at, checked)).transpose() {
                Ok(found) => (found.flatten(), shard.publish(now, slot, crc, terms, None, space)),
                Err(error) => (None, Err(shard.refuse(slot, error, space))),
            }
        });
        (found, published.map(|_| committed))
    }

    /// Writes a value that lies in memory, and answers with what the key held until then, whether it was replaced or not.
    ///
    /// # Errors
    /// As [`Store::reserve`], before anything was looked at.
    pub fn exchange(
        &self,
        now: Instant,
        key: &[u8],
        value: &[u8],
        account: &Arc<Account>,
        terms: &Terms,
        checked: bool,
    ) -> Result<(Option<Found>, Result<Committed, StoreError>), StoreError> {
        let reservation = self.reserve(now, key, value.len() as u64, account)?;
        let crc = protocol::base::copy_into(value, &reservation.span());
        Ok(reservation.exchange(now, crc, terms, checked))
    }
}
