//! Lengths in bytes, as people write them and as machines count them.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteLen(pub u64);

/// Why a length was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a length: write a whole number and one of B, K, M, G, T, KiB, MiB, GiB, TiB, KB, MB, GB, TB")]
pub struct ParseByteLenError(pub String);

impl ByteLen {
    /// `n` binary kilobytes.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }
    /// `n` binary megabytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
    /// `n` binary gigabytes.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
    /// The count as it is.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteLen {
    type Err = ParseByteLenError;

    /// Reads `4096`, `64K`, `64KiB` (binary) and `64KB`, `64MB` (decimal), as Redis and systemd users expect:
    /// a bare letter is binary.
    fn from_str(text: &str) -> Result<Self, ParseByteLenError> {
        let refuse = || ParseByteLenError(text.to_owned());
        let text_trimmed = text.trim();
        let digits = text_trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text_trimmed.len());
        let (number, unit) = text_trimmed.split_at(digits);
        let unit_bytes: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(refuse()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole: u64 = whole.parse().map_err(|_| refuse())?;
        let mut bytes = whole.checked_mul(unit_bytes).ok_or_else(refuse)?;
        if !fraction.is_empty() {
            if unit_bytes == 1 || fraction.len() > 6 {
                return Err(refuse());
            }
            let numerator: u64 = fraction.parse().map_err(|_| refuse())?;
            let scale = 10u64.pow(u32::try_from(fraction.len()).map_err(|_| refuse())?);
            let part = u128::from(numerator) * u128::from(unit_bytes) / u128::from(scale);
            bytes = bytes.checked_add(u64::try_from(part).map_err(|_| refuse())?).ok_or_else(refuse)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for ByteLen {
    /// The largest binary unit that loses nothing, or two decimals of the largest that fits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        for (shift, name) in UNITS {
            let unit = 1u64 << shift;
            if self.0 >= unit {
                if self.0.is_multiple_of(unit) {
                    return write!(f, "{} {name}", self.0 >> shift);
                }
                let hundredths = u128::from(self.0) * 100 / u128::from(unit);
                return write!(f, "{}.{:02} {name}", hundredths / 100, hundredths % 100);
            }
        }
        write!(f, "{} B", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64K", 65536),
            ("64kib", 65536),
            ("64 KiB", 65536),
            ("64KB", 64000),
            ("1.5GiB", 3 << 29),
            ("2T", 2 << 40),
        ] {
            assert_eq!(text.parse(), Ok(ByteLen(bytes)), "{text}");
        }
        for bad in ["", "K", "-1", "1.5", "1X", "99999999999T", "1..5K", "0x10", "1.0000001G"] {
            assert!(bad.parse::<ByteLen>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lengths_are_written_for_people() {
        assert_eq!(ByteLen(512).to_string(), "512 B");
        assert_eq!(ByteLen::mib(64).to_string(), "64 MiB");
        assert_eq!(ByteLen((3 << 20) / 2).to_string(), "1.50 MiB");
    }
}
