//! The store, its clients, the network and the clock; what holds at every step, and at the end.

use crate::content::Content;
use crate::flash::{Flash, FlashCounts};
use crate::model::{Model, Object};
use protocol::base::{ByteLen, Crc, Generation, Instant, LeaseId, Millis, RawSpan, SegmentId, SessionId, StableMemory};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use storage::{
    Account, Committed, Granted, PlainMemory, ReadGuard, Reservation, SealGuard, Store, StoreConfig, StoreError, Terms,
    WriteGuard,
};
use transport::sim::{Revoking, SimConfig, SimNetwork};
use transport::{Fence, Transport as _, WindowId};

pub(crate) const DEADLINE_MAX: Millis = Millis(5_000);
pub(crate) const COMMIT_MEMORY: Millis = Millis(60_000);
pub(crate) const PROBE_GRACE: Millis = Millis(5_000);

/// One client: its account lives on when its session dies.
pub(crate) struct Client {
    pub(crate) session: SessionId,
    pub(crate) account: Arc<Account>,
}

/// What a client was granted, until the slot is published or free again.
pub(crate) struct Grant {
    pub(crate) client: usize,
    pub(crate) session: SessionId,
    pub(crate) key: u8,
    pub(crate) granted: Granted,
    /// When its slot was reserved.
    pub(crate) reserved: Instant,
    pub(crate) content: Content,
    pub(crate) terms: Terms,
    pub(crate) charge: ByteLen,
    /// The right to write without the server, if it was given.
    pub(crate) window: Option<WindowId>,
    /// Bytes sent so far.
    pub(crate) sent: usize,
    pub(crate) state: State,
    /// The server knows that it has to revoke the window.
    pub(crate) fencing: bool,
}

pub(crate) enum State {
    Open,
    /// Being sealed, for this length; fenced or not yet.
    Sealing(SealGuard, Content),
    /// Over, but for late writes.
    Ended,
}

/// A write that the server applies for a client: begun, not yet done.
pub(crate) struct Applying {
    pub(crate) grant: storage::Granted,
    pub(crate) guard: WriteGuard,
    pub(crate) bytes: Vec<u8>,
}

/// An in-band write that is still arriving.
pub(crate) struct Arriving {
    pub(crate) client: usize,
    pub(crate) key: u8,
    pub(crate) content: Content,
    pub(crate) reservation: Reservation,
    pub(crate) terms: Terms,
    pub(crate) charge: ByteLen,
}

pub(crate) struct Lease {
    pub(crate) session: SessionId,
    pub(crate) lease: LeaseId,
    pub(crate) generation: Generation,
    pub(crate) content: Content,
    pub(crate) deadline: Instant,
    /// Where the client looks by itself.
    pub(crate) bytes: RawSpan,
}

pub(crate) struct World {
    pub(crate) random: StdRng,
    pub(crate) now: Instant,
    pub(crate) store: Store,
    pub(crate) network: SimNetwork,
    pub(crate) segments: Vec<Arc<dyn StableMemory>>,
    pub(crate) model: Model,
    pub(crate) clients: Vec<Client>,
    pub(crate) grants: Vec<Grant>,
    pub(crate) applying: Vec<Applying>,
    pub(crate) arriving: Vec<Arriving>,
    pub(crate) leases: Vec<Lease>,
    pub(crate) reading: Vec<(ReadGuard, Content)>,
    /// Commits whose answer may be asked again: until when.
    pub(crate) committed: Vec<(Instant, SessionId, protocol::base::GrantId, Committed)>,
    pub(crate) keys: u8,
    pub(crate) len_max: usize,
    pub(crate) versions: u64,
    pub(crate) sessions: u64,
    pub(crate) counts: Counts,
    /// In every second history.
    pub(crate) flash: Option<Flash>,
}

/// How often what was tried came about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) steps: u64,
    pub(crate) published: u64,
    pub(crate) reads: u64,
    pub(crate) leases: u64,
    pub(crate) late_writes: u64,
    pub(crate) crc_refused: u64,
    pub(crate) quarantined: u64,
    pub(crate) evicted: u64,
    pub(crate) forgotten: u64,
    pub(crate) repeated: u64,
    pub(crate) no_space: u64,
    pub(crate) quota: u64,
    pub(crate) deaths: u64,
    /// Expiries that `keep_ttl` kept, and that went with the object before.
    pub(crate) kept: u64,
    pub(crate) not_kept: u64,
    pub(crate) flash: FlashCounts,
}

/// Sums over all seeds.
#[derive(Debug, Default)]
pub(crate) struct Totals([AtomicU64; 25]);

impl Counts {
    fn list(&self) -> [u64; 25] {
        let Self { steps, published, reads, leases, late_writes, crc_refused, quarantined, .. } = *self;
        let Self { evicted, forgotten, repeated, no_space, quota, deaths, kept, not_kept, flash, .. } = *self;
        [
            steps,
            published,
            reads,
            leases,
            late_writes,
            crc_refused,
            quarantined,
            evicted,
            forgotten,
            repeated,
            no_space,
            quota,
            deaths,
            flash.spilled,
            flash.gone_meanwhile,
            flash.failed,
            flash.reads,
            flash.promoted,
            flash.not_promoted,
            flash.reinserted,
            flash.reclaimed,
            flash.restarts,
            flash.waited,
            kept,
            not_kept,
        ]
    }
}

impl Totals {
    pub(crate) fn add(&self, counts: &Counts) {
        for (total, count) in self.0.iter().zip(counts.list()) {
            total.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// A simulator in which nothing happens proves nothing.
    pub(crate) fn assert_nothing_was_missed(&self) {
        let totals: Vec<u64> = self.0.iter().map(|total| total.load(Ordering::Relaxed)).collect();
        let (not_kept, others) = totals.split_last().expect("a list");
        assert!(others.iter().all(|&total| total > 100), "something hardly happened: {self:?}");
        assert!(not_kept * 5 < totals[totals.len() - 2], "expiries are kept unless memory is short: {self:?}");
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let shards = 1 << random.random_range(0..4);
        let segments: Vec<Arc<dyn StableMemory>> = (0..random.random_range(1..=3))
            .map(|_| -> Arc<dyn StableMemory> {
                let pages = random.random_range(60..350);
                Arc::new(PlainMemory::new(pages * 4096).expect("little memory"))
            })
            .collect();
        let config = StoreConfig {
            shards,
            object_len_max: ByteLen::mib(4),
            watermark_high_percent: random.random_range(80..=100),
            watermark_low_percent: random.random_range(50..=80),
            reserved_percent_max: random.random_range(25..=90),
            reserved_client_percent_max: random.random_range(5..=60),
            leased_client_percent_max: random.random_range(5..=90),
            pinned_percent_max: random.random_range(10..=60),
            grace_percent_max: random.random_range(5..=40),
            probe_grace: PROBE_GRACE,
            commit_memory: COMMIT_MEMORY,
            boot_epoch: seed,
            seed,
            ..StoreConfig::default()
        };
        let revoking = match random.random_range(0..3) {
            0 => Revoking::AtOnce,
            1 => Revoking::After(Millis(random.random_range(1..500))),
            _ => Revoking::Drained,
        };
        let network = SimNetwork::new(
            seed,
            SimConfig {
                delay_max: Millis(5),
                lost_permille: 5,
                late_permille: random.random_range(0..400),
                late_max: Millis(8_000),
                revoking,
            },
        );
        for (number, segment) in (0u32..).zip(&segments) {
            network.register(SegmentId(number), Arc::clone(segment)).expect("registers once");
        }
        let mut world = Self {
            store: Store::new(config, segments.clone()),
            network,
            segments,
            model: Model::default(),
            clients: Vec::new(),
            grants: Vec::new(),
            applying: Vec::new(),
            arriving: Vec::new(),
            leases: Vec::new(),
            reading: Vec::new(),
            committed: Vec::new(),
            keys: random.random_range(4..=60),
            len_max: random.random_range(1_000..600_000),
            versions: 0,
            sessions: 0,
            counts: Counts::default(),
            flash: None,
            now: Instant(1_000_000_000_000),
            random,
        };
        world.network.advance(world.now);
        if seed % 2 == 1 {
            world.flash = Some(Flash::new(&world.store, &mut world.random));
        }
        for _ in 0..world.random.random_range(1..=4) {
            let session = world.open_session();
            world.clients.push(Client { session, account: Account::new() });
        }
        world
    }

    pub(crate) fn open_session(&mut self) -> SessionId {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        self.network.open_session(session).expect("a new session");
        session
    }

    /// Moves the clock, and with it what is on the way. What a late write hits shows when it is read.
    pub(crate) fn pass(&mut self, time: Millis) {
        self.now = self.now + time;
        self.counts.late_writes += self.network.advance(self.now).len() as u64;
    }

    /// Whether some lease or guard certainly holds this placement.
    pub(crate) fn users(&self) -> impl Fn(Generation) -> bool + use<> {
        let now = self.now;
        let mut held: Vec<Generation> =
            self.leases.iter().filter(|lease| lease.deadline > now).map(|lease| lease.generation).collect();
        held.extend(self.reading.iter().map(|(guard, _)| guard.generation()));
        move |generation| held.contains(&generation)
    }

    pub(crate) fn absent(&mut self, key: u8) {
        let users = self.users();
        self.model.absent(self.now, key, users);
    }

    /// A publication that the store accepted.
    pub(crate) fn published(&mut self, key: u8, content: Content, generation: Generation, terms: &Terms) {
        self.counts.published += 1;
        let mut expires = terms.expires;
        if terms.keep_ttl
            && let Some(kept) = self.model.get(self.now, key).map(|before| before.expires)
            && kept != expires
            && let Some(stat) = self.store.stat(self.now, &[key])
        {
            // Making room may have evicted the very object whose expiry was to be kept, but rarely.
            assert!(stat.expires == kept || stat.expires == expires, "key {key}: {:?}", stat.expires);
            self.counts.kept += u64::from(stat.expires == kept);
            self.counts.not_kept += u64::from(stat.expires != kept);
            expires = stat.expires;
        }
        let mut object = Object::new(content, generation, expires);
        object.endless_pins = u32::from(terms.pin);
        self.model.put(key, object);
    }

    /// A refusal of a write, if the model allows it.
    pub(crate) fn refused(&mut self, key: u8, error: &StoreError) {
        match error {
            StoreError::Exists { generation } => {
                let object = self.model.get(self.now, key).expect("only a live object exists");
                assert_eq!(object.generation, *generation, "key {key}");
                object.read();
            }
            StoreError::Condition => self.absent(key),
            StoreError::NoSpace { .. } => self.counts.no_space += 1,
            StoreError::SpillWait { .. } => self.wait_for_room(),
            StoreError::Quota { .. } => self.counts.quota += 1,
            StoreError::Crc { .. } => self.counts.crc_refused += 1,
            StoreError::TooBig { len, max } => assert!(len > max && *max < ByteLen(self.len_max as u64), "{error}"),
            StoreError::KeyLen { .. }
            | StoreError::NoGrant
            | StoreError::Busy
            | StoreError::Range { .. }
            | StoreError::NoLease
            | StoreError::TooManyUsers => panic!("key {key}: {error}"),
        }
    }

    /// Runs the store's upkeep, and what the server does about it.
    pub(crate) fn maintain(&mut self) {
        let fences = self.store.maintain(self.now);
        for grant in &mut self.grants {
            if matches!(grant.state, State::Open) && grant.granted.deadline <= self.now {
                grant.state = State::Ended;
            }
        }
        for id in fences {
            // Unless the server was quicker than the store's report.
            if let Some(grant) = self.grants.iter_mut().find(|grant| grant.granted.grant == id) {
                assert!(matches!(grant.state, State::Ended), "only what is over is fenced");
                grant.fencing = true;
                self.counts.quarantined += 1;
            }
        }
        self.leases.retain(|lease| lease.deadline > self.now);
        self.poll_fences();
        self.forget_ended();
    }

    /// Asks the network about every window whose grant is over, and tells the store.
    pub(crate) fn poll_fences(&mut self) {
        for grant in &mut self.grants {
            let Some(window) = grant.window else { continue };
            match &mut grant.state {
                State::Open => {}
                State::Sealing(guard, _) => {
                    if self.network.fence(window) == Fence::Done {
                        guard.fenced();
                        grant.window = None;
                    }
                }
                State::Ended => {
                    grant.fencing |= self.random.random_ratio(1, 8);
                    if grant.fencing && self.network.fence(window) == Fence::Done {
                        self.store.fenced(grant.granted.grant);
                        grant.window = None;
                    }
                }
            }
        }
    }

    /// Drops grants that are over and that no late write can reach.
    pub(crate) fn forget_ended(&mut self) {
        let applying = &self.applying;
        self.grants.retain(|grant| {
            !matches!(grant.state, State::Ended)
                || grant.window.is_some()
                || applying.iter().any(|write| write.grant.grant == grant.granted.grant)
        });
    }

    /// What holds between any two steps.
    pub(crate) fn check(&mut self) {
        self.store.audit();
        let sum = self.store.accounting();
        let mut unpublished = 0;
        for (number, client) in self.clients.iter().enumerate() {
            let granted = self.grants.iter().filter(|grant| grant.client == number).map(|grant| grant.charge.get());
            let arriving = self.arriving.iter().filter(|set| set.client == number).map(|set| set.charge.get());
            let held: u64 = granted.sum::<u64>() + arriving.sum::<u64>();
            assert_eq!(client.account.reserved(), ByteLen(held), "client {number} is charged what it holds");
            unpublished += held;
        }
        unpublished += self.flash.as_ref().map_or(0, Flash::charged);
        assert_eq!(sum.reserved + sum.sealing + sum.quarantine, unpublished, "{sum:?}");
        assert!(self.store.len() <= self.model.len() as u64, "nothing lives that was not written");
        if self.random.random_ratio(1, 3) {
            self.check_flash();
        }
        for lease in &self.leases {
            if lease.deadline > self.now && self.random.random_ratio(1, 8) {
                lease.content.check_span(&lease.bytes, "a leased object, looked at one-sidedly");
            }
        }
        for (guard, content) in &self.reading {
            if self.random.random_ratio(1, 8) {
                content.check(guard.bytes(), "a guarded object");
            }
        }
    }

    pub(crate) fn span_at(&self, segment: SegmentId, offset: u64, length: u64) -> RawSpan {
        let memory = Arc::clone(&self.segments[segment.0 as usize]);
        let offset = usize::try_from(offset).expect("64-bit");
        RawSpan::new(memory, offset, usize::try_from(length).expect("64-bit")).expect("inside the segment")
    }

    /// Compares a read with the model.
    pub(crate) fn compare(&mut self, key: u8, generation: Option<Generation>, crc: Option<Crc>, bytes: &[u8]) {
        let now = self.now;
        let object = self.model.get(now, key).unwrap_or_else(|| panic!("key {key} came back from the dead"));
        assert!(generation.is_none_or(|generation| generation == object.generation), "key {key}: generation");
        object.content.check(bytes, &format!("key {key}"));
        assert!(crc.is_none_or(|crc| crc == object.content.crc()), "key {key}: checksum");
        self.counts.reads += 1;
    }

    /// All clients go. Then nothing may be held beyond two deadlines, and the memory is good for a large object.
    pub(crate) fn end(mut self) -> Counts {
        for lease in &self.leases {
            if lease.deadline > self.now {
                lease.content.check_span(&lease.bytes, "a leased object at the end");
            }
        }
        for client in 0..self.clients.len() {
            self.die(client);
        }
        for (guard, content) in self.reading.drain(..) {
            content.check(guard.bytes(), "a guarded object at the end");
        }
        self.applying.clear();
        self.end_flash();
        self.forget_ended();
        self.check();
        for _ in 0..20 {
            self.pass(Millis(DEADLINE_MAX.0 / 10));
            self.maintain();
            self.check();
        }
        let sum = self.store.accounting();
        assert_eq!((sum.reserved, sum.sealing, sum.quarantine, sum.doomed), (0, 0, 0, 0), "{sum:?}");
        let usage = self.store.usage();
        assert_eq!((usage.leases, usage.grants), (0, 0));
        for key in self.model.keys() {
            self.get(key);
        }
        self.reading.clear();
        self.end_flash();
        self.counts.evicted = usage.counters.evicted;
        self.counts.forgotten = self.model.forgotten;
        self.counts.flash = self.flash.as_ref().map_or_else(FlashCounts::default, |flash| flash.counts);
        for key in self.model.keys() {
            while self.store.unpin(self.now, &[key]).is_some_and(|left| left > 0) {}
        }
        self.store.set_capacity(ByteLen(u64::MAX));
        self.pass(PROBE_GRACE);
        self.maintain();
        let longest = self.segments.iter().map(|segment| segment.len() as u64).max().expect("a segment");
        let large = usize::try_from(longest - 3 * 4096).expect("64-bit");
        if self.flash.is_some() {
            self.store.hurry(self.now);
        }
        let set = self.store.set(self.now, b"large", &vec![1; large], &Account::new(), &Terms::default());
        assert!(set.is_ok(), "{large} bytes fit when nobody holds anything: {set:?} {:?}", self.store.accounting());
        self.store.audit();
        self.counts
    }
}
