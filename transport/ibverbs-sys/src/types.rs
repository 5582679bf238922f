//! Structures and constants of `verbs.h`, as far as they are used, laid out for C.

use std::ffi::{c_char, c_int, c_uint, c_void};

pub type __be64 = u64;
pub type __be32 = u32;
pub type ibv_gid_type = c_uint;
pub type ibv_mw_type = c_uint;

pub const IBV_GID_TYPE_IB: ibv_gid_type = 0;
pub const IBV_GID_TYPE_ROCE_V1: ibv_gid_type = 1;
pub const IBV_GID_TYPE_ROCE_V2: ibv_gid_type = 2;
pub const IBV_MW_TYPE_2: ibv_mw_type = 2;
pub const IBV_DEVICE_MEM_WINDOW_TYPE_2B: c_uint = 1 << 24;
pub const IBV_LINK_LAYER_ETHERNET: u8 = 2;

/// Flags as a type of their own, as bindgen makes them for the crate that this one stands in for.
macro_rules! flags {
    ($name:ident { $($flag:ident = $bit:expr,)* }) => {
        #[repr(transparent)]
        #[derive(Debug, Copy, Clone, Default, PartialEq, Eq, Hash)]
        pub struct $name(pub c_uint);
        impl $name { $(pub const $flag: Self = Self(1 << $bit);)* }
        impl std::ops::BitOr for $name {
            type Output = Self;
            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }
        impl std::ops::BitOrAssign for $name {
            fn bitor_assign(&mut self, other: Self) {
                self.0 |= other.0;
            }
        }
        impl std::ops::BitAnd for $name {
            type Output = Self;
            fn bitand(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }
        }
    };
}

flags!(ibv_access_flags {
    IBV_ACCESS_LOCAL_WRITE = 0,
    IBV_ACCESS_REMOTE_WRITE = 1,
    IBV_ACCESS_REMOTE_READ = 2,
    IBV_ACCESS_REMOTE_ATOMIC = 3,
    IBV_ACCESS_MW_BIND = 4,
});
flags!(ibv_send_flags { IBV_SEND_FENCE = 0, IBV_SEND_SIGNALED = 1, IBV_SEND_SOLICITED = 2, IBV_SEND_INLINE = 3, });
flags!(ibv_wc_flags { IBV_WC_GRH = 0, IBV_WC_WITH_IMM = 1, });
flags!(ibv_qp_attr_mask {
    IBV_QP_STATE = 0,
    IBV_QP_ACCESS_FLAGS = 3,
    IBV_QP_PKEY_INDEX = 4,
    IBV_QP_PORT = 5,
    IBV_QP_AV = 7,
    IBV_QP_PATH_MTU = 8,
    IBV_QP_TIMEOUT = 9,
    IBV_QP_RETRY_CNT = 10,
    IBV_QP_RNR_RETRY = 11,
    IBV_QP_RQ_PSN = 12,
    IBV_QP_MAX_QP_RD_ATOMIC = 13,
    IBV_QP_MIN_RNR_TIMER = 15,
    IBV_QP_SQ_PSN = 16,
    IBV_QP_MAX_DEST_RD_ATOMIC = 17,
    IBV_QP_DEST_QPN = 20,
});

/// Enumerations as modules of constants, as bindgen makes them.
macro_rules! constants {
    ($name:ident { $($constant:ident = $value:expr,)* }) => {
        pub mod $name {
            pub type Type = std::ffi::c_uint;
            $(pub const $constant: Type = $value;)*
        }
    };
}

constants!(ibv_qp_type { IBV_QPT_RC = 2, IBV_QPT_UC = 3, IBV_QPT_UD = 4, });
constants!(ibv_qp_state {
    IBV_QPS_RESET = 0, IBV_QPS_INIT = 1, IBV_QPS_RTR = 2, IBV_QPS_RTS = 3, IBV_QPS_SQD = 4, IBV_QPS_SQE = 5, IBV_QPS_ERR = 6,
});
constants!(ibv_port_state { IBV_PORT_DOWN = 1, IBV_PORT_INIT = 2, IBV_PORT_ARMED = 3, IBV_PORT_ACTIVE = 4, });
constants!(ibv_wr_opcode {
    IBV_WR_RDMA_WRITE = 0, IBV_WR_RDMA_WRITE_WITH_IMM = 1, IBV_WR_SEND = 2, IBV_WR_SEND_WITH_IMM = 3, IBV_WR_RDMA_READ = 4,
    IBV_WR_LOCAL_INV = 7, IBV_WR_BIND_MW = 8,
});
constants!(ibv_wc_opcode {
    IBV_WC_SEND = 0, IBV_WC_RDMA_WRITE = 1, IBV_WC_RDMA_READ = 2, IBV_WC_BIND_MW = 5, IBV_WC_LOCAL_INV = 6,
    IBV_WC_RECV = 128, IBV_WC_RECV_RDMA_WITH_IMM = 129,
});
constants!(ibv_wc_status {
    IBV_WC_SUCCESS = 0, IBV_WC_LOC_LEN_ERR = 1, IBV_WC_LOC_QP_OP_ERR = 2, IBV_WC_LOC_PROT_ERR = 4, IBV_WC_WR_FLUSH_ERR = 5,
    IBV_WC_MW_BIND_ERR = 6, IBV_WC_BAD_RESP_ERR = 7, IBV_WC_LOC_ACCESS_ERR = 8, IBV_WC_REM_INV_REQ_ERR = 9,
    IBV_WC_REM_ACCESS_ERR = 10, IBV_WC_REM_OP_ERR = 11, IBV_WC_RETRY_EXC_ERR = 12, IBV_WC_RNR_RETRY_EXC_ERR = 13,
    IBV_WC_FATAL_ERR = 19, IBV_WC_GENERAL_ERR = 21,
});

/// Structures that libibverbs makes and we only point at.
macro_rules! opaque {
    ($($name:ident)*) => {
        $(#[repr(C)]
        #[derive(Debug)]
        pub struct $name {
            _private: [u8; 0],
        })*
    };
}

opaque!(ibv_device ibv_srq ibv_ah);

type Unused = Option<unsafe extern "C" fn()>;

/// Functions of a driver. Those that libibverbs calls by itself are not typed.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ibv_context_ops {
    _before_alloc_mw: [Unused; 7],
    pub alloc_mw: Option<unsafe extern "C" fn(*mut ibv_pd, ibv_mw_type) -> *mut ibv_mw>,
    _bind_mw: Unused,
    pub dealloc_mw: Option<unsafe extern "C" fn(*mut ibv_mw) -> c_int>,
    _create_cq: Unused,
    pub poll_cq: Option<unsafe extern "C" fn(*mut ibv_cq, c_int, *mut ibv_wc) -> c_int>,
    pub req_notify_cq: Option<unsafe extern "C" fn(*mut ibv_cq, c_int) -> c_int>,
    _before_post_srq_recv: [Unused; 7],
    _post_srq_recv: Unused,
    _before_post_send: [Unused; 4],
    pub post_send: Option<unsafe extern "C" fn(*mut ibv_qp, *mut ibv_send_wr, *mut *mut ibv_send_wr) -> c_int>,
    pub post_recv: Option<unsafe extern "C" fn(*mut ibv_qp, *mut ibv_recv_wr, *mut *mut ibv_recv_wr) -> c_int>,
    _after_post_recv: [Unused; 5],
}

/// Its beginning; libibverbs allocates it.
#[repr(C)]
#[derive(Debug)]
pub struct ibv_context {
    pub device: *mut ibv_device,
    pub ops: ibv_context_ops,
    pub cmd_fd: c_int,
    pub async_fd: c_int,
    pub num_comp_vectors: c_int,
}

#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ibv_device_attr {
    pub fw_ver: [c_char; 64],
    pub node_guid: __be64,
    pub sys_image_guid: __be64,
    pub max_mr_size: u64,
    pub page_size_cap: u64,
    pub vendor_id: u32,
    pub vendor_part_id: u32,
    pub hw_ver: u32,
    pub max_qp: c_int,
    pub max_qp_wr: c_int,
    pub device_cap_flags: c_uint,
    pub max_sge: c_int,
    pub max_sge_rd: c_int,
    pub max_cq: c_int,
    pub max_cqe: c_int,
    pub max_mr: c_int,
    pub max_pd: c_int,
    pub max_qp_rd_atom: c_int,
    pub max_ee_rd_atom: c_int,
    pub max_res_rd_atom: c_int,
    pub max_qp_init_rd_atom: c_int,
    pub max_ee_init_rd_atom: c_int,
    pub atomic_cap: c_uint,
    pub max_ee: c_int,
    pub max_rdd: c_int,
    pub max_mw: c_int,
    pub max_raw_ipv6_qp: c_int,
    pub max_raw_ethy_qp: c_int,
    pub max_mcast_grp: c_int,
    pub max_mcast_qp_attach: c_int,
    pub max_total_mcast_qp_attach: c_int,
    pub max_ah: c_int,
    pub max_fmr: c_int,
    pub max_map_per_fmr: c_int,
    pub max_srq: c_int,
    pub max_srq_wr: c_int,
    pub max_srq_sge: c_int,
    pub max_pkeys: u16,
    pub local_ca_ack_delay: u8,
    pub phys_port_cnt: u8,
}

impl Default for ibv_device_attr {
    fn default() -> Self {
        // SAFETY: integers alone, for which zeros are a value.
        unsafe { std::mem::zeroed() }
    }
}

#[repr(C)]
#[derive(Debug, Copy, Clone, Default)]
pub struct ibv_port_attr {
    pub state: ibv_port_state::Type,
    pub max_mtu: c_uint,
    pub active_mtu: c_uint,
    pub gid_tbl_len: c_int,
    pub port_cap_flags: u32,
    pub max_msg_sz: u32,
    pub bad_pkey_cntr: u32,
    pub qkey_viol_cntr: u32,
    pub pkey_tbl_len: u16,
    pub lid: u16,
    pub sm_lid: u16,
    pub lmc: u8,
    pub max_vl_num: u8,
    pub sm_sl: u8,
    pub subnet_timeout: u8,
    pub init_type_reply: u8,
    pub active_width: u8,
    pub active_speed: u8,
    pub phys_state: u8,
    pub link_layer: u8,
    pub flags: u8,
    pub port_cap_flags2: u16,
}

#[repr(C)]
#[derive(Copy, Clone)]
pub union ibv_gid {
    pub raw: [u8; 16],
    _aligned: [__be64; 2],
}

impl Default for ibv_gid {
    fn default() -> Self {
        Self { raw: [0; 16] }
    }
}

impl std::fmt::Debug for ibv_gid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ibv_gid")
    }
}

#[repr(C)]
#[derive(Debug, Copy, Clone, Default)]
pub struct ibv_gid_entry {
    pub gid: ibv_gid,
    pub gid_index: u32,
    pub port_num: u32,
    pub gid_type: u32,
    pub ndev_ifindex: u32,
}

#[repr(C)]
#[derive(Debug)]
pub struct ibv_pd {
    pub context: *mut ibv_context,
    pub handle: u32,
}

#[repr(C)]
#[derive(Debug)]
pub struct ibv_mr {
    pub context: *mut ibv_context,
    pub pd: *mut ibv_pd,
    pub addr: *mut c_void,
    pub length: usize,
    pub handle: u32,
    pub lkey: u32,
    pub rkey: u32,
}

#[repr(C)]
#[derive(Debug)]
pub struct ibv_mw {
    pub context: *mut ibv_context,
    pub pd: *mut ibv_pd,
    pub rkey: u32,
    pub handle: u32,
    pub kind: ibv_mw_type,
}

#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ibv_mw_bind_info {
    pub mr: *mut ibv_mr,
    pub addr: u64,
    pub length: u64,
    pub mw_access_flags: c_uint,
}

#[repr(C)]
#[derive(Debug)]
pub struct ibv_comp_channel {
    pub context: *mut ibv_context,
    pub fd: c_int,
    pub refcnt: c_int,
}

/// Its beginning; libibverbs allocates it.
#[repr(C)]
#[derive(Debug)]
pub struct ibv_cq {
    pub context: *mut ibv_context,
    pub channel: *mut ibv_comp_channel,
    pub cq_context: *mut c_void,
    pub handle: u32,
    pub cqe: c_int,
}

#[repr(C)]
#[derive(Debug, Copy, Clone, Default)]
pub struct ibv_qp_cap {
    pub max_send_wr: u32,
    pub max_recv_wr: u32,
    pub max_send_sge: u32,
    pub max_recv_sge: u32,
    pub max_inline_data: u32,
}

#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ibv_qp_init_attr {
    pub qp_context: *mut c_void,
    pub send_cq: *mut ibv_cq,
    pub recv_cq: *mut ibv_cq,
    pub srq: *mut ibv_srq,
    pub cap: ibv_qp_cap,
    pub qp_type: ibv_qp_type::Type,
    pub sq_sig_all: c_int,
}

/// Its beginning; libibverbs allocates it.
#[repr(C)]
#[derive(Debug)]
pub struct ibv_qp {
    pub context: *mut ibv_context,
    pub qp_context: *mut c_void,
    pub pd: *mut ibv_pd,
    pub send_cq: *mut ibv_cq,
    pub recv_cq: *mut ibv_cq,
    pub srq: *mut ibv_srq,
    pub handle: u32,
    pub qp_num: u32,
    pub state: ibv_qp_state::Type,
    pub qp_type: ibv_qp_type::Type,
}

#[repr(C)]
#[derive(Debug, Copy, Clone, Default)]
pub struct ibv_global_route {
    pub dgid: ibv_gid,
    pub flow_label: u32,
    pub sgid_index: u8,
    pub hop_limit: u8,
    pub traffic_class: u8,
}

#[repr(C)]
#[derive(Debug, Copy, Clone, Default)]
pub struct ibv_ah_attr {
    pub grh: ibv_global_route,
    pub dlid: u16,
    pub sl: u8,
    pub src_path_bits: u8,
    pub static_rate: u8,
    pub is_global: u8,
    pub port_num: u8,
}

#[repr(C)]
#[derive(Debug, Copy, Clone, Default)]
pub struct ibv_qp_attr {
    pub qp_state: ibv_qp_state::Type,
    pub cur_qp_state: ibv_qp_state::Type,
    pub path_mtu: c_uint,
    pub path_mig_state: c_uint,
    pub qkey: u32,
    pub rq_psn: u32,
    pub sq_psn: u32,
    pub dest_qp_num: u32,
    pub qp_access_flags: c_uint,
    pub cap: ibv_qp_cap,
    pub ah_attr: ibv_ah_attr,
    pub alt_ah_attr: ibv_ah_attr,
    pub pkey_index: u16,
    pub alt_pkey_index: u16,
    pub en_sqd_async_notify: u8,
    pub sq_draining: u8,
    pub max_rd_atomic: u8,
    pub max_dest_rd_atomic: u8,
    pub min_rnr_timer: u8,
    pub port_num: u8,
    pub timeout: u8,
    pub retry_cnt: u8,
    pub rnr_retry: u8,
    pub alt_port_num: u8,
    pub alt_timeout: u8,
    pub rate_limit: u32,
}

#[repr(C)]
#[derive(Debug, Copy, Clone, Default)]
pub struct ibv_sge {
    pub addr: u64,
    pub length: u32,
    pub lkey: u32,
}

/// What a work request names on the other side.
#[repr(C)]
#[derive(Debug, Copy, Clone, Default)]
pub struct ibv_send_wr_remote {
    pub remote_addr: u64,
    pub rkey: u32,
    _atomic_and_datagram: [u64; 2],
}

#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ibv_send_wr_bind {
    pub mw: *mut ibv_mw,
    pub rkey: u32,
    pub bind_info: ibv_mw_bind_info,
}

impl Default for ibv_send_wr_bind {
    fn default() -> Self {
        let bind_info = ibv_mw_bind_info { mr: std::ptr::null_mut(), addr: 0, length: 0, mw_access_flags: 0 };
        Self { mw: std::ptr::null_mut(), rkey: 0, bind_info }
    }
}

/// C's unions of which one member alone is used here have that member's type and the union's size. The names of the
/// members without one are bindgen's: `__bindgen_anon_1` is the immediate, in network byte order, or the key to invalidate.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ibv_send_wr {
    pub wr_id: u64,
    pub next: *mut ibv_send_wr,
    pub sg_list: *mut ibv_sge,
    pub num_sge: c_int,
    pub opcode: ibv_wr_opcode::Type,
    pub send_flags: c_uint,
    pub __bindgen_anon_1: u32,
    pub wr: ibv_send_wr_remote,
    pub qp_type: u32,
    pub __bindgen_anon_2: ibv_send_wr_bind,
}

#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ibv_recv_wr {
    pub wr_id: u64,
    pub next: *mut ibv_recv_wr,
    pub sg_list: *mut ibv_sge,
    pub num_sge: c_int,
}

/// A completion. The fields that `ibverbs` reads through methods have methods.
#[repr(C)]
#[derive(Debug, Copy, Clone, Default)]
pub struct ibv_wc {
    pub wr_id: u64,
    pub status: ibv_wc_status::Type,
    pub opcode: ibv_wc_opcode::Type,
    pub vendor_err: u32,
    pub byte_len: u32,
    /// In network byte order.
    pub imm_data: u32,
    pub qp_num: u32,
    pub src_qp: u32,
    pub wc_flags: ibv_wc_flags,
    pub pkey_index: u16,
    pub slid: u16,
    pub sl: u8,
    pub dlid_path_bits: u8,
}
