//! A node's life from start to stop.

use crate::config::{Config, Value as _};
use crate::http::Http;
use crate::listen::Listeners;
use crate::loading;
use crate::node::{Node, Surroundings};
use crate::rdma;
use crate::supervise::Supervised;
use crate::upkeep;
use crate::worker::Workers;
use anyhow::Context as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use storage::Pages;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Runs a node until a signal or `SHUTDOWN` ends it. `file` is where the configuration came from, for `CONFIG REWRITE`;
/// `surroundings` what its process does for it.
///
/// # Errors
/// When it cannot start.
pub fn run(config: Config, file: Option<PathBuf>, surroundings: Surroundings) -> anyhow::Result<()> {
    let node = Node::new(config)?;
    node.surroundings.set(surroundings).expect("a node starts once");
    if let Some(file) = file {
        // The directory may not be the same for ever.
        let file = std::path::absolute(&file).unwrap_or(file);
        node.config_file.set(file).expect("a node starts once");
    }
    let workers = Workers::start(node.config.read().worker_count())?;
    node.workers.set(workers).expect("a node starts once");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the control runtime")?;
    let signals = {
        let _inside = runtime.enter();
        Signals::catch()
    };
    let mut listeners = Listeners::bind(&node)?;
    let _http = listeners.metrics.take().map(|listener| Http::start(&node, listener)).transpose()?;
    announce(&node);
    let _supervised = Supervised::start(&node);
    let _pid_file = PidFile::write(&node)?;
    let prefault = start_prefault(&node)?;
    let registering = rdma::start(&node)?;
    let loading = loading::start(&node)?;

    let served = runtime.block_on(async {
        let upkeep = tokio::spawn(upkeep::run(Arc::clone(&node)));
        let signals = tokio::spawn(signals.watch(Arc::clone(&node)));
        let served = listeners.serve(Arc::clone(&node)).await;
        node.shut_down();
        node.drain().await;
        signals.abort();
        upkeep.abort();
        served
    });
    tracing::info!("stopping: {} connections end, what they were lent comes back", node.clients.len());
    node.workers().stop();
    for thread in prefault.into_iter().chain(registering) {
        let _ = thread.join();
    }
    node.rdma.stop();
    // A tier that is still being recovered is first recovered, then closed.
    let recovered = loading.join().unwrap_or_else(|_| anyhow::bail!("recovery panicked"));
    node.close_flash(node.saves());
    node.leave_memory();
    tracing::info!("stopped");
    recovered?;
    served.context("serve")
}

fn announce(node: &Node) {
    let addresses = node.addresses();
    let config = node.config.read();
    let pages = node.segments.first().map(|segment| segment.pages());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        dram = %config.dram_total(),
        segments = node.segments.len(),
        huge_pages = pages == Some(Pages::Huge),
        workers = node.workers().len(),
        shards = config.shard_count(),
        "node {}",
        node.id
    );
    if let Some(addr) = addresses.resp {
        tracing::info!("RESP on {addr}: redis-cli -h {} -p {}", addr.ip(), addr.port());
    }
    if let Some(addr) = addresses.bulk {
        tracing::info!("bulk TCP on {addr}");
    }
    if let Some(addr) = addresses.tls {
        tracing::info!("RESP over TLS on {addr}, client certificates: {}", config.tls_auth_clients.render());
    }
    if let Some(path) = &addresses.unix {
        tracing::info!("shared memory and RESP on {}", path.display());
    }
    if let Some(addr) = addresses.metrics {
        let scheme = if config.tls_metrics { "https" } else { "http" };
        tracing::info!("metrics, health and status page on {scheme}://{addr}/");
    }
    if addresses.resp.is_some_and(|addr| !addr.ip().is_loopback()) && !node.users.ask() && !config.protected_mode {
        tracing::warn!("anybody who reaches this address can read and write everything: set `requirepass`");
    }
}

/// Touches every page beside requests, so that none of them pays for a fault.
fn start_prefault(node: &Arc<Node>) -> anyhow::Result<Vec<std::thread::JoinHandle<()>>> {
    let threads = node.config.read().worker_count().clamp(1, 16);
    let touchers = node.locality.touchers(threads).into_iter().enumerate();
    touchers
        .map(|(number, toucher)| {
            let node = Arc::clone(node);
            std::thread::Builder::new()
                .name(format!("prefault-{number}"))
                .spawn(move || {
                    // As little of the machine as requests leave over.
                    let _ = rustix::process::nice(10);
                    toucher.settle();
                    for &at in &toucher.segments {
                        use protocol::base::StableMemory as _;
                        let segment = &node.segments[at];
                        if node.is_stopping() {
                            return;
                        }
                        match segment.prefault(toucher.part, toucher.parts) {
                            Ok(()) => {
                                // Shares that add up to all of it, however it divides.
                                let up_to = |part| segment.len() as u64 * part as u64 / toucher.parts as u64;
                                let share = up_to(toucher.part + 1) - up_to(toucher.part);
                                node.prefaulted_of[at].fetch_add(share, Ordering::Relaxed);
                                node.prefaulted.fetch_add(share, Ordering::Relaxed);
                            }
                            Err(error) => {
                                tracing::error!(%error, "prefault: the machine has less memory than `dram` asks for");
                                return;
                            }
                        }
                    }
                })
                .context("start prefaulting")
        })
        .collect()
}

/// The signals that mean something, caught from before the node is announced.
struct Signals {
    term: Option<Signal>,
    int: Option<Signal>,
    hangup: Option<Signal>,
}

impl Signals {
    /// Catches them. Called within the runtime that will hear them.
    fn catch() -> Self {
        // A file that may not grow (`ulimit -f`) is an error of that write, not the end: with any handler at all, EFBIG comes.
        if let Err(error) = signal(SignalKind::from_raw(libc::SIGXFSZ)) {
            tracing::warn!("SIGXFSZ cannot be handled, a limit on file sizes would end the server: {error}");
        }
        let catch =
            |kind, name| signal(kind).inspect_err(|error| tracing::error!("{name} cannot be handled: {error}")).ok();
        Self {
            term: catch(SignalKind::terminate(), "SIGTERM"),
            int: catch(SignalKind::interrupt(), "SIGINT"),
            hangup: catch(SignalKind::hangup(), "SIGHUP"),
        }
    }

    async fn watch(mut self, node: Arc<Node>) {
        // The first signal asks for an end, the second for one that waits for nobody.
        let mut ends = 0;
        while ends < 2 {
            tokio::select! {
                () = next(&mut self.term) => tracing::info!("SIGTERM"),
                () = next(&mut self.int) => tracing::info!("SIGINT"),
                () = next(&mut self.hangup) => {
                    node.reload();
                    continue;
                }
            }
            ends += 1;
            if ends == 1 { node.shut_down() } else { node.hurry() }
        }
    }
}

/// Waits for a signal; for ever if it cannot be caught.
async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// A file with our process id, gone when the node stops.
struct PidFile(Option<std::path::PathBuf>);

impl PidFile {
    fn write(node: &Node) -> anyhow::Result<Self> {
        let path = node.config.read().pid_file.clone();
        if let Some(path) = &path {
            std::fs::write(path, format!("{}\n", std::process::id()))
                .with_context(|| format!("write {}", path.display()))?;
        }
        Ok(Self(path))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}
