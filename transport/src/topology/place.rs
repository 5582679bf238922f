//! Which node each segment of memory is to lie on.
//!
//! Invariants:
//! - Segments are dealt to the nodes that have both memory and processors, in turn and in proportion to their memory, so that
//!   adapters of every node find memory beside them.

use super::{NumaNode, Topology};

/// Nodes for a number of segments.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement(Vec<u32>);

impl Placement {
    /// For `count` segments, on a machine of which only `cpus` may be used (all, if empty).
    pub fn of(topology: &Topology, cpus: &[usize], count: usize) -> Self {
        let usable =
            |node: &&NumaNode| node.memory > 0 && node.cpus.iter().any(|cpu| cpus.is_empty() || cpus.contains(cpu));
        let nodes: Vec<&NumaNode> = topology.nodes.iter().filter(usable).collect();
        let mut given = vec![0u64; nodes.len()];
        let next = |given: &mut Vec<u64>| {
            // The one with the fewest segments for its memory; the first of equals.
            let at = (0..nodes.len()).min_by(|&a, &b| {
                let share = |at: usize, other: usize| u128::from(given[at] + 1) * u128::from(nodes[other].memory);
                share(a, b).cmp(&share(b, a))
            })?;
            given[at] += 1;
            Some(nodes[at].id)
        };
        Self((0..count).map_while(|_| next(&mut given)).collect())
    }

    /// The node of a segment; `None` where the machine says nothing of nodes.
    pub fn node(&self, segment: usize) -> Option<u32> {
        self.0.get(segment).copied()
    }

    /// How many nodes there are segments on.
    pub fn node_count(&self) -> usize {
        let mut nodes = self.0.clone();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.len()
    }
}
