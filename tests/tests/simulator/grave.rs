//! What is on flash, and what the journal says of it: all that a restart would know.

use crate::content::Content;
use protocol::base::{Generation, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use storage::{Buried, FlashPlace, Graveyard, Pinned};

/// One record, as it lies on flash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OnMedia {
    pub(crate) key: u8,
    pub(crate) generation: Generation,
    pub(crate) content: Content,
    pub(crate) expires: Option<Instant>,
}

/// One slot: which life it is in, and what was written in it.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) life: u64,
    /// The next free page.
    pub(crate) head: u16,
    /// No more is written before it is reclaimed.
    pub(crate) sealed: bool,
    pub(crate) records: BTreeMap<u16, OnMedia>,
}

/// Names one record of one life of a slot.
type Name = (u16, u64, u16, Generation);

#[derive(Debug, Default)]
struct Journal {
    dead: BTreeSet<Name>,
    floor: Option<Generation>,
    retired: BTreeSet<(u16, u64)>,
    expiries: BTreeMap<Name, (u64, Option<Instant>)>,
    pins: BTreeMap<Vec<u8>, (u64, Generation, Pinned)>,
    lives: BTreeMap<u16, u64>,
}

/// The journal, as a graveyard. What it is told survives.
#[derive(Debug, Default)]
pub(crate) struct Grave(Mutex<Journal>);

impl Journal {
    fn name(&self, record: Buried) -> Name {
        let Buried { place, generation } = record;
        (place.slot, self.lives.get(&place.slot).copied().unwrap_or(0), place.page, generation)
    }
}

impl Graveyard for Grave {
    fn bury(&self, dead: &[Buried]) {
        let mut journal = self.0.lock().expect("no panic under it");
        for &record in dead {
            let name = journal.name(record);
            journal.dead.insert(name);
        }
    }

    fn bury_all(&self, below: Generation) {
        self.0.lock().expect("no panic under it").floor = Some(below);
    }

    fn retire(&self, slot: u16) {
        let mut journal = self.0.lock().expect("no panic under it");
        let life = journal.lives.get(&slot).copied().unwrap_or(0);
        journal.retired.insert((slot, life));
    }

    fn pinned(&self, key: &[u8], generation: Generation, pins: Pinned, order: u64) {
        let mut journal = self.0.lock().expect("no panic under it");
        if journal.pins.get(key).is_none_or(|before| before.0 < order) {
            journal.pins.insert(key.to_vec(), (order, generation, pins));
        }
    }

    fn expiry(&self, record: Buried, expires: Option<Instant>, order: u64) {
        let mut journal = self.0.lock().expect("no panic under it");
        let name = journal.name(record);
        if journal.expiries.get(&name).is_none_or(|before| before.0 < order) {
            journal.expiries.insert(name, (order, expires));
        }
    }
}

impl Grave {
    /// A slot begins a new life: nothing that was said of its records counts any more.
    pub(crate) fn new_life(&self, slot: u16, life: u64) {
        self.0.lock().expect("no panic under it").lives.insert(slot, life);
    }

    pub(crate) fn pins_of(&self, key: u8, generation: Generation) -> Pinned {
        let journal = self.0.lock().expect("no panic under it");
        journal.pins.get(&[key][..]).filter(|pins| pins.1 == generation).map_or_else(Pinned::default, |pins| pins.2)
    }

    /// The records that a restart would believe.
    pub(crate) fn survivors(&self, slots: &[Slot]) -> Vec<(FlashPlace, OnMedia)> {
        let journal = self.0.lock().expect("no panic under it");
        let mut found = Vec::new();
        for (number, slot) in (0u16..).zip(slots) {
            if journal.retired.contains(&(number, slot.life)) {
                continue;
            }
            for (&page, record) in &slot.records {
                let name = (number, slot.life, page, record.generation);
                if journal.dead.contains(&name) || journal.floor.is_some_and(|floor| record.generation < floor) {
                    continue;
                }
                let expires = journal.expiries.get(&name).map_or(record.expires, |&(_, expires)| expires);
                found.push((FlashPlace { slot: number, page }, OnMedia { expires, ..*record }));
            }
        }
        found
    }
}
