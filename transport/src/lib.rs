//! Bytes that move: shared memory, TCP and RDMA, and the trait that they implement.
//!
//! Role: everything by which a payload gets from one process to another without being a word of RESP. What may be
//! read or written, by whom and until when is decided in `server`; where the bytes stay, in `storage`.
//!
//! Invariants:
//! - A number, index or fd that came from a peer is a claim: it is checked once, where it enters.
//! - Memory that a peer may write is copied out raw, then checked; it is never seen as `&[u8]`.
//! - Nothing here names `storage` or `server`.

pub mod contract;
pub mod rdma;
pub mod region;
pub mod shm;
pub mod sim;
pub mod tcp;
pub mod topology;

pub use contract::{Access, Fence, Span, Transport, TransportError, Window, WindowId};
