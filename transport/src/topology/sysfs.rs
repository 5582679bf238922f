//! The machine as the kernel shows it in `/sys`.
//!
//! Invariants:
//! - All paths lie below the given root, links too, so that the tree of another machine can be read.

use super::{Drive, GidEntry, Gpu, Nic, NumaNode, PciPath, RdmaPort, Slot, Topology};
use std::fs;
use std::path::{Path, PathBuf};

/// Entries of a port's table of addresses that are looked at: it is long, slow to read, and used from its start.
const GIDS_MAX: u8 = 16;
/// Classes of PCI devices that compute: 3D controllers and processing accelerators. VGA is one only of these vendors.
const CLASSES: [&str; 2] = ["0x0302", "0x1200"];
const CLASS_VGA: &str = "0x0300";
const VENDORS: [&str; 3] = ["0x10de", "0x1002", "0x8086"];

pub(super) fn read(root: &Path) -> Topology {
    let sys = Sys { root };
    Topology { nodes: sys.nodes(), nics: sys.nics(), gpus: sys.gpus(), drives: sys.drives() }
}

struct Sys<'a> {
    root: &'a Path,
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    text(path)?.parse().ok()
}

/// Names in a directory, sorted as people count: `mlx5_2` before `mlx5_10`.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let key = |name: &String| {
        let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let (word, digits) = name.split_at(name.len() - digits);
        (word.to_owned(), digits.parse::<u64>().unwrap_or(0), name.clone())
    };
    names.sort_by_key(key);
    names
}

/// `0-3,8` as numbers. What is no list is none.
pub(super) fn list(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse::<usize>().ok()?.min(65_535))
    };
    text.split(',').filter_map(range).flatten().collect()
}

impl Sys<'_> {
    fn path(&self, below: &str) -> PathBuf {
        self.root.join("sys").join(below)
    }

    fn nodes(&self) -> Vec<NumaNode> {
        let dir = self.path("devices/system/node");
        let ids: Vec<u32> =
            names(&dir).iter().filter_map(|name| name.strip_prefix("node").and_then(|id| id.parse().ok())).collect();
        let nodes: Vec<NumaNode> = ids.iter().map(|&id| node(&dir.join(format!("node{id}")), id, &ids)).collect();
        if !nodes.is_empty() {
            return nodes;
        }
        // A kernel without NUMA: one node with all there is.
        let cpus = text(&self.path("devices/system/cpu/online")).map(|text| list(&text)).unwrap_or_default();
        let memory = memory_of(&self.root.join("proc/meminfo"), "MemTotal:");
        vec![NumaNode { id: 0, cpus, memory, distances: vec![(0, 10)] }]
    }

    fn nics(&self) -> Vec<Nic> {
        let dir = self.path("class/infiniband");
        let mut nics: Vec<Nic> = names(&dir).into_iter().map(|name| self.rdma_nic(&dir.join(&name), name)).collect();
        let net = self.path("class/net");
        for name in names(&net) {
            let dir = net.join(&name);
            let is_known = nics.iter().any(|nic| nic.interface.as_ref() == Some(&name));
            // Without a device it is made of software: loopback, a bridge, a tunnel.
            if is_known || !dir.join("device").exists() {
                continue;
            }
            let (gbps, is_up, mtu) = interface(&dir);
            nics.push(Nic {
                slot: self.slot(&dir.join("device")),
                interface: Some(name.clone()),
                name,
                mtu,
                gbps,
                is_up,
                rdma: None,
            });
        }
        nics
    }

    fn rdma_nic(&self, dir: &Path, name: String) -> Nic {
        let port = dir.join("ports/1");
        let gids = (0..GIDS_MAX).filter_map(|index| gid(&port, index)).collect();
        let of_gid = || (0..GIDS_MAX).find_map(|at| text(&port.join(format!("gid_attrs/ndevs/{at}"))));
        // Devices of software name the interface below them; others have it beside them.
        let beside = || names(&dir.join("device/net")).into_iter().next();
        let interface_name = of_gid().or_else(|| text(&dir.join("parent"))).or_else(beside);
        let below = interface_name.as_ref().map(|name| self.path("class/net").join(name));
        let (speed, is_above_up, mtu) = below.as_deref().map_or((0, true, None), interface);
        // `4: ACTIVE`
        let state = text(&port.join("state")).unwrap_or_default();
        let state = state.split_once(": ").map_or(state.as_str(), |(_, word)| word).to_owned();
        // `200 Gb/sec (4X HDR)`
        let rate = text(&port.join("rate")).unwrap_or_default();
        let rate = rate.split([' ', '.']).next().and_then(|rate| rate.parse::<u32>().ok()).unwrap_or(0);
        let is_active = state == "ACTIVE";
        let device = dir.join("device");
        let slot = match &below {
            _ if device.exists() => self.slot(&device),
            Some(below) => self.slot(&below.join("device")),
            None => Slot::default(),
        };
        let link_layer = text(&port.join("link_layer")).unwrap_or_default();
        Nic {
            name,
            interface: interface_name,
            mtu,
            slot,
            gbps: if rate > 0 { rate } else { speed },
            is_up: is_active && is_above_up,
            rdma: Some(RdmaPort { is_active, state, link_layer, gids }),
        }
    }

    fn gpus(&self) -> Vec<Gpu> {
        let dir = self.path("bus/pci/devices");
        let computes = |at: &Path| {
            let class = text(&at.join("class")).unwrap_or_default();
            let vendor = text(&at.join("vendor")).unwrap_or_default();
            CLASSES.iter().any(|known| class.starts_with(known))
                || (class.starts_with(CLASS_VGA) && VENDORS.contains(&vendor.as_str()))
        };
        let mut gpus: Vec<Gpu> = names(&dir)
            .into_iter()
            .filter(|name| computes(&dir.join(name)))
            .map(|name| {
                let at = dir.join(&name);
                let id = |file: &str| text(&at.join(file)).unwrap_or_default().trim_start_matches("0x").to_owned();
                Gpu { model: format!("{}:{}", id("vendor"), id("device")), slot: self.slot(&at), name }
            })
            .collect();
        gpus.sort_by(|a, b| a.name.cmp(&b.name));
        gpus
    }

    fn drives(&self) -> Vec<Drive> {
        let dir = self.path("class/nvme");
        let drive = |name: String| {
            let at = dir.join(&name);
            let said = |file: &str| text(&at.join(file)).unwrap_or_default();
            Drive {
                transport: said("transport"),
                state: said("state"),
                model: said("model"),
                address: said("address"),
                slot: self.slot(&at.join("device")),
                name,
            }
        };
        names(&dir).into_iter().map(drive).collect()
    }

    /// Where a device is, by its place in the tree of devices.
    fn slot(&self, device: &Path) -> Slot {
        let Ok(at) = device.canonicalize() else { return Slot::default() };
        // A device of a bus within (virtio, NVMe) lies below the function that has a node.
        let numa = at.ancestors().find_map(|dir| number::<i64>(&dir.join("numa_node")));
        Slot { pci: PciPath::of(&at.to_string_lossy()), numa: numa.and_then(|id| u32::try_from(id).ok()) }
    }
}

fn node(dir: &Path, id: u32, ids: &[u32]) -> NumaNode {
    let distances = text(&dir.join("distance")).unwrap_or_default();
    let distances = distances.split_whitespace().filter_map(|word| word.parse().ok());
    NumaNode {
        id,
        cpus: text(&dir.join("cpulist")).map(|text| list(&text)).unwrap_or_default(),
        memory: memory_of(&dir.join("meminfo"), "MemTotal:"),
        distances: ids.iter().copied().zip(distances).collect(),
    }
}

/// A line of a `meminfo`, in bytes; 0 if there is none.
fn memory_of(path: &Path, name: &str) -> u64 {
    let text = text(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.split_once(name));
    let kib = line.and_then(|(_, rest)| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Gbit/s, whether it is up, and its longest packet.
fn interface(dir: &Path) -> (u32, bool, Option<u32>) {
    // Some drivers answer -1 where they do not know.
    let mbps = number::<i64>(&dir.join("speed")).and_then(|mbps| u32::try_from(mbps).ok()).unwrap_or(0);
    // Interfaces of software have no carrier to speak of, and say `unknown`.
    let is_up = text(&dir.join("operstate")).is_none_or(|state| state == "up" || state == "unknown");
    (mbps.div_ceil(1000), is_up, number(&dir.join("mtu")))
}

fn gid(port: &Path, index: u8) -> Option<GidEntry> {
    let gid = text(&port.join(format!("gids/{index}")))?;
    let is_set = gid.bytes().any(|byte| byte != b'0' && byte != b':');
    // An entry that is empty has no type to read.
    let kind = text(&port.join(format!("gid_attrs/types/{index}"))).filter(|_| is_set)?;
    Some(GidEntry { index, gid, kind })
}
