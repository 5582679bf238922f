//! What the records on flash do not say themselves: which of them are dead, when they expire instead, what is pinned.
//!
//! Role: an append-only file in the data directory. Whoever changes something that a restart must not undo appends a note
//! before the change is answered. Notes are about one record at one place, except those about pins, which are about a key.
//!
//! The log has one duty more: a record that reached flash while its object was removed, replaced or moved elsewhere has
//! to be noted as dead at the place that it reached.
//!
//! Invariants:
//! - What [`Journal::append`] returned for survives the process: it is written with `write(2)`. What [`Journal::sync`]
//!   returned `Ok` for survives a power cut; so does everything after the sync interval, by a thread of the journal.
//! - Notes that cannot be written are kept and written later; [`Journal::failing`] says so. If they become too many, the
//!   journal says instead that everything so far is dead: a restart then forgets, but brings nothing back.
//! - A sync that failed is not repeated: the whole is written anew, to a new file.
//! - The file is replaced in whole (temporary file, sync, rename, sync of the directory) at each start, and when it has
//!   doubled: its length is bounded by what it has to say.

mod memory;
mod note;
mod replay;
#[cfg(test)]
mod tests;

pub use memory::{Fate, PinsKept, Remembered};
pub use note::{Note, RecordAt};
pub use replay::Damage;

use super::format::Nonce;
use note::FRAME;
use parking_lot::{Condvar, Mutex};
use protocol::base::Generation;
use replay::{replay, replay_notes};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Name of the file in the data directory.
pub const JOURNAL_FILE: &str = "journal";
const TEMPORARY_FILE: &str = "journal.new";
/// A shorter file is not rewritten. So much room is reserved ahead, so that notes of a full disk find some.
const REWRITE_LEN_MIN: u64 = 4 << 20;
/// Most bytes of notes that wait for the disk to take them.
const PENDING_LEN_MAX: usize = 16 << 20;

/// How to open a journal.
#[derive(Clone, Copy, Debug)]
pub struct JournalOptions {
    /// Notes are synced this long after they were appended, at the latest.
    pub sync_interval: Duration,
    /// Every generation of this boot is at least this.
    pub boot_first: Generation,
    /// Now, Unix time in milliseconds.
    pub now_ms: u64,
}

/// What a start finds.
#[derive(Debug)]
pub struct Opened {
    /// To append to.
    pub journal: Journal,
    /// What the notes of before add up to.
    pub remembered: Remembered,
    /// What was wrong with them. If any were lost that had been synced, `remembered` takes everything of earlier boots for
    /// dead.
    pub damage: Damage,
    /// Whether there was no journal. Then nobody knows what is dead on devices that hold something.
    pub fresh: bool,
}

/// An open journal. Shared by reference; syncs when dropped.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    inner: Mutex<Inner>,
    /// Held by whoever syncs or rewrites.
    syncing: Mutex<Syncing>,
    /// Tells the thread that there is something to sync, or that it should end.
    wake: Condvar,
    /// Notes that survive a power cut, of those ever appended.
    synced: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    file: Arc<File>,
    nonce: Nonce,
    /// Bytes of the file that are notes.
    len: u64,
    /// Its length when it was new.
    len_new: u64,
    /// The next note of the file.
    seq: u64,
    /// Notes ever appended, and those of them that are written.
    appended: u64,
    written: u64,
    /// Notes that could not be written yet, as they will be.
    pending: Vec<u8>,
    /// Why not.
    failing: Option<io::ErrorKind>,
    /// Notes up to this generation were given up.
    forgotten: Option<Generation>,
    /// The life that each segment is known to be in.
    lives: HashMap<(u16, u16), u64>,
    now_ms: u64,
    stopping: bool,
}

#[derive(Debug)]
struct Syncing {
    /// The greatest order when the file was last rewritten.
    settled: u64,
    /// The file's last sync failed.
    suspect: bool,
}

impl Journal {
    /// Reads the journal of a data directory, which nobody else uses, and begins a new one with what it has to say.
    ///
    /// # Errors
    /// If it cannot be read, or the new one not be written. What is damaged is no error.
    pub fn open(directory: &Path, options: JournalOptions) -> io::Result<Opened> {
        let (bytes, fresh) = match fs::read(directory.join(JOURNAL_FILE)) {
            Ok(bytes) => (bytes, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Vec::new(), true),
            Err(error) => return Err(error),
        };
        let (mut remembered, damage) = Remembered::of_file(&bytes);
        drop(bytes);
        if damage.synced_lost > 0 {
            remembered.apply(&Note::DeadBelow(options.boot_first));
        }
        remembered.begin_boot();
        remembered.prune(&HashMap::new(), options.now_ms, 0);
        let (nonce, notes, seq) = whole(&remembered);
        let file = create(directory, &notes)?;
        rename(directory)?;
        File::open(directory)?.sync_all()?;
        let len = notes.len() as u64;
        let inner = Inner {
            file: Arc::new(file),
            nonce,
            len,
            len_new: len,
            seq,
            appended: 0,
            written: 0,
            pending: Vec::new(),
            failing: None,
            forgotten: None,
            lives: HashMap::new(),
            now_ms: options.now_ms,
            stopping: false,
        };
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            inner: Mutex::new(inner),
            syncing: Mutex::new(Syncing { settled: 0, suspect: false }),
            wake: Condvar::new(),
            synced: AtomicU64::new(0),
        });
        let thread = std::thread::Builder::new().name("journal".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.run(options.sync_interval)
        })?;
        Ok(Opened { journal: Self { shared, thread: Some(thread) }, remembered, damage, fresh })
    }

    /// Reads a journal without opening it, whoever else uses it. `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn peek(directory: &Path) -> io::Result<Option<(Remembered, Damage)>> {
        let bytes = match fs::read(directory.join(JOURNAL_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        Ok(Some(Remembered::of_file(&bytes)))
    }

    /// Remembers `notes`: they survive this process from now on, and a power cut within the sync interval.
    pub fn append(&self, notes: &[Note<'_>]) {
        if notes.is_empty() {
            return;
        }
        let mut inner = self.shared.inner.lock();
        inner.append(notes, self.shared.synced.load(Ordering::Relaxed));
        drop(inner);
        self.shared.wake.notify_one();
    }

    /// Makes everything appended so far survive a power cut.
    ///
    /// # Errors
    /// What the disk says; then nothing is promised, and it is tried again after the sync interval.
    pub fn sync(&self) -> io::Result<()> {
        self.shared.sync()
    }

    /// The segment is in this life, and its header says so durably: notes about earlier lives may be forgotten.
    pub fn begun(&self, device: u16, segment: u16, life: u64) {
        let mut inner = self.shared.inner.lock();
        let known = inner.lives.entry((device, segment)).or_default();
        *known = life.max(*known);
    }

    /// Writes the journal anew, without what no longer says anything. Happens by itself when the file has doubled.
    ///
    /// # Errors
    /// What the disk says; the present file stays in use.
    pub fn rewrite(&self, now_ms: u64) -> io::Result<()> {
        self.shared.inner.lock().now_ms = now_ms;
        self.shared.rewrite(&mut self.shared.syncing.lock())
    }

    /// Why notes cannot be written at present, if they cannot.
    pub fn failing(&self) -> Option<io::ErrorKind> {
        self.shared.inner.lock().failing
    }

    /// Bytes of the file.
    pub fn len(&self) -> u64 {
        self.shared.inner.lock().len
    }

    /// Never: the file has a header.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.inner.lock().stopping = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // The thread of a journal does not panic; if it did, there is nothing to do about it here.
            let _ = thread.join();
        }
    }
}

impl Inner {
    fn append(&mut self, notes: &[Note<'_>], synced: u64) {
        if let Some(generation) = self.forgotten.take() {
            self.encode(&Note::DeadBelow(generation), synced);
        }
        for note in notes {
            self.encode(note, synced);
        }
        if self.write().is_ok() || self.pending.len() <= PENDING_LEN_MAX {
            return;
        }
        let highest = self.pending_generations().max().unwrap_or(Generation(0));
        tracing::error!("the journal cannot be written: after a restart nothing older than now will be found on flash");
        self.forgotten = Some(Generation(highest.0.saturating_add(1)));
        self.seq -= self.appended - self.written;
        self.pending.clear();
        self.written = self.appended;
    }

    fn pending_generations(&self) -> impl Iterator<Item = Generation> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let read = note::decode(&self.pending[at..], &self.nonce)?;
            at += read.frames * FRAME;
            Some(match read.note {
                Note::Dead(record) | Note::Expiry { record, .. } => record.generation,
                Note::DeadBelow(generation) | Note::Pins { generation, .. } => generation,
                Note::Retired { .. } => Generation(0),
            })
        })
    }

    fn encode(&mut self, note: &Note<'_>, synced: u64) {
        note::encode(note, &self.nonce, self.seq, self.appended.saturating_sub(synced), &mut self.pending);
        self.seq += 1;
        self.appended += 1;
    }

    /// Writes what is pending. What an earlier try wrote in part is written over.
    fn write(&mut self) -> io::Result<()> {
        if let Err(error) = self.file.write_all_at(&self.pending, self.len) {
            self.failing = Some(error.kind());
            return Err(error);
        }
        self.len += self.pending.len() as u64;
        self.written = self.appended;
        self.pending.clear();
        self.failing = None;
        Ok(())
    }

    fn is_doubled(&self) -> bool {
        self.len >= REWRITE_LEN_MIN.max(2 * self.len_new)
    }
}

impl Shared {
    /// The journal's thread.
    fn run(&self, interval: Duration) {
        let mut told = None;
        loop {
            let mut inner = self.inner.lock();
            // Others sync too, and by that may have doubled the file.
            let is_idle = |inner: &Inner| {
                inner.appended == self.synced.load(Ordering::Relaxed)
                    && inner.forgotten.is_none()
                    && !inner.is_doubled()
            };
            while !inner.stopping && is_idle(&inner) {
                self.wake.wait(&mut inner);
            }
            if !inner.stopping {
                // More notes come and are synced with these.
                let until = std::time::Instant::now() + interval;
                while !inner.stopping && !self.wake.wait_until(&mut inner, until).timed_out() {}
            }
            let (stopping, doubled) = (inner.stopping, inner.is_doubled());
            if inner.forgotten.is_some() {
                let synced = self.synced.load(Ordering::Relaxed);
                inner.append(&[], synced);
            }
            drop(inner);
            let outcome = if doubled { self.rewrite(&mut self.syncing.lock()) } else { self.sync() };
            let failed = outcome.as_ref().err().map(io::Error::kind);
            if let (Err(error), true) = (outcome, failed != told) {
                tracing::error!(%error, "the journal does not reach the disk; trying on");
            }
            told = failed;
            if stopping {
                return;
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        let target = {
            let mut inner = self.inner.lock();
            inner.write()?;
            if inner.forgotten.is_some() {
                return Err(io::Error::other("notes were given up"));
            }
            inner.appended
        };
        if self.synced.load(Ordering::Acquire) >= target {
            return Ok(());
        }
        let mut syncing = self.syncing.lock();
        if self.synced.load(Ordering::Acquire) >= target {
            return Ok(());
        }
        let (file, written) = {
            let inner = self.inner.lock();
            (Arc::clone(&inner.file), inner.written)
        };
        if !syncing.suspect {
            match file.sync_data() {
                Ok(()) => {
                    self.synced.fetch_max(written, Ordering::Release);
                    return Ok(());
                }
                Err(error) => {
                    tracing::error!(%error, "a sync of the journal failed: it is written anew");
                    syncing.suspect = true;
                }
            }
        }
        self.rewrite(&mut syncing)
    }

    /// Replaces the file. Most of the work is done while notes are still appended to the old one.
    fn rewrite(&self, syncing: &mut Syncing) -> io::Result<()> {
        let (file, len, nonce, lives, now_ms) = {
            let inner = self.inner.lock();
            (Arc::clone(&inner.file), inner.len, inner.nonce, inner.lives.clone(), inner.now_ms)
        };
        let mut remembered = Remembered::default();
        let mut next = 1;
        let bytes = read(&file, 0, len)?;
        let damage = replay(&bytes, |note| {
            remembered.apply(note);
            next += 1;
        });
        damage.refuse_losses()?;
        drop(bytes);
        remembered.prune(&lives, now_ms, syncing.settled);
        let (nonce_new, notes, mut seq) = whole(&remembered);
        let file_new = create(&self.directory, &notes)?;

        let mut inner = self.inner.lock();
        let mut late = read(&file, len, inner.len)?;
        late.extend_from_slice(&inner.pending);
        let mut appended = Vec::new();
        let damage = replay_notes(&late, &nonce, next, Damage::default(), |note| {
            note::encode(note, &nonce_new, seq, 0, &mut appended);
            seq += 1;
        });
        damage.refuse_losses()?;
        if !appended.is_empty() {
            file_new.write_all_at(&appended, notes.len() as u64)?;
            file_new.sync_all()?;
        }
        rename(&self.directory)?;
        inner.file = Arc::new(file_new);
        inner.nonce = nonce_new;
        inner.len = (notes.len() + appended.len()) as u64;
        inner.len_new = inner.len;
        inner.seq = seq;
        inner.written = inner.appended;
        inner.pending.clear();
        inner.failing = None;
        syncing.settled = remembered.order_max();
        // Until the directory is synced a power cut may bring the old file back.
        syncing.suspect = true;
        File::open(&self.directory)?.sync_all()?;
        syncing.suspect = false;
        self.synced.store(inner.appended, Ordering::Release);
        Ok(())
    }
}

/// A file with all of it: its secret, its bytes, and the number of the next note.
fn whole(remembered: &Remembered) -> (Nonce, Vec<u8>, u64) {
    let nonce = Nonce::random();
    let mut bytes = note::encode_header(&nonce).to_vec();
    let mut seq = 1;
    remembered.notes(|note| {
        note::encode(note, &nonce, seq, 0, &mut bytes);
        seq += 1;
    });
    (nonce, bytes, seq)
}

/// Writes the temporary file, durably.
fn create(directory: &Path, bytes: &[u8]) -> io::Result<File> {
    let path = directory.join(TEMPORARY_FILE);
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o600).open(path)?;
    // Only ahead of need: a file system that cannot reserve room is none the worse.
    let _ =
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, bytes.len() as u64 + REWRITE_LEN_MIN);
    file.write_all_at(bytes, 0)?;
    file.sync_all()?;
    Ok(file)
}

/// Puts the temporary file in the place of the journal; durably once the directory is synced.
fn rename(directory: &Path) -> io::Result<()> {
    fs::rename(directory.join(TEMPORARY_FILE), directory.join(JOURNAL_FILE))
}

fn read(file: &File, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(to - from).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}
