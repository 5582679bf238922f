//! What decodes is what encoding makes, bit by bit, and a request never announces more than a frame may carry.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transport::tcp::frame::{HEADER_LEN, PIECE_LEN_MAX, RequestHeader, ResponseHeader};

/// Headers that are right up to what `input` changes: otherwise few get past the magic.
const STARTS: [[u8; 6]; 8] =
    [*b"MCBQ\x01\x01", *b"MCBQ\x01\x02", *b"MCBQ\x01\x03", *b"MCBQ\x01\x04", *b"MCBR\x01\x01", *b"MCBR\x01\x02", *b"MCBR\x01\x03", [0; 6]];

fuzz_target!(|input: (u8, &[u8])| {
    let (start, input) = input;
    let start = STARTS[usize::from(start) % STARTS.len()];
    let mut header = [0; HEADER_LEN];
    header[..start.len()].copy_from_slice(&start);
    for (byte, change) in header.iter_mut().zip(input) {
        *byte ^= change;
    }
    if let Ok(request) = RequestHeader::decode(&header) {
        assert_eq!(request.encode(), header);
        assert!(request.request.payload_len() <= PIECE_LEN_MAX);
    }
    if let Ok(response) = ResponseHeader::decode(&header) {
        assert_eq!(response.encode(), header);
        assert!(response.length <= PIECE_LEN_MAX);
    }
});
