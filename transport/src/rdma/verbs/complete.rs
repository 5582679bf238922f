//! Completion queues, and the channel by which they wake a thread.

use super::{Context, check, destroyed};
use ibverbs_sys as sys;
use ibverbs_sys::{ibv_wc_opcode as opcode, ibv_wc_status as status};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// Completions taken by one call.
const POLL_MAX: usize = 32;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// As asked.
    Done,
    /// Not begun, or not known to have ended: its queue pair went into the error state.
    Flushed,
    /// The other side refused the access: key, bounds, right or owner are wrong.
    RemoteAccess,
    /// The other side does not answer.
    RetryExceeded,
    /// The other side has no receive posted.
    NotReady,
    /// A window could not be bound, or a key not invalidated.
    Window,
    /// Anything else, by its number in `ibv_wc_status`.
    Other(u32),
}

impl Status {
    fn of(number: u32) -> Self {
        match number {
            status::IBV_WC_SUCCESS => Self::Done,
            status::IBV_WC_WR_FLUSH_ERR => Self::Flushed,
            status::IBV_WC_REM_ACCESS_ERR => Self::RemoteAccess,
            status::IBV_WC_RETRY_EXC_ERR => Self::RetryExceeded,
            status::IBV_WC_RNR_RETRY_EXC_ERR => Self::NotReady,
            status::IBV_WC_MW_BIND_ERR => Self::Window,
            other => Self::Other(other),
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Flushed => f.write_str("flushed: the queue pair is in the error state"),
            Self::RemoteAccess => f.write_str("remote access error: key, bounds or right are wrong"),
            Self::RetryExceeded => f.write_str("the peer does not answer"),
            Self::NotReady => f.write_str("the peer has no receive posted"),
            Self::Window => f.write_str("the window cannot be bound or invalidated"),
            Self::Other(number) => write!(f, "work completion status {number}"),
        }
    }
}

/// The end of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// What the request was given.
    pub id: u64,
    /// How it ended.
    pub status: Status,
    /// The number that a peer sent with its write.
    pub immediate: Option<u32>,
}

/// Wakes a thread when a queue that is made with it has completions.
#[derive(Debug)]
pub struct Channel {
    raw: NonNull<sys::ibv_comp_channel>,
    context: Arc<Context>,
}

// SAFETY: libibverbs locks what threads share.
unsafe impl Send for Channel {}
// SAFETY: as above.
unsafe impl Sync for Channel {}

impl Channel {
    /// Makes one. Its descriptor is readable when there is an event to be taken.
    ///
    /// # Errors
    /// If the device or the process has no more.
    pub fn new(context: &Arc<Context>) -> io::Result<Arc<Self>> {
        // SAFETY: the context is open.
        let raw = unsafe { sys::ibv_create_comp_channel(context.raw.as_ptr()) };
        let raw = NonNull::new(raw).ok_or_else(io::Error::last_os_error)?;
        let channel = Self { raw, context: Arc::clone(context) };
        let flags = rustix::fs::fcntl_getfl(&channel)?;
        rustix::fs::fcntl_setfl(&channel, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Arc::new(channel))
    }

    /// The token of a queue with completions, if one had some since it last [asked](CompletionQueue::notify).
    pub fn take_event(&self) -> Option<u64> {
        let (mut cq, mut context) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the channel is alive, both places are valid.
        let answer = unsafe { sys::ibv_get_cq_event(self.raw.as_ptr(), &raw mut cq, &raw mut context) };
        if answer != 0 {
            return None;
        }
        // SAFETY: a queue waits to be destroyed until the events that were taken are acknowledged.
        unsafe { sys::ibv_ack_cq_events(cq, 1) };
        Some(context.addr() as u64)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel is alive.
        let fd = unsafe { self.raw.as_ref() }.fd;
        // SAFETY: the descriptor is open until the channel is destroyed.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: queues that were made with it held it and are gone.
        if !destroyed("completion channel", unsafe { sys::ibv_destroy_comp_channel(self.raw.as_ptr()) }) {
            std::mem::forget(Arc::clone(&self.context));
        }
    }
}

/// Where the ends of requests arrive.
#[derive(Debug)]
pub struct CompletionQueue {
    pub(super) raw: NonNull<sys::ibv_cq>,
    channel: Arc<Channel>,
}

// SAFETY: libibverbs and drivers lock what threads share.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

impl CompletionQueue {
    /// Makes one for `entries` completions, known to its channel's reader by `token`.
    ///
    /// # Errors
    /// If the device has no more, or none that long.
    pub fn new(channel: &Arc<Channel>, entries: u32, token: u64) -> io::Result<Arc<Self>> {
        let entries = i32::try_from(entries).map_err(io::Error::other)?;
        let token = std::ptr::without_provenance_mut(usize::try_from(token).map_err(io::Error::other)?);
        let context = channel.context.raw.as_ptr();
        // SAFETY: context and channel are alive; the token is never dereferenced.
        let raw = unsafe { sys::ibv_create_cq(context, entries, token, channel.raw.as_ptr(), 0) };
        let raw = NonNull::new(raw).ok_or_else(io::Error::last_os_error)?;
        Ok(Arc::new(Self { raw, channel: Arc::clone(channel) }))
    }

    /// The channel that it wakes.
    pub fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// Asks for an event with the next completion. What came before it, [`poll`](Self::poll) finds.
    ///
    /// # Errors
    /// If the device fails.
    pub fn notify(&self) -> io::Result<()> {
        // SAFETY: the queue is alive, and was made with a channel.
        check(unsafe { sys::ibv_req_notify_cq(self.raw.as_ptr(), 0) })
    }

    /// Hands completions that are there to `each`, at most 32. Returns how many.
    ///
    /// # Errors
    /// If the device fails.
    pub fn poll(&self, mut each: impl FnMut(Completion)) -> io::Result<usize> {
        let mut found = [sys::ibv_wc::default(); POLL_MAX];
        let most = i32::try_from(POLL_MAX).expect("few");
        // SAFETY: the queue is alive, and `found` has room for so many.
        let count = unsafe { sys::ibv_poll_cq(self.raw.as_ptr(), most, found.as_mut_ptr()) };
        let count = usize::try_from(count).map_err(|_| io::Error::other("the completion queue cannot be polled"))?;
        for wc in &found[..count] {
            let status = Status::of(wc.status);
            // Of a failed request only number and status mean anything.
            let carries = status == Status::Done
                && wc.opcode == opcode::IBV_WC_RECV_RDMA_WITH_IMM
                && wc.wc_flags & sys::ibv_wc_flags::IBV_WC_WITH_IMM != sys::ibv_wc_flags::default();
            each(Completion { id: wc.wr_id, status, immediate: carries.then(|| u32::from_be(wc.imm_data)) });
        }
        Ok(count)
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: queue pairs that used it held it and are gone.
        if !destroyed("completion queue", unsafe { sys::ibv_destroy_cq(self.raw.as_ptr()) }) {
            std::mem::forget(Arc::clone(&self.channel));
        }
    }
}
