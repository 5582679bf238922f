//! Reading a command's words: numbers, ids and options.

use crate::base::{ByteLen, Crc, GrantId, KEY_LEN_MAX, LeaseId, Lent, Millis};
use crate::resp::{Arg, Args, ErrorWord, WireError};

/// Reads a whole number as Redis does: digits with an optional minus sign, no leading zero, no space.
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    match text {
        [b'-', digits @ ..] => {
            let value = parse_u64(digits).filter(|&value| value != 0)?;
            0i64.checked_sub_unsigned(value)
        }
        digits => i64::try_from(parse_u64(digits)?).ok(),
    }
}

/// Reads a whole number that cannot be negative: digits, no leading zero, no sign.
pub fn parse_u64(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 || (text[0] == b'0' && text.len() > 1) {
        return None;
    }
    text.iter().try_fold(0u64, |value, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// The arguments of a command, taken one after another. Every method that finds none left answers a syntax error.
#[derive(Clone, Debug)]
pub struct Words<'a> {
    args: Args<'a>,
    next: usize,
}

impl<'a> Words<'a> {
    /// From argument `next` on; the name is 0.
    pub fn new(args: &Args<'a>, next: usize) -> Self {
        Self { args: *args, next }
    }

    /// Arguments left.
    pub fn left(&self) -> usize {
        self.args.len().saturating_sub(self.next)
    }

    /// The next argument, an option's word most likely; `None` at the end.
    ///
    /// # Errors
    /// If its payload went elsewhere: then it is no word.
    pub fn option(&mut self) -> Result<Option<&'a [u8]>, WireError> {
        if self.left() == 0 { Ok(None) } else { self.word().map(Some) }
    }

    /// Passes over the next argument if it is `word`, in any case of its letters, and says whether it was.
    pub fn skip_if(&mut self, word: &str) -> bool {
        let found = self.args.get(self.next).and_then(|arg| arg.bytes()).is_some_and(|next| is(next, word));
        self.next += usize::from(found);
        found
    }

    /// The next argument.
    ///
    /// # Errors
    /// If there is none.
    pub fn word(&mut self) -> Result<&'a [u8], WireError> {
        self.value()?.bytes().ok_or_else(WireError::syntax)
    }

    /// The next argument, wherever its bytes are.
    ///
    /// # Errors
    /// If there is none.
    pub fn value(&mut self) -> Result<Arg<'a>, WireError> {
        let arg = self.args.get(self.next).ok_or_else(WireError::syntax)?;
        self.next += 1;
        Ok(arg)
    }

    /// A key.
    ///
    /// # Errors
    /// If there is none, or `TOOBIG` above [`KEY_LEN_MAX`].
    pub fn key(&mut self) -> Result<&'a [u8], WireError> {
        let key = self.word()?;
        check_key(key)?;
        Ok(key)
    }

    /// A number that may be negative.
    ///
    /// # Errors
    /// If there is none.
    pub fn signed(&mut self) -> Result<i64, WireError> {
        parse_i64(self.word()?).ok_or_else(WireError::not_an_integer)
    }

    /// A number that cannot be negative.
    ///
    /// # Errors
    /// If there is none.
    pub fn unsigned(&mut self) -> Result<u64, WireError> {
        parse_u64(self.word()?).ok_or_else(WireError::not_an_integer)
    }

    /// A number of 32 bits.
    ///
    /// # Errors
    /// If there is none.
    pub fn small(&mut self) -> Result<u32, WireError> {
        u32::try_from(self.unsigned()?).map_err(|_| WireError::not_an_integer())
    }

    /// A length in bytes.
    ///
    /// # Errors
    /// If there is none.
    pub fn byte_len(&mut self) -> Result<ByteLen, WireError> {
        self.unsigned().map(ByteLen)
    }

    /// A span of milliseconds, at least one.
    ///
    /// # Errors
    /// If there is none.
    pub fn millis(&mut self) -> Result<Millis, WireError> {
        match self.unsigned()? {
            0 => Err(WireError::err("a span of time is at least 1 ms")),
            span => Ok(Millis(span)),
        }
    }

    /// A checksum.
    ///
    /// # Errors
    /// If it is not eight hex digits.
    pub fn crc(&mut self) -> Result<Crc, WireError> {
        Crc::parse(self.word()?).map_err(|e| WireError::err(e.to_string()))
    }

    /// A grant.
    ///
    /// # Errors
    /// `NOGRANT` if it cannot be one.
    pub fn grant(&mut self) -> Result<GrantId, WireError> {
        GrantId::parse(self.word()?).map_err(|_| WireError::new(ErrorWord::NoGrant, "no such grant"))
    }

    /// A lease.
    ///
    /// # Errors
    /// `NOLEASE` if it cannot be one.
    pub fn lease(&mut self) -> Result<LeaseId, WireError> {
        LeaseId::parse(self.word()?).map_err(|_| WireError::new(ErrorWord::NoLease, "no such lease"))
    }

    /// A lease or a grant.
    ///
    /// # Errors
    /// `NOLEASE` if it can be neither.
    pub fn lent(&mut self) -> Result<Lent, WireError> {
        Lent::parse(self.word()?).map_err(|_| WireError::new(ErrorWord::NoLease, "no such lease or grant"))
    }

    /// Nothing may follow.
    ///
    /// # Errors
    /// If something does.
    pub fn end(&self) -> Result<(), WireError> {
        if self.left() == 0 { Ok(()) } else { Err(WireError::syntax()) }
    }
}

/// Refuses a key that is too long.
///
/// # Errors
/// `TOOBIG` above [`KEY_LEN_MAX`].
pub fn check_key(key: &[u8]) -> Result<(), WireError> {
    if key.len() <= KEY_LEN_MAX {
        return Ok(());
    }
    Err(WireError::new(
        ErrorWord::TooBig,
        format!("a key has at most {}, this one {}", ByteLen(KEY_LEN_MAX as u64), ByteLen(key.len() as u64)),
    ))
}

/// Fills `slot`, once: an option given twice is a syntax error.
pub(super) fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), WireError> {
    if slot.replace(value).is_some() { Err(WireError::syntax()) } else { Ok(()) }
}

/// Whether `word` is `option`, in any case.
pub(super) fn is(word: &[u8], option: &str) -> bool {
    word.eq_ignore_ascii_case(option.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_redis_reads_them() {
        for (text, value) in
            [("0", 0), ("1", 1), ("-1", -1), ("9223372036854775807", i64::MAX), ("-9223372036854775808", i64::MIN)]
        {
            assert_eq!(parse_i64(text.as_bytes()), Some(value), "{text}");
        }
        for bad in
            ["", "-", "-0", "00", "01", "+1", " 1", "1 ", "1.0", "9223372036854775808", "-9223372036854775809", "0x1"]
        {
            assert_eq!(parse_i64(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parse_u64(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(parse_u64(b"18446744073709551616"), None);
    }
}
