//! What the settings of the flash tier come to: where its files are, and how large.
//!
//! Invariants:
//! - A list of devices reads back as it was written.
//! - What is decided here looks at the file system once, at start; nothing is created.

use super::table::Config;
use super::value::{Choice, Form, Value};
use protocol::base::ByteLen;
use std::fmt;
use std::path::{Path, PathBuf};
use storage::flash::fabric::Target;

/// Name of the data directory, below where it is by default.
const DATA_DIR: &str = "mooncake-data";
/// Name of the default device's file in the data directory.
const FILE: &str = "flash.0";
/// The default device is so many times as long as DRAM, unless the file system has too little.
const FLASH_PER_DRAM: u64 = 4;
/// The default device takes at most this share of the free space.
const FREE_SHARE: u64 = 4;
/// The default device is rounded down to this.
const SIZE_STEP: ByteLen = ByteLen::mib(64);
/// Segments that a device should have at least, so that reclaiming one costs little of what it holds.
const SEGMENTS_WANTED: u64 = 32;
/// Shortest segment of a device.
pub const FLASH_SEGMENT_LEN_MIN: ByteLen = ByteLen::mib(8);
/// Longest: records count pages of 4 KiB in 16 bits.
pub const FLASH_SEGMENT_LEN_MAX: ByteLen = ByteLen::mib(256);

/// What a device on another machine begins with, in a setting and in `TIER ATTACH`.
const FABRIC: &str = "nvmeof ";

/// One device of the flash tier.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Where it is.
    pub place: Place,
    /// How much of it to use. All of what is there if not given.
    pub size: Option<ByteLen>,
}

/// Where a device is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A file, which is made if it is not there, or a block device.
    Path(PathBuf),
    /// A namespace on another machine.
    Fabric(Target),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Fabric(target) => write!(f, "{FABRIC}{target}"),
        }
    }
}

/// The devices that `nvme` names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Default)]
pub enum Devices {
    /// One file in the data directory.
    #[default]
    Auto,
    /// No flash tier.
    Off,
    /// These.
    Given(Vec<Device>),
}

impl Device {
    /// The path of one that this machine has.
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Path(path) => Some(path),
            Place::Fabric(_) => None,
        }
    }

    /// Reads `PATH[:SIZE]` or `nvmeof name=value …`. What follows the last colon is a size if it looks like one, else part of the path.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(target) = text.strip_prefix(FABRIC) {
            return Some(Self { place: Place::Fabric(target.parse().ok()?), size: None });
        }
        if let Some((path, size)) = text.rsplit_once(':')
            && let Some(size) = ByteLen::parse(size)
        {
            return Some(Self { place: Place::Path(PathBuf::parse(path)?), size: Some(size) });
        }
        Some(Self { place: Place::Path(PathBuf::parse(text)?), size: None })
    }

    fn written(&self) -> String {
        match self.size {
            None => self.place.to_string(),
            Some(size) => format!("{}:{}", self.place, size.written()),
        }
    }
}

impl Value for Devices {
    const KIND: &'static str = "PATH[:SIZE]";
    const ALLOWED: &'static str = "paths with a size or without, such as /dev/nvme1n1 or /data/flash:200GiB, and namespaces \
         elsewhere, such as nvmeof transport=tcp traddr=10.0.0.7 trsvcid=4420 nqn=nqn.2024-01.org.example:kv, a comma between two";
    const WORDS: &'static [&'static str] = &["auto", "none"];
    const FORM: Form = Form::Text;
    const LIST: bool = true;

    fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "none" => Some(Self::Off),
            _ => text.split(',').map(|part| Device::parse(part.trim())).collect::<Option<_>>().map(Self::Given),
        }
    }

    fn render(&self) -> String {
        match self {
            Self::Auto => "auto".to_owned(),
            Self::Off => "none".to_owned(),
            Self::Given(devices) => devices.iter().map(Device::written).collect::<Vec<_>>().join(","),
        }
    }
}

/// Bytes that the file system below `path` could still give, by the nearest directory that exists.
fn free_at(path: &Path) -> Option<ByteLen> {
    let path = std::path::absolute(path).ok()?;
    let found = path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok())?;
    Some(ByteLen(found.f_bavail.saturating_mul(found.f_frsize)))
}

impl Config {
    /// Where the node keeps what it must not forget; `None` if it forgets all.
    pub fn data_dir_path(&self) -> Option<PathBuf> {
        match &self.data_dir {
            Choice::Off => None,
            Choice::Given(path) => Some(path.clone()),
            Choice::Auto => {
                let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
                Some(state.map_or_else(|| PathBuf::from(DATA_DIR), |dir| dir.join(DATA_DIR)))
            }
        }
    }

    /// The flash devices to open, each with its length where it has to be made; empty without a flash tier.
    pub fn flash_devices(&self) -> Vec<Device> {
        let Some(dir) = self.data_dir_path() else { return Vec::new() };
        let given = match &self.nvme {
            Devices::Off => return Vec::new(),
            Devices::Auto => vec![Device { place: Place::Path(dir.join(FILE)), size: None }],
            Devices::Given(devices) => devices.clone(),
        };
        given.into_iter().map(|device| self.flash_device_to_make(device)).collect()
    }

    /// Notes a device that was attached while the server runs.
    pub(crate) fn add_device(&mut self, device: Device) {
        let mut devices = self.flash_devices();
        devices.push(device);
        self.note_devices(devices);
    }

    /// Forgets a device that was detached.
    pub(crate) fn remove_device(&mut self, place: &Place) {
        let same = |device: &Device| match (&device.place, place) {
            (Place::Path(own), Place::Path(path)) => std::path::absolute(own).is_ok_and(|own| own == *path),
            (own, place) => own == place,
        };
        let devices = self.flash_devices().into_iter().filter(|device| !same(device)).collect();
        self.note_devices(devices);
    }

    fn note_devices(&mut self, devices: Vec<Device>) {
        self.nvme = if devices.is_empty() { Devices::Off } else { Devices::Given(devices) };
        if let Some(info) = super::setting("nvme") {
            self.origins[info.index()] = super::Origin::Set;
        }
    }

    /// A file that is not there yet gets a length; what is there has one.
    pub(crate) fn flash_device_to_make(&self, device: Device) -> Device {
        let Some(path) = device.path() else { return device };
        if device.size.is_some() || std::fs::metadata(path).is_ok_and(|found| found.len() > 0 || !found.is_file()) {
            return device;
        }
        Device { size: Some(self.flash_size_at(path)), ..device }
    }

    /// Length of a file that is made at `path` and whose size nobody said.
    fn flash_size_at(&self, path: &Path) -> ByteLen {
        let wanted = self.dram_total().get().saturating_mul(FLASH_PER_DRAM);
        let share = free_at(path).map_or(wanted, |free| free.get() / FREE_SHARE);
        ByteLen(wanted.min(share) / SIZE_STEP.get() * SIZE_STEP.get()).max(SIZE_STEP)
    }

    /// Length of a flash segment of a device that is made: as set, or by the length of the device.
    pub fn flash_segment_size(&self, device: Option<ByteLen>) -> ByteLen {
        match (self.flash_segment_len, device) {
            (ByteLen(0), None) => FLASH_SEGMENT_LEN_MAX,
            (ByteLen(0), Some(device)) => {
                let part = (device.get() / SEGMENTS_WANTED).max(1);
                ByteLen(1 << part.ilog2()).clamp(FLASH_SEGMENT_LEN_MIN, FLASH_SEGMENT_LEN_MAX)
            }
            (given, _) => given,
        }
    }

    /// What is wrong with the settings of the flash tier together.
    pub(super) fn flash_disagreements(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.flash_segment_len.get() != 0 && !self.flash_segment_len.get().is_power_of_two() {
            found.push(("flash-segment-len", "must be a power of two".to_owned()));
        }
        if let Devices::Given(devices) = &self.nvme {
            if self.data_dir == Choice::Off {
                found.push(("nvme", "needs a data directory (`data-dir`)".to_owned()));
            }
            for (at, device) in devices.iter().enumerate() {
                if devices[..at].iter().any(|other| other.place == device.place) {
                    found.push(("nvme", format!("names {} twice", device.place)));
                }
                let least = self.flash_segment_size(device.size).get() * 4;
                if device.size.is_some_and(|size| size.get() < least) {
                    found.push(("nvme", format!("{}: at least {}, four segments", device.place, ByteLen(least))));
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Machine, setting};
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Config {
        let mut config = Config::default_on(Machine { memory: ByteLen::gib(24), cores: 2 });
        for (name, value) in pairs {
            let info = setting(name).unwrap_or_else(|| panic!("no setting {name}"));
            info.set(&mut config, value).unwrap_or_else(|()| panic!("{name} = {value} is refused"));
        }
        config
    }

    #[test]
    fn a_list_of_devices_reads_back() {
        for (text, written) in [
            ("auto", "auto"),
            ("none", "none"),
            ("/dev/nvme1n1", "/dev/nvme1n1"),
            ("/a:10GiB, /b", "/a:10.00 GiB,/b"),
            ("/dev/disk/by-path/pci-0000:00:1f.2", "/dev/disk/by-path/pci-0000:00:1f.2"),
            (
                "/a, nvmeof nqn=nqn.2024-01.org.example:kv traddr=10.0.0.7 transport=tcp",
                "/a,nvmeof transport=tcp traddr=10.0.0.7 trsvcid=4420 nqn=nqn.2024-01.org.example:kv",
            ),
        ] {
            let read = Devices::parse(text).unwrap_or_else(|| panic!("{text} is refused"));
            assert_eq!(Devices::parse(&read.render()), Some(read.clone()), "{text}");
            assert_eq!(read.render().replace(".00", ""), written.replace(".00", ""), "{text}");
        }
        assert_eq!(Devices::parse("/a,,/b"), None);
        assert_eq!(Devices::parse(""), None);
        assert_eq!(Devices::parse("nvmeof traddr=10.0.0.7"), None);
    }

    #[test]
    fn a_device_that_is_made_follows_dram_and_the_free_space() {
        let dir = tempfile();
        let data = dir.display().to_string();
        let config = with(&[("data-dir", &data), ("dram", "64 MiB")]);
        let devices = config.flash_devices();
        assert_eq!(devices.len(), 1);
        assert!(devices[0].path().expect("a file").starts_with(&dir));
        let size = devices[0].size.expect("a file that is made has a length");
        assert!(size <= ByteLen::mib(256) && size >= SIZE_STEP, "{size}");
        std::fs::write(dir.join(FILE), b"already there").expect("a file for the test");
        assert_eq!(config.flash_devices()[0].size, None, "what is there has its length");
        std::fs::remove_dir_all(&dir).expect("the directory was ours");
        assert_eq!(with(&[("nvme", "none")]).flash_devices(), []);
        assert_eq!(with(&[("data-dir", "none")]).flash_devices(), []);
    }

    #[test]
    fn segments_are_as_long_as_leaves_many() {
        let config = with(&[]);
        for (device, segment) in [(64, 8), (256, 8), (1024, 32), (64 * 1024, 256)] {
            assert_eq!(config.flash_segment_size(Some(ByteLen::mib(device))), ByteLen::mib(segment), "{device}");
        }
        let set = with(&[("flash-segment-len", "64 MiB")]);
        assert_eq!(set.flash_segment_size(Some(ByteLen::gib(100))), ByteLen::mib(64));
    }

    #[test]
    fn devices_that_cannot_be_are_named() {
        for pairs in [
            &[("nvme", "/a:1GiB,/a:1GiB")][..],
            &[("nvme", "/a:16 MiB")],
            &[("nvme", "/a:1 GiB"), ("data-dir", "none")],
            &[("flash-segment-len", "24 MiB")],
        ] {
            assert_eq!(with(pairs).flash_disagreements().len(), 1, "{pairs:?}");
        }
    }

    fn tempfile() -> PathBuf {
        let dir = std::env::temp_dir().join(format!("mooncake-flash-config-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for the test");
        dir
    }
}
