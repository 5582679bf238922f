//! The log that device mapper's `log-writes` target keeps of a device: reads it, and writes it again up to any point.
//!
//! The target logs a write when a flush after its completion completes, so that the log up to a flush is what that flush made
//! durable, and nothing else (the kernel's `Documentation/admin-guide/device-mapper/log-writes.rst`).
//!
//! | at | bytes | first block of the log |
//! |---:|---:|---|
//! | 0 | 8 | magic |
//! | 8 | 8 | version, 1 |
//! | 16 | 8 | number of entries |
//! | 24 | 4 | length of a block |
//!
//! | at | bytes | an entry, one block, from the second block on |
//! |---:|---:|---|
//! | 0 | 8 | where it was written, in blocks |
//! | 8 | 8 | how many blocks, which follow the entry unless it is a discard |
//! | 16 | 8 | flags: 1 flush, 2 at once, 4 discard, 8 mark, 16 metadata |
//! | 24 | 8 | length of a mark's text, which follows here |
//!
//! All numbers are little-endian.

use anyhow::{Context as _, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt as _;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const HEAD_LEN: usize = 32;
const FLUSH: u64 = 1;
const AT_ONCE: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// A log, from its first entry on.
#[derive(Debug)]
pub struct Log {
    file: File,
    block_len: u64,
    left: u64,
    /// Where the next entry is, in blocks.
    next: u64,
}

/// What happened at one point of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something was written, and may not be durable before the next flush.
    Written,
    /// All before is durable.
    Flushed,
    /// Somebody put a mark.
    Mark(String),
}

impl Log {
    /// Opens one.
    ///
    /// # Errors
    /// If it is none.
    pub fn open(file: File) -> Result<Self> {
        let mut head = [0; HEAD_LEN];
        file.read_exact_at(&mut head, 0).context("read the log")?;
        ensure!((number(&head, 0), number(&head, 8)) == (MAGIC, VERSION), "this is no log of log-writes");
        let block_len = number(&head, 24) & u64::from(u32::MAX);
        ensure!(block_len.is_power_of_two() && (512..=65_536).contains(&block_len), "blocks of {block_len} bytes");
        Ok(Self { file, block_len, left: number(&head, 16), next: 1 })
    }

    /// Writes the next entry to a device. `None` at the end.
    ///
    /// # Errors
    /// If the log does not read, or the device does not take it.
    pub fn replay_next(&mut self, device: &File) -> Result<Option<Event>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let at = self.next * self.block_len;
        let mut head = [0; HEAD_LEN];
        self.file.read_exact_at(&mut head, at).context("read an entry")?;
        let [place, blocks, flags, text_len] = [0, 8, 16, 24].map(|at| number(&head, at));
        self.next += 1;
        if flags & MARK != 0 {
            let mut text = vec![0; usize::try_from(text_len.min(self.block_len - HEAD_LEN as u64))?];
            self.file.read_exact_at(&mut text, at + HEAD_LEN as u64).context("read a mark")?;
            return Ok(Some(Event::Mark(String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned())));
        }
        let mut bytes = vec![0; usize::try_from(blocks * self.block_len)?];
        if flags & DISCARD == 0 {
            self.file.read_exact_at(&mut bytes, self.next * self.block_len).context("read what was written")?;
            self.next += blocks;
        }
        device.write_all_at(&bytes, place * self.block_len).context("write it again")?;
        Ok(Some(if flags & (FLUSH | AT_ONCE) != 0 { Event::Flushed } else { Event::Written }))
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 512;

    fn entry(log: &mut Vec<u8>, words: [u64; 4], after: &[u8]) {
        let mut block = words.map(u64::to_le_bytes).concat();
        if words[2] & MARK != 0 {
            block.extend(after);
        }
        block.resize(BLOCK, 0);
        log.extend(block);
        if words[2] & (MARK | DISCARD) == 0 {
            log.extend(after);
        }
    }

    fn file(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(bytes, 0).expect("written");
        file
    }

    #[test]
    fn a_log_is_replayed_as_it_was_written() {
        let mut log = [MAGIC, VERSION, 5, BLOCK as u64].map(u64::to_le_bytes).concat();
        log.resize(BLOCK, 0);
        entry(&mut log, [3, 1, 0, 0], &[7; BLOCK]);
        entry(&mut log, [0, 0, FLUSH, 0], &[]);
        entry(&mut log, [0, 0, MARK, 2], b"12");
        entry(&mut log, [3, 1, DISCARD, 0], &[]);
        entry(&mut log, [4, 2, AT_ONCE, 0], &[9; 2 * BLOCK]);
        let mut log = Log::open(file(&log)).expect("a log");
        let device = file(&[1; 8 * BLOCK]);
        let byte = |at: usize| {
            let mut byte = [0];
            device.read_exact_at(&mut byte, (at * BLOCK) as u64).expect("read");
            byte[0]
        };
        let mut next = || log.replay_next(&device).expect("replayed");
        assert_eq!((next(), byte(3)), (Some(Event::Written), 7));
        assert_eq!(next(), Some(Event::Flushed));
        assert_eq!(next(), Some(Event::Mark("12".to_owned())));
        assert_eq!((next(), byte(3)), (Some(Event::Written), 0));
        assert_eq!((next(), byte(4), byte(5), byte(6)), (Some(Event::Flushed), 9, 9, 1));
        assert_eq!(next(), None);
    }

    #[test]
    fn what_is_no_log_is_refused() {
        assert!(Log::open(file(&[0; 4 * BLOCK])).is_err());
        assert!(Log::open(file(&[])).is_err());
    }
}
