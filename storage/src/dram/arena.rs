//! Growing tables of small things that never move, in huge pages where the machine gives them.
//!
//! Role: memory of the index. At a million objects nearly every access to it is a cache miss, and with pages of 4 KiB a
//! miss of the TLB as well, which costs more than the miss itself on a virtual machine.
//!
//! Invariants:
//! - Each chunk is twice as long as the one before; memory is taken from the kernel as it is first touched, in order.
//! - Items begin as zeros, which [`Zeroed`] says is a value of theirs.

#![expect(unsafe_code, reason = "items in mapped memory")]

use crate::entry::Entry;
use crate::shard::flash::entry::FlashEntry;
use memmap2::{MmapOptions, MmapRaw};
use std::marker::PhantomData;

/// Items in the first chunk.
const FIRST: u64 = 1024;
const HUGE_PAGE: usize = 2 << 20;

/// Types of which a run of zero bytes is a value.
///
/// # Safety
/// All-zero bytes are a valid value, and the type needs no drop.
pub(crate) unsafe trait Zeroed {}

// SAFETY: zero is a number.
unsafe impl Zeroed for u32 {}
// SAFETY: all fields are integers or wrappers of integers; none needs a drop.
unsafe impl Zeroed for Entry {}
// SAFETY: all fields are integers, or arrays or wrappers of integers; none needs a drop.
unsafe impl Zeroed for FlashEntry {}

/// Items by number. Taken in order, given back together at the end.
pub(crate) struct Arena<T> {
    chunks: Vec<Chunk>,
    /// Numbers below this have been taken.
    len: u32,
    items: PhantomData<T>,
}

/// One mapping; items begin at `offset`.
struct Chunk {
    map: MmapRaw,
    offset: usize,
}

impl Chunk {
    fn new(bytes: usize) -> Self {
        // Room to begin at a huge page's boundary.
        let slack = if bytes >= HUGE_PAGE { HUGE_PAGE } else { 0 };
        let map = MmapOptions::new().len(bytes + slack).no_reserve_swap().map_anon();
        let map: MmapRaw = map.unwrap_or_else(|error| panic!("no memory for the index: {error}")).into();
        let mut offset = 0;
        if slack > 0 {
            offset = map.as_mut_ptr().addr().next_multiple_of(HUGE_PAGE) - map.as_mut_ptr().addr();
            // Advice: without it everything works, slower. A last page that the items do not fill stays small.
            let whole = offset + bytes / HUGE_PAGE * HUGE_PAGE;
            let _ = map.advise_range(memmap2::Advice::HugePage, offset, whole - offset);
            if whole < map.len() {
                let _ = map.advise_range(memmap2::Advice::NoHugePage, whole, map.len() - whole);
            }
        }
        Self { map, offset }
    }
}

impl<T: Zeroed> Arena<T> {
    pub(crate) fn new() -> Self {
        Self { chunks: Vec::new(), len: 0, items: PhantomData }
    }

    /// Items taken so far.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// The number of one more item, which is all zeros.
    pub(crate) fn take(&mut self) -> u32 {
        let index = self.len;
        self.len = index.checked_add(1).filter(|&len| len < u32::MAX).expect("fewer items than 2^32");
        let (chunk, _) = place_of(index);
        if chunk == self.chunks.len() {
            let items = usize::try_from(FIRST << chunk).expect("64-bit");
            self.chunks.push(Chunk::new(items * size_of::<T>()));
        }
        index
    }

    /// Bytes of the items taken.
    pub(crate) fn bytes(&self) -> usize {
        self.len as usize * size_of::<T>()
    }

    fn at(&self, index: u32) -> *mut T {
        assert!(index < self.len, "item {index} of {}", self.len);
        let (chunk, item) = place_of(index);
        let Chunk { map, offset } = &self.chunks[chunk];
        map.as_mut_ptr().wrapping_add(*offset).cast::<T>().wrapping_add(item)
    }

    /// Fetches an item's first cache line, if there is such an item, without waiting for it.
    #[inline]
    pub(crate) fn prefetch(&self, index: u32) {
        if index < self.len {
            prefetch(self.at(index).cast());
        }
    }
}

/// Fetches a cache line without waiting for it. Any address will do.
#[inline]
pub(super) fn prefetch(at: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch has no effect but on the caches, whatever the address, and SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}

/// Chunk of an item, and its number there.
#[inline]
fn place_of(index: u32) -> (usize, usize) {
    // Chunk `n` has the numbers from FIRST * 2^n, counted from FIRST on.
    let biased = u64::from(index) + FIRST;
    let top = biased.ilog2();
    #[expect(clippy::cast_possible_truncation, reason = "fewer than 2^33 items")]
    let item = (biased ^ 1 << top) as usize;
    ((top - FIRST.ilog2()) as usize, item)
}

impl<T: Zeroed> std::ops::Index<u32> for Arena<T> {
    type Output = T;
    #[inline]
    fn index(&self, index: u32) -> &T {
        // SAFETY: `at` checked that the item was taken, so its chunk is mapped, and for `T` aligned: chunks begin at a page.
        // It is initialised: zeros are a `T`. The borrow of `self` keeps it mapped and unwritten.
        unsafe { &*self.at(index) }
    }
}

impl<T: Zeroed> std::ops::IndexMut<u32> for Arena<T> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut T {
        // SAFETY: as above; the borrow of `self` is the only one.
        unsafe { &mut *self.at(index) }
    }
}

impl<T> std::fmt::Debug for Arena<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Arena({} items)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_keep_their_place_as_the_arena_grows() {
        let mut arena = Arena::<u32>::new();
        let mut first = std::ptr::null();
        for n in 0..3_000_000u32 {
            let index = arena.take();
            assert_eq!((index, arena[index]), (n, 0));
            arena[index] = n ^ 0x5555;
            if n == 0 {
                first = &raw const arena[0];
            }
        }
        assert!((0..3_000_000).all(|n| arena[n] == n ^ 0x5555));
        assert!(std::ptr::eq(first, &raw const arena[0]));
        assert_eq!((arena.len(), arena.bytes()), (3_000_000, 12_000_000));
        arena.prefetch(7);
        arena.prefetch(u32::MAX);
    }

    #[test]
    fn numbers_are_placed_without_gap_or_overlap() {
        let mut expected = (0, 0);
        for index in 0..100_000 {
            assert_eq!(place_of(index), expected);
            expected.1 += 1;
            if expected.1 == 1024 << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
        assert_eq!(place_of(u32::MAX - 1024), (21, (1 << 31) - 1));
    }

    #[test]
    #[should_panic(expected = "item 1 of 1")]
    fn what_was_not_taken_is_not_there() {
        let mut arena = Arena::<u32>::new();
        arena.take();
        let _ = arena[1];
    }
}
