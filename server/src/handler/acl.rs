//! `ACL`: users, what they may, and what was refused.

use crate::acl::guard;
use crate::acl::log::Entry;
use crate::acl::password::hex;
use crate::acl::rule;
use crate::acl::selector::Selector;
use crate::acl::user::DEFAULT;
use crate::clock::unix_ms;
use crate::dispatch::{Ctx, Flow};
use protocol::command::{self, Acl, Words, parse_i64};
use protocol::resp::{WireError, Writer};
use ring::rand::{SecureRandom as _, SystemRandom};

/// Bits of a password that `ACL GENPASS` makes without being told how many, and at most.
const GENPASS_BITS: i64 = 256;
const GENPASS_BITS_MAX: usize = 4096;
/// Entries that `ACL LOG` answers without being told how many.
const LOG_ENTRIES: usize = 10;

fn bulks<B: AsRef<[u8]>>(ctx: &mut Ctx<'_>, bulks: &[B]) -> Result<Flow, WireError> {
    let mut reply = ctx.reply();
    reply.array(bulks.len());
    bulks.iter().for_each(|bulk| reply.bulk(bulk.as_ref()));
    Ok(Flow::Go)
}

/// Redis's answer to words behind the last that a subcommand takes.
fn too_many(subcommand: &str) -> WireError {
    WireError::err(format!("unknown subcommand or wrong number of arguments for '{subcommand}'. Try ACL HELP."))
}

/// `ACL CAT [category]`
pub(crate) fn cat(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let mut words = Words::new(&ctx.args, 2);
    let Some(name) = words.option()? else {
        return bulks(ctx, &Acl::WORDS.map(|(_, word)| word));
    };
    if words.left() > 0 {
        return Err(too_many("CAT"));
    }
    let group = Acl::parse(name)
        .ok_or_else(|| WireError::err(format!("Unknown category '{}'", String::from_utf8_lossy(name))))?;
    let specs = command::all().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands));
    let names: Vec<&str> = specs.filter(|spec| spec.acl.contains(group)).map(|spec| spec.full_name).collect();
    bulks(ctx, &names)
}

/// `ACL SETUSER username [rule …]`
pub(crate) fn set_user(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let words = ctx.args.skip(3).iter().map(|rule| rule.bytes().unwrap_or_default());
    let rules = rule::whole(words).map_err(|begun| {
        let begun = String::from_utf8_lossy(&begun);
        WireError::err(format!("Unmatched parenthesis in acl selector starting at '{begun}'."))
    })?;
    let name = ctx.word(2)?;
    ctx.node.set_user(name, &rules).map_err(WireError::err)?;
    tracing::info!(user = %String::from_utf8_lossy(name), by = ctx.session.client.id, "ACL SETUSER");
    ctx.reply().ok();
    Ok(Flow::Go)
}

/// `ACL DELUSER username …`
pub(crate) fn del_user(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let names: Vec<&[u8]> = ctx.args.skip(2).iter().filter_map(|name| name.bytes()).collect();
    let deleted = ctx.node.delete_users(&names, &ctx.session.client).map_err(WireError::err)?;
    ctx.reply().count(deleted as u64);
    // Whoever deleted itself still got its answer.
    Ok(if ctx.session.client.user().is_none() { Flow::Close } else { Flow::Go })
}

/// Commands, keys and channels of a selector, as fields of a map.
fn write_selector(reply: &mut Writer<'_>, selector: &Selector) {
    reply.field("commands").bulk(&selector.describe_commands());
    reply.field("keys").bulk(&selector.describe_keys());
    reply.field("channels").bulk(&selector.describe_channels());
}

/// `ACL GETUSER username`
pub(crate) fn get_user(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let user = ctx.node.users.get(ctx.word(2)?);
    let mut reply = ctx.reply();
    let Some(user) = user else {
        reply.null();
        return Ok(Flow::Go);
    };
    reply.map(6);
    let flags = user.flags();
    reply.field("flags").set(flags.len());
    flags.iter().for_each(|flag| reply.bulk(flag.as_bytes()));
    let passwords = user.passwords();
    reply.field("passwords").array(passwords.len());
    passwords.for_each(|hash| reply.bulk(hash.as_bytes()));
    let (root, selectors) = user.selectors();
    write_selector(&mut reply, root);
    reply.field("selectors").array(selectors.len());
    for selector in selectors {
        reply.map(3);
        write_selector(&mut reply, selector);
    }
    Ok(Flow::Go)
}

/// `ACL LIST`
pub(crate) fn list(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let lines: Vec<Vec<u8>> = ctx.node.users.all().iter().map(|user| user.line()).collect();
    bulks(ctx, &lines)
}

/// `ACL USERS`
pub(crate) fn users(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let names: Vec<Box<[u8]>> = ctx.node.users.all().iter().map(|user| user.name.clone()).collect();
    bulks(ctx, &names)
}

/// `ACL WHOAMI`
pub(crate) fn who_am_i(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let user = ctx.session.client.user();
    ctx.reply().bulk(user.as_ref().map_or(DEFAULT, |user| &user.name));
    Ok(Flow::Go)
}

/// `ACL GENPASS [bits]`
pub(crate) fn gen_pass(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let mut words = Words::new(&ctx.args, 2);
    let bits =
        words.option()?.map_or(Ok(GENPASS_BITS), |bits| parse_i64(bits).ok_or_else(WireError::not_an_integer))?;
    if words.left() > 0 {
        return Err(too_many("GENPASS"));
    }
    let bits = usize::try_from(bits).ok().filter(|&bits| bits > 0 && bits <= GENPASS_BITS_MAX);
    let bits = bits.ok_or_else(|| {
        WireError::err(format!(
            "ACL GENPASS argument must be the number of bits for the output password, a positive number up to \
             {GENPASS_BITS_MAX}"
        ))
    })?;
    let digits = bits.div_ceil(4);
    let mut bytes = vec![0; digits.div_ceil(2)];
    // The random numbers of the operating system: a password outlives whatever seeded others.
    SystemRandom::new().fill(&mut bytes).map_err(|_| WireError::err("the system has no random numbers"))?;
    ctx.reply().bulk(&hex(&bytes).as_bytes()[..digits]);
    Ok(Flow::Go)
}

/// `ACL LOAD`
pub(crate) fn load(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    ctx.node.load_users().map_err(WireError::err)?;
    tracing::info!("ACL LOAD: the users were read again");
    ctx.reply().ok();
    Ok(Flow::Go)
}

/// `ACL SAVE`
pub(crate) fn save(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    ctx.node.save_users().map_err(WireError::err)?;
    ctx.reply().ok();
    Ok(Flow::Go)
}

/// `ACL LOG [count | RESET]`
pub(crate) fn log(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let mut words = Words::new(&ctx.args, 2);
    let asked = words.option()?;
    if words.left() > 0 {
        return Err(too_many("LOG"));
    }
    let most = match asked {
        None => LOG_ENTRIES,
        Some(word) if word.eq_ignore_ascii_case(b"reset") => {
            ctx.node.users.log.forget();
            ctx.reply().ok();
            return Ok(Flow::Go);
        }
        // As Redis: a negative count is none.
        Some(word) => usize::try_from(parse_i64(word).ok_or_else(WireError::not_an_integer)?).unwrap_or(0),
    };
    let entries = ctx.node.users.log.latest(most);
    let mut reply = ctx.reply();
    reply.array(entries.len());
    for entry in &entries {
        write_entry(&mut reply, entry);
    }
    Ok(Flow::Go)
}

fn write_entry(reply: &mut Writer<'_>, entry: &Entry) {
    reply.map(10);
    reply.field("count").count(entry.count);
    reply.field("reason").bulk(entry.reason.word().as_bytes());
    reply.field("context").bulk(if entry.in_multi { b"multi" } else { b"toplevel" });
    reply.field("object").bulk(&entry.object);
    reply.field("username").bulk(&entry.user);
    reply.field("age-seconds").double(unix_ms().saturating_sub(entry.updated_ms) as f64 / 1000.0);
    reply.field("client-info").bulk(entry.client.as_bytes());
    reply.field("entry-id").count(entry.number);
    reply.field("timestamp-created").count(entry.created_ms);
    reply.field("timestamp-last-updated").count(entry.updated_ms);
}

/// `ACL DRYRUN username command [arg …]`
pub(crate) fn dry_run(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let name = ctx.word(2)?;
    let user = ctx.node.users.get(name);
    let user = user.ok_or_else(|| WireError::err(format!("User '{}' not found", String::from_utf8_lossy(name))))?;
    let asked = ctx.args.skip(3);
    let word = asked.bytes(0).unwrap_or_default();
    let container = command::lookup(word);
    let spec = container.map(|spec| asked.bytes(1).and_then(|word| spec.subcommand(word)).unwrap_or(spec));
    let spec = spec.ok_or_else(|| WireError::err(format!("Command '{}' not found", String::from_utf8_lossy(word))))?;
    spec.check_arity(asked.len())?;
    match guard::dry_run(&user, spec, &asked) {
        Ok(()) => ctx.reply().ok(),
        Err(why) => ctx.reply().bulk(why.as_bytes()),
    }
    Ok(Flow::Go)
}
