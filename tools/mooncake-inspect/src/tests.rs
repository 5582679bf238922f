//! Holds the inspector to devices whose contents the tests wrote.
//!
//! Invariant: it writes nothing to a device, and what is damaged is said, not shown.

#![expect(clippy::cast_possible_truncation, reason = "small numbers of tests")]

use super::*;
use protocol::base::{Crc, Generation};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;
use storage::flash::format::{
    CHUNK_LEN, DeviceId, Geometry, Head, Life, Nonce, PAGE_LEN, Record, RecordLayout, Row, SegmentHeader, Superblock,
    Table,
};
use storage::flash::journal::{Journal, JournalOptions, Note, RecordAt};
use tempfile::TempDir;

const SEGMENT_LEN: u64 = 1 << 20;

/// A data directory with one device: a sealed segment of `objects` and a free one.
fn data_dir(objects: &[(&str, Vec<u8>)]) -> TempDir {
    let geometry = Geometry { segment_len: SEGMENT_LEN, segment_count: 2 };
    let superblock =
        Superblock { device: DeviceId([7; 16]), number: 0, geometry, boot_epoch: 3, update: 1, formatted_ms: 1 };
    let life = Life { segment: 0, life: 5, nonce: Nonce([9; 16]) };
    let header = SegmentHeader { device: superblock.device, life, head: Head::New, opened_ms: 2 };
    let mut bytes = vec![0; geometry.device_len() as usize];
    for copy in 0..2 {
        bytes[usize::from(copy) * PAGE_LEN..][..PAGE_LEN].copy_from_slice(&superblock.encode(copy));
    }
    let base = geometry.offset_of(0) as usize;
    bytes[base..base + PAGE_LEN].copy_from_slice(&header.encode());
    let (mut table, mut page) = (Table::new(), 1);
    for (generation, (key, payload)) in (1..).zip(objects) {
        let layout = RecordLayout::of(key.len(), payload.len() as u64);
        let record = Record {
            page,
            generation: Generation(generation),
            length: payload.len() as u64,
            crc: Crc::of(payload),
            expires_ms: 0,
            key: key.as_bytes(),
        };
        let chunks: Vec<Crc> = if layout.inline { vec![] } else { payload.chunks(CHUNK_LEN).map(Crc::of).collect() };
        let at = base + usize::from(page) * PAGE_LEN;
        let inline = if layout.inline { &payload[..] } else { &[] };
        record.encode(&life, &chunks, inline, &mut bytes[at..at + layout.header_len()]);
        if !layout.inline {
            bytes[at + layout.header_len()..][..payload.len()].copy_from_slice(payload);
        }
        let row = Row {
            page,
            key_len: key.len() as u16,
            length: payload.len() as u32,
            crc: record.crc,
            generation: record.generation,
            expires_ms: 0,
        };
        table.push(row, key.as_bytes());
        page += layout.pages() as u16;
    }
    let footer = table.encode(&life, 3);
    let end = geometry.offset_of(1) as usize;
    bytes[end - footer.len()..end].copy_from_slice(&footer);
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("flash.0"), bytes).expect("writes");
    directory
}

fn objects() -> Vec<(&'static str, Vec<u8>)> {
    vec![("small", b"value".to_vec()), ("large", vec![5; 200_000]), ("small", b"newer".to_vec())]
}

/// Runs a command line; answers its exit code and what it printed.
fn inspect(args: &[&str]) -> (Result<bool>, Vec<u8>) {
    let mut out = Vec::new();
    let cli = Cli::try_parse_from(["mooncake-inspect"].iter().chain(args)).expect("a command line");
    (run(cli, &mut out), out)
}

fn inspect_json(args: &[&str]) -> (bool, Value) {
    let (outcome, out) = inspect(args);
    (outcome.expect("looks"), serde_json::from_slice(&out).expect("one JSON object"))
}

fn path(directory: &TempDir) -> &str {
    directory.path().to_str().expect("a path of letters")
}

fn flip(directory: &TempDir, at: usize) {
    let file = directory.path().join("flash.0");
    let mut bytes = fs::read(&file).expect("reads");
    bytes[at] ^= 1;
    fs::write(file, bytes).expect("writes");
}

#[test]
fn segments_and_records_are_listed() {
    let directory = data_dir(&objects());
    let (outcome, out) = inspect(&["list", "--records", path(&directory)]);
    let text = String::from_utf8(out).expect("text");
    assert!(outcome.expect("looks"));
    for expected in ["2 segments of 1 MiB", "sealed", "large", "3 records in 1 sealed and 0 open segments"] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
    let (whole, json) = inspect_json(&["list", "--records", "--json", path(&directory)]);
    assert!(whole);
    let segments = &json["devices"][0]["segments"];
    assert_eq!((&segments[0]["state"], &segments[1]["state"]), (&"sealed".into(), &"free".into()));
    assert_eq!(segments[0]["table"][1]["length"], 200_000);
}

#[test]
fn every_checksum_is_verified() {
    let directory = data_dir(&objects());
    let (whole, json) = inspect_json(&["verify", "--json", path(&directory)]);
    assert!(whole, "{json}");
    assert_eq!(json["devices"][0]["payload_len"], 200_010);
    // The payload of `large` begins at page 3.
    flip(&directory, (1 << 20) + 3 * PAGE_LEN + CHUNK_LEN + 1);
    let (outcome, out) = inspect(&["verify", path(&directory)]);
    assert!(!outcome.expect("looks"));
    let text = String::from_utf8(out).expect("text");
    assert!(text.contains("segment 0, page 2, large: chunk 1 of its payload is damaged"), "{text}");
    flip(&directory, 5000);
    let (whole, json) = inspect_json(&["verify", "--json", path(&directory)]);
    assert!(!whole);
    assert_eq!(json["devices"][0]["faults"].as_array().map(Vec::len), Some(2), "and a copy of the superblock: {json}");
}

#[test]
fn the_newest_object_of_a_key_is_shown() {
    let directory = data_dir(&objects());
    assert_eq!(inspect(&["show", path(&directory), "small"]).1, b"newer");
    assert_eq!(inspect(&["show", path(&directory), "--hex", "6c61726765"]).1, vec![5; 200_000]);
    let file = directory.path().join("out");
    let (outcome, out) = inspect(&["show", path(&directory), "large", "--out", file.to_str().expect("a path")]);
    assert!(outcome.expect("looks") && out.is_empty());
    assert_eq!(fs::read(&file).expect("written"), vec![5; 200_000]);
    let again = inspect(&["show", path(&directory), "large", "--out", file.to_str().expect("a path")]).0;
    assert!(again.is_err(), "nothing is written over");
    assert!(!inspect(&["show", path(&directory), "absent"]).0.expect("looks"));
    flip(&directory, (1 << 20) + 3 * PAGE_LEN);
    assert!(inspect(&["show", path(&directory), "large"]).0.is_err(), "wrong bytes are not shown");
}

#[test]
fn what_the_journal_says_is_dead_is_not_shown() {
    let directory = data_dir(&objects());
    let options = JournalOptions { sync_interval: Duration::from_secs(1), boot_first: Generation(1 << 40), now_ms: 1 };
    let opened = Journal::open(directory.path(), options).expect("opens");
    let page = 1 + 1 + 1 + 49;
    let newest = RecordAt { device: 0, segment: 0, life: 5, page, generation: Generation(3) };
    opened.journal.append(&[Note::Dead(newest)]);
    assert_eq!(inspect(&["show", path(&directory), "small"]).1, b"value");
    opened.journal.append(&[Note::DeadBelow(Generation(4))]);
    let (outcome, out) = inspect(&["show", path(&directory), "small"]);
    assert!(!outcome.expect("looks") && out.is_empty());
}

#[test]
fn what_cannot_be_looked_at_is_said() {
    let directory = data_dir(&objects());
    let said = |args: &[&str]| format!("{:#}", inspect(args).0.expect_err("refuses"));
    assert!(said(&["list", "/nowhere"]).contains("/nowhere"));
    let other = tempfile::tempdir().expect("a directory");
    assert!(said(&["list", path(&other)]).contains("no flash device"));
    let write = |name: &str, bytes: &[u8]| {
        let file = other.path().join(name);
        fs::write(&file, bytes).expect("writes");
        file.to_str().expect("a path").to_owned()
    };
    assert!(said(&["list", &write("blank", &[0; 1 << 20])]).contains("blank"));
    assert!(said(&["list", &write("foreign", &[1; 1 << 20])]).contains("no flash device of this program"));
    assert!(said(&["list", &write("short", &[1; 10])]).contains("too short"));
    assert!(said(&["show", path(&directory), "--hex", "abc"]).contains("hex digits"));

    let held = fs::File::open(directory.path().join("flash.0")).expect("opens");
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).expect("locks");
    assert!(said(&["verify", path(&directory)]).contains("in use by a server"));
    assert!(inspect(&["verify", "--in-use", path(&directory)]).0.expect("looks"));
    assert!(Path::new(path(&directory)).join("flash.0").exists());
}
