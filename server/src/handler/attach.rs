//! Bulk sessions: shared memory, TCP and RDMA.

use crate::conn::Conn;
use crate::conn::ring::RingStream;
use crate::conn::stream::Stream;
use crate::dispatch::{Ctx, Flow};
use crate::session::{ClientInfo, ReplyMode, Session};
use protocol::base::ByteLen;
use protocol::command::{Attach, RdmaEnd};
use protocol::resp::{ErrorWord, WireError};
use std::sync::Arc;
use std::time::Duration;
use transport::shm::{FDS_PER_MESSAGE_MAX, PeerBuffer, Populate, RingFds, RingLayout, create_ring, peer_uid};

fn no_transport(text: impl std::fmt::Display) -> WireError {
    WireError::new(ErrorWord::NoTransport, text.to_string())
}

/// `ATTACH SHM [BUFFERS n] [COMPACT] | TCP | RDMA …`
pub(crate) fn attach(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    match Attach::parse(&ctx.args)? {
        Attach::Shm { buffers, compact } => attach_shm(ctx, buffers as usize, compact),
        Attach::Tcp => attach_tcp(ctx),
        Attach::Rdma(end) => attach_rdma(ctx, &end),
    }
}

fn attach_tcp(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let bulk = ctx.node.addresses().bulk.ok_or_else(|| no_transport("bulk TCP is turned off (`bulk-listen`)"))?;
    let token = ctx.node.bulk.open(&ctx.session.bond);
    ctx.session.bond.lend();
    let mut reply = ctx.output.writer();
    reply.map(4);
    reply.field("session").bulk_display(ctx.session.bond.id);
    reply.field("tls").count(u64::from(ctx.session.bond.secure));
    reply.field("token").bulk(token.to_hex().as_bytes());
    reply.field("port").count(u64::from(bulk.port()));
    Ok(Flow::Go)
}

fn attach_rdma(ctx: &mut Ctx<'_>, end: &RdmaEnd) -> Result<Flow, WireError> {
    let bond = &ctx.session.bond;
    if bond.has_rdma() {
        return Err(WireError::new(ErrorWord::Busy, "this connection has an RDMA session: DETACH first"));
    }
    if bond.secure {
        return Err(no_transport("RDMA is not encrypted, and this connection is: use TCP"));
    }
    let ours = ctx.node.rdma.attach(bond.id, end)?;
    bond.attach_rdma();
    bond.lend();
    let mut reply = ctx.output.writer();
    reply.map(8);
    reply.field("session").bulk_display(bond.id);
    reply.field("qpn").count(u64::from(ours.qpn));
    reply.field("psn").count(u64::from(ours.psn));
    reply.field("gid").bulk(ours.gid_hex().as_bytes());
    reply.field("lid").count(u64::from(ours.lid));
    reply.field("mtu").count(u64::from(ours.mtu));
    reply.field("reads").count(u64::from(ours.reads));
    reply.field("windows").count(u64::from(ctx.node.rdma.lends()));
    Ok(Flow::Go)
}

fn attach_shm(ctx: &mut Ctx<'_>, count: usize, compact: bool) -> Result<Flow, WireError> {
    let (ring_len, quota, spin) = {
        let config = ctx.node.config.read();
        (config.shm_ring_len, config.shm_buffer_len_max, config.shm_spin_us)
    };
    let Some(unix) = ctx.stream.unix() else {
        return Err(no_transport("shared memory is attached on the Unix socket, which passes descriptors"));
    };
    let arrived = std::mem::take(&mut unix.arrived);
    if ctx.session.bond.has_shm() {
        return Err(WireError::new(ErrorWord::Busy, "this connection has a shared-memory session: DETACH first"));
    }
    let shows = ctx.node.shm_access();
    if ctx.session.client.user().is_none_or(|user| !user.may_all(shows)) {
        let text =
            "shared memory shows every object: it is for users that may read all keys, in arena mode write them too";
        return Err(WireError::new(ErrorWord::NoPerm, text));
    }
    let uid = peer_uid(unix.as_fd()).map_err(|error| no_transport(format_args!("who are you? {error}")))?;
    if uid != rustix::process::geteuid().as_raw() && uid != 0 {
        return Err(WireError::new(ErrorWord::Denied, "shared memory is for processes of the server's own user"));
    }
    if arrived.len() != count {
        return Err(WireError::new(
            ErrorWord::Denied,
            format!("BUFFERS {count}, but {} descriptors came with it", arrived.len()),
        ));
    }
    let mut buffers = Vec::with_capacity(count);
    let mut left = quota;
    for fd in arrived {
        let buffer = PeerBuffer::adopt(fd, left, Populate::Lazy)
            .map_err(|error| WireError::new(ErrorWord::Denied, format!("a buffer was refused: {error}")))?;
        left = ByteLen(left.get().saturating_sub(buffer.len() as u64));
        buffers.push(buffer);
    }
    let len = u32::try_from(ring_len.get()).map_err(|_| WireError::err("shm-ring-len is too long"))?;
    let layout = RingLayout::new(len, len).ok_or_else(|| WireError::err("shm-ring-len is no power of two"))?;
    let ring = create_ring(layout).map_err(no_transport)?;
    if ctx.node.segments.len() + RingFds::COUNT > FDS_PER_MESSAGE_MAX {
        return Err(no_transport("too many segments to pass: raise `segment-len`"));
    }
    let mut leaving = Vec::with_capacity(ctx.node.segments.len() + RingFds::COUNT);
    let duplicate = |fd: std::os::fd::BorrowedFd<'_>| {
        fd.try_clone_to_owned().map_err(|error| no_transport(format_args!("no descriptor left: {error}")))
    };
    for segment in &ctx.node.segments {
        leaving.push(segment.lend().map_err(|error| no_transport(crate::warm::refusal(error.kind())))?);
    }
    for fd in ring.fds.as_fds() {
        leaving.push(duplicate(fd)?);
    }
    if let Some(arena) = &ctx.node.arena {
        arena.open(ctx.session.bond.id).map_err(no_transport)?;
    }
    let unix = ctx.stream.unix().expect("looked up above");
    // Those that wait go with the next byte that is sent, which is this reply's or an earlier one's: the client takes them
    // from wherever they come.
    unix.leaving.append(&mut leaving);

    ctx.session.bond.attach_shm(buffers, compact);
    ctx.session.bond.lend();
    // Who took the right away meanwhile has found no shared memory to end.
    if ctx.session.client.user().is_none_or(|user| !user.may_all(shows)) {
        let unix = ctx.stream.unix().expect("looked up above");
        unix.leaving.clear();
        ctx.session.client.kill();
        return Err(WireError::new(ErrorWord::NoPerm, "the right to read all keys was lost"));
    }
    let info = &ctx.session.client;
    let client = ClientInfo::ring(ctx.node.clients.take_id(), info, ctx.now.0 / 1_000_000);
    client.bind(&ctx.session.bond);
    ctx.node.clients.insert(Arc::clone(&client));
    ctx.node.log_in_ring(&client, info);
    let session = Session {
        node: Arc::clone(ctx.node),
        bond: Arc::clone(&ctx.session.bond),
        client: Arc::clone(&client),
        authenticated: ctx.session.authenticated,
        reply_mode: ReplyMode::On,
        multi: None,
        watched: Vec::new(),
        listening: None,
        owns_bond: false,
    };
    client.bulky.store(true, std::sync::atomic::Ordering::Relaxed);
    let worker = ctx.node.workers().place_ring();
    let resp3 = ctx.output.resp3;
    let made = Arc::clone(&client);
    let task = ctx.node.workers().spawn(worker, async move {
        match RingStream::new(ring.end, ring.event, Duration::from_micros(spin.0)) {
            Ok(stream) => {
                let mut conn = Conn::new(Stream::Ring(Box::new(stream)), session, worker);
                conn.resp3(resp3);
                conn.serve().await;
            }
            Err(error) => tracing::warn!(%error, "a ring cannot be watched"),
        }
        // Whatever ended it, nobody answers there any more.
        made.kill();
    });
    client.served_by(0, task.abort_handle());
    ctx.session.bond.adopt(task.abort_handle());

    let mode = match ctx.node.config.read().shm_write {
        crate::config::ShmWrite::Copy => "copy",
        crate::config::ShmWrite::Arena => "arena",
    };
    let (segments, buffers) = (ctx.node.segments.clone(), ctx.session.bond.buffer_count());
    let mut reply = ctx.output.writer();
    reply.map(5);
    reply.field("session").bulk_display(ctx.session.bond.id);
    reply.field("mode").bulk(mode.as_bytes());
    reply.field("ring-length").count(ring_len.get());
    reply.field("buffers").count(buffers as u64);
    reply.field("segments").array(segments.len());
    for (index, segment) in segments.iter().enumerate() {
        use protocol::base::StableMemory as _;
        reply.map(3);
        reply.field("segment").count(index as u64);
        reply.field("fd").count(index as u64);
        reply.field("length").count(segment.len() as u64);
    }
    Ok(Flow::Go)
}

/// `DETACH`: ends the bulk session with all that was lent in it.
pub(crate) fn detach(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    if !ctx.session.owns_bond {
        return Err(WireError::new(ErrorWord::Denied, "a ring would end before it could answer: DETACH on its socket"));
    }
    let bond = Arc::clone(&ctx.session.bond);
    let had = bond.has_shm() || bond.token().is_some() || bond.has_rdma();
    bond.detach(ctx.node);
    ctx.node.store.end_session(bond.id);
    ctx.reply().integer(i64::from(had));
    Ok(Flow::Go)
}
