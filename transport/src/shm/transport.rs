//! Shared memory as a [`Transport`].

use crate::contract::{Access, Fence, Span, Transport, TransportError, Window, WindowId};
use crate::region::Regions;
use protocol::base::{SegmentId, SessionId, StableMemory, Via};
use std::sync::Arc;

/// How clients on the same host write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// Into memory of their own, from which the server copies. No window for writing is ever lent.
    Copy,
    /// Into a segment that they map writable. Only for clients that are trusted as the server is.
    Arena,
}

/// Lends segments that peers have mapped. It moves no bytes and can revoke nothing: a mapping stays.
pub struct ShmTransport {
    regions: Regions,
    write_mode: WriteMode,
}

impl ShmTransport {
    /// With no segments yet. Those registered have the indices 0, 1, … of the descriptors that a session is given.
    pub fn new(write_mode: WriteMode) -> Self {
        Self { regions: Regions::default(), write_mode }
    }
}

impl Transport for ShmTransport {
    fn via(&self) -> Via {
        Via::Shm
    }

    fn register(&self, segment: SegmentId, memory: Arc<dyn StableMemory>) -> Result<(), TransportError> {
        self.regions.register(segment, memory).map(drop)
    }

    fn open(&self, session: SessionId, access: Access, span: Span) -> Result<Window, TransportError> {
        if access == Access::Write && self.write_mode == WriteMode::Copy {
            return Err(TransportError::Local("copy mode lends nothing for writing"));
        }
        let opened = self.regions.lend(session, access, span)?;
        Ok(Window { id: opened.id, span, fd: Some(opened.segment_index), remote: None })
    }

    fn fence(&self, window: WindowId) -> Fence {
        // The peer's mapping cannot be taken away, neither a reader's nor an arena writer's.
        self.regions.revoke(window).map_or(Fence::Done, |_| Fence::Verify)
    }

    fn open_session(&self, session: SessionId) -> Result<(), TransportError> {
        self.regions.open_session(session)
    }

    fn close_session(&self, session: SessionId) -> Fence {
        let mut weakest = Fence::Done;
        for window in self.regions.windows_of(session) {
            weakest = weakest.weaker(self.fence(window));
        }
        self.regions.forget_session(session);
        weakest
    }
}
