//! Leases and lookups: where bytes are, and for how long that stays true.

use super::object::{choose, write_locator};
use crate::dispatch::{Ctx, Flow};
use crate::error::refused;
use protocol::base::{Instant, Millis, Via};
use protocol::command::{Lease, Lookup, MLease, MRelease, Release, Renew, ViaChoice};
use protocol::resp::{ErrorWord, WireError};
use storage::Leased;

fn until(ctx: &Ctx<'_>, span: Millis) -> Result<Instant, WireError> {
    let max = ctx.node.config.read().lease_ms_max;
    if span > max || span == Millis(0) {
        return Err(WireError::new(ErrorWord::TooBig, format!("a lease lasts from 1 to {} ms", max.0)));
    }
    Ok(ctx.now + span)
}

fn write_lease(ctx: &mut Ctx<'_>, via: Via, leased: &Leased) {
    ctx.session.bond.lend();
    if via == Via::Shm {
        ctx.node.stats.shm_leased.add(leased.length.get());
    }
    let left = leased.deadline.left_at(ctx.now);
    let locator = ctx.node.locator(via, leased.segment, leased.offset, leased.length.get(), false);
    let mut reply = ctx.reply();
    reply.map(6);
    reply.field("lease").bulk_display(leased.lease);
    reply.field("generation").count(leased.generation.0);
    reply.field("length").count(leased.length.get());
    reply.field("crc").bulk_display(leased.crc);
    reply.field("deadline-ms").count(left.0);
    reply.field("locators").array(1);
    write_locator(&mut reply, &locator);
}

/// `LEASE key ms [VIA …]`
pub(crate) fn lease(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let lease = Lease::parse(&ctx.args)?;
    let until = until(ctx, lease.span)?;
    let via = choose(ctx, lease.via)?;
    match ctx.node.store.lease(ctx.now, lease.key, until, ctx.session.bond.id, None).map_err(refused)? {
        Some(leased) => write_lease(ctx, via, &leased),
        None => ctx.reply().null(),
    }
    Ok(Flow::Go)
}

/// `MLEASE ms key … [VIA …]`: the order of the keys tells a chain.
pub(crate) fn mlease(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let batch = MLease::parse(&ctx.args)?;
    let until = until(ctx, batch.span)?;
    let via = choose(ctx, batch.via)?;
    check_batch(ctx, batch.keys.len())?;
    ctx.reply().array(batch.keys.len());
    for (depth, key) in batch.keys.iter().enumerate() {
        let depth = u32::try_from(depth).ok();
        match ctx.node.store.lease(ctx.now, key, until, ctx.session.bond.id, depth) {
            Ok(Some(leased)) => write_lease(ctx, via, &leased),
            Ok(None) => ctx.reply().null(),
            Err(error) => {
                let error = refused(error);
                ctx.reply().wire_error(&error);
            }
        }
    }
    Ok(Flow::Go)
}

fn check_batch(ctx: &Ctx<'_>, items: usize) -> Result<(), WireError> {
    let max = ctx.node.config.read().batch_items_max;
    if items > max {
        return Err(WireError::new(ErrorWord::TooBig, format!("{items} items are more than the {max} of one batch")));
    }
    Ok(())
}

/// `RENEW lease ms`
pub(crate) fn renew(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let renew = Renew::parse(&ctx.args)?;
    let until = until(ctx, renew.span)?;
    let end = ctx.node.store.renew(ctx.now, renew.lease, ctx.session.bond.id, until).map_err(refused)?;
    let left = end.left_at(ctx.now);
    ctx.reply().count(left.0);
    Ok(Flow::Go)
}

/// `RELEASE lease`
pub(crate) fn release(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let release = Release::parse(&ctx.args)?;
    let released = ctx.node.store.release(release.lease, ctx.session.bond.id);
    ctx.reply().integer(i64::from(released));
    Ok(Flow::Go)
}

/// `MRELEASE lease …`
pub(crate) fn mrelease(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let batch = MRelease::parse(&ctx.args)?;
    ctx.reply().array(batch.leases.len());
    for lease in batch.leases {
        let released = ctx.node.store.release(lease, ctx.session.bond.id);
        ctx.reply().integer(i64::from(released));
    }
    Ok(Flow::Go)
}

/// `LOOKUP key … [LEASE ms]`
pub(crate) fn lookup(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let lookup = Lookup::parse(&ctx.args)?;
    check_batch(ctx, lookup.keys.len())?;
    let lease = lookup.lease.map(|span| until(ctx, span)).transpose()?.map(|until| (until, ctx.session.bond.id));
    let via = choose(ctx, ViaChoice::Auto)?;
    let keys = &lookup.keys;
    let found = ctx.node.store.lookup(ctx.now, |index| keys.get(index).copied(), lease).map_err(refused)?;
    let mut reply = ctx.reply();
    reply.map(if lease.is_some() { 4 } else { 3 });
    reply.field("prefix").count(found.prefix as u64);
    reply.field("bytes").count(found.bytes);
    reply.field("tiers").map(1);
    reply.field("dram").count(found.prefix as u64);
    if lease.is_some() {
        reply.field("leases").array(found.leases.len());
        for leased in &found.leases {
            write_lease(ctx, via, leased);
        }
    }
    Ok(Flow::Go)
}
