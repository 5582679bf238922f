//! The generated parts of docs/protocol.md: what the code says of its own formats, never typed twice.
//!
//! A part stands between `<!-- generated: KIND -->` and `<!-- end of generated -->`. Kinds: `commands` is
//! the reference made from the table of commands, `errors` the words that errors begin with, `module PATH` the documentation that a source file opens with.

use crate::root;
use anyhow::{Context, Result, bail};
use protocol::resp::ErrorWord;
use std::fmt::Write as _;

const DOCUMENT: &str = "docs/protocol.md";
const BEGIN: &str = "<!-- generated: ";
const END: &str = "<!-- end of generated -->";

/// Whether the document says something else than the code.
pub(crate) fn outdated() -> Result<Vec<String>> {
    let (path, found) = document()?;
    if regenerated(&found, render)? == found {
        return Ok(Vec::new());
    }
    Ok(vec![format!("{} does not say what the code says: run `cargo xtask docs`", path.display())])
}

/// Brings the document up to the code.
pub(crate) fn write() -> Result<bool> {
    let (path, found) = document()?;
    std::fs::write(&path, regenerated(&found, render)?).with_context(|| format!("write {}", path.display()))?;
    Ok(true)
}

fn document() -> Result<(std::path::PathBuf, String)> {
    let path = root().join(DOCUMENT);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok((path, text))
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
        None if kind == "errors" => Ok(error_words()),
        Some(("module", path)) => {
            let path = root().join(path);
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            Ok(module_docs(&text))
        }
        _ => bail!("nothing is known of generated part {kind:?}"),
    }
}

fn error_words() -> String {
    let rows = ErrorWord::ALL.iter().map(|word| format!("| `{word}` | {} |\n", word.meaning()));
    format!("| word | meaning |\n|---|---|\n{}", rows.collect::<String>())
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
    fn the_document_says_what_the_code_says() {
        assert_eq!(outdated().expect("the tree can be read"), Vec::<String>::new());
    }
}
