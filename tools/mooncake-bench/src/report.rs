//! What a run found: tables for the terminal, a JSON file, a self-contained HTML page with plots.
//!
//! Invariants:
//! - The three say the same: each is printed from the same [`Report`].
//! - No host name and no path of the machine gets into a report.

use crate::plot::Plot;
use crate::table::{Table, escape};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Where a report goes beside standard output.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Report")]
pub(crate) struct Output {
    /// Write all figures to this file as JSON.
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) json: Option<PathBuf>,
    /// Write a self-contained HTML page with tables and plots to this file.
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) html: Option<PathBuf>,
}

/// What a run found.
pub(crate) struct Report {
    /// What was done, in one line.
    pub(crate) title: String,
    /// Facts that a reader needs to judge the figures: machine, settings.
    pub(crate) facts: Vec<(String, String)>,
    pub(crate) tables: Vec<Table>,
    pub(crate) plots: Vec<Plot>,
    /// The figures, unrounded.
    pub(crate) data: serde_json::Value,
    /// Values that were not what they had to be. Any makes the exit status non-zero.
    pub(crate) wrong_bytes: u64,
    /// Operations that failed otherwise. Any makes the exit status non-zero.
    pub(crate) errors: u64,
}

impl Report {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            facts: machine(),
            tables: Vec::new(),
            plots: Vec::new(),
            data: serde_json::Value::Null,
            wrong_bytes: 0,
            errors: 0,
        }
    }

    pub(crate) fn fact(&mut self, name: &str, value: impl ToString) {
        self.facts.push((name.to_owned(), value.to_string()));
    }

    /// Whether everything that was read was right and everything asked for was done.
    pub(crate) fn is_good(&self) -> bool {
        self.wrong_bytes == 0 && self.errors == 0
    }

    /// Title, facts and tables as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut out = format!("## {}\n\n", self.title);
        for (name, value) in &self.facts {
            let _ = writeln!(out, "- {name}: {value}");
        }
        for table in &self.tables {
            let _ = write!(out, "\n### {}\n\n{}", table.title, table.markdown());
        }
        out
    }

    /// Prints the tables and writes the files asked for.
    pub(crate) fn publish(&self, output: &Output) -> Result<()> {
        println!("{}", self.markdown());
        match (self.wrong_bytes, self.errors) {
            (0, 0) => println!("0 wrong bytes, 0 errors"),
            (wrong, errors) => println!("FAILED: {wrong} values with wrong bytes, {errors} errors"),
        }
        if let Some(path) = &output.json {
            let text = serde_json::to_string_pretty(&serde_json::json!({
                "title": self.title,
                "version": env!("CARGO_PKG_VERSION"),
                "facts": self.facts.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
                "wrong_bytes": self.wrong_bytes,
                "errors": self.errors,
                "tables": self.tables,
                "data": self.data,
            }))?;
            std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
        }
        if let Some(path) = &output.html {
            std::fs::write(path, self.html()?).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    fn html(&self) -> Result<String> {
        let mut out = format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{0}</title>\n<style>{STYLE}</style>\n<h1>{0}</h1>\n<dl>\n",
            escape(&self.title)
        );
        for (name, value) in &self.facts {
            let _ = writeln!(out, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
        }
        let verdict = if self.is_good() { "good" } else { "bad" };
        let _ = writeln!(
            out,
            "</dl>\n<p class=\"{verdict}\">{} values with wrong bytes, {} errors</p>",
            self.wrong_bytes, self.errors
        );
        for plot in &self.plots {
            out.push_str(&plot.svg()?);
        }
        for table in &self.tables {
            out.push_str(&table.html());
        }
        Ok(out + "</html>\n")
    }
}

const STYLE: &str = "body{font:15px/1.4 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:1em 0}th,td{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:right}\
th:first-child,td:first-child{text-align:left}dl{display:grid;grid-template-columns:max-content auto;gap:.1em 1em}\
dt{color:#666}dd{margin:0}.good{color:#176117}.bad{color:#b00;font-weight:bold}svg{max-width:100%;height:auto}";

/// What of the machine matters to the figures.
fn machine() -> Vec<(String, String)> {
    let first = |path: &str, key: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    vec![
        (
            "machine".into(),
            format!("{}, {cores} cores, {}", first("/proc/cpuinfo", "model name"), first("/proc/meminfo", "MemTotal")),
        ),
        ("kernel".into(), kernel),
        ("load before".into(), load.split_whitespace().next().unwrap_or("?").to_owned()),
    ]
}
