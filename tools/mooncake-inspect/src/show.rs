//! `show`: the object of a key, as a server would find it.

use crate::What;
use crate::list::record_json;
use crate::place::{self, Device};
use crate::survey::{fate, survey};
use crate::text::{key as readable, now_ms, unhex, when};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::Write;
use std::path::Path;
use storage::flash::format::{Life, Row};
use storage::flash::journal::Fate;
use storage::flash::recover::read_record;

/// A record of the key.
struct Candidate<'a> {
    device: &'a Device,
    life: Life,
    row: Row,
    fate: Fate,
}

pub(crate) fn run(what: &What, key: &str, is_hex: bool, file: Option<&Path>, out: &mut dyn Write) -> Result<bool> {
    let key = match is_hex {
        true => unhex(key).with_context(|| format!("{key:?} is not an even number of hex digits"))?,
        false => key.as_bytes().to_vec(),
    };
    let (devices, notes) = place::open(what)?;
    let notes = notes.as_ref();
    let mut candidates = Vec::new();
    for device in &devices {
        let (segments, _) = survey(device)?;
        for segment in &segments {
            let Some(life) = segment.life() else { continue };
            for (row, _) in segment.table.iter().filter(|(_, name)| *name == key) {
                candidates.push(Candidate { device, life: *life, row, fate: fate(notes, device, life, &row) });
            }
        }
    }
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.row.generation));
    let name = readable(&key);
    if candidates.is_empty() {
        eprintln!("no record of {name}");
        return Ok(false);
    }
    let Some(found) = candidates.iter().find(|candidate| candidate.fate != Fate::Dead) else {
        eprintln!("all {} records of {name} are dead: the object was deleted or replaced", candidates.len());
        return Ok(false);
    };
    let Candidate { device, life, row, fate } = found;
    let expires_ms = match fate {
        Fate::Alive { expires_ms: Some(expires_ms) } => *expires_ms,
        Fate::Alive { expires_ms: None } | Fate::Dead => row.expires_ms,
    };
    if expires_ms > 0 && expires_ms <= now_ms() {
        eprintln!("{name} expired {}; this is what it was", when(expires_ms, now_ms()));
    }
    let mut payload = Vec::with_capacity(row.length as usize);
    read_record(&mut device.source()?, device.superblock.geometry, life, row, &key, &mut |part| {
        payload.extend_from_slice(part);
    })
    .with_context(|| {
        let path = device.path.display();
        format!("{name} at page {} of segment {} of {path} is damaged, a server would miss it", row.page, life.segment)
    })?;
    if let Some(file) = file {
        if fs::exists(file)? {
            bail!("{} is there already", file.display());
        }
        fs::write(file, &payload).with_context(|| format!("write {}", file.display()))?;
    }
    if what.json {
        let mut answer = record_json(device, life, row, &key, notes);
        answer["path"] = device.path.display().to_string().into();
        answer["records"] = candidates.len().into();
        serde_json::to_writer_pretty(&mut *out, &answer)?;
        writeln!(out)?;
    } else if file.is_none() {
        out.write_all(&payload)?;
    }
    Ok(true)
}
