//! What was refused lately, for `ACL LOG`, and how much ever, for `INFO` and metrics.
//!
//! Invariants:
//! - Bounded in number by `acllog-max-len`, and each entry in bytes.
//! - The same refusal again within a minute is counted, not written again: one client cannot push the others out.

use crate::clock::unix_ms;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

/// Time within which the same refusal is the same entry.
const SAME_MS: u64 = 60_000;
/// Latest entries that are looked through for the same refusal.
const SAME_LOOK_MAX: usize = 10;
/// Bytes kept of what was refused.
const OBJECT_LEN_MAX: usize = 256;

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Auth,
    Command,
    Key,
    Channel,
}

impl Reason {
    pub(crate) const ALL: [Self; 4] = [Self::Auth, Self::Command, Self::Key, Self::Channel];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Command => "command",
            Self::Key => "key",
            Self::Channel => "channel",
        }
    }
}

/// One refusal, or several alike.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) number: u64,
    pub(crate) count: u64,
    pub(crate) reason: Reason,
    /// Whether it was in a transaction.
    pub(crate) in_multi: bool,
    pub(crate) object: Vec<u8>,
    pub(crate) user: Vec<u8>,
    pub(crate) client: String,
    pub(crate) created_ms: u64,
    pub(crate) updated_ms: u64,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    latest: VecDeque<Entry>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Log {
    entries: Mutex<Entries>,
    counts: [AtomicU64; Reason::ALL.len()],
}

impl Log {
    /// Something was refused; `client` tells who asked, if it is not known yet.
    pub(crate) fn note(
        &self,
        most: usize,
        (reason, in_multi): (Reason, bool),
        object: &[u8],
        user: &[u8],
        client: impl FnOnce() -> String,
    ) {
        self.counts[reason as usize].fetch_add(1, Ordering::Relaxed);
        let (object, user) = (cut(object), cut(user));
        let now_ms = unix_ms();
        let mut entries = self.entries.lock();
        let alike = entries.latest.iter().take(SAME_LOOK_MAX).position(|entry| {
            now_ms.saturating_sub(entry.updated_ms) <= SAME_MS
                && (entry.reason, entry.in_multi) == (reason, in_multi)
                && (entry.object.as_slice(), entry.user.as_slice()) == (object, user)
        });
        let entry = match alike.and_then(|at| entries.latest.remove(at)) {
            Some(entry) => Entry { count: entry.count + 1, client: client(), updated_ms: now_ms, ..entry },
            None => {
                entries.next += 1;
                Entry {
                    number: entries.next - 1,
                    count: 1,
                    reason,
                    in_multi,
                    object: object.to_vec(),
                    user: user.to_vec(),
                    client: client(),
                    created_ms: now_ms,
                    updated_ms: now_ms,
                }
            }
        };
        entries.latest.push_front(entry);
        entries.latest.truncate(most);
    }

    /// The latest entries, newest first.
    pub(crate) fn latest(&self, most: usize) -> Vec<Entry> {
        self.entries.lock().latest.iter().take(most).cloned().collect()
    }

    /// Forgets the entries. Their numbers go on.
    pub(crate) fn forget(&self) {
        self.entries.lock().latest.clear();
    }

    /// Refusals ever.
    pub(crate) fn count(&self, reason: Reason) -> u64 {
        self.counts[reason as usize].load(Ordering::Relaxed)
    }

    /// Begins to count again.
    pub(crate) fn reset_counts(&self) {
        self.counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
    }
}

fn cut(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(OBJECT_LEN_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_refusal_is_one_entry_and_entries_are_bounded() {
        let log = Log::default();
        let note = |reason, object: &str| {
            log.note(3, (reason, false), object.as_bytes(), b"bob", || "id=1".to_owned());
        };
        for object in ["a", "b", "a", "a"] {
            note(Reason::Key, object);
        }
        note(Reason::Command, "a");
        let told: Vec<_> = log.latest(9).iter().map(|e| (e.reason, e.object.clone(), e.count, e.number)).collect();
        assert_eq!(
            told,
            [
                (Reason::Command, b"a".to_vec(), 1, 2),
                (Reason::Key, b"a".to_vec(), 3, 0),
                (Reason::Key, b"b".to_vec(), 1, 1)
            ]
        );
        note(Reason::Channel, &"x".repeat(5000));
        let latest = log.latest(9);
        assert_eq!((latest.len(), latest[0].object.len()), (3, OBJECT_LEN_MAX));
        assert_eq!(Reason::ALL.map(|reason| log.count(reason)), [0, 1, 4, 1]);
        log.forget();
        assert!(log.latest(9).is_empty());
    }
}
