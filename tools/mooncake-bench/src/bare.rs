//! Bare transports: what a server that does nothing but move bytes reaches on this machine.
//!
//! Role: the figures that a server's are held against. Two processes as with a real server: this one, and a copy of it
//! started with the hidden command `bare-server`, which gets its job and its descriptors through a Unix socket on its
//! standard input, and ends when that closes.
//!
//! - [`stream`]: requests of 64 bytes and payloads over loopback TCP or a Unix socket;
//! - [`shm`]: requests over a [`control`] channel, payloads copied by the CPU in memory that both map;
//! - [`exchange`](shm::ShmPair::exchange): the control channel alone.

pub(crate) mod control;
pub(crate) mod process;
pub(crate) mod rdma;
pub(crate) mod shm;
pub(crate) mod stream;

/// Bytes of distinct values that a bare server holds: larger than the caches.
pub(crate) const POOL_BYTES: usize = 256 << 20;

/// A number whose multiples visit places in an order that no prefetcher guesses.
pub(crate) fn scatter(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}
