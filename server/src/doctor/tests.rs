//! What the doctor finds on machines that are made up: one in order, and one thing at a time that is not.

use super::facts::Storage;
use super::*;
use crate::config::{Machine, setting};
use protocol::base::ByteLen;
use std::fs;
use std::os::unix::fs::symlink;
use storage::flash::engine::UringReport;
use transport::rdma::{Defect, Gid, Limits, Surveyed, Usable};
use transport::topology::{Drive, GidEntry, Nic, NumaNode, RdmaPort, Slot, Topology};

fn with(pairs: &[(&str, &str)]) -> Config {
    let mut config = Config::default_on(Machine { memory: ByteLen::gib(24), cores: 2 });
    // Not as long as this machine's own disk has room for.
    for (name, value) in [("nvme", "/data/mooncake/flash.0:64GiB")].iter().chain(pairs) {
        let info = setting(name).unwrap_or_else(|| panic!("no setting {name}"));
        info.set(&mut config, value).unwrap_or_else(|()| panic!("{name} = {value} is refused"));
    }
    config
}

fn place(setting: &'static str, path: &str) -> Storage {
    Storage {
        setting,
        path: path.into(),
        file_system: "ext4".to_owned(),
        mount: "/data".into(),
        free: 1 << 40,
        wanted: 1 << 30,
        direct: Some(true),
        ..Storage::default()
    }
}

fn usable() -> Usable {
    let limits = Limits {
        queue_depth_max: 16_384,
        completions_max: 1 << 22,
        queue_pairs_max: 1 << 17,
        regions_max: 1 << 24,
        region_len_max: u64::MAX,
        windows_max: 1 << 24,
        has_windows_2b: true,
        reads_in_max: 16,
        reads_out_max: 16,
    };
    // `::ffff:10.0.0.1` by RoCE v2.
    let raw = u128::from_be_bytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]).to_be_bytes();
    Usable { gid: Gid { raw, index: 3, kind: 2 }, mtu: 4096, is_active: true, limits, windows: Ok(Vec::new()) }
}

fn nic() -> Nic {
    let gid =
        GidEntry { index: 3, gid: "0000:0000:0000:0000:0000:ffff:0a00:0001".to_owned(), kind: "RoCE v2".to_owned() };
    Nic {
        name: "mlx5_0".to_owned(),
        interface: Some("eth0".to_owned()),
        mtu: Some(9000),
        slot: Slot { numa: Some(0), ..Slot::default() },
        gbps: 100,
        is_up: true,
        rdma: Some(RdmaPort {
            is_active: true,
            state: "ACTIVE".to_owned(),
            link_layer: "Ethernet".to_owned(),
            gids: vec![gid],
        }),
    }
}

fn drive(state: &str, transport: &str) -> Drive {
    let [name, model] = ["nvme0", "A drive"].map(str::to_owned);
    Drive {
        name,
        transport: transport.to_owned(),
        state: state.to_owned(),
        model,
        address: "traddr=10.0.0.7,trsvcid=4420".to_owned(),
        slot: Slot::default(),
    }
}

fn healthy() -> Facts {
    let node = |id| NumaNode { id, cpus: vec![0], memory: 64 << 30, distances: vec![(0, 10), (1, 21)] };
    Facts {
        topology: Topology {
            nodes: vec![node(0), node(1)],
            nics: vec![nic()],
            gpus: Vec::new(),
            drives: vec![drive("live", "pcie")],
        },
        memory: facts::Memory { available: Some(20 << 30), huge_free: 4096, huge_total: 4096 },
        segments: None,
        descriptors_max: Some(1 << 20),
        locked_max: Some(1 << 40),
        may_lock: false,
        may_administer: true,
        clock_source: Some("tsc".to_owned()),
        unix_s: 1_800_000_000,
        uring: Ok(UringReport { defers: true, lacks: Vec::new() }),
        uring_disabled: false,
        storage: vec![place("data-dir", "/data/mooncake"), place("nvme", "/data/mooncake/flash.0")],
        fabrics: Some(vec!["tcp".to_owned()]),
        rdma: Some(Ok(vec![Surveyed { name: "mlx5_0".to_owned(), found: Ok(usable()) }])),
    }
}

/// What is not in order, as `about` and verdict.
fn troubles(facts: &Facts, config: &Config) -> Vec<(&'static str, Verdict)> {
    let checks = examine(facts, config);
    assert!(checks.iter().all(|check| check.remedy.is_empty() == (check.verdict == Verdict::Ok)), "{checks:?}");
    checks.iter().filter(|check| check.verdict != Verdict::Ok).map(|check| (check.about, check.verdict)).collect()
}

#[test]
fn a_machine_in_order_has_no_troubles_and_each_area_is_told() {
    let checks = examine(&healthy(), &with(&[]));
    assert!(checks.iter().all(|check| check.verdict == Verdict::Ok), "{checks:#?}");
    for about in [
        "topology",
        "memory",
        "huge-pages",
        "descriptors",
        "clock",
        "io-uring",
        "data-dir",
        "nvme",
        "nvme-drive",
        "rdma",
        "rdma-use",
        "rdma-windows",
        "locked-memory",
        "settings",
    ] {
        assert!(checks.iter().any(|check| check.about == about), "nothing about {about}: {checks:#?}");
    }
    let gid = checks.iter().find(|check| check.about == "rdma-use").expect("told");
    assert!(gid.what.contains("GID 3 (10.0.0.1), packets of 4096 bytes"), "{}", gid.what);
}

#[test]
fn each_fault_of_the_machine_is_found_by_name() {
    let check = |about: &'static str, verdict, config: &[(&str, &str)], change: &dyn Fn(&mut Facts)| {
        let mut facts = healthy();
        change(&mut facts);
        assert_eq!(troubles(&facts, &with(config)), [(about, verdict)], "{config:?}");
    };
    let (warn, fail) = (Verdict::Warn, Verdict::Fail);
    check("topology", warn, &[], &|f| f.topology.nics[0].slot.numa = None);
    check("memory", fail, &[], &|f| (f.memory.available, f.memory.huge_free) = (Some(4 << 30), 0));
    check("memory", warn, &[], &|f| (f.memory.available, f.memory.huge_free) = (Some(6 << 30), 100));
    check("huge-pages", warn, &[], &|f| f.memory.huge_total = 0);
    check("huge-pages", fail, &[("huge-pages", "always"), ("dram", "1GiB"), ("nvme", "none")], &|f| {
        f.memory.huge_total = 511
    });
    check("huge-pages", warn, &[], &|f| f.segments = Some((1, 6)));
    check("descriptors", warn, &[], &|f| f.descriptors_max = Some(1024));
    check("clock", warn, &[], &|f| f.clock_source = Some("hpet".to_owned()));
    check("clock", fail, &[], &|f| f.unix_s = 1000);
    check("io-uring", warn, &[], &|f| f.uring = Err("denied".to_owned()));
    check("io-uring", fail, &[("flash-engine", "uring")], &|f| f.uring = Err("denied".to_owned()));
    check("io-uring", warn, &[], &|f| f.uring = Ok(UringReport { defers: false, lacks: vec!["READ_FIXED"] }));
    check("nvme", fail, &[], &|f| f.storage[1].wanted = 1 << 41);
    check("nvme", fail, &[], &|f| f.storage[1].direct = Some(false));
    check("nvme", warn, &[], &|f| f.storage[1].file_system = "nfs4".to_owned());
    check("nvme", fail, &[], &|f| {
        f.storage[1].mounted_at = Some("/home".to_owned());
        f.storage[1].is_device = true;
    });
    check("nvme", warn, &[], &|f| f.storage.push(place("nvme", "/data/other")));
    check("data-dir", warn, &[], &|f| f.storage[0].file_system = "tmpfs".to_owned());
    check("data-dir", fail, &[], &|f| f.storage[0].denied = Some("EACCES".to_owned()));
    check("nvme-drive", fail, &[], &|f| f.topology.drives[0].state = "dead".to_owned());
    check("nvme-drive", warn, &[], &|f| f.topology.drives[0] = drive("connecting", "tcp"));
    check("rdma-library", fail, &[], &|f| f.rdma = Some(Err("libibverbs.so.1 is not installed".to_owned())));
    check("rdma-use", warn, &[], &|f| {
        f.rdma = Some(Ok(vec![Surveyed { name: "mlx5_0".to_owned(), found: Err("EACCES".to_owned()) }]));
    });
    check("rdma-windows", warn, &[], &|f| {
        let found = Ok(Usable { windows: Ok(vec![Defect::Bounds]), ..usable() });
        f.rdma = Some(Ok(vec![Surveyed { name: "mlx5_0".to_owned(), found }]));
    });
    check("rdma-mtu", warn, &[], &|f| f.topology.nics[0].mtu = Some(1500));
    check("locked-memory", fail, &[], &|f| f.locked_max = Some(8 << 20));
    check("rdma", fail, &[], &|f| {
        f.topology.nics[0].is_up = false;
        f.topology.nics[0].rdma.as_mut().expect("it is one").is_active = false;
    });
    check("rdma", fail, &[("rdma", "mlx5_9")], &|_| {});
    check("rdma", fail, &[], &|f| f.topology.nics[0].rdma.as_mut().expect("it is one").gids.clear());
}

#[test]
fn a_fault_that_does_not_matter_is_none() {
    let mut facts = healthy();
    facts.locked_max = Some(8 << 20);
    facts.may_lock = true;
    assert_eq!(troubles(&facts, &with(&[])), [], "this user may lock what it likes");
    facts.may_lock = false;
    facts.rdma = None;
    assert_eq!(troubles(&facts, &with(&[("rdma", "off")])), [], "no RDMA, nothing to lock");
    facts.uring = Err("denied".to_owned());
    assert_eq!(troubles(&facts, &with(&[("rdma", "off"), ("flash-engine", "syscall")])), []);
    // A second device that is down is spare.
    let mut spare = nic();
    spare.name = "mlx5_1".to_owned();
    spare.is_up = false;
    spare.rdma.as_mut().expect("it is one").is_active = false;
    let mut facts = healthy();
    facts.topology.nics.push(spare);
    assert_eq!(troubles(&facts, &with(&[])), [("rdma", Verdict::Warn)]);
}

#[test]
fn devices_on_other_machines_need_the_initiator_and_the_right_to_connect() {
    let config = with(&[("nvme", "nvmeof transport=tcp traddr=10.0.0.7 nqn=nqn.2024-01.org.example:kv")]);
    let mut facts = healthy();
    assert_eq!(troubles(&facts, &config), []);
    facts.may_administer = false;
    assert_eq!(troubles(&facts, &config), [("nvme-of", Verdict::Fail)]);
    facts.topology.drives.push(drive("live", "tcp"));
    assert_eq!(troubles(&facts, &config), [], "it is connected");
    facts.topology.drives.pop();
    facts.fabrics = Some(Vec::new());
    assert_eq!(troubles(&facts, &config), [("nvme-of", Verdict::Fail)]);
}

#[test]
fn settings_that_contradict_each_other_are_told() {
    let mut facts = healthy();
    facts.topology.nics.clear();
    facts.rdma = Some(Ok(Vec::new()));
    for config in [
        &[("listen", "0.0.0.0:6379"), ("protected-mode", "no")][..],
        &[("nvme", "/data/flash:2GiB")],
        &[("nvme", "/data/flash:100GiB"), ("flash-segment-len", "64MiB")],
        &[("watermark-high-percent", "100")],
    ] {
        assert_eq!(troubles(&facts, &with(config)), [("settings", Verdict::Warn)], "{config:?}");
    }
}

#[test]
fn a_machine_is_read_below_its_root() {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        fs::write(path, text).expect("written");
    };
    write("proc/meminfo", "MemTotal:       100 kB\nMemAvailable:    70 kB\n");
    write("proc/self/status", "Name:\tx\nCapEff:\t0000000000204000\n");
    write("proc/self/mountinfo", "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:5 / /tmp rw shared:1 - tmpfs tmpfs rw\n");
    write("proc/sys/kernel/io_uring_disabled", "2\n");
    write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "5\n");
    write("sys/devices/system/clocksource/clocksource0/current_clocksource", "kvm-clock\n");
    write("sys/module/nvme_tcp/version", "1\n");
    write("dev/nvme-fabrics", "");
    symlink("nowhere", dir.path().join("sys/broken")).expect("made");
    let config = with(&[("data-dir", "/tmp/nothing/here")]);
    let facts = Facts::gather(dir.path(), &config, Depth::Offline);
    assert_eq!((facts.memory.available, facts.memory.huge_total), (Some(70 << 10), 5));
    assert!(facts.may_lock && facts.may_administer && facts.uring_disabled);
    assert_eq!(facts.clock_source.as_deref(), Some("kvm-clock"));
    assert_eq!(facts.fabrics, Some(vec!["tcp".to_owned()]));
    let found = &facts.storage[0];
    assert_eq!((found.setting, found.file_system.as_str()), ("data-dir", "tmpfs"));
    assert!(found.free > 0 && found.denied.is_none(), "{found:?}");
    assert!(!Path::new("/tmp/nothing").exists(), "looking makes nothing");
    assert_eq!(Facts::gather(dir.path(), &config, Depth::Running).memory.available, None);
}

#[test]
fn a_table_and_json_say_the_same() {
    let mut facts = healthy();
    facts.clock_source = Some("hpet".to_owned());
    let checks = examine(&facts, &with(&[]));
    let table = print::table(&checks);
    assert!(table.contains("warn  clock") && table.ends_with("1 to look at, 0 that fail\n"), "{table}");
    let json: serde_json::Value = serde_json::from_str(&print::json(&checks)).expect("JSON");
    assert_eq!((json["warn"].as_u64(), json["fail"].as_u64()), (Some(1), Some(0)));
    let clock =
        json["checks"].as_array().expect("a list").iter().find(|check| check["about"] == "clock").expect("told");
    assert!(clock["what_to_do"].as_str().is_some_and(|text| table.contains(text)));
}
