//! A pair of byte rings in one memfd: control without system calls while both sides are awake.
//!
//! Role: carries the same RESP bytes as a socket would, requests one way and replies the other. The server makes the
//! memory and two eventfds and passes all three; each side keeps its [`RingEnd`].
//!
//! The memory. Little-endian, each index on a cache line pair of its own. Version 1.
//!
//! | offset | size | field            | meaning                                                                     |
//! |-------:|-----:|------------------|-----------------------------------------------------------------------------|
//! |      0 |    4 | `magic`          | `MCRG`                                                                      |
//! |      4 |    4 | `version`        | 1                                                                           |
//! |      8 |    4 | `request_len`    | bytes of the request ring, a power of two                                   |
//! |     12 |    4 | `reply_len`      | bytes of the reply ring, a power of two                                     |
//! |    128 |    8 | request `tail`   | bytes the client ever wrote                                                 |
//! |    256 |    8 | request `head`   | bytes the server ever took                                                  |
//! |    384 |    8 | reply `tail`     | bytes the server ever wrote                                                 |
//! |    512 |    8 | reply `head`     | bytes the client ever took                                                  |
//! |    640 |    4 | client `asleep`  | what would wake the client: bit 0 replies, bit 1 space for requests         |
//! |    768 |    4 | server `asleep`  | what would wake the server: bit 0 requests, bit 1 space for replies         |
//! |   4096 |      | request bytes    | byte `n` of the stream lies at `n` modulo `request_len`                     |
//! |  after |      | reply bytes      | the same with `reply_len`                                                   |
//!
//! To sleep: set the own `asleep`, full fence, look at the rings once more, then wait on the own eventfd. After moving
//! an index: full fence, read the peer's `asleep`; if the bit is set, take the whole word by exchange with 0 and add 1
//! to the peer's eventfd. Of a sleeper and a waker that cross, at least one sees the other's store. A side waiting for
//! space is woken once a quarter of the ring is free.
//!
//! Invariants:
//! - Each side trusts only its own copy of its own indices. A peer's index that claims more than the ring holds is
//!   [`RingError::Corrupt`]; no index from the peer can lead outside the memory.
//! - No wake is lost, and none is sent to a peer that is awake.
//! - The memory is sealed before the peer gets it: it can neither shrink nor grow.
//! - Neither side reads its eventfd, so a peer that drains it cannot make a read block. One that makes the descriptor
//!   blocking and fills the count could make a wake block: a peer runs as the same user, who could stop us anyway.

mod blocking;
mod end;
mod layout;
#[cfg(test)]
mod tests;

pub use blocking::{BlockingRing, SpinBudget};
pub use end::{Need, RingEnd};
pub use layout::{RING_LEN_DEFAULT, RingFds, RingLayout, ServerRing, create_ring};

use super::ShmError;

/// Why a ring is of no further use, or a wait on it ended without what it waited for.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The peer's index or the layout it announced cannot be.
    #[error("ring: {0}")]
    Corrupt(&'static str),
    /// The peer's process or connection is gone.
    #[error("ring: the peer hung up")]
    PeerGone,
    /// The deadline came first. The ring can be used on.
    #[error("ring: deadline passed")]
    Timeout,
    /// The kernel refused.
    #[error("ring: {act}")]
    Os {
        /// What was tried.
        act: &'static str,
        /// Its answer.
        source: std::io::Error,
    },
    /// The memory could not be had.
    #[error("ring: memory")]
    Memory(#[from] ShmError),
}

impl RingError {
    fn os(act: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::Os { act, source: errno.into() }
    }
}
