//! Payloads that prove themselves: every byte is a function of the key and of its place.
//!
//! Role: makes the bytes that are written, and tells right bytes from wrong ones, faster than memory delivers them, so
//! that checking every byte does not become what is measured.
//!
//! Invariants:
//! - The same key gives the same bytes in every run, of any length (a shorter value is a prefix of a longer one).
//! - One flipped bit, bytes of another key, bytes of another place, zeros and leftovers are all detected.
//!
//! Word `i` is `x ^ (x >> 32)` of `x = hash(key) + i * STEP`, little-endian: an addition, a shift and a xor, which
//! compilers turn into vector code, and which can be undone to say where a wrong word came from.

use std::fmt;

/// Odd, so that no two words of one payload start from the same `x`. The golden ratio of 2^64.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Words that one round of the loops below makes or checks side by side.
const LANES: usize = 8;

/// The same in bytes.
const LANE_BYTES: usize = LANES * 8;

/// How much of what arrives is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verify {
    /// Every byte.
    Full,
    /// The first and last 64 bytes, and 64 of every 64 KiB.
    Sample,
    /// Only the length.
    Off,
}

/// The bytes that belong to one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    start: u64,
}

/// What is wrong with bytes that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Where the first wrong byte lies.
    pub(crate) offset: usize,
    /// What those bytes look like.
    pub(crate) kind: WrongKind,
}

/// What wrong bytes look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WrongKind {
    /// A few bits differ.
    Flipped {
        /// How many of 64.
        bits: u32,
    },
    /// Bytes of this key, but of a place so many words further on (or back).
    Shifted {
        /// Words.
        words: i64,
    },
    /// Bytes of a payload of another key.
    Foreign,
    /// Zeros, as in memory that nobody has written.
    Zeros,
    /// Nothing this tool writes.
    Garbage,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wrong from byte {} on: ", self.offset)?;
        match self.kind {
            WrongKind::Flipped { bits } => write!(f, "{bits} bits flipped"),
            WrongKind::Shifted { words } => write!(f, "this key's bytes, but {} further on", words.saturating_mul(8)),
            WrongKind::Foreign => write!(f, "bytes of another key"),
            WrongKind::Zeros => write!(f, "zeros"),
            WrongKind::Garbage => write!(f, "not bytes of this tool"),
        }
    }
}

#[inline]
fn word(x: u64) -> u64 {
    x ^ (x >> 32)
}

/// Undoes [`word`], which is its own inverse.
fn unword(w: u64) -> u64 {
    w ^ (w >> 32)
}

#[inline]
const fn steps(words: usize) -> u64 {
    STEP.wrapping_mul(words as u64)
}

impl Payload {
    /// The payload of `key`: FNV-1a over the key, then the finish of splitmix64.
    pub(crate) fn of(key: &[u8]) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for &byte in key {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self { start: hash ^ (hash >> 31) }
    }

    /// Writes the bytes from the beginning on over all of `out`.
    pub(crate) fn fill(self, out: &mut [u8]) {
        let mut lanes = self.lanes(0);
        let (chunks, rest) = out.as_chunks_mut::<LANE_BYTES>();
        for chunk in chunks {
            for i in 0..LANES {
                chunk[i * 8..i * 8 + 8].copy_from_slice(&word(lanes[i]).to_le_bytes());
                lanes[i] = lanes[i].wrapping_add(steps(LANES));
            }
        }
        for (lane, bytes) in lanes.iter().zip(rest.chunks_mut(8)) {
            bytes.copy_from_slice(&word(*lane).to_le_bytes()[..bytes.len()]);
        }
    }

    /// Compares as much of a whole value as `verify` says.
    pub(crate) fn check(self, bytes: &[u8], verify: Verify) -> Result<(), Wrong> {
        match verify {
            Verify::Off => Ok(()),
            Verify::Full => self.check_at(0, bytes),
            Verify::Sample => {
                const EVERY: usize = 64 * 1024;
                if bytes.len() <= 2 * LANE_BYTES {
                    return self.check_at(0, bytes);
                }
                for at in (0..bytes.len() - LANE_BYTES).step_by(EVERY) {
                    self.check_at(at, &bytes[at..at + LANE_BYTES])?;
                }
                let tail = (bytes.len() - LANE_BYTES) / 8 * 8;
                self.check_at(tail, &bytes[tail..])
            }
        }
    }

    /// Compares `bytes`, which begin `offset` (a multiple of 8) into the value.
    pub(crate) fn check_at(self, offset: usize, bytes: &[u8]) -> Result<(), Wrong> {
        debug_assert!(offset.is_multiple_of(8), "payloads are checked in words");
        let mut lanes = self.lanes(offset / 8);
        // Eight sums over eight lanes: independent of each other, so that they become vectors.
        let mut wrong = [0u64; LANES];
        let (chunks, rest) = bytes.as_chunks::<LANE_BYTES>();
        for chunk in chunks {
            for i in 0..LANES {
                wrong[i] |= read_word(&chunk[i * 8..i * 8 + 8]) ^ word(lanes[i]);
                lanes[i] = lanes[i].wrapping_add(steps(LANES));
            }
        }
        for (lane, bytes) in lanes.iter().zip(rest.chunks(8)) {
            if *bytes != word(*lane).to_le_bytes()[..bytes.len()] {
                wrong[0] = 1;
            }
        }
        if wrong == [0; LANES] { Ok(()) } else { Err(self.explain(offset, bytes)) }
    }

    fn lanes(self, first_word: usize) -> [u64; LANES] {
        std::array::from_fn(|lane| self.start.wrapping_add(steps(first_word + lane)))
    }

    /// Finds the first wrong word of `bytes` and says what it is. The slow path of a failed check.
    fn explain(self, offset: usize, bytes: &[u8]) -> Wrong {
        let first = offset / 8;
        for (i, got) in bytes.chunks(8).enumerate() {
            let x = self.start.wrapping_add(steps(first + i));
            let want = word(x).to_le_bytes();
            let Some(byte) = got.iter().zip(want).position(|(a, b)| *a != b) else { continue };
            let offset = offset + i * 8 + byte;
            let differing = got.iter().zip(want).map(|(a, b)| (a ^ b).count_ones()).sum();
            let kind = if got.len() == 8 { self.origin(first + i, bytes, i) } else { None };
            let kind = match kind {
                Some(kind) => kind,
                None if differing <= 8 => WrongKind::Flipped { bits: differing },
                None => WrongKind::Garbage,
            };
            return Wrong { offset, kind };
        }
        Wrong { offset, kind: WrongKind::Garbage }
    }

    /// Where word `i` of `bytes` came from, if the word after it says the same.
    fn origin(self, index: usize, bytes: &[u8], i: usize) -> Option<WrongKind> {
        let here = read_word(bytes.get(i * 8..i * 8 + 8)?);
        let next = bytes.get(i * 8 + 8..i * 8 + 16).map(read_word);
        if here == 0 && next.unwrap_or(0) == 0 {
            return Some(WrongKind::Zeros);
        }
        let start = unword(here).wrapping_sub(steps(index));
        if unword(next?).wrapping_sub(steps(index + 1)) != start {
            return None;
        }
        let words = start.wrapping_sub(self.start).wrapping_mul(inverse_of_step()).cast_signed();
        Some(if words.unsigned_abs() < 1 << 40 { WrongKind::Shifted { words } } else { WrongKind::Foreign })
    }
}

#[inline]
fn read_word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

/// Of [`STEP`], modulo 2^64, by Newton's iteration: each round doubles the right bits.
fn inverse_of_step() -> u64 {
    let mut inverse = STEP;
    for _ in 0..6 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(STEP.wrapping_mul(inverse)));
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(key: &[u8], len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        Payload::of(key).fill(&mut bytes);
        bytes
    }

    #[test]
    fn right_bytes_pass_at_every_length() {
        for len in (0..300).chain([4095, 4096, 65_536, 1_000_003]) {
            for verify in [Verify::Full, Verify::Sample] {
                assert_eq!(Payload::of(b"a").check(&of(b"a", len), verify), Ok(()), "{len} bytes, {verify:?}");
            }
        }
        let bytes = of(b"a", 1000);
        assert_eq!(Payload::of(b"a").check_at(488, &bytes[488..]), Ok(()));
    }

    #[test]
    fn every_single_flipped_bit_is_found_where_it_lies() {
        let mut bytes = of(b"flip", 203);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                let wrong = Payload::of(b"flip").check(&bytes, Verify::Full).unwrap_err();
                assert_eq!(wrong, Wrong { offset: at, kind: WrongKind::Flipped { bits: 1 } });
                bytes[at] ^= 1 << bit;
            }
        }
    }

    #[test]
    fn bytes_of_another_key_are_foreign_in_both_modes() {
        for verify in [Verify::Full, Verify::Sample] {
            let wrong = Payload::of(b"mine").check(&of(b"yours", 4096), verify).unwrap_err();
            assert_eq!(wrong.kind, WrongKind::Foreign);
        }
    }

    #[test]
    fn shifted_bytes_are_found_by_words_and_by_single_bytes() {
        let bytes = of(b"shift", 4096 + 64);
        let wrong = Payload::of(b"shift").check(&bytes[64..], Verify::Full).unwrap_err();
        assert_eq!(wrong.kind, WrongKind::Shifted { words: 8 });
        assert!(Payload::of(b"shift").check(&bytes[1..4097], Verify::Full).is_err());
        assert!(Payload::of(b"shift").check(&bytes[1..4097], Verify::Sample).is_err());
    }

    #[test]
    fn torn_values_are_found_where_the_tear_is() {
        let mut bytes = of(b"torn", 8192);
        bytes[4096..].fill(0);
        let wrong = Payload::of(b"torn").check(&bytes, Verify::Full).unwrap_err();
        assert_eq!(wrong, Wrong { offset: 4096, kind: WrongKind::Zeros });
        let other = of(b"other", 8192);
        bytes[4096..].copy_from_slice(&other[4096..]);
        let wrong = Payload::of(b"torn").check(&bytes, Verify::Full).unwrap_err();
        assert_eq!(wrong.kind, WrongKind::Foreign);
    }

    #[test]
    fn words_of_one_payload_differ() {
        let bytes = of(b"distinct", 80_000);
        let distinct: std::collections::HashSet<&[u8]> = bytes.chunks(8).collect();
        assert_eq!(distinct.len(), 10_000);
    }
}
