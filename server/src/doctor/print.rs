//! What was found, for people and for programs.

use super::{Check, Verdict};
use serde_json::json;
use std::fmt::Write as _;

fn count(checks: &[Check], verdict: Verdict) -> usize {
    checks.iter().filter(|check| check.verdict == verdict).count()
}

/// One line a check, and one more with what to do where it is not in order.
pub(super) fn table(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.about.len()).max().unwrap_or(0);
    let mut out = String::new();
    for check in checks {
        let Check { verdict, about, what, remedy } = check;
        let _ = writeln!(out, "{:4}  {about:width$}  {what}", verdict.word());
        if !remedy.is_empty() {
            let _ = writeln!(out, "{:4}  {:width$}  -> {remedy}", "", "");
        }
    }
    let [ok, warn, fail] = [Verdict::Ok, Verdict::Warn, Verdict::Fail].map(|verdict| count(checks, verdict));
    let _ = writeln!(out, "\n{ok} ok, {warn} to look at, {fail} that fail");
    out
}

/// The same as JSON.
pub(super) fn json(checks: &[Check]) -> String {
    let each = |check: &Check| {
        json!({
            "verdict": check.verdict.word(),
            "about": check.about,
            "what": check.what,
            "what_to_do": check.remedy,
        })
    };
    let all = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ok": count(checks, Verdict::Ok),
        "warn": count(checks, Verdict::Warn),
        "fail": count(checks, Verdict::Fail),
        "checks": checks.iter().map(each).collect::<Vec<_>>(),
    });
    format!("{all:#}\n")
}
