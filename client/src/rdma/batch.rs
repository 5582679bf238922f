//! Many objects at once: as many as fit registered memory are under way together.
//!
//! Invariants:
//! - One item's refusal is that item's; what is too long for registered memory goes in-band, after the others.

use super::{Own, Pushed, answered, arrived, link, proven, remote_memory, transfer};
use crate::ClientError;
use crate::batch::{Outcomes, items_of, own, parent};
use crate::clock;
use crate::inband;
use crate::lease::Leased;
use crate::link::Deadline;
use crate::put::{Committed, Granted, PutOptions};
use crate::rdma::adapter::PUSHES_MAX;
use crate::session::Session;
use crate::verified::Proof;
use protocol::base::{ByteLen, Crc, Millis, Via, copy_into};
use protocol::command as wire;
use protocol::command::{MCommitItem, ViaChoice};
use transport::rdma::{Direction, Transfer};

/// Regions begin at pages, so that bytes lie in them as in the server's slots.
const ALIGN: usize = 4096;

/// How many of the first of these lengths fit into `len` bytes, at most `most`; and where each begins.
fn wave(lens: impl Iterator<Item = usize>, len: usize, most: usize) -> Vec<usize> {
    let mut offsets = Vec::new();
    let mut at = 0usize;
    for one in lens.take(most) {
        if one > len - at {
            break;
        }
        offsets.push(at);
        at = (at + one.next_multiple_of(ALIGN)).min(len);
    }
    offsets
}

/// `MPUT`, `MCOMMIT … PULL`: the server reads what one wave holds while it checks what came before.
pub(crate) fn put_batch(
    session: &mut Session,
    items: &[(&[u8], &[u8])],
    options: &PutOptions<'_>,
    deadline: Deadline,
) -> Result<Outcomes<Committed>, ClientError> {
    session.await_loaded(deadline)?;
    let mut outcomes = Vec::with_capacity(items.len());
    while outcomes.len() < items.len() {
        let first = outcomes.len();
        let left = &items[first..];
        let options = PutOptions { parent: parent(items, first, options), ..*options };
        let adapter = std::sync::Arc::clone(&link(session)?.adapter);
        let offsets = wave(left.iter().map(|(_, bytes)| bytes.len()), adapter.len(), PUSHES_MAX as usize);
        if offsets.is_empty() {
            let (key, bytes) = left[0];
            outcomes.push(own(inband::put(session.in_band(), key, bytes, &options, deadline))?);
            continue;
        }
        let left = &left[..offsets.len()];
        let places: Vec<(Own, Crc)> = offsets
            .iter()
            .zip(left)
            .map(|(&offset, (_, bytes))| {
                let span = adapter.out.span.part(offset, bytes.len()).expect("the wave fits");
                (adapter.out.transfer(offset, bytes.len()), copy_into(bytes, &span))
            })
            .collect();
        outcomes.append(&mut put_wave(session, left, &places, &options, deadline)?);
    }
    Ok(outcomes)
}

fn put_wave(
    session: &mut Session,
    items: &[(&[u8], &[u8])],
    places: &[(Own, Crc)],
    options: &PutOptions<'_>,
    deadline: Deadline,
) -> Result<Outcomes<Committed>, ClientError> {
    let asked = clock::now();
    let request = wire::MPut {
        items: items.iter().map(|(key, bytes)| (*key, ByteLen(bytes.len() as u64))).collect(),
        options: options.wire(ViaChoice::Only(Via::Rdma)),
    };
    session.control.request(|out| request.encode(out));
    session.flush(deadline)?;
    let granted = items_of(session, items.len(), deadline, |walk| Granted::read(walk, asked))?;
    let pulled = granted.iter().zip(places).filter_map(|(granted, (place, crc))| {
        let granted = granted.as_ref().ok()?;
        Some(MCommitItem { grant: granted.id, crc: *crc, pull: Some(remote_memory(place.remote)) })
    });
    let commits = wire::MCommit { items: pulled.collect() };
    let mut committed = if commits.items.is_empty() {
        Vec::new()
    } else {
        session.control.request(|out| commits.encode(out));
        session.flush(deadline)?;
        items_of(session, commits.items.len(), deadline, Committed::read)?
    }
    .into_iter();
    let outcome = |granted: Result<Granted, ClientError>| {
        granted?;
        committed.next().expect("one answer for each commit")
    };
    granted.into_iter().map(outcome).map(|outcome| own(answered(session, outcome))).collect()
}

/// `MLEASE` and reads of all of it, where windows are lent; else `GET … INTO` for each, many on their way at once.
pub(crate) fn fetch_batch(
    session: &mut Session,
    keys: &[&[u8]],
    buffers: &mut [&mut [u8]],
    span: Millis,
    deadline: Deadline,
) -> Result<Outcomes<Option<Proof>>, ClientError> {
    session.await_loaded(deadline)?;
    let mut outcomes = Vec::with_capacity(keys.len());
    while outcomes.len() < keys.len() {
        let first = outcomes.len();
        let adapter = std::sync::Arc::clone(&link(session)?.adapter);
        let lens = buffers[first..].iter().map(|buffer| buffer.len());
        let offsets = wave(lens, adapter.len(), PUSHES_MAX as usize);
        if offsets.is_empty() {
            outcomes.push(own(super::fetch(session, keys[first], buffers[first], deadline))?);
            continue;
        }
        let keys = &keys[first..first + offsets.len()];
        let buffers = &mut buffers[first..first + offsets.len()];
        let places = offsets.iter().zip(buffers.iter());
        let places: Vec<Own> = places.map(|(&offset, buffer)| adapter.landing.transfer(offset, buffer.len())).collect();
        outcomes.append(&mut if link(session)?.windows {
            read_wave(session, keys, &places, buffers, span, deadline)?
        } else {
            push_wave(session, keys, &places, buffers, deadline)?
        });
    }
    Ok(outcomes)
}

fn push_wave(
    session: &mut Session,
    keys: &[&[u8]],
    places: &[Own],
    buffers: &mut [&mut [u8]],
    deadline: Deadline,
) -> Result<Outcomes<Option<Proof>>, ClientError> {
    for (key, place) in keys.iter().zip(places) {
        let request = wire::GetInto { key, to: remote_memory(place.remote), room: place.length as u64 };
        session.control.request(|out| request.encode(out));
    }
    session.flush(deadline)?;
    let mut outcomes = Vec::with_capacity(keys.len());
    let mut in_band = Vec::new();
    for (at, (place, buffer)) in places.iter().zip(buffers.iter_mut()).enumerate() {
        let answer = session.next_or_null(deadline, Pushed::read);
        outcomes.push(match answered(session, answer) {
            Ok(None) => Ok(None),
            Ok(Some(pushed)) => {
                arrived(session, &pushed, place, deadline)?;
                proven(&pushed.promise(), pushed.generation, &place.span(), buffer).map(Some)
            }
            Err(error) if error.word() == Some(protocol::resp::ErrorWord::TooBig) => {
                in_band.push(at);
                Ok(None)
            }
            Err(error) => own(Err(error))?,
        });
    }
    // Their own way says how long they are.
    for at in in_band {
        outcomes[at] = own(inband::fetch(session.in_band(), keys[at], buffers[at], deadline))?;
    }
    Ok(outcomes)
}

fn read_wave(
    session: &mut Session,
    keys: &[&[u8]],
    places: &[Own],
    buffers: &mut [&mut [u8]],
    span: Millis,
    deadline: Deadline,
) -> Result<Outcomes<Option<Proof>>, ClientError> {
    let asked = clock::now();
    let request = wire::MLease { span, keys: keys.to_vec(), via: ViaChoice::Only(Via::Rdma) };
    session.control.request(|out| request.encode(out));
    session.flush(deadline)?;
    let leased = items_of(session, keys.len(), deadline, |walk| {
        if walk.is_null() {
            return walk.skip().map(|()| None);
        }
        Leased::read(walk, asked).map(Some)
    })?;
    session.releases.extend(leased.iter().flatten().flatten().map(|leased| leased.id));
    let mut reads: Vec<Transfer> = Vec::new();
    let now = clock::now();
    for (leased, place) in leased.iter().zip(places) {
        if let Ok(Some(leased)) = leased
            && let Some(remote) = leased.remote().filter(|_| now < leased.promise.until)
            && let Some(length) = usize::try_from(leased.promise.length).ok().filter(|&len| len <= place.length)
        {
            reads.push(Own { length, ..place.clone() }.with(remote));
        }
    }
    transfer(session, Direction::Read, &reads, deadline)?;
    let mut outcomes = Vec::with_capacity(keys.len());
    for ((leased, place), buffer) in leased.into_iter().zip(places).zip(buffers.iter_mut()) {
        outcomes.push(match own(answered(session, leased))? {
            Ok(None) => Ok(None),
            Ok(Some(leased)) if now >= leased.promise.until => {
                Err(ClientError::Stale("it ended before the bytes were read"))
            }
            Ok(Some(leased)) => proven(&leased.promise, leased.promise.generation, &place.span(), buffer).map(Some),
            Err(error) => Err(error),
        });
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wave_is_what_fits_in_whole_pages() {
        let check = |lens: &[usize], len, most, expected: &[usize]| {
            assert_eq!(wave(lens.iter().copied(), len, most), expected, "{lens:?} into {len}");
        };
        check(&[1, 4096, 4097, 10], 20_000, 9, &[0, 4096, 8192, 16_384]);
        check(&[1, 4096, 4097, 10], 20_000, 2, &[0, 4096]);
        check(&[8192, 1], 8192, 9, &[0]);
        check(&[8192, 0], 8192, 9, &[0, 8192]);
        check(&[8193], 8192, 9, &[]);
        check(&[], 8192, 9, &[]);
    }
}
