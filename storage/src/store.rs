//! The store: shards, segments, and what spans them.
//!
//! Role: finds the shard of a key or credential, makes room, and keeps guards alive. The state machine of an object is in
//! [`crate::shard`].

pub(crate) mod change;
pub(crate) mod flash;
pub(crate) mod keyspace;
pub(crate) mod maintain;
pub(crate) mod read;
pub(crate) mod room;
pub(crate) mod slots;
pub(crate) mod write;

use crate::config::StoreConfig;
use crate::dram::space::Space;
use crate::error::StoreError;
use crate::lru::{List, Prey, Stamp};
use crate::shard::gauges::Gauges;
use crate::shard::{At, HashedKey, Shard};
use crate::sync::Mutex;
use protocol::base::{Generation, Instant, KEY_LEN_MAX, StableMemory};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::{Arc, OnceLock};

/// Objects of one node, in DRAM. Cheap to clone; all clones are one store.
#[derive(Clone, Debug)]
pub struct Store(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: StoreConfig,
    pub(crate) tuning: maintain::Tuning,
    pub(crate) space: Space,
    shards: Box<[Mutex<Shard>]>,
    /// What each shard shows without its lock.
    pub(crate) gauges: Box<[Gauges]>,
    hasher: ahash::RandomState,
    /// Once objects may lie on flash.
    pub(crate) flash: OnceLock<Arc<flash::Shared>>,
}

impl Store {
    /// A store over these segments, empty.
    ///
    /// # Panics
    /// If there is no segment, one is longer than [`crate::SEGMENT_LEN_MAX`], or `shards` is not a power of two up to 256.
    pub fn new(config: StoreConfig, segments: Vec<Arc<dyn StableMemory>>) -> Self {
        assert!(!segments.is_empty(), "a store has a segment");
        assert!(
            segments.iter().all(|segment| segment.len() as u64 <= crate::SEGMENT_LEN_MAX),
            "segments of at most 1 GiB"
        );
        assert!(config.shards.is_power_of_two() && config.shards <= 256, "{} shards", config.shards);
        let [a, b, c, d] = [1u64, 2, 3, 4]
            .map(|n| config.hash_seed().rotate_left(7).wrapping_add(n).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let hasher = ahash::RandomState::with_seeds(a, b, c, d);
        let first = Generation::first_of(config.boot_epoch);
        let shards = (0..config.shards as u64)
            .map(|number| {
                let rng = StdRng::seed_from_u64(config.seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
                Mutex::new(Shard::new(Generation(first.0 + number + 1), config.shards as u64, &hasher, rng))
            })
            .collect();
        Self(Arc::new(Inner {
            tuning: maintain::Tuning::new(&config),
            space: Space::new(segments, &config),
            shards,
            gauges: (0..config.shards).map(|_| Gauges::new()).collect(),
            hasher,
            flash: OnceLock::new(),
            config,
        }))
    }

    /// The boot epoch of its generations.
    pub fn boot_epoch(&self) -> u64 {
        self.0.config.boot_epoch
    }

    pub(crate) fn hash<'a>(&self, key: &'a [u8]) -> HashedKey<'a> {
        HashedKey { key, hash: self.0.hasher.hash_one(key) }
    }
}

impl Inner {
    pub(crate) fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// The shard of a key. Its low bits choose; the upper 32 go into the table.
    #[expect(clippy::cast_possible_truncation, reason = "only the low bits choose")]
    pub(crate) fn shard_of(&self, hash: u64) -> usize {
        hash as usize & (self.shards.len() - 1)
    }

    /// The shard that gave out a credential.
    pub(crate) fn shard_of_credential(&self, id: u64) -> Option<usize> {
        usize::try_from(id & 0xff).ok().filter(|&shard| shard < self.shards.len())
    }

    /// Works on one shard under its lock, then tells the others how old its oldest entries are; and without the lock, the
    /// graveyard what is dead.
    pub(crate) fn with<R>(&self, shard: usize, work: impl FnOnce(&mut Shard, &Space) -> R) -> R {
        let mut locked = self.shards[shard].lock();
        let result = work(&mut locked, &self.space);
        locked.publish_gauges(&self.gauges[shard]);
        let news = locked.flash.take_news();
        drop(locked);
        if let (Some(news), Some(shared)) = (news, self.flash.get()) {
            news.tell(&*shared.graveyard);
        }
        result
    }

    /// Order of eviction of a live object, for its continuation, which is noted.
    pub(crate) fn stamp_of(&self, now: Instant, key: HashedKey<'_>) -> Option<Stamp> {
        self.with(self.shard_of(key.hash), |shard, space| {
            shard.locate(now, key, space).map(|at| match at {
                At::Dram(index) => shard.continue_with(index),
                // Its own is not known any more.
                At::Flash(_) => Stamp::new(now, 0),
            })
        })
    }

    /// Where the next victim is: the shard and list whose oldest entry should go before those of all others.
    pub(crate) fn oldest(&self, now: Instant, prey: Prey) -> Option<(usize, List)> {
        let tails = self
            .gauges
            .iter()
            .enumerate()
            .flat_map(|(shard, gauges)| prey.lists().iter().map(move |&list| (shard, list, gauges.oldest(list))));
        tails
            .filter(|&(_, _, stamp)| stamp != u64::MAX)
            .max_by_key(|&(_, list, stamp)| list.urgency(stamp, now))
            .map(|(shard, list, _)| (shard, list))
    }
}

pub(crate) fn check_key(key: &[u8]) -> Result<(), StoreError> {
    if key.len() > KEY_LEN_MAX { Err(StoreError::KeyLen { max: KEY_LEN_MAX }) } else { Ok(()) }
}

/// A shard as credentials and slab pages carry it.
pub(crate) fn shard_number(shard: usize) -> u8 {
    u8::try_from(shard).expect("at most 256 shards")
}
