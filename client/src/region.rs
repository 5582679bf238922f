//! Memory to fill with an object before it is put.

use crate::{Client, ClientError, Transport};
use protocol::base::Crc;
use transport::shm::BufferRegion;

/// Memory that an object is written from. Where the client has a shared-memory session it lies in memory that the server
/// reads, so that putting it copies nothing on this side.
pub struct Region(pub(crate) Kind);

pub(crate) enum Kind {
    /// In the client's memfd.
    Shared(BufferRegion),
    /// Plain memory.
    Plain(Vec<u8>),
}

impl Region {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Kind::Shared(region) => region.as_slice(),
            Kind::Plain(bytes) => bytes,
        }
    }

    /// The bytes, to be filled.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Kind::Shared(region) => region.as_mut_slice(),
            Kind::Plain(bytes) => bytes,
        }
    }

    /// Bytes in the region.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether the region has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The checksum of the bytes as they are now.
    pub fn crc(&self) -> Crc {
        Crc::of(self.as_slice())
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if matches!(self.0, Kind::Shared(_)) { "shared" } else { "plain" };
        write!(f, "Region({} bytes, {kind})", self.len())
    }
}

impl Client {
    /// Memory for an object of `len` bytes.
    ///
    /// # Errors
    /// [`ClientError::BufferTooSmall`] if it should be shared and the client's own memory has no such run free: drop
    /// other regions, or raise `buffer_len`.
    pub fn buffer(&mut self, len: usize) -> Result<Region, ClientError> {
        if self.transport() != Some(Transport::Shm) {
            return Ok(Region(Kind::Plain(vec![0; len])));
        }
        match self.buffer.as_ref().map(|buffer| (buffer.take(len), buffer.len())) {
            Some((Some(region), _)) => Ok(Region(Kind::Shared(region))),
            Some((None, has)) => Err(ClientError::BufferTooSmall { needed: len as u64, has }),
            None => Ok(Region(Kind::Plain(vec![0; len]))),
        }
    }
}
