//! RESP as a client of large values speaks it: requests go out from where the bytes lie, bodies arrive where they stay.
//!
//! Role: the one in-band path of this tool, so that every server is driven by the same client.
//!
//! Invariants:
//! - No byte of a body is copied by the client: header, body and end come by one `readv` into three places.
//! - An answer that is not the expected one is read to its end, and said.

use anyhow::{Context, Result, bail};
use redis_protocol::resp2::types::OwnedFrame;
use socket2::Socket;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};

/// What a `GET` answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// So many bytes lie in the buffer.
    Here(usize),
    Missing,
}

/// One connection, blocking.
pub(crate) struct Wire {
    socket: Socket,
    /// Bytes of the head of the request being sent.
    out: Vec<u8>,
    /// Bytes that came after what was read so far.
    ahead: Vec<u8>,
}

/// Appends `*n`.
pub(crate) fn push_array(out: &mut Vec<u8>, n: usize) {
    push_line(out, b'*', n);
}

/// Appends one argument.
pub(crate) fn push_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    push_line(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends `$n` or `*n` and the line's end.
pub(crate) fn push_line(out: &mut Vec<u8>, kind: u8, n: usize) {
    out.push(kind);
    out.extend_from_slice(n.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends a whole command.
pub(crate) fn push_command(out: &mut Vec<u8>, words: &[&[u8]]) {
    push_array(out, words.len());
    for word in words {
        push_bulk(out, word);
    }
}

impl Wire {
    pub(crate) fn new(socket: Socket) -> Self {
        Self { socket, out: Vec::with_capacity(256), ahead: Vec::new() }
    }

    /// `SET key value`.
    pub(crate) fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.send_set(key, value, false)?;
        self.expect_ok()
    }

    /// Sends `SET key value` straight from `value`, with `NX` if it must not replace.
    pub(crate) fn send_set(&mut self, key: &[u8], value: &[u8], only_new: bool) -> Result<()> {
        self.out.clear();
        push_array(&mut self.out, if only_new { 4 } else { 3 });
        push_bulk(&mut self.out, b"SET");
        push_bulk(&mut self.out, key);
        push_line(&mut self.out, b'$', value.len());
        let tail: &[u8] = if only_new { b"\r\n$2\r\nNX\r\n" } else { b"\r\n" };
        write_all(&self.socket, &mut [IoSlice::new(&self.out), IoSlice::new(value), IoSlice::new(tail)])
            .context("send a value")
    }

    /// Sends one `GET` for each key in one write.
    pub(crate) fn send_gets<'a>(&mut self, keys: impl Iterator<Item = &'a [u8]>) -> Result<()> {
        self.out.clear();
        for key in keys {
            push_command(&mut self.out, &[b"GET", key]);
        }
        write_all(&self.socket, &mut [IoSlice::new(&self.out)]).context("send a request")
    }

    /// Reads `+OK`.
    pub(crate) fn expect_ok(&mut self) -> Result<()> {
        const OK: &[u8] = b"+OK\r\n";
        let mut got = [0; OK.len()];
        let mut at = self.take_ahead(&mut got);
        while at < OK.len() && OK.starts_with(&got[..at]) {
            at += read_some(&self.socket, &mut [IoSliceMut::new(&mut got[at..])])?;
        }
        if got == OK {
            return Ok(());
        }
        self.put_back(&got[..at]);
        match self.frame()? {
            OwnedFrame::Error(text) => bail!("answered -{text}"),
            other => bail!("answered {other:?} where OK was due"),
        }
    }

    /// Reads the answer to a `GET` of a value that should be `len` bytes long into `into`.
    pub(crate) fn read_body(&mut self, into: &mut [u8], len: usize) -> Result<Body> {
        let mut head_due = Vec::with_capacity(16);
        push_line(&mut head_due, b'$', len);
        let head_len = head_due.len();
        let mut head = [0u8; 24];
        let mut tail = [0u8; 2];
        let whole = head_len + len + 2;
        if !self.ahead.is_empty() {
            return self.read_body_slowly(into, len);
        }
        let mut at = 0;
        while at < whole {
            let mut parts = [
                IoSliceMut::new(&mut head[at.min(head_len)..head_len]),
                IoSliceMut::new(&mut into[at.saturating_sub(head_len).min(len)..len]),
                IoSliceMut::new(&mut tail[at.saturating_sub(head_len + len)..]),
            ];
            at += read_some(&self.socket, &mut parts)?;
            let seen = at.min(head_len);
            if head[..seen] != head_due[..seen] {
                // Not what was due: whatever came belongs to other answers.
                let mut back = head[..seen].to_vec();
                back.extend_from_slice(&into[..at.saturating_sub(head_len).min(len)]);
                back.extend_from_slice(&tail[..at.saturating_sub(head_len + len)]);
                self.put_back(&back);
                return self.read_body_slowly(into, len);
            }
        }
        if tail != *b"\r\n" {
            bail!("a body of {len} bytes does not end where it should");
        }
        Ok(Body::Here(len))
    }

    fn read_body_slowly(&mut self, into: &mut [u8], len: usize) -> Result<Body> {
        match self.frame()? {
            OwnedFrame::Null => Ok(Body::Missing),
            OwnedFrame::BulkString(bytes) if bytes.len() <= into.len() => {
                into[..bytes.len()].copy_from_slice(&bytes);
                Ok(Body::Here(bytes.len()))
            }
            OwnedFrame::BulkString(bytes) => bail!("answered {} bytes where {len} were due", bytes.len()),
            OwnedFrame::Error(text) => bail!("answered -{text}"),
            other => bail!("answered {other:?} where a value was due"),
        }
    }

    /// Sends any command and reads its answer. An error word is an `Err`.
    pub(crate) fn command(&mut self, words: &[&[u8]]) -> Result<OwnedFrame> {
        self.send(words)?;
        match self.frame()? {
            OwnedFrame::Error(text) => bail!("{}: answered -{text}", String::from_utf8_lossy(words[0])),
            frame => Ok(frame),
        }
    }

    /// Sends any command.
    pub(crate) fn send(&mut self, words: &[&[u8]]) -> Result<()> {
        self.out.clear();
        push_command(&mut self.out, words);
        write_all(&self.socket, &mut [IoSlice::new(&self.out)]).context("send a request")
    }

    /// Reads any answer. For small ones: the whole is buffered.
    pub(crate) fn frame(&mut self) -> Result<OwnedFrame> {
        loop {
            if let Some((frame, used)) =
                redis_protocol::resp2::decode::decode(&self.ahead).context("an answer that is not RESP2")?
            {
                self.ahead.drain(..used);
                return Ok(frame);
            }
            let at = self.ahead.len();
            self.ahead.resize(at + 16 * 1024, 0);
            let n = read_some(&self.socket, &mut [IoSliceMut::new(&mut self.ahead[at..])]);
            self.ahead.truncate(at + *n.as_ref().unwrap_or(&0));
            n?;
        }
    }

    fn take_ahead(&mut self, into: &mut [u8]) -> usize {
        let n = self.ahead.len().min(into.len());
        into[..n].copy_from_slice(&self.ahead[..n]);
        self.ahead.drain(..n);
        n
    }

    fn put_back(&mut self, bytes: &[u8]) {
        self.ahead.splice(0..0, bytes.iter().copied());
    }
}

/// Writes all parts, in as few calls as the socket allows.
pub(crate) fn write_all(mut socket: &Socket, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        match socket.write_vectored(parts) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut parts, n),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads at least one byte into the parts.
pub(crate) fn read_some(mut socket: &Socket, parts: &mut [IoSliceMut<'_>]) -> Result<usize> {
    loop {
        match socket.read_vectored(parts) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(n) => return Ok(n),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => bail!("no answer in time"),
            Err(error) => return Err(error).context("read an answer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection whose other end has already said `says`.
    fn hearing(says: &[u8]) -> (Wire, Socket) {
        let (ours, theirs) = Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).expect("a socket pair");
        write_all(&theirs, &mut [IoSlice::new(says)]).expect("room in the socket");
        theirs.shutdown(std::net::Shutdown::Write).expect("open until now");
        (Wire::new(ours), theirs)
    }

    #[test]
    fn bodies_land_in_the_buffer_and_anything_else_is_told_apart() {
        let (mut wire, _end) = hearing(b"$5\r\nhello\r\n$-1\r\n$3\r\nabc\r\n$5\r\nworld\r\n");
        let mut buffer = [0; 8];
        assert_eq!(wire.read_body(&mut buffer, 5).unwrap(), Body::Here(5));
        assert_eq!(&buffer[..5], b"hello");
        assert_eq!(wire.read_body(&mut buffer, 5).unwrap(), Body::Missing);
        assert_eq!(wire.read_body(&mut buffer, 5).unwrap(), Body::Here(3));
        assert_eq!(wire.read_body(&mut buffer, 5).unwrap(), Body::Here(5));
        assert_eq!(&buffer[..5], b"world");
        assert!(wire.read_body(&mut buffer, 5).unwrap_err().to_string().contains("closed"));
    }

    #[test]
    fn errors_are_said_and_what_follows_is_kept() {
        let (mut wire, _end) = hearing(b"-OOM no room\r\n+OK\r\n:7\r\n");
        assert!(wire.expect_ok().unwrap_err().to_string().contains("OOM no room"));
        wire.expect_ok().expect("the next answer");
        assert_eq!(wire.frame().unwrap(), OwnedFrame::Integer(7));
    }

    #[test]
    fn requests_are_resp_arrays() {
        let (mut wire, mut end) = hearing(b"");
        wire.send_set(b"k", b"value", false).unwrap();
        wire.send_gets([&b"k"[..]].into_iter()).unwrap();
        drop(wire);
        let mut said = String::new();
        end.read_to_string(&mut said).unwrap();
        assert_eq!(said, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    }
}
