//! Latencies in an HDR histogram: three significant digits from a nanosecond to a minute.

use crate::number::{nanos, real};
use hdrhistogram::Histogram;
use std::time::Duration;

const MAX_NS: u64 = 60_000_000_000;

/// What a set of latencies looked like, in microseconds.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Percentiles {
    /// How many were recorded.
    pub(crate) count: u64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

/// Latencies of one kind of operation.
#[derive(Clone)]
pub(crate) struct Latency {
    histogram: Histogram<u64>,
}

impl Latency {
    pub(crate) fn new() -> Self {
        Self { histogram: Histogram::new_with_bounds(1, MAX_NS, 3).expect("valid bounds") }
    }

    pub(crate) fn record(&mut self, took: Duration) {
        self.histogram.saturating_record(nanos(took).max(1));
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("the same bounds");
    }

    pub(crate) fn percentiles(&self) -> Percentiles {
        let at = |quantile| real(self.histogram.value_at_quantile(quantile)) / 1e3;
        if self.histogram.is_empty() {
            return Percentiles::default();
        }
        Percentiles {
            count: self.histogram.len(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: real(self.histogram.max()) / 1e3,
        }
    }

    /// The curve of a latency plot: "one in `x` is slower than `y` microseconds", x growing tenfold from 1 on.
    pub(crate) fn curve(&self) -> Vec<(f64, f64)> {
        if self.histogram.is_empty() {
            return Vec::new();
        }
        let decades = real(self.histogram.len()).log10();
        (0..)
            .map(|step| f64::from(step) / 10.0)
            .take_while(|decade| *decade <= decades)
            .map(|decade| {
                let one_in = 10f64.powf(decade);
                (one_in, real(self.histogram.value_at_quantile(1.0 - 1.0 / one_in)) / 1e3)
            })
            .collect()
    }
}

/// Microseconds as people read them: `9.4`, `412`, `12.3m` (milliseconds), `1.20s`.
pub(crate) fn show_us(us: f64) -> String {
    match us {
        us if us < 100.0 => format!("{us:.1}"),
        us if us < 10_000.0 => format!("{us:.0}"),
        us if us < 1_000_000.0 => format!("{:.1}m", us / 1e3),
        us => format!("{:.2}s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut latency = Latency::new();
        for us in 1..=1000 {
            latency.record(Duration::from_micros(us));
        }
        let got = latency.percentiles();
        assert_eq!(got.count, 1000);
        for (got, want) in [(got.p50_us, 500.0), (got.p99_us, 990.0), (got.max_us, 1000.0)] {
            assert!((got / want - 1.0).abs() < 0.002, "{got} instead of {want}");
        }
        let curve = latency.curve();
        assert_eq!(curve.len(), 31);
        assert!(curve.is_sorted_by(|a, b| a.1 <= b.1));
    }

    #[test]
    fn nothing_recorded_is_no_latency() {
        assert_eq!(Latency::new().percentiles().count, 0);
        assert!(Latency::new().curve().is_empty());
    }
}
