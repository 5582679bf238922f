//! Reads a journal: its notes in order, with what is damaged among them.
//!
//! A note whose MAC does not hold is tried with each of its bits flipped: one rotten bit is harmless. Of the rest,
//! - what ends the file was not synced and is cut off: nothing that was promised is lost;
//! - what later notes say was not synced when they were written is lost in the same way: after a power cut, pages
//!   of the end may be missing before others;
//! - anything else was promised and is lost. Then nobody knows which records are dead, and none may be believed.

use super::note::{self, FRAME, Note};
use crate::flash::format::Nonce;
use std::io;

/// Notes of at most so many frames are tried with flipped bits.
const REPAIR_FRAMES_MAX: usize = 8;

/// What a file holds beside its notes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Notes with one rotten bit, read all the same.
    pub repaired: u64,
    /// Frames at the end that are no notes: a crash cut them off.
    pub cut: u64,
    /// Notes that a crash lost before they were synced.
    pub unsynced_lost: u64,
    /// Notes that were synced and are lost.
    pub synced_lost: u64,
}

impl Damage {
    /// An error if any note is missing.
    pub(super) fn refuse_losses(&self) -> io::Result<()> {
        match self.cut + self.unsynced_lost + self.synced_lost {
            0 => Ok(()),
            _ => Err(io::Error::other(format!("the journal does not read as it was written: {self:?}"))),
        }
    }
}

/// Gives each note to `each`. A file without a valid header counts as one note that was synced and is lost, an empty one as
/// a file without notes.
pub(crate) fn replay(bytes: &[u8], each: impl FnMut(&Note<'_>)) -> Damage {
    let mut damage = Damage::default();
    if bytes.is_empty() {
        return damage;
    }
    let Some(nonce) = header(bytes, &mut damage) else {
        damage.synced_lost = 1;
        return damage;
    };
    replay_notes(&bytes[FRAME..], &nonce, 1, damage, each)
}

/// The same for notes without the file's header, the first of which counts as `expected`.
pub(crate) fn replay_notes(
    bytes: &[u8],
    nonce: &Nonce,
    mut expected: u64,
    mut damage: Damage,
    mut each: impl FnMut(&Note<'_>),
) -> Damage {
    let (mut at, mut bad) = (0, 0);
    // Notes missing between those that were found: (first, one past the last).
    let mut gaps: Vec<(u64, u64)> = Vec::new();
    let mut synced_below = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let repaired;
        let mut read = note::decode(rest, nonce);
        if read.is_none()
            && bad == 0
            && let Some(frames) = repair(rest, nonce)
        {
            repaired = frames;
            read = note::decode(&repaired, nonce);
            damage.repaired += 1;
        }
        // An earlier note again, or one that claims too much, is no note of this place.
        let Some(read) = read.filter(|read| read.seq >= expected) else {
            at += FRAME;
            bad += 1;
            continue;
        };
        if read.seq > expected {
            gaps.push((expected, read.seq));
        }
        each(&read.note);
        synced_below = synced_below.max(read.synced_below);
        expected = read.seq + 1;
        bad = 0;
        at += read.frames * FRAME;
    }
    damage.cut = bad;
    for (from, to) in gaps {
        let synced = synced_below.clamp(from, to) - from;
        damage.synced_lost += synced;
        damage.unsynced_lost += to - from - synced;
    }
    damage
}

fn header(bytes: &[u8], damage: &mut Damage) -> Option<Nonce> {
    let frame: [u8; FRAME] = bytes.get(..FRAME)?.try_into().ok()?;
    note::decode_header(&frame).or_else(|| {
        let nonce = flips(&frame).find_map(|flipped| note::decode_header(&flipped))?;
        damage.repaired += 1;
        Some(nonce)
    })
}

/// The note that `bytes` begin with once one of its bits is flipped back.
fn repair(bytes: &[u8], nonce: &Nonce) -> Option<Vec<u8>> {
    let first = bytes.get(..FRAME)?;
    // Which note it is says its first frame, which may itself be what is rotten.
    let mut longest = 0;
    for flipped in flips(first) {
        let frames = usize::from(u16::from_le_bytes([flipped[22], flipped[23]]));
        if frames == 0 || frames > REPAIR_FRAMES_MAX || frames * FRAME > bytes.len() {
            continue;
        }
        let mut note = flipped;
        note.extend_from_slice(&bytes[FRAME..frames * FRAME]);
        if note::decode(&note, nonce).is_some() {
            return Some(note);
        }
        longest = longest.max(usize::from(u16::from_le_bytes([first[22], first[23]])));
    }
    if !(2..=REPAIR_FRAMES_MAX).contains(&longest) {
        return None;
    }
    flips(bytes.get(..longest * FRAME)?).find(|flipped| note::decode(flipped, nonce).is_some())
}

/// `bytes` with each of their bits flipped in turn.
fn flips(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..bytes.len() * 8).map(move |bit| {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    })
}
