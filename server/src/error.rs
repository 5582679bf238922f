//! Inner errors become words on the wire here, and nowhere else.

use protocol::resp::{ErrorWord, WireError};
use storage::StoreError;

/// The word and text a client sees. Every error of the store chooses its word here.
pub(crate) fn wire(error: &StoreError) -> WireError {
    let word = match error {
        StoreError::NoSpace { .. } | StoreError::SpillWait { .. } => ErrorWord::Oom,
        StoreError::Exists { .. } => ErrorWord::Exists,
        StoreError::Condition => ErrorWord::Err,
        StoreError::TooBig { .. } | StoreError::KeyLen { .. } => ErrorWord::TooBig,
        StoreError::Quota { .. } => ErrorWord::Quota,
        StoreError::NoGrant => ErrorWord::NoGrant,
        StoreError::Busy | StoreError::TooManyUsers => ErrorWord::Busy,
        StoreError::Range { .. } => ErrorWord::Err,
        StoreError::Crc { .. } => ErrorWord::Crc,
        StoreError::NoLease => ErrorWord::NoLease,
    };
    WireError::new(word, error.to_string())
}

/// The same, by value, for `map_err`.
pub(crate) fn refused(error: StoreError) -> WireError {
    wire(&error)
}
