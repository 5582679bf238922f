//! What the notes of a journal add up to.

use super::note::{Note, RecordAt};
use super::replay::{Damage, replay};
use protocol::base::Generation;
use std::collections::{HashMap, HashSet};

/// Pins of a key over a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinsKept {
    /// The object that was pinned.
    pub generation: Generation,
    /// Pins without an end.
    pub endless: u32,
    /// When the last of the others ends, Unix time in milliseconds; 0 if there is none.
    pub until_ms: u64,
    order: u64,
}

/// What is known of one record beyond what it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Not to be believed.
    Dead,
    /// Nothing speaks against it.
    Alive {
        /// When it expires if that was changed: Unix time in milliseconds, 0 for never.
        expires_ms: Option<u64>,
    },
}

/// Notes about the latest life of a segment that any note tells of. A life begins only when those before it are over, so
/// that nothing else needs to be known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Segment {
    life: u64,
    retired: bool,
    dead: HashSet<(u16, Generation)>,
    /// Time and order.
    expiries: HashMap<(u16, Generation), (u64, u64)>,
}

/// What a journal remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    segments: HashMap<(u16, u16), Segment>,
    dead_below: u64,
    order_max: u64,
    pins: HashMap<Box<[u8]>, PinsKept>,
}

impl Remembered {
    /// What the bytes of a journal say, and what is wrong with them.
    pub fn of_file(bytes: &[u8]) -> (Self, Damage) {
        let mut remembered = Self::default();
        let damage = replay(bytes, |note| remembered.apply(note));
        (remembered, damage)
    }

    /// Whether a record that was found may be believed.
    pub fn fate(&self, record: &RecordAt) -> Fate {
        if record.generation.0 < self.dead_below {
            return Fate::Dead;
        }
        let Some(segment) = self.segments.get(&(record.device, record.segment)) else {
            return Fate::Alive { expires_ms: None };
        };
        let which = (record.page, record.generation);
        if segment.life > record.life {
            return Fate::Dead;
        }
        if segment.life < record.life {
            return Fate::Alive { expires_ms: None };
        }
        if segment.retired || segment.dead.contains(&which) {
            return Fate::Dead;
        }
        Fate::Alive { expires_ms: segment.expiries.get(&which).map(|(expires_ms, _)| *expires_ms) }
    }

    /// Every record of an earlier generation is dead.
    pub fn dead_below(&self) -> Generation {
        Generation(self.dead_below)
    }

    /// The pins of each key that has any.
    pub fn pins(&self) -> impl Iterator<Item = (&[u8], &PinsKept)> {
        self.pins.iter().map(|(key, pins)| (&key[..], pins))
    }

    /// The pins of a key, if it has any.
    pub fn pins_of(&self, key: &[u8]) -> Option<&PinsKept> {
        self.pins.get(key)
    }

    /// The greatest order of any note.
    pub(super) fn order_max(&self) -> u64 {
        self.order_max
    }

    pub(super) fn apply(&mut self, note: &Note<'_>) {
        match *note {
            Note::Dead(record) => {
                let Some(segment) = self.segment(record.device, record.segment, record.life) else { return };
                let which = (record.page, record.generation);
                segment.expiries.remove(&which);
                segment.dead.insert(which);
            }
            Note::DeadBelow(generation) => self.dead_below = self.dead_below.max(generation.0),
            Note::Retired { device, segment, life } => {
                let Some(segment) = self.segment(device, segment, life) else { return };
                *segment = Segment { life, retired: true, ..Segment::default() };
            }
            Note::Expiry { record, expires_ms, order } => {
                let Some(segment) = self.segment(record.device, record.segment, record.life) else { return };
                let known = segment.expiries.entry((record.page, record.generation)).or_insert((expires_ms, order));
                if order >= known.1 {
                    *known = (expires_ms, order);
                }
                self.order_max = self.order_max.max(order);
            }
            Note::Pins { key, generation, endless, until_ms, order } => {
                let pins = PinsKept { generation, endless, until_ms, order };
                self.order_max = self.order_max.max(order);
                match self.pins.get_mut(key) {
                    Some(known) if known.order > order => {}
                    Some(known) => *known = pins,
                    None => {
                        self.pins.insert(key.into(), pins);
                    }
                }
            }
        }
    }

    /// The notes of a segment's life; `None` if a later one is known.
    fn segment(&mut self, device: u16, segment: u16, life: u64) -> Option<&mut Segment> {
        let known = self.segments.entry((device, segment)).or_default();
        if known.life < life {
            *known = Segment { life, ..Segment::default() };
        }
        (known.life == life).then_some(known)
    }

    /// Notes of earlier boots give way to any of this one.
    pub(super) fn begin_boot(&mut self) {
        self.segments.values_mut().flat_map(|segment| segment.expiries.values_mut()).for_each(|known| known.1 = 0);
        self.pins.values_mut().for_each(|pins| pins.order = 0);
        self.order_max = 0;
    }

    /// Drops what no longer says anything: of lives that are over, of dead generations, of pins that have ended by `now_ms`.
    /// That a key has no pins is dropped once no note of up to `settled` can still be on its way.
    pub(super) fn prune(&mut self, lives: &HashMap<(u16, u16), u64>, now_ms: u64, settled: u64) {
        let below = self.dead_below;
        self.segments.retain(|place, segment| {
            segment.dead.retain(|(_, generation)| generation.0 >= below);
            segment.expiries.retain(|(_, generation), _| generation.0 >= below);
            let over = lives.get(place).is_some_and(|life| segment.life < *life);
            let empty = !segment.retired && segment.dead.is_empty() && segment.expiries.is_empty();
            !over && !empty
        });
        self.pins.retain(|_, pins| pins.endless > 0 || pins.until_ms > now_ms || pins.order > settled);
    }

    /// Each note that this takes to write down.
    pub(super) fn notes(&self, mut each: impl FnMut(&Note<'_>)) {
        if self.dead_below > 0 {
            each(&Note::DeadBelow(self.dead_below()));
        }
        for (&(device, segment), known) in &self.segments {
            let life = known.life;
            if known.retired {
                each(&Note::Retired { device, segment, life });
            }
            for &(page, generation) in &known.dead {
                each(&Note::Dead(RecordAt { device, segment, life, page, generation }));
            }
            for (&(page, generation), &(expires_ms, order)) in &known.expiries {
                let record = RecordAt { device, segment, life, page, generation };
                each(&Note::Expiry { record, expires_ms, order });
            }
        }
        for (key, &PinsKept { generation, endless, until_ms, order }) in &self.pins {
            each(&Note::Pins { key, generation, endless, until_ms, order });
        }
    }
}
