//! Bulk bytes over TCP: the frame, and the client's side of a bulk connection.
//!
//! Role: carries one-sided reads and writes where there is neither shared memory nor RDMA. The server's loop lives in
//! `server`, on its runtime; it speaks [`frame`] and asks [`TcpTransport`] what a peer may touch.
//!
//! Invariants:
//! - A write is acknowledged only when its bytes lie in the slot.
//! - A header is 64 bytes, so that a page-aligned payload stays as aligned in the stream as it is in memory.

mod bulk;
pub mod channel;
pub mod frame;
mod pool;
mod transport;

pub use bulk::{BulkConnection, BulkError, FRAMES_IN_FLIGHT_MAX, ReadAnswer, ReadPiece, WritePiece};
pub use pool::{BulkPool, STRIPE_LEN_MIN};
pub use transport::{Applying, TcpTransport};
