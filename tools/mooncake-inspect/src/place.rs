//! Finds devices and opens them for reading.

use crate::What;
use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use storage::flash::format::Superblock;
use storage::flash::journal::{Damage, Journal, Remembered};
use storage::flash::recover::{FileSource, RecoverError, superblock};

/// What both copies of a superblock begin with.
const MAGIC: &[u8; 8] = b"MKVDEV01";

/// A formatted device.
pub(crate) struct Device {
    pub(crate) path: PathBuf,
    pub(crate) superblock: Superblock,
    /// Keeps a server from starting on it meanwhile.
    _lock: File,
}

impl Device {
    /// Another way to read it.
    pub(crate) fn source(&self) -> Result<FileSource> {
        let file = File::open(&self.path).with_context(|| format!("open {}", self.path.display()))?;
        FileSource::new(file).with_context(|| format!("measure {}", self.path.display()))
    }
}

/// What the journal says, if there is one.
pub(crate) struct Notes {
    pub(crate) remembered: Remembered,
    pub(crate) damage: Damage,
}

/// Opens what the command line names.
pub(crate) fn open(what: &What) -> Result<(Vec<Device>, Option<Notes>)> {
    let metadata = fs::metadata(&what.path).with_context(|| format!("look at {}", what.path.display()))?;
    let paths = if metadata.is_dir() { devices_in(&what.path)? } else { vec![what.path.clone()] };
    if paths.is_empty() {
        bail!("{} holds no flash device; name the file or block device itself", what.path.display());
    }
    let devices = paths.into_iter().map(|path| device(path, what.in_use)).collect::<Result<Vec<_>>>()?;
    let directory = what.data_dir.as_deref().or(metadata.is_dir().then_some(&what.path));
    let notes = directory.map(Journal::peek).transpose().context("read the journal")?.flatten();
    if what.data_dir.is_some() && notes.is_none() {
        bail!("no journal in {}", directory.unwrap_or(&what.path).display());
    }
    Ok((devices, notes.map(|(remembered, damage)| Notes { remembered, damage })))
}

/// Files in a directory that begin as a device does, in the order of their names.
fn devices_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let path = entry?.path();
        let is_file = fs::metadata(&path).is_ok_and(|metadata| metadata.is_file());
        let mut start = [0; 4096 + 8];
        if !is_file || File::open(&path).and_then(|mut file| file.read_exact(&mut start)).is_err() {
            continue;
        }
        // Either copy is enough.
        if start[..8] == *MAGIC || start[4096..] == *MAGIC {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn device(path: PathBuf, in_use: bool) -> Result<Device> {
    let name = path.display();
    let file = File::open(&path).with_context(|| format!("open {name} for reading"))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) if in_use => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            bail!(
                "{name} is in use by a server: stop it, or say --in-use and expect what it is writing to look damaged"
            )
        }
        Err(error) => return Err(error).with_context(|| format!("lock {name}")),
    }
    let mut source = FileSource::new(file.try_clone()?).with_context(|| format!("measure {name}"))?;
    let superblock = superblock(&mut source).map_err(|error| match error {
        RecoverError::Blank => anyhow::anyhow!("{name} is blank: no server ever used it"),
        RecoverError::Superblock(why) => anyhow::anyhow!("{name} is no flash device of this program: {why}"),
        RecoverError::Io(error) => anyhow::anyhow!("{name} does not read, or is too short for a device: {error}"),
        RecoverError::Shrunk { .. } => anyhow::anyhow!("{name}: {error}"),
    })?;
    Ok(Device { path, superblock, _lock: file })
}
