//! The plots of a comparison: rate over size, one line a peer.

use crate::plot::{Axis, Plot};
use crate::rounds::{CellTurns, Rounds};
use crate::turn::Turn;
use std::collections::BTreeMap;

/// One plot for each operation, number of clients and pipeline that was run at several sizes.
pub(crate) fn rates(found: &Rounds) -> Vec<Plot> {
    let mut groups: BTreeMap<_, Vec<&CellTurns>> = BTreeMap::new();
    for turns in &found.cells {
        groups.entry((turns.cell.op, turns.cell.clients, turns.cell.pipeline)).or_default().push(turns);
    }
    groups
        .into_iter()
        .filter(|(_, cells)| cells.len() > 1)
        .map(|((op, clients, pipeline), cells)| {
            let mut series: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
            for turns in cells {
                for (name, _) in &turns.peers {
                    let Some(rate) = turns.figure(name, Turn::gb_a_second) else { continue };
                    let point = (turns.cell.size as f64 / 1024.0, rate);
                    match series.iter_mut().find(|(known, _)| known == name) {
                        Some((_, points)) => points.push(point),
                        None => series.push((name.clone(), vec![point])),
                    }
                }
            }
            Plot {
                title: format!("{}, {clients} clients, {pipeline} at once", op.word()),
                x: Axis::logarithmic("KiB a value"),
                y: Axis::linear("GB/s"),
                series,
            }
        })
        .collect()
}
