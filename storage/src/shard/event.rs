//! What happened to objects by itself: they expired, were evicted, or moved between the tiers.
//!
//! Invariants:
//! - Nothing is noted while nobody listens, and never more than [`EVENTS_MAX`] between two looks: what is too much is counted.

use super::Shard;
use super::flash::FLASH;
use crate::dram::space::Space;

/// Events of one shard that wait to be taken.
const EVENTS_MAX: usize = 4096;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its life ended.
    Expired,
    /// It was dropped for others.
    Evicted,
    /// It left DRAM and lies on flash alone.
    Demoted,
    /// It came back into DRAM.
    Promoted,
}

/// What happened, and to which key.
pub(crate) type Noted = (Event, Box<[u8]>);

/// Events that nobody has taken yet.
#[derive(Debug, Default)]
pub(crate) struct Events {
    listening: bool,
    noted: Vec<Noted>,
    lost: u64,
}

impl Events {
    pub(crate) fn listen(&mut self, on: bool) {
        self.listening = on;
        if !on {
            self.noted = Vec::new();
        }
    }

    /// What was noted, and how much was too much.
    pub(crate) fn take(&mut self) -> (Vec<Noted>, u64) {
        (std::mem::take(&mut self.noted), std::mem::take(&mut self.lost))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.noted.iter().map(|(_, key)| key.len() + size_of::<Noted>()).sum()
    }
}

impl Shard {
    /// Something happened to an object of either tier, whose entry is still there.
    #[inline]
    pub(super) fn note_event(&mut self, event: Event, handle: u32, space: &Space) {
        if self.events.listening {
            self.keep_event(event, handle, space);
        }
    }

    #[cold]
    fn keep_event(&mut self, event: Event, handle: u32, space: &Space) {
        if self.events.noted.len() == EVENTS_MAX {
            self.events.lost += 1;
            return;
        }
        let key = if handle & FLASH == 0 {
            self.with_key(handle, space, |key| key.into())
        } else {
            self.flash.key(handle & !FLASH).into()
        };
        self.events.noted.push((event, key));
    }
}
