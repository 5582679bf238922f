//! Pins: counted promises that an object is not evicted.

use super::CommandId;
use super::spec::{Acl, Group, Keys, Spec};
use super::syntax::{integer, key};
use super::words::{Words, is};
use crate::base::Millis;
use crate::resp::{Args, Encoder, ErrorWord, WireError};
use bytes::BytesMut;

/// Entries of this family.
pub(super) const SPECS: &[Spec] = &[
    Spec::new(CommandId::Pin, "pin", -2, Group::Lease)
        .writes(Keys::one(1))
        .fast()
        .groups(Acl::PIN)
        .doc("1.0.0", "O(1)", "Keeps an object from being evicted, until it is unpinned or the time is over.")
        .takes(&[key("key"), integer("milliseconds").after("TTL").optional()])
        .answers("integer: pins the object now has; 0 if there is no such object", &[ErrorWord::Quota]),
    Spec::new(CommandId::Unpin, "unpin", 2, Group::Lease)
        .writes(Keys::one(1))
        .fast()
        .groups(Acl::PIN)
        .doc("1.0.0", "O(1)", "Takes one pin back.")
        .takes(&[key("key")])
        .answers("integer: pins the object still has", &[]),
];

/// `PIN key [TTL ms]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin<'a> {
    /// The object.
    pub key: &'a [u8],
    /// Ends by itself after so long.
    pub ttl: Option<Millis>,
}

impl<'a> Pin<'a> {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'a>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 1);
        let key = words.key()?;
        let ttl = match words.option()? {
            None => None,
            Some(word) if is(word, "ttl") => Some(words.millis()?),
            Some(_) => return Err(WireError::syntax()),
        };
        words.end()?;
        Ok(Self { key, ttl })
    }

    /// Writes the request.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            out.word("PIN").word(self.key);
            if let Some(ttl) = self.ttl {
                out.word("TTL").number(ttl.0);
            }
        });
    }
}

/// `UNPIN key`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpin<'a> {
    /// The object.
    pub key: &'a [u8],
}

impl<'a> Unpin<'a> {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'a>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 1);
        let key = words.key()?;
        words.end()?;
        Ok(Self { key })
    }

    /// Writes the request.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            out.word("UNPIN").word(self.key);
        });
    }
}
