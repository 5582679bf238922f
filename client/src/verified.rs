//! Bytes that were proven to be the object's.
//!
//! Invariants:
//! - A [`Proof`] is made by [`Promise::prove`] alone, and a [`Verified`] from a proof alone. Neither has another
//!   constructor, and the fields are private to this module.

use crate::ClientError;
use crate::clock;
use protocol::base::{Crc, Generation, Instant, Millis};

/// What a lease says of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Promise {
    pub(crate) generation: Generation,
    pub(crate) length: u64,
    pub(crate) crc: Crc,
    /// Until when the bytes stay where they are, with a margin for clocks that run apart.
    pub(crate) until: Instant,
}

impl Promise {
    /// The end of a lease of `span` that was asked for at `asked`.
    ///
    /// Counted from before the request was sent, so that the server's own count ends later. The margin is for clocks
    /// that do not run alike: a thousandth of the span and 2 ms.
    pub(crate) fn end(asked: Instant, span: Millis) -> Instant {
        asked + Millis(span.0.saturating_sub(2 + span.0.div_ceil(1000)))
    }

    /// Proves that bytes with checksum `actual`, copied just now and found to be of `generation`, are the object.
    pub(crate) fn prove(&self, actual: Crc, generation: Generation) -> Result<Proof, ClientError> {
        self.prove_at(clock::now(), actual, generation)
    }

    fn prove_at(&self, now: Instant, actual: Crc, generation: Generation) -> Result<Proof, ClientError> {
        // First of all: after the end, whatever the bytes are, they need not be the object's any more.
        if now >= self.until {
            return Err(ClientError::Stale("it ended while the bytes were read"));
        }
        if generation != self.generation {
            return Err(ClientError::Stale("the bytes are of another generation"));
        }
        if actual != self.crc {
            return Err(ClientError::Checksum { expected: self.crc, actual });
        }
        let len = usize::try_from(self.length).unwrap_or(usize::MAX);
        Ok(Proof { len, generation: self.generation, crc: self.crc })
    }
}

/// That the first `len` bytes of the buffer that was read into are the object.
#[derive(Debug)]
pub(crate) struct Proof {
    len: usize,
    generation: Generation,
    crc: Crc,
}

impl Proof {
    /// Hands out the proven bytes of `buffer`.
    pub(crate) fn of(self, buffer: &[u8]) -> Verified<'_> {
        Verified { bytes: &buffer[..self.len], generation: self.generation, crc: self.crc }
    }
}

/// An object's bytes, after generation, checksum and the lease's end were checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified<'a> {
    bytes: &'a [u8],
    generation: Generation,
    crc: Crc,
}

impl<'a> Verified<'a> {
    /// The object's bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Which placement of the object they are.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Their checksum.
    pub fn crc(&self) -> Crc {
        self.crc
    }
}

impl AsRef<[u8]> for Verified<'_> {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}

impl std::ops::Deref for Verified<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Instant = Instant(1_000_000_000);

    fn promise() -> Promise {
        let until = Promise::end(ASKED, Millis(1000));
        Promise { generation: Generation(7), length: 3, crc: Crc::of(b"abc"), until }
    }

    fn at(ms: u64) -> Instant {
        ASKED + Millis(ms)
    }

    #[test]
    fn proven_bytes_are_handed_out() {
        let proof = promise().prove_at(at(500), Crc::of(b"abc"), Generation(7)).expect("all holds");
        let verified = proof.of(b"abcdef");
        assert_eq!((verified.bytes(), verified.generation()), (&b"abc"[..], Generation(7)));
    }

    #[test]
    fn each_of_the_checks_alone_refuses() {
        let refused =
            |ms, crc, generation| promise().prove_at(at(ms), crc, Generation(generation)).expect_err("refused");
        assert!(matches!(refused(500, Crc::of(b"abd"), 7), ClientError::Checksum { .. }));
        assert!(matches!(refused(500, Crc::of(b"abc"), 8), ClientError::Stale(_)));
        assert!(matches!(refused(1000, Crc::of(b"abc"), 7), ClientError::Stale(_)));
    }

    #[test]
    fn a_lease_ends_earlier_here_than_at_the_server() {
        assert!(promise().prove_at(at(996), Crc::of(b"abc"), Generation(7)).is_ok());
        assert!(promise().prove_at(at(997), Crc::of(b"abc"), Generation(7)).is_err());
        // Bytes that are wrong because the lease ended are stale, not corrupt.
        let late = promise().prove_at(at(2000), Crc::of(b"abd"), Generation(7));
        assert!(matches!(late, Err(ClientError::Stale(_))));
        assert_eq!(Promise::end(ASKED, Millis(1)), ASKED, "too short to be of any use");
    }
}
