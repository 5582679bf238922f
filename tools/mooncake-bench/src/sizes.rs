//! Lengths of values: one, some, or a range.

use crate::number::index;
use anyhow::{Result, bail, ensure};
use protocol::base::ByteLen;
use std::fmt;
use std::str::FromStr;

/// How long the value of each key is. A function of the key's number, so that readers know what to expect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sizes {
    /// One of these, evenly.
    OneOf(Vec<ByteLen>),
    /// Anything from the first to the second, small ones as likely as large ones on a logarithmic scale.
    Range(ByteLen, ByteLen),
}

impl FromStr for Sizes {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some((low, high)) = text.split_once('-') {
            let (low, high): (ByteLen, ByteLen) = (low.parse()?, high.parse()?);
            ensure!(ByteLen(0) < low && low <= high, "{text:?}: from the smaller to the larger, not 0");
            return Ok(Self::Range(low, high));
        }
        let some = text.split(',').map(str::parse).collect::<Result<Vec<ByteLen>, _>>()?;
        if some.contains(&ByteLen(0)) {
            bail!("{text:?}: values have at least one byte");
        }
        Ok(Self::OneOf(some))
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(low, high) => write!(f, "{low} to {high}"),
            Self::OneOf(some) => f.write_str(&some.iter().map(ByteLen::to_string).collect::<Vec<_>>().join(", ")),
        }
    }
}

impl Sizes {
    /// The length of the value of key number `n`.
    pub(crate) fn of(&self, n: usize) -> usize {
        // Well mixed, so that neighbours differ.
        let mixed = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
        match self {
            Self::OneOf(some) => index(some[index(mixed) % some.len()].get()),
            Self::Range(low, high) => {
                let share = mixed as f64 / (1u64 << 53) as f64;
                let (low, high) = (low.get() as f64, high.get() as f64);
                index(crate::number::floor(low * (high / low).powf(share)))
            }
        }
    }

    /// The longest there is.
    pub(crate) fn max(&self) -> usize {
        match self {
            Self::OneOf(some) => index(some.iter().map(|len| len.get()).max().unwrap_or(0)),
            Self::Range(_, high) => index(high.get()),
        }
    }

    /// The sum over the first `keys` keys.
    pub(crate) fn total(&self, keys: usize) -> u64 {
        (0..keys).map(|n| self.of(n) as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_stay_in_their_bounds_and_do_not_change() {
        let range = "64KiB-16MiB".parse::<Sizes>().unwrap();
        let list = "100,4KiB".parse::<Sizes>().unwrap();
        let mut seen = std::collections::HashSet::new();
        for n in 0..1000 {
            assert!((65_536..=16 << 20).contains(&range.of(n)));
            assert_eq!(range.of(n), range.of(n));
            seen.insert(list.of(n));
        }
        assert_eq!(seen, [100, 4096].into());
        assert_eq!((range.max(), list.max()), (16 << 20, 4096));
        for bad in ["", "0", "4KiB-1KiB", "0-4", "x"] {
            assert!(bad.parse::<Sizes>().is_err(), "{bad}");
        }
    }
}
