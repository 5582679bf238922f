//! What every source file must be: headed, short, and free of `unsafe` outside its few places.

use crate::root;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file, in lines.
const LINES_MAX: usize = 800;

/// Where `unsafe` may stand: files, or directories with all below them. Everywhere else the workspace denies it.
const UNSAFE_PLACES: &[&str] = &[
    "protocol/examples/",
    "protocol/src/base/copy.rs",
    "protocol/src/base/mapping.rs",
    "protocol/src/base/memory.rs",
    "server/src/allocator.rs",
    "storage/src/dram/arena.rs",
    "storage/src/dram/memory.rs",
    "storage/src/flash/engine/buffers.rs",
    "storage/src/flash/engine/syscall.rs",
    "storage/src/flash/engine/uring.rs",
    "tools/mooncake-bench/src/memory.rs",
    "transport/ibverbs-sys/src/lib.rs",
    "transport/src/rdma/verbs.rs",
    "transport/src/shm.rs",
];

/// A source file, by its path from the root.
pub(crate) struct Source {
    /// From the root, with forward slashes.
    pub path: String,
    /// All of it.
    pub text: String,
}

impl Source {
    /// Lines that are not comments, with their numbers from 1.
    pub(crate) fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(at, line)| (at + 1, line)).filter(|(_, line)| {
            let line = line.trim_start();
            !line.starts_with("//")
        })
    }
}

/// All files of the tree whose name ends with `.extension`, generated directories apart.
pub(crate) fn files(extension: &str) -> Result<Vec<Source>> {
    let root = root();
    let mut paths = Vec::new();
    walk(&root, extension, &mut paths)?;
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            let path = path.strip_prefix(&root).context("walked below the root")?.display().to_string();
            Ok(Source { path, text })
        })
        .collect()
}

fn walk(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') || name.starts_with("target") || name == "node_modules" {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&entry.path(), extension, found)?;
        } else if kind.is_file() && entry.path().extension().is_some_and(|found| found == extension) {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// Files that do not open with their role. A `tests.rs` is the end of the file beside it and needs no header of its own.
pub(crate) fn without_header() -> Result<Vec<String>> {
    let headed =
        |file: &Source| file.text.lines().next().is_some_and(|line| line.starts_with("//! ") && line.len() > 12);
    Ok(files("rs")?
        .iter()
        .filter(|file| !file.path.ends_with("/tests.rs") && !headed(file))
        .map(|file| format!("{}: does not open with `//!` and what it is for", file.path))
        .collect())
}

/// Files too long to be one noun.
pub(crate) fn too_long() -> Result<Vec<String>> {
    Ok(files("rs")?
        .iter()
        .map(|file| (file, file.text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(file, lines)| format!("{}: {lines} lines, at most {LINES_MAX}", file.path))
        .collect())
}

/// Files that lift the workspace's denial of `unsafe` without being in the list, and the other way round.
pub(crate) fn unsafe_elsewhere() -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let mut used = vec![false; UNSAFE_PLACES.len()];
    for file in &files("rs")? {
        let lifts = file.code_lines().any(|(_, line)| {
            let line = line.trim_start();
            (line.starts_with("#![") || line.starts_with("#[")) && line.contains("unsafe_code")
        });
        let place = UNSAFE_PLACES
            .iter()
            .position(|place| file.path == *place || place.ends_with('/') && file.path.starts_with(place));
        match place {
            Some(place) if lifts => used[place] = true,
            None if lifts => {
                let path = &file.path;
                wrong.push(format!("{path}: unsafe code outside the listed places (tools/xtask/src/source.rs)"));
            }
            Some(_) | None => {}
        }
    }
    for (place, _) in UNSAFE_PLACES.iter().zip(used).filter(|(_, used)| !used) {
        wrong.push(format!("{place}: listed as a place of unsafe code, but there is none"));
    }
    for manifest in files("toml")?.iter().filter(|file| file.path.ends_with("Cargo.toml")) {
        let own_workspace = manifest.text.lines().any(|line| line.trim() == "[workspace]");
        if !own_workspace && !manifest.text.contains("[lints]\nworkspace = true") {
            wrong.push(format!("{}: does not take the workspace's lints", manifest.path));
        }
    }
    Ok(wrong)
}
