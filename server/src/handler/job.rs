//! Work that may take longer than one turn of its worker: copies and checksums of large payloads.
//!
//! Invariants:
//! - Between two pieces every other connection of the worker gets its turn.
//! - A connection that ends meanwhile drops the job, and with it the slot.

use crate::conn::output::Output;
use crate::conn::stream::Stream;
use crate::error::{flash, refused};
use crate::handler::alone::{Alone, Part, write_parts};
use crate::handler::aside::{self, Aside};
use crate::handler::dump::Dumping;
use crate::handler::fetch::Fetching;
use crate::handler::into::Pushing;
use crate::handler::lcs::Comparing;
use crate::handler::lease::Leasing;
use crate::handler::lookup::Looking;
use crate::handler::object::{Lending, write_committed};
use crate::handler::rework::Rework;
use crate::latency::Level;
use crate::node::Node;
use crate::rdma::Pulling;
use crate::session::Session;
use protocol::base::{Crc, Instant, RawSpan, copy_and_crc, crc_of};
use protocol::command::{CommandId, RemoteMemory};
use protocol::resp::{ErrorWord, WireError};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use storage::{Committed, Reservation, SealGuard, StoreError, Terms};
use tokio::task::JoinSet;

/// Bytes copied or checked in one turn.
pub(crate) const PIECE_LEN_MAX: usize = 1 << 20;

/// A granted slot that is being sealed, with bytes to fetch first if they lie in the client's memory.
#[derive(Debug)]
pub(crate) struct Sealing {
    pub(crate) guard: SealGuard,
    pub(crate) source: Option<RawSpan>,
    /// Where they lie in memory that the client registered for RDMA.
    pub(crate) pull: Option<RemoteMemory>,
    pub(crate) claimed: Crc,
    /// Whether it is answered when it is synced on flash.
    pub(crate) durable: bool,
}

/// A reserved slot that is filled from the client's memory.
#[derive(Debug)]
pub(crate) struct Storing {
    pub(crate) slot: Reservation,
    pub(crate) source: RawSpan,
    pub(crate) claimed: Crc,
    pub(crate) terms: Terms,
    /// Whether it is answered when it is synced on flash.
    pub(crate) durable: bool,
}

/// What is to be done for an item of a batch, or what was done before; and whether that must be on flash.
pub(crate) type Begun = Result<(Result<Sealing, Committed>, bool), WireError>;

/// See the module's text.
#[derive(Debug)]
pub(crate) enum Job {
    Seal(Box<Sealing>),
    SealBatch(Vec<Begun>),
    /// It was committed, and is answered when it is on flash.
    Settle(Box<Committed>),
    Store(Box<Storing>),
    /// Objects of which some may lie on flash.
    Fetch(Box<Fetching>),
    Lease(Box<Leasing>),
    /// A grant whose window is being bound.
    Lend(Box<Lending>),
    Lookup(Box<Looking>),
    /// `GET … INTO`
    Push(Box<Pushing>),
    /// `DEBUG SLEEP`.
    Sleep(Duration),
    /// Something over very many objects.
    Aside(Aside),
    /// A value that is made from what was there.
    Rework(Box<Rework>),
    /// Commands with nobody else's between them, and what is left of their replies.
    Alone(Alone),
    Parts(VecDeque<Part>),
    Dump(Box<Dumping>),
    Lcs(Box<Comparing>),
}

/// Checks `to`, after filling it from `from` if there is one. `offset` and `crc` are where the last turn ended.
fn piece(from: Option<&RawSpan>, to: &RawSpan, offset: usize, crc: Crc) -> (usize, Crc) {
    let len = PIECE_LEN_MAX.min(to.len() - offset);
    let part = to.part(offset, len).expect("inside");
    let crc = match from {
        Some(from) => copy_and_crc(&from.part(offset, len).expect("as long"), &part, crc),
        None if offset == 0 => crc_of(&part),
        None => crc.then(crc_of(&part), len as u64),
    };
    (offset + len, crc)
}

async fn fill(from: Option<&RawSpan>, to: &RawSpan) -> Crc {
    let (mut offset, mut crc) = (0, Crc::default());
    while offset < to.len() {
        (offset, crc) = piece(from, to, offset, crc);
        tokio::task::yield_now().await;
    }
    crc
}

impl Sealing {
    /// All at once, for what fits one turn.
    pub(crate) fn seal_now(self, now: Instant) -> Result<Committed, StoreError> {
        let (_, crc) = piece(self.source.as_ref(), self.guard.span(), 0, Crc::default());
        self.guard.finish(now, self.claimed, crc)
    }

    /// Whether others have to do something before its bytes can be checked, or after.
    pub(crate) fn waits(&self) -> bool {
        self.durable || self.pull.is_some() || self.guard.exposed()
    }

    async fn seal(self, session: &Session) -> Outcome {
        self.begin(session).await?.finish(session).await
    }

    /// Makes sure that nobody else writes the slot any more, and asks for what lies in the client's registered memory.
    async fn begin(self, session: &Session) -> Result<Sealed, WireError> {
        let Self { mut guard, source, pull, claimed, .. } = self;
        let node = &session.node;
        if guard.exposed() {
            guard = node.rdma.fenced(guard).await?;
            if pull.is_none() {
                node.stats.rdma_in.add(guard.span().len() as u64);
            }
        }
        let bytes = match pull {
            Some(from) => Bytes::Coming(Pulling::begin(node, session.bond.id, guard, from)?),
            None => Bytes::Here(guard),
        };
        Ok(Sealed { bytes, source, claimed })
    }
}

/// A slot that nobody else can write.
struct Sealed {
    bytes: Bytes,
    source: Option<RawSpan>,
    claimed: Crc,
}

enum Bytes {
    Here(SealGuard),
    Coming(Pulling),
}

impl Sealed {
    /// Checks the bytes and publishes them.
    async fn finish(self, session: &Session) -> Outcome {
        let guard = match self.bytes {
            Bytes::Here(guard) => guard,
            Bytes::Coming(pulling) => pulling.finish(&session.node).await?,
        };
        let crc = fill(self.source.as_ref(), guard.span()).await;
        let _entered = session.node.gates().enter(session.worker());
        let committed = guard.finish(session.node.now(), self.claimed, crc).map_err(refused)?;
        session.node.notify_set(&committed.key, None);
        Ok(committed)
    }
}

impl Storing {
    /// All at once, for what fits one turn.
    pub(crate) fn store_now(self, now: Instant) -> Result<Committed, StoreError> {
        let (_, crc) = piece(Some(&self.source), &self.slot.span(), 0, Crc::default());
        self.publish(now, crc)
    }

    fn publish(self, now: Instant, actual: Crc) -> Result<Committed, StoreError> {
        if actual != self.claimed {
            return Err(StoreError::Crc { claimed: self.claimed, actual });
        }
        self.slot.publish(now, actual, &self.terms)
    }
}

impl Job {
    /// Where the bytes are that it is about.
    pub(crate) fn level(&self) -> Level {
        match self {
            Self::Fetch(fetching) => fetching.level(),
            Self::Lease(leasing) if !leasing.has_flash() => Level::Dram,
            // Made only when something lies on flash alone.
            Self::Lease(_) | Self::Lookup(_) => Level::Flash,
            Self::Seal(_)
            | Self::SealBatch(_)
            | Self::Settle(_)
            | Self::Store(_)
            | Self::Sleep(_)
            | Self::Aside(_)
            | Self::Rework(_)
            | Self::Alone(_)
            | Self::Parts(_)
            | Self::Dump(_)
            | Self::Lcs(_)
            | Self::Lend(_)
            | Self::Push(_) => Level::Dram,
        }
    }

    /// Does it and writes the reply, or as much of it as may wait to be sent; then it returns the rest.
    pub(crate) async fn run(self, session: &mut Session, output: &mut Output, stream: &mut Stream) -> Option<Self> {
        match self {
            Self::Seal(sealing) => {
                let durable = sealing.durable;
                let committed = sealing.seal(session).await;
                reply(output, settle(&session.node, committed, durable).await);
            }
            Self::SealBatch(items) => {
                // All that has to be read from the client is asked for before the first is waited for.
                let mut begun = Vec::with_capacity(items.len());
                for item in items {
                    begun.push(match item {
                        Err(error) => (Err(error), false),
                        Ok((Err(committed), durable)) => (Ok(Err(committed)), durable),
                        Ok((Ok(sealing), durable)) => (sealing.begin(session).await.map(Ok), durable),
                    });
                }
                let mut sealed = Vec::with_capacity(begun.len());
                for (item, durable) in begun {
                    sealed.push(match item {
                        Err(error) => (Err(error), durable),
                        Ok(Err(committed)) => (Ok(committed), durable),
                        Ok(Ok(one)) => (one.finish(session).await, durable),
                    });
                }
                for result in settle_all(&session.node, sealed).await {
                    reply(output, result);
                }
            }
            Self::Settle(committed) => reply(output, settle(&session.node, Ok(*committed), true).await),
            Self::Store(storing) => {
                let crc = fill(Some(&storing.source), &storing.slot.span()).await;
                session.node.stats.shm_in.add(storing.source.len() as u64);
                let durable = storing.durable;
                let committed = {
                    let _entered = session.node.gates().enter(session.worker());
                    let committed = storing.publish(session.node.now(), crc);
                    if let Ok(committed) = &committed {
                        session.node.notify_set(&committed.key, None);
                    }
                    committed.map_err(refused)
                };
                reply(output, settle(&session.node, committed, durable).await);
            }
            Self::Fetch(fetching) => {
                return fetching.reply(session, output).await.map(|rest| Self::Fetch(Box::new(rest)));
            }
            Self::Lease(leasing) => leasing.reply(session, output).await,
            Self::Lend(lending) => lending.reply(session, output).await,
            Self::Lookup(looking) => looking.reply(session, output).await,
            Self::Push(pushing) => pushing.reply(session, output).await,
            Self::Aside(aside) => aside.run(session, output).await,
            Self::Rework(rework) => rework.reply(session, output).await,
            Self::Alone(alone) => return alone.run(session, output, stream).await.map(Self::Parts),
            Self::Parts(parts) => return write_parts(parts, session, output, stream).await.map(Self::Parts),
            Self::Dump(dumping) => dumping.reply(session, output).await,
            Self::Lcs(comparing) => comparing.reply(session, output).await,
            Self::Sleep(span) => {
                tokio::time::sleep(span).await;
                aside::note(session, CommandId::DebugSleep, span);
                output.writer().ok();
            }
        }
        None
    }
}

type Outcome = Result<Committed, WireError>;

/// Waits until what was committed is synced on flash, if it is to be.
async fn settle(node: &Node, outcome: Outcome, durable: bool) -> Outcome {
    let (true, Ok(committed)) = (durable, &outcome) else { return outcome };
    let unsettled = |word, why: String| {
        Err(WireError::new(word, format!("committed as generation {}, but not durable: {why}", committed.generation)))
    };
    let Some(tier) = node.tier() else {
        return unsettled(ErrorWord::Denied, "this node has no flash tier".to_owned());
    };
    let synced = tier.durable(node.now(), &committed.key, committed.generation);
    match tokio::time::timeout(node.hot.flash_wait(), synced).await {
        Ok(Ok(())) => outcome,
        Ok(Err(error)) => unsettled(flash(&error).word(), error.to_string()),
        Err(_) => unsettled(ErrorWord::Busy, format!("flash took longer than {:?}", node.hot.flash_wait())),
    }
}

/// The same for a batch, whose items share what one sync takes.
async fn settle_all(node: &Arc<Node>, outcomes: Vec<(Outcome, bool)>) -> Vec<Outcome> {
    if !outcomes.iter().any(|(_, durable)| *durable) {
        return outcomes.into_iter().map(|(outcome, _)| outcome).collect();
    }
    let mut set = JoinSet::new();
    for (at, (outcome, durable)) in outcomes.into_iter().enumerate() {
        let node = Arc::clone(node);
        set.spawn(async move { (at, settle(&node, outcome, durable).await) });
    }
    let mut settled = set.join_all().await;
    settled.sort_by_key(|(at, _)| *at);
    settled.into_iter().map(|(_, outcome)| outcome).collect()
}

fn reply(output: &mut Output, result: Outcome) {
    match result {
        Ok(committed) => write_committed(&mut output.writer(), &committed),
        Err(error) => output.writer().wire_error(&error),
    }
}
