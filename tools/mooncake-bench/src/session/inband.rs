//! Values in RESP: `GET` and `SET`, and `LOOKUP` where the server knows it.
//!
//! Requests of a batch are sent before the first answer is awaited.

use super::{Item, Put, Session, Sink, Way};
use crate::endpoint::Endpoint;
use crate::number::index;
use crate::wire::{Body, Wire};
use anyhow::{Result, bail};
use redis_protocol::resp2::types::OwnedFrame;

pub(crate) struct Inband {
    wire: Wire,
    buffer: Vec<u8>,
    knows_lookup: bool,
}

impl Inband {
    pub(crate) fn connect(endpoint: &Endpoint, len_max: usize) -> Result<Self> {
        let mut wire = Wire::new(endpoint.connect()?);
        wire.send(&[b"LOOKUP", b"mooncake-bench:probe"])?;
        let knows_lookup = match wire.frame()? {
            OwnedFrame::Error(text) if text.contains("unknown command") => false,
            OwnedFrame::Error(text) => bail!("LOOKUP: answered -{text}"),
            _ => true,
        };
        Ok(Self { wire, buffer: vec![0; len_max], knows_lookup })
    }
}

/// Whether an error says that there is no room now.
pub(super) fn is_refusal(text: &str) -> bool {
    ["OOM", "QUOTA", "BUSY"].iter().any(|word| text.starts_with(word))
}

impl Session for Inband {
    fn way(&self) -> Way {
        Way::Inband
    }

    fn get(&mut self, keys: &[Vec<u8>], lens: &[usize], sink: Sink<'_>) -> Result<()> {
        self.wire.send_gets(keys.iter().map(Vec::as_slice))?;
        for (n, due) in lens.iter().enumerate().take(keys.len()) {
            if let Body::Here(len) = self.wire.read_body(&mut self.buffer, *due)? {
                sink(n, &self.buffer[..len]);
            }
        }
        Ok(())
    }

    fn put(&mut self, items: &[Item<'_>], replace: bool, outcomes: &mut Vec<Put>) -> Result<()> {
        // Answers are short: they wait in the socket while the next value is sent.
        for item in items {
            self.wire.send_set(item.key, item.value, !replace)?;
        }
        for _ in items {
            outcomes.push(match self.wire.frame()? {
                OwnedFrame::SimpleString(_) => Put::Stored,
                OwnedFrame::Null => Put::Exists,
                OwnedFrame::Error(text) if is_refusal(&text) => Put::Refused,
                OwnedFrame::Error(text) => bail!("SET: answered -{text}"),
                other => bail!("SET: answered {other:?}"),
            });
        }
        Ok(())
    }

    fn lookup(&mut self, keys: &[Vec<u8>], _lease_ms: Option<u64>) -> Result<usize> {
        if !self.knows_lookup {
            for key in keys {
                self.wire.send(&[b"EXISTS", key])?;
            }
            let mut prefix = 0;
            for n in 0..keys.len() {
                let there = matches!(self.wire.frame()?, OwnedFrame::Integer(1));
                if there && prefix == n {
                    prefix += 1;
                }
            }
            return Ok(prefix);
        }
        let mut words: Vec<&[u8]> = vec![b"LOOKUP"];
        words.extend(keys.iter().map(Vec::as_slice));
        let OwnedFrame::Array(fields) = self.wire.command(&words)? else { bail!("LOOKUP: no map") };
        match fields.get(..2) {
            Some([OwnedFrame::BulkString(name), OwnedFrame::Integer(prefix)]) if name == b"prefix" => {
                Ok(index(u64::try_from(*prefix)?).min(keys.len()))
            }
            _ => bail!("LOOKUP: no prefix in {fields:?}"),
        }
    }

    fn read_leased(&mut self, keys: &[Vec<u8>], lens: &[usize], sink: Sink<'_>) -> Result<()> {
        self.get(keys, lens, sink)
    }

    fn release(&mut self) -> Result<()> {
        Ok(())
    }

    fn lease(&mut self, key: &[u8], lease_ms: u64) -> Result<bool> {
        let answer = self.wire.command(&[b"LEASE", key, lease_ms.to_string().as_bytes()])?;
        let OwnedFrame::Array(fields) = answer else { return Ok(false) };
        match fields.get(..2) {
            Some([OwnedFrame::BulkString(name), OwnedFrame::BulkString(lease)]) if name == b"lease" => {
                let lease = lease.clone();
                self.wire.command(&[b"RELEASE", &lease])?;
                Ok(true)
            }
            _ => bail!("LEASE: no lease in its answer"),
        }
    }
}
