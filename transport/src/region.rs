//! Which segments may be lent, and what is lent of them to whom: the bookkeeping that every transport shares.
//!
//! Invariants:
//! - A window lies inside one registered segment and belongs to one open session.
//! - An access is granted only through a window that is not revoked; it is counted until it ends, and a window with
//!   accesses under way is not forgotten.
//! - One lock, held for a few map operations, never while bytes move.

use crate::contract::{Access, Span, TransportError, WindowId};
use parking_lot::Mutex;
use protocol::base::{RawSpan, SegmentId, SessionId, StableMemory};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Segments, sessions and windows of one transport.
#[derive(Default)]
pub struct Regions {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    segments: HashMap<SegmentId, Segment>,
    sessions: HashMap<SessionId, Session>,
    windows: HashMap<WindowId, Lent>,
    windows_ever: u64,
}

struct Segment {
    memory: Arc<dyn StableMemory>,
    /// Place in the order of registration.
    index: u32,
}

#[derive(Default)]
struct Session {
    windows: HashSet<WindowId>,
    closing: bool,
}

struct Lent {
    session: SessionId,
    access: Access,
    bytes: RawSpan,
    revoked: bool,
    in_flight: u32,
}

/// A new window.
#[derive(Debug, Clone, Copy)]
pub struct Opened {
    /// Its id.
    pub id: WindowId,
    /// Which segment it lies in, counted in the order of registration.
    pub segment_index: u32,
}

/// What a revoked window was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// For what it was lent.
    pub access: Access,
    /// Accesses still under way. At 0 the window was forgotten.
    pub in_flight: u32,
}

impl Regions {
    /// Notes a segment and returns its place in the order of registration.
    ///
    /// # Errors
    /// [`TransportError::Local`] if the id is taken.
    pub fn register(&self, segment: SegmentId, memory: Arc<dyn StableMemory>) -> Result<u32, TransportError> {
        let mut inner = self.inner.lock();
        if inner.segments.contains_key(&segment) {
            return Err(TransportError::Local("segment registered twice"));
        }
        let index = u32::try_from(inner.segments.len()).map_err(|_| TransportError::Local("too many segments"))?;
        inner.segments.insert(segment, Segment { memory, index });
        Ok(index)
    }

    /// Lets a session borrow.
    ///
    /// # Errors
    /// [`TransportError::Local`] if it may already.
    pub fn open_session(&self, session: SessionId) -> Result<(), TransportError> {
        let mut inner = self.inner.lock();
        if inner.sessions.contains_key(&session) {
            return Err(TransportError::Local("session opened twice"));
        }
        inner.sessions.insert(session, Session::default());
        Ok(())
    }

    /// Lends `span` to `session`.
    ///
    /// # Errors
    /// [`TransportError::Local`] for a span outside its segment, [`TransportError::Peer`] for a session not open.
    pub fn lend(&self, session: SessionId, access: Access, span: Span) -> Result<Opened, TransportError> {
        let mut inner = self.inner.lock();
        let segment = inner.segments.get(&span.segment).ok_or(TransportError::Local("segment not registered"))?;
        let place = usize::try_from(span.offset).ok().zip(usize::try_from(span.length).ok());
        let bytes = place
            .and_then(|(offset, length)| RawSpan::new(Arc::clone(&segment.memory), offset, length))
            .ok_or(TransportError::Local("span runs past its segment"))?;
        let segment_index = segment.index;
        let id = WindowId(inner.windows_ever);
        let open = inner.sessions.get_mut(&session).filter(|session| !session.closing);
        open.ok_or(TransportError::Peer("session not open"))?.windows.insert(id);
        inner.windows_ever += 1;
        inner.windows.insert(id, Lent { session, access, bytes, revoked: false, in_flight: 0 });
        Ok(Opened { id, segment_index })
    }

    /// Begins an access by `session` to `length` bytes at `offset` of a window: the bytes, to be used until
    /// [`end`](Self::end), which must follow.
    ///
    /// # Errors
    /// [`TransportError::Peer`] if the window is not that session's, not for this access, revoked, or shorter.
    pub fn begin(
        &self,
        session: SessionId,
        window: WindowId,
        access: Access,
        offset: u64,
        length: u64,
    ) -> Result<RawSpan, TransportError> {
        let mut inner = self.inner.lock();
        let lent = inner
            .windows
            .get_mut(&window)
            .filter(|lent| lent.session == session && lent.access == access && !lent.revoked)
            .ok_or(TransportError::Peer("no such window"))?;
        let place = usize::try_from(offset).ok().zip(usize::try_from(length).ok());
        let bytes = place
            .and_then(|(offset, length)| lent.bytes.part(offset, length))
            .ok_or(TransportError::Peer("access runs past its window"))?;
        lent.in_flight += 1;
        Ok(bytes)
    }

    /// Ends an access that [`begin`](Self::begin) allowed; forgets its window if that is revoked and this was the last.
    ///
    /// # Panics
    /// If no access to the window is under way.
    pub fn end(&self, window: WindowId) {
        let mut inner = self.inner.lock();
        let lent = inner.windows.get_mut(&window).expect("a window with accesses under way is kept");
        lent.in_flight = lent.in_flight.checked_sub(1).expect("each end has its begin");
        if lent.revoked && lent.in_flight == 0 {
            inner.forget(window);
        }
    }

    /// Allows no new access through `window`; forgets it if none is under way. `None` if it is not known (any more).
    pub fn revoke(&self, window: WindowId) -> Option<Revoked> {
        let mut inner = self.inner.lock();
        let lent = inner.windows.get_mut(&window)?;
        lent.revoked = true;
        let revoked = Revoked { access: lent.access, in_flight: lent.in_flight };
        if revoked.in_flight == 0 {
            inner.forget(window);
        }
        Some(revoked)
    }

    /// Lends nothing more to a session and returns the windows it still has, to be revoked.
    pub fn close_session(&self, session: SessionId) -> Vec<WindowId> {
        let mut inner = self.inner.lock();
        let Some(session) = inner.sessions.get_mut(&session) else { return Vec::new() };
        session.closing = true;
        session.windows.iter().copied().collect()
    }

    /// Forgets a closed session if it has no window left.
    pub fn forget_session(&self, session: SessionId) {
        let mut inner = self.inner.lock();
        if inner.sessions.get(&session).is_some_and(|session| session.closing && session.windows.is_empty()) {
            inner.sessions.remove(&session);
        }
    }
}

impl Inner {
    fn forget(&mut self, window: WindowId) {
        let Some(lent) = self.windows.remove(&window) else { return };
        if let Some(session) = self.sessions.get_mut(&lent.session) {
            session.windows.remove(&window);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::anonymous;

    const SESSION: SessionId = SessionId(1);
    const SEGMENT: SegmentId = SegmentId(7);

    fn span(offset: u64, length: u64) -> Span {
        Span { segment: SEGMENT, offset, length }
    }

    fn regions() -> Regions {
        let regions = Regions::default();
        regions.register(SEGMENT, anonymous(8192)).expect("registered");
        regions.open_session(SESSION).expect("opened");
        regions
    }

    #[test]
    fn segments_and_sessions_are_known_once() {
        let regions = regions();
        assert!(matches!(regions.register(SEGMENT, anonymous(4096)), Err(TransportError::Local(_))));
        assert_eq!(regions.register(SegmentId(8), anonymous(4096)).expect("another"), 1);
        assert!(matches!(regions.open_session(SESSION), Err(TransportError::Local(_))));
        regions.close_session(SESSION);
        regions.forget_session(SESSION);
        regions.open_session(SESSION).expect("closed before");
    }

    #[test]
    fn only_what_lies_in_a_segment_is_lent_and_only_to_open_sessions() {
        let regions = regions();
        regions.lend(SESSION, Access::Read, span(0, 8192)).expect("all of it");
        regions.lend(SESSION, Access::Read, span(8192, 0)).expect("nothing at the end");
        for bad in [span(1, 8192), span(8193, 0), span(u64::MAX, 1), span(1, u64::MAX)] {
            assert!(matches!(regions.lend(SESSION, Access::Read, bad), Err(TransportError::Local(_))), "{bad:?}");
        }
        let elsewhere = Span { segment: SegmentId(9), ..span(0, 1) };
        assert!(matches!(regions.lend(SESSION, Access::Read, elsewhere), Err(TransportError::Local(_))));
        assert!(matches!(regions.lend(SessionId(2), Access::Read, span(0, 1)), Err(TransportError::Peer(_))));
        regions.close_session(SESSION);
        assert!(matches!(regions.lend(SESSION, Access::Read, span(0, 1)), Err(TransportError::Peer(_))));
    }

    #[test]
    fn an_access_needs_its_own_window() {
        let regions = regions();
        regions.open_session(SessionId(2)).expect("opened");
        let window = regions.lend(SESSION, Access::Write, span(4096, 100)).expect("lent").id;
        let begin = |session, access, offset, length| regions.begin(session, window, access, offset, length);
        assert_eq!(begin(SESSION, Access::Write, 10, 90).expect("inside").len(), 90);
        for (session, access, offset, length) in [
            (SESSION, Access::Write, 10, 91),
            (SESSION, Access::Write, 101, 0),
            (SESSION, Access::Write, u64::MAX, 2),
            (SESSION, Access::Read, 0, 1),
            (SessionId(2), Access::Write, 0, 1),
        ] {
            let refused = begin(session, access, offset, length);
            assert!(matches!(refused, Err(TransportError::Peer(_))), "{access:?} {offset} {length}");
        }
        assert_eq!(regions.revoke(window), Some(Revoked { access: Access::Write, in_flight: 1 }));
        assert!(matches!(begin(SESSION, Access::Write, 0, 1), Err(TransportError::Peer(_))), "revoked");
        regions.end(window);
        assert_eq!(regions.revoke(window), None, "forgotten with its last access");
    }
}
