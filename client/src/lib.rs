//! The client library: a blocking handle on one node of the cache.
//!
//! ```no_run
//! use client::{Client, Options, PutOptions};
//!
//! # fn main() -> Result<(), client::ClientError> {
//! let mut client = Client::connect(Options::new("127.0.0.1:6379".parse()?))?;
//! client.put(b"block:1", &[7; 4096], &PutOptions::default())?;
//! let mut buffer = vec![0; 4096];
//! if let Some(verified) = client.fetch(b"block:1", &mut buffer)? {
//!     assert_eq!(verified.bytes(), [7; 4096]);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Role: speaks RESP for control and moves bulk bytes by shared memory, RDMA, bulk TCP or in-band, whichever the server and
//! the machine offer. One handle serves one thread; several handles share nothing.
//!
//! Invariants:
//! - Every exchange has a deadline. After one that broke off in the middle the connection is never used again; the next
//!   call makes a new one.
//! - Bytes of an object reach the caller as [`Verified`] only after generation, checksum and the lease's end were
//!   checked, the end counted from before the lease was asked for.
//! - A batch is one exchange a step, however many items it has.

mod batch;
mod call;
mod clock;
mod connect;
mod error;
mod fetch;
mod inband;
mod lease;
mod link;
mod options;
mod put;
mod query;
mod rdma;
mod region;
mod reply;
mod scan;
mod session;
#[cfg(test)]
mod tests;
mod tls;
mod verified;

pub use call::Client;
pub use error::ClientError;
pub use lease::{Lease, Lookup};
pub use options::{Address, Choice, Options, ParseAddressError};
pub use put::{Committed, Grant, PutOptions};
pub use query::Stat;
pub use rdma::{Landed, Registered};
pub use region::Region;
pub use reply::Reply;
pub use session::Transport;
pub use tls::Tls;
pub use verified::Verified;
