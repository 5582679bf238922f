//! The client's handle: reconnects when it has to, and gives every call its deadline.

use crate::connect::{Own, connect};
use crate::link::Deadline;
use crate::options::Options;
use crate::rdma::Adapter;
use crate::session::{Session, Transport};
use crate::{ClientError, rdma};
use protocol::resp::ErrorWord;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use transport::shm::ClientBuffer;

/// Pause before a server that answered `LOADING` is asked again: at first, and at most. It doubles in between.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// A connection to one node, for one thread. Lost connections are made again at the next call.
pub struct Client {
    pub(crate) options: Options,
    session: Option<Session>,
    /// Connections made so far.
    sessions: u64,
    /// Own memory that every shared-memory session lends.
    pub(crate) buffer: Option<Arc<ClientBuffer>>,
    /// The RDMA device and what is registered on it, for all sessions.
    pub(crate) adapter: Option<Arc<Adapter>>,
}

/// Whether a call may be made again on a new connection when the old one turns out to be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Twice is as good as once.
    Harmless,
    /// Twice may be wrong, and the caller must decide.
    Never,
}

impl Client {
    /// Connects to the server that `options` name.
    ///
    /// # Errors
    /// [`ClientError::Connect`] if nobody answers there, [`ClientError::NoTransport`] if the wanted transport cannot be
    /// had, [`ClientError::Wire`] if the server does not let us in.
    pub fn connect(options: Options) -> Result<Self, ClientError> {
        let mut client = Self { options, session: None, sessions: 0, buffer: None, adapter: None };
        let deadline = Deadline::after(client.options.deadline);
        client.session(deadline)?;
        Ok(client)
    }

    /// What this client was told.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// How bulk bytes travel; `None` while there is no connection.
    pub fn transport(&self) -> Option<Transport> {
        self.session.as_ref().map(Session::transport)
    }

    /// Whether an object of `len` bytes is better written where it was granted than gathered in own memory first.
    pub(crate) fn writes_in_place(&self, len: usize) -> bool {
        self.session.as_ref().is_some_and(|session| session.writes_in_place(len))
    }

    /// Connections made so far: it rises with each reconnect.
    pub fn connections(&self) -> u64 {
        self.sessions
    }

    pub(crate) fn session(&mut self, deadline: Deadline) -> Result<&mut Session, ClientError> {
        if self.session.is_none() {
            self.sessions += 1;
            let own = Own { buffer: &mut self.buffer, adapter: &mut self.adapter };
            self.session = Some(connect(&self.options, self.sessions, own, deadline)?);
        }
        Ok(self.session.as_mut().expect("just made"))
    }

    /// Own memory, once there is a session that could use it.
    pub(crate) fn own_buffer(&mut self) -> Result<Option<Arc<ClientBuffer>>, ClientError> {
        self.session(Deadline::after(self.options.deadline))?;
        Ok(self.buffer.clone())
    }

    /// Runs `act` on the connection, which is made first if there is none, and given up if `act` leaves it out of step.
    ///
    /// A server that answers `LOADING` has done nothing yet: it is asked again until the deadline, whatever `repeat` says.
    pub(crate) fn call<T>(
        &mut self,
        repeat: Repeat,
        mut act: impl FnMut(&mut Session, Deadline) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let deadline = Deadline::after(self.options.deadline);
        let mut may_repeat = repeat == Repeat::Harmless && self.session.is_some();
        let mut pause = PAUSE_MIN;
        loop {
            let session = self.session(deadline)?;
            let outcome = act(session, deadline);
            match rdma::answered(session, outcome) {
                Err(error) if error.breaks_connection() => {
                    self.session = None;
                    let broke = matches!(error, ClientError::Disconnected { .. });
                    if !std::mem::take(&mut may_repeat) || !broke {
                        return Err(error);
                    }
                }
                Err(error) if error.word() == Some(ErrorWord::Loading) && Instant::now() + pause < deadline.at => {
                    std::thread::sleep(pause);
                    pause = PAUSE_MAX.min(pause * 2);
                }
                outcome => return outcome,
            }
        }
    }

    /// Releases the leases that fetches are done with, now rather than with the next call.
    ///
    /// # Errors
    /// As the connection fails.
    pub fn settle(&mut self) -> Result<(), ClientError> {
        if self.session.as_ref().is_none_or(|session| session.releases.is_empty()) {
            return Ok(());
        }
        self.call(Repeat::Harmless, |session, deadline| session.flush(deadline))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("address", &self.options.address)
            .field("transport", &self.transport())
            .finish_non_exhaustive()
    }
}
