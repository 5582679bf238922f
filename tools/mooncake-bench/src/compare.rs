//! `compare`: the same work for several servers, taking turns.

use crate::bare::control::Control;
use crate::bare::rdma::BareRdma;
use crate::limits::finish;
use crate::memory::CopyBy;
use crate::number::index;
use crate::payload::Verify;
use crate::peer::{BareCopy, BareExchange, BareShm, BareTcp, Peer, RespPeer};
use crate::report::Report;
use crate::rounds::{self, Rounds, Show};
use crate::server::{Running, Server, ToStart, found};
use crate::session::Way;
use crate::shm_peer::{RingExchange, ShmPeer};
use crate::turn::{Cell, Op, Turn};
use anyhow::{Context, Result, ensure};
use protocol::base::ByteLen;
use std::path::PathBuf;
use std::time::Duration;

/// Lets servers do the same in-band work in turns, and says what each does beside the others.
///
/// For every cell (operation, size, clients, pipeline) the peers take turns, in an order that rotates, some rounds;
/// figures are medians of the rounds, ratios medians of the per-round ratios. All are driven by one client, which
/// receives bodies straight into a ring of 64 MiB, sends from such a ring, and compares what arrives.
///
/// Without --peer and --start it starts mooncake-server from beside this program, and redis-server and valkey-server
/// where they are on the search path.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A server that runs already; with its process id, its CPU time counts.
    #[arg(long = "peer", value_name = "NAME=HOST:PORT[:PID]")]
    peers: Vec<Running>,
    /// A server to start on a free port: {port} stands for it. A command without {port} gets redis-server's options.
    #[arg(long = "start", alias = "server", value_name = "NAME=COMMAND")]
    start: Vec<ToStart>,
    /// Which of the peers the ratios are of. The first one by default.
    #[arg(long, value_name = "NAME")]
    ours: Option<String>,
    /// Let the bare socket pair of `limits` take part.
    #[arg(long)]
    limits: bool,
    /// Which cells.
    #[arg(long, value_enum, default_value = "bulk")]
    suite: Suite,
    /// Sizes of large values.
    #[arg(long, value_delimiter = ',', default_value = "64KiB,256KiB,1MiB,4MiB,16MiB")]
    sizes: Vec<ByteLen>,
    /// Clients of large values, each a thread with a connection.
    #[arg(long, value_delimiter = ',', default_value = "1,2,8")]
    clients: Vec<usize>,
    /// Sizes of small values.
    #[arg(long, value_delimiter = ',', default_value = "100,4KiB")]
    small_sizes: Vec<ByteLen>,
    /// Connections of small values, all served by one thread.
    #[arg(long, value_delimiter = ',', default_value = "1,50")]
    small_clients: Vec<usize>,
    /// Requests in flight on each connection of small values.
    #[arg(long, value_delimiter = ',', default_value = "1,16")]
    pipelines: Vec<usize>,
    /// Sizes of values in shared memory.
    #[arg(long, value_delimiter = ',', default_value = "4KiB,64KiB,256KiB,1MiB,4MiB,16MiB")]
    shm_sizes: Vec<ByteLen>,
    /// Clients of shared memory, each a thread with a session.
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    shm_clients: Vec<usize>,
    /// Values in one request of shared memory, beside 1.
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// What is done.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "get,set")]
    ops: Vec<Op>,
    /// Rounds of turns for each cell.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one turn.
    #[arg(long, default_value_t = 0.4)]
    seconds: f64,
    /// Bytes of distinct values on each server.
    #[arg(long, default_value = "256MiB")]
    working_set: ByteLen,
    /// Distinct values on each server at most.
    #[arg(long, default_value_t = 8192)]
    keys_max: usize,
    /// How much of each value is compared.
    #[arg(long, value_enum, default_value = "sample")]
    verify: Verify,
    /// Memory of a mooncake-server that is started here.
    #[arg(long, default_value = "2GiB")]
    dram: ByteLen,
    /// Write the report as Markdown to this file.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

const EXAMPLES: &str = "Examples:
  mooncake-bench compare --limits
  mooncake-bench compare --peer mooncake=127.0.0.1:6379:PID --peer redis=127.0.0.1:6380:PID
  mooncake-bench compare --start redis=redis-server --start valkey=valkey-server --suite small
  mooncake-bench compare --suite docs --out docs/performance.md";

/// Which cells are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Suite {
    /// Large values in-band.
    Bulk,
    /// Small values in-band, many connections, pipelines.
    Small,
    /// Values in shared memory, one at a time and in batches, beside bare shared memory.
    Shm,
    /// Values by RDMA, one at a time and in batches, beside bare RDMA writes and reads.
    Rdma,
    /// Bulk and small.
    All,
    /// All of it with the machine's limits: the tables of docs/performance.md.
    Docs,
}

impl Suite {
    fn has(self, part: Self) -> bool {
        match part {
            Self::Bulk | Self::Small => matches!(self, Self::All | Self::Docs) || self == part,
            Self::Shm => matches!(self, Self::Shm | Self::Docs),
            Self::Rdma | Self::All | Self::Docs => self == part,
        }
    }
}

impl Args {
    fn cell(&self, op: Op, size: ByteLen, clients: usize, pipeline: usize) -> Cell {
        let size = index(size.get());
        // Enough keys that each client of a set has slots of its own.
        let keys = (index(self.working_set.get()) / size).clamp(clients.max(8) * 2, self.keys_max.max(16));
        Cell { op, size, clients, pipeline, keys, seconds: self.seconds, verify: self.verify }
    }

    fn cells(&self, sizes: &[ByteLen], clients: &[usize], pipelines: &[usize]) -> Vec<Cell> {
        let mut cells = Vec::new();
        for &size in sizes {
            for &op in &self.ops {
                for &clients in clients {
                    for &pipeline in pipelines {
                        cells.push(self.cell(op, size, clients, pipeline));
                    }
                }
            }
        }
        cells
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<Report> {
    ensure!(args.rounds > 0, "at least one round");
    ensure!(args.seconds > 0.0, "turns take some time");
    ensure!(args.keys_max >= 100, "at least 100 keys");
    let servers = servers(args)?;
    let ours = args.ours.clone().unwrap_or_else(|| servers[0].name.clone());
    ensure!(servers.iter().any(|server| server.name == ours), "--ours {ours}: no such peer");
    let names: Vec<&str> = servers.iter().map(|server| server.name.as_str()).collect();
    let mut report = Report::new(if args.suite == Suite::Docs { "Performance" } else { "Comparison" });
    report.fact("peers", names.join(", "));
    report.fact(
        "method",
        format!(
            "peers take turns, {} rounds of {} s, medians of the rounds; {} of distinct values; values compared: {:?}",
            args.rounds, args.seconds, args.working_set, args.verify
        ),
    );
    let mut all = Rounds::default();
    if args.suite.has(Suite::Bulk) {
        let mut peers = resp_peers(&servers);
        if args.limits || args.suite == Suite::Docs {
            peers.push(Box::<BareTcp>::default());
        }
        let found = rounds::run(&mut peers, &args.cells(&args.sizes, &args.clients, &[1]), args.rounds)?;
        report.tables.push(found.table("In-band, large values: GB/s", Show::Rate));
        report.tables.push(found.ratios("In-band, large values: rate beside the others", &ours, Turn::gb_a_second));
        report.tables.push(found.table("In-band, large values: p50 / p99, us (m: ms)", Show::Latency));
        report.tables.push(found.table("In-band, large values: CPU of both sides, ms a GB", Show::CpuByte));
        let cpu = "In-band, large values: CPU a byte beside the others";
        report.tables.push(found.ratios(cpu, &ours, Turn::cpu_ms_a_gb));
        all.add(found);
    }
    if args.suite.has(Suite::Small) {
        let cells = args.cells(&args.small_sizes, &args.small_clients, &args.pipelines);
        let found = rounds::run(&mut resp_peers(&servers), &cells, args.rounds)?;
        report.tables.push(found.table("In-band, small values: thousands a second", Show::Ops));
        report.tables.push(found.ratios("In-band, small values: rate beside the others", &ours, Turn::ops_a_second));
        report.tables.push(found.table("In-band, small values: p50 / p99 of one pipeline, us", Show::Latency));
        report.tables.push(found.table("In-band, small values: CPU of both sides, us a request", Show::CpuOp));
        report.tables.push(found.table("In-band, small values: CPU of the server, us a request", Show::ServerCpuOp));
        let cpu = "In-band, small values: CPU of the server a request, beside the others";
        report.tables.push(found.ratios(cpu, &ours, Turn::server_cpu_us_an_op));
        all.add(found);
    }
    if args.suite.has(Suite::Shm) {
        all.add(shm(args, &servers, &ours, &mut report)?);
    }
    if args.suite.has(Suite::Rdma) {
        all.add(rdma(args, &servers, &ours, &mut report)?);
    }
    finish(&mut report, &all)?;
    if let Some(path) = &args.out {
        std::fs::write(path, page(&report)).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(report)
}

fn shm(args: &Args, servers: &[Server], ours: &str, report: &mut Report) -> Result<Rounds> {
    let server = servers.iter().find(|server| server.name == ours).context("our server")?;
    let pids: Vec<u32> = server.pid.into_iter().collect();
    let mut peers: Vec<Box<dyn Peer>> = vec![
        Box::new(ShmPeer::new(ours, Way::Shm, server.endpoint.clone(), pids.clone())),
        Box::new(BareShm::new(Control::Eventfd, CopyBy::Memcpy)),
        Box::new(BareShm::new(Control::Tcp, CopyBy::Memcpy)),
        Box::new(BareCopy::new(CopyBy::Memcpy)),
        Box::new(BareCopy::new(CopyBy::Streaming)),
    ];
    peers.extend(resp_peers(servers.iter().filter(|server| server.name != ours)));
    let cells = args.cells(&args.shm_sizes, &args.shm_clients, &[1, args.batch]);
    let mut found = rounds::run(&mut peers, &cells, args.rounds)?;
    let shm_name = format!("{ours}-shm");
    report.tables.push(found.table("Shared memory: GB/s, thousands a second below 64 KiB", Show::Rate));
    report.tables.push(found.ratios("Shared memory: rate beside the others", &shm_name, Turn::gb_a_second));
    report.tables.push(found.table("Shared memory: p50 / p99, us (m: ms)", Show::Latency));
    report
        .tables
        .push(found.table("Shared memory: CPU of both sides, ms a GB, us a value below 64 KiB", Show::CpuByte));
    let mut exchange: Vec<Box<dyn Peer>> = vec![
        Box::new(RingExchange::new(ours, server.endpoint.clone(), pids.clone(), None)),
        Box::new(RingExchange::new(ours, server.endpoint.clone(), pids, Some(Duration::ZERO))),
        Box::new(BareExchange::new(Control::Eventfd)),
    ];
    let cells = [args.cell(Op::Get, ByteLen(64), 1, 1), args.cell(Op::Get, ByteLen(64), 2, 1)];
    let control = rounds::run(&mut exchange, &cells, args.rounds)?;
    report.tables.push(control.table("Control: 64 bytes there and back, p50 / p99, us", Show::Latency));
    let ring_name = format!("{ours}-ring");
    let p50 = |turn: &Turn| turn.latency.p50_us;
    report.tables.push(control.ratios("Control: p50 beside the others (less is better)", &ring_name, p50));
    found.add(control);
    Ok(found)
}

fn rdma(args: &Args, servers: &[Server], ours: &str, report: &mut Report) -> Result<Rounds> {
    let server = servers.iter().find(|server| server.name == ours).context("our server")?;
    let pids: Vec<u32> = server.pid.into_iter().collect();
    let mut peers: Vec<Box<dyn Peer>> =
        vec![Box::new(ShmPeer::new(ours, Way::Rdma, server.endpoint.clone(), pids)), Box::<BareRdma>::default()];
    let found = rounds::run(&mut peers, &args.cells(&args.sizes, &args.clients, &[1, args.batch]), args.rounds)?;
    let name = format!("{ours}-rdma");
    report.tables.push(found.table("RDMA: GB/s", Show::Rate));
    report.tables.push(found.ratios("RDMA: rate beside bare writes and reads", &name, Turn::gb_a_second));
    report.tables.push(found.table("RDMA: p50 / p99, us (m: ms)", Show::Latency));
    report.tables.push(found.table("RDMA: CPU of the server, us a value", Show::ServerCpuOp));
    Ok(found)
}

fn servers(args: &Args) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    let to_start = if args.peers.is_empty() && args.start.is_empty() {
        found(&args.dram.get().to_string())
    } else {
        args.start.clone()
    };
    for to_start in &to_start {
        servers.push(Server::start(to_start)?);
    }
    for running in &args.peers {
        servers.push(Server::running(running)?);
    }
    ensure!(
        !servers.is_empty(),
        "nobody to compare: no mooncake-server beside this program, no redis-server on the path"
    );
    Ok(servers)
}

fn resp_peers<'a>(servers: impl IntoIterator<Item = &'a Server>) -> Vec<Box<dyn Peer>> {
    let peer = |server: &Server| {
        Box::new(RespPeer::new(server.name.clone(), server.endpoint.clone(), server.pid.into_iter().collect()))
            as Box<dyn Peer>
    };
    servers.into_iter().map(peer).collect()
}

/// The report as a page of the documentation.
fn page(report: &Report) -> String {
    let told = report.markdown();
    let body = told.strip_prefix("## ").unwrap_or(&told);
    let verdict = match (report.wrong_bytes, report.errors) {
        (0, 0) => "No byte was wrong and no operation failed.".to_owned(),
        (wrong, errors) => format!("{wrong} values had wrong bytes, {errors} operations failed."),
    };
    format!(
        "# {body}\n{verdict}\n\nWritten by `mooncake-bench compare --suite docs --out docs/performance.md`; a figure is good for a \
         ratio within one run on this machine, not as an absolute.\n"
    )
}
