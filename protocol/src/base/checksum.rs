//! The checksum of payloads: CRC-32 as in zlib and Ethernet, eight lowercase hex digits on the wire.

use std::fmt;

/// CRC-32 (IEEE 802.3) of a payload. Every language's standard library computes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Crc(pub u32);

/// Why a textual checksum was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a checksum is 8 hex digits")]
pub struct ParseCrcError;

impl Crc {
    /// Of bytes that nobody else may write meanwhile.
    pub fn of(bytes: &[u8]) -> Self {
        Self(crc32fast::hash(bytes))
    }

    /// Of the bytes so far and `bytes` after them.
    #[must_use]
    pub fn extend(self, bytes: &[u8]) -> Self {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0);
        hasher.update(bytes);
        Self(hasher.finalize())
    }

    /// Of the bytes of `self` and, after them, `len` bytes whose own checksum is `next`.
    #[must_use]
    pub fn then(self, next: Self, len: u64) -> Self {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0);
        hasher.combine(&crc32fast::Hasher::new_with_initial_len(next.0, len));
        Self(hasher.finalize())
    }

    /// Reads eight hex digits, of either case.
    ///
    /// # Errors
    /// [`ParseCrcError`] for anything else.
    pub fn parse(text: &[u8]) -> Result<Self, ParseCrcError> {
        if text.len() != 8 {
            return Err(ParseCrcError);
        }
        let mut value = 0u32;
        for &digit in text {
            value = value << 4 | (digit as char).to_digit(16).ok_or(ParseCrcError)?;
        }
        Ok(Self(value))
    }
}

/// `N` lowercase hex digits of the lowest bits.
pub(super) fn hex<const N: usize>(mut bits: u64) -> [u8; N] {
    let mut text = [0; N];
    for digit in text.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(bits & 15) as usize];
        bits >>= 4;
    }
    text
}

impl Crc {
    /// What `Display` writes, without the formatting machinery.
    pub fn hex(self) -> [u8; 8] {
        hex(u64::from(self.0))
    }
}

impl fmt::Display for Crc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for Crc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crc({:08x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_zlib_and_its_own_text() {
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(Crc::of(b"123456789"), Crc(0xcbf4_3926));
        assert_eq!(Crc::of(b"1234").extend(b"56789"), Crc(0xcbf4_3926));
        assert_eq!(Crc::of(b"1234").then(Crc::of(b"56789"), 5), Crc(0xcbf4_3926));
        assert_eq!(Crc::parse(b"cbf43926"), Ok(Crc(0xcbf4_3926)));
        assert_eq!(Crc(0xab).to_string(), "000000ab");
        for crc in [Crc(0xab), Crc(u32::MAX), Crc(0x1234_5678), Crc(0x9abc_def0)] {
            assert_eq!(crc.hex(), crc.to_string().as_bytes());
        }
        for bad in [&b""[..], b"cbf4392", b"cbf439266", b"cbf4392g", b"+bf43926"] {
            assert_eq!(Crc::parse(bad), Err(ParseCrcError));
        }
    }
}
