//! What a guest says while it lives: one line of JSON each, through a serial port, to the runner on the host.

use serde::{Deserialize, Serialize};

/// Name of the port.
pub const PORT: &str = "mooncake.report";

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// What the guest is: devices and addresses, for people.
    Up(String),
    /// What the command wrote.
    Out(String),
    /// A test begins.
    Begun {
        /// Its place in the plan.
        at: usize,
    },
    /// A test ended.
    Done {
        /// Its place in the plan.
        at: usize,
        /// How.
        outcome: Outcome,
        /// After how long.
        milliseconds: u64,
        /// What it has to tell whatever came of it: its standard output.
        figures: String,
        /// What else it wrote, if it failed.
        errors: String,
    },
    /// All is done; the guest switches off. The command's status, or 0.
    End(i32),
    /// The guest cannot do what it should.
    Broken(String),
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// As it should.
    Passed,
    /// Otherwise.
    Failed,
    /// By its limit.
    TimedOut,
}

impl Report {
    /// The line, with its end.
    pub fn line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("a report has no maps");
        line.push('\n');
        line
    }

    /// A line that was read; `None` if it is none of these.
    pub fn of(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_line_and_reads_back() {
        let done = Report::Done {
            at: 3,
            outcome: Outcome::TimedOut,
            milliseconds: 17,
            figures: "one\ntwo".to_owned(),
            errors: String::new(),
        };
        for report in [Report::Up("a\nb".to_owned()), done, Report::End(-1)] {
            let line = report.line();
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert_eq!(Report::of(line.trim_end()), Some(report));
        }
        assert_eq!(Report::of("[    0.000000] Linux version"), None);
    }
}
