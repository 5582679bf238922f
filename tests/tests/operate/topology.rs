//! `NODE TOPOLOGY` of the machine that runs the tests, and what an operator says of it.

use std::sync::Arc;
use tempfile::TempDir;
use tests::server::Mark;
use tests::{Raw, Server};

#[test]
fn the_topology_of_this_machine_is_told_and_its_segments_lie_in_it() {
    let server = Server::start(&["--dram", "192MiB", "--segment-len", "64MiB", "--workers", "3"]);
    let mut raw = Raw::to(&server);
    let told = raw.ask(&["NODE", "TOPOLOGY"]);
    let nodes = told.field("nodes").items();
    let segments: u64 = nodes.iter().map(|node| node.field("segments").number()).sum();
    assert_eq!(segments, 3, "each segment is on one node: {told:?}");
    assert!(nodes.iter().map(|node| node.field("memory").number()).sum::<u64>() > 0);
    assert!(told.has("nics") && told.has("gpus") && told.has("drives"), "{told:?}");
    let listed = raw.ask(&["SEGMENT", "LIST"]);
    let known: Vec<u64> = nodes.iter().map(|node| node.field("numa-node").number()).collect();
    assert!(listed.items().iter().all(|segment| known.contains(&segment.field("numa-node").number())), "{listed:?}");
    assert!(raw.ask(&["NODE"]).has("boot-id"), "the bare name tells of the node, as ever");
    assert!(raw.ask(&["NODE", "NOSUCH"]).is_error("ERR"));
    // Three threads share each segment, whose length three does not divide.
    tests::server::until("all pages are there", tests::server::patience(std::time::Duration::from_secs(30)), || {
        raw.ask(&["SEGMENT", "LIST"]).items().iter().all(|segment| segment.field("prefaulted").number() == 64 << 20)
    });
}

#[test]
fn what_the_operator_says_of_an_adapter_counts() {
    let server = Server::start(&["--dram", "64MiB", "--segment-len", "64MiB"]);
    let told = Raw::to(&server).ask(&["NODE", "TOPOLOGY"]);
    let Some(nic) = told.field("nics").items().first() else {
        println!("SKIPPED: this machine has no adapter to say anything of");
        return;
    };
    let name = nic.field("name").text().to_owned();
    let server = Server::start(&["--dram", "64MiB", "--segment-len", "64MiB", "--topology", &format!("{name}:0:321")]);
    let told = Raw::to(&server).ask(&["NODE", "TOPOLOGY"]);
    let nic = &told.field("nics").items()[0];
    assert_eq!((nic.field("numa-node").number(), nic.field("gbps").number()), (0, 321), "{nic:?}");
}

#[test]
fn an_adapter_that_is_not_there_is_named_and_nothing_starts() {
    let dir = TempDir::with_prefix("mooncake-test-").expect("a directory");
    let log =
        Server::try_start(Arc::new(dir), &["--topology", "nosuch0:1"], Mark::Ready).expect_err("it does not start");
    assert!(log.contains("nosuch0") && log.contains("topology"), "{log}");
}
