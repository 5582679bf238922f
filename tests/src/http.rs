//! The metrics port as a test asks it: one request a connection, and the answer as it came.

use crate::server::Server;
use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Time that an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Such as 200.
    pub code: u16,
    /// The status line and the headers.
    pub head: String,
    /// What follows.
    pub body: String,
}

/// Asks `addr` for `path`, with more lines in the head.
///
/// # Errors
/// As the connection fails, and `InvalidData` for what is not HTTP.
pub fn ask(addr: SocketAddr, method: &str, path: &str, host: &str) -> io::Result<Answer> {
    let mut socket = TcpStream::connect_timeout(&addr, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    write!(socket, "{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, text.clone());
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(invalid)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(invalid)?;
    Ok(Answer { code, head: head.to_owned(), body: body.to_owned() })
}

/// What a server answers to `GET path` on its metrics port.
///
/// # Panics
/// If it does not answer.
pub fn get(server: &Server, path: &str) -> Answer {
    ask(server.metrics(), "GET", path, "localhost").expect("the metrics port answers")
}

/// Every sample of a text that Prometheus reads: name with labels, and value.
///
/// # Panics
/// If a line is neither a comment nor a sample.
pub fn samples(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?} is no sample"));
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line:?} has no number")))
        })
        .collect()
}
