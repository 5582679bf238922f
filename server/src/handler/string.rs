//! In-band values: `SET`, `GET` and their kin.

use crate::conn::{BULKY_LEN_MIN, Taken};
use crate::dispatch::{Ctx, Flow};
use crate::error::refused;
use crate::events::MISS;
use crate::handler::checked;
use crate::handler::expire::instant_of_unix;
use crate::handler::fetch::{self, Part};
use crate::handler::untouched;
use protocol::base::Crc;
use protocol::command::{Set, SetCondition, SetExpiry, parse_i64};
use protocol::resp::{Arg, WireError};
use storage::{Condition, FlashRead, Found, Reservation, StoreError, Terms};

/// `GET key`
pub(crate) fn get(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    match ctx.args.len() {
        2 => {}
        6 => return super::into::get_into(ctx),
        _ => return Err(WireError::arity("get")),
    }
    let key = ctx.args.bytes(1).ok_or_else(WireError::syntax)?;
    if untouched::is_wanted(ctx) {
        return untouched::one(ctx, key, Part::Whole);
    }
    if ctx.node.arena.is_some() {
        return checked::get(ctx, key);
    }
    let output = &mut *ctx.output;
    let found = ctx.node.store.read(ctx.now, key, None, |value| output.writer().bulk(value)).map_err(refused)?;
    match found {
        None => {
            ctx.node.notify(MISS, "keymiss", key);
            ctx.reply().null();
        }
        Some(Found::Small(())) => {}
        Some(Found::Large(value)) => {
            *ctx.bulky = *ctx.bulky || value.len() as u64 >= BULKY_LEN_MIN;
            ctx.output.value(value);
        }
        Some(Found::Flash(read)) => return Ok(fetch::wait(ctx, vec![Some(Found::Flash(read))], Part::Whole)),
    }
    Ok(Flow::Go)
}

/// `MGET key …`: the order of the keys tells a chain.
pub(crate) fn mget(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let count = ctx.args.len() - 1;
    ctx.reply().array(count);
    if untouched::is_wanted(ctx) {
        return Ok(untouched::mget(ctx));
    }
    if ctx.node.arena.is_some() {
        return Ok(checked::mget(ctx));
    }
    for index in 0..count {
        let Some(key) = ctx.args.bytes(index + 1) else {
            ctx.reply().null();
            continue;
        };
        let output = &mut *ctx.output;
        let depth = u32::try_from(index).ok();
        // Too many readers of one object is a miss here: an array has no place for an error of one item.
        let found = ctx.node.store.read(ctx.now, key, depth, |value| output.writer().bulk(value)).ok().flatten();
        match found {
            None => ctx.reply().null(),
            Some(Found::Small(())) => {}
            Some(Found::Large(value)) => {
                *ctx.bulky = *ctx.bulky || value.len() as u64 >= BULKY_LEN_MIN;
                ctx.output.value(value);
            }
            Some(Found::Flash(read)) => return Ok(mget_rest(ctx, index, read)),
        }
    }
    Ok(Flow::Go)
}

/// The first object that lies on flash is at `index`: it and all after it are found now and answered when they are read.
fn mget_rest(ctx: &mut Ctx<'_>, index: usize, read: FlashRead) -> Flow {
    let mut items = vec![Some(Found::Flash(read))];
    for index in index + 1..ctx.args.len() - 1 {
        let found = ctx.args.bytes(index + 1).and_then(|key| {
            ctx.node.store.read(ctx.now, key, u32::try_from(index).ok(), <[u8]>::to_vec).ok().flatten()
        });
        items.push(found);
    }
    ctx.node.learn_chain(ctx.args.skip(1).iter().filter_map(|key| key.bytes()));
    fetch::wait(ctx, items, Part::Item)
}

/// Which value an argument is: bytes in the buffer, or a slot that they were received into.
pub(super) enum Value<'a> {
    Bytes(&'a [u8]),
    Slot(Reservation, Crc),
}

pub(super) fn value<'a>(ctx: &mut Ctx<'a>, index: usize) -> Result<Value<'a>, WireError> {
    match ctx.args.get(index) {
        Some(Arg::Bytes(bytes)) => Ok(Value::Bytes(bytes)),
        Some(Arg::Taken { .. }) => {
            let at = ctx.taken.iter().position(|(arg, _)| *arg == index).ok_or_else(WireError::syntax)?;
            match ctx.taken.swap_remove(at).1 {
                Taken::Slot(slot, crc) => Ok(Value::Slot(slot, crc)),
                Taken::Refused(error) => Err(error),
            }
        }
        None => Err(WireError::syntax()),
    }
}

pub(super) fn write(ctx: &Ctx<'_>, key: &[u8], value: Value<'_>, terms: &Terms) -> Result<(), StoreError> {
    match value {
        Value::Bytes(bytes) => ctx.node.store.set(ctx.now, key, bytes, &ctx.session.bond.account, terms).map(drop),
        Value::Slot(slot, crc) => slot.publish(ctx.node.now(), crc, terms).map(drop),
    }?;
    ctx.node.notify_set(key, terms.expires);
    Ok(())
}

/// `SET key value [NX|XX] [GET] [EX s|PX ms|EXAT s|PXAT ms|KEEPTTL]`
pub(crate) fn set(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let set = Set::parse(&ctx.args)?;
    let value = value(ctx, 2)?;
    let terms = Terms {
        condition: match set.condition {
            None => Condition::Always,
            Some(SetCondition::Absent) => Condition::IfAbsent,
            Some(SetCondition::Present) => Condition::IfPresent,
        },
        keep_ttl: set.expiry == SetExpiry::Keep,
        expires: match set.expiry {
            SetExpiry::Never | SetExpiry::Keep => None,
            SetExpiry::In(span) => Some(ctx.now + span),
            SetExpiry::AtUnix(at) => Some(instant_of_unix(ctx.node, at)),
        },
        ..Terms::default()
    };
    let written = if set.get {
        match exchange(ctx, set.key, value, &terms) {
            Ok((earlier, Ok(()) | Err(StoreError::Exists { .. } | StoreError::Condition))) => {
                return Ok(reply_earlier(ctx, earlier));
            }
            Ok((_, Err(error))) | Err(error) => Err(error),
        }
    } else {
        write(ctx, set.key, value, &terms)
    };
    match written {
        Ok(()) => ctx.reply().ok(),
        Err(StoreError::Exists { .. } | StoreError::Condition) => ctx.reply().null(),
        Err(error @ StoreError::SpillWait { .. }) => return ctx.wait_for_room(error),
        Err(error) => return Err(refused(error)),
    }
    Ok(Flow::Go)
}

/// What a key held until it was written, and how the writing went.
type Exchanged = (Option<Found>, Result<(), StoreError>);

/// Writes a value, and answers with what the key held at that moment.
pub(super) fn exchange(ctx: &Ctx<'_>, key: &[u8], value: Value<'_>, terms: &Terms) -> Result<Exchanged, StoreError> {
    let (store, checked) = (&ctx.node.store, ctx.node.arena.is_some());
    let (earlier, written) = match value {
        Value::Bytes(bytes) => store.exchange(ctx.now, key, bytes, &ctx.session.bond.account, terms, checked)?,
        Value::Slot(slot, crc) => slot.exchange(ctx.node.now(), crc, terms, checked),
    };
    if written.is_ok() {
        ctx.node.notify_set(key, terms.expires);
    }
    Ok((earlier, written.map(drop)))
}

/// Replies what a key held until it was written.
pub(super) fn reply_earlier(ctx: &mut Ctx<'_>, earlier: Option<Found>) -> Flow {
    match earlier {
        None => ctx.reply().null(),
        Some(found @ Found::Flash(_)) => return fetch::wait(ctx, vec![Some(found)], Part::Whole),
        Some(Found::Small(bytes)) => ctx.reply().bulk(&bytes),
        Some(found) if ctx.node.arena.is_some() => return checked::previous(ctx, found),
        Some(Found::Large(value)) => ctx.output.value(value),
    }
    Flow::Go
}

/// `MSET key value …`: all of them, or none if one finds no room.
pub(crate) fn mset(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    if ctx.args.len().is_multiple_of(2) {
        return Err(WireError::arity("mset"));
    }
    // Every large value has its slot already; a refused one refuses the command before anything is published.
    let mut pairs = Vec::with_capacity(ctx.args.len() / 2);
    for index in (1..ctx.args.len()).step_by(2).skip(*ctx.resume) {
        let key = ctx.args.bytes(index).ok_or_else(WireError::syntax)?;
        protocol::command::check_key(key)?;
        pairs.push((key, value(ctx, index + 1)?));
    }
    // Values that were received into slots do not come again: then there is no waiting in between.
    let may_wait = ctx.args.iter().all(|arg| arg.bytes().is_some());
    for (key, value) in pairs {
        let bytes = if let Value::Bytes(bytes) = value { Some(bytes) } else { None };
        match (write(ctx, key, value, &Terms::default()), bytes) {
            (Err(error @ StoreError::SpillWait { .. }), Some(_)) if may_wait => return ctx.wait_for_room(error),
            (Err(StoreError::SpillWait { .. }), Some(bytes)) => {
                ctx.node.store.hurry(ctx.now);
                write(ctx, key, Value::Bytes(bytes), &Terms::default()).map_err(refused)?;
            }
            (result, _) => result.map_err(refused)?,
        }
        *ctx.resume += 1;
    }
    ctx.reply().ok();
    Ok(Flow::Go)
}

/// `STRLEN key`
pub(crate) fn strlen(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let key = ctx.args.bytes(1).ok_or_else(WireError::syntax)?;
    let len = ctx.node.store.stat(ctx.now, key).map_or(0, |stat| stat.length.get());
    ctx.reply().count(len);
    Ok(Flow::Go)
}

/// The bytes `start..=end` of `len`, counted from the end where negative, as Redis cuts.
pub(crate) fn range(start: i64, end: i64, len: usize) -> std::ops::Range<usize> {
    let len_signed = i64::try_from(len).unwrap_or(i64::MAX);
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let from = if start < 0 { len_signed.saturating_add(start).max(0) } else { start };
    let to = if end < 0 { len_signed.saturating_add(end).max(0) } else { end }.min(len_signed - 1);
    if from > to || len == 0 {
        return 0..0;
    }
    let cut = |at: i64| usize::try_from(at).unwrap_or(len);
    cut(from)..cut(to) + 1
}

/// `GETRANGE key start end`
pub(crate) fn getrange(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let key = ctx.args.bytes(1).ok_or_else(WireError::syntax)?;
    let number = |index| ctx.args.bytes(index).and_then(parse_i64).ok_or_else(WireError::not_an_integer);
    let (start, end) = (number(2)?, number(3)?);
    if untouched::is_wanted(ctx) {
        return untouched::one(ctx, key, Part::Range(start, end));
    }
    if ctx.node.arena.is_some() {
        return checked::getrange(ctx, key, start, end);
    }
    let output = &mut *ctx.output;
    let found = ctx
        .node
        .store
        .read(ctx.now, key, None, |value| output.writer().bulk(&value[range(start, end, value.len())]))
        .map_err(refused)?;
    match found {
        None => ctx.reply().bulk(b""),
        Some(Found::Flash(read)) => {
            return Ok(fetch::wait(ctx, vec![Some(Found::Flash(read))], Part::Range(start, end)));
        }
        Some(Found::Small(())) => {}
        Some(Found::Large(value)) => {
            let part = range(start, end, value.len());
            if part.len() == value.len() {
                ctx.output.value(value);
            } else {
                ctx.reply().bulk(&value.bytes()[part]);
            }
        }
    }
    Ok(Flow::Go)
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn ranges_are_cut_as_redis_cuts_them() {
        for (start, end, cut) in [
            (0, 3, 0..4),
            (-3, -1, 8..11),
            (0, -1, 0..11),
            (5, 100, 5..11),
            (-100, -1, 0..11),
            (-1, -3, 0..0),
            (5, 3, 0..0),
            (11, 20, 0..0),
            (-100, -50, 0..1),
        ] {
            assert_eq!(range(start, end, 11), cut, "{start} {end}");
        }
        assert_eq!(range(0, -1, 0), 0..0);
        assert_eq!(range(i64::MIN, i64::MAX, 11), 0..11);
    }
}
