//! Reads where clients can write the segments: what a reply says is a copy that was checked.
//!
//! Invariants:
//! - A reply's bytes have the checksum that was published. An object that lost its own is removed, and is a miss.
//! - A large object is copied in pieces, between which other connections have their turn.

use super::job::{Job, PIECE_LEN_MAX};
use super::string::range;
use crate::conn::BULKY_LEN_MIN;
use crate::conn::output::Output;
use crate::dispatch::{Ctx, Flow};
use crate::error::refused;
use protocol::base::{Crc, copy_from};
use protocol::resp::WireError;
use storage::{Found, ReadGuard};

/// Objects that were found and are to be copied, checked and replied, in order.
#[derive(Debug)]
pub(crate) struct Checking {
    items: Vec<Option<Found>>,
    /// First and last byte wanted, as `GETRANGE` counts them; no such part of nothing is empty rather than null.
    part: Option<(i64, i64)>,
}

impl Checking {
    /// Copies, checks and writes the replies.
    pub(crate) async fn reply(self, output: &mut Output) {
        for item in self.items {
            let bytes = match item {
                None | Some(Found::Flash(_)) => None,
                Some(Found::Small(bytes)) => Some(bytes),
                Some(Found::Large(value)) => copy(value).await,
            };
            match (bytes, self.part) {
                (Some(bytes), None) => output.writer().bulk(&bytes),
                (Some(bytes), Some((start, end))) => output.writer().bulk(&bytes[range(start, end, bytes.len())]),
                (None, Some(_)) => output.writer().bulk(b""),
                (None, None) => output.writer().null(),
            }
        }
    }
}

/// The bytes, if they are those that were published.
async fn copy(value: ReadGuard) -> Option<Vec<u8>> {
    let mut bytes = vec![0; value.len()];
    let mut crc = Crc::default();
    for (index, piece) in bytes.chunks_mut(PIECE_LEN_MAX).enumerate() {
        if index > 0 {
            tokio::task::yield_now().await;
        }
        let from = value.span().part(index * PIECE_LEN_MAX, piece.len()).expect("inside");
        crc = crc.then(copy_from(&from, piece), piece.len() as u64);
    }
    if crc == value.crc() {
        return Some(bytes);
    }
    value.condemn();
    None
}

fn check(ctx: &mut Ctx<'_>, items: Vec<Option<Found>>, part: Option<(i64, i64)>) -> Flow {
    let bulky = |item: &Option<Found>| matches!(item, Some(Found::Large(value)) if value.len() as u64 >= BULKY_LEN_MIN);
    *ctx.bulky = *ctx.bulky || items.iter().any(bulky);
    Flow::Wait(Job::Check(Box::new(Checking { items, part })))
}

/// `GET key`
pub(crate) fn get(ctx: &mut Ctx<'_>, key: &[u8]) -> Result<Flow, WireError> {
    match ctx.node.store.read_checked(ctx.now, key, None).map_err(refused)? {
        None => ctx.reply().null(),
        Some(Found::Small(bytes)) => ctx.reply().bulk(&bytes),
        found => return Ok(check(ctx, vec![found], None)),
    }
    Ok(Flow::Go)
}

/// `MGET key …`, whose array was begun.
pub(crate) fn mget(ctx: &mut Ctx<'_>) -> Flow {
    let read = |index: usize| {
        let key = ctx.args.bytes(index + 1)?;
        ctx.node.store.read_checked(ctx.now, key, u32::try_from(index).ok()).ok().flatten()
    };
    let items = (0..ctx.args.len() - 1).map(read).collect();
    check(ctx, items, None)
}

/// `GETRANGE key start end`
pub(crate) fn getrange(ctx: &mut Ctx<'_>, key: &[u8], start: i64, end: i64) -> Result<Flow, WireError> {
    let found = ctx.node.store.read_checked(ctx.now, key, None).map_err(refused)?;
    Ok(check(ctx, vec![found], Some((start, end))))
}

/// The old value that `SET … GET` answers.
pub(crate) fn previous(ctx: &mut Ctx<'_>, found: Found) -> Flow {
    check(ctx, vec![Some(found)], None)
}
