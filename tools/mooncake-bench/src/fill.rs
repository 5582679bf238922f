//! `fill`: writes values until all are there.

use crate::keys::key;
use crate::latency::{Latency, show_us};
use crate::number::real;
use crate::payload::Payload;
use crate::progress;
use crate::report::Report;
use crate::session::{Item, Put, Target};
use crate::sizes::Sizes;
use crate::table::Table;
use anyhow::{Result, ensure};
use protocol::base::ByteLen;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Writes a number of values, for `run` to read or for a look at a full server.
///
/// Key number N is PREFIX:LENGTH:N; its bytes are a function of the key. The same options to `run` name the same keys.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Connections, each with a thread.
    #[arg(long, default_value_t = 2)]
    pub(crate) clients: usize,
    /// Values in one request.
    #[arg(long, default_value_t = 8)]
    pub(crate) batch: usize,
    #[command(flatten)]
    pub(crate) values: Values,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// Which values.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Values")]
pub(crate) struct Values {
    /// How many.
    #[arg(long, default_value_t = 1000)]
    pub(crate) keys: usize,
    /// Their length: one (1MiB), some (64KiB,1MiB) or a range (64KiB-16MiB).
    #[arg(long, default_value = "1MiB")]
    pub(crate) size: Sizes,
    /// What their keys begin with.
    #[arg(long, default_value = "bench")]
    pub(crate) prefix: String,
}

impl Values {
    /// The key of number `n`, which says the length too.
    pub(crate) fn key(&self, n: usize) -> Vec<u8> {
        key(&self.prefix, self.size.of(n), n)
    }
}

/// What filling took.
pub(crate) struct Filled {
    pub(crate) stored: u64,
    pub(crate) refused: u64,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) latency: Latency,
}

/// Writes all values.
pub(crate) fn fill(target: &Target, values: &Values, clients: usize, batch: usize) -> Result<Filled> {
    ensure!(clients > 0 && batch > 0 && values.keys > 0, "at least one client, one key, one value a request");
    let bar = progress::bytes(values.size.total(values.keys), "fill");
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    let parts = std::thread::scope(|scope| {
        let work = || -> Result<(u64, u64, u64, Latency)> {
            let mut session = target.connect(values.size.max(), batch)?;
            let (mut stored, mut refused, mut bytes, mut latency) = (0, 0, 0, Latency::new());
            let mut buffers = vec![vec![0; values.size.max()]; batch.min(values.keys)];
            let mut outcomes = Vec::new();
            loop {
                let first = next.fetch_add(batch, Ordering::Relaxed);
                if first >= values.keys {
                    return Ok((stored, refused, bytes, latency));
                }
                let some = first..values.keys.min(first + batch);
                let keys: Vec<_> = some.clone().map(|n| values.key(n)).collect();
                for (n, (key, buffer)) in some.clone().zip(keys.iter().zip(&mut buffers)) {
                    Payload::of(key).fill(&mut buffer[..values.size.of(n)]);
                }
                let items: Vec<_> = some
                    .zip(keys.iter().zip(&buffers))
                    .map(|(n, (key, buffer))| Item { key, value: &buffer[..values.size.of(n)], parent: None })
                    .collect();
                outcomes.clear();
                let sent = Instant::now();
                session.put(&items, true, &mut outcomes)?;
                latency.record(sent.elapsed());
                for (item, outcome) in items.iter().zip(&outcomes) {
                    match outcome {
                        Put::Refused => refused += 1,
                        Put::Stored | Put::Exists => {
                            stored += 1;
                            bytes += item.value.len() as u64;
                        }
                    }
                    bar.inc(item.value.len() as u64);
                }
            }
        };
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a worker does not panic")).collect::<Result<Vec<_>>>()
    })?;
    let seconds = began.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let mut filled = Filled { stored: 0, refused: 0, bytes: 0, seconds, latency: Latency::new() };
    for (stored, refused, bytes, latency) in parts {
        filled.stored += stored;
        filled.refused += refused;
        filled.bytes += bytes;
        filled.latency.add(&latency);
    }
    Ok(filled)
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<Report> {
    args.target.await_loaded()?;
    let server_cpu = crate::cpu::seconds_of(&args.target.pids());
    let own_cpu = crate::cpu::own_seconds();
    let filled = fill(&args.target, &args.values, args.clients, args.batch)?;
    let mut report = Report::new(format!("Filled {} values of {}", filled.stored, args.values.size));
    report.fact("transport", args.target.way()?);
    report.fact("clients", format!("{}, {} values a request", args.clients, args.batch));
    let mut table = Table::new("Fill", &["what", "value"]);
    let latency = filled.latency.percentiles();
    let rate = real(filled.bytes) / filled.seconds / 1e9;
    table.row(["stored", &filled.stored.to_string()]);
    table.row(["refused for lack of room", &filled.refused.to_string()]);
    table.row(["bytes", &ByteLen(filled.bytes).to_string()]);
    table.row(["seconds", &format!("{:.2}", filled.seconds)]);
    table.row(["GB/s", &format!("{rate:.3}")]);
    table.row(["values a second", &format!("{:.0}", real(filled.stored) / filled.seconds)]);
    table.row(["p50 / p99 of a request, us", &format!("{} / {}", show_us(latency.p50_us), show_us(latency.p99_us))]);
    table.row(["CPU of this tool, s", &format!("{:.2}", crate::cpu::own_seconds() - own_cpu)]);
    if let Some(pid) = args.target.server_pid {
        table.row(["CPU of the server, s", &format!("{:.2}", crate::cpu::seconds_of(&[pid]) - server_cpu)]);
        table.row(["resident memory of the server", &ByteLen(crate::cpu::resident_bytes(pid)).to_string()]);
    }
    report.tables.push(table);
    report.data = serde_json::json!({
        "stored": filled.stored, "refused": filled.refused, "bytes": filled.bytes, "seconds": filled.seconds,
        "gb_a_second": rate, "latency": latency,
    });
    Ok(report)
}
