//! A RESP connection that hides nothing: words go out, the bytes of the reply come back.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Time that a reply may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// What marks the end of a reply: the answer to an `ECHO` behind the request.
const MARK: &[u8] = b"-end-of-reply-";

/// See the module's text.
#[derive(Debug)]
pub struct Wire {
    socket: TcpStream,
    /// Read, and not handed out by [`Wire::reply`] yet.
    read: Vec<u8>,
}

/// Bytes of the reply that `bytes` begin with; `None` if it is not whole.
///
/// # Panics
/// If they begin with no reply.
pub fn reply_len(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|end| end == b"\r\n")?;
    let text = std::str::from_utf8(&bytes[1..line]).unwrap_or_default();
    let number = || text.parse::<i64>().unwrap_or_else(|_| panic!("{:?} is no length", bytes[..line].escape_ascii()));
    let after = line + 2;
    let items = match bytes[0] {
        b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => 0,
        b'$' | b'=' | b'!' => {
            let len = usize::try_from(number()).map_or(0, |len| len + 2);
            return (bytes.len() >= after + len).then_some(after + len);
        }
        b'*' | b'~' | b'>' => number(),
        b'%' => 2 * number(),
        kind => panic!("no reply begins with {:?}", char::from(kind)),
    };
    (0..items.max(0)).try_fold(after, |at, _| {
        bytes.get(at..).filter(|rest| !rest.is_empty()).and_then(reply_len).map(|len| at + len)
    })
}

/// A request as it goes over the wire.
pub fn request<W: AsRef<[u8]>>(words: &[W]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words.iter().map(AsRef::as_ref) {
        out.extend(format!("${}\r\n", word.len()).bytes());
        out.extend(word);
        out.extend(b"\r\n");
    }
    out
}

impl Wire {
    /// Connects.
    ///
    /// # Panics
    /// If nobody listens.
    pub fn connect(addr: SocketAddr) -> Self {
        let socket = TcpStream::connect_timeout(&addr, PATIENCE).expect("the server accepts");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
        socket.set_write_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
        socket.set_nodelay(true).expect("a socket takes the option");
        Self { socket, read: Vec::new() }
    }

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// If the server does not take them.
    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the server reads");
    }

    /// What is answered to these words, as bytes; `None` if the server ends the connection instead. Not for commands
    /// after which `ECHO` is not answered.
    ///
    /// # Panics
    /// If the reply does not come in time.
    pub fn ask<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Option<Vec<u8>> {
        let sent = self.socket.write_all(&[request(words), request(&[b"ECHO", MARK])].concat());
        let end = [format!("${}\r\n", MARK.len()).as_bytes(), MARK, b"\r\n"].concat();
        let mut reply = Vec::new();
        while sent.is_ok() && !reply.ends_with(&end) {
            match self.read() {
                Ok(bytes) if bytes.is_empty() => return None,
                Ok(bytes) => reply.extend(bytes),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no reply: {error}"),
            }
        }
        reply.truncate(reply.len().checked_sub(end.len())?);
        Some(reply)
    }

    /// The next reply, as bytes, whatever it answers; `None` if the server ends the connection instead.
    ///
    /// # Panics
    /// If it does not come in time.
    pub fn reply(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(len) = (!self.read.is_empty()).then(|| reply_len(&self.read)).flatten() {
                let rest = self.read.split_off(len);
                return Some(std::mem::replace(&mut self.read, rest));
            }
            match self.read() {
                Ok(bytes) if bytes.is_empty() => return None,
                Ok(bytes) => self.read.extend(bytes),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no reply: {error}"),
            }
        }
    }

    /// Sends these words and reads one reply, where nothing may follow them: within `MULTI`, or beside pushes.
    ///
    /// # Panics
    /// As [`Wire::reply`].
    pub fn exchange<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Option<Vec<u8>> {
        if self.socket.write_all(&request(words)).is_err() {
            return None;
        }
        self.reply()
    }

    /// The same for a line of words, with blanks for line ends: `:1`, `$1 v`, `-ERR syntax error`.
    ///
    /// # Panics
    /// As [`Wire::ask`], and if the server ends the connection.
    pub fn text(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let reply = self.ask(&words).unwrap_or_else(|| panic!("the connection ends after {line:?}"));
        String::from_utf8_lossy(&reply).replace("\r\n", " ").trim_end().to_owned()
    }

    /// All that comes until the server ends the connection.
    ///
    /// # Panics
    /// If it does not end it.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.socket.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the connection does not end: {error}"),
        }
        rest
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; 64 * 1024];
        let count = self.socket.read(&mut bytes)?;
        bytes.truncate(count);
        Ok(bytes)
    }
}
