//! Reads of a client that said `CLIENT NO-TOUCH ON`: they change neither the order of eviction nor what lies where.

use super::fetch::{self, Part};
use crate::dispatch::{Ctx, Flow};
use crate::error::refused;
use protocol::resp::WireError;
use std::sync::atomic::Ordering;
use storage::Found;

/// Whether this client's reads leave no trace.
pub(crate) fn is_wanted(ctx: &Ctx<'_>) -> bool {
    ctx.session.client.no_touch.load(Ordering::Relaxed)
}

fn look(ctx: &Ctx<'_>, key: &[u8]) -> Result<Option<Found>, WireError> {
    let found = ctx.node.store.peek(ctx.now, key, ctx.node.arena.is_some()).map_err(refused)?;
    let stats = &ctx.node.stats;
    if found.is_some() { &stats.untouched_hits } else { &stats.untouched_misses }.add(1);
    Ok(found)
}

/// `GET key` and `GETRANGE key start end`
pub(crate) fn one(ctx: &mut Ctx<'_>, key: &[u8], part: Part) -> Result<Flow, WireError> {
    let found = look(ctx, key)?;
    Ok(fetch::wait(ctx, vec![found], part))
}

/// `MGET key …`, whose array was begun: it has no place for an error of one item.
pub(crate) fn mget(ctx: &mut Ctx<'_>) -> Flow {
    let keys = ctx.args.skip(1);
    let found = keys.iter().map(|key| key.bytes().and_then(|key| look(ctx, key).ok().flatten())).collect();
    fetch::wait(ctx, found, Part::Item)
}
