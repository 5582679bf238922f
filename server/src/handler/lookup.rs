//! `LOOKUP`: how much of a chain is here, and leases on exactly that.

use super::lease::{Item, bring, check_batch, checked_span, write_lease};
use super::object::choose;
use crate::conn::output::Output;
use crate::dispatch::{Ctx, Flow};
use crate::error::refused;
use crate::handler::job::Job;
use crate::node::Node;
use crate::session::Session;
use protocol::base::{Instant, Millis, Via};
use protocol::command::{Lookup, ViaChoice};
use protocol::resp::WireError;
use storage::Lookup as Found;

/// A lookup with leases that waits for flash.
#[derive(Debug)]
pub(crate) struct Looking {
    /// The prefix that is there, in either tier.
    keys: Vec<Box<[u8]>>,
    span: Millis,
    via: Via,
}

impl Looking {
    /// Brings the prefix into DRAM, leases it, and writes the reply.
    pub(crate) async fn reply(self, session: &Session, output: &mut Output) {
        let Self { keys, span, via } = self;
        let now = session.node.now_looked();
        let keys = keys.iter().enumerate();
        let items: Vec<Item> =
            keys.map(|(depth, key)| Item::of(session, now, key, now + span, u32::try_from(depth).ok())).collect();
        let on_flash: Vec<bool> = items.iter().map(|item| matches!(item, Item::OnFlash { .. })).collect();
        let mut found = Found::default();
        let mut is_prefix = true;
        for result in bring(session, items, span).await {
            match result {
                Ok(Some(leased)) if is_prefix => {
                    found.prefix += 1;
                    found.bytes += leased.length.get();
                    found.leases.push(leased);
                }
                // What lies behind a gap is of no use.
                Ok(Some(leased)) => drop(session.node.store.release(leased.lease, session.bond.id)),
                Ok(None) | Err(_) => is_prefix = false,
            }
        }
        found.on_flash = on_flash[..found.prefix].iter().filter(|on_flash| **on_flash).count();
        write(session, output, &found, Some((via, span)));
    }
}

fn write(session: &Session, output: &mut Output, found: &Found, lease: Option<(Via, Millis)>) {
    let mut reply = output.writer();
    reply.map(if lease.is_some() { 4 } else { 3 });
    reply.field("prefix").count(found.prefix as u64);
    reply.field("bytes").count(found.bytes);
    let on_flash = found.on_flash.min(found.prefix);
    let has_flash = session.node.tier().is_some();
    reply.field("tiers").map(1 + usize::from(has_flash));
    reply.field("dram").count((found.prefix - on_flash) as u64);
    if has_flash {
        reply.field("flash").count(on_flash as u64);
    }
    if let Some((via, span)) = lease {
        reply.field("leases").array(found.leases.len());
        for leased in &found.leases {
            write_lease(session, output, via, leased, span);
        }
    }
}

impl Node {
    /// Keys in the order of their chain, for what is read ahead.
    pub(crate) fn learn_chain<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        if self.hot.prefetches
            && let Some(tier) = self.tier()
        {
            tier.learn_chain(keys);
        }
    }

    /// What was found of a chain will be read: as much of it as may be is brought into DRAM.
    fn prefetch<'k>(&self, now: Instant, keys: impl Iterator<Item = &'k [u8]>) {
        let Some(tier) = self.tier().filter(|_| self.hot.prefetches) else { return };
        let mut left = self.config.read().prefetch_len.get();
        let reads = keys.filter_map(|key| self.store.flash_prefetch(now, key));
        let reads = reads.take_while(|read| {
            let fits = read.length <= left;
            left = left.saturating_sub(read.length);
            fits
        });
        tier.prefetch(now, reads.collect());
    }
}

/// `LOOKUP key … [LEASE ms]`
pub(crate) fn lookup(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let lookup = Lookup::parse(&ctx.args)?;
    check_batch(ctx, lookup.keys.len())?;
    let span = lookup.lease.map(|span| checked_span(ctx, span)).transpose()?;
    let via = choose(ctx, ViaChoice::Auto)?;
    let keys = &lookup.keys;
    let lease = span.map(|span| (ctx.now + span, ctx.session.bond.id));
    let found = ctx.node.store.lookup(ctx.now, |index| keys.get(index).copied(), lease).map_err(refused)?;
    if let Some(span) = span.filter(|_| !found.flash.is_empty()) {
        let keys = keys[..found.prefix].iter().map(|&key| key.into()).collect();
        return Ok(Flow::Wait(Job::Lookup(Box::new(Looking { keys, span, via }))));
    }
    if found.on_flash > 0 {
        ctx.node.prefetch(ctx.now, keys[..found.prefix].iter().copied());
    }
    write(ctx.session, ctx.output, &found, span.map(|span| (via, span)));
    Ok(Flow::Go)
}
