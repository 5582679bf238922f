//! Debian's kernel for the guest: fetched once, unpacked once, kept in a cache.
//!
//! Invariants:
//! - What is in the cache under its final name is whole: it is made beside it and renamed.
//! - A change of what is made from the package has another name.

use super::{cache_dir, strict};
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The meta-package that depends on the newest kernel.
const META_PACKAGE: &str = "linux-image-amd64";
/// A package file at hand, instead of a download.
const ENV_DEB: &str = "MOONCAKE_GUEST_KERNEL_DEB";
/// What the initramfs needs to find the host's files and to talk.
const EARLY: &[&str] = &["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];
/// The guest's first program.
const INIT: &str = include_str!("../../../../tests/guest/init.sh");

/// What a guest boots from.
pub(super) struct Kernel {
    /// Its release, as `uname -r` says it.
    pub release: String,
    /// The kernel, not compressed.
    pub vmlinux: PathBuf,
    /// The first file system.
    pub initramfs: PathBuf,
    /// The directory below which modules lie.
    pub modules: PathBuf,
}

/// The kernel with these modules, from the cache or into it.
pub(super) fn prepare(modules: &[&str], strict: bool) -> Result<Kernel> {
    let cache = cache_dir()?;
    fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
    let lock = File::create(cache.join("lock")).context("make the cache's lock")?;
    lock.lock().context("lock the cache")?;
    let mut hasher = DefaultHasher::new();
    (modules, EARLY, INIT, std::env::var_os(ENV_DEB)).hash(&mut hasher);
    if strict {
        strict::CHECK.hash(&mut hasher);
    }
    let dir = cache.join(format!("kernel-{:016x}", hasher.finish()));
    if !dir.is_dir() {
        let fresh = tempfile::TempDir::with_prefix_in("new-", &cache).context("make a directory in the cache")?;
        make(&package(&cache)?, modules, strict, fresh.path())?;
        fs::rename(fresh.keep(), &dir).context("put what was made in its place")?;
    }
    let release = fs::read_to_string(dir.join("release")).context("read the kernel's release")?;
    let modules = dir.join("root/lib/modules").join(&release);
    Ok(Kernel { vmlinux: dir.join("vmlinux"), initramfs: dir.join("initramfs"), modules, release })
}

/// The package file, downloaded if it is not in the cache.
fn package(cache: &Path) -> Result<PathBuf> {
    if let Some(given) = std::env::var_os(ENV_DEB) {
        return Ok(PathBuf::from(given));
    }
    let in_cache = || -> Option<PathBuf> {
        let files = fs::read_dir(cache).ok()?.flatten().map(|entry| entry.path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).max()
    };
    if let Some(found) = in_cache() {
        return Ok(found);
    }
    for update in [false, true] {
        if update {
            // Without a list of packages, or with an old one.
            let _ = Command::new("apt-get").args(["-qq", "update"]).status();
        }
        let Some(name) = newest()? else { continue };
        println!("guest: fetching {name} (once)");
        let fetch = Command::new("apt-get")
            .args(["-qq", "-o", "APT::Sandbox::User=", "download", &name])
            .current_dir(cache)
            .status()
            .context("run apt-get")?;
        if fetch.success() {
            return in_cache().context("apt-get fetched no package");
        }
    }
    bail!("the kernel package cannot be fetched; name a file with {ENV_DEB}")
}

/// The kernel's package that the meta-package names.
fn newest() -> Result<Option<String>> {
    let output = Command::new("apt-cache").args(["depends", META_PACKAGE]).output().context("run apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(names.map(str::to_owned).find(|name| name.starts_with("linux-image-")))
}

fn make(package: &Path, modules: &[&str], strict: bool, dir: &Path) -> Result<()> {
    println!("guest: unpacking {} (once)", package.display());
    let whole = dir.join("whole");
    run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&whole))?;
    let lib = ["lib/modules", "usr/lib/modules"].map(|below| whole.join(below)).into_iter().find(|path| path.is_dir());
    let lib = lib.context("the package has no modules")?;
    let release = only_entry(&lib)?;
    let image = fs::read(whole.join("boot").join(format!("vmlinuz-{release}"))).context("read the kernel")?;
    fs::write(dir.join("vmlinux"), decompressed(&image)?).context("write the kernel")?;
    // `depmod -b` looks below `lib/modules` of what it is given.
    let kept = dir.join("root/lib/modules").join(&release);
    fs::create_dir_all(&kept)?;
    let base = lib.parent().and_then(Path::parent).context("modules lie below lib")?;
    run(Command::new("/bin/busybox").arg("depmod").arg("-b").arg(base).arg(&release))?;
    let needs = Needs::read(&lib.join(&release).join("modules.dep"))?;
    for file in needs.closure(modules.iter().chain(EARLY).copied())? {
        copy_module(&lib.join(&release).join(&file), &kept.join(&file))?;
    }
    if strict {
        let scratch = tempfile::TempDir::with_prefix_in("build-", dir).context("make a directory to build in")?;
        let built = strict::build(package, &release, scratch.path())?;
        let place = needs.by_name.get("rdma_rxe").context("the kernel has Soft-RoCE")?.0.trim_end_matches(".xz");
        fs::copy(built, kept.join(place)).context("put the module in its place")?;
    }
    for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        // Not in each package.
        let _ = fs::copy(lib.join(&release).join(list), kept.join(list));
    }
    run(Command::new("/bin/busybox").arg("depmod").arg("-b").arg(dir.join("root")).arg(&release))?;
    let needs = Needs::read(&kept.join("modules.dep"))?;
    initramfs(&kept, &needs.closure(EARLY.iter().copied())?, dir)?;
    fs::write(dir.join("release"), &release)?;
    fs::remove_dir_all(&whole).context("remove what was unpacked")
}

/// The kernel proper from a compressed image, by the header of the x86 boot protocol (2.08 and later).
fn decompressed(image: &[u8]) -> Result<Vec<u8>> {
    let number = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).context("the image is too short")?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize)
    };
    ensure!(image.get(0x202..0x206) == Some(b"HdrS"), "the image has no boot header");
    let setup_sectors = usize::from(image[0x1f1]);
    let start = (setup_sectors + 1) * 512 + number(0x248)?;
    // The last four bytes are the length that it has decompressed.
    let payload = image.get(start..start + number(0x24c)?).context("the image is cut off")?;
    let (program, args): (&str, &[&str]) = match payload {
        [0xfd, b'7', b'z', b'X', ..] => ("xz", &["-dc", "--single-stream"]),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("zstd", &["-dc"]),
        [0x1f, 0x8b, ..] => ("gzip", &["-dc"]),
        _ => bail!("the image is compressed in a way that is not known here"),
    };
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let mut stdin = child.stdin.take().expect("it is piped");
    let payload = payload.to_vec();
    // The decompressor may hang up before the length at the end.
    let feeder = std::thread::spawn(move || drop(stdin.write_all(&payload)));
    let output = child.wait_with_output().context("read the kernel")?;
    let _ = feeder.join();
    ensure!(output.stdout.starts_with(b"\x7fELF"), "{program} makes no kernel of the image");
    Ok(output.stdout)
}

/// Which modules each module needs.
struct Needs {
    /// A module's file and those of what it needs, by the module's name.
    by_name: BTreeMap<String, (String, Vec<String>)>,
}

impl Needs {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let by_name = lines.map(|(file, needs)| {
            let needs = needs.split_whitespace().map(str::to_owned).collect();
            (name_of(file), (file.to_owned(), needs))
        });
        Ok(Self { by_name: by_name.collect() })
    }

    /// The files of modules and of all they need, what is needed first.
    fn closure<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<Vec<String>> {
        let (mut files, mut seen) = (Vec::new(), BTreeSet::new());
        for name in names {
            ensure!(self.by_name.contains_key(name), "the kernel has no module {name}");
            self.take(name, &mut seen, &mut files);
        }
        Ok(files)
    }

    fn take(&self, name: &str, seen: &mut BTreeSet<String>, files: &mut Vec<String>) {
        if let Some((file, needs)) = self.by_name.get(name)
            && seen.insert(name.to_owned())
        {
            needs.iter().for_each(|needed| self.take(&name_of(needed), seen, files));
            files.push(file.clone());
        }
    }
}

/// A module's name from its file: `kernel/fs/9p/9p.ko.xz` is `9p`.
fn name_of(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name).replace('-', "_")
}

/// Copies a module; one that is compressed is not any more, nor in its name.
fn copy_module(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a module lies in a directory")?)?;
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    if to.extension().is_some_and(|extension| extension == "xz") {
        run(Command::new("xz").arg("-d").arg(to))?;
    }
    Ok(())
}

fn initramfs(modules: &Path, early: &[String], dir: &Path) -> Result<()> {
    let tree = dir.join("initramfs.d");
    fs::create_dir_all(tree.join("bin"))?;
    fs::create_dir_all(tree.join("modules"))?;
    fs::copy("/bin/busybox", tree.join("bin/busybox")).context("copy busybox")?;
    fs::write(tree.join("init"), INIT)?;
    run(Command::new("chmod").arg("755").arg(tree.join("init")))?;
    let mut names = [".", "bin", "bin/busybox", "init", "modules", "modules/order"].join("\n");
    let mut order = String::new();
    for file in early {
        let name = Path::new(file).file_name().context("a module has a name")?.to_string_lossy().into_owned();
        fs::copy(modules.join(file), tree.join("modules").join(&name))?;
        order.push_str(&format!("{name}\n"));
        names.push_str(&format!("\nmodules/{name}"));
    }
    fs::write(tree.join("modules/order"), order)?;
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--owner=0:0", "--quiet"])
        .current_dir(&tree)
        .stdin(Stdio::piped())
        .stdout(File::create(dir.join("initramfs"))?)
        .spawn()
        .context("start cpio")?;
    cpio.stdin.take().expect("it is piped").write_all(names.as_bytes())?;
    ensure!(cpio.wait()?.success(), "cpio fails");
    fs::remove_dir_all(&tree).context("remove the tree of the initramfs")
}

fn only_entry(dir: &Path) -> Result<String> {
    let mut entries = fs::read_dir(dir)?.flatten();
    let first = entries.next().with_context(|| format!("{} is empty", dir.display()))?;
    ensure!(entries.next().is_none(), "{} has more than one kernel", dir.display());
    Ok(first.file_name().to_string_lossy().into_owned())
}

pub(super) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {:?}", command.get_program()))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_comes_before_it_and_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let dep = dir.path().join("modules.dep");
        let text =
            "k/nvme-tcp.ko: k/nvme-fabrics.ko k/nvme-core.ko\nk/nvme-fabrics.ko: k/nvme-core.ko\nk/nvme-core.ko:\n";
        fs::write(&dep, text).expect("written");
        let needs = Needs::read(&dep).expect("read");
        let files = needs.closure(["nvme_tcp", "nvme_core"].into_iter()).expect("all there");
        assert_eq!(files, ["k/nvme-core.ko", "k/nvme-fabrics.ko", "k/nvme-tcp.ko"]);
        assert!(needs.closure(["nvme_fc"].into_iter()).is_err(), "no such module");
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        for image in [vec![], vec![0; 0x1000], b"MZ".repeat(4096)] {
            assert!(decompressed(&image).is_err());
        }
    }
}
