//! A shared-memory session by hand: descriptors, mappings, and reads that nobody checks.

use crate::raw::{Raw, Value};
use protocol::base::copy_from;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags};
use std::io;
use std::path::Path;
use std::sync::Arc;
use transport::shm::{Mapping, Populate, map_read_only};

/// See the module's text.
#[derive(Debug)]
pub struct RawShm {
    /// The Unix socket.
    pub raw: Raw,
    segments: Vec<Arc<Mapping>>,
    /// The rings' memory, and the eventfds that wake server and client.
    pub ring: Vec<OwnedFd>,
}

/// A memfd of `len` bytes with these seals.
///
/// # Panics
/// If the kernel refuses.
pub fn memfd(len: u64, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("mooncake-client", flags).expect("a memfd");
    rustix::fs::ftruncate(&fd, len).expect("a length");
    rustix::fs::fcntl_add_seals(&fd, seals).expect("seals");
    fd
}

/// A memfd as the server takes it.
///
/// # Panics
/// If the kernel refuses.
pub fn sealed_memfd(len: u64) -> OwnedFd {
    memfd(len, SealFlags::SHRINK | SealFlags::GROW)
}

impl RawShm {
    /// Attaches with these buffers.
    ///
    /// # Errors
    /// As the connection fails; `Other` with the server's words if it refuses.
    pub fn attach(path: &Path, buffers: &[BorrowedFd<'_>]) -> io::Result<Self> {
        let count = buffers.len().to_string();
        Self::attach_by(path, &["ATTACH", "SHM", "BUFFERS", &count], buffers)
    }

    /// Attaches with these words, which name as many buffers as there are.
    ///
    /// # Errors
    /// As [`RawShm::attach`].
    pub fn attach_by(path: &Path, words: &[&str], buffers: &[BorrowedFd<'_>]) -> io::Result<Self> {
        let mut raw = Raw::unix(path)?;
        let reply = Self::try_attach(&mut raw, words, buffers)?;
        if let Value::Error(line) = &reply {
            return Err(io::Error::other(line.clone()));
        }
        let mut fds = std::mem::take(&mut raw.fds).into_iter();
        let mut segments = Vec::new();
        for segment in reply.field("segments").items() {
            let len = usize::try_from(segment.field("length").number()).map_err(io::Error::other)?;
            let fd = fds.next().ok_or_else(|| io::Error::other("a descriptor is missing"))?;
            segments.push(Arc::new(map_read_only(&fd, len, Populate::Lazy).map_err(io::Error::other)?));
        }
        Ok(Self { raw, segments, ring: fds.collect() })
    }

    /// Sends words with descriptors, and returns what is answered.
    ///
    /// # Errors
    /// As the connection fails.
    pub fn try_attach(raw: &mut Raw, words: &[&str], fds: &[BorrowedFd<'_>]) -> io::Result<Value> {
        raw.send_fds(&crate::wire::request(words), fds)?;
        raw.recv()
    }

    /// Copies what lies where a lease's locator points, unchecked.
    ///
    /// # Errors
    /// If the locator points nowhere.
    pub fn read(&self, lease: &Value) -> io::Result<Vec<u8>> {
        let locator = &lease.field("locators").items()[0];
        let number = |name| usize::try_from(locator.field(name).number()).map_err(io::Error::other);
        let (segment, offset, len) = (number("fd")?, number("offset")?, number("length")?);
        let mut bytes = vec![0; len];
        if len > 0 {
            let span = self.segments.get(segment).and_then(|segment| segment.span(offset, len));
            copy_from(&span.ok_or_else(|| io::Error::other("a locator outside the segments"))?, &mut bytes);
        }
        Ok(bytes)
    }

    /// Writes into the rings' memory.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn write_ring(&self, at: u64, bytes: &[u8]) {
        let written = rustix::io::pwrite(&self.ring[0], bytes, at).expect("a ring's memory can be written");
        assert_eq!(written, bytes.len(), "bytes written");
    }

    /// Wakes the server's side of the ring.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn wake(&self) {
        rustix::io::write(self.ring[1].as_fd(), &1u64.to_le_bytes()).expect("an eventfd takes a number");
    }
}
