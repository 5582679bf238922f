//! The NVMe drives that QEMU gives the guest.

use anyhow::{Context as _, Result};
use std::fs;
use std::path::PathBuf;

/// How many there are.
pub const COUNT: usize = 3;
/// What their serial numbers begin with; the drive's number follows.
pub const SERIAL: &str = "mooncake-";

/// The block device of a drive. Controllers are found in any order, so it goes by the serial number.
///
/// # Errors
/// If there is no such drive: this is not the guest.
pub fn path(number: usize) -> Result<PathBuf> {
    let wanted = format!("{SERIAL}{number}");
    for entry in fs::read_dir("/sys/class/nvme").context("this machine has no NVMe: not in the guest?")? {
        let dir = entry?.path();
        if fs::read_to_string(dir.join("serial")).is_ok_and(|serial| serial.trim() == wanted) {
            let name = dir.file_name().context("a controller has a name")?.to_string_lossy().into_owned();
            return Ok(PathBuf::from(format!("/dev/{name}n1")));
        }
    }
    anyhow::bail!("no NVMe drive has the serial number {wanted}")
}
