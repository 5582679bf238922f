//! The manifest of memory at rest: which objects lie in the segments, and what their slots do not say. Little-endian.
//! Format 1.
//!
//! | offset | size | header field   | meaning                                                          |
//! |-------:|-----:|----------------|------------------------------------------------------------------|
//! |      0 |    8 | `magic`        | `MKVWARM1`                                                       |
//! |      8 |    4 | `crc`          | CRC-32 of bytes 12..128                                          |
//! |     12 |    4 | `segments`     | number of segments                                               |
//! |     16 |    8 | `segment_len`  | bytes of each                                                    |
//! |     24 |    4 | `shards`       | parts of the index, and of the body                              |
//! |     28 |    4 | `flash`        | 1 if the node had a flash tier, else 0                           |
//! |     32 |    8 | `boot_epoch`   | of the life that ended                                           |
//! |     40 |    8 | `hash_seed`    | of keys                                                          |
//! |     48 |    8 | `hash_check`   | what that seed makes of a known key: another build may differ    |
//! |     56 |    8 | `at`           | when it ended, nanoseconds of `CLOCK_BOOTTIME`                   |
//! |     64 |   16 | `life`         | random: the directory of the flash tier names the same           |
//! |     80 |   24 | `machine`      | boot of the machine and name space of its clock                  |
//! |    104 |    8 | `body_len`     | bytes that follow                                                |
//! |    112 |    4 | `body_crc`     | CRC-32 of them                                                   |
//! |    116 |   12 | reserved       | zero                                                             |
//!
//! The body has a part for each shard, in order: `objects` u32, `pages` u32, `pins` u32, zero u32; then so many records of
//! each kind, in that order.
//!
//! | size | object       |  | size | slab page |  | size | pins                                      |
//! |-----:|--------------|--|-----:|-----------|--|-----:|-------------------------------------------|
//! |    8 | `generation` |  |    8 | `base`    |  |    4 | `object`, counted within the part         |
//! |    8 | `place`      |  |    4 | `page`    |  |    4 | `count`                                   |
//! |    8 | `key_hash`   |  |    1 | `class`   |  |    8 | `until`, nanoseconds; 0: without an end   |
//! |    8 | `expires`    |  |    3 | zero      |  |      |                                           |
//! |    8 | `stamp`      |  |      |           |  |      |                                           |
//! |    8 | `soft_until` |  |      |           |  |      |                                           |
//! |    4 | `length`     |  |      |           |  |      |                                           |
//! |    4 | `crc`        |  |      |           |  |      |                                           |
//! |    2 | `key_len`    |  |      |           |  |      |                                           |
//! |    2 | `flags`      |  |      |           |  |      |                                           |
//! |    1 | `hits`       |  |      |           |  |      |                                           |
//! |    3 | zero         |  |      |           |  |      |                                           |
//!
//! `expires` and `soft_until` are 0 for never. Of `flags`, only [`KEPT_FLAGS`] are there.

use crate::entry::flag;
use crate::place::{Place, Position};
use crate::shard::Shard;
use crate::store::maintain::Usage;
use crate::warm::freeze::Life;
use protocol::base::{Crc, Generation, Instant};
use std::ops::Range;

const MAGIC: [u8; 8] = *b"MKVWARM1";
/// Bytes of the header.
pub(super) const HEADER_LEN: usize = 128;
const PART_LEN: usize = 16;
const OBJECT_LEN: usize = 64;
const PAGE_LEN: usize = 16;
const PIN_LEN: usize = 16;
/// Flags of an entry that outlive it.
pub(crate) const KEPT_FLAGS: u16 = flag::LEAF | flag::GRACE_SPENT | flag::HOT;

/// What two lives of a node must have in common for one to take over the memory of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Number of segments.
    pub segments: u32,
    /// Bytes of each.
    pub segment_len: u64,
    /// Parts of the index.
    pub shards: u32,
    /// Boot of the machine, and the name space that its clock is read in.
    pub machine: [u8; 24],
    /// Whether there is a flash tier.
    pub flash: bool,
}

/// Why a life begins with empty memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cold {
    /// The first life here, or one after a crash or after `SHUTDOWN NOSAVE`.
    #[error("no planned stop came before: what lay in memory is not believed")]
    NoManifest,
    /// Not what was written.
    #[error("the manifest is damaged ({0})")]
    Damaged(&'static str),
    /// Another configuration.
    #[error("{what} was {was} and is {is}")]
    Layout {
        /// The setting.
        what: &'static str,
        /// Of the life that ended.
        was: u64,
        /// Of this one.
        is: u64,
    },
    /// Memory of another boot of the machine.
    #[error("the manifest is of another boot of the machine, or of another clock")]
    Machine,
    /// The clock says less than it said before.
    #[error("the clock has gone back since the stop")]
    Clock,
    /// The flash tier served another life in between, or is another one.
    #[error("the flash tier has served since the stop, or is not the one that was used with this memory")]
    Flash,
    /// There are no greater boot epochs.
    #[error("boot epochs have come to their end: generations begin anew")]
    Epoch,
    /// The version of this build hashes otherwise.
    #[error("this build hashes keys otherwise than the one that stopped")]
    Hash,
    /// The files of the segments are not those that the manifest speaks of.
    #[error("the segments' files are not as they were left ({0})")]
    Files(String),
}

/// What is known of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ObjectRecord {
    pub(crate) generation: Generation,
    pub(crate) place: Place,
    pub(crate) key_hash: u64,
    pub(crate) expires: Option<Instant>,
    pub(crate) stamp: u64,
    pub(crate) soft_until: Option<Instant>,
    pub(crate) length: u32,
    pub(crate) crc: Crc,
    pub(crate) key_len: u16,
    pub(crate) flags: u16,
    pub(crate) hits: u8,
}

/// A slab page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageRecord {
    pub(crate) base: Position,
    pub(crate) page: u32,
    pub(crate) class: u8,
}

/// Pins of one object with one end, or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PinRecord {
    pub(crate) object: u32,
    pub(crate) count: u32,
    pub(crate) until: Option<Instant>,
}

fn instant_of(at: u64) -> Option<Instant> {
    (at != 0).then_some(Instant(at))
}

fn zero_or(at: Option<Instant>) -> u64 {
    at.map_or(0, |at| at.0.max(1))
}

/// Takes little-endian numbers off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (front, rest) = self.0.split_first_chunk::<N>().expect("records are cut at their length");
        self.0 = rest;
        *front
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }
    fn u8(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }
}

impl ObjectRecord {
    fn encode(&self, out: &mut Vec<u8>) {
        for number in [
            self.generation.0,
            self.place.pack(),
            self.key_hash,
            zero_or(self.expires),
            self.stamp,
            zero_or(self.soft_until),
        ] {
            out.extend(number.to_le_bytes());
        }
        out.extend(self.length.to_le_bytes());
        out.extend(self.crc.0.to_le_bytes());
        out.extend(self.key_len.to_le_bytes());
        out.extend(self.flags.to_le_bytes());
        out.extend([self.hits, 0, 0, 0]);
    }

    fn decode(bytes: &[u8]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            generation: Generation(fields.u64()),
            place: Place::unpack(fields.u64()),
            key_hash: fields.u64(),
            expires: instant_of(fields.u64()),
            stamp: fields.u64(),
            soft_until: instant_of(fields.u64()),
            length: fields.u32(),
            crc: Crc(fields.u32()),
            key_len: fields.u16(),
            flags: fields.u16() & KEPT_FLAGS,
            hits: fields.u8(),
        }
    }
}

impl PageRecord {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.base.0.to_le_bytes());
        out.extend(self.page.to_le_bytes());
        out.extend([self.class, 0, 0, 0]);
    }

    fn decode(bytes: &[u8]) -> Self {
        let mut fields = Fields(bytes);
        Self { base: Position(fields.u64()), page: fields.u32(), class: fields.u8() }
    }
}

impl PinRecord {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.object.to_le_bytes());
        out.extend(self.count.to_le_bytes());
        out.extend(zero_or(self.until).to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        let mut fields = Fields(bytes);
        Self { object: fields.u32(), count: fields.u32(), until: instant_of(fields.u64()) }
    }
}

/// What one shard holds, encoded: a part of the body.
pub(super) fn encode_part(shard: &Shard, records: &[ObjectRecord], pins: &[PinRecord]) -> Vec<u8> {
    let pages: Vec<PageRecord> =
        shard.slabs.pages().map(|(page, base, class)| PageRecord { base, page, class }).collect();
    let mut out =
        Vec::with_capacity(PART_LEN + records.len() * OBJECT_LEN + pages.len() * PAGE_LEN + pins.len() * PIN_LEN);
    for count in [records.len(), pages.len(), pins.len()] {
        out.extend(u32::try_from(count).expect("a shard has fewer than 2^32 of anything").to_le_bytes());
    }
    out.extend([0; 4]);
    records.iter().for_each(|record| record.encode(&mut out));
    pages.iter().for_each(|page| page.encode(&mut out));
    pins.iter().for_each(|pin| pin.encode(&mut out));
    out
}

/// The header of a body.
pub(super) fn encode_header(life: &Life, seed: u64, check: u64, body_len: u64, body_crc: Crc) -> [u8; HEADER_LEN] {
    let mut out = Vec::with_capacity(HEADER_LEN);
    out.extend(MAGIC);
    out.extend([0; 4]);
    out.extend(life.layout.segments.to_le_bytes());
    out.extend(life.layout.segment_len.to_le_bytes());
    out.extend(life.layout.shards.to_le_bytes());
    out.extend(u32::from(life.layout.flash).to_le_bytes());
    for number in [life.boot_epoch, seed, check, life.now.0] {
        out.extend(number.to_le_bytes());
    }
    out.extend(life.name.to_le_bytes());
    out.extend(life.layout.machine);
    out.extend(body_len.to_le_bytes());
    out.extend(body_crc.0.to_le_bytes());
    let mut header = [0; HEADER_LEN];
    header[..out.len()].copy_from_slice(&out);
    let crc = Crc::of(&header[12..]);
    header[8..12].copy_from_slice(&crc.0.to_le_bytes());
    header
}

/// A manifest that is whole: every byte is as it was written. What it says of slots is still to be proved there.
#[derive(Debug)]
pub struct Manifest {
    layout: Layout,
    boot_epoch: u64,
    hash_seed: u64,
    pub(crate) hash_check: u64,
    at: Instant,
    name: u128,
    bytes: Vec<u8>,
    parts: Vec<Part>,
}

/// Where the records of a shard lie.
#[derive(Clone, Debug)]
struct Part {
    objects: Range<usize>,
    pages: Range<usize>,
    pins: Range<usize>,
}

impl Manifest {
    /// Reads one. What follows its body is not looked at: files of huge pages are longer than what they hold.
    ///
    /// # Errors
    /// [`Cold::Damaged`] if it is not as it was written.
    pub fn decode(bytes: Vec<u8>) -> Result<Self, Cold> {
        let header = bytes.get(..HEADER_LEN).ok_or(Cold::Damaged("shorter than its header"))?;
        let mut fields = Fields(header);
        if fields.take::<8>() != MAGIC {
            return Err(Cold::Damaged("not a manifest of this format"));
        }
        if fields.u32() != Crc::of(&header[12..]).0 {
            return Err(Cold::Damaged("checksum of its header"));
        }
        let (segments, segment_len, shards, flash) = (fields.u32(), fields.u64(), fields.u32(), fields.u32());
        let (boot_epoch, hash_seed, hash_check, at) = (fields.u64(), fields.u64(), fields.u64(), fields.u64());
        let (name, machine) = (u128::from_le_bytes(fields.take()), fields.take());
        let (body_len, body_crc) = (fields.u64(), fields.u32());
        let body_len = usize::try_from(body_len).unwrap_or(usize::MAX);
        let end = HEADER_LEN.checked_add(body_len).ok_or(Cold::Damaged("length of its body"))?;
        let body = bytes.get(HEADER_LEN..end).ok_or(Cold::Damaged("shorter than its body"))?;
        if Crc::of(body).0 != body_crc {
            return Err(Cold::Damaged("checksum of its body"));
        }
        let parts = parts_of(&bytes[..end], shards).ok_or(Cold::Damaged("length of a part"))?;
        let layout = Layout { segments, segment_len, shards, machine, flash: flash == 1 };
        Ok(Self { layout, boot_epoch, hash_seed, hash_check, at: Instant(at), name, bytes, parts })
    }

    /// Whether a life of this layout, which begins now, may go on from it. `flash` is what the directory of the flash tier
    /// says it was used with.
    ///
    /// # Errors
    /// Why not.
    pub fn fits(&self, layout: &Layout, now: Instant, flash: Option<u128>) -> Result<(), Cold> {
        let Layout { segments, segment_len, shards, machine, flash: has_flash } = self.layout;
        for (what, was, is) in [
            ("the number of segments", segments.into(), layout.segments.into()),
            ("segment-len", segment_len, layout.segment_len),
            ("shards", shards.into(), layout.shards.into()),
            ("the number of flash tiers", has_flash.into(), layout.flash.into()),
        ] {
            if was != is {
                return Err(Cold::Layout { what, was, is });
            }
        }
        if machine != layout.machine {
            return Err(Cold::Machine);
        }
        if now < self.at {
            return Err(Cold::Clock);
        }
        if has_flash && flash != Some(self.name) {
            return Err(Cold::Flash);
        }
        if self.next_boot_epoch(0) > Generation::BOOT_EPOCH_MAX {
            return Err(Cold::Epoch);
        }
        Ok(())
    }

    /// The boot epoch of a life that goes on from it and would like to have `wanted`: higher than all before.
    pub fn next_boot_epoch(&self, wanted: u64) -> u64 {
        wanted.max((self.boot_epoch & Generation::BOOT_EPOCH_MAX) + 1)
    }

    /// For [`StoreConfig::hash_seed`](crate::StoreConfig) of that life.
    pub fn hash_seed(&self) -> u64 {
        self.hash_seed
    }

    /// Parts, one a shard.
    pub(super) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Bytes that the manifest of a store takes, about.
    pub fn len_about(usage: &Usage) -> u64 {
        let in_dram = usage.objects.saturating_sub(usage.on_flash.saturating_sub(usage.on_both));
        in_dram * (OBJECT_LEN + PIN_LEN) as u64
    }

    /// Objects of all shards.
    pub fn objects(&self) -> u64 {
        self.parts.iter().map(|part| (part.objects.len() / OBJECT_LEN) as u64).sum()
    }

    /// Bytes of their payloads.
    pub fn payload_bytes(&self) -> u64 {
        (0..self.parts()).flat_map(|part| self.objects_of(part)).map(|object| u64::from(object.length)).sum()
    }

    pub(super) fn objects_of(&self, part: usize) -> impl Iterator<Item = ObjectRecord> {
        self.bytes[self.parts[part].objects.clone()].chunks_exact(OBJECT_LEN).map(ObjectRecord::decode)
    }

    pub(super) fn pages_of(&self, part: usize) -> impl Iterator<Item = PageRecord> {
        self.bytes[self.parts[part].pages.clone()].chunks_exact(PAGE_LEN).map(PageRecord::decode)
    }

    pub(super) fn pins_of(&self, part: usize) -> impl Iterator<Item = PinRecord> {
        self.bytes[self.parts[part].pins.clone()].chunks_exact(PIN_LEN).map(PinRecord::decode)
    }
}

/// `None` if the parts do not fill the body exactly.
fn parts_of(bytes: &[u8], shards: u32) -> Option<Vec<Part>> {
    let mut at = HEADER_LEN;
    let mut parts = Vec::new();
    for _ in 0..shards {
        let mut counts = Fields(bytes.get(at..at.checked_add(PART_LEN)?)?);
        at += PART_LEN;
        let mut run = |len: usize| {
            let bytes = usize::try_from(counts.u32()).ok()?.checked_mul(len)?;
            let range = at..at.checked_add(bytes)?;
            at = range.end;
            Some(range)
        };
        parts.push(Part { objects: run(OBJECT_LEN)?, pages: run(PAGE_LEN)?, pins: run(PIN_LEN)? });
    }
    (at == bytes.len()).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let object = ObjectRecord {
            generation: Generation(0x0102_0304_0506_0708),
            place: Place::Small { page: 7, slot: 9 },
            key_hash: 0x1112,
            expires: Some(Instant(0x2122)),
            stamp: 0x3132,
            soft_until: None,
            length: 0x4142,
            crc: Crc(0x5152),
            key_len: 0x6162,
            flags: flag::LEAF,
            hits: 0x71,
        };
        let mut bytes = Vec::new();
        object.encode(&mut bytes);
        assert_eq!(bytes.len(), OBJECT_LEN);
        assert_eq!(ObjectRecord::decode(&bytes), object);
        let mut golden = [0u8; OBJECT_LEN];
        golden[..8].copy_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1]);
        (golden[8], golden[10], golden[15]) = (9, 7, 0x80);
        (golden[16], golden[17], golden[24], golden[25]) = (0x12, 0x11, 0x22, 0x21);
        (golden[32], golden[33], golden[48], golden[49]) = (0x32, 0x31, 0x42, 0x41);
        (golden[52], golden[53], golden[56], golden[57]) = (0x52, 0x51, 0x62, 0x61);
        (golden[59], golden[60]) = (1, 0x71);
        assert_eq!(bytes, golden);

        let page = PageRecord { base: Position(0x0102), page: 3, class: 4 };
        let pin = PinRecord { object: 5, count: 6, until: Some(Instant(7)) };
        let mut bytes = Vec::new();
        page.encode(&mut bytes);
        pin.encode(&mut bytes);
        assert_eq!(
            bytes,
            [2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!((PageRecord::decode(&bytes[..16]), PinRecord::decode(&bytes[16..])), (page, pin));
    }
}
