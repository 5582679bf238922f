//! Real threads on one small store: what the model checker and the simulator, which run one thing at a time, cannot see.
//! `THREADS_MS` sets for how long (1,000).

#![cfg(not(shuttle))]

use protocol::base::{Crc, Instant, Millis, SessionId, copy_from};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use storage::{Account, Found, GrantTerms, PlainMemory, Seal, Store, StoreConfig, StoreError, Terms};

const KEYS: u8 = 60;

/// The same for every write of a key of one length, so that readers need no model: foreign and torn bytes show.
fn payload(key: u8, len: usize) -> Vec<u8> {
    let seed = u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ len as u64;
    (0..len)
        .map(|at| u8::try_from((seed >> (at % 57)) & 0xff).expect("a byte") ^ u8::try_from(at % 251).expect("a byte"))
        .collect()
}

fn check(key: u8, bytes: &[u8]) {
    assert_eq!(bytes, payload(key, bytes.len()), "key {key}");
}

fn act(store: &Store, clock: &AtomicU64, random: &mut StdRng, account: &Arc<Account>, session: SessionId) {
    let now = Instant(clock.fetch_add(random.random_range(0..200_000), Ordering::Relaxed));
    let key = random.random_range(0..KEYS);
    let len = if random.random_ratio(1, 2) { random.random_range(0..9_000) } else { random.random_range(0..200_000) };
    let allowed = |error: StoreError| {
        let expected = matches!(error, StoreError::NoSpace { .. } | StoreError::Quota { .. } | StoreError::NoGrant);
        assert!(expected, "{error}");
    };
    match random.random_range(0..12) {
        0..3 => match store.set(now, &[key], &payload(key, len), account, &Terms::default()) {
            Ok(_) => {}
            Err(error) => allowed(error),
        },
        3 => {
            let terms = GrantTerms {
                session,
                deadline: now + Millis(50),
                exposed: random.random_ratio(1, 4),
                terms: Terms { parent: Some(Box::new([random.random_range(0..KEYS)])), ..Terms::default() },
            };
            let granted = match store.grant(now, &[key], len as u64, account, terms) {
                Ok(granted) => granted,
                Err(error) => return allowed(error),
            };
            if let Ok(mut write) = store.write(now, granted.grant, session, 0, len as u64) {
                write.bytes_mut().copy_from_slice(&payload(key, len));
            }
            match store.seal(now, granted.grant, session, None) {
                Ok(Seal::Begun(mut seal)) => {
                    if random.random_ratio(1, 4) {
                        return;
                    }
                    seal.fenced();
                    let mut bytes = vec![0; len];
                    let crc = copy_from(seal.span(), &mut bytes);
                    // Another thread's clock may have ended the grant before the write began.
                    drop(seal.finish(now, Crc::of(&payload(key, len)), crc));
                }
                Ok(Seal::Done(_)) => panic!("committed by nobody"),
                Err(error) => allowed(error),
            }
        }
        4..8 => match store.read(now, &[key], None, |bytes| check(key, bytes)).expect("few readers") {
            Some(Found::Large(guard)) => check(key, guard.bytes()),
            Some(Found::Small(())) | None => {}
            Some(Found::Flash(read)) => panic!("nothing is on flash: {read:?}"),
        },
        8 => {
            let leased = store.lease(now, &[key], now + Millis(20), session, None).expect("few readers");
            if let Some(leased) = leased {
                if let Ok(guard) = store.read_leased(now, leased.lease, session) {
                    check(key, guard.bytes());
                }
                if random.random_ratio(3, 4) {
                    store.release(leased.lease, session);
                }
            }
        }
        9 => {
            let keys: Vec<[u8; 1]> = (0..4).map(|_| [random.random_range(0..KEYS)]).collect();
            let lease = random.random_ratio(1, 2).then_some((now + Millis(5), session));
            store.lookup(now, |n| keys.get(n).map(|key| &key[..]), lease).expect("few readers");
        }
        10 => {
            store.remove(now, &[key]);
            store.evict(now, 2);
        }
        _ => {
            for id in store.maintain(now) {
                store.fenced(id);
            }
            store.end_session(session);
            if store.pin(now, &[key], Some(now + Millis(10))).is_err() {
                store.unpin(now, &[key]);
            }
        }
    }
}

#[test]
fn threads_read_whole_objects_and_leave_nothing_behind() {
    let millis = std::env::var("THREADS_MS").map_or(1_000, |text| text.parse().expect("a number"));
    let seed: u64 = std::env::var("THREADS_SEED")
        .map_or_else(|_| StdRng::from_os_rng().random(), |text| text.parse().expect("a number"));
    println!("THREADS_SEED={seed}");
    let config = StoreConfig {
        shards: 4,
        reserved_percent_max: 60,
        reserved_client_percent_max: 30,
        seed,
        ..StoreConfig::default()
    };
    let store = Store::new(config, vec![Arc::new(PlainMemory::new(3 << 20).expect("memory"))]);
    let clock = AtomicU64::new(1_000_000_000_000);
    let end = std::time::Instant::now() + std::time::Duration::from_millis(millis);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (store, clock) = (&store, &clock);
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(seed ^ thread);
                let account = Account::new();
                while std::time::Instant::now() < end {
                    act(store, clock, &mut random, &account, SessionId(thread));
                }
                assert!(account.reserved().get() < 3 << 20);
            });
        }
    });
    let later = Instant(clock.into_inner()) + Millis(60_000);
    for id in store.maintain(later) {
        store.fenced(id);
    }
    store.audit();
    let (sum, usage) = (store.accounting(), store.usage());
    assert_eq!((sum.reserved, sum.sealing, sum.quarantine, sum.doomed), (0, 0, 0, 0), "{sum:?}");
    assert_eq!((usage.leases, usage.grants), (0, 0));
    assert!(usage.counters.hits > 0 && usage.counters.evicted > 0);
    store.clear();
    store.audit();
}
