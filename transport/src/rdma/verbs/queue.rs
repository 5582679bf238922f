//! A reliable connected queue pair: its states, and the requests posted to it.

use super::{CompletionQueue, Domain, MemoryWindow, Port, Region, Remote, check, destroyed};
use ibverbs_sys as sys;
use ibverbs_sys::{
    ibv_access_flags as flags, ibv_qp_attr_mask as mask, ibv_qp_state as state, ibv_wr_opcode as opcode,
};
use parking_lot::Mutex;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

/// Requests posted by one call, with one doorbell.
pub const POST_MAX: usize = 16;

/// Packet sequence numbers have 24 bits, and so have queue pair numbers.
const NUMBER_MAX: u32 = 0x00ff_ffff;

/// One end of a connection, as the other end must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// Queue pair number.
    pub qpn: u32,
    /// Sequence number of the first packet that it sends.
    pub psn: u32,
    /// Address.
    pub gid: [u8; 16],
    /// Address on an InfiniBand fabric; 0 elsewhere.
    pub lid: u16,
    /// The longest packet that it takes, as verbs number them.
    pub mtu: u8,
    /// Reads that it answers at once.
    pub reads: u8,
}

/// How large a queue pair is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueTerms {
    /// Requests that may be under way.
    pub sends_max: u32,
    /// Receives that may be posted.
    pub receives_max: u32,
    /// Whether the peer may write and read where it has a key.
    pub answers: bool,
}

/// How packets are sent to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathTerms {
    /// The port that they leave by.
    pub port: Port,
    /// Place of its address in the port's table.
    pub gid_index: u8,
    /// Reads that we have under way at once.
    pub reads_out: u8,
    /// Reads that we answer at once.
    pub reads_in: u8,
}

/// What is asked of the device.
#[derive(Debug, Clone, Copy)]
pub enum Work<'a> {
    /// Writes our bytes into the peer's memory, and with a number, tells it.
    Write {
        /// Ours.
        region: &'a Arc<Region>,
        /// From where in it.
        offset: usize,
        /// How many.
        length: u32,
        /// Where to.
        to: Remote,
        /// The number, which takes a receive of the peer's.
        immediate: Option<u32>,
    },
    /// Reads the peer's bytes into our memory.
    Read {
        /// Ours.
        region: &'a Arc<Region>,
        /// Where to in it.
        offset: usize,
        /// How many.
        length: u32,
        /// Where from.
        from: Remote,
    },
    /// Sends a message without bytes, which takes a receive of the peer's: its completion shows that the peer is there.
    Nothing,
    /// Binds a window to a part of a region: from its completion on, the peer reaches exactly that by `rkey`.
    Bind {
        /// The window, bound to nothing now, which [holds](MemoryWindow::hold) the region.
        window: &'a MemoryWindow,
        /// Its next key.
        rkey: u32,
        /// Registered for windows.
        region: &'a Arc<Region>,
        /// From where in it.
        offset: usize,
        /// How many bytes.
        length: usize,
        /// Whether the peer may write; else it may read.
        writable: bool,
    },
    /// Takes a key back: from its completion on, no access by it is let in.
    Invalidate {
        /// The key that was bound.
        rkey: u32,
    },
}

/// Work, and the number that its completion carries.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The number.
    pub id: u64,
    /// The work.
    pub work: Work<'a>,
}

/// State of a queue pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Made, not connected.
    Unconnected,
    /// Sends and receives.
    Connected,
    /// Sends and lets in nothing any more.
    Error,
}

/// See the module's text.
#[derive(Debug)]
pub struct QueuePair {
    /// `None` once destroyed.
    raw: Option<NonNull<sys::ibv_qp>>,
    number: u32,
    psn: u32,
    // Released after the queue pair, in this order.
    used: Mutex<Vec<Arc<Region>>>,
    completions: Arc<CompletionQueue>,
    domain: Arc<Domain>,
}

// SAFETY: drivers lock what threads share.
unsafe impl Send for QueuePair {}
// SAFETY: as above.
unsafe impl Sync for QueuePair {}

impl QueuePair {
    /// Makes one, not connected, whose first packet will have the number `psn`.
    ///
    /// # Errors
    /// If the device has no more, or none that large.
    pub fn new(
        domain: &Arc<Domain>,
        completions: &Arc<CompletionQueue>,
        terms: QueueTerms,
        port: u8,
        psn: u32,
    ) -> io::Result<Self> {
        let mut wanted = sys::ibv_qp_init_attr {
            qp_context: std::ptr::null_mut(),
            send_cq: completions.raw.as_ptr(),
            recv_cq: completions.raw.as_ptr(),
            srq: std::ptr::null_mut(),
            cap: sys::ibv_qp_cap {
                max_send_wr: terms.sends_max,
                max_recv_wr: terms.receives_max,
                max_send_sge: 1,
                max_recv_sge: 1,
                max_inline_data: 0,
            },
            qp_type: sys::ibv_qp_type::IBV_QPT_RC,
            // Each request has a completion, so that their number is known.
            sq_sig_all: 1,
        };
        // SAFETY: domain and completion queue are alive, and held below; `wanted` is a valid place.
        let raw = unsafe { sys::ibv_create_qp(domain.raw.as_ptr(), &raw mut wanted) };
        let raw = NonNull::new(raw).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the queue pair was just made.
        let number = unsafe { raw.as_ref() }.qp_num;
        let made = Self {
            raw: Some(raw),
            number,
            psn: psn & NUMBER_MAX,
            used: Mutex::default(),
            completions: Arc::clone(completions),
            domain: Arc::clone(domain),
        };
        let mut access = flags::IBV_ACCESS_LOCAL_WRITE;
        if terms.answers {
            access |= flags::IBV_ACCESS_REMOTE_WRITE | flags::IBV_ACCESS_REMOTE_READ;
        }
        made.modify(
            sys::ibv_qp_attr {
                qp_state: state::IBV_QPS_INIT,
                port_num: port,
                qp_access_flags: access.0,
                ..sys::ibv_qp_attr::default()
            },
            mask::IBV_QP_STATE | mask::IBV_QP_PKEY_INDEX | mask::IBV_QP_PORT | mask::IBV_QP_ACCESS_FLAGS,
        )?;
        Ok(made)
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Number of its first packet.
    pub fn psn(&self) -> u32 {
        self.psn
    }

    /// Where its completions arrive.
    pub fn completions(&self) -> &Arc<CompletionQueue> {
        &self.completions
    }

    fn raw(&self) -> *mut sys::ibv_qp {
        self.raw.expect("destroyed by its drop, or by what takes it").as_ptr()
    }

    /// Destroys it: the device reaches nothing for it any more, and lets nothing in. Says whether that is certain.
    pub fn destroy(mut self) -> bool {
        self.release()
    }

    fn release(&mut self) -> bool {
        if self.raw.is_some() {
            // So that what it still holds of packets is let go: Soft-RoCE waits for those of a queue pair that works, up to 50 s.
            let _ = self.fail();
        }
        let Some(raw) = self.raw.take() else { return true };
        // SAFETY: the queue pair is alive, and nobody has its handle any more.
        let done = destroyed("queue pair", unsafe { sys::ibv_destroy_qp(raw.as_ptr()) });
        if !done {
            // The device may still reach what was posted.
            std::mem::take(self.used.get_mut()).into_iter().for_each(std::mem::forget);
            std::mem::forget(Arc::clone(&self.completions));
            std::mem::forget(Arc::clone(&self.domain));
        }
        done
    }

    fn modify(&self, mut attributes: sys::ibv_qp_attr, which: mask) -> io::Result<()> {
        let which = i32::try_from(which.0).expect("low bits");
        // SAFETY: the queue pair is alive, and `attributes` a valid place.
        check(unsafe { sys::ibv_modify_qp(self.raw(), &raw mut attributes, which) })
    }

    /// Connects it: it lets in the peer's packets, then sends.
    ///
    /// # Errors
    /// `InvalidInput` for an endpoint that cannot be one, else what the device answers.
    pub fn connect(&self, path: &PathTerms, peer: &Endpoint) -> io::Result<()> {
        let possible = (1..=5).contains(&peer.mtu) && peer.qpn <= NUMBER_MAX && peer.psn <= NUMBER_MAX;
        if !possible {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no queue pair has such numbers"));
        }
        self.modify(
            sys::ibv_qp_attr {
                qp_state: state::IBV_QPS_RTR,
                path_mtu: u32::from(peer.mtu.min(path.port.mtu)),
                dest_qp_num: peer.qpn,
                rq_psn: peer.psn,
                max_dest_rd_atomic: path.reads_in,
                // 10 ms between a request that finds no receive and its repetition.
                min_rnr_timer: 20,
                ah_attr: sys::ibv_ah_attr {
                    grh: sys::ibv_global_route {
                        dgid: sys::ibv_gid { raw: peer.gid },
                        sgid_index: path.gid_index,
                        hop_limit: 64,
                        ..sys::ibv_global_route::default()
                    },
                    dlid: peer.lid,
                    is_global: 1,
                    port_num: path.port.number,
                    ..sys::ibv_ah_attr::default()
                },
                ..sys::ibv_qp_attr::default()
            },
            mask::IBV_QP_STATE
                | mask::IBV_QP_AV
                | mask::IBV_QP_PATH_MTU
                | mask::IBV_QP_DEST_QPN
                | mask::IBV_QP_RQ_PSN
                | mask::IBV_QP_MAX_DEST_RD_ATOMIC
                | mask::IBV_QP_MIN_RNR_TIMER,
        )?;
        self.modify(
            sys::ibv_qp_attr {
                qp_state: state::IBV_QPS_RTS,
                sq_psn: self.psn,
                // 4.096 µs times 2 to the 14th, 67 ms, seven times: a peer that is gone is known to be after a second or two.
                // Soft-RoCE takes a count of 7 for no end.
                timeout: 14,
                retry_cnt: 6,
                rnr_retry: 6,
                max_rd_atomic: path.reads_out.min(peer.reads),
                ..sys::ibv_qp_attr::default()
            },
            mask::IBV_QP_STATE
                | mask::IBV_QP_SQ_PSN
                | mask::IBV_QP_TIMEOUT
                | mask::IBV_QP_RETRY_CNT
                | mask::IBV_QP_RNR_RETRY
                | mask::IBV_QP_MAX_QP_RD_ATOMIC,
        )
    }

    /// Lets in and sends nothing any more. What is under way ends flushed.
    ///
    /// # Errors
    /// What the device answers.
    pub fn fail(&self) -> io::Result<()> {
        let attributes = sys::ibv_qp_attr { qp_state: state::IBV_QPS_ERR, ..sys::ibv_qp_attr::default() };
        self.modify(attributes, mask::IBV_QP_STATE)
    }

    /// Its state, as the device says.
    ///
    /// # Errors
    /// What the device answers.
    pub fn state(&self) -> io::Result<State> {
        let mut found = sys::ibv_qp_attr::default();
        let mut made_with = sys::ibv_qp_init_attr {
            qp_context: std::ptr::null_mut(),
            send_cq: std::ptr::null_mut(),
            recv_cq: std::ptr::null_mut(),
            srq: std::ptr::null_mut(),
            cap: sys::ibv_qp_cap::default(),
            qp_type: 0,
            sq_sig_all: 0,
        };
        let which = i32::try_from(mask::IBV_QP_STATE.0).expect("low bits");
        // SAFETY: the queue pair is alive, and both are valid places.
        check(unsafe { sys::ibv_query_qp(self.raw(), &raw mut found, which, &raw mut made_with) })?;
        Ok(match found.qp_state {
            state::IBV_QPS_RESET | state::IBV_QPS_INIT => State::Unconnected,
            state::IBV_QPS_RTR | state::IBV_QPS_RTS | state::IBV_QPS_SQD => State::Connected,
            _ => State::Error,
        })
    }

    /// Posts requests in order, at most [`POST_MAX`], with one doorbell. Those posted have a completion each.
    ///
    /// # Errors
    /// How many were posted before the one that the device refused, and why.
    ///
    /// # Panics
    /// If there are more, a request runs past its region, or a window does not hold its region.
    pub fn post(&self, requests: &[Request<'_>]) -> Result<(), (usize, io::Error)> {
        assert!(requests.len() <= POST_MAX, "{} requests are more than one doorbell takes", requests.len());
        if requests.is_empty() {
            return Ok(());
        }
        let mut pieces = [sys::ibv_sge::default(); POST_MAX];
        let mut chain: [Option<sys::ibv_send_wr>; POST_MAX] = [None; POST_MAX];
        let mut posting = [const { None }; POST_MAX];
        for (at, request) in requests.iter().enumerate() {
            if let Work::Bind { window, rkey, .. } = request.work {
                posting[at] = Some((window, window.begin_posting(), rkey));
            }
            chain[at] = Some(self.describe(request, &mut pieces[at]));
        }
        let mut chain: [sys::ibv_send_wr; POST_MAX] = chain.map(|wr| wr.unwrap_or_else(unused));
        let first = chain.as_mut_ptr();
        for at in 1..requests.len() {
            let next = first.wrapping_add(at);
            chain[at - 1].next = next;
        }
        let mut bad = std::ptr::null_mut();
        // SAFETY: the queue pair is alive; the chain and the pieces it names stay as they are until this returns. The memory
        // of the pieces is in regions that `used` keeps until the queue pair is destroyed; windows are alive, and a device
        // that unbinds or binds one later knows it by its number.
        let errno = unsafe { sys::ibv_post_send(self.raw(), chain.as_mut_ptr(), &raw mut bad) };
        let posted = check(errno).map_err(|error| {
            let posted = (bad.addr().saturating_sub(chain.as_ptr().addr())) / size_of::<sys::ibv_send_wr>();
            (if bad.is_null() { 0 } else { posted.min(requests.len()) }, error)
        });
        let count = posted.as_ref().err().map_or(requests.len(), |(count, _)| *count);
        for (window, guard, rkey) in posting.iter().take(count).flatten() {
            window.posted(guard, *rkey);
        }
        posted
    }

    fn describe(&self, request: &Request<'_>, piece: &mut sys::ibv_sge) -> sys::ibv_send_wr {
        let mut wr = unused();
        wr.wr_id = request.id;
        let (kind, used) = match request.work {
            Work::Write { region, offset, length, to, immediate } => {
                self.piece(&mut wr, piece, region, offset, length, to);
                wr.__bindgen_anon_1 = immediate.unwrap_or(0).to_be();
                let kind = match immediate {
                    Some(_) => opcode::IBV_WR_RDMA_WRITE_WITH_IMM,
                    None => opcode::IBV_WR_RDMA_WRITE,
                };
                (kind, Some(region))
            }
            Work::Read { region, offset, length, from } => {
                self.piece(&mut wr, piece, region, offset, length, from);
                (opcode::IBV_WR_RDMA_READ, Some(region))
            }
            Work::Nothing => (opcode::IBV_WR_SEND, None),
            Work::Bind { window, rkey, region, offset, length, writable } => {
                assert!(region.covers(offset, length), "a window of {length} bytes at {offset} of {region:?}");
                let raw = window.raw_for(region).expect("a window holds what it is bound to");
                let access = if writable { flags::IBV_ACCESS_REMOTE_WRITE } else { flags::IBV_ACCESS_REMOTE_READ };
                wr.__bindgen_anon_2 = sys::ibv_send_wr_bind {
                    mw: raw.as_ptr(),
                    rkey,
                    bind_info: sys::ibv_mw_bind_info {
                        mr: region.raw.as_ptr(),
                        addr: region.addr(offset),
                        length: length as u64,
                        mw_access_flags: access.0,
                    },
                };
                (opcode::IBV_WR_BIND_MW, None)
            }
            Work::Invalidate { rkey } => {
                wr.__bindgen_anon_1 = rkey;
                (opcode::IBV_WR_LOCAL_INV, None)
            }
        };
        wr.opcode = kind;
        if let Some(region) = used {
            let mut used = self.used.lock();
            if !used.iter().any(|held| Arc::ptr_eq(held, region)) {
                used.push(Arc::clone(region));
            }
        }
        wr
    }

    fn piece(
        &self,
        wr: &mut sys::ibv_send_wr,
        piece: &mut sys::ibv_sge,
        region: &Arc<Region>,
        offset: usize,
        length: u32,
        remote: Remote,
    ) {
        assert!(region.covers(offset, length as usize), "{length} bytes at {offset} of {region:?}");
        assert!(Arc::ptr_eq(region.domain(), &self.domain), "regions are reached within their domain");
        wr.wr.remote_addr = remote.addr;
        wr.wr.rkey = remote.rkey;
        if length > 0 {
            *piece = sys::ibv_sge { addr: region.addr(offset), length, lkey: region.lkey() };
            wr.sg_list = std::ptr::from_mut(piece);
            wr.num_sge = 1;
        }
    }

    /// Posts a receive, which a peer's write with a number takes.
    ///
    /// # Errors
    /// If the queue is full, or the device fails.
    pub fn receive(&self, id: u64) -> io::Result<()> {
        let mut wr =
            sys::ibv_recv_wr { wr_id: id, next: std::ptr::null_mut(), sg_list: std::ptr::null_mut(), num_sge: 0 };
        let mut bad = std::ptr::null_mut();
        // SAFETY: the queue pair is alive; the request names no memory, and stays as it is until this returns.
        check(unsafe { sys::ibv_post_recv(self.raw(), &raw mut wr, &raw mut bad) })
    }
}

fn unused() -> sys::ibv_send_wr {
    sys::ibv_send_wr {
        wr_id: 0,
        next: std::ptr::null_mut(),
        sg_list: std::ptr::null_mut(),
        num_sge: 0,
        opcode: opcode::IBV_WR_RDMA_WRITE,
        send_flags: sys::ibv_send_flags::IBV_SEND_SIGNALED.0,
        __bindgen_anon_1: 0,
        wr: sys::ibv_send_wr_remote::default(),
        qp_type: 0,
        __bindgen_anon_2: sys::ibv_send_wr_bind::default(),
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        self.release();
    }
}
