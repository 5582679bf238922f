//! What a server says of its memory and of what it lent, and what the kernel says of its process.

use crate::raw::Raw;
use crate::server::Server;
use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

/// Bytes by state and things lent, from `INFO`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Bytes that are in some slot or page.
    pub used: u64,
    /// Bytes of published objects.
    pub live: u64,
    /// Bytes granted or being filled.
    pub reserved: u64,
    /// Bytes being checked.
    pub sealing: u64,
    /// Bytes unlinked, with readers.
    pub doomed: u64,
    /// Bytes given up, with writers.
    pub quarantine: u64,
    /// Bytes of pages in no slot.
    pub slab_free: u64,
    /// Leases held.
    pub leases: u64,
    /// Grants held.
    pub grants: u64,
    /// Connections.
    pub clients: u64,
    /// Bulk sessions.
    pub bulk: u64,
}

impl Memory {
    /// Asks for it.
    ///
    /// # Errors
    /// As the connection fails, and `InvalidData` if a field is missing.
    pub fn ask(raw: &mut Raw) -> io::Result<Self> {
        let info = raw.try_ask(&["INFO", "tiers", "leases", "clients"])?;
        let text = info.text();
        let number = |name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.parse().ok());
            found.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{name} in {text}")))
        };
        let tier = text.lines().find_map(|line| line.strip_prefix("tier_dram:")).unwrap_or_default();
        let used = tier.split(',').find_map(|part| part.strip_prefix("used=")?.parse().ok());
        Ok(Self {
            used: used.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, tier.to_owned()))?,
            live: number("bytes_live")?,
            reserved: number("bytes_reserved")?,
            sealing: number("bytes_sealing")?,
            doomed: number("bytes_doomed")?,
            quarantine: number("bytes_quarantine")?,
            slab_free: number("bytes_slab_free")?,
            leases: number("leases")?,
            grants: number("grants")?,
            clients: number("connected_clients")?,
            bulk: number("sessions_bulk_tcp")?,
        })
    }

    /// Whether nobody holds anything.
    pub fn is_quiet(&self) -> bool {
        self.reserved + self.sealing + self.doomed + self.quarantine + self.leases + self.grants == 0
    }

    /// Whether the states sum up to what is used. True at a quiet moment.
    pub fn sums_up(&self) -> bool {
        self.live + self.slab_free + self.reserved + self.sealing + self.doomed + self.quarantine == self.used
    }
}

/// The server's memory now.
///
/// # Panics
/// If it does not answer.
pub fn memory(server: &Server) -> Memory {
    Memory::ask(&mut Raw::to(server)).expect("INFO is answered")
}

/// Waits until nobody holds anything, and returns how long that took.
///
/// # Panics
/// If it takes longer than `limit`.
pub fn quiet_within(server: &Server, limit: Duration) -> Duration {
    let start = Instant::now();
    let mut raw = Raw::to(server);
    loop {
        let memory = Memory::ask(&mut raw).expect("INFO is answered");
        if memory.is_quiet() && memory.sums_up() {
            return start.elapsed();
        }
        assert!(start.elapsed() < limit, "after {limit:?} something is still held: {memory:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until this connection is the only one, and returns the descriptors that the server has then.
///
/// # Panics
/// If it does not become so.
pub fn alone(server: &Server, raw: &mut Raw) -> BTreeMap<String, usize> {
    crate::server::until("all others are gone", Duration::from_secs(2), || {
        let memory = Memory::ask(raw).expect("INFO is answered");
        memory.clients == 1 && memory.bulk == 0 && client_mappings(server.pid()).expect("it runs") == 0
    });
    descriptors(server.pid()).expect("it runs")
}

/// Descriptors of a process by what they are, less those that a worker keeps once it has served a large value.
///
/// # Errors
/// If there is no such process.
///
/// # Panics
/// If its start does not end.
pub fn descriptors(pid: u32) -> io::Result<BTreeMap<String, usize>> {
    // Who looks at the machine after a start tries io_uring, which is a descriptor for a moment.
    let starts = || threads(pid).is_ok_and(|names| names.iter().any(|name| name == "doctor" || name == "recover"));
    crate::server::until("the start is over", Duration::from_secs(10), || !starts());
    let mut kinds = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        // One that is closed meanwhile has no target.
        let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
        let target = target.to_string_lossy();
        // `socket:[123]` and the like: the number says nothing.
        let kind = if target.starts_with('/') { &*target } else { target.split(":[").next().unwrap_or_default() };
        if kind != "pipe" && !kind.contains("mooncake-headings") {
            *kinds.entry(kind.to_owned()).or_default() += 1;
        }
    }
    Ok(kinds)
}

/// The names of a process's threads. A new one has that of who made it until it runs.
fn threads(pid: u32) -> io::Result<Vec<String>> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))?;
    // One that ends meanwhile has no name.
    Ok(tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim_end().to_owned())
        .collect())
}

/// Mappings of a process that are clients' memory or rings.
///
/// # Errors
/// If there is no such process.
pub fn client_mappings(pid: u32) -> io::Result<usize> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    Ok(maps
        .lines()
        .filter(|line| line.contains("memfd:mooncake-client") || line.contains("memfd:mooncake-ring"))
        .count())
}

/// Bytes of a process that are in memory and nobody else's: segments, which are shared, do not count.
///
/// # Errors
/// If there is no such process.
pub fn private_bytes(pid: u32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let anonymous =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
    anonymous.map(|kib: u64| kib * 1024).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Processor time that a process has used, in clock ticks.
///
/// # Errors
/// If there is no such process.
pub fn cpu_ticks(pid: u32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name and may hold anything.
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').skip(11);
    Ok(fields.take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum())
}
