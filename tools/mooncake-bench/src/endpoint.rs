//! Where a server listens, and how to connect to it.

use anyhow::{Context, Result, bail};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Nothing here waits longer for a server.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// `HOST:PORT`, or the path of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Endpoint {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        if text.starts_with('/') || text.starts_with("./") {
            return Ok(Self::Unix(text.into()));
        }
        let mut addresses = text.to_socket_addrs().with_context(|| format!("{text:?} is not HOST:PORT nor a path"))?;
        match addresses.next() {
            Some(address) => Ok(Self::Tcp(address)),
            None => bail!("{text:?} has no address"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Endpoint {
    /// A connected, blocking socket that gives up on a silent server after [`PATIENCE`].
    pub(crate) fn connect(&self) -> Result<Socket> {
        let connect = || -> std::io::Result<Socket> {
            let (domain, address) = match self {
                Self::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
                Self::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
            };
            let socket = Socket::new(domain, Type::STREAM, None)?;
            socket.connect_timeout(&address, PATIENCE)?;
            if matches!(self, Self::Tcp(_)) {
                socket.set_tcp_nodelay(true)?;
            }
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
            Ok(socket)
        };
        connect().with_context(|| format!("connect to {self}"))
    }

    /// Waits until somebody accepts connections here.
    pub(crate) fn await_listener(&self, within: Duration) -> Result<()> {
        let end = Instant::now() + within;
        loop {
            match self.connect() {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error),
                // A listener gives no sign of its birth to wait for: ask again.
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_people_write_them() {
        assert_eq!("/run/a.sock".parse::<Endpoint>().unwrap(), Endpoint::Unix("/run/a.sock".into()));
        assert_eq!("unix:a.sock".parse::<Endpoint>().unwrap(), Endpoint::Unix("a.sock".into()));
        assert_eq!("127.0.0.1:80".parse::<Endpoint>().unwrap().to_string(), "127.0.0.1:80");
        for bad in ["", "127.0.0.1", "127.0.0.1:x", ":"] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }
}
