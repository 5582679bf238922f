//! Reads where clients can write the segments: what a reply says is a copy that was checked.
//!
//! Invariants:
//! - A reply's bytes have the checksum that was published. An object that lost its own is removed, and is a miss.
//! - A large object is copied in pieces, between which other connections have their turn.

use super::fetch::{Part, wait};
use super::job::PIECE_LEN_MAX;
use crate::dispatch::{Ctx, Flow};
use crate::error::refused;
use protocol::base::{Crc, copy_from};
use protocol::resp::WireError;
use storage::{Found, ReadGuard};

/// The bytes, if they are those that were published.
pub(crate) async fn copy(value: ReadGuard) -> Option<Vec<u8>> {
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

/// `GET key`
pub(crate) fn get(ctx: &mut Ctx<'_>, key: &[u8]) -> Result<Flow, WireError> {
    match ctx.node.store.read_checked(ctx.now, key, None).map_err(refused)? {
        None => ctx.reply().null(),
        Some(Found::Small(bytes)) => ctx.reply().bulk(&bytes),
        found => return Ok(wait(ctx, vec![found], Part::Whole)),
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
    wait(ctx, items, Part::Item)
}

/// `GETRANGE key start end`
pub(crate) fn getrange(ctx: &mut Ctx<'_>, key: &[u8], start: i64, end: i64) -> Result<Flow, WireError> {
    let found = ctx.node.store.read_checked(ctx.now, key, None).map_err(refused)?;
    Ok(wait(ctx, vec![found], Part::Range(start, end)))
}

/// The old value that `SET … GET` answers.
pub(crate) fn previous(ctx: &mut Ctx<'_>, found: Found) -> Flow {
    wait(ctx, vec![Some(found)], Part::Whole)
}
