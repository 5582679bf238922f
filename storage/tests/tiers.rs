//! Objects in two tiers: what is evicted first, what is buried, what comes back, and what it costs.

use protocol::base::{ByteLen, Crc, Generation, Instant, Millis, SessionId, copy_into};
use std::sync::{Arc, Mutex};
use storage::{
    Account, Buried, FlashPlace, Found, GrantTerms, Graveyard, Pinned, PlainMemory, RecoveredRecord, Seal, SlotRecord,
    Spill, SpillOf, Store, StoreConfig, StoreError, Terms, Ttl,
};

const NOW: Instant = Instant(1_000_000_000_000);
const SESSION: SessionId = SessionId(7);
const LEN: usize = 60 << 10;

/// What the graveyard was told, in order.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<Event>>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Dead(FlashPlace, Generation),
    AllBelow(Generation),
    Retired(u16),
    Pinned(Vec<u8>, Pinned),
    Expires(FlashPlace, Option<Instant>),
}

impl Told {
    fn push(&self, event: Event) {
        self.0.lock().expect("no panic under it").push(event);
    }

    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().expect("no panic under it"))
    }
}

impl Graveyard for Told {
    fn bury(&self, dead: &[Buried]) {
        dead.iter().for_each(|dead| self.push(Event::Dead(dead.place, dead.generation)));
    }
    fn bury_all(&self, below: Generation) {
        self.push(Event::AllBelow(below));
    }
    fn retire(&self, slot: u16) {
        self.push(Event::Retired(slot));
    }
    fn pinned(&self, key: &[u8], _: Generation, pins: Pinned, _: u64) {
        self.push(Event::Pinned(key.to_vec(), pins));
    }
    fn expiry(&self, record: Buried, expires: Option<Instant>, _: u64) {
        self.push(Event::Expires(record.place, expires));
    }
}

fn store(pages: usize) -> (Store, Arc<Told>) {
    let config = StoreConfig {
        shards: 2,
        watermark_high_percent: 100,
        watermark_low_percent: 100,
        reserved_percent_max: 100,
        reserved_client_percent_max: 100,
        ..StoreConfig::default()
    };
    let store = Store::new(config, vec![Arc::new(PlainMemory::new(pages * 4096).expect("memory"))]);
    let told = Arc::new(Told::default());
    store.enable_flash(Arc::clone(&told) as Arc<dyn Graveyard>);
    store.set_flash_limits(ByteLen::mib(64), ByteLen::mib(1));
    store.set_spilling(true);
    store.set_spill_mark(0);
    (store, told)
}

fn set(store: &Store, key: u8, at: u64) -> Result<Generation, StoreError> {
    store.set(NOW + Millis(at), &[key], &vec![key; LEN], &Account::new(), &Terms::default())
}

fn place(page: u16) -> FlashPlace {
    FlashPlace { slot: 3, page }
}

/// Writes everything that is dirty, each key to the page of its number.
fn spill_all(store: &Store) -> usize {
    let mut spills = Vec::new();
    store.next_spill(NOW, &mut spills, u64::MAX);
    let count = spills.len();
    for mut spill in spills {
        assert!(spill.begin(place(spill.key[0].into())));
        assert!(spill.done());
    }
    store.audit();
    count
}

fn spill_one(store: &Store, key: u8) -> Spill {
    let generation = store.stat(NOW, &[key]).expect("live").generation;
    match store.spill_of(NOW, &[key], generation) {
        SpillOf::Spill(spill) => spill,
        other => panic!("{other:?}"),
    }
}

fn on_flash(store: &Store, key: u8) -> storage::FlashRead {
    match store.read(NOW, &[key], None, |_| ()).expect("few readers") {
        Some(Found::Flash(read)) => read,
        other => panic!("{other:?}"),
    }
}

/// Leaves the key on flash alone.
fn demote(store: &Store, key: u8) -> Generation {
    let mut spill = spill_one(store, key);
    let generation = spill.generation;
    assert!(spill.begin(place(key.into())) && spill.done());
    while store.stat(NOW, &[key]).is_some_and(|stat| stat.dram.is_some()) {
        assert_eq!(store.evict(NOW, 1), 1);
    }
    generation
}

#[test]
fn what_is_on_flash_too_goes_first_and_is_not_lost() {
    let (store, told) = store(40);
    set(&store, 1, 2).expect("room");
    set(&store, 2, 1).expect("room");
    let mut spill = spill_one(&store, 1);
    assert!(spill.begin(place(1)) && spill.done());
    assert_eq!(store.evict(NOW, 1), 1);
    let (newer, older) = (store.stat(NOW, &[1]).expect("live"), store.stat(NOW, &[2]).expect("live"));
    assert_eq!((newer.dram, newer.flash), (None, Some(place(1))), "the clean one went, though it was touched later");
    assert!(older.dram.is_some());
    assert_eq!((store.len(), store.usage().counters.demoted, store.usage().counters.evicted), (2, 1, 0));
    assert_eq!(told.take(), []);
    store.audit();
}

#[test]
fn a_writer_waits_for_the_flash_and_then_does_not() {
    let (store, _) = store(34);
    set(&store, 1, 0).expect("room");
    set(&store, 2, 1).expect("room");
    assert!(matches!(set(&store, 3, 2), Err(StoreError::SpillWait { .. })));
    assert_eq!(spill_all(&store), 2);
    set(&store, 3, 3).expect("the oldest is clean now");
    assert!(store.stat(NOW, &[1]).is_some_and(|stat| stat.dram.is_none()));
    set(&store, 4, 4).expect("and the second");
    assert!(matches!(set(&store, 5, 5), Err(StoreError::SpillWait { .. })));
    store.hurry(NOW + Millis(5));
    set(&store, 5, 5).expect("at the expense of another");
    assert_eq!(store.usage().counters.dropped_dirty, 1);
    assert_eq!(store.stat(NOW, &[3]), None, "the oldest of the dirty");
    assert!(matches!(set(&store, 6, 2_000), Err(StoreError::SpillWait { .. })), "patient again after a second");
    store.set_spilling(false);
    set(&store, 6, 2_001).expect("nobody waits for flash that is off");
    store.audit();
}

/// One large object needs neighbours to go, not the oldest: those are written first.
#[test]
fn room_for_a_long_run_is_written_to_flash_first() {
    let (store, _) = store(260);
    store.set_spill_mark(100);
    for key in 0..51 {
        store
            .set(NOW + Millis(key.into()), &[key], &vec![key; 20_000], &Account::new(), &Terms::default())
            .expect("room");
    }
    // Every second one was read later: the oldest lie scattered.
    for key in (0..51).step_by(2) {
        assert!(store.touch(NOW + Millis(1_000 + u64::from(key)), &[key]));
    }
    let large = || store.set(NOW + Millis(2_000), b"large", &vec![7; 100_000], &Account::new(), &Terms::default());
    assert!(matches!(large(), Err(StoreError::SpillWait { .. })));
    let written = spill_all(&store);
    assert!((5..=20).contains(&written), "{written} objects of 20 KiB for a run of 100 KiB");
    large().expect("a run of clean objects");
    assert_eq!((store.len(), store.usage().counters.evicted), (52, 0), "nobody was lost");
    store.audit();
}

#[test]
fn whatever_ends_an_object_buries_its_record_before_the_call_returns() {
    let (store, told) = store(200);
    let ends: [fn(&Store); 5] = [
        |store| assert!(store.remove(NOW, &[1])),
        |store| assert!(set(store, 1, 0).is_ok()),
        |store| assert!(store.expire(NOW, &[1], Some(NOW), |_| true)),
        |store| {
            assert!(store.expire(NOW, &[1], Some(NOW + Millis(5)), |_| true));
            store.maintain(NOW + Millis(5));
        },
        |store| {
            let terms =
                GrantTerms { session: SESSION, deadline: NOW + Millis(100), exposed: false, terms: Terms::default() };
            let granted = store.grant(NOW, &[1], 10, &Account::new(), terms).expect("room");
            let Seal::Begun(seal) = store.seal(NOW, granted.grant, SESSION, None).expect("open") else { panic!() };
            let crc = protocol::base::crc_of(seal.span());
            seal.finish(NOW, crc, crc).expect("right");
        },
    ];
    for (which, end) in ends.into_iter().enumerate() {
        for alone in [false, true] {
            set(&store, 1, 0).expect("room");
            let mut spill = spill_one(&store, 1);
            let generation = spill.generation;
            assert!(spill.begin(place(1)) && spill.done());
            if alone {
                store.evict(NOW, 1);
            }
            told.take();
            end(&store);
            let dead = Event::Dead(place(1), generation);
            assert!(told.take().contains(&dead), "end {which}, on flash alone: {alone}");
            store.audit();
            store.remove(NOW, &[1]);
        }
        // While its record is on its way.
        set(&store, 1, 0).expect("room");
        let mut spill = spill_one(&store, 1);
        let generation = spill.generation;
        assert!(spill.begin(place(9)));
        told.take();
        end(&store);
        assert!(told.take().contains(&Event::Dead(place(9), generation)), "end {which}, while being written");
        assert!(!spill.done());
        store.audit();
        store.remove(NOW, &[1]);
    }
}

#[test]
fn a_spill_that_fails_buries_its_record_and_leaves_the_object() {
    let (store, told) = store(100);
    let generation = set(&store, 1, 0).expect("room");
    let mut spill = spill_one(&store, 1);
    assert!(matches!(store.spill_of(NOW, &[1], generation), SpillOf::InFlight));
    assert!(spill.begin(place(1)));
    drop(spill);
    assert_eq!(told.take(), [Event::Dead(place(1), generation)]);
    let mut spill = spill_one(&store, 1);
    assert!(spill.begin(place(2)) && spill.begin(place(3)) && spill.done());
    assert_eq!(told.take(), [Event::Dead(place(2), generation)], "the place before");
    assert!(matches!(store.spill_of(NOW, &[1], generation), SpillOf::OnFlash(at) if at == place(3)));
    // A deleted object is not begun.
    set(&store, 1, 1).expect("room");
    let mut spill = spill_one(&store, 1);
    store.remove(NOW, &[1]);
    told.take();
    assert!(!spill.begin(place(4)));
    drop(spill);
    assert_eq!(told.take(), []);
    store.audit();
}

#[test]
fn the_second_read_promotes_and_a_promotion_never_undoes_anything() {
    let (store, _) = store(100);
    set(&store, 1, 0).expect("room");
    let generation = demote(&store, 1);
    assert!(!on_flash(&store, 1).promote);
    let read = on_flash(&store, 1);
    assert!(read.promote);
    assert_eq!((read.generation, read.crc, store.slot_readers(3)), (generation, Crc::of(&vec![1; LEN]), 1));
    let account = Account::new();
    let promote = || {
        let promotion = store.promote(NOW, &read, &account).expect("room");
        copy_into(&vec![1; LEN], &promotion.span());
        promotion
    };
    let (first, second) = (promote(), promote());
    assert!(account.reserved() > ByteLen(0));
    let guard = first.publish(NOW).expect("nothing happened meanwhile");
    assert_eq!((guard.generation(), guard.bytes()), (generation, &vec![1; LEN][..]));
    let same = second.publish(NOW).expect("another was quicker");
    assert_eq!(same.span().as_ptr(), guard.span().as_ptr());
    drop((guard, same));
    assert_eq!((account.reserved(), store.usage().counters.promoted), (ByteLen(0), 1));
    store.audit();
    // Deleted while it was being read.
    assert_eq!(store.evict(NOW, 1), 1);
    let promotion = promote();
    assert!(store.remove(NOW, &[1]));
    let Err(promotion) = promotion.publish(NOW) else { panic!("it came back from the dead") };
    let guard = promotion.anonymous();
    assert_eq!((guard.bytes(), store.stat(NOW, &[1])), (&vec![1; LEN][..], None));
    drop((guard, read));
    assert_eq!((account.reserved(), store.slot_readers(3)), (ByteLen(0), 0));
    store.audit();
}

#[test]
fn a_slot_is_surveyed_copied_and_dropped() {
    let (store, told) = store(200);
    let generations: Vec<Generation> = (0..4).map(|key| set(&store, key, key.into()).expect("room")).collect();
    assert_eq!(spill_all(&store), 4);
    told.take();
    store.pin(NOW, &[1], None).expect("quota");
    assert_eq!(store.evict(NOW, 4), 3, "a pinned object stays where it was pinned");
    drop(on_flash(&store, 0));
    store.probe(NOW, &[2]);
    let keys: [[u8; 1]; 4] = [[0], [1], [2], [3]];
    let records = || {
        (0..4u16).map(|n| SlotRecord { key: &keys[usize::from(n)], generation: generations[usize::from(n)], page: n })
    };
    let current = store.survey_slot(NOW, 3, records());
    let hot: Vec<(bool, bool)> = current.iter().map(|current| (current.hot, current.pinned)).collect();
    assert_eq!(hot, [(true, false), (true, true), (true, false), (false, false)], "read, pinned, graced, cold");
    let to = FlashPlace { slot: 5, page: 7 };
    let copy = store.reinsert(NOW, &[0], generations[0], place(0), to).expect("current");
    assert!(store.reinsert(NOW, &[0], generations[0], place(0), to).is_none(), "once at a time");
    assert!(copy.done());
    let copy = store.reinsert(NOW, &[2], generations[2], place(2), FlashPlace { slot: 5, page: 9 }).expect("current");
    told.take();
    assert!(store.remove(NOW, &[2]));
    let both = [place(2), FlashPlace { slot: 5, page: 9 }].map(|place| Event::Dead(place, generations[2]));
    let mut events = told.take();
    events.sort_by_key(|event| format!("{event:?}"));
    assert_eq!(events, both, "both places of a record that moves");
    assert!(!copy.done());
    assert_eq!(store.drop_slot(3, records()), 2, "the pinned one and the cold one");
    assert_eq!(told.take(), [Event::Retired(3)]);
    let stats: Vec<_> =
        (0..4u8).map(|key| store.stat(NOW, &[key]).map(|stat| (stat.dram.is_some(), stat.flash))).collect();
    assert_eq!(stats, [Some((false, Some(to))), Some((true, None)), None, None]);
    store.audit();
}

#[test]
fn expiry_and_pins_go_with_an_object_through_the_tiers() {
    let (store, told) = store(200);
    set(&store, 1, 0).expect("room");
    let at = NOW + Millis(50);
    assert!(store.expire(NOW, &[1], Some(at), |_| true));
    demote(&store, 1);
    assert_eq!(store.ttl(NOW, &[1]), Ttl::Until(at));
    told.take();
    assert!(store.expire(NOW, &[1], None, |now| now == Some(at)));
    assert_eq!(told.take(), [Event::Expires(place(1), None)]);
    assert_eq!(store.pin(NOW, &[1], None), Ok(Some(1)));
    assert_eq!(told.take(), [Event::Pinned(vec![1], Pinned { endless: 1, until: None })]);
    let sum = store.accounting();
    assert_eq!((sum.pinned, sum.flash_pinned), (0, 64 << 10));
    let read = on_flash(&store, 1);
    let promotion = store.promote(NOW, &read, &Account::new()).expect("room");
    copy_into(&vec![1; LEN], &promotion.span());
    drop(promotion.publish(NOW).expect("current"));
    assert_eq!(store.pin(NOW, &[1], None), Ok(Some(2)), "in both tiers, pinned in one");
    assert_eq!((store.accounting().pinned, store.evict(NOW, 1)), (0, 1), "its copy may go");
    assert_eq!(store.unpin(NOW, &[1]), Some(1));
    // The record is lost with its slot's device while the object is in DRAM too: the pins are there then.
    let promotion = store.promote(NOW, &read, &Account::new()).expect("room");
    copy_into(&vec![1; LEN], &promotion.span());
    drop(promotion.publish(NOW).expect("current"));
    assert!(store.drop_record(&[1], read.generation, place(1)));
    store.audit();
    assert_eq!((store.stat(NOW, &[1]).map(|stat| stat.pins), store.accounting().flash_pinned), (Some(1), 0));
    assert_eq!(store.evict(NOW, 1), 0);
    assert_eq!(store.unpin(NOW, &[1]), Some(0));
    store.audit();
}

#[test]
fn a_flush_is_told_once_and_outlived_by_nothing() {
    let (store, told) = store(200);
    let terms = GrantTerms { session: SESSION, deadline: NOW + Millis(100), exposed: false, terms: Terms::default() };
    let granted = store.grant(NOW, &[9], 10, &Account::new(), terms).expect("room");
    for key in 0..4 {
        set(&store, key, key.into()).expect("room");
    }
    spill_all(&store);
    store.evict(NOW, 2);
    told.take();
    assert_eq!(store.clear(), 4);
    let events = told.take();
    assert!(matches!(events[..], [Event::AllBelow(below)] if below > granted.generation), "{events:?}");
    assert!(store.is_empty());
    // A write that began before is published after, and stays in DRAM.
    let Seal::Begun(seal) = store.seal(NOW, granted.grant, SESSION, None).expect("open") else { panic!() };
    let crc = protocol::base::crc_of(seal.span());
    let committed = seal.finish(NOW, crc, crc).expect("right");
    assert!(matches!(store.spill_of(NOW, &[9], committed.generation), SpillOf::Missing));
    let generation = set(&store, 1, 5).expect("room");
    assert!(matches!(events[..], [Event::AllBelow(below)] if generation >= below));
    assert_eq!(spill_all(&store), 1, "what was written after is spilled");
    store.audit();
}

#[test]
fn of_a_key_found_twice_the_newest_counts() {
    let (store, told) = store(40);
    let record = |generation, page| RecoveredRecord {
        key: b"k",
        generation: Generation(generation),
        length: 5000,
        crc: Crc(1),
        expires: None,
        place: place(page),
        pins: Pinned { endless: 1, until: Some(NOW + Millis(5)) },
    };
    assert!(store.insert_recovered(NOW, &record(5, 1), |_| false));
    assert!(!store.insert_recovered(NOW, &record(4, 2), |_| false));
    assert!(store.insert_recovered(NOW, &record(6, 3), |_| false));
    assert!(store.insert_recovered(NOW, &record(6, 3), |_| false), "it is there");
    assert!(!store.insert_recovered(NOW, &record(6, 4), |_| false), "a copy of it");
    assert!(!store.insert_recovered(NOW, &record(6, 5), |other| other == place(3)), "what it was copied from");
    let dead = told.take().into_iter().filter(|event| matches!(event, Event::Dead(..))).collect::<Vec<_>>();
    let expected =
        [(2, 4), (1, 5), (4, 6), (3, 6)].map(|(page, generation)| Event::Dead(place(page), Generation(generation)));
    assert_eq!(dead, expected);
    let stat = store.stat(NOW, b"k").expect("the newest");
    assert_eq!((stat.generation, stat.flash, stat.pins), (Generation(6), Some(place(5)), 2));
    store.audit();
    let expired = RecoveredRecord { key: b"l", expires: Some(NOW), ..record(7, 9) };
    assert!(!store.insert_recovered(NOW, &expired, |_| false));
    assert_eq!(store.len(), 1);
}

/// DESIGN: at most 40 bytes of the index an object on flash, beyond its key.
#[test]
fn an_object_on_flash_costs_forty_bytes_of_memory() {
    let (store, _) = store(40);
    let objects = 200_000u64;
    for number in 0..objects {
        let key = format!("{number:036}");
        let place = FlashPlace {
            slot: u16::try_from(number >> 12).expect("few"),
            page: u16::try_from(number & 0xfff).expect("12 bits"),
        };
        let record = RecoveredRecord {
            key: key.as_bytes(),
            generation: Generation(number),
            length: 1 << 20,
            crc: Crc(0),
            expires: None,
            place,
            pins: Pinned::default(),
        };
        assert!(store.insert_recovered(NOW, &record, |_| false));
    }
    let bytes = store.usage().index_bytes / objects - 36;
    assert!(bytes <= 40, "{bytes} bytes an object");
    let mut seen = 0;
    let mut cursor = 0;
    loop {
        cursor = store.scan(NOW, cursor, 1000, |key| seen += u64::from(key.len() == 36));
        if cursor == 0 {
            break;
        }
    }
    assert_eq!((seen, store.clear(), store.len()), (objects, objects, 0));
}
