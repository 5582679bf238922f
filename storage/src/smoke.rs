//! First checks of the whole store; the simulator goes further.

use crate::*;
use protocol::base::*;
use std::sync::Arc;

fn store(mib: usize, config: StoreConfig) -> Store {
    Store::new(config, vec![Arc::new(PlainMemory::new(mib << 20).expect("memory"))])
}

const SESSION: SessionId = SessionId(7);

fn granted(store: &Store, now: Instant, key: &[u8], payload: &[u8]) -> Result<Committed, StoreError> {
    let terms = GrantTerms {
        session: SESSION,
        deadline: now + Millis(5_000),
        exposed: false,
        terms: Terms { condition: Condition::IfAbsent, ..Terms::default() },
    };
    let granted = store.grant(now, key, payload.len() as u64, &Account::new(), terms)?;
    let write = store.write(now, granted.grant, SESSION, 0, payload.len() as u64)?;
    copy_into(payload, write.span());
    drop(write);
    let Seal::Begun(seal) = store.seal(now, granted.grant, SESSION, None)? else { panic!("sealed twice") };
    let actual = crc_of(seal.span());
    seal.finish(now, Crc::of(payload), actual)
}

fn peek(store: &Store, now: Instant, key: &[u8]) -> Option<Found> {
    store.peek(now, key, false).expect("few readers")
}

fn bytes(found: Option<Found>) -> Option<Vec<u8>> {
    found.map(|found| match found {
        Found::Small(bytes) => bytes,
        Found::Large(guard) => {
            let mut bytes = vec![0; guard.len()];
            assert_eq!(copy_from(guard.span(), &mut bytes), guard.crc());
            bytes
        }
        Found::Flash(read) => panic!("nothing is on flash: {read:?}"),
    })
}

#[test]
fn what_was_written_is_read_at_every_length() {
    let store = store(16, StoreConfig::default());
    let now = Instant(1_000_000_000);
    let account = Account::new();
    for len in [0usize, 1, 15, 16, 100, 4096, 16_000, 16_384, 65_536, 65_537, 1 << 20] {
        let value: Vec<u8> = (0..len).map(|n| u8::try_from((n * 31 + len) % 251).expect("a byte")).collect();
        let key = format!("key:{len}");
        store.set(now, key.as_bytes(), &value, &account, &Terms::default()).expect("room");
        assert_eq!(bytes(peek(&store, now, key.as_bytes())), Some(value.clone()), "{len}");
        let other = format!("put:{len}");
        granted(&store, now, other.as_bytes(), &value).expect("room");
        assert_eq!(bytes(peek(&store, now, other.as_bytes())), Some(value), "{len}");
        store.audit();
    }
    assert_eq!(account.reserved(), ByteLen(0));
    assert_eq!(store.clear(), 22);
    store.audit();
    assert_eq!(store.maintain(now), []);
}

#[test]
fn the_oldest_goes_first_and_leases_keep_theirs() {
    let store =
        store(4, StoreConfig { watermark_high_percent: 100, watermark_low_percent: 100, ..StoreConfig::default() });
    let account = Account::new();
    let value = vec![7u8; 64 << 10];
    let mut now = Instant(1_000_000_000);
    let mut lease = None;
    for n in 0..200u32 {
        now = now + Millis(1);
        store.set(now, &n.to_be_bytes(), &value, &account, &Terms::default()).expect("evicts");
        if n == 3 {
            lease = store.lease(now, &n.to_be_bytes(), now + Millis(1_000), SESSION, None).expect("leases");
        }
        store.audit();
    }
    let lease = lease.expect("was there");
    let fits = u32::try_from(store.len()).expect("few");
    assert!(fits >= 59, "{fits} of 64 KiB in 4 MiB");
    for n in 0..200u32 {
        assert_eq!(store.contains(now, &n.to_be_bytes()), n > 200 - fits || n == 3, "{n}");
    }
    assert!(store.remove(now, &3u32.to_be_bytes()));
    assert_eq!(store.accounting().doomed, 68 << 10, "a leased object's slot stays");
    assert!(store.read_leased(now, lease.lease, SESSION).is_ok());
    store.maintain(now + Millis(1_000));
    assert_eq!(store.accounting().doomed, 0);
    store.audit();
}

#[test]
fn a_chain_is_evicted_from_its_end() {
    let store =
        store(4, StoreConfig { watermark_high_percent: 100, watermark_low_percent: 100, ..StoreConfig::default() });
    let account = Account::new();
    let now = Instant(1_000_000_000);
    let value = vec![7u8; 64 << 10];
    for n in 0..20u32 {
        let parent = n.checked_sub(1).map(|n| n.to_be_bytes().to_vec().into_boxed_slice());
        let terms = Terms { parent, ..Terms::default() };
        store.set(Instant(now.0 + u64::from(n) * 1_000_000), &n.to_be_bytes(), &value, &account, &terms).expect("room");
    }
    assert_eq!(store.evict(now, 5), 5);
    for n in 0..20u32 {
        assert_eq!(store.contains(now, &n.to_be_bytes()), n < 15, "{n}");
    }
    let keys: Vec<[u8; 4]> = (0..20u32).map(u32::to_be_bytes).collect();
    let found =
        store.lookup(now, |n| keys.get(n).map(|key| &key[..]), Some((now + Millis(100), SESSION))).expect("leases");
    assert_eq!((found.prefix, found.bytes, found.leases.len()), (15, 15 << 16, 15));
    assert_eq!(store.evict(now, 5), 0, "all leased");
    for leased in found.leases {
        assert!(store.release(leased.lease, SESSION));
    }
    assert_eq!(store.evict(now, 5), 5);
    assert!(store.contains(now, &9u32.to_be_bytes()) && !store.contains(now, &10u32.to_be_bytes()));
    store.audit();
}

#[test]
fn a_dead_writer_gives_its_memory_back() {
    let store = store(4, StoreConfig::default());
    let now = Instant(1_000_000_000);
    let account = Account::new();
    let terms = GrantTerms { session: SESSION, deadline: now + Millis(5_000), exposed: false, terms: Terms::default() };
    let granted = store.grant(now, b"k", 100_000, &account, terms).expect("room");
    let write = store.write(now, granted.grant, SESSION, 0, 100_000).expect("open");
    assert!(matches!(store.seal(now, granted.grant, SESSION, None), Err(StoreError::Busy)));
    store.maintain(now + Millis(5_000));
    assert_eq!(store.accounting().quarantine, 100 << 10, "a write is in flight");
    store.audit();
    drop(write);
    assert_eq!(store.accounting().quarantine, 0);
    assert_eq!(account.reserved(), ByteLen(0));
    assert!(matches!(store.seal(now, granted.grant, SESSION, None), Err(StoreError::NoGrant)));
    store.audit();
}

#[test]
fn a_commit_is_repeatable_and_a_wrong_checksum_publishes_nothing() {
    let store = store(4, StoreConfig::default());
    let now = Instant(1_000_000_000);
    let terms =
        || GrantTerms { session: SESSION, deadline: now + Millis(5_000), exposed: false, terms: Terms::default() };
    let granted = store.grant(now, b"k", 100, &Account::new(), terms()).expect("room");
    let Seal::Begun(seal) = store.seal(now, granted.grant, SESSION, Some(100)).expect("open") else { panic!() };
    let crc = crc_of(seal.span());
    let first = seal.finish(now, crc, crc).expect("right");
    let Seal::Done(second) = store.seal(now, granted.grant, SessionId(8), None).expect("remembered") else { panic!() };
    assert_eq!(first, second);
    store.maintain(now + Millis(60_000));
    assert!(store.seal(now, granted.grant, SESSION, None).is_err(), "forgotten after a minute");
    let granted = store.grant(now, b"l", 100, &Account::new(), terms()).expect("room");
    let Seal::Begun(seal) = store.seal(now, granted.grant, SESSION, None).expect("open") else { panic!() };
    assert!(matches!(seal.finish(now, Crc(1), crc), Err(StoreError::Crc { .. })));
    assert!(!store.contains(now, b"l"));
    store.audit();
}

/// An answer of nil would say that nothing was there, after it was taken away.
#[test]
fn what_more_read_than_can_be_counted_is_refused_and_stays_as_it_is() {
    let store = store(16, StoreConfig::default());
    let now = Instant(1_000_000_000);
    let (key, value, account) = (b"key", vec![7; 100_000], Account::new());
    store.set(now, key, &value, &account, &Terms::default()).expect("room");
    let before = store.stat(now, key).expect("it is there");
    let first = match store.read(now, key, None, <[u8]>::to_vec) {
        Ok(Some(Found::Large(guard))) => guard,
        other => panic!("{other:?}"),
    };
    let mut guards: Vec<ReadGuard> = std::iter::from_fn(|| first.again()).collect();
    assert_eq!(guards.len() + 1, usize::from(u16::MAX));
    let refused = |error: Option<StoreError>| assert!(matches!(error, Some(StoreError::TooManyUsers)), "{error:?}");
    refused(store.peek(now, key, false).err());
    refused(store.peek(now, key, true).err());
    refused(store.snapshot(now, key, false).err());
    refused(store.take(now, key, false).err());
    refused(store.read_and_expire(now, key, Some(now + Millis(1)), false).err());
    for terms in [Terms::default(), Terms { keep_ttl: true, ..Terms::default() }] {
        let (found, written) = store.exchange(now, key, b"another", &account, &terms, false).expect("room");
        assert!(found.is_none());
        refused(written.err());
    }
    store.audit();
    let after = store.stat(now, key).expect("it is there still");
    assert_eq!((after.generation, after.expires), (before.generation, before.expires));
    drop(guards.pop());
    assert_eq!(bytes(store.take(now, key, false).expect("one less reads it")), Some(value));
    assert!(store.stat(now, key).is_none());
    drop((guards, first));
    store.audit();
}
