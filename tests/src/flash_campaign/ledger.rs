//! What may be found under each key, by what was sent and what was answered.
//!
//! Invariants:
//! - A key has one writer, so its versions are in order. Version 0 was never written.
//! - What was sent and not answered may have happened or not; so may what was refused.

use super::Found;
use crate::payload;
use crate::raw::{Raw, Value};
use anyhow::{Context as _, bail, ensure};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Before a power cut, deletions and replacements of so much time may be undone: the journal is synced every 50 ms, later
/// on a busy disk.
pub const JOURNAL_WINDOW: Duration = Duration::from_secs(2);

/// The keys.
#[derive(Debug)]
pub struct Ledger {
    name: String,
    entries: Vec<Mutex<Entry>>,
}

/// What was done to one key.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// Highest version that was sent.
    top: u64,
    /// Lowest version that may be found, and since when; those of before, oldest first, as far as they matter.
    floors: VecDeque<(Instant, u64)>,
    /// Acknowledged as durable, and not touched since.
    durable: bool,
}

impl Entry {
    /// Lowest version that may be found, if power was cut at `cut`.
    fn floor(&self, cut: Option<Instant>) -> u64 {
        let sure = |&&(since, _): &&(Instant, u64)| {
            cut.is_none_or(|cut| cut.checked_duration_since(since).is_some_and(|ago| ago >= JOURNAL_WINDOW))
        };
        self.floors.iter().rev().find(sure).map_or(0, |&(_, floor)| floor)
    }

    fn raise(&mut self, floor: u64) {
        let now = Instant::now();
        self.floors.push_back((now, floor));
        // One that is old enough for every cut to come is enough.
        while self.floors.get(1).is_some_and(|(since, _)| now - *since > JOURNAL_WINDOW) {
            self.floors.pop_front();
        }
    }

    /// Begins to write or to delete. The version to write.
    pub fn send(&mut self) -> u64 {
        self.top += 1;
        self.durable = false;
        self.top
    }

    /// The write of this version was acknowledged.
    pub fn wrote(&mut self, version: u64, durable: bool) {
        if durable {
            // All before it is settled with it, even by a power cut at once.
            self.floors.clear();
            let long_ago = Instant::now().checked_sub(JOURNAL_WINDOW * 2).unwrap_or_else(Instant::now);
            self.floors.push_back((long_ago, version));
        } else {
            self.raise(version);
        }
        self.durable = durable;
    }

    /// The deletion was acknowledged: no version sent so far may be found.
    pub fn deleted(&mut self) {
        self.raise(self.top + 1);
    }

    /// Checks a version that was read.
    ///
    /// # Errors
    /// If it may not be found. `Ok(false)`: it was once there, but was replaced or deleted.
    pub fn check(&self, version: u64, cut: Option<Instant>) -> anyhow::Result<bool> {
        ensure!(version <= self.top, "version {version} was never written, the last is {}", self.top);
        Ok(version >= self.floor(cut))
    }
}

impl Ledger {
    /// Of `count` keys that begin with `name`.
    pub fn new(name: &str, count: usize) -> Self {
        Self { name: name.to_owned(), entries: (0..count).map(|_| Mutex::default()).collect() }
    }

    /// How many keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The key of this number.
    pub fn key(&self, number: usize) -> Vec<u8> {
        format!("{}:{number}", self.name).into_bytes()
    }

    /// From now on what was durable so far may go: flash is a cache, and reuses its oldest segment.
    pub fn forget_durable(&self) {
        for number in 0..self.len() {
            self.with(number, |entry| entry.durable = false);
        }
    }

    /// What is known of it.
    ///
    /// # Panics
    /// If somebody panicked with it.
    pub fn with<R>(&self, number: usize, act: impl FnOnce(&mut Entry) -> R) -> R {
        act(&mut self.entries[number].lock().expect("nobody panics with an entry"))
    }

    /// Reads a key, which nobody writes meanwhile, and proves what is found.
    ///
    /// # Errors
    /// With wrong bytes, or if the server does not answer.
    pub fn look(&self, raw: &mut Raw, number: usize, cut: Option<Instant>) -> anyhow::Result<Found> {
        let key = self.key(number);
        let answer = raw.try_ask(&[&b"GET"[..], &key]).context("GET after the fault")?;
        self.with(number, |entry| {
            let mut found = Found { durable: u64::from(entry.durable), ..Found::default() };
            match answer {
                Value::Nil => found.durable_lost = found.durable,
                Value::Bulk(bytes) => {
                    let version =
                        payload::check(&key, &bytes).map_err(|wrong| anyhow::anyhow!("WRONG BYTES: {wrong}"))?;
                    let fresh =
                        entry.check(version, cut).with_context(|| String::from_utf8_lossy(&key).into_owned())?;
                    found.there = 1;
                    found.stale = u64::from(!fresh);
                    found.proved = bytes.len() as u64;
                    if !fresh {
                        eprintln!("stale: {} has version {version}: {entry:?}", String::from_utf8_lossy(&key));
                    }
                }
                other => bail!("GET of {} answered {other:?}", String::from_utf8_lossy(&key)),
            }
            Ok(found)
        })
    }

    /// What a power cut may have brought back is what is there from now on.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    pub fn accept(&self, raw: &mut Raw) -> anyhow::Result<()> {
        for number in 0..self.len() {
            let answer = raw.try_ask(&[&b"GET"[..], &self.key(number)])?;
            let Value::Bulk(bytes) = answer else { continue };
            let version = payload::check(&self.key(number), &bytes).map_err(|wrong| anyhow::anyhow!("{wrong}"))?;
            self.with(number, |entry| {
                entry.floors.clear();
                entry.floors.push_back((Instant::now(), version));
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_replaced_or_deleted_may_not_come_back() {
        let mut entry = Entry::default();
        assert!(entry.check(1, None).is_err(), "never sent");
        let first = entry.send();
        assert!(entry.check(first, None).expect("sent"), "in doubt");
        entry.wrote(first, false);
        let second = entry.send();
        assert!(entry.check(first, None).expect("sent") && entry.check(second, None).expect("sent"));
        entry.wrote(second, false);
        assert!(!entry.check(first, None).expect("sent"), "replaced");
        assert!(entry.check(first, Some(Instant::now())).expect("sent"), "replaced just before the cut");
        let late = Some(Instant::now() + JOURNAL_WINDOW);
        assert!(!entry.check(first, late).expect("sent"), "replaced long before the cut");
        let third = entry.send();
        entry.wrote(third, true);
        assert!(!entry.check(second, Some(Instant::now())).expect("sent"), "a durable write settles");
        entry.send();
        entry.deleted();
        assert!(!entry.check(third, None).expect("sent") && !entry.check(third + 1, None).expect("sent"));
    }
}
