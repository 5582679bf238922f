//! A bulk TCP connection by hand: frames go out as they are given.

use crate::raw::{PATIENCE, Raw, Value};
use protocol::base::{GrantId, LeaseId};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use transport::tcp::frame::{HEADER_LEN, Request, RequestHeader, ResponseHeader, Status, Token};

/// See the module's text.
#[derive(Debug)]
pub struct RawBulk {
    /// The connection.
    pub socket: TcpStream,
}

/// A token and a port, from `ATTACH TCP` on this connection.
///
/// # Errors
/// As the connection fails; `Other` with the server's words if it refuses.
pub fn attach(raw: &mut Raw) -> io::Result<(Token, SocketAddr)> {
    let reply = raw.try_ask(&["ATTACH", "TCP"])?;
    if let Value::Error(line) = &reply {
        return Err(io::Error::other(line.clone()));
    }
    let token = Token::parse_hex(reply.field("token").text().as_bytes()).ok_or_else(|| io::Error::other("a token"))?;
    let port = u16::try_from(reply.field("port").number()).map_err(io::Error::other)?;
    Ok((token, SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
}

impl RawBulk {
    /// Connects and says nothing.
    ///
    /// # Errors
    /// As the connection fails.
    pub fn connect(addr: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&addr, PATIENCE)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket })
    }

    /// Connects and says hello.
    ///
    /// # Errors
    /// As the connection fails; `Other` with the status if the server refuses.
    pub fn open(addr: SocketAddr, token: Token) -> io::Result<Self> {
        let mut bulk = Self::connect(addr)?;
        bulk.send(&bulk_header(0, Request::Hello { token }))?;
        let answer = bulk.recv()?;
        if answer.status != Status::Done {
            return Err(io::Error::other(answer.status.to_string()));
        }
        Ok(bulk)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// As the connection fails.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// The next answer's header.
    ///
    /// # Errors
    /// As the connection fails.
    pub fn recv(&mut self) -> io::Result<ResponseHeader> {
        let mut header = [0; HEADER_LEN];
        self.socket.read_exact(&mut header)?;
        ResponseHeader::decode(&header).map_err(io::Error::other)
    }

    /// Writes at `offset` of a grant.
    ///
    /// # Errors
    /// As the connection fails.
    pub fn write(&mut self, grant: GrantId, offset: u64, bytes: &[u8]) -> io::Result<ResponseHeader> {
        let request = Request::Write { grant, offset, length: bytes.len() as u64, crc: None };
        self.send(&bulk_header(1, request))?;
        self.send(bytes)?;
        self.recv()
    }

    /// Reads at `offset` of a lease.
    ///
    /// # Errors
    /// As the connection fails.
    pub fn read(&mut self, lease: LeaseId, offset: u64, length: u64) -> io::Result<(ResponseHeader, Vec<u8>)> {
        self.send(&bulk_header(2, Request::Read { lease, offset, length }))?;
        let answer = self.recv()?;
        let mut bytes = vec![0; usize::try_from(answer.length).map_err(io::Error::other)?];
        self.socket.read_exact(&mut bytes)?;
        Ok((answer, bytes))
    }

    /// Whether the server ends the connection; it may say something before.
    ///
    /// # Errors
    /// If it does not end it in time.
    pub fn ends(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        match self.socket.read_to_end(&mut rest) {
            Ok(_) => Ok(rest),
            Err(error) if crate::raw::is_gone(&error) => Ok(rest),
            Err(error) => Err(error),
        }
    }
}

/// The 64 bytes of a request.
pub fn bulk_header(tag: u64, request: Request) -> [u8; HEADER_LEN] {
    RequestHeader { tag, request }.encode()
}

/// The grant of a `PUT`'s reply.
///
/// # Panics
/// If it is none.
pub fn grant_of(reply: &Value) -> GrantId {
    GrantId::parse(reply.field("grant").text().as_bytes()).expect("a grant")
}

/// The lease of a `LEASE`'s reply.
///
/// # Panics
/// If it is none.
pub fn lease_of(reply: &Value) -> LeaseId {
    LeaseId::parse(reply.field("lease").text().as_bytes()).expect("a lease")
}
