//! The guest is what tests in it rely on.

use std::process::Command;

/// Each promises what other tests build on, so that a guest that lacks it is found out by name.
#[test]
#[ignore = "guest: its devices"]
fn the_guest_has_its_drives_and_its_rdma_device() {
    for number in 0..guest::drive::COUNT {
        let path = guest::drive::path(number).expect("a drive");
        assert_eq!(std::env::var(format!("GUEST_NVME{number}")).expect("told"), path.display().to_string());
    }
    let device = std::env::var("GUEST_RDMA_DEVICE").expect("told");
    let shown = Command::new("ibv_devinfo").args(["-d", &device]).output().expect("ibv_devinfo runs");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("PORT_ACTIVE"), "{shown}");
}
