//! RDMA as a way of moving bytes: windows for peers, pushes and pulls by ourselves.
//!
//! Role: the [`Transport`] that the server lends through. One thread takes the completions of a device and sleeps when there
//! are none; another destroys what broke, so that nobody waits for that.
//!
//! Invariants:
//! - A window answers [`Fence::Done`] when its key was invalidated and the device has said so, or when it and its queue pair
//!   are destroyed; never because time has passed.
//! - What is lent is locked before a peer; all other locks are taken one at a time, and none is held while somebody is told
//!   how something ended.

use super::device::Device;
use super::link::PIECE_LEN_MAX;
use super::peer::{Broken, Done, News, Peer, Wanted};
use super::verbs::{
    Channel, CompletionQueue, Endpoint, MemoryWindow, QueuePair, QueueTerms, Region, Remote, RemoteAccess, Status,
};
use super::windows::{Keyed, WindowPool};
use crate::contract::{Access, Fence, Span, Transport, TransportError, Window, WindowId};
use crate::region::Regions;
use parking_lot::{Condvar, Mutex, RwLock};
use protocol::base::{RawSpan, SegmentId, SessionId, StableMemory, Via};
use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Receives posted on our side: a peer's mistake flushes them, which is how we learn of it.
const RECEIVES: u32 = 4;

/// Whether peers are lent windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowUse {
    /// Yes.
    Lent,
    /// No: bytes are pushed and pulled by us alone.
    Off,
}

/// How it works.
#[derive(Debug, Clone, Copy)]
pub struct RdmaTerms {
    /// Whether peers are lent windows.
    pub windows: WindowUse,
    /// Windows there may be, of those that the device has.
    pub windows_max: u32,
    /// Requests under way on one queue pair.
    pub depth: u32,
    /// Time after a completion in which more are looked for before the thread sleeps.
    pub spin: Duration,
}

impl Default for RdmaTerms {
    fn default() -> Self {
        Self { windows: WindowUse::Lent, windows_max: 65_536, depth: 256, spin: Duration::ZERO }
    }
}

/// What happened since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RdmaStats {
    /// Sessions that are open.
    pub sessions: u64,
    /// Windows that are lent.
    pub windows_lent: u64,
    /// Windows there are.
    pub windows_made: u64,
    /// Windows that were bound.
    pub bound: u64,
    /// Windows that were taken back by an invalidation.
    pub invalidated: u64,
    /// Queue pairs that broke, by a peer's mistake or end.
    pub broken: u64,
    /// Queue pairs or windows that a device refused to destroy: what they were lent stays in quarantine.
    pub stuck: u64,
}

#[derive(Default)]
struct Counters {
    bound: AtomicU64,
    invalidated: AtomicU64,
    broken: AtomicU64,
    stuck: AtomicU64,
}

/// Life of a window that was lent.
enum Lending {
    /// To be bound.
    Binding(Vec<Done>),
    /// Bound.
    Bound,
    /// To be invalidated, or destroyed with its queue pair.
    Revoking(Vec<Box<dyn FnOnce() + Send>>),
    /// Over.
    Revoked,
}

struct Lent {
    /// `None` once it was given back or destroyed. What has no bytes has none.
    window: Option<(Arc<MemoryWindow>, Keyed<()>)>,
    rkey: u32,
    peer: Arc<Peer>,
    lending: Lending,
}

/// For the thread that destroys.
enum Burial {
    Of(Arc<Peer>),
    Stop,
}

struct Core {
    device: Arc<Device>,
    channel: Arc<Channel>,
    terms: RdmaTerms,
    regions: Regions,
    registered: RwLock<HashMap<SegmentId, Arc<Region>>>,
    peers: Mutex<HashMap<SessionId, Arc<Peer>>>,
    /// The same, by the token of their completion queues.
    by_token: Mutex<HashMap<u64, Arc<Peer>>>,
    tokens: AtomicU64,
    lent: Mutex<HashMap<WindowId, Lent>>,
    pool: WindowPool<MemoryWindow>,
    counters: Counters,
    graves: Mutex<mpsc::Sender<Burial>>,
    /// Peers that are broken and not buried.
    burying: (Mutex<usize>, Condvar),
    stop: AtomicBool,
    wake: OwnedFd,
}

/// See the module's text.
pub struct RdmaTransport {
    core: Arc<Core>,
    threads: Vec<JoinHandle<()>>,
}

fn link(what: &'static str) -> impl FnOnce(std::io::Error) -> TransportError {
    move |source| TransportError::Link { what, source }
}

impl RdmaTransport {
    /// Starts its threads on a device.
    ///
    /// # Errors
    /// If device or process have no channel or thread more.
    pub fn new(device: Arc<Device>, terms: RdmaTerms) -> std::io::Result<Self> {
        let channel = Channel::new(&device.context)?;
        let wake = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        let (graves, to_bury) = mpsc::channel();
        let windows_max = terms.windows_max.min(device.limits.windows_max);
        let depth = terms.depth.clamp(1, device.limits.queue_depth_max.max(1));
        let core = Arc::new(Core {
            device,
            channel,
            terms: RdmaTerms { depth, ..terms },
            regions: Regions::default(),
            registered: RwLock::default(),
            peers: Mutex::default(),
            by_token: Mutex::default(),
            tokens: AtomicU64::new(1),
            lent: Mutex::default(),
            pool: WindowPool::new(windows_max),
            counters: Counters::default(),
            graves: Mutex::new(graves),
            burying: (Mutex::new(0), Condvar::new()),
            stop: AtomicBool::new(false),
            wake,
        });
        let taking = Arc::clone(&core);
        let complete = std::thread::Builder::new().name("rdma-complete".into()).spawn(move || taking.take())?;
        let burying = Arc::clone(&core);
        let bury = std::thread::Builder::new().name("rdma-bury".into()).spawn(move || burying.bury_all(&to_bury))?;
        Ok(Self { core, threads: vec![complete, bury] })
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.core.device
    }

    /// Whether peers are lent windows.
    pub fn lends(&self) -> bool {
        self.core.terms.windows == WindowUse::Lent
    }

    /// What happened since the start.
    pub fn stats(&self) -> RdmaStats {
        let core = &self.core;
        RdmaStats {
            sessions: core.peers.lock().len() as u64,
            windows_lent: core.lent.lock().len() as u64,
            windows_made: u64::from(core.pool.made()),
            bound: core.counters.bound.load(Ordering::Relaxed),
            invalidated: core.counters.invalidated.load(Ordering::Relaxed),
            broken: core.counters.broken.load(Ordering::Relaxed),
            stuck: core.counters.stuck.load(Ordering::Relaxed),
        }
    }

    /// Opens a session with a peer's queue pair, and returns ours, connected to it.
    ///
    /// # Errors
    /// [`TransportError::Local`] if the session is open already or was not closed to its end, [`TransportError::Link`] if
    /// the device has no queue pair more or cannot connect it to such a peer.
    pub fn attach(&self, session: SessionId, peer: &Endpoint) -> Result<Endpoint, TransportError> {
        self.core.attach(session, peer)
    }

    /// Whether a session is open and nothing went wrong on it.
    pub fn is_open(&self, session: SessionId) -> bool {
        self.core.peers.lock().get(&session).is_some_and(|peer| peer.is_open())
    }

    /// Calls `done` when a window is bound, so that its peer can use it, or when that is known not to happen.
    pub fn when_bound(&self, window: WindowId, done: Done) {
        let mut lent = self.core.lent.lock();
        let result = match lent.get_mut(&window).map(|lent| &mut lent.lending) {
            Some(Lending::Binding(waiting)) => {
                waiting.push(done);
                return;
            }
            Some(Lending::Bound) => Ok(()),
            Some(Lending::Revoking(_) | Lending::Revoked) | None => Err(Broken(Status::Flushed)),
        };
        drop(lent);
        done(result);
    }

    /// Revokes a window and calls `done` when [`fence`](Transport::fence) answers [`Fence::Done`].
    pub fn when_fenced(&self, window: WindowId, done: Box<dyn FnOnce() + Send>) {
        if self.fence(window) == Fence::Pending
            && let Some(Lent { lending: Lending::Revoking(waiting), .. }) = self.core.lent.lock().get_mut(&window)
        {
            waiting.push(done);
            return;
        }
        done();
    }

    /// Writes bytes of a segment into a peer's memory; with a number, the peer is told by it. `done` is called when they are
    /// there, or the session has ended and the device does not read them any more: until then the span must stay as it is.
    ///
    /// # Errors
    /// [`TransportError::Local`] for a span outside every segment, [`TransportError::Peer`] if the session is not open.
    pub fn push(
        &self,
        session: SessionId,
        from: Span,
        to: Remote,
        immediate: Option<u32>,
        done: Done,
    ) -> Result<(), TransportError> {
        let (region, offset, length) = self.core.place(from)?;
        self.core.ask(session, Wanted::Push { region, offset, length, to, immediate }, done)
    }

    /// Reads a peer's bytes into a segment. `done` as for [`push`](Self::push).
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn pull(&self, session: SessionId, into: Span, from: Remote, done: Done) -> Result<(), TransportError> {
        let (region, offset, length) = self.core.place(into)?;
        self.core.ask(session, Wanted::Pull { region, offset, length, from }, done)
    }

    /// Where registered bytes lie; `None` if they lie in no segment.
    pub fn span_of(&self, bytes: &RawSpan) -> Option<Span> {
        let at = bytes.as_ptr().addr();
        self.core.registered.read().iter().find_map(|(&segment, region)| {
            let offset = at.checked_sub(region.memory().base().addr())?;
            region.covers(offset, bytes.len()).then_some(Span {
                segment,
                offset: offset as u64,
                length: bytes.len() as u64,
            })
        })
    }

    /// Waits until all that broke is destroyed.
    pub fn settle(&self) {
        let (count, changed) = &self.core.burying;
        let mut count = count.lock();
        while *count > 0 {
            changed.wait(&mut count);
        }
    }
}

impl Transport for RdmaTransport {
    fn via(&self) -> Via {
        Via::Rdma
    }

    fn register(&self, segment: SegmentId, memory: Arc<dyn StableMemory>) -> Result<(), TransportError> {
        let core = &self.core;
        if core.registered.read().len() as u64 >= u64::from(core.device.limits.regions_max) {
            return Err(TransportError::Local("the device has no memory region more"));
        }
        if memory.len() as u64 > core.device.limits.region_len_max {
            return Err(TransportError::Local("the segment is longer than a memory region of the device"));
        }
        core.regions.register(segment, Arc::clone(&memory))?;
        let access = RemoteAccess { windows: core.terms.windows == WindowUse::Lent, ..RemoteAccess::default() };
        let region = Region::register(&core.device.domain, memory, access).map_err(link("register a segment"))?;
        core.registered.write().insert(segment, region);
        Ok(())
    }

    /// The window is bound soon; [`RdmaTransport::when_bound`] says when.
    fn open(&self, session: SessionId, access: Access, span: Span) -> Result<Window, TransportError> {
        self.core.open(session, access, span)
    }

    fn fence(&self, window: WindowId) -> Fence {
        self.core.fence(window)
    }

    /// A session of RDMA needs its peer's queue pair: [`RdmaTransport::attach`] opens it.
    fn open_session(&self, _: SessionId) -> Result<(), TransportError> {
        Err(TransportError::Local("an RDMA session is opened with its peer's queue pair"))
    }

    fn close_session(&self, session: SessionId) -> Fence {
        let peer = self.core.peers.lock().get(&session).cloned();
        match peer {
            Some(peer) => {
                self.core.tell(&peer, peer.break_with(Status::Flushed));
                Fence::Pending
            }
            None => Fence::Done,
        }
    }
}

impl Core {
    fn place(&self, span: Span) -> Result<(Arc<Region>, usize, usize), TransportError> {
        let region = self.registered.read().get(&span.segment).cloned();
        let region = region.ok_or(TransportError::Local("segment not registered"))?;
        let (offset, length) = usize::try_from(span.offset)
            .ok()
            .zip(usize::try_from(span.length).ok())
            .filter(|&(offset, length)| region.covers(offset, length))
            .ok_or(TransportError::Local("span runs past its segment"))?;
        Ok((region, offset, length))
    }

    fn ask(self: &Arc<Self>, session: SessionId, wanted: Wanted, done: Done) -> Result<(), TransportError> {
        let peer = self.peers.lock().get(&session).cloned().ok_or(TransportError::Peer("session not open"))?;
        let news = peer.ask(wanted, done);
        self.tell(&peer, news);
        Ok(())
    }

    fn tell(&self, peer: &Arc<Peer>, news: News) {
        if let Some(status) = news.tell() {
            self.counters.broken.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(session = %peer.session, %status, "an RDMA session ends");
            *self.burying.0.lock() += 1;
            let burial = Burial::Of(Arc::clone(peer));
            self.graves.lock().send(burial).expect("the thread that destroys ends last");
        }
    }

    fn attach(&self, session: SessionId, to: &Endpoint) -> Result<Endpoint, TransportError> {
        let device = &self.device;
        self.regions.open_session(session)?;
        let token = self.tokens.fetch_add(1, Ordering::Relaxed);
        let opened = (|| {
            let completions = CompletionQueue::new(&self.channel, self.terms.depth + RECEIVES, token)?;
            let terms = QueueTerms {
                sends_max: self.terms.depth,
                receives_max: RECEIVES,
                answers: self.terms.windows == WindowUse::Lent,
            };
            let queue = QueuePair::new(&device.domain, &completions, terms, device.port.number, rand::random())?;
            let ours = device.endpoint(&queue);
            let piece_len_max = PIECE_LEN_MAX.min(device.port.message_len_max);
            let peer = Arc::new(Peer::new(session, queue, self.terms.depth, piece_len_max));
            // Known before it can have completions.
            self.by_token.lock().insert(token, Arc::clone(&peer));
            peer.connect(&device.path(), to, RECEIVES)?;
            Ok((peer, ours))
        })();
        match opened {
            Ok((peer, ours)) => {
                self.peers.lock().insert(session, peer);
                Ok(ours)
            }
            Err(source) => {
                self.by_token.lock().remove(&token);
                self.regions.close_session(session);
                self.regions.forget_session(session);
                Err(TransportError::Link { what: "connect a queue pair", source })
            }
        }
    }

    fn open(self: &Arc<Self>, session: SessionId, access: Access, span: Span) -> Result<Window, TransportError> {
        if self.terms.windows != WindowUse::Lent {
            return Err(TransportError::Local("windows are not lent on this device"));
        }
        let (region, offset, length) = self.place(span)?;
        let peer = self.peers.lock().get(&session).cloned().ok_or(TransportError::Peer("session not open"))?;
        let id = self.regions.lend(session, access, span)?.id;
        let taken = match length {
            // No window is so short, and none is needed.
            0 => Ok(None),
            _ => self.pool.take_of(&self.device.domain).map_err(link("make a memory window")).and_then(|window| {
                window.map(Some).ok_or(TransportError::Local("all memory windows are lent, or their keys rest"))
            }),
        };
        let taken = taken.inspect_err(|_| {
            self.regions.revoke(id);
        })?;
        let addr = region.remote(offset).addr;
        let Some(mut keyed) = taken else {
            self.lent.lock().insert(id, Lent { window: None, rkey: 0, peer, lending: Lending::Bound });
            return Ok(Window { id, span, fd: None, remote: Some((addr, 0)) });
        };
        let rkey = keyed.next_key();
        let (mut window, keys) = keyed.split();
        window.hold(&region);
        let window = Arc::new(window);
        let lent = Lent {
            window: Some((Arc::clone(&window), keys)),
            rkey,
            peer: Arc::clone(&peer),
            lending: Lending::Binding(Vec::new()),
        };
        let writable = access == Access::Write;
        let core = Arc::downgrade(self);
        let done = Box::new(move |result| {
            if let Some(core) = core.upgrade() {
                core.bound(id, result);
            }
        });
        let wanted = Wanted::Bind { window, rkey, region, offset, length, writable };
        // Whoever finds the window finds it asked for, too.
        let mut all = self.lent.lock();
        all.insert(id, lent);
        let news = peer.ask(wanted, done);
        drop(all);
        self.tell(&peer, news);
        Ok(Window { id, span, fd: None, remote: Some((addr, rkey)) })
    }

    fn bound(&self, id: WindowId, result: Result<(), Broken>) {
        let mut lent = self.lent.lock();
        let Some(one) = lent.get_mut(&id) else { return };
        if result.is_err() {
            // It was never posted, or its queue pair is no more: nobody reaches anything by it.
            let window = one.window.take();
            drop(lent);
            if let Some((window, _)) = window {
                self.destroy(window);
            }
            self.revoked(id);
            return;
        }
        self.counters.bound.fetch_add(1, Ordering::Relaxed);
        let Lending::Binding(waiting) = &mut one.lending else { return };
        let waiting = std::mem::take(waiting);
        one.lending = Lending::Bound;
        drop(lent);
        waiting.into_iter().for_each(|done| done(Ok(())));
    }

    fn fence(self: &Arc<Self>, id: WindowId) -> Fence {
        let mut lent = self.lent.lock();
        let Some(one) = lent.get_mut(&id) else { return Fence::Done };
        match &mut one.lending {
            Lending::Revoked => {
                lent.remove(&id);
                drop(lent);
                self.regions.revoke(id);
                return Fence::Done;
            }
            Lending::Revoking(_) => return Fence::Pending,
            Lending::Bound if one.window.is_none() => {
                lent.remove(&id);
                drop(lent);
                self.regions.revoke(id);
                return Fence::Done;
            }
            Lending::Binding(_) | Lending::Bound => {}
        }
        let before = std::mem::replace(&mut one.lending, Lending::Revoking(Vec::new()));
        let (peer, rkey) = (Arc::clone(&one.peer), one.rkey);
        drop(lent);
        if let Lending::Binding(waiting) = before {
            waiting.into_iter().for_each(|done| done(Err(Broken(Status::Flushed))));
        }
        let core = Arc::downgrade(self);
        let done = Box::new(move |result: Result<(), Broken>| {
            // If it failed, the queue pair is broken and takes the window along.
            if let (Ok(()), Some(core)) = (result, core.upgrade()) {
                core.invalidated(id);
            }
        });
        let news = peer.ask(Wanted::Invalidate { rkey }, done);
        self.tell(&peer, news);
        Fence::Pending
    }

    /// A window was invalidated, and can be bound again.
    fn invalidated(&self, id: WindowId) {
        self.counters.invalidated.fetch_add(1, Ordering::Relaxed);
        let window = self.lent.lock().get_mut(&id).and_then(|one| one.window.take());
        if let Some((window, keys)) = window {
            let window = Arc::into_inner(window).expect("its binding is complete");
            self.pool.give_back(Instant::now(), keys.join(window));
        }
        self.revoked(id);
    }

    /// A window is over.
    fn revoked(&self, id: WindowId) {
        let mut lent = self.lent.lock();
        let Some(one) = lent.get_mut(&id) else { return };
        let before = std::mem::replace(&mut one.lending, Lending::Revoked);
        drop(lent);
        match before {
            Lending::Revoking(waiting) => waiting.into_iter().for_each(|done| done()),
            Lending::Binding(waiting) => waiting.into_iter().for_each(|done| done(Err(Broken(Status::Flushed)))),
            Lending::Bound | Lending::Revoked => {}
        }
    }

    /// Takes completions until it is told to stop.
    fn take(&self) {
        let mut spin_until = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            let mut any = false;
            while let Some(token) = self.channel.take_event() {
                any = true;
                let peer = self.by_token.lock().get(&token).cloned();
                if let Some(peer) = peer {
                    let news = peer.drain();
                    self.tell(&peer, news);
                }
            }
            if any && !self.terms.spin.is_zero() {
                spin_until = Instant::now() + self.terms.spin;
            }
            if Instant::now() < spin_until {
                std::hint::spin_loop();
                continue;
            }
            let mut waiting = [self.channel.as_fd(), self.wake.as_fd()]
                .map(|fd| rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::IN));
            if let Err(error) = rustix::event::poll(&mut waiting, None)
                && error != rustix::io::Errno::INTR
            {
                tracing::error!(%error, "completions of RDMA cannot be waited for");
                return;
            }
        }
    }

    fn bury_all(&self, to_bury: &mpsc::Receiver<Burial>) {
        while let Ok(Burial::Of(peer)) = to_bury.recv() {
            self.bury(&peer);
            *self.burying.0.lock() -= 1;
            self.burying.1.notify_all();
        }
    }

    /// Destroys the windows of a broken peer, then its queue pair, to which they were bound: from then on it reaches nothing.
    fn bury(&self, peer: &Arc<Peer>) {
        let mut windows = Vec::new();
        for (id, one) in self.lent.lock().iter_mut().filter(|(_, one)| Arc::ptr_eq(&one.peer, peer)) {
            windows.push((*id, one.window.take()));
        }
        let mut over = Vec::new();
        for (id, window) in windows {
            if window.is_none_or(|(window, _)| self.destroy(window)) {
                over.push(id);
            }
        }
        if !peer.bury() {
            self.counters.stuck.fetch_add(1, Ordering::Relaxed);
        }
        self.by_token.lock().retain(|_, other| !Arc::ptr_eq(other, peer));
        self.peers.lock().remove(&peer.session);
        self.regions.close_session(peer.session);
        for id in over {
            self.revoked(id);
            self.regions.revoke(id);
        }
        self.regions.forget_session(peer.session);
    }

    /// Says whether it is certain.
    fn destroy(&self, window: Arc<MemoryWindow>) -> bool {
        let done = Arc::into_inner(window).expect("what was not posted has ended").destroy();
        if done {
            self.pool.forget();
        } else {
            self.counters.stuck.fetch_add(1, Ordering::Relaxed);
        }
        done
    }
}

impl Drop for RdmaTransport {
    fn drop(&mut self) {
        let peers: Vec<_> = self.core.peers.lock().values().cloned().collect();
        for peer in peers {
            self.core.tell(&peer, peer.break_with(Status::Flushed));
        }
        self.settle();
        self.core.stop.store(true, Ordering::Release);
        // Neither fails: the counter is far from full, and the thread is there until it is told.
        let _ = rustix::io::write(&self.core.wake, &[1; 8]);
        let _ = self.core.graves.lock().send(Burial::Stop);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for RdmaTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RdmaTransport({}, {:?})", self.core.device.name, self.stats())
    }
}
