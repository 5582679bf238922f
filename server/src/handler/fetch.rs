//! Reads of objects of which some lie on flash alone: they are fetched together, then answered in order.
//!
//! Invariants:
//! - What a read found first is what it answers, whatever becomes of the key while flash is read.
//! - No fetch outlasts the time that one may take, nor the connection it is for.

use super::string::range;
use super::{checked, untouched};
use crate::config::PromoteOn;
use crate::conn::BULKY_LEN_MIN;
use crate::conn::output::Output;
use crate::dispatch::{Ctx, Flow};
use crate::error::flash;
use crate::handler::job::Job;
use crate::latency::Level;
use crate::node::Node;
use crate::session::Session;
use protocol::resp::WireError;
use std::collections::VecDeque;
use std::sync::Arc;
use storage::flash::tier::{Fetched, FlashError};
use storage::{Account, FlashRead, Found};
use tokio::task::JoinSet;

/// Objects that were found and are to be replied, in order.
#[derive(Debug)]
pub(crate) struct Fetching {
    items: VecDeque<Option<Found>>,
    /// What is wanted of each.
    part: Part,
    /// Whether the reader leaves no trace: then nothing is brought into DRAM for it.
    untouched: bool,
}

/// How an object, or none, is replied.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// All of it, or an error why not.
    Whole,
    /// All of it, as an item of an array that has no place for errors.
    Item,
    /// From this byte to that, as `GETRANGE` counts; no such part of nothing is empty rather than null.
    Range(i64, i64),
}

/// Leaves the replies to a job.
pub(crate) fn wait(ctx: &mut Ctx<'_>, items: Vec<Option<Found>>, part: Part) -> Flow {
    let bulky = |item: &Option<Found>| match item {
        None | Some(Found::Small(_)) => false,
        Some(Found::Large(value)) => value.len() as u64 >= BULKY_LEN_MIN,
        Some(Found::Flash(read)) => read.length >= BULKY_LEN_MIN,
    };
    *ctx.bulky = *ctx.bulky || items.iter().any(bulky);
    let untouched = untouched::is_wanted(ctx);
    Flow::Wait(Job::Fetch(Box::new(Fetching { items: items.into(), part, untouched })))
}

impl Fetching {
    pub(crate) fn level(&self) -> Level {
        let on_flash = self.items.iter().any(|item| matches!(item, Some(Found::Flash(_))));
        if on_flash { Level::Flash } else { Level::Dram }
    }

    /// Reads what lies on flash and writes the replies, of as many as one client may hold memory for. Returns the rest, to
    /// go on with when these were sent.
    pub(crate) async fn reply(mut self, session: &Session, output: &mut Output) -> Option<Self> {
        let (node, part) = (&session.node, self.part);
        let (mut there, mut reads, mut len) = (Vec::new(), Vec::new(), 0);
        while let Some(item) = self.items.front() {
            if let Some(Found::Flash(read)) = item {
                if !reads.is_empty() && len + read.length > node.hot.client_reserve() {
                    break;
                }
                len += read.length;
            }
            there.push(match self.items.pop_front().flatten() {
                Some(Found::Flash(mut read)) => {
                    read.promote = match node.hot.promote_on() {
                        _ if self.untouched => false,
                        PromoteOn::First => true,
                        PromoteOn::Second => read.promote,
                        PromoteOn::Never => false,
                    };
                    reads.push((there.len(), read));
                    Ok(None)
                }
                found => Ok(found),
            });
        }
        for (at, fetched) in fetch_all(node, &session.bond.account, reads).await {
            there[at] = fetched.map(|fetched| fetched.map(found));
        }
        for item in there {
            let item = match (item, part) {
                (Ok(item), _) => item,
                (Err(error), Part::Whole | Part::Range(..)) => {
                    output.writer().wire_error(&error);
                    continue;
                }
                (Err(_), Part::Item) => None,
            };
            write(session, output, item, part).await;
        }
        (!self.items.is_empty()).then_some(self)
    }
}

fn found(fetched: Fetched) -> Found {
    match fetched {
        Fetched::Small(bytes) => Found::Small(bytes),
        Fetched::Guard(value) => Found::Large(value),
    }
}

/// Writes one reply. Where clients can write the segments, it is made of a copy that was checked.
async fn write(session: &Session, output: &mut Output, item: Option<Found>, part: Part) {
    let item = match item {
        Some(Found::Large(value)) if session.node.arena.is_some() => checked::copy(value).await.map(Found::Small),
        item => item,
    };
    let cut = |bytes: &[u8]| match part {
        Part::Whole | Part::Item => 0..bytes.len(),
        Part::Range(start, end) => range(start, end, bytes.len()),
    };
    match item {
        None | Some(Found::Flash(_)) => match part {
            Part::Whole | Part::Item => output.writer().null(),
            Part::Range(..) => output.writer().bulk(b""),
        },
        Some(Found::Small(bytes)) => output.writer().bulk(&bytes[cut(&bytes)]),
        Some(Found::Large(value)) => {
            let cut = cut(value.bytes());
            if cut.len() == value.len() {
                output.value(value);
            } else {
                output.writer().bulk(&value.bytes()[cut]);
            }
        }
    }
}

/// Begins to read all of them at once, and returns each with the number it came with. What cannot be read is not there;
/// an error says that DRAM had no room for it.
pub(crate) async fn fetch_all(
    node: &Arc<Node>,
    account: &Arc<Account>,
    mut reads: Vec<(usize, FlashRead)>,
) -> Vec<(usize, Result<Option<Fetched>, WireError>)> {
    if let [_] = reads[..]
        && let Some((at, read)) = reads.pop()
    {
        return vec![(at, fetch(node, account, read).await)];
    }
    let mut results = Vec::with_capacity(reads.len());
    // Those that are not done end with the set.
    let mut set = JoinSet::new();
    for (at, read) in reads {
        let (node, account) = (Arc::clone(node), Arc::clone(account));
        set.spawn(async move { (at, fetch(&node, &account, read).await) });
    }
    while let Some(done) = set.join_next().await {
        results.extend(done.ok());
    }
    results
}

async fn fetch(node: &Node, account: &Arc<Account>, read: FlashRead) -> Result<Option<Fetched>, WireError> {
    let Some(tier) = node.tier() else { return Ok(None) };
    let fetched = match tokio::time::timeout(node.hot.flash_wait(), tier.fetch(node.now(), read, account)).await {
        Ok(Ok(fetched)) => fetched,
        Ok(Err(error @ FlashError::Store(_))) => return Err(flash(&error)),
        // The device says so itself, in `TIER LIST` and in the log.
        Ok(Err(_)) => None,
        Err(_) => {
            node.stats.flash_timeouts.add(1);
            None
        }
    };
    if fetched.is_none() {
        node.stats.flash_missed.add(1);
    }
    Ok(fetched)
}
