//! Several bulk connections of one session: a long transfer is striped over them.
//!
//! Invariants:
//! - A stripe is at least [`STRIPE_LEN_MIN`]: below that a second thread costs more than it brings.
//! - A broken connection is replaced before the next transfer, never in the middle of one.

use super::bulk::{BulkConnection, BulkError, ReadAnswer, ReadPiece, WritePiece};
use super::channel::Wrap;
use super::frame::{Status, Token};
use protocol::base::{Generation, GrantId, LeaseId};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// Least bytes for which another connection is used.
pub const STRIPE_LEN_MIN: usize = 4 << 20;

/// Stripes begin at multiples of this, to stay aligned as the whole is.
const STRIPE_ALIGN: usize = 4096;

/// Connections of one session, all to one server.
#[derive(Debug)]
pub struct BulkPool {
    addr: SocketAddr,
    token: Token,
    wrap: Option<Arc<dyn Wrap>>,
    connections: Vec<BulkConnection>,
}

impl BulkPool {
    /// Opens `count` connections, at least one, wrapped if there is a way to.
    ///
    /// # Errors
    /// As the first that fails.
    pub fn connect(
        addr: SocketAddr,
        token: Token,
        count: usize,
        wrap: Option<Arc<dyn Wrap>>,
        deadline: Instant,
    ) -> Result<Self, BulkError> {
        let connections = (0..count.max(1))
            .map(|_| BulkConnection::connect_in(addr, token, wrap.as_deref(), deadline))
            .collect::<Result<_, _>>()?;
        Ok(Self { addr, token, wrap, connections })
    }

    /// How many connections there are.
    pub fn width(&self) -> usize {
        self.connections.len()
    }

    /// Writes `bytes` at `offset` of a granted payload, and returns when they lie there.
    ///
    /// # Errors
    /// [`BulkError::Refused`] with the server's reason, else as a connection fails.
    pub fn write(&mut self, grant: GrantId, offset: u64, bytes: &[u8], deadline: Instant) -> Result<(), BulkError> {
        self.mend(deadline)?;
        let stripe_len = stripe_len(bytes.len(), self.connections.len());
        if stripe_len >= bytes.len() {
            return self.connections[0].write(grant, offset, bytes, deadline);
        }
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (at, (connection, stripe)) in self.connections.iter_mut().zip(bytes.chunks(stripe_len)).enumerate() {
                let offset = offset + (at * stripe_len) as u64;
                threads.push(scope.spawn(move || connection.write(grant, offset, stripe, deadline)));
            }
            threads.into_iter().map(join).collect::<Result<Vec<()>, _>>().map(drop)
        })
    }

    /// Reads `bytes.len()` bytes at `offset` of a leased object.
    ///
    /// # Errors
    /// [`BulkError::Refused`] with the server's reason, else as a connection fails.
    pub fn read(
        &mut self,
        lease: LeaseId,
        offset: u64,
        bytes: &mut [u8],
        deadline: Instant,
    ) -> Result<ReadAnswer, BulkError> {
        self.mend(deadline)?;
        let stripe_len = stripe_len(bytes.len(), self.connections.len());
        if stripe_len >= bytes.len() {
            return self.connections[0].read(lease, offset, bytes, deadline);
        }
        let answers = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (at, (connection, stripe)) in self.connections.iter_mut().zip(bytes.chunks_mut(stripe_len)).enumerate()
            {
                let offset = offset + (at * stripe_len) as u64;
                threads.push(scope.spawn(move || connection.read(lease, offset, stripe, deadline)));
            }
            threads.into_iter().map(join).collect::<Result<Vec<_>, _>>()
        })?;
        if answers.iter().any(|&answer| answer != answers[0]) {
            return Err(BulkError::OutOfStep("one lease, two objects"));
        }
        Ok(answers[0])
    }

    /// As [`BulkConnection::write_batch`], the pieces spread over the connections if there is enough to write.
    ///
    /// # Errors
    /// As a connection fails.
    pub fn write_batch(
        &mut self,
        pieces: &[WritePiece<'_>],
        deadline: Instant,
    ) -> Result<Vec<Result<Generation, Status>>, BulkError> {
        self.mend(deadline)?;
        let total = pieces.iter().map(|piece| piece.bytes.len()).sum();
        let share = pieces.len().div_ceil(total_width(total, self.connections.len())).max(1);
        if share >= pieces.len() {
            return self.connections[0].write_batch(pieces, deadline);
        }
        let answers = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (connection, pieces) in self.connections.iter_mut().zip(pieces.chunks(share)) {
                threads.push(scope.spawn(move || connection.write_batch(pieces, deadline)));
            }
            threads.into_iter().map(join).collect::<Result<Vec<_>, _>>()
        })?;
        Ok(answers.concat())
    }

    /// As [`BulkConnection::read_batch`], the pieces spread over the connections if there is enough to read.
    ///
    /// # Errors
    /// As a connection fails.
    pub fn read_batch(
        &mut self,
        pieces: &mut [ReadPiece<'_>],
        deadline: Instant,
    ) -> Result<Vec<Result<ReadAnswer, Status>>, BulkError> {
        self.mend(deadline)?;
        let total = pieces.iter().map(|piece| piece.bytes.len()).sum();
        let share = pieces.len().div_ceil(total_width(total, self.connections.len())).max(1);
        if share >= pieces.len() {
            return self.connections[0].read_batch(pieces, deadline);
        }
        let answers = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (connection, pieces) in self.connections.iter_mut().zip(pieces.chunks_mut(share)) {
                threads.push(scope.spawn(move || connection.read_batch(pieces, deadline)));
            }
            threads.into_iter().map(join).collect::<Result<Vec<_>, _>>()
        })?;
        Ok(answers.concat())
    }

    fn mend(&mut self, deadline: Instant) -> Result<(), BulkError> {
        for connection in self.connections.iter_mut().filter(|connection| connection.is_broken()) {
            *connection = BulkConnection::connect_in(self.addr, self.token, self.wrap.as_deref(), deadline)?;
        }
        Ok(())
    }
}

/// How many of `width` connections a transfer of `total` bytes is worth.
fn total_width(total: usize, width: usize) -> usize {
    (total / STRIPE_LEN_MIN).clamp(1, width)
}

/// Bytes a connection carries of a transfer of `total`.
fn stripe_len(total: usize, width: usize) -> usize {
    total.div_ceil(total_width(total, width)).next_multiple_of(STRIPE_ALIGN)
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
