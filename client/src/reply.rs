//! Replies of any shape, for commands that this library has no function for.
//!
//! Role: decoding by the redis-protocol crate. The bytes were scanned before: they are complete and nest no deeper than
//! the scanner allows, which the crate does not check.

use bytes::Bytes;
use redis_protocol::{resp2, resp3};

/// One reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// No value.
    Null,
    /// A status line.
    Simple(String),
    /// An error line, its stable word first. Inside an array it is that item's.
    Error(String),
    /// A whole number.
    Integer(i64),
    /// A floating-point number.
    Double(f64),
    /// Yes or no.
    Boolean(bool),
    /// Any bytes.
    Bulk(Bytes),
    /// Values in order; a set too, and in RESP2 a map, flat.
    Array(Vec<Reply>),
    /// Keys and their values, in the order they were sent.
    Map(Vec<(Reply, Reply)>),
}

impl Reply {
    /// The bytes of a bulk or a status line.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bulk(bytes) => Some(bytes),
            Self::Simple(text) => Some(text.as_bytes()),
            _ => None,
        }
    }

    /// The number, if it is a whole one.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(*value),
            _ => None,
        }
    }

    /// Decodes one complete reply; `None` if it is none.
    pub(crate) fn decode(bytes: &[u8], resp3: bool) -> Option<Self> {
        let bytes = Bytes::copy_from_slice(bytes);
        if resp3 {
            let (frame, _) = resp3::decode::complete::decode_bytes(&bytes).ok()??;
            from_resp3(frame)
        } else {
            let (frame, _) = resp2::decode::decode_bytes(&bytes).ok()??;
            Some(from_resp2(frame))
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn from_resp2(frame: resp2::types::BytesFrame) -> Reply {
    use resp2::types::BytesFrame as Frame;
    match frame {
        Frame::SimpleString(bytes) => Reply::Simple(text(&bytes)),
        Frame::Error(line) => Reply::Error(line.to_string()),
        Frame::Integer(value) => Reply::Integer(value),
        Frame::BulkString(bytes) => Reply::Bulk(bytes),
        Frame::Array(values) => Reply::Array(values.into_iter().map(from_resp2).collect()),
        Frame::Null => Reply::Null,
    }
}

fn from_resp3(frame: resp3::types::BytesFrame) -> Option<Reply> {
    use resp3::types::BytesFrame as Frame;
    Some(match frame {
        Frame::BlobString { data, .. } | Frame::VerbatimString { data, .. } | Frame::BigNumber { data, .. } => {
            Reply::Bulk(data)
        }
        Frame::SimpleString { data, .. } => Reply::Simple(text(&data)),
        Frame::SimpleError { data, .. } => Reply::Error(data.to_string()),
        Frame::BlobError { data, .. } => Reply::Error(text(&data)),
        Frame::Boolean { data, .. } => Reply::Boolean(data),
        Frame::Null => Reply::Null,
        Frame::Number { data, .. } => Reply::Integer(data),
        Frame::Double { data, .. } => Reply::Double(data),
        Frame::Array { data, .. } | Frame::Push { data, .. } => {
            Reply::Array(data.into_iter().map(from_resp3).collect::<Option<_>>()?)
        }
        Frame::Set { data, .. } => Reply::Array(data.into_iter().map(from_resp3).collect::<Option<_>>()?),
        // The crate takes the pairs from the end; a test holds it to that.
        Frame::Map { data, .. } => Reply::Map(
            data.into_iter()
                .rev()
                .map(|(key, value)| Some((from_resp3(key)?, from_resp3(value)?)))
                .collect::<Option<_>>()?,
        ),
        // The server sends neither: a hello goes the other way, and nothing is streamed.
        Frame::Hello { .. } | Frame::ChunkedString(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_both_versions_are_understood() {
        let bulk = |text: &'static str| Reply::Bulk(Bytes::from_static(text.as_bytes()));
        let check = |bytes: &str, resp3: bool, expected: Reply| {
            assert_eq!(Reply::decode(bytes.as_bytes(), resp3), Some(expected), "{bytes:?}");
        };
        for resp3 in [false, true] {
            check("+OK\r\n", resp3, Reply::Simple("OK".into()));
            check("-ERR no\r\n", resp3, Reply::Error("ERR no".into()));
            check(":-7\r\n", resp3, Reply::Integer(-7));
            check("$2\r\nab\r\n", resp3, bulk("ab"));
            check(
                "*2\r\n:1\r\n*1\r\n$1\r\nx\r\n",
                resp3,
                Reply::Array(vec![Reply::Integer(1), Reply::Array(vec![bulk("x")])]),
            );
        }
        check("$-1\r\n", false, Reply::Null);
        check("_\r\n", true, Reply::Null);
        check("#t\r\n", true, Reply::Boolean(true));
        check(",1.5\r\n", true, Reply::Double(1.5));
        check("=6\r\ntxt:ab\r\n", true, bulk("ab"));
        let pairs = vec![(bulk("b"), Reply::Integer(1)), (bulk("a"), Reply::Integer(2))];
        check("%2\r\n$1\r\nb\r\n:1\r\n$1\r\na\r\n:2\r\n", true, Reply::Map(pairs));
    }
}
