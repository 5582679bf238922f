//! What one request reaches, as far as access rules ask: which keys and for what, all keys, other commands' doings.
//!
//! Invariants:
//! - A request never reaches more than is told here. Where its words could mean two things, both are told.

use super::spec::{Access, Spec};
use super::{CommandId, words};
use crate::resp::Args;

impl Spec {
    /// The position of the first key that `may` refuses. One whose bytes are not there is refused.
    pub fn refused_key(&self, args: &Args<'_>, may: impl Fn(&[u8], Access) -> bool) -> Option<usize> {
        let refuses = |at: &usize, access| args.bytes(*at).is_none_or(|key| !may(key, access));
        let access = self.access_of(args);
        let keys = self.keys.positions(args);
        let count = keys.len();
        let mut keys = keys.enumerate().map(|(nth, at)| match self.access_last {
            Some(last) if nth + 1 == count => (at, last),
            _ => (at, access),
        });
        keys.find(|(at, access)| refuses(at, *access))
            .map(|(at, _)| at)
            .or_else(|| self.parents(args).find(|at| refuses(at, Access::READ)))
    }

    /// What it does to the keys, its options seen.
    fn access_of(&self, args: &Args<'_>) -> Access {
        let tells = self.id == CommandId::Set && has_word(args, 3, "get");
        if tells { self.access | Access::READ } else { self.access }
    }

    /// Keys of objects that others are to continue: how deep a chain is tells whether they are there.
    fn parents(&self, args: &Args<'_>) -> impl Iterator<Item = usize> {
        let from = match self.id {
            CommandId::Put | CommandId::MPut => 2,
            _ => args.len(),
        };
        (from..args.len()).filter(|at| args.bytes(at - 1).is_some_and(|word| words::is(word, "parent")))
    }

    /// What it does to objects whose keys it is not told. Who has the segments mapped sees all that lies in them.
    pub fn reaches_all(&self, args: &Args<'_>) -> Option<Access> {
        match self.id {
            CommandId::Attach if has_word_at(args, 1, "shm") => Some(Access::READ),
            _ => self.access_all,
        }
    }

    /// Another command that its options do the same as.
    pub fn stands_for(&self, args: &Args<'_>) -> Option<CommandId> {
        match self.id {
            CommandId::Put | CommandId::MPut if has_word(args, 2, "pin") || has_word(args, 2, "softpin") => {
                Some(CommandId::Pin)
            }
            CommandId::Lookup if args.len() > 3 && has_word_at(args, args.len() - 2, "lease") => Some(CommandId::Lease),
            _ => None,
        }
    }
}

fn has_word_at(args: &Args<'_>, at: usize, word: &str) -> bool {
    args.bytes(at).is_some_and(|own| words::is(own, word))
}

fn has_word(args: &Args<'_>, from: usize, word: &str) -> bool {
    (from..args.len()).any(|at| has_word_at(args, at, word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::resolve;
    use crate::resp::ArgBuf;
    use std::cell::RefCell;

    /// Keys and what is done to them, in order: `a r`, `b rw`, `c` for neither.
    fn reached(line: &str) -> Vec<String> {
        let buf = ArgBuf::new(line.split(' '));
        let args = buf.args();
        let spec = resolve(&args).expect("a command");
        let seen = RefCell::new(Vec::new());
        let refused = spec.refused_key(&args, |key, access| {
            let letters = [(Access::READ, 'r'), (Access::WRITE, 'w')];
            let letters: String = letters.iter().filter(|(bit, _)| access.contains(*bit)).map(|(_, l)| l).collect();
            seen.borrow_mut().push(format!("{} {letters}", String::from_utf8_lossy(key)).trim_end().to_owned());
            true
        });
        assert_eq!(refused, None, "{line}");
        seen.into_inner()
    }

    #[test]
    fn keys_are_reached_for_what_the_command_does_to_them() {
        for (line, keys) in [
            ("get a", &["a r"][..]),
            ("set a v", &["a w"]),
            ("set a v EX 5 get", &["a rw"]),
            ("exists a b", &["a", "b"]),
            ("mset a 1 b 2", &["a w", "b w"]),
            ("rename a b", &["a rw", "b w"]),
            ("copy a b REPLACE", &["a r", "b w"]),
            ("put a LEN 5", &["a w"]),
            ("put a LEN 5 PARENT b", &["a w", "b r"]),
            ("mput 2 a 1 b 2 VIA tcp parent c", &["a w", "b w", "c r"]),
            ("mlease 5 a b VIA tcp", &["a r", "b r"]),
            ("lookup a b LEASE 5", &["a r", "b r"]),
            ("pin a", &["a w"]),
            ("getdel a", &["a rw"]),
            ("incr a", &["a rw"]),
            ("debug object a", &["a"]),
            ("ping", &[]),
        ] {
            assert_eq!(reached(line), keys, "{line}");
        }
    }

    #[test]
    fn the_first_key_that_is_refused_is_named() {
        let buf = ArgBuf::new("mget a b c".split(' '));
        let spec = resolve(&buf.args()).expect("a command");
        assert_eq!(spec.refused_key(&buf.args(), |key, _| key != b"b"), Some(2));
    }

    #[test]
    fn options_that_do_what_another_command_does_say_so() {
        for (line, other, all) in [
            ("put a LEN 5 pin", Some(CommandId::Pin), None),
            ("mput 1 a 5 SOFTPIN 100", Some(CommandId::Pin), None),
            ("put a LEN 5", None, None),
            ("lookup a LEASE 5", Some(CommandId::Lease), None),
            ("lookup LEASE 5", None, None),
            ("attach SHM", None, Some(Access::READ)),
            ("attach TCP", None, None),
            ("flushall", None, Some(Access::WRITE)),
        ] {
            let buf = ArgBuf::new(line.split(' '));
            let spec = resolve(&buf.args()).expect("a command");
            assert_eq!((spec.stands_for(&buf.args()), spec.reaches_all(&buf.args())), (other, all), "{line}");
        }
    }
}
