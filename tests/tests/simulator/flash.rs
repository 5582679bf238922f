//! The flash tier around the store: spills that finish late or fail, reads and promotions that race whatever else happens,
//! slots reclaimed and lost, and at any moment the question what a restart would find.

use crate::content::Content;
use crate::grave::{Grave, OnMedia, Slot};
use crate::model::Object;
use crate::world::World;
use protocol::base::{ByteLen, Generation, copy_into};
use rand::Rng as _;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use std::collections::BTreeMap;
use std::sync::Arc;
use storage::{
    Account, FlashPlace, FlashRead, Found, PlainMemory, Promotion, ReadGuard, RecoveredRecord, Reinsertion, SlotRecord,
    Spill, SpillOf, Store, StoreConfig, Terms,
};

/// Pages of a slot.
const SLOT_PAGES: u16 = 160;
const PAGE: usize = 4096;

/// A spill between being offered and being settled.
pub(crate) struct Writing {
    spill: Spill,
    key: u8,
    content: Content,
    place: Option<FlashPlace>,
}

/// A copy between being begun and being settled.
pub(crate) struct Moving {
    reinsertion: Reinsertion,
    to: FlashPlace,
    record: OnMedia,
}

/// A read from flash that is still under way, perhaps with a slot to read into.
pub(crate) struct Reading {
    read: FlashRead,
    key: u8,
    life: u64,
    promotion: Option<(Promotion, u64)>,
}

pub(crate) struct Flash {
    grave: Arc<Grave>,
    slots: Vec<Slot>,
    writing: Vec<Writing>,
    moving: Vec<Moving>,
    reading: Vec<Reading>,
    /// Guards of bytes that nobody else finds, and what they are charged.
    anonymous: Vec<(ReadGuard, Content, u64)>,
    account: Arc<Account>,
    /// Slots dropped that still have readers.
    draining: Vec<u16>,
    pub(crate) counts: FlashCounts,
}

/// How often what was tried came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlashCounts {
    pub(crate) spilled: u64,
    pub(crate) gone_meanwhile: u64,
    pub(crate) failed: u64,
    pub(crate) reads: u64,
    pub(crate) promoted: u64,
    pub(crate) not_promoted: u64,
    pub(crate) reinserted: u64,
    pub(crate) reclaimed: u64,
    pub(crate) restarts: u64,
    pub(crate) waited: u64,
}

impl Flash {
    pub(crate) fn new(store: &Store, random: &mut rand::rngs::StdRng) -> Self {
        let grave = Arc::new(Grave::default());
        store.enable_flash(Arc::clone(&grave) as Arc<dyn storage::Graveyard>);
        let slots: Vec<Slot> = (0..random.random_range(3..12)).map(|_| Slot::default()).collect();
        let capacity = slots.len() as u64 * u64::from(SLOT_PAGES) * PAGE as u64;
        store.set_flash_limits(ByteLen(capacity), ByteLen(capacity / slots.len() as u64 / 2));
        store.set_spilling(true);
        store.set_spill_mark(random.random_range(0..=90_u8).saturating_sub(60));
        Self {
            grave,
            slots,
            writing: Vec::new(),
            moving: Vec::new(),
            reading: Vec::new(),
            anonymous: Vec::new(),
            account: Account::new(),
            draining: Vec::new(),
            counts: FlashCounts::default(),
        }
    }

    /// Bytes charged to promotions and what became of them.
    pub(crate) fn charged(&self) -> u64 {
        let promotions = self.reading.iter().filter_map(|reading| reading.promotion.as_ref().map(|(_, charge)| charge));
        promotions.sum::<u64>() + self.anonymous.iter().map(|(.., charge)| charge).sum::<u64>()
    }

    /// Room for a record in an open slot.
    fn place(&mut self, length: usize) -> Option<FlashPlace> {
        let pages = u16::try_from(length.div_ceil(PAGE) + 1).expect("short");
        for (number, slot) in (0u16..).zip(&mut self.slots) {
            if !slot.sealed && slot.head + pages <= SLOT_PAGES {
                let page = slot.head;
                slot.head += pages;
                return Some(FlashPlace { slot: number, page });
            }
            // Nearly full.
            slot.sealed |= slot.head + 8 > SLOT_PAGES;
        }
        None
    }

    fn write(&mut self, place: FlashPlace, record: OnMedia) {
        self.slots[usize::from(place.slot)].records.insert(place.page, record);
    }

    fn look(&self, place: FlashPlace) -> Option<OnMedia> {
        self.slots[usize::from(place.slot)].records.get(&place.page).copied()
    }

    fn table(&self, slot: u16) -> Vec<(u8, Generation, u16)> {
        let records = &self.slots[usize::from(slot)].records;
        records.iter().map(|(&page, record)| (record.key, record.generation, page)).collect()
    }
}

fn lines(table: &[(u8, Generation, u16)]) -> impl Iterator<Item = SlotRecord<'_>> {
    table.iter().map(|(key, generation, page)| SlotRecord {
        key: std::slice::from_ref(key),
        generation: *generation,
        page: *page,
    })
}

impl World {
    /// Works on the flash tier, if there is one.
    fn with_flash<R>(&mut self, work: impl FnOnce(&mut Self, &mut Flash) -> R) -> Option<R> {
        let mut flash = self.flash.take()?;
        let result = work(self, &mut flash);
        self.flash = Some(flash);
        Some(result)
    }

    /// One random thing happens to the flash tier.
    pub(crate) fn flash_step(&mut self) {
        if self.flash.is_none() {
            return;
        }
        match self.random.random_range(0..10) {
            0..4 => {
                let key = self.key();
                self.get(key);
            }
            4..6 => self.race(),
            _ => {}
        }
        self.with_flash(|world, flash| match world.random.random_range(0..30) {
            0..7 => world.offer(flash),
            7..15 => world.settle_spill(flash),
            15..21 => world.go_on_reading(flash),
            21..23 => world.settle_move(flash),
            23..25 => world.reclaim(flash),
            25 => world.durable(flash),
            26 => world.restart(flash),
            27..29 => {
                // Memory is short for a moment: clean copies go.
                world.store.evict(world.now, world.random.random_range(1..6));
            }
            _ => {
                let on = world.random.random_ratio(9, 10);
                world.store.set_spilling(on);
                world.store.set_spill_mark(world.random.random_range(0..=90_u8).saturating_sub(60));
            }
        });
    }

    /// What the model knows of a key, once the store has seen whether it expired.
    fn live(&mut self, key: u8) -> Option<&mut Object> {
        self.store.contains(self.now, &[key]);
        self.model.get(self.now, key)
    }

    /// Something happens to an object that is on its way from one tier to the other.
    fn race(&mut self) {
        let Some(flash) = &self.flash else { return };
        let writing = flash.writing.iter().map(|writing| writing.key);
        let reading = flash.reading.iter().map(|reading| reading.key);
        let moving = flash.moving.iter().map(|moving| moving.record.key);
        let keys: Vec<u8> = writing.chain(reading).chain(moving).collect();
        let Some(&key) = keys.choose(&mut self.random) else { return };
        match self.random.random_range(0..4) {
            0 => self.remove_key(key),
            1 => {
                let content = self.content();
                let account = Account::new();
                match self.store.set(self.now, &[key], &content.bytes(), &account, &Terms::default()) {
                    Ok(generation) => {
                        self.model.note_generation(generation);
                        self.published(key, content, generation, &Terms::default());
                    }
                    Err(error) => self.refused(key, &error),
                }
            }
            2 => self.expire_key(key),
            _ => self.get(key),
        }
    }

    fn offer(&mut self, flash: &mut Flash) {
        let mut spills = Vec::new();
        let bytes_max = self.random.random_range(0..400_000);
        self.store.next_spill(self.now, &mut spills, bytes_max);
        for spill in spills {
            self.take_spill(flash, spill);
        }
    }

    fn take_spill(&mut self, flash: &mut Flash, spill: Spill) {
        let key = spill.key[0];
        if spill.expires.is_some_and(|at| at <= self.now) {
            return;
        }
        let object = self.model.get(self.now, key).unwrap_or_else(|| panic!("key {key} is spilled after its end"));
        assert_eq!((spill.generation, spill.crc), (object.generation, object.content.crc()), "key {key}");
        let content = object.content;
        content.check_span(&spill.span, "an object to be spilled");
        match self.random.random_range(0..20) {
            0 => return spill.decline(),
            1 => {
                // As if the bytes were others.
                self.model.remove_placement(spill.generation);
                return spill.condemn();
            }
            2 => return flash.counts.failed += 1,
            _ => {}
        }
        flash.writing.push(Writing { spill, key, content, place: None });
    }

    /// The next thing happens to a spill: its record is begun, is complete, or fails.
    fn settle_spill(&mut self, flash: &mut Flash) {
        for _ in 0..self.random.random_range(1..4) {
            if flash.writing.is_empty() {
                return;
            }
            let at = self.random.random_range(0..flash.writing.len());
            let writing = flash.writing.swap_remove(at);
            writing.content.check_span(&writing.spill.span, "an object being spilled");
            let again = self.random.random_ratio(1, 10);
            let Some(place) = writing.place.filter(|_| !again) else {
                self.begin(flash, writing);
                continue;
            };
            if self.random.random_ratio(1, 6) {
                // The record may have reached the medium all the same.
                flash.counts.failed += 1;
                continue;
            }
            self.put_on_media(flash, &writing, place);
            if writing.spill.done() {
                flash.counts.spilled += 1;
            } else {
                flash.counts.gone_meanwhile += 1;
            }
        }
    }

    fn begin(&mut self, flash: &mut Flash, mut writing: Writing) {
        let Some(place) = flash.place(writing.content.length) else { return };
        if !writing.spill.begin(place) {
            let live = self.live(writing.key).is_some_and(|o| o.generation == writing.spill.generation);
            assert!(!live, "key {} is live and is not spilled", writing.key);
            flash.counts.gone_meanwhile += 1;
            return;
        }
        writing.place = Some(place);
        // From now on it may be there at any crash.
        if self.random.random_ratio(1, 2) {
            self.put_on_media(flash, &writing, place);
        }
        flash.writing.push(writing);
    }

    fn put_on_media(&mut self, flash: &mut Flash, writing: &Writing, place: FlashPlace) {
        let Writing { spill, key, content, .. } = writing;
        let record = OnMedia { key: *key, generation: spill.generation, content: *content, expires: spill.expires };
        flash.write(place, record);
    }

    /// `DURABLE`: now, whatever the order.
    fn durable(&mut self, flash: &mut Flash) {
        let key = self.key();
        let Some(generation) = self.live(key).map(|object| object.generation) else { return };
        match self.store.spill_of(self.now, &[key], generation) {
            SpillOf::Spill(spill) => self.take_spill(flash, spill),
            SpillOf::OnFlash(place) => {
                let record = flash.look(place).expect("what is indexed is on the medium");
                assert_eq!(record.generation, generation);
            }
            SpillOf::InFlight => assert!(flash.writing.iter().any(|writing| writing.spill.generation == generation)),
            SpillOf::Missing => {}
        }
    }

    /// A read found its object on flash alone.
    pub(crate) fn found_on_flash(&mut self, key: u8, read: FlashRead) {
        self.with_flash(|world, flash| {
            assert_eq!(read.key[..], [key]);
            let record = flash.look(read.place).expect("what is indexed is on the medium");
            assert_eq!((record.key, record.generation), (key, read.generation));
            world.compare(key, Some(read.generation), Some(read.crc), &record.content.bytes());
            assert_eq!(read.expires, world.model.get(world.now, key).expect("compared").expires, "key {key}");
            flash.counts.reads += 1;
            if read.promote || world.random.random_ratio(3, 4) {
                let life = flash.slots[usize::from(read.place.slot)].life;
                flash.reading.push(Reading { read, key, life, promotion: None });
            }
        })
        .unwrap_or_else(|| panic!("key {key} is on flash that nobody has"));
    }

    fn go_on_reading(&mut self, flash: &mut Flash) {
        if !flash.anonymous.is_empty() && self.random.random_ratio(1, 2) {
            let (guard, content, _) = flash.anonymous.swap_remove(0);
            content.check(guard.bytes(), "a promoted object that nobody else finds");
        }
        if flash.reading.is_empty() {
            return;
        }
        let at = self.random.random_range(0..flash.reading.len());
        let reading = flash.reading.swap_remove(at);
        let Reading { read, key, life, promotion } = reading;
        let slot = &flash.slots[usize::from(read.place.slot)];
        assert_eq!(slot.life, life, "a slot with readers is not reused");
        let record = flash.look(read.place).expect("a slot with readers is not reused");
        assert_eq!(record.generation, read.generation);
        let Some((promotion, charge)) = promotion else {
            match self.store.promote(self.now, &read, &flash.account) {
                Ok(promotion) => {
                    assert_eq!(promotion.span().len(), record.content.length);
                    let charge = self.store.charge_of(read.length, 1).get();
                    flash.reading.push(Reading { read, key, life, promotion: Some((promotion, charge)) });
                }
                Err(error) => self.refused(key, &error),
            }
            return;
        };
        if self.random.random_ratio(1, 8) {
            return;
        }
        copy_into(&record.content.bytes(), &promotion.span());
        match promotion.publish(self.now) {
            Ok(guard) => {
                self.compare(key, Some(guard.generation()), Some(guard.crc()), guard.bytes());
                assert_eq!(guard.generation(), read.generation);
                let stat = self.store.stat(self.now, &[key]).expect("just promoted");
                assert!(stat.dram.is_some() && stat.flash.is_some(), "a promoted object is in both tiers");
                flash.counts.promoted += 1;
                self.reading.push((guard, record.content));
            }
            Err(promotion) => {
                flash.counts.not_promoted += 1;
                let stat = self.store.stat(self.now, &[key]);
                assert!(stat.is_none_or(|stat| stat.generation != read.generation || stat.flash.is_none()), "{stat:?}");
                if self.random.random_ratio(1, 2) {
                    let guard = promotion.anonymous();
                    assert_eq!(guard.generation(), read.generation);
                    flash.anonymous.push((guard, record.content, charge));
                }
            }
        }
    }

    fn settle_move(&mut self, flash: &mut Flash) {
        if flash.moving.is_empty() {
            return;
        }
        let at = self.random.random_range(0..flash.moving.len());
        let Moving { reinsertion, to, record } = flash.moving.swap_remove(at);
        if self.random.random_ratio(1, 8) {
            return;
        }
        flash.write(to, record);
        flash.counts.reinserted += u64::from(reinsertion.done());
    }

    /// A slot is emptied: what is hot is copied, if there is time, and the rest is dropped. Or it is lost, and all is.
    fn reclaim(&mut self, flash: &mut Flash) {
        self.reuse_drained(flash);
        let slot = u16::try_from(self.random.random_range(0..flash.slots.len())).expect("few");
        let at = usize::from(slot);
        if flash.slots[at].records.is_empty() || flash.draining.contains(&slot) {
            return;
        }
        let lost = self.random.random_ratio(1, 10);
        if !(flash.slots[at].sealed || lost || self.random.random_ratio(1, 2)) {
            return;
        }
        flash.slots[at].sealed = true;
        // What is being written there fails with it, or is complete.
        flash.writing.retain(|writing| writing.place.is_none_or(|place| place.slot != slot));
        flash.moving.retain(|moving| moving.to.slot != slot);
        let table = flash.table(slot);
        let current = self.store.survey_slot(self.now, slot, lines(&table));
        for found in &current {
            let (key, generation, page) = table[found.index];
            let record = flash.slots[at].records[&page];
            assert_eq!(found.length, record.content.length as u64);
            let now = self.now;
            if let Some(object) = self.live(key) {
                assert_eq!(object.generation, generation, "key {key} counts on flash");
                assert!(object.pins(now) == 0 || found.pinned, "key {key} is pinned");
                assert!(object.graced_until.is_none_or(|until| until <= now) || found.hot, "key {key} is graced");
            }
            if lost || !found.hot {
                continue;
            }
            let Some(to) = flash.place(record.content.length) else { continue };
            let from = FlashPlace { slot, page };
            let Some(reinsertion) = self.store.reinsert(self.now, &[key], generation, from, to) else { continue };
            let record = OnMedia { expires: reinsertion.expires, ..record };
            if self.random.random_ratio(1, 2) {
                flash.write(to, record);
            }
            flash.moving.push(Moving { reinsertion, to, record });
        }
        if !lost && self.random.random_ratio(1, 2) {
            // The rest another time: the copies are on their way.
            return;
        }
        while !lost && !flash.moving.is_empty() && self.random.random_ratio(9, 10) {
            self.settle_move(flash);
        }
        self.drop_slot(flash, slot);
    }

    fn drop_slot(&mut self, flash: &mut Flash, slot: u16) {
        let table = flash.table(slot);
        for &(key, generation, _) in &table {
            let stat = self.store.stat(self.now, &[key]);
            let only = stat.filter(|stat| stat.generation == generation && stat.dram.is_none());
            if only.is_some_and(|stat| stat.flash.is_some_and(|place| place.slot == slot)) {
                // Its last copy: whatever was promised, it is gone.
                self.model.remove_placement(generation);
            }
        }
        self.store.drop_slot(slot, lines(&table));
        let after = self.store.survey_slot(self.now, slot, lines(&table));
        assert_eq!(after, [], "nothing of a dropped slot counts");
        flash.draining.push(slot);
        flash.counts.reclaimed += 1;
        self.reuse_drained(flash);
    }

    fn reuse_drained(&mut self, flash: &mut Flash) {
        let Flash { draining, slots, grave, .. } = flash;
        draining.retain(|&slot| {
            if self.store.slot_readers(slot) > 0 {
                return true;
            }
            let life = slots[usize::from(slot)].life + 1;
            slots[usize::from(slot)] = Slot { life, ..Slot::default() };
            grave.new_life(slot, life);
            false
        });
    }

    /// One record proves unreadable.
    pub(crate) fn lose_record(&mut self) {
        let key = self.key();
        let Some(stat) = self.store.stat(self.now, &[key]) else { return };
        let Some(place) = stat.flash else { return };
        if stat.dram.is_none() {
            self.model.remove_placement(stat.generation);
        }
        assert!(self.store.drop_record(&[key], stat.generation, place));
        assert!(!self.store.drop_record(&[key], stat.generation, place));
    }

    /// What a restart would find now is what the store has: nothing that was deleted, replaced or has expired comes back.
    pub(crate) fn check_flash(&mut self) {
        self.with_flash(|world, flash| {
            let survivors = flash.grave.survivors(&flash.slots);
            for (place, record) in &survivors {
                let OnMedia { key, generation, content, expires } = *record;
                if expires.is_some_and(|at| at <= world.now) {
                    continue;
                }
                let stat = world.store.stat(world.now, &[key]);
                let stat = stat.unwrap_or_else(|| panic!("key {key} would come back from {place:?}"));
                assert_eq!(stat.generation, generation, "key {key} would come back from {place:?}");
                assert_eq!((stat.crc, stat.expires), (content.crc(), expires), "key {key} from {place:?}");
            }
            let known: BTreeMap<u8, (FlashPlace, Generation)> =
                survivors.iter().map(|(place, record)| (record.key, (*place, record.generation))).collect();
            for key in 0..world.keys {
                let Some(stat) = world.store.stat(world.now, &[key]) else { continue };
                if let Some(place) = stat.flash {
                    let there =
                        survivors.iter().any(|(at, record)| *at == place && record.generation == stat.generation);
                    assert!(there, "key {key} is indexed at {place:?} and would be forgotten: {:?}", known.get(&key));
                }
                let told = flash.grave.pins_of(key, stat.generation);
                let pins = world.model.get(world.now, key).map_or(0, |object| object.pins(world.now));
                assert!(pins == 0 || !told.is_empty(), "the pins of key {key} would be forgotten");
                assert!(stat.pins > 0 || told.endless == 0, "key {key} would be pinned: {told:?}");
            }
        });
    }

    /// The process dies, and another reads what is on flash, in whatever order.
    fn restart(&mut self, flash: &mut Flash) {
        flash.counts.restarts += 1;
        let mut survivors = flash.grave.survivors(&flash.slots);
        survivors.shuffle(&mut self.random);
        let config = StoreConfig { boot_epoch: 99, seed: self.random.random(), ..StoreConfig::default() };
        let store = Store::new(config, vec![Arc::new(PlainMemory::new(1 << 20).expect("little memory"))]);
        let grave = Arc::new(Grave::default());
        store.enable_flash(Arc::clone(&grave) as Arc<dyn storage::Graveyard>);
        store.set_flash_limits(ByteLen::mib(16), ByteLen::mib(1));
        for (place, record) in &survivors {
            let OnMedia { key, generation, content, expires } = *record;
            let recovered = RecoveredRecord {
                key: &[key],
                generation,
                length: content.length as u64,
                crc: content.crc(),
                expires,
                place: *place,
                pins: flash.grave.pins_of(key, generation),
            };
            store.insert_recovered(self.now, &recovered, |_| false);
            store.audit();
        }
        for (_, record) in &survivors {
            let key = [record.key];
            let (was, is) = (self.store.stat(self.now, &key), store.stat(self.now, &key));
            let same = |stat: storage::Stat| (stat.generation, stat.length, stat.crc, stat.expires);
            assert_eq!(was.map(same), is.map(same), "key {} after a restart", record.key);
            if let Some(stat) = is {
                let Ok(Some(Found::Flash(read))) = store.peek(self.now, &key, false) else { panic!("it is on flash") };
                assert_eq!(Some(read.place), stat.flash);
                let found = flash.look(read.place).expect("it is on the medium");
                assert_eq!((found.generation, found.content.crc()), (read.generation, read.crc));
                assert_eq!(store.slot_readers(read.place.slot), 1);
            }
        }
        let live =
            survivors.iter().map(|(_, record)| record).filter(|record| record.expires.is_none_or(|at| at > self.now));
        let keys: std::collections::BTreeSet<u8> = live.map(|record| record.key).collect();
        assert_eq!(store.len(), keys.len() as u64, "each key once");
    }

    /// A writer met room that is not free yet: it waits, in vain or not.
    pub(crate) fn wait_for_room(&mut self) {
        if let Some(flash) = &mut self.flash {
            flash.counts.waited += 1;
        }
        if self.random.random_ratio(1, 2) {
            self.store.hurry(self.now);
        } else {
            self.flash_step();
        }
    }

    /// Everything on its way to or from flash is given up.
    pub(crate) fn end_flash(&mut self) {
        self.with_flash(|world, flash| {
            flash.writing.clear();
            flash.moving.clear();
            flash.reading.clear();
            for (guard, content, _) in flash.anonymous.drain(..) {
                content.check(guard.bytes(), "a promoted object at the end");
            }
            assert_eq!(flash.account.reserved(), ByteLen(0));
            world.restart(flash);
        });
        self.check_flash();
    }
}
