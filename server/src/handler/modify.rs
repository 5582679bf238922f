//! In-band values in the older forms of `SET` and `GET`, and those that read and write at once.

use super::expire::instant_of_unix;
use super::fetch::{self, Part};
use super::rework::Argument;
use super::string::{self, reply_earlier, value};
use crate::dispatch::{Ctx, Flow};
use crate::error::refused;
use crate::events::GENERIC;
use protocol::command::{CommandId, GetEx, GetExpiry, SetExpiry, check_key, set_ex_time};
use protocol::resp::WireError;
use storage::{Condition, Found, StoreError, Terms};

/// Replies what was found, as `GET` does.
fn reply_found(ctx: &mut Ctx<'_>, found: Option<Found>) -> Flow {
    let stats = &ctx.node.stats;
    if found.is_some() { &stats.untouched_hits } else { &stats.untouched_misses }.add(1);
    match found {
        None => {
            ctx.reply().null();
            Flow::Go
        }
        found => fetch::wait(ctx, vec![found], Part::Whole),
    }
}

/// `GETDEL key`
pub(crate) fn get_del(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let key = ctx.word(1)?;
    let found = ctx.node.store.take(ctx.now, key, ctx.node.arena.is_some()).map_err(refused)?;
    if found.is_some() {
        ctx.node.notify(GENERIC, "del", key);
    }
    Ok(reply_found(ctx, found))
}

/// `GETEX key [EX s|PX ms|EXAT s|PXAT ms|PERSIST]`
pub(crate) fn get_ex(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let request = GetEx::parse(&ctx.args)?;
    let expires = match request.expiry {
        GetExpiry::Leave => return string::get(ctx),
        GetExpiry::Persist | GetExpiry::Set(SetExpiry::Never | SetExpiry::Keep) => None,
        GetExpiry::Set(SetExpiry::In(span)) => Some(ctx.now + span),
        GetExpiry::Set(SetExpiry::AtUnix(at)) => Some(instant_of_unix(ctx.node, at)),
    };
    let checked = ctx.node.arena.is_some();
    let found = ctx.node.store.read_and_expire(ctx.now, request.key, expires, checked).map_err(refused)?;
    if let Some(before) = &found {
        match expires {
            None if before.expires.is_none() => {}
            None => ctx.node.notify(GENERIC, "persist", request.key),
            Some(expires) if expires <= ctx.now => ctx.node.notify(GENERIC, "del", request.key),
            Some(_) => ctx.node.notify(GENERIC, "expire", request.key),
        }
    }
    Ok(reply_found(ctx, found.map(|before| before.found)))
}

/// `GETSET key value`
pub(crate) fn get_set(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let key = ctx.word(1)?;
    check_key(key)?;
    let value = value(ctx, 2)?;
    match string::exchange(ctx, key, value, &Terms::default()) {
        Ok((earlier, written)) => {
            written.map_err(refused)?;
            Ok(reply_earlier(ctx, earlier))
        }
        Err(error @ StoreError::SpillWait { .. }) => ctx.wait_for_room(error),
        Err(error) => Err(refused(error)),
    }
}

/// `SETNX key value`
pub(crate) fn set_nx(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let key = ctx.word(1)?;
    check_key(key)?;
    let value = value(ctx, 2)?;
    let terms = Terms { condition: Condition::IfAbsent, ..Terms::default() };
    match string::write(ctx, key, value, &terms) {
        Ok(()) => ctx.reply().integer(1),
        Err(StoreError::Exists { .. }) => ctx.reply().integer(0),
        Err(error @ StoreError::SpillWait { .. }) => return ctx.wait_for_room(error),
        Err(error) => return Err(refused(error)),
    }
    Ok(Flow::Go)
}

/// `SETEX key seconds value` and `PSETEX key milliseconds value`
pub(crate) fn set_ex(ctx: &mut Ctx<'_>, command: CommandId) -> Result<Flow, WireError> {
    let span = set_ex_time(&ctx.args, command)?;
    let (key, value) = (ctx.word(1)?, value(ctx, 3)?);
    let terms = Terms { expires: Some(ctx.now + span), ..Terms::default() };
    match string::write(ctx, key, value, &terms) {
        Ok(()) => ctx.reply().ok(),
        Err(error @ StoreError::SpillWait { .. }) => return ctx.wait_for_room(error),
        Err(error) => return Err(refused(error)),
    }
    Ok(Flow::Go)
}

/// `MSETNX key value …`: runs while nobody else does, so that all of them are there at once or none is.
pub(crate) fn mset_nx(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    if ctx.args.len().is_multiple_of(2) {
        return Err(WireError::arity("msetnx"));
    }
    for index in (1..ctx.args.len()).step_by(2) {
        check_key(ctx.word(index)?)?;
    }
    if ctx.alone.is_none() {
        return Ok(Flow::Alone);
    }
    let keys = (1..ctx.args.len()).step_by(2);
    if keys.clone().filter_map(|index| ctx.args.bytes(index)).any(|key| ctx.node.store.contains(ctx.now, key)) {
        ctx.reply().integer(0);
        return Ok(Flow::Go);
    }
    // Room for all of them first: none is there if one finds none.
    let mut slots = Vec::with_capacity(keys.len());
    for index in keys {
        let mut value = Argument::take(ctx, index + 1)?;
        let (key, bytes) = (ctx.word(index)?, value.bytes());
        let reserve = || ctx.node.store.reserve(ctx.now, key, bytes.len() as u64, &ctx.session.bond.account);
        let slot = reserve().or_else(|error| match error {
            StoreError::SpillWait { .. } => {
                ctx.node.store.hurry(ctx.now);
                reserve()
            }
            error => Err(error),
        });
        let slot = slot.map_err(refused)?;
        let crc = protocol::base::copy_into(bytes, &slot.span());
        slots.push((slot, crc));
    }
    for (slot, crc) in slots {
        let written = slot.publish(ctx.now, crc, &Terms::default()).map_err(refused)?;
        ctx.node.notify_set(&written.key, None);
    }
    ctx.reply().integer(1);
    Ok(Flow::Go)
}
