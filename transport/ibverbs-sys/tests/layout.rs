//! Our layouts against the header that is installed: a C compiler is asked.

use ibverbs_sys::*;
use std::fmt::Write as _;
use std::process::Command;

/// Sizes of structures that we pass or receive whole, and where the fields that we touch lie.
macro_rules! claims {
    ($text:ident, $($name:ident $(as $size:ident)? { $($field:ident $(= $c:literal)?),* })*) => {
        $(
            claims!(@size $text, $name $($size)?);
            $(
                let offset = std::mem::offset_of!($name, $field);
                let c = [$($c,)? stringify!($field)][0];
                writeln!($text, "_Static_assert(offsetof(struct {0}, {c}) == {offset}, \"{0}.{c}\");", stringify!($name)).expect("written");
            )*
        )*
    };
    (@size $text:ident, $name:ident) => {
        writeln!($text, "_Static_assert(sizeof(struct {0}) == {1}, \"{0}\");", stringify!($name), size_of::<$name>()).expect("written");
    };
    (@size $text:ident, $name:ident beginning) => {};
}

#[test]
fn layouts_are_those_of_the_installed_header() {
    if !std::path::Path::new("/usr/include/infiniband/verbs.h").exists() {
        assert!(std::env::var_os("MOONCAKE_REQUIRE_PEERS").is_none(), "no infiniband/verbs.h: install libibverbs-dev");
        eprintln!("SKIPPED: no infiniband/verbs.h to compare with; libibverbs-dev installs it");
        return;
    }
    let mut text = String::from("#include <infiniband/verbs.h>\n#include <stddef.h>\n");
    claims!(text,
        ibv_context_ops { alloc_mw, dealloc_mw, poll_cq, req_notify_cq, post_send, post_recv }
        ibv_context as beginning { device, ops, cmd_fd, async_fd, num_comp_vectors }
        ibv_device_attr { max_qp, max_qp_wr, device_cap_flags, max_cqe, max_mr, max_qp_rd_atom, max_qp_init_rd_atom, max_mw, phys_port_cnt }
        ibv_port_attr { state, active_mtu, gid_tbl_len, max_msg_sz, lid, link_layer }
        ibv_gid_entry { gid, gid_index, port_num, gid_type, ndev_ifindex }
        ibv_pd { context, handle }
        ibv_mr { addr, length, lkey, rkey }
        ibv_mw { rkey, handle, kind = "type" }
        ibv_mw_bind_info { mr, addr, length, mw_access_flags }
        ibv_comp_channel { context, fd }
        ibv_cq as beginning { context, channel, cq_context, cqe }
        ibv_qp as beginning { context, pd, qp_num, state }
        ibv_qp_cap { max_send_wr, max_inline_data }
        ibv_qp_init_attr { send_cq, recv_cq, srq, cap, qp_type, sq_sig_all }
        ibv_global_route { dgid, sgid_index, hop_limit }
        ibv_ah_attr { grh, dlid, is_global, port_num }
        ibv_qp_attr { qp_state, path_mtu, rq_psn, sq_psn, dest_qp_num, qp_access_flags, cap, ah_attr, pkey_index,
            max_rd_atomic, max_dest_rd_atomic, min_rnr_timer, port_num, timeout, retry_cnt, rnr_retry, rate_limit }
        ibv_sge { addr, length, lkey }
        ibv_send_wr { wr_id, next, sg_list, num_sge, opcode, send_flags, __bindgen_anon_1 = "imm_data", wr, qp_type,
            __bindgen_anon_2 = "bind_mw" }
        ibv_recv_wr { wr_id, next, sg_list, num_sge }
        ibv_wc { wr_id, status, opcode, vendor_err, byte_len, imm_data, qp_num, wc_flags, dlid_path_bits }
    );
    let constants = [
        ("IBV_WR_LOCAL_INV", ibv_wr_opcode::IBV_WR_LOCAL_INV),
        ("IBV_WR_BIND_MW", ibv_wr_opcode::IBV_WR_BIND_MW),
        ("IBV_WC_BIND_MW", ibv_wc_opcode::IBV_WC_BIND_MW),
        ("IBV_WC_LOCAL_INV", ibv_wc_opcode::IBV_WC_LOCAL_INV),
        ("IBV_WC_RECV_RDMA_WITH_IMM", ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM),
        ("IBV_WC_REM_ACCESS_ERR", ibv_wc_status::IBV_WC_REM_ACCESS_ERR),
        ("IBV_WC_GENERAL_ERR", ibv_wc_status::IBV_WC_GENERAL_ERR),
        ("IBV_QPS_ERR", ibv_qp_state::IBV_QPS_ERR),
        ("IBV_QP_DEST_QPN", ibv_qp_attr_mask::IBV_QP_DEST_QPN.0),
        ("IBV_QP_MAX_DEST_RD_ATOMIC", ibv_qp_attr_mask::IBV_QP_MAX_DEST_RD_ATOMIC.0),
        ("IBV_ACCESS_MW_BIND", ibv_access_flags::IBV_ACCESS_MW_BIND.0),
        ("IBV_SEND_INLINE", ibv_send_flags::IBV_SEND_INLINE.0),
        ("IBV_DEVICE_MEM_WINDOW_TYPE_2B", IBV_DEVICE_MEM_WINDOW_TYPE_2B),
        ("IBV_GID_TYPE_ROCE_V2", IBV_GID_TYPE_ROCE_V2),
        ("IBV_MW_TYPE_2", IBV_MW_TYPE_2),
    ];
    for (name, value) in constants {
        writeln!(text, "_Static_assert({name} == {value}, \"{name}\");").expect("written");
    }
    let directory = std::env::temp_dir().join(format!("ibverbs-layout-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("made");
    let source = directory.join("layout.c");
    std::fs::write(&source, &text).expect("written");
    let answer = Command::new("cc").args(["-fsyntax-only", "-x", "c"]).arg(&source).output();
    std::fs::remove_dir_all(&directory).expect("removed");
    let answer = answer.expect("a C compiler runs: Rust links with it");
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
}

/// What the specification says of keys: the index stays, the tag goes round.
#[test]
fn a_key_comes_again_after_256_bindings_and_not_before() {
    let first = 0x1234_56ff;
    let mut key = first;
    for turn in 1..=256 {
        key = ibv_inc_rkey(key);
        assert_eq!(key >> 8, first >> 8);
        assert_eq!(key == first, turn == 256, "turn {turn}");
    }
}
