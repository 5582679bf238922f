//! The caller's own memory, registered once, that objects are put from and fetched into without a copy.

use super::{Own, publish, pushed};
use crate::call::Repeat;
use crate::link::Deadline;
use crate::put::{Committed, PutOptions};
use crate::session::{Bulk, Session};
use crate::{Client, ClientError};
use protocol::base::{Crc, Generation, RawSpan, StableMemory, copy_from, copy_into, crc_of};
use std::sync::Arc;
use transport::rdma::{Region, RemoteAccess};

/// Memory of the caller's that the device reaches, for as long as this or the client lives.
#[derive(Clone, Debug)]
pub struct Registered {
    span: RawSpan,
    /// `None` where the client's transport needs no registration.
    region: Option<Arc<Region>>,
}

impl Registered {
    /// Bytes of it.
    pub fn len(&self) -> usize {
        self.span.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.span.is_empty()
    }

    fn part(&self, offset: usize, length: usize) -> Result<RawSpan, ClientError> {
        let needed = (offset as u64).saturating_add(length as u64);
        self.span.part(offset, length).ok_or(ClientError::BufferTooSmall { needed, has: self.span.len() })
    }

    fn own(&self, offset: usize, length: usize) -> Option<Own> {
        let region = self.region.as_ref()?;
        Some(Own { region: Arc::clone(region), offset, length, remote: region.remote(offset) })
    }
}

/// An object that lies in registered memory and was proven there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Landed {
    /// Which placement of the object it is.
    pub generation: Generation,
    /// Bytes.
    pub len: usize,
    /// Their checksum.
    pub crc: Crc,
}

fn over_rdma(session: &Session) -> bool {
    matches!(session.bulk, Bulk::Rdma(_))
}

impl Client {
    /// Registers memory that objects will be put from and fetched into. Do it once: it locks the memory's pages, and takes
    /// long. Over other transports than RDMA nothing has to be registered, and bytes are copied.
    ///
    /// The server may write all of it while this client is connected.
    ///
    /// # Errors
    /// [`ClientError::NoTransport`] if the memory cannot be locked, with the limit that is in the way.
    pub fn register(&mut self, memory: Arc<dyn StableMemory>) -> Result<Registered, ClientError> {
        self.session(Deadline::after(self.options.deadline))?;
        let len = memory.len();
        let span = RawSpan::new(Arc::clone(&memory), 0, len).expect("all of it");
        let access = RemoteAccess { read: true, write: true, windows: false };
        let region = self.adapter.as_ref().map(|adapter| Region::register(&adapter.device.domain, memory, access));
        let region = region.transpose().map_err(|error| super::adapter::no_rdma(error.to_string()))?;
        Ok(Registered { span, region })
    }

    /// Publishes an object that lies in registered memory.
    ///
    /// # Errors
    /// As [`put`](Self::put); [`ClientError::BufferTooSmall`] if the bytes run past the memory's end.
    pub fn put_registered(
        &mut self,
        key: &[u8],
        (memory, offset, len): (&Registered, usize, usize),
        options: &PutOptions<'_>,
    ) -> Result<Committed, ClientError> {
        let span = memory.part(offset, len)?;
        let crc = crc_of(&span);
        if let Some(own) = memory.own(offset, len) {
            let put = self.call(options.repeat(), |session, deadline| {
                if !over_rdma(session) {
                    return Ok(None);
                }
                publish(session, (key, options), (own.clone(), crc), deadline).map(Some)
            });
            if let Some(committed) = put? {
                return Ok(committed);
            }
        }
        let mut bytes = vec![0; len];
        copy_from(&span, &mut bytes);
        self.put(key, &bytes, options)
    }

    /// Fetches an object into registered memory, from `offset` on, where there is room for `room` bytes, and proves it there;
    /// `None` if there is none. After an error what lies there is no object's.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub fn fetch_registered(
        &mut self,
        key: &[u8],
        (memory, offset, room): (&Registered, usize, usize),
    ) -> Result<Option<Landed>, ClientError> {
        let span = memory.part(offset, room)?;
        if let Some(own) = memory.own(offset, room) {
            let fetched = self.call(Repeat::Harmless, |session, deadline| {
                if !over_rdma(session) {
                    return Ok(None);
                }
                let Some((pushed, span)) = pushed(session, key, &own, deadline)? else { return Ok(None) };
                let Some(pushed) = pushed else { return Ok(Some(None)) };
                let promise = pushed.promise();
                let len = usize::try_from(promise.length).unwrap_or(usize::MAX);
                let bytes =
                    span.part(0, len).ok_or(ClientError::BufferTooSmall { needed: promise.length, has: room })?;
                promise.prove(crc_of(&bytes), promise.generation)?;
                Ok(Some(Some(Landed { generation: promise.generation, len, crc: promise.crc })))
            });
            if let Some(landed) = fetched? {
                return Ok(landed);
            }
        }
        let mut buffer = vec![0; room];
        let Some(verified) = self.fetch(key, &mut buffer)? else { return Ok(None) };
        let len = verified.len();
        copy_into(&verified, &span.part(0, len).expect("it fitted the buffer"));
        Ok(Some(Landed { generation: verified.generation(), len, crc: verified.crc() }))
    }
}
