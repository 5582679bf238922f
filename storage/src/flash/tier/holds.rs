//! What a device holds, for those who ask before they use it.

use super::data_dir::superblock_of;
use crate::flash::format::{PAGE_LEN, SUPERBLOCK_COPIES};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

/// Bytes at the beginning of a device that tell what it holds: file systems and tables of partitions begin there.
const LOOK_LEN: usize = 64 << 10;

/// What lies on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A flash log of ours.
    Log,
    /// Nothing: it begins with zeros.
    Nothing,
    /// Something else: a file system, somebody's data.
    Other,
}

impl fmt::Display for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Log => "holds a flash log",
            Self::Nothing => "is blank",
            Self::Other => "holds something that is no flash log",
        })
    }
}

impl Holds {
    /// Looks.
    ///
    /// # Errors
    /// Of the system.
    pub fn of(path: &Path) -> io::Result<Self> {
        if superblock_of(path).is_some() {
            return Ok(Self::Log);
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(LOOK_LEN as u64).read_to_end(&mut bytes)?;
        Ok(if bytes.iter().all(|&byte| byte == 0) { Self::Nothing } else { Self::Other })
    }
}

/// Makes a device one that holds nothing, so that it is formatted when it is opened. What lay on it is lost.
///
/// # Errors
/// Of the system.
pub fn make_blank(path: &Path) -> io::Result<()> {
    const { assert!(LOOK_LEN >= PAGE_LEN * SUPERBLOCK_COPIES as usize) };
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(&[0; LOOK_LEN])?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_holds_is_told_and_can_be_made_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("device");
        std::fs::write(&path, vec![0; 1 << 20]).expect("written");
        assert_eq!(Holds::of(&path).expect("read"), Holds::Nothing);
        let mut bytes = vec![0; 1 << 20];
        bytes[1080] = 0x53;
        std::fs::write(&path, &bytes).expect("written");
        assert_eq!(Holds::of(&path).expect("read"), Holds::Other, "as ext4 begins");
        make_blank(&path).expect("written");
        assert_eq!(Holds::of(&path).expect("read"), Holds::Nothing);
        assert!(Holds::of(&dir.path().join("none")).is_err());
    }
}
