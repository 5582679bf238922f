//! From a command's name to the function that runs it: one `match`, nothing else decided here.
//!
//! Invariants:
//! - Before the client said who it is, only commands flagged `no_auth` run, after that those that its user may; before the flash tier is recovered, only those
//!   flagged `loading`.
//! - Every command answers exactly one reply, or asks the connection to wait for a [`Job`] that does.

use crate::acl::guard;
use crate::conn::Taken;
use crate::conn::output::Output;
use crate::conn::stream::Stream;
use crate::error::refused;
use crate::handler;
use crate::handler::alone::Brought;
pub(crate) use crate::handler::job::Job;
use crate::handler::{multi, pubsub};
use crate::node::Node;
use crate::session::{ReplyMode, Session};
use crate::stats::{WorkerStats, bump};
use protocol::base::Instant;
use protocol::command::{self, CommandId, Flags, Spec, Values};
use protocol::resp::{Args, WireError, Writer};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use storage::StoreError;

/// What a command may use.
pub(crate) struct Ctx<'a> {
    pub(crate) node: &'a Arc<Node>,
    pub(crate) session: &'a mut Session,
    pub(crate) output: &'a mut Output,
    /// The command's words, its name first.
    pub(crate) args: Args<'a>,
    /// Large arguments that were received outside the buffer.
    pub(crate) taken: &'a mut Vec<(usize, Taken)>,
    pub(crate) stream: &'a mut Stream,
    pub(crate) stats: &'a WorkerStats,
    /// When the bytes of this command were looked at.
    pub(crate) now: Instant,
    /// Set by commands that move large values.
    pub(crate) bulky: &'a mut bool,
    /// Items of a batch that were done before it had to wait for room.
    pub(crate) resume: &'a mut usize,
    /// Whether it has waited as long as it may.
    pub(crate) has_waited: bool,
    /// Commands that ran since the clock was read.
    pub(crate) ran: &'a mut Vec<Run>,
    /// Nobody else runs anything meanwhile, and this was brought from flash for it.
    pub(crate) alone: Option<&'a Brought>,
}

/// Calls of one command in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) id: CommandId,
    pub(crate) count: u32,
    /// Whether it goes on as a job, which is timed by itself.
    pub(crate) waits: bool,
}

impl<'a> Ctx<'a> {
    /// Writes the reply.
    pub(crate) fn reply(&mut self) -> Writer<'_> {
        self.output.writer()
    }

    /// After a refusal that more writing to flash would lift: waits for that, or refuses if it was waited for in vain.
    pub(crate) fn wait_for_room(&self, error: StoreError) -> Result<Flow, WireError> {
        if self.has_waited { Err(refused(error)) } else { Ok(Flow::Room) }
    }

    /// The bytes of a word that is there and was not received elsewhere.
    pub(crate) fn word(&self, index: usize) -> Result<&'a [u8], WireError> {
        self.args.bytes(index).ok_or_else(WireError::syntax)
    }
}

/// What the connection does after a command.
#[derive(Debug)]
pub(crate) enum Flow {
    /// On to the next one.
    Go,
    /// On to the next one, and what was written is sent to a client that wants no replies too.
    Heard,
    /// The client's limits have changed.
    Relimit,
    /// Wait for this first.
    Wait(Job),
    /// There will be room once more has been written to flash: wait a little, then run the same command again. Only for a
    /// command whose arguments all lie in the buffer; what it has done by then it notes in [`Ctx::resume`].
    Room,
    /// Run the same command again, with nobody else's beside it. It has taken nothing and written nothing yet.
    Alone,
    /// Send what there is, then end.
    Close,
}

/// Whether the client wants to hear of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Wanted,
    Unwanted,
}

/// Whether argument `arg` of the command being read is a value that has a slot to go to.
pub(crate) fn streams(args: Args<'_>, arg: usize) -> bool {
    args.bytes(0).and_then(command::lookup).is_some_and(|spec| spec.values.contains(arg))
}

/// The command that is asked for, its container's subcommand if it has any.
pub(crate) fn spec_of(args: &Args<'_>) -> Option<&'static Spec> {
    let spec = command::lookup(args.bytes(0)?)?;
    Some(args.bytes(1).and_then(|word| spec.subcommand(word)).unwrap_or(spec))
}

/// The key of a value that is about to be received.
pub(crate) fn key_of_value<'a>(args: Args<'a>, arg: usize) -> Option<&'a [u8]> {
    match command::lookup(args.bytes(0)?)?.values {
        Values::Even => args.bytes(arg - 1),
        Values::None | Values::At(_) => args.bytes(1),
    }
}

/// Runs one command. Whether it is answered at all is up to the client (`CLIENT REPLY`): a job's reply is told apart by the
/// second value.
pub(crate) fn execute(mut ctx: Ctx<'_>) -> (Flow, Answer) {
    let Some(name) = ctx.args.bytes(0) else { return (Flow::Go, Answer::Wanted) };
    // The mode before the command counts, so that `CLIENT REPLY SKIP` skips the next one.
    let mode = ctx.session.reply_mode;
    if mode == ReplyMode::SkipNext {
        ctx.session.reply_mode = ReplyMode::On;
    }
    let mark = ctx.output.mark();
    let flow = match command::lookup(name) {
        Some(spec) => run_spec(&mut ctx, spec),
        None => {
            multi::abort(&mut ctx);
            let error = if ctx.session.authenticated { unknown(&ctx.args) } else { guard::no_auth() };
            ctx.stats.error(error.word());
            ctx.reply().wire_error(&error);
            Flow::Go
        }
    };
    let (flow, answer) = match flow {
        Flow::Heard => (Flow::Go, Answer::Wanted),
        flow if mode == ReplyMode::On => (flow, Answer::Wanted),
        flow => (flow, Answer::Unwanted),
    };
    if answer == Answer::Unwanted {
        ctx.output.forget(mark);
    }
    match flow {
        Flow::Room | Flow::Alone => ctx.session.reply_mode = mode,
        _ => *ctx.resume = 0,
    }
    (flow, answer)
}

fn unknown(args: &Args<'_>) -> WireError {
    let show = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(128)]).into_owned();
    let name = args.bytes(0).map(show).unwrap_or_default();
    let mut text = format!("unknown command '{name}', with args beginning with: ");
    for arg in args.iter().skip(1) {
        if text.len() >= 256 {
            break;
        }
        text.push('\'');
        text.push_str(&arg.bytes().map(show).unwrap_or_default());
        text.push_str("' ");
    }
    WireError::err(text)
}

/// Whether a command is worth two looks at the clock, which the shortest ones would feel.
fn may_be_slow(spec: &Spec) -> bool {
    !spec.flags.intersects(Flags::FAST.union(Flags::DENYOOM))
}

fn run_spec(ctx: &mut Ctx<'_>, spec: &'static Spec) -> Flow {
    // A container's subcommand is what counts and what is refused.
    let (spec, known) = match ctx.args.bytes(1) {
        Some(word) if !spec.subcommands.is_empty() => match spec.subcommand(word) {
            Some(sub) => (sub, true),
            None => (spec, false),
        },
        _ => (spec, true),
    };
    ctx.session.client.last_command.store(spec.id as u64, Ordering::Relaxed);
    let stat = ctx.stats.of(spec.id);
    // One that goes on after a wait for room has begun its reply: what is left of it is looked at item by item.
    let has_begun = spec.id == CommandId::MPut && *ctx.resume > 0;
    if !has_begun
        && !ctx.session.client.is_free()
        && let Err(error) = guard::check(ctx, spec, known)
    {
        bump(&stat.rejected, 1);
        multi::abort(ctx);
        ctx.stats.error(error.word());
        ctx.reply().wire_error(&error);
        return Flow::Go;
    }
    if ctx.node.hot.loading.load(Ordering::Relaxed) && !spec.flags.contains(Flags::LOADING) {
        bump(&stat.rejected, 1);
        multi::abort(ctx);
        let error = crate::loading::refusal(ctx.node);
        ctx.stats.error(error.word());
        ctx.reply().wire_error(&error);
        return Flow::Go;
    }
    if ctx.session.listening.is_some()
        && let Err(error) = pubsub::check_subscriber(ctx, spec)
    {
        bump(&stat.rejected, 1);
        ctx.stats.error(error.word());
        ctx.reply().wire_error(&error);
        return Flow::Go;
    }
    if ctx.session.multi.is_some() && ctx.alone.is_none() {
        let queued =
            if known { spec.check_arity(ctx.args.len()).and_then(|()| multi::queue(ctx, spec)) } else { Ok(false) };
        match queued {
            Ok(true) => return Flow::Go,
            Ok(false) => {}
            Err(error) => {
                bump(&stat.rejected, 1);
                multi::abort(ctx);
                ctx.stats.error(error.word());
                ctx.reply().wire_error(&error);
                return Flow::Go;
            }
        }
    }
    if ctx.node.pubsub.is_monitored() && known && spec.id != CommandId::Exec {
        pubsub::show(ctx.node, ctx.session, spec, ctx.args);
    }
    let started = (may_be_slow(spec) || ctx.node.slow.is_keen()).then(std::time::Instant::now);
    let result = if known {
        spec.check_arity(ctx.args.len()).and_then(|()| handler::run(ctx, spec))
    } else if ctx.args.bytes(1).is_some_and(|word| word.eq_ignore_ascii_case(b"help")) {
        match ctx.args.len() {
            2 => {
                handler::command_cmd::help(spec, &mut ctx.reply());
                Ok(Flow::Go)
            }
            _ => Err(WireError::arity(&format!("{}|help", spec.full_name))),
        }
    } else {
        let word = ctx.args.bytes(1).map(|word| String::from_utf8_lossy(&word[..word.len().min(128)]).into_owned());
        let name = spec.full_name.to_ascii_uppercase();
        Err(WireError::err(format!("unknown subcommand '{}'. Try {name} HELP.", word.unwrap_or_default())))
    };
    match result {
        Ok(Flow::Room) => return Flow::Room,
        Ok(Flow::Alone) => return Flow::Alone,
        _ => {}
    }
    bump(&stat.calls, 1);
    if let Some(took) = started.map(|started| started.elapsed()).filter(|took| ctx.node.slow.is_slow(*took)) {
        let client = &ctx.session.client;
        ctx.node.slow.command(spec, &ctx.args, took, &client.addr, &client.words.lock().name);
    }
    let waits = matches!(result, Ok(Flow::Wait(_)));
    match ctx.ran.last_mut() {
        Some(run) if run.id == spec.id && run.waits == waits => run.count += 1,
        _ => ctx.ran.push(Run { id: spec.id, count: 1, waits }),
    }
    match result {
        Ok(flow) => flow,
        Err(error) => {
            bump(&stat.failed, 1);
            ctx.stats.error(error.word());
            ctx.reply().wire_error(&error);
            Flow::Go
        }
    }
}
