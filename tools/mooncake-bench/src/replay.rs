//! `replay`: the requests of a real service against a cache of its prefix blocks.

mod player;
mod tell;

use crate::capacity::Capacity;
use crate::flash::FlashCounters;
use crate::lru;
use crate::number::index;
use crate::payload::Verify;
use crate::prefill::CostModel;
use crate::report::Report;
use crate::session::Target;
use crate::trace::{self, Request};
use anyhow::{Result, ensure};
use player::{block_key, play};
use protocol::base::ByteLen;
use std::path::PathBuf;
use std::time::Instant;
use tell::{Played, tell};

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
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// JSON lines, plain or gzip: timestamp (ms), input_length, output_length (tokens), hash_ids (one for 512 tokens).
    trace: Option<PathBuf>,
    /// Bytes of one block.
    #[arg(long, default_value = "16KiB")]
    block_bytes: ByteLen,
    /// What keys begin with: block ID becomes PREFIX:ID.
    #[arg(long, default_value = "trace")]
    prefix: String,
    /// Times real time: 1 keeps the pauses of the trace, 10 a tenth of them, 0 none.
    #[arg(long, default_value_t = 0.0)]
    speed: f64,
    /// Empty the server and let it hold so many blocks; several numbers are several replays.
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    capacity_blocks: Vec<usize>,
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
    /// Exit with an error if fewer of the blocks are hit: one ratio for each replay.
    #[arg(long, value_name = "RATIO,...", value_delimiter = ',')]
    hit_ratio_min: Vec<f64>,
    /// Exit with an error if the server wrote more blocks to its flash tier than this, for each block asked for.
    #[arg(long, value_name = "RATIO")]
    flash_writes_max: Option<f64>,
    /// What saved prefill is worth: llama3-8b@h100, llama3-70b@4xh100, llama2-70b@8xa800, or
    /// parameters=N,layers=N,width=N,flops=N.
    #[arg(long, value_name = "MODEL")]
    cost_model: Option<CostModel>,
    #[command(flatten)]
    target: Target,
}

const EXAMPLES: &str = "Examples:
  mooncake-bench replay --requests 2000
  mooncake-bench replay --capacity-blocks 10000 --reference --cost-model llama3-70b@4xh100
  mooncake-bench replay --capacity-blocks 1000,5860,10000,30000,50000 --reference \\
      --hit-ratio-min 0.045,0.136,0.211,0.326,0.355";

/// Which present blocks to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Read {
    /// All of each leading run.
    All,
    /// The last of each leading run.
    Sample,
    /// None: the trace decides what is looked up and written only.
    None,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<Report> {
    ensure!(args.batch > 0, "--batch: at least one block");
    ensure!(args.clients > 0 && args.requests > 0 && args.block_bytes.get() > 0, "at least one client, request, byte");
    ensure!(args.speed >= 0.0 && args.speed.is_finite(), "--speed: 0 or more");
    ensure!(!args.reference || !args.capacity_blocks.is_empty(), "--reference needs --capacity-blocks");
    ensure!(!args.capacity_blocks.contains(&0), "--capacity-blocks: at least one");
    let replays = args.capacity_blocks.len().max(1);
    ensure!([0, replays].contains(&args.hit_ratio_min.len()), "--hit-ratio-min: one ratio for each replay");
    let requests = trace::read(args.trace.as_deref(), args.requests)?;
    args.target.await_loaded()?;
    let mut report = Report::new(format!("Replay of {} requests", requests.len()));
    report.fact("transport", args.target.way()?);
    report.fact("block", format!("{} for {} tokens", args.block_bytes, trace::TOKENS_A_BLOCK));
    report.fact("clients", format!("{}, {} blocks in a request to write", args.clients, args.batch));
    let speed = if args.speed == 0.0 { "as fast as possible".into() } else { format!("{} x real time", args.speed) };
    report.fact("speed", speed);
    let capacities: Vec<Option<usize>> = match args.capacity_blocks.as_slice() {
        [] => vec![None],
        some => some.iter().map(|blocks| Some(*blocks)).collect(),
    };
    let played = capacities.into_iter().map(|blocks| one(args, &requests, blocks)).collect::<Result<Vec<Played>>>()?;
    for (n, one) in played.iter().enumerate() {
        report.wrong_bytes += one.tally.wrong;
        report.errors += u64::from(one.tally.error.is_some());
        let ratio = one.tally.hits.block_ratio();
        if let Some(min) = args.hit_ratio_min.get(n).filter(|min| ratio < **min) {
            eprintln!("hit ratio {ratio:.5} is below {min}");
            report.errors += 1;
        }
        if let Some(max) = args.flash_writes_max
            && let Some(writes) = one.flash_writes().filter(|writes| *writes > max)
        {
            eprintln!("{writes:.5} flash writes a block are more than {max}");
            report.errors += 1;
        }
    }
    tell(&mut report, args, &requests, &played);
    Ok(report)
}

/// Plays all requests at one capacity.
fn one(args: &Args, requests: &[Request], blocks: Option<usize>) -> Result<Played> {
    let block_len = index(args.block_bytes.get());
    let mut capacity = match blocks {
        Some(blocks) => Some(Capacity::set(&args.target.at, &block_key(&args.prefix, 182_789), block_len, blocks)?),
        None => None,
    };
    let pids = args.target.pids();
    let flash_before = FlashCounters::of(&args.target.at)?;
    let (own, server) = (crate::cpu::own_seconds(), crate::cpu::seconds_of(&pids));
    let began = Instant::now();
    let tally = play(args, requests, block_len)?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu = (crate::cpu::own_seconds() - own, crate::cpu::seconds_of(&pids) - server);
    let objects = capacity.as_mut().map(Capacity::objects).transpose()?;
    let flash = match (FlashCounters::of(&args.target.at)?, flash_before) {
        (Some(after), Some(before)) => Some(after.since(before)),
        _ => None,
    };
    let lru = blocks.filter(|_| args.reference).map(|blocks| lru::replay(requests, blocks));
    Ok(Played { blocks, tally, seconds, cpu, objects, flash, lru })
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
            target: Target { at, transport: Way::Inband, server_pid: None, loading_wait: 30 },
            block_bytes: ByteLen(1024),
            prefix: "t".into(),
            speed: 0.0,
            capacity_blocks: vec![],
            requests: 300,
            clients: 1,
            batch: 4,
            read: Read::All,
            verify: Verify::Full,
            reference: false,
            hit_ratio_min: vec![],
            flash_writes_max: None,
            cost_model: None,
        }
    }

    #[test]
    fn a_server_that_forgets_nothing_hits_what_a_boundless_cache_hits() {
        let report = run(&args(start(Answers::Truly))).expect("plays");
        let requests = trace::read(None, 300).expect("the carried trace");
        let want = lru::replay(&requests, 1_000_000);
        assert_eq!(report.data["replays"][0]["hits"], serde_json::to_value(want).unwrap());
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
        let report = run(&Args { hit_ratio_min: vec![0.99], requests: 20, ..args(at) }).expect("plays");
        assert!(!report.is_good());
    }
}
