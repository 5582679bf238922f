//! Warm restarts: segments in files of a memory file system, which the next life of the node takes over.
//!
//! Role: [`WarmDir`] keeps the files, [`Store::freeze`](crate::Store::freeze) writes down what lies in them at a planned end,
//! and an [`Adoption`] puts it into the store of the next life.
//!
//! ```text
//!            begin (manifest removed)                 freeze (manifest renamed into place)
//!   cold ───────────────────────────────▶ in use ───────────────────────────────────────────▶ at rest
//!     ▲                                   ▲  │ crash, SHUTDOWN NOSAVE, no room                    │
//!     └───────────────────────────────────┼──┘                                                    │
//!     ▲                                   └───── begin, adopt ◀─── the manifest fits ─────────────┤
//!     └───────────────────────────────────────────────────────── it does not, or is damaged ──────┘
//! ```
//!
//! Invariants:
//! - There is a manifest only while nobody uses the memory: it is removed before a byte there changes, and appears whole
//!   after the last change. Without one nothing is believed.
//! - Nothing of the manifest is believed unless all of it is as it was written; no object unless its slot says the same
//!   (generation, length, key, checksum, before and behind the payload) and the bytes of its payload have that checksum.
//! - What is adopted keeps its generation, and every generation given out later is greater. Leases, grants and graces end
//!   with the life that gave them.

mod adopt;
mod dir;
mod freeze;
pub(crate) mod manifest;
#[cfg(test)]
mod tests;

pub use adopt::{Adopted, Adoption};
pub use dir::{WarmDir, WarmError};
pub use freeze::Life;
pub use manifest::{Cold, Layout, Manifest};
