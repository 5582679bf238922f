//! Bytes with file descriptors beside them, over a Unix socket.
//!
//! One call is one system call, so that a caller can wrap it in its runtime's readiness (`try_io` of a socket) or let
//! it block.
//!
//! Invariants:
//! - A descriptor that arrives is close-on-exec and owned, or closed: none is leaked, whatever the peer sends.
//! - A message whose descriptors did not all fit is refused whole.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Most descriptors that one message may carry. The kernel's own limit is 253.
pub const FDS_PER_MESSAGE_MAX: usize = 250;

const SPACE: usize = rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE_MAX));

/// Sends some of `bytes`, and with their first byte all of `fds`; returns how many bytes went. Once it returns, all of
/// `fds` went: what is left of `bytes` is sent without them.
///
/// # Errors
/// As `sendmsg(2)`; `WouldBlock` if nothing went. `InvalidInput` for more than [`FDS_PER_MESSAGE_MAX`] descriptors, or
/// for descriptors without a byte to carry them.
pub fn send_with_fds(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if fds.len() > FDS_PER_MESSAGE_MAX || (bytes.is_empty() && !fds.is_empty()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::<u8>::uninit(); SPACE];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let pushed = ancillary.push(SendAncillaryMessage::ScmRights(fds));
        assert!(pushed, "the buffer is made for the most descriptors there can be");
    }
    loop {
        match rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

/// Receives into `bytes` and appends the descriptors that came along to `fds`; returns how many bytes came, 0 at the
/// end of the stream.
///
/// # Errors
/// As `recvmsg(2)`; `WouldBlock` if nothing is there. `InvalidData` if descriptors were cut off (more than
/// [`FDS_PER_MESSAGE_MAX`], or this process may open no more): those that did arrive are closed, and the
/// stream is of no further use.
pub fn recv_with_fds(socket: impl AsFd, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::<u8>::uninit(); SPACE];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other.map_err(io::Error::from)?,
        }
    };
    let fds_before = fds.len();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(arrived) = part {
            fds.extend(arrived);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        fds.truncate(fds_before);
        return Err(io::Error::new(io::ErrorKind::InvalidData, "descriptors were cut off"));
    }
    Ok(message.bytes)
}

/// The user that the process at the other end of a Unix socket ran as when it connected.
///
/// # Errors
/// As `getsockopt(2)`.
pub fn peer_uid(socket: impl AsFd) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(socket)?.uid.as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    #[test]
    fn descriptors_arrive_usable_and_close_on_exec() {
        let (left, right) = UnixStream::pair().expect("a pair");
        let (mut near, far) = UnixStream::pair().expect("a pair");
        assert_eq!(send_with_fds(&left, b"hello", &[far.as_fd(), far.as_fd()]).expect("sent"), 5);
        drop(far);
        let (mut bytes, mut fds) = ([0; 16], Vec::new());
        assert_eq!(recv_with_fds(&right, &mut bytes, &mut fds).expect("received"), 5);
        assert_eq!(&bytes[..5], b"hello");
        assert_eq!(fds.len(), 2);
        let flags = rustix::io::fcntl_getfd(&fds[0]).expect("flags");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        let mut other = UnixStream::from(fds.remove(0));
        near.write_all(b"x").expect("written");
        let mut one = [0];
        other.read_exact(&mut one).expect("read");
        assert_eq!(&one, b"x");
    }

    #[test]
    fn the_most_descriptors_fit_and_one_more_is_refused() {
        let (left, right) = UnixStream::pair().expect("a pair");
        let many = vec![left.as_fd(); FDS_PER_MESSAGE_MAX + 1];
        let refused = send_with_fds(&left, b"x", &many).expect_err("too many");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        send_with_fds(&left, b"x", &many[1..]).expect("the most fit");
        let (mut bytes, mut fds) = ([0; 1], Vec::new());
        assert_eq!(recv_with_fds(&right, &mut bytes, &mut fds).expect("received"), 1);
        assert_eq!(fds.len(), FDS_PER_MESSAGE_MAX);
    }

    #[test]
    fn an_empty_socket_would_block_and_a_closed_one_ends() {
        let (left, right) = UnixStream::pair().expect("a pair");
        right.set_nonblocking(true).expect("non-blocking");
        let (mut bytes, mut fds) = ([0; 4], Vec::new());
        let nothing = recv_with_fds(&right, &mut bytes, &mut fds).expect_err("nothing there");
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        drop(left);
        assert_eq!(recv_with_fds(&right, &mut bytes, &mut fds).expect("the end"), 0);
        let broken = send_with_fds(&right, b"x", &[]).expect_err("nobody reads");
        assert_eq!(broken.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn the_peers_user_is_known() {
        let (left, _right) = UnixStream::pair().expect("a pair");
        assert_eq!(peer_uid(&left).expect("credentials"), rustix::process::getuid().as_raw());
    }
}
