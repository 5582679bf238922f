//! Leases: promises, until a stated end, that an object's bytes stay where they are; and the lookup of prefixes.

use super::CommandId;
use super::object::{VIA, ViaChoice};
use super::spec::{Acl, Flags, Group, Keys, Spec};
use super::syntax::{integer, key, string};
use super::words::{Words, is};
use crate::base::{LeaseId, Lent, Millis};
use crate::resp::{Args, Encoder, ErrorWord, WireError};
use bytes::BytesMut;

/// Entries of this family.
pub(super) const SPECS: &[Spec] = &[
    Spec::new(CommandId::Lease, "lease", -3, Group::Lease)
        .reads(Keys::one(1))
        .fast()
        .flags(Flags::NO_MULTI)
        .groups(Acl::BULK)
        .doc("1.0.0", "O(1)", "Promises that an object stays readable where it is, and tells where.")
        .takes(&[key("key"), integer("milliseconds"), VIA])
        .answers(
            "map: `lease`, `generation`, `length`, `crc`, `deadline-ms`, `locators`; or nil",
            &[ErrorWord::TooBig, ErrorWord::Quota, ErrorWord::NoTransport],
        ),
    Spec::new(CommandId::Renew, "renew", 3, Group::Lease)
        .reads(Keys::None)
        .fast()
        .groups(Acl::BULK)
        .doc("1.0.0", "O(1)", "Moves the end of a lease or of a grant.")
        .takes(&[string("lease-or-grant"), integer("milliseconds")])
        .answers(
            "integer: milliseconds that it lasts from the arrival of the request. A grant lasts 60 seconds from its `PUT` \
             at most, whatever is asked for; neither is shortened",
            &[ErrorWord::NoLease, ErrorWord::NoGrant, ErrorWord::TooBig, ErrorWord::Busy],
        ),
    Spec::new(CommandId::Release, "release", 2, Group::Lease)
        .reads(Keys::None)
        .fast()
        .groups(Acl::BULK)
        .doc("1.0.0", "O(1)", "Ends a lease before its time.")
        .takes(&[string("lease")])
        .answers("`:1`, or `:0` if it had ended", &[]),
    Spec::new(CommandId::MLease, "mlease", -3, Group::Lease)
        .reads(Keys::UntilOption { first: 2, word: "VIA" })
        .flags(Flags::NO_MULTI)
        .groups(Acl::BULK)
        .doc("1.0.0", "O(N) in the number of keys", "Leases several objects.")
        .takes(&[integer("milliseconds"), key("key").multiple(), VIA])
        .answers(
            "array: for each key, in order, the map of `LEASE`, nil or that item's error. A trailing `VIA x` is the \
             option, not two keys",
            &[ErrorWord::TooBig, ErrorWord::Quota, ErrorWord::NoTransport],
        ),
    Spec::new(CommandId::MRelease, "mrelease", -2, Group::Lease)
        .reads(Keys::None)
        .groups(Acl::BULK)
        .doc("1.0.0", "O(N) in the number of leases", "Ends several leases before their time.")
        .takes(&[string("lease").multiple()])
        .answers("array of integers: for each lease, in order, 1, or 0 if it had ended", &[]),
    Spec::new(CommandId::Lookup, "lookup", -2, Group::Lease)
        .reads(Keys::UntilOption { first: 1, word: "LEASE" })
        .flags(Flags::NO_MULTI)
        .doc(
            "1.0.0",
            "O(N) in the number of keys",
            "Counts how many of the keys, from the first on, are present, and leases them if asked.",
        )
        .takes(&[key("key").multiple(), integer("milliseconds").after("LEASE").optional()])
        .answers(
            "map: `prefix` (keys present before the first that is not), `bytes` (their lengths' sum), `tiers` \
             (map: how many of them each tier holds), with `LEASE` also `leases` (for each, the map of `LEASE`). A \
             trailing `LEASE ms` is the option, not two keys",
            &[ErrorWord::TooBig, ErrorWord::Quota],
        ),
];

/// `LEASE key ms [VIA …]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease<'a> {
    /// The object.
    pub key: &'a [u8],
    /// For how long.
    pub span: Millis,
    /// How it will be read.
    pub via: ViaChoice,
}

impl<'a> Lease<'a> {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'a>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 1);
        let (key, span) = (words.key()?, words.millis()?);
        let via = match words.option()? {
            None => ViaChoice::Auto,
            Some(word) if is(word, "via") => ViaChoice::parse(&mut words)?,
            Some(_) => return Err(WireError::syntax()),
        };
        words.end()?;
        Ok(Self { key, span, via })
    }

    /// Writes the request.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            out.word("LEASE").word(self.key).number(self.span.0);
            self.via.encode(out);
        });
    }
}

/// `RENEW lease ms`, `RENEW grant ms`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renew {
    /// What `LEASE` or `PUT` answered.
    pub lent: Lent,
    /// For how long from now.
    pub span: Millis,
}

impl Renew {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'_>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 1);
        let (lent, span) = (words.lent()?, words.millis()?);
        words.end()?;
        Ok(Self { lent, span })
    }

    /// Writes the request.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            out.word("RENEW").display(self.lent).number(self.span.0);
        });
    }
}

/// `RELEASE lease`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// What `LEASE` answered.
    pub lease: LeaseId,
}

impl Release {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'_>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 1);
        let lease = words.lease()?;
        words.end()?;
        Ok(Self { lease })
    }

    /// Writes the request.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            out.word("RELEASE").display(self.lease);
        });
    }
}

/// `MLEASE ms key [key …] [VIA …]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MLease<'a> {
    /// For how long.
    pub span: Millis,
    /// The objects, in the order of their chain if they are one.
    pub keys: Vec<&'a [u8]>,
    /// How they will be read.
    pub via: ViaChoice,
}

impl<'a> MLease<'a> {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'a>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 1);
        let span = words.millis()?;
        let keys = keys_before_option(&mut words, "via")?;
        let via = if words.left() == 0 {
            ViaChoice::Auto
        } else {
            words.word()?;
            ViaChoice::parse(&mut words)?
        };
        Ok(Self { span, keys, via })
    }

    /// Writes the request.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            out.word("MLEASE").number(self.span.0);
            for key in &self.keys {
                out.word(key);
            }
            // Said even where it is the default: keys that end in `VIA x` are keys then.
            if self.via == ViaChoice::Auto {
                if ends_like_option(&self.keys, "via") {
                    out.word("VIA").word("auto");
                }
            } else {
                self.via.encode(out);
            }
        });
    }
}

/// `MRELEASE lease [lease …]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MRelease {
    /// What `LEASE` and `MLEASE` answered.
    pub leases: Vec<LeaseId>,
}

impl MRelease {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'_>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 1);
        let mut leases = Vec::with_capacity(words.left());
        while words.left() > 0 {
            leases.push(words.lease()?);
        }
        Ok(Self { leases })
    }

    /// Writes the request.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            out.word("MRELEASE");
            for lease in &self.leases {
                out.display(lease);
            }
        });
    }
}

/// `LOOKUP key [key …] [LEASE ms]`
///
/// Keys whose last two are `LEASE` and another cannot be looked up without a lease: the wire form has no way to say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup<'a> {
    /// The keys of a chain, its beginning first.
    pub keys: Vec<&'a [u8]>,
    /// Leases the prefix that is present, for so long.
    pub lease: Option<Millis>,
}

impl<'a> Lookup<'a> {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'a>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 1);
        let keys = keys_before_option(&mut words, "lease")?;
        let lease = if words.left() == 0 {
            None
        } else {
            words.word()?;
            Some(words.millis()?)
        };
        Ok(Self { keys, lease })
    }

    /// Writes the request.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            out.word("LOOKUP");
            for key in &self.keys {
                out.word(key);
            }
            if let Some(span) = self.lease {
                out.word("LEASE").number(span.0);
            }
        });
    }
}

/// The keys that are left, without a trailing `option x`. At least one.
fn keys_before_option<'a>(words: &mut Words<'a>, option: &str) -> Result<Vec<&'a [u8]>, WireError> {
    let mut keys = Vec::with_capacity(words.left());
    while words.left() > 0 {
        let mut ahead = words.clone();
        let key = ahead.word()?;
        if words.left() == 2 && !keys.is_empty() && is(key, option) {
            return Ok(keys);
        }
        keys.push(words.key()?);
    }
    if keys.is_empty() { Err(WireError::syntax()) } else { Ok(keys) }
}

fn ends_like_option(keys: &[&[u8]], option: &str) -> bool {
    matches!(keys, [_, .., word, _] if is(word, option))
}
