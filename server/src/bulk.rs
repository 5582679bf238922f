//! Bulk TCP: one-sided reads and writes in frames, applied here.
//!
//! Invariants:
//! - A connection says hello with a session's token first; it ends with the session.
//! - A write is acknowledged when its bytes lie in the slot. The slot stays while they arrive, also if the grant ends
//!   meanwhile.
//! - A malformed frame ends the connection; a refused one does not, and its payload is thrown away.

use crate::node::Node;
use crate::session::Bond;
use parking_lot::Mutex;
use protocol::base::Crc;
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Weak};
use std::time::Duration;
use storage::StoreError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use transport::tcp::frame::{HEADER_LEN, Request, RequestHeader, ResponseHeader, Status, Token};

/// Bytes of a write received by one call.
const RECEIVE_LEN_MAX: usize = 256 * 1024;
/// Bytes of a read handed to the socket by one call.
const SEND_LEN_MAX: usize = 1 << 20;

/// Tokens of bulk sessions, and whose they are.
#[derive(Debug, Default)]
pub(crate) struct BulkSessions(Mutex<HashMap<[u8; 16], Weak<Bond>>>);

impl BulkSessions {
    /// Opens a bulk session for a client, or finds the one it has.
    pub(crate) fn open(&self, bond: &Arc<Bond>) -> Token {
        if let Some(token) = bond.token() {
            return token;
        }
        let token = Token::random();
        self.0.lock().insert(token.0, Arc::downgrade(bond));
        bond.set_token(Some(token));
        token
    }

    /// Sessions that are open.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }

    pub(crate) fn forget(&self, token: Token) {
        self.0.lock().remove(&token.0);
    }

    fn find(&self, token: Token) -> Option<Arc<Bond>> {
        self.0.lock().get(&token.0).and_then(Weak::upgrade).filter(|bond| !bond.is_closed())
    }
}

/// Waits for one step of a transfer; `TimedOut` when nothing moved for too long.
async fn within<T>(limit: Duration, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, step).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Serves one bulk connection: hello, then frames until it ends.
pub(crate) async fn serve(node: Arc<Node>, mut socket: TcpStream) {
    let patience = node.config.read().progress_ms.duration();
    let hello = within(patience, read_header(&mut socket)).await;
    let Ok(Some(hello)) = hello else { return };
    let Request::Hello { token } = hello.request else {
        let _ = respond(&mut socket, hello.refused(Status::Denied), patience).await;
        return;
    };
    let Some(bond) = node.bulk.find(token) else {
        let _ = respond(&mut socket, hello.refused(Status::Denied), patience).await;
        return;
    };
    let task = tokio::spawn({
        let bond = Arc::clone(&bond);
        async move {
            let mut bulk = Bulk { node, bond, socket, patience };
            if let Err(error) = bulk.run(hello).await {
                tracing::debug!(%error, "bulk connection ended");
            }
        }
    });
    bond.adopt(task.abort_handle());
}

struct Bulk {
    node: Arc<Node>,
    bond: Arc<Bond>,
    socket: TcpStream,
    patience: Duration,
}

async fn read_header(socket: &mut TcpStream) -> io::Result<Option<RequestHeader>> {
    let mut header = [0; HEADER_LEN];
    let first = socket.read(&mut header).await?;
    if first == 0 {
        return Ok(None);
    }
    socket.read_exact(&mut header[first..]).await?;
    RequestHeader::decode(&header).map(Some).map_err(io::Error::other)
}

async fn respond(socket: &mut TcpStream, header: ResponseHeader, patience: Duration) -> io::Result<()> {
    within(patience, socket.write_all(&header.encode())).await
}

fn status(error: &StoreError) -> Status {
    match error {
        StoreError::NoGrant => Status::NoGrant,
        StoreError::NoLease => Status::NoLease,
        StoreError::Busy | StoreError::TooManyUsers => Status::Busy,
        StoreError::Range { .. } | StoreError::TooBig { .. } => Status::TooBig,
        StoreError::Quota { .. } | StoreError::NoSpace { .. } => Status::Quota,
        StoreError::Crc { .. } => Status::Crc,
        StoreError::Exists { .. } | StoreError::Condition | StoreError::KeyLen { .. } => Status::Err,
    }
}

impl Bulk {
    async fn run(&mut self, hello: RequestHeader) -> io::Result<()> {
        respond(&mut self.socket, hello.done(), self.patience).await?;
        while let Some(header) = read_header(&mut self.socket).await? {
            match header.request {
                Request::Hello { .. } => {
                    respond(&mut self.socket, header.refused(Status::Denied), self.patience).await?;
                    return Ok(());
                }
                Request::Ping => respond(&mut self.socket, header.done(), self.patience).await?,
                Request::Write { grant, offset, length, crc } => {
                    let write = self.node.store.write(self.node.now(), grant, self.bond.id, offset, length);
                    let answer = match write {
                        Ok(mut write) => {
                            let actual = self.receive(write.bytes_mut(), crc.is_some()).await?;
                            let generation = write.generation();
                            drop(write);
                            match crc {
                                Some(claimed) if claimed != actual => header.refused(Status::Crc),
                                _ => header.written(generation),
                            }
                        }
                        Err(error) => {
                            self.throw_away(length).await?;
                            header.refused(status(&error))
                        }
                    };
                    respond(&mut self.socket, answer, self.patience).await?;
                }
                Request::Read { lease, offset, length } => {
                    let held = self.node.store.read_leased(self.node.now(), lease, self.bond.id);
                    match held {
                        Ok(value) => {
                            let end = offset.checked_add(length).and_then(|end| usize::try_from(end).ok());
                            let bytes = usize::try_from(offset)
                                .ok()
                                .zip(end)
                                .and_then(|(from, to)| value.bytes().get(from..to));
                            match bytes {
                                Some(bytes) => {
                                    let answer = header.reading(value.generation(), length, value.crc());
                                    self.send(answer, bytes).await?;
                                }
                                None => {
                                    respond(&mut self.socket, header.refused(Status::TooBig), self.patience).await?
                                }
                            }
                        }
                        Err(error) => {
                            respond(&mut self.socket, header.refused(status(&error)), self.patience).await?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    async fn receive(&mut self, bytes: &mut [u8], check: bool) -> io::Result<Crc> {
        let mut crc = Crc::default();
        let mut done = 0;
        while done < bytes.len() {
            let end = bytes.len().min(done + RECEIVE_LEN_MAX);
            let count = within(self.patience, self.socket.read(&mut bytes[done..end])).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if check {
                crc = crc.extend(&bytes[done..done + count]);
            }
            done += count;
            self.node.stats.bulk_in.add(count as u64);
        }
        Ok(crc)
    }

    async fn throw_away(&mut self, mut length: u64) -> io::Result<()> {
        let mut waste = vec![0; usize::try_from(length.min(RECEIVE_LEN_MAX as u64)).expect("at most 256 KiB")];
        while length > 0 {
            let most = usize::try_from(length.min(waste.len() as u64)).expect("at most 256 KiB");
            let count = within(self.patience, self.socket.read(&mut waste[..most])).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            length -= count as u64;
        }
        Ok(())
    }

    async fn send(&mut self, header: ResponseHeader, bytes: &[u8]) -> io::Result<()> {
        let header = header.encode();
        let mut sent = 0;
        while sent < HEADER_LEN + bytes.len() {
            let head = &header[sent.min(HEADER_LEN)..];
            let from = sent.saturating_sub(HEADER_LEN);
            let body = &bytes[from..bytes.len().min(from + SEND_LEN_MAX)];
            let slices = [IoSlice::new(head), IoSlice::new(body)];
            let slices = if head.is_empty() { &slices[1..] } else { &slices[..] };
            let count = within(self.patience, self.socket.write_vectored(slices)).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            sent += count;
            self.node.stats.bulk_out.add(count as u64);
        }
        Ok(())
    }
}
