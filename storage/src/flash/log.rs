//! The segments of one device, as a state machine: it decides what is written and read where, and believes only completions.
//!
//! Role: takes spills and reads, places records behind one of two heads (new data, reinserted data), writes headers and
//! footers, groups syncs, reclaims the oldest segment, and takes the device off when it fails. One thread drives it; it
//! blocks nowhere and owns no engine: [`Log::step`] submits, [`Log::complete`] takes an answer.
//!
//! ```text
//!  Free ─header─▶ Beginning ─sync─▶ Ready ─head─▶ Open ─full─▶ Sealing ─footer, sync─▶ Sealed
//!   ▲                                                                                    │ oldest, or suspect
//!   └──── no reader left ──── Draining ◀─dropped from the index── Reclaiming ◀────────────┘
//!   ▲                            │ suspect
//!   └──────────── scrubbed ─── Quarantined
//! ```
//!
//! Invariants:
//! - A record is placed behind a durable header of its segment's life, and nowhere else.
//! - What an I/O may touch (slot, scratch, promotion) lies in the table of flights until the I/O is answered.
//! - The index learns of a record when its write is complete; a sync covers the writes that were complete when it was submitted.
//! - A reinserted record replaces the earlier one only when it is synced.
//! - After a failed sync no record counts that was not synced before, and none of those segments is written again in this life.

mod adopt;
mod append;
mod budget;
mod flight;
mod health;
mod read;
mod reclaim;
mod scrub;
mod seal;
mod segment;
#[cfg(test)]
mod simulation;

mod syncs;

pub(crate) use adopt::{Handed, Handover, Heirs};
pub(crate) use append::SpillJob;
pub(crate) use read::{Filled, ReadJob, Target, Verdict};
pub(crate) use reclaim::{LEAVE_PATIENCE, Leaving};
pub(crate) use scrub::{Finding, Rotten, ScrubJob, ScrubReport, Task};

use crate::Store;
use crate::flash::engine::{Done, Engine, ScratchPool};
use crate::flash::format::{DeviceId, Geometry, Life, Table};
use crate::flash::tier::status::Figures;
use crate::flash::tier::{FlashError, TierClock};
use crate::slot::Account;
use crate::store::flash::FlashPlace;
use budget::Budget;
use flight::{Flight, Flights};
use health::Health;
use protocol::base::{ByteLen, Instant, Millis};
use reclaim::{PutOff, Reclaim};
use segment::{Segment, State};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use syncs::Syncs;

/// Devices with fewer segments write reinserted data behind new data.
const REINSERT_HEAD_SEGMENTS_MIN: usize = 32;

/// Told when its record is durable, or why it is not.
pub(crate) type Ticket = Box<dyn FnOnce(Result<(), FlashError>) + Send>;

/// What must be remembered of segments outside of them.
pub(crate) trait Ledger: Send + Sync {
    /// A segment's new life is durable; nothing was written into it yet.
    fn begun(&self, slot: u16, life: &Life);
    /// A segment is sealed and synced.
    fn sealed(&self, slot: u16, life: &Life, table: &Table);
    /// A segment holds nothing that counts.
    fn freed(&self, slot: u16);
}

/// What one log is told.
#[derive(Clone)]
pub(crate) struct LogConfig {
    /// The device's, from its superblock.
    pub(crate) device: DeviceId,
    /// How it is cut.
    pub(crate) geometry: Geometry,
    /// Number of its first segment, counted over all devices.
    pub(crate) first_slot: u16,
    /// Share of a segment that may be written again.
    pub(crate) reinsert_percent: u8,
    /// Bytes a day.
    pub(crate) write_budget_per_day: Option<ByteLen>,
    /// Bytes of it that are gone already.
    pub(crate) budget_spent: u64,
    /// Errors a minute that take the device off.
    pub(crate) errors_per_minute: u32,
    /// How often a device that is off is probed.
    pub(crate) probe_interval: Millis,
    /// A new life has a higher number, whatever was found.
    pub(crate) life_min: u64,
}

/// A segment as it was found at start.
#[derive(Debug)]
pub(crate) enum FoundSegment {
    /// Holds nothing that counts. The life it had, if it is known.
    Free {
        /// Number of its latest life.
        life: u64,
    },
    /// Holds records.
    Sealed {
        /// Its life.
        life: Life,
        /// When it was sealed, for the order of reclaim.
        sealed_ms: u64,
        /// Pages of its footer.
        footer_pages: u32,
        /// Bytes of its records.
        used: u64,
    },
    /// Its header does not read: it is left alone.
    Unreadable,
    /// Held records when the process ended, and has no footer: it gets one now.
    Open {
        /// Its life.
        life: Life,
        /// What was found in it.
        table: Table,
    },
}

/// See the module's text.
pub(crate) struct Log {
    config: LogConfig,
    store: Store,
    clock: Arc<dyn TierClock>,
    ledger: Arc<dyn Ledger>,
    figures: Arc<Figures>,
    pool: ScratchPool,
    segments: Vec<Segment>,
    /// Open segments: of new data, of reinserted data.
    heads: [Option<u32>; 2],
    /// Segments that begin next, durable headers or on their way.
    next: [Option<u32>; 2],
    /// Orders seals.
    seal_order: u64,
    life_max: u64,
    flights: Flights,
    reads: VecDeque<ReadJob>,
    spills: VecDeque<SpillJob>,
    adoptions: VecDeque<Handover>,
    reads_in_flight: usize,
    writes_in_flight: usize,
    /// Of spills.
    write_bytes_in_flight: u64,
    syncs: Syncs,
    reclaim: Option<Reclaim>,
    put_off: PutOff,
    /// Whether a segment may have to be reclaimed that did not before.
    reclaim_due: bool,
    /// Segments that are neither at rest nor ready: what each step looks at.
    moving: Vec<u32>,
    /// Bytes that may be written again: spills earn them.
    reinsert_credit: u64,
    health: Health,
    budget: Budget,
    closing: bool,
    /// Whether the device is let go, and what becomes of what it holds.
    leaving: Option<Leaving>,
    /// Until then what finds no room elsewhere waits.
    leave_until: Instant,
    /// Whom copies in DRAM are charged to.
    account: Arc<Account>,
    now: Instant,
}

impl Log {
    /// A log over segments as they were found. `pool` gives its small buffers.
    pub(crate) fn new(
        config: LogConfig,
        found: Vec<FoundSegment>,
        store: Store,
        clock: Arc<dyn TierClock>,
        ledger: Arc<dyn Ledger>,
        figures: Arc<Figures>,
        pool: ScratchPool,
    ) -> Self {
        assert_eq!(found.len(), config.geometry.segment_count as usize, "each segment was looked at");
        let now = clock.now();
        let reinsert_credit = config.geometry.segment_len * u64::from(config.reinsert_percent) / 100;
        let mut order: Vec<(u64, usize)> = found
            .iter()
            .enumerate()
            .filter_map(|(number, segment)| match segment {
                FoundSegment::Sealed { sealed_ms, .. } => Some((*sealed_ms, number)),
                _ => None,
            })
            .collect();
        order.sort_unstable();
        let mut life_max = config.life_min;
        let mut segments: Vec<Segment> = found
            .into_iter()
            .map(|segment| {
                let segment = Segment::found(segment);
                life_max = life_max.max(segment.life_number);
                segment
            })
            .collect();
        let seal_order = order.len() as u64;
        for (at, (_, number)) in order.into_iter().enumerate() {
            if let State::Sealed(sealed) = &mut segments[number].state {
                sealed.order = at as u64;
            }
        }
        let budget = Budget::new(config.write_budget_per_day, config.budget_spent, now);
        let health = Health::new(config.errors_per_minute, config.probe_interval);
        let mut log = Self {
            config,
            store,
            clock,
            ledger,
            figures,
            pool,
            segments,
            heads: [None; 2],
            next: [None; 2],
            seal_order,
            life_max,
            flights: Flights::default(),
            reads: VecDeque::new(),
            spills: VecDeque::new(),
            adoptions: VecDeque::new(),
            reads_in_flight: 0,
            writes_in_flight: 0,
            write_bytes_in_flight: 0,
            syncs: Syncs::default(),
            reclaim: None,
            put_off: PutOff::default(),
            reclaim_due: true,
            moving: Vec::new(),
            reinsert_credit,
            health,
            budget,
            closing: false,
            leaving: None,
            leave_until: now,
            account: Account::new(),
            now,
        };
        log.syncs.states_changed = true;
        log.moving = (0..log.config.geometry.segment_count).collect();
        log.publish();
        log
    }

    /// Takes a read; it is answered, whatever happens.
    pub(crate) fn read(&mut self, job: ReadJob) {
        self.reads.push_back(job);
    }

    /// Takes a spill. Its ticket, if it has one, is told.
    pub(crate) fn spill(&mut self, job: SpillJob) {
        self.spills.push_back(job);
    }

    /// Tells `ticket` when everything that is complete now is durable.
    pub(crate) fn sync(&mut self, ticket: Ticket) {
        match self.health.why_off() {
            Some(why) => ticket(Err(FlashError::Off { why: why.to_owned() })),
            None => self.syncs.after(syncs::After::Ticket(ticket)),
        }
    }

    /// Reads and writes that did not begin yet.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.reads.len(), self.spills.len() + self.adoptions.len())
    }

    /// Submits whatever can be. Call it after [`Log::complete`]s and new jobs, before the engine waits.
    pub(crate) fn step(&mut self, engine: &mut dyn Engine) {
        self.now = self.clock.now();
        self.step_health(engine);
        self.start_reads(engine);
        if self.closing {
            self.refuse_spills();
            self.refuse_adoptions();
        }
        if self.health.is_on() {
            self.step_reclaim(engine);
            self.step_begin(engine);
            self.start_adoptions(engine);
            self.start_spills(engine);
            self.step_begin(engine);
            self.step_seal(engine);
            self.step_proofs(engine);
        } else {
            self.forget_proofs();
            self.refuse_spills();
            self.refuse_adoptions();
        }
        self.step_syncs(engine);
        let segments = &self.segments;
        self.moving.retain(|&segment| segments[segment as usize].state.is_moving());
        self.publish();
    }

    /// Takes an answer of the engine.
    pub(crate) fn complete(&mut self, done: Done) {
        self.now = self.clock.now();
        if let Err(error) = &done.result {
            self.count_error(error);
        }
        let Done { tag, result, parts } = done;
        // The spans go first: what holds their memory is in the flight.
        drop(parts);
        match self.flights.land(tag) {
            Flight::Read(flight) => self.read_done(*flight, result),
            Flight::Spill(flight) => self.spill_done(*flight, result),
            Flight::Begin { segment, page } => {
                drop(page);
                self.begin_done(segment, result);
            }
            Flight::Proof { segment, page } => self.proof_done(segment, &page, result),
            Flight::Footer { segment, memory } => {
                drop(memory);
                self.footer_done(segment, result);
            }
            Flight::Table { segment, memory } => self.table_done(segment, &memory, result),
            Flight::CopyRead(copy) => self.copy_read_done(*copy, result),
            Flight::CopyWrite(copy) => self.copy_write_done(*copy, result),
            Flight::Adoption(adoption) => self.adoption_done(*adoption, result),
            Flight::Sync { covers } => self.sync_done(covers, result),
            Flight::Probe { stage, page } => self.probe_done(stage, page, result),
        }
    }

    /// When [`Log::step`] should be called again although nothing happened; `None`: never.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        let probe = self.health.next_probe(self.now);
        // A segment waits for its readers, most of whom are served by other threads or other devices' rings.
        let drain = self.is_draining().then(|| Duration::from_millis(2));
        [probe, drain, self.next_reclaim()].into_iter().flatten().min()
    }

    /// Seals the open segments as soon as what is under way is done; from now on nothing more is written.
    pub(crate) fn close(&mut self) {
        self.closing = true;
        self.reclaim_due = true;
    }

    /// Whether nothing is under way, and nothing will be by itself.
    pub(crate) fn is_idle(&self) -> bool {
        self.flights.is_empty()
            && self.reads.is_empty()
            && self.spills.is_empty()
            && self.adoptions.is_empty()
            && (self.syncs.is_idle() || !self.health.is_on())
            && (!self.closing || self.is_closed() || !self.health.is_on())
            && (self.leaving.is_none() || self.is_left() || self.is_given_up())
    }

    /// Whether each segment that was begun has its footer.
    fn is_closed(&self) -> bool {
        let writing = |state: &State| matches!(state, State::Beginning(_) | State::Open(_) | State::Sealing(..));
        self.heads == [None; 2]
            && self.next == [None; 2]
            && !self.moving.iter().any(|&segment| writing(&self.segments[segment as usize].state))
    }

    fn slot(&self, segment: u32) -> u16 {
        let slot = u32::from(self.config.first_slot) + segment;
        u16::try_from(slot).expect("slots of a device lie within 16 bits")
    }

    fn segment_of(&self, slot: u16) -> u32 {
        u32::from(slot) - u32::from(self.config.first_slot)
    }

    fn place(&self, segment: u32, page: u16) -> FlashPlace {
        FlashPlace { slot: self.slot(segment), page }
    }

    fn offset(&self, segment: u32, page: u16) -> u64 {
        self.config.geometry.offset_of(segment) + u64::from(page) * crate::PAGE
    }

    /// Unix time of an expiry of the store's clock, as records carry it.
    fn expires_ms(&self, expires: Option<Instant>) -> u64 {
        expires.map_or(0, |at| {
            let left = at.0.saturating_sub(self.now.0).div_ceil(1_000_000);
            self.clock.unix_ms().saturating_add(left).max(1)
        })
    }

    fn publish(&mut self) {
        let figures = Arc::clone(&self.figures);
        let count = |wanted: fn(&State) -> bool| self.segments.iter().filter(|segment| wanted(&segment.state)).count();
        if std::mem::take(&mut self.syncs.states_changed) {
            self.reclaim_due = true;
            figures.segments_free.store(count(State::is_free) as u64, Relaxed);
            figures.segments_quarantined.store(count(|state| matches!(state, State::Quarantined(_))) as u64, Relaxed);
            figures.used.store(self.segments.iter().map(|segment| segment.used).sum(), Relaxed);
        }
        figures.in_flight.store(self.flights.len() as u64, Relaxed);
        figures.budget_left.store(self.budget.left(), Relaxed);
        figures.budget_spent.store(self.budget.spent(), Relaxed);
        figures.full.store(self.is_full(), Relaxed);
        figures.set_off(self.health.why_off());
    }
}
