//! Holds recovery to what lies on a device: sealed, open, torn, forged, garbage.
//!
//! Invariant: a record is found if it was written in the segment's present life, and never else; nothing makes it panic.

#![expect(clippy::cast_possible_truncation, reason = "small numbers of tests")]

use super::*;
use crate::flash::engine::{EngineOptions, open};
use crate::flash::format::{CHUNK_LEN, FIRST_SEGMENT_OFFSET, Geometry, Head, Life, Nonce, Record, RecordLayout, Row};
use proptest::prelude::*;
use protocol::base::{Crc, Generation};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::io::Write;

const SEGMENT_LEN: usize = 1 << 20;
const SEGMENTS: u32 = 4;

/// What a test writes, and then expects to find: (segment, page) to (key, generation, payload's length).
type Truth = BTreeMap<(u32, u16), (Vec<u8>, Generation, u32)>;

/// A device in memory.
struct Image {
    bytes: Vec<u8>,
    superblock: Superblock,
    random: StdRng,
    generation: u64,
}

/// One segment being filled.
struct Filling {
    header: SegmentHeader,
    table: Table,
    page: u32,
}

impl Image {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let superblock = Superblock {
            device: DeviceId(random.random()),
            number: 0,
            geometry: Geometry { segment_len: SEGMENT_LEN as u64, segment_count: SEGMENTS },
            boot_epoch: 1,
            update: 1,
            formatted_ms: 1,
        };
        let mut bytes = vec![0; superblock.geometry.device_len() as usize];
        for copy in 0..SUPERBLOCK_COPIES {
            let at = usize::from(copy) * PAGE_LEN;
            bytes[at..at + PAGE_LEN].copy_from_slice(&superblock.encode(copy));
        }
        Self { bytes, superblock, random, generation: 0 }
    }

    fn base(&self, segment: u32) -> usize {
        self.superblock.geometry.offset_of(segment) as usize
    }

    fn begin(&mut self, segment: u32, life: u64) -> Filling {
        let life = Life { segment, life, nonce: Nonce(self.random.random()) };
        let header = SegmentHeader { device: self.superblock.device, life, head: Head::New, opened_ms: 1 };
        let base = self.base(segment);
        self.bytes[base..base + PAGE_LEN].copy_from_slice(&header.encode());
        Filling { header, table: Table::new(), page: 1 }
    }

    /// Writes a record; answers its page, or `None` if the segment is full.
    fn write(&mut self, filling: &mut Filling, key: &[u8], payload: &[u8]) -> Option<u16> {
        let layout = RecordLayout::of(key.len(), payload.len() as u64);
        let end = filling.page + layout.pages() + filling.table.footer_pages_with(key.len());
        if end > self.superblock.geometry.pages() {
            return None;
        }
        self.generation += 1;
        let page = filling.page as u16;
        let record = Record {
            page,
            generation: Generation(self.generation),
            length: payload.len() as u64,
            crc: Crc::of(payload),
            expires_ms: 0,
            key,
        };
        let chunks: Vec<Crc> =
            if layout.inline { Vec::new() } else { payload.chunks(CHUNK_LEN).map(Crc::of).collect() };
        let at = self.base(filling.header.life.segment) + usize::from(page) * PAGE_LEN;
        let (header, rest) = self.bytes[at..].split_at_mut(layout.header_len());
        record.encode(&filling.header.life, &chunks, if layout.inline { payload } else { &[] }, header);
        if !layout.inline {
            rest[..payload.len()].copy_from_slice(payload);
        }
        let row = Row {
            page,
            key_len: key.len() as u16,
            length: payload.len() as u32,
            crc: record.crc,
            generation: record.generation,
            expires_ms: 0,
        };
        filling.table.push(row, key);
        filling.page += layout.pages();
        Some(page)
    }

    fn seal(&mut self, filling: &Filling) -> Vec<u8> {
        let footer = filling.table.encode(&filling.header.life, 2);
        let end = self.base(filling.header.life.segment + 1);
        self.bytes[end - footer.len()..end].copy_from_slice(&footer);
        footer
    }

    /// Records of many lengths, until the segment is full or there are `most`.
    fn fill(&mut self, filling: &mut Filling, most: usize, truth: &mut Truth) {
        for _ in 0..most {
            let key: Vec<u8> = (0..self.random.random_range(0..200)).map(|_| self.random.random()).collect();
            let longest = [100, 10_000, 200_000][self.random.random_range(0..3)];
            let mut payload = vec![0; self.random.random_range(0..longest)];
            self.random.fill(&mut payload[..]);
            let Some(page) = self.write(filling, &key, &payload) else { return };
            let value = (key, Generation(self.generation), payload.len() as u32);
            truth.insert((filling.header.life.segment, page), value);
        }
    }

    fn recover(&self) -> Seen {
        let mut source: &[u8] = &self.bytes;
        let superblock = superblock(&mut source).expect("a superblock");
        Seen::of(&mut source, &superblock, BTreeMap::new())
    }
}

/// What recovery told.
struct Seen {
    truth: Truth,
    states: BTreeMap<u32, &'static str>,
    summary: Summary,
}

struct Collect {
    meta: BTreeMap<u32, Vec<u8>>,
    truth: Mutex<Truth>,
    states: Mutex<BTreeMap<u32, &'static str>>,
    done: AtomicU64,
}

impl Visitor for Collect {
    fn meta(&self, segment: u32) -> Option<Vec<u8>> {
        self.meta.get(&segment).cloned()
    }

    fn found(&self, segment: u32, found: Found) {
        let (state, table) = match found {
            Found::Free => ("free", None),
            Found::Sealed { table, from_meta: true, .. } => ("meta", Some(table)),
            Found::Sealed { table, from_meta: false, .. } => ("sealed", Some(table)),
            Found::Open { walked, .. } => ("open", Some(walked.table)),
            Found::Unreadable(_) => ("unreadable", None),
        };
        assert!(self.states.lock().insert(segment, state).is_none(), "segment {segment} is told once");
        for (row, key) in table.iter().flat_map(Table::iter) {
            self.truth.lock().insert((segment, row.page), (key.to_vec(), row.generation, row.length));
        }
    }

    fn progress(&self, progress: &Progress) {
        assert!(progress.segments_done <= progress.segments);
        self.done.fetch_max(progress.segments_done, Ordering::Relaxed);
    }
}

impl Seen {
    fn of(source: &mut dyn Source, superblock: &Superblock, meta: BTreeMap<u32, Vec<u8>>) -> Self {
        let collect = Collect { meta, truth: Mutex::default(), states: Mutex::default(), done: AtomicU64::new(0) };
        let summary = recover(source, superblock, &collect, 2);
        let count = superblock.geometry.segment_count;
        assert_eq!(collect.done.into_inner(), u64::from(count), "all segments are done at the end");
        let states = collect.states.into_inner();
        assert_eq!(states.len() as u64, u64::from(count), "each segment is told");
        let truth = collect.truth.into_inner();
        assert_eq!(summary.records, truth.len() as u64);
        Self { truth, states, summary }
    }
}

/// A sealed, an open, a free segment and one of a sealed life whose end was begun anew.
fn mixed(seed: u64) -> (Image, Truth, Vec<u8>) {
    let (mut image, mut truth) = (Image::new(seed), Truth::new());
    let mut sealed = image.begin(0, 1);
    image.fill(&mut sealed, 30, &mut truth);
    let footer = image.seal(&sealed);
    let mut open = image.begin(1, 2);
    image.fill(&mut open, 10, &mut truth);
    let mut earlier = image.begin(3, 3);
    image.fill(&mut earlier, 1000, &mut Truth::new());
    image.seal(&earlier);
    let mut again = image.begin(3, 4);
    image.fill(&mut again, 3, &mut truth);
    (image, truth, footer)
}

#[test]
fn sealed_and_open_segments_come_back_and_earlier_lives_do_not() {
    for seed in 0..20 {
        let (image, truth, _) = mixed(seed);
        let seen = image.recover();
        assert_eq!(seen.truth, truth, "seed {seed}");
        let states: Vec<_> = seen.states.into_values().collect();
        assert_eq!(states, ["sealed", "open", "free", "open"], "seed {seed}");
        assert_eq!((seen.summary.life_max, seen.summary.torn), (4, 0), "seed {seed}");
    }
}

#[test]
fn a_table_of_the_metadata_store_is_believed_only_for_the_life_it_was_made_for() {
    let (mut image, truth, footer) = mixed(1);
    let end = image.base(1);
    image.bytes[end - footer.len()..end].fill(0xaa);
    let superblock = image.superblock;
    let mut source: &[u8] = &image.bytes;
    // Segment 0 has lost its footer; segment 1's entry is segment 0's; segment 3's is of an earlier life.
    let earlier = Table::new().encode(&Life { segment: 3, life: 3, nonce: Nonce([1; 16]) }, 1);
    let meta = BTreeMap::from([(0, footer.clone()), (1, footer), (3, earlier)]);
    let seen = Seen::of(&mut source, &superblock, meta);
    assert_eq!(seen.truth, truth);
    let states: Vec<_> = seen.states.into_values().collect();
    assert_eq!(states, ["meta", "open", "free", "open"]);
}

#[test]
fn a_sealed_segment_without_its_footer_is_walked() {
    let (mut image, truth, footer) = mixed(2);
    let end = image.base(1);
    image.bytes[end - 1] ^= 1;
    let seen = image.recover();
    assert_eq!((seen.truth, seen.states[&0]), (truth.clone(), "open"));
    image.bytes[end - footer.len()..end].fill(0);
    let seen = image.recover();
    assert_eq!((seen.truth, seen.states[&0]), (truth, "open"));
}

#[test]
fn a_torn_record_does_not_hide_those_behind_it() {
    let (mut image, mut truth) = (Image::new(3), Truth::new());
    let mut open = image.begin(0, 1);
    for n in 0..8 {
        let page = image.write(&mut open, &[n], &vec![n; 70_000]).expect("room");
        truth.insert((0, page), (vec![n], Generation(u64::from(n) + 1), 70_000));
    }
    let base = image.base(0);
    let pages: Vec<u16> = truth.keys().map(|(_, page)| *page).collect();
    // One without its payload's last byte, one without its header.
    image.bytes[base + (usize::from(pages[2]) + 1) * PAGE_LEN + 69_999] ^= 1;
    image.bytes[base + usize::from(pages[5]) * PAGE_LEN..][..PAGE_LEN].fill(0);
    truth.remove(&(0, pages[2]));
    truth.remove(&(0, pages[5]));
    let seen = image.recover();
    assert_eq!(seen.truth, truth);
    assert_eq!(seen.summary.torn, 1);
}

/// A client knows the format, its own bytes and, by luck, where they will lie. It does not know the nonce.
#[test]
fn forged_records_in_payloads_are_never_found() {
    let cases = 1000;
    for seed in 0..cases {
        let mut image = Image::new(seed);
        let mut random = StdRng::seed_from_u64(seed ^ 0x5eed);
        // An earlier life leaves real records all over the segment.
        let mut earlier = image.begin(0, 1);
        image.fill(&mut earlier, 1000, &mut Truth::new());
        if random.random() {
            image.seal(&earlier);
        }
        let old = image.bytes[image.base(0)..image.base(1)].to_vec();
        let mut filling = image.begin(0, 2);
        let mut truth = Truth::new();
        image.fill(&mut filling, random.random_range(0..3), &mut truth);
        // The forgery begins at a page, wherever its record lies.
        let payload_page = filling.page + 1;
        let mut payload = Vec::new();
        while payload.len() < 40 * PAGE_LEN {
            let page = payload_page + (payload.len() / PAGE_LEN) as u32;
            let at = page as usize * PAGE_LEN;
            match random.random_range(0..3) {
                // What really lay there in the earlier life.
                0 => payload.extend_from_slice(&old[at..at + PAGE_LEN]),
                // A real record of this life from another page: read back through a hole somewhere.
                1 => {
                    let base = image.base(0) + usize::from(random.random_range(1..3u16)) * PAGE_LEN;
                    payload.extend_from_slice(&image.bytes[base..base + PAGE_LEN]);
                }
                _ => {
                    let body = vec![9; 100];
                    let record = Record {
                        page: page as u16,
                        generation: Generation(u64::MAX >> 1),
                        length: 100,
                        crc: Crc::of(&body),
                        expires_ms: 0,
                        key: b"forged",
                    };
                    let nonce = if random.random() { Nonce([0; 16]) } else { earlier.header.life.nonce };
                    let mut header = vec![0; PAGE_LEN];
                    record.encode(&Life { segment: 0, life: 2, nonce }, &[], &body, &mut header);
                    payload.extend_from_slice(&header);
                }
            }
        }
        let page = image.write(&mut filling, b"host", &payload).expect("room");
        // The record that holds the forgeries is torn in half of the cases, so that the walk looks into it.
        if random.random() {
            let at = image.base(0) + (usize::from(page) + 1 + payload.len() / PAGE_LEN) * PAGE_LEN - 1;
            image.bytes[at] ^= 1;
        } else {
            truth.insert((0, page), (b"host".to_vec(), Generation(image.generation), payload.len() as u32));
        }
        let seen = image.recover();
        assert_eq!(seen.truth, truth, "seed {seed}");
        assert_eq!(seen.states[&0], "open", "seed {seed}");
    }
}

/// The footer's bytes of an earlier life in front of the segment's end make no table either.
#[test]
fn a_footer_of_an_earlier_life_is_none() {
    let (mut image, mut truth) = (Image::new(4), Truth::new());
    let mut earlier = image.begin(0, 1);
    image.fill(&mut earlier, 20, &mut Truth::new());
    image.seal(&earlier);
    let mut filling = image.begin(0, 1);
    image.fill(&mut filling, 1, &mut truth);
    let seen = image.recover();
    assert_eq!((seen.truth, seen.states[&0]), (truth, "open"));
}

#[test]
fn flipped_bits_lose_records_and_invent_none() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let (mut image, truth, _) = mixed(seed);
    let mut random = StdRng::seed_from_u64(seed);
    for flip in 0..300 {
        let at = match random.random_range(0..3) {
            0 => random.random_range(0..2 * PAGE_LEN),
            1 => image.base(0) + random.random_range(0..SEGMENT_LEN),
            _ => random.random_range(FIRST_SEGMENT_OFFSET as usize..image.bytes.len()),
        };
        let bit = 1 << random.random_range(0..8);
        image.bytes[at] ^= bit;
        let seen = image.recover();
        let lost = truth.len() - seen.truth.len();
        for (place, record) in &seen.truth {
            assert_eq!(truth.get(place), Some(record), "seed {seed}, flip {flip} at {at}");
        }
        let header = (0..SEGMENTS).any(|segment| (image.base(segment)..image.base(segment) + PAGE_LEN).contains(&at));
        assert!(header || lost <= 1, "seed {seed}, flip {flip} at {at}: {lost} records lost");
        image.bytes[at] ^= bit;
    }
}

#[test]
fn devices_that_are_none_are_refused_with_a_reason() {
    let mut blank: &[u8] = &[0; 2 * PAGE_LEN];
    assert!(matches!(superblock(&mut blank), Err(RecoverError::Blank)));
    let mut foreign: &[u8] = &[7; 2 * PAGE_LEN];
    assert!(matches!(superblock(&mut foreign), Err(RecoverError::Superblock(FormatError::Magic { .. }))));
    let mut short: &[u8] = &[0; 100];
    assert!(matches!(superblock(&mut short), Err(RecoverError::Io(_))));
    let image = Image::new(1);
    let mut shrunk: &[u8] = &image.bytes[..2 * SEGMENT_LEN];
    assert!(matches!(superblock(&mut shrunk), Err(RecoverError::Shrunk { .. })));
    let mut one_copy = image.bytes.clone();
    one_copy[100] ^= 1;
    assert_eq!(superblock(&mut &one_copy[..]).expect("the other copy"), image.superblock);
}

#[test]
fn a_record_is_read_only_if_all_of_it_is_right() {
    let (mut image, mut truth) = (Image::new(6), Truth::new());
    let mut filling = image.begin(0, 1);
    image.fill(&mut filling, 1000, &mut truth);
    let geometry = image.superblock.geometry;
    let life = filling.header.life;
    let mut random = StdRng::seed_from_u64(6);
    for (row, key) in filling.table.iter() {
        let read = |bytes: &[u8], row: &Row, key: &[u8]| {
            let (mut source, mut payload) = (bytes, Vec::new());
            read_record(&mut source, geometry, &life, row, key, &mut |part| payload.extend_from_slice(part))
                .map(|()| payload)
        };
        let payload = read(&image.bytes, &row, key).expect("whole");
        assert_eq!((payload.len(), Crc::of(&payload)), (row.length as usize, row.crc));
        let other = Row { generation: Generation(0), ..row };
        assert!(matches!(read(&image.bytes, &other, key), Err(RecordError::Differs)));
        let at = image.base(0) + usize::from(row.page) * PAGE_LEN;
        let len = match row.layout().inline {
            true => PAGE_LEN,
            false => row.layout().header_len() + row.length as usize,
        };
        let flip = at + random.random_range(0..len);
        image.bytes[flip] ^= 1;
        assert!(read(&image.bytes, &row, key).is_err(), "byte {} of a record of {len}", flip - at);
        image.bytes[flip] ^= 1;
    }
}

/// Fails to read some pages, as a device with bad blocks does.
struct Failing<'a> {
    bytes: &'a [u8],
    bad: Vec<u64>,
}

impl Source for Failing<'_> {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&mut self, places: &[(u64, usize)]) -> Vec<io::Result<Vec<u8>>> {
        let bad = |offset: u64, len: usize| self.bad.iter().any(|bad| (offset..offset + len as u64).contains(bad));
        let answers = self.bytes.read_all(places);
        places
            .iter()
            .zip(answers)
            .map(|(&(offset, len), answer)| if bad(offset, len) { Err(io::Error::other("bad block")) } else { answer })
            .collect()
    }
}

trait ReadAll {
    fn read_all(&self, places: &[(u64, usize)]) -> Vec<io::Result<Vec<u8>>>;
}

impl ReadAll for &[u8] {
    fn read_all(&self, places: &[(u64, usize)]) -> Vec<io::Result<Vec<u8>>> {
        let mut source: &[u8] = self;
        source.read(places)
    }
}

#[test]
fn bad_blocks_lose_what_lies_on_them() {
    for seed in 0..50 {
        let (image, truth, _) = mixed(seed);
        let mut random = StdRng::seed_from_u64(seed);
        let bad: Vec<u64> =
            (0..4).map(|_| random.random_range(FIRST_SEGMENT_OFFSET..image.bytes.len() as u64)).collect();
        let mut source = Failing { bytes: &image.bytes, bad: bad.clone() };
        let seen = Seen::of(&mut source, &image.superblock, BTreeMap::new());
        for (place, record) in &seen.truth {
            assert_eq!(truth.get(place), Some(record), "seed {seed}");
        }
        let header = bad.iter().any(|bad| (bad - FIRST_SEGMENT_OFFSET) % (SEGMENT_LEN as u64) < PAGE_LEN as u64);
        assert!(header || truth.len() - seen.truth.len() <= bad.len(), "seed {seed}: each bad block loses a record");
    }
}

#[test]
fn an_engine_and_a_file_are_read_alike() {
    let (image, truth, _) = mixed(5);
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&image.bytes).expect("room");
    let mut plain = FileSource::new(file.reopen().expect("opens")).expect("a length");
    assert_eq!(plain.len(), image.bytes.len() as u64);
    assert_eq!(superblock(&mut plain).expect("valid"), image.superblock);
    assert_eq!(Seen::of(&mut plain, &image.superblock, BTreeMap::new()).truth, truth);
    let mut engine = open(file.path(), &EngineOptions::default()).expect("an engine");
    let mut source = EngineSource::new(&mut *engine).expect("memory");
    assert_eq!(superblock(&mut source).expect("valid"), image.superblock);
    assert_eq!(Seen::of(&mut source, &image.superblock, BTreeMap::new()).truth, truth);
    let answers = source.read(&[(0, PAGE_LEN), (image.bytes.len() as u64, PAGE_LEN), (1, PAGE_LEN), (0, 1 << 20)]);
    let ok: Vec<bool> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(ok, [true, false, false, true]);
    assert_eq!(answers[3].as_ref().expect("read"), &image.bytes[..1 << 20]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Segments of any bytes, some of which begin as structures do, behind a valid superblock.
    #[test]
    fn no_device_makes_recovery_panic(seed: u64, magics in prop::collection::vec((0u32..1024, 0usize..4), 0..200)) {
        let mut image = Image::new(seed);
        let base = image.base(0);
        let mut noise = vec![0; image.bytes.len() - base];
        image.random.fill(&mut noise[..]);
        image.bytes[base..].copy_from_slice(&noise);
        for segment in 0..SEGMENTS {
            image.begin(segment, 1);
        }
        for (page, magic) in magics {
            let at = base + page as usize * PAGE_LEN;
            let magic: &[u8; 8] = [b"MKVDEV01", b"MKVSEG01", b"MKVREC01", b"MKVEND01"][magic];
            image.bytes[at..at + 8].copy_from_slice(magic);
            image.bytes[at + 8..at + 12].copy_from_slice(&[1, 0, 1, 0]);
        }
        let seen = image.recover();
        prop_assert!(seen.truth.is_empty());
    }
}
