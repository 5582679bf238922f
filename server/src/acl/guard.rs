//! Whether a client may run a command: asked for those that may not everything.
//!
//! Invariants:
//! - Everything that names a key in another way than by the key is covered here: grants, leases, watched keys.
//! - A refusal tells nothing of what is there: it is the same whether an object has the key or not.

use super::log::Reason;
use super::selector::Refused;
use super::user::User;
use crate::dispatch::Ctx;
use crate::handler::client::line_of;
use crate::handler::command_cmd::name_of;
use crate::session::Session;
use protocol::base::{GrantId, Lent};
use protocol::command::{Access, CommandId, Flags, Spec};
use protocol::resp::{Args, ErrorWord, WireError};
use std::sync::Arc;

/// Answered before a client has said who it is.
pub(crate) fn no_auth() -> WireError {
    WireError::new(ErrorWord::NoAuth, "Authentication required.")
}

/// Answered for a key that the client lost the right to while its command ran.
pub(crate) fn lost() -> WireError {
    WireError::new(ErrorWord::NoPerm, words(Refused::Key(None), "this"))
}

/// Refuses a command that this client may not run.
#[cold]
pub(crate) fn check(ctx: &Ctx<'_>, spec: &'static Spec, known: bool) -> Result<(), WireError> {
    if spec.flags.contains(Flags::NO_AUTH) {
        return Ok(());
    }
    let Some(user) = ctx.session.client.user() else { return Err(no_auth()) };
    // One of the wrong length, or of no such subcommand, does nothing, and is refused for that.
    if user.is_free() || !known || !spec.takes_count(ctx.args.len()) {
        return Ok(());
    }
    let refused = user.check(spec, &ctx.args).map_err(|refused| (refused, object(refused, &ctx.args)));
    let refused = refused.and_then(|()| match unnamed(ctx.session, &user, spec, &ctx.args) {
        Some(key) => Err((Refused::Key(None), key.to_vec())),
        None => Ok(()),
    });
    let Err((refused, object)) = refused else { return Ok(()) };
    let reason = match refused {
        Refused::Command(_) => Reason::Command,
        Refused::Key(_) => Reason::Key,
        Refused::Channel(_) => Reason::Channel,
    };
    note(ctx.session, (reason, ctx.alone.is_some() || ctx.session.multi.is_some()), &object, &user.name);
    Err(WireError::new(ErrorWord::NoPerm, if ctx.alone.is_some() { changed(refused) } else { words(refused, "this") }))
}

/// Whether this client may run what it is about to bring a large value for. What it says of it so far counts.
pub(crate) fn may_bring(session: &Session, args: &Args<'_>) -> bool {
    let Some(user) = session.client.user() else { return false };
    user.is_free()
        || args.bytes(0).and_then(protocol::command::lookup).is_some_and(|spec| user.check(spec, args).is_ok())
}

/// Notes a refusal.
pub(crate) fn note(session: &Session, reason: (Reason, bool), object: &[u8], user: &[u8]) {
    let most = session.node.config.read().acllog_max_len;
    let client = || line_of(&session.client, session.node.now_ms());
    session.node.users.log.note(most, reason, object, user, client);
}

/// A key that the command reaches without naming it, and may not.
fn unnamed(session: &Session, user: &User, spec: &Spec, args: &Args<'_>) -> Option<Box<[u8]>> {
    let lent = |at: usize| args.bytes(at).and_then(|word| Lent::parse(word).ok());
    let refused = |lent: Lent| {
        let access = match lent {
            Lent::Lease(_) => Access::READ,
            Lent::Grant(_) => Access::WRITE,
        };
        session.node.store.lent_key(lent, session.bond.id).filter(|key| !user.may(key, access))
    };
    match spec.id {
        CommandId::Commit => lent(1).and_then(refused),
        CommandId::Renew => lent(1).and_then(refused),
        CommandId::MCommit => {
            let grants = (1..args.len()).step_by(2).filter_map(|at| GrantId::parse(args.bytes(at)?).ok());
            grants.map(Lent::Grant).find_map(refused)
        }
        CommandId::Exec => {
            session.watched.iter().find(|(key, _)| !user.may(key, Access::empty())).map(|(key, _)| key.clone())
        }
        _ => None,
    }
}

/// What was refused, for `ACL LOG`.
fn object(refused: Refused, args: &Args<'_>) -> Vec<u8> {
    match refused {
        Refused::Command(id) => name_of(id).as_bytes().to_vec(),
        Refused::Key(None) => b"*".to_vec(),
        Refused::Key(Some(at)) | Refused::Channel(at) => args.bytes(at).unwrap_or_default().to_vec(),
    }
}

/// The refusal in Redis's words.
fn words(refused: Refused, this: &str) -> String {
    match refused {
        Refused::Command(id) => format!("{this} user has no permissions to run the '{}' command", name_of(id)),
        Refused::Key(_) => format!("{this} user has no permissions to access one of the keys used as arguments"),
        Refused::Channel(_) => {
            format!("{this} user has no permissions to access one of the channels used as arguments")
        }
    }
}

/// The same of a command that was allowed when it was queued.
fn changed(refused: Refused) -> String {
    let why = match refused {
        Refused::Command(_) => "no permission to execute the command or subcommand",
        Refused::Key(_) => "no permission to touch the specified keys",
        Refused::Channel(_) => "no permission to access one of the channels used as arguments to the command",
    };
    format!(
        "ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This command is no \
         longer allowed for the following reason: {why}"
    )
}

/// What `ACL DRYRUN` answers.
pub(crate) fn dry_run(user: &User, spec: &Spec, args: &Args<'_>) -> Result<(), String> {
    user.check(spec, args).map_err(|refused| {
        let what = object(refused, args);
        let what = String::from_utf8_lossy(&what);
        match refused {
            Refused::Command(_) => words(refused, "This"),
            Refused::Key(_) => format!("This user has no permissions to access the '{what}' key"),
            Refused::Channel(_) => format!("This user has no permissions to access the '{what}' channel"),
        }
    })
}

/// What a client sees of keys that it does not name.
#[derive(Clone, Debug)]
pub(crate) struct Sight(Option<Arc<User>>);

impl Sight {
    /// Of this client.
    pub(crate) fn of(session: &Session) -> Self {
        let user = || session.client.user().unwrap_or_else(|| Arc::new(User::new(b"", false)));
        Self((!session.client.is_free()).then(user))
    }

    /// Whether it sees all keys.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.as_ref().is_none_or(|user| user.may_all(Access::empty()))
    }

    /// Whether it sees this one.
    pub(crate) fn has(&self, key: &[u8]) -> bool {
        self.0.as_ref().is_none_or(|user| user.may(key, Access::empty()))
    }
}
