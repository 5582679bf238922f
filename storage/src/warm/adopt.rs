//! Memory of an earlier life, taken over: each object is proved where it lies, then put into the index.
//!
//! Role: the work is cut by shard, so that several threads can share it; who makes them is the caller's business.
//!
//! Invariants:
//! - Flash is recovered before: of one key the greater generation counts, and an object that lies there under the same
//!   generation, length and checksum is clean.
//! - Called before anybody is served, and after the manifest was removed.

use super::manifest::{Cold, Manifest, ObjectRecord, PageRecord, PinRecord};
use crate::Store;
use crate::dram::extent::Owner;
use crate::dram::slot::{Header, SMALL_HEADER, SMALL_HEADER_LEN, small_generation_and_key_len};
use crate::dram::space::Space;
use crate::place::{Place, Position, SLOT_EDGE, SLOT_EDGE_LEN, extent_pages};
use crate::shard::adopt::Adoptee;
use crate::shard::{HashedKey, Shard, small_len};
use crate::store::shard_number;
use crate::sync::{AtomicU64, Ordering};
use protocol::base::{Crc, Generation, Instant, crc_of};
use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;

/// What came of it so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Objects adopted.
    pub objects: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Of the objects, those on flash too.
    pub clean: u64,
    /// Objects whose life had ended meanwhile.
    pub expired: u64,
    /// Objects whose slot or payload is not what was written down.
    pub damaged: u64,
    /// Objects of which flash has a newer version, or another one of the same generation.
    pub outdated: u64,
}

/// A store that is taking over the memory of an earlier life.
#[derive(Debug)]
pub struct Adoption {
    store: Store,
    manifest: Manifest,
    /// Of the objects adopted, all generations are below.
    below: Generation,
    next: AtomicUsize,
    objects: AtomicU64,
    bytes: AtomicU64,
    clean: AtomicU64,
    expired: AtomicU64,
    damaged: AtomicU64,
    outdated: AtomicU64,
    /// Bytes looked at, adopted or not.
    seen: AtomicU64,
    total: u64,
}

impl Adoption {
    /// Prepares it. The store's segments are those of the manifest, and so are the number of its shards and its hash seed.
    ///
    /// # Errors
    /// [`Cold::Hash`] if this build cannot find the manifest's keys.
    pub fn new(store: Store, manifest: Manifest) -> Result<Self, Cold> {
        if store.hash_check() != manifest.hash_check {
            return Err(Cold::Hash);
        }
        let total = manifest.payload_bytes();
        let below = Generation::first_of(store.0.config.boot_epoch);
        let zero = || AtomicU64::new(0);
        Ok(Self {
            store,
            manifest,
            below,
            next: AtomicUsize::new(0),
            objects: zero(),
            bytes: zero(),
            clean: zero(),
            expired: zero(),
            damaged: zero(),
            outdated: zero(),
            seen: zero(),
            total,
        })
    }

    /// Works until nothing is left that no other thread works on.
    pub fn work(&self, now: Instant) {
        loop {
            let part = self.next.fetch_add(1, Ordering::Relaxed);
            if part >= self.manifest.parts() || part >= self.store.0.shard_count() {
                return;
            }
            self.adopt_part(part, now);
        }
    }

    /// How far it is, in percent of the bytes.
    pub fn percent(&self) -> u8 {
        let seen = self.seen.load(Ordering::Relaxed).min(self.total);
        u8::try_from(seen * 100 / self.total.max(1)).unwrap_or(100)
    }

    /// What came of it so far.
    pub fn adopted(&self) -> Adopted {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Adopted {
            objects: count(&self.objects),
            bytes: count(&self.bytes),
            clean: count(&self.clean),
            expired: count(&self.expired),
            damaged: count(&self.damaged),
            outdated: count(&self.outdated),
        }
    }

    fn adopt_part(&self, part: usize, now: Instant) {
        let mut pins: HashMap<u32, Vec<PinRecord>> = HashMap::new();
        for pin in self.manifest.pins_of(part) {
            pins.entry(pin.object).or_default().push(pin);
        }
        let mut claims = self.claim_part(part, now);
        // Each goes to the newest end of its list.
        claims.sort_by_key(|claim| claim.record.stamp);
        for Claim { object, record, place } in claims {
            let pins = pins.remove(&object).unwrap_or_default();
            let outcome = place.map_or_else(|outcome| outcome, |place| self.adopt(part, now, &record, place, &pins));
            let counter = match outcome {
                Outcome::Adopted { clean } => {
                    self.bytes.fetch_add(record.length.into(), Ordering::Relaxed);
                    self.clean.fetch_add(clean.into(), Ordering::Relaxed);
                    &self.objects
                }
                Outcome::Expired => &self.expired,
                Outcome::Damaged => &self.damaged,
                Outcome::Outdated => &self.outdated,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            self.seen.fetch_add(record.length.into(), Ordering::Relaxed);
        }
    }

    /// Takes every slot of the part at once, so that none is given to anybody else, nor a page freed that others lie in.
    fn claim_part(&self, part: usize, now: Instant) -> Vec<Claim> {
        self.store.0.with(part, |shard, space| {
            // Slab pages first: the slots of small objects lie in them. They get other numbers than they had.
            let adopt = |page: PageRecord| {
                Some((page.page, shard.slabs.adopt_page(page.class, page.base, space, shard_number(part))?))
            };
            let pages: HashMap<u32, u32> = self.manifest.pages_of(part).filter_map(adopt).collect();
            let claim = |(object, record): (u32, ObjectRecord)| {
                let place = self.claim(part, now, shard, &record, &pages);
                Claim { object, record, place }
            };
            let claims = (0..).zip(self.manifest.objects_of(part)).map(claim).collect();
            shard.slabs.drop_unclaimed(space);
            claims
        })
    }

    /// Takes a slot, if the object lives and can lie where its record says.
    fn claim(
        &self,
        part: usize,
        now: Instant,
        shard: &mut Shard,
        record: &ObjectRecord,
        pages: &HashMap<u32, u32>,
    ) -> Result<Place, Outcome> {
        let inner = &self.store.0;
        if record.expires.is_some_and(|at| at <= now) {
            return Err(Outcome::Expired);
        }
        if record.generation >= self.below || inner.shard_of(record.key_hash) != part {
            return Err(Outcome::Damaged);
        }
        let place = match record.place {
            Place::Extent { payload } => {
                let owner = Owner::Object { hash: record.key_hash };
                let pages = u32::try_from(extent_pages(record.length.into(), record.key_len.into()));
                let claimed = pages.is_ok_and(|pages| inner.space.claim(payload, pages, owner));
                claimed.then_some(record.place)
            }
            Place::Small { page, slot } => pages.get(&page).and_then(|&page| {
                let len = small_len(record.length.into(), record.key_len.into());
                let fits = len <= shard.slabs.slot(page, 0).1;
                (fits && shard.slabs.claim(page, slot)).then_some(Place::Small { page, slot })
            }),
        };
        place.ok_or(Outcome::Damaged)
    }

    /// Proves an object whose slot was claimed, and puts it into the index; or gives the slot back.
    fn adopt(&self, part: usize, now: Instant, record: &ObjectRecord, place: Place, pins: &[PinRecord]) -> Outcome {
        let key = self.proved_key(part, record, place);
        self.store.0.with(part, |shard, space| {
            let outcome = match key {
                None => Outcome::Damaged,
                Some(key) => {
                    let key = HashedKey { key: &key, hash: record.key_hash };
                    match shard.adopt(key, &Adoptee { record, place, pins, now }, space) {
                        Some(clean) => Outcome::Adopted { clean },
                        None => Outcome::Outdated,
                    }
                }
            };
            if !matches!(outcome, Outcome::Adopted { .. }) {
                shard.free_place(place, record.length.into(), record.key_len.into(), space);
            }
            outcome
        })
    }

    /// The key, if the slot is what the record says in every byte.
    fn proved_key(&self, part: usize, record: &ObjectRecord, place: Place) -> Option<Box<[u8]>> {
        let inner = &self.store.0;
        let key_len = usize::from(record.key_len);
        let (key_at, payload_at) = match place {
            Place::Extent { payload } => {
                let header = Header {
                    generation: record.generation,
                    length: record.length.into(),
                    key_hash: record.key_hash,
                    crc: record.crc,
                };
                let trailer = payload.plus(u64::from(record.length).next_multiple_of(SLOT_EDGE));
                let before = read(&inner.space, Position(payload.0 - SLOT_EDGE), SLOT_EDGE_LEN);
                let behind = read(&inner.space, trailer, SLOT_EDGE_LEN);
                if *before != header.encode() || *behind != header.trailer() {
                    return None;
                }
                (trailer.plus(SLOT_EDGE), payload)
            }
            Place::Small { page, slot } => {
                let at = inner.with(part, |shard, _| shard.slabs.slot(page, slot).0);
                let header = read(&inner.space, at, SMALL_HEADER_LEN);
                if small_generation_and_key_len(&header) != (record.generation, record.key_len.into()) {
                    return None;
                }
                (at.plus(SMALL_HEADER), at.plus(SMALL_HEADER + key_len as u64))
            }
        };
        let key = read(&inner.space, key_at, key_len);
        if self.store.hash(&key).hash != record.key_hash {
            return None;
        }
        let crc = if record.length == 0 {
            Crc::default()
        } else {
            crc_of(&inner.space.span(payload_at, record.length.into()))
        };
        (crc == record.crc).then_some(key)
    }
}

/// An object whose slot was taken, or what became of it.
#[derive(Debug)]
struct Claim {
    /// Its number within the part.
    object: u32,
    record: ObjectRecord,
    place: Result<Place, Outcome>,
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Adopted { clean: bool },
    Expired,
    Damaged,
    Outdated,
}

/// Copies bytes of a slot that was claimed, so that nobody writes there.
fn read(space: &Space, at: Position, len: usize) -> Box<[u8]> {
    space.memory(at).with(at.offset(), len, |bytes| Box::from(bytes))
}
