//! Which RDMA device is used, and by which address.
//!
//! Role: discovery, by the `ibverbs` crate; then one open device with its domain, port, address and limits.
//!
//! Invariants:
//! - A machine without RDMA is an ordinary answer, in one line that says what is missing.

use super::verbs::{Context, Domain, Endpoint, Limits, PathTerms, Port, QueuePair};
use ibverbs_sys as sys;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Reads under way at once on one queue pair: enough for any wire, few enough for any device.
const READS_MAX: u8 = 16;

/// Why there is no RDMA here.
#[derive(Debug, thiserror::Error)]
pub enum NoRdma {
    /// libibverbs is missing.
    #[error("no RDMA: {0}")]
    Library(&'static str),
    /// The kernel has no RDMA, or no device.
    #[error("no RDMA: the kernel has no RDMA device (`ibv_devinfo` shows them; /dev/infiniband must be there)")]
    NoDevice,
    /// The device asked for is not among them.
    #[error("no RDMA: there is no device `{wanted}`, there are: {there}")]
    NotThere {
        /// What was asked for.
        wanted: String,
        /// Names of those that are there.
        there: String,
    },
    /// A device is there and cannot be used.
    #[error("no RDMA: device {name}: {what}: {source}")]
    Unusable {
        /// Its name.
        name: String,
        /// What was tried.
        what: &'static str,
        /// The answer.
        source: io::Error,
    },
    /// A device has no address.
    #[error("no RDMA: device {name} has no usable GID: give its network interface an address")]
    NoAddress {
        /// Its name.
        name: String,
    },
}

/// An address of a port, as its table has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gid {
    /// The address.
    pub raw: [u8; 16],
    /// Its place in the table.
    pub index: u8,
    /// How packets are wrapped: `ibv_gid_type`.
    pub kind: u32,
}

impl Gid {
    /// The IP address that it stands for, if it is one of RoCE v2.
    pub fn ip(&self) -> Option<IpAddr> {
        (self.kind == sys::IBV_GID_TYPE_ROCE_V2).then(|| Ipv6Addr::from(self.raw).to_canonical())
    }

    /// Higher is better: what routers forward and people configure first.
    fn rank(&self) -> u8 {
        let link_local = self.raw[0] == 0xfe && self.raw[1] & 0xc0 == 0x80;
        match (self.kind, self.ip()) {
            (sys::IBV_GID_TYPE_ROCE_V2, Some(IpAddr::V4(_))) => 4,
            (sys::IBV_GID_TYPE_ROCE_V2, _) if !link_local => 3,
            (sys::IBV_GID_TYPE_IB, _) => 2,
            (sys::IBV_GID_TYPE_ROCE_V2, _) => 1,
            (_, _) => 0,
        }
    }
}

/// The address to use: RoCE v2 over IPv4, over IPv6, InfiniBand, link-local, RoCE v1, in this order; the first of equals.
pub fn choose_gid(table: &[Gid]) -> Option<Gid> {
    let best = table.iter().map(Gid::rank).max()?;
    table.iter().find(|gid| gid.rank() == best && gid.raw != [0; 16]).copied()
}

/// What is to be used.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// Name of the device; else the first that can be used.
    pub device: Option<String>,
    /// Place of the address in the port's table; else the best.
    pub gid_index: Option<u8>,
}

/// An open device and what it is used by.
#[derive(Debug)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// The domain that all of it is in.
    pub domain: Arc<Domain>,
    /// The open device.
    pub context: Arc<Context>,
    /// Its port.
    pub port: Port,
    /// Its address.
    pub gid: Gid,
    /// What it can hold.
    pub limits: Limits,
}

impl Device {
    /// Opens the device that was chosen.
    ///
    /// # Errors
    /// Why there is none.
    pub fn open(choice: &Choice) -> Result<Arc<Self>, NoRdma> {
        if let Some(missing) = sys::missing() {
            return Err(NoRdma::Library(missing));
        }
        let list = ibverbs::devices().map_err(|_| NoRdma::NoDevice)?;
        let mut names = Vec::new();
        let mut last = NoRdma::NoDevice;
        for device in &list {
            let name = device.name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            names.push(name.clone());
            if choice.device.as_ref().is_some_and(|wanted| *wanted != name) {
                continue;
            }
            let opened = device
                .open()
                .map_err(|source| NoRdma::Unusable { name: name.clone(), what: "open it", source })
                .and_then(|seen| Self::of(name, seen.gid_table(), choice.gid_index));
            match opened {
                Ok(device) => return Ok(Arc::new(device)),
                Err(error) => last = error,
            }
        }
        match (&choice.device, last) {
            (Some(wanted), NoRdma::NoDevice) if !names.is_empty() => {
                Err(NoRdma::NotThere { wanted: wanted.clone(), there: names.join(", ") })
            }
            (_, last) => Err(last),
        }
    }

    fn of(name: String, table: &[ibverbs::GidEntry], wanted: Option<u8>) -> Result<Self, NoRdma> {
        let unusable = |what| {
            let name = name.clone();
            move |source| NoRdma::Unusable { name, what, source }
        };
        let context = Context::open(&name).map_err(unusable("open it"))?;
        let limits = context.limits().map_err(unusable("ask for its limits"))?;
        let port = context.port(1).map_err(unusable("ask for its port"))?;
        let table: Vec<Gid> = table.iter().filter(|entry| entry.port_num == 1).filter_map(gid_of).collect();
        let chosen = match wanted {
            Some(index) => table.iter().find(|gid| gid.index == index).copied(),
            None => choose_gid(&table),
        };
        let gid = chosen.ok_or_else(|| NoRdma::NoAddress { name: name.clone() })?;
        let domain = Domain::new(&context).map_err(unusable("make a protection domain"))?;
        Ok(Self { name, domain, context, port, gid, limits })
    }

    /// How packets leave it.
    pub fn path(&self) -> PathTerms {
        PathTerms {
            port: self.port,
            gid_index: self.gid.index,
            reads_out: self.limits.reads_out_max.min(READS_MAX),
            reads_in: self.limits.reads_in_max.min(READS_MAX),
        }
    }

    /// A queue pair of this device as its peer must know it.
    pub fn endpoint(&self, queue: &QueuePair) -> Endpoint {
        Endpoint {
            qpn: queue.number(),
            psn: queue.psn(),
            gid: self.gid.raw,
            lid: self.port.lid,
            mtu: self.port.mtu,
            reads: self.path().reads_in,
        }
    }
}

fn gid_of(entry: &ibverbs::GidEntry) -> Option<Gid> {
    let mut raw = [0; 16];
    raw[..8].copy_from_slice(&entry.gid.subnet_prefix().to_be_bytes());
    raw[8..].copy_from_slice(&entry.gid.interface_id().to_be_bytes());
    Some(Gid { raw, index: u8::try_from(entry.gid_index).ok()?, kind: entry.gid_type })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gid(text: &str, index: u8, kind: u32) -> Gid {
        Gid { raw: text.parse::<Ipv6Addr>().expect("an address").octets(), index, kind }
    }

    #[test]
    fn the_address_is_the_one_that_routers_forward() {
        let table = [
            gid("fe80::1", 0, sys::IBV_GID_TYPE_ROCE_V1),
            gid("fe80::1", 1, sys::IBV_GID_TYPE_ROCE_V2),
            gid("::ffff:10.0.0.1", 2, sys::IBV_GID_TYPE_ROCE_V1),
            gid("::ffff:10.0.0.1", 3, sys::IBV_GID_TYPE_ROCE_V2),
            gid("2001:db8::1", 4, sys::IBV_GID_TYPE_ROCE_V2),
            gid("::ffff:10.0.0.2", 5, sys::IBV_GID_TYPE_ROCE_V2),
        ];
        let chosen = |table: &[Gid]| choose_gid(table).map(|gid| gid.index);
        assert_eq!(chosen(&table), Some(3), "RoCE v2 over IPv4, the first");
        assert_eq!(chosen(&[table[0], table[1], table[4]]), Some(4), "then over IPv6");
        assert_eq!(chosen(&table[..3]), Some(1), "then link-local, before RoCE v1");
        assert_eq!(
            chosen(&[gid("fe80::2", 0, sys::IBV_GID_TYPE_IB), table[1]]),
            Some(0),
            "InfiniBand has one of its own"
        );
        assert_eq!(chosen(&[]), None);
        assert_eq!(table[3].ip(), Some("10.0.0.1".parse().expect("an address")));
        assert_eq!(table[2].ip(), None);
    }

    #[test]
    fn a_machine_without_rdma_says_what_it_lacks_in_one_line() {
        match Device::open(&Choice::default()) {
            Ok(device) => eprintln!("there is {}: nothing to be said", device.name),
            Err(error) => {
                let text = error.to_string();
                assert!(text.starts_with("no RDMA: ") && !text.contains('\n'), "{text}");
            }
        }
    }
}
