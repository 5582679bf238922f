//! What a client is told before it connects.

use crate::tls::Tls;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where a server listens for RESP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `host:port`.
    Tcp(String),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address: write host:port, or the path of a Unix socket with a / in it")]
pub struct ParseAddressError(String);

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let path = text.strip_prefix("unix:");
        if let Some(path) = path.or_else(|| text.contains('/').then_some(text)).filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(Self::Tcp(text.to_owned())),
            _ => Err(ParseAddressError(text.to_owned())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// How bulk bytes should travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Choice {
    /// Shared memory where it can be had, else RDMA, else bulk TCP, else in-band.
    #[default]
    Auto,
    /// In RESP, as any Redis client does it.
    InBand,
    /// Shared memory or not at all.
    Shm,
    /// RDMA or not at all.
    Rdma,
    /// Bulk TCP or not at all.
    Tcp,
}

/// What a client is told before it connects.
#[derive(Clone)]
pub struct Options {
    /// Where the server listens for RESP.
    pub address: Address,
    /// The server's Unix socket, if it is not the one that the server names itself.
    pub unix: Option<PathBuf>,
    /// How bulk bytes should travel.
    pub via: Choice,
    /// Longest that any one call may wait, for a server that is still loading too.
    pub deadline: Duration,
    /// How to speak TLS, over TCP for control and bulk; `None` speaks plain text.
    pub tls: Option<Tls>,
    /// User and password. A server with one password only knows the user `default`.
    pub auth: Option<(String, String)>,
    /// Names the connection in `CLIENT LIST`.
    pub name: Option<String>,
    /// Bytes of own memory for writes by shared memory. One object must fit; 0 sends objects in-band instead. By RDMA so many
    /// are registered for each direction.
    pub buffer_len: u64,
    /// The RDMA device to use; else the first that can be.
    pub rdma_device: Option<String>,
    /// Bulk TCP connections over which long transfers are striped.
    pub streams: usize,
    /// Speaks RESP3 rather than RESP2.
    pub resp3: bool,
    /// For how long objects are leased while they are fetched.
    pub lease: Duration,
    /// Longest spin before a wait on the ring sleeps.
    pub spin: Duration,
    /// Longest reply that is taken.
    pub reply_len_max: usize,
}

impl Options {
    /// Defaults for the server at `address`.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            unix: None,
            via: Choice::Auto,
            deadline: Duration::from_secs(5),
            tls: None,
            auth: None,
            name: None,
            buffer_len: 64 << 20,
            rdma_device: None,
            streams: 2,
            resp3: false,
            lease: Duration::from_secs(5),
            spin: Duration::from_micros(20),
            reply_len_max: 1 << 30,
        }
    }

    /// With bulk bytes travelling this way.
    #[must_use]
    pub fn via(mut self, via: Choice) -> Self {
        self.via = via;
        self
    }
}

impl fmt::Debug for Options {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("address", &self.address)
            .field("via", &self.via)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        let parse = |text: &str| text.parse::<Address>().ok();
        assert_eq!(parse("127.0.0.1:6379"), Some(Address::Tcp("127.0.0.1:6379".into())));
        assert_eq!(parse("[::1]:6379"), Some(Address::Tcp("[::1]:6379".into())));
        assert_eq!(parse("/run/x.sock"), Some(Address::Unix("/run/x.sock".into())));
        assert_eq!(parse("unix:x.sock"), Some(Address::Unix("x.sock".into())));
        for bad in ["", "localhost", "localhost:", ":6379", "localhost:70000", "unix:"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let mut options = Options::new("h:1".parse().expect("an address"));
        options.auth = Some(("default".into(), "secret".into()));
        assert!(!format!("{options:?}").contains("secret"));
    }
}
