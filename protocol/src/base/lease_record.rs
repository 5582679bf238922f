//! A lease in 48 bytes, for clients that read many small objects and would spend their time on parsing maps.
//!
//! All fields little-endian:
//!
//! | offset | size | field                                                           |
//! |-------:|-----:|-----------------------------------------------------------------|
//! |      0 |    8 | `lease`, a number here, 16 hex digits elsewhere                 |
//! |      8 |    8 | `generation`                                                    |
//! |     16 |    8 | `length` of the object, bytes                                   |
//! |     24 |    8 | `offset` of its first byte in the segment                       |
//! |     32 |    8 | `deadline-ms`: how long it lasts, from when it was asked for    |
//! |     40 |    4 | `crc`                                                           |
//! |     44 |    4 | `fd`: the segment's place among the descriptors that came       |

use super::{Crc, Generation, LeaseId, Millis};

/// What a lease over shared memory says, as a session attached with `COMPACT` is answered. Its layout: the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// What gives it back.
    pub lease: LeaseId,
    /// Which placement of the object.
    pub generation: Generation,
    /// Bytes of the object.
    pub length: u64,
    /// Bytes from the segment's start.
    pub offset: u64,
    /// How long it lasts.
    pub span: Millis,
    /// Checksum of the object.
    pub crc: Crc,
    /// Which of the session's descriptors maps the segment.
    pub fd: u32,
}

impl LeaseRecord {
    /// Bytes of one.
    pub const LEN: usize = 48;

    /// What goes over the wire.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let wide = [self.lease.0, self.generation.0, self.length, self.offset, self.span.0];
        for (field, value) in bytes.chunks_exact_mut(8).zip(wide) {
            field.copy_from_slice(&value.to_le_bytes());
        }
        bytes[40..44].copy_from_slice(&self.crc.0.to_le_bytes());
        bytes[44..].copy_from_slice(&self.fd.to_le_bytes());
        bytes
    }

    /// What came over the wire; `None` if it has another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let (wide, narrow) = (bytes[..40].as_chunks().0, bytes[40..].as_chunks().0);
        let (wide, narrow) = (|at: usize| u64::from_le_bytes(wide[at]), |at: usize| u32::from_le_bytes(narrow[at]));
        Some(Self {
            lease: LeaseId(wide(0)),
            generation: Generation(wide(1)),
            length: wide(2),
            offset: wide(3),
            span: Millis(wide(4)),
            crc: Crc(narrow(0)),
            fd: narrow(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_lies_as_its_table_says_and_reads_back() {
        let record = LeaseRecord {
            lease: LeaseId(0x0807_0605_0403_0201),
            generation: Generation(2),
            length: 3,
            offset: 4,
            span: Millis(5),
            crc: Crc(0x2d2c_2b2a),
            fd: 7,
        };
        let bytes = record.to_bytes();
        assert_eq!(bytes[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!([bytes[8], bytes[16], bytes[24], bytes[32], bytes[44]], [2, 3, 4, 5, 7]);
        assert_eq!(bytes[40..44], [0x2a, 0x2b, 0x2c, 0x2d]);
        assert_eq!(LeaseRecord::from_bytes(&bytes), Some(record));
        assert_eq!(LeaseRecord::from_bytes(&bytes[1..]), None);
    }
}
