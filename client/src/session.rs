//! A connection with the bulk transport that was attached to it.
//!
//! Invariants:
//! - Leases, grants and mapped segments belong to one session and are of no use in the next.
//! - A batch of several commands goes out only once the server is known to have loaded.
//! - A lease that a call is done with is released with the next request that goes out, not in an exchange of its own.

use crate::ClientError;
use crate::link::{Deadline, Link, unexpected, walk_check};
use crate::rdma::RdmaLink;
use crate::scan::{Unexpected, Walk};
use bytes::BytesMut;
use protocol::base::LeaseId;
use protocol::command::{MRelease, Release};
use protocol::resp::{Encoder, ErrorWord};
use std::sync::Arc;
use transport::shm::Mapping;
use transport::tcp::BulkPool;

/// From this length on an object is written in place, where the server lets its clients. A shorter one is copied through
/// own memory, which stays in the cache, sooner than it is written to a slot that is in none and summed there.
const IN_PLACE_LEN_MIN: usize = 8 << 20;

/// How bulk bytes travel on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In RESP.
    InBand,
    /// Shared memory.
    Shm,
    /// RDMA.
    Rdma,
    /// Bulk TCP.
    Tcp,
}

/// The way of bulk bytes.
#[derive(Debug)]
pub(crate) enum Bulk {
    None,
    /// The server's segments, by the number that locators give for `fd`.
    Shm {
        segments: Vec<Arc<Mapping>>,
        /// Arena mode: the segments are mapped writable, and what was granted is written there.
        in_place: bool,
    },
    Rdma(Box<RdmaLink>),
    Tcp(BulkPool),
}

/// One connection and what belongs to it.
#[derive(Debug)]
pub(crate) struct Session {
    /// Which of the client's connections this is, from 1.
    pub(crate) number: u64,
    /// Control: the ring if there is one, else the socket.
    pub(crate) control: Link,
    /// The socket beside a ring: large in-band values go there.
    pub(crate) socket: Option<Link>,
    pub(crate) bulk: Bulk,
    /// Leases that are done with.
    pub(crate) releases: Vec<LeaseId>,
    /// Whether the server is known to have loaded what it had.
    pub(crate) has_loaded: bool,
}

impl Session {
    pub(crate) fn transport(&self) -> Transport {
        match self.bulk {
            Bulk::None => Transport::InBand,
            Bulk::Shm { .. } => Transport::Shm,
            Bulk::Rdma(_) => Transport::Rdma,
            Bulk::Tcp(_) => Transport::Tcp,
        }
    }

    /// Whether an object of `len` bytes is better written where it was granted than gathered in own memory first.
    pub(crate) fn writes_in_place(&self, len: usize) -> bool {
        matches!(self.bulk, Bulk::Shm { in_place: true, .. }) && len >= IN_PLACE_LEN_MIN
    }

    /// Where in-band values go.
    pub(crate) fn in_band(&mut self) -> &mut Link {
        self.socket.as_mut().unwrap_or(&mut self.control)
    }

    /// Makes sure, once a connection, that no command will be answered `LOADING`: where several go out at once, some might
    /// be refused and those behind them done.
    ///
    /// # Errors
    /// `LOADING`; as the connection fails.
    pub(crate) fn await_loaded(&mut self, deadline: Deadline) -> Result<(), ClientError> {
        if self.has_loaded {
            return Ok(());
        }
        let question = |out: &mut BytesMut| {
            Encoder::encode(out, |out| {
                out.word("DBSIZE");
            });
        };
        match self.exchange(question, deadline, |walk| walk.skip()) {
            Err(error) if error.breaks_connection() || error.word() == Some(ErrorWord::Loading) => Err(error),
            // Any other answer, a refusal too, comes from a server that serves.
            _ => {
                self.has_loaded = true;
                Ok(())
            }
        }
    }

    /// Sends what waits on the control connection, and the releases behind it.
    pub(crate) fn flush(&mut self, deadline: Deadline) -> Result<(), ClientError> {
        match self.releases[..] {
            [] => {}
            [lease] => self.control.request_unheard(|out| Release { lease }.encode(out)),
            _ => {
                let batch = MRelease { leases: std::mem::take(&mut self.releases) };
                self.control.request_unheard(|out| batch.encode(out));
                self.releases = batch.leases;
            }
        }
        self.releases.clear();
        self.control.flush(deadline)
    }

    /// The next reply on the control connection, read by `read`.
    pub(crate) fn next<T>(
        &mut self,
        deadline: Deadline,
        read: impl FnOnce(&mut Walk<'_>) -> Result<T, Unexpected>,
    ) -> Result<T, ClientError> {
        next_on(&mut self.control, deadline, read)
    }

    /// As [`next`](Self::next), where a null means a miss.
    pub(crate) fn next_or_null<T>(
        &mut self,
        deadline: Deadline,
        read: impl FnOnce(&mut Walk<'_>) -> Result<T, Unexpected>,
    ) -> Result<Option<T>, ClientError> {
        self.next(deadline, |walk| if walk.is_null() { Ok(None) } else { read(walk).map(Some) })
    }

    /// One request, one reply.
    pub(crate) fn exchange<T>(
        &mut self,
        encode: impl FnOnce(&mut BytesMut),
        deadline: Deadline,
        read: impl FnOnce(&mut Walk<'_>) -> Result<T, Unexpected>,
    ) -> Result<T, ClientError> {
        self.control.request(encode);
        self.flush(deadline)?;
        self.next(deadline, read)
    }
}

/// The next reply on `link`, read by `read`.
pub(crate) fn next_on<T>(
    link: &mut Link,
    deadline: Deadline,
    read: impl FnOnce(&mut Walk<'_>) -> Result<T, Unexpected>,
) -> Result<T, ClientError> {
    let address = Arc::clone(link.address());
    let mut walk = link.next(deadline)?;
    walk_check(walk)?;
    read(&mut walk).map_err(|what| unexpected(&address, what))
}
