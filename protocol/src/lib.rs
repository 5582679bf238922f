//! Words of the KV-cache server: ids, units, locators, RESP, commands. No I/O.

pub mod base;
pub mod command;
pub mod resp;
