//! Control channels: 64 bytes ask, 64 bytes answer, by four ways of waking the other side.
//!
//! Invariants:
//! - One request is under way on a channel; its answer is the next thing said on it.
//! - The words of a cell that one side writes are published by its sequence number (release, acquire).

use crate::memory::Shared;
use anyhow::{Result, ensure};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How one side tells the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Control {
    /// Both sides watch shared memory.
    Spin,
    /// Message in shared memory, wake-up by eventfd.
    Eventfd,
    /// Message through a Unix socket.
    Unix,
    /// Message through loopback TCP.
    Tcp,
}

impl Control {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Eventfd => "eventfd",
            Self::Unix => "unix",
            Self::Tcp => "tcp",
        }
    }
}

/// Adds one to an eventfd.
#[expect(clippy::host_endian_bytes, reason = "the kernel's counter is in the machine's own order")]
const WAKE: [u8; 8] = 1u64.to_ne_bytes();

/// 64 bytes.
pub(crate) type Message = [u64; 8];

/// Words of one channel in shared memory: request number, request, answer number, answer, each on lines of its own.
const CELL_WORDS: usize = 64;
/// Bytes of one channel in shared memory.
pub(crate) const CELL_BYTES: usize = CELL_WORDS * 8;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

enum Line {
    Spin,
    Eventfd { hears: OwnedFd, tells: OwnedFd },
    Socket(OwnedFd),
}

/// One side's end of a channel.
pub(crate) struct End {
    side: Side,
    line: Line,
    cells: Arc<Shared>,
    cell_offset: usize,
    told: u64,
    heard: u64,
}

/// Makes channel number `n`: the client's end, and the descriptors from which [`End::server`] makes the other.
pub(crate) fn channel(control: Control, cells: &Arc<Shared>, n: usize) -> Result<(End, Vec<OwnedFd>)> {
    let (line, theirs) = match control {
        Control::Spin => (Line::Spin, Vec::new()),
        Control::Eventfd => {
            let (to_server, to_client) = (eventfd(0, EventfdFlags::CLOEXEC)?, eventfd(0, EventfdFlags::CLOEXEC)?);
            let theirs = vec![to_server.try_clone()?, to_client.try_clone()?];
            (Line::Eventfd { hears: to_client, tells: to_server }, theirs)
        }
        Control::Unix => {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            (Line::Socket(ours.into()), vec![theirs.into()])
        }
        Control::Tcp => {
            let (ours, theirs) = super::stream::tcp_pair()?;
            (Line::Socket(ours.into()), vec![theirs])
        }
    };
    Ok((End::new(Side::Client, line, cells, n), theirs))
}

impl End {
    fn new(side: Side, line: Line, cells: &Arc<Shared>, n: usize) -> Self {
        Self { side, line, cells: Arc::clone(cells), cell_offset: n * CELL_BYTES, told: 0, heard: 0 }
    }

    /// The server's end of channel `n`, from the next descriptors.
    pub(crate) fn server(
        control: Control,
        cells: &Arc<Shared>,
        n: usize,
        fds: &mut impl Iterator<Item = OwnedFd>,
    ) -> Result<Self> {
        let mut next = || fds.next().ok_or_else(|| anyhow::anyhow!("a descriptor is missing"));
        let line = match control {
            Control::Spin => Line::Spin,
            Control::Eventfd => Line::Eventfd { hears: next()?, tells: next()? },
            Control::Unix | Control::Tcp => Line::Socket(next()?),
        };
        Ok(Self::new(Side::Server, line, cells, n))
    }

    /// Asks and waits for the answer.
    pub(crate) fn ask(&mut self, request: Message) -> Result<Message> {
        self.tell(request)?;
        self.hear()
    }

    /// Says the next thing.
    pub(crate) fn tell(&mut self, message: Message) -> Result<()> {
        self.told += 1;
        match &self.line {
            Line::Socket(fd) => write_message(fd.as_fd(), &message),
            Line::Spin => {
                self.publish(message);
                Ok(())
            }
            Line::Eventfd { tells, .. } => {
                self.publish(message);
                ensure!(rustix::io::write(tells, &WAKE)? == 8, "an eventfd takes 8 bytes");
                Ok(())
            }
        }
    }

    /// Waits for the next thing the other side says.
    pub(crate) fn hear(&mut self) -> Result<Message> {
        self.heard += 1;
        match &self.line {
            Line::Socket(fd) => read_message(fd.as_fd()),
            Line::Spin => {
                let mut turns = 0u32;
                while self.number(false).load(Ordering::Acquire) < self.heard {
                    turns = turns.wrapping_add(1);
                    if turns.is_multiple_of(1024) {
                        std::thread::yield_now();
                    } else {
                        std::hint::spin_loop();
                    }
                }
                Ok(self.published())
            }
            Line::Eventfd { hears, .. } => {
                while self.number(false).load(Ordering::Acquire) < self.heard {
                    let mut count = [0; 8];
                    ensure!(rustix::io::retry_on_intr(|| rustix::io::read(hears, &mut count))? == 8, "closed");
                }
                Ok(self.published())
            }
        }
    }

    /// The sequence number of what this side (`own`) or the other one says.
    fn number(&self, own: bool) -> &std::sync::atomic::AtomicU64 {
        let is_request = own == (self.side == Side::Client);
        let half = if is_request { 0 } else { CELL_BYTES / 2 };
        &self.cells.words(self.cell_offset + half, 1)[0]
    }

    fn message(&self, own: bool) -> &[std::sync::atomic::AtomicU64] {
        let is_request = own == (self.side == Side::Client);
        let half = if is_request { 0 } else { CELL_BYTES / 2 };
        self.cells.words(self.cell_offset + half + 64, 8)
    }

    fn publish(&self, message: Message) {
        for (word, value) in self.message(true).iter().zip(message) {
            word.store(value, Ordering::Relaxed);
        }
        self.number(true).store(self.told, Ordering::Release);
    }

    fn published(&self) -> Message {
        let words = self.message(false);
        std::array::from_fn(|n| words[n].load(Ordering::Relaxed))
    }
}

fn write_message(fd: BorrowedFd<'_>, message: &Message) -> Result<()> {
    let mut bytes = [0; 64];
    for (word, place) in message.iter().zip(bytes.chunks_exact_mut(8)) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    let mut at = 0;
    while at < bytes.len() {
        at += rustix::io::retry_on_intr(|| rustix::io::write(fd, &bytes[at..]))?;
    }
    Ok(())
}

fn read_message(fd: BorrowedFd<'_>) -> Result<Message> {
    let mut bytes = [0; 64];
    let mut at = 0;
    while at < bytes.len() {
        let n = rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut bytes[at..]))?;
        ensure!(n > 0, "the other side is gone");
        at += n;
    }
    let mut words = bytes.chunks_exact(8).map(|chunk| u64::from_le_bytes(chunk.try_into().expect("eight bytes")));
    Ok(std::array::from_fn(|_| words.next().expect("eight words")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_channel_answers_what_was_asked() {
        for control in [Control::Spin, Control::Eventfd, Control::Unix, Control::Tcp] {
            let cells = Arc::new(Shared::map(&crate::memory::create("cells", 2 * CELL_BYTES).unwrap()).unwrap());
            let (mut client, fds) = channel(control, &cells, 1).unwrap();
            let mut server = End::server(control, &cells, 1, &mut fds.into_iter()).unwrap();
            let other = std::thread::spawn(move || {
                for _ in 0..100 {
                    let mut message = server.hear().unwrap();
                    message[7] += 1;
                    server.tell(message).unwrap();
                }
            });
            for n in 0..100 {
                assert_eq!(client.ask([n; 8]).unwrap(), [n, n, n, n, n, n, n, n + 1], "{control:?}");
            }
            other.join().unwrap();
        }
    }
}
