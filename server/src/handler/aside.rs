//! Work over very many objects, on a thread of its own: a worker has other clients to serve.

use super::command_cmd::{name_of, spec_at};
use crate::conn::output::Output;
use crate::node::Node;
use crate::session::Session;
use protocol::command::CommandId;
use protocol::resp::{ArgBuf, WireError, Writer};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Objects that a command goes through within one turn of its worker.
pub(crate) const OBJECTS_MAX: u64 = 10_000;

/// Writes the reply, once the work is done.
type Answer = Box<dyn FnOnce(&mut Writer<'_>) + Send>;

/// See the module's text. It goes on to its end, also if its client leaves.
pub(crate) struct Aside {
    command: CommandId,
    work: Box<dyn FnOnce(&Node) -> Answer + Send>,
}

impl Aside {
    /// `work` for a client that sent `command`.
    pub(crate) fn new<W, A>(command: CommandId, work: W) -> Self
    where
        W: FnOnce(&Node) -> A + Send + 'static,
        A: FnOnce(&mut Writer<'_>) + Send + 'static,
    {
        Self { command, work: Box::new(|node| Box::new(work(node))) }
    }

    pub(crate) async fn run(self, session: &Session, output: &mut Output) {
        let Self { command, work } = self;
        let node = Arc::clone(&session.node);
        let started = Instant::now();
        let answer = tokio::task::spawn_blocking(move || work(&node)).await;
        note(session, command, started.elapsed());
        match answer {
            Ok(answer) => answer(&mut output.writer()),
            Err(error) => output.writer().wire_error(&WireError::err(error.to_string())),
        }
    }
}

/// A command took so long outside its worker's turn: it is logged if that is long, without the arguments, which are gone.
pub(crate) fn note(session: &Session, command: CommandId, took: Duration) {
    if let Some(spec) = spec_at(command as u64).filter(|_| session.node.slow.is_slow(took)) {
        let client = &session.client;
        let words = ArgBuf::new(spec.full_name.split('|'));
        session.node.slow.command(spec, &words.args(), took, &client.addr, &client.words.lock().name);
    }
}

impl fmt::Debug for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Aside({})", name_of(self.command))
    }
}
