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
        for window in self.regions.close_session(session) {
            weakest = weakest.weaker(self.fence(window));
        }
        self.regions.forget_session(session);
        weakest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::anonymous;

    const SESSION: SessionId = SessionId(1);

    fn shm(write_mode: WriteMode) -> ShmTransport {
        let shm = ShmTransport::new(write_mode);
        for segment in [5, 6] {
            shm.register(SegmentId(segment), anonymous(4096)).expect("registered");
        }
        shm.open_session(SESSION).expect("opened");
        shm
    }

    #[test]
    fn a_reader_is_told_the_descriptor_and_cannot_be_fenced() {
        let shm = shm(WriteMode::Copy);
        let span = Span { segment: SegmentId(6), offset: 64, length: 100 };
        let window = shm.open(SESSION, Access::Read, span).expect("lent");
        assert_eq!((window.fd, window.remote, window.span), (Some(1), None, span));
        assert_eq!(shm.fence(window.id), Fence::Verify);
        assert_eq!(shm.fence(window.id), Fence::Done, "forgotten");
    }

    #[test]
    fn only_arena_mode_lends_for_writing_and_cannot_take_it_back() {
        let span = Span { segment: SegmentId(5), offset: 0, length: 4096 };
        let refused = shm(WriteMode::Copy).open(SESSION, Access::Write, span);
        assert!(matches!(refused, Err(TransportError::Local(_))), "{refused:?}");
        let shm = shm(WriteMode::Arena);
        shm.open(SESSION, Access::Write, span).expect("lent");
        assert_eq!(shm.close_session(SESSION), Fence::Verify);
        assert_eq!(shm.close_session(SESSION), Fence::Done);
        let refused = shm.open(SESSION, Access::Write, span);
        assert!(matches!(refused, Err(TransportError::Peer(_))), "{refused:?}");
    }
}
