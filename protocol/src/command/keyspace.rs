//! Keys that change their names, and values that travel whole: `RENAME`, `COPY`, `DUMP`, `RESTORE`.

use super::CommandId;
use super::spec::{Access, Group, Keys, Spec, Values};
use super::syntax::{integer, key, string, token};
use super::words::{Words, check_key, is, once};
use crate::base::Millis;
use crate::resp::{Args, ErrorWord, WireError};

const ROOM: &[ErrorWord] = &[ErrorWord::Oom, ErrorWord::Quota, ErrorWord::TooBig];
const PAIR: Keys = Keys::Range { first: 1, last: 2, step: 1 };

/// Entries of this family.
pub(super) const SPECS: &[Spec] = &[
    Spec::new(CommandId::Rename, "rename", 3, Group::Generic)
        .exchanges(PAIR)
        .last_key(Access::WRITE)
        .doc("1.0.0", "O(N) in the bytes of the value", "Gives a value another key. What had that key is replaced.")
        .takes(&[key("key"), key("newkey")])
        .answers("`+OK`", ROOM),
    Spec::new(CommandId::RenameNx, "renamenx", 3, Group::Generic)
        .exchanges(PAIR)
        .last_key(Access::WRITE)
        .fast()
        .doc("1.0.0", "O(N) in the bytes of the value", "Gives a value another key if nothing has it.")
        .takes(&[key("key"), key("newkey")])
        .answers("`:1`, or `:0` if something has the new key", ROOM),
    Spec::new(CommandId::Copy, "copy", -3, Group::Generic)
        .copies(PAIR)
        .denies_oom()
        .doc("6.2.0", "O(N) in the bytes of the value", "Stores a value under a second key.")
        .takes(&[
            key("source"),
            key("destination"),
            integer("destination-db").after("DB").optional(),
            token("replace", "REPLACE").optional(),
        ])
        .answers("`:1`, or `:0` if there is no such key or the second one is taken", ROOM),
    Spec::new(CommandId::Dump, "dump", 2, Group::Generic)
        .reads(Keys::one(1))
        .doc(
            "2.6.0",
            "O(N) in the bytes of the value",
            "Returns a value in the form that `RESTORE` takes, here and in Redis.",
        )
        .takes(&[key("key")])
        .answers("bulk or nil", &[]),
    Spec::new(CommandId::Restore, "restore", -4, Group::Generic)
        .writes(Keys::one(1))
        .dangerous()
        .denies_oom()
        .values(Values::At(3))
        .doc("2.6.0", "O(N) in the bytes of the value", "Stores a value that `DUMP` returned, here or in Redis.")
        .takes(&[
            key("key"),
            integer("ttl"),
            string("serialized-value"),
            token("replace", "REPLACE").optional(),
            token("absttl", "ABSTTL").optional(),
            integer("seconds").after("IDLETIME").optional(),
            integer("frequency").after("FREQ").optional(),
        ])
        .answers("`+OK`", &[ErrorWord::BusyKey, ErrorWord::Oom, ErrorWord::Quota, ErrorWord::TooBig]),
];

/// `COPY source destination [DB n] [REPLACE]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy<'a> {
    /// From where.
    pub from: &'a [u8],
    /// Where to.
    pub to: &'a [u8],
    /// Whether what lies there is replaced.
    pub replace: bool,
}

impl<'a> Copy<'a> {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'a>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 1);
        let (from, to) = (words.key()?, words.key()?);
        let mut replace = false;
        while let Some(word) = words.option()? {
            if is(word, "replace") {
                replace = true;
            } else if is(word, "db") && words.left() > 0 {
                match words.signed()? {
                    0 => {}
                    _ => return Err(WireError::err("DB index is out of range")),
                }
            } else {
                return Err(WireError::syntax());
            }
        }
        Ok(Self { from, to, replace })
    }
}

/// `RESTORE key ttl serialized-value [REPLACE] [ABSTTL] [IDLETIME s] [FREQ n]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restore<'a> {
    /// The key.
    pub key: &'a [u8],
    /// How long it lives, or until when; `None` is for ever.
    pub ttl: Option<Millis>,
    /// Whether what lies there is replaced.
    pub replace: bool,
    /// Whether `ttl` counts from 1970.
    pub absolute: bool,
}

impl<'a> Restore<'a> {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'a>) -> Result<Self, WireError> {
        let key = args.bytes(1).ok_or_else(WireError::syntax)?;
        check_key(key)?;
        let (mut replace, mut absolute, mut idle, mut freq) = (false, false, None, None);
        let mut words = Words::new(args, 4);
        while let Some(word) = words.option()? {
            if is(word, "replace") {
                replace = true;
            } else if is(word, "absttl") {
                absolute = true;
            } else if is(word, "idletime") && words.left() > 0 && freq.is_none() {
                let seconds = words.signed()?;
                if seconds < 0 {
                    return Err(WireError::err("Invalid IDLETIME value, must be >= 0"));
                }
                once(&mut idle, seconds)?;
            } else if is(word, "freq") && words.left() > 0 && idle.is_none() {
                let count = words.signed()?;
                if !(0..=255).contains(&count) {
                    return Err(WireError::err("Invalid FREQ value, must be >= 0 and <= 255"));
                }
                once(&mut freq, count)?;
            } else {
                return Err(WireError::syntax());
            }
        }
        let ttl = Words::new(args, 2).signed()?;
        let ttl = u64::try_from(ttl).map_err(|_| WireError::err("Invalid TTL value, must be >= 0"))?;
        Ok(Self { key, ttl: (ttl > 0).then_some(Millis(ttl)), replace, absolute })
    }
}
