//! `MULTI`, `EXEC`, `DISCARD`, `WATCH`, `UNWATCH`: what a client queues, and what it wants to find unchanged.
//!
//! Invariants:
//! - What is queued is charged to the client, in number and in bytes; slots that large values wait in are charged as they
//!   always are, and a client that lets them wait for longer than a lease may last is ended.
//! - A command that was refused while it was queued refuses the whole transaction.

use super::alone::{Alone, Queued, Watched};
use crate::dispatch::{Ctx, Flow};
use crate::handler::job::Job;
use crate::session::Session;
use protocol::base::ByteLen;
use protocol::command::{CommandId, Flags, Spec, check_key};
use protocol::resp::{ErrorWord, WireError};
use std::sync::atomic::Ordering;

/// Keys that one client may watch.
const WATCHED_MAX: usize = 16 * 1024;
/// Commands that one client may queue.
const QUEUED_MAX: usize = 64 * 1024;

/// What a client queued since `MULTI`.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    commands: Vec<Queued>,
    len: usize,
    aborted: bool,
    writes: bool,
}

impl Queue {
    /// Whether one of the commands would wait in a pause for writers.
    pub(crate) fn writes(&self) -> bool {
        self.writes
    }
}

/// Whether a command runs at once although others are being queued.
fn runs_at_once(id: CommandId) -> bool {
    use CommandId as Id;
    matches!(id, Id::Exec | Id::Discard | Id::Multi | Id::Watch | Id::Quit | Id::Reset)
}

/// Queues a command if the client is in a transaction. `Ok(false)`: it is not, or this one runs at once.
pub(crate) fn queue(ctx: &mut Ctx<'_>, spec: &Spec) -> Result<bool, WireError> {
    if ctx.session.multi.is_none() || ctx.alone.is_some() || runs_at_once(spec.id) {
        return Ok(false);
    }
    if spec.flags.contains(Flags::NO_MULTI) {
        return Err(WireError::err("Command not allowed inside a transaction"));
    }
    let max = ctx.node.hot.request_len_max();
    let command = Queued::of(ctx.args, ctx.taken);
    let (now_ms, writes) = (ctx.now.0 / 1_000_000, spec.flags.intersects(Flags::WRITE | Flags::MAY_REPLICATE));
    let client = std::sync::Arc::clone(&ctx.session.client);
    let Some(queue) = &mut ctx.session.multi else { return Ok(false) };
    let len = queue.len + command.len();
    if len > max || queue.commands.len() == QUEUED_MAX {
        let max = ByteLen(max as u64);
        return Err(WireError::new(
            ErrorWord::TooBig,
            format!("a transaction has at most {QUEUED_MAX} commands and {max} of arguments"),
        ));
    }
    if command.holds_slot() && client.held_since_ms.load(Ordering::Relaxed) == 0 {
        client.held_since_ms.store(now_ms.max(1), Ordering::Relaxed);
    }
    queue.len = len;
    queue.writes |= writes;
    queue.commands.push(command);
    client.queued.store(len as u64, Ordering::Relaxed);
    client.multi.store(queue.commands.len() as i64, Ordering::Relaxed);
    ctx.reply().simple("QUEUED");
    Ok(true)
}

/// A command was refused: if it was to be queued, nothing of the transaction runs.
pub(crate) fn abort(ctx: &mut Ctx<'_>) {
    if ctx.alone.is_none()
        && let Some(queue) = &mut ctx.session.multi
    {
        queue.aborted = true;
    }
}

impl Session {
    /// Ends the transaction, if there is one, and hands out what was queued.
    pub(crate) fn leave_multi(&mut self) -> Option<Box<Queue>> {
        self.client.queued.store(0, Ordering::Relaxed);
        self.client.held_since_ms.store(0, Ordering::Relaxed);
        self.client.multi.store(-1, Ordering::Relaxed);
        self.multi.take()
    }

    /// Watches nothing any more, and hands out what was watched.
    pub(crate) fn unwatch(&mut self) -> Vec<(Box<[u8]>, Watched)> {
        self.client.watched.store(0, Ordering::Relaxed);
        std::mem::take(&mut self.watched)
    }
}

/// `MULTI`
pub(crate) fn multi(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    if ctx.session.multi.is_some() {
        return Err(WireError::err("MULTI calls can not be nested"));
    }
    ctx.session.multi = Some(Box::default());
    ctx.session.client.multi.store(0, Ordering::Relaxed);
    ctx.reply().ok();
    Ok(Flow::Go)
}

/// `EXEC`
pub(crate) fn exec(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let Some(queue) = ctx.session.leave_multi() else { return Err(WireError::err("EXEC without MULTI")) };
    let watched = ctx.session.unwatch();
    if queue.aborted {
        // Who watches commands has seen `MULTI`, and sees that it is over.
        if ctx.node.pubsub.is_monitored() {
            super::pubsub::show_exec(ctx.node, ctx.session);
        }
        return Err(WireError::new(ErrorWord::ExecAbort, "Transaction discarded because of previous errors."));
    }
    Ok(Flow::Wait(Job::Alone(Alone::exec(queue.commands, watched))))
}

/// `DISCARD`
pub(crate) fn discard(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    if ctx.session.leave_multi().is_none() {
        return Err(WireError::err("DISCARD without MULTI"));
    }
    ctx.session.unwatch();
    ctx.reply().ok();
    Ok(Flow::Go)
}

/// `WATCH key …`: by generation and expiry, so that an absent key is watched too.
pub(crate) fn watch(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    if ctx.session.multi.is_some() {
        return Err(WireError::err("WATCH inside MULTI is not allowed"));
    }
    let keys: Vec<&[u8]> = ctx.args.skip(1).iter().filter_map(|key| key.bytes()).collect();
    for key in keys {
        check_key(key)?;
        if ctx.session.watched.iter().any(|(watched, _)| **watched == *key) {
            continue;
        }
        if ctx.session.watched.len() == WATCHED_MAX {
            return Err(WireError::new(ErrorWord::TooBig, format!("a client watches at most {WATCHED_MAX} keys")));
        }
        let seen: Watched = ctx.node.store.identity(ctx.now, key);
        ctx.session.watched.push((key.into(), seen));
    }
    ctx.session.client.watched.store(ctx.session.watched.len() as u64, Ordering::Relaxed);
    ctx.reply().ok();
    Ok(Flow::Go)
}

/// `UNWATCH`
pub(crate) fn unwatch(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    ctx.session.unwatch();
    ctx.reply().ok();
    Ok(Flow::Go)
}
