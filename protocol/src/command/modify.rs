//! In-band values that are made from what was there before, and their older forms.

use super::CommandId;
use super::spec::{Group, Keys, Spec, Values};
use super::syntax::{block, integer, key, one_of, string, token, unix_time};
use super::words::{Words, check_key, is, once};
use crate::base::Millis;
use crate::command::string::SetExpiry;
use crate::resp::{Args, ErrorWord, WireError};

const ROOM: &[ErrorWord] = &[ErrorWord::Oom, ErrorWord::Quota, ErrorWord::TooBig];

const fn writes(id: CommandId, name: &'static str, arity: i32) -> Spec {
    Spec::new(id, name, arity, Group::String).writes(Keys::one(1)).denies_oom()
}

/// Entries of this family.
pub(super) const SPECS: &[Spec] = &[
    writes(CommandId::GetSet, "getset", 3)
        .exchanges(Keys::one(1))
        .fast()
        .values(Values::At(2))
        .doc("1.0.0", "O(1)", "Stores a value and returns the earlier one.")
        .takes(&[key("key"), string("value")])
        .answers("bulk or nil", ROOM),
    Spec::new(CommandId::GetDel, "getdel", 2, Group::String)
        .exchanges(Keys::one(1))
        .fast()
        .doc("6.2.0", "O(1)", "Returns a value and removes it.")
        .takes(&[key("key")])
        .answers("bulk or nil", &[]),
    Spec::new(CommandId::GetEx, "getex", -2, Group::String)
        .exchanges(Keys::one(1))
        .fast()
        .doc("6.2.0", "O(1)", "Returns a value and decides how long it still lives.")
        .takes(&[
            key("key"),
            one_of(
                "expiration",
                &[
                    integer("seconds").after("EX"),
                    integer("milliseconds").after("PX"),
                    unix_time("unix-time-seconds").after("EXAT"),
                    unix_time("unix-time-milliseconds").after("PXAT"),
                    token("persist", "PERSIST"),
                ],
            )
            .optional(),
        ])
        .answers("bulk or nil", &[]),
    writes(CommandId::SetNx, "setnx", 3)
        .fast()
        .values(Values::At(2))
        .doc("1.0.0", "O(1)", "Stores a value if there is no such key.")
        .takes(&[key("key"), string("value")])
        .answers("`:1`, or `:0` if there is such a key", ROOM),
    writes(CommandId::SetEx, "setex", 4)
        .values(Values::At(3))
        .doc("2.0.0", "O(1)", "Stores a value that lives for so many seconds.")
        .takes(&[key("key"), integer("seconds"), string("value")])
        .answers("`+OK`", ROOM),
    writes(CommandId::PSetEx, "psetex", 4)
        .values(Values::At(3))
        .doc("2.6.0", "O(1)", "Stores a value that lives for so many milliseconds.")
        .takes(&[key("key"), integer("milliseconds"), string("value")])
        .answers("`+OK`", ROOM),
    Spec::new(CommandId::MSetNx, "msetnx", -3, Group::String)
        .writes(Keys::Range { first: 1, last: -1, step: 2 })
        .denies_oom()
        .values(Values::Even)
        .doc("1.0.1", "O(N) in the number of keys", "Stores several values if there is none of the keys.")
        .takes(&[block("data", &[key("key"), string("value")]).multiple()])
        .answers("`:1`, or `:0` if there is one of the keys", ROOM),
    writes(CommandId::Append, "append", 3)
        .fast()
        .values(Values::At(2))
        .doc("2.0.0", "O(N) in the bytes of the value", "Makes a value longer, or stores it if there is no such key.")
        .takes(&[key("key"), string("value")])
        .answers("integer: its length afterwards", ROOM),
    Spec::new(CommandId::SubStr, "substr", 4, Group::String)
        .reads(Keys::one(1))
        .doc("1.0.0", "O(N) in the bytes returned", "As `GETRANGE`.")
        .takes(&[key("key"), integer("start"), integer("end")])
        .answers("bulk, empty if the part lies outside the value", &[]),
    writes(CommandId::SetRange, "setrange", 4)
        .values(Values::At(3))
        .doc("2.2.0", "O(N) in the bytes of the value", "Replaces a part of a value, which grows if it must.")
        .takes(&[key("key"), integer("offset"), string("value")])
        .answers("integer: its length afterwards", ROOM),
    writes(CommandId::Incr, "incr", 2)
        .exchanges(Keys::one(1))
        .fast()
        .doc("1.0.0", "O(1)", "Adds one to a whole number.")
        .takes(&[key("key")])
        .answers("integer: the number afterwards", ROOM),
    writes(CommandId::Decr, "decr", 2)
        .exchanges(Keys::one(1))
        .fast()
        .doc("1.0.0", "O(1)", "Takes one from a whole number.")
        .takes(&[key("key")])
        .answers("integer: the number afterwards", ROOM),
    writes(CommandId::IncrBy, "incrby", 3)
        .exchanges(Keys::one(1))
        .fast()
        .doc("1.0.0", "O(1)", "Adds to a whole number.")
        .takes(&[key("key"), integer("increment")])
        .answers("integer: the number afterwards", ROOM),
    writes(CommandId::DecrBy, "decrby", 3)
        .exchanges(Keys::one(1))
        .fast()
        .doc("1.0.0", "O(1)", "Takes from a whole number.")
        .takes(&[key("key"), integer("decrement")])
        .answers("integer: the number afterwards", ROOM),
    writes(CommandId::IncrByFloat, "incrbyfloat", 3)
        .exchanges(Keys::one(1))
        .fast()
        .doc("2.6.0", "O(1)", "Adds to a decimal number.")
        .takes(&[key("key"), string("increment")])
        .answers("bulk: the number afterwards", ROOM),
    Spec::new(CommandId::Lcs, "lcs", -3, Group::String)
        .reads(Keys::Range { first: 1, last: 2, step: 1 })
        .doc("7.0.0", "O(N*M) in the bytes of both values", "Finds the longest common subsequence of two values.")
        .takes(&[
            key("key1"),
            key("key2"),
            token("len", "LEN").optional(),
            token("idx", "IDX").optional(),
            integer("min-match-len").after("MINMATCHLEN").optional(),
            token("withmatchlen", "WITHMATCHLEN").optional(),
        ])
        .answers("bulk; with `LEN` integer; with `IDX` map: `matches` and `len`", &[]),
];

/// What `GETEX` does to the life of what it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GetExpiry {
    /// Nothing.
    Leave,
    /// It lives for ever.
    Persist,
    /// It ends then.
    Set(SetExpiry),
}

/// `GETEX key [EX s|PX ms|EXAT s|PXAT ms|PERSIST]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetEx<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What becomes of its life.
    pub expiry: GetExpiry,
}

impl<'a> GetEx<'a> {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'a>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 1);
        let key = words.key()?;
        let mut expiry = None;
        while let Some(word) = words.option()? {
            let at = |words: &mut Words<'a>, unit, make: fn(Millis) -> SetExpiry| {
                time(words, unit, "getex").map(|time| GetExpiry::Set(make(time)))
            };
            let value = if is(word, "persist") {
                GetExpiry::Persist
            } else if is(word, "ex") {
                at(&mut words, 1000, SetExpiry::In)?
            } else if is(word, "px") {
                at(&mut words, 1, SetExpiry::In)?
            } else if is(word, "exat") {
                at(&mut words, 1000, SetExpiry::AtUnix)?
            } else if is(word, "pxat") {
                at(&mut words, 1, SetExpiry::AtUnix)?
            } else {
                return Err(WireError::syntax());
            };
            once(&mut expiry, value)?;
        }
        Ok(Self { key, expiry: expiry.unwrap_or(GetExpiry::Leave) })
    }
}

/// A positive time that fits Redis's range when written in milliseconds.
pub(super) fn time(words: &mut Words<'_>, unit_ms: i64, command: &str) -> Result<Millis, WireError> {
    words
        .signed()?
        .checked_mul(unit_ms)
        .and_then(|time| u64::try_from(time).ok())
        .filter(|&time| time > 0)
        .map(Millis)
        .ok_or_else(|| WireError::invalid_expire(command))
}

/// `LCS key1 key2 [LEN] [IDX] [MINMATCHLEN n] [WITHMATCHLEN]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lcs<'a> {
    /// Both keys.
    pub keys: [&'a [u8]; 2],
    /// Answer with the length only.
    pub len: bool,
    /// Answer with where the matches are.
    pub idx: bool,
    /// Matches shorter than this are left out.
    pub min_match_len: u64,
    /// Answer with the lengths of the matches too.
    pub with_match_len: bool,
}

impl<'a> Lcs<'a> {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'a>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 1);
        let keys = [words.key()?, words.key()?];
        let mut lcs = Self { keys, len: false, idx: false, min_match_len: 0, with_match_len: false };
        while let Some(word) = words.option()? {
            if is(word, "len") {
                lcs.len = true;
            } else if is(word, "idx") {
                lcs.idx = true;
            } else if is(word, "withmatchlen") {
                lcs.with_match_len = true;
            } else if is(word, "minmatchlen") {
                // A negative one leaves nothing out.
                lcs.min_match_len = u64::try_from(words.signed()?).unwrap_or(0);
            } else {
                return Err(WireError::syntax());
            }
        }
        if lcs.len && lcs.idx {
            return Err(WireError::err("If you want both the length and indexes, please just use IDX."));
        }
        Ok(lcs)
    }
}

/// `SETEX key seconds value` and `PSETEX key milliseconds value`: how long it lives.
///
/// # Errors
/// What to answer.
pub fn set_ex_time(args: &Args<'_>, command: CommandId) -> Result<Millis, WireError> {
    let (unit_ms, name) = if command == CommandId::SetEx { (1000, "setex") } else { (1, "psetex") };
    check_key(args.bytes(1).ok_or_else(WireError::syntax)?)?;
    time(&mut Words::new(args, 2), unit_ms, name)
}
