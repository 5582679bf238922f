//! What a store is told at its construction, and what may change while it runs.

use protocol::base::{ByteLen, Millis};

/// Limits of a store. Percentages are of the capacity.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Index shards, a power of two of at most 256.
    pub shards: usize,
    /// Longest object.
    pub object_len_max: ByteLen,
    /// Bytes that slots may occupy in all; capped by the segments.
    pub capacity: ByteLen,
    /// Fill at which background eviction starts, 1 to 100. At 100 only a reservation that finds no room evicts.
    pub watermark_high_percent: u8,
    /// Fill at which background eviction stops, at most `watermark_high_percent`.
    pub watermark_low_percent: u8,
    /// Share that reservations may hold in all.
    pub reserved_percent_max: u8,
    /// Share that one client's reservations may hold; one object is always allowed.
    pub reserved_client_percent_max: u8,
    /// Share that one session's leases may hold; one object is always allowed.
    pub leased_client_percent_max: u8,
    /// Share that one tenant's pins may hold.
    pub pinned_percent_max: u8,
    /// Share that probe graces may protect.
    pub grace_percent_max: u8,
    /// How long a probed object stays in its last tier, from the first probe since it was last read or written.
    pub probe_grace: Millis,
    /// How long the result of a `COMMIT` can be asked again.
    pub commit_memory: Millis,
    /// Lower 23 bits go into every generation, so that locators of an earlier boot match nothing.
    pub boot_epoch: u64,
    /// Seeds credentials, and hashing unless `hash_seed` does. From the operating system, except in simulations.
    pub seed: u64,
    /// Seeds hashing: that of the earlier life whose memory is taken over ([`crate::warm`]).
    pub hash_seed: Option<u64>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            shards: 8,
            object_len_max: ByteLen::mib(512),
            capacity: ByteLen(u64::MAX),
            watermark_high_percent: 95,
            watermark_low_percent: 92,
            reserved_percent_max: 25,
            reserved_client_percent_max: 5,
            leased_client_percent_max: 50,
            pinned_percent_max: 50,
            grace_percent_max: 10,
            probe_grace: Millis(5_000),
            commit_memory: Millis(60_000),
            boot_epoch: 1,
            seed: 0,
            hash_seed: None,
        }
    }
}

impl StoreConfig {
    pub(crate) fn hash_seed(&self) -> u64 {
        self.hash_seed.unwrap_or(self.seed)
    }
}
