//! Keys of objects on flash: bytes in classes of length, so that a freed one serves the next of its class.
//!
//! Invariants:
//! - A key's number and length name its bytes; the length tells the class.
//! - Chunks of a class double; memory is touched in order.

use crate::entry::NIL;
use protocol::base::KEY_LEN_MAX;

/// Keys up to this length are in classes 4 bytes apart, longer ones in classes an eighth apart.
const FINE_MAX: usize = 256;
const FINE_STEP: usize = 4;
const FINE: usize = FINE_MAX / FINE_STEP;
/// Bytes of a class's first chunk, about.
const FIRST_BYTES: usize = 4096;

/// Class of a key, and the bytes that each key of the class takes.
fn class_of(key_len: usize) -> (usize, usize) {
    if key_len <= FINE_MAX {
        let class = key_len.max(1).div_ceil(FINE_STEP) - 1;
        return (class, (class + 1) * FINE_STEP);
    }
    let octave = (key_len - 1).ilog2() as usize;
    let step = (1 << octave) / 8;
    let eighth = (key_len - (1 << octave)).div_ceil(step);
    (FINE + (octave - FINE_MAX.ilog2() as usize) * 8 + eighth - 1, (1 << octave) + eighth * step)
}

#[derive(Debug)]
struct Class {
    chunks: Vec<Box<[u8]>>,
    /// Keys handed out, freed ones included.
    len: u32,
    /// The latest to be freed; each freed one begins with the number of the next.
    vacant: u32,
}

/// Keys of one shard.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    classes: Vec<Class>,
    /// Bytes handed out, freed ones included.
    bytes: usize,
}

impl Keys {
    pub(crate) fn insert(&mut self, key: &[u8]) -> u32 {
        assert!(key.len() <= KEY_LEN_MAX, "keys are at most 16 KiB");
        let (class, size) = class_of(key.len());
        while self.classes.len() <= class {
            self.classes.push(Class { chunks: Vec::new(), len: 0, vacant: NIL });
        }
        let of = &mut self.classes[class];
        let number = if of.vacant == NIL {
            let number = of.len;
            of.len = number.checked_add(1).expect("fewer keys than 2^32");
            let (chunk, _) = place_of(number, size);
            if chunk == of.chunks.len() {
                of.chunks.push(vec![0; (first(size) << chunk) * size].into_boxed_slice());
            }
            self.bytes += size;
            number
        } else {
            let number = of.vacant;
            let next = of.slot(number, size)[..4].first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes));
            of.vacant = next.expect("slots have 4 bytes at least");
            number
        };
        of.slot_mut(number, size)[..key.len()].copy_from_slice(key);
        number
    }

    pub(crate) fn get(&self, number: u32, key_len: u16) -> &[u8] {
        let key_len = usize::from(key_len);
        let (class, size) = class_of(key_len);
        &self.classes[class].slot(number, size)[..key_len]
    }

    pub(crate) fn remove(&mut self, number: u32, key_len: u16) {
        let (class, size) = class_of(usize::from(key_len));
        let of = &mut self.classes[class];
        let vacant = of.vacant;
        of.slot_mut(number, size)[..4].copy_from_slice(&vacant.to_le_bytes());
        of.vacant = number;
    }

    /// Bytes that were touched.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.classes.capacity() * size_of::<Class>()
    }
}

impl Class {
    fn slot(&self, number: u32, size: usize) -> &[u8] {
        assert!(number < self.len, "key {number} of {}", self.len);
        let (chunk, slot) = place_of(number, size);
        &self.chunks[chunk][slot * size..][..size]
    }

    fn slot_mut(&mut self, number: u32, size: usize) -> &mut [u8] {
        assert!(number < self.len, "key {number} of {}", self.len);
        let (chunk, slot) = place_of(number, size);
        &mut self.chunks[chunk][slot * size..][..size]
    }
}

/// Keys in the first chunk: a power of two.
fn first(size: usize) -> usize {
    (FIRST_BYTES / size).max(1).next_power_of_two()
}

/// Chunk of a key, and its number there.
fn place_of(number: u32, size: usize) -> (usize, usize) {
    let first = first(size);
    let biased = number as usize + first;
    let top = biased.ilog2();
    ((top - first.ilog2()) as usize, biased ^ 1 << top)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_waste_little_and_hold_every_length() {
        let mut before = (0, 0);
        for len in 0..=KEY_LEN_MAX {
            let (class, size) = class_of(len);
            assert!(size >= len.max(4) && size - len <= FINE_STEP.max(len / 8), "{len} takes {size}");
            assert!((class, size) == before || (class >= before.0 && size > before.1), "{len} in class {class}");
            assert!(class <= before.0 + 1, "{len} in class {class}");
            before = (class, size);
        }
    }

    #[test]
    fn keys_come_back_as_they_went_in() {
        let mut keys = Keys::default();
        let mut held: Vec<(u32, Vec<u8>)> = Vec::new();
        let mut dice = 1u64;
        for step in 0..50_000u64 {
            dice = dice.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let roll = usize::try_from(dice >> 33).expect("31 bits");
            if roll % 5 < 2 && !held.is_empty() {
                let (number, key) = held.swap_remove(roll % held.len());
                let len = u16::try_from(key.len()).expect("short");
                assert_eq!(keys.get(number, len), key);
                keys.remove(number, len);
            } else {
                let len = if roll % 100 == 0 { roll % 16_384 } else { roll % 70 };
                let key: Vec<u8> = (0..len).map(|at| u8::try_from((step + at as u64) % 251).expect("a byte")).collect();
                held.push((keys.insert(&key), key));
            }
        }
        for (number, key) in &held {
            assert_eq!(keys.get(*number, u16::try_from(key.len()).expect("short")), key);
        }
    }
}
