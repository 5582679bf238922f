//! An NVMe over fabrics target in this guest: the kernel's own, which dies, comes back, and stalls when it is told to.

use crate::call;
use anyhow::{Context as _, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const NVMET: &str = "/sys/kernel/config/nvmet";

/// An exported namespace. Withdrawn when dropped.
#[derive(Debug)]
pub struct Target {
    kind: &'static str,
    address: String,
    port: u16,
}

impl Target {
    /// Exports a drive by `tcp` or `rdma`, through a mapping that can be stalled.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn export(kind: &'static str, drive: &Path) -> Result<Self> {
        let address = std::env::var("GUEST_ADDRESS").context("not in the guest")?;
        let port = if kind == "tcp" { 4420 } else { 4421 };
        let target = Self { kind, address, port };
        let drive = drive.to_str().context("drives have plain names")?;
        let sectors = call(&["blockdev", "--getsz", drive])?;
        let table = format!("0 {} linear {drive} 0", sectors.trim());
        call(&["dmsetup", "create", &target.mapping(), "--noudevsync", "--table", &table])?;
        call(&["dmsetup", "mknodes"])?;
        let subsystem = target.subsystem();
        fs::create_dir(&subsystem).context("make the subsystem")?;
        fs::write(subsystem.join("attr_allow_any_host"), "1")?;
        let namespace = subsystem.join("namespaces/1");
        fs::create_dir(&namespace).context("make the namespace")?;
        fs::write(namespace.join("device_path"), format!("/dev/mapper/{}", target.mapping()))?;
        // The same one at each return: another would be another namespace. And no two of one name.
        fs::write(namespace.join("device_uuid"), format!("5a1a5e6e-0d5c-4f6b-9d0c-0b6f3f8c{port}"))?;
        fs::write(namespace.join("enable"), "1").context("enable the namespace")?;
        let dir = target.port_dir();
        fs::create_dir(&dir).context("make the port")?;
        for (name, value) in [
            ("addr_trtype", kind),
            ("addr_adrfam", "ipv4"),
            ("addr_traddr", &target.address),
            ("addr_trsvcid", &target.port.to_string()),
        ] {
            fs::write(dir.join(name), value).with_context(|| format!("set {name} of the port"))?;
        }
        target.revive()?;
        Ok(target)
    }

    /// The subsystem's qualified name.
    pub fn nqn(&self) -> String {
        format!("nqn.2024-01.org.example.guest:{}", self.kind)
    }

    /// The words of `TIER ATTACH`, and of the setting.
    pub fn words(&self) -> [String; 5] {
        [
            "nvmeof".to_owned(),
            format!("transport={}", self.kind),
            format!("traddr={}", self.address),
            format!("trsvcid={}", self.port),
            format!("nqn={}", self.nqn()),
        ]
    }

    /// Drops every connection and refuses new ones.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn die(&self) -> Result<()> {
        fs::remove_file(self.link()).context("withdraw the subsystem from the port")
    }

    /// Serves again.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn revive(&self) -> Result<()> {
        symlink(self.subsystem(), self.link()).context("export the subsystem by the port")
    }

    /// I/O arrives, and is not answered.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn stall(&self) -> Result<()> {
        call(&["dmsetup", "suspend", "--nolockfs", "--noflush", "--noudevsync", &self.mapping()]).map(drop)
    }

    /// All of it is answered.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn go_on(&self) -> Result<()> {
        call(&["dmsetup", "resume", "--noudevsync", &self.mapping()]).map(drop)
    }

    fn mapping(&self) -> String {
        format!("remote-{}", self.kind)
    }

    fn subsystem(&self) -> PathBuf {
        Path::new(NVMET).join("subsystems").join(self.nqn())
    }

    fn port_dir(&self) -> PathBuf {
        Path::new(NVMET).join("ports").join(self.port.to_string())
    }

    fn link(&self) -> PathBuf {
        self.port_dir().join("subsystems").join(self.nqn())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Whatever of it there is.
        let _ = self.go_on();
        let _ = fs::remove_file(self.link());
        let _ = fs::remove_dir(self.port_dir());
        let namespace = self.subsystem().join("namespaces/1");
        let _ = fs::write(namespace.join("enable"), "0");
        let _ = fs::remove_dir(namespace);
        let _ = fs::remove_dir(self.subsystem());
        let _ = call(&["dmsetup", "remove", "--noudevsync", &self.mapping()]);
    }
}
