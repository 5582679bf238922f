//! One peer's queue pair on our side, and what is under way on it.
//!
//! Invariants:
//! - Each thing that was asked for ends exactly once: done, or broken. It has not ended while the device may still work on it.
//! - Never more requests are posted than the queue holds; what is beyond waits here, in order.
//! - A queue pair on which anything went wrong is used for nothing any more, and destroyed before what was under way has ended.

use super::verbs::{
    Completion, CompletionQueue, Endpoint, MemoryWindow, POST_MAX, PathTerms, QueuePair, Region, Remote, Request,
    Status, Work,
};
use parking_lot::Mutex;
use protocol::base::SessionId;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

/// Number of receives, told from requests, which have smaller ones.
const RECEIVE: u64 = u64::MAX;

/// Why something was not done: its queue pair is broken, and this ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the RDMA session has ended: {0}")]
pub struct Broken(pub Status);

/// Told how something ended, by the thread that found out; it must be brief.
pub type Done = Box<dyn FnOnce(Result<(), Broken>) + Send>;

/// What a queue pair is asked for.
pub(super) enum Wanted {
    /// Bytes of ours to the peer, the last of them with a number.
    Push { region: Arc<Region>, offset: usize, length: usize, to: Remote, immediate: Option<u32> },
    /// Bytes of the peer's to us.
    Pull { region: Arc<Region>, offset: usize, length: usize, from: Remote },
    /// A window on ours.
    Bind { window: Arc<MemoryWindow>, rkey: u32, region: Arc<Region>, offset: usize, length: usize, writable: bool },
    /// No window any more.
    Invalidate { rkey: u32 },
}

struct Op {
    /// `None` once it is all posted.
    wanted: Option<Wanted>,
    /// Bytes of it that are posted.
    posted_len: usize,
    in_flight: u32,
    done: Done,
}

enum Life {
    Open(QueuePair),
    /// Used for nothing any more; the queue pair is there until it is buried.
    Broken(Status, Option<QueuePair>),
}

struct Inner {
    life: Life,
    ops: HashMap<u64, Op>,
    /// Those of which something is to be posted, in order.
    waiting: VecDeque<u64>,
    /// Requests that still fit into the queue.
    room: u32,
    next: u64,
}

/// See the module's text.
pub(super) struct Peer {
    pub(super) session: SessionId,
    completions: Arc<CompletionQueue>,
    piece_len_max: usize,
    inner: Mutex<Inner>,
}

/// What a call found out: to be told once no lock is held.
#[derive(Default)]
pub(super) struct News {
    ended: Vec<(Done, Result<(), Broken>)>,
    /// The queue pair broke now.
    pub(super) broke: Option<Status>,
}

impl News {
    /// Tells those who wait. Returns why the queue pair broke, if it did.
    pub(super) fn tell(self) -> Option<Status> {
        for (done, result) in self.ended {
            done(result);
        }
        self.broke
    }
}

impl Peer {
    pub(super) fn new(session: SessionId, queue: QueuePair, depth: u32, piece_len_max: u32) -> Self {
        let completions = Arc::clone(queue.completions());
        let inner =
            Inner { life: Life::Open(queue), ops: HashMap::new(), waiting: VecDeque::new(), room: depth, next: 0 };
        Self { session, completions, piece_len_max: piece_len_max as usize, inner: Mutex::new(inner) }
    }

    /// Connects it to the peer's end, and posts the receives by which we learn that it broke.
    pub(super) fn connect(&self, path: &PathTerms, peer: &Endpoint, receives: u32) -> io::Result<()> {
        let inner = self.inner.lock();
        let Life::Open(queue) = &inner.life else { return Err(io::ErrorKind::NotConnected.into()) };
        for _ in 0..receives {
            queue.receive(RECEIVE)?;
        }
        queue.connect(path, peer)?;
        self.completions.notify()
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.inner.lock().life, Life::Open(_))
    }

    /// Asks for something. It is posted now or when there is room.
    pub(super) fn ask(&self, wanted: Wanted, done: Done) -> News {
        let mut news = News::default();
        let mut inner = self.inner.lock();
        if let Life::Broken(status, _) = inner.life {
            news.ended.push((done, Err(Broken(status))));
            return news;
        }
        let id = inner.next;
        inner.next += 1;
        inner.ops.insert(id, Op { wanted: Some(wanted), posted_len: 0, in_flight: 0, done });
        inner.waiting.push_back(id);
        inner.post(self.piece_len_max, &mut news);
        news
    }

    /// Takes what is complete; afterwards its channel wakes for what comes later.
    pub(super) fn drain(&self) -> News {
        let mut news = News::default();
        // Asked for first, so that nothing comes unseen in between.
        let mut failed = self.completions.notify().is_err();
        let mut inner = self.inner.lock();
        loop {
            match self.completions.poll(|completion| inner.complete(completion, &mut news)) {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => {
                    failed = true;
                    break;
                }
            }
        }
        if failed {
            inner.break_with(Status::Flushed, &mut news);
        }
        inner.post(self.piece_len_max, &mut news);
        news
    }

    /// Ends it, if it has not ended.
    pub(super) fn break_with(&self, status: Status) -> News {
        let mut news = News::default();
        self.inner.lock().break_with(status, &mut news);
        news
    }

    /// Destroys the queue pair, then ends what was under way. Says whether the device is certainly through with it.
    pub(super) fn bury(&self) -> bool {
        let (queue, status) = match &mut self.inner.lock().life {
            Life::Open(_) => unreachable!("only what is broken is buried"),
            Life::Broken(status, queue) => (queue.take(), *status),
        };
        let gone = queue.is_none_or(QueuePair::destroy);
        if gone {
            let ops = std::mem::take(&mut self.inner.lock().ops);
            for op in ops.into_values() {
                (op.done)(Err(Broken(status)));
            }
        }
        gone
    }
}

impl Inner {
    fn complete(&mut self, completion: Completion, news: &mut News) {
        if completion.id == RECEIVE {
            // Nobody is asked to send us numbers. Who does takes a receive, which is posted again.
            let again = match (&self.life, completion.status) {
                (Life::Open(queue), Status::Done) => queue.receive(RECEIVE).is_ok(),
                (Life::Open(_), _) => false,
                (Life::Broken(..), _) => true,
            };
            if !again {
                self.break_with(completion.status, news);
            }
            return;
        }
        self.room += 1;
        if completion.status != Status::Done {
            self.break_with(completion.status, news);
            return;
        }
        let Some(op) = self.ops.get_mut(&completion.id) else { return };
        op.in_flight -= 1;
        if op.in_flight == 0 && op.wanted.is_none() {
            let op = self.ops.remove(&completion.id).expect("looked up above");
            news.ended.push((op.done, Ok(())));
        }
    }

    /// Lets nothing in or out any more. What was never posted has ended; the rest has when the queue pair is destroyed.
    fn break_with(&mut self, status: Status, news: &mut News) {
        let Life::Open(queue) = std::mem::replace(&mut self.life, Life::Broken(status, None)) else { return };
        if let Err(error) = queue.fail() {
            tracing::debug!(%error, "a queue pair cannot be put into the error state");
        }
        self.life = Life::Broken(status, Some(queue));
        for id in std::mem::take(&mut self.waiting) {
            let op = self.ops.get_mut(&id).expect("what waits is known");
            op.wanted = None;
            if op.in_flight == 0 {
                let op = self.ops.remove(&id).expect("looked up above");
                news.ended.push((op.done, Err(Broken(status))));
            }
        }
        news.broke = Some(status);
    }

    /// Posts what there is room for, several requests a doorbell.
    fn post(&mut self, piece_len_max: usize, news: &mut News) {
        while let Life::Open(queue) = &self.life
            && self.room > 0
            && !self.waiting.is_empty()
        {
            let most = POST_MAX.min(self.room as usize);
            let mut requests = Vec::with_capacity(most);
            // How far each of them would be.
            let mut steps: Vec<(u64, usize, u32)> = Vec::new();
            for &id in &self.waiting {
                let op = &self.ops[&id];
                let (mut at, mut count) = (op.posted_len, 0);
                let wanted = op.wanted.as_ref().expect("what waits is wanted");
                while requests.len() < most
                    && let Some((work, end)) = wanted.next(at, count + op.in_flight == 0, piece_len_max)
                {
                    requests.push(Request { id, work });
                    at = end;
                    count += 1;
                }
                steps.push((id, at, count));
                if requests.len() == most {
                    break;
                }
            }
            let posted = queue.post(&requests);
            let posted_count = posted.as_ref().err().map_or(requests.len(), |(count, _)| *count);
            drop(requests);
            self.note_posted(&steps, posted_count);
            if let Err((_, error)) = posted {
                tracing::debug!(%error, "the device takes no request");
                self.break_with(Status::Flushed, news);
            }
        }
    }

    fn note_posted(&mut self, steps: &[(u64, usize, u32)], posted: usize) {
        let mut left = u32::try_from(posted).expect("few");
        self.room -= left;
        for &(id, at, count) in steps {
            let op = self.ops.get_mut(&id).expect("just looked at");
            op.in_flight += count.min(left);
            left -= count.min(left);
            op.posted_len = at;
            let is_all = op.wanted.as_ref().is_some_and(|wanted| wanted.is_all_posted(at, op.in_flight > 0));
            if is_all {
                op.wanted = None;
                let first = self.waiting.pop_front();
                assert_eq!(first, Some(id), "requests are posted in order");
            }
        }
    }
}

impl Wanted {
    /// The next request, of bytes from `at` on, and where it ends. `is_first` if there was none yet.
    fn next(&self, at: usize, is_first: bool, piece_len_max: usize) -> Option<(Work<'_>, usize)> {
        let more = |length: usize| at < length || (length == 0 && is_first);
        let piece = |length: usize| u32::try_from(piece_len_max.min(length - at)).expect("at most a message");
        match self {
            Self::Push { region, offset, length, to, immediate } if more(*length) => {
                let len = piece(*length);
                let end = at + len as usize;
                let to = Remote { addr: to.addr.wrapping_add(at as u64), ..*to };
                let immediate = immediate.filter(|_| end == *length);
                Some((Work::Write { region, offset: offset + at, length: len, to, immediate }, end))
            }
            Self::Pull { region, offset, length, from } if more(*length) => {
                let len = piece(*length);
                let from = Remote { addr: from.addr.wrapping_add(at as u64), ..*from };
                Some((Work::Read { region, offset: offset + at, length: len, from }, at + len as usize))
            }
            Self::Bind { window, rkey, region, offset, length, writable } if is_first => {
                let (rkey, offset, length, writable) = (*rkey, *offset, *length, *writable);
                Some((Work::Bind { window, rkey, region, offset, length, writable }, 0))
            }
            Self::Invalidate { rkey } if is_first => Some((Work::Invalidate { rkey: *rkey }, 0)),
            Self::Push { .. } | Self::Pull { .. } | Self::Bind { .. } | Self::Invalidate { .. } => None,
        }
    }

    fn is_all_posted(&self, at: usize, any: bool) -> bool {
        match self {
            Self::Push { length, .. } | Self::Pull { length, .. } => at == *length && any,
            Self::Bind { .. } | Self::Invalidate { .. } => any,
        }
    }
}
