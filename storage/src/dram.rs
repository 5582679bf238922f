//! DRAM: the segments, and who has which bytes of them.
//!
//! Role: hands out extents (whole pages) and slab slots (small values). What lies in them is `shard`'s business.

pub(crate) mod arena;
pub(crate) mod extent;
pub(crate) mod memory;
pub(crate) mod quota;
pub(crate) mod slab;
pub(crate) mod slot;
pub(crate) mod space;
