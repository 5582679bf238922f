//! Identities. Each is a number that is never given out twice in one life of a node.

use std::fmt;
use std::str::FromStr;

/// Longest key, in bytes. Keys of engines are 50 to 150 bytes long; Redis allows more than anyone needs.
pub const KEY_LEN_MAX: usize = 16 * 1024;

/// Why a textual id was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 16 hex digits")]
pub struct ParseIdError;

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// Reads the 16 lowercase or uppercase hex digits that `Display` writes.
            ///
            /// # Errors
            /// [`ParseIdError`] for anything else.
            pub fn parse(text: &[u8]) -> Result<Self, ParseIdError> {
                if text.len() != 16 {
                    return Err(ParseIdError);
                }
                let mut value = 0u64;
                for &digit in text {
                    let digit = (digit as char).to_digit(16).ok_or(ParseIdError)?;
                    value = value << 4 | u64::from(digit);
                }
                Ok(Self(value))
            }

            /// What `Display` writes, without the formatting machinery.
            pub fn hex(self) -> [u8; 16] {
                super::checksum::hex(self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                Self::parse(text.as_bytes())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }
    };
}

hex_id! {
    /// The right to write one reserved slot once. Random: it is a credential and is never logged.
    GrantId
}
hex_id! {
    /// A promise that an object's bytes stay where they are. Random: a credential, never logged.
    LeaseId
}
hex_id! {
    /// One bulk session: a client connection and what it was lent. Dies with the connection.
    SessionId
}

/// The bit by which a grant is told from a lease, so that one word can name either. The rest is the giver's own.
const GRANT_BIT: u64 = 1 << 8;

impl GrantId {
    /// The grant with these bits, but for the one that makes it a grant.
    pub fn of(bits: u64) -> Self {
        Self(bits | GRANT_BIT)
    }
}

impl LeaseId {
    /// The lease with these bits, but for the one that would make it a grant.
    pub fn of(bits: u64) -> Self {
        Self(bits & !GRANT_BIT)
    }
}

/// What a client was lent until a stated end, of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lent {
    /// To be read.
    Lease(LeaseId),
    /// To be written.
    Grant(GrantId),
}

impl Lent {
    /// Reads what either kind's `Display` writes.
    ///
    /// # Errors
    /// [`ParseIdError`] for anything else.
    pub fn parse(text: &[u8]) -> Result<Self, ParseIdError> {
        let LeaseId(bits) = LeaseId::parse(text)?;
        Ok(if bits & GRANT_BIT == 0 { Self::Lease(LeaseId(bits)) } else { Self::Grant(GrantId(bits)) })
    }
}

impl fmt::Display for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lease(lease) => lease.fmt(f),
            Self::Grant(grant) => grant.fmt(f),
        }
    }
}

// Credentials must not reach a log by way of `{:?}`.
impl fmt::Debug for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GrantId(..)")
    }
}
impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseId(..)")
    }
}
impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(..)")
    }
}

/// One placement of one object: boot epoch in 23 bits, a counter in the lower 40. The topmost bit is 0, so that RESP can
/// tell it as an integer.
/// Never reused, so that a stale locator cannot match a later object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// Bits of the counter below the boot epoch: 10^12 placements a boot.
    pub const COUNTER_BITS: u32 = 40;

    /// The highest boot epoch that a generation can tell from all lower ones.
    pub const BOOT_EPOCH_MAX: u64 = 0x7f_ffff;

    /// The first generation of a boot. Only the lower 23 bits of `boot_epoch` count.
    pub fn first_of(boot_epoch: u64) -> Self {
        Self((boot_epoch & Self::BOOT_EPOCH_MAX) << Self::COUNTER_BITS)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One run of registered DRAM of a node, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u32);

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A node's name in locators and in the cluster: 40 hex digits, as Redis Cluster writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub String);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_what_they_write_and_nothing_else() {
        let id = GrantId(0x0123_4567_89ab_cdef);
        assert_eq!(GrantId::parse(id.to_string().as_bytes()), Ok(id));
        assert_eq!(id.hex(), id.to_string().as_bytes());
        for bad in ["", "0", "0123456789abcdeg", "0123456789abcdef0", "+123456789abcdef"] {
            assert_eq!(GrantId::parse(bad.as_bytes()), Err(ParseIdError), "{bad}");
        }
    }

    #[test]
    fn a_lease_and_a_grant_are_told_apart() {
        for bits in [0, 0x100, 0x0123_4567_89ab_cdef, u64::MAX] {
            for lent in [Lent::Lease(LeaseId::of(bits)), Lent::Grant(GrantId::of(bits))] {
                assert_eq!(Lent::parse(lent.to_string().as_bytes()), Ok(lent));
            }
        }
        assert_eq!(Lent::parse(b"lease"), Err(ParseIdError));
    }

    #[test]
    fn every_generation_is_a_positive_integer_of_resp() {
        for boot_epoch in [0, 1, 0x7f_ffff, 0x80_0000, u64::MAX] {
            let last = Generation(Generation::first_of(boot_epoch).0 | ((1 << Generation::COUNTER_BITS) - 1));
            assert!(i64::try_from(last.0).is_ok(), "{last} of boot {boot_epoch:#x}");
        }
    }

    #[test]
    fn credentials_do_not_show_in_debug() {
        assert!(!format!("{:?}", LeaseId(0xdead_beef)).contains("dead"));
    }
}
