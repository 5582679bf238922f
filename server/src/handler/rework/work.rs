//! A change that waits for bytes and lets others have their turn.
//!
//! Invariants:
//! - Nothing is awaited while gates are held.

use super::value::{Old, Reply, Step};
use super::{Rework, checked};
use crate::conn::output::Output;
use crate::conn::reserve;
use crate::error::refused;
use crate::handler::alone::Brought;
use crate::handler::fetch::fetch_all;
use crate::handler::job::PIECE_LEN_MAX;
use crate::session::Session;
use protocol::base::{Crc, Generation, Instant, copy_from};
use protocol::resp::{ErrorWord, WireError};
use std::sync::Arc;
use storage::flash::tier::Fetched;
use storage::{Found, Reservation, Snapshot, StoreError};

impl Rework {
    /// All of it, for a command that may wait and let others have their turn.
    async fn work(&mut self, session: &Session) -> Result<Reply, WireError> {
        let node = Arc::clone(&session.node);
        let len_max = node.config.read().object_len_max.get();
        loop {
            let now = node.now_looked();
            let (generation, expires, old) = self.read(session, now).await?;
            if self.is_taken(&node, now) && !matches!(old, Old::Nothing) {
                return Ok(Reply::Integer(0));
            }
            let (pieces, len, reply) = match self.plan(old.bytes(), len_max)? {
                Step::Answer(reply) => return Ok(reply),
                Step::Write(pieces, len, reply) => (pieces, len, reply),
            };
            let reserved = reserve(&node, &session.client, self.to(), len as u64, &session.bond.account).await;
            let mut slot = reserved.map_err(refused)?;
            let (mut crc, mut at) = (Crc::default(), 0);
            for piece in &pieces {
                let count = self.piece_len(piece);
                let mut done = 0;
                while done < count {
                    let end = count.min(done + PIECE_LEN_MAX);
                    let to = &mut slot.bytes_mut()[at + done..at + end];
                    self.fill(piece, &old, done..end, to);
                    crc = crc.extend(to);
                    done = end;
                    tokio::task::yield_now().await;
                }
                at += count;
            }
            if self.publish(session, generation, expires, slot, crc)? {
                return Ok(reply);
            }
            if self.is_taken(&node, node.now()) {
                return Ok(Reply::Integer(0));
            }
        }
    }

    /// The last step. `false`: somebody was faster, begin again.
    fn publish(
        &self,
        session: &Session,
        generation: Option<Generation>,
        expires: Option<Instant>,
        slot: Reservation,
        crc: Crc,
    ) -> Result<bool, WireError> {
        let node = &session.node;
        let gates = node.gates();
        let closed = self.to.is_some().then(|| gates.close());
        let entered = closed.is_none().then(|| gates.enter(session.worker()));
        let now = node.now();
        let done = if self.still_holds(node, now, generation) {
            slot.publish(now, crc, &self.terms(generation, expires)).map(drop)
        } else {
            drop(slot);
            Err(StoreError::Condition)
        };
        if done.is_ok() {
            self.published(node, now, generation);
        }
        drop((closed, entered));
        match done {
            Ok(()) => Ok(true),
            Err(StoreError::Condition | StoreError::Exists { .. }) => Ok(false),
            Err(error) => Err(refused(error)),
        }
    }

    async fn read(
        &self,
        session: &Session,
        now: Instant,
    ) -> Result<(Option<Generation>, Option<Instant>, Old), WireError> {
        let node = &session.node;
        let Some(snapshot) = node.store.snapshot(now, &self.key, node.arena.is_some()).map_err(refused)? else {
            return Ok((None, None, Old::Nothing));
        };
        let Snapshot { generation, expires, found } = snapshot;
        Ok((Some(generation), expires, old_of(session, found).await?))
    }

    /// Writes the reply, once all is done.
    pub(crate) async fn reply(mut self, session: &Session, output: &mut Output) {
        let result = self.work(session).await;
        answer(session, output, result);
    }
}

fn answer(session: &Session, output: &mut Output, result: Result<Reply, WireError>) {
    match result {
        Ok(reply) => reply.write(&mut output.writer()),
        Err(error) => {
            session.node.workers().get(session.worker()).stats.error(error.word());
            output.writer().wire_error(&error);
        }
    }
}

/// The bytes of what was found, from flash if they lie there. What cannot be read any more is nothing.
pub(crate) async fn old_of(session: &Session, found: Found) -> Result<Old, WireError> {
    let node = &session.node;
    let found = match found {
        Found::Flash(mut read) => {
            read.promote = false;
            let mut fetched = fetch_all(node, &session.bond.account, vec![(0, read)]).await;
            match fetched.pop().map(|(_, fetched)| fetched).transpose()?.flatten() {
                None => return Ok(Old::Nothing),
                Some(Fetched::Small(bytes)) => Found::Small(bytes),
                Some(Fetched::Guard(guard)) => Found::Large(guard),
            }
        }
        found => found,
    };
    Ok(match found {
        Found::Small(bytes) => Old::Bytes(bytes),
        Found::Large(guard) if node.arena.is_some() => checked::copy(guard).await.map_or(Old::Nothing, Old::Bytes),
        Found::Large(guard) => Old::Guard(guard),
        Found::Flash(_) => Old::Nothing,
    })
}

/// The bytes of what was found, for one who is alone and cannot wait.
pub(crate) fn old_at_once(
    checked: bool,
    brought: &Brought,
    key: &[u8],
    generation: Generation,
    found: Found,
) -> Result<Old, WireError> {
    match found {
        Found::Small(bytes) => Ok(Old::Bytes(bytes)),
        Found::Large(guard) if checked => {
            let mut bytes = vec![0; guard.len()];
            if copy_from(guard.span(), &mut bytes) == guard.crc() {
                return Ok(Old::Bytes(bytes));
            }
            guard.condemn();
            Ok(Old::Nothing)
        }
        Found::Large(guard) => Ok(Old::Guard(guard)),
        Found::Flash(_) => brought.take(key, generation).ok_or_else(|| {
            WireError::new(ErrorWord::TryAgain, "the value was moved to flash while the transaction ran")
        }),
    }
}
