//! The capacity of a server for one run, counted in blocks.
//!
//! Role: the only place that knows how a server's memory limit is set and what one block is charged.
//!
//! Invariants:
//! - What was set is set back when the [`Capacity`] is dropped.

use crate::endpoint::Endpoint;
use crate::wire::Wire;
use anyhow::{Context, Result, bail};
use redis_protocol::resp2::types::OwnedFrame;

/// A limit that was set. Dropping it restores what was there before.
pub(crate) struct Capacity {
    wire: Wire,
    before: Vec<(&'static str, String)>,
}

/// Settings, and to what they are set beside `maxmemory`: a new block evicts one old one, and nothing is evicted ahead.
const SETTINGS: [(&str, &str); 2] = [("watermark-high-percent", "100"), ("watermark-low-percent", "100")];

impl Capacity {
    /// Empties the server and lets it hold exactly `blocks` blocks of `block_bytes`. `sample_key` is as long as the keys
    /// will be.
    pub(crate) fn set(endpoint: &Endpoint, sample_key: &[u8], block_bytes: usize, blocks: usize) -> Result<Self> {
        let mut wire = Wire::new(endpoint.connect()?);
        wire.command(&[b"FLUSHALL"])?;
        wire.set(sample_key, &vec![0; block_bytes]).context("write a block to learn its charge")?;
        let charge = charge_of(&mut wire, sample_key)?;
        wire.command(&[b"DEL", sample_key])?;
        let mut capacity = Self { wire, before: Vec::new() };
        for (name, value) in SETTINGS {
            capacity.config(name, value)?;
        }
        let maxmemory = charge * blocks as u64;
        capacity.config("maxmemory", &maxmemory.to_string()).with_context(|| {
            format!("a capacity of {blocks} blocks of {charge} bytes; longer blocks or more of them may be allowed")
        })?;
        Ok(capacity)
    }

    /// How many objects the server holds.
    pub(crate) fn objects(&mut self) -> Result<u64> {
        match self.wire.command(&[b"DBSIZE"])? {
            OwnedFrame::Integer(objects) => u64::try_from(objects).context("DBSIZE"),
            other => bail!("DBSIZE: {other:?}"),
        }
    }

    fn config(&mut self, name: &'static str, value: &str) -> Result<()> {
        let OwnedFrame::Array(pair) = self.wire.command(&[b"CONFIG", b"GET", name.as_bytes()])? else {
            bail!("CONFIG GET {name}: no pair");
        };
        let Some(OwnedFrame::BulkString(before)) = pair.get(1) else { bail!("the server has no setting {name}") };
        let before = String::from_utf8_lossy(before).into_owned();
        self.wire.command(&[b"CONFIG", b"SET", name.as_bytes(), value.as_bytes()])?;
        self.before.push((name, before));
        Ok(())
    }
}

/// What one object counts against `maxmemory`: `charge` of its `STAT`. `MEMORY USAGE` adds the index, which does not.
fn charge_of(wire: &mut Wire, key: &[u8]) -> Result<u64> {
    let OwnedFrame::Array(fields) = wire.command(&[b"STAT", key])? else { bail!("STAT: no map") };
    let charge = fields.chunks(2).find_map(|pair| match pair {
        [OwnedFrame::BulkString(name), OwnedFrame::Integer(charge)] if name == b"charge" => u64::try_from(*charge).ok(),
        _ => None,
    });
    charge.context("STAT: no charge")
}

impl Drop for Capacity {
    fn drop(&mut self) {
        while let Some((name, before)) = self.before.pop() {
            if let Err(error) = self.wire.command(&[b"CONFIG", b"SET", name.as_bytes(), before.as_bytes()]) {
                eprintln!("{name} could not be set back to {before}: {error:#}");
            }
        }
    }
}
