//! What every way of moving bytes does for the server: the trait that shared memory, TCP and RDMA implement.
//!
//! Role: lets the server lend a span of a segment to one peer and take it back, without knowing how the peer reaches it.
//!
//! Invariants:
//! - A window lends exactly its span, to exactly one session, for reading or for writing, never both.
//! - After [`Fence::Done`] no write through that window changes a byte, however late it was sent.
//! - Closing a session fences everything it was lent.

use protocol::base::{SegmentId, SessionId, StableMemory, Via};
use std::sync::Arc;

/// A run of bytes of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// Which segment.
    pub segment: SegmentId,
    /// Bytes from its start.
    pub offset: u64,
    /// Bytes in the span.
    pub length: u64,
}

/// What a peer may do through a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read only: a lease.
    Read,
    /// Write only: a grant.
    Write,
}

/// One lending of one span. Never given out twice by one transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WindowId(pub u64);

/// A span lent to a peer, and what the peer needs in order to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// By which it is fenced.
    pub id: WindowId,
    /// What was lent.
    pub span: Span,
    /// For `shm`: the index of the segment's descriptor among those the session was given.
    pub fd: Option<u32>,
    /// For `rdma`: address and key.
    pub remote: Option<(u64, u32)>,
}

/// What is known of a peer's access after it was revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fence {
    /// Gone: nothing the peer sent or sends through the window touches a byte any more.
    Done,
    /// Revoked, but what was under way may still land. Ask again; the span is neither sealed nor reused before `Done`.
    Pending,
    /// Cannot be revoked: the peer has the memory mapped. For a read window, the span may be reused once the lease's
    /// time is over, and the reader verifies generation and checksum after its copy. For a write window, the bytes may
    /// change at any later time, so every read of them verifies the checksum.
    Verify,
}

impl Fence {
    /// The one that promises less: `Pending`, then `Verify`, then `Done`.
    #[must_use]
    pub fn weaker(self, other: Self) -> Self {
        match (self, other) {
            (Self::Pending, _) | (_, Self::Pending) => Self::Pending,
            (Self::Verify, _) | (_, Self::Verify) => Self::Verify,
            (Self::Done, Self::Done) => Self::Done,
        }
    }
}

/// Why a span could not be lent, by whose side it failed.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Of our own making: a segment that was not registered, a span past its end, a resource used up here.
    #[error("here: {0}")]
    Local(&'static str),
    /// Between us: a device, port or socket failed. Another path may work.
    #[error("link: {what}")]
    Link {
        /// What was tried.
        what: &'static str,
        /// The answer of the operating system or device.
        source: std::io::Error,
    },
    /// Of the peer's making: its session is closed or unknown, or it asked for what it may not have.
    #[error("peer: {0}")]
    Peer(&'static str),
}

/// A way of moving bytes between registered segments and peers, one-sidedly as far as the way allows.
///
/// Called by any thread; no call waits for a peer.
pub trait Transport: Send + Sync {
    /// Which way.
    fn via(&self) -> Via;

    /// Makes a segment available for lending. A second registration of one id is a mistake of the caller's.
    ///
    /// # Errors
    /// [`TransportError::Local`] if the id is taken or resources are used up, [`TransportError::Link`] if a device
    /// refuses the memory.
    fn register(&self, segment: SegmentId, memory: Arc<dyn StableMemory>) -> Result<(), TransportError>;

    /// Lends `span` to the peer of `session`, for `access` only.
    ///
    /// # Errors
    /// [`TransportError::Local`] for a span outside every registered segment, or where this way cannot lend for this
    /// access; [`TransportError::Peer`] if the session is not open; [`TransportError::Link`] if a device fails.
    fn open(&self, session: SessionId, access: Access, span: Span) -> Result<Window, TransportError>;

    /// Revokes a window and says whether that is known to have taken effect. May be called again, and is until it
    /// answers [`Fence::Done`] or [`Fence::Verify`], after which the window is forgotten; a window unknown or
    /// forgotten is [`Fence::Done`].
    fn fence(&self, window: WindowId) -> Fence;

    /// Lets a session's peer in. A session is opened once.
    ///
    /// # Errors
    /// [`TransportError::Local`] if it is open already.
    fn open_session(&self, session: SessionId) -> Result<(), TransportError>;

    /// Closes a session and revokes all it was lent: the weakest answer of its windows. Called again until it is not
    /// [`Fence::Pending`].
    fn close_session(&self, session: SessionId) -> Fence;
}
