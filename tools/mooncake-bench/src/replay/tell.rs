//! What a replay says of itself.

use super::Args;
use super::player::Tally;
use crate::flash::FlashCounters;
use crate::latency::{Latency, show_us};
use crate::lru::Hits;
use crate::number::real;
use crate::plot::{Axis, Plot};
use crate::report::Report;
use crate::table::Table;
use crate::trace::Request;
use protocol::base::ByteLen;
use std::collections::HashSet;

/// One replay at one capacity.
pub(super) struct Played {
    /// Blocks that the server could hold; `None` if nobody set a limit.
    pub(super) blocks: Option<usize>,
    pub(super) tally: Tally,
    pub(super) seconds: f64,
    /// Of this tool and of the server.
    pub(super) cpu: (f64, f64),
    /// Objects on the server afterwards.
    pub(super) objects: Option<u64>,
    /// What the server's flash tier did meanwhile, if it has one.
    pub(super) flash: Option<FlashCounters>,
    /// What exact LRU of that capacity would have hit.
    pub(super) lru: Option<Hits>,
}

impl Played {
    fn name(&self) -> String {
        self.blocks.map_or("as the server is".into(), |blocks| format!("{blocks} blocks"))
    }

    /// Blocks written to flash, for each block asked for.
    pub(super) fn flash_writes(&self) -> Option<f64> {
        let flash = self.flash?;
        Some(real(flash.spills + flash.reinserted) / real(self.tally.hits.references.max(1)))
    }

    fn a_second(&self, bytes: u64) -> String {
        format!("{}, {:.3} GB/s", ByteLen(bytes), real(bytes) / self.seconds / 1e9)
    }

    fn latencies(&self) -> [(&'static str, &Latency); 4] {
        [
            ("lookup of a prompt", &self.tally.lookup),
            ("read of a leading run", &self.tally.read),
            ("put of a batch of blocks", &self.tally.put),
            ("whole request", &self.tally.request),
        ]
    }

    fn data(&self) -> serde_json::Value {
        let (tally, hits) = (&self.tally, &self.tally.hits);
        let latencies: serde_json::Map<_, _> = self
            .latencies()
            .into_iter()
            .map(|(name, latency)| (name.to_owned(), serde_json::json!(latency.percentiles())))
            .collect();
        serde_json::json!({
            "capacity_blocks": self.blocks, "objects": self.objects, "hits": hits, "block_ratio": hits.block_ratio(),
            "prefix_ratio": hits.prefix_ratio(), "token_ratio": hits.token_ratio(), "lru": self.lru,
            "stored": tally.stored, "refused": tally.refused, "wrong": tally.wrong, "seconds": self.seconds,
            "read_bytes": tally.read_bytes, "put_bytes": tally.put_bytes, "prefill_saved_s": tally.prefill_saved_s,
            "flash": self.flash, "flash_writes_a_block": self.flash_writes(), "latency": latencies,
        })
    }
}

/// Puts all replays into a report, one column each.
pub(super) fn tell(report: &mut Report, args: &Args, requests: &[Request], played: &[Played]) {
    let unique: HashSet<u64> = requests.iter().flat_map(|request| request.blocks.iter().copied()).collect();
    report.fact("trace", format!("{} requests, {} different blocks", requests.len(), unique.len()));
    if let Some(model) = &args.cost_model {
        report.fact("cost model", model);
    }
    let names: Vec<String> = played.iter().map(Played::name).collect();
    let mut head = vec!["what"];
    head.extend(names.iter().map(String::as_str));
    let mut table = Table::new("What was found", &head);
    let mut row = |what: &str, of: &dyn Fn(&Played) -> String| {
        table.row(std::iter::once(what.to_owned()).chain(played.iter().map(of)));
    };
    let ratio = |ratio: f64| format!("{ratio:.5}");
    row("blocks asked for", &|p| p.tally.hits.references.to_string());
    row("hit ratio by block, anywhere in the prompt", &|p| ratio(p.tally.hits.block_ratio()));
    if args.reference {
        row("the same of exact LRU", &|p| p.lru.map_or("-".into(), |lru| ratio(lru.block_ratio())));
    }
    row("hit ratio by block, leading run", &|p| ratio(p.tally.hits.prefix_ratio()));
    row("hit ratio by token, leading run", &|p| ratio(p.tally.hits.token_ratio()));
    if args.reference {
        row("the same of exact LRU", &|p| p.lru.map_or("-".into(), |lru| ratio(lru.token_ratio())));
    }
    row("tokens of prefill saved", &|p| p.tally.hits.prefix_tokens.to_string());
    if args.cost_model.is_some() {
        row("seconds of prefill saved", &|p| {
            let share = p.tally.prefill_saved_s / p.tally.prefill_whole_s.max(1e-9) * 100.0;
            format!("{:.1} ({share:.1} %)", p.tally.prefill_saved_s)
        });
    }
    row("blocks stored", &|p| p.tally.stored.to_string());
    row("blocks refused for lack of room", &|p| p.tally.refused.to_string());
    row("blocks with wrong bytes", &|p| p.tally.wrong.to_string());
    row("objects at the end", &|p| p.objects.map_or("-".into(), |objects| objects.to_string()));
    if played.iter().any(|one| one.flash.is_some()) {
        let count =
            |of: fn(FlashCounters) -> u64| move |p: &Played| p.flash.map_or("-".into(), |flash| of(flash).to_string());
        row("blocks read from flash", &count(|flash| flash.reads));
        row("blocks written to flash", &count(|flash| flash.spills));
        row("blocks written to flash again", &count(|flash| flash.reinserted));
        row("blocks dropped from flash", &count(|flash| flash.dropped));
        row("blocks written to flash, for each asked for", &|p| p.flash_writes().map_or("-".into(), ratio));
    }
    row("seconds", &|p| format!("{:.2}", p.seconds));
    row("requests a second", &|p| format!("{:.1}", real(p.tally.hits.requests) / p.seconds));
    row("read and compared", &|p| p.a_second(p.tally.read_bytes));
    row("written", &|p| p.a_second(p.tally.put_bytes));
    row("CPU of this tool, s", &|p| format!("{:.2}", p.cpu.0));
    if args.target.server_pid.is_some() {
        row("CPU of the server, s", &|p| format!("{:.2}", p.cpu.1));
    }
    report.tables.push(table);
    latencies(report, played);
    let data: Vec<_> = played.iter().map(Played::data).collect();
    report.data = serde_json::json!({ "unique_blocks": unique.len(), "replays": data });
}

fn latencies(report: &mut Report, played: &[Played]) {
    let mut table = Table::new("Latency, us (m: ms)", &["what", "count", "p50", "p90", "p99", "p99.9", "max"]);
    for one in played {
        let of = if played.len() > 1 { format!(", {}", one.name()) } else { String::new() };
        for (name, latency) in one.latencies() {
            let p = latency.percentiles();
            let mut row = vec![format!("{name}{of}"), p.count.to_string()];
            row.extend([p.p50_us, p.p90_us, p.p99_us, p.p999_us, p.max_us].map(show_us));
            table.row(row);
        }
        report.plots.push(Plot {
            title: format!("latency{of}"),
            x: Axis::logarithmic("one in so many is slower"),
            y: Axis::logarithmic("us"),
            series: one.latencies().map(|(name, latency)| (name.to_owned(), latency.curve())).into(),
        });
    }
    report.tables.push(table);
    let points = |of: fn(&Hits) -> f64, hits: fn(&Played) -> Option<Hits>| -> Vec<(f64, f64)> {
        played.iter().filter_map(|one| Some((one.blocks? as f64, of(&hits(one)?)))).collect()
    };
    report.plots.push(Plot {
        title: "hit ratio by block".into(),
        x: Axis::logarithmic("blocks of capacity"),
        y: Axis::linear("hit ratio"),
        series: vec![
            ("server".into(), points(Hits::block_ratio, |one| Some(one.tally.hits))),
            ("exact LRU".into(), points(Hits::block_ratio, |one| one.lru)),
        ],
    });
}
