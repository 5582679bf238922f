//! Calls that go through a context's table: what `verbs.h` defines as inline functions.

use crate::types::*;
use std::ffi::c_int;

/// # Safety
/// `qp` is alive; the chain at `wr` and what it names stay as they are until this returns, and the memory that its
/// scatter lists name until the work requests are complete.
pub unsafe fn ibv_post_send(qp: *mut ibv_qp, wr: *mut ibv_send_wr, bad: *mut *mut ibv_send_wr) -> c_int {
    // SAFETY: the caller's queue pair is alive.
    let context = unsafe { (*qp).context };
    // SAFETY: so is its context.
    match unsafe { (*context).ops.post_send } {
        // SAFETY: the caller keeps what it asks.
        Some(post) => unsafe { post(qp, wr, bad) },
        None => libc::EOPNOTSUPP,
    }
}

/// # Safety
/// As [`ibv_post_send`].
pub unsafe fn ibv_post_recv(qp: *mut ibv_qp, wr: *mut ibv_recv_wr, bad: *mut *mut ibv_recv_wr) -> c_int {
    // SAFETY: the caller's queue pair is alive.
    let context = unsafe { (*qp).context };
    // SAFETY: so is its context.
    match unsafe { (*context).ops.post_recv } {
        // SAFETY: the caller keeps what it asks.
        Some(post) => unsafe { post(qp, wr, bad) },
        None => libc::EOPNOTSUPP,
    }
}

/// # Safety
/// `cq` is alive and `wc` has room for `most` completions.
pub unsafe fn ibv_poll_cq(cq: *mut ibv_cq, most: c_int, wc: *mut ibv_wc) -> c_int {
    // SAFETY: the caller's queue is alive.
    let context = unsafe { (*cq).context };
    // SAFETY: so is its context.
    match unsafe { (*context).ops.poll_cq } {
        // SAFETY: the caller keeps what it asks.
        Some(poll) => unsafe { poll(cq, most, wc) },
        None => -libc::EOPNOTSUPP,
    }
}

/// # Safety
/// `cq` is alive and was made with a channel.
pub unsafe fn ibv_req_notify_cq(cq: *mut ibv_cq, solicited_only: c_int) -> c_int {
    // SAFETY: the caller's queue is alive.
    let context = unsafe { (*cq).context };
    // SAFETY: so is its context.
    match unsafe { (*context).ops.req_notify_cq } {
        // SAFETY: the caller keeps what it asks.
        Some(request) => unsafe { request(cq, solicited_only) },
        None => libc::EOPNOTSUPP,
    }
}

/// # Safety
/// `pd` is alive.
pub unsafe fn ibv_alloc_mw(pd: *mut ibv_pd, kind: ibv_mw_type) -> *mut ibv_mw {
    // SAFETY: the caller's domain is alive.
    let context = unsafe { (*pd).context };
    // SAFETY: so is its context.
    match unsafe { (*context).ops.alloc_mw } {
        // SAFETY: the caller keeps what it asks.
        Some(alloc) => unsafe { alloc(pd, kind) },
        None => std::ptr::null_mut(),
    }
}

/// # Safety
/// `mw` is alive, and is not used any more.
pub unsafe fn ibv_dealloc_mw(mw: *mut ibv_mw) -> c_int {
    // SAFETY: the caller's window is alive.
    let context = unsafe { (*mw).context };
    // SAFETY: so is its context.
    match unsafe { (*context).ops.dealloc_mw } {
        // SAFETY: the caller keeps what it asks.
        Some(dealloc) => unsafe { dealloc(mw) },
        None => libc::EOPNOTSUPP,
    }
}

/// The key for a window's next binding: another tag on the same index.
pub fn ibv_inc_rkey(rkey: u32) -> u32 {
    rkey & 0xffff_ff00 | rkey.wrapping_add(1) & 0xff
}
