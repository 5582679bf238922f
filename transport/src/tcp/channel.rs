//! A TCP connection of a client, bare or wrapped by somebody who knows a cipher.
//!
//! Role: lets control and bulk connections be encrypted without this layer knowing how. The bare way costs one branch.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// What travels inside a wrapped connection.
pub trait Wrapped: Read + Write + Send + fmt::Debug {}

impl<T: Read + Write + Send + fmt::Debug> Wrapped for T {}

/// Wraps connections.
pub trait Wrap: Send + Sync + fmt::Debug {
    /// Wraps a connection whose timeouts are set, and returns when both ends agree.
    ///
    /// # Errors
    /// As the other end, or the connection, refuses.
    fn wrap(&self, socket: TcpStream) -> io::Result<Box<dyn Wrapped>>;
}

/// See the module's text.
#[derive(Debug)]
pub enum Channel {
    /// As it is.
    Bare(TcpStream),
    /// Inside something else.
    Wrapped {
        /// The connection itself, for its timeouts.
        socket: TcpStream,
        /// What is read and written.
        stream: Box<dyn Wrapped>,
    },
}

impl Channel {
    /// A connection, wrapped if there is a way to. The agreement takes `limit` at most.
    ///
    /// # Errors
    /// As the other end refuses.
    pub fn open(socket: TcpStream, wrap: Option<&dyn Wrap>, limit: Duration) -> io::Result<Self> {
        let Some(wrap) = wrap else { return Ok(Self::Bare(socket)) };
        socket.set_read_timeout(Some(limit))?;
        socket.set_write_timeout(Some(limit))?;
        let stream = wrap.wrap(socket.try_clone()?)?;
        Ok(Self::Wrapped { socket, stream })
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Bare(socket) | Self::Wrapped { socket, .. } => socket,
        }
    }

    /// The other end.
    ///
    /// # Errors
    /// As the socket.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket().peer_addr()
    }

    /// Sets how long a read may block.
    ///
    /// # Errors
    /// As the socket.
    pub fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.socket().set_read_timeout(limit)
    }

    /// Sets how long a write may block.
    ///
    /// # Errors
    /// As the socket.
    pub fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.socket().set_write_timeout(limit)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

impl Read for Channel {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Bare(socket) => socket.read(bytes),
            Self::Wrapped { stream, .. } => stream.read(bytes),
        }
    }

    fn read_vectored(&mut self, places: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Self::Bare(socket) => socket.read_vectored(places),
            Self::Wrapped { stream, .. } => stream.read_vectored(places),
        }
    }
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Bare(socket) => socket.write(bytes),
            Self::Wrapped { stream, .. } => stream.write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Bare(socket) => socket.write_vectored(slices),
            Self::Wrapped { stream, .. } => stream.write_vectored(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Bare(socket) => socket.flush(),
            Self::Wrapped { stream, .. } => stream.flush(),
        }
    }
}
