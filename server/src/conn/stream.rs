//! What a RESP connection runs on: TCP, TLS, a Unix socket, or a pair of rings in shared memory.
//!
//! Invariants:
//! - What is not encrypted pays nothing for what is: its ways to the socket are branches of their own.

use crate::conn::heading;
use crate::conn::output::{Output, SLICES_MAX};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use transport::shm::fds::{recv_with_fds, send_with_fds};

use super::ring::RingStream;
use crate::tls::Secured;

/// See the module's text.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Tls(Box<Secured>),
    Unix(UnixPart),
    Ring(Box<RingStream>),
}

/// A Unix socket and the descriptors that travel with its bytes.
#[derive(Debug)]
pub(crate) struct UnixPart {
    socket: UnixStream,
    /// Arrived and not taken by a command yet.
    pub(crate) arrived: Vec<OwnedFd>,
    /// To go with the next byte.
    pub(crate) leaving: Vec<OwnedFd>,
}

/// Descriptors that may wait for the command that takes them.
const ARRIVED_MAX: usize = 16;

impl UnixPart {
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self { socket, arrived: Vec::new(), leaving: Vec::new() }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            let (socket, arrived) = (&self.socket, &mut self.arrived);
            match socket.try_io(Interest::READABLE, || recv_with_fds(socket, bytes, arrived)) {
                Ok(count) if self.arrived.len() <= ARRIVED_MAX => return Poll::Ready(Ok(count)),
                Ok(_) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors"))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.leaving.is_empty() {
            return Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        }
        loop {
            ready!(self.socket.poll_write_ready(cx))?;
            let fds: Vec<BorrowedFd<'_>> = self.leaving.iter().map(AsFd::as_fd).collect();
            let socket = &self.socket;
            match socket.try_io(Interest::WRITABLE, || send_with_fds(socket, &slices[0], &fds)) {
                Ok(count) => {
                    self.leaving.clear();
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Stream {
    /// Reads what is there, at least a byte; 0 at the end.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(socket) => {
                let mut buffer = ReadBuf::new(bytes);
                ready!(Pin::new(socket).poll_read(cx, &mut buffer))?;
                Poll::Ready(Ok(buffer.filled().len()))
            }
            Self::Tls(socket) => {
                let mut buffer = ReadBuf::new(bytes);
                ready!(Pin::new(&mut **socket).poll_read(cx, &mut buffer))?;
                Poll::Ready(Ok(buffer.filled().len()))
            }
            Self::Unix(unix) => unix.poll_read(cx, bytes),
            Self::Ring(ring) => ring.poll_read(cx, bytes),
        }
    }

    pub(crate) async fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, bytes)).await
    }

    /// Sends all that `output` holds. `progress` hears of every piece, and may end it.
    pub(crate) async fn flush(
        &mut self,
        output: &mut Output,
        mut progress: impl FnMut(usize) -> io::Result<()>,
    ) -> io::Result<()> {
        while output.pending() > 0 {
            if let (Some(framing), Some(socket)) = (output.framing(), self.spliceable()) {
                let count = heading::send(socket, framing.bytes, framing.what);
                output.advance(count);
                if output.pending() == 0 {
                    return progress(count);
                }
            }
            let spliced = self.spliceable().is_some();
            let count = poll_fn(|cx| {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let used = output.slices(&mut slices, spliced);
                let slices = &slices[..used];
                match self {
                    Self::Tcp(socket) if used == 1 => Pin::new(socket).poll_write(cx, &slices[0]),
                    Self::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
                    Self::Tls(socket) => Pin::new(&mut **socket).poll_write_vectored(cx, slices),
                    Self::Unix(unix) => unix.poll_write(cx, slices),
                    Self::Ring(ring) => ring.poll_write(cx, slices),
                }
            })
            .await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            output.advance(count);
            progress(count)?;
        }
        // What was taken and encrypted need not be on its way yet.
        if let Self::Tls(socket) = self {
            poll_fn(|cx| Pin::new(&mut **socket).poll_flush(cx)).await?;
        }
        Ok(())
    }

    /// The socket, if its kernel copies what is written to it: then headings are spliced.
    fn spliceable(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tcp(socket) => Some(socket.as_fd()),
            Self::Unix(unix) if unix.leaving.is_empty() => Some(unix.as_fd()),
            Self::Tls(_) | Self::Unix(_) | Self::Ring(_) => None,
        }
    }

    /// For the Unix socket: descriptors that arrived.
    pub(crate) fn unix(&mut self) -> Option<&mut UnixPart> {
        match self {
            Self::Unix(unix) => Some(unix),
            Self::Tcp(_) | Self::Tls(_) | Self::Ring(_) => None,
        }
    }

    /// Whether another runtime can adopt it without losing anything.
    pub(crate) fn can_move(&self) -> bool {
        match self {
            Self::Tcp(_) => true,
            Self::Unix(unix) => unix.arrived.is_empty() && unix.leaving.is_empty(),
            // Its keys stay with its runtime.
            Self::Tls(_) | Self::Ring(_) => false,
        }
    }

    /// Takes the socket out of its runtime, so that another may adopt it. A ring stays where it is.
    pub(crate) fn detach(self) -> io::Result<Detached> {
        Ok(match self {
            Self::Tcp(socket) => Detached::Tcp(socket.into_std()?),
            Self::Unix(unix) => Detached::Unix(unix.socket.into_std()?),
            Self::Tls(_) | Self::Ring(_) => return Err(io::ErrorKind::Unsupported.into()),
        })
    }
}

/// A socket between two runtimes.
#[derive(Debug)]
pub(crate) enum Detached {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Detached {
    /// Registers with the runtime this is called in.
    pub(crate) fn attach(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(socket) => Stream::Tcp(TcpStream::from_std(socket)?),
            Self::Unix(socket) => Stream::Unix(UnixPart::new(UnixStream::from_std(socket)?)),
        })
    }
}
