//! Decisions: connections, leases, placement. The only crate that knows RESP, storage and transport together.
//!
//! Role: a command goes down through the layers once and comes back once: `conn` frames it, `dispatch` finds its function
//! in `handler`, which talks to `storage` and `transport`.

pub mod allocator;
pub mod cli;
pub mod config;

mod acl;
mod arena;
mod bulk;
mod census;
mod clients;
mod clock;
mod conn;
mod decimal;
mod dispatch;
mod doctor;
mod drain;
mod error;
mod events;
mod fabrics;
mod flash;
mod gate;
mod glob;
mod handler;
mod http;
mod latency;
mod listen;
mod loading;
mod node;
mod pause;
mod pubsub;
mod rdb;
mod rdma;
mod recover_only;
mod run;
mod sampler;
mod session;
mod slow;
mod stage;
mod stats;
mod supervise;
mod tls;
mod topology;
mod upkeep;
mod warm;
mod worker;

pub use doctor::doctor;
pub use node::{Node, Surroundings};
pub use recover_only::recover_only;
pub use run::run;
