//! Ids, units, locators, time and memory: what every layer means by the same word.
//!
//! Role: the only module that `storage` and `transport` share. It knows nobody.
//!
//! Invariants:
//! - A number that counts something has a type of its own; conversions are named and checked.
//! - Nothing here performs I/O or reads a clock.

mod checksum;
mod copy;
mod id;
mod lease_record;
mod locator;
mod mapping;
mod memory;
mod time;
mod unit;

pub use checksum::{Crc, ParseCrcError};
pub use copy::{STREAMING_LEN_MIN, copy_and_crc, copy_from, copy_into, copy_slice, crc_of};
pub use id::{Generation, GrantId, KEY_LEN_MAX, LeaseId, Lent, NodeId, ParseIdError, SegmentId, SessionId};
pub use lease_record::LeaseRecord;
pub use locator::{Locator, Via};
pub use mapping::{HUGE_PAGE, MapAccess, SharedMap};
pub use memory::{RawSpan, StableMemory};
pub use time::{Clock, Instant, Millis};
pub use unit::{ByteLen, ParseByteLenError};
