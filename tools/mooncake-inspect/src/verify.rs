//! `verify`: every checksum of every record.

use crate::What;
use crate::list::journal_json;
use crate::place::{self, Device};
use crate::survey::{Segment, survey};
use crate::text::{hex, key};
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use protocol::base::ByteLen;
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use storage::flash::format::{PAGE_LEN, Superblock};
use storage::flash::recover::{Source, read_record};

/// One thing that is not as it should be.
struct Fault {
    segment: Option<u32>,
    page: Option<u16>,
    key: Option<Vec<u8>>,
    why: String,
}

impl Fault {
    fn text(&self) -> String {
        let segment = self.segment.map_or(String::new(), |segment| format!("segment {segment}, "));
        let page = self.page.map_or(String::new(), |page| format!("page {page}, "));
        let name = self.key.as_ref().map_or(String::new(), |name| format!("{}: ", key(name)));
        format!("{segment}{page}{name}{}", self.why)
    }
}

/// What was read of a device.
#[derive(Default)]
struct Counts {
    records: AtomicU64,
    bytes: AtomicU64,
}

pub(crate) fn run(what: &What, threads: u8, out: &mut dyn Write) -> Result<bool> {
    let (devices, notes) = place::open(what)?;
    let mut answers = Vec::new();
    let mut whole = true;
    for device in &devices {
        let counts = Counts::default();
        let faults = verify(device, threads, &counts)?;
        whole &= faults.is_empty();
        let (records, bytes) = (counts.records.into_inner(), counts.bytes.into_inner());
        if what.json {
            let faults: Vec<_> = faults
                .iter()
                .map(|fault| {
                    json!({
                        "segment": fault.segment,
                        "page": fault.page,
                        "key_hex": fault.key.as_deref().map(hex),
                        "why": fault.why,
                    })
                })
                .collect();
            let path = device.path.display().to_string();
            answers.push(json!({ "path": path, "records": records, "payload_len": bytes, "faults": faults }));
            continue;
        }
        for fault in &faults {
            writeln!(out, "{}: {}", device.path.display(), fault.text())?;
        }
        let verdict = match faults.len() {
            0 => "all right".to_owned(),
            1 => "1 fault".to_owned(),
            count => format!("{count} faults"),
        };
        writeln!(out, "{}: {records} records, {} of payload, {verdict}", device.path.display(), ByteLen(bytes))?;
    }
    let lost = notes.as_ref().map_or(0, |notes| notes.damage.synced_lost);
    whole &= lost == 0;
    if what.json {
        let answer = json!({ "devices": answers, "journal": journal_json(notes.as_ref()), "whole": whole });
        serde_json::to_writer_pretty(&mut *out, &answer)?;
        writeln!(out)?;
    } else if lost > 0 {
        writeln!(out, "journal: {lost} synced notes are lost: a server will believe nothing on flash")?;
    }
    Ok(whole)
}

fn verify(device: &Device, threads: u8, counts: &Counts) -> Result<Vec<Fault>> {
    let mut faults = superblock_faults(device)?;
    let (segments, _) = survey(device)?;
    let bar = progress(segments.iter().map(Segment::payload_len).sum());
    let found = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let mut readers = Vec::new();
        for _ in 0..threads {
            readers.push(scope.spawn(|| -> Result<()> {
                let mut source = device.source()?;
                while let Some(segment) = segments.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let faults = segment_faults(device, &mut source, segment, counts, &bar);
                    found.lock().expect("no reader panics").extend(faults);
                }
                Ok(())
            }));
        }
        readers.into_iter().try_for_each(|reader| reader.join().expect("a reader does not panic"))
    })
    .context("read the segments")?;
    bar.finish_and_clear();
    let mut found = found.into_inner().expect("no reader panics");
    found.sort_by_key(|fault| (fault.segment, fault.page));
    faults.extend(found);
    Ok(faults)
}

/// Copies of the superblock that are not whole: the device opens with the other.
fn superblock_faults(device: &Device) -> Result<Vec<Fault>> {
    let mut source = device.source()?;
    let blocks = source.read(&[(0, PAGE_LEN), (PAGE_LEN as u64, PAGE_LEN)]);
    let faults = (0..).zip(blocks).filter_map(|(copy, block)| {
        let why = match block {
            Ok(block) => Superblock::decode(&block, copy).err()?.to_string(),
            Err(error) => error.to_string(),
        };
        Some(Fault { segment: None, page: None, key: None, why: format!("copy {copy} of the superblock: {why}") })
    });
    Ok(faults.collect())
}

fn segment_faults(
    device: &Device,
    source: &mut dyn Source,
    segment: &Segment,
    counts: &Counts,
    bar: &ProgressBar,
) -> Vec<Fault> {
    let fault = |page, key, why| Fault { segment: Some(segment.number), page, key, why };
    let mut faults = Vec::new();
    if let Some(error) = &segment.error {
        faults.push(fault(None, None, format!("its header does not read: {error}")));
    }
    if segment.torn > 0 {
        let why = format!("{} records are torn: a crash cut them off, or they are damaged", segment.torn);
        faults.push(fault(None, None, why));
    }
    if segment.read_errors > 0 {
        faults.push(fault(None, None, format!("{} reads failed", segment.read_errors)));
    }
    let Some(life) = segment.life() else { return faults };
    for (row, key) in segment.table.iter() {
        let mut count = |part: &[u8]| {
            counts.bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
            bar.inc(part.len() as u64);
        };
        match read_record(source, device.superblock.geometry, life, &row, key, &mut count) {
            Ok(()) => {
                counts.records.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => faults.push(fault(Some(row.page), Some(key.to_vec()), error.to_string())),
        }
    }
    faults
}

/// A bar, if somebody watches.
fn progress(bytes: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(
        "{bar:40} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
    );
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
