//! What tests in the guest stand on: what its first program is told, and the devices it has.
//!
//! `cargo xtask guest` builds on the host, boots one guest and runs every test of this package, and of the others that
//! `tools/xtask/src/guest/suite.rs` lists, that is marked `#[ignore = "guest: …"]`. Elsewhere `cargo test` shows them as ignored.
//!
//! Invariants:
//! - The guest sees the host's files as they were when it began and can change none of them.
//! - Nothing of a guest outlives it.

pub mod drive;
pub mod plan;
pub mod report;
