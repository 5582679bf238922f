//! Payloads that verify themselves: every byte is a function of the placement and of its offset.

use protocol::base::{Crc, RawSpan, copy_from};

/// Names one attempt to write one key: foreign, stale and torn bytes differ from it at almost every word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Content {
    pub(crate) version: u64,
    pub(crate) length: usize,
}

fn word(version: u64, at: usize) -> [u8; 8] {
    let mut mixed = version.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (at as u64).wrapping_mul(0xd134_2543_de82_ef95);
    mixed = (mixed ^ mixed >> 31).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ mixed >> 29).to_le_bytes()
}

impl Content {
    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![0; self.length];
        for (at, chunk) in bytes.chunks_mut(8).enumerate() {
            chunk.copy_from_slice(&word(self.version, at)[..chunk.len()]);
        }
        bytes
    }

    pub(crate) fn crc(self) -> Crc {
        Crc::of(&self.bytes())
    }

    /// Fails at the first byte that is not this content's.
    pub(crate) fn check(self, found: &[u8], whose: &str) {
        assert_eq!(found.len(), self.length, "{whose}: length");
        for (at, chunk) in found.chunks(8).enumerate() {
            assert_eq!(chunk, &word(self.version, at)[..chunk.len()], "{whose}: byte {} of {}", at * 8, self.length);
        }
    }

    pub(crate) fn check_span(self, span: &RawSpan, whose: &str) {
        let mut bytes = vec![0; span.len()];
        copy_from(span, &mut bytes);
        self.check(&bytes, whose);
    }
}
