//! Inner errors become words on the wire here, and nowhere else.

use protocol::resp::{ErrorWord, WireError};
use storage::StoreError;
use storage::flash::tier::FlashError;

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

/// The word and text of what the flash tier could not do.
pub(crate) fn flash(error: &FlashError) -> WireError {
    let word = match error {
        FlashError::Config(_) | FlashError::Io { .. } | FlashError::Fabric(_) => ErrorWord::Err,
        FlashError::Locked { .. } | FlashError::Off { .. } | FlashError::Closed => ErrorWord::Busy,
        FlashError::NoRoom { .. } => ErrorWord::Oom,
        FlashError::NoRoomElsewhere { .. }
        | FlashError::CannotDrain { .. }
        | FlashError::Draining { .. }
        | FlashError::CalledOff => ErrorWord::Busy,
        FlashError::Gone => ErrorWord::Stale,
        FlashError::NoDevice { .. } | FlashError::NotDraining { .. } | FlashError::Unformatted { .. } => {
            ErrorWord::Denied
        }
        FlashError::Store(error) => return wire(error),
    };
    WireError::new(word, error.to_string())
}
