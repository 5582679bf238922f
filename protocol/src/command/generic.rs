//! Keys, whatever they hold.

use super::CommandId;
use super::spec::{Acl, Flags, Group, Keys, Spec};
use super::syntax::{integer, key, pattern, string};
use super::words::{Words, is, once, parse_u64};
use crate::resp::{Args, Encoder, WireError};
use bytes::BytesMut;

const ALL_KEYS: Keys = Keys::Range { first: 1, last: -1, step: 1 };

/// Entries of this family.
pub(super) const SPECS: &[Spec] = &[
    Spec::new(CommandId::Exists, "exists", -2, Group::Generic)
        .looks(ALL_KEYS)
        .fast()
        .doc("1.0.0", "O(N) in the number of keys", "Counts which keys are present, and gives each a grace.")
        .takes(&[key("key").multiple()])
        .answers("integer: keys present, one given twice counted twice", &[]),
    Spec::new(CommandId::Del, "del", -2, Group::Generic)
        .writes(ALL_KEYS)
        .doc("1.0.0", "O(N) in the number of keys", "Removes objects. Bytes under lease stay readable to its end.")
        .takes(&[key("key").multiple()])
        .answers("integer: objects removed", &[]),
    Spec::new(CommandId::Unlink, "unlink", -2, Group::Generic)
        .writes(ALL_KEYS)
        .fast()
        .doc("4.0.0", "O(N) in the number of keys", "As `DEL`, which never waits either.")
        .takes(&[key("key").multiple()])
        .answers("integer: objects removed", &[]),
    Spec::new(CommandId::Touch, "touch", -2, Group::Generic)
        .looks(ALL_KEYS)
        .fast()
        .doc("3.2.1", "O(N) in the number of keys", "Marks objects as used.")
        .takes(&[key("key").multiple()])
        .answers("integer: keys present", &[]),
    Spec::new(CommandId::Type, "type", 2, Group::Generic)
        .looks(Keys::one(1))
        .fast()
        .doc("1.0.0", "O(1)", "Returns what kind of value a key holds.")
        .takes(&[key("key")])
        .answers("`+string` or `+none`", &[]),
    Spec::new(CommandId::Keys, "keys", 2, Group::Generic)
        .reads(Keys::None)
        .dangerous()
        .doc("1.0.0", "O(N) in all keys", "Lists the keys that match a glob. For small stores: `SCAN` does not wait.")
        .takes(&[pattern("pattern")])
        .answers("array of bulks", &[]),
    Spec::new(CommandId::Scan, "scan", -2, Group::Generic)
        .reads(Keys::None)
        .doc("2.8.0", "O(1) a call, O(N) in all keys for a whole scan", "Walks over the keys, some at a time.")
        .takes(&[
            integer("cursor"),
            pattern("pattern").after("MATCH").optional(),
            integer("count").after("COUNT").optional(),
            string("type").after("TYPE").optional(),
        ])
        .answers("array of two: the next cursor, `0` at the end, and an array of keys", &[]),
    Spec::new(CommandId::RandomKey, "randomkey", 1, Group::Generic)
        .reads(Keys::None)
        .doc("1.0.0", "O(1)", "Returns some key.")
        .answers("bulk or nil", &[]),
    Spec::new(CommandId::Object, "object", -2, Group::Generic)
        .doc("2.2.3", "Depends on the subcommand.", "Tells how an object is kept.")
        .contains(&[
            Spec::new(CommandId::ObjectEncoding, "object|encoding", 3, Group::Generic)
                .looks(Keys::one(2))
                .doc("2.2.3", "O(1)", "Returns how Redis would keep a value. Here all are kept alike.")
                .takes(&[key("key")])
                .answers("`int`, `embstr` or `raw`, or nil", &[]),
            Spec::new(CommandId::ObjectIdleTime, "object|idletime", 3, Group::Generic)
                .looks(Keys::one(2))
                .doc("2.2.3", "O(1)", "Returns how long an object was not used, in seconds.")
                .takes(&[key("key")])
                .answers("integer or nil", &[]),
            Spec::new(CommandId::ObjectFreq, "object|freq", 3, Group::Generic)
                .looks(Keys::one(2))
                .doc("4.0.0", "O(1)", "Returns how often an object was read.")
                .takes(&[key("key")])
                .answers("integer or nil", &[]),
            Spec::new(CommandId::ObjectRefCount, "object|refcount", 3, Group::Generic)
                .looks(Keys::one(2))
                .doc("2.2.3", "O(1)", "Returns how many leases and pins an object has, and one more.")
                .takes(&[key("key")])
                .answers("integer or nil", &[]),
            Spec::new(CommandId::ObjectHelp, "object|help", 2, Group::Generic)
                .while_loading()
                .groups(Acl::KEYSPACE)
                .doc("6.2.0", "O(1)", "Lists the subcommands.")
                .answers("array of lines", &[]),
        ]),
    Spec::new(CommandId::Wait, "wait", 3, Group::Generic)
        .flags(Flags::BLOCKING)
        .groups(Acl::CONNECTION)
        .doc("3.0.0", "O(1)", "Answers at once: there are no asynchronous replicas to wait for.")
        .takes(&[integer("numreplicas"), integer("timeout")])
        .answers("`:0`", &[]),
];

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan<'a> {
    /// 0, or what the last call answered.
    pub cursor: u64,
    /// Only keys that match.
    pub pattern: Option<&'a [u8]>,
    /// How many keys to look at, about.
    pub count: u64,
    /// Only values of this type.
    pub kind: Option<&'a [u8]>,
}

impl<'a> Scan<'a> {
    /// Keys looked at where the request does not say.
    pub const COUNT_DEFAULT: u64 = 10;

    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'a>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 1);
        let cursor = parse_u64(words.word()?).ok_or_else(|| WireError::err("invalid cursor"))?;
        let (mut pattern, mut count, mut kind) = (None, None, None);
        while let Some(word) = words.option()? {
            if is(word, "match") {
                once(&mut pattern, words.word()?)?;
            } else if is(word, "count") {
                let value = u64::try_from(words.signed()?).ok().filter(|&count| count > 0);
                once(&mut count, value.ok_or_else(WireError::syntax)?)?;
            } else if is(word, "type") {
                once(&mut kind, words.word()?)?;
            } else {
                return Err(WireError::syntax());
            }
        }
        Ok(Self { cursor, pattern, count: count.unwrap_or(Self::COUNT_DEFAULT), kind })
    }

    /// Writes the request.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            out.word("SCAN").number(self.cursor);
            if let Some(pattern) = self.pattern {
                out.word("MATCH").word(pattern);
            }
            if self.count != Self::COUNT_DEFAULT {
                out.word("COUNT").number(self.count);
            }
            if let Some(kind) = self.kind {
                out.word("TYPE").word(kind);
            }
        });
    }
}
