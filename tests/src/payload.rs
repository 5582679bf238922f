//! Payloads that prove themselves: the bytes are a function of key, version, length and offset.
//!
//! A reader that knows the key alone can tell foreign, stale-and-torn, shifted and missing bytes, whatever its client
//! library checks.
//!
//! The first 16 bytes are the version and the length, little-endian; from there on word `i` of 8 bytes is
//! `x ^ (x >> 32)` of `x = seed(key, version, length) + i * STEP`.

use std::fmt;

/// Odd: no two words of one payload begin alike.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// Bytes of version and length.
pub const HEAD_LEN: usize = 16;
/// Words checked side by side.
const LANES: usize = 8;

/// What is wrong with bytes that were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The key they were read under.
    pub key: String,
    /// The first wrong byte.
    pub at: usize,
    /// What was found and expected there.
    pub what: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: wrong from byte {} on: {}", self.key, self.at, self.what)
    }
}

fn finish(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn seed(key: &[u8], version: u64, len: u64) -> u64 {
    let hash = key
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    finish(hash ^ finish(version) ^ finish(len).rotate_left(32))
}

fn word(x: u64) -> u64 {
    x ^ (x >> 32)
}

fn lanes(seed: u64) -> [u64; LANES] {
    std::array::from_fn(|lane| seed.wrapping_add(STEP.wrapping_mul(lane as u64)))
}

/// The payload of `len` bytes that version `version` of `key` has.
///
/// # Panics
/// If `len` is less than [`HEAD_LEN`].
pub fn make(key: &[u8], version: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fill(key, version, &mut bytes);
    bytes
}

/// The same, over all of `out`.
///
/// # Panics
/// If `out` is shorter than [`HEAD_LEN`].
pub fn fill(key: &[u8], version: u64, out: &mut [u8]) {
    assert!(out.len() >= HEAD_LEN, "{} bytes have no room for the head", out.len());
    let len = out.len() as u64;
    out[..8].copy_from_slice(&version.to_le_bytes());
    out[8..16].copy_from_slice(&len.to_le_bytes());
    let mut at = lanes(seed(key, version, len));
    for chunk in out[HEAD_LEN..].chunks_mut(LANES * 8) {
        for (x, bytes) in at.iter_mut().zip(chunk.chunks_mut(8)) {
            bytes.copy_from_slice(&word(*x).to_le_bytes()[..bytes.len()]);
            *x = x.wrapping_add(STEP.wrapping_mul(LANES as u64));
        }
    }
}

fn read_u64(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// Checks that these are all bytes of some version of `key`, and says which.
///
/// # Errors
/// What is wrong.
pub fn check(key: &[u8], bytes: &[u8]) -> Result<u64, Wrong> {
    let wrong = |at: usize, what: String| Wrong { key: String::from_utf8_lossy(key).into_owned(), at, what };
    if bytes.len() < HEAD_LEN {
        return Err(wrong(0, format!("{} bytes", bytes.len())));
    }
    let (version, len) = (read_u64(&bytes[..8]), read_u64(&bytes[8..16]));
    if len != bytes.len() as u64 {
        return Err(wrong(8, format!("a length of {len} in {} bytes", bytes.len())));
    }
    let start = seed(key, version, len);
    let mut at = lanes(start);
    for (block, chunk) in bytes[HEAD_LEN..].chunks(LANES * 8).enumerate() {
        let mut differ = 0;
        for (x, bytes) in at.iter_mut().zip(chunk.chunks(8)) {
            differ |= read_u64(bytes) ^ read_u64(&word(*x).to_le_bytes()[..bytes.len()]);
            *x = x.wrapping_add(STEP.wrapping_mul(LANES as u64));
        }
        if differ != 0 {
            let first = block * LANES * 8;
            let mut expected = vec![0; bytes.len()];
            fill(key, version, &mut expected);
            let at = (HEAD_LEN + first..bytes.len()).find(|&at| bytes[at] != expected[at]).unwrap_or(first);
            let found = &bytes[at..bytes.len().min(at + 16)];
            return Err(wrong(at, format!("{found:02x?} of version {version}, {len} bytes")));
        }
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_bytes_pass_at_every_length() {
        for len in (HEAD_LEN..400).chain([4096, 65_537]) {
            assert_eq!(check(b"k", &make(b"k", 7, len)), Ok(7), "{len} bytes");
        }
    }

    #[test]
    fn every_flipped_bit_and_every_foreign_byte_is_found() {
        let right = make(b"k", 7, 203);
        for at in 0..right.len() {
            for bit in 0..8 {
                let mut bytes = right.clone();
                bytes[at] ^= 1 << bit;
                let wrong = check(b"k", &bytes).expect_err("a flipped bit");
                assert!(at < HEAD_LEN || wrong.at == at, "{wrong}, and it is byte {at}");
            }
        }
        assert!(check(b"j", &right).is_err(), "another key's");
        assert!(check(b"k", &right[..200]).is_err(), "a part");
        let mut torn = right.clone();
        torn[100..].copy_from_slice(&make(b"k", 8, 203)[100..]);
        assert_eq!(check(b"k", &torn).expect_err("two versions").at, 100);
        torn[100..].fill(0);
        assert!(check(b"k", &torn).is_err(), "zeros");
        assert!(check(b"k", b"short").is_err());
    }
}
