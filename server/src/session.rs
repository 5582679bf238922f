//! What a client has with us: who it is, what it was lent, what dies with it.
//!
//! Invariants:
//! - Leases and grants belong to a [`Bond`]; when its first connection ends, all of them end, and with them every bulk
//!   connection and ring that the bond opened.
//! - Descriptors and tokens are credentials: they are never logged.

use crate::acl::user::User;
use crate::handler::alone::Watched;
use crate::handler::multi::Queue;
use crate::handler::pubsub::Listening;
use crate::node::Node;
use crate::pubsub::Subscribed;
use parking_lot::Mutex;
use protocol::base::{GrantId, Instant, Millis, SessionId};
use protocol::command::Access;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use storage::Account;
use tokio::task::AbortHandle;
use transport::shm::PeerBuffer;
use transport::tcp::frame::Token;

/// What the connections of one client share.
#[derive(Debug)]
pub(crate) struct Bond {
    pub(crate) id: SessionId,
    pub(crate) account: Arc<Account>,
    /// Whether it was ever lent anything: if not, there is nothing to look for at its end.
    lent: AtomicBool,
    closed: AtomicBool,
    /// Bulk connections and rings that end with it.
    tasks: Mutex<Vec<AbortHandle>>,
    /// Client-owned memory that `FROM fd` names.
    buffers: Mutex<Vec<Arc<PeerBuffer>>>,
    shm: AtomicBool,
    /// Whether leases over shared memory are answered as records.
    compact: AtomicBool,
    token: Mutex<Option<Token>>,
    rdma: AtomicBool,
    /// Grants whose commit is answered when it is on flash, and when they were given.
    durable: Mutex<HashMap<GrantId, Instant>>,
    /// Whether there ever was one.
    has_durable: AtomicBool,
    /// Whether its client came over TLS: then its bulk connections do too.
    pub(crate) secure: bool,
}

/// Durable grants that are remembered before old ones are forgotten.
const DURABLE_MAX: usize = 1024;
/// Time after which the commit of a grant is not repeated any more: grants last a minute at most, answers ten.
const DURABLE_MEMORY: Millis = Millis(11 * 60_000);

impl Bond {
    pub(crate) fn new(id: SessionId, secure: bool) -> Arc<Self> {
        Arc::new(Self {
            id,
            account: Account::new(),
            lent: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            tasks: Mutex::new(Vec::new()),
            buffers: Mutex::new(Vec::new()),
            shm: AtomicBool::new(false),
            compact: AtomicBool::new(false),
            token: Mutex::new(None),
            rdma: AtomicBool::new(false),
            durable: Mutex::new(HashMap::new()),
            has_durable: AtomicBool::new(false),
            secure,
        })
    }

    /// The commit of this grant is to be answered when it is on flash.
    pub(crate) fn note_durable(&self, grant: GrantId, now: Instant) {
        self.has_durable.store(true, Ordering::Relaxed);
        let mut durable = self.durable.lock();
        if durable.len() >= DURABLE_MAX && durable.len().is_power_of_two() {
            durable.retain(|_, given| *given + DURABLE_MEMORY > now);
        }
        durable.insert(grant, now);
    }

    pub(crate) fn is_durable(&self, grant: GrantId) -> bool {
        self.has_durable.load(Ordering::Relaxed) && self.durable.lock().contains_key(&grant)
    }

    /// Notes that a lease or grant was given.
    pub(crate) fn lend(&self) {
        if !self.lent.load(Ordering::Relaxed) {
            self.lent.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// A task that ends with the bond. If the bond has ended, the task does at once.
    pub(crate) fn adopt(&self, task: AbortHandle) {
        let mut tasks = self.tasks.lock();
        if self.is_closed() {
            task.abort();
            return;
        }
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    pub(crate) fn has_shm(&self) -> bool {
        self.shm.load(Ordering::Relaxed)
    }

    pub(crate) fn attach_shm(&self, buffers: Vec<PeerBuffer>, compact: bool) {
        self.buffers.lock().extend(buffers.into_iter().map(Arc::new));
        self.compact.store(compact, Ordering::Relaxed);
        self.shm.store(true, Ordering::Relaxed);
    }

    /// Whether leases over shared memory are answered as records.
    pub(crate) fn is_compact(&self) -> bool {
        self.compact.load(Ordering::Relaxed)
    }

    pub(crate) fn buffer(&self, index: usize) -> Option<Arc<PeerBuffer>> {
        self.buffers.lock().get(index).cloned()
    }

    pub(crate) fn buffer_count(&self) -> usize {
        self.buffers.lock().len()
    }

    pub(crate) fn has_rdma(&self) -> bool {
        self.rdma.load(Ordering::Relaxed)
    }

    pub(crate) fn attach_rdma(&self) {
        self.rdma.store(true, Ordering::Relaxed);
    }

    /// The token of the bulk session, if there is one.
    pub(crate) fn token(&self) -> Option<Token> {
        *self.token.lock()
    }

    pub(crate) fn set_token(&self, token: Option<Token>) {
        *self.token.lock() = token;
    }

    /// Ends bulk connections and rings; the client keeps its leases and grants.
    pub(crate) fn detach(&self, node: &Node) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        self.buffers.lock().clear();
        if self.shm.swap(false, Ordering::Relaxed)
            && let Some(arena) = &node.arena
        {
            arena.close(self.id);
        }
        if let Some(token) = self.token.lock().take() {
            node.bulk.forget(token);
        }
        if self.rdma.swap(false, Ordering::Relaxed) {
            node.rdma.close(self.id);
        }
    }

    /// Ends everything.
    pub(crate) fn close(&self, node: &Node) {
        {
            let _tasks = self.tasks.lock();
            self.closed.store(true, Ordering::Release);
        }
        self.detach(node);
        if self.lent.load(Ordering::Relaxed) {
            node.store.end_session(self.id);
        }
    }
}

/// `CLIENT REPLY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum ReplyMode {
    #[default]
    On,
    Off,
    /// The command after this one gets no reply.
    SkipNext,
}

/// What other connections may know of a client, and how they end it.
#[derive(Debug)]
pub(crate) struct ClientInfo {
    pub(crate) id: u64,
    pub(crate) addr: String,
    pub(crate) laddr: String,
    pub(crate) fd: i32,
    /// When it connected and last did something, in milliseconds of the node's clock.
    pub(crate) since_ms: u64,
    pub(crate) active_ms: AtomicU64,
    /// Since when a request or reply is under way, 0 if none is; renewed with every byte.
    pub(crate) progress_ms: AtomicU64,
    pub(crate) last_command: AtomicU64,
    pub(crate) commands: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    /// Bytes of replies that wait.
    pub(crate) pending: AtomicU64,
    /// Bytes of a request that is not whole yet.
    pub(crate) buffered: AtomicU64,
    /// Bytes of commands queued by `MULTI`, how many, and since when one of them holds a slot (0: none does).
    pub(crate) queued: AtomicU64,
    pub(crate) multi: AtomicI64,
    /// Bytes of messages that wait, and how many channels (high half) and patterns it listens to.
    pub(crate) posted: AtomicU64,
    pub(crate) subscribed: Subscribed,
    /// Keys that it watches.
    pub(crate) watched: AtomicU64,
    pub(crate) held_since_ms: AtomicU64,
    pub(crate) resp3: AtomicBool,
    pub(crate) no_evict: AtomicBool,
    /// Its reads do not count as use.
    pub(crate) no_touch: AtomicBool,
    pub(crate) words: Mutex<ClientWords>,
    /// Whether it may everything: all that its commands look at. Set with `login`.
    free: AtomicBool,
    /// The user that it is, once it has said so or need not.
    login: Mutex<Option<Arc<User>>>,
    /// What it was lent.
    bond: OnceLock<Weak<Bond>>,
    /// The task that serves it, and how many served it before.
    task: Mutex<Option<(u64, AbortHandle)>>,
    /// Of a ring: the socket it was made on, which ends with it.
    owner: Option<Arc<ClientInfo>>,
    pub(crate) worker: AtomicU64,
    /// Whether it moves large values: such connections are spread over the workers.
    pub(crate) bulky: AtomicBool,
    killed: AtomicBool,
}

/// What a client says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientWords {
    pub(crate) name: String,
    pub(crate) lib_name: String,
    pub(crate) lib_ver: String,
}

impl ClientInfo {
    pub(crate) fn new(id: u64, addr: String, laddr: String, fd: i32, now_ms: u64) -> Arc<Self> {
        Arc::new(Self::made(id, addr, laddr, fd, now_ms))
    }

    /// A ring that was made on the socket of `owner`.
    pub(crate) fn ring(id: u64, owner: &Arc<Self>, now_ms: u64) -> Arc<Self> {
        let made = Self::made(id, format!("ring:{}", owner.id), owner.laddr.clone(), -1, now_ms);
        Arc::new(Self { owner: Some(Arc::clone(owner)), ..made })
    }

    fn made(id: u64, addr: String, laddr: String, fd: i32, now_ms: u64) -> Self {
        Self {
            id,
            addr,
            laddr,
            fd,
            since_ms: now_ms,
            active_ms: AtomicU64::new(now_ms),
            progress_ms: AtomicU64::new(0),
            last_command: AtomicU64::new(u64::MAX),
            commands: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            buffered: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            multi: AtomicI64::new(-1),
            posted: AtomicU64::new(0),
            subscribed: Subscribed::default(),
            watched: AtomicU64::new(0),
            held_since_ms: AtomicU64::new(0),
            resp3: AtomicBool::new(false),
            no_evict: AtomicBool::new(false),
            no_touch: AtomicBool::new(false),
            words: Mutex::new(ClientWords::default()),
            free: AtomicBool::new(false),
            login: Mutex::new(None),
            bond: OnceLock::new(),
            task: Mutex::new(None),
            owner: None,
            worker: AtomicU64::new(0),
            bulky: AtomicBool::new(false),
            killed: AtomicBool::new(false),
        }
    }

    /// Whether it may everything.
    #[inline]
    pub(crate) fn is_free(&self) -> bool {
        self.free.load(Ordering::Relaxed)
    }

    /// The user that it is.
    pub(crate) fn user(&self) -> Option<Arc<User>> {
        self.login.lock().clone()
    }

    /// Makes it that user, or nobody. Called with the users locked, which else change meanwhile.
    pub(crate) fn become_user(&self, user: Option<Arc<User>>) {
        let mut login = self.login.lock();
        self.free.store(user.as_ref().is_some_and(|user| user.is_free()), Ordering::Relaxed);
        *login = user;
    }

    /// Whether it may know of this key.
    pub(crate) fn may_know_of(&self, key: &[u8]) -> bool {
        self.may(key, Access::empty())
    }

    /// Whether it may do this to a key. One that may everything is asked nothing. Asked again of what was just lent: who takes
    /// rights away ends only what was lent by then.
    pub(crate) fn may(&self, key: &[u8], access: Access) -> bool {
        self.is_free() || self.user().is_some_and(|user| user.may(key, access))
    }

    /// What was lent to it, and to others of the same client.
    pub(crate) fn bond(&self) -> Option<Arc<Bond>> {
        self.bond.get()?.upgrade()
    }

    /// It holds what this one was lent.
    pub(crate) fn bind(&self, bond: &Arc<Bond>) {
        let bound = self.bond.set(Arc::downgrade(bond));
        assert!(bound.is_ok(), "a client has one bond");
    }

    /// The task that serves it after `moves` others. They may say so in any order: the last one counts.
    pub(crate) fn served_by(&self, moves: u64, task: AbortHandle) {
        let mut held = self.task.lock();
        if self.killed.load(Ordering::Acquire) {
            task.abort();
        }
        if held.as_ref().is_none_or(|(before, _)| *before <= moves) {
            *held = Some((moves, task));
        }
    }

    /// Bytes that it makes the server hold.
    pub(crate) fn held(&self) -> u64 {
        [&self.pending, &self.buffered, &self.queued, &self.posted]
            .iter()
            .map(|bytes| bytes.load(Ordering::Relaxed))
            .sum()
    }

    /// Whether it was ended, and may not know it yet.
    pub(crate) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    /// Ends it, wherever it is served; a ring with its socket, where its client would otherwise wait for ever.
    pub(crate) fn kill(&self) {
        {
            let task = self.task.lock();
            self.killed.store(true, Ordering::Release);
            if let Some((_, task)) = &*task {
                task.abort();
            }
        }
        if let Some(owner) = &self.owner {
            owner.kill();
        }
    }
}

/// One RESP connection's state.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) node: Arc<Node>,
    pub(crate) bond: Arc<Bond>,
    pub(crate) client: Arc<ClientInfo>,
    /// Whether it may run more than `AUTH`, `HELLO`, `PING` and `QUIT`.
    pub(crate) authenticated: bool,
    pub(crate) reply_mode: ReplyMode,
    /// What was queued since `MULTI`.
    pub(crate) multi: Option<Box<Queue>>,
    /// What `EXEC` has to find unchanged.
    pub(crate) watched: Vec<(Box<[u8]>, Watched)>,
    /// What it listens to.
    pub(crate) listening: Option<Box<Listening>>,
    /// A ring ends with the Unix socket that it was made on, and does not end the bond.
    pub(crate) owns_bond: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop_listening();
        self.node.clients.remove(self.client.id);
        if self.owns_bond {
            self.bond.close(&self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn for_ever() {
        std::future::pending().await
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_client_is_ended_in_the_task_that_serves_it_last() {
        let client = ClientInfo::new(1, "a".into(), "b".into(), 3, 0);
        let (first, second) = (tokio::spawn(for_ever()), tokio::spawn(for_ever()));
        // The one that it moved to may be known before the one that it came from.
        client.served_by(1, second.abort_handle());
        client.served_by(0, first.abort_handle());
        client.kill();
        assert!(second.await.expect_err("ended").is_cancelled());
        let third = tokio::spawn(for_ever());
        client.served_by(2, third.abort_handle());
        assert!(third.await.expect_err("a killed client moves nowhere").is_cancelled());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_ring_is_ended_with_its_socket() {
        let socket = ClientInfo::new(1, "a".into(), "b".into(), 3, 0);
        let ring = ClientInfo::ring(2, &socket, 0);
        let task = tokio::spawn(for_ever());
        socket.served_by(0, task.abort_handle());
        ring.kill();
        assert!(task.await.expect_err("ended").is_cancelled());
    }
}
