//! What a client has with us: who it is, what it was lent, what dies with it.
//!
//! Invariants:
//! - Leases and grants belong to a [`Bond`]; when its first connection ends, all of them end, and with them every bulk
//!   connection and ring that the bond opened.
//! - Descriptors and tokens are credentials: they are never logged.

use crate::node::Node;
use parking_lot::Mutex;
use protocol::base::SessionId;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    token: Mutex<Option<Token>>,
}

impl Bond {
    pub(crate) fn new(id: SessionId) -> Arc<Self> {
        Arc::new(Self {
            id,
            account: Account::new(),
            lent: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            tasks: Mutex::new(Vec::new()),
            buffers: Mutex::new(Vec::new()),
            shm: AtomicBool::new(false),
            token: Mutex::new(None),
        })
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

    pub(crate) fn attach_shm(&self, buffers: Vec<PeerBuffer>) {
        self.buffers.lock().extend(buffers.into_iter().map(Arc::new));
        self.shm.store(true, Ordering::Relaxed);
    }

    pub(crate) fn buffer(&self, index: usize) -> Option<Arc<PeerBuffer>> {
        self.buffers.lock().get(index).cloned()
    }

    pub(crate) fn buffer_count(&self) -> usize {
        self.buffers.lock().len()
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
    pub(crate) resp3: AtomicBool,
    pub(crate) no_evict: AtomicBool,
    /// Its reads do not count as use.
    pub(crate) no_touch: AtomicBool,
    pub(crate) words: Mutex<ClientWords>,
    task: Mutex<Option<AbortHandle>>,
    pub(crate) worker: AtomicU64,
    /// Whether it moves large values: such connections are spread over the workers.
    pub(crate) bulky: AtomicBool,
    pub(crate) killed: AtomicBool,
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
        Arc::new(Self {
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
            resp3: AtomicBool::new(false),
            no_evict: AtomicBool::new(false),
            no_touch: AtomicBool::new(false),
            words: Mutex::new(ClientWords::default()),
            task: Mutex::new(None),
            worker: AtomicU64::new(0),
            bulky: AtomicBool::new(false),
            killed: AtomicBool::new(false),
        })
    }

    /// The task that serves it now.
    pub(crate) fn served_by(&self, task: AbortHandle) {
        let mut held = self.task.lock();
        if self.killed.load(Ordering::Acquire) {
            task.abort();
        }
        *held = Some(task);
    }

    /// Ends it, wherever it is served.
    pub(crate) fn kill(&self) {
        let task = self.task.lock();
        self.killed.store(true, Ordering::Release);
        if let Some(task) = &*task {
            task.abort();
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
    /// A ring ends with the Unix socket that it was made on, and does not end the bond.
    pub(crate) owns_bond: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.node.clients.remove(self.client.id);
        if self.owns_bond {
            self.bond.close(&self.node);
        }
    }
}
