//! Arena mode: clients in the server's own domain of trust write what they were granted into the segments themselves.
//!
//! Invariants:
//! - Every grant that a client writes by itself has a window, from its reply until it is sealed or has ended.
//! - No window can be taken back, since the client's mapping stays. So every read on the server's own account is of a
//!   copy, and checked; readers elsewhere check what they copied in any case.

use parking_lot::Mutex;
use protocol::base::{GrantId, SegmentId, SessionId, StableMemory};
use std::collections::HashMap;
use std::sync::Arc;
use storage::{Granted, Segment};
use transport::shm::{ShmTransport, WriteMode};
use transport::{Access, Fence, Span, Transport as _, TransportError, WindowId};

/// See the module's text.
pub(crate) struct Arena {
    transport: ShmTransport,
    windows: Mutex<HashMap<GrantId, WindowId>>,
}

impl Arena {
    /// Lends from these segments, in the order of their descriptors.
    pub(crate) fn new(segments: &[Arc<Segment>]) -> Result<Self, TransportError> {
        let transport = ShmTransport::new(WriteMode::Arena);
        for (number, segment) in (0..).zip(segments) {
            transport.register(SegmentId(number), Arc::clone(segment) as Arc<dyn StableMemory>)?;
        }
        Ok(Self { transport, windows: Mutex::default() })
    }

    /// A client has the segments mapped.
    pub(crate) fn open(&self, session: SessionId) -> Result<(), TransportError> {
        self.transport.open_session(session)
    }

    /// A client is gone, or has no use for the mapping any more. Its grants end in the store.
    pub(crate) fn close(&self, session: SessionId) {
        // The answer, that nothing can be taken back, is asked for again with each grant.
        self.transport.close_session(session);
    }

    /// Lends a client what it was granted.
    pub(crate) fn lend(&self, session: SessionId, granted: &Granted) -> Result<(), TransportError> {
        let span = Span { segment: granted.segment, offset: granted.offset, length: granted.length };
        let window = self.transport.open(session, Access::Write, span)?;
        self.windows.lock().insert(granted.grant, window.id);
        Ok(())
    }

    /// Ends the window of a grant that is sealed or over. What was never lent is done with.
    pub(crate) fn fence(&self, grant: GrantId) -> Fence {
        let Some(window) = self.windows.lock().get(&grant).copied() else { return Fence::Done };
        let fence = self.transport.fence(window);
        if fence != Fence::Pending {
            self.windows.lock().remove(&grant);
        }
        fence
    }
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Arena({} windows)", self.windows.lock().len())
    }
}
