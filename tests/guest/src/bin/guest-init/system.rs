//! Makes a bare kernel a machine: file systems, modules, network, RDMA.

use anyhow::{Context as _, Result, ensure};
use guest::plan::Plan;
use guest::report;
use rustix::mount::{MountFlags, mount, mount_bind};
use rustix::process::{Resource, Rlimit};
use rustix::system::RebootCommand;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Time that a device gets to appear.
const PATIENCE: Duration = Duration::from_secs(20);
/// The interface below RDMA has room for its longest packets.
const MTU: &str = "9000";
/// Name of the RDMA device.
const RDMA_DEVICE: &str = "rxe0";
/// Open files that tests and servers may have.
const FILES_MAX: u64 = 65_536;

/// Kernel file systems, and a directory in memory for everything temporary.
pub(crate) fn mount_all() -> Result<()> {
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("devpts", "/dev/pts"),
        ("tmpfs", "/dev/shm"),
        ("tmpfs", "/run"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("debugfs", "/sys/kernel/debug"),
    ] {
        fs::create_dir_all(at).with_context(|| format!("make {at}"))?;
        mount(kind, at, kind, MountFlags::empty(), None).with_context(|| format!("mount {at}"))?;
    }
    // By programs that look for a standard descriptor in the usual place.
    for (link, target) in [("/dev/fd", "/proc/self/fd"), ("/dev/stdout", "/dev/fd/1"), ("/dev/stderr", "/dev/fd/2")] {
        let _ = std::os::unix::fs::symlink(target, link);
    }
    fs::create_dir_all("/run/tmp").context("make /run/tmp")
}

/// The port to the host.
pub(crate) fn open_port() -> Result<File> {
    let found = wait_for("the port to the host", || {
        fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find_map(|entry| {
            let name = fs::read_to_string(entry.path().join("name")).ok()?;
            (name.trim() == report::PORT).then(|| Path::new("/dev").join(entry.file_name()))
        })
    })?;
    OpenOptions::new().write(true).open(&found).with_context(|| format!("open {}", found.display()))
}

/// Loads modules and sets up the network. Returns what tests find in their environment.
pub(crate) fn set_up(plan: &Plan) -> Result<Vec<(String, String)>> {
    let modules = Path::new("/lib/modules").join(&plan.release);
    fs::create_dir_all(&modules).with_context(|| format!("make {}", modules.display()))?;
    mount_bind(&plan.modules_dir, &modules).context("put the modules in their place")?;
    // By the kernel, which loads what a module asks for by a name.
    if !Path::new("/sbin/modprobe").exists() {
        std::os::unix::fs::symlink("/bin/busybox", "/sbin/modprobe").context("link modprobe")?;
    }
    for module in &plan.modules {
        run(&["/bin/busybox", "modprobe", module])?;
    }
    mount("configfs", "/sys/kernel/config", "configfs", MountFlags::empty(), None).context("mount configfs")?;
    let limit = Rlimit { current: Some(FILES_MAX), maximum: Some(FILES_MAX) };
    rustix::process::setrlimit(Resource::Nofile, limit).context("raise the limit of open files")?;
    rustix::system::sethostname(format!("guest{}", plan.node).as_bytes()).context("name the guest")?;
    let address = format!("10.77.0.{}", plan.node);
    let gid_index = network(plan, &address)?;
    let drives: Vec<PathBuf> = (0..guest::drive::COUNT)
        .map(|number| wait_for("an NVMe drive", || guest::drive::path(number).ok().filter(|path| path.exists())))
        .collect::<Result<_>>()?;
    let mut env: Vec<(String, String)> = [
        ("GUEST_ADDRESS", address),
        ("GUEST_RDMA_DEVICE", RDMA_DEVICE.to_owned()),
        ("GUEST_GID_INDEX", gid_index.to_string()),
        ("TMPDIR", "/run/tmp".to_owned()),
        ("HOME", "/root".to_owned()),
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    env.extend(
        drives.iter().enumerate().map(|(at, path)| (format!("GUEST_NVME{at}"), path.to_string_lossy().into_owned())),
    );
    Ok(env)
}

/// Loopback, the interface below RDMA, and the RDMA device. Returns the index of its GID that is the address.
fn network(plan: &Plan, address: &str) -> Result<usize> {
    run(&["ip", "link", "set", "lo", "up"])?;
    // Loading the module made the dummy.
    let device = if plan.linked { "eth0" } else { "dummy0" };
    wait_for("the network device", || Path::new("/sys/class/net").join(device).exists().then_some(()))?;
    run(&["ip", "link", "set", device, "mtu", MTU, "up"])?;
    run(&["ip", "address", "add", &format!("{address}/24"), "dev", device])?;
    run(&["rdma", "link", "add", RDMA_DEVICE, "type", "rxe", "netdev", device])?;
    let gids = Path::new("/sys/class/infiniband").join(RDMA_DEVICE).join("ports/1/gids");
    let wanted = format!("0000:0000:0000:0000:0000:ffff:0a4d:00{:02x}", plan.node);
    wait_for("the RDMA device's GID", || {
        // The table is long and slow to read; the first entries are those of the addresses.
        (0..8).find(|at: &usize| fs::read_to_string(gids.join(at.to_string())).is_ok_and(|gid| gid.trim() == wanted))
    })
}

/// Ends the guest.
pub(crate) fn power_off() -> ! {
    rustix::fs::sync();
    let _ = rustix::system::reboot(RebootCommand::PowerOff);
    // Without power management the kernel only halts; the host ends it then.
    loop {
        std::thread::park();
    }
}

/// The console shows how far a guest came that hangs or dies.
fn run(words: &[&str]) -> Result<()> {
    eprintln!("guest-init: {}", words.join(" "));
    let output = Command::new(words[0])
        .args(&words[1..])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .with_context(|| format!("start {}", words[0]))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}: {}: {said}", words.join(" "), output.status);
    Ok(())
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        ensure!(start.elapsed() < PATIENCE, "{what} does not appear within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
