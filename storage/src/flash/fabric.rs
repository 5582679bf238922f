//! Namespaces on other machines (NVMe over fabrics), through the kernel's initiator.
//!
//! Role: connects, finds the block device, says how the connection is, disconnects. What lies on the device is the log's business.
//!
//! Invariants:
//! - Connections are made under a host name of this server's own, so that it knows its own ones again, also after a crash, and
//!   never touches anybody else's.
//! - While a target is away reads and writes fail within seconds, so that they are misses; the kernel goes on trying, for ever.
//! - Nothing of a client's reaches the kernel's option string that could be read as another option.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Seconds without an answer to a keep-alive after which a target is away.
const KEEP_ALIVE_S: u32 = 5;
/// Seconds between two tries of the kernel to reach a target that is away.
const RECONNECT_S: u32 = 1;
/// Seconds that I/O waits for a target that is away before it fails.
const FAIL_S: u32 = 2;
/// Time that a namespace gets to appear behind a new connection.
const NAMESPACE_WAIT: Duration = Duration::from_secs(5);
/// Pause between two looks for it: sysfs tells nobody.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Longest qualified name, by the NVMe specification.
const NQN_LEN_MAX: usize = 223;

/// How a target is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FabricKind {
    /// By TCP.
    Tcp,
    /// By RDMA.
    Rdma,
}

impl FabricKind {
    /// The word of it, here and in the kernel.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Rdma => "rdma",
        }
    }
}

/// Where a namespace is. Written as `transport=tcp traddr=… trsvcid=… nqn=…`, in any order; `trsvcid` is 4420 if not given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// How to get there.
    pub kind: FabricKind,
    /// Address of the target, a number.
    pub traddr: String,
    /// Its port.
    pub trsvcid: String,
    /// Name of the subsystem. It exports one namespace.
    pub nqn: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, traddr, trsvcid, nqn } = self;
        write!(f, "transport={} traddr={traddr} trsvcid={trsvcid} nqn={nqn}", kind.word())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut kind, mut traddr, mut trsvcid, mut nqn) = (None, None, None, None);
        for word in text.split_whitespace() {
            let (name, value) = word.split_once('=').ok_or_else(|| format!("{word:?}: write name=value"))?;
            let place = match name {
                "transport" => &mut kind,
                "traddr" => &mut traddr,
                "trsvcid" => &mut trsvcid,
                "nqn" => &mut nqn,
                _ => return Err(format!("{name:?} is none of transport, traddr, trsvcid, nqn")),
            };
            if place.replace(value).is_some() {
                return Err(format!("{name} is given twice"));
            }
        }
        let kind = match kind {
            Some("tcp") => FabricKind::Tcp,
            Some("rdma") => FabricKind::Rdma,
            Some(other) => return Err(format!("transport {other:?} is neither tcp nor rdma")),
            None => return Err("transport is missing".to_owned()),
        };
        let traddr = traddr.ok_or("traddr is missing")?;
        let traddr: core::net::IpAddr = traddr.parse().map_err(|_| format!("traddr {traddr:?} is no IP address"))?;
        let trsvcid = trsvcid.unwrap_or("4420");
        let trsvcid: u16 = trsvcid.parse().map_err(|_| format!("trsvcid {trsvcid:?} is no port"))?;
        let nqn = nqn.ok_or("nqn is missing")?;
        let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b',' && byte != b'=';
        if !nqn.starts_with("nqn.") || nqn.len() > NQN_LEN_MAX || !nqn.bytes().all(is_plain) {
            return Err(format!("{nqn:?} is no qualified name of a subsystem"));
        }
        Ok(Self { kind, traddr: traddr.to_string(), trsvcid: trsvcid.to_string(), nqn: nqn.to_owned() })
    }
}

/// Why a target is not connected.
#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    /// The kernel has no initiator.
    #[error(
        "this kernel has no NVMe over fabrics at hand ({0}): load it with `modprobe nvme-tcp` or `modprobe nvme-rdma`"
    )]
    NoInitiator(PathBuf),
    /// Only root may.
    #[error(
        "connecting needs root (CAP_SYS_ADMIN and write access to {0}): run the server with them, or connect by `nvme connect` and attach the block device"
    )]
    Denied(PathBuf),
    /// The kernel refused.
    #[error("connect {target}: {source}; the kernel's log says more")]
    Refused {
        /// To what.
        target: Box<Target>,
        /// Its answer.
        source: io::Error,
    },
    /// The connection stands, and there is not one namespace behind it.
    #[error("{nqn} shows {found} namespaces within {} s, and exactly one is needed", NAMESPACE_WAIT.as_secs())]
    Namespaces {
        /// The subsystem.
        nqn: String,
        /// How many.
        found: usize,
    },
}

/// A connection to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// As the kernel calls it: `nvme3`.
    pub name: String,
    /// `live`, or `connecting` while the target is away.
    pub state: String,
}

/// A block device behind a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// The device.
    pub path: PathBuf,
    /// Tells it from another one that has its name later.
    pub sequence: String,
}

/// The kernel's initiator, under a host name of our own.
#[derive(Clone, Debug)]
pub struct Initiator {
    /// `/`, but in tests.
    root: PathBuf,
    /// A UUID.
    host: String,
}

impl Initiator {
    /// For a host whose UUID this is.
    pub fn new(host: String) -> Self {
        Self { root: PathBuf::from("/"), host }
    }

    /// The name under which targets know this server, for their lists of who may connect.
    pub fn host_nqn(&self) -> String {
        format!("nqn.2014-08.org.nvmexpress:uuid:{}", self.host)
    }

    /// Our connection to a target, if there is one.
    pub fn find(&self, target: &Target) -> Option<Controller> {
        let ours = self.host_nqn();
        let entries = fs::read_dir(self.root.join("sys/class/nvme")).ok()?;
        entries.flatten().find_map(|entry| {
            let attribute = |name: &str| attribute(&entry.path(), name);
            let address = attribute("address")?;
            let part =
                |name: &str| address.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
            let is_it = attribute("transport")? == target.kind.word()
                && attribute("subsysnqn")? == target.nqn
                && part("traddr")? == target.traddr
                && part("trsvcid")? == target.trsvcid
                && attribute("hostnqn")? == ours;
            let name = entry.file_name().to_string_lossy().into_owned();
            is_it.then(|| Controller { name, state: attribute("state").unwrap_or_default() })
        })
    }

    /// Connects, unless we are connected. Blocks as long as the kernel tries.
    ///
    /// # Errors
    /// [`FabricError`], which says what to do.
    pub fn connect(&self, target: &Target) -> Result<Controller, FabricError> {
        if let Some(found) = self.find(target) {
            return Ok(found);
        }
        let path = self.root.join("dev/nvme-fabrics");
        let mut device = OpenOptions::new().read(true).write(true).open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => FabricError::NoInitiator(path.clone()),
            io::ErrorKind::PermissionDenied => FabricError::Denied(path.clone()),
            _ => FabricError::Refused { target: Box::new(target.clone()), source: error },
        })?;
        let refused = |source: io::Error| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => FabricError::Denied(path.clone()),
            // Its status words are no numbers of the system's.
            _ => FabricError::Refused { target: Box::new(target.clone()), source },
        };
        device.write_all(self.options(target).as_bytes()).map_err(refused)?;
        let mut answer = String::new();
        device.read_to_string(&mut answer).map_err(refused)?;
        let number = answer.split([',', '\n']).find_map(|part| part.trim().strip_prefix("instance="));
        let number = number.ok_or_else(|| refused(io::Error::other(format!("it answers {answer:?}"))))?;
        Ok(Controller { name: format!("nvme{number}"), state: "live".to_owned() })
    }

    /// What is written to the kernel.
    fn options(&self, target: &Target) -> String {
        let Target { kind, traddr, trsvcid, nqn } = target;
        let (hostnqn, hostid) = (self.host_nqn(), &self.host);
        format!(
            "transport={},traddr={traddr},trsvcid={trsvcid},nqn={nqn},hostnqn={hostnqn},hostid={hostid},\
             keep_alive_tmo={KEEP_ALIVE_S},reconnect_delay={RECONNECT_S},ctrl_loss_tmo=-1,fast_io_fail_tmo={FAIL_S}",
            kind.word()
        )
    }

    /// The block device of a connection. Waits for it to appear.
    ///
    /// # Errors
    /// [`FabricError::Namespaces`].
    pub fn namespace(&self, target: &Target, controller: &Controller) -> Result<Namespace, FabricError> {
        let begun = Instant::now();
        loop {
            let found = self.namespaces(controller);
            if let [namespace] = &found[..] {
                return Ok(namespace.clone());
            }
            if begun.elapsed() >= NAMESPACE_WAIT {
                return Err(FabricError::Namespaces { nqn: target.nqn.clone(), found: found.len() });
            }
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    /// Block devices of a connection that can be opened.
    fn namespaces(&self, controller: &Controller) -> Vec<Namespace> {
        let dir = self.root.join("sys/class/nvme").join(&controller.name);
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| block_device_of(&entry.file_name().to_string_lossy()));
        names.filter_map(|name| self.namespace_at(&self.root.join("dev").join(name))).collect()
    }

    fn namespace_at(&self, path: &Path) -> Option<Namespace> {
        let block = self.root.join("sys/class/block").join(path.file_name()?);
        let size = attribute(&block, "size")?;
        let sequence = attribute(&block, "diskseq")?;
        (size != "0" && path.exists()).then(|| Namespace { path: path.to_owned(), sequence })
    }

    /// Whether a block device is still the one that it was.
    pub fn is_there(&self, namespace: &Namespace) -> bool {
        self.namespace_at(&namespace.path).is_some_and(|found| found == *namespace)
    }

    /// Ends a connection of ours. Blocks until the kernel has ended it; one that is not there is as good.
    ///
    /// # Errors
    /// Of the system.
    pub fn disconnect(&self, target: &Target) -> io::Result<()> {
        let Some(controller) = self.find(target) else { return Ok(()) };
        let path = self.root.join("sys/class/nvme").join(controller.name).join("delete_controller");
        match OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(b"1")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }
}

fn attribute(dir: &Path, name: &str) -> Option<String> {
    Some(fs::read_to_string(dir.join(name)).ok()?.trim().to_owned())
}

/// The block device for a namespace as a controller's directory names it: `nvme2n1` itself, or of several paths `nvme2c3n1`.
fn block_device_of(name: &str) -> Option<String> {
    let (subsystem, rest) = name.strip_prefix("nvme")?.split_once(['c', 'n'])?;
    let namespace = rest.rsplit('n').next()?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(subsystem) && is_number(namespace)).then(|| format!("nvme{subsystem}n{namespace}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "transport=tcp traddr=10.0.0.7 trsvcid=4420 nqn=nqn.2024-01.org.example:kv";

    fn target() -> Target {
        TARGET.parse().expect("a target")
    }

    #[test]
    fn a_target_reads_back_and_its_port_may_be_left_out() {
        assert_eq!(target().to_string(), TARGET);
        let short = "nqn=nqn.2024-01.org.example:kv traddr=10.0.0.7 transport=tcp";
        assert_eq!(short.parse::<Target>().expect("a target"), target());
        assert!("transport=rdma traddr=fe80::1 nqn=nqn.x:y".parse::<Target>().is_ok());
    }

    #[test]
    fn what_is_no_target_or_smuggles_an_option_is_refused() {
        for text in [
            "",
            "transport=tcp traddr=10.0.0.7",
            "transport=fc traddr=10.0.0.7 nqn=nqn.x",
            "transport=tcp traddr=host nqn=nqn.x",
            "transport=tcp traddr=10.0.0.7 nqn=nqn.x,ctrl_loss_tmo=1",
            "transport=tcp traddr=10.0.0.7 nqn=nqn.x trsvcid=99999",
            "transport=tcp traddr=10.0.0.7 nqn=nqn.x nqn=nqn.y",
            "transport=tcp traddr=10.0.0.7 nqn=nqn.x queue=1",
            "transport=tcp traddr=10.0.0.7 nqn=kv",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text:?} passes");
        }
    }

    #[test]
    fn block_devices_are_named_by_their_subsystem() {
        for (name, expected) in [
            ("nvme2n1", Some("nvme2n1")),
            ("nvme2c3n1", Some("nvme2n1")),
            ("nvme2c3n12", Some("nvme2n12")),
            ("nvme2", None),
            ("ng2n1", None),
            ("hwmon3", None),
            ("nvme2n", None),
        ] {
            assert_eq!(block_device_of(name).as_deref(), expected, "{name}");
        }
    }

    /// A controller as sysfs shows it.
    fn controller(root: &Path, name: &str, host: &str) {
        let dir = root.join("sys/class/nvme").join(name);
        fs::create_dir_all(dir.join("nvme4c9n1")).expect("made");
        for (attribute, value) in [
            ("address", "traddr=10.0.0.7,trsvcid=4420,src_addr=10.0.0.1"),
            ("transport", "tcp"),
            ("subsysnqn", "nqn.2024-01.org.example:kv"),
            ("hostnqn", host),
            ("state", "connecting"),
        ] {
            fs::write(dir.join(attribute), format!("{value}\n")).expect("written");
        }
    }

    #[test]
    fn our_connection_is_found_among_others_and_only_ours_is_ended() {
        let dir = tempfile::tempdir().expect("a directory");
        let initiator =
            Initiator { root: dir.path().to_owned(), host: "6f9619ff-8b86-4011-b42d-00cf4fc964ff".to_owned() };
        controller(dir.path(), "nvme3", "nqn.2014-08.org.nvmexpress:uuid:somebody-else");
        assert_eq!(initiator.find(&target()), None, "another host's");
        controller(dir.path(), "nvme9", &initiator.host_nqn());
        let found = Controller { name: "nvme9".to_owned(), state: "connecting".to_owned() };
        assert_eq!(initiator.find(&target()), Some(found.clone()));
        assert_eq!(initiator.connect(&target()).expect("connected already"), found);
        for name in ["nvme3", "nvme9"] {
            fs::write(dir.path().join("sys/class/nvme").join(name).join("delete_controller"), "").expect("written");
        }
        initiator.disconnect(&target()).expect("ended");
        let deleted = |name: &str| {
            fs::read_to_string(dir.path().join("sys/class/nvme").join(name).join("delete_controller")).expect("read")
        };
        assert_eq!((deleted("nvme3").as_str(), deleted("nvme9").as_str()), ("", "1"));
    }

    #[test]
    fn a_namespace_is_the_same_only_with_its_sequence() {
        let dir = tempfile::tempdir().expect("a directory");
        let initiator = Initiator { root: dir.path().to_owned(), host: "h".to_owned() };
        controller(dir.path(), "nvme9", &initiator.host_nqn());
        let block = dir.path().join("sys/class/block/nvme4n1");
        fs::create_dir_all(&block).expect("made");
        fs::create_dir_all(dir.path().join("dev")).expect("made");
        fs::write(dir.path().join("dev/nvme4n1"), "").expect("written");
        fs::write(block.join("size"), "2048\n").expect("written");
        fs::write(block.join("diskseq"), "17\n").expect("written");
        let found = initiator.find(&target()).expect("connected");
        let namespace = initiator.namespace(&target(), &found).expect("there");
        assert!(namespace.path.ends_with("dev/nvme4n1") && initiator.is_there(&namespace));
        fs::write(block.join("diskseq"), "18\n").expect("written");
        assert!(!initiator.is_there(&namespace), "another one of that name");
    }

    #[test]
    fn a_kernel_without_an_initiator_is_told_what_to_load() {
        let dir = tempfile::tempdir().expect("a directory");
        let initiator = Initiator { root: dir.path().to_owned(), host: "h".to_owned() };
        let error = initiator.connect(&target()).expect_err("there is no device");
        assert!(error.to_string().contains("modprobe nvme-tcp"), "{error}");
    }
}
