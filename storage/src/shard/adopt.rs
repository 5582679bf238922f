//! Objects of an earlier life, whose slots were proved.

use super::{Fresh, HashedKey, Shard};
use crate::dram::space::Space;
use crate::entry::flag;
use crate::lru::Stamp;
use crate::place::Place;
use crate::warm::manifest::{ObjectRecord, PinRecord};
use protocol::base::Instant;

/// An object to adopt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adoptee<'a> {
    pub(crate) record: &'a ObjectRecord,
    /// Its slot, which was claimed.
    pub(crate) place: Place,
    pub(crate) pins: &'a [PinRecord],
    pub(crate) now: Instant,
}

impl Shard {
    /// Makes it live again. Returns whether it is clean; `None` if a newer object of its key is known, or another one of
    /// its generation.
    pub(crate) fn adopt(&mut self, key: HashedKey<'_>, adoptee: &Adoptee<'_>, space: &Space) -> Option<bool> {
        let Adoptee { record, place, pins, now } = *adoptee;
        if self.find_any(key, space).is_some() {
            return None;
        }
        let twin = self.settle_with_flash(key, record, space)?;
        let fresh = Fresh {
            generation: record.generation,
            place,
            length: record.length,
            crc: record.crc,
            stamp: Stamp(record.stamp),
            leaf: record.flags & flag::LEAF != 0,
        };
        let index = self.insert(key, fresh, space);
        let entry = &mut self.entries[index];
        entry.hits = record.hits;
        entry.flags |= record.flags & flag::GRACE_SPENT;
        match twin {
            Some(twin) => self.join_with_flash(index, twin, record),
            None => self.set_expiry(index, record.expires),
        }
        if let Some(until) = record.soft_until.filter(|&until| until > now) {
            self.soft_pin(index, until);
        }
        self.pin_adopted(index, twin, pins.iter().map(|pin| (pin.until, pin.count)), now, space);
        self.relist(index);
        Some(twin.is_some())
    }
}
