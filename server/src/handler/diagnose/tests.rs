//! What `DIAGNOSE` finds in figures that are made up: a node in order, and one thing at a time that is not.
//!
//! Invariants:
//! - Nothing is found in [`healthy`]; each test changes it by what its finding is about.

use super::*;

fn healthy() -> Vitals {
    let gib = ByteLen::gib(1).get();
    Vitals {
        memory: MemoryUse { slots: 900 << 20, scatter: 1.0, capacity: gib, ..MemoryUse::default() },
        sums: Accounting { total: gib, capacity: gib, live: 900 << 20, ..Accounting::default() },
        high_percent: 95,
        reserved_percent_max: 25,
        pinned_percent_max: 50,
        grace_percent_max: 10,
        clients: 10,
        clients_max: 10_000,
        segments_len: gib,
        prefaulted: gib,
        segments: 4,
        memory_available: Some(gib),
        devices: vec![device()],
        ..Vitals::default()
    }
}

fn device() -> DeviceStatus {
    DeviceStatus {
        id: 0,
        path: "/data/flash.0".into(),
        state: DeviceState::On,
        engine: "io_uring",
        size: ByteLen::gib(4),
        segment_len: ByteLen::mib(64),
        segments: 64,
        segments_free: 10,
        segments_quarantined: 0,
        used: ByteLen::gib(3),
        spills: 100,
        reinserted: 0,
        written: ByteLen::gib(3),
        reinserted_bytes: ByteLen(0),
        adopted: 0,
        hits: 100,
        reads: 100,
        read: ByteLen::gib(1),
        syncs: 10,
        errors: 0,
        mismatches: 0,
        reclaimed: 0,
        dropped: 0,
        refused: 0,
        condemned: 0,
        budget_left: Some(ByteLen::gib(1)),
        in_flight: 0,
        drain: None,
        scrub: storage::flash::tier::ScrubStatus::default(),
    }
}

#[test]
fn a_healthy_node_scores_a_hundred() {
    assert_eq!(Finding::of(&healthy()), []);
    assert_eq!(score(&[]), 100);
}

#[test]
fn each_rule_finds_what_it_is_for_and_nothing_else() {
    let gib = ByteLen::gib(1).get();
    let check = |about: &str, spoil: &dyn Fn(&mut Vitals)| {
        let mut vitals = healthy();
        spoil(&mut vitals);
        let findings = Finding::of(&vitals);
        assert_eq!(findings.iter().map(|finding| finding.about).collect::<Vec<_>>(), [about]);
        assert!(score(&findings) < 100);
        assert!(findings[0].what.ends_with('.') && findings[0].remedy.ends_with('.'), "{:?}", findings[0]);
    };
    check("prefault", &|v| v.prefaulted = gib / 2);
    check("watermark", &|v| v.memory.slots = gib);
    check("eviction-age", &|v| {
        v.eviction_rate = 100.0 * 1048576.0;
        v.devices.clear();
    });
    check("fragmentation", &|v| v.memory.scatter = 1.5);
    check("fragmentation", &|v| v.memory.holes = 600 << 20);
    check("reservations", &|v| v.sums.reserved = 240 << 20);
    check("pins", &|v| v.sums.pinned = 500 << 20);
    check("graces", &|v| v.sums.graced = 100 << 20);
    check("clients", &|v| v.clients = 9_900);
    check("clients", &|v| v.rejected = 1);
    check("writers", &|v| v.counters.crc_refused = 1);
    check("tier-off", &|v| v.devices[0].state = DeviceState::Off { why: "EIO".to_owned() });
    check("tier-full", &|v| v.devices[0].state = DeviceState::Full);
    check("tier-waiting", &|v| v.waiting = vec![("nqn.x".to_owned(), "refused".to_owned())]);
    check("flash-rot", &|v| v.devices[0].mismatches = 1);
    check("flash-rot", &|v| v.devices[0].scrub.rotten = 1);
    check("flash-slow", &|v| v.flash_timeouts = 1);
    check("spill-behind", &|v| v.counters.dropped_dirty = 1);
    check("write-budget", &|v| v.devices[0].budget_left = Some(ByteLen(0)));
    check("memory-left", &|v| v.memory_damaged = 1);
    check("manifest", &|v| v.manifest = Some((81, 80)));
    check("leases", &|v| v.sums.doomed = 200 << 20);
    check("hit-ratio", &|v| (v.hits, v.misses) = (100, 20_000));
    check("flash-unread", &|v| (v.devices[0].written, v.devices[0].read) = (ByteLen::gib(50), ByteLen::mib(100)));
    check("flash-latency", &|v| (v.flash_reads, v.flash_p99) = (2000, Some(Duration::from_millis(262))));
    check("tls", &|v| v.tls_failed = 1);
}

#[test]
fn the_worst_comes_first_and_the_score_ends_at_zero() {
    let mut vitals = healthy();
    vitals.prefaulted = 0;
    vitals.memory_available = Some(0);
    vitals.clients = vitals.clients_max;
    vitals.sums.reserved = 250 << 20;
    let findings = Finding::of(&vitals);
    let costs: Vec<u64> = findings.iter().map(|finding| finding.severity.cost()).collect();
    assert!(costs.is_sorted_by(|a, b| a >= b), "{costs:?}");
    assert_eq!((findings.len(), score(&findings)), (4, 0));
}

#[test]
fn what_the_machine_lacks_is_told_and_what_is_in_order_is_not() {
    let check = |verdict, about| Check { verdict, about, what: "w".to_owned(), remedy: "r".to_owned() };
    let severity =
        |verdict, about| Finding::of_check(&check(verdict, about)).map(|found| (found.severity, found.of_memory));
    assert_eq!(severity(Verdict::Ok, "clock"), None);
    assert_eq!(severity(Verdict::Warn, "huge-pages"), Some((Severity::Note, true)));
    assert_eq!(severity(Verdict::Fail, "nvme"), Some((Severity::Warning, false)));
}
