//! The connection itself: who is there, in which protocol, and its end.

use crate::acl::guard;
use crate::acl::log::Reason;
use crate::acl::user::DEFAULT;
use crate::dispatch::{Ctx, Flow};
use crate::node::Node;
use crate::session::{ReplyMode, Session};
use protocol::command::{Words, parse_i64};
use protocol::resp::{ErrorWord, WireError};
use std::sync::atomic::Ordering;

/// The version of Redis whose behaviour tools may expect.
pub(crate) const REDIS_VERSION: &str = "7.2.4";
/// What we are called where servers say what they are.
pub(crate) const SERVER_NAME: &str = "mooncake";

/// `PING [message]`
pub(crate) fn ping(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let args = ctx.args;
    match args.len() {
        // Replies look like messages to a subscriber in RESP2.
        1 | 2 if ctx.session.is_subscriber(ctx.output) => {
            let mut reply = ctx.output.writer();
            reply.array(2);
            reply.bulk(b"pong");
            reply.bulk(args.bytes(1).unwrap_or_default());
        }
        1 => ctx.reply().simple("PONG"),
        2 => ctx.output.writer().bulk(args.bytes(1).ok_or_else(WireError::syntax)?),
        _ => return Err(WireError::arity("ping")),
    }
    Ok(Flow::Go)
}

/// `ECHO message`
pub(crate) fn echo(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let message = ctx.args.bytes(1).ok_or_else(WireError::syntax)?;
    ctx.reply().bulk(message);
    Ok(Flow::Go)
}

/// What `HELLO` asks for. Nothing of it holds before all of it was found to be right.
#[derive(Default)]
struct Hello<'a> {
    resp3: Option<bool>,
    credentials: Option<(&'a [u8], &'a [u8])>,
    name: Option<String>,
}

impl<'a> Hello<'a> {
    fn parse(words: &mut Words<'a>) -> Result<Self, WireError> {
        let mut hello = Self::default();
        let Some(version) = words.option()? else { return Ok(hello) };
        hello.resp3 = Some(match parse_i64(version) {
            Some(2) => false,
            Some(3) => true,
            Some(_) => return Err(WireError::new(ErrorWord::NoProto, "unsupported protocol version")),
            None => return Err(WireError::err("Protocol version is not an integer or out of range")),
        });
        while let Some(option) = words.option()? {
            if option.eq_ignore_ascii_case(b"auth") && words.left() >= 2 {
                hello.credentials = Some((words.word()?, words.word()?));
            } else if option.eq_ignore_ascii_case(b"setname") && words.left() >= 1 {
                hello.name = Some(super::client::checked_name(words.word()?, "Client names")?);
            } else {
                let option = String::from_utf8_lossy(option);
                return Err(WireError::err(format!("Syntax error in HELLO option '{option}'")));
            }
        }
        Ok(hello)
    }
}

/// `HELLO [2 | 3 [AUTH user password] [SETNAME name]]`
pub(crate) fn hello(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let hello = Hello::parse(&mut Words::new(&ctx.args, 1))?;
    if let Some((user, password)) = hello.credentials {
        authenticate(ctx.session, "HELLO", user, password)?;
    }
    if !ctx.session.authenticated {
        return Err(WireError::new(
            ErrorWord::NoAuth,
            "HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> \
             option can be used to authenticate the client and select the RESP protocol version at the same time",
        ));
    }
    if let Some(resp3) = hello.resp3 {
        set_protocol(ctx, resp3);
    }
    let client = &ctx.session.client;
    if let Some(name) = hello.name {
        client.words.lock().name = name;
    }
    let id = client.id;
    let mode = mode(ctx.node);
    let mut reply = ctx.output.writer();
    let proto = if reply.is_resp3() { 3 } else { 2 };
    reply.map(7);
    reply.field("server").bulk(SERVER_NAME.as_bytes());
    reply.field("version").bulk(REDIS_VERSION.as_bytes());
    reply.field("proto").integer(proto);
    reply.field("id").count(id);
    reply.field("mode").bulk(mode.as_bytes());
    reply.field("role").bulk(b"master");
    reply.field("modules").array(0);
    Ok(Flow::Relimit)
}

/// The word for how it serves.
pub(crate) fn mode(node: &Node) -> &'static str {
    if node.cluster_enabled { "cluster" } else { "standalone" }
}

/// `AUTH [user] password`
pub(crate) fn auth(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let args = ctx.args;
    let word = |index| args.bytes(index).ok_or_else(WireError::syntax);
    let (user, password) = match args.len() {
        2 if !ctx.node.hot.needs_auth.load(Ordering::Relaxed) => {
            return Err(WireError::err(
                "AUTH <password> called without any password configured for the default user. \
                 Are you sure your configuration is correct?",
            ));
        }
        2 => (DEFAULT, word(1)?),
        3 => (word(1)?, word(2)?),
        _ => return Err(WireError::syntax()),
    };
    authenticate(ctx.session, "AUTH", user, password)?;
    ctx.reply().ok();
    Ok(Flow::Relimit)
}

/// Lets the client in, or leaves it as it was.
fn authenticate(session: &mut Session, asked_by: &str, user: &[u8], password: &[u8]) -> Result<(), WireError> {
    if !session.node.log_in(&session.client, user, password) {
        guard::note(session, (Reason::Auth, session.multi.is_some()), asked_by.as_bytes(), user);
        return Err(WireError::new(ErrorWord::WrongPass, "invalid username-password pair or user is disabled."));
    }
    session.authenticated = true;
    Ok(())
}

fn set_protocol(ctx: &mut Ctx<'_>, resp3: bool) {
    ctx.output.resp3 = resp3;
    ctx.session.client.resp3.store(resp3, Ordering::Relaxed);
}

/// `SELECT index`
pub(crate) fn select(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let index = parse_i64(ctx.args.bytes(1).ok_or_else(WireError::syntax)?).ok_or_else(WireError::not_an_integer)?;
    if index != 0 {
        return Err(WireError::err("DB index is out of range"));
    }
    ctx.reply().ok();
    Ok(Flow::Go)
}

/// `QUIT`
pub(crate) fn quit(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    ctx.reply().ok();
    Ok(Flow::Close)
}

/// `RESET`: the connection is as it was when it began. A bulk session that it had ends, for it may have to say again who
/// it is.
pub(crate) fn reset(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    set_protocol(ctx, false);
    let session = &mut *ctx.session;
    session.reply_mode = ReplyMode::On;
    session.leave_multi();
    session.stop_listening();
    session.unwatch();
    session.authenticated = ctx.node.log_in_unasked(&session.client);
    session.client.no_evict.store(false, Ordering::Relaxed);
    session.client.no_touch.store(false, Ordering::Relaxed);
    session.client.words.lock().name.clear();
    // On a ring this would end the very connection that asks.
    if session.owns_bond {
        session.bond.detach(ctx.node);
    }
    ctx.reply().simple("RESET");
    Ok(Flow::Relimit)
}
