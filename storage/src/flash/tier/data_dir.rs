//! The directory of journal and metadata, for one process at a time, and the count of its boots.
//!
//! Invariants:
//! - A boot epoch is durable before anybody uses it, and higher than any that was used before: of one key's records, the
//!   higher generation is the newer.

use super::config::DeviceConfig;
use super::error::FlashError;
use crate::flash::format::{PAGE_LEN, SUPERBLOCK_COPIES, Superblock};
use rustix::fs::FlockOperation;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";
const EPOCH: &str = "boot-epoch";
const SERVED: &str = "served-epoch";
/// Names the life whose memory rests (see `crate::warm`). A power cut may bring it back, but not that memory.
const MEMORY: &str = "memory-at-rest";
const NUMBERS: &str = "next-device";
const HOST: &str = "host-id";

/// A locked data directory. The lock ends with the value, and with the process.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory if need be, and locks it.
    ///
    /// # Errors
    /// [`FlashError::Locked`] if another process has it; [`FlashError::Io`].
    pub fn open(path: &Path) -> Result<Self, FlashError> {
        let failed = |error| FlashError::io(format!("open the data directory {}", path.display()), error);
        fs::create_dir_all(path).map_err(failed)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK)).map_err(failed)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(FlashError::Locked { path: path.to_owned() }),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A UUID by which other machines know this server, the same at each boot.
    ///
    /// # Errors
    /// [`FlashError::Io`] if it cannot be kept.
    pub fn host_id(&self) -> Result<String, FlashError> {
        let known = fs::read_to_string(self.path.join(HOST)).unwrap_or_default();
        if known.trim().len() == 36 {
            return Ok(known.trim().to_owned());
        }
        let fresh = random_uuid();
        self.replace(HOST, format!("{fresh}\n").as_bytes())
            .map_err(|error| FlashError::io(format!("write to {}", self.path.display()), error))?;
        Ok(fresh)
    }

    /// The number of this boot: one more than the highest that this directory or one of the devices knows. Call it once,
    /// before the store is made.
    ///
    /// # Errors
    /// [`FlashError::Io`] if it cannot be made durable.
    pub fn next_boot_epoch(&self, devices: &[DeviceConfig]) -> Result<u64, FlashError> {
        let file = self.path.join(EPOCH);
        let known = self.number(EPOCH);
        let told =
            devices.iter().filter_map(|device| superblock_of(&device.path)).map(|superblock| superblock.boot_epoch);
        let epoch = told.fold(known, u64::max) + 1;
        self.replace(EPOCH, format!("{epoch}\n").as_bytes())
            .map_err(|error| FlashError::io(format!("write {}", file.display()), error))?;
        Ok(epoch)
    }

    /// The latest boot that served: a device that was not there then may have missed deaths.
    pub(super) fn served_epoch(&self) -> u64 {
        self.number(SERVED)
    }

    /// This boot serves from now on.
    pub(super) fn set_served_epoch(&self, epoch: u64) -> io::Result<()> {
        self.replace(SERVED, format!("{epoch}\n").as_bytes())
    }

    /// The life whose memory was left for the next one to take over, if nobody has served since.
    pub fn memory_at_rest(&self) -> Option<u128> {
        let text = fs::read_to_string(self.path.join(MEMORY)).ok()?;
        u128::from_str_radix(text.trim(), 16).ok()
    }

    /// Notes that life, or that somebody serves.
    pub(super) fn set_memory_at_rest(&self, life: Option<u128>) -> io::Result<()> {
        match life {
            Some(life) => self.replace(MEMORY, format!("{life:032x}\n").as_bytes()),
            None => match fs::remove_file(self.path.join(MEMORY)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
    }

    /// Numbers for devices, in their order: those that they have, or ones that no device ever had here.
    pub(super) fn numbers_for(&self, devices: &[DeviceConfig]) -> Result<Vec<u32>, FlashError> {
        let failed = |error| FlashError::io(format!("write to {}", self.path.display()), error);
        let known: Vec<Option<u32>> =
            devices.iter().map(|device| superblock_of(&device.path).map(|superblock| superblock.number)).collect();
        let first = known.iter().flatten().map(|number| u64::from(*number) + 1).fold(self.number(NUMBERS), u64::max);
        let mut next = first;
        let mut numbers = Vec::new();
        for (at, number) in known.iter().enumerate() {
            if number.is_some() && known[..at].contains(number) {
                return Err(FlashError::Config(format!(
                    "{} has the number of another device: it is a copy, or another server's",
                    devices[at].path.display()
                )));
            }
            numbers.push(number.unwrap_or_else(|| {
                next += 1;
                u32::try_from(next - 1).unwrap_or(u32::MAX)
            }));
        }
        if next != self.number(NUMBERS) {
            self.replace(NUMBERS, format!("{next}\n").as_bytes()).map_err(failed)?;
        }
        Ok(numbers)
    }

    /// The number that a file says, 0 without one.
    fn number(&self, name: &str) -> u64 {
        fs::read_to_string(self.path.join(name)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Writes a file whole or not at all.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let fresh = self.path.join(format!("{name}.new"));
        let mut file = File::create(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, self.path.join(name))?;
        File::open(&self.path)?.sync_all()
    }
}

/// A UUID of version 4 (RFC 9562).
fn random_uuid() -> String {
    let bits = (rand::random::<u128>() & !(0xf << 76 | 0x3 << 62)) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// What a device says of itself, if it is a device of ours.
pub(super) fn superblock_of(path: &Path) -> Option<Superblock> {
    let mut blocks = vec![0; PAGE_LEN * usize::from(SUPERBLOCK_COPIES)];
    File::open(path).ok()?.read_exact(&mut blocks).ok()?;
    let copies: Vec<_> = (0..SUPERBLOCK_COPIES)
        .zip(blocks.chunks_exact(PAGE_LEN))
        .map(|(copy, block)| Superblock::decode(block, copy))
        .collect();
    Superblock::newest(&copies).ok()
}
