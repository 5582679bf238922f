//! Dependencies point one way: what may know whom, by `cargo metadata` and by the paths that the sources name.

use crate::{root, source};
use anyhow::{Context, Result};
use serde_json::Value;
use std::process::Command;

/// Which crates of ours a crate may depend on, for building and for its tests.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("mooncake-protocol", &[]),
    ("mooncake-storage", &["mooncake-protocol"]),
    ("ibverbs-sys", &[]),
    ("mooncake-transport", &["mooncake-protocol", "ibverbs-sys"]),
    ("mooncake-client", &["mooncake-protocol", "mooncake-transport"]),
    ("mooncake-server", &["mooncake-protocol", "mooncake-storage", "mooncake-transport"]),
    ("mooncake-bench", &["mooncake-protocol", "mooncake-transport", "mooncake-client"]),
    ("mooncake-inspect", &["mooncake-protocol", "mooncake-storage"]),
    ("mooncake-benches", &["mooncake-protocol", "mooncake-storage", "mooncake-transport", "mooncake-client"]),
    (
        "mooncake-tests",
        &["mooncake-protocol", "mooncake-storage", "mooncake-transport", "mooncake-client", "mooncake-server"],
    ),
    ("mooncake-guest", &["mooncake-protocol", "mooncake-client", "mooncake-tests"]),
    ("xtask", &["mooncake-protocol", "mooncake-guest"]),
];

/// Below a path of the tree, after a prefix of a path in code, only these may follow.
struct PathRule {
    below: &'static str,
    prefix: &'static str,
    /// What may follow the prefix; nothing may if it is empty.
    may_follow: &'static [&'static str],
    why: &'static str,
}

const PATH_RULES: &[PathRule] = &[
    PathRule {
        below: "storage/src/",
        prefix: "protocol::",
        may_follow: &["base"],
        why: "storage knows protocol::base only",
    },
    PathRule {
        below: "transport/src/",
        prefix: "protocol::",
        may_follow: &["base"],
        why: "transport knows protocol::base only",
    },
    PathRule {
        below: "protocol/src/base/",
        prefix: "crate::",
        may_follow: &["base"],
        why: "the base knows no other part of protocol",
    },
    PathRule {
        below: "protocol/src/resp/",
        prefix: "crate::",
        may_follow: &["base", "resp"],
        why: "RESP does not know the commands it carries",
    },
    PathRule { below: "protocol/src/", prefix: "std::net", may_follow: &[], why: "protocol does no I/O" },
    PathRule { below: "protocol/src/", prefix: "std::fs", may_follow: &[], why: "protocol does no I/O" },
    PathRule { below: "storage/src/", prefix: "std::net", may_follow: &[], why: "storage does not talk to anybody" },
    PathRule { below: "storage/src/", prefix: "SystemTime", may_follow: &[], why: "time is a parameter in storage" },
    PathRule { below: "storage/src/", prefix: "Instant::now", may_follow: &[], why: "time is a parameter in storage" },
];

/// Below these, storage waits for devices, and asks how long it has waited. What time objects live by is a parameter there too.
const WAITS: &[&str] =
    &["storage/src/flash/engine", "storage/src/flash/fabric", "storage/src/flash/meta", "storage/src/flash/tier"];

/// Every arrow that points the wrong way.
pub(crate) fn find_wrong() -> Result<Vec<String>> {
    let mut wrong = wrong_dependencies(&metadata()?)?;
    for file in source::files("rs")? {
        let waits = WAITS.iter().any(|below| file.path.starts_with(below));
        let applies = |rule: &&PathRule| file.path.starts_with(rule.below) && !(waits && rule.prefix == "Instant::now");
        for rule in PATH_RULES.iter().filter(applies) {
            for (number, line) in file.code_lines() {
                if breaks(rule, line) {
                    wrong.push(format!("{}:{number}: {}: {}", file.path, rule.why, line.trim()));
                }
            }
        }
    }
    Ok(wrong)
}

fn metadata() -> Result<Value> {
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .context("run cargo metadata")?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("read cargo metadata")
}

fn wrong_dependencies(metadata: &Value) -> Result<Vec<String>> {
    let packages = metadata["packages"].as_array().context("metadata lists packages")?;
    let names: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("a package has a name")?;
        let Some((_, may_know)) = MAY_KNOW.iter().find(|(known, _)| *known == name) else {
            wrong.push(format!("{name}: has no place in the plan (tools/xtask/src/arrows.rs)"));
            continue;
        };
        let dependencies = package["dependencies"].as_array().context("a package lists its dependencies")?;
        for dependency in dependencies.iter().filter_map(|dependency| dependency["name"].as_str()) {
            if names.contains(&dependency) && !may_know.contains(&dependency) {
                wrong.push(format!("{name} must not know {dependency}"));
            }
        }
    }
    Ok(wrong)
}

/// Whether a line of code names a path that the rule forbids.
fn breaks(rule: &PathRule, line: &str) -> bool {
    line.match_indices(rule.prefix).any(|(at, _)| {
        let whole_word = !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
        let after = &line[at + rule.prefix.len()..];
        let followed_well = rule.may_follow.iter().any(|allowed| {
            after.strip_prefix(allowed).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        });
        whole_word && !followed_well
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_keeps_to_the_plan() {
        assert_eq!(find_wrong().expect("the tree can be read"), Vec::<String>::new());
    }

    #[test]
    fn a_wrong_dependency_is_found() {
        let metadata = serde_json::json!({ "packages": [
            { "name": "mooncake-storage", "dependencies": [{ "name": "mooncake-transport" }, { "name": "libc" }] },
            { "name": "mooncake-transport", "dependencies": [] },
            { "name": "mooncake-newcomer", "dependencies": [] },
        ]});
        let wrong = wrong_dependencies(&metadata).expect("well-formed");
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert_eq!(wrong[0], "mooncake-storage must not know mooncake-transport");
    }

    #[test]
    fn a_wrong_path_is_found_and_a_right_one_is_not() {
        let rule = &PATH_RULES[0];
        for line in
            ["use protocol::resp::Args;", "protocol::{base, resp}", "x: protocol::command::Put,", "protocol::based::x"]
        {
            assert!(breaks(rule, line), "{line} passes");
        }
        for line in ["use protocol::base::ByteLen;", "use crate::protocol::x;", "let my_protocol::x = 1;"] {
            assert!(!breaks(rule, line), "{line} is refused");
        }
    }
}
