//! All commands, and the way from a name to its entry.
//!
//! Role: the families' entries in one list and a hash table over their names that the compiler builds.

use super::Spec;
use super::{connection, generic, lease, node, object, pin, server, session, string};
use crate::resp::{Args, WireError};

/// One slice a family, in the order of the documentation.
const FAMILIES: [&[Spec]; 10] = [
    object::SPECS,
    lease::SPECS,
    pin::SPECS,
    session::SPECS,
    node::SPECS,
    string::SPECS,
    generic::SPECS,
    super::expire::SPECS,
    connection::SPECS,
    server::SPECS,
];

/// Slots of the hash table: eight times the commands, so that most names are found at their first place.
const SLOTS: usize = 1024;

/// Longest name, in bytes.
const NAME_LEN_MAX: usize = 16;

/// Family and position, one more than they are; (0, 0) is empty.
static TABLE: [(u8, u8); SLOTS] = build();

/// Every command, in the order of the documentation. Subcommands are in their containers.
pub fn all() -> impl Iterator<Item = &'static Spec> {
    FAMILIES.iter().flat_map(|family| family.iter())
}

/// The command called `name`, in any case.
#[inline]
pub fn lookup(name: &[u8]) -> Option<&'static Spec> {
    if name.len() > NAME_LEN_MAX {
        return None;
    }
    let mut slot = slot_of(name);
    loop {
        let (family, position) = TABLE[slot];
        if family == 0 {
            return None;
        }
        let spec = &FAMILIES[usize::from(family) - 1][usize::from(position)];
        if spec.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(spec);
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// The command that `args` ask for, its container's subcommand if it has any, with as many words as it must have.
///
/// # Errors
/// In Redis's words: an unknown command or subcommand, or a wrong number of arguments.
pub fn resolve(args: &Args<'_>) -> Result<&'static Spec, WireError> {
    let name = args.bytes(0).unwrap_or_default();
    let Some(spec) = lookup(name) else { return Err(unknown(args)) };
    let spec = match args.get(1) {
        Some(word) if !spec.subcommands.is_empty() => {
            let word = word.bytes().unwrap_or_default();
            spec.subcommand(word).ok_or_else(|| {
                WireError::err(format!(
                    "unknown subcommand '{}'. Try {} HELP.",
                    shown(word, 128),
                    spec.name.to_uppercase()
                ))
            })?
        }
        _ => spec,
    };
    spec.check_arity(args.len())?;
    Ok(spec)
}

#[cold]
fn unknown(args: &Args<'_>) -> WireError {
    let mut text =
        format!("unknown command '{}', with args beginning with: ", shown(args.bytes(0).unwrap_or_default(), 128));
    for arg in args.iter().skip(1) {
        if text.len() >= 256 {
            break;
        }
        text.push('\'');
        text.push_str(&shown(arg.bytes().unwrap_or_default(), 128));
        text.push_str("' ");
    }
    WireError::err(text)
}

/// The first bytes of a word that a peer sent.
fn shown(word: &[u8], len_max: usize) -> String {
    String::from_utf8_lossy(&word[..word.len().min(len_max)]).into_owned()
}

/// FNV-1a of the lower-case name, folded.
const fn slot_of(name: &[u8]) -> usize {
    let mut hash = 0x811c_9dc5u32;
    let mut i = 0;
    while i < name.len() {
        hash = (hash ^ (name[i] | 0x20) as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    ((hash ^ (hash >> 15)) as usize) % SLOTS
}

#[expect(clippy::cast_possible_truncation, reason = "families and their commands are fewer than 255, as asserted")]
const fn build() -> [(u8, u8); SLOTS] {
    let families = FAMILIES;
    let mut table = [(0, 0); SLOTS];
    let mut family = 0;
    while family < families.len() {
        let mut position = 0;
        while position < families[family].len() {
            assert!(position < 255, "a family fits a byte");
            let name = families[family][position].name.as_bytes();
            assert!(name.len() <= NAME_LEN_MAX, "raise NAME_LEN_MAX");
            let mut slot = slot_of(name);
            while table[slot].0 != 0 {
                slot = (slot + 1) % SLOTS;
            }
            table[slot] = (family as u8 + 1, position as u8);
            position += 1;
        }
        family += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::CommandId;
    use super::*;
    use crate::resp::ArgBuf;
    use std::collections::HashSet;

    fn every() -> impl Iterator<Item = &'static Spec> {
        all().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands))
    }

    #[test]
    fn every_id_has_exactly_one_entry_and_every_name_finds_it() {
        let ids: Vec<CommandId> = every().map(|spec| spec.id).collect();
        assert_eq!(ids.len(), CommandId::COUNT);
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), CommandId::COUNT);
        for spec in all() {
            assert_eq!(lookup(spec.name.as_bytes()).map(|found| found.id), Some(spec.id));
            assert_eq!(lookup(spec.name.to_uppercase().as_bytes()).map(|found| found.id), Some(spec.id));
        }
        for bad in [&b""[..], b"ge", b"gets", b"get\0", b"GE\x54\x20", b"a name that is longer than any"] {
            assert!(lookup(bad).is_none(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn every_entry_is_documented_and_consistent() {
        for spec in every() {
            let name = spec.full_name;
            assert_eq!(name, name.to_lowercase());
            assert!(spec.summary.ends_with('.'), "{name}: {}", spec.summary);
            assert!(!spec.complexity.is_empty() && !spec.since.is_empty(), "{name}");
            assert!(spec.arity != 0, "{name}");
            if spec.subcommands.is_empty() {
                assert!(!spec.reply.is_empty(), "{name} answers something");
            }
            let words = i32::try_from(name.split('|').count()).expect("small");
            let least: i32 = spec.syntax.iter().map(least_words).sum::<i32>() + words;
            let open = spec.syntax.iter().any(|node| node.optional || node.multiple || has_multiple(node));
            if spec.subcommands.is_empty() {
                assert_eq!(spec.arity.abs(), least, "{name} takes {}", spec.usage());
                assert_eq!(spec.arity < 0, open, "{name} takes {}", spec.usage());
            }
            for sub in spec.subcommands {
                assert!(sub.full_name.starts_with(&format!("{name}|")), "{}", sub.full_name);
            }
        }
    }

    fn least_words(node: &super::super::Syntax) -> i32 {
        use super::super::SyntaxKind;
        if node.optional {
            return 0;
        }
        let token = i32::from(node.token.is_some());
        match node.kind {
            SyntaxKind::PureToken => 1,
            SyntaxKind::OneOf => token + node.inner.iter().map(least_words).min().unwrap_or(0),
            SyntaxKind::Block => token + node.inner.iter().map(least_words).sum::<i32>(),
            _ => token + 1,
        }
    }

    fn has_multiple(node: &super::super::Syntax) -> bool {
        node.inner.iter().any(|inner| inner.multiple || inner.optional || has_multiple(inner))
    }

    #[test]
    fn requests_resolve_to_their_subcommand_or_a_redis_error() {
        let resolve = |words: &[&str]| {
            super::resolve(&ArgBuf::new(words).args()).map(|spec| spec.full_name).map_err(|e| e.to_string())
        };
        assert_eq!(resolve(&["gEt", "k"]), Ok("get"));
        assert_eq!(resolve(&["client", "ID"]), Ok("client|id"));
        assert_eq!(resolve(&["command"]), Ok("command"));
        assert_eq!(resolve(&["get"]), Err("ERR wrong number of arguments for 'get' command".into()));
        assert_eq!(resolve(&["client"]), Err("ERR wrong number of arguments for 'client' command".into()));
        assert_eq!(
            resolve(&["client", "id", "x"]),
            Err("ERR wrong number of arguments for 'client|id' command".into())
        );
        assert_eq!(resolve(&["client", "nope"]), Err("ERR unknown subcommand 'nope'. Try CLIENT HELP.".into()));
        assert_eq!(
            resolve(&["lpush", "k", "v\r\n"]),
            Err("ERR unknown command 'lpush', with args beginning with: 'k' 'v  ' ".into())
        );
    }

    #[test]
    fn keys_are_found_where_the_arguments_say() {
        let keys = |line: &str| -> Vec<String> {
            let buf = ArgBuf::new(line.split(' '));
            let args = buf.args();
            let spec = lookup(args.bytes(0).expect("a name")).expect("a command");
            spec.keys
                .positions(&args)
                .map(|i| String::from_utf8_lossy(args.bytes(i).expect("within")).into_owned())
                .collect()
        };
        assert_eq!(keys("get a"), ["a"]);
        assert_eq!(keys("mget a b c"), ["a", "b", "c"]);
        assert_eq!(keys("mset a 1 b 2"), ["a", "b"]);
        assert_eq!(keys("mput 2 a 10 b 20 TTL 5"), ["a", "b"]);
        assert_eq!(keys("mput 99999999999999999999 a 10"), [""; 0]);
        assert_eq!(keys("mput 9223372036854775808 a 10"), [""; 0]);
        assert_eq!(keys("mput 5 a 10"), ["a"]);
        assert_eq!(keys("mlease 100 a b VIA shm"), ["a", "b"]);
        assert_eq!(keys("mlease 100 a b"), ["a", "b"]);
        assert_eq!(keys("lookup a b c"), ["a", "b", "c"]);
        assert_eq!(keys("lookup a b lease 100"), ["a", "b"]);
        assert_eq!(keys("lookup LEASE 5"), ["LEASE", "5"]);
        assert_eq!(keys("ping"), [""; 0]);
    }
}
