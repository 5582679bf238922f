//! Listeners: who may connect, and which worker serves them.

use crate::bulk;
use crate::config::TlsClients;
use crate::conn::stream::{Stream, UnixPart};
use crate::conn::{Conn, Exit};
use crate::node::{Addresses, Node};
use crate::session::{Bond, ClientInfo, ReplyMode, Session};
use anyhow::Context as _;
use protocol::base::SessionId;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream, UnixListener};

/// Connections that the kernel may hold until they are accepted.
const BACKLOG: i32 = 1024;
/// Pause after the process ran out of descriptors, so that the accept loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Pause between two complaints about that.
const COMPLAIN_EVERY: Duration = Duration::from_secs(5);

/// The sockets of a node, bound and not yet served.
#[derive(Debug)]
pub(crate) struct Listeners {
    resp: std::net::TcpListener,
    bulk: Option<std::net::TcpListener>,
    unix: Option<std::os::unix::net::UnixListener>,
    tls: Option<std::net::TcpListener>,
    /// Served by [`crate::http`].
    pub(crate) metrics: Option<std::net::TcpListener>,
}

fn bind(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A socket file may be left from a killed server; anything else there is somebody's.
fn bind_unix(path: &Path) -> anyhow::Result<std::os::unix::net::UnixListener> {
    if let Ok(found) = std::fs::symlink_metadata(path) {
        anyhow::ensure!(found.file_type().is_socket(), "{} exists and is no socket", path.display());
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            anyhow::bail!("{} is served by another process: choose another `unix-socket`", path.display());
        }
        std::fs::remove_file(path).with_context(|| format!("remove the stale socket {}", path.display()))?;
    }
    let listener =
        std::os::unix::net::UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("restrict {}", path.display()))?;
    listener.set_nonblocking(true).context("listen on the Unix socket")?;
    Ok(listener)
}

impl Listeners {
    /// Binds every address of the configuration and publishes them.
    pub(crate) fn bind(node: &Node) -> anyhow::Result<Self> {
        let config = node.config.read();
        let resp = bind(config.listen).with_context(|| {
            format!(
                "listen on {}: is another server there? (`--port` or `listen` choose another address)",
                config.listen
            )
        })?;
        let resp_addr = resp.local_addr().context("own address")?;
        let bulk = config
            .bulk_addr(resp_addr.port())
            .map(|addr| bind(addr).with_context(|| format!("listen on {addr} for bulk TCP (`bulk-listen`)")))
            .transpose()?;
        let unix_path = config.unix_socket_path(resp_addr.port());
        let unix = unix_path.as_deref().map(bind_unix).transpose()?;
        let metrics = config
            .metrics_addr(resp_addr.port())
            .map(|addr| bind(addr).with_context(|| format!("listen on {addr} for metrics (`metrics-listen`)")))
            .transpose()?;
        let tls = config
            .tls_listen
            .map(|addr| bind(addr).with_context(|| format!("listen on {addr} for TLS (`tls-listen`)")))
            .transpose()?;
        let addresses = Addresses {
            tls: tls.as_ref().and_then(|tls| tls.local_addr().ok()),
            metrics: metrics.as_ref().and_then(|metrics| metrics.local_addr().ok()),
            resp: Some(resp_addr),
            bulk: bulk.as_ref().and_then(|bulk| bulk.local_addr().ok()),
            unix: unix_path,
        };
        node.addresses.set(addresses).expect("a node listens once");
        Ok(Self { resp, bulk, unix, tls, metrics })
    }

    /// Serves all of them until the node stops.
    pub(crate) async fn serve(self, node: Arc<Node>) -> io::Result<()> {
        let resp = TcpListener::from_std(self.resp)?;
        let bulk = self.bulk.map(TcpListener::from_std).transpose()?;
        let unix = self.unix.map(UnixListener::from_std).transpose()?;
        let tls = self.tls.map(TcpListener::from_std).transpose()?;
        tokio::select! {
            () = accept_resp(&node, resp, false) => {}
            () = async { match tls { Some(tls) => accept_resp(&node, tls, true).await, None => std::future::pending().await } } => {}
            () = async { match bulk { Some(bulk) => accept_bulk(&node, bulk).await, None => std::future::pending().await } } => {}
            () = async { match unix { Some(unix) => accept_unix(&node, unix).await, None => std::future::pending().await } } => {}
            () = node.stopped() => {}
        }
        if let Some(path) = &node.addresses().unix {
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }
}

/// Waits for descriptors, and says so now and then.
async fn pause(error: io::Error, said: &mut Option<Instant>) {
    if said.is_none_or(|said| said.elapsed() >= COMPLAIN_EVERY) {
        *said = Some(Instant::now());
        tracing::warn!(%error, "cannot accept: raise the limit on open files (LimitNOFILE, ulimit -n) or lower maxclients");
    }
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Takes RESP connections, which begin with a handshake if the port is `secure`.
async fn accept_resp(node: &Arc<Node>, listener: TcpListener, secure: bool) {
    let mut said = None;
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                let laddr = socket.local_addr().map(|addr| addr.to_string()).unwrap_or_default();
                let fd = socket.as_raw_fd();
                tune(&socket, node);
                if is_protected(node, secure) && !peer.ip().is_loopback() {
                    // One who awaits a handshake understands nothing else.
                    if secure {
                        continue;
                    }
                    refuse(&Incoming::Tcp(socket), b"-DENIED this server is in protected mode: set `requirepass`, or connect from the same host, or set `protected-mode = false` if every client is trusted\r\n");
                    continue;
                }
                let incoming = if secure { Incoming::Tls(socket) } else { Incoming::Tcp(socket) };
                admit(node, incoming, peer.to_string(), laddr, fd);
            }
            Err(error) => pause(error, &mut said).await,
        }
    }
}

/// Whether clients of other machines are refused: nobody would ask them who they are.
fn is_protected(node: &Node, secure: bool) -> bool {
    let config = node.config.read();
    config.protected_mode
        && !node.hot.needs_auth.load(std::sync::atomic::Ordering::Relaxed)
        && !(secure && config.tls_auth_clients == TlsClients::Yes)
}

async fn accept_unix(node: &Arc<Node>, listener: UnixListener) {
    let mut said = None;
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let path = node.addresses().unix.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
                let fd = socket.as_raw_fd();
                admit(node, Incoming::Unix(socket), format!("{path}:0"), path, fd);
            }
            Err(error) => pause(error, &mut said).await,
        }
    }
}

async fn accept_bulk(node: &Arc<Node>, listener: TcpListener) {
    let mut said = None;
    let mut next = 0;
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let Some(seat) = node.bulk.seat(node.config.read().maxclients) else {
                    node.stats.rejected.add(1);
                    continue;
                };
                tune(&socket, node);
                let Ok(socket) = socket.into_std() else { continue };
                next = (next + 1) % node.workers().len();
                let serving = Arc::clone(node);
                node.workers().spawn(next, async move {
                    match TcpStream::from_std(socket) {
                        Ok(socket) => bulk::serve(serving, socket, seat).await,
                        Err(error) => tracing::warn!(%error, "adopt a bulk connection"),
                    }
                });
            }
            Err(error) => pause(error, &mut said).await,
        }
    }
}

fn tune(socket: &TcpStream, node: &Node) {
    let _ = socket.set_nodelay(true);
    let seconds = node.config.read().tcp_keepalive.0;
    if seconds > 0 {
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(seconds))
            .with_interval(Duration::from_secs(seconds.div_ceil(3)));
        let _ = SockRef::from(socket).set_tcp_keepalive(&keepalive);
    }
}

fn refuse(incoming: &Incoming, words: &[u8]) {
    // One small write into an empty socket buffer: it fits, or the peer has gone.
    let _ = match incoming {
        Incoming::Tcp(socket) => socket.try_write(words),
        Incoming::Unix(socket) => socket.try_write(words),
        Incoming::Tls(_) => return,
    };
}

enum Incoming {
    Tcp(TcpStream),
    Unix(tokio::net::UnixStream),
    /// TCP, before its handshake.
    Tls(TcpStream),
}

fn admit(node: &Arc<Node>, incoming: Incoming, addr: String, laddr: String, fd: i32) {
    node.stats.connections.add(1);
    if node.clients.len() >= node.config.read().maxclients {
        node.stats.rejected.add(1);
        refuse(&incoming, b"-ERR max number of clients reached\r\n");
        return;
    }
    let id = node.clients.take_id();
    let client = ClientInfo::new(id, addr, laddr, fd, node.now_ms());
    node.clients.insert(Arc::clone(&client));
    let secure = matches!(incoming, Incoming::Tls(_));
    let bond = Bond::new(SessionId(rand::random()), secure);
    client.bind(&bond);
    let session = Session {
        authenticated: node.log_in_unasked(&client),
        node: Arc::clone(node),
        bond,
        client,
        reply_mode: ReplyMode::On,
        multi: None,
        watched: Vec::new(),
        listening: None,
        owns_bond: true,
    };
    let worker = node.workers().place();
    let detached = match incoming {
        Incoming::Tcp(socket) | Incoming::Tls(socket) => Stream::Tcp(socket).detach(),
        Incoming::Unix(socket) => Stream::Unix(UnixPart::new(socket)).detach(),
    };
    let Ok(detached) = detached else { return };
    let client = Arc::clone(&session.client);
    let task = node.workers().spawn(worker, async move {
        match detached.attach() {
            Ok(Stream::Tcp(socket)) if secure => {
                let node = Arc::clone(&session.node);
                let limit = node.config.read().progress_ms.duration();
                if let Some(socket) = node.tls.accept(&node, socket, limit).await {
                    drive(Conn::new(Stream::Tls(Box::new(socket)), session, worker), 0).await;
                }
            }
            Ok(stream) => drive(Conn::new(stream, session, worker), 0).await,
            Err(error) => tracing::warn!(%error, "adopt a connection"),
        }
    });
    client.served_by(0, task.abort_handle());
}

/// Serves a connection here, where it came by `moves` moves, then wherever it moves.
async fn drive(conn: Conn, moves: u64) {
    let client = Arc::clone(conn.client());
    let Exit::Move(moving, target) = conn.serve().await else { return };
    let node = moving.node();
    let moved = Arc::clone(&client);
    let task = node.workers().spawn(target, go_on(*moving, target, moves + 1));
    moved.served_by(moves + 1, task.abort_handle());
}

fn go_on(moving: crate::conn::Moving, target: usize, moves: u64) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        match moving.attach() {
            Ok(mut conn) => {
                conn.worker(target);
                drive(conn, moves).await;
            }
            Err(error) => tracing::warn!(%error, "adopt a connection"),
        }
    })
}
