//! Records of another device, which is let go: written here, and counted here once they are durable.
//!
//! Invariants:
//! - The index points at a record's copy only after the copy was synced; until then the record it was made from counts.
//! - Each handover is answered once, and one that was not taken comes back whole.

use super::flight::Flight;
use super::reclaim::Copy;
use super::syncs::After;
use super::{Log, Ticket};
use crate::PAGE;
use crate::flash::engine::Engine;
use crate::store::flash::{FlashPlace, Reinsertion};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Who keeps what a device holds that is let go.
pub(crate) trait Heirs: Send + Sync {
    /// Hands a record to another device; it is answered later. `Some`: there is none that takes it now.
    fn take(&self, handover: Handover) -> Option<Handover>;
    /// Tells the device that a record came from.
    fn answer(&self, handed: Handed);
}

/// A verified record on its way from one device to another.
pub(crate) struct Handover {
    copy: Box<Copy>,
    from: FlashPlace,
    heirs: Arc<dyn Heirs>,
}

/// What became of a record that was handed over.
pub(crate) struct Handed {
    /// The reclaim that it is part of.
    pub(super) reclaim: u64,
    /// It was not taken.
    pub(super) back: Option<Box<Copy>>,
}

/// A handover being written.
pub(super) struct Adoption {
    handover: Handover,
    segment: u32,
    /// Number of the record in its segment.
    record: usize,
    reinsertion: Reinsertion,
}

impl Handover {
    pub(super) fn new(copy: Box<Copy>, from: FlashPlace, heirs: Arc<dyn Heirs>) -> Self {
        Self { copy, from, heirs }
    }

    pub(super) fn into_copy(self) -> Box<Copy> {
        self.copy
    }

    /// Bytes of the object.
    pub(crate) fn length(&self) -> u64 {
        self.copy.length()
    }

    /// It is durable elsewhere, or nobody wants it any more.
    fn settle(self) {
        let handed = Handed { reclaim: self.copy.reclaim(), back: None };
        self.heirs.answer(handed);
    }

    /// It is not taken.
    pub(crate) fn refuse(self) {
        let Self { copy, heirs, .. } = self;
        heirs.answer(Handed { reclaim: copy.reclaim(), back: Some(copy) });
    }
}

impl Log {
    /// Takes a record of another device; it is answered, whatever happens.
    pub(crate) fn adopt(&mut self, handover: Handover) {
        self.adoptions.push_back(handover);
    }

    /// Nothing is written at the moment.
    pub(super) fn refuse_adoptions(&mut self) {
        self.adoptions.drain(..).for_each(Handover::refuse);
    }

    pub(super) fn start_adoptions(&mut self, engine: &mut dyn Engine) {
        if self.keeps_room() {
            if self.is_full() {
                self.refuse_adoptions();
            }
            return;
        }
        while let Some(handover) = self.adoptions.pop_front() {
            if let Some(handover) = self.start_adoption(engine, handover) {
                self.adoptions.push_front(handover);
                return;
            }
        }
    }

    /// Writes it, or ends it. Gives it back if it has to wait for room.
    fn start_adoption(&mut self, engine: &mut dyn Engine, mut handover: Handover) -> Option<Handover> {
        let (layout, key_len) = (handover.copy.layout(), handover.copy.key().len());
        if !self.could_hold(layout, key_len) {
            handover.refuse();
            return None;
        }
        let Some((segment, page)) = self.room_for_copy(layout.pages(), key_len) else { return Some(handover) };
        let to = self.place(segment, page);
        let copy = &mut handover.copy;
        let Some(reinsertion) = self.store.reinsert(self.now, copy.key(), copy.generation(), handover.from, to) else {
            handover.settle();
            return None;
        };
        let (record, parts) = self.place_copy(copy, segment, page, reinsertion.expires);
        self.budget.spend(self.now, u64::from(layout.pages()) * PAGE);
        let adoption = Adoption { handover, segment, record, reinsertion };
        let tag = self.flights.launch(Flight::Adoption(Box::new(adoption)));
        self.submit_copy(engine, tag, segment, page, parts);
        None
    }

    pub(super) fn adoption_done(&mut self, adoption: Adoption, result: io::Result<()>) {
        let Adoption { handover, segment, record, reinsertion } = adoption;
        self.writes_in_flight -= 1;
        if !self.record_done(segment, record, &result) {
            drop(reinsertion);
            handover.refuse();
            return;
        }
        let bytes = u64::from(handover.copy.layout().pages()) * PAGE;
        self.figures.written.fetch_add(bytes, Relaxed);
        self.figures.adopted.fetch_add(1, Relaxed);
        let ticket: Ticket = Box::new(move |synced| match synced {
            Ok(()) => {
                reinsertion.done();
                handover.settle();
            }
            Err(_) => {
                drop(reinsertion);
                handover.refuse();
            }
        });
        self.syncs.after(After::Ticket(ticket));
    }
}
