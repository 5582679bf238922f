//! An ext4 of its own in a file, on a loop device, whose power can go.

use anyhow::{Context as _, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: from now on nothing reaches the disk, not even the journal.
const SHUTDOWN: &str =
    "import fcntl, os, struct, sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

/// A mounted file system. Unmounted and gone when dropped.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
    mounted: bool,
}

impl Disk {
    /// Makes one of `len` bytes in `dir`. `None`, with a line that says so, where one may not mount.
    ///
    /// # Errors
    /// If a tool fails.
    pub fn create(dir: &TempDir, len: u64) -> anyhow::Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(crate::peer::skipped("only root may mount a file system"));
        }
        for tool in ["mkfs.ext4", "mount", "umount", "python3"] {
            if crate::peer::find(tool).is_none() {
                return Ok(None);
            }
        }
        let (image, mount) = (dir.path().join("disk.img"), dir.path().join("disk"));
        std::fs::File::create(&image)?.set_len(len)?;
        std::fs::create_dir(&mount)?;
        call(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        let mut disk = Self { image, mount, mounted: false };
        disk.mount()?;
        Ok(Some(disk))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Mounts it; a journal left by a cut is replayed.
    ///
    /// # Errors
    /// If that fails.
    pub fn mount(&mut self) -> anyhow::Result<()> {
        call(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mount))?;
        self.mounted = true;
        Ok(())
    }

    /// Power goes: what the disk has not got by now it never gets.
    ///
    /// # Errors
    /// If it does not.
    pub fn cut(&self) -> anyhow::Result<()> {
        call(Command::new("python3").args(["-c", SHUTDOWN]).arg(&self.mount))
    }

    /// Unmounts it. Nobody may have a file open.
    ///
    /// # Errors
    /// If somebody has for longer than it takes a killed process to let go.
    pub fn unmount(&mut self) -> anyhow::Result<()> {
        unmount(&self.mount)?;
        self.mounted = false;
        Ok(())
    }
}

/// Unmounts what nobody uses, or soon nobody does: a ring of a process that was killed lets go of its files some time later.
pub(super) fn unmount(path: &Path) -> anyhow::Result<()> {
    for pause in [0, 10, 50, 200, 1000, 3000] {
        std::thread::sleep(std::time::Duration::from_millis(pause));
        if call(Command::new("umount").arg(path)).is_ok() {
            return Ok(());
        }
    }
    call(Command::new("umount").arg(path))
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // `-l`: whatever still uses it, the mount must not outlive the test.
            let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
        }
    }
}

fn call(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
