//! Why the store could not do what was asked. A miss is not here: it is `None`.

use protocol::base::{ByteLen, Crc, Generation};

/// Refusals of the store. The server gives each its word on the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Everything that could be evicted was, and it was not enough.
    #[error("no room for {wanted}, {free} free and nothing more to evict")]
    NoSpace {
        /// What the object needs.
        wanted: ByteLen,
        /// What is free, perhaps in pieces.
        free: ByteLen,
    },
    /// There is room only where objects lie that are still to be written to flash. Wait for [`crate::Store::room`], a short
    /// while, and if that does not help [`crate::Store::hurry`]; then try again.
    #[error("no room for {wanted} before more is written to flash")]
    SpillWait {
        /// What the object needs.
        wanted: ByteLen,
    },
    /// A live object has this key, and replacing was not asked for.
    #[error("the key is live as generation {generation}")]
    Exists {
        /// The live object's.
        generation: Generation,
    },
    /// The condition of a conditional write does not hold.
    #[error("the condition on the key does not hold")]
    Condition,
    /// Longer than an object may be.
    #[error("an object of {len} is longer than the {max} allowed")]
    TooBig {
        /// As asked.
        len: ByteLen,
        /// As configured, or what one segment holds.
        max: ByteLen,
    },
    /// The key is too long.
    #[error("a key has at most {max} bytes")]
    KeyLen {
        /// Longest key.
        max: usize,
    },
    /// One client, one tenant or all together hold as much as they may.
    #[error("{what}: {held} held of {max}, {wanted} more wanted")]
    Quota {
        /// Which limit.
        what: &'static str,
        /// Held already.
        held: ByteLen,
        /// The limit.
        max: ByteLen,
        /// What was asked.
        wanted: ByteLen,
    },
    /// No such grant: never given, run out, aborted, or another session's.
    #[error("no such grant: it ran out, was used, or is another session's")]
    NoGrant,
    /// Writes under the grant are still being applied, or it is being sealed.
    #[error("the grant is busy: a write or a commit of it is in flight")]
    Busy,
    /// The range lies outside what the grant or lease covers.
    #[error("bytes {offset}..{end} lie outside the {len} covered")]
    Range {
        /// First byte asked.
        offset: u64,
        /// One past the last byte asked.
        end: u64,
        /// Covered length.
        len: ByteLen,
    },
    /// The payload is not what its writer said.
    #[error("the payload's checksum is {actual}, not {claimed}: nothing was published")]
    Crc {
        /// As the client said.
        claimed: Crc,
        /// As computed here.
        actual: Crc,
    },
    /// No such lease: never given, run out, released, or another session's.
    #[error("no such lease: it ran out, was released, or is another session's")]
    NoLease,
    /// The object holds as many leases and pins as can be counted.
    #[error("the object has too many leases or reads at once")]
    TooManyUsers,
}
