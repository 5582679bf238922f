//! Why a call failed: what, where, and what to do about it.

use crate::options::ParseAddressError;
use protocol::base::Crc;
use protocol::resp::ErrorWord;
use std::io;
use std::time::Duration;
use transport::shm::{RingError, ShmError};
use transport::tcp::BulkError;

/// Why a call failed. A miss is not here: it is `None`.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server refused. The connection can be used on.
    #[error("the server answered {word} {text}")]
    Wire {
        /// The stable first word.
        word: String,
        /// The text after it.
        text: String,
    },
    /// No connection could be made.
    #[error("connect to {address}: {source}. Is the server running there?")]
    Connect {
        /// Where to.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The connection broke. The next call makes a new one.
    #[error("the connection to {address} broke: {source}. Try again; what was under way may or may not have happened")]
    Disconnected {
        /// Where to.
        address: String,
        /// How.
        source: io::Error,
    },
    /// The deadline came first. The connection was given up; the next call makes a new one.
    #[error("no answer from {address} within {deadline:?}. Try again, or set a longer deadline")]
    Timeout {
        /// Where.
        address: String,
        /// How long it was waited.
        deadline: Duration,
    },
    /// The server sent what cannot be. The connection was given up.
    #[error("{address} does not speak as expected: {what}. Is it a server of this kind and version?")]
    Protocol {
        /// Where.
        address: String,
        /// What was wrong.
        what: String,
    },
    /// The lease ended before its bytes were checked, or belongs to an earlier connection. Nothing was handed out; take
    /// another lease.
    #[error("the lease has ended: {0}. Take another")]
    Stale(&'static str),
    /// The bytes are not those that were sealed. Nothing was handed out.
    #[error("the bytes have checksum {actual} and should have {expected}: they are not the object. Report this")]
    Checksum {
        /// As the server says.
        expected: Crc,
        /// Of the bytes that arrived.
        actual: Crc,
    },
    /// The object is longer than the caller's buffer.
    #[error("the object has {needed} bytes, the buffer {has}. Use a longer buffer")]
    BufferTooSmall {
        /// Bytes of the object.
        needed: u64,
        /// Bytes of the buffer.
        has: usize,
    },
    /// The wanted transport cannot be had.
    #[error("{wanted} cannot be had: {reason}. Choose another transport, or `Auto`")]
    NoTransport {
        /// Which one.
        wanted: &'static str,
        /// Why not.
        reason: String,
    },
    /// The call asks for what this connection's transport cannot do.
    #[error("not over this transport: {0}")]
    Unsupported(&'static str),
    /// Memory to share could not be had.
    #[error("shared memory: {0}")]
    Memory(#[from] ShmError),
    /// The address makes no sense.
    #[error(transparent)]
    Address(#[from] ParseAddressError),
}

impl ClientError {
    /// The server's error word, if it refused with one that is known.
    pub fn word(&self) -> Option<ErrorWord> {
        match self {
            Self::Wire { word, .. } => ErrorWord::parse(word.as_bytes()),
            _ => None,
        }
    }

    /// Whether the connection is out of step or gone.
    pub(crate) fn breaks_connection(&self) -> bool {
        match self {
            Self::Disconnected { .. } | Self::Timeout { .. } | Self::Protocol { .. } | Self::Connect { .. } => true,
            Self::Wire { .. }
            | Self::Stale(_)
            | Self::Checksum { .. }
            | Self::BufferTooSmall { .. }
            | Self::NoTransport { .. }
            | Self::Unsupported(_)
            | Self::Memory(_)
            | Self::Address(_) => false,
        }
    }

    /// From the line of an error reply.
    pub(crate) fn wire(line: &[u8]) -> Self {
        let line = String::from_utf8_lossy(line);
        let (word, text) = line.split_once(' ').unwrap_or((&line, ""));
        Self::Wire { word: word.to_owned(), text: text.to_owned() }
    }

    pub(crate) fn io(address: &str, deadline: Duration, source: io::Error) -> Self {
        let address = address.to_owned();
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Timeout { address, deadline },
            _ => Self::Disconnected { address, source },
        }
    }

    pub(crate) fn ring(address: &str, deadline: Duration, error: RingError) -> Self {
        let address = address.to_owned();
        match error {
            RingError::Timeout => Self::Timeout { address, deadline },
            RingError::PeerGone => Self::Disconnected { address, source: io::ErrorKind::UnexpectedEof.into() },
            RingError::Corrupt(what) => Self::Protocol { address, what: what.to_owned() },
            RingError::Os { source, .. } => Self::Disconnected { address, source },
            RingError::Memory(source) => Self::Memory(source),
        }
    }

    pub(crate) fn bulk(address: &str, deadline: Duration, error: BulkError) -> Self {
        let address = address.to_owned();
        match error {
            BulkError::Timeout => Self::Timeout { address, deadline },
            BulkError::Connect { addr, source } => Self::Disconnected { address: addr.to_string(), source },
            BulkError::Broken(source) => Self::io(&address, deadline, source),
            BulkError::Frame(error) => Self::Protocol { address, what: error.to_string() },
            BulkError::OutOfStep(what) => Self::Protocol { address, what: what.to_owned() },
            BulkError::Refused(status) => {
                Self::Wire { word: status.word().to_owned(), text: "on the bulk connection".to_owned() }
            }
        }
    }
}
