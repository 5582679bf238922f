//! What the documents point at must exist: relative links, and paths of the tree in backticks.

use crate::{root, source};
use anyhow::Result;

/// Endings by which a text in backticks is taken for a path of the tree.
const PATH_ENDINGS: &[&str] = &[".rs", ".toml", ".md", ".sh", "/"];

/// Links and paths that lead nowhere.
pub(crate) fn broken() -> Result<Vec<String>> {
    let root = root();
    let mut wrong = Vec::new();
    for file in source::files("md")? {
        let here = root.join(&file.path);
        let dir = here.parent().expect("a file has a directory");
        let mut fenced = false;
        for (at, line) in file.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
                continue;
            }
            if fenced {
                continue;
            }
            for target in links(line) {
                let target = target.split('#').next().unwrap_or_default();
                if !target.is_empty() && !target.contains("://") && !dir.join(target).exists() {
                    wrong.push(format!("{}:{}: link to {target}, which does not exist", file.path, at + 1));
                }
            }
            for path in tree_paths(line) {
                if !root.join(path).exists() && !dir.join(path).exists() {
                    wrong.push(format!("{}:{}: names {path}, which does not exist", file.path, at + 1));
                }
            }
        }
    }
    Ok(wrong)
}

/// Targets of `[text](target)`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// Texts in backticks that are paths of the tree.
fn tree_paths(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2).filter(|text| {
        text.contains('/')
            && !text.starts_with(['/', '$', '~', '.', '-'])
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
            && PATH_ENDINGS.iter().any(|ending| text.ends_with(ending))
            && !text.starts_with("target/")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_paths_are_found_and_other_text_is_not() {
        let line =
            "See [the map](ARCHITECTURE.md#map), `storage/src/lru.rs`, `GET key`, `a/b`, `/proc/meminfo.md`, `x.rs`.";
        assert_eq!(links(line).collect::<Vec<_>>(), ["ARCHITECTURE.md#map"]);
        assert_eq!(tree_paths(line).collect::<Vec<_>>(), ["storage/src/lru.rs"]);
    }

    #[test]
    fn the_documents_lead_somewhere() {
        assert_eq!(broken().expect("the tree can be read"), Vec::<String>::new());
    }
}
