//! What this kernel's io_uring gives a flash device, without one.

use io_uring::{IoUring, Probe, opcode};
use std::io;

/// Entries of the ring that is made to look.
const ENTRIES: u32 = 8;

/// What io_uring can do here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UringReport {
    /// Whether completions can be left to the one thread that asks for them (Linux 6.1): else they interrupt.
    pub defers: bool,
    /// What the engine cannot do without and does not find here.
    pub lacks: Vec<&'static str>,
}

/// Makes a ring as the engine does, and looks at it.
///
/// # Errors
/// If io_uring is refused altogether: by the kernel's age, by `kernel.io_uring_disabled`, or by a container's filter.
pub fn probe_uring() -> io::Result<UringReport> {
    let deferring: io::Result<IoUring> =
        IoUring::builder().setup_r_disabled().setup_single_issuer().setup_defer_taskrun().build(ENTRIES);
    let defers = deferring.is_ok();
    let ring = match deferring {
        Ok(ring) => ring,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            IoUring::builder().setup_r_disabled().build(ENTRIES)?
        }
        Err(error) => return Err(error),
    };
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let params = ring.params();
    let wanted = [
        ("waits with a limit (EXT_ARG, Linux 5.11)", params.is_feature_ext_arg()),
        ("completions that are never dropped (NODROP, Linux 5.5)", params.is_feature_nodrop()),
        ("READ_FIXED", probe.is_supported(opcode::ReadFixed::CODE)),
        ("WRITE_FIXED", probe.is_supported(opcode::WriteFixed::CODE)),
        ("READV", probe.is_supported(opcode::Readv::CODE)),
        ("WRITEV", probe.is_supported(opcode::Writev::CODE)),
        ("FSYNC", probe.is_supported(opcode::Fsync::CODE)),
    ];
    Ok(UringReport { defers, lacks: wanted.into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect() })
}

#[cfg(test)]
mod tests {
    use super::super::{EngineKind, EngineOptions, open};
    use super::*;
    use protocol::base::ByteLen;

    /// Where a device is driven by io_uring, the probe lacks nothing; where it is refused, the probe says so too.
    #[test]
    fn the_probe_finds_what_the_engine_finds() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory on a disk");
        let options =
            EngineOptions { kind: EngineKind::Uring, preallocate: Some(ByteLen::mib(1)), ..EngineOptions::default() };
        let opened = open(&dir.path().join("device"), &options);
        match probe_uring() {
            Ok(report) => assert_eq!(report.lacks.is_empty(), opened.is_ok(), "{report:?}, {:?}", opened.err()),
            Err(error) => assert!(opened.is_err(), "the probe is refused ({error}) and the engine is not"),
        }
    }
}
