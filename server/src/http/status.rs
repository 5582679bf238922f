//! `/status`: the node at a glance, as JSON. What the page shows and programs may read.
//!
//! Invariants:
//! - Nothing in it is a credential, an address of a client or a whole key.

use crate::census::{Count, Counts};
use crate::handler::command_cmd::spec_at;
use crate::handler::diagnose::{self, Finding};
use crate::handler::memory::MemoryUse;
use crate::handler::tier_cmd::state_word;
use crate::latency::Level;
use crate::loading::Loading;
use crate::node::{Node, Stage};
use crate::sampler::Totals;
use protocol::command::{CommandId, Keys};
use serde_json::{Value, json};
use std::collections::HashMap;
use storage::Pages;
use storage::flash::tier::DeviceState;

/// Models and tenants that are shown by name.
const NAMES_MAX: usize = 20;

/// What the node does, for people.
pub(super) fn stage_words(node: &Node) -> String {
    match (node.stage(), Loading::of(node)) {
        (Stage::Loading, Some(loading)) => format!("loading: {} % of the flash tier recovered", loading.percent),
        (Stage::Draining, _) => format!("draining: {} connections are left", node.clients.len()),
        (stage, _) => stage.word().to_owned(),
    }
}

/// All of it.
pub(super) fn json(node: &Node) -> Value {
    let findings = Finding::all(node);
    let loading = Loading::of(node);
    json!({
        "node": node.id.0,
        "version": env!("CARGO_PKG_VERSION"),
        "stage": node.stage().word(),
        "stage_words": stage_words(node),
        "loading_percent": loading.map(|loading| loading.percent),
        "uptime_seconds": node.now().since(node.started).as_secs(),
        "addresses": {
            "resp": node.addresses().resp.map(|addr| addr.to_string()),
            "bulk": node.addresses().bulk.map(|addr| addr.to_string()),
            "unix": node.addresses().unix.as_ref().map(|path| path.display().to_string()),
        },
        "health": {
            "score": diagnose::score(&findings),
            "findings": findings.iter().map(|finding| json!({
                "severity": finding.severity.word(),
                "about": finding.about,
                "what": finding.what,
                "what_to_do": finding.remedy,
            })).collect::<Vec<_>>(),
        },
        "tiers": tiers(node),
        "reads": reads(node),
        "movement": movement(node),
        "memory": memory(node),
        "lent": lent(node),
        "transfers": transfers(node),
        "clients": clients(node),
        "commands": commands(node),
        "owners": owners(node),
    })
}

fn tiers(node: &Node) -> Value {
    let (sums, usage) = (node.store.accounting(), node.store.usage());
    let mut tiers = vec![json!({
        "name": "dram",
        "kind": "dram",
        "state": "online",
        "capacity_bytes": sums.capacity,
        "used_bytes": sums.total.saturating_sub(sums.free),
        "objects": (usage.objects + usage.on_both).saturating_sub(usage.on_flash),
    })];
    for device in node.tier().map(|tier| tier.status()).unwrap_or_default() {
        tiers.push(json!({
            "name": format!("flash.{}", device.id),
            "kind": "flash",
            "state": state_word(&device.state),
            "why": if let DeviceState::Off { why } = &device.state { Some(why) } else { None },
            "path": device.path.display().to_string(),
            "engine": device.engine,
            "capacity_bytes": device.size.get(),
            "used_bytes": device.used.get(),
            "read_bytes": device.read.get(),
            "written_bytes": device.written.get(),
            "errors": device.errors,
            "mismatches": device.mismatches,
            "queue": device.in_flight,
        }));
    }
    Value::Array(tiers)
}

fn reads(node: &Node) -> Value {
    let ((dram, flash), misses) = node.hits_and_misses();
    let all = dram + flash + misses;
    let ratio = |hits: u64| if all == 0 { Value::Null } else { json!(hits as f64 / all as f64) };
    json!({
        "hits_dram": dram,
        "hits_flash": flash,
        "misses": misses,
        "hit_ratio": ratio(dram + flash),
        "hit_ratio_dram": ratio(dram),
        "hit_ratio_flash": ratio(flash),
    })
}

fn movement(node: &Node) -> Value {
    let usage = node.store.usage();
    let counters = usage.counters;
    json!({
        "objects": usage.objects,
        "objects_on_flash": usage.on_flash,
        "evicted": counters.evicted,
        "evicted_bytes": counters.evicted_bytes,
        "evicted_bytes_per_second": node.sampler.eviction_rate(),
        "expired": counters.expired,
        "spilled": counters.spilled,
        "spilled_bytes": counters.spilled_bytes,
        "promoted": counters.promoted,
        "demoted": counters.demoted,
        "dropped_unspilled": counters.dropped_dirty,
        "dropped_flash": counters.dropped_flash,
    })
}

fn memory(node: &Node) -> Value {
    let (sums, memory) = (node.store.accounting(), MemoryUse::of(node));
    json!({
        "total_bytes": sums.total,
        "live_bytes": sums.live,
        "reserved_bytes": sums.reserved,
        "sealing_bytes": sums.sealing,
        "doomed_bytes": sums.doomed,
        "quarantine_bytes": sums.quarantine,
        "free_bytes": sums.free,
        "slab_free_bytes": sums.slab_free,
        "pinned_bytes": sums.pinned,
        "graced_bytes": sums.graced,
        "index_bytes": memory.index,
        "resident_bytes": memory.resident,
        "fragmentation": memory.scatter,
        "longest_free_run_bytes": node.store.fragmentation().longest,
        "segments": node.segments.len(),
        "segments_huge": node.segments.iter().filter(|segment| segment.pages() == Pages::Huge).count(),
    })
}

fn lent(node: &Node) -> Value {
    let usage = node.store.usage();
    json!({
        "leases": usage.leases,
        "grants": usage.grants,
        "leases_expired": usage.counters.leases_expired,
        "grants_expired": usage.counters.grants_expired,
        "payloads_refused": usage.counters.crc_refused,
        "bulk_sessions": node.bulk.len(),
    })
}

fn transfers(node: &Node) -> Value {
    let (stats, totals, rates) = (&node.stats, Totals::of(node), node.sampler.rates());
    let (bulk_in, bulk_out) = (stats.bulk_in.get(), stats.bulk_out.get());
    json!({
        "resp": { "in_bytes": totals.net_in.saturating_sub(bulk_in), "out_bytes": totals.net_out.saturating_sub(bulk_out) },
        "tcp": { "in_bytes": bulk_in, "out_bytes": bulk_out },
        "shm": { "in_bytes": stats.shm_in.get(), "out_bytes": stats.shm_leased.get() },
        "rdma": { "in_bytes": stats.rdma_in.get(), "out_bytes": stats.rdma_out.get() },
        "commands": totals.commands,
        "errors": totals.errors,
        "commands_per_second": rates.commands,
        "in_bytes_per_second": rates.bytes_in,
        "out_bytes_per_second": rates.bytes_out,
    })
}

fn clients(node: &Node) -> Value {
    let stats = &node.stats;
    json!({
        "connected": node.clients.len(),
        "max": node.config.read().maxclients,
        "accepted": stats.connections.get(),
        "rejected": stats.rejected.get(),
        "timed_out": stats.timeouts.get(),
        "evicted": stats.evicted.get(),
        "protocol_errors": stats.protocol_errors.get(),
    })
}

fn commands(node: &Node) -> Value {
    let mut rows = Vec::new();
    for (id, spec) in CommandId::ALL.iter().filter_map(|&id| Some((id, spec_at(id as u64)?))) {
        for level in Level::ALL {
            let took = node.took(id, level);
            if took.count() > 0 {
                rows.push(json!({
                    "command": spec.full_name,
                    "tier": if matches!(spec.keys, Keys::None) { None } else { Some(level.word()) },
                    "calls": took.count(),
                    "mean_seconds": took.seconds / took.count() as f64,
                    "p50_seconds": took.quantile_seconds(0.5),
                    "p99_seconds": took.quantile_seconds(0.99),
                }));
            }
        }
    }
    Value::Array(rows)
}

fn owners(node: &Node) -> Value {
    let counts = node.census.last();
    let rows = |counts: &HashMap<String, Count>| -> Vec<Value> {
        let top = Counts::top(counts, NAMES_MAX).into_iter();
        top.map(|(name, count)| {
            json!({
                "name": name,
                "objects": count.objects,
                "bytes": count.bytes,
                "dram_bytes": count.dram_bytes,
                "hits": count.hits,
            })
        })
        .collect()
    };
    json!({ "objects": counts.objects, "models": rows(&counts.models), "salts": rows(&counts.tenants) })
}
