//! `list`: devices, segments, records.

use crate::What;
use crate::place::{self, Device, Notes};
use crate::survey::{Segment, State, fate, survey};
use crate::text::{hex, key, now_ms, when};
use anyhow::Result;
use protocol::base::ByteLen;
use serde_json::{Value, json};
use std::io::Write;
use storage::flash::format::{Life, Row};
use storage::flash::journal::Fate;
use storage::flash::recover::Summary;

pub(crate) fn run(what: &What, records: bool, out: &mut dyn Write) -> Result<bool> {
    let (devices, notes) = place::open(what)?;
    let notes = notes.as_ref();
    let mut answers = Vec::new();
    for device in &devices {
        let (segments, summary) = survey(device)?;
        if what.json {
            answers.push(device_json(device, &segments, &summary, notes, records));
            continue;
        }
        device_text(device, &segments, &summary, notes, records, out)?;
    }
    if what.json {
        serde_json::to_writer_pretty(&mut *out, &json!({ "devices": answers, "journal": journal_json(notes) }))?;
        writeln!(out)?;
    } else if let Some(notes) = notes {
        let damage = notes.damage;
        let pins = notes.remembered.pins().count();
        writeln!(
            out,
            "journal: {pins} keys with pins, everything below generation {} is dead",
            notes.remembered.dead_below()
        )?;
        if damage != storage::flash::journal::Damage::default() {
            writeln!(
                out,
                "journal: {} notes repaired, {} frames cut off, {} notes lost unsynced, {} notes LOST",
                damage.repaired, damage.cut, damage.unsynced_lost, damage.synced_lost
            )?;
        }
    }
    Ok(true)
}

fn device_text(
    device: &Device,
    segments: &[Segment],
    summary: &Summary,
    notes: Option<&Notes>,
    records: bool,
    out: &mut dyn Write,
) -> Result<()> {
    let superblock = &device.superblock;
    let geometry = superblock.geometry;
    let now_ms = now_ms();
    writeln!(
        out,
        "{}: device {} ({}), {} segments of {}, boot epoch {}, formatted {}",
        device.path.display(),
        superblock.number,
        superblock.device,
        geometry.segment_count,
        ByteLen(geometry.segment_len),
        superblock.boot_epoch,
        when(superblock.formatted_ms, now_ms),
    )?;
    writeln!(
        out,
        "{:>8}  {:<10} {:>8}  {:<10} {:>8}  {:>5}  {:>10}  {:>5}  {:>12}  {:>12}",
        "segment", "state", "life", "head", "records", "dead", "payload", "torn", "opened", "sealed"
    )?;
    for segment in segments.iter().filter(|segment| segment.state != State::Free) {
        let header = segment.header.as_ref();
        writeln!(
            out,
            "{:>8}  {:<10} {:>8}  {:<10} {:>8}  {:>5}  {:>10}  {:>5}  {:>12}  {:>12}",
            segment.number,
            segment.state.word(),
            header.map_or(String::new(), |header| header.life.life.to_string()),
            segment.head(),
            segment.table.len(),
            notes.map_or("?".to_owned(), |_| dead(device, segment, notes).to_string()),
            ByteLen(segment.payload_len()).to_string(),
            segment.torn,
            header.map_or(String::new(), |header| when(header.opened_ms, now_ms)),
            segment.sealed_ms.map_or(String::new(), |sealed_ms| when(sealed_ms, now_ms)),
        )?;
        if let Some(error) = &segment.error {
            writeln!(out, "          {error}")?;
        }
        let Some(life) = segment.life().filter(|_| records) else { continue };
        for (row, name) in segment.table.iter() {
            writeln!(
                out,
                "          page {:>5}  generation {}  {:>10}  crc {}{}  {}",
                row.page,
                row.generation,
                ByteLen(u64::from(row.length)).to_string(),
                row.crc,
                fate_text(fate(notes, device, life, &row), &row, now_ms),
                key(name),
            )?;
        }
    }
    writeln!(
        out,
        "{} records in {} sealed and {} open segments; {} segments are free, {} unreadable",
        summary.records, summary.sealed, summary.open, summary.free, summary.unreadable
    )?;
    Ok(())
}

/// Records of which the journal says that they are dead.
fn dead(device: &Device, segment: &Segment, notes: Option<&Notes>) -> usize {
    let Some(life) = segment.life() else { return 0 };
    segment.table.iter().filter(|(row, _)| fate(notes, device, life, row) == Fate::Dead).count()
}

fn fate_text(fate: Fate, row: &Row, now_ms: u64) -> String {
    match fate {
        Fate::Dead => "  DEAD".to_owned(),
        Fate::Alive { expires_ms } => match expires_ms.unwrap_or(row.expires_ms) {
            0 => String::new(),
            ms if ms <= now_ms => format!("  expired {}", when(ms, now_ms)),
            ms => format!("  expires {}", when(ms, now_ms)),
        },
    }
}

fn device_json(
    device: &Device,
    segments: &[Segment],
    summary: &Summary,
    notes: Option<&Notes>,
    records: bool,
) -> Value {
    let superblock = &device.superblock;
    let segments: Vec<Value> = segments
        .iter()
        .map(|segment| {
            let header = segment.header.as_ref();
            let mut value = json!({
                "segment": segment.number,
                "state": segment.state.word(),
                "life": header.map(|header| header.life.life),
                "head": header.map(|_| segment.head()),
                "records": segment.table.len(),
                "dead": notes.map(|_| dead(device, segment, notes)),
                "payload_len": segment.payload_len(),
                "torn": segment.torn,
                "read_errors": segment.read_errors,
                "opened_ms": header.map(|header| header.opened_ms),
                "sealed_ms": segment.sealed_ms,
                "error": segment.error,
            });
            if let Some(life) = segment.life().filter(|_| records) {
                value["table"] =
                    segment.table.iter().map(|(row, key)| record_json(device, life, &row, key, notes)).collect();
            }
            value
        })
        .collect();
    json!({
        "path": device.path.display().to_string(),
        "device": superblock.device.to_string(),
        "number": superblock.number,
        "segment_len": superblock.geometry.segment_len,
        "segment_count": superblock.geometry.segment_count,
        "boot_epoch": superblock.boot_epoch,
        "formatted_ms": superblock.formatted_ms,
        "records": summary.records,
        "segments": segments,
    })
}

pub(crate) fn record_json(device: &Device, life: &Life, row: &Row, key: &[u8], notes: Option<&Notes>) -> Value {
    let (dead, expires_ms) = match fate(notes, device, life, row) {
        Fate::Dead => (true, row.expires_ms),
        Fate::Alive { expires_ms } => (false, expires_ms.unwrap_or(row.expires_ms)),
    };
    json!({
        "key": crate::text::key(key),
        "key_hex": hex(key),
        "segment": life.segment,
        "page": row.page,
        "generation": row.generation.0,
        "length": row.length,
        "crc": row.crc.to_string(),
        "expires_ms": expires_ms,
        "dead": dead,
    })
}

pub(crate) fn journal_json(notes: Option<&Notes>) -> Value {
    let Some(notes) = notes else { return Value::Null };
    json!({
        "dead_below": notes.remembered.dead_below().0,
        "keys_with_pins": notes.remembered.pins().count(),
        "repaired": notes.damage.repaired,
        "cut": notes.damage.cut,
        "unsynced_lost": notes.damage.unsynced_lost,
        "synced_lost": notes.damage.synced_lost,
    })
}
