//! Which adapters are best for memory of a node.
//!
//! Invariants:
//! - An adapter that is down is not ranked. One of which nobody knows the node counts as a node away, one whose rate nobody
//!   knows as the slowest: what is known is preferred.

use super::Topology;

/// Distance of a node to itself, by which others are measured (ACPI, System Locality Information Table).
const LOCAL: u32 = 10;
/// Distance to a node where the firmware says none.
const REMOTE: u32 = 20;
/// Points of an adapter of 1 Gbit/s on the memory's own node.
const POINTS: u64 = 1_000;

/// An adapter's place in the ranking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranked {
    /// Its place in [`Topology::nics`].
    pub nic: usize,
    /// Higher is better: bandwidth, divided by how many times farther than its own node's memory this is.
    pub score: u64,
}

/// Adapters for memory on `node` (or anywhere), best first; equals by their order in the topology.
pub fn rank(topology: &Topology, node: Option<u32>) -> Vec<Ranked> {
    let mut ranked: Vec<Ranked> = (0..)
        .zip(&topology.nics)
        .filter(|(_, nic)| nic.is_up)
        .map(|(at, nic)| {
            let distance = match (node, nic.slot.numa) {
                (None, _) => LOCAL,
                (Some(a), Some(b)) if a == b => LOCAL,
                (Some(_), None) if topology.nodes.len() <= 1 => LOCAL,
                (Some(_), None) => REMOTE,
                (Some(a), Some(b)) => topology.numa_distance(a, b).unwrap_or(REMOTE).max(LOCAL),
            };
            let score = u64::from(nic.gbps.max(1)) * POINTS * u64::from(LOCAL) / u64::from(distance);
            Ranked { nic: at, score }
        })
        .collect();
    ranked.sort_by_key(|ranked| std::cmp::Reverse(ranked.score));
    ranked
}
