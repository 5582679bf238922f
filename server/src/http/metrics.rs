//! `/metrics`: every figure of the node in the text format that Prometheus reads.
//!
//! Role: reads the counters that `INFO` reads too. Names are `mooncake_` and what is counted, the unit, and `_total` for
//! what only grows.
//!
//! Invariants:
//! - Labels are few and bounded: tiers, devices, commands, error words, states, and the largest [`NAMES_MAX`] models and
//!   tenants. No key, address or client's name is one.
//! - What clients wrote is escaped.

use crate::acl::log::Reason;
use crate::census::{Count, Counts};
use crate::handler::command_cmd::spec_at;
use crate::handler::diagnose::{self, Finding, Severity};
use crate::handler::info::cpu_seconds;
use crate::handler::memory::MemoryUse;
use crate::latency::{BOUNDS, Level, Sum, bound_seconds};
use crate::loading::Loading;
use crate::node::{Node, Stage};
use crate::sampler::Totals;
use crate::stats::CommandStat;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use protocol::command::{CommandId, Keys};
use protocol::resp::ErrorWord;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use storage::Pages;
use storage::flash::tier::{DeviceState, DeviceStatus};

/// What `/metrics` says it is.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Models and tenants that have series of their own.
const NAMES_MAX: usize = 20;

type Labels = Vec<(&'static str, String)>;

/// The text. All of it is of one moment, as far as counters without a lock have one.
pub(crate) fn text(node: &Node) -> Result<String, fmt::Error> {
    let mut families = Families::default();
    health(node, &mut families);
    tiers(node, &mut families);
    objects(node, &mut families);
    memory(node, &mut families);
    devices(node, &mut families);
    traffic(node, &mut families);
    commands(node, &mut families);
    owners(node, &mut families);
    let mut registry = Registry::with_prefix("mooncake");
    registry.register_collector(Box::new(families));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

#[derive(Debug)]
enum Values {
    Numbers(Kind, Vec<(Labels, f64)>),
    Histograms(Vec<(Labels, Sum)>),
}

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    values: Values,
}

/// All families, in the order they are written.
#[derive(Debug, Default)]
struct Families(Vec<Family>);

impl Families {
    fn put(&mut self, kind: Kind, name: &'static str, help: &'static str, values: Vec<(Labels, f64)>) {
        let (name, unit) = split_unit(name);
        self.0.push(Family { name, help, unit, values: Values::Numbers(kind, values) });
    }

    fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.put(Kind::Counter, name, help, vec![(Vec::new(), value as f64)]);
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.put(Kind::Gauge, name, help, vec![(Vec::new(), value)]);
    }
}

/// The unit that a name ends with, which the encoder writes again.
fn split_unit(name: &'static str) -> (&'static str, Option<Unit>) {
    for (suffix, unit) in
        [("_bytes", Unit::Bytes), ("_seconds", Unit::Seconds), ("_ratio", Unit::Other("ratio".into()))]
    {
        if let Some(bare) = name.strip_suffix(suffix) {
            return (bare, Some(unit));
        }
    }
    (name, None)
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in &self.0 {
            let kind = match &family.values {
                Values::Numbers(Kind::Counter, _) => MetricType::Counter,
                Values::Numbers(Kind::Gauge, _) => MetricType::Gauge,
                Values::Histograms(_) => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, family.unit.as_ref(), kind)?;
            match &family.values {
                Values::Numbers(kind, values) => {
                    for (labels, value) in values {
                        let labels: Labels = labels.iter().map(|(name, value)| (*name, escaped(value))).collect();
                        if labels.is_empty() {
                            encode(&mut metric, *kind, *value)?;
                        } else {
                            encode(&mut metric.encode_family(&labels)?, *kind, *value)?;
                        }
                    }
                }
                Values::Histograms(values) => {
                    for (labels, sum) in values {
                        let bounds = (0..BOUNDS).map(bound_seconds).chain([f64::MAX]);
                        let buckets: Vec<(f64, u64)> = bounds.zip(sum.counts).collect();
                        metric.encode_family(labels)?.encode_histogram::<NoLabelSet>(
                            sum.seconds,
                            sum.count(),
                            &buckets,
                            None,
                        )?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn encode(metric: &mut MetricEncoder<'_>, kind: Kind, value: f64) -> Result<(), fmt::Error> {
    match kind {
        Kind::Counter => metric.encode_counter::<NoLabelSet, _, f64>(&value, None),
        Kind::Gauge => metric.encode_gauge(&value),
    }
}

fn label(name: &'static str, value: impl Into<String>) -> Labels {
    vec![(name, value.into())]
}

fn health(node: &Node, out: &mut Families) {
    let version = label("version", env!("CARGO_PKG_VERSION"));
    out.put(Kind::Gauge, "build_info", "The version that runs", vec![(version, 1.0)]);
    out.gauge("uptime_seconds", "Time since the start", node.now().since(node.started).as_secs_f64());
    let stages = Stage::ALL.map(|stage| (label("stage", stage.word()), f64::from(node.stage() == stage)));
    out.put(Kind::Gauge, "stage", "1 for what the node does: loading, serving or draining", stages.into());
    let loading = Loading::of(node);
    out.gauge(
        "recovery_progress_ratio",
        "How much of the flash tier is recovered after a start",
        loading.map_or(1.0, |loading| f64::from(loading.percent) / 100.0),
    );
    let recovered = node.flash.as_ref().map_or(0, |flash| flash.progress.records.load(Ordering::Relaxed));
    out.gauge("recovered_objects", "Records that the last recovery found", recovered as f64);
    let findings = Finding::all(node);
    out.gauge("health_score", "The score of DIAGNOSE, 100 when nothing is wrong", diagnose::score(&findings) as f64);
    let severities = Severity::ALL.map(|severity| {
        let count = findings.iter().filter(|finding| finding.severity == severity).count();
        (label("severity", severity.word()), count as f64)
    });
    out.put(Kind::Gauge, "health_findings", "What DIAGNOSE finds", severities.into());
    let (user, system) = cpu_seconds(&std::fs::read_to_string("/proc/self/stat").unwrap_or_default());
    out.put(
        Kind::Counter,
        "cpu_seconds",
        "Processor time of the server",
        vec![(label("mode", "user"), user), (label("mode", "system"), system)],
    );
}

fn tiers(node: &Node, out: &mut Families) {
    let (sums, usage) = (node.store.accounting(), node.store.usage());
    let devices = node.tier().map(|tier| tier.status()).unwrap_or_default();
    let place = |tier: &str, device: String| vec![("tier", tier.to_owned()), ("device", device)];
    let dram = || place("dram", "dram".to_owned());
    let (mut capacity, mut used, mut online) = (
        vec![(dram(), sums.capacity as f64)],
        vec![(dram(), sums.total.saturating_sub(sums.free) as f64)],
        vec![(dram(), 1.0)],
    );
    for device in &devices {
        let at = || place("flash", device.id.to_string());
        capacity.push((at(), device.size.get() as f64));
        used.push((at(), device.used.get() as f64));
        online.push((at(), f64::from(device.state == DeviceState::On)));
    }
    out.put(Kind::Gauge, "tier_capacity_bytes", "Bytes that a tier may take", capacity);
    out.put(Kind::Gauge, "tier_used_bytes", "Bytes of a tier that are taken", used);
    out.put(Kind::Gauge, "tier_online", "Whether a tier serves", online);
    let tier = |word: &str| label("tier", word);
    let in_dram = (usage.objects + usage.on_both).saturating_sub(usage.on_flash);
    out.put(
        Kind::Gauge,
        "tier_objects",
        "Objects with a copy in a tier",
        vec![(tier("dram"), in_dram as f64), (tier("flash"), usage.on_flash as f64)],
    );
    let (hits, misses) = node.hits_and_misses();
    out.put(
        Kind::Counter,
        "hits",
        "Reads that found their object, by the tier that had it",
        vec![(tier("dram"), hits.0 as f64), (tier("flash"), hits.1 as f64)],
    );
    out.counter("misses", "Reads that found nothing", misses);
    out.counter(
        "flash_missed",
        "Of the misses, reads that the index sent to flash in vain",
        node.stats.flash_missed.get(),
    );
    out.counter("flash_timeouts", "Reads of flash given up as too slow", node.stats.flash_timeouts.get());
    let counters = usage.counters;
    out.counter("spilled_objects", "Objects written to flash", counters.spilled);
    out.counter("spilled_bytes", "Bytes of objects written to flash", counters.spilled_bytes);
    out.counter("promotions", "Objects brought back from flash into DRAM", counters.promoted);
    out.counter("demotions", "Copies in DRAM dropped of objects on flash", counters.demoted);
    out.counter("evictions", "Objects dropped from DRAM that were nowhere else", counters.evicted);
    out.counter("evicted_bytes", "Bytes freed in DRAM by eviction", counters.evicted_bytes);
    out.put(
        Kind::Counter,
        "dropped_objects",
        "Objects lost to room: before they could be written to flash, or with their record there",
        vec![
            (label("reason", "unspilled"), counters.dropped_dirty as f64),
            (label("reason", "reclaimed"), counters.dropped_flash as f64),
        ],
    );
    out.counter("reinserted_objects", "Records kept when their segment was reclaimed", counters.reinserted);
}

fn objects(node: &Node, out: &mut Families) {
    let usage = node.store.usage();
    let counters = usage.counters;
    out.gauge("objects", "Live objects", usage.objects as f64);
    out.gauge("objects_expiring", "Of them with a TTL", usage.expiring as f64);
    out.counter("expired_objects", "Objects whose TTL ended", counters.expired);
    out.gauge("leases", "Leases held", usage.leases as f64);
    out.gauge("grants", "Grants held: PUTs that are not committed", usage.grants as f64);
    out.counter("leases_expired", "Leases that ran out unreleased", counters.leases_expired);
    out.counter("grants_expired", "Grants that ran out uncommitted", counters.grants_expired);
    out.counter("payloads_refused", "Payloads with a wrong checksum at COMMIT", counters.crc_refused);
    out.counter("objects_scribbled", "Objects removed because they were written over after COMMIT", counters.scribbled);
}

fn memory(node: &Node, out: &mut Families) {
    let (sums, memory) = (node.store.accounting(), MemoryUse::of(node));
    let states = [
        ("free", sums.free),
        ("slab_free", sums.slab_free),
        ("reserved", sums.reserved),
        ("sealing", sums.sealing),
        ("live", sums.live),
        ("doomed", sums.doomed),
        ("quarantine", sums.quarantine),
    ];
    let states = states.map(|(state, bytes)| (label("state", state), bytes as f64));
    out.put(
        Kind::Gauge,
        "dram_state_bytes",
        "Bytes of the segments by state; they sum up to all of them",
        states.into(),
    );
    out.gauge("dram_pinned_bytes", "Bytes of live objects that are pinned", sums.pinned as f64);
    out.gauge("dram_graced_bytes", "Bytes kept because they were probed", sums.graced as f64);
    out.gauge("dram_unspilled_bytes", "Bytes that lie in DRAM only", sums.live.saturating_sub(sums.clean) as f64);
    out.gauge(
        "dram_prefaulted_bytes",
        "Bytes of segments whose pages are there",
        node.prefaulted.load(Ordering::Relaxed) as f64,
    );
    let huge = node.segments.iter().filter(|segment| segment.pages() == Pages::Huge).count();
    out.gauge("dram_segments", "Segments", node.segments.len() as f64);
    out.gauge("dram_segments_huge", "Segments with huge pages", huge as f64);
    out.gauge("dram_fragmentation_ratio", "1 if free bytes lie together, up to 2", memory.scatter);
    let free = node.store.fragmentation();
    out.gauge("dram_longest_free_run_bytes", "Longest run of free bytes", free.longest as f64);
    out.gauge("index_bytes", "Memory of the index", memory.index as f64);
    out.gauge("resident_bytes", "Memory of the process, segments included", memory.resident as f64);
}

/// A number of a device.
type Figure = fn(&DeviceStatus) -> f64;

fn devices(node: &Node, out: &mut Families) {
    let devices = node.tier().map(|tier| tier.status()).unwrap_or_default();
    let figures: [(Kind, &'static str, &'static str, Figure); 13] = [
        (Kind::Counter, "flash_reads", "Records read for clients", |d| d.reads as f64),
        (Kind::Counter, "flash_read_bytes", "Bytes of records read for clients", |d| d.read.get() as f64),
        (Kind::Counter, "flash_writes", "Records written for spills", |d| d.spills as f64),
        (Kind::Counter, "flash_written_bytes", "Bytes written, headers and footers included", |d| {
            d.written.get() as f64
        }),
        (Kind::Counter, "flash_syncs", "Syncs done", |d| d.syncs as f64),
        (Kind::Counter, "flash_errors", "I/O that failed", |d| d.errors as f64),
        (Kind::Counter, "flash_mismatches", "Records that were not what was written", |d| d.mismatches as f64),
        (Kind::Counter, "flash_reclaimed_segments", "Segments reclaimed", |d| d.reclaimed as f64),
        (Kind::Counter, "flash_refused_spills", "Spills refused because the write budget was spent", |d| {
            d.refused as f64
        }),
        (Kind::Gauge, "flash_queue_depth", "Reads and writes in flight", |d| d.in_flight as f64),
        (Kind::Gauge, "flash_segments", "Segments", |d| d.segments as f64),
        (Kind::Gauge, "flash_segments_free", "Segments that hold nothing", |d| d.segments_free as f64),
        (Kind::Gauge, "flash_segments_quarantined", "Segments set aside for rot", |d| d.segments_quarantined as f64),
    ];
    for (kind, name, help, of) in figures {
        let values = devices.iter().map(|device| (label("device", device.id.to_string()), of(device)));
        out.put(kind, name, help, values.collect());
    }
    let budgets = devices
        .iter()
        .filter_map(|device| Some((label("device", device.id.to_string()), device.budget_left?.get() as f64)));
    out.put(Kind::Gauge, "flash_write_budget_left_bytes", "What is left of the day's write budget", budgets.collect());
}

fn traffic(node: &Node, out: &mut Families) {
    let (stats, totals) = (&node.stats, Totals::of(node));
    let way = |transport: &str, direction: &str| {
        vec![("transport", transport.to_owned()), ("direction", direction.to_owned())]
    };
    let (bulk_in, bulk_out) = (stats.bulk_in.get(), stats.bulk_out.get());
    out.put(
        Kind::Counter,
        "transfer_bytes",
        "Bytes moved, by transport; of shared memory those stored and those leased",
        vec![
            (way("resp", "in"), totals.net_in.saturating_sub(bulk_in) as f64),
            (way("resp", "out"), totals.net_out.saturating_sub(bulk_out) as f64),
            (way("tcp", "in"), bulk_in as f64),
            (way("tcp", "out"), bulk_out as f64),
            (way("shm", "in"), stats.shm_in.get() as f64),
            (way("shm", "out"), stats.shm_leased.get() as f64),
            (way("rdma", "in"), stats.rdma_in.get() as f64),
            (way("rdma", "out"), stats.rdma_out.get() as f64),
        ],
    );
    out.gauge("connections", "Clients connected", node.clients.len() as f64);
    out.gauge("connections_max", "Clients that may connect", node.config.read().maxclients as f64);
    out.gauge("bulk_sessions", "Bulk sessions over TCP", node.bulk.len() as f64);
    out.counter("connections_accepted", "Connections of clients since the start", stats.connections.get());
    out.counter("connections_rejected", "Connections refused because there were too many", stats.rejected.get());
    out.counter("connections_timed_out", "Connections closed because they stood still", stats.timeouts.get());
    out.counter(
        "connections_evicted",
        "Connections closed for the memory they made the server hold",
        stats.evicted.get(),
    );
    out.counter("tls_handshakes_failed", "Handshakes of TLS that came to nothing", stats.tls_failed.get());
    out.counter("protocol_errors", "Malformed requests", stats.protocol_errors.get());
    out.gauge("waiting_reply_bytes", "Bytes of replies that wait for their clients", MemoryUse::of(node).output as f64);
}

fn sum(node: &Node, of: impl Fn(&CommandStat) -> &AtomicU64, id: CommandId) -> f64 {
    node.workers().iter().map(|worker| of(worker.stats.of(id)).load(Ordering::Relaxed)).sum::<u64>() as f64
}

fn commands(node: &Node, out: &mut Families) {
    let (mut rejected, mut failed, mut took) = (Vec::new(), Vec::new(), Vec::new());
    for (id, spec) in CommandId::ALL.iter().filter_map(|&id| Some((id, spec_at(id as u64)?))) {
        let calls = sum(node, |stat| &stat.calls, id);
        let refused = sum(node, |stat| &stat.rejected, id);
        if calls + refused == 0.0 {
            continue;
        }
        let name = || label("command", spec.full_name);
        rejected.push((name(), refused));
        failed.push((name(), sum(node, |stat| &stat.failed, id)));
        for level in Level::ALL {
            let sum = node.took(id, level);
            if sum.count() > 0 {
                let tier = if matches!(spec.keys, Keys::None) { "none" } else { level.word() };
                took.push((vec![("command", spec.full_name.to_owned()), ("tier", tier.to_owned())], sum));
            }
        }
    }
    let denied =
        Reason::ALL.map(|reason| (vec![("reason", reason.word().to_owned())], node.users.log.count(reason) as f64));
    out.put(Kind::Counter, "access_denied", "Log-ins, commands, keys and channels refused", denied.to_vec());
    out.put(Kind::Counter, "commands_rejected", "Commands refused before they ran", rejected);
    out.put(Kind::Counter, "commands_failed", "Commands answered with an error", failed);
    out.0.push(Family {
        name: "command_duration",
        help: "Time in the server, by command and by the tier that its objects lay in",
        unit: Some(Unit::Seconds),
        values: Values::Histograms(took),
    });
    let errors = ErrorWord::ALL.iter().map(|&word| {
        let count: u64 = node.workers().iter().map(|w| w.stats.errors_of(word).load(Ordering::Relaxed)).sum();
        (label("word", word.to_string()), count as f64)
    });
    out.put(Kind::Counter, "errors", "Errors answered, by their first word", errors.collect());
}

fn owners(node: &Node, out: &mut Families) {
    let counts = node.census.last();
    let top = |counts: &HashMap<String, Count>, name: &'static str, of: fn(&Count) -> u64| -> Vec<(Labels, f64)> {
        Counts::top(counts, NAMES_MAX)
            .into_iter()
            .map(|(owner, count)| (label(name, owner), of(&count) as f64))
            .collect()
    };
    let help = "By the model that their keys name, the largest and `other`";
    out.put(Kind::Gauge, "model_objects", help, top(&counts.models, "model", |count| count.objects));
    out.put(Kind::Gauge, "model_object_bytes", help, top(&counts.models, "model", |count| count.bytes));
    let help = "By the salt that their keys carry, the largest and `other`";
    out.put(Kind::Gauge, "salt_objects", help, top(&counts.tenants, "salt", |count| count.objects));
    out.put(Kind::Gauge, "salt_object_bytes", help, top(&counts.tenants, "salt", |count| count.bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_wrote_cannot_break_out_of_its_label() {
        let mut families = Families::default();
        families.put(Kind::Gauge, "model_object_bytes", "h", vec![(label("model", "a\"} 1\nb\\"), 2.0)]);
        let mut registry = Registry::with_prefix("mooncake");
        registry.register_collector(Box::new(families));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("a string takes text");
        assert!(text.contains("mooncake_model_object_bytes{model=\"a\\\"} 1\\nb\\\\\"} 2.0\n"), "{text}");
    }

    #[test]
    fn units_are_taken_from_names() {
        assert_eq!(split_unit("tier_used_bytes").0, "tier_used");
        assert_eq!(split_unit("hits").0, "hits");
        assert!(split_unit("tier_used_bytes").1.is_some() && split_unit("hits").1.is_none());
    }
}
