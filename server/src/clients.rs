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

    /// Starts the time for progress of all of them again: it was we who did nothing.
    pub(crate) fn forgive(&self, now_ms: u64) {
        for client in self.connected.lock().values() {
            let progress = &client.progress_ms;
            // One that is not inside a request stays so, also if it changes meanwhile.
            let _ = progress
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |since| (since != 0).then_some(now_ms.max(1)));
        }
    }

    /// Ends those that make the server hold most, until what all of them make it hold is within the bound. Returns how
    /// many.
    pub(crate) fn bound(&self, bytes_max: u64) -> u64 {
        let mut held: Vec<(u64, Arc<ClientInfo>)> = Vec::new();
        let mut sum = 0;
        for client in self.connected.lock().values() {
            let bytes = client.held();
            // What those hold that were ended before is about to be free.
            if bytes > 0 && !client.is_killed() {
                sum += bytes;
                held.push((bytes, Arc::clone(client)));
            }
        }
        if sum <= bytes_max {
            return 0;
        }
        held.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let (before, mut ended) = (sum, 0);
        for (bytes, client) in held {
            if sum <= bytes_max {
                break;
            }
            client.kill();
            sum -= bytes;
            ended += 1;
        }
        tracing::warn!(
            "requests and replies that wait took {before} of {bytes_max} bytes: {ended} clients were closed"
        );
        ended
    }

    /// Ends those that ran out of time: `progress_ms` without a byte inside a request or reply, `idle_ms` without a
    /// request (0: never), `held_ms` with a slot in a transaction. Returns how many.
    pub(crate) fn reap(&self, now_ms: u64, progress_ms: u64, idle_ms: u64, held_ms: u64) -> u64 {
        let mut reaped = 0;
        for client in self.connected.lock().values() {
            let progress = client.progress_ms.load(Ordering::Relaxed);
            let stuck = progress != 0 && now_ms.saturating_sub(progress) > progress_ms;
            let idle = idle_ms != 0 && now_ms.saturating_sub(client.active_ms.load(Ordering::Relaxed)) > idle_ms;
            let held = client.held_since_ms.load(Ordering::Relaxed);
            let held = held != 0 && now_ms.saturating_sub(held) > held_ms;
            if (stuck || idle || held) && !client.is_killed() {
                client.kill();
                reaped += 1;
            }
        }
        reaped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(clients: &Clients, pending: u64, buffered: u64, progress_ms: u64) -> Arc<ClientInfo> {
        let client = ClientInfo::new(clients.take_id(), "a".into(), "b".into(), 3, 0);
        client.pending.store(pending, Ordering::Relaxed);
        client.buffered.store(buffered, Ordering::Relaxed);
        client.progress_ms.store(progress_ms, Ordering::Relaxed);
        clients.insert(Arc::clone(&client));
        client
    }

    #[test]
    fn those_that_hold_most_are_ended_first_and_no_more_than_needed() {
        let clients = Clients::default();
        let all = [client(&clients, 10, 0, 0), client(&clients, 500, 1, 0), client(&clients, 0, 400, 0)];
        let killed = || all.each_ref().map(|client| client.is_killed());
        assert_eq!(clients.bound(911), 0);
        assert_eq!(killed(), [false; 3]);
        assert_eq!(clients.bound(410), 1);
        assert_eq!(killed(), [false, true, false]);
    }

    #[test]
    fn time_is_for_those_inside_a_request_and_is_given_back() {
        let clients = Clients::default();
        let (inside, idle) = (client(&clients, 0, 0, 1000), client(&clients, 0, 0, 0));
        assert_eq!(clients.reap(6000, 5000, 0, 0), 0);
        clients.forgive(9000);
        assert_eq!(clients.reap(14_000, 5000, 0, 0), 0);
        assert_eq!(clients.reap(14_001, 5000, 0, 0), 1);
        assert!(inside.is_killed() && !idle.is_killed());
    }
}
