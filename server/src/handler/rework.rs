//! Values that are made from what was there: `APPEND`, `SETRANGE`, `INCR` and its kin, `RENAME`, `COPY`.
//!
//! Objects are immutable. A change reads the object that is there, makes another one, and publishes it on the condition that
//! the key still holds what was read; if it does not, it begins again.
//!
//! Invariants:
//! - A small value is changed within its worker's turn. A large one, or one that lies on flash, is a job: it is copied once,
//!   in pieces, between which others have their turn.
//! - `RENAME` and `COPY` publish while nobody else runs a command: nobody sees both keys, or neither.
//! - What is changed keeps its time to live and its pins; a renamed or copied value keeps its time to live.

mod value;
mod work;

pub(crate) use value::{Argument, Old, What};
pub(crate) use work::{old_at_once, old_of};

use super::checked;
use super::job::{Job, PIECE_LEN_MAX};
use crate::dispatch::{Ctx, Flow};
use crate::error::refused;
use crate::events::{GENERIC, STRING};
use crate::node::Node;
use crate::session::Session;
use protocol::base::{Generation, Instant};
use protocol::command::parse_i64;
use protocol::resp::WireError;
use std::sync::atomic::Ordering;
use storage::{Condition, Found, Snapshot, StoreError, Terms};
use value::Step;

/// Times that a small change is tried before it becomes a job, which lets others go first.
const TRIES_MAX: usize = 16;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Rework {
    what: What,
    /// Whose value is read.
    key: Box<[u8]>,
    /// Whose value is written, if it is another.
    to: Option<Box<[u8]>>,
    argument: Argument,
}

impl Rework {
    /// A value that takes the place of what it was made from.
    pub(crate) fn change(what: What, key: &[u8], argument: Argument) -> Result<Self, WireError> {
        protocol::command::check_key(key)?;
        Ok(Self { what, key: key.into(), to: None, argument })
    }

    /// A value that gets another key.
    pub(crate) fn moving(what: What, from: &[u8], to: &[u8]) -> Result<Self, WireError> {
        protocol::command::check_key(from)?;
        protocol::command::check_key(to)?;
        Ok(Self { what, key: from.into(), to: Some(to.into()), argument: Argument::Bytes(Vec::new()) })
    }

    fn to(&self) -> &[u8] {
        self.to.as_deref().unwrap_or(&self.key)
    }

    /// Under what terms the new value is published; `Err` is the answer if it is not.
    fn terms(&self, generation: Option<Generation>, expires: Option<Instant>) -> Terms {
        let condition = match (self.what, generation) {
            (What::Rename { if_absent: true } | What::Copy { replace: false }, _) => Condition::IfAbsent,
            (What::Rename { .. } | What::Copy { .. }, _) => Condition::Always,
            (_, None) => Condition::IfAbsent,
            (_, Some(generation)) => Condition::IfIs(generation),
        };
        match self.to {
            Some(_) => Terms { condition, expires, ..Terms::default() },
            None => Terms { condition, keep_ttl: true, ..Terms::default() },
        }
    }

    /// Whether the place where the value goes is taken, which ends a command that asked for a free one.
    fn is_taken(&self, node: &Node, now: Instant) -> bool {
        matches!(self.what, What::Rename { if_absent: true } | What::Copy { replace: false })
            && node.store.contains(now, self.to())
    }

    /// Whether what was read is still what the key holds: asked by who is alone.
    fn still_holds(&self, node: &Node, now: Instant, generation: Option<Generation>) -> bool {
        self.to.is_none() || node.store.identity(now, &self.key).map(|(now_there, _)| now_there) == generation
    }

    /// What is true once the value is published.
    fn published(&self, node: &Node, now: Instant, generation: Option<Generation>) {
        if let (What::Rename { .. }, Some(generation)) = (self.what, generation) {
            node.store.remove_if(now, &self.key, generation);
        }
        match self.what {
            What::Append => node.notify(STRING, "append", &self.key),
            What::SetRange(_) => node.notify(STRING, "setrange", &self.key),
            What::Incr(_) => node.notify(STRING, "incrby", &self.key),
            What::IncrFloat => node.notify(STRING, "incrbyfloat", &self.key),
            What::Rename { .. } => {
                node.notify(GENERIC, "rename_from", &self.key);
                node.notify(GENERIC, "rename_to", self.to());
            }
            What::Copy { .. } => node.notify(GENERIC, "copy_to", self.to()),
        }
    }
}

/// Within the worker's turn if the value is small; otherwise a job.
pub(crate) fn run(ctx: &mut Ctx<'_>, mut rework: Rework) -> Result<Flow, WireError> {
    let later = |rework| Ok(Flow::Wait(Job::Rework(Box::new(rework))));
    if rework.to.is_some() && ctx.alone.is_none() {
        return later(rework);
    }
    let node = ctx.node;
    let checked = node.arena.is_some();
    let len_max = node.hot.object_len_max;
    for _ in 0..TRIES_MAX {
        let (generation, expires, old) = match node.store.snapshot(ctx.now, &rework.key, checked).map_err(refused)? {
            None => (None, None, Old::Nothing),
            Some(Snapshot { generation, expires, found }) => match (ctx.alone, found) {
                (_, Found::Small(bytes)) => (Some(generation), expires, Old::Bytes(bytes)),
                (None, _) => return later(rework),
                (Some(brought), found) => {
                    (Some(generation), expires, old_at_once(checked, brought, &rework.key, generation, found)?)
                }
            },
        };
        if rework.is_taken(node, ctx.now) && !matches!(old, Old::Nothing) {
            ctx.reply().integer(0);
            return Ok(Flow::Go);
        }
        let (pieces, len, reply) = match rework.plan(old.bytes(), len_max)? {
            Step::Answer(reply) => {
                reply.write(&mut ctx.reply());
                return Ok(Flow::Go);
            }
            Step::Write(pieces, len, reply) => (pieces, len, reply),
        };
        if len > PIECE_LEN_MAX && ctx.alone.is_none() {
            return later(rework);
        }
        let value = rework.whole(&pieces, len, &old);
        let terms = rework.terms(generation, expires);
        let set = || node.store.set(ctx.now, rework.to(), &value, &ctx.session.bond.account, &terms);
        let done = match set() {
            Err(StoreError::SpillWait { .. }) if ctx.alone.is_none() => return later(rework),
            Err(StoreError::SpillWait { .. }) => {
                node.store.hurry(ctx.now);
                set()
            }
            done => done,
        };
        match done {
            Ok(_) => {
                rework.published(node, ctx.now, generation);
                reply.write(&mut ctx.reply());
                return Ok(Flow::Go);
            }
            Err(StoreError::Condition | StoreError::Exists { .. }) => {}
            Err(error) => return Err(refused(error)),
        }
    }
    later(rework)
}

/// `APPEND key value`
pub(crate) fn append(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let argument = Argument::take(ctx, 2)?;
    run(ctx, Rework::change(What::Append, ctx.word(1)?, argument)?)
}

/// `SETRANGE key offset value`
pub(crate) fn set_range(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let argument = Argument::take(ctx, 3)?;
    let offset = parse_i64(ctx.word(2)?).ok_or_else(WireError::not_an_integer)?;
    let offset = u64::try_from(offset).map_err(|_| WireError::err("offset is out of range"))?;
    run(ctx, Rework::change(What::SetRange(offset), ctx.word(1)?, argument)?)
}

fn add(ctx: &mut Ctx<'_>, by: i64) -> Result<Flow, WireError> {
    run(ctx, Rework::change(What::Incr(by), ctx.word(1)?, Argument::Bytes(Vec::new()))?)
}

/// `INCR key`
pub(crate) fn incr(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    add(ctx, 1)
}

/// `DECR key`
pub(crate) fn decr(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    add(ctx, -1)
}

/// `INCRBY key increment`
pub(crate) fn incr_by(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let by = parse_i64(ctx.word(2)?).ok_or_else(WireError::not_an_integer)?;
    add(ctx, by)
}

/// `DECRBY key decrement`
pub(crate) fn decr_by(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let by = parse_i64(ctx.word(2)?).ok_or_else(WireError::not_an_integer)?;
    add(ctx, by.checked_neg().ok_or_else(|| WireError::err("decrement would overflow"))?)
}

/// `INCRBYFLOAT key increment`
pub(crate) fn incr_by_float(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let argument = Argument::Bytes(ctx.word(2)?.to_vec());
    run(ctx, Rework::change(What::IncrFloat, ctx.word(1)?, argument)?)
}

/// `RENAME key newkey` and `RENAMENX key newkey`
pub(crate) fn rename(ctx: &mut Ctx<'_>, if_absent: bool) -> Result<Flow, WireError> {
    run(ctx, Rework::moving(What::Rename { if_absent }, ctx.word(1)?, ctx.word(2)?)?)
}

/// `COPY source destination [DB n] [REPLACE]`
pub(crate) fn copy(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let copy = protocol::command::Copy::parse(&ctx.args)?;
    if copy.from == copy.to {
        return Err(WireError::err("source and destination objects are the same"));
    }
    run(ctx, Rework::moving(What::Copy { replace: copy.replace }, copy.from, copy.to)?)
}

impl Session {
    /// The worker that serves it.
    pub(crate) fn worker(&self) -> usize {
        usize::try_from(self.client.worker.load(Ordering::Relaxed)).unwrap_or(0)
    }
}
