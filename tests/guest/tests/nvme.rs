//! The flash log on a raw NVMe namespace.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tests::flash_campaign::ledger::Ledger;
use tests::flash_campaign::load::{Load, Seen};
use tests::flash_campaign::{Found, device, info, look_at_all, start};
use tests::{Raw, Server};

const KEYS: usize = 300;

fn flags(dir: &TempDir, drive: &str) -> Vec<String> {
    let data = dir.path().join("data").display().to_string();
    let flags = ["--dram", "64 MiB", "--nvme", drive, "--data-dir", &data, "--flash-segment-len", "8 MiB"];
    flags.iter().chain(&["--flash-engine", "uring"]).map(|&flag| flag.to_owned()).collect()
}

/// Filled, stopped, and killed under a load: everything that lay on the drive is there, and all of it right.
#[test]
#[ignore = "guest: a raw NVMe drive"]
fn a_log_on_a_raw_drive_outlives_stops_and_kills() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let drive = guest::drive::path(0).expect("a drive");
    std::fs::OpenOptions::new().write(true).open(&drive).expect("opens").write_all(&[0; 1 << 16]).expect("blank");
    let dir = Arc::new(TempDir::with_prefix("mooncake-nvme-").expect("a directory"));
    let flags = flags(&dir, &drive.display().to_string());
    let ledger = Arc::new(Ledger::new("nvme", KEYS));
    let mut server = start(&dir, &flags).expect("starts on a blank drive");
    let kills = if std::env::var_os("GUEST_LONG").is_some() { 50 } else { 2 };
    let (mut seen, mut all) = (Seen::default(), Found::default());
    for kill in 0..=kills {
        ledger.forget_durable();
        let load = Load::start(server.addr(), &ledger, rng.random()).expect("clients connect");
        std::thread::sleep(Duration::from_millis(rng.random_range(1_000..4_000)));
        let before = if kill == 0 {
            seen += load.stop().expect("nothing fails");
            let objects = objects(&server);
            server = stopped(server, &dir, &flags);
            objects
        } else {
            load.announce_the_end();
            server.kill();
            seen += load.stop().expect("nothing wrong before the kill");
            drop(server);
            server = start(&dir, &flags).expect("starts after a kill");
            0
        };
        assert_eq!(device(&mut Raw::to(&server), "engine").expect("told"), "io_uring");
        assert!(objects(&server) >= before, "a stop loses nothing: {before} were there");
        let found = look_at_all(&server, &ledger, None).expect("0 wrong bytes");
        assert_eq!((found.stale, found.durable_lost), (0, 0), "after kill {kill}");
        all += found;
    }
    println!("1 stop and {kills} kills: {} operations before them, {} objects found again", seen.operations, all.there);
    println!("{} bytes proved, {} durable looked for", seen.proved + all.proved, all.durable);
}

fn objects(server: &Server) -> u64 {
    info(&mut Raw::to(server), "flash_objects").expect("told")
}

fn stopped(mut server: Server, dir: &Arc<TempDir>, flags: &[String]) -> Server {
    let mut raw = Raw::to(&server);
    let _ = raw.try_ask(&["SHUTDOWN"]);
    assert!(server.wait().success());
    drop(server);
    start(dir, flags).expect("starts after a stop")
}
