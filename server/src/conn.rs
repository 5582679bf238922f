//! One RESP connection: bytes in, commands run, replies out.
//!
//! Data flow: read into a buffer that the worker's connections share; frame and run every complete command in it; send
//! the replies in one call; keep what is left over. A large value is the exception: its bytes go from the socket straight
//! into its reserved slot, and from a slot straight to the socket.
//!
//! Invariants:
//! - A connection runs no command while replies beyond the pause length wait: a client that does not read is not served.
//! - A declared length is charged to the client before a byte of it is received.
//! - What a connection makes the server buffer is bounded, requests and replies alike; one that asks for more ends.
//! - After a malformed frame nothing more is read from the connection.

pub(crate) mod heading;
pub(crate) mod output;
pub(crate) mod ring;
pub(crate) mod stream;

use crate::acl::guard;
use crate::dispatch::{self, Answer, Ctx, Flow, Run};
use crate::error::refused;
use crate::handler::alone::{Alone, Queued};
use crate::handler::command_cmd::spec_at;
use crate::latency::Level;
use crate::node::Node;
use crate::session::{ClientInfo, Session};
use crate::stats::{WorkerStats, bump};
use bytes::{Buf, BytesMut};
use output::Output;
use protocol::base::{Crc, Instant, Millis};
use protocol::resp::{ErrorWord, Framer, Limits, Step, WireError};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use storage::{Account, Reservation, StoreError};
use stream::{Detached, Stream};

/// Bytes of the worker's shared read buffer.
const SCRATCH_LEN: usize = 64 * 1024;
/// Bytes read at once from a connection that sends large values: little of a value should go by way of the buffer.
const SCRATCH_LEN_BULKY: usize = 1024;
/// Bytes of a large value received by one call: what the checksum then finds in the cache.
const RECEIVE_LEN_MAX: usize = 256 * 1024;
/// From this length on a value makes its connection a bulk one.
pub(crate) const BULKY_LEN_MIN: u64 = 64 * 1024;

/// Bytes that count as progress inside a request or a reply. Fewer, now and then, keep what was lent for them for ever.
pub(crate) const PROGRESS_LEN: usize = 16 * 1024;

/// Bytes a second that a value on its way must move on average, once it has been under way for as long as a lease may last:
/// it holds memory that nothing can evict, as a lease does.
const RATE_MIN: u64 = 1 << 20;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_LEN].into_boxed_slice());
}

/// A large argument that was received outside the buffer.
#[derive(Debug)]
pub(crate) enum Taken {
    /// In a slot of its own, with this checksum.
    Slot(Reservation, Crc),
    /// There was no room for it: its bytes were thrown away.
    Refused(WireError),
}

/// What comes next on a connection.
#[derive(Debug)]
enum Next {
    Read,
    /// Send first, then go on with what the buffer holds.
    Flush,
    /// Receive argument `arg` of `len` bytes, which begins at `at` of the buffer.
    Receive {
        arg: usize,
        len: u64,
        at: usize,
    },
    /// Something that takes time.
    Wait(dispatch::Job, Answer),
    /// Run the next command again when there is room for what it writes.
    Room,
    /// Go on when `CLIENT PAUSE` is over, in so long at most.
    Paused(Duration),
    Close,
    /// At once, without a word more: nobody takes what there is to say.
    Drop,
}

/// Why serving ended here.
pub(crate) enum Exit {
    Closed,
    /// Another worker serves it better.
    Move(Box<Moving>, usize),
}

/// A connection between two workers.
pub(crate) struct Moving {
    socket: Detached,
    state: State,
}

impl Moving {
    pub(crate) fn node(&self) -> Arc<Node> {
        Arc::clone(&self.state.session.node)
    }

    /// Registers with the runtime that this is called in.
    pub(crate) fn attach(self) -> io::Result<Conn> {
        Ok(Conn { stream: self.socket.attach()?, state: self.state })
    }
}

struct State {
    session: Session,
    framer: Framer,
    /// Bytes that were read and not run.
    buffer: BytesMut,
    output: Output,
    /// Large arguments of the command being read.
    taken: Vec<(usize, Taken)>,
    /// The worker that serves it.
    worker: usize,
    /// Whether what was just run moves large values.
    bulky: bool,
    /// Whether the last command brought a large value: the next is likely to.
    receiving: bool,
    /// Whether the command being read has brought one.
    took: bool,
    /// What ran since the clock was read.
    ran: Vec<Run>,
    /// What the job of the command being run took so far.
    waited: Duration,
    /// Bytes that came since the client was last seen to make progress.
    moved: usize,
    /// Items of the command being run that were done before it had to wait for room.
    resume: usize,
    /// Whether the command being run has waited for room as long as it may.
    has_waited: bool,
    /// Commands that ran, those that had to wait for room not counted.
    done: u64,
}

/// See the module's text.
pub(crate) struct Conn {
    stream: Stream,
    state: State,
}

impl Conn {
    pub(crate) fn new(stream: Stream, session: Session, worker: usize) -> Self {
        let limits = limits(&session);
        session.client.worker.store(worker as u64, Ordering::Relaxed);
        let state = State {
            session,
            framer: Framer::new(limits),
            buffer: BytesMut::new(),
            output: Output::default(),
            taken: Vec::new(),
            worker,
            bulky: false,
            receiving: false,
            took: false,
            ran: Vec::new(),
            waited: Duration::ZERO,
            moved: 0,
            resume: 0,
            has_waited: false,
            done: 0,
        };
        Self { stream, state }
    }

    pub(crate) fn worker(&mut self, worker: usize) {
        self.client().worker.store(worker as u64, Ordering::Relaxed);
        self.state.worker = worker;
    }

    pub(crate) fn resp3(&mut self, resp3: bool) {
        self.state.output.resp3 = resp3;
    }

    pub(crate) fn client(&self) -> &Arc<ClientInfo> {
        &self.state.session.client
    }

    /// Serves until the connection ends or moves.
    pub(crate) async fn serve(mut self) -> Exit {
        let stats = Arc::clone(&self.state.session.node.workers().get(self.state.worker).stats);
        let served = Served::count(stats, Arc::clone(self.client()));
        let exit = self.run().await;
        drop(served);
        match exit {
            Ok(None) => Exit::Closed,
            Ok(Some(target)) => match self.stream.detach() {
                Ok(socket) => Exit::Move(Box::new(Moving { socket, state: self.state }), target),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not change its worker");
                    Exit::Closed
                }
            },
            Err(error) => {
                tracing::debug!(%error, client = self.state.session.client.id, "connection ended");
                Exit::Closed
            }
        }
    }

    async fn run(&mut self) -> io::Result<Option<usize>> {
        let mut next = if self.state.buffer.is_empty() { Next::Read } else { self.state.run_buffer(&mut self.stream) };
        loop {
            next = match next {
                Next::Read => {
                    self.flush().await?;
                    if let Some(target) = self.better_worker() {
                        return Ok(Some(target));
                    }
                    match self.fill().await? {
                        Some(next) => next,
                        None => return Ok(None),
                    }
                }
                Next::Flush => {
                    self.flush().await?;
                    self.state.run_buffer(&mut self.stream)
                }
                Next::Receive { arg, len, at } => {
                    self.flush().await?;
                    self.receive(arg, len, at).await?;
                    self.state.run_buffer(&mut self.stream)
                }
                Next::Wait(job, answer) => {
                    // Values that wait to be sent may lie in the very room that the job will wait for; and a client that is
                    // gone needs nothing more.
                    if self.state.output.holds_values() {
                        self.flush().await?;
                    }
                    let State { session, output, .. } = &mut self.state;
                    let mark = output.mark();
                    let (level, started) = (job.level(), std::time::Instant::now());
                    let rest = job.run(session, output, &mut self.stream).await;
                    self.state.note_waited(started.elapsed(), level, rest.is_none());
                    let State { session, output, .. } = &mut self.state;
                    if answer == Answer::Unwanted {
                        output.forget(mark);
                    }
                    // The time it took is not the client's.
                    session.client.active_ms.store(session.node.now_ms(), Ordering::Relaxed);
                    match rest {
                        Some(job) => {
                            self.flush().await?;
                            Next::Wait(job, answer)
                        }
                        None => self.state.run_buffer(&mut self.stream),
                    }
                }
                Next::Room => {
                    self.flush().await?;
                    self.await_room().await
                }
                Next::Paused(span) => {
                    self.flush().await?;
                    let node = Arc::clone(&self.state.session.node);
                    node.pause.wait(span).await;
                    self.state.run_buffer(&mut self.stream)
                }
                Next::Close => {
                    self.flush().await?;
                    return Ok(None);
                }
                Next::Drop => return Ok(None),
            };
        }
    }

    /// Tries a write again whenever there is room, then lets others go for it. Returns what comes next.
    async fn await_room(&mut self) -> Next {
        let node = Arc::clone(&self.state.session.node);
        let mut wait = Room::begin(&node);
        loop {
            // Before the next try, so that room made after it is heard of.
            let room = node.store.room().notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let done = self.state.done;
            match self.state.run_buffer(&mut self.stream) {
                Next::Room if self.state.done != done => wait = Room::begin(&node),
                Next::Room if wait.is_over() => self.state.has_waited = true,
                Next::Room => wait.for_room(&node, room).await,
                next => return next,
            }
        }
    }

    /// Reads, runs what is complete, keeps the rest. `None` at the end of the stream.
    async fn fill(&mut self) -> io::Result<Option<Next>> {
        let Self { stream, state } = self;
        poll_fn(|cx| {
            if state.has_mail(cx) {
                return Poll::Ready(Ok(Some(Next::Flush)));
            }
            SCRATCH.with_borrow_mut(|scratch| {
                let most = if state.receiving { SCRATCH_LEN_BULKY } else { SCRATCH_LEN };
                let count = std::task::ready!(stream.poll_read(cx, &mut scratch[..most]))?;
                if count == 0 {
                    return Poll::Ready(Ok(None));
                }
                state.arrived(count);
                Poll::Ready(Ok(Some(if state.buffer.is_empty() {
                    let (consumed, next) = state.run_commands(&scratch[..count], stream);
                    state.buffer.extend_from_slice(&scratch[consumed..count]);
                    next
                } else {
                    state.buffer.extend_from_slice(&scratch[..count]);
                    state.run_buffer(stream)
                })))
            })
        })
        .await
    }

    async fn flush(&mut self) -> io::Result<()> {
        if self.state.output.pending() == 0 {
            return Ok(());
        }
        let client = &self.state.session.client;
        let node = &self.state.session.node;
        // The time of the last request is close enough to begin with.
        client.progress_ms.store(client.active_ms.load(Ordering::Relaxed).max(1), Ordering::Relaxed);
        let buffered = self.state.output.buffered();
        // Short ones are not worth a cache line that all workers write.
        let much = (buffered >= PROGRESS_LEN).then(|| Sending::begin(Arc::clone(node), buffered as u64));
        let sending = much.transpose()?;
        client.pending.store(buffered as u64, Ordering::Relaxed);
        let stats = &node.workers().get(self.state.worker).stats;
        let (mut first, mut moved) = (true, 0);
        let pending = self.state.output.pending();
        let due = (pending >= PROGRESS_LEN).then(|| end_of_transfer(node, pending as u64));
        self.stream
            .flush(&mut self.state.output, |count| {
                stats.net_out.add(count as u64);
                bump(&client.bytes_out, count as u64);
                moved += count;
                // Most replies go at once, and need no look at the clock.
                if !std::mem::take(&mut first) && moved >= PROGRESS_LEN {
                    moved = 0;
                    let now = node.now();
                    client.progress_ms.store((now.0 / 1_000_000).max(1), Ordering::Relaxed);
                    if due.is_some_and(|due| now > due) {
                        return Err(too_slow());
                    }
                }
                Ok(())
            })
            .await?;
        drop(sending);
        client.pending.store(0, Ordering::Relaxed);
        client.progress_ms.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Receives a large argument into a slot of its own, or throws it away if it gets none.
    async fn receive(&mut self, arg: usize, len: u64, at: usize) -> io::Result<()> {
        self.state.bulky = self.state.bulky || len >= BULKY_LEN_MIN;
        self.state.session.client.progress_ms.store(self.state.session.node.now_ms().max(1), Ordering::Relaxed);
        let node = Arc::clone(&self.state.session.node);
        let client = Arc::clone(&self.state.session.client);
        let key = dispatch::key_of_value(self.state.framer.args(&self.state.buffer), arg).unwrap_or_default();
        // Who may not write it takes no slot for it.
        let is_allowed =
            client.is_free() || guard::may_bring(&self.state.session, &self.state.framer.args(&self.state.buffer));
        let reserved = match is_allowed {
            true => reserve(&node, &client, key, len, &self.state.session.bond.account).await.map_err(refused),
            false => Err(WireError::new(ErrorWord::NoPerm, "the value was thrown away")),
        };
        let due = end_of_transfer(&node, len);
        let total = usize::try_from(len).map_err(io::Error::other)?;
        let buffered = total.min(self.state.buffer.len() - at);
        let mut crc = Crc::default();
        let mut done = buffered;
        let taken = match reserved {
            Ok(mut slot) => {
                let bytes = slot.bytes_mut();
                bytes[..buffered].copy_from_slice(&self.state.buffer[at..at + buffered]);
                crc = crc.extend(&bytes[..buffered]);
                while done < total {
                    let end = total.min(done + RECEIVE_LEN_MAX);
                    let count = self.stream.read(&mut bytes[done..end]).await?;
                    if count == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    crc = crc.extend(&bytes[done..done + count]);
                    done += count;
                    self.state.received(&node, &client, count, due)?;
                }
                Taken::Slot(slot, crc)
            }
            Err(error) => {
                let mut waste = vec![0; RECEIVE_LEN_MAX.min(total)];
                while done < total {
                    let end = waste.len().min(total - done);
                    let count = self.stream.read(&mut waste[..end]).await?;
                    if count == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    done += count;
                    self.state.received(&node, &client, count, due)?;
                }
                Taken::Refused(error)
            }
        };
        // What came after the value in the buffer moves up to where the value began.
        let state = &mut self.state;
        let len_before = state.buffer.len();
        state.buffer.copy_within(at + buffered..len_before, at);
        state.buffer.truncate(len_before - buffered);
        state.framer.take_bulk();
        state.taken.push((arg, taken));
        state.took = true;
        Ok(())
    }

    /// Where this connection is better served. Asked between requests only.
    fn better_worker(&mut self) -> Option<usize> {
        if !std::mem::take(&mut self.state.bulky) || !self.stream.can_move() {
            return None;
        }
        let client = &self.state.session.client;
        let node = &self.state.session.node;
        let here = self.state.worker;
        if !client.bulky.swap(true, Ordering::Relaxed) {
            node.workers().get(here).stats.bulky.fetch_add(1, Ordering::Relaxed);
        }
        node.workers().better_for_bulk(here)
    }
}

/// A wait for room in DRAM: for a while, then at the expense of others.
pub(crate) struct Room {
    until: tokio::time::Instant,
    /// Whether others were let go for it.
    hurried: bool,
}

impl Room {
    pub(crate) fn begin(node: &Node) -> Self {
        Self { until: tokio::time::Instant::now() + node.hot.spill_wait(), hurried: false }
    }

    /// Waits until there may be some.
    pub(crate) async fn for_room(&mut self, node: &Node, room: impl Future<Output = ()>) {
        if tokio::time::timeout_at(self.until, room).await.is_err() {
            node.store.hurry(node.now());
            *self = Self { hurried: true, ..Self::begin(node) };
        }
    }

    /// Whether all was done that can be.
    pub(crate) fn is_over(&self) -> bool {
        self.hurried
    }
}

/// A slot for a value that is about to come.
pub(crate) async fn reserve(
    node: &Node,
    client: &ClientInfo,
    key: &[u8],
    len: u64,
    account: &Arc<Account>,
) -> Result<Reservation, StoreError> {
    let mut wait = None;
    loop {
        let room = wait.is_some().then(|| node.store.room().notified());
        match node.store.reserve(node.now_looked(), key, len, account) {
            Err(StoreError::SpillWait { .. }) if !wait.as_ref().is_some_and(Room::is_over) => {}
            reserved => return reserved,
        }
        let waiting = wait.get_or_insert_with(|| Room::begin(node));
        if let Some(room) = room {
            // It is not the client that stands still.
            client.progress_ms.store(0, Ordering::Relaxed);
            waiting.for_room(node, room).await;
            client.progress_ms.store(node.now_ms().max(1), Ordering::Relaxed);
        }
    }
}

/// When so many bytes have to have come or gone.
fn end_of_transfer(node: &Node, bytes: u64) -> Instant {
    node.now() + node.hot.lease_max() + Millis(bytes.saturating_mul(1000) / RATE_MIN)
}

fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "a value took too long")
}

/// A connection counts at its worker for as long as this lives, also if the task that serves it is ended from outside.
struct Served {
    stats: Arc<WorkerStats>,
    client: Arc<ClientInfo>,
}

impl Served {
    fn count(stats: Arc<WorkerStats>, client: Arc<ClientInfo>) -> Self {
        stats.connections.fetch_add(1, Ordering::Relaxed);
        if client.bulky.load(Ordering::Relaxed) {
            stats.bulky.fetch_add(1, Ordering::Relaxed);
        }
        Self { stats, client }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stats.connections.fetch_sub(1, Ordering::Relaxed);
        if self.client.bulky.load(Ordering::Relaxed) {
            self.stats.bulky.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Replies take memory for as long as this lives.
struct Sending {
    node: Arc<Node>,
    bytes: u64,
}

impl Sending {
    /// Refuses what is much, while others wait with as much as all may.
    fn begin(node: Arc<Node>, bytes: u64) -> io::Result<Self> {
        let before = node.hot.sending.fetch_add(bytes, Ordering::Relaxed);
        let (max, sending) = (node.hot.waiting_max(), Self { node, bytes });
        if before + bytes > max && bytes > max / 16 {
            sending.node.stats.evicted.add(1);
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, "replies of all clients fill the memory for them"));
        }
        Ok(sending)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.node.hot.sending.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl State {
    fn arrived(&mut self, count: usize) {
        self.moved += count;
        let client = &self.session.client;
        self.session.node.workers().get(self.worker).stats.net_in.add(count as u64);
        bump(&client.bytes_in, count as u64);
    }

    /// Some bytes of a large value came.
    fn received(&mut self, node: &Node, client: &ClientInfo, count: usize, due: Instant) -> io::Result<()> {
        node.workers().get(self.worker).stats.net_in.add(count as u64);
        bump(&client.bytes_in, count as u64);
        self.moved += count;
        if self.moved >= PROGRESS_LEN {
            self.moved = 0;
            let now = node.now();
            client.progress_ms.store((now.0 / 1_000_000).max(1), Ordering::Relaxed);
            if now > due {
                return Err(too_slow());
            }
        }
        Ok(())
    }

    /// Takes messages for this client to its output, if there are any; it is woken by the next one.
    fn has_mail(&mut self, cx: &Context<'_>) -> bool {
        let Some(listening) = &self.session.listening else { return false };
        if listening.mailbox.poll(cx).is_pending() {
            return false;
        }
        self.session.deliver(&mut self.output);
        true
    }

    /// Runs what the connection's own buffer holds.
    fn run_buffer(&mut self, stream: &mut Stream) -> Next {
        let mut buffer = std::mem::take(&mut self.buffer);
        let (consumed, next) = self.run_commands(&buffer, stream);
        buffer.advance(consumed);
        if buffer.is_empty() && buffer.capacity() > SCRATCH_LEN {
            buffer = BytesMut::new();
        }
        self.buffer = buffer;
        next
    }

    /// Runs the complete commands at the start of `bytes`. Returns how many bytes they took and what comes next.
    fn run_commands(&mut self, bytes: &[u8], stream: &mut Stream) -> (usize, Next) {
        let node = Arc::clone(&self.session.node);
        let stats = &*node.workers().get(self.worker).stats;
        let now = node.now_looked();
        // Nobody is alone meanwhile.
        let _entered = node.gates().enter(self.worker);
        let now_ms = now.0 / 1_000_000;
        let pause = usize::try_from(node.hot.output_pause.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        let mut start = 0;
        let mut commands = 0;
        let next = loop {
            match self.framer.poll(&bytes[start..]) {
                Ok(Step::Incomplete) => break Next::Read,
                Ok(Step::Command { .. }) if node.pause.is_on() && self.pause(&bytes[start..], now).is_some() => {
                    let span = self.pause(&bytes[start..], now).unwrap_or_default();
                    self.framer.reset();
                    break Next::Paused(span);
                }
                Ok(Step::Command { consumed }) => {
                    let (flow, answer) = dispatch::execute(Ctx {
                        node: &node,
                        session: &mut self.session,
                        output: &mut self.output,
                        args: self.framer.args(&bytes[start..]),
                        taken: &mut self.taken,
                        stream,
                        stats,
                        now,
                        bulky: &mut self.bulky,
                        resume: &mut self.resume,
                        has_waited: self.has_waited,
                        ran: &mut self.ran,
                        alone: None,
                    });
                    let flow = match flow {
                        Flow::Alone => {
                            let again = Queued::of(self.framer.args(&bytes[start..]), &mut self.taken);
                            Flow::Wait(dispatch::Job::Alone(Alone::one(again)))
                        }
                        flow => flow,
                    };
                    self.framer.reset();
                    if matches!(flow, Flow::Room) {
                        // Its words are framed anew.
                        break Next::Room;
                    }
                    self.has_waited = false;
                    self.receiving = self.took;
                    self.took = false;
                    self.taken.clear();
                    start += consumed;
                    commands += 1;
                    match flow {
                        Flow::Go if self.output.buffered() > node.hot.output_len_max() => break Next::Drop,
                        Flow::Go if self.output.pending() >= pause => break Next::Flush,
                        Flow::Go => {}
                        Flow::Relimit => self.framer.set_limits(limits(&self.session)),
                        Flow::Wait(job) => break Next::Wait(job, answer),
                        Flow::Room | Flow::Alone | Flow::Heard => unreachable!("left above"),
                        Flow::Close => break Next::Close,
                    }
                }
                Ok(Step::Bulk { arg, len, at }) => {
                    if dispatch::streams(self.framer.args(&bytes[start..]), arg) {
                        break Next::Receive { arg, len, at };
                    }
                    if let Err(error) = self.framer.buffer_bulk() {
                        break self.malformed(error);
                    }
                }
                Err(error) => break self.malformed(error),
            }
        };
        self.done += commands;
        if commands > 0 {
            stats.commands.add(commands);
            let client = &self.session.client;
            client.active_ms.store(now_ms, Ordering::Relaxed);
            bump(&client.commands, commands);
            self.account_time(stats, now, commands);
        }
        let left = bytes.len() - start;
        let next = if matches!(next, Next::Read) && left > self.request_len_max() { self.too_long() } else { next };
        self.note_progress(&next, left, commands > 0, now_ms);
        (start, next)
    }

    /// How long the command that was framed has to wait for the end of a pause. One that brought large values runs: it began
    /// before.
    fn pause(&self, bytes: &[u8], now: Instant) -> Option<Duration> {
        let args = self.framer.args(bytes);
        if !self.taken.is_empty() {
            return None;
        }
        let spec = dispatch::spec_of(&args)?;
        // What is refused anyway is refused at once.
        spec.check_arity(args.len()).ok()?;
        let writes = spec.id == protocol::command::CommandId::Exec
            && self.session.multi.as_ref().is_some_and(|queue| queue.writes());
        self.session.node.pause.holds(now, spec, writes)
    }

    /// Inside a request its bytes must keep coming; between requests there is all the time in the world.
    fn note_progress(&mut self, next: &Next, left: usize, ran: bool, now_ms: u64) {
        let client = &self.session.client;
        let inside = match next {
            Next::Receive { .. } => true,
            Next::Read => self.framer.is_mid_command() || left > 0,
            Next::Flush | Next::Wait(..) | Next::Room | Next::Paused(_) | Next::Close | Next::Drop => false,
        };
        let begun = inside && (ran || client.progress_ms.load(Ordering::Relaxed) == 0);
        if begun || self.moved >= PROGRESS_LEN || !inside {
            self.moved = 0;
            client.progress_ms.store(if inside { now_ms.max(1) } else { 0 }, Ordering::Relaxed);
        }
        if left > 0 || client.buffered.load(Ordering::Relaxed) > 0 {
            client.buffered.store(left as u64, Ordering::Relaxed);
        }
    }

    /// Bytes that one request may have, large values apart.
    fn request_len_max(&self) -> usize {
        let hot = &self.session.node.hot;
        if self.session.authenticated { hot.request_len_max() } else { hot.preauth_len_max() }
    }

    fn too_long(&mut self) -> Next {
        self.session.node.stats.protocol_errors.add(1);
        self.output.writer().wire_error(&WireError::err("Protocol error: too long a request"));
        Next::Close
    }

    /// Shares the time since `since` among the commands that ran. Two readings of the clock a batch are all that costs.
    fn account_time(&mut self, stats: &WorkerStats, since: Instant, commands: u64) {
        let spent = self.session.node.now().since(since);
        let each = Duration::from_nanos(u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX) / commands);
        let spent_us = u64::try_from(spent.as_micros()).unwrap_or(u64::MAX);
        for Run { id, count, waits } in self.ran.drain(..) {
            let stat = stats.of(id);
            bump(&stat.usec, spent_us * u64::from(count) / commands);
            if !waits {
                stat.took(Level::Dram).record(each, count.into());
            }
        }
    }

    /// A turn of a command's job took so long; `ended` if it was the last.
    fn note_waited(&mut self, took: Duration, level: Level, ended: bool) {
        self.waited += took;
        if !ended {
            return;
        }
        let waited = std::mem::take(&mut self.waited);
        let last = self.session.client.last_command.load(Ordering::Relaxed);
        if let Some(spec) = spec_at(last) {
            let stats = &self.session.node.workers().get(self.worker).stats;
            stats.of(spec.id).took(level).record(waited, 1);
        }
    }

    fn malformed(&mut self, error: protocol::resp::ProtocolError) -> Next {
        self.session.node.stats.protocol_errors.add(1);
        if let Some(error) = error.reply() {
            self.output.writer().wire_error(&error);
        }
        Next::Close
    }
}

/// What a client may send, before and after it said who it is.
pub(crate) fn limits(session: &Session) -> Limits {
    let config = session.node.config.read();
    let len = |len: protocol::base::ByteLen| usize::try_from(len.get()).unwrap_or(usize::MAX);
    if session.authenticated {
        Limits {
            args_max: config.args_max.max(2 * config.batch_items_max + 32),
            arg_len_max: len(config.arg_len_max),
            bulk_len_max: config.object_len_max.get(),
            inline_len_max: len(config.arg_len_max),
            stream_len_min: len(config.stream_len_min),
        }
    } else {
        Limits {
            args_max: config.preauth_args_max,
            arg_len_max: len(config.preauth_len_max),
            bulk_len_max: config.preauth_len_max.get(),
            inline_len_max: len(config.preauth_len_max),
            stream_len_min: usize::MAX,
        }
    }
}
