//! A directory in memory for the segments' files of servers whose memory outlives them.

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Where Linux keeps its shared memory.
const SHM: &str = "/dev/shm";
const TMPFS: u64 = 0x0102_1994;

/// See the module's text. Gone with the value, whatever a killed server left in it.
#[derive(Debug)]
pub struct DramDir(TempDir);

impl DramDir {
    /// A new one. `None`, with a line that says so, where there is no tmpfs.
    ///
    /// # Panics
    /// If it cannot be made, or must be there.
    pub fn new() -> Option<Self> {
        let system = rustix::fs::statfs(SHM);
        if !system.is_ok_and(|system| u64::try_from(system.f_type).is_ok_and(|kind| kind == TMPFS)) {
            return crate::peer::skipped("/dev/shm is no tmpfs");
        }
        let dir = TempDir::with_prefix_in("mooncake-warm-", SHM).expect("a directory in memory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).expect("it is ours");
        Some(Self(dir))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// As a flag's value.
    ///
    /// # Panics
    /// If its name is not plain.
    pub fn flag(&self) -> &str {
        self.path().to_str().expect("a plain name")
    }

    /// The segments' files, in order.
    ///
    /// # Panics
    /// If it cannot be listed.
    pub fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path()).expect("it is ours");
        let mut found: Vec<PathBuf> = entries.map(|entry| entry.expect("it is ours").path()).collect();
        found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("segment-")));
        found.sort();
        found
    }

    /// The manifest of a planned stop.
    pub fn manifest(&self) -> PathBuf {
        self.path().join("manifest")
    }

    /// Makes files changeable that a killed server left immutable.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn release(&self) -> io::Result<()> {
        for path in self.segments() {
            let file = File::open(path)?;
            let flags = ioctl_getflags(&file)?;
            if flags.contains(IFlags::IMMUTABLE) {
                ioctl_setflags(&file, flags - IFlags::IMMUTABLE)?;
            }
        }
        Ok(())
    }
}

impl Drop for DramDir {
    fn drop(&mut self) {
        let _ = self.release();
    }
}
