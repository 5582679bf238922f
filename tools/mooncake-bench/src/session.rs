//! What a load does to a server, whichever way the bytes go.
//!
//! Role: one trait, so that `fill`, `run` and `replay` do not know the transport: [`inband`] speaks RESP to any server,
//! [`native`] goes through the client library.
//!
//! Invariants:
//! - Bytes are handed to a [`Sink`] only, at most once a key, and only while the call lasts.
//! - An error ends the session's usefulness; a miss, an object that exists already and a refusal are no errors.

mod inband;
pub(crate) mod native;

use crate::endpoint::Endpoint;
use crate::loading;
use crate::wire::Wire;
use anyhow::Result;
use redis_protocol::resp2::types::OwnedFrame;
use std::fmt;
use std::time::Duration;

/// Takes what arrived: which of the keys asked for, and its bytes.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(usize, &[u8]);

/// One value to be written.
pub(crate) struct Item<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    /// The block before this one, if it belongs to a chain.
    pub(crate) parent: Option<&'a [u8]>,
}

/// What became of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    Stored,
    /// It was there already.
    Exists,
    /// No room for it now.
    Refused,
}

/// One client's connection.
pub(crate) trait Session: Send {
    /// How the bytes really travel.
    fn way(&self) -> Way;

    /// Reads values that should be `lens` long. Keys that are missing are left out.
    fn get(&mut self, keys: &[Vec<u8>], lens: &[usize], sink: Sink<'_>) -> Result<()>;

    /// Writes values, in order. `replace` says what happens to those that exist.
    fn put(&mut self, items: &[Item<'_>], replace: bool, outcomes: &mut Vec<Put>) -> Result<()>;

    /// How many of the keys, from the first on, are present. With `lease_ms`, they are leased until
    /// [`release`](Self::release).
    fn lookup(&mut self, keys: &[Vec<u8>], lease_ms: Option<u64>) -> Result<usize>;

    /// Reads the first `keys.len()` of the keys that the last [`lookup`](Self::lookup) leased.
    fn read_leased(&mut self, keys: &[Vec<u8>], lens: &[usize], sink: Sink<'_>) -> Result<()>;

    /// Ends the leases of the last lookup.
    fn release(&mut self) -> Result<()>;

    /// Leases one key and ends the lease; `false` if it is missing.
    fn lease(&mut self, key: &[u8], lease_ms: u64) -> Result<bool>;
}

/// How bulk bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// The best there is: shared memory on the same host, else RDMA, else bulk TCP.
    Auto,
    /// Through memory that the server and this tool map.
    Shm,
    /// Moved by network adapters.
    Rdma,
    /// As frames on a bulk connection.
    Tcp,
    /// As values in RESP; works with any Redis-compatible server.
    Inband,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Shm => "shm",
            Self::Rdma => "rdma",
            Self::Tcp => "tcp",
            Self::Inband => "inband",
        })
    }
}

/// Which server, and how to reach it.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct Target {
    /// The server: HOST:PORT, or the path of its Unix socket.
    #[arg(long, env = "MOONCAKE_AT", default_value = "127.0.0.1:6379", value_name = "HOST:PORT")]
    pub(crate) at: Endpoint,
    /// How the bytes travel.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) transport: Way,
    /// Process id of the server, to count its CPU time and memory.
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// Longest that a server is waited for that is still loading what it had.
    #[arg(long, value_name = "SECONDS", default_value_t = loading::SECONDS_DEFAULT)]
    pub(crate) loading_wait: u64,
}

impl Target {
    /// A connection for values of at most `len_max` bytes, at most `batch` of them at once.
    pub(crate) fn connect(&self, len_max: usize, batch: usize) -> Result<Box<dyn Session>> {
        let is_native = match self.transport {
            Way::Inband => false,
            Way::Shm | Way::Rdma | Way::Tcp => true,
            Way::Auto => self.is_ours()?,
        };
        if is_native {
            Ok(Box::new(native::Native::connect(&self.at, self.transport, len_max, batch)?))
        } else {
            Ok(Box::new(inband::Inband::connect(&self.at, len_max)?))
        }
    }

    /// Waits until the server has loaded.
    pub(crate) fn await_loaded(&self) -> Result<()> {
        loading::await_loaded(&self.at, Duration::from_secs(self.loading_wait))
    }

    /// Whether the server knows more ways than RESP. Asked once a connection: cheap beside making it.
    fn is_ours(&self) -> Result<bool> {
        let mut wire = Wire::new(self.at.connect()?);
        wire.send(&[b"NODE"])?;
        Ok(!matches!(wire.frame()?, OwnedFrame::Error(_)))
    }

    /// Which way a connection made now would take.
    pub(crate) fn way(&self) -> Result<String> {
        let way = self.connect(4096, 1)?.way();
        Ok(if way == self.transport { way.to_string() } else { format!("{way} ({} was asked for)", self.transport) })
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.server_pid.into_iter().collect()
    }
}
