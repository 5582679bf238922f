//! Decisions: connections, leases, placement. The only crate that knows RESP, storage and transport together.

pub mod cli;
pub mod config;
