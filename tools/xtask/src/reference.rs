//! The generated parts of the documents: what the code says of itself, never typed twice.
//!
//! A part stands between `<!-- generated: KIND -->` and `<!-- end of generated -->`. Kinds: `commands` is the reference
//! made from the table of commands, `planned` which of the planned ones are there, `module PATH` the documentation that
//! a source file opens with.

use crate::{planned, root};
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;

const DOCUMENTS: [&str; 2] = ["docs/protocol.md", "README.md"];
const BEGIN: &str = "<!-- generated: ";
const END: &str = "<!-- end of generated -->";

/// Documents that say something else than the code.
pub(crate) fn outdated() -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for name in DOCUMENTS {
        let found = read(name)?;
        if regenerated(&found, render)? != found {
            wrong.push(format!("{name} does not say what the code says: run `cargo xtask docs`"));
        }
    }
    Ok(wrong)
}

/// Brings the documents up to the code.
pub(crate) fn write() -> Result<bool> {
    for name in DOCUMENTS {
        let text = regenerated(&read(name)?, render)?;
        std::fs::write(root().join(name), text).with_context(|| format!("write {name}"))?;
    }
    Ok(true)
}

/// A file of the tree.
fn read(name: &str) -> Result<String> {
    std::fs::read_to_string(root().join(name)).with_context(|| format!("read {name}"))
}

/// `text` with each generated part rendered again.
fn regenerated(text: &str, render: impl Fn(&str) -> Result<String>) -> Result<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, part)) = rest.split_once(BEGIN) {
        let (kind, part) = part.split_once(" -->").context("a part's first marker ends with ` -->`")?;
        let (_, after) = part.split_once(END).with_context(|| format!("part {kind:?} has no end"))?;
        write!(out, "{before}{BEGIN}{kind} -->\n\n{}\n\n{END}", render(kind)?.trim())?;
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn render(kind: &str) -> Result<String> {
    match kind.split_once(' ') {
        None if kind == "commands" => Ok(protocol::command::markdown()),
        None if kind == "planned" => Ok(planned::table()),
        Some(("module", path)) => Ok(module_docs(&read(path)?)),
        _ => bail!("nothing is known of generated part {kind:?}"),
    }
}

/// What a source file opens with, as text for a page: links to code become plain code.
fn module_docs(source: &str) -> String {
    let lines =
        source.lines().map_while(|line| line.strip_prefix("//!")).map(|line| line.strip_prefix(' ').unwrap_or(line));
    let mut out = String::new();
    for line in lines {
        out.push_str(&line.replace("[`", "`").replace("`]", "`"));
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_replaced_and_the_rest_is_kept() {
        let text = format!("a\n{BEGIN}x -->\nold\n{END}\nb {BEGIN}y z -->{END} c");
        let got = regenerated(&text, |kind| Ok(format!("<{kind}>"))).expect("well-formed");
        assert_eq!(got, format!("a\n{BEGIN}x -->\n\n<x>\n\n{END}\nb {BEGIN}y z -->\n\n<y z>\n\n{END} c"));
        assert_eq!(regenerated(&got, |kind| Ok(format!("<{kind}>"))).expect("well-formed"), got, "not stable");
        assert!(regenerated(BEGIN, |_| Ok(String::new())).is_err());
    }

    #[test]
    fn a_page_shows_module_docs_without_links_to_code() {
        let source = "//! First, see [`Status`].\n//!\n//! Last.\n\nuse x;\n//! not this\n";
        assert_eq!(module_docs(source), "First, see `Status`.\n\nLast.\n");
    }

    #[test]
    fn the_documents_say_what_the_code_says() {
        assert_eq!(outdated().expect("the tree can be read"), Vec::<String>::new());
    }
}
