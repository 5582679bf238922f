//! Power cuts at every flush: device mapper logs what a workload makes durable, and each prefix of that log is a disk to open.

use client::{Choice, Client, Options, PutOptions};
use guest::call;
use guest::log_writes::{Event, Log};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tests::flash_campaign::{flags, start};
use tests::server::patience;
use tests::{Raw, Server, Value, payload};

/// Length of the disk.
const SECTORS: u64 = 256 << 11;
const FLASH: &str = "160 MiB";
/// `DURABLE` writes, over so many keys that each is replaced.
const WRITES: usize = 24;
const KEYS: usize = 9;

/// A mapped device. Gone when dropped.
struct Mapping(&'static str);

impl Mapping {
    fn new(name: &'static str, table: &str) -> Self {
        call(&["dmsetup", "create", name, "--noudevsync", "--table", &format!("0 {SECTORS} {table}")]).expect("mapped");
        call(&["dmsetup", "mknodes"]).expect("nodes");
        Self(name)
    }

    fn path(&self) -> PathBuf {
        Path::new("/dev/mapper").join(self.0)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let _ = call(&["dmsetup", "remove", "--noudevsync", "--retry", self.0]);
    }
}

/// A mounted file system. Unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(device: &Path, dir: &TempDir) -> Self {
        let at = dir.path().join("disk");
        std::fs::create_dir_all(&at).expect("made");
        call(&["mount", "-t", "ext4", &device.display().to_string(), &at.display().to_string()]).expect("mounts");
        Self(at)
    }

    fn server(&self, dir: &Arc<TempDir>) -> Server {
        let plan = tests::flash_campaign::Plan { runs: 0, seed: 0, server: Vec::new() };
        start(dir, &flags(&plan, &self.0.join("flash.0"), FLASH, &self.0.join("data"))).expect("starts")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let at = self.0.display().to_string();
        // A ring of a process that was killed lets go of its files some time later.
        for _ in 0..100 {
            if call(&["umount", &at]).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = call(&["umount", "-l", &at]);
    }
}

fn key(number: usize) -> Vec<u8> {
    format!("cut:{}", number % KEYS).into_bytes()
}

fn version(number: usize) -> u64 {
    (number / KEYS) as u64 + 1
}

/// Writes, and marks the log after each acknowledgement.
fn work(server: &Server, logged: &Mapping) {
    let mut options = Options::new(server.addr().to_string().parse().expect("an address")).via(Choice::Tcp);
    options.deadline = patience(Duration::from_secs(30));
    let mut client = Client::connect(options).expect("connects");
    let durable = PutOptions { durable: true, replace: true, ..PutOptions::default() };
    for number in 0..WRITES {
        let value = payload::make(&key(number), version(number), 40_000 + 97_000 * (number % 5));
        client.put(&key(number), &value, &durable).expect("acknowledged");
        call(&["dmsetup", "message", logged.0, "0", "mark", &(number + 1).to_string()]).expect("marked");
    }
}

/// Opens what a cut left and looks for all that was acknowledged before it.
fn check(device: &Path, acknowledged: usize) -> u64 {
    let dir = Arc::new(TempDir::with_prefix("mooncake-cut-").expect("a directory"));
    let mount = Mount::new(device, &dir);
    let mut server = mount.server(&dir);
    let mut raw = Raw::to(&server);
    let mut proved = 0;
    for number in 0..KEYS {
        let last = (0..acknowledged).rev().find(|write| write % KEYS == number);
        let floor = last.map_or(0, version);
        match raw.ask(&[&b"GET"[..], &key(number)]) {
            Value::Bulk(bytes) => {
                let found = payload::check(&key(number), &bytes).expect("0 wrong bytes");
                assert!(found >= floor, "after {acknowledged} writes key {number} has version {found}, not {floor}");
                proved += bytes.len() as u64;
            }
            other => assert!(floor == 0, "after {acknowledged} writes key {number} is lost: {other:?}"),
        }
    }
    server.kill();
    proved
}

#[test]
#[ignore = "guest: device mapper"]
fn what_was_acknowledged_as_durable_is_there_after_a_cut_at_any_flush() {
    let [data, log, copy] = [0, 1, 2].map(|number| guest::drive::path(number).expect("a drive"));
    let log_path = log.display().to_string();
    call(&["blkdiscard", "-f", &log_path]).expect("the log is blank");
    let logged = Mapping::new("logged", &format!("log-writes {} {log_path}", data.display()));
    let device = logged.path();
    call(&["mkfs.ext4", "-q", "-F", "-E", "nodiscard", &device.display().to_string()]).expect("formatted");
    {
        let dir = Arc::new(TempDir::with_prefix("mooncake-cut-").expect("a directory"));
        let mount = Mount::new(&device, &dir);
        let mut server = mount.server(&dir);
        // From here on a cut finds a server that has begun.
        call(&["dmsetup", "message", logged.0, "0", "mark", "0"]).expect("marked");
        work(&server, &logged);
        server.kill();
    }
    drop(logged);

    // What a check writes goes to memory: the copy stays what the log made it.
    call(&["modprobe", "brd", "rd_nr=1", "rd_size=131072"]).expect("a disk in memory");
    let copied = File::options().read(true).write(true).open(&copy).expect("the copy opens");
    let every = if std::env::var_os("GUEST_LONG").is_some() { 1 } else { 12 };
    let mut log = Log::open(File::open(&log).expect("the log opens")).expect("a log");
    let (mut acknowledged, mut flushes, mut checks, mut proved) = (None, 0, 0, 0);
    while let Some(event) = log.replay_next(&copied).expect("replayed") {
        match event {
            Event::Written => {}
            Event::Mark(text) => acknowledged = text.parse().ok().or(acknowledged),
            Event::Flushed => {
                let Some(acknowledged) = acknowledged else { continue };
                flushes += 1;
                if flushes % every != 0 {
                    continue;
                }
                copied.sync_all().expect("the copy is whole");
                std::fs::write("/dev/ram0", [0; 4096]).expect("an empty snapshot");
                let snapshot = Mapping::new("cut", &format!("snapshot {} /dev/ram0 N 8", copy.display()));
                proved += check(&snapshot.path(), acknowledged);
                checks += 1;
            }
        }
    }
    assert_eq!(acknowledged, Some(WRITES), "the log tells of all");
    assert!(checks > 0, "no cut was looked at");
    println!("{flushes} flushes of {WRITES} durable writes, {checks} of them cut: it opened after each");
    println!("{proved} bytes proved, 0 wrong, nothing acknowledged before a cut was lost");
}
