//! Deadlines of many things, most of which are called off before they come due.
//!
//! Invariants:
//! - The queue holds what is outstanding and nothing else: calling off removes. A client that sets and clears deadlines in
//!   a loop costs no memory, and there is no moment at which a long queue is swept under a shard's lock.

use protocol::base::Instant;
use std::collections::BTreeSet;

/// A queue of (when, what).
#[derive(Debug)]
pub(crate) struct Deadlines<T>(BTreeSet<(Instant, T)>);

impl<T: Ord> Deadlines<T> {
    pub(crate) fn new() -> Self {
        Self(BTreeSet::new())
    }

    pub(crate) fn push(&mut self, at: Instant, what: T) {
        let new = self.0.insert((at, what));
        assert!(new, "a thing has one deadline");
    }

    /// Takes a deadline back.
    pub(crate) fn call_off(&mut self, at: Instant, what: T) {
        let was = self.0.remove(&(at, what));
        assert!(was, "what is called off was outstanding");
    }

    /// The next item whose time has come, left where it is.
    pub(crate) fn first_due(&self, now: Instant) -> Option<T>
    where
        T: Copy,
    {
        self.0.first().filter(|(at, _)| *at <= now).map(|&(_, what)| what)
    }

    /// The next item whose time has come.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<T> {
        if self.0.first().is_none_or(|(at, _)| *at > now) {
            return None;
        }
        self.0.pop_first().map(|(_, what)| what)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Bytes it takes, about: B-tree nodes are two thirds full.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len() * size_of::<(Instant, T)>() * 3 / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_when_due_and_the_called_off_never() {
        let mut queue = Deadlines::new();
        for n in 0..5000u64 {
            queue.push(Instant(1_000_000 - n), n);
        }
        assert_eq!(queue.pop_due(Instant(995_000)), None);
        assert_eq!(queue.pop_due(Instant(995_001)), Some(4999));
        for n in 8..4999 {
            queue.call_off(Instant(1_000_000 - n), n);
        }
        assert_eq!(queue.len(), 8);
        assert_eq!(queue.pop_due(Instant::NEVER), Some(7));
    }
}
