//! `run`: a mix of operations for a while.

use crate::fill::{Values, fill};
use crate::keys::{Picker, Popularity};
use crate::latency::{Latency, show_us};
use crate::mix::{Act, Mix};
use crate::number::{index, nanos, real};
use crate::payload::{Payload, Verify};
use crate::plot::{Axis, Plot};
use crate::progress;
use crate::report::Report;
use crate::session::{Item, Put, Session, Target};
use crate::table::Table;
use crate::turn::Start;
use crate::verdict::is_right;
use anyhow::{Result, ensure};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Does a mix of operations for some time, from some clients, and says how it went.
///
/// Every value read is compared with what its key says. Latencies are of one request, from before it is sent until its
/// last byte has arrived; making and comparing payloads is not part of them. With --rate they count from when the
/// request was due, so that a server that stalls cannot hide it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Weights of the operations: get, put (over what is there), lookup, lease.
    #[arg(long, default_value = "get=80,put=15,lookup=5")]
    mix: Mix,
    /// How popular keys are: uniform, zipf, zipf:S, seq.
    #[arg(long, default_value = "uniform")]
    distribution: Popularity,
    /// Connections, each with a thread.
    #[arg(long, default_value_t = 2)]
    clients: usize,
    /// Values in one request.
    #[arg(long, visible_alias = "pipeline", default_value_t = 1)]
    batch: usize,
    /// How long.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// End after so many requests, if that is earlier.
    #[arg(long, value_name = "N")]
    ops: Option<u64>,
    /// Seconds before the first request that counts.
    #[arg(long, default_value_t = 0.5)]
    warm_up: f64,
    /// Requests a second of all clients together; as many as possible if not given.
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Write all values first.
    #[arg(long)]
    fill: bool,
    /// How much of each value is compared.
    #[arg(long, value_enum, default_value = "full")]
    verify: Verify,
    /// Seed of the order of operations and keys; a new one each run if not given.
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    values: Values,
    #[command(flatten)]
    target: Target,
}

/// What one kind of operation did.
struct Kind {
    requests: u64,
    bytes: u64,
    misses: u64,
    refused: u64,
    wrong: u64,
    latency: Latency,
}

impl Kind {
    fn new() -> Self {
        Self { requests: 0, bytes: 0, misses: 0, refused: 0, wrong: 0, latency: Latency::new() }
    }
}

/// What one client did.
#[derive(Default)]
struct Tally {
    kinds: BTreeMap<Act, Kind>,
    /// Bytes moved in each second since the start.
    bytes_by_second: Vec<u64>,
    error: Option<String>,
}

struct Worker<'a> {
    args: &'a Args,
    session: Box<dyn Session>,
    rng: SmallRng,
    picker: Picker,
    buffers: Vec<Vec<u8>>,
    outcomes: Vec<Put>,
    tally: Tally,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<Report> {
    ensure!(args.clients > 0 && args.batch > 0 && args.values.keys > 0, "at least one client, one key, one value");
    ensure!(args.seconds > 0.0 && args.warm_up >= 0.0, "time goes forward");
    ensure!(args.rate.is_none_or(|rate| rate > 0.0), "--rate: more than 0");
    let seed = args.seed.unwrap_or_else(rand::random);
    args.target.await_loaded()?;
    if args.fill {
        fill(&args.target, &args.values, args.clients, args.batch.max(8))?;
    }
    let mut report = Report::new(format!("{} on {} keys of {}", args.mix, args.values.keys, args.values.size));
    report.fact("transport", args.target.way()?);
    report.fact("clients", format!("{}, {} values a request", args.clients, args.batch));
    report.fact("keys", format!("{:?}, seed {seed}", args.distribution));
    report.fact("values compared", format!("{:?}", args.verify));
    let pids = args.target.pids();
    let start = Start::new(args.clients);
    let done = AtomicU64::new(0);
    let (tallies, seconds, own_cpu, server_cpu) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.clients)
            .map(|n| {
                let (start, done) = (&start, &done);
                scope.spawn(move || {
                    let worker = Worker::new(args, n, seed);
                    let began = start.wait();
                    worker.map(|worker| worker.work(began, n, done))
                })
            })
            .collect();
        let (began, _) = start.go(|| ());
        let counted = began + Duration::from_secs_f64(args.warm_up);
        let total = args.ops.unwrap_or(0);
        let bar = if total > 0 {
            progress::bar(total, "run", "requests")
        } else {
            progress::bar(index_ms(args.seconds + args.warm_up), "run", "ms")
        };
        wait_until(counted);
        let (own, server) = (crate::cpu::own_seconds(), crate::cpu::seconds_of(&pids));
        while !threads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            bar.set_position(if total > 0 {
                done.load(Ordering::Relaxed)
            } else {
                index_ms(began.elapsed().as_secs_f64())
            });
            std::thread::sleep(Duration::from_millis(20));
        }
        let seconds = counted.elapsed().as_secs_f64();
        let (own, server) = (crate::cpu::own_seconds() - own, crate::cpu::seconds_of(&pids) - server);
        bar.finish_and_clear();
        let tallies: Vec<_> =
            threads.into_iter().map(|thread| thread.join().expect("a worker does not panic")).collect();
        (tallies, seconds, own, server)
    });
    let tallies = tallies.into_iter().collect::<Result<Vec<_>>>()?;
    tell(&mut report, args, tallies, seconds);
    let mut cpu = Table::new("CPU", &["who", "seconds", "of one core"]);
    cpu.row(["this tool", &format!("{own_cpu:.2}"), &format!("{:.0} %", own_cpu / seconds * 100.0)]);
    if let Some(pid) = args.target.server_pid {
        cpu.row(["the server", &format!("{server_cpu:.2}"), &format!("{:.0} %", server_cpu / seconds * 100.0)]);
        report.fact("resident memory of the server", protocol::base::ByteLen(crate::cpu::resident_bytes(pid)));
    }
    report.tables.push(cpu);
    Ok(report)
}

fn index_ms(seconds: f64) -> u64 {
    crate::number::floor(seconds * 1e3)
}

fn wait_until(when: Instant) {
    std::thread::sleep(when.saturating_duration_since(Instant::now()));
}

impl<'a> Worker<'a> {
    fn new(args: &'a Args, n: usize, seed: u64) -> Result<Self> {
        let len_max = args.values.size.max();
        Ok(Self {
            args,
            session: args.target.connect(len_max, args.batch)?,
            rng: SmallRng::seed_from_u64(seed.wrapping_add(n as u64)),
            picker: Picker::new(args.distribution, args.values.keys, n * args.values.keys / args.clients),
            buffers: vec![vec![0; len_max]; args.batch],
            outcomes: Vec::new(),
            tally: Tally::default(),
        })
    }

    fn work(mut self, began: Instant, n: usize, done: &AtomicU64) -> Tally {
        let counted = began + Duration::from_secs_f64(self.args.warm_up);
        let end = counted + Duration::from_secs_f64(self.args.seconds);
        let interval = self.args.rate.map(|rate| Duration::from_secs_f64(self.args.clients as f64 / rate));
        // Clients begin spread over one interval.
        let mut due = began + interval.unwrap_or_default().mul_f64(n as f64 / self.args.clients as f64);
        loop {
            if let Some(interval) = interval {
                wait_until(due.min(end));
                due += interval;
            }
            let now = Instant::now();
            if now >= end {
                break;
            }
            let counts = now >= counted;
            if counts && self.args.ops.is_some_and(|ops| done.fetch_add(1, Ordering::Relaxed) >= ops) {
                break;
            }
            let from = interval.map(|interval| due - interval);
            if let Err(error) = self.one(from, counts.then_some(counted)) {
                eprintln!("client {n}: {error:#}");
                self.tally.error = Some(format!("{error:#}"));
                break;
            }
        }
        self.tally
    }

    /// One request. `due` is when it should have been sent, `counted` when counting began.
    fn one(&mut self, due: Option<Instant>, counted: Option<Instant>) -> Result<()> {
        let args = self.args;
        let act = args.mix.pick(&mut self.rng);
        let count = if act == Act::Lease { 1 } else { args.batch };
        let numbers: Vec<usize> = (0..count).map(|_| self.picker.next(&mut self.rng)).collect();
        let keys: Vec<Vec<u8>> = numbers.iter().map(|n| args.values.key(*n)).collect();
        let lens: Vec<usize> = numbers.iter().map(|n| args.values.size.of(*n)).collect();
        if act == Act::Put {
            for ((key, len), buffer) in keys.iter().zip(&lens).zip(&mut self.buffers) {
                Payload::of(key).fill(&mut buffer[..*len]);
            }
        }
        let (mut bytes, mut here, mut refused, mut wrong) = (0u64, 0, 0, 0);
        let mut comparing = Duration::ZERO;
        let sent = Instant::now();
        match act {
            Act::Get => self.session.get(&keys, &lens, &mut |n, value| {
                let arrived = Instant::now();
                here += 1;
                bytes += value.len() as u64;
                wrong += u64::from(!is_right(&keys[n], value, lens[n], args.verify));
                comparing += arrived.elapsed();
            })?,
            Act::Put => {
                let values = keys.iter().zip(&lens).zip(&self.buffers);
                let items: Vec<_> =
                    values.map(|((key, len), buffer)| Item { key, value: &buffer[..*len], parent: None }).collect();
                self.outcomes.clear();
                self.session.put(&items, true, &mut self.outcomes)?;
                here = count;
                for (outcome, len) in self.outcomes.iter().zip(&lens) {
                    match outcome {
                        Put::Refused => refused += 1,
                        Put::Stored | Put::Exists => bytes += *len as u64,
                    }
                }
            }
            Act::Lookup => here = self.session.lookup(&keys, None)?,
            Act::Lease => here = usize::from(self.session.lease(&keys[0], 1_000)?),
        }
        let now = Instant::now();
        let Some(counted) = counted else { return Ok(()) };
        let kind = self.tally.kinds.entry(act).or_insert_with(Kind::new);
        kind.requests += 1;
        kind.bytes += bytes;
        kind.misses += (count - here) as u64;
        kind.refused += refused;
        kind.wrong += wrong;
        kind.latency.record((now - due.unwrap_or(sent)).saturating_sub(comparing));
        let second = index(nanos(now - counted) / 1_000_000_000);
        if self.tally.bytes_by_second.len() <= second {
            self.tally.bytes_by_second.resize(second + 1, 0);
        }
        self.tally.bytes_by_second[second] += bytes;
        Ok(())
    }
}

fn tell(report: &mut Report, args: &Args, tallies: Vec<Tally>, seconds: f64) {
    let mut kinds: BTreeMap<Act, Kind> = BTreeMap::new();
    let mut by_second: Vec<u64> = Vec::new();
    for tally in tallies {
        report.errors += u64::from(tally.error.is_some());
        for (act, kind) in tally.kinds {
            let total = kinds.entry(act).or_insert_with(Kind::new);
            total.requests += kind.requests;
            total.bytes += kind.bytes;
            total.misses += kind.misses;
            total.refused += kind.refused;
            total.wrong += kind.wrong;
            total.latency.add(&kind.latency);
        }
        by_second.resize(by_second.len().max(tally.bytes_by_second.len()), 0);
        for (sum, bytes) in by_second.iter_mut().zip(tally.bytes_by_second) {
            *sum += bytes;
        }
    }
    let head =
        ["operation", "requests/s", "GB/s", "p50 us", "p90", "p99", "p99.9", "max", "missing", "refused", "wrong"];
    let mut table = Table::new(format!("{seconds:.2} s, {} values a request", args.batch), &head);
    let mut data = serde_json::Map::new();
    for (act, kind) in &kinds {
        let p = kind.latency.percentiles();
        let (rate, gb) = (real(kind.requests) / seconds, real(kind.bytes) / seconds / 1e9);
        let mut row = vec![act.word().to_owned(), format!("{rate:.0}"), format!("{gb:.3}")];
        row.extend([p.p50_us, p.p90_us, p.p99_us, p.p999_us, p.max_us].map(show_us));
        row.extend([kind.misses, kind.refused, kind.wrong].map(|count| count.to_string()));
        table.row(row);
        let figures = serde_json::json!({
            "requests": kind.requests, "bytes": kind.bytes, "requests_a_second": rate, "gb_a_second": gb, "latency": p,
            "misses": kind.misses, "refused": kind.refused, "wrong": kind.wrong,
        });
        data.insert(act.word().into(), figures);
        report.wrong_bytes += kind.wrong;
    }
    report.tables.push(table);
    report.data = serde_json::json!({ "seconds": seconds, "operations": data });
    report.plots.push(Plot {
        title: "latency".into(),
        x: Axis::logarithmic("one request in so many is slower"),
        y: Axis::logarithmic("us"),
        series: kinds.iter().map(|(act, kind)| (act.word().to_owned(), kind.latency.curve())).collect(),
    });
    let whole_seconds = by_second.len().saturating_sub(usize::from(by_second.len() > 1));
    let points = by_second.iter().take(whole_seconds).enumerate().map(|(n, bytes)| (n as f64, real(*bytes) / 1e9));
    report.plots.push(Plot {
        title: "bytes moved".into(),
        x: Axis::linear("seconds"),
        y: Axis::linear("GB/s"),
        series: vec![("all".into(), points.collect())],
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Endpoint;
    use crate::mini::{Answers, start};
    use crate::session::Way;

    fn args(at: Endpoint) -> Args {
        Args {
            target: Target { at, transport: Way::Inband, server_pid: None, loading_wait: 30 },
            values: Values { keys: 20, size: "100-40KiB".parse().unwrap(), prefix: "run".into() },
            mix: "get=3,put=1,lookup=1".parse().unwrap(),
            distribution: Popularity::Zipf(0.9),
            clients: 2,
            batch: 3,
            seconds: 20.0,
            ops: Some(200),
            warm_up: 0.0,
            rate: None,
            fill: true,
            verify: Verify::Full,
            seed: Some(1),
        }
    }

    #[test]
    fn a_mix_counts_its_requests_and_finds_nothing_wrong_where_nothing_is() {
        let report = run(&args(start(Answers::Truly))).expect("runs");
        assert!(report.is_good());
        let operations = report.data["operations"].as_object().unwrap();
        let requests: u64 = operations.values().map(|kind| kind["requests"].as_u64().unwrap()).sum();
        assert_eq!(requests, 200);
        assert_eq!(operations["get"]["misses"], 0);
    }

    #[test]
    fn wrong_bytes_make_a_run_bad() {
        for answers in [Answers::Flipped, Answers::Foreign] {
            let report = run(&args(start(answers))).expect("runs");
            assert!(report.wrong_bytes > 0 && !report.is_good());
        }
    }
}
