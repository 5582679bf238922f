//! Who takes part in a comparison: servers, bare transports, bare copies, each doing the same cells.

use crate::bare::control::Control;
use crate::bare::shm::ShmPair;
use crate::bare::stream::StreamPair;
use crate::bare::{POOL_BYTES, scatter};
use crate::endpoint::Endpoint;
use crate::keys::key;
use crate::memory::{CopyBy, copy_slice};
use crate::number::index;
use crate::payload::Payload;
use crate::ring::{RING_BYTES, Ring};
use crate::turn::{Cell, Tally, Turn, measure};
use crate::{bulk, small};
use anyhow::Result;
use std::time::{Duration, Instant};

/// From this size on a value is received straight into its place by a thread of its own; below, many connections share
/// one.
pub(crate) const BULK_LEN_MIN: usize = 16 * 1024;

/// One participant.
pub(crate) trait Peer {
    fn name(&self) -> &str;

    /// Whether the cell is a question that this peer can answer.
    fn takes(&self, cell: &Cell) -> bool;

    /// Before the turns of a cell, untimed: values are there, connections stand.
    fn ready(&mut self, cell: &Cell) -> Result<()>;

    /// One turn.
    fn turn(&mut self, cell: &Cell) -> Result<Turn>;

    /// After all cells of one size: takes its values away again.
    fn clear(&mut self) -> Result<()>;
}

/// A server that speaks RESP, driven in-band.
pub(crate) struct RespPeer {
    pub(crate) name: String,
    pub(crate) endpoint: Endpoint,
    /// Whose CPU time counts as the server's.
    pub(crate) pids: Vec<u32>,
    /// Size and number of the values that were filled in.
    filled: Option<(usize, usize)>,
}

const PREFIX: &str = "compare";

impl RespPeer {
    pub(crate) fn new(name: String, endpoint: Endpoint, pids: Vec<u32>) -> Self {
        Self { name, endpoint, pids, filled: None }
    }
}

impl Peer for RespPeer {
    fn name(&self) -> &str {
        &self.name
    }

    fn takes(&self, _cell: &Cell) -> bool {
        true
    }

    fn ready(&mut self, cell: &Cell) -> Result<()> {
        if self.filled == Some((cell.size, cell.keys)) {
            return Ok(());
        }
        self.clear()?;
        if cell.size < BULK_LEN_MIN {
            small::fill(&self.endpoint, PREFIX, cell.size, cell.keys)?;
        } else {
            bulk::fill(&self.endpoint, PREFIX, cell.size, cell.keys)?;
        }
        self.filled = Some((cell.size, cell.keys));
        Ok(())
    }

    fn turn(&mut self, cell: &Cell) -> Result<Turn> {
        if cell.size < BULK_LEN_MIN {
            small::run(&self.endpoint, PREFIX, cell, 1, &self.pids)
        } else {
            bulk::run(&self.endpoint, PREFIX, cell, &self.pids)
        }
    }

    fn clear(&mut self) -> Result<()> {
        match self.filled.take() {
            Some((size, keys)) => bulk::clear(&self.endpoint, PREFIX, size, keys),
            None => Ok(()),
        }
    }
}

/// A bare socket pair over loopback TCP.
#[derive(Default)]
pub(crate) struct BareTcp {
    pair: Option<(usize, usize, StreamPair)>,
}

impl Peer for BareTcp {
    fn name(&self) -> &str {
        "bare-tcp"
    }

    fn takes(&self, cell: &Cell) -> bool {
        cell.pipeline == 1
    }

    fn ready(&mut self, cell: &Cell) -> Result<()> {
        if !matches!(&self.pair, Some((size, clients, _)) if (*size, *clients) == (cell.size, cell.clients)) {
            self.pair = None;
            self.pair = Some((cell.size, cell.clients, StreamPair::start(cell.size, cell.clients)?));
        }
        Ok(())
    }

    fn turn(&mut self, cell: &Cell) -> Result<Turn> {
        self.pair.as_ref().expect("ready was called").2.run(cell)
    }

    fn clear(&mut self) -> Result<()> {
        self.pair = None;
        Ok(())
    }
}

/// Bare shared memory over one control channel.
pub(crate) struct BareShm {
    name: String,
    control: Control,
    copy_by: CopyBy,
    pair: Option<(usize, usize, ShmPair)>,
}

impl BareShm {
    pub(crate) fn new(control: Control, copy_by: CopyBy) -> Self {
        let streaming = if copy_by == CopyBy::Streaming { "-stream" } else { "" };
        Self { name: format!("bare-shm-{}{streaming}", control.word()), control, copy_by, pair: None }
    }
}

impl Peer for BareShm {
    fn name(&self) -> &str {
        &self.name
    }

    fn takes(&self, _cell: &Cell) -> bool {
        true
    }

    fn ready(&mut self, cell: &Cell) -> Result<()> {
        if !matches!(&self.pair, Some((size, clients, _)) if (*size, *clients) == (cell.size, cell.clients)) {
            self.pair = None;
            let pair = ShmPair::start(self.control, self.copy_by, cell.size, cell.clients)?;
            self.pair = Some((cell.size, cell.clients, pair));
        }
        Ok(())
    }

    fn turn(&mut self, cell: &Cell) -> Result<Turn> {
        self.pair.as_ref().expect("ready was called").2.run(cell)
    }

    fn clear(&mut self) -> Result<()> {
        self.pair = None;
        Ok(())
    }
}

/// A control channel alone: 64 bytes there and back.
pub(crate) struct BareExchange {
    name: String,
    control: Control,
    pair: Option<(usize, ShmPair)>,
}

impl BareExchange {
    pub(crate) fn new(control: Control) -> Self {
        Self { name: format!("exchange-{}", control.word()), control, pair: None }
    }
}

impl Peer for BareExchange {
    fn name(&self) -> &str {
        &self.name
    }

    fn takes(&self, _cell: &Cell) -> bool {
        true
    }

    fn ready(&mut self, cell: &Cell) -> Result<()> {
        if !matches!(&self.pair, Some((clients, _)) if *clients == cell.clients) {
            self.pair = None;
            self.pair = Some((cell.clients, ShmPair::start(self.control, CopyBy::Memcpy, 64, cell.clients)?));
        }
        Ok(())
    }

    fn turn(&mut self, cell: &Cell) -> Result<Turn> {
        self.pair.as_ref().expect("ready was called").1.exchange(cell)
    }

    fn clear(&mut self) -> Result<()> {
        self.pair = None;
        Ok(())
    }
}

/// A copy by this process and nothing else: scattered values of a pool into a ring.
pub(crate) struct BareCopy {
    copy_by: CopyBy,
    pool: Option<(usize, Ring)>,
}

impl BareCopy {
    pub(crate) fn new(copy_by: CopyBy) -> Self {
        Self { copy_by, pool: None }
    }
}

impl Peer for BareCopy {
    fn name(&self) -> &str {
        match self.copy_by {
            CopyBy::Memcpy => "memcpy",
            CopyBy::Streaming => "streaming-copy",
        }
    }

    fn takes(&self, cell: &Cell) -> bool {
        cell.pipeline == 1
    }

    fn ready(&mut self, cell: &Cell) -> Result<()> {
        if !matches!(&self.pool, Some((size, _)) if *size == cell.size) {
            let mut pool = Ring::new(cell.size, POOL_BYTES)?;
            for n in 0..pool.slots() {
                Payload::of(&key("copy", cell.size, n)).fill(&mut pool.slot(n)[..cell.size]);
            }
            self.pool = Some((cell.size, pool));
        }
        Ok(())
    }

    fn turn(&mut self, cell: &Cell) -> Result<Turn> {
        let pool = &self.pool.as_ref().expect("ready was called").1;
        let prepare = |worker: usize| Ok((worker * 7919, Ring::new(cell.size, RING_BYTES / cell.clients)?));
        let work = |(next, ring): &mut (usize, Ring), began: Instant| -> Result<Tally> {
            let mut tally = Tally::new();
            let end = began + Duration::from_secs_f64(cell.seconds);
            let mut then = Instant::now();
            while then < end {
                *next += 1;
                let slot = index(scatter(*next as u64)) % pool.slots();
                let landing = &mut ring.slot(*next)[..cell.size];
                copy_slice(&pool.peek(slot)[..cell.size], landing, self.copy_by);
                if Payload::of(&key("copy", cell.size, slot)).check(landing, cell.verify).is_err() {
                    tally.wrong += 1;
                }
                let now = Instant::now();
                tally.latency.record(now - then);
                tally.ops += 1;
                then = now;
            }
            tally.end = then;
            Ok(tally)
        };
        measure(cell, cell.clients, &[], prepare, work)
    }

    fn clear(&mut self) -> Result<()> {
        self.pool = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mini::{Answers, start};
    use crate::payload::Verify;
    use crate::rounds;
    use crate::turn::Op;

    fn cells() -> Vec<Cell> {
        let mut cells = Vec::new();
        for size in [100, 32 * 1024] {
            for op in [Op::Get, Op::Set] {
                for (clients, pipeline) in [(1, 1), (3, 4)] {
                    cells.push(Cell { op, size, clients, pipeline, keys: 50, seconds: 0.03, verify: Verify::Full });
                }
            }
        }
        cells
    }

    #[test]
    fn every_cell_of_a_true_server_gives_figures() {
        let mut peers: Vec<Box<dyn Peer>> =
            vec![Box::new(RespPeer::new("mini".into(), start(Answers::Truly), vec![std::process::id()]))];
        let found = rounds::run(&mut peers, &cells(), 2).expect("runs");
        assert_eq!((found.wrong, found.failures.len()), (0, 0), "{:?}", found.failures);
        for turns in &found.cells {
            assert!(turns.figure("mini", |turn| turn.ops as f64).is_some_and(|ops| ops >= 1.0), "{:?}", turns.cell);
        }
    }

    #[test]
    fn a_lying_server_gives_no_figures_for_gets() {
        let mut peers: Vec<Box<dyn Peer>> =
            vec![Box::new(RespPeer::new("mini".into(), start(Answers::Flipped), vec![]))];
        let found = rounds::run(&mut peers, &cells(), 1).expect("runs");
        assert!(found.wrong > 0);
        for turns in found.cells.iter().filter(|turns| turns.cell.op == Op::Get) {
            assert_eq!(turns.figure("mini", |turn| turn.ops as f64), None);
        }
    }

    #[test]
    fn bare_copies_give_figures() {
        let mut peers: Vec<Box<dyn Peer>> = vec![Box::new(BareCopy::new(CopyBy::Streaming))];
        let cell =
            Cell { op: Op::Get, size: 1 << 20, clients: 1, pipeline: 1, keys: 1, seconds: 0.01, verify: Verify::Full };
        let found = rounds::run(&mut peers, &[cell], 1).expect("runs");
        assert!(found.cells[0].figure("streaming-copy", Turn::gb_a_second).is_some());
    }
}
