//! Where a slot lies: position within the segments, and how it was carved.

use protocol::base::SegmentId;

/// Granularity of extents, and alignment of large payloads.
pub const PAGE: u64 = 4096;
/// Longest segment: an io_uring fixed buffer may be no longer.
pub const SEGMENT_LEN_MAX: u64 = 1 << 30;
/// Bytes that the slot header takes before a large payload, and its trailer after it.
pub(crate) const SLOT_EDGE: u64 = SLOT_EDGE_LEN as u64;
pub(crate) const SLOT_EDGE_LEN: usize = 64;

const OFFSET_BITS: u32 = SEGMENT_LEN_MAX.trailing_zeros();

/// A byte of a segment: segment number above, offset in the lower 30 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Position(pub(crate) u64);

impl Position {
    pub(crate) fn new(segment: usize, offset: u64) -> Self {
        assert!(offset < SEGMENT_LEN_MAX, "offset {offset} past any segment's end");
        Self((segment as u64) << OFFSET_BITS | offset)
    }
    pub(crate) fn segment(self) -> usize {
        usize::try_from(self.0 >> OFFSET_BITS).unwrap_or(usize::MAX)
    }
    pub(crate) fn segment_id(self) -> SegmentId {
        SegmentId(u32::try_from(self.0 >> OFFSET_BITS).unwrap_or(u32::MAX))
    }
    pub(crate) fn offset(self) -> u64 {
        self.0 & (SEGMENT_LEN_MAX - 1)
    }
    pub(crate) fn plus(self, bytes: u64) -> Self {
        Self::new(self.segment(), self.offset() + bytes)
    }
}

/// How the bytes of one object were allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Whole pages of its own: header, payload at a page boundary, trailer, key.
    Extent {
        /// The payload's first byte.
        payload: Position,
    },
    /// A slot of a slab page: small header, key, payload.
    Small {
        /// Index of the page within its shard.
        page: u32,
        /// Slot within the page.
        slot: u16,
    },
}

impl Place {
    const SMALL: u64 = 1 << 63;

    pub(crate) fn pack(self) -> u64 {
        match self {
            Self::Extent { payload } => payload.0,
            Self::Small { page, slot } => Self::SMALL | u64::from(page) << 16 | u64::from(slot),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "takes apart what pack put together")]
    pub(crate) fn unpack(packed: u64) -> Self {
        if packed & Self::SMALL != 0 {
            Self::Small { page: (packed >> 16) as u32, slot: packed as u16 }
        } else {
            Self::Extent { payload: Position(packed) }
        }
    }
}

/// Pages of an extent that holds a payload of `len` bytes, its header and trailer, and its key. Any length is counted, a
/// claimed one too; what is too long for a segment is for the caller to refuse.
pub(crate) fn extent_pages(len: u64, key_len: usize) -> u64 {
    let payload = len.div_ceil(SLOT_EDGE).saturating_mul(SLOT_EDGE);
    payload.saturating_add(2 * SLOT_EDGE).saturating_add(key_len as u64).div_ceil(PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_packing() {
        for place in [
            Place::Extent { payload: Position::new(4095, SEGMENT_LEN_MAX - 1) },
            Place::Extent { payload: Position::new(0, 4096) },
            Place::Small { page: u32::MAX >> 1, slot: u16::MAX },
        ] {
            assert_eq!(Place::unpack(place.pack()), place);
        }
    }

    #[test]
    fn whole_page_payloads_cost_one_page_more() {
        assert_eq!(extent_pages(1 << 20, 40), 257);
        assert_eq!(extent_pages(4096 - 128, 0), 1);
        assert_eq!(extent_pages(4096 - 128, 1), 2);
        assert_eq!(extent_pages(u64::MAX, usize::MAX), 1 << 52, "a hostile length is merely long");
    }
}
