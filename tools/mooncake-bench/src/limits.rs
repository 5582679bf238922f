//! `limits`: what this machine allows, whatever the server.

use crate::bare::control::Control;
use crate::bare::rdma::BareRdma;
use crate::memory::CopyBy;
use crate::payload::Verify;
use crate::peer::{BareCopy, BareExchange, BareShm, BareTcp, Peer};
use crate::report::Report;
use crate::rounds::{self, Rounds, Show};
use crate::turn::{Cell, Op};
use anyhow::{Result, ensure};
use protocol::base::ByteLen;

/// Measures copies, loopback TCP, shared memory, wake-ups and, with --only rdma, RDMA, between two processes that do nothing else.
///
/// The figures are what any server on this machine is to be held against: `compare --limits` takes them in the same
/// run as the servers. Values come scattered from a pool of 256 MiB and land in a ring of 64 MiB, so that neither end
/// is in a cache by accident.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Sizes of values.
    #[arg(long, value_delimiter = ',', default_value = "4KiB,64KiB,256KiB,1MiB,4MiB,16MiB")]
    pub(crate) sizes: Vec<ByteLen>,
    /// Numbers of clients, each a thread with a connection.
    #[arg(long, value_delimiter = ',', default_value = "1,2,8")]
    pub(crate) clients: Vec<usize>,
    /// Which parts to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "copy,tcp,shm,exchange")]
    pub(crate) only: Vec<Part>,
    /// Values a request of shared memory names at once, beside 1.
    #[arg(long, default_value_t = 16)]
    pub(crate) batch: usize,
    /// Rounds; figures are medians.
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Seconds of one turn.
    #[arg(long, default_value_t = 0.3)]
    pub(crate) seconds: f64,
    /// How much of each value is compared.
    #[arg(long, value_enum, default_value = "sample")]
    pub(crate) verify: Verify,
}

/// A part of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Copies within one process.
    Copy,
    /// A bare socket pair over loopback TCP.
    Tcp,
    /// Bare shared memory, requests over eventfd, TCP, and by spinning.
    Shm,
    /// 64 bytes there and back, by each way of waking the other side.
    Exchange,
    /// RDMA writes and reads by this machine's device.
    Rdma,
}

impl Args {
    fn cells(&self, ops: &[Op], pipelines: &[usize]) -> Vec<Cell> {
        let mut cells = Vec::new();
        for size in &self.sizes {
            for &op in ops {
                for &clients in &self.clients {
                    for &pipeline in pipelines {
                        cells.push(Cell {
                            op,
                            size: crate::number::index(size.get()),
                            clients,
                            pipeline,
                            keys: 1,
                            seconds: self.seconds,
                            verify: self.verify,
                        });
                    }
                }
            }
        }
        cells
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<Report> {
    ensure!(args.rounds > 0 && args.batch > 0, "at least one round and one value");
    ensure!(args.sizes.iter().all(|size| size.get() >= 64), "values of 64 bytes or more");
    let mut report = Report::new("What this machine allows");
    report
        .fact("rounds", format!("{} of {} s, medians; values compared: {:?}", args.rounds, args.seconds, args.verify));
    let mut all = Rounds::default();
    let has = |part| args.only.contains(&part);
    if has(Part::Copy) {
        let mut peers: Vec<Box<dyn Peer>> =
            vec![Box::new(BareCopy::new(CopyBy::Memcpy)), Box::new(BareCopy::new(CopyBy::Streaming))];
        let found = rounds::run(&mut peers, &args.cells(&[Op::Get], &[1]), args.rounds)?;
        report.tables.push(found.table("Copies: GB/s, thousands a second below 64 KiB", Show::Rate));
        report.tables.push(found.table("Copies: CPU, ms a GB, us a value below 64 KiB", Show::CpuByte));
        all.add(found);
    }
    if has(Part::Tcp) {
        let mut peers: Vec<Box<dyn Peer>> = vec![Box::<BareTcp>::default()];
        let found = rounds::run(&mut peers, &args.cells(&[Op::Get, Op::Set], &[1]), args.rounds)?;
        show_bulk(&mut report, &found, "Bare socket pair over loopback TCP");
        all.add(found);
    }
    if has(Part::Shm) {
        let mut peers: Vec<Box<dyn Peer>> = vec![
            Box::new(BareShm::new(Control::Eventfd, CopyBy::Memcpy)),
            Box::new(BareShm::new(Control::Eventfd, CopyBy::Streaming)),
            Box::new(BareShm::new(Control::Tcp, CopyBy::Memcpy)),
            Box::new(BareShm::new(Control::Spin, CopyBy::Memcpy)),
        ];
        let mut batches = vec![1, args.batch];
        batches.dedup();
        let found = rounds::run(&mut peers, &args.cells(&[Op::Get, Op::Set], &batches), args.rounds)?;
        show_bulk(&mut report, &found, "Bare shared memory");
        all.add(found);
    }
    if has(Part::Rdma) {
        let mut peers: Vec<Box<dyn Peer>> = vec![Box::<BareRdma>::default()];
        let cells = args.cells(&[Op::Get, Op::Set], &[1, args.batch]);
        let found = rounds::run(&mut peers, &cells, args.rounds)?;
        show_bulk(&mut report, &found, "Bare RDMA: reads (get) and writes (set)");
        all.add(found);
    }
    if has(Part::Exchange) {
        let controls = [Control::Spin, Control::Eventfd, Control::Unix, Control::Tcp];
        let mut peers: Vec<Box<dyn Peer>> =
            controls.into_iter().map(|control| Box::new(BareExchange::new(control)) as _).collect();
        let cells = Args { sizes: vec![ByteLen(64)], ..args.clone() }.cells(&[Op::Get], &[1]);
        let found = rounds::run(&mut peers, &cells, args.rounds)?;
        report.tables.push(found.table("Exchange of 64 bytes there and back: p50 / p99, us", Show::Latency));
        report.tables.push(found.table("Exchange of 64 bytes: thousands a second", Show::Ops));
        all.add(found);
    }
    finish(&mut report, &all)?;
    Ok(report)
}

fn show_bulk(report: &mut Report, found: &Rounds, what: &str) {
    report.tables.push(found.table(format!("{what}: GB/s, thousands a second below 64 KiB"), Show::Rate));
    report.tables.push(found.table(format!("{what}: p50 / p99, us (m: ms)"), Show::Latency));
    report
        .tables
        .push(found.table(format!("{what}: CPU of both sides, ms a GB, us a value below 64 KiB"), Show::CpuByte));
}

/// Puts the raw figures and the failures of a comparison into its report.
pub(crate) fn finish(report: &mut Report, found: &Rounds) -> Result<()> {
    for failure in &found.failures {
        eprintln!("failed: {failure}");
    }
    report.wrong_bytes += found.wrong;
    report.errors += found.failures.len() as u64;
    report.data = serde_json::to_value(found)?;
    report.plots = crate::chart::rates(found);
    Ok(())
}
