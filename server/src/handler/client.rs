//! `CLIENT`: about this connection and the others.

use super::command_cmd::spec_at;
use crate::acl::user::DEFAULT;
use crate::dispatch::{Ctx, Flow};
use crate::session::{ClientInfo, ReplyMode};
use protocol::base::Millis;
use protocol::command::{Words, parse_i64};
use protocol::resp::WireError;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

/// Longest name that a client may give itself or its library.
const NAME_LEN_MAX: usize = 1024;

/// `CLIENT ID`
pub(crate) fn client_id(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let id = ctx.session.client.id;
    ctx.reply().count(id);
    Ok(Flow::Go)
}

/// `CLIENT INFO`
pub(crate) fn client_info(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let mut text = String::new();
    line(&mut text, &ctx.session.client, ctx.now.0 / 1_000_000);
    ctx.reply().verbatim(&text);
    Ok(Flow::Go)
}

/// `CLIENT LIST [TYPE type] [ID id …]`
pub(crate) fn client_list(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let mut words = Words::new(&ctx.args, 2);
    let (mut normal, mut ids) = (true, None);
    while let Some(option) = words.option()? {
        if option.eq_ignore_ascii_case(b"type") {
            normal = is_normal(words.word()?)?;
        } else if option.eq_ignore_ascii_case(b"id") {
            let number = |word| parse_i64(word).ok_or_else(|| WireError::err("Invalid client ID"));
            let mut chosen = vec![number(words.word()?)?];
            while let Some(word) = words.option()? {
                chosen.push(number(word)?);
            }
            ids = Some(chosen);
        } else {
            return Err(WireError::syntax());
        }
    }
    let now_ms = ctx.now.0 / 1_000_000;
    let mut text = String::new();
    // In the order asked for, as Redis does it.
    let clients = match ids {
        Some(ids) => ids.into_iter().filter_map(|id| ctx.node.clients.get(u64::try_from(id).ok()?)).collect(),
        None => ctx.node.clients.all(),
    };
    for client in clients.iter().filter(|_| normal) {
        line(&mut text, client, now_ms);
    }
    ctx.reply().verbatim(&text);
    Ok(Flow::Go)
}

/// The line of one client, as `CLIENT LIST` has it.
pub(crate) fn line_of(client: &ClientInfo, now_ms: u64) -> String {
    let mut text = String::new();
    line(&mut text, client, now_ms);
    text.truncate(text.trim_end().len());
    text
}

/// One line of `CLIENT LIST`, in the fields of Redis 7.2. What we do not have is 0.
fn line(text: &mut String, client: &ClientInfo, now_ms: u64) {
    let ClientInfo { id, addr, laddr, fd, .. } = client;
    let age = now_ms.saturating_sub(client.since_ms) / 1000;
    let idle = now_ms.saturating_sub(client.active_ms.load(Ordering::Relaxed)) / 1000;
    let pending = client.pending.load(Ordering::Relaxed);
    let (subscribed, watched) = (client.subscribed.counts(), client.watched.load(Ordering::Relaxed));
    let (multi, queued) = (client.multi.load(Ordering::Relaxed), client.queued.load(Ordering::Relaxed));
    let command = spec_at(client.last_command.load(Ordering::Relaxed)).map_or("NULL", |spec| spec.full_name);
    let resp = if client.resp3.load(Ordering::Relaxed) { 3 } else { 2 };
    let words = client.words.lock().clone();
    let user = client.user();
    let user = String::from_utf8_lossy(user.as_ref().map_or(DEFAULT, |user| &user.name));
    let mut flags = String::new();
    for (set, flag) in [
        (subscribed.any(), 'P'),
        (multi >= 0, 'x'),
        (laddr.starts_with('/'), 'U'),
        (client.no_evict.load(Ordering::Relaxed), 'e'),
        (client.no_touch.load(Ordering::Relaxed), 'T'),
    ] {
        if set {
            flags.push(flag);
        }
    }
    if flags.is_empty() {
        flags.push('N');
    }
    writeln!(
        text,
        "id={id} addr={addr} laddr={laddr} fd={fd} name={} age={age} idle={idle} flags={flags} db=0 sub={} psub={} ssub={} \
         multi={multi} watch={watched} qbuf=0 qbuf-free=0 argv-mem=0 multi-mem={queued} rbs=0 rbp=0 obl={pending} oll=0 omem=0 tot-mem={pending} \
         events=r cmd={command} user={user} redir=-1 resp={resp} lib-name={} lib-ver={} tot-net-in={} tot-net-out={} \
         tot-cmds={} worker={}",
        words.name,
        subscribed.channels,
        subscribed.patterns,
        subscribed.shards,
        words.lib_name,
        words.lib_ver,
        client.bytes_in.load(Ordering::Relaxed),
        client.bytes_out.load(Ordering::Relaxed),
        client.commands.load(Ordering::Relaxed),
        client.worker.load(Ordering::Relaxed),
    )
    .expect("a string takes text");
}

fn id(word: &[u8]) -> Result<u64, WireError> {
    let id = parse_i64(word).and_then(|id| u64::try_from(id).ok()).filter(|&id| id > 0);
    id.ok_or_else(|| WireError::err("client-id should be greater than 0"))
}

fn age(word: &[u8]) -> Result<u64, WireError> {
    let age = parse_i64(word).ok_or_else(|| WireError::err("maxage is not an integer or out of range"))?;
    let age = u64::try_from(age).ok().filter(|&age| age > 0);
    age.ok_or_else(|| WireError::err("maxage should be greater than 0"))
}

/// Whether a client type is the one that all our clients have.
fn is_normal(kind: &[u8]) -> Result<bool, WireError> {
    if kind.eq_ignore_ascii_case(b"normal") {
        return Ok(true);
    }
    let known = [&b"master"[..], b"slave", b"replica", b"pubsub"];
    if known.iter().any(|known| kind.eq_ignore_ascii_case(known)) {
        return Ok(false);
    }
    Err(WireError::err(format!("Unknown client type '{}'", String::from_utf8_lossy(kind))))
}

/// Whom `CLIENT KILL` means: those that fit everything given.
#[derive(Debug)]
struct Victims<'a> {
    id: Option<u64>,
    addr: Option<&'a [u8]>,
    laddr: Option<&'a [u8]>,
    user: Option<&'a [u8]>,
    normal: bool,
    /// Seconds that they have been connected for, at least.
    age: Option<u64>,
    skip_me: bool,
}

impl<'a> Victims<'a> {
    fn parse(words: &mut Words<'a>) -> Result<Self, WireError> {
        let mut victims =
            Self { id: None, addr: None, laddr: None, user: None, normal: true, age: None, skip_me: true };
        while let Some(filter) = words.option()? {
            let value = words.word()?;
            let is = |name: &str| filter.eq_ignore_ascii_case(name.as_bytes());
            if is("id") {
                victims.id = Some(id(value)?);
            } else if is("type") {
                victims.normal = is_normal(value)?;
            } else if is("addr") {
                victims.addr = Some(value);
            } else if is("laddr") {
                victims.laddr = Some(value);
            } else if is("user") {
                victims.user = Some(value);
            } else if is("maxage") {
                victims.age = Some(age(value)?);
            } else if is("skipme") {
                victims.skip_me = switch(value, "yes", "no")?;
            } else {
                return Err(WireError::syntax());
            }
        }
        Ok(victims)
    }

    fn fits(&self, client: &ClientInfo, now_ms: u64) -> bool {
        self.normal
            && self.age.is_none_or(|age| now_ms.saturating_sub(client.since_ms) / 1000 >= age)
            && self.id.is_none_or(|id| id == client.id)
            && self.addr.is_none_or(|addr| addr == client.addr.as_bytes())
            && self.laddr.is_none_or(|laddr| laddr == client.laddr.as_bytes())
            && self.user.is_none_or(|name| client.user().map_or(DEFAULT == name, |user| *user.name == *name))
    }
}

fn switch(word: &[u8], on: &str, off: &str) -> Result<bool, WireError> {
    if word.eq_ignore_ascii_case(on.as_bytes()) {
        Ok(true)
    } else if word.eq_ignore_ascii_case(off.as_bytes()) {
        Ok(false)
    } else {
        Err(WireError::syntax())
    }
}

/// `CLIENT KILL addr`, or `CLIENT KILL [ID id] [TYPE type] [USER user] [ADDR addr] [LADDR addr] [MAXAGE seconds]
/// [SKIPME yes | no]`
pub(crate) fn client_kill(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let mut words = Words::new(&ctx.args, 2);
    let old_form = words.left() == 1;
    let victims = if old_form {
        Victims {
            id: None,
            addr: Some(words.word()?),
            laddr: None,
            user: None,
            normal: true,
            age: None,
            skip_me: false,
        }
    } else {
        Victims::parse(&mut words)?
    };
    if let Some(name) = victims.user.filter(|name| ctx.node.users.get(name).is_none()) {
        return Err(WireError::err(format!("No such user '{}'", String::from_utf8_lossy(name))));
    }
    let (own, now_ms) = (ctx.session.client.id, ctx.now.0 / 1_000_000);
    let (mut killed, mut own_end) = (0, false);
    for client in ctx.node.clients.all() {
        if !victims.fits(&client, now_ms) || (victims.skip_me && client.id == own) {
            continue;
        }
        killed += 1;
        // This connection still has to answer.
        if client.id == own {
            own_end = true;
        } else {
            client.kill();
        }
    }
    match (old_form, killed) {
        (true, 0) => return Err(WireError::err("No such client")),
        (true, _) => ctx.reply().ok(),
        (false, _) => ctx.reply().integer(killed),
    }
    Ok(if own_end { Flow::Close } else { Flow::Go })
}

/// A name that cannot break a line of `CLIENT LIST`.
pub(super) fn checked_name(name: &[u8], what: &str) -> Result<String, WireError> {
    if name.len() > NAME_LEN_MAX {
        return Err(WireError::err(format!("{what} have at most {NAME_LEN_MAX} bytes.")));
    }
    match std::str::from_utf8(name) {
        Ok(text) if name.iter().all(u8::is_ascii_graphic) => Ok(text.to_owned()),
        _ => Err(WireError::err(format!("{what} cannot contain spaces, newlines or special characters."))),
    }
}

/// `CLIENT SETNAME name`
pub(crate) fn client_set_name(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let name = checked_name(ctx.word(2)?, "Client names")?;
    ctx.session.client.words.lock().name = name;
    ctx.reply().ok();
    Ok(Flow::Go)
}

/// `CLIENT GETNAME`
pub(crate) fn client_get_name(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let name = ctx.session.client.words.lock().name.clone();
    if name.is_empty() {
        ctx.reply().null()
    } else {
        ctx.reply().bulk(name.as_bytes())
    }
    Ok(Flow::Go)
}

/// `CLIENT SETINFO LIB-NAME name | LIB-VER version`
pub(crate) fn client_set_info(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let (attribute, value) = (ctx.word(2)?, ctx.word(3)?);
    let client = &ctx.session.client;
    if attribute.eq_ignore_ascii_case(b"lib-name") {
        client.words.lock().lib_name = checked_name(value, "lib-name")?;
    } else if attribute.eq_ignore_ascii_case(b"lib-ver") {
        client.words.lock().lib_ver = checked_name(value, "lib-ver")?;
    } else {
        return Err(WireError::err(format!("Unrecognized option '{}'", String::from_utf8_lossy(attribute))));
    }
    ctx.reply().ok();
    Ok(Flow::Go)
}

fn set_switch(ctx: &mut Ctx<'_>, of: impl Fn(&ClientInfo) -> &AtomicBool) -> Result<Flow, WireError> {
    let on = switch(ctx.word(2)?, "on", "off")?;
    of(&ctx.session.client).store(on, Ordering::Relaxed);
    ctx.reply().ok();
    Ok(Flow::Go)
}

/// `CLIENT NO-EVICT ON | OFF`: shown in `CLIENT LIST`; connections are not evicted anyway.
pub(crate) fn client_no_evict(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    set_switch(ctx, |client| &client.no_evict)
}

/// `CLIENT NO-TOUCH ON | OFF`
pub(crate) fn client_no_touch(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    set_switch(ctx, |client| &client.no_touch)
}

/// `CLIENT REPLY ON | OFF | SKIP`
pub(crate) fn client_reply(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let mode = ctx.word(2)?;
    let is = |name: &str| mode.eq_ignore_ascii_case(name.as_bytes());
    if is("on") {
        ctx.session.reply_mode = ReplyMode::On;
        ctx.reply().ok();
        return Ok(Flow::Heard);
    } else if is("off") {
        ctx.session.reply_mode = ReplyMode::Off;
    } else if is("skip") {
        // Within `OFF` there is nothing to skip.
        if ctx.session.reply_mode != ReplyMode::Off {
            ctx.session.reply_mode = ReplyMode::SkipNext;
        }
    } else {
        return Err(WireError::syntax());
    }
    Ok(Flow::Go)
}

/// `CLIENT PAUSE timeout [WRITE | ALL]`
pub(crate) fn client_pause(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let span = parse_i64(ctx.word(2)?)
        .ok_or_else(|| WireError::err("timeout is not an integer or out of range"))
        .and_then(|span| u64::try_from(span).map_err(|_| WireError::err("timeout is negative")))?;
    let mut words = Words::new(&ctx.args, 3);
    let all = match words.option()? {
        None => true,
        Some(word) if word.eq_ignore_ascii_case(b"write") => false,
        Some(word) if word.eq_ignore_ascii_case(b"all") => true,
        Some(_) => return Err(WireError::err("CLIENT PAUSE mode must be WRITE or ALL")),
    };
    words.end()?;
    ctx.node.pause.begin(ctx.node.now() + Millis(span), all);
    ctx.reply().ok();
    Ok(Flow::Go)
}

/// `CLIENT UNPAUSE`
pub(crate) fn client_unpause(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    ctx.node.pause.end();
    ctx.reply().ok();
    Ok(Flow::Go)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::resp::ArgBuf;

    fn victims<R>(words: &str, look: impl FnOnce(Result<Victims<'_>, String>) -> R) -> R {
        let buf = ArgBuf::new(words.split(' '));
        let args = buf.args();
        look(Victims::parse(&mut Words::new(&args, 0)).map_err(|error| error.to_string()))
    }

    #[test]
    fn kill_means_clients_that_fit_everything_given() {
        let client = ClientInfo::new(7, "127.0.0.1:50000".into(), "127.0.0.1:6379".into(), 9, 0);
        for (words, fits) in [
            ("id 7", true),
            ("id 8", false),
            ("ID 7 ADDR 127.0.0.1:50000", true),
            ("id 7 addr 127.0.0.1:50001", false),
            ("laddr 127.0.0.1:6379 type normal user default", true),
            ("type pubsub", false),
            ("maxage 3", true),
            ("maxage 4", false),
            ("user bob", false),
            ("skipme no", true),
        ] {
            victims(words, |victims| assert_eq!(victims.expect(words).fits(&client, 3_500), fits, "{words}"));
        }
        for (words, complaint) in [
            ("id 0", "ERR client-id should be greater than 0"),
            ("id x", "ERR client-id should be greater than 0"),
            ("type foo", "ERR Unknown client type 'foo'"),
            ("id", "ERR syntax error"),
            ("foo bar", "ERR syntax error"),
            ("skipme maybe", "ERR syntax error"),
            ("maxage x", "ERR maxage is not an integer or out of range"),
            ("maxage 0", "ERR maxage should be greater than 0"),
        ] {
            victims(words, |victims| assert_eq!(victims.expect_err(words), complaint));
        }
    }

    #[test]
    fn a_line_of_the_list_has_the_fields_that_tools_read() {
        let client = ClientInfo::new(7, "127.0.0.1:50000".into(), "127.0.0.1:6379".into(), 9, 1_000);
        client.words.lock().name = "worker-1".into();
        let mut text = String::new();
        line(&mut text, &client, 4_500);
        assert!(
            text.starts_with("id=7 addr=127.0.0.1:50000 laddr=127.0.0.1:6379 fd=9 name=worker-1 age=3 idle=3 flags=N ")
        );
        assert!(text.contains(" cmd=NULL user=default redir=-1 resp=2 lib-name= lib-ver= "));
        assert!(text.ends_with('\n') && text.matches('\n').count() == 1);
        assert!(text.split_ascii_whitespace().all(|field| field.contains('=')), "{text}");
    }

    #[test]
    fn names_cannot_break_a_line() {
        assert_eq!(checked_name(b"a-b:1", "Client names"), Ok("a-b:1".to_owned()));
        assert_eq!(checked_name(b"", "Client names"), Ok(String::new()));
        for bad in [&b"a b"[..], b"a\nb", b"\xff", &[b'a'; NAME_LEN_MAX + 1]] {
            assert!(checked_name(bad, "Client names").is_err());
        }
    }
}
