//! The part of libibverbs that the `ibverbs` crate and `transport::rdma` call, found at run time.
//!
//! Role: stands in for the crate of this name, which links libibverbs and builds rdma-core's headers. With this one a
//! program builds without either and starts without either; [`missing`] says in one line what a machine lacks.
//! `[patch.crates-io]` in the workspace's `Cargo.toml` puts it under `ibverbs`.
//!
//! Invariants:
//! - Layouts are those of rdma-core's `verbs.h`, whose ABI is stable; `tests/layout.rs` compares them with the header
//!   where there is one.
//! - A function of a library that is not there answers as libibverbs answers without RDMA: null or `ENOSYS`.

#![expect(unsafe_code, reason = "foreign functions")]
#![expect(non_camel_case_types, reason = "names of the verbs specification")]
#![expect(missing_docs, reason = "rdma-core's manual pages describe them: ibv_post_send(3) and so on")]

mod library;
mod ops;
mod types;

pub use library::*;
pub use ops::*;
pub use types::*;
