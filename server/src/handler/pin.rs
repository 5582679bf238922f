//! Pins: promises without an end, or with one.

use crate::dispatch::{Ctx, Flow};
use crate::error::refused;
use protocol::command::{Pin, Unpin};
use protocol::resp::WireError;

/// `PIN key [TTL ms]`
pub(crate) fn pin(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let pin = Pin::parse(&ctx.args)?;
    let until = pin.ttl.map(|span| ctx.now + span);
    let count = ctx.node.store.pin(ctx.now, pin.key, until).map_err(refused)?;
    ctx.reply().count(count.unwrap_or(0));
    Ok(Flow::Go)
}

/// `UNPIN key`
pub(crate) fn unpin(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let unpin = Unpin::parse(&ctx.args)?;
    let count = ctx.node.store.unpin(ctx.now, unpin.key);
    ctx.reply().count(count.unwrap_or(0));
    Ok(Flow::Go)
}
