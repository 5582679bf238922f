//! The metadata store on sled 0.34.
//!
//! Role: one thread owns the database and does everything with it; callers send it what to do and wait for answers until a
//! deadline. What was measured of sled, and led here, stands in `docs/decisions/panics-of-sled.md`.
//!
//! Invariants:
//! - Changes are flushed in small batches, then the files and directories are synced by us: sled's own flush never does.
//! - A database that does not open, or panics later, is moved aside and begun anew; it is kept for whoever wants to know why,
//!   one of them. After a few times the store is off.
//! - A database that panicked is never touched again, not even dropped.

use super::guard::guarded;
use super::{MetaState, MetaStatus, MetaStore};
use crate::flash::format::DeviceId;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Changes that make a batch.
const BATCH_MAX: usize = 64;
/// A smaller batch waits so long for more.
const BATCH_WAIT: Duration = Duration::from_millis(500);
/// What may wait for the thread.
const QUEUE_MAX: usize = 256;
/// Times that a database is begun anew before the store is off.
const RESTARTS_MAX: u32 = 3;
const DATABASE: &str = "sled";
const ASIDE: &str = "sled.damaged";

/// How to open the store.
#[derive(Clone, Copy, Debug)]
pub struct SledOptions {
    /// Bytes of memory that sled may use for what it read.
    pub cache_len: u64,
    /// How long a caller waits for an answer, opening included. Then the store is off.
    pub patience: Duration,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self { cache_len: 64 << 20, patience: Duration::from_secs(20) }
    }
}

/// The store. Dropping it writes what is waiting.
#[derive(Debug)]
pub struct SledStore {
    queue: Mutex<Option<SyncSender<Work>>>,
    shared: Arc<Shared>,
    ended: Mutex<Receiver<()>>,
    patience: Duration,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    cache_len: u64,
    state: Mutex<MetaState>,
    changes: AtomicU64,
    dropped: AtomicU64,
}

type Key = [u8; 20];

enum Work {
    Put(Key, Vec<u8>),
    Remove(Key),
    Get(Key, SyncSender<Option<Vec<u8>>>),
    Sync(SyncSender<bool>),
}

impl SledStore {
    /// Opens the database in a directory, which nobody else uses, or begins a new one.
    ///
    /// # Errors
    /// Only if no thread can be started. A store that is of no use is off, and says so.
    pub fn open(directory: &Path, options: SledOptions) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            cache_len: options.cache_len,
            state: Mutex::new(MetaState::Working),
            changes: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let (queue, work) = sync_channel(QUEUE_MAX);
        let (end, ended) = sync_channel(1);
        std::thread::Builder::new().name("meta".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                shared.run(&work);
                // Nobody may be waiting any more.
                let _ = end.send(());
            }
        })?;
        let store =
            Self { queue: Mutex::new(Some(queue)), shared, ended: Mutex::new(ended), patience: options.patience };
        // Also waits until it is open.
        store.sync();
        Ok(store)
    }

    /// Hands `work` to the thread if it has room for it.
    fn change(&self, work: Work) {
        let queue = self.queue.lock();
        let counter = match queue.as_ref().map(|queue| queue.try_send(work)) {
            Some(Ok(())) => &self.shared.changes,
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => &self.shared.dropped,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks the thread and waits for its answer.
    fn ask<T>(&self, work: impl FnOnce(SyncSender<T>) -> Work) -> Option<T> {
        let (answer, answered) = sync_channel(1);
        let queue = self.queue.lock().clone()?;
        let until = Instant::now() + self.patience;
        let mut work = work(answer);
        loop {
            match queue.try_send(work) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if Instant::now() < until => {
                    work = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(TrySendError::Full(_)) => return self.give_up("it does not answer"),
                Err(TrySendError::Disconnected(_)) => return None,
            }
        }
        match answered.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(answer) => Some(answer),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => self.give_up("it does not answer"),
        }
    }

    fn give_up<T>(&self, why: &str) -> Option<T> {
        *self.queue.lock() = None;
        self.shared.off(why);
        None
    }
}

impl MetaStore for SledStore {
    fn put(&self, device: DeviceId, segment: u32, footer: Vec<u8>) {
        self.change(Work::Put(key(device, segment), footer));
    }

    fn remove(&self, device: DeviceId, segment: u32) {
        self.change(Work::Remove(key(device, segment)));
    }

    fn get(&self, device: DeviceId, segment: u32) -> Option<Vec<u8>> {
        self.ask(|answer| Work::Get(key(device, segment), answer)).flatten()
    }

    fn sync(&self) -> bool {
        self.ask(Work::Sync).unwrap_or(false)
    }

    fn status(&self) -> MetaStatus {
        MetaStatus {
            state: self.shared.state.lock().clone(),
            changes: self.shared.changes.load(Ordering::Relaxed),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
        }
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        if self.queue.lock().take().is_some() && self.ended.lock().recv_timeout(self.patience).is_err() {
            tracing::warn!("the metadata store does not end; it is left behind");
        }
    }
}

/// How the thread's use of one database ended.
enum End {
    /// The store was closed.
    Closed,
    /// An error of sled or of the disk.
    Failed(String),
}

impl Shared {
    fn off(&self, why: &str) {
        tracing::error!("the metadata store is off, starts will read all footers: {why}");
        *self.state.lock() = MetaState::Off { why: why.to_owned() };
    }

    /// The thread: serves one database after another, until the store is closed or too many have failed.
    fn run(&self, work: &Receiver<Work>) {
        for _ in 0..=RESTARTS_MAX {
            let why = match self.open() {
                Ok(database) => match guarded(|| serve(&database, &self.database(), work)) {
                    Ok(End::Closed) => {
                        let _ = guarded(move || drop(database));
                        return;
                    }
                    Ok(End::Failed(why)) | Err(why) => {
                        // Whatever it would do now, it would do with what has just failed.
                        std::mem::forget(database);
                        why
                    }
                },
                Err(why) => why,
            };
            if let Err(error) = self.move_aside() {
                return self.off(&format!("{why}; and it cannot be moved aside: {error}"));
            }
            tracing::warn!("the metadata store was moved to {ASIDE} and is begun anew: {why}");
            *self.state.lock() = MetaState::Rebuilt { why };
        }
        self.off("it failed too often");
    }

    fn database(&self) -> PathBuf {
        self.directory.join(DATABASE)
    }

    fn open(&self) -> Result<sled::Db, String> {
        let path = self.database();
        let open = || {
            sled::Config::new()
                .path(&path)
                .cache_capacity(self.cache_len)
                .flush_every_ms(None)
                .open()
                .map_err(|error| error.to_string())
        };
        let first = guarded(open).and_then(|opened| opened);
        // A damaged snapshot makes it fail although the log, from which it was made, is whole.
        if first.is_err() && remove_snapshots(&path) {
            return guarded(open).and_then(|opened| opened);
        }
        first
    }

    fn move_aside(&self) -> io::Result<()> {
        let aside = self.directory.join(ASIDE);
        match fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match fs::rename(self.database(), aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn remove_snapshots(path: &Path) -> bool {
    let Ok(entries) = fs::read_dir(path) else { return false };
    let snapshots =
        entries.filter_map(Result::ok).filter(|entry| entry.file_name().to_string_lossy().starts_with("snap."));
    snapshots.filter(|entry| fs::remove_file(entry.path()).is_ok()).count() > 0
}

fn serve(database: &sled::Db, path: &Path, work: &Receiver<Work>) -> End {
    match serve_until_closed(database, path, work) {
        Ok(()) => End::Closed,
        Err(error) => End::Failed(error.to_string()),
    }
}

/// Does what comes until the store is closed.
fn serve_until_closed(database: &sled::Db, path: &Path, work: &Receiver<Work>) -> io::Result<()> {
    let mut files = Files { path: path.to_owned(), synced: HashSet::new() };
    // Changes that are not durable yet, and when they are to be.
    let (mut changed, mut due) = (0, None::<Instant>);
    loop {
        let next = match due {
            None => work.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => work.recv_timeout(due.saturating_duration_since(Instant::now())),
        };
        let (mut flush, mut asked) = (false, None);
        let closed = matches!(next, Err(RecvTimeoutError::Disconnected));
        match next {
            Ok(Work::Put(key, footer)) => {
                database.insert(key, footer)?;
                changed += 1;
            }
            Ok(Work::Remove(key)) => {
                database.remove(key)?;
                changed += 1;
            }
            Ok(Work::Get(key, answer)) => {
                let found = database.get(key)?.map(|found| found.to_vec());
                // Whoever asked may have stopped waiting; so below.
                let _ = answer.send(found);
            }
            Ok(Work::Sync(answer)) => {
                flush = true;
                asked = Some(answer);
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => flush = true,
        }
        if changed > 0 {
            let due_at = *due.get_or_insert_with(|| Instant::now() + BATCH_WAIT);
            if flush || changed >= BATCH_MAX || Instant::now() >= due_at {
                database.flush()?;
                files.sync()?;
                (changed, due) = (0, None);
            }
        }
        if let Some(answer) = asked {
            let _ = answer.send(true);
        }
        if closed {
            return Ok(());
        }
    }
}

/// The files of a database, made durable.
struct Files {
    path: PathBuf,
    /// Files that never change after they were written, and were synced.
    synced: HashSet<OsString>,
}

impl Files {
    fn sync(&mut self) -> io::Result<()> {
        File::open(self.path.join("db"))?.sync_data()?;
        // Long values lie in files of their own, which sled writes once and may remove at any time.
        let blobs = self.path.join("blobs");
        if blobs.is_dir() {
            let mut present = HashSet::new();
            for entry in fs::read_dir(&blobs)? {
                let name = entry?.file_name();
                if !self.synced.contains(&name) {
                    match File::open(blobs.join(&name)).and_then(|file| file.sync_data()) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        outcome => outcome?,
                    }
                }
                present.insert(name);
            }
            self.synced = present;
            File::open(&blobs)?.sync_all()?;
        }
        File::open(&self.path)?.sync_all()
    }
}

fn key(device: DeviceId, segment: u32) -> Key {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&device.0);
    key[16..].copy_from_slice(&segment.to_be_bytes());
    key
}
