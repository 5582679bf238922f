//! This node's place in its machine: which NUMA node each segment is to lie on, and which adapter is nearest to them.
//!
//! Role: reads the machine's topology at the start, as `topology` corrects it; deals the segments to the nodes; says who touches
//! their pages first, and in which order RDMA devices are tried.
//!
//! Invariants:
//! - A page lies on the node of the processor that touches it first, so a segment is touched by processors of its own node. That is a
//!   preference: a request that comes before may touch a page elsewhere, which costs time and nothing else.
//! - On a machine with one node nobody is bound to any processor.

use crate::config::Config;
use anyhow::bail;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::path::Path;
use transport::rdma::{Choice, Device, NoRdma};
use transport::topology::{Nic, Placement, Topology, rank};

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Locality {
    pub(crate) topology: Topology,
    placement: Placement,
    segments: usize,
}

/// Threads that touch the pages of some segments together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Toucher {
    /// Processors that it is to run on; empty for any.
    cpus: Vec<usize>,
    /// Segments that it touches a part of.
    pub(crate) segments: Vec<usize>,
    /// Which part, of how many.
    pub(crate) part: usize,
    pub(crate) parts: usize,
}

/// Processors that this process may run on; empty where nobody says.
fn usable_cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

impl Locality {
    /// Reads the machine below `root`.
    ///
    /// # Errors
    /// If `topology` names an adapter that is not there.
    pub(crate) fn read(root: &Path, config: &Config) -> anyhow::Result<Self> {
        let mut topology = Topology::read(root);
        for (name, place) in config.topology.iter() {
            if !topology.override_nic(name, place.numa, place.gbps) {
                let there: Vec<&str> = topology.nics.iter().map(|nic| nic.name.as_str()).collect();
                bail!("`topology` names the adapter {name}, which is not there; there are: {}", there.join(", "));
            }
        }
        Ok(Self::of(topology, &usable_cpus(), config.segment_count()))
    }

    fn of(topology: Topology, cpus: &[usize], segments: usize) -> Self {
        let placement = Placement::of(&topology, cpus, segments);
        let mut topology = topology;
        // Where this process may not run, it is no use to bind a thread to.
        if !cpus.is_empty() {
            topology.nodes.iter_mut().for_each(|node| node.cpus.retain(|cpu| cpus.contains(cpu)));
        }
        Self { topology, placement, segments }
    }

    /// The node that a segment is to lie on, if the machine has any.
    pub(crate) fn node_of(&self, segment: usize) -> Option<u32> {
        self.placement.node(segment)
    }

    /// How many segments are to lie on a node.
    pub(crate) fn segments_on(&self, node: u32) -> usize {
        (0..self.segments).filter(|&at| self.node_of(at) == Some(node)).count()
    }

    /// Who touches what first, with about so many threads in all.
    pub(crate) fn touchers(&self, threads: usize) -> Vec<Toucher> {
        let threads = threads.max(1);
        let all: Vec<usize> = (0..self.segments).collect();
        let team = |cpus: &[usize], segments: &[usize], parts: usize| {
            let one = |part| Toucher { cpus: cpus.to_vec(), segments: segments.to_vec(), part, parts };
            (0..parts).map(one).collect::<Vec<_>>()
        };
        if self.placement.node_count() <= 1 {
            return team(&[], &all, threads);
        }
        let parts = (threads / self.placement.node_count()).max(1);
        let nodes = self.topology.nodes.iter().map(|node| {
            let own: Vec<usize> = all.iter().copied().filter(|&at| self.node_of(at) == Some(node.id)).collect();
            (node, own)
        });
        nodes.filter(|(_, own)| !own.is_empty()).flat_map(|(node, own)| team(&node.cpus, &own, parts)).collect()
    }

    /// How good an adapter is for the segments as they lie: the mean of its scores.
    pub(crate) fn score(&self, wanted: &Nic) -> u64 {
        let of_node = |node| {
            let ranked = rank(&self.topology, node);
            ranked
                .iter()
                .find(|ranked| self.topology.nics[ranked.nic].name == wanted.name)
                .map_or(0, |ranked| ranked.score)
        };
        if self.placement.node_count() == 0 {
            return of_node(None);
        }
        let segments: u64 = self.topology.nodes.iter().map(|node| self.segments_on(node.id) as u64).sum();
        let points: u64 =
            self.topology.nodes.iter().map(|node| of_node(Some(node.id)) * self.segments_on(node.id) as u64).sum();
        points / segments.max(1)
    }

    /// RDMA devices whose port is up, the best for the segments first; equals in the machine's order.
    fn rdma_devices(&self) -> Vec<&str> {
        let mut nics: Vec<&Nic> = self.topology.nics.iter().filter(|nic| nic.rdma.is_some() && nic.is_up).collect();
        nics.sort_by_key(|nic| std::cmp::Reverse(self.score(nic)));
        nics.into_iter().map(|nic| nic.name.as_str()).collect()
    }

    /// Opens the best RDMA device that can be used.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn open_best(&self) -> Result<std::sync::Arc<Device>, NoRdma> {
        let named = |name: &str| Choice { device: Some(name.to_owned()), gid_index: None };
        let opened = self.rdma_devices().into_iter().find_map(|name| Device::open(&named(name)).ok());
        // Without one, and where sysfs does not show what verbs do, the first that works; or why none does.
        opened.map_or_else(|| Device::open(&Choice::default()), Ok)
    }
}

impl Toucher {
    /// Binds the calling thread to its processors.
    pub(crate) fn settle(&self) {
        if self.cpus.is_empty() {
            return;
        }
        let mut set = CpuSet::new();
        self.cpus.iter().filter(|&&cpu| cpu < CpuSet::MAX_CPU).for_each(|&cpu| set.set(cpu));
        if let Err(error) = sched_setaffinity(None, &set) {
            tracing::warn!(%error, "a thread cannot be bound to its node: its segments may lie elsewhere");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transport::topology::{NumaNode, RdmaPort, Slot};

    fn nic(name: &str, numa: u32, gbps: u32, is_up: bool) -> Nic {
        let port = RdmaPort { is_active: is_up, state: String::new(), link_layer: String::new(), gids: Vec::new() };
        Nic {
            name: name.to_owned(),
            interface: None,
            mtu: None,
            slot: Slot { numa: Some(numa), ..Slot::default() },
            gbps,
            is_up,
            rdma: Some(port),
        }
    }

    fn two_sockets(memory: [u64; 2]) -> Topology {
        let node = |id: u32| NumaNode {
            id,
            cpus: (0..4).map(|cpu| cpu + id as usize * 4).collect(),
            memory: memory[id as usize],
            distances: vec![(0, if id == 0 { 10 } else { 20 }), (1, if id == 1 { 10 } else { 20 })],
        };
        let nics = vec![nic("a0", 0, 100, true), nic("a1", 1, 100, true), nic("a2", 1, 400, false)];
        Topology { nodes: vec![node(0), node(1)], nics, ..Topology::default() }
    }

    #[test]
    fn each_segment_is_touched_whole_by_processors_of_its_node() {
        let locality = Locality::of(two_sockets([64, 64]), &[], 6);
        for threads in [1, 2, 3, 8] {
            let touchers = locality.touchers(threads);
            for segment in 0..6 {
                let mine: Vec<&Toucher> = touchers.iter().filter(|it| it.segments.contains(&segment)).collect();
                let parts: Vec<usize> = mine.iter().map(|it| it.part).collect();
                assert_eq!(parts, (0..mine[0].parts).collect::<Vec<_>>(), "{threads} threads, segment {segment}");
                let node = locality.node_of(segment).expect("there are nodes");
                assert!(mine.iter().all(|it| it.cpus == locality.topology.nodes[node as usize].cpus));
            }
        }
        assert_eq!((locality.segments_on(0), locality.segments_on(1)), (3, 3));
    }

    #[test]
    fn on_one_node_nobody_is_bound() {
        let one = Locality::of(two_sockets([64, 64]), &[1, 2], 4);
        assert!((0..4).all(|segment| one.node_of(segment) == Some(0)), "only where this process may run");
        let touchers = one.touchers(3);
        assert_eq!(touchers.len(), 3);
        assert!(touchers.iter().all(|it| it.cpus.is_empty() && it.segments == [0, 1, 2, 3] && it.parts == 3));
    }

    #[test]
    fn the_device_beside_most_of_the_memory_is_tried_first() {
        let of = |memory| Locality::of(two_sockets(memory), &[], 4);
        assert_eq!(of([64, 64]).rdma_devices(), ["a0", "a1"], "equals in order, and none that is down");
        assert_eq!(of([16, 64]).rdma_devices(), ["a1", "a0"]);
        let mut told = two_sockets([16, 64]);
        assert!(told.override_nic("a0", 1, Some(400)));
        assert_eq!(Locality::of(told, &[], 4).rdma_devices(), ["a0", "a1"], "as the operator says");
    }
}
