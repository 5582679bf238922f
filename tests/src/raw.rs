//! RESP2 connections that hide nothing and forgive nothing: bytes and descriptors go out as they are given, replies come
//! back as values, an end is an end. It shares no code with the server or the client library.

use crate::server::Server;
use crate::wire::request;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use transport::shm::{recv_with_fds, send_with_fds};

/// Time that a reply may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// No value.
    Nil,
    /// A status line.
    Simple(String),
    /// An error line.
    Error(String),
    /// A number.
    Int(i64),
    /// Bytes.
    Bulk(Vec<u8>),
    /// Values; a map is flat.
    Array(Vec<Value>),
}

impl Value {
    /// The value after the bulk `name` of a flat map.
    ///
    /// # Panics
    /// If there is none.
    pub fn field(&self, name: &str) -> &Value {
        let Self::Array(items) = self else { panic!("{name} of {self:?}") };
        let at = items.chunks_exact(2).find(|pair| pair[0] == Self::Bulk(name.as_bytes().to_vec()));
        &at.unwrap_or_else(|| panic!("{name} of {self:?}"))[1]
    }

    /// The items of an array.
    ///
    /// # Panics
    /// If it is none.
    pub fn items(&self) -> &[Value] {
        let Self::Array(items) = self else { panic!("an array, not {self:?}") };
        items
    }

    /// The text of a string of any kind.
    ///
    /// # Panics
    /// If it is none.
    pub fn text(&self) -> &str {
        match self {
            Self::Simple(text) | Self::Error(text) => text,
            Self::Bulk(bytes) => std::str::from_utf8(bytes).expect("a text"),
            other => panic!("a text, not {other:?}"),
        }
    }

    /// The number.
    ///
    /// # Panics
    /// If it is none, or negative.
    pub fn number(&self) -> u64 {
        match self {
            Self::Int(number) => u64::try_from(*number).expect("not negative"),
            other => panic!("a number, not {other:?}"),
        }
    }

    /// Whether it is an error of this word.
    pub fn is_error(&self, word: &str) -> bool {
        matches!(self, Self::Error(line) if line.split(' ').next() == Some(word))
    }

    /// Whether it is a map, flat as RESP2 has it, with this field.
    pub fn has(&self, name: &str) -> bool {
        matches!(self, Self::Array(items)
            if items.chunks_exact(2).any(|pair| pair[0] == Self::Bulk(name.as_bytes().to_vec())))
    }
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// See the module's text.
#[derive(Debug)]
pub struct Raw {
    socket: Socket,
    inbox: Vec<u8>,
    /// Descriptors that came.
    pub fds: Vec<OwnedFd>,
}

impl Raw {
    /// Connects over TCP.
    ///
    /// # Errors
    /// As the connection fails.
    pub fn tcp(addr: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&addr, PATIENCE)?;
        socket.set_nodelay(true)?;
        Self::new(Socket::Tcp(socket))
    }

    /// Connects over a Unix socket.
    ///
    /// # Errors
    /// As the connection fails.
    pub fn unix(path: &Path) -> io::Result<Self> {
        Self::new(Socket::Unix(UnixStream::connect(path)?))
    }

    /// Connects to a server that was just started.
    ///
    /// # Panics
    /// If it does not accept.
    pub fn to(server: &Server) -> Self {
        Self::tcp(server.addr()).expect("the server accepts")
    }

    fn new(socket: Socket) -> io::Result<Self> {
        let mut raw = Self { socket, inbox: Vec::new(), fds: Vec::new() };
        raw.set_patience(crate::server::patience(PATIENCE))?;
        Ok(raw)
    }

    /// Sets how long a read or write may block.
    ///
    /// # Errors
    /// As the socket.
    pub fn set_patience(&mut self, patience: Duration) -> io::Result<()> {
        match &self.socket {
            Socket::Tcp(socket) => {
                socket.set_read_timeout(Some(patience))?;
                socket.set_write_timeout(Some(patience))
            }
            Socket::Unix(socket) => {
                socket.set_read_timeout(Some(patience))?;
                socket.set_write_timeout(Some(patience))
            }
        }
    }

    /// The descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// As the connection fails.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.socket {
            Socket::Tcp(socket) => socket.write_all(bytes),
            Socket::Unix(socket) => socket.write_all(bytes),
        }
    }

    /// Sends bytes with descriptors beside them.
    ///
    /// # Errors
    /// As the connection fails.
    pub fn send_fds(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let sent = send_with_fds(self.as_fd(), bytes, fds)?;
        self.send(&bytes[sent..])
    }

    /// Sends a request.
    ///
    /// # Errors
    /// As the connection fails.
    pub fn request<W: AsRef<[u8]>>(&mut self, words: &[W]) -> io::Result<()> {
        self.send(&request(words))
    }

    /// The next reply.
    ///
    /// # Errors
    /// `UnexpectedEof` at the end of the stream, `InvalidData` for what is no reply, else as the connection fails.
    pub fn recv(&mut self) -> io::Result<Value> {
        loop {
            if let Some((value, len)) = parse(&self.inbox)? {
                self.inbox.drain(..len);
                return Ok(value);
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// A request and its reply.
    ///
    /// # Errors
    /// As [`Raw::recv`].
    pub fn try_ask<W: AsRef<[u8]>>(&mut self, words: &[W]) -> io::Result<Value> {
        self.request(words)?;
        self.recv()
    }

    /// A request and its reply.
    ///
    /// # Panics
    /// If there is none.
    pub fn ask<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Value {
        self.try_ask(words).unwrap_or_else(|error| {
            let shown = words.iter().map(|word| String::from_utf8_lossy(word.as_ref()).chars().take(64).collect());
            panic!("no reply to {:?}: {error}", shown.collect::<Vec<String>>())
        })
    }

    /// Stores a value.
    ///
    /// # Panics
    /// If it is refused.
    pub fn set(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let reply = self.ask(&[b"SET", key.as_ref(), value.as_ref()]);
        assert_eq!(reply, Value::Simple("OK".into()), "SET {}", key.as_ref().escape_ascii());
    }

    /// Whether the connection still answers.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.try_ask(&["PING"]), Ok(Value::Simple(text)) if text == "PONG")
    }

    /// Whatever comes until the server ends the connection, or what went wrong instead.
    ///
    /// # Errors
    /// If it does not end it in time.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.fill() {
                Ok(0) => return Ok(std::mem::take(&mut self.inbox)),
                Ok(_) => {}
                Err(error) if is_gone(&error) => return Ok(std::mem::take(&mut self.inbox)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Receives some bytes; 0 at the end of the stream.
    ///
    /// # Errors
    /// As the connection fails.
    pub fn fill(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 64 * 1024];
        let count = match &mut self.socket {
            Socket::Tcp(socket) => socket.read(&mut bytes)?,
            Socket::Unix(socket) => recv_with_fds(&*socket, &mut bytes, &mut self.fds)?,
        };
        self.inbox.extend_from_slice(&bytes[..count]);
        Ok(count)
    }
}

/// Whether the peer ended the connection.
pub fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// The value that begins `bytes` and how long it is; `None` if it is not whole.
fn parse(bytes: &[u8]) -> io::Result<Option<(Value, usize)>> {
    let Some(end) = bytes.windows(2).take(64 * 1024).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let line = std::str::from_utf8(&bytes[1..end]).map_err(|_| invalid("a line that is no text"))?;
    let after = end + 2;
    let number = || line.parse::<i64>().map_err(|_| invalid("a number"));
    Ok(Some(match bytes[0] {
        b'+' => (Value::Simple(line.to_owned()), after),
        b'-' => (Value::Error(line.to_owned()), after),
        b':' => (Value::Int(number()?), after),
        b'$' => {
            let Ok(len) = usize::try_from(number()?) else { return Ok(Some((Value::Nil, after))) };
            let Some(bulk) = bytes.get(after..after + len + 2) else { return Ok(None) };
            if &bulk[len..] != b"\r\n" {
                return Err(invalid("a bulk without its end"));
            }
            (Value::Bulk(bulk[..len].to_vec()), after + len + 2)
        }
        b'*' => {
            let Ok(count) = usize::try_from(number()?) else { return Ok(Some((Value::Nil, after))) };
            let mut items = Vec::with_capacity(count.min(1024));
            let mut at = after;
            for _ in 0..count {
                let Some((item, len)) = parse(&bytes[at..])? else { return Ok(None) };
                items.push(item);
                at += len;
            }
            (Value::Array(items), at)
        }
        other => return Err(invalid(&format!("a reply that begins with {:?}", char::from(other)))),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_whole_or_not_at_all() {
        let bytes = b"*4\r\n+OK\r\n:-7\r\n$3\r\na\r\n\r\n*2\r\n$-1\r\n-ERR no\r\n";
        for cut in 0..bytes.len() {
            assert!(parse(&bytes[..cut]).expect("no error").is_none(), "cut at {cut}");
        }
        let (value, len) = parse(bytes).expect("no error").expect("whole");
        assert_eq!(len, bytes.len());
        assert_eq!(value.items()[1], Value::Int(-7));
        assert_eq!(value.items()[2], Value::Bulk(b"a\r\n".to_vec()));
        assert!(value.items()[3].items()[1].is_error("ERR"));
        assert!(parse(b"?\r\n").is_err());
    }
}
