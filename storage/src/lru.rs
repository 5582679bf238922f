//! Eviction order: least recently used first, and of one chain the deepest first.
//!
//! Role: intrusive lists over a shard's entries, ordered by [`Stamp`]. Objects that were read, that something continues, and
//! that neither happened to are in lists of their own, and age at different speeds ([`List::urgency`]). Those that cost
//! nothing to drop, because they are on flash too or will never be, have the same lists once more.
//!
//! Invariants:
//! - A list is sorted by stamp, newest at the head, except where a walk from either end gave up: then an entry lies a
//!   little nearer to the head than its stamp says, so it lives a little longer.
//! - Every operation costs at most [`WALK_MAX`] steps, whatever the population.
//!
//! The stamp is the moment of the touch and, below it, the depth in the chain, reversed: blocks touched by one request
//! order themselves with the prefix newest. A block written with `PARENT` takes its parent's moment and one more depth, so
//! a continuation never outlives its prefix (SGLang's radix cache evicts leaves only, for the same reason).

use crate::entry::{Entries, NIL, flag};
use protocol::base::Instant;
use std::cmp::Reverse;

/// Steps that an insertion out of order may walk.
const WALK_MAX: usize = 128;
const DEPTH_BITS: u32 = 12;
const DEPTH_MAX: u32 = (1 << DEPTH_BITS) - 1;

/// Moment of a touch (microseconds, 52 bits) and reversed depth (12 bits). Greater is kept longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp(pub(crate) u64);

impl Stamp {
    pub(crate) fn new(at: Instant, depth: u32) -> Self {
        Self(at.micros_floor() << DEPTH_BITS | u64::from(DEPTH_MAX - depth.min(DEPTH_MAX)))
    }

    pub(crate) fn depth(self) -> u32 {
        DEPTH_MAX - u32::try_from(self.0 & u64::from(DEPTH_MAX)).expect("12 bits")
    }

    /// Just older than `self`: its continuation in the chain.
    pub(crate) fn child(self) -> Self {
        Self(self.0 - u64::from(self.depth() < DEPTH_MAX))
    }

    pub(crate) fn at(self) -> Instant {
        Instant((self.0 >> DEPTH_BITS) * 1_000)
    }
}

/// Which list: its number goes into [`crate::entry::Entry::list`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    /// The last block of a chain, never read since it was written: most such blocks are never asked for again.
    Leaf = 0,
    /// Never read, but something continues it, or it is in no chain.
    Fresh = 1,
    /// Read since it was written.
    Hit = 2,
    /// Soft-pinned: victims only when there are no others.
    Soft = 3,
    /// Passed over because of a grace; back in its list when that ends.
    Parked = 4,
    /// As [`List::Leaf`], free to drop.
    CleanLeaf = 5,
    /// As [`List::Fresh`], free to drop.
    CleanFresh = 6,
    /// As [`List::Hit`], free to drop.
    CleanHit = 7,
    /// As [`List::Soft`], free to drop.
    CleanSoft = 8,
}

impl List {
    /// How many there are.
    pub(crate) const COUNT: usize = 9;
    /// All of them.
    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::Leaf,
        Self::Fresh,
        Self::Hit,
        Self::Soft,
        Self::Parked,
        Self::CleanLeaf,
        Self::CleanFresh,
        Self::CleanHit,
        Self::CleanSoft,
    ];

    /// The list of the same objects, once they are free to drop.
    pub(crate) fn clean(self) -> Self {
        match self {
            Self::Leaf => Self::CleanLeaf,
            Self::Fresh => Self::CleanFresh,
            Self::Hit => Self::CleanHit,
            Self::Soft => Self::CleanSoft,
            Self::Parked | Self::CleanLeaf | Self::CleanFresh | Self::CleanHit | Self::CleanSoft => self,
        }
    }

    /// How much faster than others the objects of a list age, in halves. Measured on the conversation trace: block hit
    /// ratios of 0.0453, 0.1488, 0.2202, 0.3304 and 0.3555 at 1,000, 5,860, 10,000, 30,000 and 50,000 blocks, where one list
    /// has 0.0445, 0.1361, 0.2116, 0.3258 and 0.3546.
    fn weight(self) -> u64 {
        match self {
            Self::Leaf | Self::CleanLeaf => 8,
            Self::Fresh | Self::CleanFresh => 2,
            Self::Hit | Self::Soft | Self::Parked | Self::CleanHit | Self::CleanSoft => 1,
        }
    }

    /// How much the oldest object of this list, whose stamp is `stamp`, should go before those of other lists: the greater
    /// goes first. Of equals the older goes, and of one moment the deeper.
    pub(crate) fn urgency(self, stamp: u64, now: Instant) -> (u64, Reverse<u64>) {
        let idle = now.micros_floor().saturating_sub(stamp >> DEPTH_BITS);
        (idle.saturating_mul(self.weight()), Reverse(stamp))
    }
}

/// Which objects may be evicted: each may take what those before it may, and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Prey {
    /// Those that are free to drop.
    Clean,
    /// Soft-pinned ones of them too: they leave DRAM, not the node.
    CleanSoft,
    /// All but the soft-pinned.
    Plain,
    /// All.
    Soft,
}

impl Prey {
    /// Where there is no flash.
    pub(crate) const WITHOUT_FLASH: &'static [Self] = &[Self::Plain, Self::Soft];
    /// While it is worth to wait until more is on flash.
    pub(crate) const PATIENT: &'static [Self] = &[Self::Clean, Self::CleanSoft];
    /// When it is not.
    pub(crate) const HASTY: &'static [Self] = &[Self::Clean, Self::CleanSoft, Self::Plain, Self::Soft];

    /// The lists in which the oldest of these are: what may be taken before has gone already.
    pub(crate) fn lists(self) -> &'static [List] {
        match self {
            Self::Clean => &[List::CleanLeaf, List::CleanFresh, List::CleanHit],
            Self::CleanSoft => &[List::CleanSoft],
            Self::Plain => &[List::Leaf, List::Fresh, List::Hit],
            Self::Soft => &[List::Soft],
        }
    }

    /// Whether objects of a list are among these.
    pub(crate) fn takes(self, list: List) -> bool {
        match list {
            List::CleanLeaf | List::CleanFresh | List::CleanHit => true,
            List::CleanSoft => self >= Self::CleanSoft,
            List::Leaf | List::Fresh | List::Hit | List::Parked => self >= Self::Plain,
            List::Soft => self >= Self::Soft,
        }
    }
}

/// Head and tail of each list.
#[derive(Debug)]
pub(crate) struct Lists {
    newest: [u32; List::COUNT],
    oldest: [u32; List::COUNT],
    /// Whether the oldest of some list changed since [`Lists::take_changed`].
    changed: bool,
}

impl Lists {
    pub(crate) fn new() -> Self {
        Self { newest: [NIL; List::COUNT], oldest: [NIL; List::COUNT], changed: false }
    }

    /// Whether the oldest of some list may be another, or of another stamp, than when this was asked before.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(crate) fn oldest(&self, list: List) -> u32 {
        self.oldest[list as usize]
    }

    /// Puts an entry where its stamp belongs.
    pub(crate) fn insert(&mut self, entries: &mut Entries, index: u32, list: List) {
        let which = list as usize;
        let stamp = entries[index].stamp;
        debug_assert!(!entries[index].has(flag::LISTED), "entry {index} is in a list already");
        let (mut newer, mut older) = (NIL, self.newest[which]);
        // Oldest of all: as after a grace, or a long lease. Of equals the later one is newer.
        let tail = self.oldest[which];
        if tail != NIL && stamp <= entries[tail].stamp && stamp < entries[older].stamp {
            self.link(entries, index, which, tail, NIL);
            return;
        }
        for _ in 0..WALK_MAX {
            if older == NIL || entries[older].stamp <= stamp {
                return self.link(entries, index, which, newer, older);
            }
            newer = older;
            older = entries[older].older;
        }
        // As after a spill: then it was among the oldest.
        let (mut above, mut below) = (tail, NIL);
        for _ in 0..WALK_MAX {
            if above == NIL || entries[above].stamp > stamp {
                return self.link(entries, index, which, above, below);
            }
            below = above;
            above = entries[above].newer;
        }
        self.link(entries, index, which, newer, older);
    }

    fn link(&mut self, entries: &mut Entries, index: u32, which: usize, newer: u32, older: u32) {
        {
            let entry = &mut entries[index];
            entry.newer = newer;
            entry.older = older;
            entry.list = u8::try_from(which).expect("nine lists");
            entry.flags |= flag::LISTED;
        }
        if newer == NIL {
            self.newest[which] = index;
        } else {
            entries[newer].older = index;
        }
        if older == NIL {
            self.oldest[which] = index;
            self.changed = true;
        } else {
            entries[older].newer = index;
        }
    }

    /// Takes an entry out of the list it is in, if any.
    pub(crate) fn remove(&mut self, entries: &mut Entries, index: u32) {
        let entry = &mut entries[index];
        if !entry.has(flag::LISTED) {
            return;
        }
        entry.flags &= !flag::LISTED;
        let (newer, older, which) = (entry.newer, entry.older, usize::from(entry.list));
        if newer == NIL {
            self.newest[which] = older;
        } else {
            entries[newer].older = older;
        }
        if older == NIL {
            self.oldest[which] = newer;
            self.changed = true;
        } else {
            entries[older].newer = newer;
        }
    }

    /// Entries of a list, oldest first.
    pub(crate) fn iter<'a>(&self, entries: &'a Entries, list: List) -> impl Iterator<Item = u32> + 'a {
        let first = self.oldest[list as usize];
        std::iter::successors((first != NIL).then_some(first), move |&index| {
            let newer = entries[index].newer;
            (newer != NIL).then_some(newer)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Entry;
    use crate::place::Place;
    use protocol::base::{Crc, Generation};

    #[test]
    fn a_prefix_is_newer_than_its_continuation() {
        let at = Instant(5_000_000);
        let root = Stamp::new(at, 0);
        assert!(root > root.child() && root.child() > root.child().child());
        assert_eq!(root.child(), Stamp::new(at, 1));
        assert_eq!((root.child().at(), root.child().depth()), (at, 1));
        let deepest = Stamp::new(at, u32::MAX);
        assert_eq!(deepest.child(), deepest, "depth saturates");
        assert!(deepest > Stamp::new(Instant(4_999_000), 0), "an earlier touch is older at any depth");
    }

    #[test]
    fn lists_stay_sorted_whatever_the_order_of_insertion() {
        let (mut entries, mut lists) = (Entries::new(), Lists::new());
        for stamp in [5u64, 3, 9, 1, 7, 5, 2, 8] {
            let entry = Entry::new(Generation(1), stamp, Place::unpack(0), 0, 0, Crc(0), 1);
            let index = entries.insert(entry);
            lists.insert(&mut entries, index, List::Leaf);
        }
        let order = |lists: &Lists, entries: &Entries| -> Vec<u64> {
            lists.iter(entries, List::Leaf).map(|index| entries[index].stamp).collect()
        };
        assert_eq!(order(&lists, &entries), [1, 2, 3, 5, 5, 7, 8, 9]);
        for index in [3, 2, 0] {
            lists.remove(&mut entries, index);
        }
        assert_eq!(order(&lists, &entries), [2, 3, 5, 7, 8]);
    }

    #[test]
    fn of_equal_stamps_the_first_to_come_is_the_oldest() {
        let (mut entries, mut lists) = (Entries::new(), Lists::new());
        for _ in 0..5 {
            let index = entries.insert(Entry::new(Generation(1), 7, Place::unpack(0), 0, 0, Crc(0), 1));
            lists.insert(&mut entries, index, List::Leaf);
        }
        assert_eq!(lists.iter(&entries, List::Leaf).collect::<Vec<u32>>(), [0, 1, 2, 3, 4]);
    }
}
