//! Many objects in one call: a batch is one exchange a step, however many items it has.
//!
//! Invariants:
//! - One item's refusal is that item's. An error of the whole call means that the connection broke; then each item may or
//!   may not have happened.
//! - The order of the items tells a chain, as `MPUT` and `MLEASE` have it: each continues the one before.

use crate::call::Repeat;
use crate::inband;
use crate::lease::{Leased, ended, fetch_span, read_leased, room, via};
use crate::link::{Deadline, walk_check};
use crate::put::{Committed, Granted, PutOptions, shm_put};
use crate::scan::{Unexpected, Walk};
use crate::session::{Bulk, Session};
use crate::verified::{Proof, Verified};
use crate::{Client, ClientError, clock, rdma};
use protocol::base::{ByteLen, Crc, GrantId, Millis};
use protocol::command as wire;
use protocol::command::MCommitItem;
use std::collections::VecDeque;
use transport::shm::{BufferRegion, ClientBuffer};
use transport::tcp::{ReadPiece, WritePiece};

/// Items of one request. The server allows more; so many make an exchange not worth counting.
const ITEMS_MAX: usize = 256;

/// Bytes copied into own memory before the server is told of them, so that both sides copy at once.
const WAVE_LEN: usize = 512 << 10;

/// Bytes of in-band requests that are sent before their replies are read.
const IN_BAND_LEN_MAX: usize = 32 << 10;

/// In-band writes whose replies, some hundred bytes each, surely fit the socket.
const IN_BAND_PUTS_MAX: usize = 128;

/// What became of each item.
pub(crate) type Outcomes<T> = Vec<Result<T, ClientError>>;

impl Client {
    /// Writes and publishes objects.
    ///
    /// # Errors
    /// As the connection fails. What became of each item is in its own result.
    pub fn put_batch(
        &mut self,
        items: &[(&[u8], &[u8])],
        options: &PutOptions<'_>,
    ) -> Result<Outcomes<Committed>, ClientError> {
        let buffer = self.own_buffer()?;
        self.call(options.repeat(), |session, deadline| match (&session.bulk, &buffer) {
            (Bulk::Shm { .. }, Some(buffer)) => put_shm(session, buffer, items, options, deadline),
            (Bulk::Tcp(_), _) => {
                let mut outcomes = Vec::with_capacity(items.len());
                for (at, chunk) in items.chunks(ITEMS_MAX).enumerate() {
                    let options = PutOptions { parent: parent(items, at * ITEMS_MAX, options), ..*options };
                    outcomes.append(&mut put_tcp(session, chunk, &options, deadline)?);
                }
                Ok(outcomes)
            }
            (Bulk::Rdma(_), _) => rdma::put_batch(session, items, options, deadline),
            (Bulk::Shm { .. } | Bulk::None, _) => put_in_band(session, items, options, deadline),
        })
    }

    /// Reads objects, each into the buffer in its place, and checks them; `None` where there is none.
    ///
    /// # Errors
    /// As the connection fails. What became of each item is in its own result.
    ///
    /// # Panics
    /// If there are not as many buffers as keys.
    pub fn fetch_batch<'a>(
        &mut self,
        keys: &[&[u8]],
        mut buffers: Vec<&'a mut [u8]>,
    ) -> Result<Outcomes<Option<Verified<'a>>>, ClientError> {
        assert_eq!(keys.len(), buffers.len(), "each key has its buffer");
        let span = fetch_span(&self.options);
        let proofs = self.call(Repeat::Harmless, |session, deadline| {
            if let Bulk::Rdma(_) = session.bulk {
                return rdma::fetch_batch(session, keys, &mut buffers, span, deadline);
            }
            let mut proofs = Vec::with_capacity(keys.len());
            for (keys, buffers) in keys.chunks(ITEMS_MAX).zip(buffers.chunks_mut(ITEMS_MAX)) {
                proofs.append(&mut match session.bulk {
                    Bulk::None => fetch_in_band(session, keys, buffers, deadline)?,
                    Bulk::Shm { .. } | Bulk::Rdma(_) | Bulk::Tcp(_) => {
                        fetch_leased(session, keys, buffers, span, deadline)?
                    }
                });
            }
            Ok(proofs)
        })?;
        let hand_out = |(proof, buffer): (Result<Option<Proof>, ClientError>, &'a mut [u8])| {
            proof.map(|proof| proof.map(|proof| proof.of(buffer)))
        };
        Ok(proofs.into_iter().zip(buffers).map(hand_out).collect())
    }
}

/// An item's own failure stays with it; one that broke the connection ends the call.
pub(crate) fn own<T>(outcome: Result<T, ClientError>) -> Result<Result<T, ClientError>, ClientError> {
    match outcome {
        Err(error) if error.breaks_connection() => Err(error),
        outcome => Ok(outcome),
    }
}

/// What item `at` continues.
pub(crate) fn parent<'a>(items: &[(&'a [u8], &[u8])], at: usize, options: &PutOptions<'a>) -> Option<&'a [u8]> {
    at.checked_sub(1).map_or(options.parent, |before| Some(items[before].0))
}

/// One pipelined `PUT … FROM` an item. What is copied while the server copies the item before costs no time.
fn put_shm(
    session: &mut Session,
    buffer: &ClientBuffer,
    items: &[(&[u8], &[u8])],
    options: &PutOptions<'_>,
    deadline: Deadline,
) -> Result<Outcomes<Committed>, ClientError> {
    session.await_loaded(deadline)?;
    let mut outcomes = Vec::with_capacity(items.len());
    // Regions that the server has yet to copy.
    let mut lent: VecDeque<BufferRegion> = VecDeque::new();
    let mut unsent = 0;
    for (at, &(key, bytes)) in items.iter().enumerate() {
        let options = PutOptions { parent: parent(items, at, options), ..*options };
        let mut region = buffer.take(bytes.len());
        while region.is_none() || lent.len() >= ITEMS_MAX {
            if lent.is_empty() {
                break;
            }
            if std::mem::take(&mut unsent) > 0 {
                session.flush(deadline)?;
            }
            outcomes.push(own(session.next(deadline, Committed::read))?);
            lent.pop_front();
            region = region.or_else(|| buffer.take(bytes.len()));
        }
        let Some(mut region) = region else {
            // Longer than all of the client's own memory. Nothing is outstanding here, so the order is kept.
            outcomes.push(own(inband::put(session.in_band(), key, bytes, &options, deadline))?);
            continue;
        };
        let crc = region.fill(bytes);
        let put = shm_put(key, &region, bytes.len(), crc, &options);
        session.control.request(|out| put.encode(out));
        lent.push_back(region);
        unsent += bytes.len().max(1);
        if unsent >= WAVE_LEN {
            unsent = 0;
            session.flush(deadline)?;
        }
    }
    session.flush(deadline)?;
    for _ in lent {
        outcomes.push(own(session.next(deadline, Committed::read))?);
    }
    Ok(outcomes)
}

/// `MPUT`, all payloads on the bulk connections, `MCOMMIT`.
fn put_tcp(
    session: &mut Session,
    items: &[(&[u8], &[u8])],
    options: &PutOptions<'_>,
    deadline: Deadline,
) -> Result<Outcomes<Committed>, ClientError> {
    let asked = clock::now();
    let request = wire::MPut {
        items: items.iter().map(|(key, bytes)| (*key, ByteLen(bytes.len() as u64))).collect(),
        options: options.wire(via(session)),
    };
    session.control.request(|out| request.encode(out));
    session.flush(deadline)?;
    let granted = items_of(session, items.len(), deadline, |walk| Granted::read(walk, asked))?;

    let crcs: Vec<Crc> = items.iter().map(|(_, bytes)| Crc::of(bytes)).collect();
    let at: Vec<usize> = (0..items.len()).filter(|&at| granted[at].is_ok()).collect();
    let grant = |at: usize| granted[at].as_ref().map_or(GrantId(0), |granted| granted.id);
    let pieces: Vec<WritePiece<'_>> = at
        .iter()
        .map(|&at| WritePiece { grant: grant(at), offset: 0, bytes: items[at].1, crc: Some(crcs[at]) })
        .collect();
    let Bulk::Tcp(pool) = &mut session.bulk else { return Err(ClientError::Unsupported("bulk TCP")) };
    let written = pool
        .write_batch(&pieces, deadline.at)
        .map_err(|error| ClientError::bulk(session.control.address(), deadline.span, error))?;

    let mut commits = wire::MCommit { items: Vec::with_capacity(at.len()) };
    let mut refused = Vec::new();
    for (&at, written) in at.iter().zip(&written) {
        match written {
            Ok(_) => commits.items.push(MCommitItem { grant: grant(at), crc: crcs[at], pull: None }),
            Err(status) => {
                session.control.request_unheard(|out| wire::Abort { grant: grant(at) }.encode(out));
                refused.push((at, ClientError::wire(format!("{status} on the bulk connection").as_bytes())));
            }
        }
    }
    let mut committed = if commits.items.is_empty() {
        Vec::new()
    } else {
        session.control.request(|out| commits.encode(out));
        session.flush(deadline)?;
        items_of(session, commits.items.len(), deadline, Committed::read)?
    }
    .into_iter();
    let mut refused = refused.into_iter().peekable();
    let outcome = |(at, granted): (usize, Result<Granted, ClientError>)| {
        granted?;
        if let Some((_, error)) = refused.next_if(|(refused, _)| *refused == at) {
            return Err(error);
        }
        committed.next().expect("one answer for each commit")
    };
    Ok(granted.into_iter().enumerate().map(outcome).collect())
}

/// The items of a batch's reply.
pub(crate) fn items_of<T>(
    session: &mut Session,
    count: usize,
    deadline: Deadline,
    read: impl Fn(&mut Walk<'_>) -> Result<T, Unexpected>,
) -> Result<Outcomes<T>, ClientError> {
    session.next(deadline, |walk| {
        if walk.array()? != count {
            return Err(Unexpected("an answer for each item"));
        }
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(match walk_check(*walk) {
                Ok(()) => Ok(read(walk)?),
                Err(error) => {
                    walk.skip()?;
                    Err(error)
                }
            });
        }
        Ok(items)
    })
}

/// `MLEASE`, then a copy each; the leases go back with the next request.
fn fetch_leased(
    session: &mut Session,
    keys: &[&[u8]],
    buffers: &mut [&mut [u8]],
    span: Millis,
    deadline: Deadline,
) -> Result<Outcomes<Option<Proof>>, ClientError> {
    let asked = clock::now();
    let request = wire::MLease { span, keys: keys.to_vec(), via: via(session) };
    session.control.request(|out| request.encode(out));
    session.flush(deadline)?;
    let leased = items_of(session, keys.len(), deadline, |walk| {
        if walk.is_null() {
            return walk.skip().map(|()| None);
        }
        Leased::read(walk, asked).map(Some)
    })?;
    session.releases.extend(leased.iter().flatten().flatten().map(|leased| leased.id));
    if let Bulk::Tcp(_) = session.bulk {
        return read_tcp(session, leased, buffers, deadline);
    }
    let read = |(leased, buffer): (Result<Option<Leased>, ClientError>, &mut &mut [u8])| match leased {
        Ok(Some(leased)) => own(read_leased(session, (&leased, None), buffer, deadline).map(Some)),
        Ok(None) => Ok(Ok(None)),
        Err(error) => Ok(Err(error)),
    };
    leased.into_iter().zip(buffers.iter_mut()).map(read).collect()
}

/// All leased bytes in one batch over the bulk connections.
fn read_tcp(
    session: &mut Session,
    leased: Outcomes<Option<Leased>>,
    buffers: &mut [&mut [u8]],
    deadline: Deadline,
) -> Result<Outcomes<Option<Proof>>, ClientError> {
    let mut pieces = Vec::with_capacity(leased.len());
    // Which item each piece is of.
    let mut at = Vec::with_capacity(leased.len());
    let mut outcomes: Outcomes<Option<Proof>> = Vec::with_capacity(leased.len());
    let mut promises = Vec::with_capacity(leased.len());
    for (index, (leased, buffer)) in leased.into_iter().zip(buffers.iter_mut()).enumerate() {
        let outcome = match leased {
            Ok(Some(leased)) => room(leased.promise.length, buffer).map(|bytes| {
                pieces.push(ReadPiece { lease: leased.id, offset: 0, bytes });
                promises.push(leased.promise);
                at.push(index);
                None
            }),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        outcomes.push(outcome);
    }
    let Bulk::Tcp(pool) = &mut session.bulk else { return Err(ClientError::Unsupported("bulk TCP")) };
    let answers = pool
        .read_batch(&mut pieces, deadline.at)
        .map_err(|error| ClientError::bulk(session.control.address(), deadline.span, error))?;
    for (((at, promise), piece), answer) in at.into_iter().zip(promises).zip(&pieces).zip(answers) {
        outcomes[at] = match answer {
            Ok(answer) => promise.prove(Crc::of(piece.bytes), answer.generation).map(Some),
            Err(status) => Err(ended(ClientError::wire(format!("{status} on the bulk connection").as_bytes()))),
        };
    }
    Ok(outcomes)
}

/// `SET` and `STAT` for each, small ones many in one write.
fn put_in_band(
    session: &mut Session,
    items: &[(&[u8], &[u8])],
    options: &PutOptions<'_>,
    deadline: Deadline,
) -> Result<Outcomes<Committed>, ClientError> {
    session.await_loaded(deadline)?;
    let link = session.in_band();
    let mut outcomes = Vec::with_capacity(items.len());
    for chunk in items.chunks(IN_BAND_PUTS_MAX) {
        for (key, bytes) in chunk {
            inband::request_put(link, key, bytes, options, deadline)?;
            if link.out_len() >= IN_BAND_LEN_MAX {
                link.flush(deadline)?;
            }
        }
        link.flush(deadline)?;
        let first = outcomes.len();
        for _ in chunk {
            outcomes.push(own(inband::put_answered(link, deadline))?);
        }
        for ((key, _), outcome) in chunk.iter().zip(&outcomes[first..]) {
            if outcome.is_ok() {
                inband::pin_if_asked(link, key, options, deadline)?;
            }
        }
    }
    Ok(outcomes)
}

/// `STAT` and `GET` for each, as many in one write as surely fit the socket.
fn fetch_in_band(
    session: &mut Session,
    keys: &[&[u8]],
    buffers: &mut [&mut [u8]],
    deadline: Deadline,
) -> Result<Outcomes<Option<Proof>>, ClientError> {
    session.await_loaded(deadline)?;
    let link = session.in_band();
    let mut outcomes = Vec::with_capacity(keys.len());
    while outcomes.len() < keys.len() {
        let mut asked = outcomes.len();
        while asked < keys.len() && link.out_len() < IN_BAND_LEN_MAX {
            inband::request_fetch(link, keys[asked]);
            asked += 1;
        }
        link.flush(deadline)?;
        for buffer in &mut buffers[outcomes.len()..asked] {
            outcomes.push(own(inband::fetched(link, buffer, deadline))?);
        }
    }
    Ok(outcomes)
}
