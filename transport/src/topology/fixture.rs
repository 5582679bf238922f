//! Machines as their `/sys` shows them: trees of files and links, made by a few words each.
//!
//! The layouts follow what `lspci -tv` and `nvidia-smi topo -m` print of such machines.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub(super) struct Machine {
    dir: TempDir,
}

impl Machine {
    pub(super) fn new() -> Self {
        Self { dir: TempDir::with_prefix("mooncake-topology-").expect("a directory") }
    }

    pub(super) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        fs::write(path, format!("{text}\n")).expect("written");
    }

    fn link(&self, path: &str, to: &Path) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        symlink(to, path).expect("linked");
    }

    /// Nodes of 64 GiB each, with these processors.
    pub(super) fn nodes(&self, cpus: &[&str], distances: &[&str]) {
        for (id, (cpus, distances)) in cpus.iter().zip(distances).enumerate() {
            let dir = format!("sys/devices/system/node/node{id}");
            self.write(&format!("{dir}/cpulist"), cpus);
            self.write(&format!("{dir}/distance"), distances);
            self.write(&format!("{dir}/meminfo"), &format!("Node {id} MemTotal:       67108864 kB"));
        }
        // Files beside the nodes are no nodes.
        self.write("sys/devices/system/node/online", "0-1");
    }

    /// A function on the bus. `way` is from its host bridge on: `pci0000:00/0000:00:01.0/0000:01:00.0`.
    pub(super) fn function(&self, way: &str, numa: i32, id: [&str; 3]) -> PathBuf {
        let below = format!("sys/devices/{way}");
        let [class, vendor, device] = id;
        for (name, text) in
            [("numa_node", numa.to_string().as_str()), ("class", class), ("vendor", vendor), ("device", device)]
        {
            self.write(&format!("{below}/{name}"), text);
        }
        let at = self.dir.path().join(&below);
        let address = way.rsplit('/').next().expect("a way has an end");
        self.link(&format!("sys/bus/pci/devices/{address}"), &at);
        at
    }

    pub(super) fn interface(&self, name: &str, device: Option<&Path>, gbps: u32, state: &str) {
        let below = format!("sys/class/net/{name}");
        self.write(&format!("{below}/speed"), &if gbps == 0 { "-1".to_owned() } else { (gbps * 1000).to_string() });
        self.write(&format!("{below}/operstate"), state);
        self.write(&format!("{below}/mtu"), "4200");
        if let Some(device) = device {
            self.link(&format!("{below}/device"), device);
        }
    }

    /// An RDMA device on a function of its own, or on an interface if it is made of software.
    pub(super) fn rdma(&self, name: &str, device: Option<&Path>, interface: Option<&str>, gbps: u32, state: &str) {
        let below = format!("sys/class/infiniband/{name}");
        let port = format!("{below}/ports/1");
        self.write(&format!("{port}/state"), state);
        self.write(&format!("{port}/rate"), &format!("{gbps} Gb/sec (4X NDR)"));
        let is_ethernet = interface.is_some();
        self.write(&format!("{port}/link_layer"), if is_ethernet { "Ethernet" } else { "InfiniBand" });
        self.write(&format!("{port}/gids/0"), "fe80:0000:0000:0000:0000:00ff:fe00:0001");
        self.write(&format!("{port}/gid_attrs/types/0"), if is_ethernet { "RoCE v2" } else { "IB/RoCE v1" });
        self.write(&format!("{port}/gids/1"), "0000:0000:0000:0000:0000:0000:0000:0000");
        if let Some(interface) = interface {
            self.write(&format!("{port}/gid_attrs/ndevs/0"), interface);
        }
        if let Some(device) = device {
            self.link(&format!("{below}/device"), device);
        }
    }

    /// An adapter on a function: RDMA device and interface.
    pub(super) fn adapter(&self, way: &str, numa: i32, name: &str, interface: &str, gbps: u32) {
        let at = self.function(way, numa, ["0x020000", "0x15b3", "0x1021"]);
        self.interface(interface, Some(&at), gbps, "up");
        self.rdma(name, Some(&at), Some(interface), gbps, "4: ACTIVE");
    }

    pub(super) fn gpu(&self, way: &str, numa: i32) {
        self.function(way, numa, ["0x030200", "0x10de", "0x2330"]);
    }

    /// One processor, one ConnectX of 25 Gbit/s on a port of its own, one drive.
    pub(super) fn one_nic() -> Self {
        let machine = Self::new();
        machine.nodes(&["0-15"], &["10"]);
        machine.adapter("pci0000:00/0000:00:01.0/0000:01:00.0", 0, "mlx5_0", "ens1f0np0", 25);
        let drive = machine.function("pci0000:00/0000:00:02.0/0000:02:00.0", 0, ["0x010802", "0x144d", "0xa80a"]);
        let below = "sys/class/nvme/nvme0";
        for (name, text) in
            [("transport", "pcie"), ("state", "live"), ("model", "A drive"), ("address", "0000:02:00.0")]
        {
            machine.write(&format!("{below}/{name}"), text);
        }
        machine.link(&format!("{below}/device"), &drive);
        // A BMC's screen computes nothing, and loopback goes nowhere.
        machine.function("pci0000:00/0000:00:03.0", 0, ["0x030000", "0x1a03", "0x2000"]);
        machine.interface("lo", None, 0, "unknown");
        machine
    }

    /// Two processors, four adapters on host bridges of each.
    pub(super) fn eight_nics() -> Self {
        let machine = Self::new();
        machine.nodes(&["0-31,64-95", "32-63,96-127"], &["10 21", "21 10"]);
        for number in 0..8u32 {
            let (node, bus) = (number / 4, 0x10 + number * 0x10);
            let way = format!("pci0000:{bus:02x}/0000:{bus:02x}:01.0/0000:{:02x}:00.0", bus + 1);
            machine.adapter(
                &way,
                i32::try_from(node).expect("small"),
                &format!("mlx5_{number}"),
                &format!("eth{number}"),
                100,
            );
        }
        machine
    }

    /// A box of eight GPUs, each with an adapter of 400 Gbit/s of InfiniBand below a switch of their own, and an
    /// Ethernet adapter of 100 Gbit/s for storage at each processor.
    pub(super) fn gpu_box() -> Self {
        let machine = Self::new();
        machine.nodes(&["0-55", "56-111"], &["10 21", "21 10"]);
        for number in 0..8u32 {
            let (node, bus) = (i32::try_from(number / 4).expect("small"), 0x10 + number * 0x10);
            let switch = format!("pci0000:{bus:02x}/0000:{bus:02x}:01.0/0000:{:02x}:00.0", bus + 1);
            let below =
                |port: u32| format!("{switch}/0000:{:02x}:{:02x}.0/0000:{:02x}:00.0", bus + 2, port, bus + 3 + port);
            let at = machine.function(&below(0), node, ["0x020700", "0x15b3", "0x1021"]);
            machine.rdma(&format!("mlx5_{number}"), Some(&at), None, 400, "4: ACTIVE");
            machine.gpu(&below(1), node);
        }
        for (number, node) in [(8, 0), (9, 1)] {
            let way = format!(
                "pci0000:{:02x}/0000:{:02x}:01.0/0000:{:02x}:00.0",
                0xa0 + number,
                0xa0 + number,
                0xc0 + number
            );
            machine.adapter(&way, node, &format!("mlx5_{number}"), &format!("ens{number}"), 100);
        }
        machine
    }
}
