//! What one store leaves in its memory, another takes over: whole, damaged, forged.

use super::*;
use crate::store::keyspace::Stat;
use crate::*;
use protocol::base::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::sync::Arc;

const NOW: Instant = Instant(1_000_000_000_000);
const MACHINE: [u8; 24] = [7; 24];
/// Payloads: none, shared pages of several classes, pages of their own, more than a page.
const LENS: [usize; 8] = [0, 1, 90, 700, 5_000, 16_300, 40_000, 300_001];

fn memories() -> Vec<Arc<dyn StableMemory>> {
    (0..2).map(|_| Arc::new(PlainMemory::new(8 << 20).expect("memory")) as Arc<dyn StableMemory>).collect()
}

fn config(boot_epoch: u64) -> StoreConfig {
    StoreConfig {
        shards: 4,
        boot_epoch,
        seed: boot_epoch * 77,
        watermark_high_percent: 100,
        watermark_low_percent: 100,
        pinned_percent_max: 100,
        ..StoreConfig::default()
    }
}

fn layout() -> Layout {
    Layout { segments: 2, segment_len: 8 << 20, shards: 4, machine: MACHINE, flash: false }
}

fn life(boot_epoch: u64) -> Life {
    Life { name: 99, boot_epoch, layout: layout(), now: NOW + Millis(1_000) }
}

/// A function of key and version.
fn payload(key: &str, version: u8, len: usize) -> Vec<u8> {
    let seed = key.bytes().fold(u32::from(version), |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into())) >> 1;
    (seed..).take(len).map(|n| n.wrapping_mul(0x9e37_79b1).to_be_bytes()[0]).collect()
}

/// The version of a payload, if it is one of `key`.
fn version(key: &str, bytes: &[u8], versions: u8) -> Option<u8> {
    (0..versions).find(|&version| bytes == payload(key, version, bytes.len()))
}

fn key(number: usize) -> String {
    format!("object:{number}:{}", "k".repeat(number % 50))
}

fn set(store: &Store, number: usize, version: u8, terms: &Terms) {
    let (key, len) = (key(number), LENS[number % LENS.len()]);
    let account = Account::new();
    let now = NOW + Millis(number as u64);
    store.set(now, key.as_bytes(), &payload(&key, version, len), &account, terms).expect("room");
}

/// A store with objects that were replaced, deleted, read, pinned, and given an end.
fn filled(memories: &[Arc<dyn StableMemory>], count: usize) -> Store {
    let store = Store::new(config(5), memories.to_vec());
    for number in 0..count {
        let terms = match number % 7 {
            1 => Terms { expires: Some(NOW + Millis(60_000)), ..Terms::default() },
            2 => Terms { soft_pin: Some(NOW + Millis(90_000)), ..Terms::default() },
            3 => Terms { pin: true, ..Terms::default() },
            4 => Terms { expires: Some(NOW + Millis(1_500)), ..Terms::default() },
            _ => Terms::default(),
        };
        set(&store, number, 0, &terms);
        let name = key(number);
        match number % 11 {
            1 => set(&store, number, 1, &Terms::default()),
            2 => assert!(store.remove(NOW, name.as_bytes())),
            3 => drop(store.read(NOW + Millis(500), name.as_bytes(), None, |_| ())),
            4 => {
                for until in [None, Some(NOW + Millis(5_000)), Some(NOW + Millis(5_000)), Some(NOW + Millis(70_000))] {
                    store.pin(NOW, name.as_bytes(), until).expect("few pins").expect("there");
                }
            }
            _ => {}
        }
    }
    store.audit();
    store
}

fn bytes_of(store: &Store, now: Instant, key: &str) -> Option<Vec<u8>> {
    Some(match store.peek(now, key.as_bytes(), false).expect("few readers")? {
        Found::Small(bytes) => bytes,
        Found::Large(guard) => {
            let mut bytes = vec![0; guard.len()];
            let _ = copy_from(guard.span(), &mut bytes);
            bytes
        }
        Found::Flash(read) => panic!("nothing is on flash: {read:?}"),
    })
}

fn stats(store: &Store, now: Instant, count: usize) -> BTreeMap<String, Stat> {
    (0..count).filter_map(|n| Some((key(n), store.stat(now, key(n).as_bytes())?))).collect()
}

fn concatenated(store: &Store, life: &Life) -> Vec<u8> {
    store.freeze(life).concat()
}

fn next_store(manifest: &Manifest, memories: &[Arc<dyn StableMemory>]) -> Store {
    let config = StoreConfig { hash_seed: Some(manifest.hash_seed()), ..config(manifest.next_boot_epoch(0)) };
    Store::new(config, memories.to_vec())
}

fn adopt(manifest: Manifest, memories: &[Arc<dyn StableMemory>], now: Instant) -> (Store, Adopted) {
    let store = next_store(&manifest, memories);
    let adoption = Adoption::new(store.clone(), manifest).expect("the same build");
    // Two at once, as a server does it.
    std::thread::scope(|scope| {
        scope.spawn(|| adoption.work(now));
        adoption.work(now);
    });
    assert_eq!(adoption.percent(), if adoption.adopted() == Adopted::default() { 0 } else { 100 });
    store.audit();
    (store, adoption.adopted())
}

/// Everything is there again, in each of its properties, and the store works on as any other.
#[test]
fn all_that_lived_is_adopted() {
    let (memories, count) = (memories(), 150);
    let store = filled(&memories, count);
    let later = NOW + Millis(1_100);
    let before = stats(&store, later, count);
    let life = Life { now: later, ..life(5) };
    let manifest = Manifest::decode(concatenated(&store, &life)).expect("whole");
    drop(store);
    assert_eq!(manifest.fits(&layout(), later, None), Ok(()));
    assert_eq!(manifest.objects(), before.len() as u64);
    let (store, adopted) = adopt(manifest, &memories, later);
    assert_eq!((adopted.objects, adopted.damaged + adopted.outdated + adopted.expired), (before.len() as u64, 0));
    assert_eq!(stats(&store, later, count), before);
    for number in 0..count {
        let name = key(number);
        let written = payload(&name, u8::from(number % 11 == 1), LENS[number % LENS.len()]);
        let found = bytes_of(&store, later, &name);
        assert!(found == before.contains_key(&name).then_some(written), "{name}");
    }
    // Lives and pins end when they would have ended.
    let _ = store.maintain(NOW + Millis(1_600));
    store.audit();
    assert!((0..count).filter(|n| n % 7 == 4 && n % 11 != 1).all(|n| store.stat(later, key(n).as_bytes()).is_none()));
    let _ = store.maintain(NOW + Millis(5_100));
    store.audit();
    assert_eq!(store.stat(NOW + Millis(5_100), key(4 + 11).as_bytes()).expect("pinned").pins, 2);
    // New generations are greater than all old ones, and the slots of the adopted can be used again.
    let newest = before.values().map(|stat| stat.generation).max().expect("many");
    set(&store, 1_000, 0, &Terms::default());
    assert!(store.stat(later, key(1_000).as_bytes()).expect("new").generation > newest);
    for number in 0..count {
        while store.unpin(NOW, key(number).as_bytes()).is_some_and(|left| left > 0) {}
        store.remove(later, key(number).as_bytes());
    }
    store.audit();
    assert_eq!(store.len(), 1);
    store.clear();
    store.audit();
}

/// The order of eviction goes on, and the third life adopts from the second.
#[test]
fn the_order_of_eviction_is_kept_from_life_to_life() {
    let memories = memories();
    let store = filled(&memories, 100);
    let order = |store: &Store| {
        let mut keys: Vec<_> = stats(store, NOW + Millis(2_000), 100).into_iter().collect();
        keys.sort_by_key(|(_, stat)| stat.touched);
        keys.into_iter().map(|(key, stat)| (key, stat.touched)).collect::<Vec<_>>()
    };
    let before = order(&store);
    let (mut store, mut now) = (store, NOW + Millis(2_000));
    for epoch in 5..8 {
        let life = Life { now, ..life(epoch) };
        let manifest = Manifest::decode(concatenated(&store, &life)).expect("whole");
        assert_eq!(manifest.next_boot_epoch(0), epoch + 1);
        (store, _) = adopt(manifest, &memories, now);
        assert_eq!(order(&store), before);
        now = now + Millis(1);
    }
}

/// What ended between the lives does not come back.
#[test]
fn lives_that_ended_meanwhile_are_over() {
    let memories = memories();
    let store = filled(&memories, 60);
    let manifest = Manifest::decode(concatenated(&store, &life(5))).expect("whole");
    let late = NOW + Millis(80_000);
    let (store, adopted) = adopt(manifest, &memories, late);
    assert!(adopted.expired > 10, "{adopted:?}");
    assert!(stats(&store, NOW, 60).values().all(|stat| stat.expires.is_none()));
    assert!(stats(&store, NOW, 60).values().all(|stat| stat.pins <= 2), "timed pins ran out");
}

/// Whatever byte of the manifest is not as it was written, and wherever it ends: nothing is believed.
#[test]
fn a_damaged_manifest_is_refused_whole() {
    let memories = memories();
    let store = filled(&memories, 40);
    let whole = concatenated(&store, &life(5));
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        // A checksum that covers itself is none: the reserved bytes are covered by the header's.
        assert!(matches!(Manifest::decode(damaged), Err(Cold::Damaged(_))), "byte {at}");
    }
    for len in (0..whole.len()).step_by(7) {
        assert!(matches!(Manifest::decode(whole[..len].to_vec()), Err(Cold::Damaged(_))), "{len} bytes");
    }
    let mut longer = whole;
    longer.extend([0; 4096]);
    assert!(Manifest::decode(longer).is_ok(), "files of huge pages are longer");
}

#[test]
fn another_configuration_machine_or_past_begins_cold() {
    let memories = memories();
    let store = filled(&memories, 4);
    let manifest = |life: &Life| Manifest::decode(concatenated(&store, life)).expect("whole");
    let now = NOW + Millis(1_000);
    let fits = |other: Layout| manifest(&life(5)).fits(&other, now, None);
    assert_eq!(fits(layout()), Ok(()));
    assert!(matches!(fits(Layout { segments: 3, ..layout() }), Err(Cold::Layout { was: 2, is: 3, .. })));
    assert!(matches!(fits(Layout { segment_len: 16 << 20, ..layout() }), Err(Cold::Layout { .. })));
    assert!(matches!(fits(Layout { shards: 8, ..layout() }), Err(Cold::Layout { .. })));
    assert!(matches!(fits(Layout { flash: true, ..layout() }), Err(Cold::Layout { .. })));
    assert_eq!(fits(Layout { machine: [8; 24], ..layout() }), Err(Cold::Machine));
    assert_eq!(manifest(&life(5)).fits(&layout(), NOW, None), Err(Cold::Clock));
    let with_flash = Layout { flash: true, ..layout() };
    let of_flash = manifest(&Life { layout: with_flash, ..life(5) });
    assert_eq!(of_flash.fits(&with_flash, now, None), Err(Cold::Flash));
    assert_eq!(of_flash.fits(&with_flash, now, Some(98)), Err(Cold::Flash));
    assert_eq!(of_flash.fits(&with_flash, now, Some(99)), Ok(()));
    assert_eq!(manifest(&life(Generation::BOOT_EPOCH_MAX)).fits(&layout(), now, None), Err(Cold::Epoch));
    assert_eq!(manifest(&life(5)).next_boot_epoch(9), 9, "a later one is as good");
    let other_seed = Store::new(config(6), memories.clone());
    assert_eq!(Adoption::new(other_seed, manifest(&life(5))).err(), Some(Cold::Hash));
}

/// Writes over a byte of memory, as a stray process would.
fn flip(memories: &[Arc<dyn StableMemory>], segment: usize, offset: usize) {
    let span = RawSpan::new(Arc::clone(&memories[segment]), offset, 1).expect("inside");
    let mut byte = [0];
    let _ = copy_from(&span, &mut byte);
    byte[0] ^= 0x40;
    let _ = copy_into(&byte, &span);
}

/// Every byte of a slot that matters, one at a time: the object is dropped, and no other is harmed.
#[test]
fn a_damaged_slot_costs_its_object_and_nothing_else() {
    let memories = memories();
    let count = LENS.len();
    let store = Store::new(config(5), memories.clone());
    (0..count).for_each(|number| set(&store, number, 0, &Terms::default()));
    let whole = concatenated(&store, &life(5));
    // Where the bytes of each object lie, by a search for its key: nothing else here knows.
    let mut tried = 0;
    for (number, len) in LENS.into_iter().enumerate() {
        let name = key(number);
        let stat = store.stat(NOW, name.as_bytes()).and_then(|stat| stat.dram).expect("in DRAM");
        let (segment, payload) = (stat.0.0 as usize, usize::try_from(stat.1).expect("inside"));
        let small = len + name.len() + 16 <= usize::try_from(SMALL_LEN_MAX).expect("short");
        let mut at: Vec<usize> = vec![payload, payload + len / 2, payload + len.saturating_sub(1)];
        at.retain(|_| len > 0);
        if small {
            let key_at = payload - name.len();
            // Generation, length of the key, key. The number of its entry is made anew.
            at.extend([key_at - 16, key_at - 9, key_at - 4, key_at - 1, key_at, key_at + name.len() - 1]);
        } else {
            let trailer = (payload + len).next_multiple_of(64);
            at.extend((0..64).step_by(3).map(|byte| payload - 64 + byte));
            at.extend((0..64).step_by(3).map(|byte| trailer + byte));
            at.extend([trailer + 64, trailer + 63 + name.len()]);
        }
        for at in at {
            flip(&memories, segment, at);
            let (store, adopted) = adopt(Manifest::decode(whole.clone()).expect("whole"), &memories, NOW);
            assert_eq!((adopted.objects, adopted.damaged), (count as u64 - 1, 1), "{name}, byte {at}");
            for other in 0..count {
                let name = key(other);
                let found = bytes_of(&store, NOW, &name);
                assert_eq!(found, (other != number).then(|| payload_of(other)), "{name}");
            }
            flip(&memories, segment, at);
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried}");
}

fn payload_of(number: usize) -> Vec<u8> {
    payload(&key(number), 0, LENS[number % LENS.len()])
}

/// A manifest whose checksums are right and whose words are not: no object is found with bytes that are not its own, and
/// nothing panics.
#[test]
fn a_forged_manifest_gives_no_wrong_byte() {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let count = 120;
    let pristine = memories();
    let store = filled(&pristine, count);
    let whole = concatenated(&store, &life(5));
    for round in 0..40 {
        let mut forged = whole.clone();
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(128..forged.len());
            match rng.random_range(0..3) {
                0 => forged[at] ^= 1 << rng.random_range(0..8),
                1 => forged[at] = rng.random(),
                _ => {
                    // A record over another.
                    let (from, to) = (rng.random_range(0..count / 2), rng.random_range(0..count / 2));
                    let (from, to) = (144 + from * 64, 144 + to * 64);
                    if from.max(to) + 64 <= forged.len() {
                        forged.copy_within(from..from + 64, to);
                    }
                }
            }
        }
        let body = Crc::of(&forged[128..]);
        forged[112..116].copy_from_slice(&body.0.to_le_bytes());
        let header = Crc::of(&forged[12..128]);
        forged[8..12].copy_from_slice(&header.0.to_le_bytes());
        let Ok(manifest) = Manifest::decode(forged) else { continue };
        // Adoption writes slots anew: on a copy of the memory.
        let copies = memories();
        for (from, to) in pristine.iter().zip(&copies) {
            let whole =
                |memory: &Arc<dyn StableMemory>| RawSpan::new(Arc::clone(memory), 0, memory.len()).expect("all");
            let _ = copy_and_crc(&whole(from), &whole(to), Crc::default());
        }
        let (store, _) = adopt(manifest, &copies, NOW + Millis(1_000));
        for number in 0..count {
            let name = key(number);
            if let Some(bytes) = bytes_of(&store, NOW + Millis(1_000), &name) {
                assert!(version(&name, &bytes, 2).is_some(), "seed {seed}, round {round}: {name}");
            }
        }
        store.clear();
        store.audit();
    }
}

/// Of an object that flash knows too: the same generation is clean, an older version is buried, a newer one counts.
#[test]
fn flash_and_memory_agree_on_the_newest() {
    #[derive(Default)]
    struct Told(parking_lot::Mutex<Vec<Buried>>);
    impl Graveyard for Told {
        fn bury(&self, dead: &[Buried]) {
            self.0.lock().extend(dead);
        }
        fn bury_all(&self, _: Generation) {}
        fn retire(&self, _: u16) {}
        fn pinned(&self, _: &[u8], _: Generation, _: Pinned, _: u64) {}
        fn expiry(&self, _: Buried, _: Option<Instant>, _: u64) {}
    }
    let memories = memories();
    let store = Store::new(config(5), memories.clone());
    (0..6).for_each(|number| set(&store, number + 3, 0, &Terms::default()));
    let before = stats(&store, NOW, 10);
    let manifest = Manifest::decode(concatenated(&store, &life(5))).expect("whole");
    let store = next_store(&manifest, &memories);
    let told = Arc::new(Told::default());
    store.enable_flash(Arc::clone(&told) as Arc<dyn Graveyard>);
    store.set_flash_limits(ByteLen::mib(64), ByteLen::mib(1));
    let record = |number: usize, generation: Generation, crc: Crc| {
        let name = key(number);
        let stat = &before[&name];
        let place = FlashPlace { slot: 1, page: u16::try_from(number).expect("small") };
        let pins = Pinned { endless: 3, until: None };
        assert!(store.insert_recovered(
            NOW,
            &RecoveredRecord {
                key: name.as_bytes(),
                generation,
                length: stat.length.0,
                crc,
                expires: None,
                place,
                pins
            },
            |_| false
        ));
        place
    };
    let of = |number: usize| before[&key(number)];
    record(3, of(3).generation, of(3).crc);
    let older = record(4, Generation(of(4).generation.0 - 1), of(4).crc);
    record(5, Generation(of(5).generation.0 + 1), of(5).crc);
    record(6, of(6).generation, Crc(of(6).crc.0 ^ 1));
    let adoption = Adoption::new(store.clone(), manifest).expect("the same build");
    adoption.work(NOW);
    store.audit();
    let adopted = adoption.adopted();
    assert_eq!((adopted.objects, adopted.clean, adopted.outdated, adopted.damaged), (4, 1, 2, 0));
    assert_eq!(*told.0.lock(), [Buried { place: older, generation: Generation(of(4).generation.0 - 1) }]);
    assert_eq!(store.usage().on_both, 1);
    assert_eq!(store.stat(NOW, key(3).as_bytes()).expect("there").pins, 3, "as the journal says");
    assert_eq!(store.stat(NOW, key(4).as_bytes()).expect("there").generation, of(4).generation);
    for number in [5, 6] {
        assert!(matches!(store.peek(NOW, key(number).as_bytes(), false), Ok(Some(Found::Flash(_)))), "{number}");
    }
}
