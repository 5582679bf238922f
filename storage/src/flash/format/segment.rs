//! The first page of a segment: whose it is, and the secret of its present life.
//!
//! All fields lie in the first 512 bytes, so that a write of this page that is torn between sectors leaves the old or the
//! new header.
//!
//! | offset | size | field       | meaning                                                        |
//! |-------:|-----:|-------------|----------------------------------------------------------------|
//! |      0 |    8 | `magic`     | `MKVSEG01`                                                     |
//! |      8 |    2 | `version`   | 1                                                              |
//! |     10 |    2 | `head`      | 0 new data, 1 reinserted data                                  |
//! |     12 |    4 | `check`     | CRC-32 of the page with this field zero                        |
//! |     16 |   16 | `device`    | the superblock's                                               |
//! |     32 |    4 | `segment`   | number within the device                                       |
//! |     36 |    4 | reserved    | zero                                                           |
//! |     40 |    8 | `life`      | how often the segment was begun; only grows                    |
//! |     48 |   16 | `nonce`     | random, drawn for this life, never told to anybody             |
//! |     64 |    8 | `opened_ms` | Unix time in milliseconds                                      |
//! |     72 | 4024 | reserved    | zero                                                           |

use super::bytes::{are_zero, array, put, u16_at, u32_at, u64_at};
use super::superblock::checked_crc;
use super::{DeviceId, FormatError, PAGE_LEN, RESERVED, VERSION};
use protocol::base::Crc;
use std::fmt;

const MAGIC: [u8; 8] = *b"MKVSEG01";
const WHAT: &str = "segment header";

/// The secret of one life of one segment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 16]);

impl Nonce {
    /// A new one, from the thread's cryptographic generator.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

// A secret must not reach a log.
impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(..)")
    }
}

/// What tells the records of one life of one segment from all other bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Number of the segment within its device.
    pub segment: u32,
    /// How often it was begun.
    pub life: u64,
    /// The secret that its records and its footer are checked with.
    pub nonce: Nonce,
}

/// Which of a device's two heads fills a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Objects that leave DRAM.
    New,
    /// Records that were worth keeping when their segment was reclaimed.
    Reinserted,
}

/// The first page of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The device it was written to.
    pub device: DeviceId,
    /// Which life of which segment.
    pub life: Life,
    /// Who fills it.
    pub head: Head,
    /// When this life began, Unix time in milliseconds.
    pub opened_ms: u64,
}

impl SegmentHeader {
    /// The page.
    pub fn encode(&self) -> [u8; PAGE_LEN] {
        let mut page = [0; PAGE_LEN];
        let head: u16 = match self.head {
            Head::New => 0,
            Head::Reinserted => 1,
        };
        put(&mut page, 0, &MAGIC);
        put(&mut page, 8, &VERSION.to_le_bytes());
        put(&mut page, 10, &head.to_le_bytes());
        put(&mut page, 16, &self.device.0);
        put(&mut page, 32, &self.life.segment.to_le_bytes());
        put(&mut page, 40, &self.life.life.to_le_bytes());
        put(&mut page, 48, &self.life.nonce.0);
        put(&mut page, 64, &self.opened_ms.to_le_bytes());
        let check = Crc::of(&page).0;
        put(&mut page, 12, &check.to_le_bytes());
        page
    }

    /// Reads the first page of segment `segment` of `device`.
    ///
    /// # Errors
    /// [`FormatError`] if it is damaged, or another segment's or device's.
    pub fn decode(page: &[u8], device: &DeviceId, segment: u32) -> Result<Self, FormatError> {
        let page: &[u8; PAGE_LEN] = page.try_into().map_err(|_| FormatError::Short { what: WHAT })?;
        if page[..8] != MAGIC {
            return Err(FormatError::Magic { what: WHAT });
        }
        if checked_crc(page) != u32_at(page, 12) {
            return Err(FormatError::Check { what: WHAT });
        }
        match u16_at(page, 8) {
            VERSION => {}
            found => return Err(FormatError::Version { what: WHAT, found }),
        }
        let head = match u16_at(page, 10) {
            0 => Head::New,
            1 => Head::Reinserted,
            _ => return Err(FormatError::Inconsistent { what: WHAT, why: "unknown head" }),
        };
        if !are_zero(&page[36..40]) || !are_zero(&page[72..]) {
            return Err(FormatError::Inconsistent { what: WHAT, why: RESERVED });
        }
        let life = Life { segment: u32_at(page, 32), life: u64_at(page, 40), nonce: Nonce(array(page, 48)) };
        let header = Self { device: DeviceId(array(page, 16)), life, head, opened_ms: u64_at(page, 64) };
        if header.device != *device {
            return Err(FormatError::Inconsistent { what: WHAT, why: "another device's" });
        }
        if life.segment != segment {
            return Err(FormatError::Inconsistent { what: WHAT, why: "another segment's" });
        }
        Ok(header)
    }
}
