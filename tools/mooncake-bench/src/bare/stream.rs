//! Bare streams: 64 bytes ask, 64 bytes and the payload answer; or the payload goes the other way.
//!
//! Invariants:
//! - Payloads begin on a page on both sides, behind a header of 64 bytes: the placement that the kernel copies fastest.
//! - The server has one thread a connection and does nothing but move bytes.

use super::process::{CLIENTS_MAX, Job as AnyJob, Other};
use super::{POOL_BYTES, scatter};
use crate::keys::key;
use crate::number::index;
use crate::payload::Payload;
use crate::ring::{RING_BYTES, Ring};
use crate::turn::{Cell, Op, Tally, Turn, measure};
use crate::wire::{read_some, write_all};
use anyhow::{Context, Result, ensure};
use rustix::fd::{AsFd, OwnedFd};
use serde::{Deserialize, Serialize};
use socket2::Socket;
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const HEADER_LEN: usize = 64;

/// What the server of the pair needs to know.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    size: usize,
    /// Slots of a client's ring.
    ring_slots: usize,
    /// Slots of a connection's pool, a multiple of `ring_slots`: slot `n` of either holds the payload of key
    /// `n % ring_slots`, before and after a set.
    pool_slots: usize,
}

impl Job {
    fn key(&self, slot: usize) -> Vec<u8> {
        key("bare", self.size, slot % self.ring_slots)
    }

    /// A ring or pool of so many slots, filled.
    fn filled(&self, slots: usize) -> Result<Ring> {
        let mut ring = Ring::new(self.size, slots * self.size.next_multiple_of(4096))?;
        for n in 0..ring.slots() {
            Payload::of(&self.key(n)).fill(&mut ring.slot(n)[..self.size]);
        }
        Ok(ring)
    }
}

/// Connections to a bare server.
pub(crate) struct StreamPair {
    other: Other,
    clients: Vec<Mutex<Client>>,
}

struct Client {
    job: Job,
    socket: Socket,
    source: Ring,
    landing: Ring,
    next: usize,
}

/// A connected pair of sockets, ours and the other process's.
pub(crate) fn tcp_pair() -> Result<(Socket, OwnedFd)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on loopback")?;
    let ours = std::net::TcpStream::connect(listener.local_addr()?)?;
    let (theirs, _) = listener.accept()?;
    ours.set_nodelay(true)?;
    theirs.set_nodelay(true)?;
    Ok((ours.into(), theirs.into()))
}

impl StreamPair {
    /// Starts a server of values of `size` bytes for so many clients over loopback TCP.
    pub(crate) fn start(size: usize, clients: usize) -> Result<Self> {
        ensure!((1..=CLIENTS_MAX).contains(&clients), "1 to {CLIENTS_MAX} clients");
        let step = size.next_multiple_of(4096);
        let ring_slots = (RING_BYTES / clients / step).max(2);
        let pool_slots = (POOL_BYTES / clients / step).max(ring_slots).next_multiple_of(ring_slots);
        let job = Job { size, ring_slots, pool_slots };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..clients {
            let (socket, their_socket) = tcp_pair()?;
            let (source, landing) = (job.filled(ring_slots)?, Ring::new(size, RING_BYTES / clients)?);
            ours.push(Mutex::new(Client { job, socket, source, landing, next: 0 }));
            theirs.push(their_socket);
        }
        let fds: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
        let other = Other::start(&AnyJob::Stream(job), &fds)?;
        Ok(Self { other, clients: ours })
    }

    /// Runs one cell of the size and with the clients that the pair was made for.
    pub(crate) fn run(&self, cell: &Cell) -> Result<Turn> {
        let prepare = |index: usize| Ok(self.clients[index].lock().expect("not poisoned"));
        let work = |client: &mut std::sync::MutexGuard<'_, Client>, began: Instant| -> Result<Tally> {
            assert_eq!(client.job.size, cell.size, "the pair was made for the cell");
            let mut tally = Tally::new();
            let end = began + Duration::from_secs_f64(cell.seconds);
            let mut sent = Instant::now();
            while sent < end {
                for _ in 0..cell.pipeline {
                    client.one(cell, &mut tally)?;
                }
                let answered = Instant::now();
                tally.latency.record(answered - sent);
                tally.ops += cell.pipeline as u64;
                sent = answered;
            }
            tally.end = sent;
            Ok(tally)
        };
        measure(cell, self.clients.len(), &[self.other.pid()], prepare, work)
    }
}

impl Client {
    fn one(&mut self, cell: &Cell, tally: &mut Tally) -> Result<()> {
        let Job { ring_slots, pool_slots, .. } = self.job;
        self.next += 1;
        let n = self.next;
        let anywhere = index(scatter(n as u64));
        let mut answer = [0; HEADER_LEN];
        match cell.op {
            Op::Get => {
                let slot = anywhere % pool_slots;
                write_all(&self.socket, &mut [IoSlice::new(&header(0, slot))])?;
                let landing = &mut self.landing.slot(n)[..cell.size];
                read_both(&self.socket, &mut answer, landing)?;
                if Payload::of(&self.job.key(slot)).check(landing, cell.verify).is_err() {
                    tally.wrong += 1;
                }
            }
            Op::Set => {
                let slot = anywhere % (pool_slots / ring_slots) * ring_slots + n % ring_slots;
                let source = &self.source.peek(n)[..cell.size];
                write_all(&self.socket, &mut [IoSlice::new(&header(1, slot)), IoSlice::new(source)])?;
                read_both(&self.socket, &mut answer, &mut [])?;
            }
        }
        Ok(())
    }
}

fn header(kind: u64, pool_slot: usize) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..8].copy_from_slice(&kind.to_le_bytes());
    header[8..16].copy_from_slice(&(pool_slot as u64).to_le_bytes());
    header
}

/// Fills both buffers, with as few calls as the socket allows.
fn read_both(socket: &Socket, first: &mut [u8], second: &mut [u8]) -> Result<()> {
    let mut at = 0;
    while at < first.len() + second.len() {
        let in_first = at.min(first.len());
        let in_second = at - in_first;
        at += read_some(
            socket,
            &mut [IoSliceMut::new(&mut first[in_first..]), IoSliceMut::new(&mut second[in_second..])],
        )?;
    }
    Ok(())
}

/// The server: one thread for each descriptor, each with a pool of its own, together as large as one: no lock stands
/// between two clients.
pub(crate) fn serve(job: Job, fds: Vec<OwnedFd>) -> Result<()> {
    for fd in fds {
        let (socket, mut pool) = (Socket::from(fd), job.filled(job.pool_slots)?);
        std::thread::spawn(move || {
            // An error is the end of the connection: the client is gone.
            let _ = answer_all(job, &socket, &mut pool);
        });
    }
    Ok(())
}

fn answer_all(job: Job, socket: &Socket, pool: &mut Ring) -> Result<()> {
    let word = |header: &[u8], at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    loop {
        let mut request = [0; HEADER_LEN];
        read_both(socket, &mut request, &mut [])?;
        let slot = index(word(&request, 8));
        if word(&request, 0) == 0 {
            write_all(socket, &mut [IoSlice::new(&request), IoSlice::new(&pool.peek(slot)[..job.size])])?;
        } else {
            read_both(socket, &mut [], &mut pool.slot(slot)[..job.size])?;
            write_all(socket, &mut [IoSlice::new(&request)])?;
        }
    }
}
