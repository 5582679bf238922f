//! `COMMAND`: the table of commands, in the shapes that Redis 7 answers.

use crate::dispatch::{Ctx, Flow};
use crate::glob::Glob;
use protocol::command::{self, Acl, CommandId, Flags, Keys, Spec, Syntax, SyntaxKind, Words};
use protocol::resp::{WireError, Writer};
use std::sync::LazyLock;

static BY_ID: LazyLock<Box<[&'static Spec]>> = LazyLock::new(|| {
    let mut specs: Vec<&'static Spec> =
        command::all().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands)).collect();
    specs.sort_by_key(|spec| spec.id);
    assert_eq!(specs.len(), CommandId::COUNT, "every command has one entry");
    specs.into_boxed_slice()
});

/// `HELP` of a container: its subcommands, how they are written, and what they do.
pub(crate) fn help(spec: &Spec, reply: &mut Writer<'_>) {
    reply.array(3 + 2 * spec.subcommands.iter().filter(|sub| sub.name != "help").count());
    let name = spec.name.to_uppercase();
    reply.simple(&format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for sub in spec.subcommands.iter().filter(|sub| sub.name != "help") {
        let usage = sub.usage();
        reply.simple(usage.strip_prefix(&name).unwrap_or(&usage).trim_start());
        reply.simple(&format!("    {}", sub.summary));
    }
    reply.simple("HELP");
    reply.simple("    Print this help.");
}

/// The entry of a command by its number, if it is one.
pub(crate) fn spec_at(id: u64) -> Option<&'static Spec> {
    usize::try_from(id).ok().and_then(|id| BY_ID.get(id).copied())
}

/// The full name of a command.
pub(crate) fn name_of(id: CommandId) -> &'static str {
    BY_ID[id as usize].full_name
}

/// The command called `name`, or `container|subcommand`.
fn find(name: &[u8]) -> Option<&'static Spec> {
    let mut parts = name.splitn(2, |&byte| byte == b'|');
    let spec = command::lookup(parts.next()?)?;
    match parts.next() {
        Some(sub) => spec.subcommand(sub),
        None => Some(spec),
    }
}

/// `COMMAND`
pub(crate) fn command(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let mut reply = ctx.reply();
    reply.array(command::all().count());
    for spec in command::all() {
        write_info(&mut reply, spec);
    }
    Ok(Flow::Go)
}

/// `COMMAND COUNT`
pub(crate) fn command_count(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    ctx.reply().count(command::all().count() as u64);
    Ok(Flow::Go)
}

/// `COMMAND INFO [name …]`
pub(crate) fn command_info(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let names = ctx.args.skip(2);
    if names.is_empty() {
        return command(ctx);
    }
    let mut reply = ctx.reply();
    reply.array(names.len());
    for name in names {
        match name.bytes().and_then(find) {
            Some(spec) => write_info(&mut reply, spec),
            None => reply.null(),
        }
    }
    Ok(Flow::Go)
}

/// `COMMAND DOCS [name …]`
pub(crate) fn command_docs(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let names = ctx.args.skip(2);
    let specs: Vec<&'static Spec> = if names.is_empty() {
        command::all().collect()
    } else {
        names.iter().filter_map(|name| find(name.bytes()?)).collect()
    };
    let mut reply = ctx.reply();
    reply.map(specs.len());
    for spec in specs {
        write_docs(&mut reply, spec);
    }
    Ok(Flow::Go)
}

/// `COMMAND GETKEYS command [arg …]`
pub(crate) fn command_get_keys(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let asked = ctx.args.skip(2);
    let container = command::lookup(asked.bytes(0).unwrap_or_default());
    let spec = container.map(|spec| asked.bytes(1).and_then(|word| spec.subcommand(word)).unwrap_or(spec));
    let spec = spec.ok_or_else(|| WireError::err("Invalid command specified"))?;
    if spec.keys == Keys::None {
        return Err(WireError::err("The command has no key arguments"));
    }
    if !spec.takes_count(asked.len()) {
        return Err(WireError::err("Invalid number of arguments specified for command"));
    }
    let positions = spec.keys.positions(&asked);
    let mut reply = ctx.reply();
    reply.array(positions.len());
    for position in positions {
        reply.bulk(asked.bytes(position).unwrap_or_default());
    }
    Ok(Flow::Go)
}

/// What `COMMAND LIST` is asked for.
#[derive(Clone, Copy, Debug)]
enum Filter<'a> {
    All,
    None,
    Group(Acl),
    Pattern(Glob<'a>),
}

impl<'a> Filter<'a> {
    fn parse(words: &mut Words<'a>) -> Result<Self, WireError> {
        let Some(filter_by) = words.option()? else { return Ok(Self::All) };
        if !filter_by.eq_ignore_ascii_case(b"filterby") {
            return Err(WireError::syntax());
        }
        let (kind, value) = (words.word()?, words.word()?);
        words.end()?;
        if kind.eq_ignore_ascii_case(b"module") {
            Ok(Self::None)
        } else if kind.eq_ignore_ascii_case(b"aclcat") {
            let group = Acl::WORDS.iter().find(|(_, word)| value.eq_ignore_ascii_case(word.as_bytes()));
            Ok(group.map_or(Self::None, |(group, _)| Self::Group(*group)))
        } else if kind.eq_ignore_ascii_case(b"pattern") {
            Glob::any_case(value).map(Self::Pattern)
        } else {
            Err(WireError::syntax())
        }
    }

    fn takes(&self, spec: &Spec) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Group(group) => spec.acl.contains(*group),
            Self::Pattern(glob) => glob.matches(spec.full_name.as_bytes()),
        }
    }
}

/// `COMMAND LIST [FILTERBY MODULE name | ACLCAT group | PATTERN glob]`
pub(crate) fn command_list(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let filter = Filter::parse(&mut Words::new(&ctx.args, 2))?;
    let names: Vec<&str> = command::all()
        .flat_map(|spec| std::iter::once(spec).chain(spec.subcommands))
        .filter(|spec| filter.takes(spec))
        .map(|spec| spec.full_name)
        .collect();
    let mut reply = ctx.reply();
    reply.set(names.len());
    for name in names {
        reply.bulk(name.as_bytes());
    }
    Ok(Flow::Go)
}

fn write_words<'w>(reply: &mut Writer<'_>, words: impl Iterator<Item = &'w str> + Clone, prefix: &str) {
    reply.set(words.clone().count());
    for word in words {
        reply.simple(&format!("{prefix}{word}"));
    }
}

/// Ten values: name, arity, flags, first, last, step, access groups, hints, key specifications, subcommands.
fn write_info(reply: &mut Writer<'_>, spec: &'static Spec) {
    let (first, last, step) = spec.keys.triple();
    reply.array(10);
    reply.bulk(spec.full_name.as_bytes());
    reply.integer(spec.arity.into());
    let flags: Vec<&str> = spec.flags.words().collect();
    write_words(reply, flags.iter().copied(), "");
    reply.integer(first);
    reply.integer(last);
    reply.integer(step);
    let groups: Vec<&str> = spec.acl.words().collect();
    write_words(reply, groups.iter().copied(), "@");
    reply.set(0);
    write_keys(reply, spec);
    reply.set(spec.subcommands.len());
    for sub in spec.subcommands {
        write_info(reply, sub);
    }
}

/// Where the keys are, for clients that route by them.
fn write_keys(reply: &mut Writer<'_>, spec: &Spec) {
    if spec.keys == Keys::None {
        reply.set(0);
        return;
    }
    let access = if spec.flags.contains(Flags::WRITE) { ["OW", "update"] } else { ["RO", "access"] };
    let begin = |reply: &mut Writer<'_>, first: usize| {
        reply.map(2);
        reply.field("type").bulk(b"index");
        reply.field("spec").map(1);
        reply.field("index").count(first as u64);
    };
    let numbers = |reply: &mut Writer<'_>, kind: &str, values: &[(&str, i64)]| {
        reply.map(2);
        reply.field("type").bulk(kind.as_bytes());
        reply.field("spec").map(values.len());
        for (name, value) in values {
            reply.field(name).integer(*value);
        }
    };
    reply.set(1);
    reply.map(3);
    reply.field("flags");
    write_words(reply, access.into_iter(), "");
    reply.field("begin_search");
    match spec.keys {
        Keys::None => unreachable!("answered above"),
        Keys::Range { first, last, step } => {
            begin(reply, first);
            reply.field("find_keys");
            // Counted from the first key, where it does not count from the end.
            let last = if last < 0 { last } else { last - first.cast_signed() };
            numbers(reply, "range", &[("lastkey", last as i64), ("keystep", step as i64), ("limit", 0)]);
        }
        Keys::CountedPairs => {
            begin(reply, 1);
            reply.field("find_keys");
            numbers(reply, "keynum", &[("keynumidx", 0), ("firstkey", 1), ("keystep", 2)]);
        }
        Keys::UntilOption { first, .. } => {
            begin(reply, first);
            reply.field("find_keys");
            numbers(reply, "unknown", &[]);
        }
    }
}

/// Name to summary, since when, group, complexity, arguments, subcommands.
fn write_docs(reply: &mut Writer<'_>, spec: &'static Spec) {
    reply.bulk(spec.full_name.as_bytes());
    reply.map(4 + usize::from(!spec.syntax.is_empty()) + usize::from(!spec.subcommands.is_empty()));
    reply.field("summary").bulk(spec.summary.trim_end_matches('.').as_bytes());
    reply.field("since").bulk(spec.since.as_bytes());
    reply.field("group").bulk(spec.group.as_str().as_bytes());
    reply.field("complexity").bulk(spec.complexity.as_bytes());
    if !spec.syntax.is_empty() {
        reply.field("arguments");
        write_arguments(reply, spec.syntax);
    }
    if !spec.subcommands.is_empty() {
        reply.field("subcommands").map(spec.subcommands.len());
        for sub in spec.subcommands {
            write_docs(reply, sub);
        }
    }
}

fn write_arguments(reply: &mut Writer<'_>, nodes: &[Syntax]) {
    reply.array(nodes.len());
    for node in nodes {
        let nested = matches!(node.kind, SyntaxKind::OneOf | SyntaxKind::Block);
        let is_key = node.kind == SyntaxKind::Key;
        // Newer versions of redis-cli show this where older ones show the name.
        let shown = !nested && node.kind != SyntaxKind::PureToken;
        let flagged = node.optional || node.multiple;
        reply
            .map(2 + [shown, is_key, node.token.is_some(), flagged, nested].into_iter().filter(|&there| there).count());
        reply.field("name").bulk(node.name.as_bytes());
        reply.field("type").bulk(node.kind.as_str().as_bytes());
        if shown {
            reply.field("display_text").bulk(node.name.as_bytes());
        }
        if is_key {
            reply.field("key_spec_index").integer(0);
        }
        if let Some(token) = node.token {
            reply.field("token").bulk(token.as_bytes());
        }
        if flagged {
            let flags = [(node.optional, "optional"), (node.multiple, "multiple")];
            reply.field("flags");
            write_words(reply, flags.into_iter().filter(|(set, _)| *set).map(|(_, word)| word), "");
        }
        if nested {
            reply.field("arguments");
            write_arguments(reply, node.inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use protocol::resp::ArgBuf;

    fn written(resp3: bool, write: impl FnOnce(&mut Writer<'_>)) -> String {
        let mut out = BytesMut::new();
        write(&mut Writer::new(&mut out, resp3));
        String::from_utf8_lossy(&out).replace("\r\n", " ")
    }

    fn spec(name: &str) -> &'static Spec {
        find(name.as_bytes()).unwrap_or_else(|| panic!("no command {name}"))
    }

    /// The right side is what redis-server 7.0 answers to `COMMAND INFO get`, without its hints, and with the arity of a command that
    /// takes `INTO` too.
    #[test]
    fn information_has_the_shape_that_redis_gives_it() {
        assert_eq!(
            written(true, |reply| write_info(reply, spec("get"))),
            "*10 $3 get :-2 ~2 +readonly +fast :1 :1 :1 ~3 +@read +@string +@fast ~0 ~1 %3 $5 flags ~2 +RO +access \
             $12 begin_search %2 $4 type $5 index $4 spec %1 $5 index :1 $9 find_keys %2 $4 type $5 range $4 spec %3 \
             $7 lastkey :0 $7 keystep :1 $5 limit :0 ~0 "
        );
        let mget = written(false, |reply| write_info(reply, spec("mget")));
        assert!(mget.contains("$7 lastkey :-1 "), "{mget}");
        let client = written(false, |reply| write_info(reply, spec("client")));
        assert!(client.contains("*10 $9 client|id :2 "), "{client}");
    }

    #[test]
    fn docs_have_the_shape_that_redis_gives_them() {
        assert_eq!(
            written(true, |reply| write_docs(reply, spec("expire"))),
            "$6 expire %5 $7 summary $43 Ends an object's life after so many seconds $5 since $5 1.0.0 $5 group \
             $7 generic $10 complexity $4 O(1) $9 arguments *3 \
             %4 $4 name $3 key $4 type $3 key $12 display_text $3 key $14 key_spec_index :0 \
             %3 $4 name $7 seconds $4 type $7 integer $12 display_text $7 seconds \
             %4 $4 name $9 condition $4 type $5 oneof $5 flags ~1 +optional $9 arguments *4 \
             %3 $4 name $2 nx $4 type $10 pure-token $5 token $2 NX %3 $4 name $2 xx $4 type $10 pure-token $5 token $2 XX \
             %3 $4 name $2 gt $4 type $10 pure-token $5 token $2 GT %3 $4 name $2 lt $4 type $10 pure-token $5 token $2 LT "
        );
    }

    #[test]
    fn numbers_and_full_names_lead_to_their_entries() {
        for &id in CommandId::ALL {
            assert_eq!(spec_at(id as u64).map(|spec| spec.id), Some(id));
        }
        assert!(spec_at(u64::MAX).is_none());
        assert_eq!(find(b"CLIENT|ID").map(|spec| spec.id), Some(CommandId::ClientId));
        for bad in [&b"client|"[..], b"client|nope", b"get|x", b"|", b""] {
            assert!(find(bad).is_none(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn lists_are_filtered_by_group_and_pattern() {
        let takes = |words: &str, name: &str| {
            let buf = ArgBuf::new(words.split(' '));
            let args = buf.args();
            Filter::parse(&mut Words::new(&args, 0)).map(|filter| filter.takes(spec(name))).map_err(|e| e.to_string())
        };
        assert_eq!(takes("FILTERBY ACLCAT string", "get"), Ok(true));
        assert_eq!(takes("filterby aclcat STRING", "ttl"), Ok(false));
        assert_eq!(takes("filterby aclcat nosuch", "get"), Ok(false));
        assert_eq!(takes("filterby pattern EX*", "expire"), Ok(true));
        assert_eq!(takes("filterby module m", "get"), Ok(false));
        assert_eq!(takes("filterby what m", "get"), Err("ERR syntax error".to_owned()));
        assert_eq!(takes("pattern ex*", "get"), Err("ERR syntax error".to_owned()));
    }
}
