//! Deadlines of many things, most of which are called off before they come due.

use protocol::base::Instant;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A queue of (when, what). Called-off items stay until due or until they outnumber the rest.
#[derive(Debug)]
pub(crate) struct Deadlines<T>(BinaryHeap<Reverse<(Instant, T)>>);

impl<T: Ord> Deadlines<T> {
    pub(crate) fn new() -> Self {
        Self(BinaryHeap::new())
    }

    pub(crate) fn push(&mut self, at: Instant, what: T) {
        self.0.push(Reverse((at, what)));
    }

    /// The next item whose time has come.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<T> {
        if self.0.peek().is_none_or(|Reverse((at, _))| *at > now) {
            return None;
        }
        self.0.pop().map(|Reverse((_, what))| what)
    }

    /// Drops called-off items once they are most of the queue; `live` says how many are not, `keep` which.
    pub(crate) fn compact(&mut self, live: usize, keep: impl FnMut(&Reverse<(Instant, T)>) -> bool) {
        if self.0.len() > 4 * live + 1024 {
            self.0.retain(keep);
            self.0.shrink_to(2 * live + 1024);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_when_due_and_the_queue_stays_short() {
        let mut queue = Deadlines::new();
        for n in 0..5000u64 {
            queue.push(Instant(1_000_000 - n), n);
        }
        assert_eq!(queue.pop_due(Instant(995_000)), None);
        assert_eq!(queue.pop_due(Instant(995_001)), Some(4999));
        queue.compact(1, |Reverse((_, n))| *n == 7);
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.pop_due(Instant::NEVER), Some(7));
    }
}
