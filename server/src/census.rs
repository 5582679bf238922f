//! Whose objects these are: counts by model and by tenant, read from the key forms of LMCache.
//!
//! Role: walks the index a little at each tick and shows the counts of its last whole round; nothing is counted on the way
//! of a request. The forms: `model@world_size@worker@hash@dtype[@tag%value…]` of its in-process connectors, and
//! `model@kv_rank@object_group@hash[@salt]` of its L2 adapters, where the salt is the tenant.
//!
//! Invariants:
//! - A tick looks at [`STEP`] objects at most, and rounds begin [`ROUND`] apart at least: a small index costs next to nothing.
//! - At most [`NAMES_MAX`] models and as many tenants are told apart; what comes after is counted under [`OTHER`].

use crate::node::Node;
use parking_lot::Mutex;
use protocol::base::{Instant, Millis};
use std::collections::HashMap;
use storage::Surveyed;

/// Objects of one tick, of which there are ten a second.
const STEP: usize = 1024;
/// From the beginning of one round to that of the next.
const ROUND: Millis = Millis(2_000);
/// Names told apart in one round.
const NAMES_MAX: usize = 256;
/// Longest name that is kept whole.
const NAME_LEN_MAX: usize = 128;
/// Whatever has no name, or one too many.
pub(crate) const OTHER: &str = "other";
/// The tenant of LMCache's keys without a salt.
pub(crate) const NO_SALT: &str = "none";

/// Objects of one model or tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    /// Of them, bytes that lie in DRAM.
    pub(crate) dram_bytes: u64,
    /// Hits of those objects since they were written; one object counts 255 at most.
    pub(crate) hits: u64,
}

/// One round's counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) models: HashMap<String, Count>,
    pub(crate) tenants: HashMap<String, Count>,
    /// Objects that the round met.
    pub(crate) objects: u64,
}

#[derive(Debug, Default)]
struct Round {
    cursor: u64,
    /// When the next one may begin.
    next: Option<Instant>,
    counts: Counts,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Census {
    round: Mutex<Round>,
    last: Mutex<Counts>,
}

/// Model and tenant of a key, if it has one of the forms.
fn owners(key: &[u8]) -> Option<(&str, &str)> {
    let key = std::str::from_utf8(key).ok()?;
    let mut parts = key.split('@');
    let (model, second, third, hash) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_decimal = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if model.is_empty() || !is_hex(hash) {
        return None;
    }
    if second.len() == 8 && is_hex(second) && is_hex(third) {
        let salt = parts.next().filter(|salt| !salt.is_empty());
        return Some((model, salt.unwrap_or(NO_SALT)));
    }
    // A dtype follows, with whatever its connector appends.
    (is_decimal(second) && is_decimal(third) && parts.next().is_some()).then_some((model, NO_SALT))
}

impl Counts {
    fn add(&mut self, key: &[u8], object: Surveyed) {
        let (model, tenant) = owners(key).unwrap_or((OTHER, OTHER));
        self.objects += 1;
        for (counts, name) in [(&mut self.models, model), (&mut self.tenants, tenant)] {
            let known = counts.len() < NAMES_MAX || counts.contains_key(name);
            let name = if known && name.len() <= NAME_LEN_MAX { name } else { OTHER };
            if !counts.contains_key(name) {
                counts.insert(name.to_owned(), Count::default());
            }
            let count = counts.get_mut(name).expect("put in above");
            count.objects += 1;
            count.bytes += object.length.get();
            count.dram_bytes += if object.in_dram { object.length.get() } else { 0 };
            count.hits += u64::from(object.hits);
        }
    }

    /// Those with most bytes, and the sum of the others under [`OTHER`].
    pub(crate) fn top(counts: &HashMap<String, Count>, most: usize) -> Vec<(String, Count)> {
        let mut named: Vec<_> =
            counts.iter().filter(|(name, _)| *name != OTHER).map(|(name, count)| (name.clone(), *count)).collect();
        named.sort_unstable_by(|(a, x), (b, y)| y.bytes.cmp(&x.bytes).then_with(|| a.cmp(b)));
        let mut rest = counts.get(OTHER).copied().unwrap_or_default();
        for (_, count) in named.drain(most.min(named.len())..) {
            rest.objects += count.objects;
            rest.bytes += count.bytes;
            rest.dram_bytes += count.dram_bytes;
            rest.hits += count.hits;
        }
        if rest.objects > 0 {
            named.push((OTHER.to_owned(), rest));
        }
        named
    }
}

impl Census {
    /// Goes on with the round. Called by upkeep.
    pub(crate) fn tick(&self, node: &Node, now: Instant) {
        let mut round = self.round.lock();
        let Round { cursor, next, counts } = &mut *round;
        if *cursor == 0 {
            if next.is_some_and(|next| now < next) {
                return;
            }
            *next = Some(now + ROUND);
        }
        *cursor = node.store.survey(now, *cursor, STEP, |key, object| counts.add(key, object));
        if *cursor == 0 {
            *self.last.lock() = std::mem::take(counts);
        }
    }

    /// The counts of the last whole round.
    pub(crate) fn last(&self) -> Counts {
        self.last.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::base::ByteLen;

    #[test]
    fn keys_of_lmcache_name_their_model_and_tenant() {
        for (key, owners_of) in [
            ("meta-llama/Llama-3.1-8B@8@0@9f3aab@bfloat16", Some(("meta-llama/Llama-3.1-8B", NO_SALT))),
            ("m@1@0@9f3aab@half@layer%3metadata", Some(("m", NO_SALT))),
            ("Qwen/Qwen2@00000002@0@abcdef0123", Some(("Qwen/Qwen2", NO_SALT))),
            ("Qwen/Qwen2@00000002@1f@abcdef0123@acme", Some(("Qwen/Qwen2", "acme"))),
            ("Qwen/Qwen2@00000002@1f@abcdef0123@", Some(("Qwen/Qwen2", NO_SALT))),
            ("m@1@0@9f3aab", None),
            ("m@1@0@not-hex@half", None),
            ("user@example.org", None),
            ("@1@0@aa@half", None),
            ("block:7", None),
        ] {
            assert_eq!(owners(key.as_bytes()), owners_of, "{key}");
        }
        assert_eq!(owners(b"m@00000001@0@ab@\xff"), None);
    }

    #[test]
    fn names_are_bounded_and_nothing_is_lost_of_the_sum() {
        let mut counts = Counts::default();
        let object = |length| Surveyed { length: ByteLen(length), hits: 2, in_dram: length < 10, on_flash: false };
        for n in 0..NAMES_MAX as u64 + 50 {
            counts.add(format!("m{n}@00000001@0@ab@t{}", n % 3).as_bytes(), object(n));
        }
        counts.add(b"plain", object(1));
        assert!(counts.models.len() <= NAMES_MAX + 1, "{}", counts.models.len());
        assert_eq!((counts.tenants.len(), counts.objects), (4, NAMES_MAX as u64 + 51));
        let all: u64 = (0..NAMES_MAX as u64 + 50).sum::<u64>() + 1;
        for most in [1, 5, 10_000] {
            let top = Counts::top(&counts.models, most);
            assert!(top.len() <= most.saturating_add(1));
            assert_eq!(top.iter().map(|(_, count)| count.bytes).sum::<u64>(), all, "{most}");
        }
        assert_eq!(Counts::top(&counts.models, 1)[0].0, format!("m{}", NAMES_MAX - 1));
        assert_eq!(
            Counts::top(&counts.tenants, 9)[3],
            (OTHER.to_owned(), Count { objects: 1, bytes: 1, dram_bytes: 1, hits: 2 })
        );
    }
}
