//! Memory that outlives the server, in huge pages that were reserved.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;
use tests::server::Mark;
use tests::{Raw, Server, Value, payload};

const RESERVED: &str = "/proc/sys/vm/nr_hugepages";
/// 64 MiB of DRAM, and some for the manifest.
const PAGES: u32 = 36;
const COUNT: usize = 40;

/// A hugetlbfs, gone with the value and its pages with it.
struct HugeDir(PathBuf);

impl HugeDir {
    fn mount(at: &Path, pages: u32) -> Self {
        fs::write(RESERVED, pages.to_string()).expect("root reserves pages");
        let reserved = fs::read_to_string(RESERVED).expect("it can be read");
        assert_eq!(reserved.trim(), pages.to_string(), "a guest that has just booted has them in one piece");
        fs::create_dir(at).expect("made");
        let options = "pagesize=2M,mode=700";
        let mounted = Command::new("mount").args(["-t", "hugetlbfs", "-o", options, "none"]).arg(at).status();
        assert!(mounted.is_ok_and(|status| status.success()), "a hugetlbfs is mounted");
        Self(at.to_owned())
    }
}

impl Drop for HugeDir {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = fs::write(RESERVED, "0");
    }
}

fn key(number: usize) -> String {
    format!("block:{number}")
}

fn value(number: usize) -> Vec<u8> {
    payload::make(key(number).as_bytes(), 1, 1_000 + number * 30_000)
}

/// A planned restart finds every object, and what is mapped are huge pages. Where too few are reserved the start is refused, and
/// takes none of them.
#[test]
#[ignore = "guest: huge pages, reserved"]
fn memory_in_huge_pages_outlives_a_planned_restart() {
    let dir = Arc::new(TempDir::with_prefix("mooncake-huge-").expect("a directory"));
    let huge = HugeDir::mount(&dir.path().join("huge"), PAGES);
    fs::set_permissions(&huge.0, fs::Permissions::from_mode(0o700)).expect("ours");
    let path = huge.0.display().to_string();
    let flags = |dram| ["--dram", dram, "--dram-path", &path, "--nvme", "none"].map(str::to_owned);
    let start = |dram| {
        let flags = flags(dram);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        Server::try_start(Arc::clone(&dir), &flags, Mark::Ready)
    };
    let refused = start("128 MiB").expect_err("there are pages for half of it");
    assert!(refused.contains("make its file system larger"), "{refused}");
    let mut server = start("64 MiB").expect("it serves");
    let mut raw = Raw::to(&server);
    for number in 0..COUNT {
        raw.set(key(number), value(number));
    }
    let segments = raw.ask(&["SEGMENT", "LIST"]);
    assert!(segments.items().iter().all(|segment| segment.field("pages").text() == "huge"), "{segments:?}");
    raw.request(&["SHUTDOWN"]).expect("sent");
    assert!(server.wait().success(), "{}", server.log());
    let server = start("64 MiB").expect("it serves again");
    assert!(server.log().contains("taken over"), "{}", server.log());
    let mut raw = Raw::to(&server);
    for number in 0..COUNT {
        assert!(
            raw.ask(&["GET", &key(number)]) == Value::Bulk(value(number)),
            "{} is not what was written",
            key(number)
        );
    }
}
