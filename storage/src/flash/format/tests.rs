//! Holds the format to its written bytes, and its parsers to what they must refuse.
//!
//! Invariant: every single flipped bit is detected; what decodes encodes to the same bytes; nothing that a device says makes a parser panic.

#![expect(clippy::cast_possible_truncation, reason = "small numbers of tests")]

use super::*;
use proptest::prelude::*;
use protocol::base::{Crc, Generation, KEY_LEN_MAX};

fn life() -> Life {
    let mut nonce = [0; 16];
    nonce.iter_mut().zip(0..).for_each(|(byte, value)| *byte = value);
    Life { segment: 0x0102, life: 0x0304, nonce: Nonce(nonce) }
}

fn device() -> DeviceId {
    DeviceId(*b"sixteen bytes id")
}

/// Lowercase hex.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A page that is zero but for `fields`.
fn page(fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut page = vec![0; PAGE_LEN];
    for (at, value) in fields {
        page[*at..at + value.len()].copy_from_slice(value);
    }
    page
}

fn superblock() -> Superblock {
    Superblock {
        device: device(),
        number: 0x0102,
        geometry: Geometry { segment_len: 1 << 26, segment_count: 0x0304 },
        boot_epoch: 0x0506,
        update: 0x0708,
        formatted_ms: 0x090a,
    }
}

fn header() -> SegmentHeader {
    SegmentHeader { device: device(), life: life(), head: Head::Reinserted, opened_ms: 0x0506 }
}

/// A payload of `length` bytes and what its record says of it.
fn record(key: &[u8], length: usize) -> (Record<'_>, Vec<u8>, Vec<Crc>) {
    let payload: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
    let record = Record {
        page: 0x0201,
        generation: Generation(0x0403),
        length: length as u64,
        crc: Crc::of(&payload),
        expires_ms: 0x0605,
        key,
    };
    let chunks = if record.layout().inline { Vec::new() } else { payload.chunks(CHUNK_LEN).map(Crc::of).collect() };
    (record, payload, chunks)
}

fn encoded(record: &Record<'_>, payload: &[u8], chunks: &[Crc]) -> Vec<u8> {
    let mut header = vec![0xff; record.layout().header_len()];
    record.encode(&life(), chunks, if record.layout().inline { payload } else { &[] }, &mut header);
    header
}

fn table(rows: &[(u16, u32)]) -> Table {
    let mut table = Table::new();
    for (page, length) in rows {
        let key = format!("key of page {page}");
        let row = Row {
            page: *page,
            key_len: key.len() as u16,
            length: *length,
            crc: Crc(0x0102),
            generation: Generation(0x0304),
            expires_ms: 0x0506,
        };
        table.push(row, key.as_bytes());
    }
    table
}

#[test]
fn the_mac_is_siphash_2_4_with_128_bits() {
    // The first two vectors of the reference implementation, and the one of 63 bytes.
    let bytes: Vec<u8> = (0..63).collect();
    assert_eq!(hex(&mac(&life().nonce, &[])), "a3817f04ba25a8e66df67214c7550293");
    assert_eq!(hex(&mac(&life().nonce, &[&bytes[..1]])), "da87c1d86b99af44347659119b22fc45");
    assert_eq!(hex(&mac(&life().nonce, &[&bytes])), "5150d1772f50834a503e069a973fbd7c");
    assert_eq!(mac(&life().nonce, &[&bytes[..7], &[], &bytes[7..]]), mac(&life().nonce, &[&bytes]));
}

#[test]
fn golden_bytes_of_a_superblock() {
    let golden = page(&[
        (0, b"MKVDEV01"),
        (8, &[1, 0]),
        (10, &[1, 0]),
        (16, b"sixteen bytes id"),
        (32, &[2, 1]),
        (36, &[4, 3]),
        (43, &[4]),
        (48, &[6, 5]),
        (56, &[8, 7]),
        (64, &[10, 9]),
    ]);
    let check = Crc::of(&golden).0;
    let mut golden = golden;
    golden[12..16].copy_from_slice(&check.to_le_bytes());
    assert_eq!(superblock().encode(1)[..], golden);
    assert_eq!(Superblock::decode(&golden, 1), Ok(superblock()));
    assert!(Superblock::decode(&golden, 0).is_err(), "a copy that was written to the other's place");
}

#[test]
fn golden_bytes_of_a_segment_header() {
    let golden = page(&[
        (0, b"MKVSEG01"),
        (8, &[1, 0]),
        (10, &[1, 0]),
        (16, b"sixteen bytes id"),
        (32, &[2, 1]),
        (40, &[4, 3]),
        (48, &life().nonce.0),
        (64, &[6, 5]),
    ]);
    let check = Crc::of(&golden).0;
    let mut golden = golden;
    golden[12..16].copy_from_slice(&check.to_le_bytes());
    assert_eq!(header().encode()[..], golden);
    assert_eq!(SegmentHeader::decode(&golden, &device(), 0x0102), Ok(header()));
    assert!(SegmentHeader::decode(&golden, &device(), 0x0103).is_err());
    assert!(SegmentHeader::decode(&golden, &DeviceId([0; 16]), 0x0102).is_err());
}

#[test]
fn golden_bytes_of_a_record() {
    let (record, payload, chunks) = record(b"key", CHUNK_LEN + 1);
    assert_eq!(record.layout(), RecordLayout { header_pages: 1, payload_pages: 17, inline: false });
    let golden = page(&[
        (0, b"MKVREC01"),
        (8, &[1, 0]),
        (10, &[1, 0]),
        (12, &[3]),
        (16, &[0; 16]),
        (32, &[2, 1]),
        (36, &[1, 2]),
        (40, &[4, 3]),
        (48, &[3, 4]),
        (56, &[1, 0, 1]),
        (64, &[5, 6]),
        (72, &Crc::of(&payload).0.to_le_bytes()),
        (78, &[1]),
        (96, &Crc::of(&payload[..CHUNK_LEN]).0.to_le_bytes()),
        (100, &Crc::of(&payload[CHUNK_LEN..]).0.to_le_bytes()),
        (104, b"key"),
    ]);
    let header = encoded(&record, &payload, &chunks);
    let mut zeroed = header.clone();
    zeroed[16..32].fill(0);
    assert_eq!(zeroed, golden);
    assert_eq!(header[16..32], mac(&life().nonce, &[&golden]));
    assert_eq!(hex(&header[16..32]), "f835918913accdaec47a63ec2af37675");
}

#[test]
fn golden_bytes_of_a_record_with_its_payload_in_the_header() {
    let (record, payload, chunks) = record(b"key", 5);
    let header = encoded(&record, &payload, &chunks);
    assert_eq!(header[10..12], [1, 1]);
    assert_eq!(header[96..104], *b"key\x00\x01\x02\x03\x04");
    assert_eq!(hex(&header[16..32]), "8ac413a99fffc164bda65d4b9f491b00");
    let view = RecordView::decode(&header, &life(), 0x0201).expect("valid");
    assert_eq!((view.inline, view.key), (Some(&payload[..]), &b"key"[..]));
}

#[test]
fn golden_bytes_of_a_footer() {
    let table = table(&[(1, 5), (2, 70_000)]);
    let footer = table.encode(&life(), 0x0b0a);
    let keys = b"key of page 1key of page 2";
    let mut golden = page(&[
        (0, &[1, 0, 13, 0, 5, 0, 0, 0, 2, 1]),
        (16, &[4, 3]),
        (24, &[6, 5]),
        (32, &[2, 0, 13, 0, 0x70, 0x11, 1, 0, 2, 1]),
        (48, &[4, 3]),
        (56, &[6, 5]),
        (64, keys),
    ]);
    golden.extend(page(&[
        (0, b"MKVEND01"),
        (8, &[1, 0]),
        (32, &[2, 1]),
        (36, &[2]),
        (40, &[4, 3]),
        (48, &[2]),
        (52, &[26]),
        (56, &[10, 11]),
    ]));
    let mut zeroed = footer.clone();
    zeroed[PAGE_LEN + 16..PAGE_LEN + 32].fill(0);
    assert_eq!(zeroed, golden);
    assert_eq!(hex(&footer[PAGE_LEN + 16..PAGE_LEN + 32]), "a61327328823500a64f3abfe4a89e28b");
    let (read, tail) = Table::decode(&footer, &life(), 256).expect("valid");
    assert_eq!(read, table);
    assert_eq!(tail, Tail { pages: 2, count: 2, sealed_ms: 0x0b0a });
    assert_eq!(Tail::claimed(&footer[PAGE_LEN..], 256), Ok(tail));
    assert_eq!(read.end_page(), 2 + 1 + 18);
}

#[test]
fn other_versions_are_refused_by_their_number() {
    let mut block = superblock().encode(0);
    block[8] = 2;
    block[12..16].fill(0);
    let check = Crc::of(&block).0;
    block[12..16].copy_from_slice(&check.to_le_bytes());
    assert_eq!(Superblock::decode(&block, 0), Err(FormatError::Version { what: "superblock", found: 2 }));

    let (record, payload, chunks) = record(b"key", 5);
    let mut header = encoded(&record, &payload, &chunks);
    header[8] = 2;
    header[16..32].fill(0);
    let check = mac(&life().nonce, &[&header]);
    header[16..32].copy_from_slice(&check);
    let refused = RecordView::decode(&header, &life(), 0x0201);
    assert_eq!(refused, Err(FormatError::Version { what: "record", found: 2 }));
}

#[test]
fn layouts_at_their_borders() {
    let fixed = 96;
    for (key_len, length, header, payload, inline) in [
        (0, 0, 1, 0, true),
        (10, PAGE_LEN - fixed - 10, 1, 0, true),
        (10, PAGE_LEN - fixed - 9, 1, 1, false),
        (KEY_LEN_MAX, 0, 5, 0, false),
        (100, 1 << 20, 1, 256, false),
        (100, 128 << 20, 3, 32768, false),
        (KEY_LEN_MAX, 128 << 20, 7, 32768, false),
    ] {
        let layout = RecordLayout::of(key_len, length as u64);
        let expected = RecordLayout { header_pages: header, payload_pages: payload, inline };
        assert_eq!(layout, expected, "key of {key_len}, payload of {length}");
    }
    assert!(RecordLayout::of(usize::from(u16::MAX), u64::MAX).pages() > 1 << 31, "never the length of a record");
}

#[test]
fn devices_are_cut_into_whole_segments() {
    let geometry = Geometry::of((1 << 20) + (3 << 26) + 4095, 1 << 26).expect("three segments");
    assert_eq!((geometry.segment_count, geometry.pages()), (3, 16384));
    assert_eq!(geometry.offset_of(2), (1 << 20) + (2 << 26));
    assert_eq!(geometry.device_len(), (1 << 20) + (3 << 26));
    for (device_len, segment_len) in [(1 << 20, 1 << 20), (1 << 30, 3 << 20), (1 << 40, 1 << 29), (0, 1 << 26)] {
        assert_eq!(Geometry::of(device_len, segment_len), None, "{device_len} by {segment_len}");
    }
}

#[test]
fn the_document_has_the_tables_that_stand_beside_the_code() {
    let document = include_str!("../../../../docs/format.md");
    let sources = [
        include_str!("superblock.rs"),
        include_str!("segment.rs"),
        include_str!("record.rs"),
        include_str!("footer.rs"),
        include_str!("../journal/note.rs"),
    ];
    for line in sources.iter().flat_map(|source| source.lines()).filter_map(|line| line.strip_prefix("//! |")) {
        assert!(document.contains(&format!("\n|{line}\n")), "docs/format.md lacks: |{line}");
    }
}

/// Flips every bit of `bytes` in turn.
fn for_each_flip(bytes: &[u8], mut check: impl FnMut(&[u8], usize)) {
    let mut flipped = bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        check(&flipped, bit);
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn every_flipped_bit_of_a_block_is_detected() {
    for_each_flip(&superblock().encode(0), |block, bit| {
        assert!(Superblock::decode(block, 0).is_err(), "superblock, bit {bit}");
    });
    for_each_flip(&header().encode(), |page, bit| {
        assert!(SegmentHeader::decode(page, &device(), 0x0102).is_err(), "segment header, bit {bit}");
    });
    for length in [100, 2 * CHUNK_LEN] {
        let (record, payload, chunks) = record(b"some key", length);
        for_each_flip(&encoded(&record, &payload, &chunks), |header, bit| {
            assert!(RecordView::decode(header, &life(), 0x0201).is_err(), "record of {length}, bit {bit}");
        });
    }
    for_each_flip(&table(&[(1, 5), (2, 70_000)]).encode(&life(), 1), |footer, bit| {
        assert!(Table::decode(footer, &life(), 256).is_err(), "footer, bit {bit}");
    });
}

#[test]
fn no_other_life_place_or_segment_reads_a_record() {
    let (record, payload, chunks) = record(b"some key", 1000);
    let header = encoded(&record, &payload, &chunks);
    assert!(RecordView::decode(&header, &life(), 0x0201).is_ok());
    assert!(RecordView::decode(&header, &life(), 0x0202).is_err(), "another page");
    assert!(RecordView::decode(&header, &Life { segment: 1, ..life() }, 0x0201).is_err(), "another segment");
    assert!(RecordView::decode(&header, &Life { life: 1, ..life() }, 0x0201).is_err(), "another life");
    assert!(RecordView::decode(&header, &Life { nonce: Nonce([9; 16]), ..life() }, 0x0201).is_err(), "another secret");
    let footer = table(&[(1, 5)]).encode(&life(), 1);
    assert!(Table::decode(&footer, &Life { segment: 1, ..life() }, 256).is_err(), "another segment's footer");
    assert!(Table::decode(&footer, &Life { life: 1, ..life() }, 256).is_err(), "another life's footer");
    assert!(Table::decode(&footer, &life(), 3).is_err(), "a footer that reaches into its records");
}

#[test]
fn newest_whole_superblock_holds() {
    let (old, new) = (superblock(), Superblock { update: 0x0709, boot_epoch: 9, ..superblock() });
    let bad = Superblock::decode(&[0; PAGE_LEN], 0);
    assert_eq!(Superblock::newest(&[Ok(old), Ok(new)]), Ok(new));
    assert_eq!(Superblock::newest(&[Ok(new), Ok(old)]), Ok(new));
    assert_eq!(Superblock::newest(&[bad, Ok(old)]), Ok(old));
    assert_eq!(Superblock::newest(&[bad, bad]), bad);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn records_read_as_they_were_written(
        key in prop::collection::vec(any::<u8>(), 0..6000),
        length in prop_oneof![0usize..5000, 0usize..300_000],
        page: u16, generation: u64, expires_ms: u64,
    ) {
        let (record, payload, chunks) = record(&key, length);
        let record = Record { page, generation: Generation(generation), expires_ms, ..record };
        let mut header = encoded(&record, &payload, &chunks);
        header.extend([7; 100]);
        prop_assert_eq!(RecordView::claimed_len(&header), Some(record.layout().header_len()));
        let view = RecordView::decode(&header, &life(), page).expect("just written");
        prop_assert_eq!(view.layout(), record.layout());
        prop_assert_eq!(view.chunks().collect::<Vec<_>>(), chunks);
        prop_assert_eq!(view.inline, record.layout().inline.then_some(&payload[..]));
        let read = (view.page, view.generation, view.length, view.crc, view.expires_ms, view.key);
        prop_assert_eq!(read, (page, record.generation, length as u64, record.crc, expires_ms, &key[..]));
    }

    #[test]
    fn tables_read_as_they_were_written(
        rows in prop::collection::vec((0u16..20, 0u32..200_000, any::<u64>(), any::<u64>(), 0usize..300), 0..400),
    ) {
        let (mut table, mut page) = (Table::new(), 1);
        let mut written = Vec::new();
        for (gap, length, generation, expires_ms, key_len) in rows {
            let key = vec![gap as u8; key_len];
            let layout = RecordLayout::of(key_len, u64::from(length));
            let at = page + u32::from(gap);
            if at + layout.pages() + table.footer_pages_with(key_len) > 65_536 {
                break;
            }
            let row = Row {
                page: at as u16,
                key_len: key_len as u16,
                length,
                crc: Crc(length),
                generation: Generation(generation),
                expires_ms,
            };
            table.push(row, &key);
            written.push((row, key));
            page = at + layout.pages();
        }
        let footer = table.encode(&life(), 7);
        prop_assert_eq!(footer.len(), table.footer_pages() as usize * PAGE_LEN);
        let (read, _) = Table::decode(&footer, &life(), 65_536).expect("just written");
        let read: Vec<_> = read.iter().map(|(row, key)| (row, key.to_vec())).collect();
        prop_assert_eq!(read, written);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..9000), magic in 0..4) {
        let magic: &[u8; 8] = [b"MKVDEV01", b"MKVSEG01", b"MKVREC01", b"MKVEND01"][magic as usize];
        if bytes.len() > 16 {
            bytes[..8].copy_from_slice(magic);
            bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        }
        prop_assert!(Superblock::decode(&bytes, 0).is_err());
        prop_assert!(SegmentHeader::decode(&bytes, &device(), 0x0102).is_err());
        prop_assert!(RecordView::decode(&bytes, &life(), 0x0201).is_err());
        prop_assert!(Table::decode(&bytes, &life(), 256).is_err());
    }
}
