//! What is in order and what is not: pure functions of what was read and of the settings.

use super::facts::Storage;
use super::{Check, Facts, Verdict};
use crate::config::{Config, FlashEngine, HugePages, Place, RdmaDevice};
use protocol::base::ByteLen;
use transport::rdma::{Defect, Surveyed, Usable};
use transport::topology::{Nic, RdmaPort};

/// Descriptors that are not connections: listeners, segments, eventfds, files.
const DESCRIPTORS_SPARE: u64 = 64;
/// 2024-01-01, in Unix time: a clock before it was never set.
const CLOCK_MIN_S: u64 = 1_704_067_200;
/// Clocks that are read without asking the kernel or a device. Others cost a microsecond or more at each look.
const CLOCKS_SLOW: [&str; 5] = ["hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit"];
/// Below this the difference of huge pages is hard to measure.
const HUGE_FROM: ByteLen = ByteLen::gib(4);
/// Length of a reserved huge page.
const HUGE_PAGE: u64 = 2 << 20;
/// What an interface must carry for RDMA packets of 4,096 bytes with their headers.
const ROCE_MTU: u32 = 4_200;
/// File systems that outlive no boot, are not of this machine, or have no `O_DIRECT` worth the name.
const IN_MEMORY: [&str; 3] = ["tmpfs", "ramfs", "hugetlbfs"];
const ELSEWHERE: [&str; 6] = ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"];

fn ok(about: &'static str, what: impl Into<String>) -> Check {
    Check { verdict: Verdict::Ok, about, what: what.into(), remedy: String::new() }
}

fn warn(about: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check { verdict: Verdict::Warn, about, what: what.into(), remedy: remedy.into() }
}

fn fail(about: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check { verdict: Verdict::Fail, about, what: what.into(), remedy: remedy.into() }
}

/// A rule appends what it has to say: nothing where its subject is not there.
type Rule = fn(&Facts, &Config, &mut Vec<Check>);

const RULES: [Rule; 14] = [
    nodes,
    memory,
    huge_pages,
    descriptors,
    clock,
    io_uring,
    places,
    drives,
    fabrics,
    rdma_devices,
    rdma_tried,
    rdma_mtu,
    locked_memory,
    settings,
];

pub(super) fn all(facts: &Facts, config: &Config) -> Vec<Check> {
    let mut checks = Vec::new();
    RULES.iter().for_each(|rule| rule(facts, config, &mut checks));
    checks
}

fn nodes(facts: &Facts, config: &Config, out: &mut Vec<Check>) {
    let topology = &facts.topology;
    let counts = [("NUMA node", topology.nodes.len()), ("NIC", topology.nics.len()), ("GPU", topology.gpus.len())];
    let words: Vec<String> =
        counts.iter().map(|(word, count)| format!("{count} {word}{}", if *count == 1 { "" } else { "s" })).collect();
    let rdma: Vec<&Nic> = topology.nics.iter().filter(|nic| nic.rdma.is_some() && nic.is_up).collect();
    for (name, _) in config.topology.iter().filter(|(name, _)| topology.nic(name).is_none()) {
        out.push(fail(
            "topology",
            format!("`topology` names the adapter {name}, which is not there: the server does not start."),
            "Name one that NODE TOPOLOGY shows, or leave it out.",
        ));
    }
    let homeless = rdma.iter().filter(|nic| nic.slot.numa.is_none()).count();
    if topology.nodes.len() > 1 && homeless > 0 {
        out.push(warn(
            "topology",
            format!("{}; of {homeless} RDMA devices nobody says which node they are on", words.join(", ")),
            "Say it by `topology`, such as mlx5_0:1, so that memory is moved by the nearest device; in a virtual machine let \
             the host pass its nodes on.",
        ));
    } else {
        out.push(ok("topology", words.join(", ")));
    }
}

fn memory(facts: &Facts, config: &Config, out: &mut Vec<Check>) {
    let (Some(available), None) = (facts.memory.available, &config.dram_path) else { return };
    let dram = config.dram_total();
    // What is reserved as huge pages is not among what is available.
    let reserved = facts.memory.huge_free * HUGE_PAGE;
    let what = format!("`dram` of {dram}, and {} to be had", ByteLen(available + reserved));
    out.push(if dram.get() > available + reserved {
        fail("memory", what, "Lower `dram`, or free memory: the kernel kills the server when it cannot back a page.")
    } else if dram.get() > (available + reserved) / 10 * 9 {
        warn("memory", what, "Leave a tenth to the index, to connections and to the page cache: lower `dram`.")
    } else {
        ok("memory", what)
    });
}

fn huge_pages(facts: &Facts, config: &Config, out: &mut Vec<Check>) {
    let dram = config.dram_total();
    let wanted = dram.get().div_ceil(HUGE_PAGE);
    let there = facts.memory.huge_total;
    // A node that runs has what it has, whatever was reserved since.
    let (lacks, what) = match facts.segments {
        Some((ordinary, all)) => (ordinary > 0, format!("{ordinary} of {all} segments have ordinary pages")),
        None => (there < wanted, format!("{there} huge pages of 2 MiB are reserved, {wanted} hold `dram` of {dram}")),
    };
    let remedy =
        format!("Reserve them before the start: sysctl vm.nr_hugepages={wanted}; large copies miss the TLB less.");
    out.push(match config.huge_pages {
        _ if config.dram_path.is_some() => return,
        HugePages::Never => ok("huge-pages", "not asked for (`huge-pages = never`)"),
        HugePages::Always if lacks => fail("huge-pages", what, remedy),
        HugePages::Auto if lacks && dram >= HUGE_FROM => warn("huge-pages", what, remedy),
        HugePages::Always | HugePages::Auto => ok("huge-pages", what),
    });
}

fn descriptors(facts: &Facts, config: &Config, out: &mut Vec<Check>) {
    let wanted = config.maxclients as u64 + DESCRIPTORS_SPARE + config.segment_count() as u64;
    out.push(match facts.descriptors_max {
        Some(max) if max < wanted => warn(
            "descriptors",
            format!("The limit of {max} open files is below the {wanted} that `maxclients` may take."),
            "Raise it (LimitNOFILE, ulimit -n), or lower `maxclients`.",
        ),
        Some(max) => ok("descriptors", format!("{max} open files, {wanted} may be taken")),
        None => ok("descriptors", "no limit of open files"),
    });
}

fn clock(facts: &Facts, _: &Config, out: &mut Vec<Check>) {
    if facts.unix_s < CLOCK_MIN_S {
        out.push(fail(
            "clock",
            format!("The clock says {} s after 1970: it was never set.", facts.unix_s),
            "Set it (chrony, systemd-timesyncd): lives given as a date (EXPIREAT, EXAT) end at the wrong time.",
        ));
    }
    out.push(match facts.clock_source.as_deref() {
        Some(source) if CLOCKS_SLOW.contains(&source) => warn(
            "clock",
            format!("Time is read from {source}, which costs a microsecond or more at each request."),
            "Look into the kernel's log why it gave up its processor's clock; `tsc` or, in a guest, `kvm-clock` are fast.",
        ),
        Some(source) => ok("clock", format!("read from {source}")),
        None => ok("clock", "nobody says what it is read from"),
    });
}

fn io_uring(facts: &Facts, config: &Config, out: &mut Vec<Check>) {
    if config.flash_devices().is_empty() || config.flash_engine == FlashEngine::Syscall {
        return;
    }
    let problem = match &facts.uring {
        Ok(report) if report.lacks.is_empty() => {
            let deferred =
                if report.defers { "" } else { ", without DEFER_TASKRUN (Linux 6.1): completions interrupt" };
            out.push(ok("io-uring", format!("has what the flash engine needs{deferred}")));
            return;
        }
        Ok(report) => format!("io_uring lacks {}", report.lacks.join(", ")),
        Err(error) if facts.uring_disabled => format!("io_uring is turned off (kernel.io_uring_disabled): {error}"),
        Err(error) => format!("io_uring is refused: {error}"),
    };
    let remedy = "Use Linux 6.1 or newer, set kernel.io_uring_disabled=0, let the container's filter pass io_uring_setup, \
                  io_uring_enter and io_uring_register; or set `flash-engine = syscall`, which is slower.";
    out.push(if config.flash_engine == FlashEngine::Uring {
        fail("io-uring", problem, remedy)
    } else {
        warn("io-uring", format!("{problem}: system calls on threads are used"), remedy)
    });
}

fn places(facts: &Facts, _: &Config, out: &mut Vec<Check>) {
    for place in &facts.storage {
        let found = place_problems(place);
        if found.is_empty() {
            let kind = if place.is_device { "a block device".to_owned() } else { format!("on {}", place.file_system) };
            let room = if place.is_device { String::new() } else { format!(", {} free", ByteLen(place.free)) };
            out.push(ok(place.setting, format!("{}: {kind}{room}", place.path.display())));
        }
        out.extend(found);
    }
    // Two files of one file system are one device, at half the speed each.
    for (at, place) in facts.storage.iter().enumerate().filter(|(_, place)| place.setting == "nvme" && !place.is_device)
    {
        let twin = facts.storage[..at].iter().find(|other| {
            other.setting == "nvme" && !other.is_device && other.mount == place.mount && place.mount.is_absolute()
        });
        if let Some(twin) = twin {
            out.push(warn(
                "nvme",
                format!("{} and {} lie on one file system.", twin.path.display(), place.path.display()),
                "Give each flash device a disk of its own, or make one file of both.",
            ));
        }
    }
}

fn place_problems(place: &Storage) -> Vec<Check> {
    let (about, path) = (place.setting, place.path.display());
    let mut found = Vec::new();
    if let Some(at) = &place.mounted_at {
        found.push(fail(
            about,
            format!("{path} is mounted at {at}."),
            "Unmount it if its files are not needed, or name a file on it: a device that is served is written over.",
        ));
    }
    if let Some(error) = &place.denied {
        let whose = if place.is_device {
            "Let the server's user read and write it (group `disk`, a udev rule)."
        } else {
            "Make it, or the directory above it, the server's user's."
        };
        found.push(fail(about, format!("{path} cannot be used: {error}."), whose));
        return found;
    }
    if place.wanted > place.free {
        found.push(fail(
            about,
            format!("{path} takes {} more, its file system has {}.", ByteLen(place.wanted), ByteLen(place.free)),
            "Give it a smaller size (`nvme = PATH:SIZE`), or free space: a file is allocated whole.",
        ));
    }
    let in_memory = IN_MEMORY.contains(&place.file_system.as_str());
    if in_memory {
        found.push(warn(
            about,
            format!("{path} lies on {}, in memory.", place.file_system),
            "It ends with the machine's boot and takes memory that `dram` does not count: name a path on a disk.",
        ));
    }
    if ELSEWHERE.contains(&place.file_system.as_str()) {
        found.push(warn(
            about,
            format!("{path} lies on {}, on another machine.", place.file_system),
            "Use a disk of this machine, or attach the other machine's by NVMe over fabrics (`nvmeof transport=…`).",
        ));
    }
    if about == "nvme" && place.direct == Some(false) && !in_memory {
        found.push(fail(
            about,
            format!("{path} lies on {}, which refuses O_DIRECT.", place.file_system),
            "Put it on ext4, XFS or a block device.",
        ));
    }
    found
}

fn drives(facts: &Facts, _: &Config, out: &mut Vec<Check>) {
    for drive in &facts.topology.drives {
        let name = &drive.name;
        let kind = if drive.transport == "pcie" {
            drive.model.clone()
        } else {
            format!("{} {}", drive.transport, drive.address)
        };
        out.push(match drive.state.as_str() {
            "live" => ok("nvme-drive", format!("{name} ({kind}) is live")),
            state if drive.transport == "pcie" => fail(
                "nvme-drive",
                format!("{name} ({kind}) is {state}."),
                "Look into the kernel's log; a drive that is dead after a reset has to be replaced.",
            ),
            state => warn(
                "nvme-drive",
                format!("{name} ({kind}) is {state}: what lies there is missed."),
                "Look at the target and the network to it. The kernel goes on trying; `nvme disconnect` gives it up.",
            ),
        });
    }
}

fn fabrics(facts: &Facts, config: &Config, out: &mut Vec<Check>) {
    for device in config.flash_devices() {
        let Place::Fabric(target) = &device.place else { continue };
        let kind = target.kind.word();
        let has = facts.fabrics.as_ref().is_some_and(|kinds| kinds.iter().any(|known| known == kind));
        // One that is connected needs nothing any more.
        let is_connected = facts.topology.drives.iter().any(|drive| {
            drive.transport == kind
                && drive.address.contains(&format!("traddr={}", target.traddr))
                && drive.state == "live"
        });
        out.push(if is_connected {
            ok("nvme-of", format!("{target}: connected"))
        } else if !has {
            fail(
                "nvme-of",
                format!("{target}: this kernel has no initiator for {kind} at hand."),
                format!("Load it: modprobe nvme-{kind}."),
            )
        } else if !facts.may_administer {
            fail(
                "nvme-of",
                format!("{target}: connecting takes CAP_SYS_ADMIN, which this user has not."),
                "Run the server with it, or connect by `nvme connect` and name the block device in `nvme`.",
            )
        } else {
            ok("nvme-of", format!("{target}: the initiator for {kind} is there"))
        });
    }
}

/// Whether a device is one that would be used.
fn is_asked(config: &Config, name: &str) -> bool {
    match &config.rdma {
        RdmaDevice::Off => false,
        RdmaDevice::Auto => true,
        RdmaDevice::Named(wanted) => wanted == name,
    }
}

/// Whether peers find it: by an address that routers forward, or of InfiniBand.
fn has_address(nic: &Nic) -> bool {
    let is_one =
        |port: &RdmaPort| port.gids.iter().any(|gid| port.link_layer == "InfiniBand" || gid.kind.contains("v2"));
    nic.rdma.as_ref().is_some_and(is_one)
}

fn rdma_devices(facts: &Facts, config: &Config, out: &mut Vec<Check>) {
    let names = facts.rdma_names();
    match &config.rdma {
        RdmaDevice::Off => return out.push(ok("rdma", "turned off (`rdma = off`)")),
        RdmaDevice::Auto if names.is_empty() => {
            let missing = "none in this machine: clients use shared memory and TCP";
            return out.push(ok("rdma", missing));
        }
        RdmaDevice::Named(wanted) if !names.contains(&wanted.as_str()) => {
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return out.push(fail(
                "rdma",
                format!("There is no RDMA device {wanted}; there are: {there}."),
                "Name one that is there (`ibv_devinfo`), load its driver (`modprobe mlx5_ib`), or set `rdma = auto`.",
            ));
        }
        RdmaDevice::Auto | RdmaDevice::Named(_) => {}
    }
    let asked = facts.topology.nics.iter().filter(|nic| nic.rdma.is_some() && is_asked(config, &nic.name));
    let some_works = asked.clone().any(|nic| nic.is_up && has_address(nic));
    for nic in asked {
        let Some(port) = &nic.rdma else { continue };
        let Nic { name, gbps, .. } = nic;
        let problem = if !port.is_active {
            let link =
                nic.interface.as_ref().map_or_else(|| "the port".to_owned(), |link| format!("ip link set {link} up"));
            Some((
                format!("{name}: its port is {}.", port.state),
                format!("Bring it up ({link}), and look at cable and switch."),
            ))
        } else if !nic.is_up {
            let link = nic.interface.clone().unwrap_or_default();
            Some((format!("{name}: its interface {link} is down."), format!("Bring it up: ip link set {link} up.")))
        } else if !has_address(nic) {
            let link = nic.interface.clone().unwrap_or_else(|| "its interface".to_owned());
            Some((
                format!("{name}: it has no address of RoCE v2."),
                format!("Give {link} an IP address; addresses of RoCE v1 cross no router."),
            ))
        } else {
            None
        };
        out.push(match problem {
            None => ok("rdma", format!("{name}: {}, {gbps} Gbit/s, {} addresses", port.link_layer, port.gids.len())),
            // One that is spare and down hurts nobody.
            Some((what, remedy)) if some_works => warn("rdma", what, remedy),
            Some((what, remedy)) => fail("rdma", what, remedy),
        });
    }
}

/// What came of using the devices.
fn rdma_tried(facts: &Facts, config: &Config, out: &mut Vec<Check>) {
    if config.rdma == RdmaDevice::Off || facts.rdma_names().is_empty() {
        return;
    }
    let surveyed = match &facts.rdma {
        None => return,
        Some(Err(missing)) => {
            return out.push(fail(
                "rdma-library",
                format!("There are RDMA devices, but {missing}."),
                "Install rdma-core (Debian: libibverbs1 and ibverbs-providers), and let the server's user open /dev/infiniband.",
            ));
        }
        Some(Ok(surveyed)) => surveyed,
    };
    for Surveyed { name, found } in surveyed.iter().filter(|it| is_asked(config, &it.name)) {
        match found {
            Err(error) => out.push(warn(
                "rdma-use",
                format!("{name} cannot be used ({error})."),
                "Look at the rights of /dev/infiniband/uverbs*, at the driver's provider (ibverbs-providers) and at `ibv_devinfo`.",
            )),
            Ok(usable) => {
                let Usable { gid, mtu, limits, .. } = usable;
                let address = gid.ip().map_or_else(|| "a GID that is no IP address".to_owned(), |ip| ip.to_string());
                out.push(ok(
                    "rdma-use",
                    format!(
                        "{name}: GID {} ({address}), packets of {mtu} bytes, {} memory regions, {} queue pairs",
                        gid.index, limits.regions_max, limits.queue_pairs_max
                    ),
                ));
                out.push(windows(name, &usable.windows));
            }
        }
    }
}

fn windows(name: &str, tried: &Result<Vec<Defect>, String>) -> Check {
    let remedy =
        "Nothing has to be done: the server moves all bytes itself. Firmware and drivers that are newer may keep them.";
    match tried {
        Ok(defects) if defects.is_empty() => {
            ok("rdma-windows", format!("{name}: its memory windows keep what they promise"))
        }
        Ok(defects) => {
            let words: Vec<String> = defects.iter().map(Defect::to_string).collect();
            warn("rdma-windows", format!("{name}: its memory windows cannot be lent: {}.", words.join("; ")), remedy)
        }
        Err(why) => {
            warn("rdma-windows", format!("{name}: it has no memory windows that could be lent: {why}."), remedy)
        }
    }
}

fn rdma_mtu(facts: &Facts, config: &Config, out: &mut Vec<Check>) {
    for nic in facts.topology.nics.iter().filter(|nic| is_asked(config, &nic.name) && nic.is_up) {
        let (Some(port), Some(mtu)) = (&nic.rdma, nic.mtu) else { continue };
        if port.link_layer == "Ethernet" && mtu < ROCE_MTU {
            let link = nic.interface.as_deref().unwrap_or_default();
            out.push(warn(
                "rdma-mtu",
                format!("{}: its interface {link} has an MTU of {mtu}, so that packets of RDMA carry less than 4,096 bytes.", nic.name),
                format!("Raise it here and on the switch: ip link set {link} mtu 9000."),
            ));
        }
    }
}

fn locked_memory(facts: &Facts, config: &Config, out: &mut Vec<Check>) {
    let wanted = config.dram_total();
    if config.rdma == RdmaDevice::Off || facts.rdma_names().is_empty() {
        return;
    }
    out.push(match facts.locked_max {
        Some(max) if max < wanted.get() && !facts.may_lock => fail(
            "locked-memory",
            format!("This user may lock {}; RDMA locks the whole of `dram`, {wanted}.", ByteLen(max)),
            "Raise the limit: LimitMEMLOCK=infinity in a systemd unit, `ulimit -l unlimited`, or memlock in \
             /etc/security/limits.conf.",
        ),
        Some(_) | None => ok("locked-memory", format!("`dram` of {wanted} may be locked for RDMA")),
    });
}

/// Settings that are valid, each for itself and together, and still not what anybody wants.
fn settings(facts: &Facts, config: &Config, out: &mut Vec<Check>) {
    let before = out.len();
    let mut add = |what: &str, remedy: &str| out.push(warn("settings", what, remedy));
    let is_open = !config.listen.ip().is_loopback();
    if is_open && config.requirepass.is_empty() && !config.protected_mode {
        add(
            "Anybody who reaches `listen` can read and write everything.",
            "Set `requirepass`, or `protected-mode = yes`.",
        );
    }
    if is_open && config.tls_listen.is_some() {
        add(
            "RESP is open to other machines in plain text, beside TLS.",
            "Put `listen` on 127.0.0.1 if all clients are to be encrypted.",
        );
    }
    if config.tls_listen.is_some() && !matches!(config.rdma, RdmaDevice::Off) && !facts.rdma_names().is_empty() {
        add(
            "Clients over TLS get no RDMA: it is not encrypted.",
            "Set `rdma = off`, or let them attach over `listen`.",
        );
    }
    let flash: u64 = config.flash_devices().iter().filter_map(|device| device.size).map(ByteLen::get).sum();
    if flash > 0 && flash < config.dram_total().get() {
        let what = format!(
            "Flash of {} is shorter than `dram` of {}: little that leaves DRAM stays.",
            ByteLen(flash),
            config.dram_total()
        );
        add(&what, "Give it several times `dram`, or do without (`nvme = none`).");
    }
    let longest = config.flash_segment_size(Some(ByteLen(flash.max(1)))).get() / 2;
    if flash > 0 && longest < config.object_len_max.get() && config.flash_segment_len.get() != 0 {
        let what = format!(
            "Objects above {} never spill: `flash-segment-len` is {}.",
            ByteLen(longest),
            config.flash_segment_len
        );
        add(&what, "Raise `flash-segment-len`, or lower `object-len-max` if none are so long.");
    }
    if config.watermark_high_percent.0 == 100 && !config.flash_devices().is_empty() {
        add(
            "`watermark-high-percent` of 100 spills only when a writer finds no room, which then waits.",
            "Leave it at 95, so that room is made before it is needed.",
        );
    }
    if config.segment_count() > transport::shm::fds::FDS_PER_MESSAGE_MAX - 8 {
        add("There are too many segments to pass to shared-memory clients.", "Raise `segment-len`.");
    }
    if out.len() == before {
        out.push(ok("settings", "nothing contradicts itself"));
    }
}
