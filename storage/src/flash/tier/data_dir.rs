//! The directory of journal and metadata, for one process at a time, and the count of its boots.
//!
//! Invariants:
//! - A boot epoch is durable before anybody uses it, and higher than any that was used before: of one key's records, the
//!   higher generation is the newer.

use super::config::DeviceConfig;
use super::error::FlashError;
use rustix::fs::FlockOperation;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";
const EPOCH: &str = "boot-epoch";

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
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK)).map_err(failed)?;
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

    /// The number of this boot: one more than the highest that this directory or one of the devices knows. Call it once,
    /// before the store is made.
    ///
    /// # Errors
    /// [`FlashError::Io`] if it cannot be made durable.
    pub fn next_boot_epoch(&self, devices: &[DeviceConfig]) -> Result<u64, FlashError> {
        let file = self.path.join(EPOCH);
        let known = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
        let epoch = devices.iter().filter_map(|device| epoch_of(&device.path)).fold(known, u64::max) + 1;
        self.replace(EPOCH, format!("{epoch}\n").as_bytes())
            .map_err(|error| FlashError::io(format!("write {}", file.display()), error))?;
        Ok(epoch)
    }

    /// Writes a file whole or not at all.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let fresh = self.path.join(format!("{name}.new"));
        let mut file = File::create(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, self.path.join(name))?;
        File::open(&self.path)?.sync_all()
    }
}

/// The boot epoch that a device's superblock tells, if it is a device of ours.
fn epoch_of(path: &Path) -> Option<u64> {
    use crate::flash::format::{PAGE_LEN, SUPERBLOCK_COPIES, Superblock};
    let mut blocks = vec![0; PAGE_LEN * usize::from(SUPERBLOCK_COPIES)];
    File::open(path).ok()?.read_exact(&mut blocks).ok()?;
    let copies: Vec<_> = (0..SUPERBLOCK_COPIES)
        .zip(blocks.chunks_exact(PAGE_LEN))
        .map(|(copy, block)| Superblock::decode(block, copy))
        .collect();
    Superblock::newest(&copies).ok().map(|superblock| superblock.boot_epoch)
}
