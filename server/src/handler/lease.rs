//! Leases: where bytes are, and for how long that stays true. What lies on flash alone is brought into DRAM first.
//!
//! Invariants:
//! - A lease lasts as long as it says from when it was answered, also if flash was read for it or for others of its batch.

use super::fetch::fetch_all;
use super::object::{choose, write_locator};
use crate::acl::guard;
use crate::conn::Room;
use crate::conn::output::Output;
use crate::dispatch::{Ctx, Flow};
use crate::drain::refuse_if_draining;
use crate::error::refused;
use crate::handler::job::Job;
use crate::node::Node;
use crate::session::Session;
use protocol::base::{Instant, LeaseId, LeaseRecord, Lent, Millis, SessionId, Via};
use protocol::command::{Access, Lease, MLease, MRelease, Release, Renew};
use protocol::resp::{ErrorWord, WireError};
use std::collections::{HashMap, VecDeque};
use storage::{FlashRead, GRANT_SPAN_MAX, Leased};

/// The length of a lease, checked.
pub(crate) fn checked_span(ctx: &Ctx<'_>, span: Millis) -> Result<Millis, WireError> {
    refuse_if_draining(ctx)?;
    let max = ctx.node.hot.lease_max();
    if span > max || span == Millis(0) {
        return Err(WireError::new(ErrorWord::TooBig, format!("a lease lasts from 1 to {} ms", max.0)));
    }
    Ok(span)
}

fn until(ctx: &Ctx<'_>, span: Millis) -> Result<Instant, WireError> {
    Ok(ctx.now + checked_span(ctx, span)?)
}

/// Writes the map, or the record, of a lease that lasts for `span` from when the request came.
pub(crate) fn write_lease(session: &Session, output: &mut Output, via: Via, leased: &Leased, span: Millis) {
    write_lent(session, output, (via, None), leased, span);
}

/// The same for a lease with a window, which is reached by `remote`.
fn write_lent(
    session: &Session,
    output: &mut Output,
    (via, remote): (Via, Option<(u64, u32)>),
    leased: &Leased,
    span: Millis,
) {
    session.bond.lend();
    let node = &session.node;
    if via == Via::Shm {
        node.stats.shm_leased.add(leased.length.get());
    }
    if via == Via::Shm && session.bond.is_compact() {
        let record = LeaseRecord {
            lease: leased.lease,
            generation: leased.generation,
            length: leased.length.get(),
            offset: leased.offset,
            span,
            crc: leased.crc,
            fd: leased.segment.0,
        };
        output.writer().bulk(&record.to_bytes());
        return;
    }
    let mut locator = node.locator(via, leased.segment, leased.offset, leased.length.get(), false);
    locator.remote = remote;
    let mut reply = output.writer();
    reply.map(6);
    reply.field("lease").bulk(&leased.lease.hex());
    reply.field("generation").count(leased.generation.0);
    reply.field("length").count(leased.length.get());
    reply.field("crc").bulk(&leased.crc.hex());
    reply.field("deadline-ms").count(span.0);
    reply.field("locators").array(1);
    write_locator(&mut reply, &locator);
}

/// Leases that wait for flash.
#[derive(Debug)]
pub(crate) struct Leasing {
    span: Millis,
    via: Via,
    items: Vec<Item>,
}

/// What there is of one lease.
#[derive(Debug)]
pub(crate) enum Item {
    /// Had, or not to be had.
    Done(Result<Option<Leased>, WireError>),
    /// To be had once this was read.
    OnFlash { read: FlashRead, depth: Option<u32> },
}

/// One of a batch that has to be read first.
struct Pending {
    at: usize,
    depth: Option<u32>,
    read: FlashRead,
}

impl Item {
    /// Leases an object in DRAM, or begins to read one on flash.
    pub(crate) fn of(session: &Session, now: Instant, key: &[u8], until: Instant, depth: Option<u32>) -> Self {
        let node = &session.node;
        match node.store.lease(now, key, until, session.bond.id, depth) {
            Ok(None) => match node.flash_read(now, key) {
                Some(read) => Self::OnFlash { read, depth },
                None => Self::Done(Ok(None)),
            },
            // Flash or room may have been waited for since the command was let in.
            Ok(Some(leased)) if !session.client.may(key, Access::READ) => {
                node.store.release(leased.lease, session.bond.id);
                Self::Done(Err(guard::lost()))
            }
            leased => Self::Done(leased.map_err(refused)),
        }
    }

    fn write(self, session: &Session, output: &mut Output, via: Via, span: Millis) {
        match self {
            Self::Done(Ok(Some(leased))) => write_lease(session, output, via, &leased, span),
            Self::Done(Ok(None)) | Self::OnFlash { .. } => output.writer().null(),
            Self::Done(Err(error)) => output.writer().wire_error(&error),
        }
    }
}

impl Node {
    /// Ends a lease, and with it its window if it has one.
    fn release(&self, lease: LeaseId, session: SessionId) -> bool {
        let released = self.store.release(lease, session);
        if released {
            self.rdma.end_lease(lease);
        }
        released
    }

    /// What has to be read before the object of this key can be leased, if it is there at all.
    fn flash_read(&self, now: Instant, key: &[u8]) -> Option<FlashRead> {
        self.tier()?;
        self.store.flash_read(now, key)
    }
}

/// Brings into DRAM what lies on flash and leases it: as much at once as one client may have reserved, since each object
/// takes a slot before it is there.
pub(crate) async fn bring(session: &Session, items: Vec<Item>, span: Millis) -> Vec<Result<Option<Leased>, WireError>> {
    let node = &session.node;
    // Leases are given meanwhile: the connection's end ends them.
    session.bond.lend();
    let mut pending = VecDeque::new();
    let mut done: Vec<Result<Option<Leased>, WireError>> = Vec::with_capacity(items.len());
    for (at, item) in items.into_iter().enumerate() {
        done.push(match item {
            Item::Done(result) => result,
            Item::OnFlash { read, depth } => {
                pending.push_back(Pending { at, depth, read });
                Ok(None)
            }
        });
    }
    let mut wave_len_max = node.hot.client_reserve();
    let mut room = Room::begin(node);
    while !pending.is_empty() {
        let (mut wave, mut reads, mut len) = (Vec::new(), Vec::new(), 0);
        while let Some(next) = pending.pop_front_if(|next| wave.is_empty() || len + next.read.length <= wave_len_max) {
            len += next.read.length;
            wave.push((next.at, next.read.key.clone(), next.depth));
            reads.push((next.at, next.read));
        }
        // Room that comes while flash is read is not missed.
        let has_room = node.store.room().notified();
        // What was fetched is held until it is leased.
        let mut fetched: HashMap<usize, _> = fetch_all(node, &session.bond.account, reads).await.into_iter().collect();
        let now = node.now_looked();
        let (alone, mut has_come) = (wave.len() == 1, false);
        for (at, key, depth) in wave {
            let held = fetched.remove(&at);
            done[at] = match held {
                None | Some(Ok(None)) => Ok(None),
                Some(Err(error)) => Err(error),
                Some(Ok(Some(_))) => match Item::of(session, now, &key, now + span, depth) {
                    Item::Done(result) => {
                        has_come = true;
                        result
                    }
                    Item::OnFlash { .. } if alone && room.is_over() => {
                        Err(WireError::new(ErrorWord::Oom, "no room in DRAM for the object"))
                    }
                    Item::OnFlash { read, depth } => {
                        pending.push_back(Pending { at, depth, read });
                        Ok(None)
                    }
                },
            };
        }
        if has_come {
            room = Room::begin(node);
        } else if alone && !pending.is_empty() {
            room.for_room(node, has_room).await;
        } else {
            wave_len_max = 0;
        }
    }
    renew(session, &mut done, span);
    done
}

/// Those that were leased first last as long as those that were leased last.
fn renew(session: &Session, done: &mut [Result<Option<Leased>, WireError>], span: Millis) {
    let now = session.node.now_looked();
    for result in done {
        if let Ok(Some(leased)) = result
            && session.node.store.renew(now, leased.lease, session.bond.id, now + span).is_err()
        {
            // It was shorter than flash took.
            *result = Ok(None);
        }
    }
}

impl Leasing {
    /// Reads what lies on flash, leases it, and writes the replies.
    pub(crate) async fn reply(self, session: &Session, output: &mut Output) {
        let Self { span, via, items } = self;
        let leased = bring(session, items, span).await;
        if via == Via::Rdma {
            return lend(session, output, leased, span).await;
        }
        for result in leased {
            Item::Done(result).write(session, output, via, span);
        }
    }

    /// Whether flash has to be read for it.
    pub(crate) fn has_flash(&self) -> bool {
        self.items.iter().any(|item| matches!(item, Item::OnFlash { .. }))
    }
}

/// Lends a window for each lease, all of which are asked for before the first is waited for, and writes the replies.
async fn lend(session: &Session, output: &mut Output, leased: Vec<Result<Option<Leased>, WireError>>, span: Millis) {
    let (node, id) = (&session.node, session.bond.id);
    session.bond.lend();
    let now = node.now_looked();
    let opened: Vec<_> = leased
        .into_iter()
        .map(|result| {
            let Some(leased) = result? else { return Ok(None) };
            let opening = node.rdma.lend_lease(&node.store, id, (&leased, now, now + span))?;
            Ok(Some((leased, opening)))
        })
        .collect();
    for result in opened {
        match result {
            Ok(Some((leased, opening))) => match opening.remote().await {
                Some(remote) => {
                    node.stats.rdma_out.add(leased.length.get());
                    write_lent(session, output, (Via::Rdma, Some(remote)), &leased, span);
                }
                None => {
                    node.release(leased.lease, id);
                    let error = WireError::new(ErrorWord::NoTransport, "the RDMA session has ended");
                    output.writer().wire_error(&error);
                }
            },
            Ok(None) => output.writer().null(),
            Err(error) => output.writer().wire_error(&error),
        }
    }
}

/// `LEASE key ms [VIA …]`
pub(crate) fn lease(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let lease = Lease::parse(&ctx.args)?;
    let until = until(ctx, lease.span)?;
    let via = choose(ctx, lease.via)?;
    match Item::of(ctx.session, ctx.now, lease.key, until, None) {
        Item::Done(Err(error)) => return Err(error),
        item if via == Via::Rdma || matches!(item, Item::OnFlash { .. }) => {
            let leasing = Leasing { span: lease.span, via, items: vec![item] };
            return Ok(Flow::Wait(Job::Lease(Box::new(leasing))));
        }
        item => item.write(ctx.session, ctx.output, via, lease.span),
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
    let items = batch.keys.iter().enumerate();
    let mut items =
        items.map(|(depth, key)| Item::of(ctx.session, ctx.now, key, until, u32::try_from(depth).ok())).peekable();
    let mut waiting = Vec::new();
    while let Some(item) = items.peek() {
        if via == Via::Rdma || matches!(item, Item::OnFlash { .. }) {
            break;
        }
        waiting.extend(items.next());
    }
    let later: Vec<Item> = items.collect();
    for item in waiting {
        item.write(ctx.session, ctx.output, via, batch.span);
    }
    if later.is_empty() {
        return Ok(Flow::Go);
    }
    ctx.node.learn_chain(batch.keys.iter().copied());
    Ok(Flow::Wait(Job::Lease(Box::new(Leasing { span: batch.span, via, items: later }))))
}

pub(crate) fn check_batch(ctx: &Ctx<'_>, items: usize) -> Result<(), WireError> {
    let max = ctx.node.config.read().batch_items_max;
    if items > max {
        return Err(WireError::new(ErrorWord::TooBig, format!("{items} items are more than the {max} of one batch")));
    }
    Ok(())
}

/// `RENEW lease ms`, `RENEW grant ms`
pub(crate) fn renew_one(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let Renew { lent, span } = Renew::parse(&ctx.args)?;
    let (store, session) = (&ctx.node.store, ctx.session.bond.id);
    let end = match lent {
        Lent::Lease(lease) => {
            let renewed = store.renew(ctx.now, lease, session, until(ctx, span)?);
            renewed.inspect(|&end| ctx.node.rdma.renew_lease(lease, end))
        }
        Lent::Grant(_) if span > GRANT_SPAN_MAX => {
            return Err(WireError::new(ErrorWord::TooBig, format!("a grant lasts from 1 to {} ms", GRANT_SPAN_MAX.0)));
        }
        Lent::Grant(grant) => store.renew_grant(ctx.now, grant, session, ctx.now + span),
    };
    let end = end.map_err(refused)?;
    let left = end.left_at(ctx.now);
    ctx.reply().count(left.0);
    Ok(Flow::Go)
}

/// `RELEASE lease`
pub(crate) fn release(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let release = Release::parse(&ctx.args)?;
    let released = ctx.node.release(release.lease, ctx.session.bond.id);
    ctx.reply().integer(i64::from(released));
    Ok(Flow::Go)
}

/// `MRELEASE lease …`
pub(crate) fn mrelease(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let batch = MRelease::parse(&ctx.args)?;
    ctx.reply().array(batch.leases.len());
    for lease in batch.leases {
        let released = ctx.node.release(lease, ctx.session.bond.id);
        ctx.reply().integer(i64::from(released));
    }
    Ok(Flow::Go)
}
