//! `SUBSCRIBE` and its kin, `PUBLISH`, `PUBSUB`, `MONITOR`.

use super::rework::Argument;
use crate::clock::unix_ms;
use crate::conn::output::Output;
use crate::dispatch::{Ctx, Flow};
use crate::glob::Glob;
use crate::node::Node;
use crate::pubsub::{Kind, Mailbox, SubscribedCounts};
use crate::session::Session;
use protocol::command::{CommandId, Flags, Spec};
use protocol::resp::{ArgBuf, Args, ErrorWord, WireError};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Channels and patterns that one client may listen to.
const NAMES_MAX: usize = 16 * 1024;
/// Bytes of one argument that `MONITOR` shows.
const SHOWN_LEN_MAX: usize = 1024;

/// What a client listens to.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) mailbox: Arc<Mailbox>,
    channels: BTreeSet<Box<[u8]>>,
    patterns: BTreeSet<Box<[u8]>>,
    shards: BTreeSet<Box<[u8]>>,
    monitors: bool,
}

impl Listening {
    fn names(&mut self, kind: Kind) -> &mut BTreeSet<Box<[u8]>> {
        match kind {
            Kind::Channel => &mut self.channels,
            Kind::Pattern => &mut self.patterns,
            Kind::Shard => &mut self.shards,
        }
    }

    /// What confirmations tell: channels and patterns together, shard channels apart.
    fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Channel | Kind::Pattern => self.channels.len() + self.patterns.len(),
            Kind::Shard => self.shards.len(),
        }
    }

    fn all(&self) -> usize {
        self.channels.len() + self.patterns.len() + self.shards.len()
    }
}

impl Session {
    fn listening(&mut self) -> &mut Listening {
        let (client, max) = (&self.client, self.node.hot.output_len_max());
        self.listening.get_or_insert_with(|| {
            Box::new(Listening {
                mailbox: Mailbox::new(client, max),
                channels: BTreeSet::new(),
                patterns: BTreeSet::new(),
                shards: BTreeSet::new(),
                monitors: false,
            })
        })
    }

    /// Whether it may run only what a subscriber may, since replies and messages could not be told apart otherwise.
    pub(crate) fn is_subscriber(&self, output: &Output) -> bool {
        self.listening.as_ref().is_some_and(|listening| listening.all() > 0) && !output.resp3
    }

    /// Stops listening to everything.
    pub(crate) fn stop_listening(&mut self) {
        let Some(listening) = self.listening.take() else { return };
        let hub = &self.node.pubsub;
        listening.channels.iter().for_each(|name| hub.leave(Kind::Channel, name, self.client.id));
        listening.patterns.iter().for_each(|name| hub.leave(Kind::Pattern, name, self.client.id));
        listening.shards.iter().for_each(|name| hub.leave(Kind::Shard, name, self.client.id));
        if listening.monitors {
            hub.unmonitor(self.client.id);
        }
        self.client.subscribed.set(SubscribedCounts::default());
    }

    /// Moves messages to the output, as many as may wait there. Returns whether some are left.
    pub(crate) fn deliver(&self, output: &mut Output) -> bool {
        let Some(listening) = &self.listening else { return false };
        let most = usize::try_from(self.node.hot.output_pause.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        listening.mailbox.deliver(|write| {
            write(&mut output.writer());
            output.pending() < most
        })
    }

    fn note_subscribed(&self) {
        if let Some(listening) = &self.listening {
            let Listening { channels, patterns, shards, .. } = &**listening;
            let counts = [channels.len(), patterns.len(), shards.len()].map(|count| count as u64);
            let [channels, patterns, shards] = counts;
            self.client.subscribed.set(SubscribedCounts { channels, patterns, shards });
        }
    }
}

/// Refuses what a subscriber in RESP2 may not run.
pub(crate) fn check_subscriber(ctx: &Ctx<'_>, spec: &Spec) -> Result<(), WireError> {
    use CommandId as Id;
    let may = matches!(
        spec.id,
        Id::Subscribe
            | Id::PSubscribe
            | Id::SSubscribe
            | Id::Unsubscribe
            | Id::PUnsubscribe
            | Id::SUnsubscribe
            | Id::Ping
            | Id::Quit
            | Id::Reset
    );
    if may || !ctx.session.is_subscriber(ctx.output) {
        return Ok(());
    }
    Err(WireError::err(format!(
        "Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
        spec.full_name
    )))
}

/// `SUBSCRIBE channel …`, `PSUBSCRIBE pattern …` and `SSUBSCRIBE channel …`
pub(crate) fn subscribe(ctx: &mut Ctx<'_>, kind: Kind) -> Result<Flow, WireError> {
    let word = match kind {
        Kind::Channel => "subscribe",
        Kind::Pattern => "psubscribe",
        Kind::Shard => "ssubscribe",
    };
    let names: Vec<&[u8]> = ctx.args.skip(1).iter().filter_map(|name| name.bytes()).collect();
    if kind == Kind::Pattern {
        names.iter().try_for_each(|name| Glob::new(name).map(drop))?;
    }
    if ctx.session.listening().all() + names.len() > NAMES_MAX {
        let text = format!("a client listens to at most {NAMES_MAX} channels and patterns");
        return Err(WireError::new(ErrorWord::TooBig, text));
    }
    for name in names {
        let listening = ctx.session.listening();
        if listening.names(kind).insert(name.into()) {
            let mailbox = Arc::clone(&listening.mailbox);
            ctx.node.pubsub.listen(kind, name, &mailbox);
        }
        let count = ctx.session.listening().count(kind);
        confirm(ctx.output, word, Some(name), count);
    }
    ctx.session.note_subscribed();
    // Who took the right away meanwhile has found nothing to end.
    let user = ctx.session.client.user();
    let is_lost = |name: &[u8]| user.as_ref().is_none_or(|user| !user.may_channel(name, kind == Kind::Pattern));
    if ctx.args.skip(1).iter().filter_map(|name| name.bytes()).any(is_lost) {
        ctx.session.client.kill();
    }
    Ok(Flow::Heard)
}

fn confirm(output: &mut Output, word: &str, name: Option<&[u8]>, count: usize) {
    let mut reply = output.writer();
    reply.push(3);
    reply.bulk(word.as_bytes());
    match name {
        Some(name) => reply.bulk(name),
        None => reply.null(),
    }
    reply.count(count as u64);
}

/// `UNSUBSCRIBE [channel …]`, `PUNSUBSCRIBE [pattern …]` and `SUNSUBSCRIBE [channel …]`
pub(crate) fn unsubscribe(ctx: &mut Ctx<'_>, kind: Kind) -> Result<Flow, WireError> {
    let word = match kind {
        Kind::Channel => "unsubscribe",
        Kind::Pattern => "punsubscribe",
        Kind::Shard => "sunsubscribe",
    };
    let mut names: Vec<Box<[u8]>> = ctx.args.skip(1).iter().filter_map(|name| name.bytes()).map(Into::into).collect();
    if names.is_empty()
        && let Some(listening) = &mut ctx.session.listening
    {
        names = listening.names(kind).iter().cloned().collect();
    }
    let id = ctx.session.client.id;
    for name in &names {
        let Some(listening) = &mut ctx.session.listening else {
            confirm(ctx.output, word, Some(name), 0);
            continue;
        };
        if listening.names(kind).remove(name) {
            ctx.node.pubsub.leave(kind, name, id);
        }
        let count = listening.count(kind);
        // What came before it is told before it.
        while ctx.session.deliver(ctx.output) {}
        confirm(ctx.output, word, Some(name), count);
    }
    if names.is_empty() {
        let count = ctx.session.listening.as_ref().map_or(0, |listening| listening.count(kind));
        confirm(ctx.output, word, None, count);
    }
    ctx.session.note_subscribed();
    Ok(Flow::Heard)
}

/// `PUBLISH channel message` and `SPUBLISH channel message`
pub(crate) fn publish(ctx: &mut Ctx<'_>, kind: Kind) -> Result<Flow, WireError> {
    let mut message = Argument::take(ctx, 2)?;
    let (channel, hub) = (ctx.word(1)?, &ctx.node.pubsub);
    let sent = match kind {
        Kind::Shard => hub.publish_shard(channel, message.bytes()),
        Kind::Channel | Kind::Pattern => hub.publish(channel, message.bytes()),
    };
    ctx.reply().count(sent);
    Ok(Flow::Go)
}

/// `PUBSUB CHANNELS [pattern]` and `PUBSUB SHARDCHANNELS [pattern]`
pub(crate) fn pubsub_channels(ctx: &mut Ctx<'_>, spec: &Spec, kind: Kind) -> Result<Flow, WireError> {
    let glob = match ctx.args.len() {
        2 => None,
        3 => Some(Glob::new(ctx.word(2)?)?),
        _ => return Err(WireError::arity(spec.full_name)),
    };
    let found = ctx.node.pubsub.channels(kind, |name| glob.is_none_or(|glob| glob.matches(name)));
    let mut reply = ctx.reply();
    reply.array(found.len());
    found.iter().for_each(|name| reply.bulk(name));
    Ok(Flow::Go)
}

/// `PUBSUB NUMSUB [channel …]` and `PUBSUB SHARDNUMSUB [channel …]`
pub(crate) fn pubsub_num_sub(ctx: &mut Ctx<'_>, kind: Kind) -> Result<Flow, WireError> {
    let channels = ctx.args.skip(2);
    let node = Arc::clone(ctx.node);
    let mut reply = ctx.reply();
    // Redis answers a flat array in both protocols.
    reply.array(2 * channels.len());
    for channel in channels.iter().map(|channel| channel.bytes().unwrap_or_default()) {
        reply.bulk(channel);
        reply.count(node.pubsub.listeners(kind, channel));
    }
    Ok(Flow::Go)
}

/// `PUBSUB NUMPAT`
pub(crate) fn pubsub_num_pat(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let patterns = ctx.node.pubsub.counts().1;
    ctx.reply().count(patterns as u64);
    Ok(Flow::Go)
}

/// `MONITOR`
pub(crate) fn monitor(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    ctx.reply().ok();
    let listening = ctx.session.listening();
    if !std::mem::replace(&mut listening.monitors, true) {
        let mailbox = Arc::clone(&listening.mailbox);
        ctx.node.pubsub.monitor(&mailbox);
    }
    Ok(Flow::Go)
}

/// Shows a command to who watches. Those of operators and those with credentials are not shown.
#[cold]
pub(crate) fn show(node: &Node, session: &Session, spec: &Spec, args: Args<'_>) {
    if spec.flags.intersects(Flags::SKIP_MONITOR | Flags::ADMIN) {
        return;
    }
    let since = unix_ms();
    let mut line = format!("{}.{:06} [0 {}]", since / 1000, since % 1000 * 1000, session.client.addr);
    for arg in args.iter() {
        match arg.bytes() {
            Some(bytes) => {
                let shown = &bytes[..bytes.len().min(SHOWN_LEN_MAX)];
                write!(line, " \"{}\"", quoted(shown)).expect("a string takes text");
                if shown.len() < bytes.len() {
                    write!(line, "... ({} more bytes)", bytes.len() - shown.len()).expect("a string takes text");
                }
            }
            None => write!(line, " ({} bytes)", arg.len()).expect("a string takes text"),
        }
    }
    node.pubsub.show(&line);
}

/// Shows the end of a transaction, behind what ran in it.
#[cold]
pub(crate) fn show_exec(node: &Node, session: &Session) {
    let spec = protocol::command::lookup(b"exec").expect("it is in the table");
    show(node, session, spec, ArgBuf::new(["exec"]).args());
}

/// Bytes as Redis quotes them.
fn quoted(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            0x07 => out.push_str("\\a"),
            0x08 => out.push_str("\\b"),
            0x20..0x7f => out.push(char::from(byte)),
            _ => write!(out, "\\x{byte:02x}").expect("a string takes text"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn bytes_are_quoted_as_redis_quotes_them() {
        assert_eq!(quoted(b"a\"b\\c\r\n\t\x07\x08\x00\xff z"), "a\\\"b\\\\c\\r\\n\\t\\a\\b\\x00\\xff z");
    }
}
