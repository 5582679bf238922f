//! What a value is made of: parts of what was there, of the argument, zeros, a number.
//!
//! Invariants:
//! - What is made is no longer than an object may be.

use super::Rework;
use crate::conn::Taken;
use crate::decimal;
use crate::dispatch::Ctx;
use protocol::command::parse_i64;
use protocol::resp::{Arg, WireError, Writer};
use std::ops::Range;
use storage::{ReadGuard, Reservation};

/// Bytes that a number has at most when written.
const NUMBER_LEN_MAX: usize = 5 * 1024;

/// What is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Append,
    /// From this byte on.
    SetRange(u64),
    Incr(i64),
    /// By the argument.
    IncrFloat,
    Rename {
        if_absent: bool,
    },
    Copy {
        replace: bool,
    },
}

/// An argument's bytes, wherever they were received.
#[derive(Debug)]
pub(crate) enum Argument {
    Bytes(Vec<u8>),
    Slot(Reservation),
}

impl Argument {
    /// Takes argument `index` of the command.
    pub(crate) fn take(ctx: &mut Ctx<'_>, index: usize) -> Result<Self, WireError> {
        match ctx.args.get(index) {
            Some(Arg::Bytes(bytes)) => Ok(Self::Bytes(bytes.to_vec())),
            Some(Arg::Taken { .. }) => {
                let at = ctx.taken.iter().position(|(arg, _)| *arg == index).ok_or_else(WireError::syntax)?;
                match ctx.taken.swap_remove(at).1 {
                    Taken::Slot(slot, _) => Ok(Self::Slot(slot)),
                    Taken::Refused(error) => Err(error),
                }
            }
            None => Err(WireError::syntax()),
        }
    }

    pub(crate) fn bytes(&mut self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Slot(slot) => slot.bytes_mut(),
        }
    }
}

/// What was there.
#[derive(Debug)]
pub(crate) enum Old {
    Nothing,
    Bytes(Vec<u8>),
    Guard(ReadGuard),
}

impl Old {
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Nothing => None,
            Self::Bytes(bytes) => Some(bytes),
            Self::Guard(guard) => Some(guard.bytes()),
        }
    }
}

/// A part of the new value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Old(Range<usize>),
    Zeros(usize),
    Argument,
    Text(Vec<u8>),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Ok,
    Integer(i64),
    Text(Vec<u8>),
}

impl Reply {
    pub(super) fn length(len: u64) -> Self {
        Self::Integer(i64::try_from(len).unwrap_or(i64::MAX))
    }

    pub(super) fn write(&self, out: &mut Writer<'_>) {
        match self {
            Self::Ok => out.ok(),
            Self::Integer(value) => out.integer(*value),
            Self::Text(text) => out.bulk(text),
        }
    }
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Write a value of these parts, so many bytes.
    Write(Vec<Piece>, usize, Reply),
    /// Nothing but this.
    Answer(Reply),
}

impl Rework {
    /// What to make of `old`.
    pub(super) fn plan(&mut self, old: Option<&[u8]>, len_max: u64) -> Result<Step, WireError> {
        let old_len = old.map_or(0, <[u8]>::len);
        match self.what {
            What::Append => {
                let len = old_len as u64 + self.argument.bytes().len() as u64;
                Self::check_len(len, len_max)?;
                let pieces = vec![Piece::Old(0..old_len), Piece::Argument];
                Ok(Step::Write(pieces, old_len + self.argument.bytes().len(), Reply::length(len)))
            }
            What::SetRange(offset) => {
                let count = self.argument.bytes().len();
                if count == 0 {
                    return Ok(Step::Answer(Reply::length(old_len as u64)));
                }
                Self::check_len(offset.saturating_add(count as u64), len_max)?;
                let offset = usize::try_from(offset).expect("checked against the longest object");
                let kept = old_len.min(offset);
                let pieces = vec![
                    Piece::Old(0..kept),
                    Piece::Zeros(offset - kept),
                    Piece::Argument,
                    Piece::Old((offset + count).min(old_len)..old_len),
                ];
                let len = old_len.max(offset + count);
                Ok(Step::Write(pieces, len, Reply::length(len as u64)))
            }
            What::Incr(by) => {
                let old = old.map_or(Some(0), parse_i64).ok_or_else(WireError::not_an_integer)?;
                let sum = old.checked_add(by).ok_or_else(|| WireError::err("increment or decrement would overflow"))?;
                let text = sum.to_string().into_bytes();
                let len = text.len();
                Ok(Step::Write(vec![Piece::Text(text)], len, Reply::Integer(sum)))
            }
            What::IncrFloat => {
                let invalid = || WireError::err("value is not a valid float");
                let old = old.unwrap_or(b"0");
                let old = if old.len() > NUMBER_LEN_MAX { None } else { decimal::parse(old) }.ok_or_else(invalid)?;
                let by = decimal::parse(self.argument.bytes()).ok_or_else(invalid)?;
                let sum = decimal::add(old, by)
                    .ok_or_else(|| WireError::err("increment would produce NaN or Infinity"))?
                    .into_bytes();
                Ok(Step::Write(vec![Piece::Text(sum.clone())], sum.len(), Reply::Text(sum)))
            }
            What::Rename { if_absent } => {
                if old.is_none() {
                    return Err(WireError::err("no such key"));
                }
                let reply = if if_absent { Reply::Integer(1) } else { Reply::Ok };
                if self.key[..] == *self.to() {
                    return Ok(Step::Answer(if if_absent { Reply::Integer(0) } else { Reply::Ok }));
                }
                Ok(Step::Write(vec![Piece::Old(0..old_len)], old_len, reply))
            }
            What::Copy { .. } => match old {
                None => Ok(Step::Answer(Reply::Integer(0))),
                Some(_) => Ok(Step::Write(vec![Piece::Old(0..old_len)], old_len, Reply::Integer(1))),
            },
        }
    }

    fn check_len(len: u64, len_max: u64) -> Result<(), WireError> {
        if len > len_max {
            return Err(WireError::err("string exceeds maximum allowed size (proto-max-bulk-len)"));
        }
        Ok(())
    }

    pub(super) fn fill(&mut self, piece: &Piece, old: &Old, range: Range<usize>, to: &mut [u8]) {
        match piece {
            Piece::Old(of) => {
                let old = old.bytes().unwrap_or_default();
                to.copy_from_slice(&old[of.start + range.start..of.start + range.end]);
            }
            Piece::Zeros(_) => to.fill(0),
            Piece::Argument => to.copy_from_slice(&self.argument.bytes()[range]),
            Piece::Text(text) => to.copy_from_slice(&text[range]),
        }
    }

    pub(super) fn piece_len(&mut self, piece: &Piece) -> usize {
        match piece {
            Piece::Old(of) => of.len(),
            Piece::Zeros(count) => *count,
            Piece::Argument => self.argument.bytes().len(),
            Piece::Text(text) => text.len(),
        }
    }

    /// The new value, in one go.
    pub(super) fn whole(&mut self, pieces: &[Piece], len: usize, old: &Old) -> Vec<u8> {
        let mut value = vec![0; len];
        let mut at = 0;
        for piece in pieces {
            let count = self.piece_len(piece);
            self.fill(piece, old, 0..count, &mut value[at..at + count]);
            at += count;
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(what: What, argument: &[u8], old: Option<&[u8]>) -> Result<(Vec<u8>, Reply), String> {
        let argument = Argument::Bytes(argument.to_vec());
        let mut rework = Rework::change(what, b"k", argument).expect("a short key");
        match rework.plan(old, 100).map_err(|error| error.to_string())? {
            Step::Answer(reply) => Ok((old.unwrap_or_default().to_vec(), reply)),
            Step::Write(pieces, len, reply) => {
                let old = old.map_or(Old::Nothing, |old| Old::Bytes(old.to_vec()));
                Ok((rework.whole(&pieces, len, &old), reply))
            }
        }
    }

    #[test]
    fn values_are_made_as_redis_makes_them() {
        let value = |bytes: &[u8], reply| Ok((bytes.to_vec(), reply));
        assert_eq!(made(What::Append, b"cd", Some(b"ab")), value(b"abcd", Reply::Integer(4)));
        assert_eq!(made(What::Append, b"cd", None), value(b"cd", Reply::Integer(2)));
        assert_eq!(made(What::SetRange(1), b"XY", Some(b"abcde")), value(b"aXYde", Reply::Integer(5)));
        assert_eq!(made(What::SetRange(4), b"XY", Some(b"abcde")), value(b"abcdXY", Reply::Integer(6)));
        assert_eq!(made(What::SetRange(3), b"X", None), value(b"\0\0\0X", Reply::Integer(4)));
        assert_eq!(made(What::SetRange(50), b"", Some(b"ab")), value(b"ab", Reply::Integer(2)));
        assert_eq!(made(What::Incr(-3), b"", Some(b"2")), value(b"-1", Reply::Integer(-1)));
        assert_eq!(made(What::IncrFloat, b"0.5", Some(b"10")), value(b"10.5", Reply::Text(b"10.5".to_vec())));
    }

    #[test]
    fn what_cannot_be_made_is_refused_in_redis_words() {
        let too_long = Err("ERR string exceeds maximum allowed size (proto-max-bulk-len)".to_owned());
        assert_eq!(made(What::Append, &[b'x'; 60], Some(&[b'x'; 60])), too_long);
        assert_eq!(made(What::SetRange(u64::MAX), b"x", None), too_long);
        let not_integer = Err("ERR value is not an integer or out of range".to_owned());
        for old in [&b" 1"[..], b"1 ", b"x", b"", b"9223372036854775808"] {
            assert_eq!(made(What::Incr(1), b"", Some(old)), not_integer);
        }
        let overflow = Err("ERR increment or decrement would overflow".to_owned());
        assert_eq!(made(What::Incr(1), b"", Some(b"9223372036854775807")), overflow);
        assert_eq!(made(What::IncrFloat, b"x", None), Err("ERR value is not a valid float".to_owned()));
        let infinite = Err("ERR increment would produce NaN or Infinity".to_owned());
        assert_eq!(made(What::IncrFloat, b"inf", Some(b"1")), infinite);
    }
}
