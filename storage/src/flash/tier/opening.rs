//! A device from its path to its thread: opened, formatted if it is blank, recovered, driven.
//!
//! Invariants:
//! - A device that holds anything but a superblock of ours is never formatted.
//! - What was found is believed only as far as the journal speaks for it: of a device that missed a boot nothing is.
//! - Everything of a device happens on its own thread, its engine included.

use super::books::Books;
use super::config::DeviceConfig;
use super::error::FlashError;
use super::spending::Spent;
use super::status::{Figures, Phase, Progress};
use super::{TierClock, TierConfig};
use crate::Store;
use crate::flash::device::{Device, Runner};
use crate::flash::engine::{self, Engine, EngineOptions, Op, Scratch, ScratchPool};
use crate::flash::format::{DeviceId, Geometry, PAGE_LEN, SUPERBLOCK_COPIES, Superblock, Table};
use crate::flash::journal::{Fate, Note, RecordAt, Remembered};
use crate::flash::log::{FoundSegment, Log, LogConfig};
use crate::flash::recover::{self, EngineSource, Found, RecoverError};
use crate::store::flash::{FlashPlace, Pinned, RecoveredRecord};
use parking_lot::Mutex;
use protocol::base::{Instant, StableMemory};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::thread::JoinHandle;

/// Buffers of a device for headers, tails and small values, each with room for the longest header and a small value.
const SCRATCH_LEN: usize = 48 << 10;
/// More lives than any segment can be ahead of all others.
const UNREADABLE_LIVES: u64 = 1 << 32;
/// Threads that put what is found into the index.
const WORKERS: usize = 2;

/// What opening any device needs.
#[derive(Clone)]
pub(in crate::flash) struct Opening {
    pub(in crate::flash) config: TierConfig,
    pub(in crate::flash) store: Store,
    pub(in crate::flash) memories: Vec<Arc<dyn StableMemory>>,
    pub(in crate::flash) clock: Arc<dyn TierClock>,
    pub(in crate::flash) progress: Arc<Progress>,
    pub(in crate::flash) books: Arc<Books>,
    pub(in crate::flash) remembered: Arc<Remembered>,
    pub(in crate::flash) boot_epoch: u64,
    /// A device that was not there at this boot or a later one is not believed.
    pub(in crate::flash) believed_from: u64,
}

/// A device that is known or blank, and locked.
struct Known {
    engine: Box<dyn Engine>,
    pool: ScratchPool,
    superblock: Superblock,
    /// What it holds may be believed.
    believed: bool,
}

impl Opening {
    /// Opens a device on a thread of its own. `number` is for a blank one.
    pub(super) fn start(&self, device: DeviceConfig, number: u32) -> Result<Started, FlashError> {
        let (tell, told) = mpsc::sync_channel(1);
        let opening = self.clone();
        let path = device.path.clone();
        let thread = std::thread::Builder::new()
            .name(format!("flash-{number}"))
            .spawn(move || match opening.open(&device, number) {
                Ok((device, runner, engine, log)) => {
                    drop(opening);
                    if tell.send(Ok(device)).is_ok() {
                        drop(tell);
                        runner.run(engine, log);
                    }
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                }
            })
            .map_err(|error| FlashError::io(format!("start the thread of {}", path.display()), error))?;
        Ok(Started { thread, told })
    }

    fn open(&self, device: &DeviceConfig, number: u32) -> Result<(Device, Runner, Box<dyn Engine>, Log), FlashError> {
        let name = device.path.display();
        let pool = scratch(device.depth).map_err(|error| FlashError::io(format!("buffers for {name}"), error))?;
        let options = EngineOptions {
            kind: device.engine,
            depth: device.depth,
            preallocate: device.size,
            fixed: self.memories.iter().cloned().chain([pool.memory()]).collect(),
            ..EngineOptions::default()
        };
        let engine = engine::open(&device.path, &options).map_err(|error| {
            if error.kind() == io::ErrorKind::WouldBlock {
                FlashError::Locked { path: device.path.clone() }
            } else {
                FlashError::io(format!("open {name}"), error)
            }
        })?;
        self.open_on(engine, pool, device, number)
    }

    /// As on a thread of its own, over an engine that is there.
    pub(in crate::flash) fn open_on(
        &self,
        engine: Box<dyn Engine>,
        pool: ScratchPool,
        device: &DeviceConfig,
        number: u32,
    ) -> Result<(Device, Runner, Box<dyn Engine>, Log), FlashError> {
        let Known { mut engine, pool, superblock, believed } = self.known(engine, pool, device, number)?;
        let geometry = superblock.geometry;
        let id = u16::try_from(superblock.number).map_err(|_| {
            FlashError::Config(format!("{}: device number {}", device.path.display(), superblock.number))
        })?;
        let first_slot = self.books.take_slots(superblock.device, id, geometry.segment_count).ok_or_else(|| {
            let count = geometry.segment_count;
            FlashError::Config(format!(
                "{}: {count} segments are more than are left of 65,536; make them longer",
                device.path.display()
            ))
        })?;
        let (found, life_min) = self.recover(&mut *engine, &superblock, first_slot, believed).inspect_err(|_| {
            self.books.give_slots(first_slot);
        })?;
        let figures = Arc::new(Figures::default());
        let budget_spent = device.write_budget_per_day.map_or(0, |per_day| {
            let spent = Spent::load(&self.config.data_dir, superblock.device);
            spent.map_or(0, |spent| spent.now(self.clock.unix_ms(), per_day.get()))
        });
        let log = Log::new(
            LogConfig {
                device: superblock.device,
                geometry,
                first_slot,
                reinsert_percent: self.config.reinsert_percent,
                write_budget_per_day: device.write_budget_per_day,
                budget_spent,
                errors_per_minute: self.config.errors_per_minute,
                probe_interval: self.config.probe_interval,
                life_min,
            },
            found,
            self.store.clone(),
            Arc::clone(&self.clock),
            Arc::clone(&self.books) as Arc<_>,
            Arc::clone(&figures),
            pool,
        );
        let (device, runner) = Device::new(
            superblock.number,
            device.path.clone(),
            (first_slot, geometry.segment_count),
            crate::flash::scrub::Of { device: superblock.device, geometry },
            device.write_budget_per_day.is_some(),
            &*engine,
            figures,
        );
        Ok((device, runner, engine, log))
    }

    /// Reads the superblock or writes the first, and says in it that this boot uses the device.
    fn known(
        &self,
        mut engine: Box<dyn Engine>,
        pool: ScratchPool,
        device: &DeviceConfig,
        number: u32,
    ) -> Result<Known, FlashError> {
        let name = device.path.display();
        let failed = |what: &str| {
            let what = format!("{what} {name}");
            move |error: io::Error| FlashError::io(what, error)
        };
        let mut source = EngineSource::new(&mut *engine).map_err(failed("read"))?;
        let read = recover::superblock(&mut source);
        drop(source);
        let (mut superblock, believed) = match read {
            Ok(superblock) => (superblock, superblock.boot_epoch >= self.believed_from),
            Err(RecoverError::Blank) => {
                let geometry = Geometry::of(engine.len(), device.segment_len.get()).ok_or_else(|| {
                    FlashError::Config(format!(
                        "{name}: no segment of {} fits its {} bytes; a segment is a power of two from 1 MiB to 256 MiB",
                        device.segment_len,
                        engine.len()
                    ))
                })?;
                let formatted_ms = self.clock.unix_ms();
                tracing::info!(device = %name, segments = geometry.segment_count, "formatting a blank flash device");
                let device = DeviceId::random();
                (Superblock { device, number, geometry, boot_epoch: 0, update: 0, formatted_ms }, true)
            }
            Err(error) => return Err(FlashError::Config(format!("{name} is not used as flash: {error}"))),
        };
        superblock.boot_epoch = self.boot_epoch;
        superblock.update += 1;
        write_superblock(&mut *engine, &pool, &superblock).map_err(failed("write the superblock of"))?;
        Ok(Known { engine, pool, superblock, believed })
    }

    fn recover(
        &self,
        engine: &mut dyn Engine,
        superblock: &Superblock,
        first_slot: u16,
        believed: bool,
    ) -> Result<(Vec<FoundSegment>, u64), FlashError> {
        self.progress.segments.fetch_add(u64::from(superblock.geometry.segment_count), Relaxed);
        self.progress.enter(Phase::Sealed);
        let mut source = EngineSource::new(engine).map_err(|error| FlashError::io("buffers to recover", error))?;
        let visitor = Visitor {
            opening: self,
            superblock,
            first_slot,
            believed,
            now: self.clock.now(),
            unix_ms: self.clock.unix_ms(),
            found: Mutex::new((0..superblock.geometry.segment_count).map(|_| FoundSegment::Free { life: 0 }).collect()),
        };
        let summary = recover::recover(&mut source, superblock, &visitor, WORKERS);
        let mut found = visitor.found.into_inner();
        // A new life has to be later than any, also than those whose header does not read. Whatever they are, they are over:
        // nobody would note deaths of their records.
        let mut life_min = summary.life_max;
        if summary.unreadable > 0 {
            life_min += UNREADABLE_LIVES;
            let unreadable = (0u16..).zip(&mut found).filter(|(_, found)| matches!(found, FoundSegment::Unreadable));
            let device = u16::try_from(superblock.number).unwrap_or(u16::MAX);
            let notes: Vec<Note<'_>> =
                unreadable.map(|(segment, _)| Note::Retired { device, segment, life: life_min }).collect();
            self.books.journal().append(&notes);
        }
        tracing::info!(
            device = superblock.number,
            sealed = summary.sealed,
            open = summary.open,
            free = summary.free,
            unreadable = summary.unreadable,
            records = summary.records,
            torn = summary.torn,
            believed,
            "a flash device was recovered"
        );
        Ok((found, life_min))
    }
}

/// A device that is being opened.
pub(super) struct Started {
    thread: JoinHandle<()>,
    told: mpsc::Receiver<Result<Device, FlashError>>,
}

impl Started {
    /// The device, when its records are in the index.
    pub(super) fn wait(self) -> Result<Arc<Device>, FlashError> {
        let device = self.told.recv().unwrap_or(Err(FlashError::Closed))?;
        device.set_thread(self.thread);
        Ok(Arc::new(device))
    }
}

struct Visitor<'a> {
    opening: &'a Opening,
    superblock: &'a Superblock,
    first_slot: u16,
    believed: bool,
    now: Instant,
    unix_ms: u64,
    found: Mutex<Vec<FoundSegment>>,
}

impl Visitor<'_> {
    fn index(&self, slot: u16, segment: u32, life: u64, table: &Table) -> u64 {
        let opening = self.opening;
        let mut used = 0;
        for (row, key) in table.iter() {
            used += u64::from(row.layout().pages()) * crate::PAGE;
            let at = RecordAt {
                device: u16::try_from(self.superblock.number).unwrap_or(u16::MAX),
                segment: u16::try_from(segment).unwrap_or(u16::MAX),
                life,
                page: row.page,
                generation: row.generation,
            };
            let Fate::Alive { expires_ms } = opening.remembered.fate(&at) else { continue };
            let expires_ms = expires_ms.unwrap_or(row.expires_ms);
            if expires_ms > 0 && expires_ms <= self.unix_ms {
                continue;
            }
            let pins = opening
                .remembered
                .pins_of(key)
                .filter(|pins| pins.generation == row.generation)
                .map(|pins| Pinned {
                    endless: pins.endless,
                    until: self.instant(pins.until_ms).filter(|&at| at > self.now),
                })
                .unwrap_or_default();
            let record = RecoveredRecord {
                key,
                generation: row.generation,
                length: u64::from(row.length),
                crc: row.crc,
                expires: self.instant(expires_ms),
                place: FlashPlace { slot, page: row.page },
                pins,
            };
            // A copy gives way, so that a segment that was begun for copies alone is free again.
            let is_older = |other: FlashPlace| life < opening.books.life_of(other.slot);
            if opening.store.insert_recovered(self.now, &record, is_older) {
                opening.progress.records.fetch_add(1, Relaxed);
                opening.progress.bytes.fetch_add(u64::from(row.length), Relaxed);
            }
        }
        used
    }

    /// When a time of the wall's clock is; `None` for never.
    fn instant(&self, unix_ms: u64) -> Option<Instant> {
        let left = unix_ms.saturating_sub(self.unix_ms);
        (unix_ms > 0).then(|| Instant(self.now.0.saturating_add(left.saturating_mul(1_000_000)).max(1)))
    }
}

impl recover::Visitor for Visitor<'_> {
    fn meta(&self, segment: u32) -> Option<Vec<u8>> {
        self.opening.books.meta().get(self.superblock.device, segment)
    }

    fn found(&self, segment: u32, found: Found) {
        let slot = u16::try_from(u32::from(self.first_slot) + segment).expect("slots were taken for all segments");
        let header = match &found {
            Found::Sealed { header, .. } | Found::Open { header, .. } => Some(*header),
            Found::Free | Found::Unreadable(_) => None,
        };
        if let Some(header) = header {
            self.opening.books.found(slot, header.life.life);
            if !self.believed {
                let note = Note::Retired {
                    device: u16::try_from(self.superblock.number).unwrap_or(u16::MAX),
                    segment: u16::try_from(segment).unwrap_or(u16::MAX),
                    life: header.life.life,
                };
                self.opening.books.journal().append(&[note]);
                self.found.lock()[segment as usize] = FoundSegment::Free { life: header.life.life };
                return;
            }
        }
        let found = match found {
            Found::Free => FoundSegment::Free { life: 0 },
            Found::Unreadable(error) => {
                tracing::warn!(device = self.superblock.number, segment, %error, "a segment's header cannot be read");
                FoundSegment::Unreadable
            }
            Found::Sealed { header, table, .. } if table.is_empty() => FoundSegment::Free { life: header.life.life },
            Found::Sealed { header, table, sealed_ms, .. } => {
                let used = self.index(slot, segment, header.life.life, &table);
                FoundSegment::Sealed { life: header.life, sealed_ms, footer_pages: table.footer_pages(), used }
            }
            Found::Open { header, walked } if walked.table.is_empty() => FoundSegment::Free { life: header.life.life },
            Found::Open { header, walked } => {
                self.index(slot, segment, header.life.life, &walked.table);
                FoundSegment::Open { life: header.life, table: walked.table }
            }
        };
        self.found.lock()[segment as usize] = found;
    }

    fn progress(&self, _: &recover::Progress) {
        self.opening.progress.segments_done.fetch_add(1, Relaxed);
    }
}

/// A device's small buffers.
pub(in crate::flash) fn scratch(depth: usize) -> io::Result<ScratchPool> {
    ScratchPool::new(SCRATCH_LEN, 2 * depth.clamp(8, 256))
}

/// Writes all copies, one after another, so that at any time one of them is whole.
fn write_superblock(engine: &mut dyn Engine, pool: &ScratchPool, superblock: &Superblock) -> io::Result<()> {
    let mut page: Scratch = pool.take().ok_or_else(|| io::Error::other("no buffer"))?;
    for copy in 0..SUPERBLOCK_COPIES {
        page.bytes_mut()[..PAGE_LEN].copy_from_slice(&superblock.encode(copy));
        perform(engine, Op::write(0, u64::from(copy) * PAGE_LEN as u64, vec![page.span(PAGE_LEN)]))?;
        perform(engine, Op::sync(0))?;
    }
    Ok(())
}

/// One op, to its end. Nothing else may be in flight.
fn perform(engine: &mut dyn Engine, op: Op) -> io::Result<()> {
    let mut done = Vec::new();
    engine.submit(op);
    while done.is_empty() {
        engine.wait(None, &mut done);
    }
    done.pop().expect("one op has one answer").result
}
