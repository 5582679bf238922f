//! What must be true of each key. The store may forget what nobody protects; the model learns so when it looks.

use crate::content::Content;
use protocol::base::{Generation, Instant};
use std::collections::{BTreeMap, HashSet};

/// A live object, as far as the model knows.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) content: Content,
    pub(crate) generation: Generation,
    pub(crate) expires: Option<Instant>,
    pub(crate) endless_pins: u32,
    /// Ends of the pins that have one.
    pub(crate) timed_pins: Vec<Instant>,
    pub(crate) graced_until: Option<Instant>,
    /// Whether it had its grace since it was last read or written.
    pub(crate) grace_spent: bool,
}

impl Object {
    pub(crate) fn new(content: Content, generation: Generation, expires: Option<Instant>) -> Self {
        Self {
            content,
            generation,
            expires,
            endless_pins: 0,
            timed_pins: Vec::new(),
            graced_until: None,
            grace_spent: false,
        }
    }

    pub(crate) fn read(&mut self) {
        (self.graced_until, self.grace_spent) = (None, false);
    }

    /// Pins that certainly hold.
    pub(crate) fn pins(&self, now: Instant) -> u64 {
        u64::from(self.endless_pins) + self.timed_pins.iter().filter(|&&until| until > now).count() as u64
    }
}

/// All keys.
#[derive(Debug, Default)]
pub(crate) struct Model {
    live: BTreeMap<u8, Object>,
    generations: HashSet<Generation>,
    /// Objects found to be forgotten.
    pub(crate) forgotten: u64,
}

impl Model {
    /// A generation that was just given out.
    pub(crate) fn note_generation(&mut self, generation: Generation) {
        assert!(self.generations.insert(generation), "{generation:?} was given out twice");
    }

    /// The object of a key, if it has not expired.
    pub(crate) fn get(&mut self, now: Instant, key: u8) -> Option<&mut Object> {
        if self.live.get(&key).is_some_and(|object| object.expires.is_some_and(|at| at <= now)) {
            self.live.remove(&key);
        }
        self.live.get_mut(&key)
    }

    pub(crate) fn put(&mut self, key: u8, object: Object) -> Option<Object> {
        self.live.insert(key, object)
    }

    pub(crate) fn remove(&mut self, key: u8) -> Option<Object> {
        self.live.remove(&key)
    }

    /// Removes the object of this placement, if it is live.
    pub(crate) fn remove_placement(&mut self, generation: Generation) {
        self.live.retain(|_, object| object.generation != generation);
    }

    /// The key of a live placement.
    pub(crate) fn key_of(&self, generation: Generation) -> Option<u8> {
        self.live.iter().find(|(_, object)| object.generation == generation).map(|(&key, _)| key)
    }

    pub(crate) fn clear(&mut self) {
        self.live.clear();
    }

    /// The store has no such object. That must be so, or it was free to forget it.
    pub(crate) fn absent(&mut self, now: Instant, key: u8, users: impl Fn(Generation) -> bool) {
        let Some(object) = self.get(now, key) else { return };
        assert_eq!(object.pins(now), 0, "pinned key {key} was forgotten");
        assert!(object.graced_until.is_none_or(|until| until <= now), "graced key {key} was forgotten");
        assert!(!users(object.generation), "leased or guarded key {key} was forgotten");
        self.live.remove(&key);
        self.forgotten += 1;
    }

    /// Moments at which something about an object ends.
    pub(crate) fn ends(&self) -> impl Iterator<Item = Instant> {
        self.live.values().flat_map(|object| {
            object.expires.into_iter().chain(object.graced_until).chain(object.timed_pins.iter().copied())
        })
    }

    pub(crate) fn keys(&self) -> Vec<u8> {
        self.live.keys().copied().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.live.len()
    }
}
