//! Holds the metadata store to being disposable, on damaged files of sled.
//!
//! Invariant: whatever lies in its files, it opens or is begun anew, and what it hands out is what was put in.

use super::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

fn device(n: u8) -> DeviceId {
    DeviceId([n; 16])
}

fn open(directory: &Path) -> SledStore {
    SledStore::open(directory, SledOptions::default()).expect("a thread")
}

/// A table that is told by its segment. Some are longer than what sled keeps in its log.
fn table(segment: u32) -> Vec<u8> {
    let mut table = vec![0; if segment.is_multiple_of(20) { 400_000 } else { 8192 }];
    StdRng::seed_from_u64(u64::from(segment)).fill(&mut table[..]);
    table
}

#[test]
fn tables_come_back_after_an_end_and_a_kill() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    for segment in 0..50 {
        store.put(device(1), segment, table(segment));
    }
    store.put(device(1), 3, table(999));
    store.remove(device(1), 4);
    assert!(store.sync());
    // A copy of the files is what a killed process leaves.
    let killed = tempfile::tempdir().expect("a directory");
    copy(directory.path(), killed.path());
    store.put(device(2), 0, table(77));
    drop(store);
    for (directory, late) in [(directory.path(), Some(table(77))), (killed.path(), None)] {
        let store = open(directory);
        assert_eq!(store.status().state, MetaState::Working);
        assert_eq!(store.get(device(1), 0), Some(table(0)));
        assert_eq!(store.get(device(1), 49), Some(table(49)));
        assert_eq!(store.get(device(1), 3), Some(table(999)));
        assert_eq!(store.get(device(1), 4), None);
        assert_eq!(store.get(device(3), 0), None);
        assert_eq!(store.get(device(2), 0), late);
    }
}

#[test]
fn what_does_not_open_is_moved_aside_and_begun_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    for round in 0..2 {
        fs::create_dir_all(directory.path().join("sled")).expect("makes");
        fs::write(directory.path().join("sled/conf"), b"no configuration of sled").expect("writes");
        fs::write(directory.path().join("sled/db"), vec![round; 100_000]).expect("writes");
        let store = open(directory.path());
        assert!(matches!(store.status().state, MetaState::Rebuilt { .. }), "{:?}", store.status());
        assert_eq!(store.get(device(1), 1), None);
        store.put(device(1), 1, table(1));
        assert!(store.sync());
        assert_eq!(store.get(device(1), 1), Some(table(1)));
        let aside = fs::read(directory.path().join("sled.damaged/db")).expect("kept");
        assert_eq!(aside[0], round, "the latest is kept");
    }
}

#[test]
fn a_store_that_cannot_be_begun_is_off_and_harms_nobody() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("sled"), b"a file").expect("writes");
    fs::write(directory.path().join("sled.damaged"), b"a file").expect("writes");
    let store = open(directory.path());
    assert!(matches!(store.status().state, MetaState::Off { .. }), "{:?}", store.status());
    store.put(device(1), 1, table(1));
    assert_eq!((store.get(device(1), 1), store.sync()), (None, false));
    assert_eq!(store.status().dropped, 1);
}

/// Damaged files give a table as it was, or none, and always an end.
#[test]
fn damaged_files_lose_tables_and_invent_none() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let whole = tempfile::tempdir().expect("a directory");
    let store = open(whole.path());
    for segment in 0..60 {
        store.put(device(1), segment, table(segment));
        if segment % 7 == 0 {
            assert!(store.sync());
        }
    }
    drop(store);
    let mut outcomes = (0, 0, 0);
    for round in 0..30 {
        let damaged = tempfile::tempdir().expect("a directory");
        copy(whole.path(), damaged.path());
        let mut files = files(&damaged.path().join("sled"));
        files.sort();
        let file = &files[random.random_range(0..files.len())];
        let mut bytes = fs::read(file).expect("reads");
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..3) {
            0 => bytes.truncate(at),
            1 => bytes[at..].iter_mut().take(4096).for_each(|byte| *byte = 0),
            _ => bytes[at] ^= 1 << random.random_range(0..8),
        }
        fs::write(file, bytes).expect("writes");
        let store = open(damaged.path());
        for segment in 0..60 {
            let found = store.get(device(1), segment);
            assert!(found.is_none() || found == Some(table(segment)), "seed {seed}, round {round}, table {segment}");
        }
        store.put(device(1), 60, table(60));
        match store.status().state {
            MetaState::Working => outcomes.0 += 1,
            MetaState::Rebuilt { .. } => outcomes.1 += 1,
            MetaState::Off { .. } => outcomes.2 += 1,
        }
    }
    println!("working {}, begun anew {}, off {}", outcomes.0, outcomes.1, outcomes.2);
    assert_eq!(outcomes.2, 0, "seed {seed}: a fresh database always works");
}

#[test]
fn a_guarded_panic_is_an_error() {
    assert_eq!(guarded(|| 5), Ok(5));
    let refused: Result<(), String> = guarded(|| std::panic::panic_any("as sled does".to_owned()));
    assert_eq!(refused, Err("as sled does".to_owned()));
}

/// Set in the process that is to end.
const TO_END: &str = "MOONCAKE_TEST_PANIC";

#[test]
fn any_other_panic_ends_the_process() {
    if std::env::var_os(TO_END).is_some() {
        end_process_on_panic();
        assert!(guarded(|| std::panic::panic_any("guarded")).is_err());
        let ours = std::thread::spawn(|| std::panic::panic_any("our own"));
        let _ = ours.join();
        // Not reached.
        std::process::exit(0);
    }
    let name = "flash::meta::tests::any_other_panic_ends_the_process";
    let ended = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args([name, "--exact", "--nocapture"])
        .env(TO_END, "1")
        .output()
        .expect("runs");
    assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{ended:?}");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("our own") && !said.contains("panicked at 'guarded"), "{said}");
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("lists").map(|entry| entry.expect("lists").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("makes");
    for entry in fs::read_dir(from).expect("lists") {
        let entry = entry.expect("lists");
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).expect("copies")),
        }
    }
}
