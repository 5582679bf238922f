//! The server as Redis's tools see it.

use crate::clock::unix_ms;
use crate::dispatch::{Ctx, Flow};
use crate::handler::aside::{Aside, OBJECTS_MAX};
use crate::handler::job::Job;
use protocol::command::{CommandId, Words, parse_i64};
use protocol::resp::{WireError, Writer};
use std::time::{SystemTime, UNIX_EPOCH};

/// Entries that `SLOWLOG GET` answers without being told how many.
const SLOW_ENTRIES_DEFAULT: usize = 10;

/// `TIME`
pub(crate) fn time(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut reply = ctx.reply();
    reply.array(2);
    reply.bulk_integer(since.as_secs());
    reply.bulk_integer(since.subsec_micros());
    Ok(Flow::Go)
}

/// `ROLE`
pub(crate) fn role(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let mut reply = ctx.reply();
    reply.array(3);
    reply.bulk(b"master");
    reply.integer(0);
    reply.array(0);
    Ok(Flow::Go)
}

/// `LASTSAVE`
pub(crate) fn last_save(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let up_ms = u64::try_from(ctx.now.since(ctx.node.started).as_millis()).unwrap_or(u64::MAX);
    ctx.reply().count(unix_ms().saturating_sub(up_ms) / 1000);
    Ok(Flow::Go)
}

/// Refuses anything but `ASYNC` or `SYNC` at `index`, and anything after it.
fn check_flush_type(ctx: &Ctx<'_>, index: usize) -> Result<(), WireError> {
    let mut words = Words::new(&ctx.args, index);
    match words.option()? {
        None => Ok(()),
        Some(word) if word.eq_ignore_ascii_case(b"async") || word.eq_ignore_ascii_case(b"sync") => words.end(),
        Some(_) => Err(WireError::syntax()),
    }
}

/// `FLUSHALL [ASYNC | SYNC]`: both answer when all is gone. No lock is held for long, and nobody else waits.
pub(crate) fn flush_all(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    check_flush_type(ctx, 1)?;
    tracing::info!(client = ctx.session.client.id, "FLUSHALL");
    if ctx.node.store.len() > OBJECTS_MAX && ctx.alone.is_none() {
        return Ok(Flow::Wait(Job::Aside(Aside::new(CommandId::FlushAll, |node| {
            node.store.clear();
            |reply: &mut Writer<'_>| reply.ok()
        }))));
    }
    ctx.node.store.clear();
    ctx.reply().ok();
    Ok(Flow::Go)
}

/// `FLUSHDB [ASYNC | SYNC]`
pub(crate) fn flush_db(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    flush_all(ctx)
}

/// `SLOWLOG GET [count]`
pub(crate) fn slow_log_get(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let mut words = Words::new(&ctx.args, 2);
    let most = match words.option()? {
        None => SLOW_ENTRIES_DEFAULT,
        Some(word) => match parse_i64(word) {
            Some(-1) => usize::MAX,
            Some(count) if count >= 0 => usize::try_from(count).unwrap_or(usize::MAX),
            _ => return Err(WireError::err("count should be greater than or equal to -1")),
        },
    };
    words.end()?;
    let entries = ctx.node.slow.latest(most);
    let mut reply = ctx.reply();
    reply.array(entries.len());
    for entry in entries {
        reply.array(6);
        reply.count(entry.number);
        reply.count(entry.unix_s);
        reply.count(u64::try_from(entry.took.as_micros()).unwrap_or(u64::MAX));
        reply.array(entry.words.len());
        for word in entry.words {
            reply.bulk(&word);
        }
        reply.bulk(entry.addr.as_bytes());
        reply.bulk(entry.name.as_bytes());
    }
    Ok(Flow::Go)
}

/// `SLOWLOG LEN`
pub(crate) fn slow_log_len(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let len = ctx.node.slow.len();
    ctx.reply().count(len as u64);
    Ok(Flow::Go)
}

/// `SLOWLOG RESET`
pub(crate) fn slow_log_reset(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    ctx.node.slow.forget_commands();
    ctx.reply().ok();
    Ok(Flow::Go)
}

/// `LATENCY LATEST`
pub(crate) fn latency_latest(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let events = ctx.node.slow.events();
    let mut reply = ctx.reply();
    reply.array(events.len());
    for (kind, latest, longest_ms) in events {
        reply.array(4);
        reply.bulk(kind.as_bytes());
        reply.count(latest.unix_s);
        reply.count(latest.ms);
        reply.count(longest_ms);
    }
    Ok(Flow::Go)
}

/// `LATENCY HISTORY event`
pub(crate) fn latency_history(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let spikes = ctx.node.slow.history(ctx.word(2)?);
    let mut reply = ctx.reply();
    reply.array(spikes.len());
    for spike in spikes {
        reply.array(2);
        reply.count(spike.unix_s);
        reply.count(spike.ms);
    }
    Ok(Flow::Go)
}

/// `LATENCY RESET [event …]`
pub(crate) fn latency_reset(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let events = ctx.args.skip(2);
    let meant = |kind: &str| {
        let named =
            |arg: protocol::resp::Arg<'_>| arg.bytes().is_some_and(|it| it.eq_ignore_ascii_case(kind.as_bytes()));
        events.is_empty() || events.iter().any(named)
    };
    let forgotten = ctx.node.slow.forget_events(meant);
    ctx.reply().count(forgotten as u64);
    Ok(Flow::Go)
}

/// `MODULE LIST`
pub(crate) fn module_list(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    ctx.reply().array(0);
    Ok(Flow::Go)
}

/// `FUNCTION FLUSH [ASYNC | SYNC]`
pub(crate) fn function_flush(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    check_flush_type(ctx, 2).map_err(|_| WireError::err("FUNCTION FLUSH only supports SYNC|ASYNC option"))?;
    ctx.reply().ok();
    Ok(Flow::Go)
}

/// `FUNCTION LIST [LIBRARYNAME glob] [WITHCODE]`
pub(crate) fn function_list(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let mut words = Words::new(&ctx.args, 2);
    while let Some(option) = words.option()? {
        if option.eq_ignore_ascii_case(b"libraryname") {
            words.word()?;
        } else if !option.eq_ignore_ascii_case(b"withcode") {
            return Err(WireError::err(format!("Unknown argument {}", String::from_utf8_lossy(option))));
        }
    }
    ctx.reply().array(0);
    Ok(Flow::Go)
}

/// `LOLWUT [VERSION version] [argument …]`
pub(crate) fn lolwut(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let picture = concat!(
        "      .-----.\n    .' o   o '.\n   /  o  .  o  \\\n  |  .  (_)  .  |\n   \\  o  '  o  /\n    '._ o o _.'\n",
        "       '---'\n\nA mooncake is cut and shared. Redis ver. 7.2, Mooncake ver. ",
        env!("CARGO_PKG_VERSION"),
        "\n"
    );
    ctx.reply().verbatim(picture);
    Ok(Flow::Go)
}

/// `SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE] [ABORT]`: what lies in DRAM only goes to flash first, unless `NOSAVE`. Those who hold
/// grants and leases get time to end them, unless `NOW` or `NOSAVE`.
pub(crate) fn shutdown(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let mut words = Words::new(&ctx.args, 1);
    let (mut abort, mut now, mut save) = (false, false, None);
    while let Some(option) = words.option()? {
        abort |= option.eq_ignore_ascii_case(b"abort");
        now |= option.eq_ignore_ascii_case(b"now");
        let saves = option.eq_ignore_ascii_case(b"save");
        if (saves || option.eq_ignore_ascii_case(b"nosave")) && save.replace(saves) == Some(!saves) {
            return Err(WireError::syntax());
        }
        if ![&b"nosave"[..], b"save", b"now", b"force", b"abort"].iter().any(|known| option.eq_ignore_ascii_case(known))
        {
            return Err(WireError::syntax());
        }
    }
    if abort {
        return Err(if ctx.args.len() > 2 { WireError::syntax() } else { WireError::err("No shutdown in progress.") });
    }
    tracing::info!(client = ctx.session.client.id, "SHUTDOWN");
    if save == Some(false) {
        ctx.node.shut_down_unsaved();
    } else if now {
        ctx.node.hurry();
    } else {
        ctx.node.shut_down();
    }
    Ok(Flow::Close)
}

/// `WAIT numreplicas timeout`: there are no replicas that lag behind.
pub(crate) fn wait(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let mut words = Words::new(&ctx.args, 1);
    words.signed()?;
    let timeout =
        parse_i64(words.word()?).ok_or_else(|| WireError::err("timeout is not an integer or out of range"))?;
    if timeout < 0 {
        return Err(WireError::err("timeout is negative"));
    }
    ctx.reply().integer(0);
    Ok(Flow::Go)
}
