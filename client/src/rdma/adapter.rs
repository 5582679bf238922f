//! This machine's RDMA device and the memory that was registered on it, once; and a session's queue pair.
//!
//! Invariants:
//! - What the server may read is never written by it, and what it may write is only ever copied out raw.
//! - A session is used after a message has gone to the server and was acknowledged: two devices need not reach each other.

use super::Own;
use crate::ClientError;
use crate::link::{Deadline, Link as Control};
use crate::options::{Choice as Via, Options};
use crate::scan::{Unexpected, Walk};
use crate::session::next_on;
use protocol::base::{ByteLen, RawSpan, StableMemory};
use protocol::command::{Attach, RdmaEnd};
use std::sync::Arc;
use std::time::Instant;
use transport::rdma::{Choice, Device, Endpoint, Link, Pages, Region, RemoteAccess};

/// Pushes that may be on their way at once.
pub(crate) const PUSHES_MAX: u32 = 128;

/// Registered memory.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) span: RawSpan,
    pub(crate) region: Arc<Region>,
}

impl Memory {
    fn new(device: &Device, len: usize, access: RemoteAccess) -> Result<Self, ClientError> {
        let failed = |source: std::io::Error| no_rdma(format!("memory cannot be registered: {source}"));
        let memory: Arc<dyn StableMemory> = Pages::new(len).map_err(failed)?;
        let span = RawSpan::new(Arc::clone(&memory), 0, len).ok_or_else(|| no_rdma("no memory".into()))?;
        Ok(Self { span, region: Region::register(&device.domain, memory, access).map_err(failed)? })
    }

    /// `length` bytes at `offset`.
    pub(crate) fn transfer(&self, offset: usize, length: usize) -> Own {
        Own { region: Arc::clone(&self.region), offset, length, remote: self.region.remote(offset) }
    }
}

/// See the module's text. One for all sessions of a client.
#[derive(Debug)]
pub(crate) struct Adapter {
    pub(crate) device: Arc<Device>,
    /// What the server reads.
    pub(crate) out: Memory,
    /// What the server writes.
    pub(crate) landing: Memory,
}

/// What cannot be had, and why.
pub(crate) fn no_rdma(reason: String) -> ClientError {
    ClientError::NoTransport { wanted: "RDMA", reason }
}

impl Adapter {
    /// Opens the device and registers `len` bytes for each direction.
    fn open(options: &Options) -> Result<Arc<Self>, ClientError> {
        let choice = Choice { device: options.rdma_device.clone(), gid_index: None };
        let device = Device::open(&choice).map_err(|error| no_rdma(error.to_string()))?;
        let len = usize::try_from(ByteLen(options.buffer_len.max(1)).get().next_multiple_of(4096))
            .map_err(|_| no_rdma("`buffer_len` is more than this machine can address".into()))?;
        let out = Memory::new(&device, len, RemoteAccess { read: true, ..RemoteAccess::default() })?;
        let landing = Memory::new(&device, len, RemoteAccess { write: true, ..RemoteAccess::default() })?;
        Ok(Arc::new(Self { device, out, landing }))
    }

    /// Bytes for each direction.
    pub(crate) fn len(&self) -> usize {
        self.out.span.len()
    }
}

/// A session's queue pair.
#[derive(Debug)]
pub(crate) struct RdmaLink {
    // Ended before the memory that it reaches can go.
    pub(crate) link: Link,
    /// Whether the server lends windows.
    pub(crate) windows: bool,
    pub(crate) adapter: Arc<Adapter>,
}

/// Attaches RDMA to a connection.
pub(crate) fn attach(
    options: &Options,
    control: &mut Control,
    adapter: &mut Option<Arc<Adapter>>,
    deadline: Deadline,
) -> Result<RdmaLink, ClientError> {
    if options.tls.is_some() {
        return Err(no_rdma("it is not encrypted, and the connection is".into()));
    }
    let adapter = match adapter {
        Some(adapter) => Arc::clone(adapter),
        None => Arc::clone(adapter.insert(Adapter::open(options)?)),
    };
    let failed = |source: &dyn std::fmt::Display| no_rdma(format!("device {}: {source}", adapter.device.name));
    let mut link = Link::new(&adapter.device, PUSHES_MAX).map_err(|error| failed(&error))?;
    let Endpoint { qpn, psn, gid, lid, mtu, reads } = link.endpoint().map_err(|error| failed(&error))?;
    let attach = Attach::Rdma(RdmaEnd { qpn, psn, gid, lid, mtu, reads });
    control.request(|out| attach.encode(out));
    control.flush(deadline)?;
    let (theirs, windows) = match next_on(control, deadline, read_attached) {
        Err(ClientError::Wire { word, text }) => return Err(no_rdma(format!("the server answered {word} {text}"))),
        other => other?,
    };
    link.connect(&theirs).map_err(|error| failed(&error))?;
    // Who would also take TCP has time left for it.
    let now = Instant::now();
    let left = deadline.at.saturating_duration_since(now);
    let until = now + if options.via == Via::Rdma { left } else { left / 2 };
    link.probe(until).map_err(|error| failed(&format!("the server's device does not answer: {error}")))?;
    Ok(RdmaLink { link, windows, adapter })
}

fn read_attached(walk: &mut Walk<'_>) -> Result<(Endpoint, bool), Unexpected> {
    let mut end = Endpoint { qpn: 0, psn: 0, gid: [0; 16], lid: 0, mtu: 0, reads: 0 };
    let mut windows = false;
    let small = |number: u64| u32::try_from(number).map_err(|_| Unexpected("a number of 32 bits"));
    let byte = |number: u64| u8::try_from(number).map_err(|_| Unexpected("a number of 8 bits"));
    for _ in 0..walk.map()? {
        match walk.bytes()? {
            b"qpn" => end.qpn = small(walk.unsigned()?)?,
            b"psn" => end.psn = small(walk.unsigned()?)?,
            b"gid" => end.gid = RdmaEnd::parse_gid(walk.bytes()?).ok_or(Unexpected("a GID of 32 hex digits"))?,
            b"lid" => end.lid = u16::try_from(walk.unsigned()?).map_err(|_| Unexpected("a LID"))?,
            b"mtu" => end.mtu = byte(walk.unsigned()?)?,
            b"reads" => end.reads = byte(walk.unsigned()?)?,
            b"windows" => windows = walk.unsigned()? != 0,
            _ => walk.skip()?,
        }
    }
    Ok((end, windows))
}
