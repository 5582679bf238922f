//! The composition root: builds store and segments, introduces transports to them, starts and stops in one visible order.
//!
//! Start: segments, store, workers, listeners, maintenance, prefault. Stop: listeners, connections, maintenance, workers.

use crate::acl::Users;
use crate::arena::Arena;
use crate::bulk::BulkSessions;
use crate::census::Census;
use crate::clients::Clients;
use crate::clock::BootClock;
use crate::config::{Config, ConfigError, LogLevel, PromoteOn, ShmWrite};
use crate::doctor::Examined;
use crate::flash::Flash;
use crate::gate::Gates;
use crate::pause::Pause;
use crate::pubsub::PubSub;
use crate::rdma::Rdma;
use crate::sampler::Sampler;
use crate::slow::Slow;
pub(crate) use crate::stage::Stage;
use crate::stats::NodeStats;
use crate::tls::Tls;
use crate::topology::Locality;
use crate::upkeep::Upkeep;
use crate::warm::Warm;
use crate::worker::Workers;
use anyhow::Context as _;
use parking_lot::RwLock;
use protocol::base::{Clock, Instant, Locator, Millis, NodeId, SegmentId, StableMemory, Via};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use storage::{Segment, Store, StoreConfig};
use tokio::sync::Notify;

/// What a client needs in order to choose a transport.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    pub(crate) resp: Option<SocketAddr>,
    pub(crate) bulk: Option<SocketAddr>,
    pub(crate) unix: Option<PathBuf>,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) tls: Option<SocketAddr>,
}

/// What a node needs of the process that it runs in.
pub struct Surroundings {
    /// Reads file, environment and flags again.
    pub reload: Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>,
    /// Sets which lines are logged.
    pub set_log_level: Box<dyn Fn(LogLevel) + Send + Sync>,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Surroundings")
    }
}

/// One running node.
#[derive(Debug)]
pub struct Node {
    pub(crate) id: NodeId,
    /// Of the machine's boot: the same on two processes means the same host.
    pub(crate) boot_id: String,
    pub(crate) store: Store,
    pub(crate) segments: Vec<Arc<Segment>>,
    /// In arena mode: clients write the segments themselves.
    pub(crate) arena: Option<Arena>,
    pub(crate) config: RwLock<Config>,
    pub(crate) clock: BootClock,
    pub(crate) started: Instant,
    pub(crate) users: Users,
    pub(crate) clients: Clients,
    pub(crate) bulk: BulkSessions,
    pub(crate) rdma: Rdma,
    pub(crate) stats: NodeStats,
    pub(crate) sampler: Sampler,
    pub(crate) census: Census,
    pub(crate) examined: Examined,
    pub(crate) locality: Locality,
    pub(crate) slow: Slow,
    pub(crate) pause: Pause,
    pub(crate) pubsub: PubSub,
    /// Whether it answers as a cluster of one node.
    pub(crate) cluster_enabled: bool,
    pub(crate) upkeep: Upkeep,
    pub(crate) tls: Tls,
    /// The flash tier, if this node has one.
    pub(crate) flash: Option<Flash>,
    /// Memory that outlives the process, if this node's does.
    pub(crate) warm: Option<Warm>,
    /// The file that the configuration came from, for `CONFIG REWRITE`.
    pub(crate) config_file: OnceLock<PathBuf>,
    pub(crate) workers: OnceLock<Workers>,
    gates: Gates,
    pub(crate) addresses: OnceLock<Addresses>,
    /// Bytes of segments whose pages are there.
    pub(crate) prefaulted: AtomicU64,
    /// The same, of each segment.
    pub(crate) prefaulted_of: Vec<AtomicU64>,
    stopping: AtomicBool,
    /// Whether the end waits for nothing that is lent.
    hurried: AtomicBool,
    /// What the process does for its node.
    pub(crate) surroundings: OnceLock<Surroundings>,
    /// Whether what lies in DRAM only is written to flash at the end.
    saves: AtomicBool,
    stop: Notify,
    /// Limits that are read at every command, so that they need no lock.
    pub(crate) hot: Hot,
}

/// Settings that the hot path reads. None of them needs a lock, and each may change at any time.
#[derive(Debug, Default)]
pub(crate) struct Hot {
    pub(crate) output_pause: AtomicU64,
    output_len_max: AtomicU64,
    request_len_max: AtomicU64,
    preauth_len_max: AtomicU64,
    /// Of one object; a start alone changes it.
    pub(crate) object_len_max: u64,
    lease_ms_max: AtomicU64,
    spill_wait_ms: AtomicU64,
    flash_wait_ms: AtomicU64,
    promote_on: AtomicU64,
    /// Bytes that one client may have reserved.
    client_reserve: AtomicU64,
    /// Whether anything is read ahead.
    pub(crate) prefetches: bool,
    /// Whether clients have to say who they are.
    pub(crate) needs_auth: AtomicBool,
    /// Whether flash is still being recovered or memory taken over: no object is found or written until then.
    pub(crate) loading: AtomicBool,
    /// Bytes of replies that are being sent.
    pub(crate) sending: AtomicU64,
    waiting_max: AtomicU64,
}

fn len(value: &AtomicU64) -> usize {
    usize::try_from(value.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
}

impl Hot {
    fn apply(&self, config: &Config) {
        let promote_on = PROMOTIONS.iter().position(|known| *known == config.promote_on).unwrap_or(0);
        for (to, value) in [
            (&self.output_pause, config.output_pause_len.get()),
            (&self.output_len_max, config.output_len_max.get()),
            (&self.request_len_max, config.request_len_max.get()),
            (&self.preauth_len_max, config.preauth_len_max.get()),
            (&self.lease_ms_max, config.lease_ms_max.0),
            (&self.spill_wait_ms, config.spill_wait_ms.0),
            (&self.flash_wait_ms, config.flash_wait_ms_max.0),
            (&self.promote_on, promote_on as u64),
            (&self.client_reserve, config.reserved_client_percent_max.of(config.maxmemory_len()).get()),
            (&self.waiting_max, config.dram_total().get() / 100 * u64::from(config.output_total_percent.0)),
        ] {
            to.store(value, Ordering::Relaxed);
        }
    }

    pub(crate) fn output_len_max(&self) -> usize {
        len(&self.output_len_max)
    }

    pub(crate) fn request_len_max(&self) -> usize {
        len(&self.request_len_max)
    }

    pub(crate) fn preauth_len_max(&self) -> usize {
        len(&self.preauth_len_max)
    }

    pub(crate) fn lease_max(&self) -> Millis {
        Millis(self.lease_ms_max.load(Ordering::Relaxed))
    }

    /// Time that a writer waits for objects to reach flash.
    pub(crate) fn spill_wait(&self) -> Duration {
        Duration::from_millis(self.spill_wait_ms.load(Ordering::Relaxed))
    }

    /// Time that a read of flash or a durable commit may take.
    pub(crate) fn flash_wait(&self) -> Duration {
        Duration::from_millis(self.flash_wait_ms.load(Ordering::Relaxed))
    }

    /// Which read of an object on flash brings it back.
    pub(crate) fn promote_on(&self) -> PromoteOn {
        PROMOTIONS[len(&self.promote_on)]
    }

    /// Bytes that one client may have reserved.
    pub(crate) fn client_reserve(&self) -> u64 {
        self.client_reserve.load(Ordering::Relaxed)
    }

    /// Bytes of requests and replies that may wait in all.
    pub(crate) fn waiting_max(&self) -> u64 {
        self.waiting_max.load(Ordering::Relaxed)
    }
}

const PROMOTIONS: [PromoteOn; 3] = [PromoteOn::First, PromoteOn::Second, PromoteOn::Never];

impl Node {
    /// Maps the segments and makes the store. Nothing listens yet.
    ///
    /// # Errors
    /// When the machine refuses the memory.
    pub fn new(config: Config) -> anyhow::Result<Arc<Self>> {
        let users = Users::load(&config)?;
        let locality = Locality::read(Path::new("/"), &config)?;
        let tls = Tls::default();
        tls.put(Tls::prepare(&config)?);
        let clock = BootClock;
        let (flash, boot_epoch) = match Flash::prepare(&config)? {
            Some((flash, epoch)) => (Some(flash), epoch),
            None => (None, crate::clock::unix_ms() / 1000),
        };
        let (warm, segments, boot_epoch, hash_seed) = match &config.dram_path {
            None => (None, anonymous_segments(&config)?, boot_epoch, None),
            Some(path) => {
                let memory_at_rest = flash.as_ref().map(|flash| flash.memory_at_rest);
                let opened = Warm::open(path, &config, clock.now(), boot_epoch, memory_at_rest)?;
                (Some(opened.warm), opened.segments, opened.boot_epoch, opened.hash_seed)
            }
        };
        let segments: Vec<Arc<Segment>> = segments.into_iter().map(Arc::new).collect();
        if segments.len() > transport::shm::fds::FDS_PER_MESSAGE_MAX - 8 {
            tracing::warn!(
                "{} segments are too many to pass to shared-memory clients: raise segment-len",
                segments.len()
            );
        }
        let arena = match config.shm_write {
            ShmWrite::Copy => None,
            ShmWrite::Arena => Some(Arena::new(&segments).context("lend the segments for writing")?),
        };
        let seed = rand::random::<u64>();
        let store_config = StoreConfig {
            shards: config.shard_count(),
            object_len_max: config.object_len_max,
            capacity: config.maxmemory_len(),
            watermark_high_percent: config.watermark_high_percent.0,
            watermark_low_percent: config.watermark_low_percent.0,
            reserved_percent_max: config.reserved_percent_max.0,
            reserved_client_percent_max: config.reserved_client_percent_max.0,
            leased_client_percent_max: config.leased_client_percent_max.0,
            pinned_percent_max: config.pinned_percent_max.0,
            grace_percent_max: config.probe_grace_percent_max.0,
            probe_grace: config.probe_grace_ms,
            commit_memory: config.commit_memory_ms,
            boot_epoch,
            seed,
            hash_seed,
        };
        let prefaulted_of = segments.iter().map(|_| AtomicU64::new(0)).collect();
        let memories = segments.iter().map(|segment| Arc::clone(segment) as Arc<dyn StableMemory>).collect();
        let store = Store::new(store_config, memories);
        let id = NodeId(format!(
            "{:016x}{:016x}{:08x}",
            rand::random::<u64>(),
            rand::random::<u64>(),
            rand::random::<u32>()
        ));
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let hot = Hot {
            object_len_max: config.object_len_max.get(),
            prefetches: config.prefetch_len.get() > 0,
            loading: AtomicBool::new(flash.is_some() || warm.is_some()),
            needs_auth: AtomicBool::new(users.ask()),
            ..Hot::default()
        };
        hot.apply(&config);
        let slow = Slow::default();
        slow.apply(&config);
        let classes = config.notify_keyspace_events;
        let node = Arc::new(Self {
            id,
            boot_id,
            store,
            segments,
            arena,
            started: clock.now(),
            clock,
            users,
            clients: Clients::default(),
            bulk: BulkSessions::default(),
            rdma: Rdma::default(),
            stats: NodeStats::default(),
            sampler: Sampler::default(),
            census: Census::default(),
            examined: Examined::default(),
            locality,
            slow,
            pause: Pause::default(),
            pubsub: PubSub::default(),
            cluster_enabled: config.cluster_enabled,
            upkeep: Upkeep::default(),
            tls,
            flash,
            warm,
            config_file: OnceLock::new(),
            workers: OnceLock::new(),
            gates: Gates::new(config.worker_count()),
            addresses: OnceLock::new(),
            prefaulted: AtomicU64::new(0),
            prefaulted_of,
            stopping: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
            surroundings: OnceLock::new(),
            saves: AtomicBool::new(true),
            stop: Notify::new(),
            hot,
            config: RwLock::new(config),
        });
        node.set_event_classes(classes);
        Ok(node)
    }

    /// Now, by the node's clock.
    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Milliseconds of the node's clock.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now().0 / 1_000_000
    }

    /// Where a payload is, for a client that reaches it `via`.
    pub(crate) fn locator(&self, via: Via, segment: SegmentId, offset: u64, length: u64, own_memory: bool) -> Locator {
        let fd = (via == Via::Shm && !own_memory).then_some(segment.0);
        Locator { node: self.id.clone(), via, segment, offset, length, fd, remote: None }
    }

    /// Asks the node to stop. Safe to call again.
    pub fn shut_down(&self) {
        self.stopping.store(true, Ordering::Release);
        self.stop.notify_waiters();
    }

    /// Asks the node to stop and to leave flash as it is.
    pub(crate) fn shut_down_unsaved(&self) {
        self.saves.store(false, Ordering::Release);
        self.hurry();
    }

    /// Asks the node to stop without waiting for what is lent.
    pub(crate) fn hurry(&self) {
        self.hurried.store(true, Ordering::Release);
        self.shut_down();
    }

    pub(crate) fn is_hurried(&self) -> bool {
        self.hurried.load(Ordering::Acquire)
    }

    /// Whether the end writes what lies in DRAM only.
    pub(crate) fn saves(&self) -> bool {
        self.saves.load(Ordering::Acquire)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Waits until the node is asked to stop.
    pub async fn stopped(&self) {
        let notified = self.stop.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !self.is_stopping() {
            notified.await;
        }
    }

    /// Brings what `CONFIG SET` changed to where it acts.
    pub(crate) fn apply_config(&self) {
        let config = self.config.read();
        self.store.set_capacity(config.maxmemory_len());
        self.store.set_watermarks(config.watermark_high_percent.0, config.watermark_low_percent.0);
        self.store.set_probe_grace(config.probe_grace_ms);
        self.hot.apply(&config);
        self.slow.apply(&config);
        self.take_requirepass(&config.requirepass);
        if let Some(surroundings) = self.surroundings.get() {
            (surroundings.set_log_level)(config.log_level);
        }
        self.set_event_classes(config.notify_keyspace_events);
    }

    pub(crate) fn workers(&self) -> &Workers {
        self.workers.get().expect("workers start before connections")
    }

    /// How one client's commands run alone.
    pub(crate) fn gates(&self) -> &Gates {
        &self.gates
    }

    pub(crate) fn addresses(&self) -> &Addresses {
        self.addresses.get().expect("listeners start before connections")
    }
}

/// Segments without a name, which end with the process.
fn anonymous_segments(config: &Config) -> anyhow::Result<Vec<Segment>> {
    let len = config.segment_size();
    let huge = huge_pages(config);
    let make = |n| {
        let segment = Segment::create(len, huge).with_context(|| {
            format!("segment {n} of {len}: no memory for it (set `dram` lower, or reserve huge pages if `huge-pages = always`)")
        })?;
        // Clients get these descriptors: from here on nobody can change their length nor, in copy mode, map them writable.
        match config.shm_write {
            ShmWrite::Copy => transport::shm::seal_segment(&segment),
            ShmWrite::Arena => transport::shm::seal_writable_segment(&segment),
        }
        .context("seal a segment")?;
        Ok(segment)
    };
    (0..config.segment_count()).map(make).collect()
}

/// The setting as the segments are told of it.
pub(crate) fn huge_pages(config: &Config) -> storage::HugePages {
    match config.huge_pages {
        crate::config::HugePages::Auto => storage::HugePages::Auto,
        crate::config::HugePages::Never => storage::HugePages::Never,
        crate::config::HugePages::Always => storage::HugePages::Always,
    }
}
