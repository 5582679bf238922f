//! The form in which `DUMP` hands out a value and `RESTORE` takes it: that of Redis, for strings.
//!
//! | part | meaning |
//! |---|---|
//! | 1 byte | type of the value: 0, a string |
//! | length, then bytes | see [`decode`]; or an integer of 1, 2 or 4 bytes; or LZF-compressed bytes |
//! | 2 bytes, little-endian | version of the form |
//! | 8 bytes, little-endian | CRC-64 of all before it |
//!
//! What we write is plain bytes under version 10, which Redis 7.0 and everything after it reads.

use crc::{CRC_64_REDIS, Crc, Digest, Table};
use std::borrow::Cow;

/// Written by us.
const VERSION: u16 = 10;
/// The newest that is read: strings have not changed up to it.
const VERSION_MAX: u16 = 12;
const TYPE_STRING: u8 = 0;
/// Bytes after the value.
const FOOTER_LEN: usize = 10;

static CRC64: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_REDIS);

/// What stands before a value of so many bytes.
fn heading(len: usize) -> Vec<u8> {
    let mut out = vec![TYPE_STRING];
    match u32::try_from(len) {
        Ok(short @ 0..64) => out.push(short.to_le_bytes()[0]),
        Ok(short @ 64..16384) => {
            let [high, low] = u16::try_from(short).expect("14 bits").to_be_bytes();
            out.extend([0x40 | high, low]);
        }
        Ok(long) => {
            out.push(0x80);
            out.extend(long.to_be_bytes());
        }
        Err(_) => {
            out.push(0x81);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out
}

/// Writes a value in pieces, so that others can have their turn between them.
pub(crate) struct Encoder {
    out: Vec<u8>,
    crc: Digest<'static, u64, Table<16>>,
}

impl Encoder {
    /// For a value of `len` bytes.
    pub(crate) fn new(len: usize) -> Self {
        let mut encoder = Self { out: Vec::with_capacity(len + 20), crc: CRC64.digest() };
        encoder.put(&heading(len));
        encoder
    }

    /// The next bytes of the value.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        self.out.extend_from_slice(bytes);
    }

    /// After the last of them.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.put(&VERSION.to_le_bytes());
        self.out.extend(self.crc.finalize().to_le_bytes());
        self.out
    }
}

/// Why a payload is not restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Its version is not known, or its checksum is not right.
    Unreadable,
    /// It says something that makes no sense.
    Bad,
    /// It holds no string.
    Type(u8),
}

/// A length, or how the bytes are kept.
enum Form {
    Len(usize),
    Integer(usize),
    Lzf,
}

fn form(at: &mut &[u8]) -> Option<Form> {
    let (&first, rest) = at.split_first()?;
    *at = rest;
    Some(match first >> 6 {
        0 => Form::Len(usize::from(first & 0x3f)),
        1 => Form::Len(usize::from(first & 0x3f) << 8 | usize::from(take::<1>(at)?[0])),
        2 if first == 0x80 => Form::Len(usize::try_from(u32::from_be_bytes(take(at)?)).ok()?),
        2 if first == 0x81 => Form::Len(usize::try_from(u64::from_be_bytes(take(at)?)).ok()?),
        3 if first & 0x3f < 3 => Form::Integer(1 << (first & 0x3f)),
        3 if first & 0x3f == 3 => Form::Lzf,
        _ => return None,
    })
}

fn take<const N: usize>(at: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = at.split_first_chunk::<N>()?;
    *at = rest;
    Some(*head)
}

fn len(at: &mut &[u8]) -> Option<usize> {
    match form(at)? {
        Form::Len(len) => Some(len),
        Form::Integer(_) | Form::Lzf => None,
    }
}

/// The value in a payload of at most `len_max` bytes when unpacked.
///
/// The length's two highest bits say how it is written: 6 bits, 14 bits, 32 or 64 bits; or, with both set, that an integer
/// follows, or a compressed length, a length, and LZF.
pub(crate) fn decode(payload: &[u8], len_max: usize) -> Result<Cow<'_, [u8]>, Refusal> {
    let end = payload.len().checked_sub(FOOTER_LEN).ok_or(Refusal::Unreadable)?;
    let (body, footer) = payload.split_at(end);
    let version = u16::from_le_bytes([footer[0], footer[1]]);
    let crc = u64::from_le_bytes(*footer.last_chunk().expect("ten bytes"));
    if version > VERSION_MAX || CRC64.checksum(&payload[..end + 2]) != crc {
        return Err(Refusal::Unreadable);
    }
    let (&kind, mut at) = body.split_first().ok_or(Refusal::Bad)?;
    if kind != TYPE_STRING {
        return Err(Refusal::Type(kind));
    }
    let value = match form(&mut at).ok_or(Refusal::Bad)? {
        Form::Len(len) => {
            let (value, rest) = at.split_at_checked(len).ok_or(Refusal::Bad)?;
            at = rest;
            Cow::Borrowed(value)
        }
        Form::Integer(bytes) => {
            let value = match bytes {
                1 => take::<1>(&mut at).map(|it| i64::from(i8::from_le_bytes(it))),
                2 => take::<2>(&mut at).map(|it| i64::from(i16::from_le_bytes(it))),
                _ => take::<4>(&mut at).map(|it| i64::from(i32::from_le_bytes(it))),
            };
            Cow::Owned(value.ok_or(Refusal::Bad)?.to_string().into_bytes())
        }
        Form::Lzf => {
            let (packed, unpacked) = (len(&mut at).ok_or(Refusal::Bad)?, len(&mut at).ok_or(Refusal::Bad)?);
            let (packed, rest) = at.split_at_checked(packed).ok_or(Refusal::Bad)?;
            at = rest;
            if unpacked > len_max {
                return Err(Refusal::Bad);
            }
            Cow::Owned(unpack(packed, unpacked).ok_or(Refusal::Bad)?)
        }
    };
    if at.is_empty() { Ok(value) } else { Err(Refusal::Bad) }
}

/// LZF: a byte below 32 is followed by one more byte than it says; any other says how far back, and how much, is repeated.
fn unpack(mut at: &[u8], len: usize) -> Option<Vec<u8>> {
    // No byte of it stands for more than 132 others: what is claimed is not believed.
    let mut out = Vec::with_capacity(len.min(at.len().saturating_mul(132)));
    while let Some((&control, rest)) = at.split_first() {
        at = rest;
        let control = usize::from(control);
        if control < 32 {
            let (literal, rest) = at.split_at_checked(control + 1)?;
            out.extend_from_slice(literal);
            at = rest;
        } else {
            let mut count = (control >> 5) + 2;
            if count == 9 {
                count += usize::from(take::<1>(&mut at)?[0]);
            }
            let back = (control & 0x1f) << 8 | usize::from(take::<1>(&mut at)?[0]);
            let from = out.len().checked_sub(back + 1)?;
            for index in from..from + count {
                out.push(out[index]);
            }
        }
        if out.len() > len {
            return None;
        }
    }
    (out.len() == len).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(value: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::new(value.len());
        for piece in value.chunks(100) {
            encoder.put(piece);
        }
        encoder.finish()
    }

    /// A payload as somebody else makes it.
    fn sealed(body: &[u8], version: u16) -> Vec<u8> {
        let mut out = [body, &version.to_le_bytes()].concat();
        out.extend(CRC64.checksum(&out).to_le_bytes());
        out
    }

    #[test]
    fn every_form_of_a_string_is_read() {
        assert_eq!(decode(&sealed(b"\0\x03foo", 10), 100).as_deref(), Ok(&b"foo"[..]));
        assert_eq!(decode(&sealed(b"\0\xc0\xf6", 9), 100).as_deref(), Ok(&b"-10"[..]));
        assert_eq!(decode(&sealed(b"\0\xc1\x39\x30", 11), 100).as_deref(), Ok(&b"12345"[..]));
        assert_eq!(decode(&sealed(b"\0\xc2\x15\xcd\x5b\x07", 6), 100).as_deref(), Ok(&b"123456789"[..]));
        // "a", then "a" repeated 8 + 1 times, from one byte back.
        assert_eq!(decode(&sealed(b"\0\xc3\x05\x0a\x00a\xe0\x00\x00", 9), 100).as_deref(), Ok(&b"aaaaaaaaaa"[..]));
    }

    #[test]
    fn what_was_dumped_is_restored_and_anything_else_is_refused() {
        for len in [0, 1, 63, 64, 16_383, 16_384, 100_000] {
            let value: Vec<u8> = (0..len).map(|at: usize| at.to_le_bytes()[0]).collect();
            let payload = dump(&value);
            assert_eq!(decode(&payload, 1 << 20).as_deref(), Ok(&value[..]));
            for at in [0, payload.len() / 2, payload.len() - 1] {
                let mut rotten = payload.clone();
                rotten[at] ^= 0x10;
                assert_eq!(decode(&rotten, 1 << 20), Err(Refusal::Unreadable), "byte {at} of {len}");
            }
        }
        for (body, refusal) in [
            (&b"\0\x05abc"[..], Refusal::Bad),
            (b"\0\x01ab", Refusal::Bad),
            (b"\x01\x01a", Refusal::Type(1)),
            (b"\0\xc3\x05\x7f\x00a\xe0\x00\x00", Refusal::Bad),
            (b"\0\xc3\x03\x0a\xe0\x00\x00", Refusal::Bad),
            (b"\0\xc4", Refusal::Bad),
            (b"\0\x82\0\0\0\0", Refusal::Bad),
            (b"", Refusal::Bad),
        ] {
            assert_eq!(decode(&sealed(body, 9), 1000), Err(refusal), "{}", body.escape_ascii());
        }
        assert_eq!(decode(&sealed(b"\0\0", 13), 100), Err(Refusal::Unreadable), "a version of the future");
        assert_eq!(decode(b"short", 100), Err(Refusal::Unreadable));
    }
}
