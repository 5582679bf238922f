//! The node's flash tier: from settings to devices, and its end.
//!
//! Invariants:
//! - The data directory is locked, and the boot counted, before the store exists: no generation is given out twice.

use crate::clock::{BootClock, unix_ms};
use crate::config::{Config, Device, Devices, FlashEngine, Place};
use crate::fabrics::{Fabrics, State};
use crate::node::Node;
use anyhow::Context as _;
use protocol::base::{ByteLen, StableMemory};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use storage::flash::engine::EngineKind;
use storage::flash::fabric::{Namespace, Target};
use storage::flash::tier::{DataDir, DeviceConfig, FlashError, Progress, Tier, TierClock, TierConfig};

/// Time that closing may take beyond what it may take for writing, until it is given up.
const CLOSE_GRACE: Duration = Duration::from_secs(10);
/// Pause between two lines about how far a stop is.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// The tier of a node that has one, from before it is opened.
pub(crate) struct Flash {
    data_dir: parking_lot::Mutex<Option<DataDir>>,
    tier: OnceLock<Tier>,
    /// Devices on other machines.
    pub(crate) fabrics: Arc<Fabrics>,
    /// Those that are connected, until the tier is open.
    connected: parking_lot::Mutex<Vec<(Target, Namespace)>>,
    pub(crate) progress: Arc<Progress>,
    /// The life whose memory the tier was last used with, if nobody served since.
    pub(crate) memory_at_rest: Option<u128>,
}

impl fmt::Debug for Flash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flash").field("progress", &self.progress).finish_non_exhaustive()
    }
}

impl TierClock for BootClock {
    fn unix_ms(&self) -> u64 {
        unix_ms()
    }
}

impl Flash {
    /// Locks the data directory, if this configuration has a tier, and counts the boot.
    pub(crate) fn prepare(config: &Config) -> anyhow::Result<Option<(Self, u64)>> {
        let devices = config.flash_devices();
        // A directory that is asked for, and no device: they are attached later.
        let alone = matches!(config.data_dir, crate::config::Choice::Given(_)) && config.nvme == Devices::Off;
        let Some(path) = config.data_dir_path().filter(|_| alone || !devices.is_empty()) else { return Ok(None) };
        let path = std::path::absolute(&path).unwrap_or(path);
        let data_dir = DataDir::open(&path).map_err(|error| match error {
            FlashError::Locked { .. } => {
                anyhow::anyhow!("{} is in use by another server: give this one a `data-dir` of its own", path.display())
            }
            error => anyhow::Error::new(error).context("`data-dir`"),
        })?;
        let fabrics = Fabrics::new(data_dir.host_id().context("`data-dir`")?);
        let targets = devices.iter().filter_map(|device| match &device.place {
            Place::Fabric(target) => Some(target.clone()),
            Place::Path(_) => None,
        });
        let connected = fabrics.connect_at_start(targets);
        let epoch = data_dir.next_boot_epoch(&all_devices(config, &connected)).context("count the boot")?;
        let flash = Self {
            memory_at_rest: data_dir.memory_at_rest(),
            data_dir: parking_lot::Mutex::new(Some(data_dir)),
            tier: OnceLock::new(),
            fabrics: Arc::new(fabrics),
            connected: parking_lot::Mutex::new(connected),
            progress: Arc::default(),
        };
        Ok(Some((flash, epoch)))
    }
}

impl Config {
    /// One device, as the tier is told of it.
    pub(crate) fn device_config(&self, path: &Path, size: Option<ByteLen>) -> DeviceConfig {
        let budget = self.flash_write_budget;
        DeviceConfig {
            segment_len: self.flash_segment_size(size),
            engine: match self.flash_engine {
                FlashEngine::Auto => EngineKind::Auto,
                FlashEngine::Uring => EngineKind::Uring,
                FlashEngine::Syscall => EngineKind::Syscall,
            },
            depth: self.flash_depth,
            write_budget_per_day: (budget != ByteLen(0)).then_some(budget),
            ..DeviceConfig::new(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()), size)
        }
    }
}

/// The devices of this machine, and those on others that are connected.
fn all_devices(config: &Config, connected: &[(Target, Namespace)]) -> Vec<DeviceConfig> {
    let devices = config.flash_devices();
    let here = devices.iter().filter_map(|device| Some(config.device_config(device.path()?, device.size)));
    let elsewhere = connected
        .iter()
        .map(|(_, namespace)| DeviceConfig { optional: true, ..config.device_config(&namespace.path, None) });
    here.chain(elsewhere).collect()
}

fn tier_config(config: &Config, connected: &[(Target, Namespace)], path: &Path) -> TierConfig {
    TierConfig {
        devices: all_devices(config, connected),
        reinsert_percent: config.flash_reinsert_percent.0,
        scrub_rate: config.scrub_rate,
        prefetch_bytes_in_flight: config.prefetch_len,
        journal_sync: config.journal_sync_ms,
        close_spill: (config.shutdown_save_ms.0 > 0).then_some(config.shutdown_save_ms),
        seed: rand::random(),
        ..TierConfig::new(path)
    }
}

impl Node {
    /// The flash tier, once it is open.
    pub(crate) fn tier(&self) -> Option<&Tier> {
        self.flash.as_ref()?.tier.get()
    }

    /// Opens the tier, if there is one to be. Blocks until its objects are in the index.
    pub(crate) fn open_flash(&self) -> Result<(), FlashError> {
        let Some(flash) = &self.flash else { return Ok(()) };
        let data_dir = flash.data_dir.lock().take().expect("a tier is opened once");
        let connected = std::mem::take(&mut *flash.connected.lock());
        let config = tier_config(&self.config.read(), &connected, data_dir.path());
        for device in &config.devices {
            let size = device.size.map_or("as it is".to_owned(), |size| size.to_string());
            tracing::info!("flash: {}, {size}", device.path.display());
        }
        let memories = self.segments.iter().map(|segment| Arc::clone(segment) as Arc<dyn StableMemory>).collect();
        let progress = Arc::clone(&flash.progress);
        let tier = Tier::open(config, data_dir, self.store.clone(), memories, Arc::new(BootClock), progress)?;
        for (target, namespace) in connected {
            let state = match tier.status().iter().find(|device| device.path == namespace.path) {
                Some(device) => State::Attached { id: device.id, namespace },
                None => State::Waiting { why: format!("{} did not open at the start", namespace.path.display()) },
            };
            flash.fabrics.note(target, state);
        }
        assert!(flash.tier.set(tier).is_ok(), "a tier is opened once");
        Ok(())
    }

    /// Takes one more device of this machine in.
    pub(crate) fn attach_device(&self, path: PathBuf, size: Option<ByteLen>) -> Result<u32, FlashError> {
        let tier = self.tier().ok_or(FlashError::Closed)?;
        let (device, config) = {
            let config = self.config.read();
            let device = config.flash_device_to_make(Device { place: Place::Path(path.clone()), size });
            let size = device.size;
            (device, config.device_config(&path, size))
        };
        let id = tier.attach(config)?;
        // What `CONFIG REWRITE` writes.
        self.config.write().add_device(device);
        Ok(id)
    }

    /// Takes one of another machine in.
    pub(crate) fn attach_fabric(&self, target: &Target, format: bool) -> Result<u32, FlashError> {
        self.flash.as_ref().ok_or(FlashError::Closed)?.fabrics.attach(self, target, format)
    }

    /// Lets a device go.
    pub(crate) fn detach_device(&self, id: u32, drain: bool) -> Result<(), FlashError> {
        let tier = self.tier().ok_or(FlashError::Closed)?;
        if !drain {
            // A drain under way would keep others out of what is on other machines until it is done. There may be none.
            let _ = tier.call_off(id);
        }
        if let Some(detached) = self.flash.as_ref().and_then(|flash| flash.fabrics.detach(self, id, drain)) {
            return detached;
        }
        let path = tier.status().into_iter().find(|device| device.id == id).map(|device| device.path);
        tier.detach(id, drain)?;
        if let Some(path) = path {
            self.config.write().remove_device(&Place::Path(path));
        }
        Ok(())
    }

    /// Writes what lies in DRAM only, if `save`, and closes the devices: for as long as settings allow.
    pub(crate) fn close_flash(&self, save: bool) {
        let Some(tier) = self.tier() else { return };
        let fabrics = self.flash.as_ref().map(|flash| Arc::clone(&flash.fabrics));
        if let Some(fabrics) = &fabrics {
            fabrics.stop();
        }
        if !save {
            tracing::info!("stopping: nothing is written to flash any more; what is there is found again");
            return;
        }
        let limit = self.config.read().shutdown_save_ms.duration() + CLOSE_GRACE;
        let started = std::time::Instant::now();
        let (done, closed) = std::sync::mpsc::channel();
        let closing = tier.clone();
        let thread = std::thread::Builder::new().name("close".to_owned()).spawn(move || {
            closing.close();
            if let Some(fabrics) = fabrics {
                fabrics.disconnect_all();
            }
            let _ = done.send(());
        });
        if let Err(error) = thread {
            tracing::error!(%error, "stopping: flash is left as a crash would leave it");
            return;
        }
        while closed.recv_timeout(SAY_EVERY).is_err() {
            if started.elapsed() > limit {
                tracing::warn!("stopping: flash is too slow and left as a crash would leave it");
                return;
            }
            let left = ByteLen(self.store.accounting().live.saturating_sub(self.store.usage().clean_bytes));
            tracing::info!("stopping: {left} lie in DRAM only and are being written to flash");
        }
        tracing::info!("stopping: flash closed after {:.3} s", started.elapsed().as_secs_f64());
    }
}
