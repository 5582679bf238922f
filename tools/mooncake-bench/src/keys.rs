//! Keys that a load uses: numbered, and which number comes next.

use crate::number::{floor, index};
use anyhow::{Result, bail};
use rand::Rng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Zipf};
use std::io::Write as _;
use std::str::FromStr;

/// Writes the key of number `n` among values of `size` bytes over `into`.
pub(crate) fn write_key(into: &mut Vec<u8>, prefix: &str, size: usize, n: usize) {
    into.clear();
    write!(into, "{prefix}:{size}:{n:08}").expect("a Vec takes what it is given");
}

/// The same, allocated.
pub(crate) fn key(prefix: &str, size: usize, n: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(32);
    write_key(&mut key, prefix, size, n);
    key
}

/// How popular each key is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Popularity {
    /// All alike.
    Uniform,
    /// The `n`-th most popular is asked for `1 / n^s` as often as the first.
    Zipf(f64),
    /// One after the other, again from the first after the last.
    Sequential,
}

impl FromStr for Popularity {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':').unwrap_or((text, "")) {
            ("uniform", "") => Ok(Self::Uniform),
            ("seq", "") => Ok(Self::Sequential),
            ("zipf", "") => Ok(Self::Zipf(0.99)),
            ("zipf", s) => match s.parse() {
                Ok(s) if (0.0..=10.0).contains(&s) => Ok(Self::Zipf(s)),
                _ => bail!("zipf:S takes an exponent from 0 to 10, such as zipf:0.99"),
            },
            _ => bail!("{text:?} is none of uniform, zipf, zipf:S, seq"),
        }
    }
}

/// Picks key numbers below a bound.
pub(crate) enum Picker {
    Uniform(usize),
    Zipf(Zipf<f64>, usize),
    Sequential { next: usize, keys: usize },
}

impl Picker {
    /// For `keys` keys; `first` is where a sequential picker begins.
    pub(crate) fn new(popularity: Popularity, keys: usize, first: usize) -> Self {
        match popularity {
            Popularity::Uniform => Self::Uniform(keys),
            Popularity::Zipf(s) => Self::Zipf(Zipf::new(keys as f64, s).expect("s and n were checked"), keys),
            Popularity::Sequential => Self::Sequential { next: first % keys, keys },
        }
    }

    pub(crate) fn next(&mut self, rng: &mut SmallRng) -> usize {
        match self {
            Self::Uniform(keys) => rng.random_range(0..*keys),
            Self::Zipf(zipf, keys) => {
                // Popular keys are scattered over the numbers, so that popularity is not also order of insertion.
                let rank = floor(zipf.sample(rng)).max(1) - 1;
                index(rank.wrapping_mul(0x9e37_79b9_7f4a_7c15) % *keys as u64)
            }
            Self::Sequential { next, keys } => {
                let n = *next;
                *next = (n + 1) % *keys;
                n
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn pickers_stay_in_range_and_zipf_prefers_few() {
        let seed = 7;
        for (popularity, top_share) in
            [(Popularity::Uniform, 0.0..0.05), (Popularity::Zipf(1.0), 0.1..0.3), (Popularity::Sequential, 0.0..0.05)]
        {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut picker = Picker::new(popularity, 100, 3);
            let mut counts = [0u32; 100];
            for _ in 0..20_000 {
                counts[picker.next(&mut rng)] += 1;
            }
            let top = f64::from(*counts.iter().max().unwrap()) / 20_000.0;
            assert!(top_share.contains(&top), "seed {seed}, {popularity:?}: {top}");
        }
    }

    #[test]
    fn popularity_is_read_as_documented() {
        assert_eq!("zipf:1.2".parse::<Popularity>().unwrap(), Popularity::Zipf(1.2));
        for bad in ["zipf:-1", "zipf:x", "", "gauss", "uniform:3"] {
            assert!(bad.parse::<Popularity>().is_err(), "{bad}");
        }
        assert_eq!(key("p", 4096, 7), b"p:4096:00000007");
    }
}
