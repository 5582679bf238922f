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
        for window in self.regions.windows_of(session) {
            weakest = weakest.weaker(self.fence(window));
        }
        if weakest == Fence::Done {
            self.regions.forget_session(session);
        }
        weakest
    }
}
