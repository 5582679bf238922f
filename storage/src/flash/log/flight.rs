//! The table of I/O in flight: who owns what the device may still touch.
//!
//! Invariants:
//! - A flight leaves the table only with its answer.

use super::adopt::Adoption;
use super::append::SpillFlight;
use super::health::Stage;
use super::read::ReadFlight;
use super::reclaim::Copy;
use crate::dram::memory::PlainMemory;
use crate::flash::engine::Scratch;
use std::sync::Arc;

/// One I/O and everything that it needs to stay where it is.
pub(super) enum Flight {
    /// A record's read.
    Read(Box<ReadFlight>),
    /// A record's write.
    Spill(Box<SpillFlight>),
    /// The header page of a new life.
    Begin { segment: u32, page: Scratch },
    /// The same, being read back once it is synced.
    Proof { segment: u32, page: Scratch },
    /// A footer's write.
    Footer { segment: u32, memory: Arc<PlainMemory> },
    /// A footer's read, before a reclaim.
    Table { segment: u32, memory: Arc<PlainMemory> },
    /// A record that is to be reinserted, being read.
    CopyRead(Box<Copy>),
    /// The same, being written.
    CopyWrite(Box<Copy>),
    /// A record of another device, being written.
    Adoption(Box<Adoption>),
    /// A sync of the writes up to a number.
    Sync { covers: u64 },
    /// A probe of a device that is off.
    Probe { stage: Stage, page: Option<Scratch> },
}

/// Flights by tag.
#[derive(Default)]
pub(super) struct Flights {
    all: Vec<Option<Flight>>,
    vacant: Vec<usize>,
}

impl Flights {
    /// Takes a flight in; its tag.
    pub(super) fn launch(&mut self, flight: Flight) -> u64 {
        let at = self.vacant.pop().unwrap_or_else(|| {
            self.all.push(None);
            self.all.len() - 1
        });
        self.all[at] = Some(flight);
        at as u64
    }

    /// Gives a flight back.
    ///
    /// # Panics
    /// If it is not under way: the engine answered twice.
    pub(super) fn land(&mut self, tag: u64) -> Flight {
        let at = usize::try_from(tag).expect("tags are indices");
        let flight = self.all[at].take().unwrap_or_else(|| panic!("flight {tag} landed twice"));
        self.vacant.push(at);
        flight
    }

    /// Flights under way.
    pub(super) fn len(&self) -> usize {
        self.all.len() - self.vacant.len()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
