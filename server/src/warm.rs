//! Memory that outlives the process (`dram-path`): taken over at the start, left at a planned end.
//!
//! Invariants:
//! - The manifest goes before a byte of the segments changes, and comes back only after the last change of a planned end.
//!   Until it goes, a start that fails takes nothing away.
//! - Whatever cannot be taken over is said, with the reason, in the log, in `INFO` and in `DIAGNOSE`.

use crate::config::{Choice, Config};
use crate::node::{self, Node};
use anyhow::{Context as _, ensure};
use parking_lot::Mutex;
use protocol::base::{ByteLen, Generation, Instant};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use storage::warm::{Adopted, Adoption, Cold, Layout, Life, Manifest, WarmDir};
use storage::{HugePages, Pages, Segment};

/// The directory of a node whose memory has names.
#[derive(Debug)]
pub(crate) struct Warm {
    dir: WarmDir,
    layout: Layout,
    /// Random: this life, for the directory of the flash tier.
    name: u128,
    /// What the life before left, until it is taken over.
    left: Mutex<Option<Manifest>>,
    /// Why this life began with empty memory, if it did.
    cold: Mutex<Option<Cold>>,
    adoption: OnceLock<Adoption>,
    /// Whether the manifest is gone and this life's memory is what the next one may take over.
    in_use: AtomicBool,
}

/// Segments of a node and, if they have names, what is known of them.
pub(crate) struct Opened {
    pub(crate) warm: Warm,
    pub(crate) segments: Vec<Segment>,
    /// What the store must be told to find what lies there.
    pub(crate) boot_epoch: u64,
    pub(crate) hash_seed: Option<u64>,
}

impl Warm {
    /// Locks the directory and maps its segments: those of the life before if it left them for this one, else new ones.
    /// `flash` is what the flash tier remembers, if there is one.
    pub(crate) fn open(
        path: &Path,
        config: &Config,
        now: Instant,
        boot_epoch: u64,
        flash: Option<Option<u128>>,
    ) -> anyhow::Result<Opened> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let dir = WarmDir::open(&path).context("`dram-path`")?;
        let huge = node::huge_pages(config);
        ensure!(
            huge != HugePages::Always || dir.pages() == Pages::Huge,
            "`dram-path`: {} is no hugetlbfs, and `huge-pages` is `always`",
            path.display()
        );
        let (count, len) = (config.segment_count(), config.segment_size());
        let layout = Layout {
            segments: u32::try_from(count).context("segments")?,
            segment_len: len.get(),
            shards: u32::try_from(config.shard_count()).context("shards")?,
            machine: machine(),
            flash: flash.is_some(),
        };
        // Without flash there is no count of boots but that of the lives that left their memory.
        let wanted = if flash.is_some() { boot_epoch } else { boot_epoch & Generation::BOOT_EPOCH_MAX };
        let found = dir.manifest().and_then(|manifest| {
            manifest.fits(&layout, now, flash.flatten())?;
            if flash.is_some() && manifest.next_boot_epoch(wanted) != wanted {
                return Err(Cold::Flash);
            }
            let segments = (0..count).map(|number| dir.keep_segment(number, len, huge)).collect::<Result<_, _>>()?;
            Ok((manifest, segments))
        });
        let warm = |dir, left, cold| Self {
            dir,
            layout,
            name: rand::random(),
            left: Mutex::new(left),
            cold: Mutex::new(cold),
            adoption: OnceLock::new(),
            in_use: AtomicBool::new(false),
        };
        let opened = match found {
            Ok((manifest, segments)) => {
                let (boot_epoch, seed) = (manifest.next_boot_epoch(wanted), manifest.hash_seed());
                tracing::info!("memory: {} objects were left in {}", manifest.objects(), path.display());
                Opened { warm: warm(dir, Some(manifest), None), segments, boot_epoch, hash_seed: Some(seed) }
            }
            Err(cold) => {
                tracing::info!("memory: nothing is taken over from {}: {cold}", path.display());
                dir.clear().context("`dram-path`")?;
                let segments = make_segments(&dir, count, len, huge)?;
                Opened { warm: warm(dir, None, Some(cold)), segments, boot_epoch, hash_seed: None }
            }
        };
        if config.unix_socket != Choice::Off {
            protect(&opened.segments);
        }
        Ok(opened)
    }

    /// How far the taking over is, in percent, and what came of it so far; `None` before it begins, or if there is none.
    pub(crate) fn progress(&self) -> Option<(u8, Adopted)> {
        self.adoption.get().map(|adoption| (adoption.percent(), adoption.adopted()))
    }

    /// Why this life began with empty memory, if it did.
    pub(crate) fn cold(&self) -> Option<Cold> {
        self.cold.lock().clone()
    }

    /// Bytes that the directory's file system could still give to a manifest.
    pub(crate) fn free(&self) -> ByteLen {
        self.dir.free()
    }
}

/// The boot of the machine, and the name space of its clock: `CLOCK_BOOTTIME` of two lives can be compared if both agree.
fn machine() -> [u8; 24] {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot = u128::from_str_radix(&boot.trim().replace('-', ""), 16).unwrap_or(0);
    let clock = std::fs::metadata("/proc/self/ns/time").map_or(0, |found| found.ino());
    let mut machine = [0; 24];
    machine[..16].copy_from_slice(&boot.to_le_bytes());
    machine[16..].copy_from_slice(&clock.to_le_bytes());
    machine
}

/// Allocates all segments, several at once: the kernel zeroes each page.
fn make_segments(dir: &WarmDir, count: usize, len: ByteLen, huge: HugePages) -> anyhow::Result<Vec<Segment>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 16).min(count.max(1));
    let made = std::thread::scope(|scope| {
        let part = |first: usize| {
            scope.spawn(move || {
                let numbers = (first..count).step_by(threads);
                numbers.map(|number| Ok((number, dir.make_segment(number, len, huge)?))).collect()
            })
        };
        let parts: Vec<_> = (0..threads).map(part).collect();
        parts.into_iter().map(|part| part.join().expect("allocating does not panic")).collect()
    });
    let made: Result<Vec<Vec<(usize, Segment)>>, storage::warm::WarmError> = made;
    match made {
        Ok(parts) => {
            let mut segments: Vec<(usize, Segment)> = parts.into_iter().flatten().collect();
            segments.sort_by_key(|&(number, _)| number);
            Ok(segments.into_iter().map(|(_, segment)| segment).collect())
        }
        Err(error) => {
            // Memory that nobody will use would be missed elsewhere.
            let _ = dir.clear();
            Err(error).context("`dram-path` (make its file system larger, or `dram` smaller)")
        }
    }
}

/// Keeps clients of shared memory from ever writing there. Where that cannot be, they are refused.
fn protect(segments: &[Segment]) {
    let failed = segments.iter().find_map(|segment| segment.make_immutable().err());
    if let Some(error) = failed {
        tracing::warn!(
            "shared memory is refused to clients: the segments' files cannot be made immutable ({error}). That takes \
             CAP_LINUX_IMMUTABLE and a tmpfs of Linux 6.1 or later"
        );
    }
}

/// Why a client cannot be given the segments.
pub(crate) fn refusal(kind: ErrorKind) -> String {
    match kind {
        ErrorKind::PermissionDenied => {
            "the segments are files (`dram-path`) that this server could not make immutable, so \
                                        that clients could write them: see its log"
                .to_owned()
        }
        ErrorKind::WouldBlock => "another process still has a segment's file open, perhaps a client of before the \
                                  restart: shared memory waits until it is gone"
            .to_owned(),
        other => format!("no descriptor for a segment: {other}"),
    }
}

impl Node {
    /// Takes over what the life before left, after flash is recovered and before anybody is served. Blocks until then.
    pub(crate) fn adopt_memory(&self) -> anyhow::Result<()> {
        let Some(warm) = &self.warm else { return Ok(()) };
        let left = warm.left.lock().take();
        warm.dir.begin().context("`dram-path`")?;
        warm.in_use.store(true, Ordering::Release);
        let Some(manifest) = left else { return Ok(()) };
        let started = self.now();
        let adoption = match Adoption::new(self.store.clone(), manifest) {
            Ok(adoption) => warm.adoption.get_or_init(|| adoption),
            Err(cold) => {
                tracing::info!("memory: nothing is taken over: {cold}");
                *warm.cold.lock() = Some(cold);
                return Ok(());
            }
        };
        let threads = self.config.read().worker_count().clamp(1, 16);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| adoption.work(self.now()));
            }
        });
        let Adopted { objects, bytes, clean, expired, damaged, outdated } = adoption.adopted();
        let seconds = self.now().since(started).as_secs_f64();
        tracing::info!(
            "memory: {objects} objects of {} taken over and verified in {seconds:.3} s ({clean} of them on flash too); \
             {expired} had expired, flash has newer ones of {outdated}",
            ByteLen(bytes)
        );
        if damaged > 0 {
            tracing::warn!("memory: {damaged} objects were not what was left, and are dropped");
        }
        Ok(())
    }

    /// Leaves memory for the next life. Nobody is served any more, and the flash tier is closed.
    pub(crate) fn leave_memory(&self) {
        let Some(warm) = self.warm.as_ref().filter(|warm| warm.in_use.load(Ordering::Acquire)) else { return };
        if !self.saves() {
            tracing::info!("stopping: memory is not left to the next start, which begins with none");
            return;
        }
        let life = Life { name: warm.name, boot_epoch: self.store.boot_epoch(), layout: warm.layout, now: self.now() };
        let manifest = self.store.freeze(&life);
        let noted = self.tier().map_or(Ok(()), |tier| tier.leave_memory_at_rest(warm.name));
        let left = noted
            .context("note it beside the flash tier")
            .and_then(|()| Ok(warm.dir.rest(&manifest, &self.segments)?));
        match left {
            Ok(()) => tracing::info!("stopping: memory rests in {}", warm.dir.path().display()),
            Err(error) => {
                tracing::error!("stopping: memory cannot be left, the next start begins with none: {error:#}")
            }
        }
    }
}
