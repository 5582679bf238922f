//! Windows that clients were lent: on what they may write under a grant, on what they may read under a lease.
//!
//! Role: ties each grant and lease that a client uses by itself to its window, and gives slots back when the device has
//! said that nobody reaches them any more.
//!
//! Invariants:
//! - A slot under a grant is neither believed nor reused before its window is fenced.
//! - An object under a lease stays where it is until its window is fenced, however the lease ended.
//! - The lock is held for a few map operations, never while a device or a client is waited for.

use parking_lot::Mutex;
use protocol::base::{GrantId, Instant, LeaseId, SessionId};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use storage::ReadGuard;
use tokio::sync::oneshot;
use transport::rdma::{RdmaTransport, Remote};
use transport::{Access, Fence, Span, Transport as _, TransportError, WindowId};

/// A window, and the transport that fences it, which lives as long as its windows.
#[derive(Clone)]
struct Lent {
    transport: Arc<RdmaTransport>,
    window: WindowId,
}

impl Lent {
    fn open(
        transport: &Arc<RdmaTransport>,
        session: SessionId,
        access: Access,
        span: Span,
    ) -> Result<(Self, Remote), TransportError> {
        let window = transport.open(session, access, span)?;
        let (addr, rkey) = window.remote.expect("a window of RDMA has address and key");
        Ok((Self { transport: Arc::clone(transport), window: window.id }, Remote { addr, rkey }))
    }

    fn fence(&self) -> Fence {
        self.transport.fence(self.window)
    }

    /// Told when the window can be used; `false` if it never will.
    fn bound(&self) -> oneshot::Receiver<bool> {
        let (tell, told) = oneshot::channel();
        // Who asked may have gone.
        self.transport.when_bound(self.window, Box::new(move |result| tell.send(result.is_ok()).unwrap_or_default()));
        told
    }
}

struct Lease {
    lent: Lent,
    session: SessionId,
    until: Instant,
    held: ReadGuard,
}

/// What a client was given to write a slot by.
#[derive(Clone)]
enum Writer {
    /// It is being decided; until then nobody says that the slot cannot be written.
    Undecided,
    /// Nothing, no window being to be had: the client has to be read from.
    Nobody,
    Window(Lent),
}

#[derive(Default)]
struct Inner {
    grants: HashMap<GrantId, Writer>,
    leases: HashMap<LeaseId, Lease>,
    ends: BTreeMap<(Instant, LeaseId), ()>,
    /// Windows of leases that are over, until they are fenced.
    ending: Vec<(Lent, ReadGuard)>,
}

/// See the module's text.
#[derive(Default)]
pub(crate) struct Lendings {
    inner: Mutex<Inner>,
}

/// A window that is being bound: what the client will reach it by.
#[derive(Debug)]
pub(crate) struct Opening {
    remote: Remote,
    bound: oneshot::Receiver<bool>,
}

impl Opening {
    /// Address and key, once they open what they should; `None` if they never will.
    pub(crate) async fn remote(self) -> Option<(u64, u32)> {
        self.bound.await.unwrap_or(false).then_some((self.remote.addr, self.remote.rkey))
    }
}

impl Lendings {
    /// Lends what was granted, if it is still granted. Without a window, all of them being lent, nothing is, and the grant is
    /// as good as fenced.
    pub(crate) fn grant(
        &self,
        transport: &Arc<RdmaTransport>,
        session: SessionId,
        (grant, is_live): (GrantId, impl FnOnce() -> bool),
        span: Span,
    ) -> Option<Opening> {
        // Whoever ends the grant from here on asks for its fence and waits, so that no window opens on a slot that is
        // somebody else's by then.
        self.inner.lock().grants.insert(grant, Writer::Undecided);
        if !is_live() {
            self.inner.lock().grants.remove(&grant);
            return None;
        }
        let opened = Lent::open(transport, session, Access::Write, span);
        if let Err(error) = &opened {
            tracing::debug!(%error, "a grant without a window");
        }
        let opened = opened.ok();
        let writer = opened.as_ref().map_or(Writer::Nobody, |(lent, _)| Writer::Window(lent.clone()));
        self.inner.lock().grants.insert(grant, writer);
        opened.map(|(lent, remote)| Opening { remote, bound: lent.bound() })
    }

    /// Takes back what was granted, and says what is known; `None` for a grant that was not lent here. Called until it is
    /// not pending.
    pub(crate) fn fence(&self, grant: GrantId) -> Option<Fence> {
        let writer = self.inner.lock().grants.get(&grant).cloned()?;
        let fence = match writer {
            Writer::Undecided => Fence::Pending,
            Writer::Nobody => Fence::Done,
            Writer::Window(lent) => lent.fence(),
        };
        if fence != Fence::Pending {
            self.inner.lock().grants.remove(&grant);
        }
        Some(fence)
    }

    /// Whether this grant was lent here.
    pub(crate) fn has(&self, grant: GrantId) -> bool {
        self.inner.lock().grants.contains_key(&grant)
    }

    /// Takes back what was granted, and waits until nobody can write it.
    pub(crate) async fn fenced(&self, grant: GrantId) -> Fence {
        let writer = self.inner.lock().grants.get(&grant).cloned();
        if let Some(Writer::Window(lent)) = writer {
            let (tell, told) = oneshot::channel();
            lent.transport.when_fenced(lent.window, Box::new(move || tell.send(()).unwrap_or_default()));
            // It is told in any case, at the latest when the queue pair is destroyed.
            let _ = told.await;
        }
        self.fence(grant).unwrap_or(Fence::Done)
    }

    /// Lends what is leased until then.
    pub(crate) fn lease(
        &self,
        transport: &Arc<RdmaTransport>,
        session: SessionId,
        (lease, until): (LeaseId, Instant),
        (span, held): (Span, ReadGuard),
    ) -> Result<Opening, TransportError> {
        let (lent, remote) = Lent::open(transport, session, Access::Read, span)?;
        let bound = lent.bound();
        let mut inner = self.inner.lock();
        inner.ends.insert((until, lease), ());
        inner.leases.insert(lease, Lease { lent, session, until, held });
        Ok(Opening { remote, bound })
    }

    /// A lease ends later.
    pub(crate) fn renew(&self, lease: LeaseId, until: Instant) {
        let mut inner = self.inner.lock();
        let Inner { leases, ends, .. } = &mut *inner;
        if let Some(lent) = leases.get_mut(&lease)
            && ends.remove(&(lent.until, lease)).is_some()
        {
            lent.until = until;
            ends.insert((until, lease), ());
        }
    }

    /// A lease is over.
    pub(crate) fn end(&self, lease: LeaseId) {
        let mut inner = self.inner.lock();
        if let Some(ended) = inner.end(lease) {
            drop(inner);
            // Begun now, so that it may be done by the next look.
            ended.fence();
        }
    }

    /// Leases of a session are over: all of which `is_over` says so.
    pub(crate) fn end_of(&self, session: SessionId, is_over: impl Fn(LeaseId) -> bool) {
        let of: Vec<LeaseId> = {
            let inner = self.inner.lock();
            inner.leases.iter().filter(|(_, lease)| lease.session == session).map(|(lease, _)| *lease).collect()
        };
        of.into_iter().filter(|&lease| is_over(lease)).for_each(|lease| self.end(lease));
    }

    /// Ends leases that have run out, and gives back what is fenced.
    pub(crate) fn look(&self, now: Instant) {
        let ending = {
            let mut inner = self.inner.lock();
            while let Some((&(until, lease), ())) = inner.ends.first_key_value()
                && until <= now
            {
                drop(inner.end(lease));
            }
            std::mem::take(&mut inner.ending)
        };
        if ending.is_empty() {
            return;
        }
        // What is fenced is given back here, with no lock held.
        let left: Vec<_> = ending.into_iter().filter(|(lent, _)| lent.fence() == Fence::Pending).collect();
        self.inner.lock().ending.extend(left);
    }
}

impl Inner {
    fn end(&mut self, lease: LeaseId) -> Option<Lent> {
        let ended = self.leases.remove(&lease)?;
        self.ends.remove(&(ended.until, lease));
        self.ending.push((ended.lent.clone(), ended.held));
        Some(ended.lent)
    }
}

impl std::fmt::Debug for Lendings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = self.inner.lock();
        write!(f, "Lendings({} grants, {} leases)", inner.grants.len(), inner.leases.len())
    }
}
