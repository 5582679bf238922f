//! What tests of more than one crate share: the real server, bare connections of every kind, other people's programs, and
//! campaigns of faults.

pub mod bulk;
pub mod campaign;
pub mod certs;
pub mod dram_dir;
pub mod flash_campaign;
pub mod http;
pub mod info;
pub mod payload;
pub mod peer;
pub mod raw;
pub mod redis_server;
pub mod sample;
pub mod sandbox;
pub mod server;
pub mod shm;
pub mod wire;

pub use dram_dir::DramDir;
pub use raw::{Raw, Value};
pub use server::Server;
pub use wire::Wire;
