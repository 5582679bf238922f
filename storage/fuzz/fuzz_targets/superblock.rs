//! A superblock or segment header that is accepted encodes to the same bytes, and what is not accepted panics nobody.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::base::Crc;
use storage::flash::format::{DeviceId, PAGE_LEN, SegmentHeader, Superblock};

/// A page that begins as `input` does. With `right`, its magic, version and checksum are.
fn page(input: &[u8], magic: &[u8; 8], right: bool) -> [u8; PAGE_LEN] {
    let mut page = [0; PAGE_LEN];
    let len = input.len().min(PAGE_LEN);
    page[..len].copy_from_slice(&input[..len]);
    if right {
        page[..8].copy_from_slice(magic);
        page[8..10].copy_from_slice(&1u16.to_le_bytes());
        page[12..16].fill(0);
        let check = Crc::of(&page).0;
        page[12..16].copy_from_slice(&check.to_le_bytes());
    }
    page
}

fuzz_target!(|input: (bool, &[u8])| {
    let (right, input) = input;
    let _ = Superblock::decode(input, 0);
    let block = page(input, b"MKVDEV01", right);
    for copy in 0..2 {
        if let Ok(superblock) = Superblock::decode(&block, copy) {
            assert_eq!(superblock.encode(copy), block);
            assert!(superblock.geometry.pages() >= 256);
            // Whatever it claims, this ends in a number.
            superblock.geometry.device_len();
        }
    }
    let header = page(input, b"MKVSEG01", right);
    let mut device = [0; 16];
    device.copy_from_slice(&header[16..32]);
    let segment = u32::from_le_bytes([header[32], header[33], header[34], header[35]]);
    if let Ok(decoded) = SegmentHeader::decode(&header, &DeviceId(device), segment) {
        assert_eq!(decoded.encode(), header);
    }
});
