//! What a device is: the first block, and a copy of it in the second.
//!
//! No client ever writes there, so a CRC is enough.
//!
//! | offset | size | field           | meaning                                              |
//! |-------:|-----:|-----------------|------------------------------------------------------|
//! |      0 |    8 | `magic`         | `MKVDEV01`                                           |
//! |      8 |    2 | `version`       | 1                                                    |
//! |     10 |    2 | `copy`          | 0 in the first block, 1 in the second                |
//! |     12 |    4 | `check`         | CRC-32 of the block with this field zero             |
//! |     16 |   16 | `device`        | random, drawn when the device was formatted          |
//! |     32 |    4 | `number`        | of the device within its server                      |
//! |     36 |    4 | `segment_count` |                                                      |
//! |     40 |    8 | `segment_len`   | bytes, a power of two from 1 MiB to 256 MiB          |
//! |     48 |    8 | `boot_epoch`    | the latest that wrote here                           |
//! |     56 |    8 | `update`        | counts the writes: of two valid copies, higher holds |
//! |     64 |    8 | `formatted_ms`  | Unix time in milliseconds                            |
//! |     72 | 4024 | reserved        | zero                                                 |

use super::bytes::{are_zero, array, put, u16_at, u32_at, u64_at};
use super::{FormatError, PAGE_LEN, RESERVED, SEGMENT_LEN_MAX, SEGMENT_LEN_MIN, VERSION};
use protocol::base::Crc;
use std::fmt;

const MAGIC: [u8; 8] = *b"MKVDEV01";
const WHAT: &str = "superblock";
/// Copies of the superblock, in the first blocks of the device.
pub const SUPERBLOCK_COPIES: u16 = 2;
/// Where segment 0 begins, in bytes.
pub const FIRST_SEGMENT_OFFSET: u64 = 1 << 20;

/// Names a formatted device for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub [u8; 16]);

impl DeviceId {
    /// A new one.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceId({self})")
    }
}

/// How a device is cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of one segment.
    pub segment_len: u64,
    /// How many there are.
    pub segment_count: u32,
}

impl Geometry {
    /// What fits on a device of `device_len` bytes. `None` if that is nothing, or if `segment_len` is no power of two
    /// within its bounds.
    pub fn of(device_len: u64, segment_len: u64) -> Option<Self> {
        if !segment_len.is_power_of_two() || !(SEGMENT_LEN_MIN..=SEGMENT_LEN_MAX).contains(&segment_len) {
            return None;
        }
        let count = device_len.checked_sub(FIRST_SEGMENT_OFFSET)? / segment_len;
        let segment_count = u32::try_from(count).ok().filter(|count| *count > 0)?;
        Some(Self { segment_len, segment_count })
    }

    /// Bytes that the whole takes.
    pub fn device_len(self) -> u64 {
        self.offset_of(self.segment_count)
    }

    /// The first byte of a segment.
    pub fn offset_of(self, segment: u32) -> u64 {
        FIRST_SEGMENT_OFFSET + u64::from(segment) * self.segment_len
    }

    /// Pages of one segment, header and footer included.
    pub fn pages(self) -> u32 {
        u32::try_from(self.segment_len / PAGE_LEN as u64).unwrap_or(u32::MAX)
    }

    fn is_sound(self) -> bool {
        self.segment_len.is_power_of_two()
            && (SEGMENT_LEN_MIN..=SEGMENT_LEN_MAX).contains(&self.segment_len)
            && self.segment_count > 0
    }
}

/// What a device says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Drawn when the device was formatted.
    pub device: DeviceId,
    /// Number of the device within its server.
    pub number: u32,
    /// How it is cut.
    pub geometry: Geometry,
    /// The latest boot that wrote here.
    pub boot_epoch: u64,
    /// Counts the writes of the superblock.
    pub update: u64,
    /// When the device was formatted, Unix time in milliseconds.
    pub formatted_ms: u64,
}

impl Superblock {
    /// The block, for its place `copy`.
    pub fn encode(&self, copy: u16) -> [u8; PAGE_LEN] {
        let mut block = [0; PAGE_LEN];
        put(&mut block, 0, &MAGIC);
        put(&mut block, 8, &VERSION.to_le_bytes());
        put(&mut block, 10, &copy.to_le_bytes());
        put(&mut block, 16, &self.device.0);
        put(&mut block, 32, &self.number.to_le_bytes());
        put(&mut block, 36, &self.geometry.segment_count.to_le_bytes());
        put(&mut block, 40, &self.geometry.segment_len.to_le_bytes());
        put(&mut block, 48, &self.boot_epoch.to_le_bytes());
        put(&mut block, 56, &self.update.to_le_bytes());
        put(&mut block, 64, &self.formatted_ms.to_le_bytes());
        let check = Crc::of(&block).0;
        put(&mut block, 12, &check.to_le_bytes());
        block
    }

    /// Reads the block at place `copy`.
    ///
    /// # Errors
    /// [`FormatError`] if it is not whole.
    pub fn decode(block: &[u8], copy: u16) -> Result<Self, FormatError> {
        let block: &[u8; PAGE_LEN] = block.try_into().map_err(|_| FormatError::Short { what: WHAT })?;
        if block[..8] != MAGIC {
            return Err(FormatError::Magic { what: WHAT });
        }
        if checked_crc(block) != u32_at(block, 12) {
            return Err(FormatError::Check { what: WHAT });
        }
        match u16_at(block, 8) {
            VERSION => {}
            found => return Err(FormatError::Version { what: WHAT, found }),
        }
        let geometry = Geometry { segment_count: u32_at(block, 36), segment_len: u64_at(block, 40) };
        if u16_at(block, 10) != copy {
            return Err(FormatError::Inconsistent { what: WHAT, why: "it is the other copy" });
        }
        if !are_zero(&block[72..]) {
            return Err(FormatError::Inconsistent { what: WHAT, why: RESERVED });
        }
        if !geometry.is_sound() {
            return Err(FormatError::Inconsistent { what: WHAT, why: "impossible segments" });
        }
        Ok(Self {
            device: DeviceId(array(block, 16)),
            number: u32_at(block, 32),
            geometry,
            boot_epoch: u64_at(block, 48),
            update: u64_at(block, 56),
            formatted_ms: u64_at(block, 64),
        })
    }

    /// The one that holds among what was read at the places of all copies.
    ///
    /// # Errors
    /// Why the first copy was refused, if no copy is whole.
    pub fn newest(copies: &[Result<Self, FormatError>]) -> Result<Self, FormatError> {
        let whole = copies.iter().filter_map(|copy| copy.as_ref().ok()).max_by_key(|copy| copy.update);
        match (whole, copies.first()) {
            (Some(whole), _) => Ok(*whole),
            (None, Some(Err(error))) => Err(*error),
            (None, _) => Err(FormatError::Short { what: WHAT }),
        }
    }
}

/// CRC-32 of a block whose bytes 12..16 count as zero.
pub(super) fn checked_crc(block: &[u8; PAGE_LEN]) -> u32 {
    Crc::of(&block[..12]).extend(&[0; 4]).extend(&block[16..]).0
}
