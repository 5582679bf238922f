//! Shared memory on one host: segments that clients map, buffers that clients lend, rings that carry control.
//!
//! Role: turns a memfd into memory that two processes that do not trust each other can both use, and gets fds from
//! one to the other.
//!
//! Invariants:
//! - A memfd is mapped only once it cannot shrink, so that no peer can make an access end in SIGBUS.
//! - What a peer can write is only ever copied out, never referenced.
//! - At most one write to an eventfd for each time a peer went to sleep, and never none.

#![expect(unsafe_code, reason = "raw access to memory shared with another process")]

mod buffer;
pub mod fds;
mod memfd;
pub mod ring;
mod transport;

pub use buffer::{AdoptError, BufferRegion, ClientBuffer, PeerBuffer};
pub use fds::{FDS_PER_MESSAGE_MAX, peer_uid, recv_with_fds, send_with_fds};
pub use memfd::{Mapping, Populate, ShmError, map_read_only, map_writable, seal_segment, seal_writable_segment};
pub use ring::{
    BlockingRing, Need, RING_LEN_DEFAULT, RingEnd, RingError, RingFds, RingLayout, ServerRing, SpinBudget, create_ring,
};
pub use transport::{ShmTransport, WriteMode};

/// Memory for a test of any module.
#[cfg(test)]
pub(crate) fn anonymous(len: usize) -> std::sync::Arc<Mapping> {
    let fd = memfd::create("mooncake-test", len as u64).expect("made");
    std::sync::Arc::new(memfd::map(&fd, len, Populate::Lazy, true).expect("mapped"))
}
