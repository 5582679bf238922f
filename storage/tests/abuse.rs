//! What hostile and unlucky clients try, and what it may cost the others.

use protocol::base::{ByteLen, Crc, Instant, Millis, RawSpan, SessionId, StableMemory, copy_into, crc_of};
use std::sync::Arc;
use storage::{Account, Condition, GrantTerms, Granted, PlainMemory, Seal, Store, StoreConfig, StoreError, Terms};

const NOW: Instant = Instant(1_000_000_000_000);
const SESSION: SessionId = SessionId(7);

fn config() -> StoreConfig {
    StoreConfig { watermark_high_percent: 100, watermark_low_percent: 100, ..StoreConfig::default() }
}

fn store(mib: usize, config: StoreConfig) -> Store {
    Store::new(config, vec![Arc::new(PlainMemory::new(mib << 20).expect("memory"))])
}

fn set(store: &Store, now: Instant, key: impl AsRef<[u8]>, len: usize) -> Result<(), StoreError> {
    let value = vec![u8::try_from(len % 251).expect("a byte"); len];
    store.set(now, key.as_ref(), &value, &Account::new(), &Terms::default()).map(drop)
}

fn terms(terms: Terms) -> GrantTerms {
    GrantTerms { session: SESSION, deadline: NOW + Millis(5_000), exposed: false, terms }
}

fn commit(store: &Store, granted: Granted, bytes: Option<u64>) -> Result<(), StoreError> {
    let Seal::Begun(seal) = store.seal(NOW, granted.grant, SESSION, bytes)? else { panic!("committed before") };
    let crc = crc_of(seal.span());
    seal.finish(NOW, crc, crc).map(drop)
}

#[test]
fn lengths_near_the_end_of_numbers_are_refused() {
    let store = store(4, config());
    let account = Account::new();
    for length in [u64::MAX, u64::MAX - 15, u64::MAX - 63, u64::MAX - 4096, 1 << 63, (1 << 63) - 1, 1 << 40] {
        for key in [&b""[..], b"k", &[7; 16 << 10]] {
            assert!(matches!(store.reserve(NOW, key, length, &account), Err(StoreError::TooBig { .. })), "{length}");
            let refused = store.grant(NOW, key, length, &account, terms(Terms { pin: true, ..Terms::default() }));
            assert!(matches!(refused, Err(StoreError::TooBig { .. })), "{length}");
            assert!(store.charge_of(length, key.len()).get() >= 1 << 40);
        }
    }
    assert!(matches!(store.reserve(NOW, &[7; (16 << 10) + 1], 1, &account), Err(StoreError::KeyLen { .. })));
    let granted = store.grant(NOW, b"k", 100_000, &account, terms(Terms::default())).expect("room");
    for (offset, length) in [(u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX), (100_000, 1), (0, 100_001)] {
        let refused = store.write(NOW, granted.grant, SESSION, offset, length);
        assert!(matches!(refused, Err(StoreError::Range { .. })), "{offset} {length}");
    }
    assert!(store.write(NOW, granted.grant, SESSION, 100_000, 0).is_ok(), "no bytes at the end are bytes inside");
    assert!(matches!(store.seal(NOW, granted.grant, SESSION, Some(u64::MAX)), Err(StoreError::Range { .. })));
    store.audit();
}

#[test]
fn the_longest_object_holds_for_small_ones_too() {
    let store = store(4, StoreConfig { object_len_max: ByteLen(1_000), ..config() });
    assert!(set(&store, NOW, b"k", 1_000).is_ok());
    assert!(matches!(set(&store, NOW, b"k", 1_001), Err(StoreError::TooBig { .. })));
}

#[test]
fn a_grace_is_given_once_until_the_next_read() {
    let store = store(4, config());
    set(&store, NOW, b"probed", 64 << 10).expect("room");
    let at = |ms: u64| NOW + Millis(ms);
    let graced = |ms: u64| {
        store.maintain(at(ms));
        assert!(store.probe(at(ms), b"probed"));
        store.accounting().graced > 0
    };
    assert!(graced(0) && graced(2_000) && graced(4_999));
    assert!(!graced(5_000), "probes do not extend it");
    assert!(!graced(60_000), "nor start another");
    assert!(store.lookup(at(60_000), |n| (n == 0).then_some(&b"probed"[..]), None).expect("no leases").prefix == 1);
    assert!(!graced(60_001), "a lookup is a probe too");
    store.touch(at(60_002), b"probed");
    assert!(graced(60_003), "a read earns the next");
    set(&store, at(60_004), b"probed", 64 << 10).expect("room");
    assert_eq!(store.accounting().graced, 0);
    assert!(graced(60_005), "and so does a write");
    store.audit();
}

#[test]
fn graced_objects_do_not_hide_the_others_from_eviction() {
    // 3,000 graced ones are the oldest of all: more than any one call passes over.
    let store = store(16, StoreConfig { grace_percent_max: 50, ..config() });
    for n in 0..3_000u32 {
        set(&store, NOW, n.to_be_bytes(), 1_000).expect("room");
    }
    let later = NOW + Millis(1_000);
    for n in 0..100u32 {
        set(&store, NOW + Millis(u64::from(n) + 1), (10_000 + n).to_be_bytes(), 64 << 10).expect("room");
    }
    for n in 0..3_000u32 {
        assert!(store.probe(later, &n.to_be_bytes()));
    }
    assert_eq!(store.evict(later, 10), 10);
    for n in 0..100u32 {
        assert_eq!(store.contains(later, &(10_000 + n).to_be_bytes()), n >= 10, "{n}: the oldest go first");
    }
    assert_eq!(store.evict(later, 90), 90);
    assert_eq!((0..3_000u32).filter(|n| store.contains(later, &n.to_be_bytes())).count(), 3_000);
    assert_eq!(store.evict(later, 1), 0, "the graced are spared");
    store.maintain(later + Millis(5_000));
    assert_eq!(store.evict(later + Millis(5_000), 10_000), 3_000);
    store.audit();
}

#[test]
fn graces_hold_no_more_than_their_share() {
    let store = store(4, config());
    for n in 0..40u32 {
        set(&store, NOW, n.to_be_bytes(), 64 << 10).expect("room");
        store.probe(NOW, &n.to_be_bytes());
    }
    let sum = store.accounting();
    assert!(sum.graced > 0 && sum.graced <= sum.capacity / 10, "{sum:?}");
    store.audit();
}

#[test]
fn pins_that_come_with_a_write_are_charged_like_others() {
    let store = store(4, config());
    let account = Account::new();
    let pinned = Terms { pin: true, ..Terms::default() };
    let mut refused = 0;
    for n in 0..60u32 {
        let granted = store.grant(NOW, &n.to_be_bytes(), 64 << 10, &account, terms(pinned.clone()));
        match granted.and_then(|granted| commit(&store, granted, None)) {
            Ok(()) => {}
            Err(StoreError::Quota { what: "pins", .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    let sum = store.accounting();
    assert!(sum.pinned <= sum.capacity / 2, "{sum:?}");
    assert!(refused > 20);
    // A replaced object gives its share to its successor.
    let value = vec![1; 64 << 10];
    store.set(NOW, &0u32.to_be_bytes(), &value, &account, &pinned).expect("its predecessor was pinned");
    assert_eq!(store.accounting().pinned, sum.pinned);
    // Two grants may pass the early check; the second to be published is refused.
    store.clear();
    let granted = |n: u32| {
        let terms = GrantTerms { session: SESSION, ..terms(pinned.clone()) };
        store.grant(NOW, &n.to_be_bytes(), 64 << 10, &Account::new(), terms).expect("room")
    };
    let early: Vec<Granted> = (0..12).map(granted).collect();
    for n in 100..123u32 {
        set(&store, NOW, n.to_be_bytes(), 64 << 10).expect("room");
        assert_eq!(store.pin(NOW, &n.to_be_bytes(), None).map(|pins| pins.expect("live")), Ok(1));
    }
    let results: Vec<bool> = early.into_iter().map(|granted| commit(&store, granted, None).is_ok()).collect();
    assert!(results.contains(&true) && results.contains(&false), "{results:?}");
    assert!(store.accounting().pinned <= store.accounting().capacity / 2);
    assert_eq!(store.accounting().reserved, 0);
    store.audit();
}

#[test]
fn deadlines_set_in_a_loop_cost_no_memory() {
    let store = store(4, StoreConfig { shards: 1, ..config() });
    set(&store, NOW, b"k", 100).expect("room");
    let before = store.usage().index_bytes;
    for n in 0..50_000u64 {
        let at = NOW + Millis(1_000_000 + n % 2);
        assert!(store.expire(NOW, b"k", Some(at), |_| true));
        assert!(store.expire(NOW, b"k", None, |_| true));
        assert!(store.expire(NOW, b"k", Some(NOW + Millis(1_000_000)), |_| true));
    }
    for n in 0..50_000u64 {
        let leased = store.lease(NOW, b"k", NOW + Millis(60_000), SESSION, None).expect("few").expect("live");
        store.renew(NOW, leased.lease, SESSION, NOW + Millis(60_001 + n)).expect("held");
        assert!(store.release(leased.lease, SESSION));
        let until = NOW + Millis(60_000 + n % 3);
        assert_eq!(store.pin(NOW, b"k", Some(until)), Ok(Some(1)));
        assert_eq!(store.unpin(NOW, b"k"), Some(0));
    }
    assert!(store.usage().index_bytes <= before + 2_000, "{} after {before}", store.usage().index_bytes);
    store.audit();
}

#[test]
fn pins_of_one_object_are_bounded_and_end_each_in_its_time() {
    let store = store(4, config());
    set(&store, NOW, b"k", 100).expect("room");
    let mut held = 0;
    for n in 0..10_000u64 {
        match store.pin(NOW, b"k", Some(NOW + Millis(1_000 + n % 700))) {
            Ok(Some(count)) => held = count,
            Ok(None) => panic!("live"),
            Err(error) => assert_eq!(error, StoreError::TooManyUsers),
        }
    }
    assert!((100..10_000).contains(&held), "{held}");
    store.audit();
    let mut before = held;
    for n in 0..700 {
        store.maintain(NOW + Millis(1_000 + n));
        let pins = store.stat(NOW, b"k").expect("pinned").pins;
        assert!(pins < before, "{pins} at {n}");
        before = pins;
    }
    assert_eq!(before, 0);
    assert_eq!(store.evict(NOW, 1), 1);
    store.audit();
}

#[test]
fn remembered_commits_are_bounded_in_bytes() {
    let store = store(16, StoreConfig { shards: 1, ..config() });
    for n in 0..1_000u32 {
        let mut key = vec![0; 16 << 10];
        key[..4].copy_from_slice(&n.to_be_bytes());
        let granted = store.grant(NOW, &key, 10, &Account::new(), terms(Terms::default())).expect("room");
        commit(&store, granted, None).expect("published");
    }
    let bytes = store.usage().index_bytes;
    assert!(bytes < 6 << 20, "{bytes} bytes");
    store.audit();
}

#[test]
fn what_can_never_fit_evicts_nothing() {
    let store = store(4, StoreConfig { reserved_percent_max: 100, reserved_client_percent_max: 100, ..config() });
    for n in 0..40u32 {
        set(&store, NOW, n.to_be_bytes(), 64 << 10).expect("room");
    }
    for n in 0..20u32 {
        store.pin(NOW, &n.to_be_bytes(), None).expect("within the quota").expect("live");
    }
    let refused = store.reserve(NOW, b"large", 3 << 20, &Account::new()).expect_err("half is pinned");
    assert!(matches!(refused, StoreError::NoSpace { .. }), "{refused}");
    store.set_capacity(ByteLen(2 << 20));
    assert!(matches!(store.reserve(NOW, b"large", 2 << 20, &Account::new()), Err(StoreError::NoSpace { .. })));
    assert_eq!(store.len(), 40);
    store.audit();
}

/// Scatters objects of `len` so that neighbours in memory differ in age.
fn scattered(store: &Store, len: usize, count: u32) -> u32 {
    for n in 0..count {
        set(store, NOW, n.to_be_bytes(), len).expect("room");
    }
    let mut dice = 12_345u64;
    for step in 1..u64::from(count) * 4 {
        dice = dice.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let n = u32::try_from((dice >> 33) % u64::from(count)).expect("small");
        store.touch(NOW + Millis(step), &n.to_be_bytes());
    }
    u32::try_from(store.len()).expect("few")
}

#[test]
fn a_long_run_costs_a_few_times_its_bytes_whatever_lies_there() {
    for (len, count) in [(100, 200_000), (1_000, 30_000), (4_096, 9_000), (20_000, 2_000), (64 << 10, 700)] {
        let store = store(32, StoreConfig { reserved_percent_max: 100, ..config() });
        scattered(&store, len, count);
        let later = NOW + Millis(10_000_000);
        for (n, large) in [1usize << 20, 4 << 20, 300 << 10].into_iter().enumerate() {
            let before = store.usage().counters.evicted_bytes;
            set(&store, later, format!("large {n}"), large).unwrap_or_else(|error| panic!("{len}: {error}"));
            let cost = store.usage().counters.evicted_bytes - before;
            assert!(cost <= 6 * large as u64, "{large} among {len}: {cost} bytes evicted");
            assert!(store.contains(later, format!("large {n}").as_bytes()));
        }
        store.audit();
    }
}

#[test]
fn small_values_find_room_among_others_of_any_size() {
    for (had, wants) in [(100, 3_000), (3_000, 100), (4_096, 200), (64 << 10, 50), (1 << 20, 16_000), (60, 15_000)] {
        let store = store(8, config());
        let count = u32::try_from((9 << 20) / had).expect("few");
        scattered(&store, had, count.min(40_000));
        let later = NOW + Millis(10_000_000);
        for n in 0..500u32 {
            let before = store.usage().counters.evicted_bytes;
            set(&store, later, (1_000_000 + n).to_be_bytes(), wants)
                .unwrap_or_else(|error| panic!("{wants} among {had}, {n}: {error}"));
            let cost = store.usage().counters.evicted_bytes - before;
            assert!(cost <= 2 << 20, "{wants} among {had}: {cost} bytes evicted for one");
        }
        let kept = (0..500u32).filter(|n| store.contains(later, &(1_000_000 + n).to_be_bytes())).count();
        let fit = (4 << 20) / wants.max(1_000);
        assert!(kept >= fit.min(250), "{kept} of 500 of {wants} among {had}");
        store.audit();
    }
}

#[test]
fn a_small_store_of_many_sizes_is_full_of_objects() {
    let store = store(32, StoreConfig { reserved_percent_max: 100, reserved_client_percent_max: 100, ..config() });
    let mut dice = 99u64;
    let mut written: Vec<(u32, usize)> = Vec::new();
    for n in 0..4_000u32 {
        dice = dice.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let roll = usize::try_from(dice >> 40).expect("24 bits");
        let len = if roll.is_multiple_of(10) { 1 << 20 } else { 100 + roll % 8_000 };
        set(&store, NOW + Millis(u64::from(n)), n.to_be_bytes(), len).expect("all is evictable");
        written.push((n, len));
        if n > 1_000 && n % 100 == 0 {
            let sum = store.accounting();
            assert!(sum.live > sum.total / 2, "step {n}: {sum:?}");
        }
    }
    let latest: Vec<u32> = written.iter().rev().take(100).map(|&(n, _)| n).collect();
    let kept = latest.iter().filter(|n| store.contains(NOW + Millis(5_000), &n.to_be_bytes())).count();
    assert!(kept > 90, "{kept} of the latest 100, of 10 MiB in 32");
    store.audit();
}

#[test]
fn leased_neighbours_do_not_stop_a_reservation() {
    let store = store(16, StoreConfig { reserved_percent_max: 100, ..config() });
    let count = scattered(&store, 20_000, 700);
    let mut leases = 0;
    for n in (0..count).step_by(40) {
        leases += usize::from(
            store.lease(NOW, &n.to_be_bytes(), NOW + Millis(60_000), SESSION, None).is_ok_and(|l| l.is_some()),
        );
    }
    assert!(leases > 10);
    let mut stored = 0;
    for n in 0..8u32 {
        stored += u32::from(set(&store, NOW + Millis(9_000), format!("large {n}"), 400 << 10).is_ok());
    }
    assert_eq!(stored, 8);
    assert_eq!(store.usage().leases, leases as u64);
    store.audit();
}

#[test]
fn soft_pins_here_are_spared_while_plain_objects_are_left_elsewhere() {
    let store = store(4, config());
    let soft = Terms { soft_pin: Some(NOW + Millis(1_000_000)), ..Terms::default() };
    for n in 0..200u32 {
        store.set(NOW, &n.to_be_bytes(), &[1; 1_000], &Account::new(), &soft).expect("room");
    }
    for n in 1_000..10_000u32 {
        set(&store, NOW + Millis(u64::from(n)), n.to_be_bytes(), 1_000).expect("room");
    }
    let spared = (0..200u32).filter(|n| store.contains(NOW, &n.to_be_bytes())).count();
    assert_eq!(spared, 200);
    store.audit();
}

#[test]
fn background_eviction_stops_at_the_low_mark() {
    let store =
        store(8, StoreConfig { watermark_high_percent: 90, watermark_low_percent: 80, ..StoreConfig::default() });
    scattered(&store, 1_000, 9_000);
    for pause in 0..200 {
        store.maintain(NOW + Millis(pause));
    }
    let sum = store.accounting();
    assert!(sum.live <= sum.capacity / 100 * 80 && sum.live >= sum.capacity / 100 * 78, "{sum:?}");
    store.audit();
}

#[test]
fn a_cut_capacity_is_reached() {
    let store = store(16, config());
    scattered(&store, 1_000, 12_000);
    for _ in 0..3 {
        let half = store.accounting().capacity / 2;
        store.set_capacity(ByteLen(half));
        for pause in 0..100 {
            store.maintain(NOW + Millis(pause));
        }
        let sum = store.accounting();
        assert!(sum.total - sum.free <= half && sum.live > half / 2, "{sum:?}");
        store.audit();
    }
}

#[test]
fn a_shorter_commit_frees_the_rest_only_when_nobody_can_write_there() {
    let memory = Arc::new(PlainMemory::new(4 << 20).expect("memory"));
    let stable: Arc<dyn StableMemory> = memory;
    let store = Store::new(
        StoreConfig { reserved_percent_max: 100, reserved_client_percent_max: 100, ..config() },
        vec![Arc::clone(&stable)],
    );
    let account = Account::new();
    let exposed = GrantTerms { exposed: true, ..terms(Terms::default()) };
    let granted = store.grant(NOW, b"short", 2 << 20, &account, exposed).expect("room");
    let window = RawSpan::new(stable, usize::try_from(granted.offset).expect("64-bit"), 2 << 20).expect("inside");
    let Seal::Begun(mut seal) = store.seal(NOW, granted.grant, SESSION, Some(100_000)).expect("open") else { panic!() };
    assert_eq!(seal.span().len(), 100_000);
    // The writer has not been fenced yet, and others fill the memory.
    for n in 0..40u32 {
        set(&store, NOW, n.to_be_bytes(), 60_000).expect("room");
    }
    copy_into(&vec![0xee; 2 << 20], &window);
    let crc_at = |n: u32| match store.peek(NOW, &n.to_be_bytes(), false) {
        Ok(Some(storage::Found::Large(guard))) => (crc_of(guard.span()), guard.crc()),
        _ => (Crc(0), Crc(0)),
    };
    for n in 0..40 {
        let (is, was) = crc_at(n);
        assert_eq!(is, was, "object {n} was overwritten");
    }
    seal.fenced();
    let crc = crc_of(seal.span());
    seal.finish(NOW, crc, crc).expect("published");
    store.audit();
    assert_eq!(account.reserved(), ByteLen(0));
    assert_eq!(store.stat(NOW, b"short").expect("live").charge, ByteLen(25 * 4096));
    assert!(store.accounting().free > 1 << 20, "the rest is free");
}

#[test]
fn a_header_of_an_earlier_life_is_gone_when_the_slot_is_reserved() {
    let memory: Arc<dyn StableMemory> = Arc::new(PlainMemory::new(4 << 20).expect("memory"));
    let store = Store::new(config(), vec![Arc::clone(&memory)]);
    set(&store, NOW, b"first", 100_000).expect("room");
    let (_, offset) = store.stat(NOW, b"first").expect("live").dram.expect("in DRAM");
    let header = |at: u64| {
        let mut bytes = [0; 64];
        let span = RawSpan::new(Arc::clone(&memory), usize::try_from(at).expect("64-bit") - 64, 64).expect("inside");
        protocol::base::copy_from(&span, &mut bytes);
        bytes
    };
    assert_eq!(&header(offset)[..8], b"MKVSLOT1");
    assert!(store.remove(NOW, b"first"));
    let granted = store.grant(NOW, b"second", 100_000, &Account::new(), terms(Terms::default())).expect("room");
    assert_eq!(granted.offset, offset, "the same slot");
    assert_eq!(header(granted.offset), [0; 64]);
}

#[test]
fn ending_a_session_ends_what_it_was_lent_and_nothing_else() {
    let store = store(4, config());
    let others = SessionId(8);
    for n in 0..20u32 {
        set(&store, NOW, n.to_be_bytes(), 30_000).expect("room");
        for session in [SESSION, others] {
            store.lease(NOW, &n.to_be_bytes(), NOW + Millis(60_000), session, None).expect("few").expect("live");
        }
    }
    let granted = |session: SessionId, key: &[u8]| {
        let terms = GrantTerms { session, ..terms(Terms { condition: Condition::IfAbsent, ..Terms::default() }) };
        store.grant(NOW, key, 30_000, &Account::new(), terms).expect("room")
    };
    let (mine, theirs) = (granted(SESSION, b"mine"), granted(others, b"theirs"));
    store.end_session(SESSION);
    assert_eq!((store.usage().leases, store.usage().grants), (20, 1));
    assert!(matches!(store.write(NOW, mine.grant, SESSION, 0, 1), Err(StoreError::NoGrant)));
    assert!(store.write(NOW, theirs.grant, others, 0, 1).is_ok());
    store.audit();
    store.end_session(others);
    assert_eq!((store.usage().leases, store.usage().grants, store.accounting().reserved), (0, 0, 0));
    assert_eq!(store.evict(NOW, 100), 20);
    store.audit();
}

#[test]
fn some_key_is_found_however_few_are_left() {
    let store = store(16, config());
    for n in 0..50_000u32 {
        set(&store, NOW, n.to_be_bytes(), 10).expect("room");
    }
    for n in 0..50_000u32 {
        assert!(n == 31_337 || store.remove(NOW, &n.to_be_bytes()));
    }
    for dice in 0..50u64 {
        let dice = dice.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        assert_eq!(store.random_key(NOW, dice).as_deref(), Some(&31_337u32.to_be_bytes()[..]));
    }
    store.clear();
    assert_eq!(store.random_key(NOW, 5), None);
}
