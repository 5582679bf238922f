//! Clients on RDMA that are killed or stopped in the middle: memory comes back, and nobody reads a wrong byte.
//!
//! `MOONCAKE_RUNS` says how many; the same at length is `fault-campaign --transport rdma` inside a guest.

use std::path::PathBuf;
use std::time::Duration;
use tests::campaign::{Fault, Plan, Way, run};

#[test]
#[ignore = "guest: its RDMA device"]
fn victims_on_rdma_harm_nobody() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seed = number("MOONCAKE_SEED").unwrap_or_else(rand::random);
    let runs = number("MOONCAKE_RUNS").map_or(12, |runs| usize::try_from(runs).expect("few"));
    let plan = Plan {
        program: PathBuf::from(env!("CARGO_BIN_EXE_fault-campaign")),
        runs,
        seed,
        way: Way::Rdma,
        fault: Fault::Both,
        at_once: 6,
        grant: Duration::from_millis(1000),
        lease: Duration::from_millis(1500),
        progress: Duration::from_millis(5000),
        server: ["--rdma", "auto"].map(str::to_owned).into(),
    };
    let summary = run(&plan, |_| {}).unwrap_or_else(|error| panic!("MOONCAKE_SEED={seed}: {error:#}"));
    println!("seed {seed}: {summary}");
    assert_eq!(summary.killed + summary.stopped, runs);
}
