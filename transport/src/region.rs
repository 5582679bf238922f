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
    sessions: HashMap<SessionId, HashSet<WindowId>>,
    windows: HashMap<WindowId, Lent>,
    windows_ever: u64,
}

struct Segment {
    memory: Arc<dyn StableMemory>,
    /// Place in the order of registration.
    index: u32,
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
        inner.sessions.insert(session, HashSet::new());
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
        inner.sessions.get_mut(&session).ok_or(TransportError::Peer("session not open"))?.insert(id);
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

    /// The windows a session still has.
    pub fn windows_of(&self, session: SessionId) -> Vec<WindowId> {
        self.inner.lock().sessions.get(&session).map(|windows| windows.iter().copied().collect()).unwrap_or_default()
    }

    /// Forgets a session that has no window left.
    ///
    /// # Panics
    /// If it has one.
    pub fn forget_session(&self, session: SessionId) {
        if let Some(windows) = self.inner.lock().sessions.remove(&session) {
            assert!(windows.is_empty(), "{} windows of a forgotten session", windows.len());
        }
    }
}

impl Inner {
    fn forget(&mut self, window: WindowId) {
        let Some(lent) = self.windows.remove(&window) else { return };
        if let Some(windows) = self.sessions.get_mut(&lent.session) {
            windows.remove(&window);
        }
    }
}
