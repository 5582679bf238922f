//! An open device, and the protection domain that holds together what may reach each other on it.

use super::{check, destroyed};
use ibverbs_sys as sys;
use std::ffi::CStr;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

/// An open device.
#[derive(Debug)]
pub struct Context {
    pub(super) raw: NonNull<sys::ibv_context>,
}

// SAFETY: libibverbs locks what calls of several threads share (ibv_open_device(3), "thread safe").
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// What a device can hold, as it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests of one queue.
    pub queue_depth_max: u32,
    /// Completions of one completion queue.
    pub completions_max: u32,
    /// Queue pairs.
    pub queue_pairs_max: u32,
    /// Memory regions.
    pub regions_max: u32,
    /// Bytes of one region.
    pub region_len_max: u64,
    /// Memory windows.
    pub windows_max: u32,
    /// Whether windows are of type 2B: bound to one queue pair, invalidated by a request.
    pub has_windows_2b: bool,
    /// Reads under way that a queue pair answers.
    pub reads_in_max: u8,
    /// Reads under way that a queue pair asks for.
    pub reads_out_max: u8,
}

/// A device's port, as it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Its number, from 1.
    pub number: u8,
    /// Whether packets go through.
    pub is_active: bool,
    /// The longest packet, as verbs number them: 256 bytes are 1, each one more is twice as long.
    pub mtu: u8,
    /// Bytes of one message.
    pub message_len_max: u32,
    /// Address on an InfiniBand fabric; 0 elsewhere.
    pub lid: u16,
    /// Whether it is Ethernet, which carries RDMA as RoCE.
    pub is_ethernet: bool,
}

fn count(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

fn small(number: i32) -> u8 {
    u8::try_from(number.max(0)).unwrap_or(u8::MAX)
}

impl Context {
    /// Opens the device of this name.
    ///
    /// # Errors
    /// If there is none, or it cannot be opened (often a right: `/dev/infiniband`).
    pub fn open(name: &str) -> io::Result<Arc<Self>> {
        let mut number = 0;
        // SAFETY: `number` is a valid place for the count.
        let list = unsafe { sys::ibv_get_device_list(&raw mut number) };
        let list = NonNull::new(list).ok_or_else(io::Error::last_os_error)?;
        let opened = Self::open_of(list.as_ptr(), usize::try_from(number).unwrap_or(0), name);
        // SAFETY: the list came from `ibv_get_device_list` and is not used any more; an open device outlives it.
        unsafe { sys::ibv_free_device_list(list.as_ptr()) };
        opened
    }

    fn open_of(list: *mut *mut sys::ibv_device, number: usize, name: &str) -> io::Result<Arc<Self>> {
        for at in 0..number {
            // SAFETY: the list has `number` entries.
            let entry = unsafe { list.add(at) };
            // SAFETY: each is a device.
            let device = unsafe { *entry };
            // SAFETY: the device is in a list that was not freed.
            let text = unsafe { sys::ibv_get_device_name(device) };
            if text.is_null() {
                continue;
            }
            // SAFETY: a name ends with a zero and lives as long as the list.
            let text = unsafe { CStr::from_ptr(text) };
            if text.to_bytes() == name.as_bytes() {
                // SAFETY: the device is in a list that was not freed.
                let raw = unsafe { sys::ibv_open_device(device) };
                let raw = NonNull::new(raw).ok_or_else(io::Error::last_os_error)?;
                return Ok(Arc::new(Self { raw }));
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no RDMA device `{name}`")))
    }

    /// What the device can hold.
    ///
    /// # Errors
    /// If the device does not answer.
    pub fn limits(&self) -> io::Result<Limits> {
        let mut found = sys::ibv_device_attr::default();
        // SAFETY: the context is open, `found` a valid place for the answer.
        check(unsafe { sys::ibv_query_device(self.raw.as_ptr(), &raw mut found) })?;
        Ok(Limits {
            queue_depth_max: count(found.max_qp_wr),
            completions_max: count(found.max_cqe),
            queue_pairs_max: count(found.max_qp),
            regions_max: count(found.max_mr),
            region_len_max: found.max_mr_size,
            windows_max: count(found.max_mw),
            has_windows_2b: found.device_cap_flags & sys::IBV_DEVICE_MEM_WINDOW_TYPE_2B != 0,
            reads_in_max: small(found.max_qp_rd_atom),
            reads_out_max: small(found.max_qp_init_rd_atom),
        })
    }

    /// What a port is and can do.
    ///
    /// # Errors
    /// If there is no such port.
    pub fn port(&self, number: u8) -> io::Result<Port> {
        let mut found = sys::ibv_port_attr::default();
        // SAFETY: the context is open, `found` is at least as long as what the function writes.
        check(unsafe { sys::ibv_query_port(self.raw.as_ptr(), number, &raw mut found) })?;
        Ok(Port {
            number,
            is_active: found.state == sys::ibv_port_state::IBV_PORT_ACTIVE,
            mtu: u8::try_from(found.active_mtu).unwrap_or(1).clamp(1, 5),
            message_len_max: found.max_msg_sz,
            lid: found.lid,
            is_ethernet: found.link_layer == sys::IBV_LINK_LAYER_ETHERNET,
        })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: all that was made from the context held it and is gone.
        destroyed("context", unsafe { sys::ibv_close_device(self.raw.as_ptr()) });
    }
}

/// A protection domain: queue pairs, regions and windows of one domain alone reach each other.
#[derive(Debug)]
pub struct Domain {
    pub(super) raw: NonNull<sys::ibv_pd>,
    /// Closed after it.
    _context: Arc<Context>,
}

// SAFETY: as for `Context`.
unsafe impl Send for Domain {}
// SAFETY: as for `Context`.
unsafe impl Sync for Domain {}

impl Domain {
    /// Makes one.
    ///
    /// # Errors
    /// If the device has no more.
    pub fn new(context: &Arc<Context>) -> io::Result<Arc<Self>> {
        // SAFETY: the context is open.
        let raw = unsafe { sys::ibv_alloc_pd(context.raw.as_ptr()) };
        let raw = NonNull::new(raw).ok_or_else(io::Error::last_os_error)?;
        Ok(Arc::new(Self { raw, _context: Arc::clone(context) }))
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: all that was made in the domain held it and is gone.
        destroyed("protection domain", unsafe { sys::ibv_dealloc_pd(self.raw.as_ptr()) });
    }
}
