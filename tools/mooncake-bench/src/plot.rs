//! Plots as SVG text, for the HTML report.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use std::ops::Range;

/// Lines over a common pair of axes.
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<(String, Vec<(f64, f64)>)>,
}

/// One axis of a plot.
pub(crate) struct Axis {
    pub(crate) name: &'static str,
    pub(crate) is_logarithmic: bool,
}

impl Axis {
    pub(crate) const fn linear(name: &'static str) -> Self {
        Self { name, is_logarithmic: false }
    }

    pub(crate) const fn logarithmic(name: &'static str) -> Self {
        Self { name, is_logarithmic: true }
    }

    /// Where a value stands on the axis.
    fn place(&self, value: f64) -> f64 {
        if self.is_logarithmic { value.max(1e-9).log10() } else { value }
    }

    fn label(&self, place: f64) -> String {
        let value = if self.is_logarithmic { 10f64.powf(place) } else { place };
        match value.abs() {
            v if v >= 1e6 => format!("{:.3}M", value / 1e6),
            v if v >= 1e3 => format!("{:.1}k", value / 1e3),
            v if v >= 10.0 => format!("{value:.0}"),
            _ => format!("{value:.2}"),
        }
    }

    fn range(&self, values: impl Iterator<Item = f64>) -> Range<f64> {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.map(|value| self.place(value)).filter(|value| value.is_finite()) {
            low = low.min(value);
            high = high.max(value);
        }
        if !self.is_logarithmic {
            low = low.min(0.0);
        }
        if !low.is_finite() || !high.is_finite() {
            return 0.0..1.0;
        }
        low..(high + (high - low).max(0.1) * 0.05)
    }
}

impl Plot {
    /// Draws the plot as an `<svg>` element. Without points it is an empty string.
    pub(crate) fn svg(&self) -> Result<String> {
        if self.series.iter().all(|(_, points)| points.is_empty()) {
            return Ok(String::new());
        }
        let mut svg = String::new();
        self.draw(&mut svg).map_err(|error| anyhow!("draw {}: {error}", self.title))?;
        Ok(svg)
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error + '_>> {
        let points = || self.series.iter().flat_map(|(_, points)| points);
        let x_range = self.x.range(points().map(|point| point.0));
        let y_range = self.y.range(points().map(|point| point.1));
        let root = SVGBackend::with_string(svg, (860, 360)).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, ("sans-serif", 17))
            .margin(8)
            .x_label_area_size(38)
            .y_label_area_size(64)
            .build_cartesian_2d(x_range, y_range)?;
        chart
            .configure_mesh()
            .x_desc(self.x.name)
            .y_desc(self.y.name)
            .x_label_formatter(&|place| self.x.label(*place))
            .y_label_formatter(&|place| self.y.label(*place))
            .light_line_style(WHITE)
            .draw()?;
        for (i, (name, points)) in self.series.iter().enumerate() {
            let color = Palette99::pick(i).to_rgba();
            let places = points.iter().map(|(x, y)| (self.x.place(*x), self.y.place(*y)));
            chart
                .draw_series(LineSeries::new(places, color.stroke_width(2)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(200, 200, 200))
            .draw()?;
        root.present()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_are_svg_with_their_names_in_it() {
        let plot = Plot {
            title: "latency".into(),
            x: Axis::logarithmic("one in"),
            y: Axis::linear("us"),
            series: vec![("get".into(), vec![(1.0, 2.0), (10.0, 3.0), (100.0, 9.0)]), ("put".into(), vec![])],
        };
        let svg = plot.svg().expect("draws");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for word in ["latency", "one in", "get"] {
            assert!(svg.contains(word), "{word}");
        }
        let empty = Plot { series: vec![], ..plot };
        assert_eq!(empty.svg().expect("nothing to draw"), "");
    }
}
