//! All connected clients, for `CLIENT LIST`, `CLIENT KILL`, limits and time-outs.

use crate::session::ClientInfo;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    next_id: AtomicU64,
    connected: Mutex<BTreeMap<u64, Arc<ClientInfo>>>,
}

impl Clients {
    /// A number that no client had before.
    pub(crate) fn take_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn insert(&self, client: Arc<ClientInfo>) {
        self.connected.lock().insert(client.id, client);
    }

    pub(crate) fn remove(&self, id: u64) {
        self.connected.lock().remove(&id);
    }

    pub(crate) fn get(&self, id: u64) -> Option<Arc<ClientInfo>> {
        self.connected.lock().get(&id).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.connected.lock().len()
    }

    /// In the order they connected.
    pub(crate) fn all(&self) -> Vec<Arc<ClientInfo>> {
        self.connected.lock().values().cloned().collect()
    }

    /// Ends those that ran out of time: `progress_ms` without a byte inside a request or reply, `idle_ms` without a
    /// request (0: never). Returns how many.
    pub(crate) fn reap(&self, now_ms: u64, progress_ms: u64, idle_ms: u64) -> u64 {
        let mut reaped = 0;
        for client in self.connected.lock().values() {
            let progress = client.progress_ms.load(Ordering::Relaxed);
            let stuck = progress != 0 && now_ms.saturating_sub(progress) > progress_ms;
            let idle = idle_ms != 0 && now_ms.saturating_sub(client.active_ms.load(Ordering::Relaxed)) > idle_ms;
            if stuck || idle {
                client.kill();
                reaped += 1;
            }
        }
        reaped
    }
}
