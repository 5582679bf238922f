//! Times to live.

use super::CommandId;
use super::spec::{Group, Keys, Spec};
use super::syntax::{Syntax, integer, key, one_of, token, unix_time};
use super::words::{Words, is};
use crate::resp::{Args, Encoder, WireError};
use bytes::BytesMut;

const CONDITION: Syntax =
    one_of("condition", &[token("nx", "NX"), token("xx", "XX"), token("gt", "GT"), token("lt", "LT")]).optional();

const SET_REPLY: &str = "`:1`, or `:0` if there is no such key or the condition does not hold";

const fn sets(id: CommandId, name: &'static str, syntax: &'static [Syntax]) -> Spec {
    Spec::new(id, name, -3, Group::Generic).writes(Keys::one(1)).fast().takes(syntax).answers(SET_REPLY, &[])
}

const KEY: &[Syntax] = &[key("key")];

const fn tells(id: CommandId, name: &'static str, reply: &'static str) -> Spec {
    Spec::new(id, name, 2, Group::Generic).reads(Keys::one(1)).fast().takes(KEY).answers(reply, &[])
}

/// Entries of this family.
pub(super) const SPECS: &[Spec] = &[
    sets(CommandId::Expire, "expire", &[key("key"), integer("seconds"), CONDITION]).doc(
        "1.0.0",
        "O(1)",
        "Ends an object's life after so many seconds.",
    ),
    sets(CommandId::PExpire, "pexpire", &[key("key"), integer("milliseconds"), CONDITION]).doc(
        "2.6.0",
        "O(1)",
        "Ends an object's life after so many milliseconds.",
    ),
    sets(CommandId::ExpireAt, "expireat", &[key("key"), unix_time("unix-time-seconds"), CONDITION]).doc(
        "1.2.0",
        "O(1)",
        "Ends an object's life at a time given in seconds.",
    ),
    sets(CommandId::PExpireAt, "pexpireat", &[key("key"), unix_time("unix-time-milliseconds"), CONDITION]).doc(
        "2.6.0",
        "O(1)",
        "Ends an object's life at a time given in milliseconds.",
    ),
    tells(CommandId::Ttl, "ttl", "integer: seconds left; -1 if it lives for ever, -2 if there is no such key").doc(
        "1.0.0",
        "O(1)",
        "Returns how long an object still lives, in seconds.",
    ),
    tells(CommandId::Pttl, "pttl", "integer: milliseconds left; -1 if it lives for ever, -2 if there is no such key")
        .doc("2.6.0", "O(1)", "Returns how long an object still lives, in milliseconds."),
    tells(CommandId::ExpireTime, "expiretime", "integer: seconds since 1970; -1 or -2 as `TTL`").doc(
        "7.0.0",
        "O(1)",
        "Returns when an object's life ends, in seconds.",
    ),
    tells(CommandId::PExpireTime, "pexpiretime", "integer: milliseconds since 1970; -1 or -2 as `TTL`").doc(
        "7.0.0",
        "O(1)",
        "Returns when an object's life ends, in milliseconds.",
    ),
    Spec::new(CommandId::Persist, "persist", 2, Group::Generic)
        .writes(Keys::one(1))
        .fast()
        .doc("2.2.0", "O(1)", "Lets an object live for ever.")
        .takes(&[key("key")])
        .answers("`:1`, or `:0` if it did already or there is no such key", &[]),
];

/// When a life is to end. A time that has passed ends it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpireAt {
    /// Milliseconds from now.
    In(i64),
    /// Milliseconds since 1970.
    Unix(i64),
}

/// Under what condition. Nothing set means always; `xx` goes with `gt` or `lt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ExpireCondition {
    /// Only if it would live for ever.
    pub nx: bool,
    /// Only if it would not.
    pub xx: bool,
    /// Only if it lives longer then.
    pub gt: bool,
    /// Only if it lives shorter then.
    pub lt: bool,
}

/// `EXPIRE | PEXPIRE | EXPIREAT | PEXPIREAT key time [NX | XX | GT | LT]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expire<'a> {
    /// The object.
    pub key: &'a [u8],
    /// When it ends.
    pub at: ExpireAt,
    /// Under what condition.
    pub condition: ExpireCondition,
}

impl<'a> Expire<'a> {
    /// Reads the arguments of `command`, one of the four.
    ///
    /// # Errors
    /// What to answer.
    ///
    /// # Panics
    /// If `command` is another one.
    pub fn parse(command: CommandId, args: &Args<'a>) -> Result<Self, WireError> {
        let (name, unit_ms, at): (_, _, fn(i64) -> ExpireAt) = match command {
            CommandId::Expire => ("expire", 1000, ExpireAt::In),
            CommandId::PExpire => ("pexpire", 1, ExpireAt::In),
            CommandId::ExpireAt => ("expireat", 1000, ExpireAt::Unix),
            CommandId::PExpireAt => ("pexpireat", 1, ExpireAt::Unix),
            other => panic!("{other:?} sets no time to live"),
        };
        let mut words = Words::new(args, 1);
        let key = words.key()?;
        let time = words.signed()?.checked_mul(unit_ms).ok_or_else(|| WireError::invalid_expire(name))?;
        let mut condition = ExpireCondition::default();
        while let Some(word) = words.option()? {
            let flag = if is(word, "nx") {
                &mut condition.nx
            } else if is(word, "xx") {
                &mut condition.xx
            } else if is(word, "gt") {
                &mut condition.gt
            } else if is(word, "lt") {
                &mut condition.lt
            } else {
                return Err(WireError::err(format!("Unsupported option {}", String::from_utf8_lossy(word))));
            };
            *flag = true;
        }
        if condition.nx && (condition.xx || condition.gt || condition.lt) {
            return Err(WireError::err("NX and XX, GT or LT options at the same time are not compatible"));
        }
        if condition.gt && condition.lt {
            return Err(WireError::err("GT and LT options at the same time are not compatible"));
        }
        Ok(Self { key, at: at(time), condition })
    }

    /// Writes the request, in milliseconds.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            match self.at {
                ExpireAt::In(time) => out.word("PEXPIRE").word(self.key).number(time),
                ExpireAt::Unix(time) => out.word("PEXPIREAT").word(self.key).number(time),
            };
            let ExpireCondition { nx, xx, gt, lt } = self.condition;
            for (given, word) in [(nx, "NX"), (xx, "XX"), (gt, "GT"), (lt, "LT")] {
                if given {
                    out.word(word);
                }
            }
        });
    }
}
