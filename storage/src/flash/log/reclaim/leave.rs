//! A device that is let go: what it holds goes elsewhere.

use super::super::Log;
use super::super::segment::State;
use super::Copy;
use protocol::base::{Crc, Millis, copy_and_crc, copy_into};

/// How long a device that is let go waits for room for one object, while others are written to.
pub(crate) const LEAVE_PATIENCE: Millis = Millis(10_000);

impl Log {
    /// Whether nothing is left that the index could know of.
    pub(in crate::flash::log) fn is_left(&self) -> bool {
        let left = |state: &State| state.is_free() || matches!(state, State::Quarantined(_));
        self.reclaim.is_none() && self.segments.iter().all(|segment| left(&segment.state))
    }

    /// Brings the object of a record into DRAM, where it stays when the record is dropped. `false` if there is no room yet.
    pub(super) fn keep_in_dram(&mut self, copy: &Copy) -> bool {
        let read = self.store.flash_prefetch(self.now, &copy.keep.key);
        let Some(read) = read.filter(|read| read.generation == copy.keep.row.generation) else { return true };
        let Ok(promotion) = self.store.promote(self.now, &read, &self.account) else { return false };
        let to = promotion.span();
        if copy.layout.inline {
            copy_into(&copy.inline, &to);
        } else {
            let from =
                copy.span().part(copy.layout.header_len(), to.len()).expect("the payload lies behind the header");
            copy_and_crc(&from, &to, Crc::default());
        }
        // Whoever removed the object meanwhile wanted it gone. What is there is dirty before anybody can evict it.
        let _guard = promotion.publish(self.now);
        let place = self.place(copy.from, copy.keep.row.page);
        self.store.drop_record(&copy.keep.key, copy.keep.row.generation, place);
        true
    }
}
