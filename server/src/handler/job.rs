//! Work that may take longer than one turn of its worker: copies and checksums of large payloads.
//!
//! Invariants:
//! - Between two pieces every other connection of the worker gets its turn.
//! - A connection that ends meanwhile drops the job, and with it the slot.

use crate::conn::output::Output;
use crate::error::refused;
use crate::handler::aside::{self, Aside};
use crate::handler::checked::Checking;
use crate::handler::object::write_committed;
use crate::session::Session;
use protocol::base::{Crc, Instant, RawSpan, copy_and_crc, crc_of};
use protocol::command::CommandId;
use protocol::resp::WireError;
use std::time::Duration;
use storage::{Committed, Reservation, SealGuard, StoreError, Terms};

/// Bytes copied or checked in one turn.
pub(crate) const PIECE_LEN_MAX: usize = 1 << 20;

/// A granted slot that is being sealed, with bytes to fetch first if they lie in the client's memory.
#[derive(Debug)]
pub(crate) struct Sealing {
    pub(crate) guard: SealGuard,
    pub(crate) source: Option<RawSpan>,
    pub(crate) claimed: Crc,
}

/// A reserved slot that is filled from the client's memory.
#[derive(Debug)]
pub(crate) struct Storing {
    pub(crate) slot: Reservation,
    pub(crate) source: RawSpan,
    pub(crate) claimed: Crc,
    pub(crate) terms: Terms,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) enum Job {
    Seal(Box<Sealing>),
    SealBatch(Vec<Result<Result<Sealing, Committed>, WireError>>),
    Store(Box<Storing>),
    Check(Box<Checking>),
    /// `DEBUG SLEEP`.
    Sleep(Duration),
    /// Something over very many objects.
    Aside(Aside),
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

    async fn seal(self, session: &Session) -> Result<Committed, StoreError> {
        let crc = fill(self.source.as_ref(), self.guard.span()).await;
        self.guard.finish(session.node.now(), self.claimed, crc)
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
    /// Does it and writes the reply.
    pub(crate) async fn run(self, session: &mut Session, output: &mut Output) {
        match self {
            Self::Seal(sealing) => reply(output, sealing.seal(session).await.map_err(refused)),
            Self::SealBatch(items) => {
                for item in items {
                    let result = match item {
                        Err(error) => Err(error),
                        Ok(Err(committed)) => Ok(committed),
                        Ok(Ok(sealing)) => sealing.seal(session).await.map_err(refused),
                    };
                    reply(output, result);
                }
            }
            Self::Store(storing) => {
                let crc = fill(Some(&storing.source), &storing.slot.span()).await;
                session.node.stats.shm_in.add(storing.source.len() as u64);
                reply(output, storing.publish(session.node.now(), crc).map_err(refused));
            }
            Self::Check(checking) => checking.reply(output).await,
            Self::Aside(aside) => aside.run(session, output).await,
            Self::Sleep(span) => {
                tokio::time::sleep(span).await;
                aside::note(session, CommandId::DebugSleep, span);
                output.writer().ok();
            }
        }
    }
}

fn reply(output: &mut Output, result: Result<Committed, WireError>) {
    match result {
        Ok(committed) => write_committed(&mut output.writer(), &committed),
        Err(error) => output.writer().wire_error(&error),
    }
}
