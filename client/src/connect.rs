//! Making a connection and attaching the best transport that both ends have.

use crate::ClientError;
use crate::link::{Deadline, Link, Wire};
use crate::options::{Address, Choice, Options};
use crate::rdma::{self, Adapter};
use crate::scan::{Unexpected, Walk};
use crate::session::{Bulk, Session, next_on};
use protocol::base::StableMemory as _;
use protocol::command::Attach;
use protocol::resp::Encoder;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use transport::shm::{BlockingRing, ClientBuffer, Mapping, Populate, RingFds, SpinBudget, map_read_only, map_writable};
use transport::tcp::BulkPool;
use transport::tcp::channel::{Channel, Wrap};
use transport::tcp::frame::Token;

/// What `NODE` answers, as far as it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Node {
    boot_id: String,
    unix_socket: String,
    bulk_port: u16,
}

/// What outlives a client's connections, made when the first needs it.
pub(crate) struct Own<'a> {
    /// Memory that shared-memory sessions lend.
    pub(crate) buffer: &'a mut Option<Arc<ClientBuffer>>,
    /// The RDMA device, with registered memory.
    pub(crate) adapter: &'a mut Option<Arc<Adapter>>,
}

/// Connects, authenticates, and attaches the transport that `options` ask for.
pub(crate) fn connect(
    options: &Options,
    number: u64,
    own: Own<'_>,
    deadline: Deadline,
) -> Result<Session, ClientError> {
    let mut link = open(options, &options.address, deadline)?;
    let bare = |link| Session {
        number,
        control: link,
        socket: None,
        bulk: Bulk::None,
        releases: Vec::new(),
        has_loaded: false,
    };
    if options.via == Choice::InBand {
        return Ok(bare(link));
    }
    let node = ask_node(&mut link, deadline)?;
    if matches!(options.via, Choice::Auto | Choice::Shm) {
        match attach_shm(options, &mut link, &node, own.buffer, deadline) {
            Ok(shm) => return Ok(Session { number, ..shm }),
            Err(error) if options.via == Choice::Shm || ends(&error) => return Err(error),
            Err(_) => {}
        }
    }
    if matches!(options.via, Choice::Auto | Choice::Rdma) {
        match rdma::attach(options, &mut link, own.adapter, deadline) {
            Ok(rdma) => return Ok(Session { bulk: Bulk::Rdma(Box::new(rdma)), ..bare(link) }),
            Err(error) if options.via == Choice::Rdma || error.breaks_connection() => return Err(error),
            // The server may have made its end of it.
            Err(_) => link.request_unheard(|out| {
                Encoder::encode(out, |out| {
                    out.word("DETACH");
                });
            }),
        }
    }
    match attach_tcp(options, &mut link, &node, deadline) {
        Ok(pool) => Ok(Session { bulk: Bulk::Tcp(pool), ..bare(link) }),
        Err(error) if options.via == Choice::Tcp || ends(&error) => Err(error),
        Err(_) => Ok(bare(link)),
    }
}

/// Whether another transport would not help: the control connection itself is at its end.
fn ends(error: &ClientError) -> bool {
    matches!(error, ClientError::Timeout { .. })
}

/// Connects to `address` and says who we are.
fn open(options: &Options, address: &Address, deadline: Deadline) -> Result<Link, ClientError> {
    let wire = match address {
        Address::Tcp(host) => Wire::Tcp(open_channel(options, host, deadline)?),
        Address::Unix(path) => Wire::Unix(open_unix(path)?),
    };
    let mut link = Link::new(wire, address.to_string().into(), options.reply_len_max);
    let mut expected = 0;
    if options.resp3 {
        link.request(|out| {
            Encoder::encode(out, |out| {
                out.word("HELLO").word("3");
                if let Some((user, password)) = &options.auth {
                    out.word("AUTH").word(user).word(password);
                }
            })
        });
        expected += 1;
    } else if let Some((user, password)) = &options.auth {
        link.request(|out| {
            Encoder::encode(out, |out| {
                out.word("AUTH").word(user).word(password);
            })
        });
        expected += 1;
    }
    if let Some(name) = &options.name {
        link.request(|out| {
            Encoder::encode(out, |out| {
                out.word("CLIENT").word("SETNAME").word(name);
            })
        });
        expected += 1;
    }
    link.flush(deadline)?;
    for _ in 0..expected {
        next_on(&mut link, deadline, |walk| walk.skip())?;
    }
    Ok(link)
}

/// A way to wrap connections to `host`, if that is wanted.
fn wrap_of(options: &Options, host: &str) -> Result<Option<Arc<dyn Wrap>>, ClientError> {
    let Some(tls) = &options.tls else { return Ok(None) };
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_start_matches('[').trim_end_matches(']');
    let ready = tls.ready(name).map_err(|source| ClientError::Connect { address: host.to_owned(), source })?;
    Ok(Some(ready))
}

fn open_channel(options: &Options, host: &str, deadline: Deadline) -> Result<Channel, ClientError> {
    let wrap = wrap_of(options, host)?;
    let socket = open_tcp(host, deadline)?;
    let left = deadline.at.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    Channel::open(socket, wrap.as_deref(), left)
        .map_err(|source| ClientError::Connect { address: host.to_owned(), source })
}

fn open_tcp(host: &str, deadline: Deadline) -> Result<TcpStream, ClientError> {
    let failed = |source| ClientError::Connect { address: host.to_owned(), source };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in host.to_socket_addrs().map_err(failed)? {
        let left = deadline.at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ClientError::Timeout { address: host.to_owned(), deadline: deadline.span });
        }
        match TcpStream::connect_timeout(&address, left).and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

fn open_unix(path: &Path) -> Result<UnixStream, ClientError> {
    UnixStream::connect(path).map_err(|source| ClientError::Connect { address: path.display().to_string(), source })
}

/// Asks what the node offers. A server that does not know the question offers nothing.
fn ask_node(link: &mut Link, deadline: Deadline) -> Result<Node, ClientError> {
    link.request(|out| {
        Encoder::encode(out, |out| {
            out.word("NODE");
        })
    });
    link.flush(deadline)?;
    match next_on(link, deadline, read_node) {
        Err(ClientError::Wire { .. }) => Ok(Node::default()),
        other => other,
    }
}

fn read_node(walk: &mut Walk<'_>) -> Result<Node, Unexpected> {
    let mut node = Node::default();
    for _ in 0..walk.map()? {
        match walk.bytes()? {
            b"boot-id" => walk.text()?.clone_into(&mut node.boot_id),
            b"unix-socket" => walk.text()?.clone_into(&mut node.unix_socket),
            b"bulk-port" => node.bulk_port = u16::try_from(walk.unsigned()?).map_err(|_| Unexpected("a port"))?,
            _ => walk.skip()?,
        }
    }
    Ok(node)
}

fn no_shm(reason: impl Into<String>) -> ClientError {
    ClientError::NoTransport { wanted: "shared memory", reason: reason.into() }
}

/// The server's Unix socket, if it is on this machine.
fn unix_socket(options: &Options, node: &Node) -> Result<PathBuf, ClientError> {
    if let Some(path) = &options.unix {
        return Ok(path.clone());
    }
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if node.boot_id.is_empty() || node.boot_id != boot_id.trim() {
        return Err(no_shm("the server is on another machine"));
    }
    if node.unix_socket.is_empty() {
        return Err(no_shm("the server has no Unix socket"));
    }
    Ok(PathBuf::from(&node.unix_socket))
}

fn attach_shm(
    options: &Options,
    link: &mut Link,
    node: &Node,
    buffer: &mut Option<Arc<ClientBuffer>>,
    deadline: Deadline,
) -> Result<Session, ClientError> {
    // Not `link` itself, even if it is one already: should this fail half-way, it is still good.
    let address = match link.unix() {
        Some(_) => options.address.clone(),
        None => Address::Unix(unix_socket(options, node)?),
    };
    let mut socket = open(options, &address, deadline)?;
    if buffer.is_none() && options.buffer_len > 0 {
        *buffer = Some(Arc::new(ClientBuffer::create(protocol::base::ByteLen(options.buffer_len))?));
    }
    let lent: Vec<_> = buffer.iter().map(|buffer| buffer.fd()).collect();
    let attach = Attach::Shm { buffers: u32::from(buffer.is_some()), compact: true };
    socket.request(|out| attach.encode(out));
    let (mut walk, fds) = socket.exchange_fds(&lent, deadline)?;
    if let Some(error) = walk.error() {
        return Err(no_shm(error.to_string()));
    }
    let attached = read_attached(&mut walk);
    let Attached { lens, in_place } = attached.map_err(|what| crate::link::unexpected(socket.address(), what))?;
    let ring_at = lens.len();
    if fds.len() != ring_at + RingFds::COUNT {
        let what = format!("{} segments and {} descriptors", ring_at, fds.len());
        return Err(socket.protocol_error(what));
    }
    let mut fds = fds.into_iter();
    let mut segments = Vec::with_capacity(ring_at);
    for (fd, len) in fds.by_ref().take(ring_at).zip(lens) {
        let map = if in_place { map_writable } else { map_read_only };
        segments.push(Arc::new(map(&fd, len, Populate::Lazy)?));
    }
    populate(&segments);
    let ring: Vec<OwnedFd> = fds.collect();
    let ring: [OwnedFd; RingFds::COUNT] = ring.try_into().map_err(|_| no_shm("no ring came"))?;
    let stream = socket.unix().ok_or_else(|| no_shm("descriptors need a Unix socket"))?;
    let ring = BlockingRing::open(RingFds::from(ring), stream, SpinBudget::new(options.spin))
        .map_err(|error| ClientError::ring(socket.address(), deadline.span, error))?;
    let control = Link::new(Wire::Ring(Box::new(ring)), Arc::clone(socket.address()), options.reply_len_max);
    Ok(Session {
        number: 0,
        control,
        socket: Some(socket),
        bulk: Bulk::Shm { segments, in_place },
        releases: Vec::new(),
        has_loaded: false,
    })
}

/// What `ATTACH SHM` answers, as far as it matters here.
#[derive(Debug, Default)]
struct Attached {
    /// The lengths of the segments, in the order of their descriptors.
    lens: Vec<usize>,
    /// Whether what is granted is written into the segments.
    in_place: bool,
}

fn read_attached(walk: &mut Walk<'_>) -> Result<Attached, Unexpected> {
    let mut attached = Attached::default();
    for _ in 0..walk.map()? {
        match walk.bytes()? {
            b"mode" => attached.in_place = walk.bytes()? == b"arena",
            b"segments" => {
                for at in 0..walk.array()? {
                    let (mut fd, mut len) = (None, None);
                    for _ in 0..walk.map()? {
                        match walk.bytes()? {
                            b"fd" => fd = Some(walk.unsigned()?),
                            b"length" => len = usize::try_from(walk.unsigned()?).ok(),
                            _ => walk.skip()?,
                        }
                    }
                    if fd != Some(at as u64) {
                        return Err(Unexpected("segments in the order of their descriptors"));
                    }
                    attached.lens.push(len.ok_or(Unexpected("a segment's length"))?);
                }
            }
            _ => walk.skip()?,
        }
    }
    Ok(attached)
}

fn attach_tcp(options: &Options, link: &mut Link, node: &Node, deadline: Deadline) -> Result<BulkPool, ClientError> {
    let none = |reason: String| ClientError::NoTransport { wanted: "bulk TCP", reason };
    if node.bulk_port == 0 && options.via == Choice::Auto {
        return Err(none("the server has no bulk port".into()));
    }
    link.request(|out| Attach::Tcp.encode(out));
    link.flush(deadline)?;
    let (token, port) = match next_on(link, deadline, read_token) {
        Err(ClientError::Wire { word, text }) => return Err(none(format!("{word} {text}"))),
        other => other?,
    };
    let ip = link.tcp_peer().map_or_else(|| std::net::Ipv4Addr::LOCALHOST.into(), |peer| peer.ip());
    let wrap = match &options.address {
        Address::Tcp(host) => wrap_of(options, host)?,
        Address::Unix(_) => None,
    };
    BulkPool::connect(SocketAddr::new(ip, port), token, options.streams, wrap, deadline.at)
        .map_err(|error| none(error.to_string()))
}

fn read_token(walk: &mut Walk<'_>) -> Result<(Token, u16), Unexpected> {
    let (mut token, mut port) = (None, None);
    for _ in 0..walk.map()? {
        match walk.bytes()? {
            b"token" => token = Token::parse_hex(walk.bytes()?),
            b"port" => port = u16::try_from(walk.unsigned()?).ok(),
            _ => walk.skip()?,
        }
    }
    token.zip(port).ok_or(Unexpected("a token and a port"))
}

/// Bytes entered in the page table at a time.
const POPULATE_STEP: usize = 2 << 20;

/// Enters the segments' pages in this process' page table, beside the first requests: a fault costs a small read more than
/// its copy. Ends with the session. Without the thread, or on an old kernel, the first touch of each page pays.
fn populate(segments: &[Arc<Mapping>]) {
    let segments: Vec<std::sync::Weak<Mapping>> = segments.iter().map(Arc::downgrade).collect();
    let walk = move || {
        let _ = rustix::process::nice(10);
        for segment in segments {
            let mut offset = 0;
            while let Some(mapping) = segment.upgrade().filter(|mapping| offset < mapping.as_ref().len()) {
                if mapping.populate(offset, POPULATE_STEP).is_err() {
                    return;
                }
                offset += POPULATE_STEP;
            }
        }
    };
    let _ = std::thread::Builder::new().name("mooncake-populate".to_owned()).spawn(walk);
}
