//! Two-phase writes: `PUT` grants a slot, `COMMIT` seals it.
//!
//! Invariants:
//! - A checksum is computed over bytes that the client cannot reach any more: the slot is closed first, and what comes
//!   from the client's own memory is checked as it is stored.
//! - In a batch one item's error is that item's.

use super::into;
use super::job::{Job, PIECE_LEN_MAX, Sealing, Storing};
use crate::acl::guard;
use crate::conn::BULKY_LEN_MIN;
use crate::conn::output::Output;
use crate::dispatch::{Ctx, Flow};
use crate::drain::refuse_if_draining;
use crate::error::refused;
use crate::rdma::Opening;
use crate::session::Session;
use protocol::base::{ByteLen, Crc, Instant, Locator, Millis, RawSpan, Via};
use protocol::command::{Abort, Access, Commit, MCommit, MCommitItem, MPut, Put, PutOptions, ShmSource, ViaChoice};
use protocol::resp::{ErrorWord, WireError, Writer};
use storage::{Committed, Condition, GrantTerms, Granted, Seal, SealGuard, StoreError, Terms};
use transport::Fence;

/// How the bytes will travel: what was asked for, if this connection has it.
pub(crate) fn choose(ctx: &Ctx<'_>, via: ViaChoice) -> Result<Via, WireError> {
    let shm = ctx.session.bond.has_shm();
    match via {
        ViaChoice::Auto => Ok(if shm { Via::Shm } else { Via::Tcp }),
        ViaChoice::Only(Via::Shm) if shm => Ok(Via::Shm),
        ViaChoice::Only(Via::Shm) => {
            Err(WireError::new(ErrorWord::NoTransport, "no shared-memory session: ATTACH SHM on the Unix socket first"))
        }
        ViaChoice::Only(Via::Tcp) if ctx.node.addresses().bulk.is_some() => Ok(Via::Tcp),
        ViaChoice::Only(Via::Tcp) => {
            Err(WireError::new(ErrorWord::NoTransport, "bulk TCP is turned off (`bulk-listen`)"))
        }
        ViaChoice::Only(Via::Rdma) => {
            into::check_session(ctx.session)?;
            if ctx.node.rdma.lends() {
                return Ok(Via::Rdma);
            }
            let text = "this device's windows are not lent (`INFO transfers` says why): GET … INTO writes it to you";
            Err(WireError::new(ErrorWord::NoTransport, text))
        }
    }
}

/// The same for what is to be written, which RDMA carries too.
fn choose_for_put(ctx: &Ctx<'_>, via: ViaChoice) -> Result<Via, WireError> {
    match via {
        ViaChoice::Only(Via::Rdma) => into::check_session(ctx.session).map(|()| Via::Rdma),
        ViaChoice::Auto if !ctx.session.bond.has_shm() && into::check_session(ctx.session).is_ok() => Ok(Via::Rdma),
        via => choose(ctx, via),
    }
}

fn terms(ctx: &Ctx<'_>, options: &PutOptions<'_>, parent: Option<&[u8]>) -> Result<Terms, WireError> {
    if options.durable && ctx.node.tier().is_none() {
        return Err(WireError::new(ErrorWord::Denied, "DURABLE needs a flash tier, and this node has none"));
    }
    let soft_max = ctx.node.config.read().soft_pin_ms_max;
    if options.soft_pin.is_some_and(|span| span > soft_max) {
        return Err(WireError::new(ErrorWord::TooBig, format!("a soft pin lasts at most {soft_max}")));
    }
    Ok(Terms {
        condition: if options.replace { Condition::Always } else { Condition::IfAbsent },
        keep_ttl: false,
        expires: options.ttl.map(|span| ctx.now + span),
        parent: parent.map(Into::into),
        soft_pin: options.soft_pin.map(|span| ctx.now + span),
        pin: options.pin,
    })
}

/// The client's memory that a source names.
fn source(ctx: &Ctx<'_>, from: ShmSource, len: u64) -> Result<RawSpan, WireError> {
    let buffer = ctx
        .session
        .bond
        .buffer(from.fd as usize)
        .ok_or_else(|| WireError::new(ErrorWord::Denied, format!("no buffer {} was attached", from.fd)))?;
    buffer.span(from.offset, len).ok_or_else(|| {
        WireError::new(
            ErrorWord::Denied,
            format!("{len} bytes at {} run past the buffer's {}", from.offset, ByteLen(buffer.len() as u64)),
        )
    })
}

/// A grant, or `None` if there will be room for it in a moment. With `lends`, its client will be lent a window.
fn grant(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    len: ByteLen,
    (via, lends): (Via, bool),
    terms: Terms,
    durable: bool,
) -> Result<Option<Granted>, WireError> {
    protocol::command::check_key(key)?;
    refuse_if_draining(ctx)?;
    let deadline = ctx.now + ctx.node.config.read().grant_ms;
    let session = ctx.session.bond.id;
    // Over TCP the server applies each write itself, in copy mode it copies, over RDMA without windows it reads: nobody else
    // can write the slot.
    let arena = ctx.node.arena.as_ref().filter(|_| via == Via::Shm);
    let terms = GrantTerms { session, deadline, exposed: arena.is_some() || lends, terms };
    let granted = match ctx.node.store.grant(ctx.now, key, len.get(), &ctx.session.bond.account, terms) {
        Err(StoreError::SpillWait { .. }) if !ctx.has_waited => return Ok(None),
        granted => granted.map_err(refused)?,
    };
    // Room may have been waited for since the command was let in.
    if !ctx.session.client.may(key, Access::WRITE) {
        ctx.node.store.abort(granted.grant, session);
        return Err(guard::lost());
    }
    if let Some(arena) = arena {
        arena.lend(session, &granted).map_err(|error| {
            ctx.node.store.abort(granted.grant, session);
            WireError::new(ErrorWord::NoTransport, error.to_string())
        })?;
    }
    ctx.session.bond.lend();
    if durable {
        ctx.session.bond.note_durable(granted.grant, ctx.now);
    }
    Ok(Some(granted))
}

pub(crate) fn write_locator(reply: &mut Writer<'_>, locator: &Locator) {
    reply.map(5 + usize::from(locator.fd.is_some()) + 2 * usize::from(locator.remote.is_some()));
    reply.field("node").bulk(locator.node.0.as_bytes());
    reply.field("via").bulk(locator.via.word().as_bytes());
    reply.field("segment").count(u64::from(locator.segment.0));
    reply.field("offset").count(locator.offset);
    reply.field("length").count(locator.length);
    if let Some(fd) = locator.fd {
        reply.field("fd").count(u64::from(fd));
    }
    if let Some((addr, rkey)) = locator.remote {
        reply.field("addr").count(addr);
        reply.field("rkey").count(u64::from(rkey));
    }
}

fn write_grant(ctx: &mut Ctx<'_>, via: Via, granted: &Granted) {
    let own_memory = via == Via::Shm && ctx.node.arena.is_none();
    let locator = ctx.node.locator(via, granted.segment, granted.offset, granted.length, own_memory);
    let now = ctx.now;
    write_granted(&mut ctx.reply(), now, granted, &locator);
}

fn write_granted(reply: &mut Writer<'_>, now: Instant, granted: &Granted, locator: &Locator) {
    let span = Millis(granted.deadline.left_at(now).0);
    reply.map(4);
    reply.field("grant").bulk(&granted.grant.hex());
    reply.field("generation").count(granted.generation.0);
    reply.field("deadline-ms").count(span.0);
    reply.field("locators").array(1);
    write_locator(reply, locator);
}

/// A grant whose window is being bound.
#[derive(Debug)]
pub(crate) struct Lending {
    granted: Granted,
    opening: Opening,
}

impl Lending {
    /// Answers once the window can be used.
    pub(crate) async fn reply(self, session: &Session, output: &mut Output) {
        let Self { granted, opening } = self;
        let node = &session.node;
        let mut locator = node.locator(Via::Rdma, granted.segment, granted.offset, granted.length, false);
        locator.remote = opening.remote().await;
        write_granted(&mut output.writer(), node.now(), &granted, &locator);
    }
}

/// The map that `COMMIT` answers.
pub(crate) fn write_committed(reply: &mut Writer<'_>, committed: &Committed) {
    reply.map(3);
    reply.field("key").bulk(&committed.key);
    reply.field("generation").count(committed.generation.0);
    reply.field("length").count(committed.length.get());
}

/// `PUT key LEN n [options] [CRC hex8 FROM fd offset]`
pub(crate) fn put(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let put = Put::parse(&ctx.args)?;
    let terms = terms(ctx, &put.options, put.options.parent)?;
    *ctx.bulky = *ctx.bulky || put.len.get() >= BULKY_LEN_MIN;
    if let Some((crc, from)) = put.write {
        return put_from(ctx, &put, terms, crc, from);
    }
    let via = choose_for_put(ctx, put.options.via)?;
    let lends = via == Via::Rdma && ctx.node.rdma.lends();
    let Some(granted) = grant(ctx, put.key, put.len, (via, lends), terms, put.options.durable)? else {
        return Ok(Flow::Room);
    };
    if let Some(parent) = put.options.parent {
        ctx.node.learn_chain([parent, put.key].into_iter());
    }
    if lends {
        let node = &ctx.node;
        if let Some(opening) = node.rdma.lend_grant(&node.store, ctx.session.bond.id, &granted) {
            return Ok(Flow::Wait(Job::Lend(Box::new(Lending { granted, opening }))));
        }
    }
    write_grant(ctx, via, &granted);
    Ok(Flow::Go)
}

/// Reserves, copies from the client's memory and publishes in one exchange.
fn put_from(ctx: &mut Ctx<'_>, put: &Put<'_>, terms: Terms, claimed: Crc, from: ShmSource) -> Result<Flow, WireError> {
    protocol::command::check_key(put.key)?;
    let source = source(ctx, from, put.len.get())?;
    let store = &ctx.node.store;
    store.check_absent(ctx.now, put.key, &terms).map_err(refused)?;
    let slot = match store.reserve(ctx.now, put.key, put.len.get(), &ctx.session.bond.account) {
        Err(error @ StoreError::SpillWait { .. }) => return ctx.wait_for_room(error),
        slot => slot.map_err(refused)?,
    };
    if let Some(parent) = put.options.parent {
        ctx.node.learn_chain([parent, put.key].into_iter());
    }
    let storing = Storing { slot, source, claimed, terms, durable: put.options.durable };
    if put.len.get() > PIECE_LEN_MAX as u64 || put.options.durable {
        return Ok(Flow::Wait(Job::Store(Box::new(storing))));
    }
    ctx.node.stats.shm_in.add(put.len.get());
    let committed = storing.store_now(ctx.now).map_err(refused)?;
    ctx.node.notify_set(&committed.key, None);
    write_committed(&mut ctx.reply(), &committed);
    Ok(Flow::Go)
}

/// A slot that its client wrote by itself, once it is known what the client can still do: what it does later, readers see
/// by the checksum. A window of RDMA is waited for beside other requests.
fn believable(ctx: &Ctx<'_>, mut guard: SealGuard) -> Result<SealGuard, WireError> {
    if guard.exposed() && !ctx.node.rdma.has_lent(guard.grant()) {
        match ctx.node.arena.as_ref().map(|arena| arena.fence(guard.grant())) {
            Some(Fence::Done | Fence::Verify) => guard.fenced(),
            Some(Fence::Pending) | None => {
                return Err(WireError::new(ErrorWord::Busy, "writes may still be under way: the grant is given up"));
            }
        }
    }
    Ok(guard)
}

/// What a commit has to do, or its remembered answer.
fn begin(ctx: &mut Ctx<'_>, commit: &Commit) -> Result<Result<Sealing, Committed>, WireError> {
    if commit.pull.is_some() {
        into::check_session(ctx.session)?;
    }
    let session = ctx.session.bond.id;
    let seal = ctx.node.store.seal(ctx.now, commit.grant, session, commit.bytes.map(ByteLen::get)).map_err(refused)?;
    let guard = match seal {
        Seal::Done(committed) => return Ok(Err(committed)),
        Seal::Begun(guard) => guard,
    };
    let guard = believable(ctx, guard)?;
    let len = guard.span().len() as u64;
    *ctx.bulky = *ctx.bulky || len >= BULKY_LEN_MIN;
    let source = commit.from.map(|from| source(ctx, from, len)).transpose()?;
    if source.is_some() {
        ctx.node.stats.shm_in.add(len);
    }
    let pull = commit.pull;
    Ok(Ok(Sealing { guard, source, pull, claimed: commit.crc, durable: ctx.session.bond.is_durable(commit.grant) }))
}

/// `COMMIT grant CRC hex8 [BYTES n] [FROM fd offset | PULL addr rkey]`
pub(crate) fn commit(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let commit = Commit::parse(&ctx.args)?;
    let committed = match begin(ctx, &commit)? {
        // What was answered may not have been durable then.
        Err(committed) if ctx.session.bond.is_durable(commit.grant) => {
            return Ok(Flow::Wait(Job::Settle(Box::new(committed))));
        }
        Err(committed) => committed,
        Ok(sealing) if sealing.waits() || sealing.guard.span().len() > PIECE_LEN_MAX => {
            return Ok(Flow::Wait(Job::Seal(Box::new(sealing))));
        }
        Ok(sealing) => {
            let committed = sealing.seal_now(ctx.now).map_err(refused)?;
            ctx.node.notify_set(&committed.key, None);
            committed
        }
    };
    write_committed(&mut ctx.reply(), &committed);
    Ok(Flow::Go)
}

/// `ABORT grant`
pub(crate) fn abort(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let abort = Abort::parse(&ctx.args)?;
    let aborted = ctx.node.store.abort(abort.grant, ctx.session.bond.id);
    ctx.reply().integer(i64::from(aborted));
    Ok(Flow::Go)
}

fn check_batch(ctx: &Ctx<'_>, items: usize) -> Result<(), WireError> {
    let max = ctx.node.config.read().batch_items_max;
    if items > max {
        return Err(WireError::new(ErrorWord::TooBig, format!("{items} items are more than the {max} of one batch")));
    }
    Ok(())
}

/// `MPUT n key len … [options]`: the order of the keys tells a chain, which `PARENT` begins. Over RDMA a batch is pulled.
pub(crate) fn mput(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let batch = MPut::parse(&ctx.args)?;
    check_batch(ctx, batch.items.len())?;
    let via = choose_for_put(ctx, batch.options.via)?;
    let mut parent = batch.options.parent;
    if *ctx.resume == 0 {
        ctx.reply().array(batch.items.len());
        ctx.node.learn_chain(parent.into_iter().chain(batch.items.iter().map(|&(key, _)| key)));
    } else {
        parent = batch.items.get(*ctx.resume - 1).map(|&(key, _)| key);
    }
    for &(key, len) in batch.items.iter().skip(*ctx.resume) {
        *ctx.bulky = *ctx.bulky || len.get() >= BULKY_LEN_MIN;
        let granted = terms(ctx, &batch.options, parent)
            .and_then(|terms| grant(ctx, key, len, (via, false), terms, batch.options.durable));
        match granted {
            Ok(Some(granted)) => write_grant(ctx, via, &granted),
            Ok(None) => {
                return Ok(Flow::Room);
            }
            Err(error) => ctx.reply().wire_error(&error),
        }
        *ctx.resume += 1;
        parent = Some(key);
    }
    Ok(Flow::Go)
}

/// `MCOMMIT grant hex8 [PULL addr rkey] …`
pub(crate) fn mcommit(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let batch = MCommit::parse(&ctx.args)?;
    check_batch(ctx, batch.items.len())?;
    ctx.reply().array(batch.items.len());
    let mut begun = Vec::with_capacity(batch.items.len());
    for &MCommitItem { grant, crc, pull } in &batch.items {
        let durable = ctx.session.bond.is_durable(grant);
        let commit = Commit { grant, crc, bytes: None, from: None, pull };
        begun.push(begin(ctx, &commit).map(|begun| (begun, durable)));
    }
    Ok(Flow::Wait(Job::SealBatch(begun)))
}
