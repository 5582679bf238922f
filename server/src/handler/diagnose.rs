//! `DIAGNOSE`: what is wrong with the node, and what to do about it.
//!
//! Role: rules over numbers that `INFO` shows too. A rule is a function of [`Vitals`] and so has a test without a node. What is
//! wrong with the machine is [`crate::doctor`]'s to find.
//!
//! Invariants:
//! - The score is 100 exactly when nothing is found.

use super::aside::Aside;
use super::job::Job;
use super::memory::{MemoryUse, percent};
use crate::dispatch::{Ctx, Flow};
use crate::doctor::{Check, Depth, Verdict};
use crate::fabrics::State;
use crate::latency::Level;
use crate::node::Node;
use crate::warm::Warm;
use protocol::base::{ByteLen, StableMemory as _};
use protocol::command::CommandId;
use protocol::resp::{WireError, Writer};
use std::sync::atomic::Ordering;
use std::time::Duration;
use storage::flash::tier::{DeviceState, DeviceStatus};
use storage::warm::Manifest;
use storage::{Accounting, Counters, Pages};

/// Objects that go sooner than this after their last use did not have time to be read again.
const RESIDENCE_MIN: Duration = Duration::from_secs(60);
/// Time that a look at the machine gets: a disk that hangs must not keep what else there is to say.
const EXAMINE_MAX: Duration = Duration::from_secs(5);
/// Share of a limit at which it is near, in percent.
const NEAR_PERCENT: f64 = 90.0;

/// Share of the capacity that unlinked objects may hold because somebody still reads them, in percent.
const DOOMED_PERCENT_MAX: f64 = 10.0;
/// Reads from which on a ratio says something.
const READS_MIN: u64 = 10_000;
/// A ratio of hits below which a cache is hardly one, in percent.
const HIT_PERCENT_MIN: f64 = 10.0;
/// A flash tier of which less is ever read than this share of what was written is worn for little, in percent.
const FLASH_READ_PERCENT_MIN: f64 = 1.0;
/// Time that nearly all reads of a flash device take at most.
const FLASH_P99_MAX: Duration = Duration::from_millis(200);
/// Reads of flash from which on their slowest percent says something.
const FLASH_READS_MIN: u64 = 1_000;

/// How bad it is, and what it costs of the score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// Good to know.
    Note,
    /// Will hurt, or does so a little.
    Warning,
    /// Hurts now.
    Critical,
}

impl Severity {
    pub(crate) const ALL: [Self; 3] = [Self::Note, Self::Warning, Self::Critical];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    const fn cost(self) -> u64 {
        match self {
            Self::Note => 2,
            Self::Warning => 10,
            Self::Critical => 40,
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// What rule found it: stable, for programs.
    pub(crate) about: &'static str,
    pub(crate) what: String,
    pub(crate) remedy: String,
    /// Whether `MEMORY DOCTOR` tells it too.
    pub(crate) of_memory: bool,
}

/// The numbers that the rules look at.
#[derive(Clone, Debug, Default)]
struct Vitals {
    memory: MemoryUse,
    sums: Accounting,
    counters: Counters,
    high_percent: u8,
    reserved_percent_max: u8,
    pinned_percent_max: u8,
    grace_percent_max: u8,
    eviction_rate: f64,
    clients: u64,
    clients_max: u64,
    rejected: u64,
    timed_out: u64,
    segments_len: u64,
    prefaulted: u64,
    huge_segments: usize,
    segments: usize,
    memory_available: Option<u64>,
    devices: Vec<DeviceStatus>,
    flash_timeouts: u64,
    /// Objects that were left in memory and are dropped.
    memory_damaged: u64,
    /// Bytes that the manifest of a stop now would take, and that its file system has, if memory is to outlive the process.
    manifest: Option<(u64, u64)>,
    /// Devices on other machines that are not attached, and why.
    waiting: Vec<(String, String)>,
    /// Reads that found their object, and those that did not.
    hits: u64,
    misses: u64,
    leases: u64,
    /// Reads of flash, and the time that 99 of 100 took at most.
    flash_reads: u64,
    flash_p99: Option<Duration>,
    tls_failed: u64,
}

impl Vitals {
    fn of(node: &Node) -> Self {
        let config = node.config.read();
        let ((in_dram, on_flash), misses) = node.hits_and_misses();
        let flash_gets = node.took(CommandId::Get, Level::Flash);
        Self {
            hits: in_dram + on_flash,
            misses,
            leases: node.store.usage().leases,
            flash_reads: flash_gets.count(),
            // What exceeds every bound is as good as an hour.
            flash_p99: (flash_gets.count() > 0)
                .then(|| Duration::from_secs_f64(flash_gets.quantile_seconds(0.99).unwrap_or(3600.0))),
            tls_failed: node.stats.tls_failed.get(),
            memory: MemoryUse::of(node),
            sums: node.store.accounting(),
            counters: node.store.usage().counters,
            high_percent: config.watermark_high_percent.0,
            reserved_percent_max: config.reserved_percent_max.0,
            pinned_percent_max: config.pinned_percent_max.0,
            grace_percent_max: config.probe_grace_percent_max.0,
            eviction_rate: node.sampler.eviction_rate(),
            clients: node.clients.len() as u64,
            clients_max: config.maxclients as u64,
            rejected: node.stats.rejected.get(),
            timed_out: node.stats.timeouts.get(),
            segments_len: node.segments.iter().map(|segment| segment.len() as u64).sum(),
            prefaulted: node.prefaulted.load(Ordering::Relaxed),
            huge_segments: node.segments.iter().filter(|segment| segment.pages() == Pages::Huge).count(),
            segments: node.segments.len(),
            // Files of segments were allocated whole at the start.
            memory_available: if node.warm.is_none() { available() } else { None },
            devices: node.tier().map(|tier| tier.status()).unwrap_or_default(),
            flash_timeouts: node.stats.flash_timeouts.get(),
            memory_damaged: node.warm.as_ref().and_then(Warm::progress).map_or(0, |(_, adopted)| adopted.damaged),
            manifest: node.warm.as_ref().map(|warm| (Manifest::len_about(&node.store.usage()), warm.free().get())),
            waiting: waiting(node),
        }
    }
}

fn waiting(node: &Node) -> Vec<(String, String)> {
    let attachments = node.flash.as_ref().map(|flash| flash.fabrics.list()).unwrap_or_default();
    let waiting = attachments.into_iter().filter_map(|it| match it.state {
        State::Waiting { why } => Some((it.target.to_string(), why)),
        State::Attached { .. } => None,
    });
    waiting.collect()
}

/// Bytes that the machine could still give.
fn available() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

const RULES: [fn(&Vitals) -> Option<Finding>; 24] = [
    missing_memory,
    prefault,
    watermark,
    residence,
    fragmentation,
    reservations,
    pins,
    graces,
    clients,
    payloads,
    devices_off,
    devices_full,
    devices_waiting,
    rot,
    slow_flash,
    dropped,
    budget,
    memory_left,
    manifest,
    lease_pressure,
    hit_ratio,
    unread_flash,
    late_flash,
    handshakes,
];

fn found(
    severity: Severity,
    about: &'static str,
    what: String,
    remedy: impl Into<String>,
    of_memory: bool,
) -> Option<Finding> {
    Some(Finding { severity, about, what, remedy: remedy.into(), of_memory })
}

fn missing_memory(v: &Vitals) -> Option<Finding> {
    let missing = v.segments_len.saturating_sub(v.prefaulted);
    // Reserved huge pages are there already.
    if v.huge_segments == v.segments || v.memory_available.is_none_or(|available| available >= missing) {
        return None;
    }
    found(
        Severity::Critical,
        "memory",
        format!("{} of the segments are not backed yet, and the machine has less than that left.", ByteLen(missing)),
        "Lower `dram`, or free memory: the kernel kills the server when it cannot back a page.",
        true,
    )
}

fn prefault(v: &Vitals) -> Option<Finding> {
    if v.prefaulted >= v.segments_len {
        return None;
    }
    found(
        Severity::Note,
        "prefault",
        format!("{:.0} % of the segments' pages are in memory so far.", percent(v.prefaulted, v.segments_len)),
        "Wait: until it is done, first writes are slower.",
        true,
    )
}

fn watermark(v: &Vitals) -> Option<Finding> {
    let unpublished = v.sums.reserved + v.sums.sealing + v.sums.doomed + v.sums.quarantine;
    let held = unpublished + v.sums.pinned;
    let fill = percent(v.memory.slots, v.sums.capacity);
    // A little above the mark is how it looks between two looks of upkeep.
    if fill < f64::from(v.high_percent) + 3.0 && fill < 99.5 {
        return None;
    }
    let severity = if percent(held, v.sums.capacity) > 50.0 { Severity::Critical } else { Severity::Warning };
    found(
        severity,
        "watermark",
        format!("{fill:.1} % of the capacity is taken; eviction starts at {} %.", v.high_percent),
        format!(
            "Writers outrun eviction, or {} cannot be evicted (pinned, reserved, under lease). Give more `dram`, \
             lower `watermark-high-percent`, or look for pins that nobody takes back.",
            ByteLen(held)
        ),
        true,
    )
}

fn residence(v: &Vitals) -> Option<Finding> {
    // With flash it is not gone when it leaves DRAM.
    if v.eviction_rate <= 0.0 || !v.devices.is_empty() {
        return None;
    }
    let seconds = v.sums.live as f64 / v.eviction_rate;
    let residence = Duration::try_from_secs_f64(seconds).ok()?;
    if residence >= RESIDENCE_MIN {
        return None;
    }
    found(
        Severity::Warning,
        "eviction-age",
        format!("At the present rate of eviction an object that nobody reads is gone after {seconds:.0} s."),
        "The working set is larger than the capacity: give more `dram`, or store less of what is not read again.",
        false,
    )
}

fn fragmentation(v: &Vitals) -> Option<Finding> {
    let holes = percent(v.memory.holes, v.memory.slots);
    if v.memory.scatter < 1.2 && (holes < 50.0 || v.memory.slots < v.segments_len / 20) {
        return None;
    }
    found(
        Severity::Warning,
        "fragmentation",
        format!(
            "Free bytes are scattered (ratio {:.2}), and {holes:.0} % of the bytes taken are holes of shared pages.",
            v.memory.scatter
        ),
        "Large objects evict more than their length to get a run of pages. Fewer different lengths, or larger segments \
         (`segment-len`), help.",
        true,
    )
}

/// `held` is near `percent_max` of the capacity.
fn is_near(held: u64, percent_max: u8, capacity: u64) -> bool {
    held > 0 && percent(held, capacity) >= f64::from(percent_max) * NEAR_PERCENT / 100.0
}

fn reservations(v: &Vitals) -> Option<Finding> {
    let held = v.sums.reserved + v.sums.sealing;
    if !is_near(held, v.reserved_percent_max, v.sums.capacity) {
        return None;
    }
    found(
        Severity::Critical,
        "reservations",
        format!("{} are reserved and not committed; {} % is the limit.", ByteLen(held), v.reserved_percent_max),
        "Writers get -QUOTA. Commit sooner, lower `grant-ms`, or raise `reserved-percent-max`.",
        true,
    )
}

fn pins(v: &Vitals) -> Option<Finding> {
    if !is_near(v.sums.pinned, v.pinned_percent_max, v.sums.capacity) {
        return None;
    }
    found(
        Severity::Warning,
        "pins",
        format!("{} are pinned; {} % of the capacity is the limit.", ByteLen(v.sums.pinned), v.pinned_percent_max),
        "PIN answers -QUOTA. UNPIN what is not needed, pin with a TTL, or raise `pinned-percent-max`.",
        true,
    )
}

fn graces(v: &Vitals) -> Option<Finding> {
    if !is_near(v.sums.graced, v.grace_percent_max, v.sums.capacity) {
        return None;
    }
    found(
        Severity::Note,
        "graces",
        format!("{} are kept because they were probed; more probes give no grace now.", ByteLen(v.sums.graced)),
        "Probe what will be read, lower `probe-grace-ms`, or raise `probe-grace-percent-max`.",
        false,
    )
}

fn clients(v: &Vitals) -> Option<Finding> {
    let near = percent(v.clients, v.clients_max) >= NEAR_PERCENT;
    if !near && v.rejected == 0 {
        return None;
    }
    found(
        if near { Severity::Critical } else { Severity::Warning },
        "clients",
        format!("{} of {} connections are taken; {} were refused.", v.clients, v.clients_max, v.rejected),
        "Raise `maxclients`, set `timeout` so that idle ones go, or look for clients that connect anew for each request.",
        false,
    )
}

fn payloads(v: &Vitals) -> Option<Finding> {
    let Counters { crc_refused, scribbled, grants_expired, .. } = v.counters;
    if crc_refused == 0 && scribbled == 0 && grants_expired == 0 && v.timed_out == 0 {
        return None;
    }
    found(
        if crc_refused > 0 || scribbled > 0 { Severity::Warning } else { Severity::Note },
        "writers",
        format!(
            "{crc_refused} payloads had a wrong checksum, {scribbled} objects were written over after COMMIT, \
             {grants_expired} grants ran out uncommitted, \
             {} connections were closed because they stood still.",
            v.timed_out
        ),
        "Look for clients that die, stop, or write after COMMIT. CONFIG RESETSTAT starts the counts again.",
        false,
    )
}

/// Names of the devices for which `holds`, as `TIER LIST` has them.
fn names(v: &Vitals, holds: impl Fn(&DeviceStatus) -> bool) -> String {
    let names: Vec<String> =
        v.devices.iter().filter(|device| holds(device)).map(|it| format!("flash.{}", it.id)).collect();
    names.join(", ")
}

fn devices_off(v: &Vitals) -> Option<Finding> {
    let (device, why) = v.devices.iter().find_map(|device| match &device.state {
        DeviceState::Off { why } => Some((device, why)),
        DeviceState::On | DeviceState::Full | DeviceState::Leaving => None,
    })?;
    found(
        Severity::Critical,
        "tier-off",
        format!(
            "{} is fenced off ({}: {why}): what lies there only is missed.",
            names(v, |device| matches!(device.state, DeviceState::Off { .. })),
            device.path.display()
        ),
        "Look at the device and the kernel's log. It is probed every few seconds and comes back by itself, or TIER DETACH \
         it with NODRAIN.",
        false,
    )
}

fn devices_full(v: &Vitals) -> Option<Finding> {
    let full = names(v, |device| device.state == DeviceState::Full);
    if full.is_empty() {
        return None;
    }
    found(
        Severity::Critical,
        "tier-full",
        format!("{full} takes nothing: what is pinned or set aside leaves no room to reclaim segments."),
        "UNPIN what need not be kept, or attach another device (TIER ATTACH). Segments set aside come back once they were scrubbed.",
        false,
    )
}

fn devices_waiting(v: &Vitals) -> Option<Finding> {
    let (target, why) = v.waiting.first()?;
    found(
        Severity::Critical,
        "tier-waiting",
        format!("{} flash devices on other machines are not attached ({target}: {why}).", v.waiting.len()),
        "Look at the target and the network to it. It is tried every few seconds; TIER LIST has its name, and TIER DETACH \
         with that gives it up.",
        false,
    )
}

fn rot(v: &Vitals) -> Option<Finding> {
    let mismatches: u64 = v.devices.iter().map(|device| device.mismatches).sum();
    let rotten: u64 = v.devices.iter().map(|device| device.scrub.rotten).sum();
    let segments: u64 = v.devices.iter().map(|device| device.segments_quarantined).sum();
    if mismatches == 0 && rotten == 0 && segments == 0 {
        return None;
    }
    found(
        Severity::Warning,
        "flash-rot",
        format!(
            "{mismatches} records on {} were not what was written when they were read, {rotten} more were found by scrubs; \
             {segments} segments are set aside.",
            names(v, |device| device.mismatches > 0 || device.scrub.rotten > 0 || device.segments_quarantined > 0)
        ),
        "Nobody was given wrong bytes: they were missed. TIER SCRUB finds what else is rotten; replace the device if the \
         number grows.",
        false,
    )
}

fn slow_flash(v: &Vitals) -> Option<Finding> {
    if v.flash_timeouts == 0 {
        return None;
    }
    found(
        Severity::Warning,
        "flash-slow",
        format!("{} reads of flash were given up because they took too long.", v.flash_timeouts),
        "Look for a device that is saturated, throttled or failing. CONFIG RESETSTAT starts the count again.",
        false,
    )
}

fn dropped(v: &Vitals) -> Option<Finding> {
    if v.counters.dropped_dirty == 0 {
        return None;
    }
    found(
        Severity::Warning,
        "spill-behind",
        format!("{} objects were dropped before they could be written to flash.", v.counters.dropped_dirty),
        "Writers outrun the devices: attach another (TIER ATTACH), raise `spill-wait-ms`, or give more `dram`. CONFIG \
         RESETSTAT starts the count again.",
        false,
    )
}

fn budget(v: &Vitals) -> Option<Finding> {
    let spent = names(v, |device| device.budget_left == Some(ByteLen(0)));
    if spent.is_empty() {
        return None;
    }
    found(
        Severity::Note,
        "write-budget",
        format!("Today's write budget of {spent} is spent: only what is evicted a second time is still written."),
        "Wait for tomorrow, raise `flash-write-budget`, or give more `dram`.",
        false,
    )
}

fn lease_pressure(v: &Vitals) -> Option<Finding> {
    if percent(v.sums.doomed, v.sums.capacity) < DOOMED_PERCENT_MAX {
        return None;
    }
    found(
        Severity::Warning,
        "leases",
        format!(
            "{} of objects that were deleted, replaced or evicted are still held by their readers; there are {} leases.",
            ByteLen(v.sums.doomed),
            v.leases
        ),
        "Release leases when their bytes are read, lease for a shorter time, or lower `lease-ms-max` and \
         `leased-client-percent-max`.",
        true,
    )
}

fn hit_ratio(v: &Vitals) -> Option<Finding> {
    let reads = v.hits + v.misses;
    let ratio = percent(v.hits, reads);
    if reads < READS_MIN || ratio >= HIT_PERCENT_MIN {
        return None;
    }
    found(
        Severity::Note,
        "hit-ratio",
        format!("{ratio:.1} % of {reads} reads found their object."),
        "Either nothing is read twice, or it is gone by then: give more `dram` or flash, and look whether readers and \
         writers name the same keys. CONFIG RESETSTAT starts the count again.",
        false,
    )
}

fn unread_flash(v: &Vitals) -> Option<Finding> {
    let written: u64 = v.devices.iter().map(|device| device.written.get()).sum();
    let read: u64 = v.devices.iter().map(|device| device.read.get()).sum();
    let size: u64 = v.devices.iter().map(|device| device.size.get()).sum();
    // Not before all of it was written over.
    if written <= size || percent(read, written) >= FLASH_READ_PERCENT_MIN {
        return None;
    }
    found(
        Severity::Note,
        "flash-unread",
        format!("{} were written to flash and {} read from it.", ByteLen(written), ByteLen(read)),
        "The devices wear for little: set `flash-write-budget`, give them more room, or do without (`nvme = none`).",
        false,
    )
}

fn late_flash(v: &Vitals) -> Option<Finding> {
    let p99 = v.flash_p99.filter(|p99| v.flash_reads >= FLASH_READS_MIN && *p99 > FLASH_P99_MAX)?;
    found(
        Severity::Warning,
        "flash-latency",
        format!("One GET from flash in a hundred takes longer than {:.0} ms.", p99.as_secs_f64() * 500.0),
        "Look for a device that is saturated or throttled: TIER LIST has its queue. CONFIG RESETSTAT starts the count \
         again.",
        false,
    )
}

fn handshakes(v: &Vitals) -> Option<Finding> {
    if v.tls_failed == 0 {
        return None;
    }
    found(
        Severity::Note,
        "tls",
        format!("{} handshakes of TLS came to nothing.", v.tls_failed),
        "The log says who and why: plain text, no certificate, or one of strangers. CONFIG RESETSTAT starts the count \
         again.",
        false,
    )
}

impl Finding {
    /// All there is to say of a node, the worst first. Its machine is as it was seen last.
    pub(crate) fn all(node: &Node) -> Vec<Self> {
        let mut findings = Self::of(&Vitals::of(node));
        findings.extend(node.checks().iter().filter_map(Self::of_check));
        Self::worst_first(findings)
    }

    /// What the machine lacks. It runs all the same, so that nothing of it is critical.
    fn of_check(check: &Check) -> Option<Self> {
        let Check { verdict, about, what, remedy } = check.clone();
        let severity = match verdict {
            Verdict::Ok => return None,
            Verdict::Warn => Severity::Note,
            Verdict::Fail => Severity::Warning,
        };
        Some(Self { severity, about, what, remedy, of_memory: about == "huge-pages" })
    }

    fn of(vitals: &Vitals) -> Vec<Self> {
        Self::worst_first(RULES.iter().filter_map(|rule| rule(vitals)).collect())
    }

    fn worst_first(mut findings: Vec<Self>) -> Vec<Self> {
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity.cost()));
        findings
    }
}

fn memory_left(v: &Vitals) -> Option<Finding> {
    if v.memory_damaged == 0 {
        return None;
    }
    found(
        Severity::Warning,
        "memory-left",
        format!("{} objects were not what the life before had left in memory, and were dropped.", v.memory_damaged),
        "Look at who else runs as the server's user and can write below `dram-path`, and at the machine's memory errors.",
        true,
    )
}

fn manifest(v: &Vitals) -> Option<Finding> {
    let (wanted, free) = v.manifest.filter(|(wanted, free)| wanted > free)?;
    found(
        Severity::Warning,
        "manifest",
        format!(
            "A stop now could not leave memory to the next start: its manifest takes {}, and the file system of \
             `dram-path` has {}.",
            ByteLen(wanted),
            ByteLen(free)
        ),
        "Make that file system larger: 80 bytes an object beyond `dram`.",
        true,
    )
}

/// 100 if all is well.
pub(crate) fn score(findings: &[Finding]) -> u64 {
    100u64.saturating_sub(findings.iter().map(|finding| finding.severity.cost()).sum())
}

/// `DIAGNOSE`
pub(crate) fn diagnose(_: &mut Ctx<'_>) -> Result<Flow, WireError> {
    Ok(Flow::Wait(Job::Aside(Aside::new(CommandId::Diagnose, |node| {
        node.examine_machine(Depth::RunningAndTried, EXAMINE_MAX);
        let findings = Finding::all(node);
        move |reply: &mut Writer<'_>| {
            reply.map(2);
            reply.field("score").count(score(&findings));
            reply.field("findings").array(findings.len());
            for finding in findings {
                reply.map(4);
                reply.field("severity").bulk(finding.severity.word().as_bytes());
                reply.field("about").bulk(finding.about.as_bytes());
                reply.field("what").bulk(finding.what.as_bytes());
                reply.field("what-to-do").bulk(finding.remedy.as_bytes());
            }
        }
    }))))
}

#[cfg(test)]
mod tests;
