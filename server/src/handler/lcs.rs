//! `LCS`: the longest common subsequence of two values.

use super::rework::old_of;
use crate::conn::output::Output;
use crate::dispatch::{Ctx, Flow};
use crate::error::refused;
use crate::handler::job::Job;
use crate::session::Session;
use protocol::command::Lcs;
use protocol::resp::{WireError, Writer};
use storage::Found;

/// Cells of the table: what two values of 8 KiB need.
const CELLS_MAX: usize = 64 << 20;
/// Cells within which a worker does it itself.
const CELLS_AT_ONCE_MAX: usize = 64 << 10;

/// Two values that are to be compared.
#[derive(Debug)]
pub(crate) struct Comparing {
    found: [Option<Found>; 2],
    how: How,
}

/// What of it is answered.
#[derive(Clone, Copy, Debug)]
struct How {
    len: bool,
    idx: bool,
    min_match_len: usize,
    with_match_len: bool,
}

/// A run of bytes that both have, by its first and last positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Match {
    a: (usize, usize),
    b: (usize, usize),
}

#[derive(Debug, PartialEq, Eq)]
struct Common {
    bytes: Vec<u8>,
    /// Last first, as Redis answers them.
    matches: Vec<Match>,
}

fn common(a: &[u8], b: &[u8]) -> Common {
    let width = b.len() + 1;
    let mut table = vec![0u32; (a.len() + 1) * width];
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            table[i * width + j] = if a[i - 1] == b[j - 1] {
                table[(i - 1) * width + j - 1] + 1
            } else {
                table[(i - 1) * width + j].max(table[i * width + j - 1])
            };
        }
    }
    let (mut i, mut j) = (a.len(), b.len());
    let (mut bytes, mut matches) = (Vec::new(), Vec::new());
    let mut open: Option<Match> = None;
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            bytes.push(a[i - 1]);
            let here = Match { a: (i - 1, i - 1), b: (j - 1, j - 1) };
            open = Some(match open {
                Some(run) if run.a.0 == i && run.b.0 == j => Match { a: (i - 1, run.a.1), b: (j - 1, run.b.1) },
                run => {
                    matches.extend(run);
                    here
                }
            });
            (i, j) = (i - 1, j - 1);
        } else if table[(i - 1) * width + j] > table[i * width + j - 1] {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    matches.extend(open);
    bytes.reverse();
    Common { bytes, matches }
}

fn write(common: &Common, how: How, out: &mut Writer<'_>) {
    if how.len {
        return out.count(common.bytes.len() as u64);
    }
    if !how.idx {
        return out.bulk(&common.bytes);
    }
    let len = |it: &Match| it.a.1 - it.a.0 + 1;
    let told: Vec<&Match> = common.matches.iter().filter(|it| len(it) >= how.min_match_len).collect();
    out.map(2);
    out.field("matches").array(told.len());
    for it in told {
        out.array(if how.with_match_len { 3 } else { 2 });
        for (first, last) in [it.a, it.b] {
            out.array(2);
            out.count(first as u64);
            out.count(last as u64);
        }
        if how.with_match_len {
            out.count(len(it) as u64);
        }
    }
    out.field("len").count(common.bytes.len() as u64);
}

impl Comparing {
    /// Reads both, compares them on a thread of its own if that takes long, and writes the reply.
    pub(crate) async fn reply(self, session: &Session, output: &mut Output) {
        let mut values = Vec::with_capacity(2);
        for found in self.found {
            let old = match found {
                None => Ok(None),
                Some(found) => old_of(session, found).await.map(|old| old.bytes().map(<[u8]>::to_vec)),
            };
            match old {
                Ok(bytes) => values.push(bytes.unwrap_or_default()),
                Err(error) => return output.writer().wire_error(&error),
            }
        }
        let (b, a) = (values.pop().unwrap_or_default(), values.pop().unwrap_or_default());
        let cells = (a.len() + 1).saturating_mul(b.len() + 1);
        let found = if cells <= CELLS_AT_ONCE_MAX {
            Ok(common(&a, &b))
        } else {
            tokio::task::spawn_blocking(move || common(&a, &b)).await
        };
        match found {
            Ok(found) => write(&found, self.how, &mut output.writer()),
            Err(error) => output.writer().wire_error(&WireError::err(error.to_string())),
        }
    }
}

/// `LCS key1 key2 [LEN] [IDX] [MINMATCHLEN n] [WITHMATCHLEN]`
pub(crate) fn lcs(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let request = Lcs::parse(&ctx.args)?;
    let how = How {
        len: request.len,
        idx: request.idx,
        min_match_len: usize::try_from(request.min_match_len).unwrap_or(usize::MAX),
        with_match_len: request.with_match_len,
    };
    let checked = ctx.node.arena.is_some();
    let look = |key| ctx.node.store.peek(ctx.now, key, checked).map_err(refused);
    let [a, b] = request.keys.map(look);
    let found = [a?, b?];
    let len = |found: &Option<Found>| match found {
        None => 0,
        Some(Found::Small(bytes)) => bytes.len(),
        Some(Found::Large(guard)) => guard.len(),
        Some(Found::Flash(read)) => usize::try_from(read.length).unwrap_or(usize::MAX),
    };
    let cells = (len(&found[0]).saturating_add(1)).saturating_mul(len(&found[1]).saturating_add(1));
    if cells > CELLS_MAX {
        return Err(WireError::err(
            "Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len".to_owned(),
        ));
    }
    if let [None | Some(Found::Small(_)), None | Some(Found::Small(_))] = &found
        && cells <= CELLS_AT_ONCE_MAX
    {
        let [a, b] = found.map(|found| match found {
            Some(Found::Small(bytes)) => bytes,
            _ => Vec::new(),
        });
        write(&common(&a, &b), how, &mut ctx.reply());
        return Ok(Flow::Go);
    }
    Ok(Flow::Wait(Job::Lcs(Box::new(Comparing { found, how }))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_texts_have_in_common_is_found_with_its_places() {
        let found = common(b"ohmytext", b"mynewtext");
        assert_eq!(found.bytes, b"mytext");
        let runs = [Match { a: (4, 7), b: (5, 8) }, Match { a: (2, 3), b: (0, 1) }];
        assert_eq!(found.matches, runs);
        assert_eq!(common(b"", b"abc"), Common { bytes: Vec::new(), matches: Vec::new() });
        assert_eq!(common(b"abc", b"abc").matches, [Match { a: (0, 2), b: (0, 2) }]);
    }
}
