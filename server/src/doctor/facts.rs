//! What is read of the machine before anything is judged.
//!
//! Invariants:
//! - What lies in `/proc` and `/sys` is read below a root, so that another machine's can be judged. What is tried (io_uring,
//!   `O_DIRECT`, RDMA devices) is tried on this one.

use crate::config::{Config, Place};
use protocol::base::ByteLen;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use storage::flash::engine::{UringReport, probe_uring};
use transport::rdma::{Surveyed, survey};
use transport::topology::Topology;

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Beside a node that runs: what it holds is not counted again, and no RDMA device is opened.
    Running,
    /// The same, and RDMA devices are opened and tried.
    RunningAndTried,
    /// Before a start.
    Offline,
}

/// Bits of `CapEff` (capabilities(7)).
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;

/// Memory of the machine, in bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// What could still be had. `None` beside a running node, which has taken its part.
    pub(super) available: Option<u64>,
    /// Reserved huge pages of 2 MiB that are free; with a running node, those it holds are not among them.
    pub(super) huge_free: u64,
    pub(super) huge_total: u64,
}

/// A place that bytes are to be kept in: the data directory, or a device of the flash tier.
#[derive(Clone, Debug, Default)]
pub(super) struct Storage {
    /// What it is for: `data-dir`, `nvme`.
    pub(super) setting: &'static str,
    pub(super) path: PathBuf,
    /// Whether it is a block device.
    pub(super) is_device: bool,
    /// As `/proc/self/mountinfo` names it: `ext4`. Empty for a block device.
    pub(super) file_system: String,
    /// Where that is mounted.
    pub(super) mount: PathBuf,
    pub(super) free: u64,
    /// Bytes that it will take beyond what it has.
    pub(super) wanted: u64,
    /// Why it cannot be written, if it cannot.
    pub(super) denied: Option<String>,
    /// Whether `O_DIRECT` works there; `None` where that could not be tried.
    pub(super) direct: Option<bool>,
    /// Where it is mounted, if it is a block device in use as a file system.
    pub(super) mounted_at: Option<String>,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(super) topology: Topology,
    pub(super) memory: Memory,
    /// Of a running node: segments with ordinary pages, and all.
    pub(super) segments: Option<(usize, usize)>,
    pub(super) descriptors_max: Option<u64>,
    pub(super) locked_max: Option<u64>,
    pub(super) may_lock: bool,
    pub(super) may_administer: bool,
    pub(super) clock_source: Option<String>,
    pub(super) unix_s: u64,
    pub(super) uring: Result<UringReport, String>,
    pub(super) uring_disabled: bool,
    pub(super) storage: Vec<Storage>,
    /// Whether `/dev/nvme-fabrics` is there, and for which transports the initiator is.
    pub(super) fabrics: Option<Vec<String>>,
    /// What came of opening the RDMA devices; `None` if they were not.
    pub(super) rdma: Option<Result<Vec<Surveyed>, String>>,
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A line of `/proc/meminfo`.
fn line(meminfo: &str, name: &str) -> Option<u64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.split_whitespace().next()?.parse().ok()
}

impl Facts {
    /// Reads the machine whose `/` is `root`.
    pub(crate) fn gather(root: &Path, config: &Config, depth: Depth) -> Self {
        let meminfo = text(&root.join("proc/meminfo"));
        let status = text(&root.join("proc/self/status"));
        let capabilities =
            status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
        let has = |bit: u32| capabilities.is_some_and(|set| set >> bit & 1 == 1);
        let huge = root.join("sys/kernel/mm/hugepages/hugepages-2048kB");
        let huge = |name: &str| text(&huge.join(name)).trim().parse::<u64>().unwrap_or(0);
        let mounts = Mounts::read(root);
        let mut topology = Topology::read(root);
        for (name, place) in config.topology.iter() {
            topology.override_nic(name, place.numa, place.gbps);
        }
        Self {
            topology,
            memory: Memory {
                available: line(&meminfo, "MemAvailable").filter(|_| depth == Depth::Offline).map(|kib| kib * 1024),
                huge_free: huge("free_hugepages"),
                huge_total: huge("nr_hugepages"),
            },
            segments: None,
            descriptors_max: getrlimit(Resource::Nofile).current,
            locked_max: getrlimit(Resource::Memlock).current,
            may_lock: has(CAP_IPC_LOCK),
            may_administer: has(CAP_SYS_ADMIN),
            clock_source: fs::read_to_string(
                root.join("sys/devices/system/clocksource/clocksource0/current_clocksource"),
            )
            .ok()
            .map(|source| source.trim().to_owned()),
            unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            uring: probe_uring().map_err(|error| error.to_string()),
            uring_disabled: !matches!(text(&root.join("proc/sys/kernel/io_uring_disabled")).trim(), "" | "0"),
            storage: storage(config, &mounts),
            fabrics: root.join("dev/nvme-fabrics").exists().then(|| {
                let has = |kind: &&str| root.join(format!("sys/module/nvme_{kind}")).exists();
                ["tcp", "rdma"].into_iter().filter(has).map(str::to_owned).collect()
            }),
            rdma: (depth != Depth::Running).then(survey),
        }
    }

    /// Names of the RDMA devices, whatever their state.
    pub(super) fn rdma_names(&self) -> Vec<&str> {
        self.topology.nics.iter().filter(|nic| nic.rdma.is_some()).map(|nic| nic.name.as_str()).collect()
    }
}

/// What is mounted where.
struct Mounts(Vec<(PathBuf, String, String)>);

impl Mounts {
    fn read(root: &Path) -> Self {
        // `36 35 98:0 /root /mount options - ext4 /dev/sda1 rw`, with as many optional fields before the dash as there are.
        let parse = |line: &str| {
            let (before, after) = line.split_once(" - ")?;
            let mount = before.split(' ').nth(4)?.replace("\\040", " ");
            let mut after = after.split(' ');
            Some((PathBuf::from(mount), after.next()?.to_owned(), after.next()?.to_owned()))
        };
        Self(text(&root.join("proc/self/mountinfo")).lines().filter_map(parse).collect())
    }

    /// Where a path is mounted, and what file system that is. Of mounts on one place the last is seen.
    fn of(&self, path: &Path) -> (PathBuf, String) {
        let below = self.0.iter().filter(|(mount, ..)| path.starts_with(mount));
        let found = below.max_by_key(|(mount, ..)| mount.components().count());
        found.map(|(mount, kind, _)| (mount.clone(), kind.clone())).unwrap_or_default()
    }

    fn of_device(&self, device: &Path) -> Option<String> {
        let found = self.0.iter().find(|(_, _, source)| Path::new(source) == device)?;
        Some(found.0.display().to_string())
    }
}

fn storage(config: &Config, mounts: &Mounts) -> Vec<Storage> {
    let Some(dir) = config.data_dir_path() else { return Vec::new() };
    let mut all = vec![at(mounts, "data-dir", &dir, None)];
    for device in config.flash_devices() {
        if let Place::Path(path) = &device.place {
            all.push(at(mounts, "nvme", path, device.size));
        }
    }
    all
}

/// The nearest directory that is there. A path without one is relative to nothing.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|dir| dir.is_dir()).map_or_else(|| PathBuf::from("/"), Path::to_path_buf)
}

fn at(mounts: &Mounts, setting: &'static str, path: &Path, size: Option<ByteLen>) -> Storage {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let found = fs::metadata(&path).ok();
    let base = Storage { setting, path: path.clone(), ..Storage::default() };
    if found.as_ref().is_some_and(|found| found.file_type().is_block_device()) {
        let device = path.canonicalize().unwrap_or(path);
        let opened = rustix::fs::open(&device, OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty());
        return Storage {
            is_device: true,
            mounted_at: mounts.of_device(&device),
            direct: Some(opened.is_ok()),
            denied: opened.err().map(|error| error.to_string()),
            ..base
        };
    }
    let dir = existing(&path);
    let dir = dir.canonicalize().unwrap_or(dir);
    let (mount, file_system) = mounts.of(&dir);
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let denied = match rustix::fs::open(&dir, flags, mode) {
        // Some file systems have no files without a name; then the directory's own mode has to do.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
            rustix::fs::access(&dir, rustix::fs::Access::WRITE_OK).err()
        }
        result => result.err(),
    };
    let direct = match rustix::fs::open(&dir, flags | OFlags::DIRECT, mode) {
        Ok(_) => Some(true),
        Err(rustix::io::Errno::INVAL) => Some(false),
        Err(_) => None,
    };
    let free = rustix::fs::statvfs(&dir).map_or(0, |found| found.f_bavail.saturating_mul(found.f_frsize));
    // What is allocated already is not taken again.
    let has = found.filter(fs::Metadata::is_file).map_or(0, |found| found.blocks() * 512);
    Storage {
        file_system,
        mount,
        free,
        wanted: size.map_or(0, |size| size.get().saturating_sub(has)),
        denied: denied.map(|error| error.to_string()),
        direct,
        ..base
    }
}
