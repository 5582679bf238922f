//! One object on flash: header pages, then its payload.
//!
//! | offset | size | field        | meaning                                                         |
//! |-------:|-----:|--------------|-----------------------------------------------------------------|
//! |      0 |    8 | `magic`      | `MKVREC01`                                                      |
//! |      8 |    2 | `version`    | 1                                                               |
//! |     10 |    1 | `pages`      | pages of this header                                            |
//! |     11 |    1 | `flags`      | bit 0: the payload stands in this header                        |
//! |     12 |    4 | `key_len`    | at most 16,384                                                  |
//! |     16 |   16 | `mac`        | of all header pages with this field zero, by the segment's nonce |
//! |     32 |    4 | `segment`    | the segment that the record lies in                             |
//! |     36 |    4 | `page`       | where in the segment this header begins                         |
//! |     40 |    8 | `life`       | the segment header's                                            |
//! |     48 |    8 | `generation` | the object's                                                    |
//! |     56 |    8 | `length`     | bytes of payload                                                |
//! |     64 |    8 | `expires_ms` | Unix time in milliseconds, 0 for never                          |
//! |     72 |    4 | `crc`        | CRC-32 of the payload                                           |
//! |     76 |    4 | `chunk_len`  | 65,536                                                          |
//! |     80 |   16 | reserved     | zero                                                            |
//! |     96 |  4 n | `chunks`     | CRC-32 of each chunk of the payload; none if it stands here     |
//! |        |      | `key`        |                                                                 |
//! |        |      | payload      | if flag bit 0 is set                                            |
//! |        |      | padding      | zero                                                            |
//!
//! A payload stands in the header if fixed part, key and payload fit in one page. Otherwise it begins at the page after
//! the header, and what follows it in its last page is zero.

use super::bytes::{are_zero, array, put, u16_at, u32_at, u64_at};
use super::{FormatError, Life, PAGE_LEN, RESERVED, VERSION, mac, pages_ceil};
use protocol::base::{Crc, Generation, KEY_LEN_MAX};

const MAGIC: [u8; 8] = *b"MKVREC01";
const WHAT: &str = "record";
const FIXED_LEN: usize = 96;
const INLINE: u8 = 1;
/// Pages of the longest header: of a payload as long as a segment, with the longest key.
const HEADER_PAGES_MAX: u8 = 9;
/// Bytes of payload under one checksum.
pub const CHUNK_LEN: usize = 64 * 1024;

/// How many checksums a payload of `length` bytes has, if it does not stand in its header.
pub fn chunks_of(length: u64) -> usize {
    usize::try_from(length.div_ceil(CHUNK_LEN as u64)).unwrap_or(usize::MAX)
}

/// Where the parts of a record lie: a function of the lengths of its key and its payload, and of nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordLayout {
    /// Pages of the header.
    pub header_pages: u32,
    /// Pages of the payload after it; 0 if the payload stands in the header.
    pub payload_pages: u32,
    /// Whether the payload stands in the header.
    pub inline: bool,
}

impl RecordLayout {
    /// For a key of `key_len` bytes, at most [`KEY_LEN_MAX`], and a payload of `length`. A payload too long for any
    /// segment takes more pages than any segment has.
    pub fn of(key_len: usize, length: u64) -> Self {
        if length.saturating_add((FIXED_LEN + key_len) as u64) <= PAGE_LEN as u64 {
            return Self { header_pages: 1, payload_pages: 0, inline: true };
        }
        let header_len = (FIXED_LEN + key_len).saturating_add(chunks_of(length).saturating_mul(4));
        Self {
            header_pages: u32::try_from(pages_ceil(header_len)).unwrap_or(u32::MAX),
            payload_pages: u32::try_from(length.div_ceil(PAGE_LEN as u64)).unwrap_or(u32::MAX),
            inline: false,
        }
    }

    /// Pages of the whole record.
    pub fn pages(self) -> u32 {
        self.header_pages.saturating_add(self.payload_pages)
    }

    /// Bytes of the header.
    pub fn header_len(self) -> usize {
        self.header_pages as usize * PAGE_LEN
    }
}

/// What is to be written.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Where in the segment the header begins, in pages.
    pub page: u16,
    /// The object's.
    pub generation: Generation,
    /// Bytes of payload.
    pub length: u64,
    /// Of the payload.
    pub crc: Crc,
    /// Unix time in milliseconds, 0 for never.
    pub expires_ms: u64,
    /// The object's key.
    pub key: &'a [u8],
}

impl Record<'_> {
    /// Where the parts lie.
    pub fn layout(&self) -> RecordLayout {
        RecordLayout::of(self.key.len(), self.length)
    }

    /// Fills `header`, all of [`RecordLayout::header_len`]. `chunks` are the checksums of the payload's chunks; for a
    /// payload that stands in the header, it is `inline` and `chunks` is empty.
    ///
    /// # Panics
    /// If lengths contradict each other, or the record cannot be of any segment: our own mistakes.
    pub fn encode(&self, life: &Life, chunks: &[Crc], inline: &[u8], header: &mut [u8]) {
        let layout = self.layout();
        assert!(self.key.len() <= KEY_LEN_MAX, "a key of {} bytes", self.key.len());
        assert!(self.length <= super::SEGMENT_LEN_MAX, "a payload of {} bytes", self.length);
        assert_eq!(header.len(), layout.header_len(), "the header of {layout:?}");
        if layout.inline {
            assert_eq!(inline.len() as u64, self.length, "the payload stands in the header");
            assert!(chunks.is_empty(), "the header's check covers the payload");
        } else {
            assert!(inline.is_empty(), "the payload stands behind the header");
            assert_eq!(chunks.len(), chunks_of(self.length), "one checksum a chunk");
        }
        let pages = u8::try_from(layout.header_pages).expect("a header of any segment's record is short");
        header.fill(0);
        put(header, 0, &MAGIC);
        put(header, 8, &VERSION.to_le_bytes());
        header[10] = pages;
        header[11] = if layout.inline { INLINE } else { 0 };
        put(header, 12, &u32::try_from(self.key.len()).expect("bounded above").to_le_bytes());
        put(header, 32, &life.segment.to_le_bytes());
        put(header, 36, &u32::from(self.page).to_le_bytes());
        put(header, 40, &life.life.to_le_bytes());
        put(header, 48, &self.generation.0.to_le_bytes());
        put(header, 56, &self.length.to_le_bytes());
        put(header, 64, &self.expires_ms.to_le_bytes());
        put(header, 72, &self.crc.0.to_le_bytes());
        put(header, 76, &u32::try_from(CHUNK_LEN).expect("a constant").to_le_bytes());
        for (at, chunk) in chunks.iter().enumerate() {
            put(header, FIXED_LEN + 4 * at, &chunk.0.to_le_bytes());
        }
        let key_at = FIXED_LEN + 4 * chunks.len();
        put(header, key_at, self.key);
        put(header, key_at + self.key.len(), inline);
        let check = mac(&life.nonce, &[header]);
        put(header, 16, &check);
    }
}

/// A header whose MAC holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Where in the segment the header begins, in pages.
    pub page: u16,
    /// The object's.
    pub generation: Generation,
    /// Bytes of payload.
    pub length: u64,
    /// Of the payload.
    pub crc: Crc,
    /// Unix time in milliseconds, 0 for never.
    pub expires_ms: u64,
    /// The object's key.
    pub key: &'a [u8],
    /// The payload, if it stands in the header.
    pub inline: Option<&'a [u8]>,
    chunks: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Bytes of the header that begins with `page`; `None` if none begins there. Only a claim: nothing is checked yet.
    pub fn claimed_len(page: &[u8]) -> Option<usize> {
        let begins = page.len() >= FIXED_LEN && page[..8] == MAGIC && (1..=HEADER_PAGES_MAX).contains(&page[10]);
        begins.then(|| usize::from(page[10]) * PAGE_LEN)
    }

    /// Reads the header at page `page` of the segment. `bytes` may go on behind the header.
    ///
    /// # Errors
    /// [`FormatError`] if it is not a record that this life of this segment has at this page.
    pub fn decode(bytes: &'a [u8], life: &Life, page: u16) -> Result<Self, FormatError> {
        let inconsistent = |why| FormatError::Inconsistent { what: WHAT, why };
        let len = Self::claimed_len(bytes).ok_or(FormatError::Magic { what: WHAT })?;
        let header = bytes.get(..len).ok_or(FormatError::Short { what: WHAT })?;
        // What costs nothing comes first: hostile payloads are to be no work.
        match u16_at(header, 8) {
            VERSION => {}
            found => return Err(FormatError::Version { what: WHAT, found }),
        }
        if u32_at(header, 32) != life.segment || u64_at(header, 40) != life.life {
            return Err(inconsistent("another segment's"));
        }
        if u32_at(header, 36) != u32::from(page) {
            return Err(inconsistent("of another place"));
        }
        let (key_len, length) = (u32_at(header, 12) as usize, u64_at(header, 56));
        if key_len > KEY_LEN_MAX || length > super::SEGMENT_LEN_MAX {
            return Err(inconsistent("key or payload too long"));
        }
        let layout = RecordLayout::of(key_len, length);
        if layout.header_len() != len || header[11] != u8::from(layout.inline) * INLINE {
            return Err(inconsistent("lengths contradict each other"));
        }
        if u32_at(header, 76) as usize != CHUNK_LEN {
            return Err(inconsistent("another chunk length"));
        }
        let expected = mac(&life.nonce, &[&header[..16], &[0; 16], &header[32..]]);
        if !same(&expected, &array(header, 16)) {
            return Err(FormatError::Check { what: WHAT });
        }
        let chunks_len = if layout.inline { 0 } else { 4 * chunks_of(length) };
        let (chunks, rest) = header[FIXED_LEN..].split_at(chunks_len);
        let (key, rest) = rest.split_at(key_len);
        let (inline, padding) = rest.split_at(if layout.inline { usize::try_from(length).unwrap_or(0) } else { 0 });
        if !are_zero(&header[80..FIXED_LEN]) || !are_zero(padding) {
            return Err(inconsistent(RESERVED));
        }
        Ok(Self {
            page,
            generation: Generation(u64_at(header, 48)),
            length,
            crc: Crc(u32_at(header, 72)),
            expires_ms: u64_at(header, 64),
            key,
            inline: layout.inline.then_some(inline),
            chunks,
        })
    }

    /// Where the parts lie.
    pub fn layout(&self) -> RecordLayout {
        RecordLayout::of(self.key.len(), self.length)
    }

    /// Checksums of the payload's chunks, in order; none for a payload that stands in the header.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = Crc> + 'a {
        self.chunks.chunks_exact(4).map(|crc| Crc(u32_at(crc, 0)))
    }
}

/// Compares without telling by its time how much agreed.
pub(super) fn same(left: &[u8; 16], right: &[u8; 16]) -> bool {
    u128::from_le_bytes(*left) ^ u128::from_le_bytes(*right) == 0
}
