//! What a server's flash tier did during a run, from `INFO tiers`.

use crate::endpoint::Endpoint;
use crate::wire::Wire;
use anyhow::{Result, bail};
use redis_protocol::resp2::types::OwnedFrame;

/// Counters of all flash devices together, since the server's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct FlashCounters {
    /// Records read for clients.
    pub(crate) reads: u64,
    /// Records written because they left DRAM.
    pub(crate) spills: u64,
    /// Records written again when their segment was reclaimed.
    pub(crate) reinserted: u64,
    /// Records dropped when their segment was reclaimed.
    pub(crate) dropped: u64,
    /// Bytes written, headers and footers included.
    pub(crate) written_bytes: u64,
}

impl FlashCounters {
    /// Asks a server; `None` if it has no flash tier, or is none of ours.
    pub(crate) fn of(endpoint: &Endpoint) -> Result<Option<Self>> {
        let mut wire = Wire::new(endpoint.connect()?);
        wire.send(&[b"INFO", b"tiers"])?;
        match wire.frame()? {
            OwnedFrame::BulkString(text) => Ok(Self::parse(&String::from_utf8_lossy(&text))),
            OwnedFrame::Error(_) => Ok(None),
            other => bail!("INFO: {other:?}"),
        }
    }

    fn parse(info: &str) -> Option<Self> {
        let mut all: Option<Self> = None;
        for line in info.lines().filter(|line| line.starts_with("tier_flash.")) {
            let Some((_, fields)) = line.split_once(':') else { continue };
            let field = |name: &str| {
                let value = fields.split(',').filter_map(|field| field.split_once('=')).find(|field| field.0 == name);
                value.and_then(|(_, value)| value.parse::<u64>().ok()).unwrap_or(0)
            };
            let sum = all.get_or_insert_default();
            sum.reads += field("reads");
            sum.spills += field("writes");
            sum.reinserted += field("reinserted");
            sum.dropped += field("dropped");
            sum.written_bytes += field("written_bytes");
        }
        all
    }

    /// What was counted since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            reads: self.reads.saturating_sub(before.reads),
            spills: self.spills.saturating_sub(before.spills),
            reinserted: self.reinserted.saturating_sub(before.reinserted),
            dropped: self.dropped.saturating_sub(before.dropped),
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_added_up_and_a_server_without_them_has_none() {
        let info = "# Tiers\r\ntier_dram:state=online,reads=99\r\n\
                    tier_flash.0:state=online,reads=3,read_bytes=4,writes=5,written_bytes=6,reinserted=7,dropped=8\r\n\
                    tier_flash.1:state=off,reads=10,writes=20,written_bytes=30,reinserted=40,dropped=50\r\n";
        let sum = FlashCounters { reads: 13, spills: 25, reinserted: 47, dropped: 58, written_bytes: 36 };
        assert_eq!(FlashCounters::parse(info), Some(sum));
        assert_eq!(FlashCounters::parse("# Tiers\r\ntier_dram:reads=99\r\n"), None);
        assert_eq!(sum.since(sum), FlashCounters::default());
    }
}
