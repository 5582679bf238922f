//! A footer that is accepted encodes to the same bytes, and what is not accepted panics nobody. Its MAC is made right, so
//! that what stands behind it is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use siphasher::sip128::{Hasher128, SipHasher24};
use std::hash::Hasher;
use storage::flash::format::{Life, Nonce, PAGE_LEN, Table};

const NONCE: [u8; 16] = *b"a nonce of tests";
const SEGMENT_PAGES: u32 = 1024;

fuzz_target!(|input: (u8, u16, u16, &[u8])| {
    let (right, count, keys_len, input) = input;
    let life = Life { segment: 1, life: 2, nonce: Nonce(NONCE) };
    assert!(Table::decode(input, &life, SEGMENT_PAGES).is_err(), "nobody guesses a MAC");
    let mut footer = input.to_vec();
    footer.resize((input.len().div_ceil(PAGE_LEN) + 1) * PAGE_LEN, 0);
    let pages = footer.len() / PAGE_LEN;
    let tail = footer.len() - PAGE_LEN;
    if right > 0 {
        footer[tail..tail + 8].copy_from_slice(b"MKVEND01");
        footer[tail + 8..tail + 16].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        footer[tail + 32..tail + 64].fill(0);
        (footer[tail + 32], footer[tail + 40]) = (1, 2);
        footer[tail + 36..tail + 40].copy_from_slice(&u32::try_from(pages).unwrap_or(0).to_le_bytes());
        footer[tail + 48..tail + 50].copy_from_slice(&count.to_le_bytes());
        footer[tail + 52..tail + 54].copy_from_slice(&keys_len.to_le_bytes());
    }
    if right > 1 {
        // Rows in order: each page is a step, and keys are short.
        let mut page = 1u16;
        for row in footer[..tail].chunks_exact_mut(32).take(usize::from(count)) {
            row[..2].copy_from_slice(&page.to_le_bytes());
            (row[3], row[6], row[7]) = (0, 0, 0);
            row[12..16].fill(0);
            page = page.saturating_add(u16::from(right % 32) + 1);
        }
    }
    footer[tail + 16..tail + 32].fill(0);
    let mut hasher = SipHasher24::new_with_key(&NONCE);
    hasher.write(&footer);
    let check = hasher.finish128().as_bytes();
    footer[tail + 16..tail + 32].copy_from_slice(&check);
    let Ok((table, tail)) = Table::decode(&footer, &life, SEGMENT_PAGES) else { return };
    assert_eq!(table.len(), tail.count as usize);
    assert_eq!(table.iter().count(), table.len());
    assert!(table.end_page() + table.footer_pages() <= SEGMENT_PAGES);
    assert_eq!(table.encode(&life, tail.sealed_ms), footer);
});
