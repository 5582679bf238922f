//! Keys, whatever they hold.

use crate::acl::guard::Sight;
use crate::dispatch::{Ctx, Flow};
use crate::events::GENERIC;
use crate::glob::Glob;
use crate::handler::aside::{Aside, OBJECTS_MAX};
use crate::handler::job::Job;
use crate::node::Node;
use protocol::base::Instant;
use protocol::command::{CommandId, Scan, parse_i64};
use protocol::resp::{ErrorWord, WireError, Writer};
use std::collections::HashSet;
use std::ops::ControlFlow;
use storage::{Found, Stat};

/// Entries that one look at the store takes, so that no shard is locked for long.
const LOOK_COUNT: u64 = 256;
/// Longest value that Redis keeps beside its key.
const EMBEDDED_LEN_MAX: usize = 44;
/// Keys of one `SCAN` reply, in bytes: a client that asks for more gets the rest with its next call, as it does if it
/// asks for more than [`OBJECTS_MAX`].
const SCAN_LEN_MAX: usize = 1 << 20;

/// Counts the keys for which `holds`.
fn count(ctx: &mut Ctx<'_>, holds: impl Fn(&Node, Instant, &[u8]) -> bool) -> Result<Flow, WireError> {
    let keys = ctx.args.skip(1);
    let found = keys.iter().filter_map(|key| key.bytes()).filter(|key| holds(ctx.node, ctx.now, key)).count();
    ctx.reply().count(found as u64);
    Ok(Flow::Go)
}

/// `EXISTS key …`
pub(crate) fn exists(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    count(ctx, |node, now, key| node.store.probe(now, key))
}

/// `DEL key …`
pub(crate) fn del(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    count(ctx, |node, now, key| {
        let removed = node.store.remove(now, key);
        if removed {
            node.notify(GENERIC, "del", key);
        }
        removed
    })
}

/// `UNLINK key …`
pub(crate) fn unlink(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    del(ctx)
}

/// `TOUCH key …`
pub(crate) fn touch(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    count(ctx, |node, now, key| node.store.touch(now, key))
}

/// `TYPE key`
pub(crate) fn type_(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let key = ctx.args.bytes(1).ok_or_else(WireError::syntax)?;
    let there = ctx.node.store.contains(ctx.now, key);
    ctx.reply().simple(if there { "string" } else { "none" });
    Ok(Flow::Go)
}

/// Walks over the keys from `cursor` on, past about `most` entries or until `each` breaks. Returns where to go on, 0 at
/// the end.
fn walk(
    node: &Node,
    now: Instant,
    mut cursor: u64,
    mut most: u64,
    mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> u64 {
    loop {
        let step = most.min(LOOK_COUNT);
        let mut flow = ControlFlow::Continue(());
        // What one look hands out is all taken, or a scan would skip keys.
        cursor = node.store.scan(now, cursor, usize::try_from(step).unwrap_or(1), |key| {
            if each(key).is_break() {
                flow = ControlFlow::Break(());
            }
        });
        most -= step;
        if cursor == 0 || most == 0 || flow.is_break() {
            return cursor;
        }
    }
}

/// Hands every key to `each`, some of them twice perhaps.
pub(super) fn every_key(node: &Node, now: Instant, mut each: impl FnMut(&[u8])) {
    walk(node, now, 0, u64::MAX, |key| {
        each(key);
        ControlFlow::Continue(())
    });
}

/// All keys that match, or how many bytes of keys are too many.
fn matching(node: &Node, now: Instant, glob: Glob<'_>, sight: &Sight) -> Result<HashSet<Vec<u8>>, WireError> {
    let limit = node.config.read().output_len_max;
    // A key that is written again while we walk can come twice.
    let mut found: HashSet<Vec<u8>> = HashSet::new();
    let mut len = 0;
    let cursor = walk(node, now, 0, u64::MAX, |key| {
        if glob.matches(key) && sight.has(key) && found.insert(key.to_vec()) {
            len += key.len() as u64 + 16;
        }
        if len > limit.get() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if cursor == 0 {
        return Ok(found);
    }
    Err(WireError::new(ErrorWord::TooBig, format!("more than {limit} of keys: use SCAN")))
}

fn write_keys(reply: &mut Writer<'_>, found: Result<HashSet<Vec<u8>>, WireError>) {
    match found {
        Ok(keys) => {
            reply.array(keys.len());
            for key in keys {
                reply.bulk(&key);
            }
        }
        Err(error) => reply.wire_error(&error),
    }
}

/// `KEYS glob`
pub(crate) fn keys(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let pattern = ctx.args.bytes(1).ok_or_else(WireError::syntax)?;
    let glob = Glob::new(pattern)?;
    let (now, sight) = (ctx.now, Sight::of(ctx.session));
    if ctx.node.store.len() > OBJECTS_MAX && ctx.alone.is_none() {
        let pattern = pattern.to_vec();
        return Ok(Flow::Wait(Job::Aside(Aside::new(CommandId::Keys, move |node| {
            let found = Glob::new(&pattern).and_then(|glob| matching(node, now, glob, &sight));
            |reply: &mut Writer<'_>| write_keys(reply, found)
        }))));
    }
    let found = matching(ctx.node, now, glob, &sight);
    write_keys(&mut ctx.reply(), found);
    Ok(Flow::Go)
}

/// `SCAN cursor [MATCH glob] [COUNT count] [TYPE type]`
pub(crate) fn scan(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let request = Scan::parse(&ctx.args)?;
    let glob = request.pattern.map(Glob::new).transpose()?;
    // All that we hold are strings; another type has no keys, but its scan ends like any other.
    let wanted = request.kind.is_none_or(|kind| kind.eq_ignore_ascii_case(b"string"));
    let sight = Sight::of(ctx.session);
    let (mut found, mut len) = (Vec::new(), 0);
    let cursor = walk(ctx.node, ctx.now, request.cursor, request.count.min(OBJECTS_MAX), |key| {
        if wanted && glob.is_none_or(|glob| glob.matches(key)) && sight.has(key) {
            len += key.len();
            found.push(key.to_vec());
        }
        if len > SCAN_LEN_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let mut reply = ctx.reply();
    reply.array(2);
    reply.bulk_integer(cursor);
    reply.array(found.len());
    for key in found {
        reply.bulk(&key);
    }
    Ok(Flow::Go)
}

/// Random keys that are tried before one that the client may see is looked for in order.
const RANDOM_TRIES: usize = 64;

/// A key that is seen.
fn random(node: &Node, now: Instant, sight: &Sight) -> Option<Vec<u8>> {
    let tries = if sight.is_whole() { 1 } else { RANDOM_TRIES };
    let mut found = (0..tries)
        .filter_map(|_| node.store.random_key(now, rand::random()))
        .map(|key| key.to_vec())
        .find(|key| sight.has(key));
    if found.is_none() && !sight.is_whole() {
        walk(node, now, 0, u64::MAX, |key| {
            let seen = sight.has(key);
            if seen {
                found = Some(key.to_vec());
            }
            if seen { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
    }
    found
}

/// `RANDOMKEY`
pub(crate) fn random_key(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let (now, sight) = (ctx.now, Sight::of(ctx.session));
    beside(ctx, CommandId::RandomKey, !sight.is_whole(), move |node| {
        let found = random(node, now, &sight);
        |reply: &mut Writer<'_>| match found {
            Some(key) => reply.bulk(&key),
            None => reply.null(),
        }
    })
}

/// `DBSIZE`: the keys that the client may see.
pub(crate) fn db_size(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let (now, sight) = (ctx.now, Sight::of(ctx.session));
    beside(ctx, CommandId::DbSize, !sight.is_whole(), move |node| {
        let count = if sight.is_whole() {
            node.store.len()
        } else {
            let mut seen = 0;
            every_key(node, now, |key| seen += u64::from(sight.has(key)));
            seen
        };
        move |reply: &mut Writer<'_>| reply.count(count)
    })
}

/// Does what may take long with many objects beside the worker, else at once.
fn beside<W, A>(ctx: &mut Ctx<'_>, id: CommandId, long: bool, work: W) -> Result<Flow, WireError>
where
    W: FnOnce(&Node) -> A + Send + 'static,
    A: FnOnce(&mut Writer<'_>) + Send + 'static,
{
    if long && ctx.node.store.len() > OBJECTS_MAX && ctx.alone.is_none() {
        return Ok(Flow::Wait(Job::Aside(Aside::new(id, work))));
    }
    work(ctx.node)(&mut ctx.reply());
    Ok(Flow::Go)
}

fn object(ctx: &mut Ctx<'_>) -> Result<Option<Stat>, WireError> {
    let key = ctx.args.bytes(2).ok_or_else(WireError::syntax)?;
    let stat = ctx.node.store.stat(ctx.now, key);
    if stat.is_none() {
        ctx.reply().null();
    }
    Ok(stat)
}

/// How Redis would keep a value of these bytes. Here all are kept alike; tools ask.
pub(super) fn encoding(ctx: &Ctx<'_>, key: &[u8]) -> &'static str {
    match ctx.node.store.peek(ctx.now, key, false) {
        Ok(Some(Found::Small(bytes))) if parse_i64(&bytes).is_some() => "int",
        Ok(Some(Found::Small(bytes))) if bytes.len() <= EMBEDDED_LEN_MAX => "embstr",
        _ => "raw",
    }
}

/// `OBJECT ENCODING key`
pub(crate) fn object_encoding(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    if object(ctx)?.is_some() {
        let encoding = encoding(ctx, ctx.word(2)?);
        ctx.reply().bulk(encoding.as_bytes());
    }
    Ok(Flow::Go)
}

/// `OBJECT IDLETIME key`
pub(crate) fn object_idle_time(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    if let Some(stat) = object(ctx)? {
        let idle = ctx.now.since(stat.touched).as_secs();
        ctx.reply().count(idle);
    }
    Ok(Flow::Go)
}

/// `OBJECT FREQ key`
pub(crate) fn object_freq(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    if let Some(stat) = object(ctx)? {
        ctx.reply().count(stat.hits.into());
    }
    Ok(Flow::Go)
}

/// `OBJECT REFCOUNT key`: the index, and everybody whom the object was promised to.
pub(crate) fn object_ref_count(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    if let Some(stat) = object(ctx)? {
        ctx.reply().count(1 + u64::from(stat.users) + stat.pins);
    }
    Ok(Flow::Go)
}

/// `OBJECT HELP`
pub(crate) fn object_help(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    const LINES: [&str; 11] = [
        "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        "ENCODING <key>",
        "    Return how Redis would keep the value: int, embstr or raw.",
        "FREQ <key>",
        "    Return how often the object was read, up to 255.",
        "IDLETIME <key>",
        "    Return for how many seconds the object was not used.",
        "REFCOUNT <key>",
        "    Return how many leases, reads in flight and pins the object has, and one more.",
        "HELP",
        "    Print this help.",
    ];
    let mut reply = ctx.reply();
    reply.array(LINES.len());
    for line in LINES {
        reply.simple(line);
    }
    Ok(Flow::Go)
}
