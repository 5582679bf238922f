//! Commands that run with nobody else's between them: what `EXEC` runs, and single ones that touch several keys at once.
//!
//! What they need of flash is brought first, while others have their turn. Then the gates of all workers are closed, what is
//! watched is compared, and the commands run one after another without a wait. What they found on flash meanwhile is named
//! by its generation, and objects never change: so a plain read of flash is done after the gates are open again.
//!
//! Invariants:
//! - Nothing is awaited while the gates are closed.
//! - Replies keep the order of the commands.
//! - A command that finds no room lets others go at once: it cannot wait for flash.

use super::job::Job;
use super::rework::{Old, old_of};
use crate::conn::Taken;
use crate::conn::output::Output;
use crate::conn::stream::Stream;
use crate::dispatch::{self, Answer, Ctx, Flow};
use crate::node::Node;
use crate::session::Session;
use parking_lot::Mutex;
use protocol::base::{Generation, Instant};
use protocol::command::CommandId;
use protocol::resp::{Arg, ArgBuf, Args, ErrorWord, WireError};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use storage::{Found, Snapshot};

/// Times that something is brought from flash before a transaction gives up.
const TRIES_MAX: usize = 16;

/// One command and its arguments, large ones in their slots.
#[derive(Debug)]
pub(crate) struct Queued {
    args: ArgBuf,
    taken: Vec<(usize, Taken)>,
}

impl Queued {
    /// Takes over a command.
    pub(crate) fn of(args: Args<'_>, taken: &mut Vec<(usize, Taken)>) -> Self {
        let mut buf = ArgBuf::default();
        for arg in args.iter() {
            match arg {
                Arg::Bytes(bytes) => buf.push(bytes),
                Arg::Taken { len } => buf.push_taken(len),
            }
        }
        Self { args: buf, taken: std::mem::take(taken) }
    }

    /// Bytes that it takes while it waits, slots apart.
    pub(crate) fn len(&self) -> usize {
        let words: usize = self.args.args().iter().filter_map(Arg::bytes).map(|bytes| bytes.len() + 32).sum();
        words + 64
    }

    /// Whether a slot waits with it.
    pub(crate) fn holds_slot(&self) -> bool {
        !self.taken.is_empty()
    }

    /// The key whose bytes it has to know before it can run, if it is such a command.
    fn needs(&self) -> Option<&[u8]> {
        let args = self.args.args();
        let spec = protocol::command::lookup(args.bytes(0)?)?;
        use CommandId as Id;
        let needs = matches!(
            spec.id,
            Id::Append
                | Id::SetRange
                | Id::Incr
                | Id::Decr
                | Id::IncrBy
                | Id::DecrBy
                | Id::IncrByFloat
                | Id::Rename
                | Id::RenameNx
                | Id::Copy
        );
        needs.then(|| args.bytes(1))?
    }
}

/// Values that lie on flash, brought for commands that cannot wait.
#[derive(Debug, Default)]
pub(crate) struct Brought(Mutex<HashMap<Placed, Old>>);

/// One object of a key.
type Placed = (Box<[u8]>, Generation);

impl Brought {
    /// The value, once.
    pub(crate) fn take(&self, key: &[u8], generation: Generation) -> Option<Old> {
        self.0.lock().remove(&(key.into(), generation))
    }

    fn has(&self, key: &[u8], generation: Generation) -> bool {
        self.0.lock().contains_key(&(key.into(), generation))
    }

    fn put(&self, key: &[u8], generation: Generation, old: Old) {
        self.0.lock().insert((key.into(), generation), old);
    }
}

/// What a key held when it was watched: which object, and when that expires.
pub(crate) type Watched = Option<(Generation, Option<Instant>)>;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Alone {
    queue: Vec<Queued>,
    /// Of `EXEC`: replies come in an array, or none does if one of these keys changed.
    exec: Option<Vec<(Box<[u8]>, Watched)>>,
}

/// A reply, or what it waits for.
#[derive(Debug)]
pub(crate) enum Part {
    Done(Output),
    Later(Job),
}

impl Alone {
    /// One command.
    pub(crate) fn one(command: Queued) -> Self {
        Self { queue: vec![command], exec: None }
    }

    /// What `EXEC` runs.
    pub(crate) fn exec(queue: Vec<Queued>, watched: Vec<(Box<[u8]>, Watched)>) -> Self {
        Self { queue, exec: Some(watched) }
    }

    /// A value on flash that one of the commands needs and that was not brought yet.
    fn missing(&self, node: &Node, now: Instant, brought: &Brought) -> Option<(Box<[u8]>, Snapshot)> {
        self.queue.iter().filter_map(Queued::needs).find_map(|key| {
            // What too many read is refused when its command runs.
            let snapshot = node.store.snapshot(now, key, node.arena.is_some()).ok().flatten()?;
            let is_missing = matches!(snapshot.found, Found::Flash(_)) && !brought.has(key, snapshot.generation);
            is_missing.then(|| (key.into(), snapshot))
        })
    }

    /// Runs them. Returns the replies that wait for something.
    pub(crate) async fn run(
        mut self,
        session: &mut Session,
        output: &mut Output,
        stream: &mut Stream,
    ) -> Option<VecDeque<Part>> {
        let node = Arc::clone(&session.node);
        let brought = Brought::default();
        for _ in 0..TRIES_MAX {
            while let Some((key, snapshot)) = self.missing(&node, node.now(), &brought) {
                match old_of(session, snapshot.found).await {
                    Ok(old) => brought.put(&key, snapshot.generation, old),
                    Err(error) => {
                        output.writer().wire_error(&error);
                        return None;
                    }
                }
            }
            let now = node.now_looked();
            let closed = node.gates().close();
            if self.missing(&node, now, &brought).is_none() {
                let parts = self.run_now(session, output, stream, &brought, now);
                drop(closed);
                return parts;
            }
        }
        let error = WireError::new(ErrorWord::TryAgain, "the values kept changing between memory and flash");
        output.writer().wire_error(&error);
        None
    }

    /// With the gates closed.
    fn run_now(
        &mut self,
        session: &mut Session,
        output: &mut Output,
        stream: &mut Stream,
        brought: &Brought,
        now: Instant,
    ) -> Option<VecDeque<Part>> {
        let node = Arc::clone(&session.node);
        if let Some(watched) = &self.exec {
            if watched.iter().any(|(key, before)| node.store.identity(now, key) != *before) {
                output.writer().null_array();
                return None;
            }
            output.writer().array(self.queue.len());
        }
        let mut later: VecDeque<Part> = VecDeque::new();
        for queued in &mut self.queue {
            // Behind a reply that waits, every other one does.
            let mut own = Output::default();
            own.resp3 = output.resp3;
            let out = if later.is_empty() { &mut *output } else { &mut own };
            let (flow, answer) = run_one(&node, session, out, stream, queued, brought, now);
            output.resp3 = if later.is_empty() { output.resp3 } else { own.resp3 };
            if !later.is_empty() {
                later.push_back(Part::Done(own));
            }
            if let (Flow::Wait(job), Answer::Wanted) = (flow, answer) {
                later.push_back(Part::Later(job));
            }
        }
        if self.exec.is_some() && node.pubsub.is_monitored() {
            super::pubsub::show_exec(&node, session);
        }
        (!later.is_empty()).then_some(later)
    }
}

fn run_one(
    node: &Arc<Node>,
    session: &mut Session,
    output: &mut Output,
    stream: &mut Stream,
    queued: &mut Queued,
    brought: &Brought,
    now: Instant,
) -> (Flow, Answer) {
    let worker = session.worker();
    let (mut bulky, mut resume, mut ran) = (false, 0, Vec::new());
    let mut has_waited = false;
    loop {
        let done = dispatch::execute(Ctx {
            node,
            session: &mut *session,
            output: &mut *output,
            args: queued.args.args(),
            taken: &mut queued.taken,
            stream: &mut *stream,
            stats: &node.workers().get(worker).stats,
            now,
            bulky: &mut bulky,
            resume: &mut resume,
            has_waited,
            ran: &mut ran,
            alone: Some(brought),
        });
        if !matches!(done.0, Flow::Room) || has_waited {
            return done;
        }
        node.store.hurry(now);
        has_waited = true;
    }
}

/// Writes replies in order, up to the first that has more to say than may wait. Returns the rest.
pub(crate) async fn write_parts(
    mut parts: VecDeque<Part>,
    session: &mut Session,
    output: &mut Output,
    stream: &mut Stream,
) -> Option<VecDeque<Part>> {
    match parts.pop_front()? {
        Part::Done(done) => output.append(done),
        Part::Later(job) => {
            if let Some(rest) = Box::pin(job.run(session, output, stream)).await {
                parts.push_front(Part::Later(rest));
            }
        }
    }
    (!parts.is_empty()).then_some(parts)
}
