//! Small scenarios of the store under every interleaving that shuttle's schedulers find: random, and PCT (Burckhardt et
//! al., ASPLOS '10), which finds a bug that needs `d` preemptions with a known probability.
//!
//! ```text
//! RUSTFLAGS="--cfg shuttle" cargo test --profile proof -p mooncake-storage --test shuttle --target-dir target/shuttle
//! ```
//!
//! `SHUTTLE_ITERATIONS` sets the schedules tried of each scenario by each scheduler (2,000). A failure prints its schedule;
//! `shuttle::replay` plays it again. Without the flag this file is empty.
//!
//! Each scenario ends with an audit, and with nothing held.

#![cfg(shuttle)]

use protocol::base::{ByteLen, Crc, GrantId, Instant, Millis, SessionId, copy_into, crc_of};
use shuttle::thread;
use std::sync::Arc;
use storage::{
    Account, Condition, Found, GrantTerms, Granted, PlainMemory, Seal, Store, StoreConfig, StoreError, Terms,
};

const NOW: Instant = Instant(1_000_000_000_000);
const MINE: SessionId = SessionId(1);
const THEIRS: SessionId = SessionId(2);

fn check(scenario: fn()) {
    let iterations = std::env::var("SHUTTLE_ITERATIONS").map_or(2_000, |text| text.parse().expect("a number"));
    shuttle::check_random(scenario, iterations);
    shuttle::check_pct(scenario, iterations, 3);
}

fn store(pages: usize, shards: usize) -> Store {
    let config = StoreConfig {
        shards,
        watermark_high_percent: 100,
        watermark_low_percent: 100,
        reserved_percent_max: 100,
        reserved_client_percent_max: 100,
        ..StoreConfig::default()
    };
    Store::new(config, vec![Arc::new(PlainMemory::new(pages * 4096).expect("memory"))])
}

fn value(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| seed ^ u8::try_from(at % 251).expect("a byte")).collect()
}

fn set(store: &Store, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    store.set(NOW, key, value, &Account::new(), &Terms::default()).map(drop)
}

fn grant(store: &Store, session: SessionId, key: &[u8], len: usize, exposed: bool) -> Result<Granted, StoreError> {
    let terms = Terms { condition: Condition::IfAbsent, ..Terms::default() };
    let terms = GrantTerms { session, deadline: NOW + Millis(5_000), exposed, terms };
    store.grant(NOW, key, len as u64, &Account::new(), terms)
}

fn commit(store: &Store, session: SessionId, grant: GrantId, crc: Crc) -> Result<(), StoreError> {
    match store.seal(NOW, grant, session, None)? {
        Seal::Done(_) => Ok(()),
        Seal::Begun(mut seal) => {
            if seal.exposed() {
                seal.fenced();
            }
            let actual = crc_of(seal.span());
            seal.finish(NOW, crc, actual).map(drop)
        }
    }
}

/// The value of a key, whole or not at all.
fn get(store: &Store, key: &[u8]) -> Option<Vec<u8>> {
    match store.read(NOW, key, None, <[u8]>::to_vec).expect("few readers")? {
        Found::Small(bytes) => Some(bytes),
        Found::Large(guard) => {
            thread::yield_now();
            let bytes = guard.bytes().to_vec();
            assert_eq!(Crc::of(&bytes), guard.crc(), "a guarded object does not change");
            Some(bytes)
        }
        Found::Flash(read) => panic!("nothing is on flash: {read:?}"),
    }
}

fn audit_quiet(store: &Store) {
    for id in store.maintain(NOW + Millis(60_000)) {
        store.fenced(id);
    }
    store.maintain(NOW + Millis(60_000));
    store.audit();
    let (sum, usage) = (store.accounting(), store.usage());
    assert_eq!((sum.reserved, sum.sealing, sum.quarantine, sum.doomed), (0, 0, 0, 0), "{sum:?}");
    assert_eq!((usage.leases, usage.grants), (0, 0));
}

#[test]
fn of_two_writers_of_one_key_the_first_wins() {
    fn scenario(len: usize) {
        let store = store(200, 1);
        let writers: Vec<_> = [MINE, THEIRS]
            .into_iter()
            .map(|session| {
                let store = store.clone();
                thread::spawn(move || {
                    let granted = grant(&store, session, b"k", len, false)?;
                    let bytes = value(u8::try_from(session.0).expect("small"), len);
                    let write = store.write(NOW, granted.grant, session, 0, len as u64).expect("open");
                    copy_into(&bytes, write.span());
                    drop(write);
                    commit(&store, session, granted.grant, Crc::of(&bytes)).map(|()| bytes)
                })
            })
            .collect();
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join().expect("no panic")).collect();
        let won: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
        assert_eq!(won.len(), 1, "{results:?}");
        assert_eq!(get(&store, b"k").as_ref(), Some(won[0]));
        assert!(results.iter().any(|result| matches!(result, Err(StoreError::Exists { .. }))));
        audit_quiet(&store);
    }
    check(|| scenario(100));
    check(|| scenario(40_000));
}

#[test]
fn a_reader_sees_whole_objects_whatever_others_do() {
    fn scenario(len: usize) {
        let store = store(60, 2);
        set(&store, b"k", &value(1, len)).expect("room");
        let spawn = |act: fn(&Store, usize)| {
            let store = store.clone();
            thread::spawn(move || act(&store, len))
        };
        let all = [
            spawn(|store, len| {
                for _ in 0..2 {
                    if let Some(bytes) = get(store, b"k") {
                        assert!(bytes == value(1, len) || bytes == value(2, len), "torn");
                    }
                }
            }),
            spawn(|store, len| drop(set(store, b"k", &value(2, len)))),
            spawn(|store, _| {
                store.remove(NOW, b"k");
            }),
            spawn(|store, len| {
                store.evict(NOW, 1);
                drop(set(store, b"other", &value(3, len)));
            }),
        ];
        for one in all {
            one.join().expect("no panic");
        }
        audit_quiet(&store);
    }
    check(|| scenario(100));
    check(|| scenario(60_000));
}

#[test]
fn a_commit_races_its_deadline_and_only_one_wins() {
    fn scenario(exposed: bool) {
        let store = store(100, 1);
        let granted = grant(&store, MINE, b"k", 50_000, exposed).expect("room");
        let bytes = value(1, 50_000);
        let write = store.write(NOW, granted.grant, MINE, 0, 50_000).expect("open");
        copy_into(&bytes, write.span());
        drop(write);
        let crc = Crc::of(&bytes);
        let committer = {
            let store = store.clone();
            thread::spawn(move || commit(&store, MINE, granted.grant, crc))
        };
        let repeater = {
            let store = store.clone();
            thread::spawn(move || commit(&store, MINE, granted.grant, crc))
        };
        let clock = {
            let store = store.clone();
            thread::spawn(move || {
                for id in store.maintain(NOW + Millis(5_000)) {
                    store.fenced(id);
                }
            })
        };
        let other = {
            let store = store.clone();
            thread::spawn(move || drop(set(&store, b"other", &value(2, 200_000))))
        };
        let results = [committer.join().expect("no panic"), repeater.join().expect("no panic")];
        clock.join().expect("no panic");
        other.join().expect("no panic");
        for result in &results {
            assert!(matches!(result, Ok(()) | Err(StoreError::NoGrant | StoreError::Busy)), "{result:?}");
        }
        if results.iter().any(Result::is_ok) {
            assert!(get(&store, b"k").is_none_or(|found| found == bytes));
        } else {
            assert_eq!(get(&store, b"k"), None);
        }
        audit_quiet(&store);
    }
    check(|| scenario(false));
    check(|| scenario(true));
}

#[test]
fn leased_bytes_stay_while_all_others_want_them_gone() {
    fn scenario() {
        let store = store(40, 2);
        let bytes = value(1, 60_000);
        set(&store, b"k", &bytes).expect("room");
        let reader = {
            let (store, bytes) = (store.clone(), bytes.clone());
            thread::spawn(move || {
                let until = NOW + Millis(1_000);
                let Some(leased) = store.lease(NOW, b"k", until, MINE, None).expect("few") else { return };
                thread::yield_now();
                let renewed = store.renew(NOW, leased.lease, MINE, until + Millis(2));
                if let Ok(guard) = store.read_leased(NOW, leased.lease, MINE) {
                    assert_eq!(guard.bytes(), bytes);
                } else {
                    assert!(renewed.is_err(), "the clock ends no renewed lease");
                }
                store.release(leased.lease, MINE);
            })
        };
        let spawn = |act: fn(&Store)| {
            let store = store.clone();
            thread::spawn(move || act(&store))
        };
        let others = [
            spawn(|store| {
                store.evict(NOW, 2);
                drop(set(store, b"other", &value(2, 70_000)));
            }),
            spawn(|store| {
                store.remove(NOW, b"k");
            }),
            spawn(|store| {
                store.maintain(NOW + Millis(1_001));
                store.end_session(THEIRS);
            }),
        ];
        reader.join().expect("no panic");
        for one in others {
            one.join().expect("no panic");
        }
        audit_quiet(&store);
    }
    check(scenario);
}

#[test]
fn a_slot_given_back_is_taken_by_one() {
    fn scenario() {
        let store = store(30, 2);
        let held = store.reserve(NOW, b"first", 70_000, &Account::new()).expect("room");
        let dropper = thread::spawn(move || drop(held));
        let takers: Vec<_> = [3u8, 4]
            .into_iter()
            .map(|seed| {
                let store = store.clone();
                thread::spawn(move || {
                    let mut taken = store.reserve(NOW, &[seed], 70_000, &Account::new()).ok()?;
                    taken.bytes_mut().copy_from_slice(&value(seed, 70_000));
                    thread::yield_now();
                    let crc = crc_of(&taken.span());
                    assert_eq!(crc, Crc::of(&value(seed, 70_000)), "nobody else writes there");
                    taken.publish(NOW, crc, &Terms::default()).ok()
                })
            })
            .collect();
        dropper.join().expect("no panic");
        for taker in takers {
            taker.join().expect("no panic");
        }
        audit_quiet(&store);
        assert!(store.len() <= 1, "there is room for one");
        assert!(set(&store, b"last", &value(1, 70_000)).is_ok(), "and then for the next");
    }
    check(scenario);
}

#[test]
fn small_writers_of_all_shards_make_room_for_each_other() {
    fn scenario() {
        // Wherever the large one lies, there is a slab page beside it, but not one for each of the four shards.
        let store = store(66, 4);
        let writers: Vec<_> = (0..3u8)
            .map(|writer| {
                let store = store.clone();
                thread::spawn(move || {
                    for n in 0..3u8 {
                        set(&store, &[writer, n], &value(n, 1_500)).expect("all but the large one is evictable");
                        if let Some(found) = get(&store, &[writer, n]) {
                            assert_eq!(found, value(n, 1_500));
                        }
                    }
                })
            })
            .collect();
        let large = {
            let store = store.clone();
            thread::spawn(move || drop(set(&store, b"large", &value(9, 90_000))))
        };
        for writer in writers {
            writer.join().expect("no panic");
        }
        large.join().expect("no panic");
        audit_quiet(&store);
    }
    check(scenario);
}

#[test]
fn pins_of_two_shards_keep_one_quota() {
    fn scenario() {
        let store = store(64, 4);
        let keys: [&[u8]; 2] = [b"a", b"b"];
        for key in keys {
            set(&store, key, &value(1, 80_000)).expect("room");
        }
        let pinners: Vec<_> = keys
            .into_iter()
            .map(|key| {
                let store = store.clone();
                thread::spawn(move || store.pin(NOW, key, None))
            })
            .collect();
        let evictor = {
            let store = store.clone();
            thread::spawn(move || store.evict(NOW, 1))
        };
        let pinned = pinners.into_iter().map(|pinner| pinner.join().expect("no panic"));
        let pinned = pinned.filter(|result| matches!(result, Ok(Some(1)))).count();
        evictor.join().expect("no panic");
        assert!(pinned <= 1, "21 of 63 pages fit into a half, 42 do not");
        assert_eq!(store.accounting().pinned, pinned as u64 * store.charge_of(80_000, 1).get());
        audit_quiet(&store);
    }
    check(scenario);
}

#[test]
fn an_aborted_writer_hits_nobody() {
    fn scenario() {
        let store = store(30, 1);
        let granted = grant(&store, MINE, b"k", 70_000, false).expect("room");
        let writer = {
            let store = store.clone();
            thread::spawn(move || {
                let Ok(mut write) = store.write(NOW, granted.grant, MINE, 0, 70_000) else { return };
                thread::yield_now();
                write.bytes_mut().fill(0xee);
            })
        };
        let aborter = {
            let store = store.clone();
            thread::spawn(move || store.abort(granted.grant, MINE))
        };
        let other = {
            let store = store.clone();
            thread::spawn(move || {
                if set(&store, b"other", &value(2, 70_000)).is_ok() {
                    thread::yield_now();
                    assert_eq!(get(&store, b"other"), Some(value(2, 70_000)));
                }
            })
        };
        writer.join().expect("no panic");
        aborter.join().expect("no panic");
        other.join().expect("no panic");
        if let Some(found) = get(&store, b"other") {
            assert_eq!(found, value(2, 70_000));
        }
        audit_quiet(&store);
    }
    check(scenario);
}

#[test]
fn a_lookup_leases_exactly_the_prefix_it_tells() {
    fn scenario() {
        let store = store(200, 4);
        let keys: [&[u8]; 3] = [b"0", b"1", b"2"];
        for key in keys {
            set(&store, key, &value(1, 20_000)).expect("room");
        }
        let looker = {
            let store = store.clone();
            thread::spawn(move || {
                let lease = Some((NOW + Millis(1_000), MINE));
                let found = store.lookup(NOW, |n| keys.get(n).copied(), lease).expect("few users");
                assert_eq!(found.leases.len(), found.prefix);
                assert_eq!(found.bytes, 20_000 * found.prefix as u64);
                for leased in &found.leases {
                    assert_eq!(store.read_leased(NOW, leased.lease, MINE).expect("held").len(), 20_000);
                }
                store.usage().leases == found.prefix as u64
            })
        };
        let remover = {
            let store = store.clone();
            thread::spawn(move || {
                store.remove(NOW, b"1");
                drop(set(&store, b"2", &value(2, 20_000)));
            })
        };
        assert!(looker.join().expect("no panic"), "no lease is held that was not told");
        remover.join().expect("no panic");
        store.end_session(MINE);
        assert_eq!(store.accounting().doomed, 0);
        audit_quiet(&store);
        assert_eq!(store.charge_of(0, 0), ByteLen(16));
    }
    check(scenario);
}

/// Remembers which records are dead.
#[derive(Default)]
struct Dead(std::sync::Mutex<Vec<storage::Buried>>);

impl storage::Graveyard for Dead {
    fn bury(&self, dead: &[storage::Buried]) {
        self.0.lock().expect("no panic under it").extend_from_slice(dead);
    }
    fn bury_all(&self, _: protocol::base::Generation) {}
    fn retire(&self, _: u16) {}
    fn pinned(&self, _: &[u8], _: protocol::base::Generation, _: storage::Pinned, _: u64) {}
    fn expiry(&self, _: storage::Buried, _: Option<Instant>, _: u64) {}
}

#[test]
fn a_record_outlives_neither_its_object_nor_its_burial() {
    fn scenario() {
        let store = store(60, 1);
        let dead = Arc::new(Dead::default());
        store.enable_flash(Arc::clone(&dead) as Arc<dyn storage::Graveyard>);
        store.set_flash_limits(ByteLen::mib(64), ByteLen::mib(1));
        store.set_spilling(true);
        store.set_spill_mark(0);
        set(&store, b"k", &value(1, 20_000)).expect("room");
        let generation = store.stat(NOW, b"k").expect("just written").generation;
        let place = storage::FlashPlace { slot: 1, page: 1 };
        let spiller = {
            let store = store.clone();
            thread::spawn(move || {
                let mut spills = Vec::new();
                store.next_spill(NOW, &mut spills, 1);
                let Some(mut spill) = spills.pop().filter(|spill| spill.generation == generation) else { return false };
                if !spill.begin(place) {
                    return false;
                }
                thread::yield_now();
                let clean = spill.done();
                if clean {
                    store.evict(NOW, 1);
                }
                true
            })
        };
        let reader = {
            let store = store.clone();
            thread::spawn(move || match store.read(NOW, b"k", None, <[u8]>::to_vec).expect("few readers") {
                None => {}
                Some(Found::Small(_)) => unreachable!("it is large"),
                Some(Found::Large(guard)) => {
                    assert!([value(1, 20_000), value(2, 20_000)].iter().any(|value| guard.bytes() == value));
                }
                Some(Found::Flash(read)) => {
                    let promotion = store.promote(NOW, &read, &Account::new()).expect("room");
                    thread::yield_now();
                    copy_into(&value(1, 20_000), &promotion.span());
                    if let Ok(guard) = promotion.publish(NOW) {
                        assert_eq!(guard.generation(), generation);
                    }
                }
            })
        };
        let replacer = {
            let store = store.clone();
            thread::spawn(move || {
                store.set(NOW, b"k", &value(2, 20_000), &Account::new(), &Terms::default()).expect("room")
            })
        };
        let begun = spiller.join().expect("no panic");
        reader.join().expect("no panic");
        let replaced = replacer.join().expect("no panic");
        // Unless it was evicted in its predecessor's place.
        let last = store.stat(NOW, b"k").map(|stat| stat.generation);
        assert!(last.is_none_or(|last| last == replaced), "the last writer's");
        let buried = dead.0.lock().expect("no panic under it").contains(&storage::Buried { place, generation });
        assert_eq!(buried, begun, "what may be on flash is dead, once it is replaced");
        assert_eq!(store.slot_readers(1), 0);
        audit_quiet(&store);
    }
    check(scenario);
}
