//! RDMA: one-sided reads and writes by a network adapter, with no CPU of the other side on the path.
//!
//! Role: [`RdmaTransport`] lends parts of segments to peers through memory windows, and pushes and pulls bytes by itself;
//! [`Link`] is the peer's side. Both stand on [`verbs`], which alone calls libibverbs, and on a [`Device`].
//!
//! Invariants:
//! - Segments are registered once, and no peer can reach them by that registration.
//! - A window is lent to one queue pair, for exactly a span; it is over when the device has said so, not before.
//! - What goes wrong on a queue pair ends that queue pair and concerns no other peer.
//! - Keys are credentials: they are never logged.

mod device;
mod link;
mod peer;
mod survey;
mod transport;
mod trial;
pub mod verbs;
pub mod windows;

pub use device::{Choice, Device, Gid, NoRdma, choose_gid};
pub use link::{Direction, Link, LinkError, PIECE_LEN_MAX, Transfer};
pub use peer::{Broken, Done};
pub use survey::{Surveyed, Usable, survey};
pub use transport::{RdmaStats, RdmaTerms, RdmaTransport, WindowUse};
pub use trial::{Defect, try_windows};
pub use verbs::{Endpoint, Limits, Pages, Region, Remote, RemoteAccess, Status};
