//! Passwords as they are kept: their SHA-256, as Redis keeps them.
//!
//! Invariants:
//! - A password is never stored, printed or logged; what is kept of it is its digest.
//! - Comparing takes a time that depends neither on where two digests differ nor on which of several fits.

use ring::digest::{SHA256, digest};
use std::fmt;
use subtle::{Choice, ConstantTimeEq as _};

/// Bytes of a digest.
const LEN: usize = 32;

/// The digest of a password.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Digest([u8; LEN]);

impl Digest {
    /// Of this password.
    pub(crate) fn of(password: &[u8]) -> Self {
        Self(digest(&SHA256, password).as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Reads 64 lower-case hex digits.
    pub(crate) fn parse(hex: &[u8]) -> Option<Self> {
        let mut bytes = [0; LEN];
        if hex.len() != 2 * LEN {
            return None;
        }
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }

    /// As 64 hex digits.
    pub(crate) fn hex(&self) -> String {
        hex(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(..)")
    }
}

/// Bytes as hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether `given` is one of the passwords.
pub(crate) fn is_one_of(given: &[u8], digests: &[Digest]) -> bool {
    let given = Digest::of(given);
    let found = digests.iter().fold(Choice::from(0), |found, digest| found | digest.0.ct_eq(&given.0));
    found.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_redis_and_read_back() {
        let digest = Digest::of(b"pw");
        assert_eq!(digest.hex(), "30c952fab122c3f9759f02a6d95c3758b246b4fee239957b2d4fee46e26170c4");
        assert_eq!(Digest::parse(digest.hex().as_bytes()), Some(digest));
        for bad in ["", "30c9", &digest.hex().to_uppercase(), &format!("{}0", digest.hex())] {
            assert_eq!(Digest::parse(bad.as_bytes()), None, "{bad}");
        }
        assert!(!format!("{digest:?}").contains("30c9"));
    }

    #[test]
    fn any_of_several_passwords_fits_and_nothing_else_does() {
        let digests = [Digest::of(b"one"), Digest::of(b"two")];
        assert!(is_one_of(b"one", &digests) && is_one_of(b"two", &digests));
        for wrong in [&b""[..], b"on", b"onee", b"One"] {
            assert!(!is_one_of(wrong, &digests), "{wrong:?}");
        }
        assert!(!is_one_of(b"", &[]));
    }
}
