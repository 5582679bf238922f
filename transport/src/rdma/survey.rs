//! What the RDMA devices of this machine are good for, found by using them.
//!
//! Invariants:
//! - A survey leaves nothing behind: what it opens and registers is gone when it returns.

use super::device::{Choice, Device, Gid};
use super::trial::{Defect, try_windows};
use super::verbs::Limits;
use ibverbs_sys as sys;

/// A device that can be used.
#[derive(Debug, Clone)]
pub struct Usable {
    /// The address that would be used.
    pub gid: Gid,
    /// Bytes of the longest packet that its port sends.
    pub mtu: u32,
    /// Whether packets go through.
    pub is_active: bool,
    /// What it can hold.
    pub limits: Limits,
    /// What its windows do not keep, or why they could not be tried.
    pub windows: Result<Vec<Defect>, String>,
}

/// A device, and what came of using it.
#[derive(Debug, Clone)]
pub struct Surveyed {
    /// Its name.
    pub name: String,
    /// Or why it is of no use, in one line.
    pub found: Result<Usable, String>,
}

/// Opens each device in turn and tries its windows. It takes some milliseconds a device.
///
/// # Errors
/// What the machine lacks before there can be any.
pub fn survey() -> Result<Vec<Surveyed>, String> {
    if let Some(missing) = sys::missing() {
        return Err(missing.to_owned());
    }
    let list = ibverbs::devices().map_err(|_| "the kernel has no RDMA device".to_owned())?;
    let names = list.iter().filter_map(|device| device.name().map(|name| name.to_string_lossy().into_owned()));
    Ok(names.map(|name| Surveyed { found: of_device(&name), name }).collect())
}

fn of_device(name: &str) -> Result<Usable, String> {
    let choice = Choice { device: Some(name.to_owned()), gid_index: None };
    let device = Device::open(&choice).map_err(|error| error.to_string())?;
    let windows = match (device.port.is_active, device.limits.has_windows_2b) {
        (true, true) => try_windows(&device).map_err(|error| error.to_string()),
        (true, false) => Err("it has no memory windows of type 2B".to_owned()),
        (false, _) => Err("its port is not active".to_owned()),
    };
    Ok(Usable {
        gid: device.gid,
        mtu: 128 << device.port.mtu,
        is_active: device.port.is_active,
        limits: device.limits,
        windows,
    })
}
