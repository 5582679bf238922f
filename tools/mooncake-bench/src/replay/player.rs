//! The clients of a replay: each takes the next request, looks up, reads, writes.

use super::{Args, Read};
use crate::latency::Latency;
use crate::lru::Hits;
use crate::number::real;
use crate::payload::Payload;
use crate::progress;
use crate::session::{Item, Put, Session, Way};
use crate::trace::Request;
use crate::verdict::is_right;
use anyhow::{Context, Result, ensure};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Longer than any request takes to read what it leased.
const LEASE_MS: u64 = 10_000;

/// What one client did.
pub(super) struct Tally {
    pub(super) hits: Hits,
    pub(super) stored: u64,
    pub(super) refused: u64,
    pub(super) wrong: u64,
    pub(super) read_bytes: u64,
    pub(super) put_bytes: u64,
    pub(super) prefill_saved_s: f64,
    pub(super) prefill_whole_s: f64,
    pub(super) lookup: Latency,
    pub(super) read: Latency,
    pub(super) put: Latency,
    pub(super) request: Latency,
    pub(super) error: Option<String>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            hits: Hits::default(),
            stored: 0,
            refused: 0,
            wrong: 0,
            read_bytes: 0,
            put_bytes: 0,
            prefill_saved_s: 0.0,
            prefill_whole_s: 0.0,
            lookup: Latency::new(),
            read: Latency::new(),
            put: Latency::new(),
            request: Latency::new(),
            error: None,
        }
    }

    fn add(&mut self, other: Self) {
        self.hits.add(&other.hits);
        self.stored += other.stored;
        self.refused += other.refused;
        self.wrong += other.wrong;
        self.read_bytes += other.read_bytes;
        self.put_bytes += other.put_bytes;
        self.prefill_saved_s += other.prefill_saved_s;
        self.prefill_whole_s += other.prefill_whole_s;
        self.lookup.add(&other.lookup);
        self.read.add(&other.read);
        self.put.add(&other.put);
        self.request.add(&other.request);
        self.error = self.error.take().or(other.error);
    }
}

/// The key of a block.
pub(super) fn block_key(prefix: &str, id: u64) -> Vec<u8> {
    format!("{prefix}:{id}").into_bytes()
}

/// Plays the requests, each client taking the next one.
pub(super) fn play(args: &Args, requests: &[Request], block_len: usize) -> Result<Tally> {
    let bar = progress::bar(requests.len() as u64, "replay", "requests");
    let next = AtomicUsize::new(0);
    let blocks_max = requests.iter().map(|request| request.blocks.len()).max().unwrap_or(1);
    let began = Instant::now();
    let total = std::thread::scope(|scope| -> Result<Tally> {
        let work = || -> Result<Tally> {
            let session = args.target.connect(block_len, blocks_max.max(args.batch))?;
            let mut player = Player {
                args,
                session,
                blocks: vec![vec![0; block_len]; args.batch],
                outcomes: Vec::new(),
                tally: Tally::new(),
            };
            while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                if args.speed > 0.0 {
                    let due = began + Duration::from_secs_f64(real(request.at_ms) / 1e3 / args.speed);
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                if let Err(error) = player.request(request) {
                    eprintln!("replay: {error:#}");
                    player.tally.error = Some(format!("{error:#}"));
                    break;
                }
                bar.inc(1);
            }
            Ok(player.tally)
        };
        let threads: Vec<_> = (0..args.clients).map(|_| scope.spawn(work)).collect();
        let mut total = Tally::new();
        for thread in threads {
            total.add(thread.join().expect("a worker does not panic")?);
        }
        Ok(total)
    })?;
    bar.finish_and_clear();
    Ok(total)
}

struct Player<'a> {
    args: &'a Args,
    session: Box<dyn Session>,
    blocks: Vec<Vec<u8>>,
    outcomes: Vec<Put>,
    tally: Tally,
}

impl Player<'_> {
    fn request(&mut self, request: &Request) -> Result<()> {
        let keys: Vec<_> = request.blocks.iter().map(|id| block_key(&self.args.prefix, *id)).collect();
        let began = Instant::now();
        let lease = (self.args.read != Read::None).then_some(LEASE_MS);
        let prefix = self.session.lookup(&keys, lease).context("LOOKUP")?;
        ensure!(prefix <= keys.len(), "LOOKUP answered {prefix} of {} keys", keys.len());
        let looked_up = Instant::now();
        self.tally.lookup.record(looked_up - began);
        if prefix > 0 && self.args.read != Read::None {
            self.read(&keys[..prefix]).context("read")?;
            self.tally.read.record(looked_up.elapsed());
        }
        if lease.is_some() {
            self.session.release().context("RELEASE")?;
        }
        let mut present = prefix;
        for first in (prefix..keys.len()).step_by(self.args.batch) {
            present += self.put(&keys, first)?;
        }
        self.tally.request.record(began.elapsed());
        self.tally.hits.count(request, present, prefix);
        if let Some(model) = &self.args.cost_model {
            let whole = model.seconds(request.input_tokens, 0);
            self.tally.prefill_whole_s += whole;
            let left = model.seconds(request.input_tokens, request.tokens_of_prefix(prefix));
            self.tally.prefill_saved_s += whole - left;
        }
        Ok(())
    }

    /// Writes a batch of blocks from `first` on, and says how many were there already.
    fn put(&mut self, keys: &[Vec<u8>], first: usize) -> Result<usize> {
        let mut parent = first.checked_sub(1).map(|before| keys[before].as_slice());
        let mut items = Vec::with_capacity(self.args.batch);
        for (key, block) in keys[first..].iter().zip(&mut self.blocks) {
            Payload::of(key).fill(block);
            items.push(Item { key, value: block.as_slice(), parent });
            parent = Some(key);
        }
        self.outcomes.clear();
        let sent = Instant::now();
        self.session.put(&items, false, &mut self.outcomes).context("PUT")?;
        self.tally.put.record(sent.elapsed());
        let count = |outcome| self.outcomes.iter().filter(|is| **is == outcome).count();
        let stored = count(Put::Stored) as u64;
        self.tally.stored += stored;
        self.tally.put_bytes += stored * self.blocks[0].len() as u64;
        self.tally.refused += count(Put::Refused) as u64;
        Ok(count(Put::Exists))
    }

    fn read(&mut self, keys: &[Vec<u8>]) -> Result<()> {
        let keys = if self.args.read == Read::Sample { &keys[keys.len() - 1..] } else { keys };
        let len = self.blocks[0].len();
        let lens = vec![len; keys.len()];
        let (mut wrong, mut bytes, mut seen) = (0, 0, 0);
        let verify = self.args.verify;
        let mut sink = |n: usize, value: &[u8]| {
            seen += 1;
            bytes += value.len() as u64;
            wrong += u64::from(!is_right(&keys[n], value, len, verify));
        };
        if self.args.read == Read::All {
            self.session.read_leased(keys, &lens, &mut sink)?;
        } else {
            self.session.get(keys, &lens, &mut sink)?;
        }
        // In-band there is no lease: another client may have written what evicts a block that was there.
        let gone = keys.len() - seen;
        ensure!(gone == 0 || self.session.way() == Way::Inband, "{gone} of {} leased blocks were gone", keys.len());
        self.tally.wrong += wrong;
        self.tally.read_bytes += bytes;
        Ok(())
    }
}
