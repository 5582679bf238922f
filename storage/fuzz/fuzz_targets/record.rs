//! A record's header that is accepted encodes to the same bytes, and what is not accepted panics nobody. Its MAC is made
//! right, so that what stands behind it is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::base::Crc;
use siphasher::sip128::{Hasher128, SipHasher24};
use std::hash::Hasher;
use storage::flash::format::{Life, Nonce, PAGE_LEN, Record, RecordView};

const NONCE: [u8; 16] = *b"a nonce of tests";

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (right, pages, input) = input;
    let life = Life { segment: 1, life: 2, nonce: Nonce(NONCE) };
    assert!(RecordView::decode(input, &life, 3).is_err(), "nobody guesses a MAC");
    let mut header = input.to_vec();
    header.resize((usize::from(pages % 10) + 1) * PAGE_LEN, 0);
    if right {
        header[..8].copy_from_slice(b"MKVREC01");
        header[8..10].copy_from_slice(&1u16.to_le_bytes());
        header[32..48].fill(0);
        (header[32], header[36], header[40]) = (1, 3, 2);
        header[76..80].copy_from_slice(&65_536u32.to_le_bytes());
        let Some(len) = RecordView::claimed_len(&header).filter(|len| *len <= header.len()) else { return };
        header.truncate(len);
        header[16..32].fill(0);
        let mut hasher = SipHasher24::new_with_key(&NONCE);
        hasher.write(&header);
        let check = hasher.finish128().as_bytes();
        header[16..32].copy_from_slice(&check);
    }
    let Ok(view) = RecordView::decode(&header, &life, 3) else { return };
    let chunks: Vec<Crc> = view.chunks().collect();
    let RecordView { page, generation, length, crc, expires_ms, key, .. } = view;
    let record = Record { page, generation, length, crc, expires_ms, key };
    let mut again = vec![0xff; record.layout().header_len()];
    record.encode(&life, &chunks, view.inline.unwrap_or_default(), &mut again);
    assert_eq!(again, header);
});
