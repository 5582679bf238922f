//! The bulk frame's bytes: golden ones, random ones there and back, and what has to be refused.
//!
//! Invariants:
//! - What docs/protocol.md says of a header is what is encoded here, byte by byte.

use super::*;
use proptest::prelude::*;

fn request(tag: u64, request: Request) -> [u8; HEADER_LEN] {
    RequestHeader { tag, request }.encode()
}

/// Golden bytes: a change here is a new version of the format.
#[test]
fn headers_are_these_bytes() {
    let write = Request::Write {
        grant: GrantId(0x1112_1314_1516_1718),
        offset: 0x2122,
        length: 0x0102_0304 >> 8,
        crc: Some(Crc(0xcbf4_3926)),
    };
    let mut expected = [0u8; HEADER_LEN];
    expected[..44].copy_from_slice(&[
        b'M', b'C', b'B', b'Q', 1, 2, 1, 0, //
        0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, //
        0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, //
        0x22, 0x21, 0, 0, 0, 0, 0, 0, //
        0x03, 0x02, 0x01, 0, 0, 0, 0, 0, //
        0x26, 0x39, 0xf4, 0xcb,
    ]);
    assert_eq!(request(0x0102_0304_0506_0708, write), expected);

    let hello = request(1, Request::Hello { token: Token(*b"0123456789abcdef") });
    assert_eq!(&hello[..34], b"MCBQ\x01\x01\0\0\x01\0\0\0\0\0\0\x000123456789abcdef\0\0");

    let read = RequestHeader { tag: 9, request: Request::Read { lease: LeaseId(7), offset: 1, length: 2 } };
    let answer = read.reading(Generation(0x0a0b), 2, Crc(0x0102_0304)).encode();
    let mut expected = [0u8; HEADER_LEN];
    expected[..36].copy_from_slice(&[
        b'M', b'C', b'B', b'R', 1, 3, 0, 0, //
        9, 0, 0, 0, 0, 0, 0, 0, //
        0x0b, 0x0a, 0, 0, 0, 0, 0, 0, //
        2, 0, 0, 0, 0, 0, 0, 0, //
        4, 3, 2, 1,
    ]);
    assert_eq!(answer, expected);
    assert_eq!(read.refused(Status::NoLease).encode()[6..8], [3, 0]);
}

#[test]
fn what_encoding_cannot_make_is_refused() {
    let good = request(5, Request::Ping);
    let check = |at: usize, byte: u8, expected: FrameError| {
        let mut bytes = good;
        bytes[at] = byte;
        assert_eq!(RequestHeader::decode(&bytes), Err(expected), "byte {at} as {byte}");
    };
    check(0, b'G', FrameError::Magic);
    check(4, 2, FrameError::Version(2));
    check(5, 0, FrameError::Op(0));
    check(5, 5, FrameError::Op(5));
    for at in (6..8).chain(16..35).chain(40..64) {
        check(at, 1, FrameError::Reserved);
    }
    check(36, 1, FrameError::TooLong(1 << 32));

    let read = Request::Read { lease: LeaseId(1), offset: 0, length: PIECE_LEN_MAX };
    let mut bytes = request(1, read);
    assert!(RequestHeader::decode(&bytes).is_ok(), "the longest piece");
    bytes[32] = 1;
    assert_eq!(RequestHeader::decode(&bytes), Err(FrameError::TooLong(PIECE_LEN_MAX + 1)));

    let header = RequestHeader { tag: 1, request: Request::Ping };
    let mut bytes = header.done().encode();
    bytes[6] = 10;
    assert_eq!(ResponseHeader::decode(&bytes), Err(FrameError::Status(10)));
    bytes[6] = 0;
    bytes[24] = 1;
    assert_eq!(ResponseHeader::decode(&bytes), Err(FrameError::Reserved), "a ping has no payload");
    assert_eq!(ResponseHeader::decode(&good), Err(FrameError::Magic), "a request is no answer");
}

#[test]
fn tokens_read_what_they_write_and_do_not_show() {
    let token = Token::random();
    assert_eq!(Token::parse_hex(token.to_hex().as_bytes()), Some(token));
    assert_ne!(Token::random(), token);
    assert_eq!(format!("{token:?}"), "Token(..)");
    for bad in ["", "00", "0123456789abcdef0123456789abcdeg", "0123456789abcdef0123456789abcdef0"] {
        assert_eq!(Token::parse_hex(bad.as_bytes()), None, "{bad}");
    }
}

fn any_request() -> impl Strategy<Value = Request> {
    let length = 0..=PIECE_LEN_MAX;
    prop_oneof![
        any::<[u8; 16]>().prop_map(|token| Request::Hello { token: Token(token) }),
        (any::<u64>(), any::<u64>(), length.clone(), any::<Option<u32>>()).prop_map(|(id, offset, length, crc)| {
            Request::Write { grant: GrantId(id), offset, length, crc: crc.map(Crc) }
        }),
        (any::<u64>(), any::<u64>(), length).prop_map(|(id, offset, length)| Request::Read {
            lease: LeaseId(id),
            offset,
            length
        }),
        Just(Request::Ping),
    ]
}

proptest! {
    #[test]
    fn requests_decode_to_what_was_encoded(tag: u64, request in any_request()) {
        let header = RequestHeader { tag, request };
        prop_assert_eq!(RequestHeader::decode(&header.encode()), Ok(header));
    }

    /// Whatever decodes encodes to the same bytes: no bit is ignored.
    #[test]
    fn no_bit_of_a_header_is_ignored(
        tag: u64, request in any_request(), generation: u64, length in 0..=PIECE_LEN_MAX, crc: u32,
        status in 0usize..Status::ALL.len(), at in 0usize..HEADER_LEN, flip in 1u8..,
    ) {
        let header = RequestHeader { tag, request };
        let mut bytes = header.encode();
        bytes[at] ^= flip;
        if let Ok(other) = RequestHeader::decode(&bytes) {
            prop_assert_eq!(other.encode(), bytes);
        }
        let status = Status::ALL[status];
        let answer = match (status, request.op()) {
            (Status::Done, Op::Read) => header.reading(Generation(generation), length, Crc(crc)),
            (Status::Done, Op::Write) => header.written(Generation(generation)),
            _ => header.refused(status),
        };
        let mut bytes = answer.encode();
        prop_assert_eq!(ResponseHeader::decode(&bytes), Ok(answer));
        bytes[at] ^= flip;
        if let Ok(other) = ResponseHeader::decode(&bytes) {
            prop_assert_eq!(other.encode(), bytes);
        }
    }
}
