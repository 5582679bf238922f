//! One end of a connection that asks: writes into and reads from a peer's memory, and waits.
//!
//! Role: the client's side. Blocking, with no thread of its own.
//!
//! Invariants:
//! - When a call has returned, nothing that it asked for is under way: a link that cannot know destroys its queue pair.
//! - Bytes that were pushed are there when their number has arrived, and are not looked for before.

use super::device::Device;
use super::verbs::{
    Channel, Completion, CompletionQueue, Endpoint, POST_MAX, QueuePair, QueueTerms, Region, Remote, Request, State,
    Status, Work,
};
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Requests under way at once.
const DEPTH: u32 = 128;
/// Bytes of one request: long enough for full speed, short enough to share the wire.
pub const PIECE_LEN_MAX: u32 = 4 << 20;
/// Number of receives, told from requests, which have smaller ones.
const RECEIVE: u64 = u64::MAX;
/// Time in which completions are looked for before the thread sleeps.
const SPIN: Duration = Duration::from_micros(20);

/// Why a transfer did not happen.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A request failed; the connection is of no more use.
    #[error("RDMA: {0}")]
    Failed(Status),
    /// It took too long; the connection was ended.
    #[error("RDMA: not done in time")]
    Late,
    /// The connection has ended before.
    #[error("RDMA: the connection has ended")]
    Ended,
    /// The device or the operating system failed.
    #[error("RDMA: {what}")]
    Device {
        /// What was tried.
        what: &'static str,
        /// The answer.
        source: io::Error,
    },
}

fn device(what: &'static str) -> impl FnOnce(io::Error) -> LinkError {
    move |source| LinkError::Device { what, source }
}

/// Bytes of ours, and bytes of the peer's.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// Ours.
    pub region: Arc<Region>,
    /// From where in it.
    pub offset: usize,
    /// How many.
    pub length: usize,
    /// The peer's.
    pub remote: Remote,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the peer.
    Write,
    /// From the peer.
    Read,
}

/// See the module's text.
#[derive(Debug)]
pub struct Link {
    device: Arc<Device>,
    /// `None` once it has ended.
    queue: Option<QueuePair>,
    completions: Arc<CompletionQueue>,
    channel: Arc<Channel>,
    under_way: u32,
    failed: Option<Status>,
    arrived: VecDeque<u32>,
    piece_len_max: u32,
}

impl Link {
    /// Makes one, not connected, that takes `pushes_max` pushes before it has waited for the first.
    ///
    /// # Errors
    /// If the device has no more.
    pub fn new(device: &Arc<Device>, pushes_max: u32) -> io::Result<Self> {
        let depth = DEPTH.min(device.limits.queue_depth_max);
        let channel = Channel::new(&device.context)?;
        let completions = CompletionQueue::new(&channel, depth + pushes_max, 0)?;
        let terms = QueueTerms { sends_max: depth, receives_max: pushes_max.max(1), answers: true };
        let queue = QueuePair::new(&device.domain, &completions, terms, device.port.number, rand::random())?;
        for _ in 0..pushes_max {
            queue.receive(RECEIVE)?;
        }
        let piece_len_max = PIECE_LEN_MAX.min(device.port.message_len_max);
        Ok(Self {
            device: Arc::clone(device),
            queue: Some(queue),
            completions,
            channel,
            under_way: 0,
            failed: None,
            arrived: VecDeque::new(),
            piece_len_max,
        })
    }

    /// This end, for the peer.
    ///
    /// # Errors
    /// [`LinkError::Ended`].
    pub fn endpoint(&self) -> Result<Endpoint, LinkError> {
        Ok(self.device.endpoint(self.queue()?))
    }

    /// Connects it to the peer's end.
    ///
    /// # Errors
    /// If the device cannot.
    pub fn connect(&mut self, peer: &Endpoint) -> Result<(), LinkError> {
        self.queue()?.connect(&self.device.path(), peer).map_err(device("connect the queue pair"))
    }

    /// Finds out whether the peer can be reached: packets get there, and answers come back.
    ///
    /// # Errors
    /// If not; the link has ended.
    pub fn probe(&mut self, until: Instant) -> Result<(), LinkError> {
        let sent = self.queue()?.post(&[Request { id: 0, work: Work::Nothing }]);
        self.under_way += 1;
        let mut answered = sent.map_err(|(_, source)| LinkError::Device { what: "post a request", source });
        while answered.is_ok() && self.under_way > 0 {
            answered = self.wait(until);
        }
        if answered.is_err() {
            self.end();
        }
        answered
    }

    fn queue(&self) -> Result<&QueuePair, LinkError> {
        self.queue.as_ref().ok_or(LinkError::Ended)
    }

    /// Whether it can still be used.
    pub fn is_open(&self) -> bool {
        self.queue.is_some() && self.failed.is_none()
    }

    /// The state of its queue pair, as the device says.
    ///
    /// # Errors
    /// If there is none any more, or the device does not say.
    pub fn state(&self) -> Result<State, LinkError> {
        self.queue()?.state().map_err(device("ask for the queue pair's state"))
    }

    /// Moves all of it, or fails and ends.
    ///
    /// # Errors
    /// What failed first.
    pub fn transfer(&mut self, direction: Direction, all: &[Transfer], until: Instant) -> Result<(), LinkError> {
        let moved = self.transfer_all(direction, all, until);
        if moved.is_err() {
            self.end();
        }
        moved
    }

    /// Ends it: from now on the device reaches nothing for it.
    pub fn end(&mut self) {
        self.queue = None;
    }

    fn transfer_all(&mut self, direction: Direction, all: &[Transfer], until: Instant) -> Result<(), LinkError> {
        let piece_len_max = self.piece_len_max;
        let mut left = all.iter().flat_map(|item| pieces(item, piece_len_max)).peekable();
        let depth = DEPTH.min(self.device.limits.queue_depth_max);
        while left.peek().is_some() || self.under_way > 0 {
            let room = usize::try_from(depth - self.under_way).expect("few").min(POST_MAX);
            let mut requests = Vec::with_capacity(room);
            while requests.len() < room
                && let Some((region, offset, length, remote)) = left.next()
            {
                let work = match direction {
                    Direction::Write => Work::Write { region, offset, length, to: remote, immediate: None },
                    Direction::Read => Work::Read { region, offset, length, from: remote },
                };
                requests.push(Request { id: 0, work });
            }
            if !requests.is_empty() {
                let posted = self.queue()?.post(&requests);
                self.under_way += u32::try_from(requests.len()).expect("few");
                posted.map_err(|(_, error)| LinkError::Device { what: "post requests", source: error })?;
                if left.peek().is_some() && self.under_way < depth {
                    continue;
                }
            }
            self.wait(until)?;
        }
        Ok(())
    }

    /// Waits until the push with this number has arrived, so that its bytes can be looked at.
    ///
    /// # Errors
    /// If it has not by then; the link has ended, since it may come later.
    pub fn wait_for_push(&mut self, number: u32, until: Instant) -> Result<(), LinkError> {
        loop {
            if let Some(at) = self.arrived.iter().position(|arrived| *arrived == number) {
                self.arrived.remove(at);
                return Ok(());
            }
            if let Err(error) = self.wait(until) {
                self.end();
                return Err(error);
            }
        }
    }

    /// Waits for a completion.
    fn wait(&mut self, until: Instant) -> Result<(), LinkError> {
        let spin_until = Instant::now() + SPIN;
        loop {
            if self.take()? > 0 {
                return Ok(());
            }
            if Instant::now() >= spin_until {
                break;
            }
            std::hint::spin_loop();
        }
        loop {
            self.completions.notify().map_err(device("ask for an event"))?;
            if self.take()? > 0 {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LinkError::Late);
            }
            let left = rustix::event::Timespec::try_from(left).map_err(|_| LinkError::Late)?;
            let mut waiting =
                [rustix::event::PollFd::from_borrowed_fd(self.channel.as_fd(), rustix::event::PollFlags::IN)];
            match rustix::event::poll(&mut waiting, Some(&left)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(LinkError::Device { what: "wait for completions", source: error.into() }),
            }
            while self.channel.take_event().is_some() {}
        }
    }

    fn take(&mut self) -> Result<usize, LinkError> {
        let queue = self.queue.as_ref().ok_or(LinkError::Ended)?;
        let (under_way, arrived, failed) = (&mut self.under_way, &mut self.arrived, &mut self.failed);
        let mut refill = 0;
        let count = self.completions.poll(|completion: Completion| {
            if completion.id == RECEIVE {
                match (completion.status, completion.immediate) {
                    (Status::Done, Some(number)) => {
                        arrived.push_back(number);
                        refill += 1;
                    }
                    (Status::Done, None) => refill += 1,
                    (status, _) => *failed = failed.or(Some(status)),
                }
                return;
            }
            *under_way = under_way.saturating_sub(1);
            if completion.status != Status::Done {
                // The first says why; the others are flushed.
                *failed = failed.filter(|status| *status != Status::Flushed).or(Some(completion.status));
            }
        });
        let count = count.map_err(device("look for completions"))?;
        for _ in 0..refill {
            queue.receive(RECEIVE).map_err(device("post a receive"))?;
        }
        match self.failed {
            Some(status) => Err(LinkError::Failed(status)),
            None => Ok(count),
        }
    }
}

/// A transfer as requests.
fn pieces(item: &Transfer, most: u32) -> impl Iterator<Item = (&Arc<Region>, usize, u32, Remote)> {
    let step = most as usize;
    (0..item.length.div_ceil(step)).map(move |at| {
        let from = at * step;
        let length = u32::try_from(step.min(item.length - from)).expect("at most a message");
        let remote = Remote { addr: item.remote.addr.wrapping_add(from as u64), ..item.remote };
        (&item.region, item.offset + from, length, remote)
    })
}
