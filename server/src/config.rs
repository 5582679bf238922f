//! Every setting of the server: its name, type, default, allowed range and reason, written once.
//!
//! Role: one table ([`table`]) feeds the struct, the keys of the TOML file, the environment variables, the flags, `CONFIG
//! GET` and `CONFIG SET`, `conf/mooncake.toml` and the operators' guide. Later sources win: defaults, file, environment
//! (`MOONCAKE_<NAME>`), flags.
//!
//! Invariants:
//! - A `Config` that exists is valid: each value is in its range and the settings agree with each other.
//! - A wrong or unknown setting names its place, its name and what is allowed; all of them are reported, not the first.
//! - What a setting means where it says 0 or `auto` is decided here (`worker_count`, `dram_total`, ...), not by its readers.

pub mod error;
pub mod flash;
pub mod places;
pub mod print;
pub mod redis;
pub mod source;
pub mod table;
pub mod users;
pub mod value;

pub use error::{ConfigError, Problem, SetError};
pub use flash::{Device, Devices, Place};
pub use places::{NicPlace, NicPlaces};
pub use table::{Config, SettingInfo, When, setting, settings};
pub use value::{
    Choice, FlashEngine, HugePages, LogFormat, LogLevel, Micros, Percent, PromoteOn, PubSubDefault, RdmaDevice,
    RdmaWindows, Seconds, Secret, ShmWrite, TlsClients, Value,
};

use crate::cli::Cli;
use protocol::base::ByteLen;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Smallest segment.
pub const SEGMENT_LEN_MIN: ByteLen = ByteLen::mib(64);
/// Largest segment: an io_uring fixed buffer is at most 1 GiB.
pub const SEGMENT_LEN_MAX: ByteLen = ByteLen::gib(1);
/// Segments that the default segment length leaves room for, so that one of them can be emptied or fragmented alone.
const SEGMENTS_WANTED: u64 = 4;
/// The bulk port's default distance from the RESP port.
const BULK_PORT_STEP: u16 = 10_000;

/// The metrics port's default distance from the RESP port.
const METRICS_PORT_STEP: u16 = 3_000;

/// What the defaults depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Memory this process may use: the machine's, or its control group's if that is less.
    pub memory: ByteLen,
    /// Cores this process may run on.
    pub cores: usize,
}

impl Machine {
    /// This machine, as far as this process may use it.
    pub fn probe() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let meminfo = read("/proc/meminfo").unwrap_or_default();
        let total = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .map_or(ByteLen::gib(1), ByteLen::kib);
        let limit = limit_of_control_group(&read("/proc/self/cgroup").unwrap_or_default(), read);
        Self {
            memory: limit.map_or(total, |limit| limit.min(total)),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// The least memory limit of the control groups that a process is in, by the text of its `/proc/self/cgroup`.
fn limit_of_control_group(own: &str, read: impl Fn(&str) -> Option<String>) -> Option<ByteLen> {
    let limit = |path: String| read(&path)?.trim().parse().ok().map(ByteLen);
    let mut limits = Vec::new();
    for line in own.lines() {
        // `hierarchy:controllers:path`; version 2 names no controllers.
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // Every ancestor limits too. Inside a container the path may not exist; its root is then the container's own.
        let mut at = path.trim_end_matches('/');
        loop {
            limits.extend(limit(format!("{root}{at}/{file}")));
            let Some((parent, _)) = at.rsplit_once('/') else { break };
            at = parent;
        }
    }
    limits.into_iter().min()
}

/// Where a setting's value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The table.
    Default,
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// The environment variable of this name.
    Env(String),
    /// The flag of this name.
    Flag(String),
    /// `CONFIG SET`.
    Set,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
            Self::Set => f.write_str("CONFIG SET"),
        }
    }
}

impl Config {
    /// The configuration that this command line, this environment and the file it names add up to.
    ///
    /// # Errors
    /// Everything that is wrong with any of them.
    pub fn load(cli: &Cli) -> Result<Self, ConfigError> {
        source::load(cli, std::env::vars_os(), Machine::probe())
    }

    /// The file that [`Config::load`] reads, if this command line or this environment names one.
    pub fn file(cli: &Cli) -> Option<PathBuf> {
        source::file(cli, std::env::var_os(source::ENV_FILE))
    }

    /// The defaults on the given machine.
    pub fn default_on(machine: Machine) -> Self {
        let config = table::defaults(machine);
        let problems = config.disagreements();
        assert!(problems.is_empty(), "the defaults disagree: {problems:?}");
        config
    }

    /// Worker threads to start.
    pub fn worker_count(&self) -> usize {
        if self.workers == 0 { self.machine.cores } else { self.workers }
    }

    /// Bytes of all segments together: a whole number of segments.
    pub fn dram_total(&self) -> ByteLen {
        let segment = self.segment_size().get();
        ByteLen(self.dram_wanted().get() / segment * segment)
    }

    /// Bytes of one segment.
    pub fn segment_size(&self) -> ByteLen {
        if self.segment_len.get() != 0 {
            return self.segment_len;
        }
        let quarter = self.dram_wanted().get() / SEGMENTS_WANTED;
        let power = if quarter == 0 { 0 } else { 1u64 << quarter.ilog2() };
        ByteLen(power).clamp(SEGMENT_LEN_MIN, SEGMENT_LEN_MAX)
    }

    /// Segments to map.
    pub fn segment_count(&self) -> usize {
        usize::try_from(self.dram_total().get() / self.segment_size().get()).unwrap_or(usize::MAX)
    }

    /// Bytes that objects may take: `maxmemory`, or all DRAM, whichever is less.
    pub fn maxmemory_len(&self) -> ByteLen {
        match self.maxmemory {
            ByteLen(0) => self.dram_total(),
            limit => limit.min(self.dram_total()),
        }
    }

    /// Independent parts of the index: a power of two, several a worker, so that two workers seldom meet in one.
    pub fn shard_count(&self) -> usize {
        match self.shards {
            0 => (self.worker_count() * 16).next_power_of_two().clamp(16, 256),
            given => given,
        }
    }

    /// Where to listen for bulk TCP when RESP is served on `port`; `None` if it is turned off.
    pub fn bulk_addr(&self, port: u16) -> Option<SocketAddr> {
        match self.bulk_listen {
            Choice::Off => None,
            Choice::Given(addr) => Some(addr),
            Choice::Auto => {
                // `ATTACH TCP` tells clients which it is.
                Some(SocketAddr::new(self.listen.ip(), self.port_beside(port, BULK_PORT_STEP)))
            }
        }
    }

    /// Where to listen for metrics when RESP is served on `port`; `None` if it is turned off.
    pub fn metrics_addr(&self, port: u16) -> Option<SocketAddr> {
        match self.metrics_listen {
            Choice::Off => None,
            Choice::Given(addr) => Some(addr),
            Choice::Auto => Some(SocketAddr::from(([127, 0, 0, 1], self.port_beside(port, METRICS_PORT_STEP)))),
        }
    }

    /// A port at a distance from that of RESP. 0, so that the kernel chooses, where it chose that too or there is none.
    fn port_beside(&self, port: u16, step: u16) -> u16 {
        if self.listen.port() == 0 { 0 } else { port.checked_add(step).unwrap_or(0) }
    }

    /// The Unix socket's path when RESP is served on `port`; `None` if it is turned off.
    pub fn unix_socket_path(&self, port: u16) -> Option<PathBuf> {
        match &self.unix_socket {
            Choice::Off => None,
            Choice::Given(path) => Some(path.clone()),
            Choice::Auto => {
                let dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_dir());
                Some(dir.unwrap_or_else(|| PathBuf::from("/tmp")).join(format!("mooncake-{port}.sock")))
            }
        }
    }

    /// Changes one setting of a running server. Its names are ours and, where they exist, those of Redis.
    ///
    /// # Errors
    /// [`SetError`] if there is no such setting, it cannot change while the server runs, or the value is not allowed;
    /// then nothing has changed.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SetError> {
        self.set_all(&[(name, value)])
    }

    /// Changes several settings of a running server, or none.
    ///
    /// # Errors
    /// As [`Config::set`], for the first that is refused.
    pub fn set_all(&mut self, pairs: &[(&str, &str)]) -> Result<(), SetError> {
        let mut next = self.clone();
        for (name, value) in pairs {
            let name = name.to_ascii_lowercase();
            if redis::is_set(&next, &name, value)? {
                continue;
            }
            let info = setting(&name).ok_or_else(|| SetError::unknown(&name))?;
            if info.when != When::Runtime {
                return Err(SetError::Fixed { name: info.name });
            }
            info.set(&mut next, value).map_err(|()| SetError::refused(info, value))?;
            next.origins[info.index()] = Origin::Set;
        }
        match next.disagreements().into_iter().next() {
            Some((name, why)) => Err(SetError::Disagrees { name, why }),
            None => {
                *self = next;
                Ok(())
            }
        }
    }

    /// What of `fresh`, read anew from file, environment and flags, is other than it is here: first what may change while the
    /// server runs, then the names of what needs a start. What `CONFIG SET` changed stays as it is.
    pub(crate) fn differing(&self, fresh: &Self) -> (Vec<(&'static str, String)>, Vec<&'static str>) {
        let mut live = Vec::new();
        let mut fixed = Vec::new();
        for info in settings() {
            if info.get(self) == info.get(fresh) || self.origins[info.index()] == Origin::Set {
                continue;
            }
            match info.when {
                When::Runtime => live.push((info.name, info.get(fresh))),
                When::Start => fixed.push(info.name),
            }
        }
        (live, fixed)
    }

    /// Takes where a value came from over, for a setting that was read anew.
    pub(crate) fn note_origin(&mut self, name: &str, fresh: &Self) {
        if let Some(info) = setting(name) {
            self.origins[info.index()] = fresh.origins[info.index()].clone();
        }
    }

    /// Names and values as `CONFIG GET *` answers them: ours, then those that only Redis knows.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        settings().iter().map(|info| (info.name, info.get(self))).chain(redis::entries(self))
    }

    /// Where the value of the setting called `name` came from.
    pub fn origin(&self, name: &str) -> Option<&Origin> {
        Some(&self.origins[setting(name)?.index()])
    }

    fn dram_wanted(&self) -> ByteLen {
        if self.dram.get() != 0 {
            return self.dram;
        }
        let quarter = self.machine.memory.get() / 4;
        ByteLen(quarter / SEGMENT_LEN_MIN.get() * SEGMENT_LEN_MIN.get()).max(SEGMENT_LEN_MIN)
    }

    /// Settings that are fine alone but not together: the one to change, and why.
    fn disagreements(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let mut must = |holds: bool, name: &'static str, why: String| {
            if !holds {
                found.push((name, why));
            }
        };
        must(
            self.segment_len.get() == 0 || self.segment_len.get().is_power_of_two(),
            "segment-len",
            "must be a power of two".to_owned(),
        );
        must(
            self.dram_path.is_none() || self.shm_write == ShmWrite::Copy,
            "dram-path",
            "not with shm-write = arena: clients of the life before could still write what the next one believes"
                .to_owned(),
        );
        must(
            self.segment_size() <= self.dram_wanted(),
            "segment-len",
            format!("a segment of {} does not fit into dram of {}", self.segment_size(), self.dram_wanted()),
        );
        must(
            self.dram_wanted() <= self.machine.memory,
            "dram",
            format!("{} is more than the {} this process may use", self.dram_wanted(), self.machine.memory),
        );
        must(
            self.watermark_low_percent <= self.watermark_high_percent,
            "watermark-low-percent",
            format!("must not be above watermark-high-percent ({})", self.watermark_high_percent.0),
        );
        must(
            self.reserved_client_percent_max <= self.reserved_percent_max,
            "reserved-client-percent-max",
            format!("must not be above reserved-percent-max ({})", self.reserved_percent_max.0),
        );
        must(
            self.preauth_args_max <= self.args_max,
            "preauth-args-max",
            format!("must not be above args-max ({})", self.args_max),
        );
        must(
            self.preauth_len_max <= self.arg_len_max,
            "preauth-len-max",
            format!("must not be above arg-len-max ({})", self.arg_len_max),
        );
        must(
            self.output_pause_len <= self.output_len_max,
            "output-pause-len",
            format!("must not be above output-len-max ({})", self.output_len_max),
        );
        must(self.shards == 0 || self.shards.is_power_of_two(), "shards", "must be a power of two, or 0".to_owned());
        must(self.shm_ring_len.get().is_power_of_two(), "shm-ring-len", "must be a power of two".to_owned());
        let (has_cert, has_key) = (self.tls_cert_file.is_some(), self.tls_key_file.is_some());
        must(
            has_cert || !has_key,
            "tls-key-file",
            "needs the certificate that it belongs to (tls-cert-file)".to_owned(),
        );
        must(
            self.aclfile.is_none() || self.user.lines().is_empty(),
            "aclfile",
            "not with `user`: users stand in one place".to_owned(),
        );
        must(has_key || !has_cert, "tls-cert-file", "needs its private key (tls-key-file)".to_owned());
        must(has_cert || self.tls_listen.is_none(), "tls-listen", "needs a certificate (tls-cert-file)".to_owned());
        must(has_cert || !self.tls_metrics, "tls-metrics", "needs a certificate (tls-cert-file)".to_owned());
        found.extend(self.flash_disagreements());
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine { memory: ByteLen::gib(24), cores: 2 };

    fn with(pairs: &[(&str, &str)]) -> Config {
        let mut config = Config::default_on(MACHINE);
        for (name, value) in pairs {
            let info = setting(name).unwrap_or_else(|| panic!("no setting {name}"));
            info.set(&mut config, value).unwrap_or_else(|()| panic!("{name} = {value} is refused"));
        }
        config
    }

    #[test]
    fn defaults_follow_the_machine() {
        let config = Config::default_on(MACHINE);
        assert_eq!(config.worker_count(), 2);
        assert_eq!(config.dram_total(), ByteLen::gib(6));
        assert_eq!(config.segment_size(), ByteLen::gib(1));
        assert_eq!(config.segment_count(), 6);
        assert_eq!(config.maxmemory_len(), ByteLen::gib(6));
        assert!(config.shard_count().is_power_of_two());
        // A machine too small for four segments still starts, with one.
        let small = Config::default_on(Machine { memory: ByteLen::mib(100), cores: 1 });
        assert_eq!(small.segment_count(), 1);
    }

    #[test]
    fn the_tightest_control_group_counts() {
        let files = |path: &str| {
            let text = match path {
                "/sys/fs/cgroup/a/memory.max" => "1073741824\n",
                "/sys/fs/cgroup/a/b/memory.max" => "max\n",
                "/sys/fs/cgroup/memory/c/memory.limit_in_bytes" => "9223372036854771712\n",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes" => "2147483648\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        assert_eq!(limit_of_control_group("0::/a/b\n", files), Some(ByteLen::gib(1)), "an ancestor's limit");
        assert_eq!(limit_of_control_group("4:cpu:/x\n3:memory:/c\n", files), Some(ByteLen::gib(2)), "version 1");
        assert_eq!(limit_of_control_group("0::/\n", files), None);
        assert_eq!(limit_of_control_group("", files), None);
    }

    #[test]
    fn segments_leave_room_for_four_until_they_are_as_small_as_they_get() {
        for (dram, segment_mib) in
            [("64 MiB", 64), ("256 MiB", 64), ("512 MiB", 128), ("5 GiB", 1024), ("20 GiB", 1024)]
        {
            assert_eq!(with(&[("dram", dram)]).segment_size(), ByteLen::mib(segment_mib), "{dram}");
        }
        assert_eq!(with(&[("dram", "200 MiB")]).dram_total(), ByteLen::mib(192), "only whole segments are mapped");
    }

    #[test]
    fn bulk_follows_the_port_it_is_told() {
        assert_eq!(with(&[]).bulk_addr(6379), Some("127.0.0.1:16379".parse().expect("an address")));
        assert_eq!(with(&[]).bulk_addr(60_000), Some("127.0.0.1:0".parse().expect("an address")));
        assert_eq!(with(&[("listen", "[::1]:0")]).bulk_addr(4000), Some("[::1]:0".parse().expect("an address")));
        assert_eq!(with(&[("bulk-listen", "none")]).bulk_addr(6379), None);
        assert_eq!(with(&[]).metrics_addr(6379), Some("127.0.0.1:9379".parse().expect("an address")));
        assert_eq!(
            with(&[("listen", "0.0.0.0:0")]).metrics_addr(4000),
            Some("127.0.0.1:0".parse().expect("an address"))
        );
        assert_eq!(with(&[("metrics-listen", "none")]).metrics_addr(6379), None);
        assert_eq!(with(&[("unix-socket", "none")]).unix_socket_path(6379), None);
        assert_eq!(with(&[("unix-socket", "/run/m")]).unix_socket_path(1), Some(PathBuf::from("/run/m")));
    }

    #[test]
    fn settings_that_contradict_each_other_are_named() {
        for (pairs, name) in [
            (&[("watermark-high-percent", "80")][..], "watermark-low-percent"),
            (&[("dram", "64 MiB"), ("segment-len", "128 MiB")], "segment-len"),
            (&[("segment-len", "96 MiB")], "segment-len"),
            (&[("dram", "25 GiB")], "dram"),
            (&[("output-pause-len", "65 MiB")], "output-pause-len"),
            (&[("shards", "48")], "shards"),
        ] {
            let found = with(pairs).disagreements();
            assert_eq!(found.first().map(|(name, _)| *name), Some(name), "{pairs:?}: {found:?}");
        }
    }

    #[test]
    fn a_running_server_changes_what_may_change_and_all_of_it_or_nothing() {
        let mut config = with(&[]);
        config.set("MaxMemory", "2GiB").expect("maxmemory may change");
        assert_eq!(config.maxmemory, ByteLen::gib(2));
        assert_eq!(config.origin("maxmemory"), Some(&Origin::Set));

        let before = config.clone();
        let error = config.set_all(&[("maxmemory", "3 GiB"), ("workers", "3")]).expect_err("workers are fixed");
        assert!(matches!(error, SetError::Fixed { name: "workers" }), "{error}");
        let error = config.set("maxmemory", "lots").expect_err("not a length");
        assert!(error.to_string().contains("16 MiB"), "{error} does not say what is allowed");
        let error = config.set("watermark-low-percent", "99").expect_err("above the high mark");
        assert!(matches!(error, SetError::Disagrees { .. }), "{error}");
        let error = config.set("maxmemry", "1").expect_err("misspelt");
        assert!(error.to_string().contains("maxmemory"), "{error} suggests nothing");
        assert_eq!(config, before, "a refused change has changed something");
    }
}
