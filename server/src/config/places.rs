//! Where adapters are, for machines that do not say it themselves.
//!
//! Invariants:
//! - A list reads back as it was written.

use super::value::{Form, Value};

/// What is said of one adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub struct NicPlace {
    /// Its NUMA node.
    pub numa: u32,
    /// Its Gbit/s, if that is said too.
    pub gbps: Option<u32>,
}

/// Adapters by name, and where they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Default)]
pub struct NicPlaces(Vec<(String, NicPlace)>);

impl NicPlaces {
    /// Each adapter that is named.
    pub fn iter(&self) -> impl Iterator<Item = (&str, NicPlace)> {
        self.0.iter().map(|(name, place)| (name.as_str(), *place))
    }
}

fn one(text: &str) -> Option<(String, NicPlace)> {
    let mut parts = text.trim().split(':');
    let name = parts.next().filter(|name| !name.is_empty() && name.len() < 64)?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let numa = parts.next()?.parse().ok().filter(|&numa: &u32| numa < 1024)?;
    let gbps = parts
        .next()
        .map(|gbps| gbps.parse().ok().filter(|&gbps: &u32| gbps > 0))
        .map_or(Some(None), |it| it.map(Some))?;
    (name.chars().all(is_plain) && parts.next().is_none()).then(|| (name.to_owned(), NicPlace { numa, gbps }))
}

impl Value for NicPlaces {
    const KIND: &'static str = "NAME:NODE[:GBIT]";
    const ALLOWED: &'static str = "names of adapters with their NUMA node and, if wanted, their Gbit/s, such as mlx5_1:1:400, a comma between two; \
         or nothing";
    const FORM: Form = Form::Text;
    const LIST: bool = true;

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::default());
        }
        let all: Vec<(String, NicPlace)> = text.split(',').map(one).collect::<Option<_>>()?;
        let is_twice = |at: usize| all[..at].iter().any(|(name, _)| *name == all[at].0);
        (!(0..all.len()).any(is_twice)).then_some(Self(all))
    }

    fn render(&self) -> String {
        let one = |(name, NicPlace { numa, gbps }): &(String, NicPlace)| match gbps {
            Some(gbps) => format!("{name}:{numa}:{gbps}"),
            None => format!("{name}:{numa}"),
        };
        self.0.iter().map(one).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_back_and_what_is_none_is_refused() {
        for text in ["", "mlx5_0:1", "mlx5_0:1:400,eth0:0"] {
            assert_eq!(NicPlaces::parse(text).expect(text).render(), text);
        }
        for text in ["mlx5_0", "mlx5_0:", "mlx5_0:x", "a:0:0", "a:0:1:2", ":0", "a:0,a:1", "a:0,", "a b:0", "a:1024"] {
            assert_eq!(NicPlaces::parse(text), None, "{text:?}");
        }
    }
}
