//! What the machine is made of, as far as moving bytes is concerned: NUMA nodes, network adapters, GPUs, NVMe drives, and how far
//! they are from each other.
//!
//! Role: a description that is read once ([`Topology::read`], from sysfs below any root) and looked at by pure functions:
//! [`distance`](Topology::distance) between two devices, [`rank`] of adapters for memory of a node.
//!
//! Invariants:
//! - Reading changes nothing and opens no device. What a machine does not say is left out, never guessed into a number.
//! - The same description gives the same ranking, in the same order.

mod pci;
mod place;
mod rank;
mod sysfs;

pub use pci::{Distance, PciPath};
pub use place::Placement;
pub use rank::{Ranked, rank};

use std::path::Path;

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumaNode {
    /// Its number.
    pub id: u32,
    /// Processors on it.
    pub cpus: Vec<usize>,
    /// Bytes of memory on it.
    pub memory: u64,
    /// How far each node is, by its number, as the firmware says it: 10 is the node itself.
    pub distances: Vec<(u32, u32)>,
}

/// Where a device is plugged in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slot {
    /// Its way from the root of PCI Express. Empty for what has none, as a device made of software.
    pub pci: PciPath,
    /// The node that its bridge hangs on, if the machine says so.
    pub numa: Option<u32>,
}

/// An address of an RDMA port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GidEntry {
    /// Its place in the port's table.
    pub index: u8,
    /// The address, as sysfs writes it.
    pub gid: String,
    /// How packets are wrapped: `RoCE v2`, `IB/RoCE v1`.
    pub kind: String,
}

/// The RDMA side of an adapter: one device of verbs, its first port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RdmaPort {
    /// Whether packets go through.
    pub is_active: bool,
    /// Its state, as sysfs writes it: `ACTIVE`, `DOWN`.
    pub state: String,
    /// `Ethernet` or `InfiniBand`.
    pub link_layer: String,
    /// Its addresses.
    pub gids: Vec<GidEntry>,
}

/// A network adapter's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// The name that it is asked for by: of the RDMA device, else of the network interface.
    pub name: String,
    /// Its network interface, if it has one.
    pub interface: Option<String>,
    /// The longest packet of the interface.
    pub mtu: Option<u32>,
    /// Where it is.
    pub slot: Slot,
    /// Gbit/s, 0 if nobody says.
    pub gbps: u32,
    /// Whether packets go through.
    pub is_up: bool,
    /// What it is to verbs, if it is.
    pub rdma: Option<RdmaPort>,
}

/// A GPU or another accelerator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its address on PCI Express, which tools know it by.
    pub name: String,
    /// Vendor and device, as PCI numbers them: `10de:2335`.
    pub model: String,
    /// Where it is.
    pub slot: Slot,
}

/// An NVMe controller: a drive in this machine, or a connection to one elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    /// Its name: `nvme0`.
    pub name: String,
    /// `pcie`, `tcp` or `rdma`.
    pub transport: String,
    /// What the kernel says of it: `live`, `connecting`, `dead`.
    pub state: String,
    /// Who made it.
    pub model: String,
    /// Where it is reached, of one elsewhere.
    pub address: String,
    /// Where it is plugged in.
    pub slot: Slot,
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topology {
    /// In the order of their numbers. Never empty once read: a machine without nodes is one.
    pub nodes: Vec<NumaNode>,
    /// RDMA devices first, then other interfaces, each by name.
    pub nics: Vec<Nic>,
    /// By address.
    pub gpus: Vec<Gpu>,
    /// By name.
    pub drives: Vec<Drive>,
}

impl Topology {
    /// What a machine's `/sys`, found below `root`, says. What cannot be read is left out.
    pub fn read(root: &Path) -> Self {
        sysfs::read(root)
    }

    /// Changes what is known of an adapter. Answers whether there is one of that name.
    pub fn override_nic(&mut self, name: &str, numa: u32, gbps: Option<u32>) -> bool {
        let Some(nic) = self.nics.iter_mut().find(|nic| nic.name == name) else { return false };
        nic.slot.numa = Some(numa);
        nic.gbps = gbps.unwrap_or(nic.gbps);
        true
    }

    /// The adapter of this name.
    pub fn nic(&self, name: &str) -> Option<&Nic> {
        self.nics.iter().find(|nic| nic.name == name)
    }

    /// How far memory of one node is from another, 10 being the node itself; `None` where nobody says.
    pub fn numa_distance(&self, from: u32, to: u32) -> Option<u32> {
        let node = self.nodes.iter().find(|node| node.id == from)?;
        node.distances.iter().find(|(id, _)| *id == to).map(|(_, distance)| *distance)
    }

    /// How far two devices are from each other.
    pub fn distance(&self, a: &Slot, b: &Slot) -> Distance {
        match a.pci.distance(&b.pci) {
            Some(distance) => distance,
            None if self.nodes.len() == 1 || (a.numa.is_some() && a.numa == b.numa) => Distance::Node,
            None => Distance::System,
        }
    }
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
