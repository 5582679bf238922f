//! One note of the journal: frames of 64 bytes. Little-endian. Format 1.
//!
//! The file begins with one frame that is its header:
//!
//! | offset | size | field     | meaning                                                 |
//! |-------:|-----:|-----------|---------------------------------------------------------|
//! |      0 |    8 | `magic`   | `MKVJNL01`                                              |
//! |      8 |    2 | `version` | 1                                                       |
//! |     10 |    2 | reserved  | zero                                                    |
//! |     12 |    4 | `check`   | CRC-32 of the frame with this field zero                |
//! |     16 |   16 | `nonce`   | random, drawn for this file, never told to anybody      |
//! |     32 |   32 | reserved  | zero                                                    |
//!
//! Then one note after another:
//!
//! | offset | size | field        | meaning                                                                |
//! |-------:|-----:|--------------|------------------------------------------------------------------------|
//! |      0 |    8 | `mac`        | first half of the MAC of all frames of the note with this field zero   |
//! |      8 |    8 | `seq`        | counts the notes of this file from 1                                   |
//! |     16 |    4 | `unsynced`   | notes before this one that were not known to be synced when it was written |
//! |     20 |    1 | `kind`       | 1 dead, 2 all below are dead, 3 retired, 4 expiry, 5 pins              |
//! |     21 |    1 | reserved     | zero                                                                   |
//! |     22 |    2 | `frames`     | of this note: 1, and those of the key                                  |
//! |     24 |    2 | `device`     | the superblock's number                                                |
//! |     26 |    2 | `segment`    | within the device                                                      |
//! |     28 |    2 | `page`       | where the record begins                                                |
//! |     30 |    2 | `key_len`    | pins                                                                   |
//! |     32 |    8 | `life`       | of the segment; pins: how many have no end                             |
//! |     40 |    8 | `generation` | of the object; kind 2: the first that is not dead                      |
//! |     48 |    8 | `ms`         | Unix time in milliseconds: expiry, or the end of the last pin; 0 for none |
//! |     56 |    8 | `order`      | of two notes of one boot about one thing, the greater counts           |
//! |     64 |      | `key`        | pins; padded with zeros to whole frames                                |

use crate::flash::format::{Nonce, mac};
use protocol::base::{Crc, Generation, KEY_LEN_MAX};

/// Unit of the file, in bytes.
pub(crate) const FRAME: usize = 64;
const MAGIC: [u8; 8] = *b"MKVJNL01";
const VERSION: u16 = 1;

/// One record on flash: this generation at this place, and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordAt {
    /// The superblock's number.
    pub device: u16,
    /// Within the device.
    pub segment: u16,
    /// Which life of the segment.
    pub life: u64,
    /// Where the record begins in the segment.
    pub page: u16,
    /// Which object it holds.
    pub generation: Generation,
}

/// What is to be remembered over a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note<'a> {
    /// The record is replaced, deleted or given up.
    Dead(RecordAt),
    /// Every record of an earlier generation is dead.
    DeadBelow(Generation),
    /// Every record of this life of the segment is dead.
    Retired {
        /// The superblock's number.
        device: u16,
        /// Within the device.
        segment: u16,
        /// Which life of the segment.
        life: u64,
    },
    /// The object expires at another time than its record says.
    Expiry {
        /// Its record.
        record: RecordAt,
        /// Unix time in milliseconds, 0 for never.
        expires_ms: u64,
        /// Of two of one boot, the greater counts.
        order: u64,
    },
    /// The pins of a key; none of them any more if `endless` and `until_ms` are 0.
    Pins {
        /// The object's key.
        key: &'a [u8],
        /// The object's generation.
        generation: Generation,
        /// Pins without an end.
        endless: u32,
        /// When the last of the others ends, Unix time in milliseconds; 0 if there is none.
        until_ms: u64,
        /// Of two of one boot, the greater counts.
        order: u64,
    },
}

/// A note as it was found, with its place in the order of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Read<'a> {
    pub(crate) seq: u64,
    /// The first note that was not known to be synced when this one was written.
    pub(crate) synced_below: u64,
    pub(crate) note: Note<'a>,
    pub(crate) frames: usize,
}

/// The first frame of a file.
pub(crate) fn encode_header(nonce: &Nonce) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..8].copy_from_slice(&MAGIC);
    frame[8..10].copy_from_slice(&VERSION.to_le_bytes());
    frame[16..32].copy_from_slice(&nonce.0);
    let check = Crc::of(&frame).0;
    frame[12..16].copy_from_slice(&check.to_le_bytes());
    frame
}

/// The nonce of a file, from its first frame.
pub(crate) fn decode_header(frame: &[u8]) -> Option<Nonce> {
    let frame: &[u8; FRAME] = frame.get(..FRAME)?.try_into().ok()?;
    let check = Crc::of(&frame[..12]).extend(&[0; 4]).extend(&frame[16..]).0;
    let whole = frame[..8] == MAGIC && frame[12..16] == check.to_le_bytes() && frame[8..10] == VERSION.to_le_bytes();
    whole.then(|| Nonce(array(frame, 16)))
}

/// Appends the frames of a note.
///
/// # Panics
/// If a key is longer than keys are.
pub(crate) fn encode(note: &Note<'_>, nonce: &Nonce, seq: u64, unsynced: u64, out: &mut Vec<u8>) {
    let at = out.len();
    let (kind, record, key, life, ms, order) = match *note {
        Note::Dead(record) => (1, record, &[][..], record.life, 0, 0),
        Note::DeadBelow(generation) => (2, RecordAt { generation, ..nowhere() }, &[][..], 0, 0, 0),
        Note::Retired { device, segment, life } => {
            (3, RecordAt { device, segment, life, ..nowhere() }, &[][..], life, 0, 0)
        }
        Note::Expiry { record, expires_ms, order } => (4, record, &[][..], record.life, expires_ms, order),
        Note::Pins { key, generation, endless, until_ms, order } => {
            (5, RecordAt { generation, ..nowhere() }, key, u64::from(endless), until_ms, order)
        }
    };
    assert!(key.len() <= KEY_LEN_MAX, "a key of {} bytes", key.len());
    let frames = 1 + key.len().div_ceil(FRAME);
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(&u32::try_from(unsynced).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&[kind, 0]);
    for number in [
        u16::try_from(frames).expect("bounded by the key's length"),
        record.device,
        record.segment,
        record.page,
        u16::try_from(key.len()).expect("bounded above"),
    ] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for number in [life, record.generation.0, ms, order] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(key);
    out.resize(at + frames * FRAME, 0);
    let check = mac(nonce, &[&out[at..]]);
    out[at..at + 8].copy_from_slice(&check[..8]);
}

/// Reads the note that `bytes` begin with, if one does.
pub(crate) fn decode<'a>(bytes: &'a [u8], nonce: &Nonce) -> Option<Read<'a>> {
    let frames = usize::from(u16::from_le_bytes(array(bytes.get(..FRAME)?, 22)));
    if !(1..=1 + KEY_LEN_MAX.div_ceil(FRAME)).contains(&frames) {
        return None;
    }
    let note = bytes.get(..frames * FRAME)?;
    if mac(nonce, &[&[0; 8], &note[8..]])[..8] != note[..8] {
        return None;
    }
    let number = |at| u16::from_le_bytes(array(note, at));
    let long = |at| u64::from_le_bytes(array(note, at));
    let record = RecordAt {
        device: number(24),
        segment: number(26),
        life: long(32),
        page: number(28),
        generation: Generation(long(40)),
    };
    let key_len = usize::from(number(30));
    let (ms, order) = (long(48), long(56));
    let decoded = match note[20] {
        1 => Note::Dead(record),
        2 => Note::DeadBelow(record.generation),
        3 => Note::Retired { device: record.device, segment: record.segment, life: record.life },
        4 => Note::Expiry { record, expires_ms: ms, order },
        5 => Note::Pins {
            key: note.get(FRAME..FRAME + key_len)?,
            generation: record.generation,
            endless: u32::try_from(record.life).ok()?,
            until_ms: ms,
            order,
        },
        _ => return None,
    };
    let seq = long(8);
    let unsynced = u64::from(u32::from_le_bytes(array(note, 16)));
    Some(Read { seq, synced_below: seq.saturating_sub(unsynced), note: decoded, frames })
}

fn nowhere() -> RecordAt {
    RecordAt { device: 0, segment: 0, life: 0, page: 0, generation: Generation(0) }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}
