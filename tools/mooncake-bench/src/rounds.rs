//! Peers taking turns, and what came of it.
//!
//! Role: runs every cell with every peer that takes it, in an order that rotates, several rounds; figures are medians of
//! the rounds, ratios medians of the per-round ratios, so that a machine that slows down for a while slows all alike.
//!
//! Invariants:
//! - A turn that failed or delivered wrong bytes is never part of a figure; it is counted and said.

use crate::latency::show_us;
use crate::peer::Peer;
use crate::progress;
use crate::table::Table;
use crate::turn::{Cell, Turn};
use anyhow::Result;
use protocol::base::ByteLen;

/// All turns of one cell.
#[derive(serde::Serialize)]
pub(crate) struct CellTurns {
    pub(crate) cell: Cell,
    /// For each peer, by name, what each round gave.
    pub(crate) peers: Vec<(String, Vec<Option<Turn>>)>,
}

/// All turns of a comparison.
#[derive(Default, serde::Serialize)]
pub(crate) struct Rounds {
    pub(crate) cells: Vec<CellTurns>,
    /// Values with wrong bytes.
    pub(crate) wrong: u64,
    /// Turns that failed, or that missed values.
    pub(crate) failures: Vec<String>,
}

impl Rounds {
    /// Adds the cells of another comparison.
    pub(crate) fn add(&mut self, other: Self) {
        self.cells.extend(other.cells);
        self.wrong += other.wrong;
        self.failures.extend(other.failures);
    }
}

/// Runs all cells. Cells of one size should stand together: values are kept while the size stays.
pub(crate) fn run(peers: &mut [Box<dyn Peer>], cells: &[Cell], rounds: usize) -> Result<Rounds> {
    let mut found = Rounds::default();
    let turns = cells.iter().map(|cell| peers.iter().filter(|peer| peer.takes(cell)).count() * rounds).sum::<usize>();
    let bar = progress::bar(turns as u64, "compare", "turns");
    let mut size = None;
    for cell in cells {
        if size.replace(cell.size).is_some_and(|before| before != cell.size) {
            for peer in &mut *peers {
                peer.clear()?;
            }
        }
        let mut takers: Vec<&mut Box<dyn Peer>> = peers.iter_mut().filter(|peer| peer.takes(cell)).collect();
        let mut got: Vec<(String, Vec<Option<Turn>>)> =
            takers.iter().map(|peer| (peer.name().to_owned(), Vec::new())).collect();
        for peer in &mut takers {
            peer.ready(cell)?;
        }
        for round in 0..rounds {
            for n in 0..takers.len() {
                let who = (n + round) % takers.len();
                let name = got[who].0.clone();
                bar.set_message(format!("{} {} x{} {name}", cell.op.word(), ByteLen(cell.size as u64), cell.clients));
                let turn = match takers[who].turn(cell) {
                    Ok(turn) if turn.wrong > 0 => {
                        found.wrong += turn.wrong;
                        found.failures.push(format!("{name}: {cell:?}: {} values with wrong bytes", turn.wrong));
                        None
                    }
                    Ok(turn) if turn.misses > 0 => {
                        found.failures.push(format!("{name}: {cell:?}: {} of {} missing", turn.misses, turn.ops));
                        None
                    }
                    Ok(turn) => Some(turn),
                    Err(error) => {
                        found.failures.push(format!("{name}: {cell:?}: {error:#}"));
                        None
                    }
                };
                got[who].1.push(turn);
                bar.inc(1);
            }
        }
        found.cells.push(CellTurns { cell: *cell, peers: got });
    }
    for peer in peers {
        peer.clear()?;
    }
    bar.finish_and_clear();
    Ok(found)
}

/// The middle of some figures; `None` of none.
pub(crate) fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.retain(|figure| figure.is_finite());
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => None,
        n if n % 2 == 1 => Some(figures[middle]),
        _ => Some(f64::midpoint(figures[middle - 1], figures[middle])),
    }
}

impl CellTurns {
    fn turns(&self, peer: &str) -> &[Option<Turn>] {
        self.peers.iter().find(|(name, _)| name == peer).map_or(&[], |(_, turns)| turns)
    }

    /// Median over the rounds of a figure of one peer.
    pub(crate) fn figure(&self, peer: &str, of: impl Fn(&Turn) -> f64) -> Option<f64> {
        median(self.turns(peer).iter().flatten().map(of).collect())
    }

    /// Median over the rounds of `peer`'s figure divided by `other`'s of the same round.
    pub(crate) fn ratio(&self, peer: &str, other: &str, of: impl Fn(&Turn) -> f64) -> Option<f64> {
        let pairs = self.turns(peer).iter().zip(self.turns(other));
        median(pairs.filter_map(|(a, b)| Some(of(a.as_ref()?) / of(b.as_ref()?))).collect())
    }
}

/// Below this size the cost of a value is that of a request, not of its bytes.
const BYTES_COUNT_FROM: usize = 64 * 1024;

/// Which figure a table shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// GB/s; of values too small for that to mean much, thousands a second.
    Rate,
    /// Thousand operations a second.
    Ops,
    /// p50 / p99 of one pipeline.
    Latency,
    /// CPU of both sides, ms a GB; of small values, us an operation.
    CpuByte,
    /// CPU of both sides, us an operation.
    CpuOp,
    /// CPU of the server alone, us an operation.
    ServerCpuOp,
}

impl Show {
    fn of(self, turns: &CellTurns, peer: &str) -> Option<String> {
        let figure = |of: fn(&Turn) -> f64| turns.figure(peer, of);
        let is_small = turns.cell.size < BYTES_COUNT_FROM;
        Some(match self {
            Self::Rate if is_small => format!("{:.1}k/s", figure(Turn::ops_a_second)? / 1e3),
            Self::CpuByte if is_small => format!("{:.2} us", figure(Turn::cpu_us_an_op)?),
            Self::Rate => format!("{:.2}", figure(Turn::gb_a_second)?),
            Self::Ops => format!("{:.1}", figure(Turn::ops_a_second)? / 1e3),
            Self::Latency => {
                let (p50, p99) = (figure(|turn| turn.latency.p50_us)?, figure(|turn| turn.latency.p99_us)?);
                format!("{} / {}", show_us(p50), show_us(p99))
            }
            Self::CpuByte => format!("{:.0}", figure(Turn::cpu_ms_a_gb)?),
            Self::CpuOp => format!("{:.2}", figure(Turn::cpu_us_an_op)?),
            Self::ServerCpuOp => format!("{:.2}", figure(Turn::server_cpu_us_an_op)?),
        })
    }
}

impl Rounds {
    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in self.cells.iter().flat_map(|turns| &turns.peers) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }

    /// One row a cell, one column a peer.
    pub(crate) fn table(&self, title: impl Into<String>, show: Show) -> Table {
        let names = self.names();
        let mut head = vec!["operation", "size", "clients", "pipeline"];
        head.extend(&names);
        let mut table = Table::new(title, &head);
        for turns in &self.cells {
            let figures = names.iter().map(|name| show.of(turns, name).unwrap_or_else(|| "-".into()));
            table.row(cell_words(&turns.cell).into_iter().chain(figures));
        }
        table
    }

    /// One row a cell: figures of `ours` as a multiple of each other peer's.
    pub(crate) fn ratios(&self, title: impl Into<String>, ours: &str, of: fn(&Turn) -> f64) -> Table {
        let others: Vec<&str> = self.names().into_iter().filter(|name| *name != ours).collect();
        let mut head = vec!["operation".to_owned(), "size".into(), "clients".into(), "pipeline".into()];
        head.extend(others.iter().map(|other| format!("{ours} / {other}")));
        let head: Vec<&str> = head.iter().map(String::as_str).collect();
        let mut table = Table::new(title, &head);
        for turns in &self.cells {
            let figures = others
                .iter()
                .map(|other| turns.ratio(ours, other, of).map_or("-".into(), |ratio| format!("{ratio:.2}")));
            table.row(cell_words(&turns.cell).into_iter().chain(figures));
        }
        table
    }
}

fn cell_words(cell: &Cell) -> [String; 4] {
    [cell.op.word().into(), ByteLen(cell.size as u64).to_string(), cell.clients.to_string(), cell.pipeline.to_string()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Verify;
    use crate::turn::Op;

    fn turn(bytes: u64) -> Option<Turn> {
        Some(Turn { ops: 1, bytes, seconds: 1.0, ..Turn::default() })
    }

    #[test]
    fn ratios_are_medians_of_the_rounds_and_failed_rounds_do_not_count() {
        let cell = Cell { op: Op::Get, size: 1, clients: 1, pipeline: 1, keys: 1, seconds: 1.0, verify: Verify::Full };
        let turns = CellTurns {
            cell,
            peers: vec![
                ("a".into(), vec![turn(10), turn(100), None, turn(30)]),
                ("b".into(), vec![turn(5), turn(100), turn(1), turn(10)]),
            ],
        };
        assert_eq!(turns.ratio("a", "b", Turn::gb_a_second), Some(2.0));
        assert_eq!(turns.ratio("a", "c", Turn::gb_a_second), None);
        assert_eq!(turns.figure("b", |turn| turn.bytes as f64), Some(7.5));
        assert_eq!(median(vec![]), None);
    }
}
