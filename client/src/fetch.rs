//! Whole objects, read and checked in one call.

use crate::call::Repeat;
use crate::inband;
use crate::lease::{Leased, fetch_span, read_leased, via};
use crate::link::Deadline;
use crate::session::{Bulk, Session};
use crate::verified::{Proof, Verified};
use crate::{Client, ClientError, clock, rdma};
use protocol::base::Millis;
use protocol::command as wire;

/// Leases taken for one fetch before an end that comes too early is the caller's.
const ATTEMPTS_MAX: u32 = 2;

impl Client {
    /// Reads an object into `buffer` and checks it; `None` if there is none.
    ///
    /// One exchange and one copy: the lease is taken, the bytes are copied and checked, and the lease goes back with the
    /// next request.
    ///
    /// # Errors
    /// [`ClientError::BufferTooSmall`]; [`ClientError::Stale`] if two leases in a row ended while the bytes were read;
    /// [`ClientError::Checksum`] if the bytes are not the object's.
    pub fn fetch<'a>(&mut self, key: &[u8], buffer: &'a mut [u8]) -> Result<Option<Verified<'a>>, ClientError> {
        let span = fetch_span(&self.options);
        let proof = self.call(Repeat::Harmless, |session, deadline| {
            if matches!(session.bulk, Bulk::None) {
                return inband::fetch(session.in_band(), key, buffer, deadline);
            }
            if let Bulk::Rdma(_) = session.bulk {
                return rdma::fetch(session, key, buffer, deadline);
            }
            let mut attempts = 0;
            loop {
                attempts += 1;
                match fetch_once(session, key, span, buffer, deadline) {
                    Err(ClientError::Stale(_)) if attempts < ATTEMPTS_MAX => {}
                    outcome => return outcome,
                }
            }
        })?;
        Ok(proof.map(|proof| proof.of(buffer)))
    }
}

fn fetch_once(
    session: &mut Session,
    key: &[u8],
    span: Millis,
    buffer: &mut [u8],
    deadline: Deadline,
) -> Result<Option<Proof>, ClientError> {
    let request = wire::Lease { key, span, via: via(session) };
    let asked = clock::now();
    session.control.request(|out| request.encode(out));
    session.flush(deadline)?;
    let Some(leased) = session.next_or_null(deadline, |walk| Leased::read(walk, asked))? else { return Ok(None) };
    let proof = read_leased(session, (&leased, None), buffer, deadline);
    session.releases.push(leased.id);
    proof.map(Some)
}
