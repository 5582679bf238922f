//! Soft-RoCE that keeps what memory windows promise: Debian's own, with the one check that it lacks.
//!
//! Role: builds `rdma_rxe` for the guest's kernel from the source and headers of its own version. Linux checks an access
//! through a window against the region behind it; here also against the window, so that a guest has a device whose windows
//! a server may lend.
//!
//! Invariants:
//! - Nothing but that check differs. Where its place in the source is not found, nothing is built.

use super::kernel::run;
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the driver lies in the kernel's source.
const DRIVER: &str = "drivers/infiniband/sw/rxe";
/// The check goes before the last of these, in the function that looks a key up.
const BEFORE: &str = "\t\tif (mw->access & IB_ZERO_BASED)\n";
/// What is added: an access that does not lie in the window is refused as one with a wrong key is. The region is not held yet
/// there, so it must not be let go.
pub(super) const CHECK: &str = "\t\tif (!(mw->access & IB_ZERO_BASED) &&
\t\t    (va < mw->addr || va - mw->addr > mw->length ||
\t\t     resid > mw->length - (va - mw->addr))) {
\t\t\tmr = NULL;
\t\t\tstate = RESPST_ERR_RKEY_VIOLATION;
\t\t\tgoto err;
\t\t}
";

/// Builds the module for the kernel of `package`, a file `linux-image-RELEASE_VERSION_amd64.deb`, and returns where it is, below
/// `dir`.
pub(super) fn build(package: &Path, release: &str, dir: &Path) -> Result<PathBuf> {
    let name = package.file_name().context("a package has a name")?.to_string_lossy().into_owned();
    let version = name.split('_').nth(1).context("a package's name has its version")?;
    let series = release.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let abi = release.strip_suffix("-amd64").context("the kernel is Debian's for amd64")?;
    let source = format!("linux-source-{series}");
    let packages = [
        source.clone(),
        format!("linux-headers-{release}"),
        format!("linux-headers-{abi}-common"),
        format!("linux-kbuild-{series}"),
    ];
    println!("guest: fetching {source} and headers, to build Soft-RoCE with windows that are checked (once)");
    let fetched = dir.join("fetched");
    let tree = dir.join("tree");
    fs::create_dir_all(&fetched).context("make a directory for packages")?;
    run(Command::new("apt-get")
        .args(["-qq", "-o", "APT::Sandbox::User=", "download"])
        .args(packages.iter().map(|package| format!("{package}={version}")))
        .current_dir(&fetched))?;
    for entry in fs::read_dir(&fetched)?.flatten() {
        run(Command::new("dpkg-deb").arg("-x").arg(entry.path()).arg(&tree))?;
    }
    let usr_src = tree.join("usr/src");
    run(Command::new("tar")
        .args(["-xJf", &format!("{source}.tar.xz"), &format!("{source}/{DRIVER}")])
        .current_dir(&usr_src))?;
    let driver = usr_src.join(&source).join(DRIVER);
    insert_check(&driver.join("rxe_resp.c"))?;
    let headers = usr_src.join(format!("linux-headers-{release}"));
    // The package's files name each other where it would be installed.
    let makefile = headers.join("Makefile");
    let text = fs::read_to_string(&makefile).context("read the headers' Makefile")?;
    fs::write(&makefile, text.replace("/usr/src/", &format!("{}/", usr_src.display())))?;
    let log = dir.join("make.log");
    let status = Command::new("make")
        .arg("-C")
        .arg(&headers)
        .arg(format!("M={}", driver.display()))
        .args(["CONFIG_RDMA_RXE=m", "modules"])
        .stdout(fs::File::create(&log)?)
        .stderr(fs::OpenOptions::new().append(true).open(&log)?)
        .status()
        .context("run make")?;
    ensure!(status.success(), "the module does not build: {}", fs::read_to_string(&log).unwrap_or_default());
    let module = driver.join("rdma_rxe.ko");
    run(Command::new("strip").arg("--strip-debug").arg(&module))?;
    Ok(module)
}

/// Adds the check in its one place.
fn insert_check(file: &Path) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    ensure!(text.matches(BEFORE).count() == 1, "{} is not as this was written for", file.display());
    fs::write(file, text.replace(BEFORE, &format!("{CHECK}{BEFORE}"))).context("write the driver")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_goes_to_its_one_place_or_nowhere() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("rxe_resp.c");
        fs::write(&file, format!("a\n{BEFORE}b\n")).expect("written");
        insert_check(&file).expect("inserted");
        assert_eq!(fs::read_to_string(&file).expect("read"), format!("a\n{CHECK}{BEFORE}b\n"));
        for text in ["a\n".to_owned(), format!("{BEFORE}{BEFORE}")] {
            fs::write(&file, &text).expect("written");
            assert!(insert_check(&file).is_err());
            assert_eq!(fs::read_to_string(&file).expect("read"), text, "nothing changed");
        }
    }
}
