//! The end of a sealed segment: the table of its records, so that opening a device reads no record.
//!
//! The footer ends with the segment. Its last page is the tail; before it lie one row a record, in the order of their
//! pages, then the keys in the same order, padded with zeros to whole pages.
//!
//! | offset | size | field of a row | meaning                                  |
//! |-------:|-----:|----------------|------------------------------------------|
//! |      0 |    2 | `page`         | where the record begins in the segment   |
//! |      2 |    2 | `key_len`      |                                          |
//! |      4 |    4 | `length`       | bytes of payload                         |
//! |      8 |    4 | `crc`          | CRC-32 of the payload                    |
//! |     12 |    4 | reserved       | zero                                     |
//! |     16 |    8 | `generation`   | the object's                             |
//! |     24 |    8 | `expires_ms`   | Unix time in milliseconds, 0 for never   |
//!
//! | offset | size | field of the tail | meaning                                                             |
//! |-------:|-----:|-------------------|---------------------------------------------------------------------|
//! |      0 |    8 | `magic`           | `MKVEND01`                                                          |
//! |      8 |    2 | `version`         | 1                                                                   |
//! |     10 |    6 | reserved          | zero                                                                |
//! |     16 |   16 | `mac`             | of all pages of the footer with this field zero, by the segment's nonce |
//! |     32 |    4 | `segment`         | the segment's number                                                |
//! |     36 |    4 | `pages`           | pages of the footer, this one included                              |
//! |     40 |    8 | `life`            | the segment header's                                                |
//! |     48 |    4 | `count`           | records                                                             |
//! |     52 |    4 | `keys_len`        | bytes of all keys                                                   |
//! |     56 |    8 | `sealed_ms`       | Unix time in milliseconds                                           |
//! |     64 | 4032 | reserved          | zero                                                                |

use super::bytes::{are_zero, array, put, u16_at, u32_at, u64_at};
use super::record::same;
use super::{FormatError, Life, PAGE_LEN, RESERVED, RecordLayout, VERSION, mac, pages_ceil};
use protocol::base::{Crc, Generation, KEY_LEN_MAX};

const MAGIC: [u8; 8] = *b"MKVEND01";
const WHAT: &str = "footer";
const ROW_LEN: usize = 32;
/// Most records of one segment.
pub const TABLE_COUNT_MAX: usize = 65_535;

/// What a footer says of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where the record begins in the segment.
    pub page: u16,
    /// Bytes of its key.
    pub key_len: u16,
    /// Bytes of its payload.
    pub length: u32,
    /// Of its payload.
    pub crc: Crc,
    /// The object's.
    pub generation: Generation,
    /// Unix time in milliseconds, 0 for never.
    pub expires_ms: u64,
}

impl Row {
    /// Where the parts of the record lie.
    pub fn layout(&self) -> RecordLayout {
        RecordLayout::of(usize::from(self.key_len), u64::from(self.length))
    }

    fn encode(&self) -> [u8; ROW_LEN] {
        let mut row = [0; ROW_LEN];
        put(&mut row, 0, &self.page.to_le_bytes());
        put(&mut row, 2, &self.key_len.to_le_bytes());
        put(&mut row, 4, &self.length.to_le_bytes());
        put(&mut row, 8, &self.crc.0.to_le_bytes());
        put(&mut row, 16, &self.generation.0.to_le_bytes());
        put(&mut row, 24, &self.expires_ms.to_le_bytes());
        row
    }

    fn decode(row: &[u8]) -> Self {
        Self {
            page: u16_at(row, 0),
            key_len: u16_at(row, 2),
            length: u32_at(row, 4),
            crc: Crc(u32_at(row, 8)),
            generation: Generation(u64_at(row, 16)),
            expires_ms: u64_at(row, 24),
        }
    }
}

/// The records of one segment: grows with it, and is its footer when it is sealed. Rows and keys lie as on flash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    rows: Vec<u8>,
    keys: Vec<u8>,
}

impl Table {
    /// Of a segment without records.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a record, which lies behind all others.
    ///
    /// # Panics
    /// If it does not, or the table is full: the caller asks [`footer_pages_with`](Self::footer_pages_with) first.
    pub fn push(&mut self, row: Row, key: &[u8]) {
        assert!(self.len() < TABLE_COUNT_MAX, "a table of {} records", self.len());
        assert_eq!(usize::from(row.key_len), key.len(), "the row of another key");
        assert!(row.page > 0, "a record on the segment's header");
        if let Some(last) = self.rows.rchunks_exact(ROW_LEN).next().map(Row::decode) {
            let end = u32::from(last.page) + last.layout().pages();
            assert!(u32::from(row.page) >= end, "a record at page {}, before the last one's end at {end}", row.page);
        }
        self.rows.extend_from_slice(&row.encode());
        self.keys.extend_from_slice(key);
    }

    /// Records.
    pub fn len(&self) -> usize {
        self.rows.len() / ROW_LEN
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes of memory that the table takes.
    pub fn bytes(&self) -> usize {
        self.rows.capacity() + self.keys.capacity()
    }

    /// The first page behind all records.
    pub fn end_page(&self) -> u32 {
        let last = self.rows.rchunks_exact(ROW_LEN).next().map(Row::decode);
        last.map_or(1, |row| u32::from(row.page) + row.layout().pages())
    }

    /// Each record with its key, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = (Row, &[u8])> {
        let mut keys = &self.keys[..];
        self.rows.chunks_exact(ROW_LEN).map(move |row| {
            let row = Row::decode(row);
            let (key, rest) = keys.split_at(usize::from(row.key_len));
            keys = rest;
            (row, key)
        })
    }

    /// Pages of the footer as it is.
    pub fn footer_pages(&self) -> u32 {
        footer_pages(self.rows.len() + self.keys.len())
    }

    /// Pages of the footer with one more record.
    pub fn footer_pages_with(&self, key_len: usize) -> u32 {
        footer_pages(self.rows.len() + self.keys.len() + ROW_LEN + key_len)
    }

    /// The footer, whole pages that end with the segment.
    pub fn encode(&self, life: &Life, sealed_ms: u64) -> Vec<u8> {
        let pages = self.footer_pages();
        let len = pages as usize * PAGE_LEN;
        let tail_at = len - PAGE_LEN;
        let mut footer = Vec::with_capacity(len);
        footer.extend_from_slice(&self.rows);
        footer.extend_from_slice(&self.keys);
        footer.resize(len, 0);
        let count = u32::try_from(self.len()).expect("bounded by push");
        let keys_len = u32::try_from(self.keys.len()).expect("keys of 64 Ki records of 16 KiB");
        let tail = &mut footer[tail_at..];
        put(tail, 0, &MAGIC);
        put(tail, 8, &VERSION.to_le_bytes());
        put(tail, 32, &life.segment.to_le_bytes());
        put(tail, 36, &pages.to_le_bytes());
        put(tail, 40, &life.life.to_le_bytes());
        put(tail, 48, &count.to_le_bytes());
        put(tail, 52, &keys_len.to_le_bytes());
        put(tail, 56, &sealed_ms.to_le_bytes());
        let check = mac(&life.nonce, &[&footer]);
        put(&mut footer, tail_at + 16, &check);
        footer
    }

    /// Reads a footer, all pages of it, of a segment of `segment_pages` pages.
    ///
    /// # Errors
    /// [`FormatError`] if it is not the footer of this life of this segment.
    pub fn decode(footer: &[u8], life: &Life, segment_pages: u32) -> Result<(Self, Tail), FormatError> {
        let inconsistent = |why| FormatError::Inconsistent { what: WHAT, why };
        let tail_at = footer.len().checked_sub(PAGE_LEN).ok_or(FormatError::Short { what: WHAT })?;
        let (body, tail_page) = footer.split_at(tail_at);
        let tail = Tail::claimed(tail_page, segment_pages)?;
        if footer.len() != tail.len() {
            return Err(FormatError::Short { what: WHAT });
        }
        let expected = mac(&life.nonce, &[body, &tail_page[..16], &[0; 16], &tail_page[32..]]);
        if !same(&expected, &array(tail_page, 16)) {
            return Err(FormatError::Check { what: WHAT });
        }
        if u32_at(tail_page, 32) != life.segment || u64_at(tail_page, 40) != life.life {
            return Err(inconsistent("another segment's"));
        }
        let rows_len = tail.count as usize * ROW_LEN;
        let keys_len = u32_at(tail_page, 52) as usize;
        if tail.count as usize > TABLE_COUNT_MAX || rows_len + keys_len > body.len() {
            return Err(inconsistent("more records than its length allows"));
        }
        let (rows, rest) = body.split_at(rows_len);
        let reserved = are_zero(&tail_page[10..16]) && are_zero(&tail_page[64..]) && are_zero(&rest[keys_len..]);
        if !reserved || !rows.chunks_exact(ROW_LEN).all(|row| are_zero(&row[12..16])) {
            return Err(inconsistent(RESERVED));
        }
        if footer_pages(rows_len + keys_len) != tail.pages {
            return Err(inconsistent("longer than its records need"));
        }
        let (mut keys_end, mut end) = (0, 1);
        for row in rows.chunks_exact(ROW_LEN).map(Row::decode) {
            if u32::from(row.page) < end {
                return Err(inconsistent("records overlap"));
            }
            if usize::from(row.key_len) > KEY_LEN_MAX {
                return Err(inconsistent("a key is too long"));
            }
            end = u32::from(row.page).saturating_add(row.layout().pages());
            keys_end += usize::from(row.key_len);
        }
        if end.saturating_add(tail.pages) > segment_pages {
            return Err(inconsistent("records past their segment's end"));
        }
        if keys_end != keys_len {
            return Err(inconsistent("keys of another length"));
        }
        Ok((Self { rows: rows.to_vec(), keys: rest[..keys_len].to_vec() }, tail))
    }
}

/// What the last page of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Pages of the footer, this one included.
    pub pages: u32,
    /// Records in it.
    pub count: u32,
    /// When the segment was sealed, Unix time in milliseconds.
    pub sealed_ms: u64,
}

impl Tail {
    /// Reads the last page of a segment of `segment_pages` pages: a claim, which [`Table::decode`] over the whole footer
    /// confirms or not.
    ///
    /// # Errors
    /// [`FormatError`] if no footer can end here.
    pub fn claimed(page: &[u8], segment_pages: u32) -> Result<Self, FormatError> {
        if page.len() != PAGE_LEN {
            return Err(FormatError::Short { what: WHAT });
        }
        if page[..8] != MAGIC {
            return Err(FormatError::Magic { what: WHAT });
        }
        match u16_at(page, 8) {
            VERSION => {}
            found => return Err(FormatError::Version { what: WHAT, found }),
        }
        let tail = Self { pages: u32_at(page, 36), count: u32_at(page, 48), sealed_ms: u64_at(page, 56) };
        if tail.pages == 0 || tail.pages >= segment_pages {
            return Err(FormatError::Inconsistent { what: WHAT, why: "longer than its segment" });
        }
        Ok(tail)
    }

    /// Bytes of the whole footer.
    pub fn len(&self) -> usize {
        self.pages as usize * PAGE_LEN
    }

    /// Never: the tail itself is a page.
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }
}

fn footer_pages(body_len: usize) -> u32 {
    u32::try_from(pages_ceil(body_len) + 1).unwrap_or(u32::MAX)
}
