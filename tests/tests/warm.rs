//! Memory that outlives the server (`dram-path`): what a planned restart finds again, and what nothing else may.

use rustix::fs::{IFlags, Mode, OFlags, ioctl_getflags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use std::fs::{self, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;
use tests::sandbox::without_capability;
use tests::server::Mark;
use tests::{DramDir, Raw, Server, Value, payload};

/// Lengths of objects, from the least that proves itself to several pages.
const LENS: [usize; 7] = [16, 100, 900, 5_000, 70_001, 300_000, (1 << 20) + 17];
const COUNT: usize = 140;

fn key(number: usize) -> String {
    format!("block:{number}")
}

fn bytes(number: usize, version: u64) -> Vec<u8> {
    payload::make(key(number).as_bytes(), version, LENS[number % LENS.len()])
}

fn start(dir: &DramDir, more: &[&str]) -> Server {
    Server::start(&[&["--dram", "128 MiB", "--dram-path", dir.flag()], more].concat())
}

fn fill(raw: &mut Raw, version: u64) {
    for number in 0..COUNT {
        raw.set(key(number), bytes(number, version));
    }
}

/// How many objects are there, each proved.
fn found(raw: &mut Raw, version: u64) -> usize {
    (0..COUNT)
        .filter(|&number| match raw.ask(&["GET", &key(number)]) {
            Value::Nil => false,
            Value::Bulk(found) => {
                assert!(found == bytes(number, version), "{} is not what was written", key(number));
                true
            }
            other => panic!("{}: {other:?}", key(number)),
        })
        .count()
}

/// Seconds that an object still lives, as `TTL` says it.
fn ttl(raw: &mut Raw, number: usize) -> i64 {
    match raw.ask(&["TTL", &key(number)]) {
        Value::Int(seconds) => seconds,
        other => panic!("{}: {other:?}", key(number)),
    }
}

fn info(raw: &mut Raw, name: &str) -> String {
    let text = raw.ask(&["INFO", "all"]);
    let line = text.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name} in {}", text.text())).to_owned()
}

fn number(raw: &mut Raw, name: &str) -> u64 {
    info(raw, name).parse().expect("a number")
}

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Term,
    Shutdown,
    NoSave,
    Kill,
}

fn end(server: &mut Server, how: End) {
    match how {
        End::Term => {
            let pid = rustix::process::Pid::from_raw(i32::try_from(server.pid()).expect("a pid")).expect("a pid");
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        }
        End::Shutdown => Raw::to(server).request(&["SHUTDOWN"]).expect("sent"),
        End::NoSave => Raw::to(server).request(&["SHUTDOWN", "NOSAVE"]).expect("sent"),
        End::Kill => return server.kill(),
    }
    assert!(server.wait().success(), "{}", server.log());
}

/// Everything is there again, with its generation, its life, its pins: without flash, and through several restarts.
#[test]
fn a_planned_restart_finds_everything_in_memory() {
    let Some(dir) = DramDir::new() else { return };
    let mut server = start(&dir, &[]);
    let mut raw = Raw::to(&server);
    fill(&mut raw, 1);
    for number in (0..COUNT).step_by(5) {
        raw.set(key(number), bytes(number, 1));
        assert_eq!(raw.ask(&["EXPIRE", &key(number), "5000"]).number(), 1);
        assert_eq!(raw.ask(&["PIN", &key(number + 1)]).number(), 1);
        assert_eq!(raw.ask(&["PIN", &key(number + 1), "TTL", "600000"]).number(), 2);
        assert_eq!(raw.ask(&["DEL", &key(number + 2)]).number(), 1);
    }
    let of = |raw: &mut Raw, number: usize| {
        let stat = raw.ask(&["STAT", &key(number)]);
        let field = |name: &str| stat.field(name).number();
        (stat != Value::Nil)
            .then(|| (field("generation"), field("pins"), field("hits"), stat.field("crc").text().to_owned()))
    };
    assert_eq!(found(&mut raw, 1), COUNT - COUNT / 5);
    let before: Vec<_> = (0..COUNT).map(|number| of(&mut raw, number)).collect();
    for how in [End::Term, End::Shutdown, End::Term] {
        end(&mut server, how);
        server = server.restart();
        let mut raw = Raw::to(&server);
        let after: Vec<_> = (0..COUNT).map(|number| of(&mut raw, number)).collect();
        assert_eq!(after, before, "{how:?}");
        assert_eq!(info(&mut raw, "memory_taken_over"), "1");
        assert_eq!(number(&mut raw, "memory_taken_over_objects"), (COUNT - COUNT / 5) as u64);
        assert_eq!(number(&mut raw, "memory_taken_over_damaged"), 0);
        for number in 0..COUNT {
            let ttl = ttl(&mut raw, number);
            match number % 5 {
                0 => assert!((4_000..=5_000).contains(&ttl), "{how:?}: {} lives for {ttl} s", key(number)),
                2 => assert_eq!(ttl, -2, "{how:?}: {} is back from the dead", key(number)),
                _ => assert_eq!(ttl, -1, "{how:?}: {}", key(number)),
            }
        }
    }
    let mut raw = Raw::to(&server);
    assert_eq!(found(&mut raw, 1), COUNT - COUNT / 5);
    // A new object is newer than all of them, and they can be replaced and deleted.
    fill(&mut raw, 2);
    let newest = before.iter().flatten().map(|stat| stat.0).max().expect("many");
    assert!((0..COUNT).all(|number| of(&mut raw, number).expect("just written").0 > newest));
    assert_eq!(raw.ask(&["FLUSHALL"]).text(), "OK");
    end(&mut server, End::Term);
    let server = server.restart();
    assert_eq!(Raw::to(&server).ask(&["DBSIZE"]).number(), 0);
}

/// A life that ended while no server ran is over, and one that was set by the clock on the wall ends then.
#[test]
fn a_life_goes_on_while_no_server_runs() {
    let Some(dir) = DramDir::new() else { return };
    let mut server = start(&dir, &[]);
    let mut raw = Raw::to(&server);
    raw.set("short", "x");
    raw.set("long", "x");
    assert_eq!(raw.ask(&["PEXPIRE", "short", "1"]).number(), 1);
    assert_eq!(raw.ask(&["EXPIREAT", "long", "4102444800"]).number(), 1);
    end(&mut server, End::Term);
    let server = server.restart();
    let mut raw = Raw::to(&server);
    assert_eq!(raw.ask(&["GET", "short"]), Value::Nil);
    let end = raw.ask(&["EXPIRETIME", "long"]).number();
    assert!((4_102_444_798..=4_102_444_802).contains(&end), "{end}");
}

/// What no planned stop left is not believed, and the server says so.
#[test]
fn after_a_kill_or_an_unsaved_stop_memory_is_empty() {
    for how in [End::Kill, End::NoSave] {
        let Some(dir) = DramDir::new() else { return };
        let mut server = start(&dir, &[]);
        fill(&mut Raw::to(&server), 1);
        // One that came from a planned restart is no better.
        end(&mut server, End::Term);
        server = server.restart();
        let mut raw = Raw::to(&server);
        assert_eq!(found(&mut raw, 1), COUNT);
        raw.set("x", "y");
        end(&mut server, how);
        assert!(!dir.manifest().exists(), "{how:?}");
        let mut server = server.restart();
        let mut raw = Raw::to(&server);
        assert_eq!(raw.ask(&["DBSIZE"]).number(), 0, "{how:?}");
        assert_eq!(info(&mut raw, "memory_taken_over"), "0");
        assert!(info(&mut raw, "memory_taken_over_why_not").contains("no planned stop"), "{how:?}");
        // And the next planned one is as good as ever.
        fill(&mut raw, 2);
        end(&mut server, End::Term);
        let server = server.restart();
        assert_eq!(found(&mut Raw::to(&server), 2), COUNT, "{how:?}");
    }
}

/// Another configuration begins with nothing, and says which setting it was.
#[test]
fn another_configuration_begins_with_nothing() {
    for (more, why) in [
        (["--dram", "192 MiB"], "number of segments was 2 and is 3"),
        (["--dram", "64 MiB"], "number of segments was 2 and is 1"),
        (["--segment-len", "128 MiB"], "was 2 and is 1"),
        (["--shards", "1"], "shards was"),
    ] {
        let Some(dir) = DramDir::new() else { return };
        let mut server = Server::start(&["--dram-path", dir.flag(), "--dram", "128 MiB"]);
        fill(&mut Raw::to(&server), 1);
        end(&mut server, End::Term);
        let shared = server.shared_dir();
        drop(server);
        let mut args = vec!["--dram-path", dir.flag()];
        args.extend(more);
        if more[0] != "--dram" {
            args.extend(["--dram", "128 MiB"]);
        }
        let server = Server::try_start(shared, &args, Mark::Ready).expect("it serves");
        let mut raw = Raw::to(&server);
        assert_eq!(raw.ask(&["DBSIZE"]).number(), 0, "{more:?}");
        let told = info(&mut raw, "memory_taken_over_why_not");
        assert!(told.contains(why), "{more:?}: {told}");
        fill(&mut raw, 2);
        assert_eq!(
            dir.segments().iter().map(|path| fs::metadata(path).expect("there").len()).sum::<u64>() % (64 << 20),
            0
        );
    }
}

/// Less memory for objects than lies there: the rest is evicted, nothing breaks.
#[test]
fn a_lower_limit_evicts_what_is_too_much() {
    let Some(dir) = DramDir::new() else { return };
    let mut server = start(&dir, &[]);
    fill(&mut Raw::to(&server), 1);
    end(&mut server, End::Term);
    let server = server.restart_with(&["--maxmemory", "16 MiB"]);
    let mut raw = Raw::to(&server);
    assert_eq!(number(&mut raw, "memory_taken_over_objects"), COUNT as u64);
    tests::server::until("it fits", std::time::Duration::from_secs(20), || {
        number(&mut raw, "used_memory_dataset") <= 16 << 20 || raw.ask(&["DBSIZE"]).number() < COUNT as u64
    });
    assert!(found(&mut raw, 1) < COUNT);
    raw.set("another", vec![1; 1 << 20]);
}

/// One directory, one server: the second is refused and the first serves on.
#[test]
fn a_second_server_is_refused() {
    let Some(dir) = DramDir::new() else { return };
    let server = start(&dir, &[]);
    fill(&mut Raw::to(&server), 1);
    let other = Arc::new(TempDir::with_prefix("mooncake-test-").expect("a directory"));
    let log = Server::try_start(other, &["--dram", "128 MiB", "--dram-path", dir.flag()], Mark::Listening)
        .expect_err("two on one directory");
    assert!(log.contains("in use by another server"), "{log}");
    assert_eq!(found(&mut Raw::to(&server), 1), COUNT);
}

/// A start that fails for another reason takes nothing away.
#[test]
fn a_start_that_fails_leaves_memory_as_it_is() {
    let Some(dir) = DramDir::new() else { return };
    let mut server = start(&dir, &[]);
    fill(&mut Raw::to(&server), 1);
    end(&mut server, End::Term);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("an address").to_string();
    let args = ["--dram", "128 MiB", "--dram-path", dir.flag(), "--listen", &addr];
    let log = Server::try_start(server.shared_dir(), &args, Mark::Listening).expect_err("the port is taken");
    assert!(log.contains(&addr), "{log}");
    let server = server.restart();
    assert_eq!(found(&mut Raw::to(&server), 1), COUNT);
}

/// Directories that others could write to, or that lie on a disk, are refused with a sentence.
#[test]
fn unsafe_directories_are_refused() {
    let Some(dir) = DramDir::new() else { return };
    let refused = |path: &str, why: &str| {
        let own = Arc::new(TempDir::with_prefix("mooncake-test-").expect("a directory"));
        let args = ["--dram", "64 MiB", "--dram-path", path];
        let log = Server::try_start(own, &args, Mark::Listening).expect_err("refused");
        assert!(log.contains(why), "{path}: {log}");
    };
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    refused(dir.flag(), "chmod 700");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).expect("ours");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("/dev/shm", &link).expect("a link");
    refused(link.to_str().expect("plain"), "open the directory");
    if rustix::process::geteuid().is_root() {
        let foreign = dir.path().join("foreign");
        fs::create_dir(&foreign).expect("made");
        fs::set_permissions(&foreign, fs::Permissions::from_mode(0o700)).expect("ours");
        std::os::unix::fs::chown(&foreign, Some(12_345), None).expect("root may");
        refused(foreign.to_str().expect("plain"), "belongs to user 12345");
    }
    let disk = TempDir::with_prefix_in("mooncake-test-", env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    fs::set_permissions(disk.path(), fs::Permissions::from_mode(0o700)).expect("ours");
    refused(disk.path().to_str().expect("plain"), "neither a tmpfs nor a hugetlbfs");
    let log = Server::try_start(
        Arc::new(TempDir::with_prefix("mooncake-test-").expect("a directory")),
        &["--dram-path", dir.flag(), "--shm-write", "arena"],
        Mark::Listening,
    )
    .expect_err("refused");
    assert!(log.contains("arena"), "{log}");
}

/// A file system that is too small is told at the start, never by a fatal signal later, and is left as empty as it was.
#[test]
fn a_file_system_that_is_too_small_is_told_at_the_start() {
    let Some(dir) = DramDir::new() else { return };
    let small = dir.path().join("small");
    fs::create_dir(&small).expect("made");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=100m,mode=700", "tmpfs"]).arg(&small).output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        let _: Option<()> = tests::peer::skipped("a tmpfs cannot be mounted here");
        return;
    }
    let own = Arc::new(TempDir::with_prefix("mooncake-test-").expect("a directory"));
    let path = small.to_str().expect("plain");
    let refused =
        Server::try_start(Arc::clone(&own), &["--dram", "128 MiB", "--dram-path", path], Mark::Listening).err();
    let left = fs::read_dir(&small).expect("ours").count();
    // The manifest does not fit beside a segment of 64 MiB and this; the stop says so, the next start begins with nothing.
    let mut server =
        Server::try_start(own, &["--dram", "64 MiB", "--dram-path", path], Mark::Ready).expect("there is room for one");
    fs::write(small.join("filler"), vec![1; 36 << 20]).err();
    fill(&mut Raw::to(&server), 1);
    end(&mut server, End::Term);
    let log = server.log();
    let server = server.restart();
    let count = Raw::to(&server).ask(&["DBSIZE"]).number();
    drop(server);
    let unmounted = Command::new("umount").arg("-l").arg(&small).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    let refused = refused.expect("128 MiB do not fit into 100");
    assert!(refused.contains("allocate 64 MiB") && refused.contains("No space left"), "{refused}");
    assert_eq!(left, 0, "files are left behind");
    assert!(log.contains("memory cannot be left"), "{log}");
    assert_eq!(count, 0);
}

/// Whatever a stray process wrote into the files meanwhile: an object is right or gone.
#[test]
fn damage_between_the_lives_is_found() {
    let Some(dir) = DramDir::new() else { return };
    let mut server = start(&dir, &[]);
    fill(&mut Raw::to(&server), 1);
    end(&mut server, End::Term);
    // Every 64 KiB a byte, where there is anything.
    let mut flipped = 0;
    for path in dir.segments() {
        let file = OpenOptions::new().read(true).write(true).open(path).expect("nobody has it");
        for at in (4_000..file.metadata().expect("there").len()).step_by(65_536) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).expect("there");
            if byte[0] != 0 {
                file.write_all_at(&[byte[0] ^ 1], at).expect("ours");
                flipped += 1;
            }
        }
    }
    assert!(flipped > 50, "{flipped}");
    let mut server = server.restart();
    let mut raw = Raw::to(&server);
    let damaged = number(&mut raw, "memory_taken_over_damaged");
    assert!(damaged > 20, "{damaged} of {flipped}");
    assert_eq!(found(&mut raw, 1) as u64, COUNT as u64 - damaged);
    let diagnosed = raw.ask(&["DIAGNOSE"]);
    assert!(diagnosed.field("findings").items().iter().any(|found| found.field("about").text() == "memory-left"));
    // A manifest that was cut short, or changed.
    for spoil in [|bytes: &mut Vec<u8>| bytes.truncate(5_000), |bytes: &mut Vec<u8>| bytes[3_000] ^= 4] {
        fill(&mut raw, 2);
        end(&mut server, End::Term);
        let mut bytes = fs::read(dir.manifest()).expect("left");
        spoil(&mut bytes);
        fs::write(dir.manifest(), bytes).expect("ours");
        server = server.restart();
        raw = Raw::to(&server);
        assert_eq!(raw.ask(&["DBSIZE"]).number(), 0);
        assert!(info(&mut raw, "memory_taken_over_why_not").contains("damaged"));
    }
}

/// Files that others can open, of another length or with holes are not mapped.
#[test]
fn files_that_are_not_as_they_were_are_not_used() {
    type Spoil = fn(&std::path::Path);
    let spoils: [(&str, Spoil); 4] = [
        ("others may open", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("ours")),
        ("bytes instead of", |path| {
            OpenOptions::new().write(true).open(path).expect("ours").set_len(4096).expect("cut")
        }),
        ("has holes", |path| {
            let file = OpenOptions::new().write(true).open(path).expect("ours");
            file.set_len(0).and_then(|()| file.set_len(64 << 20)).expect("cut and longer again");
        }),
        ("names", |path| fs::hard_link(path, path.with_file_name("other")).expect("linked")),
    ];
    for (why, spoil) in spoils {
        let Some(dir) = DramDir::new() else { return };
        let mut server = start(&dir, &[]);
        fill(&mut Raw::to(&server), 1);
        end(&mut server, End::Term);
        spoil(&dir.segments()[1]);
        let server = server.restart();
        let mut raw = Raw::to(&server);
        assert_eq!(raw.ask(&["DBSIZE"]).number(), 0, "{why}");
        let told = info(&mut raw, "memory_taken_over_why_not");
        assert!(told.contains(why), "{told}");
        fill(&mut raw, 2);
        assert_eq!(found(&mut raw, 2), COUNT);
    }
}

/// Clients of shared memory can read the files and nothing else, even as the server's own user; where that cannot be
/// promised they are refused. A client of before the restart that holds on to a file delays others until it is gone.
#[test]
fn clients_of_shared_memory_cannot_write() {
    let Some(dir) = DramDir::new() else { return };
    let mut server = start(&dir, &[]);
    fill(&mut Raw::to(&server), 1);
    let probe = fs::File::open(&dir.segments()[0]).expect("ours");
    let immutable = ioctl_getflags(&probe).is_ok_and(|flags| flags.contains(IFlags::IMMUTABLE));
    drop(probe);
    let mut raw = Raw::unix(&server.socket()).expect("connected");
    let reply = tests::shm::RawShm::try_attach(&mut raw, &["ATTACH", "SHM", "BUFFERS", "0"], &[]).expect("answered");
    if !immutable {
        assert!(reply.is_error("NOTRANSPORT"), "{reply:?}");
        let _: Option<()> = tests::peer::skipped("files cannot be made immutable here");
        return;
    }
    let held = std::mem::take(&mut raw.fds);
    assert!(held.len() > 2, "{reply:?}");
    for fd in &held[..2] {
        let again = format!("/proc/self/fd/{}", fd.as_raw_fd());
        assert_eq!(rustix::fs::open(&again, OFlags::RDWR, Mode::empty()).err(), Some(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(fd, 0).err(), Some(Errno::INVAL), "it is open for reading");
        assert_eq!(rustix::fs::fchmod(fd, Mode::from_raw_mode(0o777)).err(), Some(Errno::PERM));
        assert!(transport_refuses(fd), "mapped writable");
    }
    assert!(OpenOptions::new().write(true).open(&dir.segments()[0]).is_err());
    end(&mut server, End::Term);
    let server = server.restart();
    assert_eq!(found(&mut Raw::to(&server), 1), COUNT);
    let mut raw = Raw::unix(&server.socket()).expect("connected");
    let ask =
        |raw: &mut Raw| tests::shm::RawShm::try_attach(raw, &["ATTACH", "SHM", "BUFFERS", "0"], &[]).expect("answered");
    let reply = ask(&mut raw);
    assert!(reply.is_error("NOTRANSPORT"), "{reply:?}");
    drop(held);
    let reply = ask(&mut raw);
    assert!(!reply.is_error("NOTRANSPORT"), "{reply:?}");
}

/// A server that may not make files immutable, as in most containers, lends nothing from them, and its memory outlives it all
/// the same. Files that another one left immutable are named, with what to do.
#[test]
fn without_the_capability_memory_outlives_the_server_and_is_not_lent() {
    let Some(dir) = DramDir::new() else { return };
    without_capability(CapabilitySet::LINUX_IMMUTABLE, || {
        let mut server = start(&dir, &[]);
        fill(&mut Raw::to(&server), 1);
        let mut raw = Raw::unix(&server.socket()).expect("connected");
        let reply =
            tests::shm::RawShm::try_attach(&mut raw, &["ATTACH", "SHM", "BUFFERS", "0"], &[]).expect("answered");
        assert!(reply.is_error("NOTRANSPORT"), "{reply:?}");
        assert!(server.log().contains("shared memory is refused to clients"), "{}", server.log());
        end(&mut server, End::Term);
        let mut server = server.restart();
        assert_eq!(found(&mut Raw::to(&server), 1), COUNT);
        end(&mut server, End::Term);
    });
    let Some(dir) = DramDir::new() else { return };
    let mut server = start(&dir, &[]);
    let probe = fs::File::open(&dir.segments()[0]).expect("ours");
    let immutable = ioctl_getflags(&probe).is_ok_and(|flags| flags.contains(IFlags::IMMUTABLE));
    drop(probe);
    if !immutable {
        let _: Option<()> = tests::peer::skipped("files cannot be made immutable here");
        return;
    }
    end(&mut server, End::Kill);
    let args: Vec<&str> = server.args().iter().map(String::as_str).collect();
    let shared = server.shared_dir();
    let refused =
        without_capability(CapabilitySet::LINUX_IMMUTABLE, || Server::try_start(shared, &args, Mark::Listening));
    let log = refused.expect_err("it cannot use these files");
    assert!(log.contains("is immutable") && log.contains("chattr -i"), "{log}");
}

fn transport_refuses(fd: &rustix::fd::OwnedFd) -> bool {
    transport::shm::map_read_only(fd, 4096, transport::shm::Populate::Lazy).is_ok()
        && transport::shm::map_writable(fd, 4096, transport::shm::Populate::Lazy).is_err()
}

/// With a flash tier: what lies on both is clean again, and a server that served the tier without this memory in between
/// makes it worthless.
#[test]
fn memory_and_flash_come_back_together() {
    let Some(dir) = DramDir::new() else { return };
    let flags = ["--dram", "128 MiB", "--dram-path", dir.flag()];
    let mut server = Server::start_with_flash("256 MiB", &flags);
    let mut raw = Raw::to(&server);
    fill(&mut raw, 1);
    assert_eq!(raw.ask(&["PIN", &key(3)]).number(), 1);
    assert_eq!(raw.ask(&["EXPIRE", &key(4), "5000"]).number(), 1);
    end(&mut server, End::Term);
    let mut server = server.restart();
    let mut raw = Raw::to(&server);
    assert_eq!(number(&mut raw, "memory_taken_over_objects"), COUNT as u64);
    let clean = number(&mut raw, "memory_taken_over_clean");
    assert!(clean > COUNT as u64 / 2, "{clean} of {COUNT} were saved at the stop");
    assert_eq!(raw.ask(&["STAT", &key(3)]).field("pins").number(), 1);
    assert!((4_000..=5_000).contains(&ttl(&mut raw, 4)));
    assert_eq!(found(&mut raw, 1), COUNT);
    assert_eq!(raw.ask(&["DBSIZE"]).number(), COUNT as u64);
    end(&mut server, End::Term);

    // The tier alone, for a while: deletions and replacements that this memory does not know of.
    let (shared, args) = (server.shared_dir(), server.args().to_vec());
    drop(server);
    let alone: Vec<&str> =
        args.iter().map(String::as_str).filter(|&arg| arg != "--dram-path" && arg != dir.flag()).collect();
    let mut server = Server::try_start(Arc::clone(&shared), &alone, Mark::Ready).expect("it serves");
    let mut raw = Raw::to(&server);
    for number in 0..COUNT {
        match number % 2 {
            0 => assert_eq!(raw.ask(&["DEL", &key(number)]).number(), 1, "{}", key(number)),
            _ => raw.set(key(number), bytes(number, 2)),
        }
    }
    end(&mut server, End::Kill);
    drop(server);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let server = Server::try_start(shared, &args, Mark::Ready).expect("it serves");
    let mut raw = Raw::to(&server);
    assert!(info(&mut raw, "memory_taken_over_why_not").contains("has served since"));
    for number in 0..COUNT {
        match raw.ask(&["GET", &key(number)]) {
            Value::Nil => {}
            Value::Bulk(found) => assert!(number % 2 == 1 && found == bytes(number, 2), "{} is stale", key(number)),
            other => panic!("{other:?}"),
        }
    }
}
