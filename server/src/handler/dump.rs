//! `DUMP` and `RESTORE`: values in the form that Redis has for them.

use super::expire::instant_of_unix;
use super::job::PIECE_LEN_MAX;
use super::rework::{Argument, old_of};
use crate::conn::output::Output;
use crate::dispatch::{Ctx, Flow};
use crate::error::refused;
use crate::events::GENERIC;
use crate::handler::job::Job;
use crate::rdb::{self, Encoder, Refusal};
use crate::session::Session;
use protocol::command::Restore;
use protocol::resp::{ErrorWord, WireError};
use storage::{Condition, Found, StoreError, Terms};

/// A value that is to be dumped.
#[derive(Debug)]
pub(crate) struct Dumping(Found);

impl Dumping {
    /// Writes the reply, piece by piece.
    pub(crate) async fn reply(self, session: &Session, output: &mut Output) {
        let old = match old_of(session, self.0).await {
            Ok(old) => old,
            Err(error) => return output.writer().wire_error(&error),
        };
        let Some(bytes) = old.bytes() else { return output.writer().null() };
        let mut encoder = Encoder::new(bytes.len());
        for piece in bytes.chunks(PIECE_LEN_MAX) {
            encoder.put(piece);
            tokio::task::yield_now().await;
        }
        output.writer().bulk(&encoder.finish());
    }
}

/// `DUMP key`
pub(crate) fn dump(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let key = ctx.word(1)?;
    match ctx.node.store.peek(ctx.now, key, ctx.node.arena.is_some()).map_err(refused)? {
        None => ctx.reply().null(),
        Some(Found::Small(bytes)) => {
            let mut encoder = Encoder::new(bytes.len());
            encoder.put(&bytes);
            ctx.reply().bulk(&encoder.finish());
        }
        Some(found) => {
            let len = match &found {
                Found::Large(guard) => guard.len(),
                Found::Flash(read) => usize::try_from(read.length).unwrap_or(usize::MAX),
                Found::Small(bytes) => bytes.len(),
            };
            let max = ctx.node.hot.output_len_max();
            if len >= max {
                return Err(WireError::new(ErrorWord::TooBig, format!("a dump has less than {max} bytes")));
            }
            return Ok(Flow::Wait(Job::Dump(Box::new(Dumping(found)))));
        }
    }
    Ok(Flow::Go)
}

/// `RESTORE key ttl serialized-value [REPLACE] [ABSTTL] [IDLETIME s] [FREQ n]`
pub(crate) fn restore(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let request = Restore::parse(&ctx.args)?;
    let busy = || WireError::new(ErrorWord::BusyKey, "Target key name already exists.");
    if !request.replace && ctx.node.store.contains(ctx.now, request.key) {
        return Err(busy());
    }
    let len_max = usize::try_from(ctx.node.hot.object_len_max).unwrap_or(usize::MAX);
    let mut payload = Argument::take(ctx, 3)?;
    let value = rdb::decode(payload.bytes(), len_max).map_err(|refusal| {
        WireError::err(match refusal {
            Refusal::Unreadable => "DUMP payload version or checksum are wrong".to_owned(),
            Refusal::Bad => "Bad data format".to_owned(),
            Refusal::Type(kind) => format!("Bad data format: type {kind} is no string"),
        })
    })?;
    let expires = request.ttl.map(|ttl| match request.absolute {
        true => instant_of_unix(ctx.node, ttl),
        false => ctx.now + ttl,
    });
    if expires.is_some_and(|expires| expires <= ctx.now) {
        // What would be gone at once is not stored; what it replaces goes.
        ctx.node.store.remove(ctx.now, request.key);
        ctx.reply().ok();
        return Ok(Flow::Go);
    }
    let condition = if request.replace { Condition::Always } else { Condition::IfAbsent };
    let terms = Terms { condition, expires, ..Terms::default() };
    let set = || ctx.node.store.set(ctx.now, request.key, &value, &ctx.session.bond.account, &terms);
    let done = match set() {
        Err(error @ StoreError::SpillWait { .. }) if payload_is_lent(ctx) => {
            return ctx.wait_for_room(error);
        }
        // A payload that was received into a slot does not come again.
        Err(StoreError::SpillWait { .. }) => {
            ctx.node.store.hurry(ctx.now);
            set()
        }
        done => done,
    };
    match done {
        Ok(_) => {
            ctx.node.notify(GENERIC, "restore", request.key);
            ctx.reply().ok();
        }
        Err(StoreError::Exists { .. }) => return Err(busy()),
        Err(error) => return Err(refused(error)),
    }
    Ok(Flow::Go)
}

fn payload_is_lent(ctx: &Ctx<'_>) -> bool {
    ctx.args.bytes(3).is_some()
}
