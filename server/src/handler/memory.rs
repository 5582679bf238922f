//! `MEMORY`: what the bytes are used for.

use super::diagnose::Finding;
use crate::dispatch::{Ctx, Flow};
use crate::node::Node;
use protocol::command::Words;
use protocol::resp::WireError;
use std::sync::atomic::Ordering;

/// Bytes that the index keeps of an object beside its slot: its entry and its place in the table.
const INDEX_LEN: u64 = 56 + 8;
/// Bytes that the index keeps of an object on flash beside its key.
const FLASH_INDEX_LEN: u64 = 32 + 5;

/// Bytes in use, of segments and beside them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MemoryUse {
    /// Of segments, whatever for.
    pub(crate) slots: u64,
    /// Of them in no slot: holes of pages that small values share.
    pub(crate) holes: u64,
    /// Of the index.
    pub(crate) index: u64,
    /// Replies that wait for their clients.
    pub(crate) output: u64,
    /// Resident in this process, prefaulted segments included.
    pub(crate) resident: u64,
    /// That objects may take.
    pub(crate) capacity: u64,
    /// How scattered the free bytes are: 1.0 if each segment's lie together, up to 2.0.
    pub(crate) scatter: f64,
}

impl MemoryUse {
    pub(crate) fn of(node: &Node) -> Self {
        let sums = node.store.accounting();
        let scattered: u64 =
            node.store.fragmentation_by_segment().iter().map(|of| of.free - of.longest.min(of.free)).sum();
        let output = node.clients.all().iter().map(|client| client.pending.load(Ordering::Relaxed)).sum();
        Self {
            slots: sums.total.saturating_sub(sums.free),
            holes: sums.slab_free,
            index: node.store.usage().index_bytes,
            output,
            resident: resident(),
            capacity: sums.capacity,
            scatter: 1.0 + scattered as f64 / sums.total.max(1) as f64,
        }
    }

    /// What Redis calls used: everything that grows with what is stored.
    pub(crate) fn used(&self) -> u64 {
        self.slots + self.index + self.output
    }
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// A share of something, in percent.
pub(crate) fn percent(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 * 100.0 / of as f64 }
}

/// `MEMORY USAGE key [SAMPLES n]`
pub(crate) fn memory_usage(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let mut words = Words::new(&ctx.args, 2);
    let key = words.word()?;
    while let Some(option) = words.option()? {
        if !option.eq_ignore_ascii_case(b"samples") {
            return Err(WireError::syntax());
        }
        // There is nothing to sample: the number is exact.
        if words.signed()? < 0 {
            return Err(WireError::syntax());
        }
    }
    match ctx.node.store.stat(ctx.now, key) {
        Some(stat) => {
            let in_dram = if stat.dram.is_some() { stat.charge.get() + INDEX_LEN } else { 0 };
            let on_flash = if stat.flash.is_some() { FLASH_INDEX_LEN + key.len() as u64 } else { 0 };
            ctx.reply().count(in_dram + on_flash);
        }
        None => ctx.reply().null(),
    }
    Ok(Flow::Go)
}

/// `MEMORY STATS`
pub(crate) fn memory_stats(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let memory = MemoryUse::of(ctx.node);
    let usage = ctx.node.store.usage();
    let peak = ctx.node.sampler.peak().max(memory.used());
    let overhead = memory.index + memory.output + memory.holes;
    let dataset = memory.used().saturating_sub(overhead);
    let counts = [
        ("peak.allocated", peak),
        ("total.allocated", memory.used()),
        ("startup.allocated", 0),
        ("replication.backlog", 0),
        ("clients.slaves", 0),
        ("clients.normal", memory.output),
        ("cluster.links", 0),
        ("aof.buffer", 0),
        ("lua.caches", 0),
        ("functions.caches", 0),
        ("overhead.total", overhead),
        ("keys.count", usage.objects),
        ("keys.bytes-per-key", memory.used() / usage.objects.max(1)),
        ("dataset.bytes", dataset),
    ];
    let slots = [
        ("allocator.allocated", memory.slots - memory.holes.min(memory.slots)),
        ("allocator.active", memory.slots),
        ("allocator.resident", memory.resident),
    ];
    let mut reply = ctx.reply();
    reply.map(counts.len() + 1 + 2 + slots.len() + 1);
    for (name, value) in counts {
        reply.field(name).count(value);
    }
    reply.field("db.0").map(2);
    reply.field("overhead.hashtable.main").count(memory.index);
    reply.field("overhead.hashtable.expires").count(0);
    reply.field("dataset.percentage").double(percent(dataset, memory.used()));
    reply.field("peak.percentage").double(percent(memory.used(), peak));
    for (name, value) in slots {
        reply.field(name).count(value);
    }
    reply.field("fragmentation").double(memory.scatter);
    Ok(Flow::Go)
}

/// `MEMORY DOCTOR`
pub(crate) fn memory_doctor(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let findings: Vec<Finding> = Finding::all(ctx.node).into_iter().filter(|finding| finding.of_memory).collect();
    let mut text = String::new();
    if findings.is_empty() {
        text.push_str("Nothing is wrong with memory.\n");
    }
    for finding in findings {
        text.push_str(&format!("* {} {}\n", finding.what, finding.remedy));
    }
    ctx.reply().verbatim(&text);
    Ok(Flow::Go)
}
