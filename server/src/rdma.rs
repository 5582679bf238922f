//! RDMA on this node: the device, if it has one, and bytes that the server moves by it.
//!
//! Role: opens the device beside the listeners, tries its windows and registers the segments; pushes objects into clients'
//! memory and pulls what they put out of it. What clients are lent is in [`lent`].
//!
//! Invariants:
//! - Peers reach no memory of this process but through windows, and none are lent by a device that did not pass the trial.
//! - What a push reads and a pull fills is held until the device is through with it, whatever becomes of the connection.
//! - A node without RDMA serves everything else, and says why it has none.

mod lent;

use crate::config::{RdmaDevice, RdmaWindows};
use crate::node::Node;
pub(crate) use lent::Opening;

use lent::Lendings;
use parking_lot::RwLock;
use protocol::base::{GrantId, Instant, LeaseId, Lent, SegmentId, SessionId, StableMemory};
use protocol::command::{RdmaEnd, RemoteMemory};
use protocol::resp::{ErrorWord, WireError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use storage::{Granted, Leased, SealGuard, Store};
use tokio::sync::oneshot;
use transport::rdma::{
    Broken, Choice, Device, Endpoint, RdmaStats, RdmaTerms, RdmaTransport, Remote, WindowUse, try_windows,
};
use transport::{Fence, Span, Transport as _, TransportError};

#[derive(Debug)]
enum State {
    /// Not there, and why.
    Absent(String),
    Ready {
        transport: Arc<RdmaTransport>,
        /// Whether windows are lent, or why not.
        windows: String,
    },
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Rdma {
    state: RwLock<State>,
    /// By which clients tell pushes from each other.
    numbers: AtomicU32,
    lent: Lendings,
}

impl Default for Rdma {
    fn default() -> Self {
        let state = RwLock::new(State::Absent("RDMA is being set up".to_owned()));
        Self { state, numbers: AtomicU32::new(0), lent: Lendings::default() }
    }
}

fn no_transport(text: impl std::fmt::Display) -> WireError {
    WireError::new(ErrorWord::NoTransport, text.to_string())
}

/// What a client sees of what a transport could not do.
fn refused(error: &TransportError) -> WireError {
    match error {
        TransportError::Local(_) | TransportError::Peer(_) => WireError::new(ErrorWord::Busy, error.to_string()),
        TransportError::Link { what, source } => no_transport(format_args!("{what}: {source}")),
    }
}

fn broken(error: Broken) -> WireError {
    no_transport(error)
}

fn remote(memory: RemoteMemory) -> Remote {
    Remote { addr: memory.addr, rkey: memory.rkey }
}

impl Rdma {
    /// The transport.
    pub(crate) fn transport(&self) -> Result<Arc<RdmaTransport>, WireError> {
        match &*self.state.read() {
            State::Ready { transport, .. } => Ok(Arc::clone(transport)),
            State::Absent(why) => Err(no_transport(why)),
        }
    }

    /// What there is, in one line.
    pub(crate) fn summary(&self) -> String {
        match &*self.state.read() {
            State::Ready { transport, .. } => transport.device().name.clone(),
            State::Absent(why) => why.clone(),
        }
    }

    /// Whether clients are lent windows, or why not, in one line.
    pub(crate) fn windows(&self) -> String {
        match &*self.state.read() {
            State::Ready { windows, .. } => windows.clone(),
            State::Absent(_) => "off: no RDMA".to_owned(),
        }
    }

    /// What happened on the device since the start.
    pub(crate) fn stats(&self) -> RdmaStats {
        match &*self.state.read() {
            State::Ready { transport, .. } => transport.stats(),
            State::Absent(_) => RdmaStats::default(),
        }
    }

    /// Whether clients are lent windows.
    pub(crate) fn lends(&self) -> bool {
        matches!(&*self.state.read(), State::Ready { transport, .. } if transport.lends())
    }

    /// Lends a client what it was granted, if there is a window for it.
    pub(crate) fn lend_grant(&self, store: &Store, session: SessionId, granted: &Granted) -> Option<Opening> {
        let Granted { grant, segment, offset, length, .. } = *granted;
        let is_live = || store.lent_key(Lent::Grant(grant), session).is_some();
        self.lent.grant(&self.transport().ok()?, session, (grant, is_live), Span { segment, offset, length })
    }

    /// What is known of a client's access to what it was granted; `None` if it was lent none by RDMA.
    pub(crate) fn fence(&self, grant: GrantId) -> Option<Fence> {
        self.lent.fence(grant)
    }

    /// Whether a client may be writing what it was granted by RDMA.
    pub(crate) fn has_lent(&self, grant: GrantId) -> bool {
        self.lent.has(grant)
    }

    /// Waits until nobody can write a slot that is being sealed.
    pub(crate) async fn fenced(&self, mut guard: SealGuard) -> Result<SealGuard, WireError> {
        match self.lent.fenced(guard.grant()).await {
            Fence::Done => guard.fenced(),
            // What cannot be fenced stays in quarantine: so says the guard's end.
            Fence::Pending | Fence::Verify => return Err(no_transport("the grant's window cannot be taken back")),
        }
        Ok(guard)
    }

    /// Lends a client what it leased until then. A lease without a window is of no use, and is given back.
    pub(crate) fn lend_lease(
        &self,
        store: &Store,
        session: SessionId,
        (leased, now, until): (&Leased, Instant, Instant),
    ) -> Result<Opening, WireError> {
        let lend = || {
            let transport = self.transport()?;
            let held = store.read_leased(now, leased.lease, session).map_err(crate::error::refused)?;
            let span = Span { segment: leased.segment, offset: leased.offset, length: leased.length.get() };
            self.lent.lease(&transport, session, (leased.lease, until), (span, held)).map_err(|error| refused(&error))
        };
        lend().inspect_err(|_| {
            store.release(leased.lease, session);
        })
    }

    /// A lease ends then.
    pub(crate) fn renew_lease(&self, lease: LeaseId, until: Instant) {
        self.lent.renew(lease, until);
    }

    /// A lease is over.
    pub(crate) fn end_lease(&self, lease: LeaseId) {
        self.lent.end(lease);
    }

    /// Takes back the windows of leases that a session has no more.
    pub(crate) fn end_revoked(&self, store: &Store, session: SessionId) {
        self.lent.end_of(session, |lease| store.lent_key(Lent::Lease(lease), session).is_none());
    }

    /// Takes back what has run out.
    pub(crate) fn look(&self, now: Instant) {
        self.lent.look(now);
    }

    /// Opens a session with a client's queue pair; ours, for the client.
    pub(crate) fn attach(&self, session: SessionId, end: &RdmaEnd) -> Result<RdmaEnd, WireError> {
        let RdmaEnd { qpn, psn, gid, lid, mtu, reads } = *end;
        let peer = Endpoint { qpn, psn, gid, lid, mtu, reads };
        let Endpoint { qpn, psn, gid, lid, mtu, reads } =
            self.transport()?.attach(session, &peer).map_err(|error| refused(&error))?;
        Ok(RdmaEnd { qpn, psn, gid, lid, mtu, reads })
    }

    /// Whether a client's session is open.
    pub(crate) fn is_open(&self, session: SessionId) -> bool {
        self.transport().is_ok_and(|transport| transport.is_open(session))
    }

    /// Ends a client's session.
    pub(crate) fn close(&self, session: SessionId) {
        self.lent.end_of(session, |_| true);
        if let Ok(transport) = self.transport() {
            transport.close_session(session);
        }
    }

    /// Nothing is moved any more.
    pub(crate) fn stop(&self) {
        *self.state.write() = State::Absent("the server is stopping".to_owned());
    }
}

/// An object that stays where it is for as long as this lives.
pub(crate) struct Held {
    pub(crate) node: Arc<Node>,
    pub(crate) leased: Leased,
    /// Nobody's session, so that no connection's end ends the lease.
    pub(crate) holder: SessionId,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.node.store.release(self.leased.lease, self.holder);
    }
}

/// Writes an object into a client's memory, and returns the number that the client was told with its last byte.
pub(crate) async fn push(session: SessionId, held: Held, to: RemoteMemory) -> Result<u32, WireError> {
    let node = Arc::clone(&held.node);
    let number = node.rdma.numbers.fetch_add(1, Ordering::Relaxed);
    let length = held.leased.length.get();
    let span = Span { segment: held.leased.segment, offset: held.leased.offset, length };
    let (tell, told) = oneshot::channel();
    let done = Box::new(move |result: Result<(), Broken>| {
        drop(held);
        // A connection that ended does not ask.
        let _ = tell.send(result);
    });
    let transport = node.rdma.transport()?;
    transport.push(session, span, remote(to), Some(number), done).map_err(|error| refused(&error))?;
    told.await.map_err(|_| no_transport("RDMA ended"))?.map_err(broken)?;
    node.stats.rdma_out.add(length);
    Ok(number)
}

/// Bytes that are on their way from a client's memory into a slot that is being sealed.
pub(crate) struct Pulling {
    told: oneshot::Receiver<Result<SealGuard, Broken>>,
    length: u64,
}

impl Pulling {
    /// Asks for them. Several may be on their way at once.
    pub(crate) fn begin(
        node: &Node,
        session: SessionId,
        guard: SealGuard,
        from: RemoteMemory,
    ) -> Result<Self, WireError> {
        let transport = node.rdma.transport()?;
        let span = transport.span_of(guard.span());
        let span = span.ok_or_else(|| no_transport("the slot lies in no registered segment"))?;
        let (tell, told) = oneshot::channel();
        let done = Box::new(move |result: Result<(), Broken>| {
            let _ = tell.send(result.map(|()| guard));
        });
        transport.pull(session, span, remote(from), done).map_err(|error| refused(&error))?;
        Ok(Self { told, length: span.length })
    }

    /// Waits until they are there.
    pub(crate) async fn finish(self, node: &Node) -> Result<SealGuard, WireError> {
        let guard = self.told.await.map_err(|_| no_transport("RDMA ended"))?.map_err(broken)?;
        node.stats.rdma_in.add(self.length);
        Ok(guard)
    }
}

/// Opens the device and registers the segments, beside requests. A device that was asked for by name and is not there is an
/// error; where any would do, there is none.
///
/// # Errors
/// Why the device is not there.
pub(crate) fn start(node: &Arc<Node>) -> anyhow::Result<Option<JoinHandle<()>>> {
    let wanted = node.config.read().rdma.clone();
    let choice = match &wanted {
        RdmaDevice::Off => {
            *node.rdma.state.write() = State::Absent("RDMA is turned off (`rdma = off`)".to_owned());
            return Ok(None);
        }
        RdmaDevice::Auto => None,
        RdmaDevice::Named(name) => Some(Choice { device: Some(name.clone()), gid_index: None }),
    };
    let opened = choice.map_or_else(|| node.locality.open_best(), |choice| Device::open(&choice));
    let device = match opened {
        Ok(device) => device,
        Err(error) if wanted == RdmaDevice::Auto => {
            tracing::info!("{error}");
            *node.rdma.state.write() = State::Absent(error.to_string());
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let node = Arc::clone(node);
    let thread = std::thread::Builder::new().name("rdma-register".into()).spawn(move || register(&node, device))?;
    Ok(Some(thread))
}

/// Whether the device's windows may be lent, and the line that says so.
fn try_device(device: &Arc<Device>, wanted: RdmaWindows) -> (WindowUse, String) {
    let off = |why: String| (WindowUse::Off, format!("off: {why}"));
    match wanted {
        RdmaWindows::Off => off("turned off (`rdma-windows = off`)".to_owned()),
        RdmaWindows::Auto if !device.limits.has_windows_2b => off("the device has none of type 2B".to_owned()),
        RdmaWindows::Auto => match try_windows(device) {
            Ok(defects) if defects.is_empty() => (WindowUse::Lent, "lent".to_owned()),
            Ok(defects) => off(defects.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
            Err(error) => off(format!("they cannot be tried: {error}")),
        },
    }
}

fn register(node: &Node, device: Arc<Device>) {
    let (name, address) = (device.name.clone(), device.gid.ip());
    let (spin, wanted) = {
        let config = node.config.read();
        (config.rdma_spin_us.duration(), config.rdma_windows)
    };
    let (windows, told) = try_device(&device, wanted);
    let terms = RdmaTerms { windows, spin, ..RdmaTerms::default() };
    let made = RdmaTransport::new(device, terms).map_err(|error| format!("no RDMA: device {name}: {error}"));
    let made = made.and_then(|transport| {
        for (number, segment) in (0..).zip(&node.segments) {
            if node.is_stopping() {
                return Err("the server is stopping".to_owned());
            }
            let memory = Arc::clone(segment) as Arc<dyn StableMemory>;
            transport.register(SegmentId(number), memory).map_err(|error| match error {
                TransportError::Link { what, source } => format!("no RDMA: device {name}: {what}: {source}"),
                other => format!("no RDMA: device {name}: {other}"),
            })?;
        }
        Ok(transport)
    });
    let state = match made {
        Ok(transport) => {
            tracing::info!(address = ?address, segments = node.segments.len(), windows = told, "RDMA on {name}");
            State::Ready { transport: Arc::new(transport), windows: told }
        }
        Err(why) => {
            tracing::warn!("{why}");
            State::Absent(why)
        }
    };
    let mut held = node.rdma.state.write();
    if !node.is_stopping() {
        *held = state;
    }
}
