//! `GET … INTO`: the server writes an object into the client's registered memory, then answers.
//!
//! Invariants:
//! - The answer comes after the bytes; the client looks at them when the number in it has arrived on its queue pair.
//! - Nothing is written of an object that the client has no room for.

use super::lease::{Item, bring};
use crate::conn::output::Output;
use crate::dispatch::{Ctx, Flow};
use crate::error::refused;
use crate::handler::job::Job;
use crate::rdma::{self, Held};
use crate::session::Session;
use protocol::base::{Instant, SessionId};
use protocol::command::{GetInto, RemoteMemory};
use protocol::resp::{ErrorWord, WireError};
use std::sync::Arc;
use storage::Leased;

/// An object that is to be pushed.
#[derive(Debug)]
pub(crate) struct Pushing {
    key: Box<[u8]>,
    to: RemoteMemory,
    room: u64,
}

/// `GET key INTO addr rkey len`
pub(crate) fn get_into(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let get = GetInto::parse(&ctx.args)?;
    protocol::command::check_key(get.key)?;
    check_session(ctx.session)?;
    let pushing = Pushing { key: get.key.into(), to: get.to, room: get.room };
    Ok(Flow::Wait(Job::Push(Box::new(pushing))))
}

/// Whether the client has an RDMA session that works.
pub(crate) fn check_session(session: &Session) -> Result<(), WireError> {
    let (node, bond) = (&session.node, &session.bond);
    if bond.has_rdma() && node.rdma.is_open(bond.id) {
        return Ok(());
    }
    node.rdma.transport()?;
    let text = if bond.has_rdma() {
        "the RDMA session has ended: DETACH, then ATTACH RDMA again"
    } else {
        "no RDMA session: ATTACH RDMA first"
    };
    Err(WireError::new(ErrorWord::NoTransport, text))
}

impl Pushing {
    /// Pushes it and writes the reply.
    pub(crate) async fn reply(self, session: &Session, output: &mut Output) {
        match self.push(session).await {
            Ok(Some((leased, number))) => {
                let mut reply = output.writer();
                reply.map(4);
                reply.field("generation").count(leased.generation.0);
                reply.field("length").count(leased.length.get());
                reply.field("crc").bulk_display(leased.crc);
                reply.field("number").count(u64::from(number));
            }
            Ok(None) => output.writer().null(),
            Err(error) => output.writer().wire_error(&error),
        }
    }

    async fn push(&self, session: &Session) -> Result<Option<(Leased, u32)>, WireError> {
        let Some(held) = self.hold(session).await? else { return Ok(None) };
        let leased = held.leased;
        if leased.length.get() > self.room {
            let text = format!("the object has {} bytes, there is room for {}", leased.length.get(), self.room);
            return Err(WireError::new(ErrorWord::TooBig, text));
        }
        let number = rdma::push(session.bond.id, held, self.to).await?;
        Ok(Some((leased, number)))
    }

    /// Keeps the object in DRAM, bringing it there if it lies on flash.
    async fn hold(&self, session: &Session) -> Result<Option<Held>, WireError> {
        let node = &session.node;
        let holder = SessionId(rand::random());
        let hold = |now| {
            let leased = node.store.lease(now, &self.key, Instant::NEVER, holder, None).map_err(refused)?;
            Ok::<_, WireError>(leased.map(|leased| Held { node: Arc::clone(node), leased, holder }))
        };
        let now = node.now_looked();
        if let Some(held) = hold(now)? {
            return Ok(Some(held));
        }
        let span = node.hot.lease_max();
        let item = Item::of(session, now, &self.key, now + span, None);
        let brought = bring(session, vec![item], span).await.pop().transpose()?.flatten();
        let Some(brought) = brought else { return Ok(None) };
        let held = hold(node.now_looked());
        node.store.release(brought.lease, session.bond.id);
        held
    }
}
