//! A device read beside its engine: a descriptor of its own, through a ring of its own where there is io_uring.
//!
//! Invariants:
//! - What is read comes from the device: pages that the kernel may have kept of it are let go before.

use crate::flash::recover::Source;
use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use tokio_uring::Runtime;

/// Who performs the reads of one thread.
pub(crate) enum Reader {
    /// A ring that this thread drives.
    Ring(Runtime),
    /// System calls.
    Calls,
}

impl Reader {
    /// A ring if there may be one.
    pub(crate) fn new() -> Self {
        match Runtime::new(&tokio_uring::builder()) {
            Ok(runtime) => Self::Ring(runtime),
            Err(error) => {
                tracing::info!(%error, "no ring for scrubs: system calls read for them");
                Self::Calls
            }
        }
    }

    /// What does it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ring(_) => "io_uring",
            Self::Calls => "syscall",
        }
    }
}

/// A device, opened for reading.
pub(crate) struct ScrubFile<'a> {
    reader: &'a Reader,
    plain: File,
    ring: Option<tokio_uring::fs::File>,
    len: u64,
}

impl<'a> ScrubFile<'a> {
    /// Opens it.
    pub(crate) fn open(reader: &'a Reader, path: &Path) -> io::Result<Self> {
        let plain = File::open(path)?;
        let len = rustix::fs::seek(&plain, rustix::fs::SeekFrom::End(0))?;
        // Each page once: reading ahead would be reading twice.
        fadvise(&plain, 0, None, Advice::Random)?;
        let ring = match reader {
            Reader::Ring(_) => Some(tokio_uring::fs::File::from_std(plain.try_clone()?)),
            Reader::Calls => None,
        };
        Ok(Self { reader, plain, ring, len })
    }

    fn read_one(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        fadvise(&self.plain, offset, NonZeroU64::new(len as u64), Advice::DontNeed)?;
        let (Reader::Ring(runtime), Some(file)) = (self.reader, &self.ring) else {
            let mut bytes = vec![0; len];
            self.plain.read_exact_at(&mut bytes, offset)?;
            return Ok(bytes);
        };
        runtime.block_on(async {
            let (result, bytes) = file.read_exact_at(vec![0; len], offset).await;
            result.map(|()| bytes)
        })
    }
}

impl Source for ScrubFile<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&mut self, places: &[(u64, usize)]) -> Vec<io::Result<Vec<u8>>> {
        places.iter().map(|&(offset, len)| self.read_one(offset, len)).collect()
    }
}
