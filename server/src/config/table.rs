//! The table of settings, and what is made of it: the struct, and one [`SettingInfo`] for each.
//!
//! To add a setting, add its lines here, then run the tests with `MOONCAKE_REGENERATE=1` to bring
//! `conf/mooncake.toml` and the operators' guide up to it.

use super::flash::Devices;
use super::places::NicPlaces;
use super::users::UserLines;
use super::value::{
    Choice, FlashEngine, Form, HugePages, LogFormat, LogLevel, Micros, Percent, PromoteOn, PubSubDefault, RdmaDevice,
    RdmaWindows, Seconds, Secret, ShmWrite, SlowerThan, TlsClients, Value,
};
use super::{Machine, Origin};
use crate::events::EventClasses;
use protocol::base::{ByteLen, Millis};
use std::net::SocketAddr;
use std::path::PathBuf;

/// When a setting can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At start only.
    Start,
    /// At start, and by `CONFIG SET` while the server runs.
    Runtime,
}

/// What is known of one setting.
#[derive(Debug)]
pub struct SettingInfo {
    /// As in the file and on the command line: `grant-ms`.
    pub name: &'static str,
    /// The group it is printed with.
    pub section: &'static str,
    /// One line: what it is and why it is there.
    pub why: &'static str,
    /// For help texts: `LENGTH`.
    pub kind: &'static str,
    /// The default, as a person writes it.
    pub default: &'static str,
    /// When it can be given.
    pub when: When,
    /// How it is written in a file.
    pub form: Form,
    /// Whether its value must not be shown.
    pub secret: bool,
    /// Whether it may be given in parts.
    pub list: bool,
    /// What stands between two parts where they are one text.
    pub separator: &'static str,
    range: Option<Range>,
    allowed_kind: &'static str,
    words: &'static [&'static str],
    get: fn(&Config) -> String,
    written: fn(&Config) -> String,
    set: fn(&mut Config, &str) -> Result<(), ()>,
}

/// Bounds of a setting, both included, as written in the table.
#[derive(Clone, Copy, Debug)]
struct Range {
    min: &'static str,
    max: &'static str,
    /// A value outside the bounds that is allowed too, and what it means.
    special: Option<(&'static str, &'static str)>,
}

impl SettingInfo {
    /// What may be written, for people.
    pub fn allowed(&self) -> String {
        match self.range {
            None => [self.allowed_kind].into_iter().chain(self.words.iter().copied()).collect::<Vec<_>>().join(", or "),
            Some(Range { min, max, special: None }) => format!("{min} to {max}"),
            Some(Range { min, max, special: Some((word, meaning)) }) => {
                format!("{min} to {max}, or {word} ({meaning})")
            }
        }
    }

    /// The environment variable that sets it: `MOONCAKE_GRANT_MS`.
    pub fn env(&self) -> String {
        format!("{}{}", super::source::ENV_PREFIX, self.name.replace('-', "_").to_ascii_uppercase())
    }

    /// Its value as `CONFIG GET` answers it.
    pub fn get(&self, config: &Config) -> String {
        (self.get)(config)
    }

    /// Its value for people, secrets hidden.
    pub fn written(&self, config: &Config) -> String {
        (self.written)(config)
    }

    /// Sets it, whenever that may be. Leaves `config` as it was if the value is not allowed.
    pub(crate) fn set(&self, config: &mut Config, text: &str) -> Result<(), ()> {
        (self.set)(config, text)
    }

    /// Its place in [`settings`].
    pub(super) fn index(&self) -> usize {
        settings().iter().position(|info| info.name == self.name).expect("an info comes from the table")
    }
}

impl Range {
    fn check<T: Value>(&self, value: &T) -> bool {
        let bound = |text: &str| T::parse(text).expect("a test holds that every bound can be read");
        (bound(self.min) <= *value && *value <= bound(self.max))
            || self.special.is_some_and(|(word, _)| bound(word) == *value)
    }
}

/// All settings, in the order of the table.
pub fn settings() -> &'static [SettingInfo] {
    SETTINGS
}

/// The setting called `name`.
pub fn setting(name: &str) -> Option<&'static SettingInfo> {
    SETTINGS.iter().find(|info| info.name == name)
}

/// Turns `grant_ms` into `grant-ms` while compiling.
const fn dashed<const LEN: usize>(name: &str) -> [u8; LEN] {
    let mut out = [0; LEN];
    let mut at = 0;
    while at < LEN {
        let byte = name.as_bytes()[at];
        out[at] = if byte == b'_' { b'-' } else { byte };
        at += 1;
    }
    out
}

macro_rules! range {
    () => {
        None
    };
    ($min:literal, $max:literal) => {
        Some(Range { min: $min, max: $max, special: None })
    };
    ($min:literal, $max:literal, $word:literal, $meaning:literal) => {
        Some(Range { min: $min, max: $max, special: Some(($word, $meaning)) })
    };
}

macro_rules! settings {
    ($($section:literal {
        $(
            #[doc = $why:literal]
            $when:ident $field:ident: $type:ty = $default:literal
                $(, $min:literal to $max:literal $(, or $word:literal is $meaning:literal)?)?;
        )*
    })*) => {
        /// The settings a server runs on. Valid as a whole: see the module's invariants.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $($(#[doc = $why] pub $field: $type,)*)*
            /// What 0 and `auto` depend on.
            pub(super) machine: Machine,
            /// Where each value came from, in the order of the table.
            pub(super) origins: Vec<Origin>,
        }

        /// The defaults, not yet checked against each other.
        pub(super) fn defaults(machine: Machine) -> Config {
            Config {
                $($($field: <$type>::parse($default).expect("a test holds that every default can be read"),)*)*
                machine,
                origins: vec![Origin::Default; SETTINGS.len()],
            }
        }

        static SETTINGS: &[SettingInfo] = &[$($(SettingInfo {
            name: {
                const BYTES: [u8; stringify!($field).len()] = dashed(stringify!($field));
                match std::str::from_utf8(&BYTES) {
                    Ok(name) => name,
                    Err(_) => panic!("names are ASCII"),
                }
            },
            section: $section,
            why: $why.trim_ascii(),
            kind: <$type as Value>::KIND,
            default: $default,
            when: When::$when,
            form: <$type as Value>::FORM,
            secret: <$type as Value>::SECRET,
            list: <$type as Value>::LIST,
            separator: <$type as Value>::SEPARATOR,
            range: range!($($min, $max $(, $word, $meaning)?)?),
            allowed_kind: <$type as Value>::ALLOWED,
            words: <$type as Value>::WORDS,
            get: |config| config.$field.render(),
            written: |config| config.$field.written(),
            set: |config, text| {
                const RANGE: Option<Range> = range!($($min, $max $(, $word, $meaning)?)?);
                let value = <$type as Value>::parse(text).ok_or(())?;
                if RANGE.is_some_and(|range| !range.check(&value)) {
                    return Err(());
                }
                config.$field = value;
                Ok(())
            },
        },)*)*];
    };
}

settings! {
    "Where it listens" {
        /// Address and port of RESP. Loopback only, until a password or a firewall guards more. Port 0 takes any free one.
        Start listen: SocketAddr = "127.0.0.1:6379";
        /// Unix socket of RESP, which shared-memory clients need. `auto` is `$XDG_RUNTIME_DIR` or `/tmp` and `mooncake-<port>.sock`; `none` turns it off.
        Start unix_socket: Choice<PathBuf> = "auto";
        /// Address and port of bulk TCP. `auto` is the address of `listen` and its port + 10000; `none` turns it off.
        Start bulk_listen: Choice<SocketAddr> = "auto";
        /// Address and port of metrics and health, over HTTP. `auto` is loopback and the port of `listen` + 3000; `none` turns it off.
        Start metrics_listen: Choice<SocketAddr> = "auto";
        /// Connections at once. One more is refused with a word, so that those there keep their descriptors.
        Runtime maxclients: usize = "10000", "1" to "1000000";
        /// Seconds without a request after which a connection is closed. 0, as in Redis, never: engines keep idle ones.
        Runtime timeout: Seconds = "0", "1" to "31536000", or "0" is "never";
        /// Seconds between TCP keep-alive probes, so that clients of dead machines give their memory back.
        Runtime tcp_keepalive: Seconds = "300", "1" to "32767", or "0" is "off";
        /// Whether it answers `CLUSTER` as a cluster of one node that has every slot, for clients that speak to nothing else.
        Start cluster_enabled: bool = "no";
        /// Which events of keys are told on channels, by the letters that Redis has for them and `T` for moves between the tiers.
        Runtime notify_keyspace_events: EventClasses = "";
        /// Worker threads, each with connections of its own. 0 is one a core.
        Start workers: usize = "0", "1" to "1024", or "0" is "one a core";
        /// File that holds the process id while the server runs. `none` writes none.
        Start pid_file: Option<PathBuf> = "none";
    }
    "Memory" {
        /// Memory of all segments together. 0 is a quarter of what this process may use.
        Start dram: ByteLen = "0", "64 MiB" to "64 TiB", or "0" is "a quarter of the machine";
        /// Length of one segment, a power of two. 0 is the longest that leaves room for four. No object is longer than its segment.
        Start segment_len: ByteLen = "0", "64 MiB" to "1 GiB", or "0" is "by the length of dram";
        /// Directory on a tmpfs or hugetlbfs for the segments' files, so that the next server finds them again after a planned stop. `none` keeps memory without a name, which ends with the process.
        Start dram_path: Option<PathBuf> = "none";
        /// Whether segments use huge pages: fewer misses of the address translation on large copies.
        Start huge_pages: HugePages = "auto";
        /// Bytes that objects may take, below `dram`: for less without a restart. 0 is all of it.
        Runtime maxmemory: ByteLen = "0", "16 MiB" to "64 TiB", or "0" is "all of dram";
        /// Fill level at which eviction in the background starts. 100 evicts only when a reservation finds no room.
        Runtime watermark_high_percent: Percent = "95", "50" to "100";
        /// Fill level at which eviction in the background stops.
        Runtime watermark_low_percent: Percent = "92", "50" to "100";
        /// Where adapters are, if the machine does not say so or says it wrong: NUMA node and Gbit/s by name. `NODE TOPOLOGY` has what is known.
        Start topology: NicPlaces = "";
        /// Independent parts of the index, a power of two. 0 chooses by the workers.
        Start shards: usize = "0", "1" to "256", or "0" is "by the number of workers";
    }
    "Objects" {
        /// Longest object. Known before its first byte, so that a giant is refused and not read.
        Start object_len_max: ByteLen = "512 MiB", "4 KiB" to "1 GiB";
        /// In-band values from this length on go from the socket straight into their slot, and from it to the socket.
        Start stream_len_min: ByteLen = "16 KiB", "4 KiB" to "64 KiB";
        /// Time a `PUT` grant gives to write and commit, unless it is renewed. A writer that died holds its slot no longer than this.
        Runtime grant_ms: Millis = "5000", "100" to "60000";
        /// Longest lease. A lease holds memory that nothing can evict; so does a value on its way in-band, which has to keep 1 MiB/s after this time.
        Runtime lease_ms_max: Millis = "60000", "1000" to "3600000";
        /// Time that the outcome of a `COMMIT` is remembered, so that repeating it after a lost reply is answered alike.
        Start commit_memory_ms: Millis = "60000", "1000" to "600000";
        /// Longest soft pin. Meant for system prompts of a day, not for ever: that is `PIN`.
        Runtime soft_pin_ms_max: Millis = "86400000", "1000" to "604800000";
        /// Time that an object is kept after the first `EXISTS` or `LOOKUP` saw it: engines probe first and load later.
        Runtime probe_grace_ms: Millis = "5000", "1" to "60000", or "0" is "no grace";
        /// Share of the capacity that such graces may hold, so that probing cannot stop eviction.
        Start probe_grace_percent_max: Percent = "10", "0" to "50";
        /// Share of the capacity that may be reserved and not yet committed.
        Start reserved_percent_max: Percent = "25", "1" to "90";
        /// Share of the capacity that one client may have reserved; one object in any case.
        Start reserved_client_percent_max: Percent = "5", "1" to "90";
        /// Share of the capacity that one client may lease; one object in any case.
        Start leased_client_percent_max: Percent = "50", "1" to "100";
        /// Share of the capacity that pins may hold.
        Start pinned_percent_max: Percent = "50", "0" to "90";
        /// Time that a stop gives grants and leases to end, while it gives out no new ones. A second signal, or `SHUTDOWN NOW`, gives none.
        Runtime drain_ms: Millis = "5000", "0" to "600000";
        /// Time between looks at what has run out: grants, leases, lives, graces.
        Runtime tick_ms: Millis = "20", "1" to "1000";
    }
    "Flash" {
        /// Directory of what outlives a restart: journal, metadata, the default flash file. `auto` is `mooncake-data` in `$XDG_STATE_HOME` or, without it, in the working directory; `none` keeps nothing.
        Start data_dir: Choice<PathBuf> = "auto";
        /// Files and block devices that objects spill to. A flag may come several times. `auto` is one file in the data directory, four times as long as `dram` but at most a quarter of the free space.
        Start nvme: Devices = "auto";
        /// Length of a flash segment of a device that is new, a power of two. No object longer than half of it spills.
        Start flash_segment_len: ByteLen = "0", "8 MiB" to "256 MiB", or "0" is "by the length of the device";
        /// How devices are read and written: io_uring where the kernel allows it, or system calls.
        Start flash_engine: FlashEngine = "auto";
        /// Reads and writes in flight on one device.
        Start flash_depth: usize = "32", "1" to "1024";
        /// Bytes written to one device in a day, to spare it. Once spent, only what was evicted twice is written. 0 is no limit.
        Start flash_write_budget: ByteLen = "0", "1 GiB" to "1024 TiB", or "0" is "no limit";
        /// Share of the write bandwidth that may go into keeping what was read since it was written.
        Start flash_reinsert_percent: Percent = "25", "0" to "75";
        /// Bytes a second that are read of each device, while it is idle and once a day at most, to find rot before a reader does. 0 is never; `TIER SCRUB` does it at once.
        Start scrub_rate: ByteLen = "8 MiB", "1 MiB" to "4 GiB", or "0" is "never";
        /// Time that a writer waits for objects to reach flash before some are dropped for it.
        Runtime spill_wait_ms: Millis = "100", "0" to "10000";
        /// Time that a read of flash may take before it is a miss, and a `DURABLE` commit before it is an error.
        Runtime flash_wait_ms_max: Millis = "10000", "10" to "600000";
        /// Time after which a deletion, a pin or a changed life is synced. A killed process loses none of them, a machine without power those of this time.
        Start journal_sync_ms: Millis = "50", "1" to "10000";
        /// Which `GET` of an object on flash brings it back into DRAM. `LEASE` always does.
        Runtime promote_on: PromoteOn = "second";
        /// Bytes of a chain that are read ahead when a reader of it goes to flash.
        Start prefetch_len: ByteLen = "16 MiB", "4 KiB" to "1 GiB", or "0" is "none";
        /// Time that a stop may take to write what lies in DRAM only. `SHUTDOWN NOSAVE` takes none.
        Start shutdown_save_ms: Millis = "60000", "0" to "3600000";
    }
    "Shared memory" {
        /// How a client hands over the bytes of a `PUT`: `copy` out of its memory, or `arena`, written in place by clients trusted like the server.
        Start shm_write: ShmWrite = "copy";
        /// Length of each of the two rings of a session, a power of two.
        Runtime shm_ring_len: ByteLen = "256 KiB", "4 KiB" to "16 MiB";
        /// Memory that one client may lend the server for its `PUT`s. It is the client's, but it takes address space here.
        Runtime shm_buffer_len_max: ByteLen = "4 GiB", "1 MiB" to "1 TiB";
        /// Time to look for the next request on a ring before sleeping. A wake-up costs tens of microseconds, spinning a core.
        Runtime shm_spin_us: Micros = "20", "0" to "1000";
    }
    "RDMA" {
        /// The RDMA device: `auto` for the one nearest to the segments that works, `off`, or its name. Clients attach on any listener.
        Start rdma: RdmaDevice = "auto";
        /// Whether clients move bytes themselves through windows: `auto` if the device passes a trial at the start, or `off`.
        Start rdma_windows: RdmaWindows = "auto";
        /// Time to look for the next completion before sleeping. A wake-up costs tens of microseconds, spinning a core.
        Start rdma_spin_us: Micros = "0", "0" to "1000000";
    }
    "Limits of one connection" {
        /// Arguments of one request, batch commands apart.
        Runtime args_max: usize = "1024", "16" to "1048576";
        /// Items of one batch command (`MGET`, `MSET`, `MPUT`, `LOOKUP`, ...).
        Runtime batch_items_max: usize = "4096", "16" to "1048576";
        /// Length of one argument that is not a value.
        Runtime arg_len_max: ByteLen = "64 KiB", "16 KiB" to "1 MiB";
        /// Length of one request, without values that go into slots of their own. A longer one closes the connection.
        Runtime request_len_max: ByteLen = "64 MiB", "1 MiB" to "16 GiB";
        /// Arguments of one request before `AUTH`.
        Runtime preauth_args_max: usize = "10", "3" to "1024";
        /// Length of one request before `AUTH`.
        Runtime preauth_len_max: ByteLen = "16 KiB", "1 KiB" to "1 MiB";
        /// Time without progress inside a request, or in taking its reply, after which a connection is closed. Less than 16 KiB is none.
        Runtime progress_ms: Millis = "5000", "100" to "600000";
        /// Replies waiting in one connection at which no more of its requests are read.
        Runtime output_pause_len: ByteLen = "1 MiB", "16 KiB" to "1 GiB";
        /// Replies waiting in one connection at which it is closed.
        Runtime output_len_max: ByteLen = "64 MiB", "1 MiB" to "16 GiB";
        /// Requests and replies waiting in all connections together, as a share of `dram`. Those that hold most are closed.
        Runtime output_total_percent: Percent = "10", "1" to "50";
    }
    "Who may" {
        /// Password of the default user, which `AUTH` and `HELLO` ask for. Empty asks for none.
        Runtime requirepass: Secret = "";
        /// Refuses clients of other machines while no password is set.
        Runtime protected_mode: bool = "yes";
        /// Users beside the default one, and what they may. A flag may come several times, a file has an array; the variable has a line for each.
        Start user: UserLines = "";
        /// File of users, a line for each as `ACL LIST` shows them, in place of `user`. `ACL LOAD` reads it again, `ACL SAVE` writes it.
        Start aclfile: Option<PathBuf> = "none";
        /// Refusals that `ACL LOG` keeps.
        Runtime acllog_max_len: usize = "128", "0" to "10000";
        /// Which channels a user may use that is not told of any.
        Runtime acl_pubsub_default: PubSubDefault = "resetchannels";
    }
    "TLS" {
        /// Address and port of RESP over TLS, beside that of `listen`. `none` turns it off.
        Start tls_listen: Option<SocketAddr> = "none";
        /// The server's certificate in PEM, those that vouch for it behind it. Read again at SIGHUP.
        Runtime tls_cert_file: Option<PathBuf> = "none";
        /// The private key of that certificate, in PEM.
        Runtime tls_key_file: Option<PathBuf> = "none";
        /// Certificates in PEM of the authorities that clients' certificates must come from.
        Runtime tls_ca_cert_file: Option<PathBuf> = "none";
        /// Whether a client must show a certificate, may, or is not asked.
        Runtime tls_auth_clients: TlsClients = "yes";
        /// Whether the metrics port speaks TLS too.
        Start tls_metrics: bool = "no";
    }
    "Logs" {
        /// The least important line that is still logged.
        Runtime log_level: LogLevel = "info";
        /// Lines for people, or one JSON object a line.
        Start log_format: LogFormat = "text";
        /// Microseconds from which on `SLOWLOG` keeps a command. 0 keeps every one; a negative number none.
        Runtime slowlog_log_slower_than: SlowerThan = "10000";
        /// Slow commands kept, the latest.
        Runtime slowlog_max_len: usize = "128", "0" to "100000";
        /// Milliseconds from which on `LATENCY` notes a command as a spike.
        Runtime latency_monitor_threshold: Millis = "10", "1" to "3600000", or "0" is "off";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_default_and_bound_can_be_read_and_lies_in_its_range() {
        let config = Config::default_on(Machine { memory: ByteLen::gib(8), cores: 4 });
        for info in settings() {
            let mut changed = config.clone();
            let bounds = info.range.map(|range| [range.min, range.max].into_iter().chain(range.special.map(|s| s.0)));
            for text in bounds.into_iter().flatten().chain([info.default]) {
                assert_eq!(info.set(&mut changed, text), Ok(()), "{} refuses its own {text:?}", info.name);
            }
            assert_eq!(changed, config, "{}: its default is not what a default configuration has", info.name);
            if !info.secret {
                assert_eq!(info.written(&config), info.default, "{}: default not in its usual form", info.name);
            }
        }
    }

    #[test]
    fn values_outside_the_range_are_refused() {
        let mut config = Config::default_on(Machine { memory: ByteLen::gib(8), cores: 4 });
        let before = config.clone();
        for (name, text) in [
            ("workers", "1025"),
            ("dram", "63 MiB"),
            ("dram", "1"),
            ("grant-ms", "60001"),
            ("grant-ms", "99"),
            ("watermark-high-percent", "49"),
            ("shm-write", "Copy"),
            ("maxmemory", "1"),
        ] {
            let info = setting(name).unwrap_or_else(|| panic!("no setting {name}"));
            assert_eq!(info.set(&mut config, text), Err(()), "{name} = {text}");
        }
        assert_eq!(config, before);
    }

    #[test]
    fn names_are_unique_and_their_reasons_are_sentences() {
        let names: BTreeSet<_> = settings().iter().map(|info| info.name).collect();
        assert_eq!(names.len(), settings().len());
        for info in settings() {
            assert!(info.why.ends_with('.') && info.why.len() > 20, "{}: {:?}", info.name, info.why);
            assert!(info.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", info.name);
        }
    }
}
