//! Any file replays to its end. Frames are made right one by one, so that what stands behind their MAC is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::base::Crc;
use siphasher::sip128::{Hasher128, SipHasher24};
use std::hash::Hasher;
use storage::flash::journal::Remembered;

const NONCE: [u8; 16] = *b"a nonce of tests";
const FRAME: usize = 64;

fuzz_target!(|input: (&[u8], &[u8])| {
    let (right, input) = input;
    Remembered::of_file(input);
    let mut header = [0; FRAME];
    header[..10].copy_from_slice(b"MKVJNL01\x01\x00");
    header[16..32].copy_from_slice(&NONCE);
    let check = Crc::of(&header).0;
    header[12..16].copy_from_slice(&check.to_le_bytes());
    let mut file = header.to_vec();
    file.extend_from_slice(input);
    let mut expected = 0;
    for (n, right) in right.iter().enumerate() {
        let at = FRAME * (n + 1);
        if *right == 0 || at + FRAME > file.len() {
            continue;
        }
        let frames = usize::from(u16::from_le_bytes([file[at + 22], file[at + 23]])).clamp(1, 4);
        let end = (at + frames * FRAME).min(file.len());
        file[at + 22..at + 24].copy_from_slice(&u16::try_from(frames).unwrap_or(1).to_le_bytes());
        expected += u64::from(*right);
        file[at + 8..at + 16].copy_from_slice(&expected.to_le_bytes());
        file[at..at + 8].fill(0);
        let mut hasher = SipHasher24::new_with_key(&NONCE);
        hasher.write(&file[at..end]);
        let check = hasher.finish128().as_bytes();
        file[at..at + 8].copy_from_slice(&check[..8]);
    }
    let (remembered, damage) = Remembered::of_file(&file);
    assert!(damage.repaired as usize <= file.len() / FRAME);
    assert!(remembered.pins().count() <= file.len() / FRAME);
});
