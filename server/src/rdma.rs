//! RDMA on this node: the device, if it has one, and bytes that the server moves by it.
//!
//! Role: opens the device beside the listeners and registers the segments; pushes objects into clients' memory and pulls
//! what they put out of it.
//!
//! Invariants:
//! - Peers reach no memory of this process: every byte is pushed or pulled by the server itself.
//! - What a push reads and a pull fills is held until the device is through with it, whatever becomes of the connection.
//! - A node without RDMA serves everything else, and says why it has none.

use crate::config::RdmaDevice;
use crate::node::Node;
use parking_lot::RwLock;
use protocol::base::{SegmentId, SessionId, StableMemory};
use protocol::command::{RdmaEnd, RemoteMemory};
use protocol::resp::{ErrorWord, WireError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use storage::{Leased, SealGuard};
use tokio::sync::oneshot;
use transport::rdma::{Broken, Choice, Device, Endpoint, RdmaTerms, RdmaTransport, Remote, WindowUse};
use transport::{Span, Transport as _, TransportError};

#[derive(Debug)]
enum State {
    /// Not there, and why.
    Absent(String),
    Ready(Arc<RdmaTransport>),
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Rdma {
    state: RwLock<State>,
    /// By which clients tell pushes from each other.
    numbers: AtomicU32,
}

impl Default for Rdma {
    fn default() -> Self {
        Self { state: RwLock::new(State::Absent("RDMA is being set up".to_owned())), numbers: AtomicU32::new(0) }
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
            State::Ready(transport) => Ok(Arc::clone(transport)),
            State::Absent(why) => Err(no_transport(why)),
        }
    }

    /// What there is, in one line.
    pub(crate) fn summary(&self) -> String {
        match &*self.state.read() {
            State::Ready(transport) => transport.device().name.clone(),
            State::Absent(why) => why.clone(),
        }
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

/// Fills a slot that is being sealed from a client's memory.
pub(crate) async fn pull(
    node: &Node,
    session: SessionId,
    guard: SealGuard,
    from: RemoteMemory,
) -> Result<SealGuard, WireError> {
    let transport = node.rdma.transport()?;
    let span = transport.span_of(guard.span()).ok_or_else(|| no_transport("the slot lies in no registered segment"))?;
    let (tell, told) = oneshot::channel();
    let done = Box::new(move |result: Result<(), Broken>| {
        let _ = tell.send(result.map(|()| guard));
    });
    transport.pull(session, span, remote(from), done).map_err(|error| refused(&error))?;
    let guard = told.await.map_err(|_| no_transport("RDMA ended"))?.map_err(broken)?;
    node.stats.rdma_in.add(span.length);
    Ok(guard)
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

fn register(node: &Node, device: Arc<Device>) {
    let (name, address) = (device.name.clone(), device.gid.ip());
    let spin = node.config.read().rdma_spin_us.duration();
    let terms = RdmaTerms { windows: WindowUse::Off, spin, ..RdmaTerms::default() };
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
            tracing::info!(address = ?address, segments = node.segments.len(), "RDMA on {name}");
            State::Ready(Arc::new(transport))
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
