//! TCP as a [`Transport`]: the server's own loop applies what peers send, so a fence is exact.

use crate::contract::{Access, Fence, Span, Transport, TransportError, Window, WindowId};
use crate::region::Regions;
use protocol::base::{RawSpan, SegmentId, SessionId, StableMemory, Via};
use std::sync::Arc;

/// Lends spans to peers whose frames the server applies.
#[derive(Default)]
pub struct TcpTransport {
    regions: Arc<Regions>,
}

/// An access that the server is carrying out for a peer. While it lives, its window's fence is pending.
pub struct Applying {
    regions: Arc<Regions>,
    window: WindowId,
    bytes: RawSpan,
}

impl TcpTransport {
    /// With no segments yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins to apply one frame of `session`: the bytes to receive into or to send from.
    ///
    /// # Errors
    /// [`TransportError::Peer`] if the window is not that session's, not for this access, revoked, or shorter.
    pub fn apply(
        &self,
        session: SessionId,
        window: WindowId,
        access: Access,
        offset: u64,
        length: u64,
    ) -> Result<Applying, TransportError> {
        let bytes = self.regions.begin(session, window, access, offset, length)?;
        Ok(Applying { regions: Arc::clone(&self.regions), window, bytes })
    }
}

impl Applying {
    /// Where the bytes go to or come from.
    pub fn bytes(&self) -> &RawSpan {
        &self.bytes
    }
}

impl Drop for Applying {
    fn drop(&mut self) {
        self.regions.end(self.window);
    }
}

impl Transport for TcpTransport {
    fn via(&self) -> Via {
        Via::Tcp
    }

    fn register(&self, segment: SegmentId, memory: Arc<dyn StableMemory>) -> Result<(), TransportError> {
        self.regions.register(segment, memory).map(drop)
    }

    fn open(&self, session: SessionId, access: Access, span: Span) -> Result<Window, TransportError> {
        let opened = self.regions.lend(session, access, span)?;
        Ok(Window { id: opened.id, span, fd: None, remote: None })
    }

    fn fence(&self, window: WindowId) -> Fence {
        match self.regions.revoke(window) {
            Some(revoked) if revoked.in_flight > 0 => Fence::Pending,
            _ => Fence::Done,
        }
    }

    fn open_session(&self, session: SessionId) -> Result<(), TransportError> {
        self.regions.open_session(session)
    }

    fn close_session(&self, session: SessionId) -> Fence {
        let mut weakest = Fence::Done;
        for window in self.regions.close_session(session) {
            weakest = weakest.weaker(self.fence(window));
        }
        if weakest == Fence::Done {
            self.regions.forget_session(session);
        }
        weakest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::anonymous;

    const SESSION: SessionId = SessionId(1);

    #[test]
    fn a_fence_is_pending_exactly_while_a_write_is_applied() {
        let tcp = TcpTransport::new();
        tcp.register(SegmentId(0), anonymous(4096)).expect("registered");
        tcp.open_session(SESSION).expect("opened");
        let span = Span { segment: SegmentId(0), offset: 0, length: 4096 };
        let window = tcp.open(SESSION, Access::Write, span).expect("lent").id;
        let first = tcp.apply(SESSION, window, Access::Write, 0, 100).expect("allowed");
        let second = tcp.apply(SESSION, window, Access::Write, 100, 100).expect("allowed");
        assert_eq!((first.bytes().len(), second.bytes().len()), (100, 100));
        assert_eq!(tcp.fence(window), Fence::Pending);
        assert!(tcp.apply(SESSION, window, Access::Write, 200, 1).is_err(), "revoked");
        drop(first);
        assert_eq!(tcp.fence(window), Fence::Pending);
        drop(second);
        assert_eq!(tcp.fence(window), Fence::Done);
    }

    #[test]
    fn a_session_is_closed_when_its_last_access_has_ended() {
        let tcp = TcpTransport::new();
        tcp.register(SegmentId(0), anonymous(4096)).expect("registered");
        tcp.open_session(SESSION).expect("opened");
        let span = Span { segment: SegmentId(0), offset: 0, length: 64 };
        let window = tcp.open(SESSION, Access::Read, span).expect("lent").id;
        tcp.open(SESSION, Access::Write, span).expect("lent");
        let applying = tcp.apply(SESSION, window, Access::Read, 0, 64).expect("allowed");
        assert_eq!(tcp.close_session(SESSION), Fence::Pending);
        assert!(tcp.open(SESSION, Access::Read, span).is_err(), "closing");
        drop(applying);
        assert_eq!(tcp.close_session(SESSION), Fence::Done);
        tcp.open_session(SESSION).expect("forgotten");
    }
}
