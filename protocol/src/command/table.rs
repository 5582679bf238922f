//! All commands, and the way from a name to its entry.
//!
//! Role: the families' entries in one list and a hash table over their names that the compiler builds.

use super::Spec;
use super::{
    acl, connection, generic, keyspace, lease, modify, node, object, pin, pubsub, server, session, string, transaction,
};
use crate::resp::{Args, WireError};

/// One slice a family, in the order of the documentation.
const FAMILIES: [&[Spec]; 15] = [
    object::SPECS,
    lease::SPECS,
    pin::SPECS,
    session::SPECS,
    node::SPECS,
    string::SPECS,
    modify::SPECS,
    generic::SPECS,
    keyspace::SPECS,
    super::expire::SPECS,
    transaction::SPECS,
    pubsub::SPECS,
    connection::SPECS,
    acl::SPECS,
    server::SPECS,
];

/// Slots of the hash table: four times the commands, so that most names are found at their first place.
const SLOTS: usize = 512;

/// Longest name, in bytes.
const NAME_LEN_MAX: usize = 15;

/// A slot of the hash table. An empty one has the name 0, which no command has.
#[derive(Clone, Copy)]
struct Entry {
    name: u128,
    spec: Option<&'static Spec>,
}

static TABLE: [Entry; SLOTS] = build();

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
    let name = packed(name);
    let mut slot = slot_of(name);
    loop {
        let entry = &TABLE[slot];
        if entry.name == name {
            return entry.spec;
        }
        entry.spec?;
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

/// A name as one number: its letters in lower case from the lowest byte up, its length in the highest. Setting the bit
/// that makes a letter lower case makes a letter of nothing else, so that equal numbers are equal names of letters.
#[inline]
fn packed(name: &[u8]) -> u128 {
    let low = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
    let len = name.len();
    // Two loads that overlap, rather than a loop over the bytes.
    let letters = if len >= 8 {
        let high = u64::from_le_bytes(last(name));
        u128::from(u64::from_le_bytes(first(name))) | u128::from(high) << (8 * (len - 8))
    } else if len >= 4 {
        let high = u32::from_le_bytes(last(name));
        u128::from(u64::from(u32::from_le_bytes(first(name))) | u64::from(high) << (8 * (len - 4)))
    } else {
        u128::from(low(name))
    };
    lower(letters, len)
}

fn first<const N: usize>(name: &[u8]) -> [u8; N] {
    *name.first_chunk().expect("as long as its caller saw")
}

fn last<const N: usize>(name: &[u8]) -> [u8; N] {
    *name.last_chunk().expect("as long as its caller saw")
}

const fn lower(letters: u128, len: usize) -> u128 {
    (letters | 0x2020_2020_2020_2020_2020_2020_2020_2020) & !(0xff << 120) | (len as u128) << 120
}

#[expect(clippy::cast_possible_truncation, reason = "folds the halves together")]
const fn slot_of(name: u128) -> usize {
    let folded = (name as u64) ^ ((name >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (folded.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 48) as usize % SLOTS
}

const fn build() -> [Entry; SLOTS] {
    let families = FAMILIES;
    let mut table = [Entry { name: 0, spec: None }; SLOTS];
    let mut family = 0;
    while family < families.len() {
        let mut position = 0;
        while position < families[family].len() {
            let spec = &families[family][position];
            let bytes = spec.name.as_bytes();
            assert!(bytes.len() <= NAME_LEN_MAX, "raise NAME_LEN_MAX");
            let mut letters = 0u128;
            let mut i = 0;
            while i < bytes.len() {
                assert!(bytes[i].is_ascii_lowercase(), "names are letters: `packed` relies on it");
                letters |= (bytes[i] as u128) << (8 * i);
                i += 1;
            }
            let name = lower(letters, bytes.len());
            let mut slot = slot_of(name);
            while table[slot].spec.is_some() {
                slot = (slot + 1) % SLOTS;
            }
            table[slot] = Entry { name, spec: Some(spec) };
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
