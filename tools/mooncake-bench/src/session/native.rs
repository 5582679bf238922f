//! Values by way of the client library: shared memory, RDMA, bulk TCP, leases.
//!
//! Values land in a ring of buffers larger than the caches, unless a batch needs more.

use super::{Item, Put, Session, Sink, Way};
use crate::endpoint::{Endpoint, PATIENCE};
use crate::ring::{RING_BYTES, Ring};
use anyhow::{Context, Result};
use client::{Address, Choice, Client, ClientError, Lease, Options, PutOptions, Transport};
use std::time::Duration;

pub(crate) struct Native {
    client: Client,
    landing: Ring,
    next: usize,
    leases: Vec<Lease>,
}

/// What the client library is told for values of at most `len_max` bytes, `batch` at once.
pub(crate) fn options(endpoint: &Endpoint, way: Way, len_max: usize, batch: usize) -> Options {
    let address = match endpoint {
        Endpoint::Tcp(address) => Address::Tcp(address.to_string()),
        Endpoint::Unix(path) => Address::Unix(path.clone()),
    };
    let choice = match way {
        Way::Auto => Choice::Auto,
        Way::Shm => Choice::Shm,
        Way::Rdma => Choice::Rdma,
        Way::Tcp => Choice::Tcp,
        Way::Inband => Choice::InBand,
    };
    let mut options = Options::new(address).via(choice);
    options.deadline = PATIENCE;
    options.name = Some("mooncake-bench".into());
    // Twice a batch: one is filled while the server still copies the other.
    let twice = (len_max.next_multiple_of(4096) as u64).saturating_mul(2 * batch as u64);
    options.buffer_len = twice.clamp(16 << 20, 1 << 30);
    options
}

impl Native {
    pub(crate) fn connect(endpoint: &Endpoint, way: Way, len_max: usize, batch: usize) -> Result<Self> {
        let client = Client::connect(options(endpoint, way, len_max, batch))?;
        let landing = Ring::new(len_max, (len_max.next_multiple_of(4096) * batch).max(RING_BYTES / 4))?;
        Ok(Self { client, landing, next: 0, leases: Vec::new() })
    }
}

/// What became of a value, if the connection still stands.
fn outcome<T>(result: Result<T, ClientError>) -> Result<Put> {
    match result {
        Ok(_) => Ok(Put::Stored),
        Err(ClientError::Wire { word, .. }) if word == "EXISTS" => Ok(Put::Exists),
        Err(ClientError::Wire { word, .. }) if super::inband::is_refusal(&word) => Ok(Put::Refused),
        Err(error) => Err(error).context("PUT"),
    }
}

fn slices(keys: &[Vec<u8>]) -> Vec<&[u8]> {
    keys.iter().map(Vec::as_slice).collect()
}

impl Session for Native {
    fn way(&self) -> Way {
        match self.client.transport() {
            Some(Transport::Shm) => Way::Shm,
            Some(Transport::Rdma) => Way::Rdma,
            Some(Transport::Tcp) => Way::Tcp,
            Some(Transport::InBand) | None => Way::Inband,
        }
    }

    fn get(&mut self, keys: &[Vec<u8>], _lens: &[usize], sink: Sink<'_>) -> Result<()> {
        let first = self.next;
        self.next += keys.len();
        if let [key] = keys {
            if let Some(value) = self.client.fetch(key, self.landing.slot(first))? {
                sink(0, &value);
            }
            return Ok(());
        }
        let buffers = self.landing.run(first, keys.len());
        for (n, value) in self.client.fetch_batch(&slices(keys), buffers)?.into_iter().enumerate() {
            if let Some(value) = value? {
                sink(n, &value);
            }
        }
        Ok(())
    }

    fn put(&mut self, items: &[Item<'_>], replace: bool, outcomes: &mut Vec<Put>) -> Result<()> {
        let options =
            PutOptions { replace, parent: items.first().and_then(|item| item.parent), ..PutOptions::default() };
        if let [item] = items {
            outcomes.push(outcome(self.client.put(item.key, item.value, &options))?);
            return Ok(());
        }
        let pairs: Vec<_> = items.iter().map(|item| (item.key, item.value)).collect();
        for result in self.client.put_batch(&pairs, &options)? {
            outcomes.push(outcome(result)?);
        }
        Ok(())
    }

    fn lookup(&mut self, keys: &[Vec<u8>], lease_ms: Option<u64>) -> Result<usize> {
        let found = self.client.lookup(&slices(keys), lease_ms.map(Duration::from_millis))?;
        self.leases = found.leases;
        Ok(found.prefix)
    }

    fn read_leased(&mut self, keys: &[Vec<u8>], _lens: &[usize], sink: Sink<'_>) -> Result<()> {
        for (n, lease) in self.leases.iter().enumerate().take(keys.len()) {
            let value = self.client.read(lease, self.landing.slot(self.next))?;
            self.next += 1;
            sink(n, &value);
        }
        Ok(())
    }

    fn release(&mut self) -> Result<()> {
        for lease in self.leases.drain(..) {
            self.client.release(lease)?;
        }
        Ok(())
    }

    fn lease(&mut self, key: &[u8], lease_ms: u64) -> Result<bool> {
        match self.client.lease(key, Duration::from_millis(lease_ms))? {
            Some(lease) => self.client.release(lease).map(|_| true).context("RELEASE"),
            None => Ok(false),
        }
    }
}
