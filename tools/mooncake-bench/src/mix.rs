//! Mixes of operations: `get=80,put=15,lookup=5`.

use anyhow::{Context, Result, bail, ensure};
use rand::Rng;
use rand::rngs::SmallRng;
use std::fmt;
use std::str::FromStr;

/// What a client does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Act {
    /// Reads and compares values.
    Get,
    /// Writes values over what is there.
    Put,
    /// Asks which of some keys are there, from the first on.
    Lookup,
    /// Leases a key and ends the lease.
    Lease,
}

impl Act {
    pub(crate) const ALL: [Self; 4] = [Self::Get, Self::Put, Self::Lookup, Self::Lease];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Lookup => "lookup",
            Self::Lease => "lease",
        }
    }
}

/// How often each operation comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mix {
    weights: [u32; 4],
}

impl FromStr for Mix {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut weights = [0; 4];
        for part in text.split(',') {
            let (word, weight) = part.split_once('=').with_context(|| format!("{part:?} is not OPERATION=WEIGHT"))?;
            let Some(place) = Act::ALL.iter().position(|act| act.word() == word) else {
                bail!("{word:?} is none of get, put, lookup, lease");
            };
            weights[place] = weight.parse().with_context(|| format!("{weight:?} is not a weight"))?;
            ensure!(weights[place] <= 1_000_000, "weights up to 1000000");
        }
        ensure!(weights.iter().any(|weight| *weight > 0), "some operation has to happen");
        Ok(Self { weights })
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = Act::ALL.iter().zip(self.weights).filter(|(_, weight)| *weight > 0);
        f.write_str(&parts.map(|(act, weight)| format!("{}={weight}", act.word())).collect::<Vec<_>>().join(","))
    }
}

impl Mix {
    pub(crate) fn pick(&self, rng: &mut SmallRng) -> Act {
        let mut at = rng.random_range(0..self.weights.iter().sum::<u32>());
        for (act, weight) in Act::ALL.into_iter().zip(self.weights) {
            if at < weight {
                return act;
            }
            at -= weight;
        }
        unreachable!("the draw is below the sum of the weights")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn operations_come_as_often_as_weighted() {
        let mix = "get=80,put=15,lookup=5,lease=0".parse::<Mix>().unwrap();
        assert_eq!(mix.to_string(), "get=80,put=15,lookup=5");
        let (seed, mut counts) = (3, [0u32; 4]);
        let mut rng = SmallRng::seed_from_u64(seed);
        for _ in 0..100_000 {
            let picked = mix.pick(&mut rng);
            counts[Act::ALL.iter().position(|act| *act == picked).unwrap()] += 1;
        }
        for (count, share) in counts.into_iter().zip([0.8, 0.15, 0.05, 0.0]) {
            assert!((f64::from(count) / 1e5 - share).abs() < 0.01, "seed {seed}: {counts:?}");
        }
        for bad in ["", "get", "get=x", "fly=1", "get=0"] {
            assert!(bad.parse::<Mix>().is_err(), "{bad}");
        }
    }
}
