//! Several devices as one tier: which one an object goes to, who reads it, and what the operator sees and changes.
//!
//! Role: owns the devices' threads, the spiller and the journal; everything else reaches them through [`Tier`].
//!
//! Invariants:
//! - The index holds the records of a device before anything is spilled to it.
//! - A durable acknowledgement comes after the record's sync and the journal's.

pub(in crate::flash) mod books;
mod clerk;
pub mod config;
pub mod data_dir;
pub mod error;
mod fetch;
mod holds;
pub(in crate::flash) mod opening;
mod scrubber;
mod spending;
mod spiller;
pub mod status;

pub use config::{DeviceConfig, TierConfig};
pub use data_dir::DataDir;
pub use error::FlashError;
pub use holds::{Holds, make_blank};
pub use status::{DeviceState, DeviceStatus, DrainStatus, Phase, Progress, ScrubStatus};

use crate::Store;
use crate::flash::device::Device;
use crate::flash::journal::{Journal, JournalOptions};
use crate::flash::log::{Handed, Handover, Heirs, LEAVE_PATIENCE, SpillJob, Ticket};
use crate::flash::meta::{MetaStore, NoMeta, SledOptions, SledStore};
use crate::slot::Account;
use crate::store::flash::{FlashRead, Graveyard, SpillOf};
use crate::store::read::ReadGuard;
use books::Books;
use opening::Opening;
use parking_lot::{Mutex, RwLock};
use protocol::base::{ByteLen, Clock, Generation, Instant, StableMemory};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use tokio::sync::{Semaphore, oneshot};

/// Time as the tier sees it: what the store counts in, and what is written to flash.
pub trait TierClock: Clock {
    /// Milliseconds since 1970.
    fn unix_ms(&self) -> u64;
}

/// What a read from flash brought.
#[derive(Debug)]
pub enum Fetched {
    /// In DRAM, to be sent from there.
    Guard(ReadGuard),
    /// A small value, or one that DRAM had no room for.
    Small(Vec<u8>),
}

/// All flash of a node. Cheap to clone; all clones are one tier.
#[derive(Clone)]
pub struct Tier(Arc<Inner>);

struct Inner {
    config: TierConfig,
    store: Store,
    clock: Arc<dyn TierClock>,
    data_dir: DataDir,
    books: Arc<Books>,
    devices: RwLock<Vec<Arc<Device>>>,
    /// What opening one more device needs. Held while devices come and go.
    opening: Mutex<Opening>,
    fetches: fetch::Fetches,
    reads: Arc<Semaphore>,
    /// Whom reads ahead of any request are charged to.
    account: Arc<Account>,
    spills: spiller::Spills,
    spiller: Mutex<Option<JoinHandle<()>>>,
    clerk: clerk::Clerk,
    scrubs: scrubber::Scrubs,
    closed: AtomicBool,
}

impl Tier {
    /// Opens the devices, brings what they hold into the index, and starts their threads. Blocks until then; `progress` tells
    /// how far it is. `memories` are the segments of DRAM, which the kernel is told of once.
    ///
    /// # Errors
    /// [`FlashError`] where a setting is wrong, something is used by another process or cannot be opened. A device that fails
    /// later is off, not an error.
    pub fn open(
        config: TierConfig,
        data_dir: DataDir,
        store: Store,
        memories: Vec<Arc<dyn StableMemory>>,
        clock: Arc<dyn TierClock>,
        progress: Arc<Progress>,
    ) -> Result<Self, FlashError> {
        progress.enter(Phase::Opening);
        let boot_epoch = store.0.config.boot_epoch;
        let options = JournalOptions {
            sync_interval: config.journal_sync.duration(),
            boot_first: Generation::first_of(boot_epoch),
            now_ms: clock.unix_ms(),
        };
        let opened = Journal::open(data_dir.path(), options)
            .map_err(|error| FlashError::io(format!("open the journal in {}", data_dir.path().display()), error))?;
        if opened.fresh && config.devices.iter().any(|device| data_dir::superblock_of(&device.path).is_some()) {
            tracing::warn!("there is no journal: what flash devices hold is not believed, since deaths are not known");
        }
        let believed_from = if opened.fresh { u64::MAX } else { data_dir.served_epoch() };
        let meta: Box<dyn MetaStore> = if config.meta {
            let store = SledStore::open(&data_dir.path().join("meta"), SledOptions::default());
            Box::new(store.map_err(|error| FlashError::io("start the metadata store", error))?)
        } else {
            Box::new(NoMeta)
        };
        let books = Arc::new(Books::new(opened.journal, meta, Arc::clone(&clock)));
        store.enable_flash(Arc::clone(&books) as Arc<dyn Graveyard>);
        store.set_spilling(false);
        let opening = Opening {
            config: config.clone(),
            store: store.clone(),
            memories,
            clock: Arc::clone(&clock),
            progress: Arc::clone(&progress),
            books: Arc::clone(&books),
            remembered: Arc::new(opened.remembered),
            boot_epoch,
            believed_from,
        };
        let devices = open_all(&opening, &data_dir, &config.devices)?;
        data_dir
            .set_served_epoch(boot_epoch)
            // What is buried from here on, memory of an earlier life does not know.
            .and_then(|()| data_dir.set_memory_at_rest(None))
            .map_err(|error| FlashError::io(format!("write to {}", data_dir.path().display()), error))?;
        let reads = config.reads_in_flight.max(1);
        let inner = Arc::new(Inner {
            config,
            store,
            clock,
            data_dir,
            books,
            devices: RwLock::new(devices),
            opening: Mutex::new(Opening { believed_from: u64::MAX, ..opening }),
            fetches: fetch::Fetches::default(),
            reads: Arc::new(Semaphore::new(reads)),
            account: Account::new(),
            spills: spiller::Spills::default(),
            spiller: Mutex::new(None),
            clerk: clerk::Clerk::start()?,
            scrubs: scrubber::Scrubs::default(),
            closed: AtomicBool::new(false),
        });
        inner.tell_limits();
        inner.tell_spilling();
        let spilling = Arc::clone(&inner);
        let thread = std::thread::Builder::new()
            .name("flash-spill".to_owned())
            .spawn(move || spilling.run_spiller())
            .map_err(|error| FlashError::io("start the spiller", error))?;
        *inner.spiller.lock() = Some(thread);
        inner.start_scrubber()?;
        progress.enter(Phase::Serving);
        Ok(Self(inner))
    }

    /// Reads an object from flash. Readers of one object at once are served by one read. `None`: it proved unreadable or was
    /// removed, a miss. Dropping the future is harmless.
    ///
    /// # Errors
    /// [`FlashError::Closed`], and [`FlashError::Store`] where DRAM has no room for it.
    pub async fn fetch(
        &self,
        now: Instant,
        read: FlashRead,
        account: &Arc<Account>,
    ) -> Result<Option<Fetched>, FlashError> {
        self.fetch_one(now, read, account).await
    }

    /// Returns once the object's record is written and synced, and all tombstones of before are too.
    ///
    /// # Errors
    /// [`FlashError`]: then nothing is promised; the object lives on in DRAM.
    pub async fn durable(&self, now: Instant, key: &[u8], generation: Generation) -> Result<(), FlashError> {
        loop {
            let settled = self.0.spills.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            let (tell, told) = oneshot::channel();
            let ticket: Ticket = Box::new(move |result| {
                let _ = tell.send(result);
            });
            match self.0.store.spill_of(now, key, generation) {
                SpillOf::Missing => return Err(FlashError::Gone),
                SpillOf::InFlight => {
                    settled.await;
                    continue;
                }
                SpillOf::OnFlash(place) => {
                    let device = self.0.device_of(place.slot).ok_or(FlashError::Gone)?;
                    device.sync(ticket);
                }
                SpillOf::Spill(spill) => {
                    let device = self.0.device_for(spill.length).ok_or_else(|| self.0.why_none(spill.length))?;
                    let charge = Some(self.0.charge_spill(spill.length));
                    device.spill(SpillJob { spill, ticket: Some(ticket), charge });
                }
            }
            told.await.unwrap_or(Err(FlashError::Closed))?;
            return self.0.journal_synced().await;
        }
    }

    /// Brings objects into DRAM that will be asked for soon, as far as the bounds allow; what does not fit is not read.
    pub fn prefetch(&self, now: Instant, reads: Vec<FlashRead>) {
        self.prefetch_all(now, reads);
    }

    /// The keys of a request in the order of their chain: a later read of one prefetches the next. `PARENT` tells the same as
    /// two keys.
    pub fn learn_chain<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        self.learn(keys);
    }

    /// Each device's state and figures.
    pub fn status(&self) -> Vec<DeviceStatus> {
        self.0.devices.read().iter().map(|device| device.status()).collect()
    }

    /// Verifies everything on a device, or on all, now and as fast as it goes beside requests. Returns at once;
    /// [`Tier::status`] tells how far it is.
    ///
    /// # Errors
    /// [`FlashError::NoDevice`], [`FlashError::Closed`].
    pub fn scrub(&self, id: Option<u32>) -> Result<(), FlashError> {
        self.0.ask_for_scrub(id)
    }

    /// Takes one more device in. What it holds is not believed: objects may have been removed or replaced while it was away.
    /// Blocks until it serves. Returns its number.
    ///
    /// # Errors
    /// As [`Tier::open`].
    pub fn attach(&self, device: DeviceConfig) -> Result<u32, FlashError> {
        let opening = self.0.opening.lock();
        if self.0.closed.load(Ordering::Relaxed) {
            return Err(FlashError::Closed);
        }
        let devices = open_all(&opening, &self.0.data_dir, std::slice::from_ref(&device))?;
        let Some(opened) = devices.first() else {
            return Err(FlashError::Config(format!("{} does not open", device.path.display())));
        };
        let id = opened.id;
        if self.0.devices.read().iter().any(|known| known.id == id) {
            devices[0].close();
            return Err(FlashError::Config(format!("{}: device number {id} is in use", device.path.display())));
        }
        self.0.devices.write().extend(devices);
        self.0.tell_limits();
        self.0.tell_spilling();
        Ok(id)
    }

    /// Lets a device go. With `drain`, other devices write what it holds first, and where none takes an object DRAM does; what
    /// finds no room for long is gone, and all of it without `drain`. A record counts on the device until it is durable on
    /// another, so that a crash on the way loses nothing but what had to go through DRAM. Blocks until then; reads are served
    /// meanwhile, and [`Tier::call_off`] lets it stay. Without `drain`, one that is under way ends.
    ///
    /// # Errors
    /// [`FlashError::NoDevice`]; before anything was touched [`FlashError::NoRoomElsewhere`], [`FlashError::CannotDrain`],
    /// [`FlashError::Draining`]; [`FlashError::CalledOff`].
    pub fn detach(&self, id: u32, drain: bool) -> Result<(), FlashError> {
        let device = self.0.device(id)?;
        if drain {
            self.drain(&device)?;
        } else {
            device.stay();
        }
        let _opening = self.0.opening.lock();
        // Somebody else may have been faster.
        let device = self.0.device(id)?;
        device.leave();
        self.0.tell_spilling();
        if drain {
            // What came through DRAM is on no device yet, if it was not spilled meanwhile.
            self.0.write_out(LEAVE_PATIENCE);
        }
        self.0.save_spending();
        // Also what its tables could not tell: were it to come back, nothing of it would be known to be alive.
        for segment in 0..device.slots.1 {
            self.0.books.retire(u16::try_from(u32::from(device.slots.0) + segment).expect("slots lie in 16 bits"));
        }
        if let Err(error) = self.0.books.journal().sync() {
            tracing::warn!(%error, "the journal could not be synced after a device was let go; it is tried again");
        }
        self.0.devices.write().retain(|known| known.id != id);
        self.0.books.give_slots(device.slots.0);
        self.0.tell_limits();
        Ok(())
    }

    fn drain(&self, device: &Arc<Device>) -> Result<(), FlashError> {
        if let Some(why) = device.figures.why_off() {
            return Err(FlashError::CannotDrain { why });
        }
        self.0.has_room_without(device)?;
        if device.leaving.swap(true, Ordering::Relaxed) {
            return Err(FlashError::Draining { id: device.id });
        }
        self.0.tell_spilling();
        let heirs = Arc::new(Others { tier: Arc::clone(&self.0), leaving: Arc::clone(device) });
        let drained = device.drain(heirs);
        self.0.tell_spilling();
        if drained { Ok(()) } else { Err(FlashError::CalledOff) }
    }

    /// Lets a device stay that is being drained. What was brought away by then stays where it is.
    ///
    /// # Errors
    /// [`FlashError::NoDevice`], [`FlashError::NotDraining`].
    pub fn call_off(&self, id: u32) -> Result<(), FlashError> {
        if self.0.device(id)?.stay() { Ok(()) } else { Err(FlashError::NotDraining { id }) }
    }

    /// Notes whose memory goes with the tier as it is now: [`DataDir::memory_at_rest`] says so until the tier is opened again.
    ///
    /// # Errors
    /// [`FlashError::Io`].
    pub fn leave_memory_at_rest(&self, life: u128) -> Result<(), FlashError> {
        let data_dir = &self.0.data_dir;
        data_dir
            .set_memory_at_rest(Some(life))
            .map_err(|error| FlashError::io(format!("write to {}", data_dir.path().display()), error))
    }

    /// Spills what is dirty if the configuration says so, seals, syncs, and ends all threads. Blocks until then.
    pub fn close(&self) {
        // Where a drain had come to, the next start finds.
        for device in self.0.devices.read().iter() {
            device.stay();
        }
        let _opening = self.0.opening.lock();
        if self.0.closed.swap(true, Ordering::Relaxed) {
            return;
        }
        self.0.stop_scrubber();
        self.0.stop_spiller();
        if let Some(thread) = self.0.spiller.lock().take() {
            let _ = thread.join();
        }
        if let Some(limit) = self.0.config.close_spill {
            self.0.spill_all(limit);
        }
        self.0.store.set_spilling(false);
        self.0.reads.close();
        let devices = self.0.devices.read().clone();
        for device in devices {
            device.close();
        }
        self.0.save_spending();
        if let Err(error) = self.0.books.journal().sync() {
            tracing::error!(%error, "the journal could not be synced at the end");
        }
        self.0.books.meta().sync();
        self.0.clerk.close();
    }
}

/// The devices that are left when one goes.
struct Others {
    tier: Arc<Inner>,
    leaving: Arc<Device>,
}

impl Heirs for Others {
    fn take(&self, handover: Handover) -> Option<Handover> {
        let Some(device) = self.tier.device_for(handover.length()) else { return Some(handover) };
        device.adopt(handover);
        None
    }

    fn answer(&self, handed: Handed) {
        self.leaving.handed(handed);
    }
}

impl Inner {
    fn device(&self, id: u32) -> Result<Arc<Device>, FlashError> {
        let devices = self.devices.read();
        devices.iter().find(|device| device.id == id).cloned().ok_or(FlashError::NoDevice { id })
    }

    fn device_of(&self, slot: u16) -> Option<Arc<Device>> {
        self.devices.read().iter().find(|device| device.has_slot(slot)).cloned()
    }

    /// Refuses if the records of a device would have nowhere to go.
    fn has_room_without(&self, leaving: &Device) -> Result<(), FlashError> {
        let held = leaving.figures.used.load(Ordering::Relaxed);
        let devices = self.devices.read();
        let others = devices.iter().filter(|device| device.id != leaving.id && device.takes_spills());
        let on_flash: u64 = others.map(|device| device.size()).sum();
        let (sums, usage) = (self.store.accounting(), self.store.usage());
        let room = on_flash + sums.free + usage.clean_bytes;
        if held <= room { Ok(()) } else { Err(FlashError::NoRoomElsewhere { held, room }) }
    }

    /// Why no device takes an object.
    fn why_none(&self, len: u64) -> FlashError {
        if self.closed.load(Ordering::Relaxed) {
            return FlashError::Closed;
        }
        let devices = self.devices.read();
        let off = devices.iter().find_map(|device| device.figures.why_off());
        match off {
            Some(why) => FlashError::Off { why },
            None if devices.is_empty() => FlashError::Off { why: "there is no device".to_owned() },
            None => FlashError::NoRoom { len },
        }
    }

    /// Everything in the journal is durable.
    async fn journal_synced(&self) -> Result<(), FlashError> {
        let (tell, told) = oneshot::channel();
        let books = Arc::clone(&self.books);
        self.clerk.take(Box::new(move || {
            let _ = tell.send(books.journal().sync());
        }));
        let synced = told.await.map_err(|_| FlashError::Closed)?;
        synced.map_err(|error| FlashError::io("sync the journal", error))
    }
}

/// Opens devices, all at once.
fn open_all(opening: &Opening, data_dir: &DataDir, configs: &[DeviceConfig]) -> Result<Vec<Arc<Device>>, FlashError> {
    let numbers = data_dir.numbers_for(configs)?;
    let started: Vec<_> =
        configs.iter().zip(numbers).map(|(config, number)| opening.start(config.clone(), number)).collect();
    let mut devices = Vec::new();
    let mut failed = None;
    for (started, config) in started.into_iter().zip(configs) {
        match started.and_then(opening::Started::wait) {
            Ok(device) => devices.push(device),
            Err(error) if config.optional => {
                tracing::error!(%error, "{} is left out", config.path.display());
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        None => Ok(devices),
        Some(error) => {
            devices.iter().for_each(|device| device.close());
            Err(error)
        }
    }
}

impl Device {
    fn status(&self) -> DeviceStatus {
        let figures = &self.figures;
        let of = |figure: &std::sync::atomic::AtomicU64| figure.load(Ordering::Relaxed);
        let state = match figures.why_off() {
            _ if self.leaving.load(Ordering::Relaxed) => DeviceState::Leaving,
            Some(why) => DeviceState::Off { why },
            None if figures.full.load(Ordering::Relaxed) => DeviceState::Full,
            None => DeviceState::On,
        };
        DeviceStatus {
            id: self.id,
            path: self.path.clone(),
            state,
            engine: self.engine,
            size: ByteLen(self.size()),
            segment_len: ByteLen(self.segment_len),
            segments: u64::from(self.slots.1),
            segments_free: of(&figures.segments_free),
            segments_quarantined: of(&figures.segments_quarantined),
            used: ByteLen(of(&figures.used)),
            spills: of(&figures.spills),
            reinserted: of(&figures.reinserted),
            written: ByteLen(of(&figures.written)),
            reinserted_bytes: ByteLen(of(&figures.reinserted_bytes)),
            adopted: of(&figures.adopted),
            hits: of(&figures.hits),
            reads: of(&figures.reads),
            read: ByteLen(of(&figures.read)),
            syncs: of(&figures.syncs),
            errors: of(&figures.errors),
            mismatches: of(&figures.mismatches),
            reclaimed: of(&figures.reclaimed),
            dropped: of(&figures.dropped),
            refused: of(&figures.refused),
            condemned: of(&figures.condemned),
            budget_left: self.has_budget.then(|| ByteLen(of(&figures.budget_left))),
            drain: self.drain_status(),
            in_flight: usize::try_from(of(&figures.in_flight)).unwrap_or(usize::MAX),
            scrub: ScrubStatus {
                percent: of(&figures.scrub_percent).checked_sub(1).and_then(|percent| u8::try_from(percent).ok()),
                passes: of(&figures.scrub_passes),
                bytes: ByteLen(of(&figures.scrub_bytes)),
                records: of(&figures.scrub_records),
                rotten: of(&figures.scrub_rotten),
                returned: of(&figures.scrub_returned),
            },
        }
    }
}
