//! Slots of small values: slab pages of one size class each, carved from extents.
//!
//! Role: one of these lives in each shard, under its lock, so that small writes take no further lock.
//!
//! Invariants:
//! - A page that becomes empty goes back to the extents at once, except where it is the only open one of its class: that
//!   one is spare, against flapping, until memory is short.
//! - Bookkeeping lies outside the managed memory.

use super::extent::Owner;
use super::space::Space;
use crate::place::{PAGE, Position, SLOT_EDGE};
use protocol::base::Instant;

/// Largest slot, header and key included. A longer object gets pages of its own.
pub(crate) const SLOT_LEN_MAX: u64 = 16 << 10;
const FINE_STEP: u64 = 16;
const FINE_MAX: u64 = 256;
/// Sizes between two powers of two above [`FINE_MAX`].
const STEPS: u64 = 8;
const CLASSES: usize = 16 + 6 * 8;
const _: () = assert!(
    CLASSES as u64 == FINE_MAX / FINE_STEP + (SLOT_LEN_MAX / FINE_MAX).ilog2() as u64 * STEPS,
    "each class has its length"
);
const NONE: u32 = u32::MAX;

/// Slot length of each class, ascending: steps of 16 bytes to 256, then eighths of each doubling.
const CLASS_LEN: [u64; CLASSES] = {
    let mut len = [0; CLASSES];
    let mut class = 0;
    let mut size = FINE_STEP;
    while size <= FINE_MAX {
        len[class] = size;
        class += 1;
        size += FINE_STEP;
    }
    let mut base = FINE_MAX;
    while base < SLOT_LEN_MAX {
        let mut step = 1;
        while step <= STEPS {
            len[class] = base + base / STEPS * step;
            class += 1;
            step += 1;
        }
        base *= 2;
    }
    len
};
const _: () = assert!(CLASS_LEN[CLASSES - 1] == SLOT_LEN_MAX, "the last class is the longest slot");

/// The class whose slots hold `len` bytes with the least waste.
fn class_of(len: u64) -> Option<usize> {
    (len <= SLOT_LEN_MAX).then(|| CLASS_LEN.partition_point(|&class_len| class_len < len))
}

/// Bytes that a small object of `len`, header and key included, is charged; `None` if it is not small.
pub(crate) fn charge(len: u64) -> Option<u64> {
    class_of(len).map(|class| CLASS_LEN[class])
}

/// Pages that the slab pages of each class take: the fewest that waste at most a fiftieth, or else what wastes least. Small
/// ones serve many classes of a small store, and give memory back sooner.
const CLASS_PAGES: [u32; CLASSES] = {
    let mut pages = [0; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        let (mut best, mut best_waste) = (0, u64::MAX);
        let mut run = RUN_PAGES_MIN;
        while run <= RUN_PAGES_MAX {
            let bytes = run as u64 * PAGE;
            let slots = (bytes - SLOT_EDGE) / CLASS_LEN[class];
            // In ten-thousandths.
            let waste = (bytes - slots * CLASS_LEN[class]) * 10_000 / bytes;
            if best_waste > 200 && waste < best_waste {
                (best, best_waste) = (run, waste);
            }
            run += 1;
        }
        pages[class] = best;
        class += 1;
    }
    pages
};
const RUN_PAGES_MIN: u32 = 4;
const RUN_PAGES_MAX: u32 = 24;

/// Pages that a slab page for objects of `len` bytes takes. Only for those that are small.
pub(crate) fn page_run(len: u64) -> u32 {
    class_of(len).map_or(0, pages_of)
}

fn pages_of(class: usize) -> u32 {
    CLASS_PAGES[class]
}

#[derive(Debug)]
struct Page {
    base: Position,
    class: u8,
    /// Index in its class's list of pages with room; `NONE` if it has none.
    listed: u32,
    slots: u16,
    used: u16,
    /// When the latest slot was taken.
    taken_at: Instant,
    /// One bit a slot, set where taken.
    taken: Box<[u64]>,
}

/// All slab pages of one shard.
#[derive(Debug)]
pub(crate) struct Slabs {
    pages: Vec<Option<Page>>,
    vacant: Vec<u32>,
    /// For each class the pages with a free slot.
    open: Vec<Vec<u32>>,
    /// For each class the empty page that is kept, or `NONE`.
    spare: [u32; CLASSES],
    /// Bytes of extents taken.
    held: u64,
    /// Bytes of slots taken.
    used: u64,
}

impl Slabs {
    pub(crate) fn new() -> Self {
        Self {
            pages: Vec::new(),
            vacant: Vec::new(),
            open: (0..CLASSES).map(|_| Vec::new()).collect(),
            spare: [NONE; CLASSES],
            held: 0,
            used: 0,
        }
    }

    /// A slot of at least `len` bytes. `None` if it needs a page and `space` has none.
    pub(crate) fn allocate(&mut self, now: Instant, len: u64, space: &Space, shard: u8) -> Option<(u32, u16)> {
        let class = class_of(len)?;
        let page_index = match self.open[class].last() {
            Some(&page) => page,
            None => self.add_page(class, space, shard)?,
        };
        if self.spare[class] == page_index {
            self.spare[class] = NONE;
        }
        let page = self.pages[page_index as usize].as_mut().expect("listed pages exist");
        let word = page.taken.iter().position(|&word| word != u64::MAX).expect("an open page has a free slot");
        let bit = page.taken[word].trailing_ones();
        page.taken[word] |= 1 << bit;
        page.used += 1;
        page.taken_at = now;
        self.used += CLASS_LEN[class];
        if page.used == page.slots {
            self.unlist(page_index);
        }
        let slot = u16::try_from(word * 64 + bit as usize).expect("a page has fewer slots than 65,536");
        Some((page_index, slot))
    }

    fn add_page(&mut self, class: usize, space: &Space, shard: u8) -> Option<u32> {
        let pages = pages_of(class);
        let index = self.next_index();
        let base = space.allocate(pages, Owner::Slab { shard, page: index }, usize::from(shard))?;
        self.open_page(class, base, index);
        Some(index)
    }

    /// Takes a page of this class that begins at `base`, with no slot taken. `None` if there is no such class, or its pages
    /// are not free.
    pub(crate) fn adopt_page(&mut self, class: u8, base: Position, space: &Space, shard: u8) -> Option<u32> {
        let class = usize::from(class);
        if class >= CLASSES {
            return None;
        }
        let index = self.next_index();
        space.claim(base, pages_of(class), Owner::Slab { shard, page: index }).then(|| {
            self.open_page(class, base, index);
            index
        })
    }

    /// Takes this very slot. `false` if it is taken, or the page has no such slot.
    pub(crate) fn claim(&mut self, page_index: u32, slot: u16) -> bool {
        let page = self.pages[page_index as usize].as_mut().expect("slots are claimed in a page that was adopted");
        let (word, bit) = (usize::from(slot) / 64, slot % 64);
        if slot >= page.slots || page.taken[word] & 1 << bit != 0 {
            return false;
        }
        page.taken[word] |= 1 << bit;
        page.used += 1;
        self.used += CLASS_LEN[usize::from(page.class)];
        if page.used == page.slots {
            self.unlist(page_index);
        }
        true
    }

    /// Gives back adopted pages in which no slot was claimed.
    pub(crate) fn drop_unclaimed(&mut self, space: &Space) {
        for index in 0..u32::try_from(self.pages.len()).expect("few pages") {
            let Some(page) = &self.pages[index as usize] else { continue };
            if page.used == 0 && self.spare[usize::from(page.class)] != index {
                self.drop_page(index, space);
            }
        }
    }

    /// All pages: index, first byte, class.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (u32, Position, u8)> {
        let of = |(index, page): (usize, &Option<Page>)| {
            let page = page.as_ref()?;
            Some((u32::try_from(index).ok()?, page.base, page.class))
        };
        self.pages.iter().enumerate().filter_map(of)
    }

    fn next_index(&self) -> u32 {
        self.vacant.last().copied().unwrap_or_else(|| u32::try_from(self.pages.len()).expect("few pages"))
    }

    /// Notes a page whose pages of memory were taken, under the next index.
    fn open_page(&mut self, class: usize, base: Position, index: u32) {
        let pages = pages_of(class);
        let usable = u64::from(pages) * PAGE - SLOT_EDGE;
        let slots = u16::try_from(usable / CLASS_LEN[class]).expect("a page has fewer slots than 65,536");
        let words = usize::from(slots).div_ceil(64);
        let mut taken = vec![0u64; words].into_boxed_slice();
        let rest = usize::from(slots) % 64;
        if rest != 0 {
            taken[words - 1] = u64::MAX << rest;
        }
        let class_index = u8::try_from(class).expect("fewer classes than 256");
        let page = Page { base, class: class_index, listed: NONE, slots, used: 0, taken_at: Instant(0), taken };
        if self.vacant.pop().is_some() {
            self.pages[index as usize] = Some(page);
        } else {
            self.pages.push(Some(page));
        }
        self.held += u64::from(pages) * PAGE;
        self.list(index);
    }

    fn list(&mut self, index: u32) {
        let page = self.pages[index as usize].as_mut().expect("page exists");
        let open = &mut self.open[usize::from(page.class)];
        page.listed = u32::try_from(open.len()).expect("fewer pages than 2^32");
        open.push(index);
    }

    fn unlist(&mut self, index: u32) {
        let page = self.pages[index as usize].as_mut().expect("page exists");
        let at = std::mem::replace(&mut page.listed, NONE) as usize;
        let open = &mut self.open[usize::from(page.class)];
        open.swap_remove(at);
        if let Some(&moved) = open.get(at) {
            self.pages[moved as usize].as_mut().expect("page exists").listed = u32::try_from(at).expect("as before");
        }
    }

    /// Gives a slot back; its page too, if it is empty and not the only open one of its class.
    pub(crate) fn free(&mut self, page_index: u32, slot: u16, space: &Space) {
        let page = self.pages[page_index as usize].as_mut().expect("slots are freed into their page");
        let (word, bit) = (usize::from(slot) / 64, slot % 64);
        assert!(slot < page.slots, "slot {slot} of {}", page.slots);
        assert!(page.taken[word] & 1 << bit != 0, "slot {slot} of page {page_index} freed twice");
        page.taken[word] &= !(1 << bit);
        page.used -= 1;
        let (class, empty, listed) = (usize::from(page.class), page.used == 0, page.listed != NONE);
        self.used -= CLASS_LEN[class];
        if !listed {
            self.list(page_index);
        }
        if empty {
            if self.open[class].len() > 1 {
                self.drop_page(page_index, space);
            } else {
                self.spare[class] = page_index;
            }
        }
    }

    fn drop_page(&mut self, index: u32, space: &Space) {
        self.unlist(index);
        let page = self.pages[index as usize].take().expect("page exists");
        let pages = pages_of(usize::from(page.class));
        self.vacant.push(index);
        self.held -= u64::from(pages) * PAGE;
        space.free(page.base, pages);
    }

    /// Gives back the empty pages that were kept. Returns their bytes.
    pub(crate) fn trim(&mut self, space: &Space) -> u64 {
        let before = self.held;
        for class in 0..CLASSES {
            let page = std::mem::replace(&mut self.spare[class], NONE);
            if page != NONE {
                self.drop_page(page, space);
            }
        }
        before - self.held
    }

    /// First byte of a slot, and the slot's length.
    pub(crate) fn slot(&self, page: u32, slot: u16) -> (Position, u64) {
        let page = self.pages[page as usize].as_ref().expect("slots lie in a page");
        let len = CLASS_LEN[usize::from(page.class)];
        (page.base.plus(u64::from(slot) * len), len)
    }

    /// The slots taken of the page that begins at `base`; `None` if there is no such page now.
    pub(crate) fn taken(&self, page: u32, base: Position) -> Option<Vec<u16>> {
        let page = self.pages.get(page as usize)?.as_ref().filter(|page| page.base == base)?;
        Some((0..page.slots).filter(|&slot| page.taken[usize::from(slot) / 64] & 1 << (slot % 64) != 0).collect())
    }

    /// Bytes of slots taken of the page that begins at `base`, and when the latest was; `None` if there is no such page now.
    pub(crate) fn used_of(&self, page: u32, base: Position) -> Option<(u64, Instant)> {
        let page = self.pages.get(page as usize)?.as_ref().filter(|page| page.base == base)?;
        Some((u64::from(page.used) * CLASS_LEN[usize::from(page.class)], page.taken_at))
    }

    /// Bytes of the bookkeeping.
    pub(crate) fn bytes(&self) -> usize {
        self.pages.capacity() * size_of::<Option<Page>>()
            + self.pages.iter().flatten().map(|page| page.taken.len() * 8 + 16).sum::<usize>()
    }

    /// Bytes of extents that the pages take.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// Bytes of the slots taken.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// Checks every invariant of the bookkeeping.
    pub(crate) fn audit(&self) {
        let (mut held, mut used) = (0, 0);
        for (index, page) in self.pages.iter().enumerate() {
            let Some(page) = page else { continue };
            let class = usize::from(page.class);
            held += u64::from(pages_of(class)) * PAGE;
            used += u64::from(page.used) * CLASS_LEN[class];
            let filler = page.taken.len() * 64 - usize::from(page.slots);
            let ones: usize = page.taken.iter().map(|word| word.count_ones() as usize).sum();
            assert_eq!(ones - filler, usize::from(page.used), "page {index} counts its slots");
            assert_eq!(page.listed == NONE, page.used == page.slots, "page {index} is open while it has room");
            let spare = self.spare[class] as usize == index;
            assert!(!spare || page.used == 0, "the spare page {index} is empty");
            assert!(page.used > 0 || spare, "the empty page {index} is the spare one of its class");
            if page.listed != NONE {
                assert_eq!(self.open[class][page.listed as usize] as usize, index, "page {index} knows its place");
            }
        }
        assert_eq!((held, used), (self.held, self.used), "slab bytes add up");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slab_pages_are_short_and_nearly_full() {
        for (&len, &pages) in CLASS_LEN.iter().zip(&CLASS_PAGES) {
            let bytes = u64::from(pages) * PAGE;
            let slots = (bytes - SLOT_EDGE) / len;
            assert!(slots >= 4 && bytes - slots * len <= bytes / 20, "{slots} of {len} in {bytes}");
        }
        assert_eq!((page_run(100), page_run(4_200), page_run(SLOT_LEN_MAX)), (4, 8, 21));
    }

    #[test]
    fn classes_waste_at_most_an_eighth() {
        for len in 1..=SLOT_LEN_MAX {
            let got = charge(len).expect("small");
            assert!(got >= len && got - len <= (len / 8).max(FINE_STEP - 1), "{len} is charged {got}");
        }
        assert_eq!(charge(SLOT_LEN_MAX + 1), None);
    }
}
