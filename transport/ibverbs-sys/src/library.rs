//! Functions that libibverbs exports, looked up once.

use crate::types::*;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

/// What rdma-core installs; the number is that of its ABI.
const FILE: &str = "libibverbs.so.1";

static TABLE: OnceLock<Result<Table, String>> = OnceLock::new();

/// What this machine lacks for libibverbs to be used, in one line; `None` if it is there.
pub fn missing() -> Option<&'static str> {
    table().as_ref().err().map(String::as_str)
}

fn table() -> &'static Result<Table, String> {
    TABLE.get_or_init(Table::load)
}

/// As libibverbs reports errors.
fn fail<T>(errno: c_int, answer: T) -> T {
    // SAFETY: the C library gives each thread a valid place for its last error.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: nobody else refers to this thread's place.
    unsafe { *place = errno };
    answer
}

macro_rules! functions {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty, or $absent:expr;)*) => {
        struct Table {
            $($name: Option<unsafe extern "C" fn($($type),*) -> $answer>,)*
            /// Keeps what the pointers above point into; never closed, since devices of drivers hold on to it too.
            _library: Library,
        }

        impl Table {
            fn load() -> Result<Self, String> {
                // SAFETY: libibverbs is rdma-core's; its initialisers have no requirement on when they run.
                let library = unsafe { Library::open(Some(FILE), RTLD_NOW | RTLD_LOCAL) }
                    .map_err(|error| format!("{FILE} cannot be loaded ({error}): install libibverbs1 and ibverbs-providers"))?;
                Ok(Self {
                    $(
                        // SAFETY: the symbol, if there, is the function of this name in `verbs.h`, of this type.
                        $name: unsafe { library.get(concat!(stringify!($name), "\0").as_bytes()) }.ok().map(|symbol| *symbol),
                    )*
                    _library: library,
                })
            }
        }

        $(
            /// # Safety
            /// As its manual page asks.
            pub unsafe fn $name($($argument: $type),*) -> $answer {
                match table().as_ref().ok().and_then(|table| table.$name) {
                    // SAFETY: the caller keeps what the manual page asks.
                    Some(function) => unsafe { function($($argument),*) },
                    None => fail(libc::ENOSYS, $absent),
                }
            }
        )*
    };
}

functions! {
    ibv_get_device_list(count: *mut c_int) -> *mut *mut ibv_device, or std::ptr::null_mut();
    ibv_free_device_list(list: *mut *mut ibv_device) -> (), or ();
    ibv_get_device_name(device: *mut ibv_device) -> *const c_char, or std::ptr::null();
    ibv_get_device_guid(device: *mut ibv_device) -> __be64, or 0;
    ibv_get_device_index(device: *mut ibv_device) -> c_int, or -1;
    ibv_open_device(device: *mut ibv_device) -> *mut ibv_context, or std::ptr::null_mut();
    ibv_close_device(context: *mut ibv_context) -> c_int, or libc::ENOSYS;
    ibv_query_device(context: *mut ibv_context, attributes: *mut ibv_device_attr) -> c_int, or libc::ENOSYS;
    ibv_query_port(context: *mut ibv_context, port: u8, attributes: *mut ibv_port_attr) -> c_int, or libc::ENOSYS;
    _ibv_query_gid_table(
        context: *mut ibv_context, entries: *mut ibv_gid_entry, most: usize, flags: u32, entry_size: usize
    ) -> isize, or -(libc::ENOSYS as isize);
    ibv_alloc_pd(context: *mut ibv_context) -> *mut ibv_pd, or std::ptr::null_mut();
    ibv_dealloc_pd(pd: *mut ibv_pd) -> c_int, or libc::ENOSYS;
    ibv_reg_mr(pd: *mut ibv_pd, address: *mut c_void, length: usize, access: c_int) -> *mut ibv_mr,
        or std::ptr::null_mut();
    ibv_dereg_mr(mr: *mut ibv_mr) -> c_int, or libc::ENOSYS;
    ibv_create_comp_channel(context: *mut ibv_context) -> *mut ibv_comp_channel, or std::ptr::null_mut();
    ibv_destroy_comp_channel(channel: *mut ibv_comp_channel) -> c_int, or libc::ENOSYS;
    ibv_create_cq(
        context: *mut ibv_context, entries: c_int, cq_context: *mut c_void, channel: *mut ibv_comp_channel, vector: c_int
    ) -> *mut ibv_cq, or std::ptr::null_mut();
    ibv_destroy_cq(cq: *mut ibv_cq) -> c_int, or libc::ENOSYS;
    ibv_get_cq_event(channel: *mut ibv_comp_channel, cq: *mut *mut ibv_cq, cq_context: *mut *mut c_void) -> c_int, or -1;
    ibv_ack_cq_events(cq: *mut ibv_cq, count: c_uint) -> (), or ();
    ibv_create_qp(pd: *mut ibv_pd, attributes: *mut ibv_qp_init_attr) -> *mut ibv_qp, or std::ptr::null_mut();
    ibv_modify_qp(qp: *mut ibv_qp, attributes: *mut ibv_qp_attr, mask: c_int) -> c_int, or libc::ENOSYS;
    ibv_query_qp(
        qp: *mut ibv_qp, attributes: *mut ibv_qp_attr, mask: c_int, made_with: *mut ibv_qp_init_attr
    ) -> c_int, or libc::ENOSYS;
    ibv_destroy_qp(qp: *mut ibv_qp) -> c_int, or libc::ENOSYS;
}
