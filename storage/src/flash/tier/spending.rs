//! What each device was written to lately, over restarts: a small file a device in the data directory.
//!
//! ```text
//! 1 <bytes spent> <Unix time in milliseconds> <CRC-32 of what stands before it, in hex>
//! ```
//!
//! Invariants:
//! - A file that is damaged, or of a time to come, gives nothing back: at worst a budget is as it was when it was written.

use super::Inner;
use super::data_dir::DataDir;
use crate::flash::format::DeviceId;
use protocol::base::Crc;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

const VERSION: u32 = 1;

/// Bytes of a day's budget that were spent at a time, as far as they had not come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flash) struct Spent {
    pub(in crate::flash) bytes: u64,
    pub(in crate::flash) unix_ms: u64,
}

impl Spent {
    fn encode(self) -> String {
        let text = format!("{VERSION} {} {}", self.bytes, self.unix_ms);
        let crc = Crc::of(text.as_bytes()).0;
        format!("{text} {crc:08x}\n")
    }

    fn decode(line: &str) -> Option<Self> {
        let (text, crc) = line.trim_end().rsplit_once(' ')?;
        let mut words = text.split(' ');
        let version: u32 = words.next()?.parse().ok()?;
        let spent = Self { bytes: words.next()?.parse().ok()?, unix_ms: words.next()?.parse().ok()? };
        let right = u32::from_str_radix(crc, 16).ok()? == Crc::of(text.as_bytes()).0;
        (right && version == VERSION && words.next().is_none()).then_some(spent)
    }

    /// What is known of a device.
    pub(super) fn load(data_dir: &Path, device: DeviceId) -> Option<Self> {
        let line = match std::fs::read_to_string(data_dir.join(name(device))) {
            Ok(line) => line,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => error.to_string(),
        };
        let spent = Self::decode(&line);
        if spent.is_none() {
            tracing::warn!(%device, "what was written to a device lately cannot be read: its write budget starts anew");
        }
        spent
    }

    fn save(self, data_dir: &DataDir, device: DeviceId) -> io::Result<()> {
        data_dir.replace(&name(device), self.encode().as_bytes())
    }

    /// Bytes that are still spent now, at `per_day` coming back in a day. A clock that was set back brings nothing.
    pub(in crate::flash) fn now(self, unix_ms: u64, per_day: u64) -> u64 {
        let passed = u128::from(unix_ms.saturating_sub(self.unix_ms));
        let back = u128::from(per_day) * passed / (86_400 * 1_000);
        self.bytes.saturating_sub(u64::try_from(back).unwrap_or(u64::MAX))
    }
}

fn name(device: DeviceId) -> String {
    format!("spent-{device}")
}

impl Inner {
    /// Remembers what was written to devices that have a budget.
    pub(super) fn save_spending(&self) {
        let unix_ms = self.clock.unix_ms();
        for device in self.devices.read().iter().filter(|device| device.has_budget) {
            let written = device.figures.written.load(Relaxed);
            if device.figures.budget_saved.swap(written, Relaxed) == written {
                continue;
            }
            let spent = Spent { bytes: device.figures.budget_spent.load(Relaxed), unix_ms };
            if let Err(error) = spent.save(&self.data_dir, device.of.device) {
                tracing::warn!(%error, device = %device.path.display(), "what was written to a device cannot be remembered");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spent_comes_back_with_the_hours_and_not_with_the_clock() {
        let spent = Spent { bytes: 5_000, unix_ms: 1_000_000 };
        assert_eq!(spent.now(1_000_000, 86_400), 5_000);
        assert_eq!(spent.now(1_010_000, 86_400), 4_990, "a byte a second");
        assert_eq!(spent.now(0, 86_400), 5_000, "set back");
        assert_eq!(spent.now(u64::MAX, 86_400), 0);
    }

    #[test]
    fn a_damaged_file_is_no_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let data_dir = DataDir::open(dir.path()).expect("it is ours");
        let device = DeviceId::random();
        assert_eq!(Spent::load(dir.path(), device), None);
        let spent = Spent { bytes: 123, unix_ms: 456 };
        spent.save(&data_dir, device).expect("written");
        assert_eq!(Spent::load(dir.path(), device), Some(spent));
        let line = spent.encode();
        for at in 0..line.len() - 1 {
            let mut bytes = line.clone().into_bytes();
            bytes[at] ^= 1;
            let read = String::from_utf8(bytes).ok().and_then(|line| Spent::decode(&line));
            assert_eq!(read, None, "bit 0 of byte {at}");
        }
    }
}
