//! What surrounds a payload in DRAM. Little-endian. Readers of leased memory check it; the server never relies on it.
//!
//! A large slot: the header fills the 64 bytes before the payload's page, the trailer follows the payload at the next
//! multiple of 64, the key follows the trailer.
//!
//! | offset | size | header field | meaning                                                  |
//! |-------:|-----:|--------------|----------------------------------------------------------|
//! |      0 |    8 | `magic`      | `MKVSLOT1`                                               |
//! |      8 |    8 | `generation` | the object's, zero while the slot is reserved            |
//! |     16 |    8 | `length`     | bytes of payload                                         |
//! |     24 |    8 | `key_hash`   | keyed, of this boot: tells foreign objects, says nothing |
//! |     32 |    4 | `crc`        | CRC-32 of the payload                                    |
//! |     36 |    4 | `flags`      | zero                                                     |
//! |     40 |   24 | reserved     | zero                                                     |
//!
//! | offset | size | trailer field | meaning                     |
//! |-------:|-----:|---------------|-----------------------------|
//! |      0 |    8 | `generation`  | the header's                |
//! |      8 |    4 | `crc`         | the header's                |
//! |     12 |   52 | reserved      | zero                        |
//!
//! A small slot: {`generation` u64, `entry` u32, `key_len` u32}, then the key, then the payload.

use protocol::base::{Crc, Generation};

pub(crate) const MAGIC: [u8; 8] = *b"MKVSLOT1";
/// Bytes before the key of a small slot.
pub(crate) const SMALL_HEADER: u64 = SMALL_HEADER_LEN as u64;
pub(crate) const SMALL_HEADER_LEN: usize = 16;

/// The 64 bytes before a large payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) generation: Generation,
    pub(crate) length: u64,
    pub(crate) key_hash: u64,
    pub(crate) crc: Crc,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.generation.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.length.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.key_hash.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.crc.0.to_le_bytes());
        bytes
    }

    pub(crate) fn trailer(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(&self.generation.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.crc.0.to_le_bytes());
        bytes
    }
}

/// The 16 bytes before a small slot's key.
pub(crate) fn small_header(generation: Generation, entry: u32, key_len: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&generation.0.to_le_bytes());
    bytes[8..12].copy_from_slice(&entry.to_le_bytes());
    bytes[12..].copy_from_slice(&key_len.to_le_bytes());
    bytes
}

/// Generation and length of the key, by the 16 bytes before a small slot's key.
pub(crate) fn small_generation_and_key_len(header: &[u8]) -> (Generation, u32) {
    let (generation, rest) = header.split_first_chunk::<8>().expect("16 bytes");
    let key_len = rest.last_chunk::<4>().expect("16 bytes");
    (Generation(u64::from_le_bytes(*generation)), u32::from_le_bytes(*key_len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_a_slot() {
        let header = Header { generation: Generation(0x0102), length: 0x0304, key_hash: 0x0506, crc: Crc(0x0708) };
        let mut golden = [0u8; 64];
        golden[..8].copy_from_slice(b"MKVSLOT1");
        (golden[8], golden[9]) = (2, 1);
        (golden[16], golden[17]) = (4, 3);
        (golden[24], golden[25]) = (6, 5);
        (golden[32], golden[33]) = (8, 7);
        assert_eq!(header.encode(), golden);
        let mut golden = [0u8; 64];
        (golden[0], golden[1], golden[8], golden[9]) = (2, 1, 8, 7);
        assert_eq!(header.trailer(), golden);
        assert_eq!(small_generation_and_key_len(&small_header(Generation(1), 2, 3)), (Generation(1), 3));
        assert_eq!(small_header(Generation(1), 2, 3), [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
    }
}
