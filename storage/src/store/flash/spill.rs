//! What to write to flash, and what became of it.
//!
//! Invariants:
//! - While a [`Spill`] lives, its object's bytes stay where they are, whatever becomes of the object.
//! - A record is on its way only after [`Spill::begin`]: from then on, what ends the object or the spill buries the record.

use super::{FlashPlace, Store};
use protocol::base::{Crc, Generation, Instant, RawSpan};

/// A dirty object to be written to flash. Dropped, it stays dirty; if it was begun, the record is buried.
#[derive(Debug)]
pub struct Spill {
    /// The object's key.
    pub key: Box<[u8]>,
    /// Its generation.
    pub generation: Generation,
    /// Bytes of payload.
    pub length: u64,
    /// Their checksum as published. What lies in memory must be compared with it before it is written.
    pub crc: Crc,
    /// When it expires; [`Spill::begin`] brings it up to date.
    pub expires: Option<Instant>,
    /// The payload. A small one's lies anywhere, a large one's at a page boundary.
    pub span: RawSpan,
}

/// What is to be done so that an object is on flash.
#[derive(Debug)]
pub enum SpillOf {
    /// Write this.
    Spill(Spill),
    /// Its record is complete there; perhaps not synced yet.
    OnFlash(FlashPlace),
    /// Another spill of it is under way.
    InFlight,
    /// There is no such object of this generation, or it is too long for flash.
    Missing,
}

impl Spill {
    /// The record is about to be written there. Call it before anything of it is submitted. `false` if the object is gone
    /// meanwhile: then nothing must be written.
    pub fn begin(&mut self, place: FlashPlace) -> bool {
        let _ = place;
        unimplemented!("the index of objects on flash")
    }

    /// The record is complete and can be read: the object is clean from now on. `false` if it was deleted or replaced
    /// meanwhile; its record is buried already.
    ///
    /// # Panics
    /// If it was not begun.
    pub fn done(self) -> bool {
        unimplemented!("the index of objects on flash")
    }

    /// The bytes in DRAM are not those that were published: no reader finds the object any more.
    pub fn condemn(self) {
        unimplemented!("the index of objects on flash")
    }

    /// It is not worth a write: until it is read again, it may be evicted as it is.
    pub fn decline(self) {
        unimplemented!("the index of objects on flash")
    }
}

impl Store {
    /// Appends the objects that should be on flash next, coldest first, until their payloads are `bytes_max` or dirty
    /// objects take less than the spill mark; what is under way counts as if it were there.
    pub fn next_spill(&self, now: Instant, out: &mut Vec<Spill>, bytes_max: u64) {
        let _ = (now, out, bytes_max);
        unimplemented!("the index of objects on flash")
    }

    /// The object of this key and generation, to be written now: `DURABLE`.
    pub fn spill_of(&self, now: Instant, key: &[u8], generation: Generation) -> SpillOf {
        let _ = (now, key, generation);
        unimplemented!("the index of objects on flash")
    }
}
