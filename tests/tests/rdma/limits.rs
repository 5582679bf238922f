//! What a server says and does that may not lock the memory which RDMA needs.

use super::{LIMIT, NOBODY, server};
use std::os::unix::fs::PermissionsExt as _;
use tests::server::until;
use tests::{Raw, Server, Value};

const MEMLOCK: u64 = 8 << 20;

#[test]
#[ignore = "guest: its RDMA device"]
fn a_limit_of_locked_memory_is_named_with_what_to_do() {
    // As a machine's administrator lets everybody use RDMA.
    for entry in std::fs::read_dir("/dev/infiniband").expect("RDMA is there").flatten() {
        let everybody = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(entry.path(), everybody).expect("the test may");
    }
    let limited = Server::start_unprivileged(MEMLOCK, &["--dram", "64MiB", "--segment-len", "64MiB", "--rdma", "auto"]);
    let mut raw = Raw::to(&limited);
    until("it is known", LIMIT, || !raw.ask(&["INFO", "transfers"]).text().contains("rdma:RDMA is being set up"));
    let refused = raw.ask(&NOBODY);
    println!("{}", refused.text());
    for part in ["64 MiB are to be registered", "may lock 8 MiB", "ulimit -l", "LimitMEMLOCK"] {
        assert!(refused.is_error("NOTRANSPORT") && refused.text().contains(part), "{part:?} in {refused:?}");
    }
    raw.set("k", "value");
    assert_eq!(raw.ask(&["GET", "k"]), Value::Bulk(b"value".to_vec()), "everything else works");
    // One that may is not kept from it.
    assert!(!Raw::to(&server(&[])).ask(&["INFO", "transfers"]).text().contains("are to be registered"));
}
