//! What a completed transfer means: the one place where results of the kernel are read.

use super::{BLOCK, Kind};
use std::io;

/// Tries of a transfer that the kernel asks to repeat, before that is an error.
const TRIES_MAX: u32 = 64;

/// One contiguous transfer between a file and memory.
#[derive(Debug)]
pub(super) struct Progress {
    kind: Kind,
    /// Bytes still to be moved; those before them are done.
    left: u64,
    tries: u32,
}

/// What to do after a completion.
#[derive(Debug)]
pub(super) enum Outcome {
    /// All bytes were moved.
    Complete,
    /// What is left is to be asked for again.
    Continue,
    /// Nothing more will come of it.
    Failed(io::Error),
}

impl Progress {
    pub(super) fn new(kind: Kind, len: u64) -> Self {
        Self { kind, left: len, tries: 0 }
    }

    /// Bytes still to be moved.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Takes the kernel's result: bytes moved, or why not.
    pub(super) fn completed(&mut self, result: io::Result<u64>) -> Outcome {
        let moved = match result {
            Ok(moved) => moved,
            Err(error) => {
                let again = matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock);
                self.tries += 1;
                return if again && self.tries < TRIES_MAX { Outcome::Continue } else { Outcome::Failed(error) };
            }
        };
        if self.kind == Kind::Sync || moved == self.left {
            return Outcome::Complete;
        }
        if moved > self.left {
            let left = self.left;
            return Outcome::Failed(io::Error::other(format!("the kernel moved {moved} bytes of {left}")));
        }
        // O_DIRECT goes on only at a block: what lies after the last whole one is moved again.
        let whole = moved - moved % BLOCK as u64;
        if whole == 0 {
            return Outcome::Failed(match self.kind {
                Kind::Read => io::Error::new(io::ErrorKind::UnexpectedEof, "the device ends before what was asked for"),
                Kind::Write | Kind::Sync => {
                    io::Error::new(io::ErrorKind::WriteZero, "the device takes no more of what was written")
                }
            });
        }
        self.left -= whole;
        Outcome::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_result_has_its_meaning() {
        let check = |kind, result, expected: &str| {
            let mut progress = Progress::new(kind, 3 * 4096);
            let shown = match progress.completed(result) {
                Outcome::Complete => "Complete".to_owned(),
                Outcome::Continue => format!("Continue {}", progress.left()),
                Outcome::Failed(error) => format!("{:?}", error.kind()),
            };
            assert_eq!(shown, expected);
        };
        check(Kind::Read, Ok(3 * 4096), "Complete");
        check(Kind::Read, Ok(4096), "Continue 8192");
        check(Kind::Write, Ok(2 * 4096 + 17), "Continue 4096");
        check(Kind::Read, Ok(0), "UnexpectedEof");
        check(Kind::Read, Ok(17), "UnexpectedEof");
        check(Kind::Write, Ok(0), "WriteZero");
        check(Kind::Write, Ok(4 * 4096), "Other");
        check(Kind::Sync, Ok(0), "Complete");
        check(Kind::Write, Err(io::Error::from_raw_os_error(libc::EINTR)), "Continue 12288");
        check(Kind::Write, Err(io::Error::from_raw_os_error(libc::ENOSPC)), "StorageFull");
        check(Kind::Sync, Err(io::Error::from_raw_os_error(libc::EINTR)), "Continue 12288");
    }

    #[test]
    fn what_always_asks_for_another_try_fails_in_the_end() {
        let mut progress = Progress::new(Kind::Read, 4096);
        let mut tries = 1;
        while let Outcome::Continue = progress.completed(Err(io::Error::from_raw_os_error(libc::EAGAIN))) {
            tries += 1;
        }
        assert_eq!(tries, TRIES_MAX);
    }
}
