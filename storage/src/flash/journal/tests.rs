//! Holds the journal to what it promises after any end: kill, torn tail, flipped bit, full disk.
//!
//! Invariant: what was appended before a kill is remembered, and a note that was lost never brings a dead record back.

#![expect(clippy::cast_possible_truncation, reason = "small numbers of tests")]

use super::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3600);

fn options(sync_interval: Duration) -> JournalOptions {
    JournalOptions { sync_interval, boot_first: Generation(1 << 40), now_ms: 1000 }
}

fn open(directory: &Path) -> Opened {
    Journal::open(directory, options(NEVER)).expect("opens")
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn record(segment: u16, life: u64, page: u16, generation: u64) -> RecordAt {
    RecordAt { device: 1, segment, life, page, generation: Generation(generation) }
}

fn pins(key: &[u8], endless: u32, until_ms: u64, order: u64) -> Note<'_> {
    Note::Pins { key, generation: Generation(7), endless, until_ms, order }
}

/// The bytes of the file, as they are for a process that is killed now.
fn bytes(directory: &Path) -> Vec<u8> {
    fs::read(directory.join(JOURNAL_FILE)).expect("reads")
}

fn replayed(bytes: &[u8]) -> (Remembered, Damage) {
    Remembered::of_file(bytes)
}

const ALIVE: Fate = Fate::Alive { expires_ms: None };

#[test]
fn golden_bytes_of_a_journal() {
    let nonce = Nonce([3; 16]);
    let mut header = [0u8; FRAME];
    header[..10].copy_from_slice(b"MKVJNL01\x01\x00");
    header[16..32].fill(3);
    let check = protocol::base::Crc::of(&header).0;
    header[12..16].copy_from_slice(&check.to_le_bytes());
    assert_eq!(note::encode_header(&nonce), header);
    assert_eq!(note::decode_header(&header), Some(nonce));

    let record =
        RecordAt { device: 0x0102, segment: 0x0304, page: 0x0506, life: 0x0708, generation: Generation(0x090a) };
    let expiry = Note::Expiry { record, expires_ms: 0x0b0c, order: 0x0d0e };
    let mut out = Vec::new();
    note::encode(&expiry, &nonce, 0x0f10, 0x11, &mut out);
    let mut golden = [0u8; FRAME];
    golden[8..16].copy_from_slice(&[0x10, 0x0f, 0, 0, 0, 0, 0, 0]);
    golden[16..24].copy_from_slice(&[0x11, 0, 0, 0, 4, 0, 1, 0]);
    golden[24..32].copy_from_slice(&[2, 1, 4, 3, 6, 5, 0, 0]);
    (golden[32], golden[33], golden[40], golden[41]) = (8, 7, 10, 9);
    (golden[48], golden[49], golden[56], golden[57]) = (0x0c, 0x0b, 0x0e, 0x0d);
    assert_eq!(out[8..], golden[8..]);
    assert_eq!(out[..8], crate::flash::format::mac(&nonce, &[&golden])[..8]);

    let mut out = Vec::new();
    note::encode(&pins(&[9; 65], 2, 0x0102, 5), &nonce, 1, 0, &mut out);
    assert_eq!(out.len(), 3 * FRAME);
    assert_eq!(out[20..24], [5, 0, 3, 0]);
    assert_eq!((out[30], out[32], out[40], out[48..50].to_vec(), out[56]), (65, 2, 7, vec![2, 1], 5));
    assert_eq!((&out[64..129], &out[129..]), (&[9u8; 65][..], &[0u8; 63][..]));
}

#[test]
fn notes_come_back_without_a_sync() {
    let directory = directory();
    let opened = open(directory.path());
    assert!(opened.fresh);
    let long = [5; 1000];
    opened.journal.append(&[
        Note::Dead(record(1, 4, 10, 100)),
        Note::Expiry { record: record(1, 4, 20, 101), expires_ms: 5000, order: 1 },
        pins(b"pinned", 2, 0, 2),
        pins(&long, 0, 2000, 3),
        pins(b"over", 0, 500, 4),
        pins(b"unpinned", 0, 0, 5),
    ]);
    opened.journal.append(&[Note::Retired { device: 1, segment: 2, life: 9 }, Note::DeadBelow(Generation(50))]);
    // Killed: nothing is synced, nothing dropped.
    let left = bytes(directory.path());
    let again = tempfile::tempdir().expect("a directory");
    fs::write(again.path().join(JOURNAL_FILE), left).expect("writes");
    let opened = open(again.path());
    assert_eq!((opened.fresh, opened.damage), (false, Damage::default()));
    for (record, fate) in [
        (record(1, 4, 10, 100), Fate::Dead),
        (record(1, 4, 11, 100), ALIVE),
        (record(1, 4, 10, 101), ALIVE),
        (record(1, 5, 10, 100), ALIVE),
        (record(1, 3, 99, 100), Fate::Dead),
        (record(1, 4, 20, 101), Fate::Alive { expires_ms: Some(5000) }),
        (record(2, 9, 1, 100), Fate::Dead),
        (record(2, 10, 1, 100), ALIVE),
        (record(3, 1, 1, 49), Fate::Dead),
        (record(3, 1, 1, 50), ALIVE),
        (RecordAt { device: 0, ..record(1, 4, 10, 100) }, ALIVE),
    ] {
        assert_eq!(opened.remembered.fate(&record), fate, "{record:?}");
    }
    let mut kept: Vec<_> =
        opened.remembered.pins().map(|(key, pins)| (key.to_vec(), pins.endless, pins.until_ms)).collect();
    kept.sort();
    assert_eq!(kept, [(long.to_vec(), 0, 2000), (b"pinned".to_vec(), 2, 0)]);
}

#[test]
fn notes_count_by_their_order_within_a_boot_and_by_their_boot_before_that() {
    let directory = directory();
    let at = record(1, 1, 1, 100);
    let opened = open(directory.path());
    opened.journal.append(&[
        Note::Expiry { record: at, expires_ms: 9, order: 9 },
        Note::Expiry { record: at, expires_ms: 8, order: 8 },
        pins(b"key", 9, 0, 9),
        pins(b"key", 8, 0, 8),
    ]);
    drop(opened);
    let opened = open(directory.path());
    assert_eq!(opened.remembered.fate(&at), Fate::Alive { expires_ms: Some(9) });
    assert_eq!(opened.remembered.pins_of(b"key").map(|pins| pins.endless), Some(9));
    opened.journal.append(&[Note::Expiry { record: at, expires_ms: 1, order: 1 }, pins(b"key", 1, 0, 1)]);
    drop(opened);
    let opened = open(directory.path());
    assert_eq!(opened.remembered.fate(&at), Fate::Alive { expires_ms: Some(1) });
    assert_eq!(opened.remembered.pins_of(b"key").map(|pins| pins.endless), Some(1));
}

/// Notes of all kinds, some of them synced, and the file they make.
fn many(directory: &Path, synced: usize, unsynced: usize) -> Vec<u8> {
    let opened = open(directory);
    let key = [1; 100];
    for n in 0..synced + unsynced {
        let at = record(n as u16 % 3, 1, n as u16, n as u64);
        let order = n as u64 + 1;
        opened.journal.append(&[match n % 4 {
            0 => Note::Expiry { record: at, expires_ms: 5, order },
            1 => pins(&key[..n.min(100)], 1, 0, order),
            _ => Note::Dead(at),
        }]);
        if n + 1 == synced {
            opened.journal.sync().expect("syncs");
        }
    }
    let bytes = bytes(directory);
    std::mem::forget(opened);
    bytes
}

#[test]
fn every_flipped_bit_is_repaired() {
    let directory = directory();
    let mut bytes = many(directory.path(), 10, 10);
    let (whole, damage) = replayed(&bytes);
    assert_eq!(damage, Damage::default());
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let (remembered, damage) = replayed(&bytes);
        assert_eq!(remembered, whole, "bit {bit}");
        assert_eq!(damage, Damage { repaired: 1, ..Damage::default() }, "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn a_torn_end_is_cut_at_every_length() {
    let directory = directory();
    let bytes = many(directory.path(), 0, 20);
    let mut before = 0;
    for len in FRAME..=bytes.len() {
        let mut count = 0;
        let damage = replay(&bytes[..len], |_| count += 1);
        assert_eq!((damage.synced_lost, damage.unsynced_lost, damage.repaired), (0, 0, 0), "{len} bytes");
        assert!(count >= before, "{len} bytes");
        before = count;
    }
    assert_eq!(before, 20);
    for len in 1..FRAME {
        assert_eq!(replayed(&bytes[..len]).1.synced_lost, 1, "a header is durable before the file has its name");
    }
}

#[test]
fn lost_notes_that_were_synced_leave_nothing_to_be_believed() {
    let directory = directory();
    let mut bytes = many(directory.path(), 20, 20);
    // A sector of what was synced.
    bytes[512..1024].fill(0);
    let (_, damage) = replayed(&bytes);
    assert!(damage.synced_lost > 0 && damage.unsynced_lost == 0, "{damage:?}");
    let again = tempfile::tempdir().expect("a directory");
    fs::write(again.path().join(JOURNAL_FILE), &bytes).expect("writes");
    let opened = open(again.path());
    assert_eq!(opened.remembered.fate(&record(9, 9, 9, (1 << 40) - 1)), Fate::Dead);
    assert_eq!(opened.remembered.fate(&record(9, 9, 9, 1 << 40)), ALIVE, "what this boot writes is believed");
}

#[test]
fn lost_notes_that_were_never_synced_are_no_damage() {
    let directory = directory();
    let mut bytes = many(directory.path(), 5, 30);
    // The pages of a file reach the disk in any order.
    let at = bytes.len() - 1024;
    bytes[at..at + 512].fill(0);
    let (_, damage) = replayed(&bytes);
    assert!(damage.synced_lost == 0 && damage.unsynced_lost > 0, "{damage:?}");
}

#[test]
fn no_bytes_make_a_replay_panic() {
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bytes = vec![0; random.random_range(0..5000)];
        random.fill(&mut bytes[..]);
        let nonce = Nonce(random.random());
        if bytes.len() > FRAME {
            bytes[..FRAME].copy_from_slice(&note::encode_header(&nonce));
        }
        let mut notes = Vec::new();
        for seq in 1..random.random_range(1..20) {
            note::encode(&Note::Dead(record(1, 1, seq as u16, seq)), &nonce, seq, 0, &mut notes);
        }
        if bytes.len() > FRAME + notes.len() {
            bytes[FRAME..FRAME + notes.len()].copy_from_slice(&notes);
        }
        for _ in 0..random.random_range(0..4) {
            let at = random.random_range(0..bytes.len().max(1));
            bytes.get_mut(at..).into_iter().flatten().take(8).for_each(|byte| *byte = random.random());
        }
        replayed(&bytes);
    }
}

/// A key may be made of frames that look like notes. They are reached when what stands before them is lost.
#[test]
fn notes_forged_in_keys_are_none() {
    let mut forged = Vec::new();
    for seq in 1..100 {
        note::encode(&Note::DeadBelow(Generation(u64::MAX)), &Nonce([0; 16]), seq, 0, &mut forged);
    }
    let directory = directory();
    let opened = open(directory.path());
    opened.journal.append(&[pins(&forged, 1, 0, 1), Note::Dead(record(1, 1, 1, 1))]);
    let mut bytes = bytes(directory.path());
    bytes[FRAME..FRAME + 32].fill(0);
    let (remembered, _) = replayed(&bytes);
    assert_eq!(remembered.dead_below(), Generation(0));
    assert_eq!(remembered.fate(&record(1, 1, 1, 1)), Fate::Dead);
}

#[test]
fn a_rewrite_keeps_what_counts_and_nothing_else() {
    let directory = directory();
    let opened = open(directory.path());
    let journal = &opened.journal;
    for order in 1..=1000 {
        let at = record(1, 1, 1, 1);
        journal.append(&[Note::Expiry { record: at, expires_ms: order, order }, pins(b"key", order as u32, 0, order)]);
    }
    journal.append(&[Note::Dead(record(2, 3, 1, 2)), Note::Dead(record(3, 3, 1, 3)), pins(b"none", 0, 0, 1001)]);
    journal.begun(1, 2, 4);
    journal.begun(1, 3, 3);
    let long = journal.len();
    journal.rewrite(1000).expect("rewrites");
    journal.rewrite(1000).expect("rewrites");
    assert!(journal.len() < long / 100, "{} bytes of {long}", journal.len());
    journal.append(&[Note::Dead(record(4, 1, 1, 4))]);
    let (remembered, damage) = replayed(&bytes(directory.path()));
    assert_eq!(damage, Damage::default());
    assert_eq!(remembered.fate(&record(1, 1, 1, 1)), Fate::Alive { expires_ms: Some(1000) });
    assert_eq!(remembered.pins_of(b"key").map(|pins| pins.endless), Some(1000));
    assert_eq!(remembered.fate(&record(2, 3, 1, 2)), ALIVE, "its life is over: nobody asks");
    assert_eq!(remembered.fate(&record(3, 3, 1, 3)), Fate::Dead);
    assert_eq!(remembered.fate(&record(4, 1, 1, 4)), Fate::Dead);
    assert_eq!(remembered.pins_of(b"none"), None);
}

#[test]
fn the_file_does_not_grow_with_what_is_said_again_and_again() {
    let directory = directory();
    let opened = Journal::open(directory.path(), options(Duration::from_millis(1))).expect("opens");
    let notes: Vec<_> =
        (1..=1000).map(|order| Note::Expiry { record: record(1, 1, 1, 1), expires_ms: order, order }).collect();
    let written = 200 * notes.len() * FRAME;
    let mut longest = 0;
    for _ in 0..200 {
        opened.journal.append(&notes);
        opened.journal.sync().expect("syncs");
        longest = longest.max(opened.journal.len());
        while opened.journal.len() > REWRITE_LEN_MIN + 1_000_000 {
            std::thread::yield_now();
        }
    }
    assert!(written as u64 > 2 * longest, "{longest} bytes of {written}");
    let (remembered, damage) = replayed(&bytes(directory.path()));
    assert_eq!(damage, Damage::default());
    assert_eq!(remembered.fate(&record(1, 1, 1, 1)), Fate::Alive { expires_ms: Some(1000) });
}

#[test]
fn no_note_is_lost_between_rewrites_and_appends() {
    let directory = directory();
    let opened = Journal::open(directory.path(), options(Duration::from_millis(1))).expect("opens");
    let journal = &opened.journal;
    let (threads, each) = (3, 2000);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for n in 0..each {
                    journal.append(&[Note::Dead(record(thread, 1, n, 1))]);
                    if n % 500 == 0 {
                        journal.sync().expect("syncs");
                    }
                }
            });
        }
        for _ in 0..20 {
            journal.rewrite(1000).expect("rewrites");
        }
    });
    let (remembered, damage) = replayed(&bytes(directory.path()));
    assert_eq!(damage, Damage::default());
    for thread in 0..threads {
        for n in 0..each {
            assert_eq!(remembered.fate(&record(thread, 1, n, 1)), Fate::Dead, "note {n} of {thread}");
        }
    }
}

#[test]
fn notes_wait_for_a_disk_that_takes_none() {
    let directory = directory();
    let opened = open(directory.path());
    let journal = &opened.journal;
    journal.append(&[Note::Dead(record(1, 1, 1, 1))]);
    let readable = Arc::new(File::open(directory.path().join(JOURNAL_FILE)).expect("opens"));
    let writable = std::mem::replace(&mut journal.shared.inner.lock().file, Arc::clone(&readable));
    journal.append(&[Note::Dead(record(1, 1, 2, 2))]);
    assert!(journal.failing().is_some());
    assert!(journal.sync().is_err());
    journal.shared.inner.lock().file = Arc::clone(&writable);
    journal.sync().expect("syncs");
    assert_eq!(journal.failing(), None);
    let (remembered, damage) = replayed(&bytes(directory.path()));
    assert_eq!(damage, Damage::default());
    for page in 1..=2 {
        assert_eq!(remembered.fate(&record(1, 1, page, u64::from(page))), Fate::Dead);
    }

    // More than the journal keeps: everything up to then is forgotten instead.
    journal.shared.inner.lock().file = readable;
    let key = vec![1; protocol::base::KEY_LEN_MAX];
    for order in 0..=(PENDING_LEN_MAX / key.len()) as u64 {
        journal.append(&[pins(&key, 1, 0, order)]);
    }
    assert!(journal.shared.inner.lock().pending.len() < PENDING_LEN_MAX / 2);
    assert!(journal.sync().is_err(), "notes were given up");
    journal.shared.inner.lock().file = writable;
    journal.append(&[Note::Dead(record(1, 1, 3, 3))]);
    journal.sync().expect("syncs");
    let (remembered, damage) = replayed(&bytes(directory.path()));
    assert_eq!(damage, Damage::default());
    assert_eq!(remembered.dead_below(), Generation(8), "the pins were of generation 7");
}

#[test]
fn what_is_appended_is_synced_in_the_background_and_at_the_end() {
    let directory = directory();
    let opened = Journal::open(directory.path(), options(Duration::from_millis(1))).expect("opens");
    opened.journal.append(&[Note::Dead(record(1, 1, 1, 1))]);
    while opened.journal.shared.synced.load(Ordering::Acquire) < 1 {
        std::thread::yield_now();
    }
    let slow = tempfile::tempdir().expect("a directory");
    let opened = open(slow.path());
    opened.journal.append(&[Note::Dead(record(1, 1, 1, 1))]);
    let shared = Arc::clone(&opened.journal.shared);
    drop(opened);
    assert_eq!(shared.synced.load(Ordering::Acquire), 1);
}
