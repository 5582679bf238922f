//! Times to live.
//!
//! The store counts in nanoseconds since the machine booted, people in milliseconds since 1970: the two meet here.

use crate::dispatch::{Ctx, Flow};
use crate::events::GENERIC;
use crate::node::Node;
use protocol::base::{Instant, Millis};
use protocol::command::{CommandId, Expire, ExpireAt, ExpireCondition};
use protocol::resp::WireError;
use std::time::{SystemTime, UNIX_EPOCH};
use storage::Ttl;

const NANOS_PER_MS: u64 = 1_000_000;
/// Two clocks that are read within so many nanoseconds are read together.
const TOGETHER_NS: u64 = 20_000;
/// Times that they are read again.
const LOOKS_MAX: usize = 8;

/// Nanoseconds since 1970 and the node's clock, as nearly at once as can be.
fn both_clocks(node: &Node) -> (u64, Instant) {
    let look = || {
        let (before, unix) = (node.now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let after = node.now();
        let gap = after.0.saturating_sub(before.0);
        (gap, (u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX), Instant(before.0 + gap / 2)))
    };
    // Whoever is interrupted between the two looks again.
    let mut best = look();
    for _ in 0..LOOKS_MAX {
        if best.0 < TOGETHER_NS {
            break;
        }
        best = look().min(best);
    }
    best.1
}

/// The node's time of a time in milliseconds since 1970. One that is past is the node's beginning.
fn from_unix(unix_ms: u64, (unix_ns, now): (u64, Instant)) -> Instant {
    let then = unix_ms.saturating_mul(NANOS_PER_MS);
    match then.checked_sub(unix_ns) {
        Some(ahead) => Instant(now.0.saturating_add(ahead)),
        None => Instant(now.0.saturating_sub(unix_ns - then)),
    }
}

/// The node's time of a time in milliseconds since 1970.
pub(super) fn instant_of_unix(node: &Node, at: Millis) -> Instant {
    from_unix(at.0, both_clocks(node))
}

/// The reverse, to the nearest millisecond, so that a time that was set reads back as it was.
fn to_unix(at: Instant, (unix_ns, now): (u64, Instant)) -> u64 {
    let then = match at.0.checked_sub(now.0) {
        Some(ahead) => unix_ns.saturating_add(ahead),
        None => unix_ns.saturating_sub(now.0 - at.0),
    };
    then.saturating_add(NANOS_PER_MS / 2) / NANOS_PER_MS
}

fn tell(ctx: &mut Ctx<'_>, left: impl FnOnce(Instant) -> i64) -> Result<Flow, WireError> {
    let key = ctx.args.bytes(1).ok_or_else(WireError::syntax)?;
    let answer = match ctx.node.store.ttl(ctx.now, key) {
        Ttl::Missing => -2,
        Ttl::Endless => -1,
        Ttl::Until(at) => left(at),
    };
    ctx.reply().integer(answer);
    Ok(Flow::Go)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// `TTL key`: to the nearest second, as Redis rounds.
pub(crate) fn ttl(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let now = ctx.now;
    tell(ctx, |at| signed((at.left_at(now).0 + 500) / 1000))
}

/// `PTTL key`
pub(crate) fn pttl(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let now = ctx.now;
    tell(ctx, |at| signed(at.left_at(now).0))
}

/// `EXPIRETIME key` and `PEXPIRETIME key`
pub(crate) fn expire_time(ctx: &mut Ctx<'_>, command: CommandId) -> Result<Flow, WireError> {
    let clocks = both_clocks(ctx.node);
    let unit_ms = if command == CommandId::ExpireTime { 1000 } else { 1 };
    tell(ctx, |at| signed(to_unix(at, clocks).saturating_add(unit_ms / 2) / unit_ms))
}

/// `EXPIRE | PEXPIRE | EXPIREAT | PEXPIREAT key time [NX | XX | GT | LT]`
pub(crate) fn expire(ctx: &mut Ctx<'_>, command: CommandId) -> Result<Flow, WireError> {
    let request = Expire::parse(command, &ctx.args)?;
    let (unix_ns, now) = both_clocks(ctx.node);
    let unix_ms = match request.at {
        ExpireAt::Unix(at) => at,
        ExpireAt::In(span) => signed(unix_ns / NANOS_PER_MS)
            .checked_add(span)
            .ok_or_else(|| WireError::invalid_expire(super::command_cmd::name_of(command)))?,
    };
    let at = match request.at {
        ExpireAt::In(span) if span >= 0 => {
            Instant(now.0.saturating_add(span.unsigned_abs().saturating_mul(NANOS_PER_MS)))
        }
        // What is past ends the object now: one instant of the past is as good as another.
        _ => u64::try_from(unix_ms).map_or(Instant(0), |unix_ms| from_unix(unix_ms, (unix_ns, now))),
    };
    // In milliseconds since 1970: the same time that was set twice is not quite the same nanosecond.
    let clocks = (unix_ns, now);
    let allow = |present: Option<Instant>| {
        allows(request.condition, present.map(|present| to_unix(present, clocks)), to_unix(at, clocks))
    };
    let done = ctx.node.store.expire(now, request.key, Some(at), allow);
    if done {
        ctx.node.notify(GENERIC, if at <= now { "del" } else { "expire" }, request.key);
    }
    ctx.reply().integer(done.into());
    Ok(Flow::Go)
}

/// Whether an object that ends at `present`, or never, may end at `at`.
fn allows(condition: ExpireCondition, present: Option<u64>, at: u64) -> bool {
    let ExpireCondition { nx, xx, gt, lt } = condition;
    !(nx && present.is_some()
        || xx && present.is_none()
        || gt && present.is_none_or(|present| at <= present)
        || lt && present.is_some_and(|present| at >= present))
}

/// `PERSIST key`
pub(crate) fn persist(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let key = ctx.args.bytes(1).ok_or_else(WireError::syntax)?;
    let done = ctx.node.store.expire(ctx.now, key, None, |present| present.is_some());
    if done {
        ctx.node.notify(GENERIC, "persist", key);
    }
    ctx.reply().integer(done.into());
    Ok(Flow::Go)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_since_1970_read_back_as_they_were_set() {
        let clocks = (1_700_000_000_123_456_789, Instant(5_000_000_123));
        for unix_ms in [1_700_000_000_124, 1_700_000_001_000, 1_900_000_000_001, 1_699_999_999_999] {
            // Read a while later, by clocks that both went on.
            let later = (clocks.0 + 777_777_777, Instant(clocks.1.0 + 777_777_777));
            assert_eq!(to_unix(from_unix(unix_ms, clocks), later), unix_ms);
        }
        assert_eq!(from_unix(0, clocks), Instant(0));
        assert_eq!(from_unix(u64::MAX, clocks), Instant(u64::MAX - (clocks.0 - clocks.1.0)));
    }

    #[test]
    fn conditions_compare_with_the_present_end_and_never_is_latest() {
        let condition = |words: &str| ExpireCondition {
            nx: words.contains("nx"),
            xx: words.contains("xx"),
            gt: words.contains("gt"),
            lt: words.contains("lt"),
        };
        for (words, present, at, allowed) in [
            ("", None, 5, true),
            ("", Some(9), 5, true),
            ("nx", None, 5, true),
            ("nx", Some(9), 5, false),
            ("xx", None, 5, false),
            ("xx", Some(9), 5, true),
            ("gt", None, 5, false),
            ("gt", Some(4), 5, true),
            ("gt", Some(5), 5, false),
            ("lt", None, 5, true),
            ("lt", Some(9), 5, true),
            ("lt", Some(5), 5, false),
            ("xx lt", None, 5, false),
            ("xx gt", Some(4), 5, true),
        ] {
            assert_eq!(allows(condition(words), present, at), allowed, "{words} {present:?}");
        }
    }
}
