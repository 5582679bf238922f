//! `INFO`: how the server is, in the sections and fields that Redis's tools read, and in ours.

use super::command_cmd::name_of;
use super::connection::{REDIS_VERSION, SERVER_NAME};
use super::memory::{MemoryUse, percent};
use super::tier_cmd::{budget_left, drain_percent, scrub_percent, state_word};
use crate::acl::log::Reason;
use crate::clock::unix_ms;
use crate::dispatch::{Ctx, Flow};
use crate::fabrics::State;
use crate::loading::Loading;
use crate::node::Node;
use crate::sampler::Totals;
use crate::warm::Warm;
use protocol::base::{ByteLen, Instant, StableMemory as _};
use protocol::command::CommandId;
use protocol::resp::{ErrorWord, WireError};
use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use storage::{Accounting, Pages, Usage};

/// What the sections are made of: one look at the node.
struct Facts<'a> {
    node: &'a Node,
    now: Instant,
    sums: Accounting,
    usage: Usage,
    memory: MemoryUse,
    totals: Totals,
}

/// One section: its name, whether `INFO` without a word shows it, and what writes it.
struct Section {
    name: &'static str,
    by_default: bool,
    write: fn(&mut Fields, &Facts<'_>),
}

const fn section(name: &'static str, write: fn(&mut Fields, &Facts<'_>)) -> Section {
    Section { name, by_default: true, write }
}

const fn on_demand(name: &'static str, write: fn(&mut Fields, &Facts<'_>)) -> Section {
    Section { name, by_default: false, write }
}

/// In the order they are written.
static SECTIONS: [Section; 17] = [
    section("Server", server),
    section("Clients", clients),
    section("Memory", memory),
    section("Persistence", persistence),
    section("Stats", stats),
    section("Replication", replication),
    section("CPU", cpu),
    on_demand("Modules", |_, _| {}),
    on_demand("Commandstats", command_stats),
    section("Errorstats", error_stats),
    section("Tiers", tiers),
    on_demand("Segments", segments),
    section("Leases", leases),
    section("Transfers", transfers),
    on_demand("Workers", workers),
    section("Cluster", |out, facts| out.field("cluster_enabled", u8::from(facts.node.cluster_enabled))),
    section("Keyspace", keyspace),
];

/// The lines of a section.
struct Fields(String);

impl Fields {
    fn field(&mut self, name: impl Display, value: impl Display) {
        write!(self.0, "{name}:{value}\r\n").expect("a string takes text");
    }

    /// A number of bytes, and the same for people.
    fn bytes(&mut self, name: &str, value: u64) {
        self.field(name, value);
        self.field(format_args!("{name}_human"), Human(value));
    }
}

/// Bytes as Redis writes them: `1.50M`.
struct Human(u64);

impl Display for Human {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
            if self.0 >= 1 << shift {
                return write!(f, "{:.2}{unit}", self.0 as f64 / (1u64 << shift) as f64);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// `INFO [section …]`
pub(crate) fn info(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let words: Vec<&[u8]> = ctx.args.skip(1).iter().filter_map(|arg| arg.bytes()).collect();
    let text = text(ctx.node, ctx.now, |section| is_wanted(section, &words));
    ctx.reply().verbatim(&text);
    Ok(Flow::Go)
}

fn is_wanted(section: &Section, words: &[&[u8]]) -> bool {
    let is = |word: &[u8], name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    (words.is_empty() && section.by_default)
        || words.iter().any(|word| {
            is(word, section.name)
                || (is(word, "default") && section.by_default)
                || is(word, "all")
                || is(word, "everything")
        })
}

fn text(node: &Node, now: Instant, wanted: impl Fn(&Section) -> bool) -> String {
    let facts = Facts {
        node,
        now,
        sums: node.store.accounting(),
        usage: node.store.usage(),
        memory: MemoryUse::of(node),
        totals: Totals::of(node),
    };
    let mut out = Fields(String::new());
    for section in SECTIONS.iter().filter(|section| wanted(section)) {
        if !out.0.is_empty() {
            out.0.push_str("\r\n");
        }
        write!(out.0, "# {}\r\n", section.name).expect("a string takes text");
        (section.write)(&mut out, &facts);
    }
    out.0
}

fn server(out: &mut Fields, facts: &Facts<'_>) {
    let node = facts.node;
    let uname = rustix::system::uname();
    let up_s = facts.now.since(node.started).as_secs();
    let unix_ms = unix_ms();
    out.field("redis_version", REDIS_VERSION);
    out.field("server_name", SERVER_NAME);
    out.field("mooncake_version", env!("CARGO_PKG_VERSION"));
    out.field("redis_git_sha1", "00000000");
    out.field("redis_git_dirty", 0);
    out.field("redis_build_id", 0);
    out.field("redis_mode", super::connection::mode(node));
    out.field(
        "os",
        format_args!(
            "{} {} {}",
            uname.sysname().to_string_lossy(),
            uname.release().to_string_lossy(),
            uname.machine().to_string_lossy()
        ),
    );
    out.field("arch_bits", usize::BITS);
    out.field("multiplexing_api", "epoll");
    out.field("process_id", std::process::id());
    out.field("process_supervised", "no");
    out.field("run_id", &node.id);
    let addr = node.addresses().resp;
    out.field("tcp_port", addr.map_or(0, |addr| addr.port()));
    out.field("server_time_usec", unix_ms * 1000);
    out.field("uptime_in_seconds", up_s);
    out.field("uptime_in_days", up_s / 86_400);
    let hz = 1000 / node.config.read().tick_ms.0.max(1);
    out.field("hz", hz);
    out.field("configured_hz", hz);
    out.field("lru_clock", (unix_ms / 1000) & 0xff_ffff);
    out.field("executable", std::env::current_exe().unwrap_or_default().display());
    out.field("config_file", node.config_file.get().map(|path| path.display().to_string()).unwrap_or_default());
    out.field("io_threads_active", u8::from(node.workers().len() > 1));
    if let Some(addr) = addr {
        out.field("listener0", format_args!("name=tcp,bind={},port={}", addr.ip(), addr.port()));
    }
    if let Some(path) = &node.addresses().unix {
        out.field("listener1", format_args!("name=unix,bind={}", path.display()));
    }
    if let Some(addr) = node.addresses().tls {
        out.field("listener2", format_args!("name=tls,bind={},port={}", addr.ip(), addr.port()));
    }
    if let Some(addr) = node.addresses().metrics {
        out.field("metrics_port", addr.port());
    }
}

fn clients(out: &mut Fields, facts: &Facts<'_>) {
    let all = facts.node.clients.all();
    let longest = all.iter().map(|client| client.pending.load(Ordering::Relaxed)).max().unwrap_or(0);
    out.field("connected_clients", all.len());
    out.field("cluster_connections", 0);
    out.field("maxclients", facts.node.config.read().maxclients);
    out.field("client_recent_max_input_buffer", 0);
    out.field("client_recent_max_output_buffer", longest);
    out.field("blocked_clients", facts.node.pause.waiting());
    for name in ["tracking_clients", "clients_in_timeout_table", "total_blocking_keys"] {
        out.field(name, 0);
    }
}

fn memory(out: &mut Fields, facts: &Facts<'_>) {
    let memory = &facts.memory;
    let used = memory.used();
    let peak = facts.node.sampler.peak().max(used);
    let overhead = memory.index + memory.output + memory.holes;
    let dataset = used.saturating_sub(overhead);
    out.bytes("used_memory", used);
    out.bytes("used_memory_rss", memory.resident);
    out.bytes("used_memory_peak", peak);
    out.field("used_memory_peak_perc", format_args!("{:.2}%", percent(used, peak)));
    out.field("used_memory_overhead", overhead);
    out.field("used_memory_startup", 0);
    out.field("used_memory_dataset", dataset);
    out.field("used_memory_dataset_perc", format_args!("{:.2}%", percent(dataset, used)));
    out.field("used_memory_index", memory.index);
    let machine = rustix::system::sysinfo();
    // The kernel's types differ by machine.
    out.bytes("total_system_memory", (machine.totalram as u64).saturating_mul(machine.mem_unit.into()));
    for name in ["used_memory_lua", "used_memory_scripts", "used_memory_functions"] {
        out.bytes(name, 0);
    }
    out.bytes("maxmemory", memory.capacity);
    out.field("maxmemory_policy", "allkeys-lru");
    let in_slots = memory.slots.saturating_sub(memory.holes);
    out.field("allocator_allocated", in_slots);
    out.field("allocator_active", memory.slots);
    out.field("allocator_resident", memory.resident);
    let ratio = if in_slots == 0 { 1.0 } else { memory.slots as f64 / in_slots as f64 };
    out.field("allocator_frag_ratio", format_args!("{ratio:.2}"));
    out.field("allocator_frag_bytes", memory.holes);
    let free = facts.node.store.fragmentation();
    out.field("mem_fragmentation_ratio", format_args!("{:.2}", memory.scatter));
    out.field("mem_free_bytes", free.free);
    out.field("mem_free_runs", free.runs);
    out.field("mem_free_longest_run", free.longest);
    out.field("mem_not_counted_for_evict", 0);
    out.field("mem_clients_slaves", 0);
    out.field("mem_clients_normal", memory.output);
    out.field("mem_allocator", "mooncake-extents");
    out.field("active_defrag_running", 0);
    out.field("lazyfree_pending_objects", 0);
}

fn persistence(out: &mut Fields, facts: &Facts<'_>) {
    let up_ms = u64::try_from(facts.now.since(facts.node.started).as_millis()).unwrap_or(u64::MAX);
    let loading = Loading::of(facts.node);
    out.field("loading", u8::from(loading.is_some()));
    out.field("async_loading", 0);
    if let Some(loading) = loading {
        out.field("loading_start_time", (unix_ms() / 1000).saturating_sub(loading.elapsed_s));
        out.field("loading_total_bytes", loading.bytes.saturating_mul(100) / u64::from(loading.percent.max(1)));
        out.field("loading_loaded_bytes", loading.bytes);
        out.field("loading_loaded_objects", loading.records);
        out.field("loading_loaded_perc", format_args!("{}.00", loading.percent));
        out.field("loading_eta_seconds", loading.left_s);
    }
    if let Some(warm) = &facts.node.warm {
        memory_taken_over(out, warm);
    }
    // What a loss of power would lose is what nobody has written to flash.
    let unsaved = facts.usage.objects.saturating_sub(facts.usage.on_flash);
    out.field("rdb_changes_since_last_save", if facts.node.tier().is_some() { unsaved } else { 0 });
    out.field("rdb_bgsave_in_progress", 0);
    out.field("rdb_last_save_time", unix_ms().saturating_sub(up_ms) / 1000);
    out.field("rdb_last_bgsave_status", "ok");
    out.field("rdb_last_bgsave_time_sec", 0);
    out.field("rdb_current_bgsave_time_sec", -1);
    out.field("aof_enabled", 0);
    out.field("aof_rewrite_in_progress", 0);
    out.field("aof_rewrite_scheduled", 0);
    out.field("aof_last_bgrewrite_status", "ok");
    out.field("aof_last_write_status", "ok");
}

fn memory_taken_over(out: &mut Fields, warm: &Warm) {
    let adopted = warm.progress().map(|(_, adopted)| adopted).unwrap_or_default();
    out.field("memory_taken_over", u8::from(warm.cold().is_none()));
    if let Some(cold) = warm.cold() {
        out.field("memory_taken_over_why_not", cold);
    }
    for (name, count) in [
        ("objects", adopted.objects),
        ("bytes", adopted.bytes),
        ("clean", adopted.clean),
        ("expired", adopted.expired),
        ("outdated", adopted.outdated),
        ("damaged", adopted.damaged),
    ] {
        out.field(format_args!("memory_taken_over_{name}"), count);
    }
    out.field("memory_manifest_room", warm.free().get());
}

fn stats(out: &mut Fields, facts: &Facts<'_>) {
    let Facts { node, totals, usage, .. } = facts;
    let rates = node.sampler.rates();
    let counters = &usage.counters;
    out.field("total_connections_received", node.stats.connections.get());
    out.field("total_commands_processed", totals.commands);
    out.field("instantaneous_ops_per_sec", format_args!("{:.0}", rates.commands));
    out.field("total_net_input_bytes", totals.net_in);
    out.field("total_net_output_bytes", totals.net_out);
    out.field("instantaneous_input_kbps", format_args!("{:.2}", rates.bytes_in / 1024.0));
    out.field("instantaneous_output_kbps", format_args!("{:.2}", rates.bytes_out / 1024.0));
    out.field("rejected_connections", node.stats.rejected.get());
    for name in ["sync_full", "sync_partial_ok", "sync_partial_err"] {
        out.field(name, 0);
    }
    out.field("expired_keys", counters.expired);
    out.field("evicted_keys", counters.evicted);
    out.field("evicted_clients", node.stats.evicted.get());
    out.field("evicted_bytes", counters.evicted_bytes);
    out.field(
        "keyspace_hits",
        (counters.hits + node.stats.untouched_hits.get()).saturating_sub(node.stats.flash_missed.get()),
    );
    out.field("keyspace_misses", counters.misses + node.stats.untouched_misses.get() + node.stats.flash_missed.get());
    let (channels, patterns, shards) = node.pubsub.counts();
    out.field("pubsub_channels", channels);
    out.field("pubsub_patterns", patterns);
    out.field("pubsubshard_channels", shards);
    out.field("migrate_cached_sockets", 0);
    out.field("latest_fork_usec", 0);
    out.field("total_forks", 0);
    out.field("total_error_replies", totals.errors);
    for (reason, word) in Reason::ALL.into_iter().zip(["auth", "cmd", "key", "channel"]) {
        out.field(format_args!("acl_access_denied_{word}"), node.users.log.count(reason));
    }
    out.field("protocol_errors", node.stats.protocol_errors.get());
    out.field("timed_out_connections", node.stats.timeouts.get());
    out.field("crc_refused", counters.crc_refused);
    out.field("scribbled", counters.scribbled);
    out.field("slow_commands", node.slow.len());
}

fn replication(out: &mut Fields, facts: &Facts<'_>) {
    out.field("role", "master");
    out.field("connected_slaves", 0);
    out.field("master_failover_state", "no-failover");
    out.field("master_replid", &facts.node.id);
    out.field("master_replid2", "0".repeat(40));
    out.field("master_repl_offset", 0);
    out.field("second_repl_offset", -1);
    for name in ["repl_backlog_active", "repl_backlog_size", "repl_backlog_first_byte_offset", "repl_backlog_histlen"] {
        out.field(name, 0);
    }
}

fn cpu(out: &mut Fields, _: &Facts<'_>) {
    let (user, system) = cpu_seconds(&std::fs::read_to_string("/proc/self/stat").unwrap_or_default());
    out.field("used_cpu_sys", format_args!("{system:.6}"));
    out.field("used_cpu_user", format_args!("{user:.6}"));
    out.field("used_cpu_sys_children", "0.000000");
    out.field("used_cpu_user_children", "0.000000");
}

/// Seconds in user and kernel mode, from `/proc/self/stat`: `proc_pid_stat(5)`, fields 14 and 15.
pub(crate) fn cpu_seconds(stat: &str) -> (f64, f64) {
    // The second field is the program's name in parentheses and may hold anything.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut ticks = after_name.split_ascii_whitespace().skip(11).map(|field| field.parse().unwrap_or(0.0));
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    let mut seconds = || ticks.next().unwrap_or(0.0) / per_second;
    (seconds(), seconds())
}

fn sum_over_workers<'n>(node: &'n Node, of: impl Fn(&'n crate::stats::WorkerStats) -> &'n AtomicU64) -> u64 {
    node.workers().iter().map(|worker| of(&worker.stats).load(Ordering::Relaxed)).sum()
}

fn command_stats(out: &mut Fields, facts: &Facts<'_>) {
    for &id in CommandId::ALL {
        let calls = sum_over_workers(facts.node, |stats| &stats.of(id).calls);
        let rejected = sum_over_workers(facts.node, |stats| &stats.of(id).rejected);
        if calls + rejected == 0 {
            continue;
        }
        let usec = sum_over_workers(facts.node, |stats| &stats.of(id).usec);
        let failed = sum_over_workers(facts.node, |stats| &stats.of(id).failed);
        out.field(
            format_args!("cmdstat_{}", name_of(id)),
            format_args!(
                "calls={calls},usec={usec},usec_per_call={:.2},rejected_calls={rejected},failed_calls={failed}",
                usec as f64 / calls.max(1) as f64
            ),
        );
    }
}

fn error_stats(out: &mut Fields, facts: &Facts<'_>) {
    for &word in ErrorWord::ALL {
        let count = sum_over_workers(facts.node, |stats| stats.errors_of(word));
        if count > 0 {
            out.field(format_args!("errorstat_{word}"), format_args!("count={count}"));
        }
    }
}

fn tiers(out: &mut Fields, facts: &Facts<'_>) {
    let Facts { sums, usage, .. } = facts;
    let used = sums.total - sums.free.min(sums.total);
    out.field(
        "tier_dram",
        format_args!(
            "state=online,capacity={},used={used},free={},objects={},hits={}",
            sums.capacity,
            sums.capacity.saturating_sub(used),
            usage.objects + usage.on_both - usage.on_flash,
            usage.counters.hits.saturating_sub(usage.counters.flash_hits)
        ),
    );
    let devices = facts.node.tier().map(|tier| tier.status()).unwrap_or_default();
    let attachments = facts.node.flash.as_ref().map(|flash| flash.fabrics.list()).unwrap_or_default();
    out.field("tiers_remote", attachments.len());
    out.field("tiers_waiting", attachments.iter().filter(|it| matches!(it.state, State::Waiting { .. })).count());
    for device in &devices {
        out.field(
            format_args!("tier_flash.{}", device.id),
            format_args!(
                "state={},capacity={},used={},free={},segments={},segments_free={},segments_quarantined={},reads={},\
                 read_bytes={},hits={},writes={},written_bytes={},reinserted={},adopted={},reclaimed={},dropped={},refused={},errors={},\
                 mismatches={},queue={},budget_left={},drain_percent={},scrub_percent={},scrub_passes={},scrub_bytes={},scrub_records={},\
                 scrub_rotten={},scrub_returned={},engine={}",
                state_word(&device.state),
                device.size.get(),
                device.used.get(),
                device.size.get().saturating_sub(device.used.get()),
                device.segments,
                device.segments_free,
                device.segments_quarantined,
                device.reads,
                device.read.get(),
                device.hits,
                device.spills,
                device.written.get(),
                device.reinserted,
                device.adopted,
                device.reclaimed,
                device.dropped,
                device.refused,
                device.errors,
                device.mismatches,
                device.in_flight,
                budget_left(device),
                drain_percent(device),
                scrub_percent(device),
                device.scrub.passes,
                device.scrub.bytes.get(),
                device.scrub.records,
                device.scrub.rotten,
                device.scrub.returned,
                device.engine
            ),
        );
    }
    out.field("flash_devices", devices.len());
    out.field("flash_objects", usage.on_flash);
    out.field("flash_bytes", usage.flash_bytes);
    out.field("flash_only_objects", usage.on_flash.saturating_sub(usage.on_both));
    out.field("dram_clean_bytes", usage.clean_bytes);
    out.field("dram_dirty_bytes", sums.live.saturating_sub(usage.clean_bytes));
    let counters = &usage.counters;
    let stats = &facts.node.stats;
    for (name, count) in [
        ("flash_hits", counters.flash_hits.saturating_sub(stats.flash_missed.get())),
        ("flash_missed", stats.flash_missed.get()),
        ("flash_timeouts", stats.flash_timeouts.get()),
        ("spilled_objects", counters.spilled),
        ("spilled_bytes", counters.spilled_bytes),
        ("promoted_objects", counters.promoted),
        ("demoted_objects", counters.demoted),
        ("dropped_unspilled_objects", counters.dropped_dirty),
        ("dropped_flash_objects", counters.dropped_flash),
        ("reinserted_objects", counters.reinserted),
    ] {
        out.field(name, count);
    }
    for (name, bytes) in [
        ("bytes_live", sums.live),
        ("bytes_reserved", sums.reserved),
        ("bytes_sealing", sums.sealing),
        ("bytes_doomed", sums.doomed),
        ("bytes_quarantine", sums.quarantine),
        ("bytes_slab_free", sums.slab_free),
        ("bytes_pinned", sums.pinned),
        ("bytes_graced", sums.graced),
    ] {
        out.field(name, bytes);
    }
}

fn segments(out: &mut Fields, facts: &Facts<'_>) {
    let node = facts.node;
    out.field("segments", node.segments.len());
    out.field("segments_prefaulted_bytes", node.prefaulted.load(Ordering::Relaxed));
    for (id, (segment, free)) in node.segments.iter().zip(node.store.fragmentation_by_segment()).enumerate() {
        out.field(
            format_args!("segment{id}"),
            format_args!(
                "length={},free={},longest_free_run={},free_runs={},pages={}",
                ByteLen(segment.len() as u64).get(),
                free.free,
                free.longest,
                free.runs,
                if segment.pages() == Pages::Huge { "huge" } else { "ordinary" }
            ),
        );
    }
}

fn leases(out: &mut Fields, facts: &Facts<'_>) {
    let Usage { leases, grants, counters, .. } = &facts.usage;
    out.field("leases", leases);
    out.field("grants", grants);
    out.field("leases_expired", counters.leases_expired);
    out.field("grants_expired", counters.grants_expired);
    out.field("sessions_bulk_tcp", facts.node.bulk.len());
}

fn transfers(out: &mut Fields, facts: &Facts<'_>) {
    let stats = &facts.node.stats;
    out.field("bulk_tcp_input_bytes", stats.bulk_in.get());
    out.field("bulk_tcp_output_bytes", stats.bulk_out.get());
    out.field("shm_input_bytes", stats.shm_in.get());
    out.field("shm_leased_bytes", stats.shm_leased.get());
    out.field("rdma_input_bytes", stats.rdma_in.get());
    out.field("rdma_output_bytes", stats.rdma_out.get());
    out.field("rdma", facts.node.rdma.summary());
    out.field("rdma_windows", facts.node.rdma.windows());
    let rdma = facts.node.rdma.stats();
    out.field("rdma_sessions", rdma.sessions);
    out.field("rdma_sessions_broken", rdma.broken);
    out.field("rdma_windows_lent", rdma.windows_lent);
    out.field("rdma_windows_made", rdma.windows_made);
    out.field("rdma_windows_bound", rdma.bound);
    out.field("rdma_stuck", rdma.stuck);
}

fn workers(out: &mut Fields, facts: &Facts<'_>) {
    for (number, worker) in facts.node.workers().iter().enumerate() {
        let stats = &worker.stats;
        out.field(
            format_args!("worker{number}"),
            format_args!(
                "connections={},bulky={},commands={},net_input_bytes={},net_output_bytes={},errors={}",
                stats.connections.load(Ordering::Relaxed),
                stats.bulky.load(Ordering::Relaxed),
                stats.commands.get(),
                stats.net_in.get(),
                stats.net_out.get(),
                stats.errors.get()
            ),
        );
    }
}

fn keyspace(out: &mut Fields, facts: &Facts<'_>) {
    let Usage { objects, expiring, .. } = facts.usage;
    if objects > 0 {
        out.field("db0", format_args!("keys={objects},expires={expiring},avg_ttl=0"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_chosen_as_in_redis() {
        let chosen = |words: &[&str]| -> Vec<&str> {
            let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
            SECTIONS.iter().filter(|section| is_wanted(section, &words)).map(|section| section.name).collect()
        };
        assert_eq!(chosen(&["memory", "CPU", "nosuch"]), ["Memory", "CPU"]);
        assert_eq!(chosen(&[]), chosen(&["default"]));
        assert!(!chosen(&[]).contains(&"Commandstats"));
        assert_eq!(chosen(&["all"]).len(), SECTIONS.len());
        assert_eq!(chosen(&["default", "commandstats"]).len(), chosen(&[]).len() + 1);
        assert_eq!(chosen(&["nosuch"]), [""; 0]);
    }

    #[test]
    fn bytes_are_written_as_redis_writes_them() {
        for (bytes, text) in [(0, "0B"), (1023, "1023B"), (1536, "1.50K"), (3 << 29, "1.50G"), (5 << 40, "5.00T")] {
            assert_eq!(Human(bytes).to_string(), text);
        }
    }

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let stat = "77 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 125 0 0 20";
        assert_eq!(cpu_seconds(stat), (250.0 / ticks, 125.0 / ticks));
        assert_eq!(cpu_seconds(""), (0.0, 0.0));
    }
}
