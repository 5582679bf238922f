//! `replay`: the requests of a real service against a cache of its prefix blocks.

use crate::capacity::Capacity;
use crate::latency::{Latency, show_us};
use crate::lru::{self, Hits};
use crate::number::real;
use crate::payload::{Payload, Verify};
use crate::plot::{Axis, Plot};
use crate::prefill::CostModel;
use crate::progress;
use crate::report::Report;
use crate::session::{Item, Put, Session, Target};
use crate::table::Table;
use crate::trace::{self, Request};
use crate::verdict::is_right;
use anyhow::{Context, Result, ensure};
use protocol::base::ByteLen;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Replays a request trace: looks each prompt's blocks up, reads and compares those that are there, writes the others.
///
/// For every request: one LOOKUP of its blocks with a lease on the leading run of present ones; a read of those; a PUT of
/// each block behind them, with its PARENT. Block ID becomes key trace:ID, its parent is the block before it. The bytes
/// of a block are a function of its key, and every byte read is compared.
///
/// Without TRACE it is the conversation trace of the Mooncake FAST'25 release (Apache-2.0), which the tool carries.
///
/// With --capacity-blocks the server is emptied and holds exactly so many blocks for the run: its maxmemory is set, and
/// set back. With one client and --speed 0, hit ratios are those of the order of the trace.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// JSON lines, plain or gzip: timestamp (ms), input_length, output_length (tokens), hash_ids (one for 512 tokens).
    trace: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// Bytes of one block.
    #[arg(long, default_value = "16KiB")]
    block_bytes: ByteLen,
    /// What keys begin with: block ID becomes PREFIX:ID.
    #[arg(long, default_value = "trace")]
    prefix: String,
    /// Times real time: 1 keeps the pauses of the trace, 10 a tenth of them, 0 none.
    #[arg(long, default_value_t = 0.0)]
    speed: f64,
    /// Empty the server and let it hold so many blocks.
    #[arg(long, value_name = "N")]
    capacity_blocks: Option<usize>,
    /// Replay the first N requests only.
    #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    requests: usize,
    /// Connections, each with a thread; more than one disturbs the order of the trace.
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// Blocks in one request to write; each still names the one before it as its PARENT.
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Which present blocks to read.
    #[arg(long, value_enum, default_value = "all")]
    read: Read,
    /// How much of each block that is read is compared.
    #[arg(long, value_enum, default_value = "full")]
    verify: Verify,
    /// Hold the hit ratios against exact LRU of --capacity-blocks.
    #[arg(long)]
    reference: bool,
    /// Exit with an error if fewer of the blocks are hit.
    #[arg(long, value_name = "RATIO")]
    hit_ratio_min: Option<f64>,
    /// What saved prefill is worth: llama3-8b@h100, llama3-70b@4xh100, llama2-70b@8xa800, or
    /// parameters=N,layers=N,width=N,flops=N.
    #[arg(long, value_name = "MODEL")]
    cost_model: Option<CostModel>,
}

/// Which present blocks to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Read {
    All,
    /// The last of each leading run.
    Sample,
    None,
}

const LEASE_MS: u64 = 10_000;

/// What one client did.
struct Tally {
    hits: Hits,
    stored: u64,
    refused: u64,
    wrong: u64,
    read_bytes: u64,
    put_bytes: u64,
    prefill_saved_s: f64,
    prefill_whole_s: f64,
    lookup: Latency,
    read: Latency,
    put: Latency,
    request: Latency,
    error: Option<String>,
}

impl Tally {
    fn new() -> Self {
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

fn block_key(prefix: &str, id: u64) -> Vec<u8> {
    format!("{prefix}:{id}").into_bytes()
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<Report> {
    ensure!(args.batch > 0, "--batch: at least one block");
    ensure!(args.clients > 0 && args.requests > 0 && args.block_bytes.get() > 0, "at least one client, request, byte");
    ensure!(args.speed >= 0.0 && args.speed.is_finite(), "--speed: 0 or more");
    ensure!(!args.reference || args.capacity_blocks.is_some(), "--reference needs --capacity-blocks");
    ensure!(args.capacity_blocks != Some(0), "--capacity-blocks: at least one");
    let requests = trace::read(args.trace.as_deref(), args.requests)?;
    let block_len = crate::number::index(args.block_bytes.get());
    let mut report = Report::new(format!("Replay of {} requests", requests.len()));
    report.fact("transport", args.target.way()?);
    report.fact("block", format!("{} for {} tokens", args.block_bytes, trace::TOKENS_A_BLOCK));
    report.fact("clients", format!("{}, {} blocks in a request to write", args.clients, args.batch));
    report.fact(
        "speed",
        if args.speed == 0.0 { "as fast as possible".into() } else { format!("{} x real time", args.speed) },
    );
    let mut capacity = match args.capacity_blocks {
        Some(blocks) => {
            let capacity = Capacity::set(&args.target.at, &block_key(&args.prefix, 182_789), block_len, blocks)?;
            report.fact("capacity", format!("{blocks} blocks, each charged {} bytes", capacity.charge));
            Some(capacity)
        }
        None => None,
    };
    let pids = args.target.pids();
    let (own_cpu, server_cpu) = (crate::cpu::own_seconds(), crate::cpu::seconds_of(&pids));
    let began = Instant::now();
    let tally = play(args, &requests, block_len)?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu = (crate::cpu::own_seconds() - own_cpu, crate::cpu::seconds_of(&pids) - server_cpu);
    report.wrong_bytes = tally.wrong;
    report.errors = u64::from(tally.error.is_some());
    tell(&mut report, args, &requests, &tally, seconds, cpu);
    if let Some(capacity) = &mut capacity {
        report.fact("objects at the end", capacity.objects()?);
    }
    if let (true, Some(blocks)) = (args.reference, args.capacity_blocks) {
        report.tables.push(against_lru(&requests, &tally.hits, blocks));
    }
    if let Some(min) = args.hit_ratio_min
        && tally.hits.block_ratio() < min
    {
        eprintln!("hit ratio {:.5} is below {min}", tally.hits.block_ratio());
        report.errors += 1;
    }
    Ok(report)
}

/// Plays the requests, each client taking the next one.
fn play(args: &Args, requests: &[Request], block_len: usize) -> Result<Tally> {
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
        ensure!(seen == keys.len(), "{} of {} leased blocks were gone", keys.len() - seen, keys.len());
        self.tally.wrong += wrong;
        self.tally.read_bytes += bytes;
        Ok(())
    }
}

fn tell(report: &mut Report, args: &Args, requests: &[Request], tally: &Tally, seconds: f64, cpu: (f64, f64)) {
    let hits = &tally.hits;
    let unique: std::collections::HashSet<u64> =
        requests.iter().flat_map(|request| request.blocks.iter().copied()).collect();
    let mut table = Table::new("What was found", &["what", "value"]);
    let share = |ratio: f64| format!("{ratio:.5}");
    table.row(["requests", &hits.requests.to_string()]);
    table.row(["blocks asked for", &hits.references.to_string()]);
    table.row(["different blocks", &unique.len().to_string()]);
    table.row(["hit ratio by block, anywhere in the prompt", &share(hits.block_ratio())]);
    table.row(["hit ratio by block, leading run", &share(hits.prefix_ratio())]);
    table.row(["hit ratio by token, leading run", &share(hits.token_ratio())]);
    table.row(["tokens of prefill saved", &hits.prefix_tokens.to_string()]);
    if let Some(model) = &args.cost_model {
        let share = tally.prefill_saved_s / tally.prefill_whole_s.max(1e-9) * 100.0;
        table.row(["seconds of prefill saved", &format!("{:.1} ({share:.1} %)", tally.prefill_saved_s)]);
        report.fact("cost model", model);
    }
    table.row(["blocks stored", &tally.stored.to_string()]);
    table.row(["blocks refused for lack of room", &tally.refused.to_string()]);
    table.row(["blocks with wrong bytes", &tally.wrong.to_string()]);
    table.row(["seconds", &format!("{seconds:.2}")]);
    table.row(["requests a second", &format!("{:.1}", real(hits.requests) / seconds)]);
    table.row([
        "read and compared",
        &format!("{}, {:.3} GB/s", ByteLen(tally.read_bytes), real(tally.read_bytes) / seconds / 1e9),
    ]);
    table.row(["written", &format!("{}, {:.3} GB/s", ByteLen(tally.put_bytes), real(tally.put_bytes) / seconds / 1e9)]);
    table.row(["CPU of this tool, s", &format!("{:.2}", cpu.0)]);
    if let Some(pid) = args.target.server_pid {
        table.row(["CPU of the server, s", &format!("{:.2}", cpu.1)]);
        table.row(["resident memory of the server", &ByteLen(crate::cpu::resident_bytes(pid)).to_string()]);
    }
    report.tables.push(table);
    let kinds = [
        ("lookup of a prompt", &tally.lookup),
        ("read of a leading run", &tally.read),
        ("put of a batch of blocks", &tally.put),
        ("whole request", &tally.request),
    ];
    let mut table = Table::new("Latency, us (m: ms)", &["what", "count", "p50", "p90", "p99", "p99.9", "max"]);
    let mut latencies = serde_json::Map::new();
    for (name, latency) in kinds {
        let p = latency.percentiles();
        let mut row = vec![name.to_owned(), p.count.to_string()];
        row.extend([p.p50_us, p.p90_us, p.p99_us, p.p999_us, p.max_us].map(show_us));
        table.row(row);
        latencies.insert(name.into(), serde_json::json!(p));
    }
    report.tables.push(table);
    report.plots.push(Plot {
        title: "latency".into(),
        x: Axis::logarithmic("one in so many is slower"),
        y: Axis::logarithmic("us"),
        series: kinds.map(|(name, latency)| (name.to_owned(), latency.curve())).into(),
    });
    report.data = serde_json::json!({
        "hits": hits, "block_ratio": hits.block_ratio(), "prefix_ratio": hits.prefix_ratio(),
        "token_ratio": hits.token_ratio(), "unique_blocks": unique.len(), "stored": tally.stored,
        "refused": tally.refused, "seconds": seconds, "read_bytes": tally.read_bytes, "put_bytes": tally.put_bytes,
        "latency": latencies, "prefill_saved_s": tally.prefill_saved_s,
    });
}

fn against_lru(requests: &[Request], hits: &Hits, blocks: usize) -> Table {
    let lru = lru::replay(requests, blocks);
    let mut table =
        Table::new(format!("Beside exact LRU of {blocks} blocks"), &["hit ratio", "server", "LRU", "difference"]);
    for (name, of) in [
        ("by block, anywhere", Hits::block_ratio as fn(&Hits) -> f64),
        ("by block, leading run", Hits::prefix_ratio),
        ("by token, leading run", Hits::token_ratio),
    ] {
        let (server, reference) = (of(hits), of(&lru));
        table.row([
            name.to_owned(),
            format!("{server:.5}"),
            format!("{reference:.5}"),
            format!("{:+.5}", server - reference),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Endpoint;
    use crate::mini::{Answers, start};
    use crate::session::Way;

    fn args(at: Endpoint) -> Args {
        Args {
            trace: None,
            target: Target { at, transport: Way::Inband, server_pid: None },
            block_bytes: ByteLen(1024),
            prefix: "t".into(),
            speed: 0.0,
            capacity_blocks: None,
            requests: 300,
            clients: 1,
            batch: 4,
            read: Read::All,
            verify: Verify::Full,
            reference: false,
            hit_ratio_min: None,
            cost_model: None,
        }
    }

    #[test]
    fn a_server_that_forgets_nothing_hits_what_a_boundless_cache_hits() {
        let report = run(&args(start(Answers::Truly))).expect("plays");
        let requests = trace::read(None, 300).expect("the carried trace");
        let want = lru::replay(&requests, 1_000_000);
        assert_eq!(report.data["hits"], serde_json::to_value(want).unwrap());
        assert!(report.is_good());
    }

    #[test]
    fn wrong_bytes_make_a_replay_bad() {
        for answers in [Answers::Flipped, Answers::Foreign] {
            let report = run(&args(start(answers))).expect("plays");
            assert!(report.wrong_bytes > 0 && !report.is_good());
        }
    }

    #[test]
    fn a_hit_ratio_below_the_bar_makes_a_replay_bad() {
        let at = start(Answers::Truly);
        let report = run(&Args { hit_ratio_min: Some(0.99), requests: 20, ..args(at) }).expect("plays");
        assert!(!report.is_good());
    }
}
