//! Operating the node: what it is, what it holds, what it should let go.

use crate::config::Value as _;
use crate::dispatch::{Ctx, Flow};
use crate::handler::aside::Aside;
use crate::handler::job::Job;
use crate::node::Node;
use protocol::base::StableMemory as _;
use protocol::command::{CommandId, Evict};
use protocol::resp::{WireError, Writer};
use std::sync::atomic::Ordering;
use storage::Pages;

/// Objects evicted before the bytes are counted again.
const EVICT_COUNT_MAX: u64 = 256;

/// `NODE`
pub(crate) fn node(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let node = ctx.node;
    let addresses = node.addresses();
    let up_ms = u64::try_from(ctx.now.since(node.started).as_millis()).unwrap_or(u64::MAX);
    let (shm_write, lease_ms_max, grant_ms) = {
        let config = node.config.read();
        (config.shm_write.render(), config.lease_ms_max.0, config.grant_ms.0)
    };
    let unix = addresses.unix.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let mut reply = ctx.output.writer();
    reply.map(9);
    reply.field("node").bulk(node.id.0.as_bytes());
    reply.field("version").bulk(env!("CARGO_PKG_VERSION").as_bytes());
    reply.field("boot-id").bulk(node.boot_id.as_bytes());
    reply.field("unix-socket").bulk(unix.as_bytes());
    reply.field("bulk-port").count(addresses.bulk.map_or(0, |addr| addr.port()).into());
    reply.field("shm-write").bulk(shm_write.as_bytes());
    reply.field("uptime-ms").count(up_ms);
    reply.field("lease-ms-max").count(lease_ms_max);
    reply.field("grant-ms").count(grant_ms);
    Ok(Flow::Go)
}

/// `SEGMENT LIST`
pub(crate) fn segment_list(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let node = ctx.node;
    let free = node.store.fragmentation_by_segment();
    let mut reply = ctx.output.writer();
    reply.array(node.segments.len());
    for (id, (segment, free)) in node.segments.iter().zip(free).enumerate() {
        let length = segment.len() as u64;
        let here = node.prefaulted_of[id].load(Ordering::Relaxed);
        reply.map(8);
        reply.field("segment").count(id as u64);
        reply.field("length").count(length);
        reply.field("used").count(length.saturating_sub(free.free));
        reply.field("largest-free").count(free.longest);
        reply.field("free-runs").count(free.runs);
        reply.field("pages").bulk(if segment.pages() == Pages::Huge { b"huge" } else { b"ordinary" });
        reply.field("prefaulted").count(here);
        reply.field("numa-node").integer(node.locality.node_of(id).map_or(-1, i64::from));
    }
    Ok(Flow::Go)
}

/// Evicts the oldest until they took `wanted` bytes, or nothing is left that may go. Returns the bytes.
fn evict_bytes(node: &Node, wanted: u64) -> u64 {
    let store = &node.store;
    // Counted by the slots that are gone, not by what is free: others write meanwhile.
    let (start, mut freed) = (store.usage(), 0);
    let mean = (store.accounting().live / start.objects.max(1)).max(1);
    while freed < wanted {
        // Half of what it seems to take, so that a few large ones among many small do not carry it far beyond.
        let count = ((wanted - freed) / mean / 2).clamp(1, EVICT_COUNT_MAX);
        if store.evict(node.now(), count) == 0 {
            break;
        }
        freed = store.usage().counters.evicted_bytes.saturating_sub(start.counters.evicted_bytes);
    }
    freed
}

/// `EVICT bytes`
pub(crate) fn evict(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let wanted = Evict::parse(&ctx.args)?.bytes.get();
    let client = ctx.session.client.id;
    Ok(Flow::Wait(Job::Aside(Aside::new(CommandId::Evict, move |node| {
        let freed = evict_bytes(node, wanted);
        tracing::info!(client, wanted, freed, "EVICT");
        move |reply: &mut Writer<'_>| reply.count(freed)
    }))))
}

/// `STAT key`
pub(crate) fn stat(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let key = ctx.args.bytes(1).ok_or_else(WireError::syntax)?;
    let Some(stat) = ctx.node.store.stat(ctx.now, key) else {
        ctx.reply().null();
        return Ok(Flow::Go);
    };
    let ttl = stat.expires.map_or(-1, |at| i64::try_from(at.left_at(ctx.now).0).unwrap_or(i64::MAX));
    let idle_ms = u64::try_from(ctx.now.since(stat.touched).as_millis()).unwrap_or(u64::MAX);
    let node = ctx.node;
    let mut reply = ctx.output.writer();
    reply.map(13);
    reply.field("state").bulk(b"live");
    reply.field("generation").count(stat.generation.0);
    reply.field("length").count(stat.length.get());
    reply.field("crc").bulk_display(stat.crc);
    reply.field("ttl").integer(ttl);
    reply.field("pins").count(stat.pins);
    reply.field("soft-pinned").boolean(stat.soft_pinned);
    reply.field("leases").count(stat.users.into());
    reply.field("hits").count(stat.hits.into());
    reply.field("idle").count(idle_ms);
    reply.field("depth").count(stat.depth.into());
    reply.field("charge").count(stat.charge.get());
    reply.field("replicas").array(usize::from(stat.dram.is_some()) + usize::from(stat.flash.is_some()));
    if let Some((segment, offset)) = stat.dram {
        reply.map(3);
        reply.field("node").bulk(node.id.0.as_bytes());
        reply.field("tier").bulk(b"dram");
        reply.field("where").bulk_display(format_args!("segment {segment} offset {offset}"));
    }
    if let Some(place) = stat.flash {
        reply.map(3);
        reply.field("node").bulk(node.id.0.as_bytes());
        reply.field("tier").bulk(b"flash");
        reply.field("where").bulk_display(format_args!("segment {} page {}", place.slot, place.page));
    }
    Ok(Flow::Go)
}
