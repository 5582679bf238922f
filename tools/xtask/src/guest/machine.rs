//! The guest's machine: QEMU, its devices, its life and its end.
//!
//! Invariants:
//! - The guest ends with its limit, with this process, or before.
//! - Its drives are files of this run and go with it.

use super::{kernel::Kernel, suite};
use anyhow::{Context as _, Result};
use guest::plan::Plan;
use guest::report::{self, Report};
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Bytes of a drive. Only what is written takes room.
const DRIVE_LEN: u64 = 1 << 30;
/// Lines of the console that are shown when a guest dies.
const LAST_WORDS: usize = 30;

/// Who executes the guest's instructions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Speed {
    /// The processor.
    Kvm,
    /// QEMU, one at a time.
    Emulated,
}

impl Speed {
    /// What this machine can do.
    pub(super) fn here() -> Self {
        let usable = File::options().read(true).write(true).open("/dev/kvm").is_ok();
        // Where the host is itself a guest of this kind, ordinary kernels run slower than emulated ones.
        if usable && !Path::new("/sys/module/kvm_pvm").exists() { Self::Kvm } else { Self::Emulated }
    }

    /// How many times longer than on a machine of its own a test may take.
    pub(super) fn factor(self) -> u64 {
        match self {
            Self::Kvm => 1,
            Self::Emulated => 10,
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
            // String instructions and carry-less products are emulated bytewise and bitwise: other code is faster.
            Self::Emulated => {
                &["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,la57=off,erms=off,fsrm=off,pclmulqdq=off"]
            }
        }
    }

    fn kernel_flags(self) -> &'static str {
        match self {
            Self::Kvm => "",
            Self::Emulated => "clearcpuid=rep_good,erms,fsrm tsc=reliable no_timer_check",
        }
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "with KVM",
            Self::Emulated => "emulated",
        })
    }
}

/// What a guest is booted as.
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) cpus: u32,
    pub(super) memory_mib: u32,
    pub(super) speed: Speed,
}

/// A guest that runs.
pub(super) struct Guest {
    qemu: Child,
    dir: TempDir,
    reports: Receiver<Report>,
    until: Instant,
}

impl Machine<'_> {
    /// Starts a guest that follows the plan and may live so long.
    pub(super) fn boot(&self, plan: &Plan, limit: Duration) -> Result<Guest> {
        let parent = suite::program("guests")?;
        fs::create_dir_all(&parent).with_context(|| format!("make {}", parent.display()))?;
        let dir = TempDir::with_prefix_in("run-", &parent).context("make a directory for the guest")?;
        let plan_path = dir.path().join("plan.json");
        fs::write(&plan_path, serde_json::to_string(plan)?).context("write the plan")?;
        let kernel_line = format!(
            "loglevel=6 console=ttyS0 panic=-1 mitigations=off nokaslr audit=0 apparmor=0 random.trust_cpu=on \
             cryptomgr.notests rcupdate.rcu_expedited=1 {} GUEST_INIT={} GUEST_PLAN={}",
            self.speed.kernel_flags(),
            suite::program("guest-init")?.display(),
            plan_path.display()
        );
        // The guest must not outlive this process, whatever ends it.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(["-machine", "pc,usb=off,vmport=off,hpet=off", "-nodefaults", "-no-user-config"])
            .args(["-display", "none", "-no-reboot"])
            .args(self.speed.flags())
            .args(["-m", &self.memory_mib.to_string(), "-smp", &self.cpus.to_string()])
            .arg("-kernel")
            .arg(&self.kernel.vmlinux)
            .arg("-initrd")
            .arg(&self.kernel.initramfs)
            .args(["-append", &kernel_line])
            .args(["-serial", &format!("file:{}", dir.path().join("console").display())])
            .args(["-device", "virtio-serial-pci", "-chardev", "file,id=report,path=/dev/stdout"])
            .args(["-device", &format!("virtserialport,chardev=report,name={}", report::PORT)])
            .args(["-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"]);
        for number in 0..guest::drive::COUNT {
            let path = dir.path().join(format!("drive{number}"));
            File::create(&path)?.set_len(DRIVE_LEN)?;
            let serial = guest::drive::SERIAL;
            qemu.args(["-drive", &format!("file={},if=none,id=d{number},format=raw,cache=unsafe", path.display())])
                .args(["-device", &format!("nvme,drive=d{number},serial={serial}{number},max_ioqpairs=4")]);
        }
        let errors = File::create(dir.path().join("qemu"))?;
        let spawned = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).spawn();
        let mut qemu = spawned.context("start qemu-system-x86_64")?;
        let stdout = BufReader::new(qemu.stdout.take().expect("it is piped"));
        let (tell, reports) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = stdout.lines().map_while(Result::ok);
            for report in lines.filter_map(|line| Report::of(&line)) {
                if tell.send(report).is_err() {
                    return;
                }
            }
        });
        Ok(Guest { qemu, dir, reports, until: Instant::now() + limit })
    }
}

impl Guest {
    /// How long from now.
    pub(super) fn may_live(&mut self, limit: Duration) {
        self.until = Instant::now() + limit;
    }

    /// The next line; `None` if the guest has ended or its time is over.
    pub(super) fn next_report(&mut self) -> Option<Report> {
        self.reports.recv_timeout(self.until.saturating_duration_since(Instant::now())).ok()
    }

    /// What there is to say about its death.
    pub(super) fn last_words(&self) -> String {
        let time = if Instant::now() >= self.until { "the guest's time was over\n" } else { "" };
        let read = |name: &str| fs::read(self.dir.path().join(name)).unwrap_or_default();
        let console = String::from_utf8_lossy(&read("console")).into_owned();
        let lines: Vec<&str> = console.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n");
        format!("{time}{}last of the console:\n{last}", String::from_utf8_lossy(&read("qemu")))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
