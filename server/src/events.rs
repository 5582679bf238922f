//! Keyspace notifications: what happens to keys, told as messages.
//!
//! Classes are Redis's, as `notify-keyspace-events` names them, and one of ours: `T`, objects that move between the tiers.

use crate::config::Value;
use crate::node::Node;
use protocol::base::Instant;
use storage::Event;

/// Told on the key's channel, and on the event's.
const KEYSPACE: u32 = 1;
const KEYEVENT: u32 = 1 << 1;
/// `DEL`, `EXPIRE`, `RENAME` and the like.
pub(crate) const GENERIC: u32 = 1 << 2;
/// Values that are written.
pub(crate) const STRING: u32 = 1 << 3;
const EXPIRED: u32 = 1 << 4;
const EVICTED: u32 = 1 << 5;
/// Reads that find nothing.
pub(crate) const MISS: u32 = 1 << 6;
const TIERS: u32 = 1 << 7;
/// Classes of kinds of values that are not here.
const NOT_HERE: &str = "lshzdt";

const LETTERS: [(char, u32); 8] = [
    ('g', GENERIC),
    ('$', STRING),
    ('x', EXPIRED),
    ('e', EVICTED),
    ('K', KEYSPACE),
    ('E', KEYEVENT),
    ('m', MISS),
    ('T', TIERS),
];
const ALL: u32 = GENERIC | STRING | EXPIRED | EVICTED;

/// Which events are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventClasses {
    bits: u32,
    /// Whether it was said as `A`, which names kinds that are not here too.
    all: bool,
}

impl EventClasses {
    /// The classes that are told; none unless it is said on which channels.
    pub(crate) fn bits(self) -> u32 {
        if self.bits & (KEYSPACE | KEYEVENT) == 0 { 0 } else { self.bits }
    }
}

impl Value for EventClasses {
    const KIND: &'static str = "LETTERS";
    const ALLOWED: &'static str = "letters of K, E, g, $, l, s, h, z, x, e, t, d, m, A and T";
    fn parse(text: &str) -> Option<Self> {
        let mut classes = Self::default();
        for letter in text.chars() {
            if letter == 'A' {
                classes.bits |= ALL;
                classes.all = true;
            } else if let Some((_, bit)) = LETTERS.iter().find(|(known, _)| *known == letter) {
                classes.bits |= bit;
            } else if !NOT_HERE.contains(letter) {
                return None;
            }
        }
        Some(classes)
    }
    fn render(&self) -> String {
        let mut text = String::new();
        if self.all {
            text.push('A');
        }
        let told = LETTERS.iter().filter(|(_, bit)| self.bits & bit != 0 && !(self.all && ALL & bit != 0));
        text.extend(told.map(|(letter, _)| letter));
        text
    }
}

impl Node {
    /// Something happened to a key. One relaxed load, if nobody is told.
    #[inline]
    pub(crate) fn notify(&self, class: u32, event: &str, key: &[u8]) {
        let classes = self.pubsub.classes();
        if classes & class != 0 {
            self.tell(classes, event, key);
        }
    }

    #[cold]
    fn tell(&self, classes: u32, event: &str, key: &[u8]) {
        if classes & KEYSPACE != 0 {
            self.pubsub.publish_of(key, &[b"__keyspace@0__:", key].concat(), event.as_bytes());
        }
        if classes & KEYEVENT != 0 {
            self.pubsub.publish_of(key, &[b"__keyevent@0__:", event.as_bytes()].concat(), key);
        }
    }

    /// Tells what happened to objects by itself since the last look.
    pub(crate) fn tell_events(&self) {
        if self.pubsub.classes() & (EXPIRED | EVICTED | TIERS) == 0 {
            return;
        }
        self.store.take_events(|event, key| {
            let (class, name) = match event {
                Event::Expired => (EXPIRED, "expired"),
                Event::Evicted => (EVICTED, "evicted"),
                Event::Demoted => (TIERS, "demoted"),
                Event::Promoted => (TIERS, "promoted"),
            };
            self.notify(class, name, key);
        });
    }

    /// A value was written, with a time to live or without.
    #[inline]
    pub(crate) fn notify_set(&self, key: &[u8], expires: Option<Instant>) {
        self.notify(STRING, "set", key);
        if expires.is_some() {
            self.notify(GENERIC, "expire", key);
        }
    }

    /// Which events are told from now on.
    pub(crate) fn set_event_classes(&self, classes: EventClasses) {
        let bits = classes.bits();
        self.store.listen(bits & (EXPIRED | EVICTED | TIERS) != 0);
        self.pubsub.set_classes(bits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_read_back_as_they_were_said() {
        for (said, rendered) in
            [("", ""), ("KEA", "AKE"), ("Kx", "xK"), ("gKE$", "g$KE"), ("KEAT", "AKET"), ("Kl", "K")]
        {
            let classes = EventClasses::parse(said).expect(said);
            assert_eq!(classes.render(), rendered);
            assert_eq!(EventClasses::parse(rendered), Some(classes));
        }
        assert_eq!(EventClasses::parse("KQ"), None);
        assert_eq!(EventClasses::parse("gx").expect("classes").bits(), 0, "nowhere to tell it");
    }
}
