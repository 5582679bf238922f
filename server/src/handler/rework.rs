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

use super::alone::Brought;
use super::checked;
use super::fetch::fetch_all;
use super::job::{Job, PIECE_LEN_MAX};
use crate::conn::output::Output;
use crate::conn::{Taken, reserve};
use crate::decimal;
use crate::dispatch::{Ctx, Flow};
use crate::error::refused;
use crate::events::{GENERIC, STRING};
use crate::node::Node;
use crate::session::Session;
use protocol::base::{Crc, Generation, Instant, copy_from};
use protocol::command::parse_i64;
use protocol::resp::{Arg, ErrorWord, WireError, Writer};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use storage::flash::tier::Fetched;
use storage::{Condition, Found, ReadGuard, Reservation, Snapshot, StoreError, Terms};

/// Times that a small change is tried before it becomes a job, which lets others go first.
const TRIES_MAX: usize = 16;
/// Bytes that a number has at most when written.
const NUMBER_LEN_MAX: usize = 5 * 1024;

/// What is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Append,
    /// From this byte on.
    SetRange(u64),
    Incr(i64),
    /// By the argument.
    IncrFloat,
    Rename {
        if_absent: bool,
    },
    Copy {
        replace: bool,
    },
}

/// An argument's bytes, wherever they were received.
#[derive(Debug)]
pub(crate) enum Argument {
    Bytes(Vec<u8>),
    Slot(Reservation),
}

impl Argument {
    /// Takes argument `index` of the command.
    pub(crate) fn take(ctx: &mut Ctx<'_>, index: usize) -> Result<Self, WireError> {
        match ctx.args.get(index) {
            Some(Arg::Bytes(bytes)) => Ok(Self::Bytes(bytes.to_vec())),
            Some(Arg::Taken { .. }) => {
                let at = ctx.taken.iter().position(|(arg, _)| *arg == index).ok_or_else(WireError::syntax)?;
                match ctx.taken.swap_remove(at).1 {
                    Taken::Slot(slot, _) => Ok(Self::Slot(slot)),
                    Taken::Refused(error) => Err(error),
                }
            }
            None => Err(WireError::syntax()),
        }
    }

    pub(crate) fn bytes(&mut self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Slot(slot) => slot.bytes_mut(),
        }
    }
}

/// What was there.
#[derive(Debug)]
pub(crate) enum Old {
    Nothing,
    Bytes(Vec<u8>),
    Guard(ReadGuard),
}

impl Old {
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Nothing => None,
            Self::Bytes(bytes) => Some(bytes),
            Self::Guard(guard) => Some(guard.bytes()),
        }
    }
}

/// A part of the new value.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Old(Range<usize>),
    Zeros(usize),
    Argument,
    Text(Vec<u8>),
}

#[derive(Debug, PartialEq, Eq)]
enum Reply {
    Ok,
    Integer(i64),
    Text(Vec<u8>),
}

impl Reply {
    fn length(len: u64) -> Self {
        Self::Integer(i64::try_from(len).unwrap_or(i64::MAX))
    }

    fn write(&self, out: &mut Writer<'_>) {
        match self {
            Self::Ok => out.ok(),
            Self::Integer(value) => out.integer(*value),
            Self::Text(text) => out.bulk(text),
        }
    }
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Write a value of these parts, so many bytes.
    Write(Vec<Piece>, usize, Reply),
    /// Nothing but this.
    Answer(Reply),
}

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

    /// What to make of `old`.
    fn plan(&mut self, old: Option<&[u8]>, len_max: u64) -> Result<Step, WireError> {
        let old_len = old.map_or(0, <[u8]>::len);
        match self.what {
            What::Append => {
                let len = old_len as u64 + self.argument.bytes().len() as u64;
                Self::check_len(len, len_max)?;
                let pieces = vec![Piece::Old(0..old_len), Piece::Argument];
                Ok(Step::Write(pieces, old_len + self.argument.bytes().len(), Reply::length(len)))
            }
            What::SetRange(offset) => {
                let count = self.argument.bytes().len();
                if count == 0 {
                    return Ok(Step::Answer(Reply::length(old_len as u64)));
                }
                Self::check_len(offset.saturating_add(count as u64), len_max)?;
                let offset = usize::try_from(offset).expect("checked against the longest object");
                let kept = old_len.min(offset);
                let pieces = vec![
                    Piece::Old(0..kept),
                    Piece::Zeros(offset - kept),
                    Piece::Argument,
                    Piece::Old((offset + count).min(old_len)..old_len),
                ];
                let len = old_len.max(offset + count);
                Ok(Step::Write(pieces, len, Reply::length(len as u64)))
            }
            What::Incr(by) => {
                let old = old.map_or(Some(0), parse_i64).ok_or_else(WireError::not_an_integer)?;
                let sum = old.checked_add(by).ok_or_else(|| WireError::err("increment or decrement would overflow"))?;
                let text = sum.to_string().into_bytes();
                let len = text.len();
                Ok(Step::Write(vec![Piece::Text(text)], len, Reply::Integer(sum)))
            }
            What::IncrFloat => {
                let invalid = || WireError::err("value is not a valid float");
                let old = old.unwrap_or(b"0");
                let old = if old.len() > NUMBER_LEN_MAX { None } else { decimal::parse(old) }.ok_or_else(invalid)?;
                let by = decimal::parse(self.argument.bytes()).ok_or_else(invalid)?;
                let sum = decimal::add(old, by)
                    .ok_or_else(|| WireError::err("increment would produce NaN or Infinity"))?
                    .into_bytes();
                Ok(Step::Write(vec![Piece::Text(sum.clone())], sum.len(), Reply::Text(sum)))
            }
            What::Rename { if_absent } => {
                if old.is_none() {
                    return Err(WireError::err("no such key"));
                }
                let reply = if if_absent { Reply::Integer(1) } else { Reply::Ok };
                if self.key[..] == *self.to() {
                    return Ok(Step::Answer(if if_absent { Reply::Integer(0) } else { Reply::Ok }));
                }
                Ok(Step::Write(vec![Piece::Old(0..old_len)], old_len, reply))
            }
            What::Copy { .. } => match old {
                None => Ok(Step::Answer(Reply::Integer(0))),
                Some(_) => Ok(Step::Write(vec![Piece::Old(0..old_len)], old_len, Reply::Integer(1))),
            },
        }
    }

    fn check_len(len: u64, len_max: u64) -> Result<(), WireError> {
        if len > len_max {
            return Err(WireError::err("string exceeds maximum allowed size (proto-max-bulk-len)"));
        }
        Ok(())
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

    fn fill(&mut self, piece: &Piece, old: &Old, range: Range<usize>, to: &mut [u8]) {
        match piece {
            Piece::Old(of) => {
                let old = old.bytes().unwrap_or_default();
                to.copy_from_slice(&old[of.start + range.start..of.start + range.end]);
            }
            Piece::Zeros(_) => to.fill(0),
            Piece::Argument => to.copy_from_slice(&self.argument.bytes()[range]),
            Piece::Text(text) => to.copy_from_slice(&text[range]),
        }
    }

    fn piece_len(&mut self, piece: &Piece) -> usize {
        match piece {
            Piece::Old(of) => of.len(),
            Piece::Zeros(count) => *count,
            Piece::Argument => self.argument.bytes().len(),
            Piece::Text(text) => text.len(),
        }
    }

    /// The new value, in one go.
    fn whole(&mut self, pieces: &[Piece], len: usize, old: &Old) -> Vec<u8> {
        let mut value = vec![0; len];
        let mut at = 0;
        for piece in pieces {
            let count = self.piece_len(piece);
            self.fill(piece, old, 0..count, &mut value[at..at + count]);
            at += count;
        }
        value
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

#[cfg(test)]
mod tests {
    use super::*;

    fn made(what: What, argument: &[u8], old: Option<&[u8]>) -> Result<(Vec<u8>, Reply), String> {
        let argument = Argument::Bytes(argument.to_vec());
        let mut rework = Rework::change(what, b"k", argument).expect("a short key");
        match rework.plan(old, 100).map_err(|error| error.to_string())? {
            Step::Answer(reply) => Ok((old.unwrap_or_default().to_vec(), reply)),
            Step::Write(pieces, len, reply) => {
                let old = old.map_or(Old::Nothing, |old| Old::Bytes(old.to_vec()));
                Ok((rework.whole(&pieces, len, &old), reply))
            }
        }
    }

    #[test]
    fn values_are_made_as_redis_makes_them() {
        let value = |bytes: &[u8], reply| Ok((bytes.to_vec(), reply));
        assert_eq!(made(What::Append, b"cd", Some(b"ab")), value(b"abcd", Reply::Integer(4)));
        assert_eq!(made(What::Append, b"cd", None), value(b"cd", Reply::Integer(2)));
        assert_eq!(made(What::SetRange(1), b"XY", Some(b"abcde")), value(b"aXYde", Reply::Integer(5)));
        assert_eq!(made(What::SetRange(4), b"XY", Some(b"abcde")), value(b"abcdXY", Reply::Integer(6)));
        assert_eq!(made(What::SetRange(3), b"X", None), value(b"\0\0\0X", Reply::Integer(4)));
        assert_eq!(made(What::SetRange(50), b"", Some(b"ab")), value(b"ab", Reply::Integer(2)));
        assert_eq!(made(What::Incr(-3), b"", Some(b"2")), value(b"-1", Reply::Integer(-1)));
        assert_eq!(made(What::IncrFloat, b"0.5", Some(b"10")), value(b"10.5", Reply::Text(b"10.5".to_vec())));
    }

    #[test]
    fn what_cannot_be_made_is_refused_in_redis_words() {
        let too_long = Err("ERR string exceeds maximum allowed size (proto-max-bulk-len)".to_owned());
        assert_eq!(made(What::Append, &[b'x'; 60], Some(&[b'x'; 60])), too_long);
        assert_eq!(made(What::SetRange(u64::MAX), b"x", None), too_long);
        let not_integer = Err("ERR value is not an integer or out of range".to_owned());
        for old in [&b" 1"[..], b"1 ", b"x", b"", b"9223372036854775808"] {
            assert_eq!(made(What::Incr(1), b"", Some(old)), not_integer);
        }
        let overflow = Err("ERR increment or decrement would overflow".to_owned());
        assert_eq!(made(What::Incr(1), b"", Some(b"9223372036854775807")), overflow);
        assert_eq!(made(What::IncrFloat, b"x", None), Err("ERR value is not a valid float".to_owned()));
        let infinite = Err("ERR increment would produce NaN or Infinity".to_owned());
        assert_eq!(made(What::IncrFloat, b"inf", Some(b"1")), infinite);
    }
}
