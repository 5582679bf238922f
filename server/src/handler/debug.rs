//! `DEBUG`: for tests of clients, from the same host only.

use super::aside::Aside;
use super::generic::encoding;
use super::job::Job;
use crate::dispatch::{Ctx, Flow};
use crate::error::refused;
use protocol::command::{CommandId, Words};
use protocol::resp::{ErrorWord, WireError, Writer};
use std::time::Duration;
use storage::{Condition, StoreError, Terms};

/// Longest `DEBUG SLEEP`.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// Most keys of one `DEBUG POPULATE`, and most bytes of each value.
const POPULATE_MAX: u64 = 100_000_000;
const POPULATE_LEN_MAX: u64 = 1 << 20;

fn check_local(ctx: &Ctx<'_>) -> Result<(), WireError> {
    let addr = &ctx.session.client.addr;
    let is_local = addr.parse::<std::net::SocketAddr>().map_or(addr.starts_with('/'), |addr| addr.ip().is_loopback());
    if is_local { Ok(()) } else { Err(WireError::new(ErrorWord::Denied, "DEBUG is for clients of the same host")) }
}

/// `DEBUG SLEEP seconds`: only this connection waits.
pub(crate) fn debug_sleep(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    check_local(ctx)?;
    let seconds = std::str::from_utf8(ctx.word(2)?).ok().and_then(|text| text.parse::<f64>().ok());
    let span = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).filter(|span| *span <= SLEEP_MAX);
    let span = span.ok_or_else(|| WireError::err(format!("seconds are from 0 to {}", SLEEP_MAX.as_secs())))?;
    Ok(Flow::Wait(Job::Sleep(span)))
}

/// `DEBUG POPULATE count [prefix] [size]`: keys `prefix:0` and on, those that are there left alone.
pub(crate) fn debug_populate(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    check_local(ctx)?;
    let mut words = Words::new(&ctx.args, 2);
    let count = words.unsigned()?.min(POPULATE_MAX);
    let prefix = words.option()?.unwrap_or(b"key").to_vec();
    let len = if words.left() > 0 { words.unsigned()? } else { 0 };
    words.end()?;
    if len > POPULATE_LEN_MAX {
        return Err(WireError::err(format!("a value has at most {POPULATE_LEN_MAX} bytes here")));
    }
    let (now, account) = (ctx.now, std::sync::Arc::clone(&ctx.session.bond.account));
    Ok(Flow::Wait(Job::Aside(Aside::new(CommandId::DebugPopulate, move |node| {
        let populate = || {
            for number in 0..count {
                let key = [&prefix[..], format!(":{number}").as_bytes()].concat();
                let mut value = format!("value:{number}").into_bytes();
                if len > 0 {
                    value.resize(usize::try_from(len).unwrap_or(0), 0);
                }
                let terms = Terms { condition: Condition::IfAbsent, ..Terms::default() };
                let set = || node.store.set(now, &key, &value, &account, &terms);
                let done = set().or_else(|error| match error {
                    StoreError::SpillWait { .. } => {
                        node.store.hurry(now);
                        set()
                    }
                    error => Err(error),
                });
                match done {
                    Ok(_) | Err(StoreError::Exists { .. }) => {}
                    Err(error) => return Err(refused(error)),
                }
            }
            Ok(())
        };
        let done = populate();
        move |reply: &mut Writer<'_>| match done {
            Ok(()) => reply.ok(),
            Err(error) => reply.wire_error(&error),
        }
    }))))
}

/// `DEBUG OBJECT key`
pub(crate) fn debug_object(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    check_local(ctx)?;
    let key = ctx.word(2)?;
    let Some(stat) = ctx.node.store.stat(ctx.now, key) else { return Err(WireError::err("no such key")) };
    let idle = ctx.now.since(stat.touched).as_secs();
    let line = format!(
        "Value at:{:#x} refcount:{} encoding:{} serializedlength:{} lru:{} lru_seconds_idle:{idle}",
        stat.generation.0,
        1 + u64::from(stat.users) + stat.pins,
        encoding(ctx, key),
        stat.length.get() + 1,
        (stat.touched.0 / 1_000_000_000) & 0xff_ffff,
    );
    ctx.reply().simple(&line);
    Ok(Flow::Go)
}
