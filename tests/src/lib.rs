//! What tests of more than one crate share: the real server, a bare RESP connection, and other people's programs.

pub mod peer;
pub mod server;
pub mod wire;

pub use server::Server;
pub use wire::Wire;
