//! In-band values, as Redis has them.

use super::CommandId;
use super::modify::time;
use super::spec::{Group, Keys, Spec, Values};
use super::syntax::{block, integer, key, one_of, string, token, unix_time};
use super::words::{Words, check_key, is, once};
use crate::base::Millis;
use crate::resp::{Arg, Args, Encoder, ErrorWord, WireError};
use bytes::BytesMut;

const ROOM: &[ErrorWord] = &[ErrorWord::Oom, ErrorWord::Quota, ErrorWord::TooBig];

/// Entries of this family.
pub(super) const SPECS: &[Spec] = &[
    Spec::new(CommandId::Set, "set", -3, Group::String)
        .writes(Keys::one(1))
        .denies_oom()
        .values(Values::At(2))
        .doc("1.0.0", "O(1)", "Stores a value. An existing object is replaced by a new generation.")
        .takes(&[
            key("key"),
            string("value"),
            one_of("condition", &[token("nx", "NX"), token("xx", "XX")]).optional(),
            token("get", "GET").optional(),
            one_of(
                "expiration",
                &[
                    integer("seconds").after("EX"),
                    integer("milliseconds").after("PX"),
                    unix_time("unix-time-seconds").after("EXAT"),
                    unix_time("unix-time-milliseconds").after("PXAT"),
                    token("keepttl", "KEEPTTL"),
                ],
            )
            .optional(),
        ])
        .answers("`+OK`, or nil if the condition does not hold; with `GET` the earlier value or nil", ROOM),
    Spec::new(CommandId::Get, "get", -2, Group::String)
        .reads(Keys::one(1))
        .fast()
        .doc("1.0.0", "O(1)", "Returns a value, from whatever tier holds it.")
        .takes(&[
            key("key"),
            block("into", &[integer("addr").after("INTO"), integer("rkey"), integer("length")]).optional(),
        ])
        .answers(
            "bulk or nil; with `INTO`, on an RDMA session, the object is written into the client's registered memory, and \
             the answer is a map: `generation`, `length`, `crc`, and the `number` that the write ended with",
            &[ErrorWord::NoTransport, ErrorWord::TooBig, ErrorWord::Busy],
        ),
    Spec::new(CommandId::MGet, "mget", -2, Group::String)
        .reads(Keys::Range { first: 1, last: -1, step: 1 })
        .fast()
        .doc("1.0.0", "O(N) in the number of keys", "Returns several values.")
        .takes(&[key("key").multiple()])
        .answers("array of bulks and nils, in request order", &[]),
    Spec::new(CommandId::MSet, "mset", -3, Group::String)
        .writes(Keys::Range { first: 1, last: -1, step: 2 })
        .denies_oom()
        .values(Values::Even)
        .doc("1.0.1", "O(N) in the number of keys", "Stores several values.")
        .takes(&[block("data", &[key("key"), string("value")]).multiple()])
        .answers("`+OK`", ROOM),
    Spec::new(CommandId::StrLen, "strlen", 2, Group::String)
        .looks(Keys::one(1))
        .fast()
        .doc("2.2.0", "O(1)", "Returns a value's length.")
        .takes(&[key("key")])
        .answers("integer: bytes, 0 if there is no such key", &[]),
    Spec::new(CommandId::GetRange, "getrange", 4, Group::String)
        .reads(Keys::one(1))
        .doc("2.4.0", "O(N) in the bytes returned", "Returns a part of a value.")
        .takes(&[key("key"), integer("start"), integer("end")])
        .answers("bulk, empty if the part lies outside the value", &[]),
];

/// Whether `SET` may create or only replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetCondition {
    /// Only if there is no such key.
    Absent,
    /// Only if there is.
    Present,
}

/// How long a value that is set lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SetExpiry {
    /// For ever.
    #[default]
    Never,
    /// As long as the one it replaces.
    Keep,
    /// For so long from now.
    In(Millis),
    /// Until this time, in milliseconds since 1970.
    AtUnix(Millis),
}

/// `SET key value [NX|XX] [GET] [EX s|PX ms|EXAT s|PXAT ms|KEEPTTL]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value, if it was not received elsewhere.
    pub value: Arg<'a>,
    /// Under what condition.
    pub condition: Option<SetCondition>,
    /// Answer with the earlier value.
    pub get: bool,
    /// How long it lives.
    pub expiry: SetExpiry,
}

impl<'a> Set<'a> {
    /// Without options.
    pub fn new(key: &'a [u8], value: Arg<'a>) -> Self {
        Self { key, value, condition: None, get: false, expiry: SetExpiry::Never }
    }

    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    #[inline]
    pub fn parse(args: &Args<'a>) -> Result<Self, WireError> {
        let key = args.bytes(1).ok_or_else(WireError::syntax)?;
        check_key(key)?;
        let mut set = Self::new(key, args.get(2).ok_or_else(WireError::syntax)?);
        if args.len() > 3 {
            set.options(&mut Words::new(args, 3))?;
        }
        Ok(set)
    }

    fn options(&mut self, words: &mut Words<'a>) -> Result<(), WireError> {
        let mut expiry = None;
        while let Some(word) = words.option()? {
            if is(word, "nx") && self.condition != Some(SetCondition::Present) {
                self.condition = Some(SetCondition::Absent);
            } else if is(word, "xx") && self.condition != Some(SetCondition::Absent) {
                self.condition = Some(SetCondition::Present);
            } else if is(word, "get") {
                self.get = true;
            } else if is(word, "keepttl") {
                once(&mut expiry, SetExpiry::Keep)?;
            } else if is(word, "ex") {
                once(&mut expiry, SetExpiry::In(time(words, 1000, "set")?))?;
            } else if is(word, "px") {
                once(&mut expiry, SetExpiry::In(time(words, 1, "set")?))?;
            } else if is(word, "exat") {
                once(&mut expiry, SetExpiry::AtUnix(time(words, 1000, "set")?))?;
            } else if is(word, "pxat") {
                once(&mut expiry, SetExpiry::AtUnix(time(words, 1, "set")?))?;
            } else {
                return Err(WireError::syntax());
            }
        }
        self.expiry = expiry.unwrap_or_default();
        Ok(())
    }

    /// Writes the request. A value that is [`Arg::Taken`] is left out: it belongs at the returned offset of `out`.
    pub fn encode(&self, out: &mut BytesMut) -> Option<usize> {
        Encoder::encode(out, |out| {
            out.word("SET").word(self.key).arg(self.value);
            match self.condition {
                None => {}
                Some(SetCondition::Absent) => drop(out.word("NX")),
                Some(SetCondition::Present) => drop(out.word("XX")),
            }
            if self.get {
                out.word("GET");
            }
            match self.expiry {
                SetExpiry::Never => {}
                SetExpiry::Keep => drop(out.word("KEEPTTL")),
                SetExpiry::In(span) => drop(out.word("PX").number(span.0)),
                SetExpiry::AtUnix(time) => drop(out.word("PXAT").number(time.0)),
            }
        })
    }
}
