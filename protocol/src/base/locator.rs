//! Where an object's bytes are, for a client that will read or write them one-sidedly.

use super::{NodeId, SegmentId};
use std::fmt;

/// How bulk bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// Shared memory of one host.
    Shm,
    /// Frames on a bulk TCP connection.
    Tcp,
    /// One-sided RDMA.
    Rdma,
}

impl Via {
    /// The word on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Tcp => "tcp",
            Self::Rdma => "rdma",
        }
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A place that can be read or written without asking the server again, until its grant or lease ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locator {
    /// The node that holds the bytes.
    pub node: NodeId,
    /// How to reach them.
    pub via: Via,
    /// The segment they lie in.
    pub segment: SegmentId,
    /// Bytes from the segment's start to the payload.
    pub offset: u64,
    /// Bytes of payload.
    pub length: u64,
    /// For `shm`: which of the session's fds maps the segment. `None` where the bytes lie in the client's own memfd.
    pub fd: Option<u32>,
    /// For `rdma`: address and key of the memory window.
    pub remote: Option<(u64, u32)>,
}
