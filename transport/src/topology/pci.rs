//! Ways through PCI Express, and how long they are.

use std::fmt;

/// How far two devices are, nearest first. The words in [`word`](Self::word) are those of `nvidia-smi topo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Distance {
    /// The same device.
    Same,
    /// One bridge between them at most: they share a switch, or are functions of one card.
    Switch,
    /// Several bridges, below one port of the processor.
    Switches,
    /// Through the processor's host bridge.
    HostBridge,
    /// Between host bridges of one NUMA node.
    Node,
    /// Between NUMA nodes.
    System,
}

impl Distance {
    /// As people who tune such machines know it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Same => "X",
            Self::Switch => "PIX",
            Self::Switches => "PXB",
            Self::HostBridge => "PHB",
            Self::Node => "NODE",
            Self::System => "SYS",
        }
    }
}

/// A device's way from its host bridge: the bridge (`pci0000:00`), then one address for each bridge down to the device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PciPath(Vec<String>);

/// Whether this is the name of a function: `0000:3b:00.1`.
fn is_function(name: &str) -> bool {
    let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut parts = name.split([':', '.']);
    let lengths = [4..=8, 2..=2, 2..=2, 1..=1];
    let all = lengths.iter().all(|range| parts.next().is_some_and(|part| is_hex(part) && range.contains(&part.len())));
    all && parts.next().is_none()
}

impl PciPath {
    /// Takes the way out of a device's path in sysfs; empty if it is on no PCI bus.
    pub fn of(sysfs: &str) -> Self {
        let mut names = sysfs.split('/').skip_while(|name| !(name.starts_with("pci") && name.contains(':')));
        let Some(bridge) = names.next() else { return Self::default() };
        let functions = names.take_while(|name| is_function(name)).map(str::to_owned);
        Self(std::iter::once(bridge.to_owned()).chain(functions).collect())
    }

    /// The device's address, if it is on a PCI bus.
    pub fn address(&self) -> Option<&str> {
        self.0.last().filter(|_| self.0.len() > 1).map(String::as_str)
    }

    /// How far another device is; `None` if that is not a matter of this bus: another host bridge, or no PCI at all.
    pub fn distance(&self, other: &Self) -> Option<Distance> {
        let (Some(_), Some(_)) = (self.address(), other.address()) else { return None };
        let shared = self.0.iter().zip(&other.0).take_while(|(a, b)| a == b).count();
        if shared == 0 {
            return None;
        }
        if shared == self.0.len() && shared == other.0.len() {
            return Some(Distance::Same);
        }
        if shared == 1 {
            // Functions of one card that sits on the host bridge itself never leave it.
            let card = |path: &Self| path.0[1].rsplit_once('.').map(|(card, _)| card.to_owned());
            let is_one_card = self.0.len() == 2 && other.0.len() == 2 && card(self) == card(other);
            return Some(if is_one_card { Distance::Switch } else { Distance::HostBridge });
        }
        // Below a shared bridge: a switch has one bridge for each of its ports.
        let below = self.0.len().max(other.0.len()) - shared;
        Some(if below <= 2 { Distance::Switch } else { Distance::Switches })
    }
}

impl fmt::Display for PciPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_is_what_lies_between_the_bridge_and_the_device() {
        let path = PciPath::of("/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/infiniband/mlx5_0");
        assert_eq!(path.to_string(), "pci0000:00/0000:00:01.0/0000:01:00.0");
        assert_eq!(path.address(), Some("0000:01:00.0"));
        assert_eq!(
            PciPath::of("/sys/devices/pci0000:00/0000:00:04.0/virtio1/net/eth0").address(),
            Some("0000:00:04.0")
        );
        assert_eq!(PciPath::of("/sys/devices/pci10000:e0/10000:e0:00.0/nvme/nvme0").address(), Some("10000:e0:00.0"));
        assert_eq!(PciPath::of("/sys/devices/virtual/net/dummy0"), PciPath::default());
        assert_eq!(PciPath::of("").address(), None);
    }

    #[test]
    fn distances_are_those_of_nvidia_smi() {
        let check = |a: &str, b: &str, wanted| {
            let (a, b) = (PciPath::of(a), PciPath::of(b));
            assert_eq!((a.distance(&b), b.distance(&a)), (wanted, wanted), "{a} and {b}");
        };
        let port = "pci0000:00/0000:00:01.0";
        let switch = format!("{port}/0000:01:00.0");
        check(
            &format!("{switch}/0000:02:00.0/0000:03:00.0"),
            &format!("{switch}/0000:02:00.0/0000:03:00.0"),
            Some(Distance::Same),
        );
        check(&format!("{port}/0000:01:00.0"), &format!("{port}/0000:01:00.1"), Some(Distance::Switch));
        check("pci0000:00/0000:00:04.0", "pci0000:00/0000:00:04.1", Some(Distance::Switch));
        check(
            &format!("{switch}/0000:02:00.0/0000:03:00.0"),
            &format!("{switch}/0000:02:04.0/0000:05:00.0"),
            Some(Distance::Switch),
        );
        check(
            &format!("{switch}/0000:02:00.0/0000:03:00.0/0000:04:00.0/0000:05:00.0"),
            &format!("{switch}/0000:02:04.0/0000:09:00.0"),
            Some(Distance::Switches),
        );
        check(&format!("{port}/0000:01:00.0"), "pci0000:00/0000:00:03.0/0000:0a:00.0", Some(Distance::HostBridge));
        check(&format!("{port}/0000:01:00.0"), "pci0000:80/0000:80:01.0/0000:81:00.0", None);
        check(&format!("{port}/0000:01:00.0"), "virtual/net/lo", None);
    }
}
