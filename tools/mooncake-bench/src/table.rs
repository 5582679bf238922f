//! Tables, as Markdown that is aligned enough to read on a terminal, and as HTML.

use std::fmt::Write as _;

/// Rows under a head. The first column is text, the others numbers.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, head: &[&str]) -> Self {
        Self { title: title.into(), head: head.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }

    /// Adds a row of as many cells as the head has.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        let row: Vec<String> = cells.into_iter().map(Into::into).collect();
        assert_eq!(row.len(), self.head.len(), "a row of {:?} has a cell for each column", self.title);
        self.rows.push(row);
    }

    pub(crate) fn markdown(&self) -> String {
        let widths: Vec<usize> = (0..self.head.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| &row[column]);
                cells.chain([&self.head[column]]).map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let mut out = String::new();
        let mut line = |row: &[String]| {
            out.push('|');
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let pad = " ".repeat(width - cell.chars().count());
                let (left, right) = if column == 0 { ("", pad.as_str()) } else { (pad.as_str(), "") };
                let _ = write!(out, " {left}{cell}{right} |");
            }
            out.push('\n');
        };
        line(&self.head);
        let rule: Vec<String> = widths
            .iter()
            .enumerate()
            .map(|(column, width)| if column == 0 { "-".repeat(*width) } else { "-".repeat(width.max(&2) - 1) + ":" })
            .collect();
        line(&rule);
        for row in &self.rows {
            line(row);
        }
        out
    }

    pub(crate) fn html(&self) -> String {
        let mut out = format!("<h3>{}</h3>\n<table>\n<tr>", escape(&self.title));
        for cell in &self.head {
            let _ = write!(out, "<th>{}</th>", escape(cell));
        }
        out.push_str("</tr>\n");
        for row in &self.rows {
            out.push_str("<tr>");
            for cell in row {
                let _ = write!(out, "<td>{}</td>", escape(cell));
            }
            out.push_str("</tr>\n");
        }
        out + "</table>\n"
    }
}

/// Text as HTML shows it.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_lines_up_and_html_is_escaped() {
        let mut table = Table::new("t<1", &["what", "n"]);
        table.row(["a", "1"]);
        table.row(["long & <b>", "12345"]);
        let markdown = table.markdown();
        let widths: Vec<usize> = markdown.lines().map(str::len).collect();
        assert_eq!(widths, vec![widths[0]; 4], "{markdown}");
        assert!(markdown.contains("| a          |     1 |"), "{markdown}");
        assert!(table.html().contains("<td>long &amp; &lt;b&gt;</td>"));
    }
}
