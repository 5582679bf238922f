//! `NODE TOPOLOGY`: what the machine is made of, where the segments lie in it, and what was made of that.

use crate::dispatch::{Ctx, Flow};
use protocol::resp::{WireError, Writer};
use transport::topology::{Nic, Slot, Topology};

fn numa(reply: &mut Writer<'_>, numa: Option<u32>) {
    reply.field("numa-node").integer(numa.map_or(-1, i64::from));
}

fn slot(reply: &mut Writer<'_>, slot: &Slot) {
    numa(reply, slot.numa);
    reply.field("pci").bulk(slot.pci.address().unwrap_or_default().as_bytes());
}

/// How far each adapter is.
fn distances(reply: &mut Writer<'_>, topology: &Topology, from: &Slot) {
    reply.field("distances").map(topology.nics.len());
    for nic in &topology.nics {
        reply.field(&nic.name).bulk(topology.distance(from, &nic.slot).word().as_bytes());
    }
}

/// `NODE TOPOLOGY`
pub(crate) fn node_topology(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let node = ctx.node;
    let locality = &node.locality;
    let topology = &locality.topology;
    let used = node.rdma.transport().ok().map(|transport| transport.device().name.clone());
    let mut writer = ctx.output.writer();
    let reply = &mut writer;
    reply.map(4);
    reply.field("nodes").array(topology.nodes.len());
    for numa in &topology.nodes {
        reply.map(5);
        reply.field("numa-node").count(numa.id.into());
        reply.field("cpus").count(numa.cpus.len() as u64);
        reply.field("memory").count(numa.memory);
        reply.field("segments").count(locality.segments_on(numa.id) as u64);
        reply.field("distances").array(numa.distances.len());
        for (_, distance) in &numa.distances {
            reply.count((*distance).into());
        }
    }
    reply.field("nics").array(topology.nics.len());
    for nic in &topology.nics {
        let Nic { name, interface, gbps, is_up, rdma, .. } = nic;
        reply.map(9);
        reply.field("name").bulk(name.as_bytes());
        reply.field("interface").bulk(interface.as_deref().unwrap_or_default().as_bytes());
        slot(reply, &nic.slot);
        reply.field("gbps").count((*gbps).into());
        reply.field("up").count(u64::from(*is_up));
        reply.field("rdma").count(u64::from(rdma.is_some()));
        reply.field("score").count(locality.score(nic));
        reply.field("used").count(u64::from(used.as_ref() == Some(name)));
    }
    reply.field("gpus").array(topology.gpus.len());
    for gpu in &topology.gpus {
        reply.map(5);
        reply.field("name").bulk(gpu.name.as_bytes());
        reply.field("model").bulk(gpu.model.as_bytes());
        slot(reply, &gpu.slot);
        distances(reply, topology, &gpu.slot);
    }
    reply.field("drives").array(topology.drives.len());
    for drive in &topology.drives {
        reply.map(6);
        reply.field("name").bulk(drive.name.as_bytes());
        reply.field("transport").bulk(drive.transport.as_bytes());
        reply.field("state").bulk(drive.state.as_bytes());
        slot(reply, &drive.slot);
        distances(reply, topology, &drive.slot);
    }
    Ok(Flow::Go)
}
